//! Errors of feeds as exceptions with fields.

use pulse_sync::Error;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

use crate::failure::{self, new};

/// errno of a failure for which the system gave no number.
const EIO: i32 = 5;

/// The exception for an error.
pub(crate) fn raise(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Pulse(error) => failure::raise(py, error),
        Error::Misuse(_) | Error::Address { .. } => PyValueError::new_err(error.to_string()),
        Error::Io { doing, path, source } => {
            let number = source.raw_os_error().unwrap_or(EIO);
            let text = format!("{source}, while {doing}");
            PyOSError::new_err((number, text, path.to_string_lossy().into_owned()))
        }
        error => exception(py, &error).unwrap_or_else(|problem| problem),
    }
}

/// The exception for an error that goes on to be somebody else's.
pub(super) fn shown(py: Python<'_>, error: &Error) -> PyErr {
    match error {
        Error::Pulse(error) => failure::shown(py, error),
        error => exception(py, error).unwrap_or_else(|problem| problem),
    }
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let fields = [("kind", error.kind())].into_py_dict(py)?;
    fields.set_item("advice", error.advice())?;
    fields.set_item("is_passing", error.is_passing())?;
    let class = match error {
        Error::Document { object, .. } => {
            fields.set_item("object", object)?;
            match error.kind() {
                "run" => "OtherRun",
                "unsigned" | "signature" => "NotTrusted",
                _ => "BadDocument",
            }
        }
        Error::Chain { version, .. } => {
            fields.set_item("version", version)?;
            "BrokenLog"
        }
        Error::Epoch { .. } => "BrokenLog",
        Error::Ended { version } => {
            fields.set_item("version", version)?;
            "Ended"
        }
        Error::RolledBack { mark, head } => {
            fields.set_item("mark", mark)?;
            fields.set_item("head", head)?;
            "RolledBack"
        }
        Error::Forked { version, expected, found } => {
            fields.set_item("version", version)?;
            fields.set_item("expected", expected.to_string())?;
            fields.set_item("found", found.to_string())?;
            "Forked"
        }
        Error::Data { object, .. } => {
            fields.set_item("object", object)?;
            "BadData"
        }
        Error::Wrong { version, expected, found } => {
            fields.set_item("version", version)?;
            fields.set_item("expected", expected.to_string())?;
            fields.set_item("found", found.to_string())?;
            "WrongVersion"
        }
        Error::Lost { wanted, .. } => {
            fields.set_item("version", wanted)?;
            "Unreachable"
        }
        Error::Fenced { version, writer, epoch, other, other_epoch } => {
            fields.set_item("version", version)?;
            fields.set_item("writer", writer.to_string())?;
            fields.set_item("epoch", epoch)?;
            fields.set_item("other", other.to_string())?;
            fields.set_item("other_epoch", other_epoch)?;
            "Fenced"
        }
        Error::Conditions { .. } => "NoConditions",
        Error::NoFeed { .. } => "NoFeed",
        Error::Base { version, expected, found } => {
            fields.set_item("version", version)?;
            fields.set_item("expected", expected.to_string())?;
            fields.set_item("found", found.to_string())?;
            "OtherBase"
        }
        Error::Store { object, .. } => {
            fields.set_item("object", object)?;
            "StoreError"
        }
        Error::Key(_) => "BadKey",
        // Kinds of a later version of the library.
        _ => "FeedError",
    };
    new(py, class, &error.to_string(), &fields)
}
