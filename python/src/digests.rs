//! Digests of checkpoints and of their tensors.

use std::collections::BTreeMap;

use pulse::stream::TrustedBase;
use pyo3::prelude::*;

use crate::options;
use crate::source::Source;
use crate::work::Work;

/// The digest of a checkpoint, and those of its tensors: what the next diff may take on trust.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> weights = {"w": numpy.zeros(3, numpy.float32)}
/// >>> digests = pulse.digests(weights)
/// >>> digests.checkpoint == pulse.digest(weights), list(digests.tensors)
/// (True, ['w'])
#[pyclass(frozen, eq, skip_from_py_object, module = "pulse_codec")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests(pub TrustedBase);

#[pymethods]
impl Digests {
    #[new]
    #[pyo3(signature = (checkpoint, tensors=None))]
    fn new(checkpoint: &str, tensors: Option<BTreeMap<String, String>>) -> PyResult<Self> {
        let mut digests = TrustedBase::new(options::digest(checkpoint)?);
        for (name, hex) in tensors.into_iter().flatten() {
            digests.tensors.insert(name, options::digest(&hex)?);
        }
        Ok(Digests(digests))
    }

    /// That of the checkpoint: 64 hexadecimal digits.
    #[getter]
    fn checkpoint(&self) -> String {
        self.0.checkpoint.to_string()
    }

    /// Those of the tensors that are known, by name.
    #[getter]
    fn tensors(&self) -> BTreeMap<&str, String> {
        self.0.tensors.iter().map(|(name, digest)| (name.as_str(), digest.to_string())).collect()
    }

    fn __repr__(&self) -> String {
        format!("<digests: checkpoint {}, {} tensors>", self.0.checkpoint, self.0.tensors.len())
    }

    fn __getnewargs__(&self) -> (String, BTreeMap<&str, String>) {
        (self.checkpoint(), self.tensors())
    }
}

/// The digests of weights, or of the checkpoint at a path: of all together and of each tensor.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> pulse.digests({"w": numpy.arange(3, dtype=numpy.uint8)})
/// <digests: checkpoint ee166e0e409950638981b7a9527282d810e975345f054eae30d3aa8abbfabbec, 1 tensors>
#[pyfunction]
#[pyo3(signature = (weights, *, threads=0, progress=None))]
pub(crate) fn digests(
    py: Python<'_>,
    weights: &Bound<'_, PyAny>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Digests> {
    let weights = Source::new(weights)?;
    let _lease = Source::lease(py, [&weights])?;
    Work::new(threads, progress)
        .run(py, |control| weights.with(|source| TrustedBase::of(source, control)))
        .map(Digests)
}

/// The digest of weights, or of the checkpoint at a path: 64 hexadecimal digits, those that `pulse digest` prints.
/// It is of names, dtypes, shapes and bytes, independent of order and of files.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> a = numpy.arange(3, dtype=numpy.float32)
/// >>> pulse.digest({"w": a}) == pulse.digest({"w": a.copy()})
/// True
#[pyfunction]
#[pyo3(signature = (weights, *, threads=0, progress=None))]
pub(crate) fn digest(
    py: Python<'_>,
    weights: &Bound<'_, PyAny>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    Ok(digests(py, weights, threads, progress)?.checkpoint())
}
