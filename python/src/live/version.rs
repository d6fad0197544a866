//! A version that has arrived.

use std::sync::{Mutex, PoisonError};

use pulse::hash::Digest;
use pulse_sync::Update;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::apply::Applied;
use crate::live::follower::Follower;
use crate::prepared::Prepared;
use crate::tensor::{default_kind, kind_of_name, over};
use crate::work::Work;

/// A newer version: its data is here, and the weights are what they were until `commit`.
#[pyclass(frozen, module = "pulse_codec")]
pub(crate) struct Version {
    update: Update,
    /// What was held when it was looked for.
    held: Option<Digest>,
    follower: Py<Follower>,
    prepared: Mutex<Option<Py<Prepared>>>,
}

impl Version {
    pub fn new(update: Update, held: Option<Digest>, follower: Py<Follower>) -> Self {
        Version { update, held, follower, prepared: Mutex::new(None) }
    }

    fn work(&self, threads: usize, progress: Option<Py<PyAny>>) -> Work {
        let threads = if threads == 0 { self.follower.get().threads } else { threads };
        Work::new(threads, progress)
    }

    /// Tells the follower of what went wrong.
    fn settled<T>(&self, py: Python<'_>, result: PyResult<T>) -> PyResult<T> {
        result.inspect_err(|error| self.follower.get().settle(py, &self.update, error))
    }
}

#[pymethods]
impl Version {
    /// Its number.
    #[getter]
    fn version(&self) -> u64 {
        self.update.record.version
    }

    /// Digest of its weights.
    #[getter]
    fn digest(&self) -> String {
        self.update.record.target.to_string()
    }

    /// Optimizer step, if it is known.
    #[getter]
    fn step(&self) -> Option<u64> {
        self.update.record.step
    }

    /// When it was published, by the clock of the publisher: seconds since 1970.
    #[getter]
    fn time(&self) -> f64 {
        self.update.record.time as f64 / 1000.0
    }

    /// Bytes that were fetched for it.
    #[getter]
    fn bytes(&self) -> u64 {
        self.update.way.bytes()
    }

    /// Seconds that they took to arrive.
    #[getter]
    fn seconds(&self) -> f64 {
        self.update.seconds
    }

    /// Whether it starts from an anchor rather than from the weights that are held.
    #[getter]
    fn is_whole(&self) -> bool {
        self.update.is_whole()
    }

    /// Makes it beside the weights that are in use, and proves it: see `Prepared`. Asked for again, the same.
    #[pyo3(signature = (*, changes_bytes_max=1 << 30, threads=0, progress=None))]
    fn prepare(
        &self,
        py: Python<'_>,
        changes_bytes_max: u64,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Py<Prepared>> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = &*known {
            return Ok(prepared.clone_ref(py));
        }
        drop(known);
        let Some(weights) = self.follower.get().held(py) else {
            return Err(PyValueError::new_err(
                "the follower has no weights yet: load() makes them, or give Follower(weights=…)",
            ));
        };
        let (patches, work) = (self.update.patches().to_vec(), self.work(threads, progress));
        let made = Prepared::new(weights.bind(py), patches, changes_bytes_max, &work);
        let prepared = Py::new(py, self.settled(py, made)?)?;
        let mut known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.insert(prepared).clone_ref(py))
    }

    /// Writes it to the weights: in an instant after `prepare`, which it calls otherwise. From then on it counts as
    /// served. `verify=True` hashes all weights afterwards.
    #[pyo3(signature = (*, verify=false, threads=0))]
    fn commit(&self, py: Python<'_>, verify: bool, threads: usize) -> PyResult<Applied> {
        let prepared = self.prepare(py, 1 << 30, threads, None)?;
        let finish = || prepared.get().finish(py, threads, verify);
        let served = self.follower.get().serve(py, &self.update, self.held, finish);
        self.settled(py, served)
    }

    /// Makes it in new memory, where the follower has no weights yet: tensors by name, as `load` gives them. They are
    /// the weights that the next versions are committed to.
    #[pyo3(signature = (*, like=None, threads=0, progress=None))]
    fn load<'py>(
        &self,
        py: Python<'py>,
        like: Option<&str>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let follower = self.follower.get();
        if follower.held(py).is_some() {
            return Err(PyValueError::new_err(
                "the follower has weights already: commit() writes to them",
            ));
        }
        let kind = kind_of_name(py, like)?.map_or_else(|| default_kind(py), Ok)?;
        let patches = self.update.patches();
        let made = self
            .work(threads, progress)
            .run(py, |control| pulse::patch::Chain::new(patches)?.to_memory(control));
        let weights = PyDict::new(py);
        for (name, (spec, bytes)) in self.settled(py, made)? {
            weights.set_item(name, over(py, kind, bytes.into(), &spec)?)?;
        }
        follower.serve(py, &self.update, self.held, || {
            follower.hold(weights.clone().unbind().into_any());
            Ok(weights)
        })
    }

    fn __repr__(&self) -> String {
        format!("<version {}: {} bytes, {}…>", self.version(), self.bytes(), &self.digest()[..16])
    }
}
