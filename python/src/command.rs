//! The command line, which comes with the wheel, and the objects that it prints.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pulse::measure::Sizes;
use pyo3::prelude::*;

use crate::options;
use crate::work::Work;

/// Runs the program `pulse` with these arguments, the first of which is its name, and gives back its exit status.
/// `program` are the words that start it again.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, arguments: Vec<OsString>, program: Vec<String>) -> u8 {
    py.detach(|| pulse_cli::run(arguments, program))
}

/// The JSON of `pulse inspect`.
#[pyfunction]
#[pyo3(signature = (path, *, limits=None))]
pub(crate) fn inspect(
    py: Python<'_>,
    path: PathBuf,
    limits: Option<BTreeMap<String, u64>>,
) -> PyResult<String> {
    let limits = options::limits(limits)?;
    Work::new(1, None).run(py, |_| pulse_cli::objects::inspect(&path, limits))
}

/// The JSON of `pulse stat`.
#[pyfunction]
#[pyo3(signature = (checkpoints, *, steps=None, sizes=true, interval=60.0, threads=0, progress=None))]
pub(crate) fn stat(
    py: Python<'_>,
    checkpoints: Vec<PathBuf>,
    steps: Option<Vec<u64>>,
    sizes: bool,
    interval: f64,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let paths: Vec<&Path> = checkpoints.iter().map(PathBuf::as_path).collect();
    let sizes = if sizes { Sizes::Exact } else { Sizes::Skip };
    Work::new(threads, progress).run(py, |control| {
        pulse_cli::objects::stat(&paths, steps.as_deref(), sizes, interval, control)
    })
}
