//! A trainer's copy of what it published last.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::diff::write;
use crate::digests::Digests;
use crate::options::{encoder, EncoderOptions, Run};
use crate::patch::{Patch, Place};
use crate::source::Source;
use crate::work::Work;

/// What the shadow is between two calls; nothing while one is at work.
type State = Option<pulse::tensors::Shadow>;

/// The host copy of the weights that were published last, with their digests. `pulse_codec.Shadow` is made of it.
#[pyclass(frozen, module = "pulse_codec._pulse")]
pub(crate) struct Shadow(Mutex<State>);

/// A patch that the shadow has not advanced by yet.
#[pyclass(frozen, module = "pulse_codec._pulse")]
pub(crate) struct Unpublished {
    made: Mutex<Option<pulse::tensors::Unpublished>>,
}

impl Shadow {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the shadow, which others find busy meanwhile.
    fn with<T>(
        &self,
        use_it: impl FnOnce(&mut pulse::tensors::Shadow) -> PyResult<T>,
    ) -> PyResult<T> {
        let taken = self.lock().take();
        let Some(mut shadow) = taken else {
            return Err(PyRuntimeError::new_err("another thread is at work on this shadow"));
        };
        let result = use_it(&mut shadow);
        *self.lock() = Some(shadow);
        result
    }
}

#[pymethods]
impl Shadow {
    #[new]
    #[pyo3(signature = (weights, *, threads=0, progress=None))]
    fn new(
        weights: &Bound<'_, PyAny>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let py = weights.py();
        let weights = Source::new(weights)?;
        let _lease = Source::lease(py, [&weights])?;
        let shadow = Work::new(threads, progress).run(py, |control| {
            weights.with(|weights| pulse::tensors::Shadow::new(weights, control))
        })?;
        Ok(Shadow(Mutex::new(Some(shadow))))
    }

    #[getter]
    fn digests(&self) -> PyResult<Digests> {
        self.with(|shadow| Ok(Digests(shadow.digests().clone())))
    }

    #[pyo3(signature = (target, *, step=None, base_step=None, run=None, options=None, threads=0, progress=None))]
    #[allow(clippy::too_many_arguments)] // Python has names for them
    fn diff(
        &self,
        target: &Bound<'_, PyAny>,
        step: Option<u64>,
        base_step: Option<u64>,
        run: Option<Run>,
        options: Option<&Bound<'_, EncoderOptions>>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Patch, Unpublished)> {
        let py = target.py();
        let encoder = encoder(options.map(Bound::get), base_step, step, run);
        let target = Source::new(target)?;
        let _lease = Source::lease(py, [&target])?;
        let made = self.with(|shadow| {
            Work::new(threads, progress).run(py, |control| {
                target.with(|target| shadow.diff(target, std::io::sink(), encoder, control))
            })
        })?;
        let place = Place::Memory(Arc::new(made.patch().to_vec()));
        let patch = Patch::made(place, made.report().digests.clone());
        Ok((patch, Unpublished { made: Mutex::new(Some(made)) }))
    }

    #[pyo3(signature = (*, out=None, replace=false, step=None, run=None, options=None, threads=0, progress=None))]
    #[allow(clippy::too_many_arguments)] // Python has names for them
    fn snapshot(
        &self,
        py: Python<'_>,
        out: Option<PathBuf>,
        replace: bool,
        step: Option<u64>,
        run: Option<Run>,
        options: Option<&Bound<'_, EncoderOptions>>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Patch> {
        let encoder = encoder(options.map(Bound::get), None, step, run);
        let (place, report) = self.with(|shadow| {
            Work::new(threads, progress).run(py, |control| {
                write(out, replace, &[], |out| shadow.snapshot(out, encoder, control))
            })
        })?;
        Ok(Patch::made(place, report.digests))
    }

    #[pyo3(signature = (made, *, threads=0))]
    fn advance(
        &self,
        py: Python<'_>,
        made: &Bound<'_, Unpublished>,
        threads: usize,
    ) -> PyResult<()> {
        let taken = made.get().made.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(made) = taken else {
            return Err(PyValueError::new_err("the shadow has advanced by this patch already"));
        };
        self.with(|shadow| {
            Work::new(threads, None).finish(py, |control| shadow.advance(made, control))
        })
    }
}
