//! The parts of all ranks to one patch.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::diff::write;
use crate::failure;
use crate::options::{encoder, EncoderOptions, Run};
use crate::part::Part;
use crate::patch::{copied, Patch};
use crate::source::path;
use crate::work::Work;

/// Makes one patch of the parts that `diff(…, part_of=…)` made on each rank: parts, their bytes, or their paths, in any
/// order. Every element of every tensor must come from exactly one part. The digests are those that a single producer
/// of the whole would have found.
///
/// The arguments are those of `diff`; `options` must be those that the parts were made with. See `Part` for an example.
#[pyfunction]
#[pyo3(signature = (parts, *, out=None, replace=false, step=None, base_step=None, run=None, options=None, threads=0, progress=None))]
#[allow(clippy::too_many_arguments)] // Python has names for them
pub(crate) fn join(
    py: Python<'_>,
    parts: &Bound<'_, PyAny>,
    out: Option<PathBuf>,
    replace: bool,
    step: Option<u64>,
    base_step: Option<u64>,
    run: Option<Run>,
    options: Option<&Bound<'_, EncoderOptions>>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Patch> {
    let encoder = encoder(options.map(Bound::get), base_step, step, run);
    let parts: Vec<pulse::tensors::Part> =
        parts.try_iter()?.map(|part| one(&part?)).collect::<PyResult<_>>()?;
    let (place, report) = Work::new(threads, progress).run(py, |control| {
        write(out, replace, &[], |out| pulse::tensors::join(parts, out, encoder, control))
    })?;
    Ok(Patch::made(place, report.digests))
}

fn one(object: &Bound<'_, PyAny>) -> PyResult<pulse::tensors::Part> {
    let py = object.py();
    if let Ok(part) = object.cast::<Part>() {
        return part.get().opened(py);
    }
    let opened = match path(object) {
        Some(path) => py.detach(|| pulse::tensors::Part::open(path)),
        None => {
            let bytes = copied(object)
                .map_err(|_| PyTypeError::new_err("expected parts, their paths or their bytes"))?;
            py.detach(|| pulse::tensors::Part::from_bytes(bytes))
        }
    };
    opened.map_err(|error| failure::raise(py, error))
}
