//! Patches applied: to weights where they are, to checkpoints, or to a new place.

use std::path::PathBuf;

use pulse::checkpoint::{ApplyOptions, FilePolicy};
use pulse::patch::Chain;
use pulse::update::UpdateOptions;
use pulse::Checkpoint;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::patch::{existing, patches};
use crate::prepared::Prepared;
use crate::source::path;
use crate::work::Work;

/// What was applied.
#[pyclass(frozen, get_all, module = "pulse_codec")]
#[derive(Debug)]
pub(crate) struct Applied {
    /// Digest of the result, which is that of the target.
    target: String,
    /// Tensor bytes of the result.
    target_bytes: u64,
    /// Elements that changed; of several patches, the changes of all.
    changes: u64,
    /// Files of the result; 0 of weights in memory.
    files: u64,
    /// Files that are not as the patch says, for people.
    notes: Vec<String>,
}

impl Applied {
    pub fn of(report: &pulse::tensors::ApplyReport) -> Self {
        Applied {
            target: report.target.to_string(),
            target_bytes: report.target_bytes,
            changes: report.changes,
            files: report.files,
            notes: report.notes.iter().map(ToString::to_string).collect(),
        }
    }
}

#[pymethods]
impl Applied {
    fn __repr__(&self) -> String {
        format!("<applied: {} changes, target {}…>", self.changes, &self.target[..16])
    }
}

/// Applies a patch, or several that follow one another in one pass: patches, their paths, or their bytes.
///
/// Tensors by name are changed where they are, once the whole target was made in scratch memory and proved: after an
/// exception they are what they were. A checkpoint on disk becomes a new one at `out` (`replace=True` takes the place
/// of a file that is there), or is changed itself with `in_place=True`. Without weights, `apply(None, snapshot,
/// out=…)` writes a snapshot as a checkpoint. `keep_files=True` leaves files of a checkpoint that are no tensors as
/// they are.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> versions = [{"w": numpy.array([step, 0, 0], "f4")} for step in range(3)]
/// >>> patches = [pulse.diff(a, b) for a, b in zip(versions, versions[1:])]
/// >>> weights = {"w": versions[0]["w"].copy()}
/// >>> pulse.apply(weights, patches).target == pulse.digest(versions[2])
/// True
/// >>> pulse.apply(weights, patches[0])
/// Traceback (most recent call last):
///     ...
/// pulse_codec.errors.BaseMismatch: wrong base: ...
#[pyfunction]
#[pyo3(signature = (weights, patch, *, out=None, replace=false, in_place=false, keep_files=false, threads=0, progress=None))]
#[allow(clippy::too_many_arguments)] // Python has names for them
pub(crate) fn apply(
    py: Python<'_>,
    weights: Option<&Bound<'_, PyAny>>,
    patch: &Bound<'_, PyAny>,
    out: Option<PathBuf>,
    replace: bool,
    in_place: bool,
    keep_files: bool,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Applied> {
    let misuse = |what: &str| Err(PyValueError::new_err(what.to_string()));
    let patches = patches(patch)?;
    let work = Work::new(threads, progress);
    let files = if keep_files { FilePolicy::Keep } else { FilePolicy::default() };
    let Some(weights) = weights else {
        let Some(out) = out else { return misuse("out= is missing: where to write the snapshot") };
        let options = ApplyOptions::default().with_existing(existing(replace)).with_files(files);
        let report =
            work.run(py, |control| Chain::new(&patches)?.apply(None, out, options, control))?;
        return Ok(Applied::of(&report));
    };
    match (path(weights), out, in_place) {
        (None, None, _) => {
            let prepared = Prepared::new(weights, patches, 1 << 30, &work)?;
            prepared.finish(py, threads, false)
        }
        (None, Some(_), _) => {
            misuse("out= is for checkpoints on disk: tensors are changed where they are")
        }
        (Some(path), Some(out), false) => {
            let options =
                ApplyOptions::default().with_existing(existing(replace)).with_files(files);
            let report = work.run(py, |control| {
                let base = Checkpoint::open(path)?;
                Chain::new(&patches)?.apply(Some(&base), out, options, control)
            })?;
            Ok(Applied::of(&report))
        }
        (Some(path), None, true) => {
            let options = UpdateOptions::default().with_files(files);
            let report =
                work.run(py, |control| Chain::new(&patches)?.update(path, options, control))?;
            Ok(Applied::of(&report.target))
        }
        (Some(_), Some(_), true) => misuse("give either out= or in_place=True"),
        (Some(_), None, false) => {
            misuse("where to? Give out= for a new checkpoint, or in_place=True to change this one")
        }
    }
}
