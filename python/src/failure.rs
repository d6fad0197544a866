//! Errors of the library as exceptions with fields.

use std::io;
use std::path::Path;

use pulse::error::Made;
use pulse::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

/// errno of a failure for which the system gave no number, as a file that ends too early.
const EIO: i32 = 5;

/// The exception for an error.
pub(crate) fn raise(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Misuse(_) => PyValueError::new_err(error.to_string()),
        Error::Io { doing, path, source } => raise_io(&doing, path.as_deref(), &source),
        // Work is cancelled only by an exception, which is then the one that is raised.
        Error::Cancelled => PyKeyboardInterrupt::new_err(()),
        error => exception(py, &error).unwrap_or_else(|problem| problem),
    }
}

/// The exception for an error that goes on to be somebody else's.
pub(crate) fn shown(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).unwrap_or_else(|problem| problem)
}

/// The exception of an I/O failure.
fn raise_io(doing: &str, path: Option<&Path>, source: &io::Error) -> PyErr {
    if source.kind() == io::ErrorKind::OutOfMemory {
        return PyMemoryError::new_err(doing.to_string());
    }
    let text = format!("{source}, while {doing}");
    let number = source.raw_os_error().unwrap_or(EIO);
    match path {
        // The class follows from the number, as FileNotFoundError does.
        Some(path) => PyOSError::new_err((number, text, path.as_os_str().to_os_string())),
        None => PyOSError::new_err((number, text)),
    }
}

/// The exception of this name, with its message and fields.
pub(crate) fn new(
    py: Python<'_>,
    class: &str,
    message: &str,
    fields: &Bound<'_, PyDict>,
) -> PyResult<PyErr> {
    let class = py.import("pulse_codec.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((message,), Some(fields))?))
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let fields = [("kind", error.kind())].into_py_dict(py)?;
    fields.set_item("advice", error.advice().map(|advice| advice.to_string()))?;
    fields.set_item("action", error.advice().map(|advice| advice.name()))?;
    fields.set_item("file", error.file().map(|path| path.to_string_lossy().into_owned()))?;
    let digest =
        |name: &str, digest: &pulse::hash::Digest| fields.set_item(name, digest.to_string());
    let class = match error {
        Error::Corrupt(corrupt) => {
            fields.set_item("offset", corrupt.offset)?;
            fields.set_item("section", corrupt.section.map(|tag| tag.to_string()))?;
            fields.set_item("tensor", &corrupt.tensor)?;
            fields.set_item("block", corrupt.block)?;
            fields.set_item("content", corrupt.content.as_ref().map(|content| content.name()))?;
            fields.set_item("expected", error.expected())?;
            fields.set_item("found", error.found())?;
            "Corrupt"
        }
        Error::Version { major, minor, known, .. } => {
            fields.set_item("major", major)?;
            fields.set_item("minor", minor)?;
            fields.set_item("known", known)?;
            "UnknownVersion"
        }
        Error::Limit { limit, asked, allowed, offset, .. } => {
            fields.set_item("limit", limit)?;
            fields.set_item("asked", asked)?;
            fields.set_item("allowed", allowed)?;
            fields.set_item("offset", offset)?;
            "LimitExceeded"
        }
        Error::BaseMismatch(mismatch) => {
            digest("expected", &mismatch.expected)?;
            digest("found", &mismatch.found)?;
            fields.set_item("tensor", &mismatch.tensor)?;
            fields.set_item("missing", &mismatch.missing)?;
            fields.set_item("extra", &mismatch.extra)?;
            let reshaped = mismatch.reshaped.iter();
            let reshaped = reshaped.map(|it| (&it.tensor, &it.expected, &it.found));
            fields.set_item("reshaped", reshaped.collect::<Vec<_>>())?;
            fields.set_item("tensors", mismatch.tensors)?;
            fields.set_item("is_target", mismatch.is_target)?;
            fields.set_item("applied", mismatch.applied)?;
            "BaseMismatch"
        }
        Error::TargetMismatch { tensor, expected, found, .. } => {
            digest("expected", expected)?;
            digest("found", found)?;
            fields.set_item("tensor", tensor)?;
            "TargetMismatch"
        }
        Error::WrongResult { made, expected, found, .. } => {
            digest("expected", expected)?;
            digest("found", found)?;
            fields.set_item("tensor", error.tensor())?;
            let carried = match made {
                Made::File(name) => Some(name),
                _ => None,
            };
            fields.set_item("carried", carried)?;
            "WrongResult"
        }
        Error::Chain { before, patch, .. } => {
            fields.set_item("before", before)?;
            fields.set_item("patch", patch)?;
            fields.set_item("expected", error.expected())?;
            fields.set_item("found", error.found())?;
            "BrokenChain"
        }
        Error::Part { .. } => "BadPart",
        Error::NeedsBase { .. } => "NeedsBase",
        Error::NotInvertible { .. } => "NotInvertible",
        Error::NotInPlace { .. } => "NotInPlace",
        Error::BadFile { .. } => {
            fields.set_item("content", error.content().map(|content| content.name()))?;
            "BadFile"
        }
        Error::BaseFile { name, bytes, sha256, .. } => {
            fields.set_item("name", name)?;
            fields.set_item("bytes", bytes)?;
            digest("sha256", sha256)?;
            "BaseFile"
        }
        Error::Unfit { .. } => "Unfit",
        Error::Exists { .. } => "Exists",
        Error::Changed { .. } => "Changed",
        Error::Busy { .. } => "Busy",
        Error::Interrupted { journal, is_there, .. } => {
            fields.set_item("journal", journal.to_string_lossy())?;
            fields.set_item("is_there", is_there)?;
            "Interrupted"
        }
        Error::Unrecovered { .. } => "Unrecovered",
        Error::Internal(_) => "Internal",
        // Kinds of a later version of the library.
        _ => "Error",
    };
    new(py, class, &error.to_string(), &fields)
}
