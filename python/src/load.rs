//! A snapshot to weights.

use pulse::patch::Chain;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::patch::patches;
use crate::prepared::Prepared;
use crate::tensor::{default_kind, kind_of_name, over};
use crate::work::Work;

/// The weights of a snapshot, and of patches that follow it: new tensors by name, proved. They are tensors of PyTorch
/// if it is installed, else arrays of NumPy, else views; or as `like` says: "torch", "numpy", "view".
///
/// `into` are tensors by name to be filled instead, such as pinned or shared memory; after an exception they are what
/// they were.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> weights = {"w": numpy.arange(3, dtype=numpy.uint8)}
/// >>> anchor = pulse.snapshot(weights)
/// >>> pulse.load(anchor, like="numpy")
/// {'w': array([0, 1, 2], dtype=uint8)}
/// >>> memory = bytearray(3)
/// >>> _ = pulse.load(anchor, into={"w": pulse.View(memory, "U8", [3])})
/// >>> memory
/// bytearray(b'\x00\x01\x02')
#[pyfunction]
#[pyo3(signature = (patch, into=None, *, like=None, threads=0, progress=None))]
pub(crate) fn load<'py>(
    py: Python<'py>,
    patch: &Bound<'py, PyAny>,
    into: Option<&Bound<'py, PyAny>>,
    like: Option<&str>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let patches = patches(patch)?;
    let work = Work::new(threads, progress);
    if let Some(into) = into {
        Prepared::new(into, patches, 1 << 30, &work)?.finish(py, threads, false)?;
        return Ok(into.clone());
    }
    let kind = kind_of_name(py, like)?.map_or_else(|| default_kind(py), Ok)?;
    let made = work.run(py, |control| Chain::new(&patches)?.to_memory(control))?;
    let weights = PyDict::new(py);
    for (name, (spec, bytes)) in made {
        weights.set_item(name, over(py, kind, bytes.into(), &spec)?)?;
    }
    Ok(weights.into_any())
}
