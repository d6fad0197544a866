//! The side of whoever runs the model.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pulse::hash::Digest;
use pulse::stream::TrustedBase;
use pulse_sync::{Error, Event, FollowerOptions, Mark, Update};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::live::keeping::{open, trusted};
use crate::live::publisher::seconds;
use crate::live::record::Record;
use crate::live::tasks::Tasks;
use crate::live::version::Version;
use crate::live::{event, failure};
use crate::options;
use crate::source::Held;
use crate::work::Work;

/// What is held, as far as it is known.
pub(super) enum Holding {
    /// To be found out from the weights.
    Unknown,
    /// Nothing, or weights of this digest.
    Known(Option<Digest>),
}

pub(super) struct State {
    pub follower: pulse_sync::Follower,
    pub holding: Holding,
}

/// Follows a feed. `pulse_codec.Follower` is made of it.
#[pyclass(frozen, module = "pulse_codec._pulse")]
pub(crate) struct Follower {
    pub(super) tasks: Tasks,
    /// The last version that is wanted.
    at: Option<u64>,
    poll: Duration,
    /// Where what was served is remembered.
    mark: Option<PathBuf>,
    pub(super) threads: usize,
    weights: Mutex<Option<Py<PyAny>>>,
    /// Nothing while a call is at work.
    state: Mutex<Option<State>>,
}

impl Follower {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, use_it: impl FnOnce(&mut State) -> PyResult<T>) -> PyResult<T> {
        let taken = self.lock().take();
        let Some(mut state) = taken else {
            return Err(PyRuntimeError::new_err(
                "another thread is at work on this follower, or it is closed",
            ));
        };
        let result = use_it(&mut state);
        *self.lock() = Some(state);
        result
    }

    /// The weights that are followed into.
    pub(super) fn held(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        weights.as_ref().map(|weights| weights.clone_ref(py))
    }

    /// Makes these the weights that are followed into.
    pub(super) fn hold(&self, weights: Py<PyAny>) {
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = Some(weights);
    }

    /// Serves the version of an update, which `make` makes of what was held when it was looked for. Nobody is at work on
    /// this follower meanwhile, so that of two versions that were made side by side only one is written.
    pub(super) fn serve<T>(
        &self,
        py: Python<'_>,
        update: &Update,
        held: Option<Digest>,
        make: impl FnOnce() -> PyResult<T>,
    ) -> PyResult<T> {
        self.with(|state| {
            if !matches!(state.holding, Holding::Known(known) if known == held) {
                return Err(PyValueError::new_err(
                    "this version is committed already, or the weights have changed since it was looked for; \
                     ask for the next one",
                ));
            }
            let made = make()?;
            let digest = update.record.target;
            state.holding = Holding::Known(Some(digest));
            let raise = |error| failure::raise(py, error);
            state.follower.served(update, digest).map_err(raise)?;
            if let (Some(path), Some(mark)) = (&self.mark, state.follower.mark()) {
                py.detach(|| mark.save(path)).map_err(raise)?;
            }
            Ok(made)
        })
    }

    /// What an update that could not be made means: what was held is not what it was thought to be, or the data is at
    /// fault, or neither.
    pub(super) fn settle(&self, py: Python<'_>, update: &Update, error: &PyErr) {
        let kind = error.value(py).getattr("kind").and_then(|kind| kind.extract::<String>());
        let _ = self.with(|state| {
            match kind.as_deref() {
                // Somebody wrote to the weights.
                Ok("base" | "target") => state.holding = Holding::Unknown,
                // This machine, or the caller.
                Err(_) | Ok("busy" | "cancelled" | "not-in-place") => {}
                Ok(_) => state.follower.failed(update),
            }
            Ok(())
        });
    }
}

/// As [`pulse_sync::Follower::next`], which ends when version `at` is held, if one is asked for. `is_once` looks once.
async fn next(
    follower: &mut pulse_sync::Follower,
    held: Option<Digest>,
    at: Option<u64>,
    is_once: bool,
    poll: Duration,
) -> pulse_sync::Result<Option<Update>> {
    let Some(at) = at.or(is_once.then_some(u64::MAX)) else {
        return follower.next(held).await.map(Some);
    };
    loop {
        match follower.look(held).await {
            Ok(Some(update)) => return Ok(Some(update)),
            Ok(None) if follower.head().is_some_and(|head| head.version >= at) => {
                return Err(Error::Ended { version: at });
            }
            Ok(None) => {}
            Err(error) if error.is_passing() => {}
            Err(error) => return Err(error),
        }
        if is_once {
            return Ok(None);
        }
        tokio::time::sleep(poll).await;
    }
}

#[pymethods]
impl Follower {
    #[new]
    #[pyo3(signature = (feed, *, weights=None, trust=None, state=None, at=None, poll=0.1, poll_max=10.0, spool=None,
                        limits=None, threads=0, on_event=None))]
    #[allow(clippy::too_many_arguments)] // Python has names for them
    fn new(
        py: Python<'_>,
        feed: &str,
        weights: Option<Py<PyAny>>,
        trust: Option<&str>,
        state: Option<PathBuf>,
        at: Option<u64>,
        poll: f64,
        poll_max: f64,
        spool: Option<PathBuf>,
        limits: Option<std::collections::BTreeMap<String, u64>>,
        threads: usize,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let raise = |error| failure::raise(py, error);
        let tasks = Tasks::new()?;
        let feed = open(py, &tasks, feed)?;
        let mut choices = FollowerOptions::default()
            .with_poll(seconds(poll)?, seconds(poll_max)?)
            .with_limits(options::limits(limits)?);
        choices.trust = trusted(trust)?;
        choices.at = at;
        choices.spool = spool;
        let meter = Arc::clone(&tasks.meter);
        choices = choices.with_events(move |event| match (event, &on_event) {
            (Event::Arrived { bytes }, _) => drop(meter.report(*bytes)),
            (event, Some(on_event)) => event::tell(event, on_event),
            _ => {}
        });
        let mark = match &state {
            Some(path) => Mark::load(path).map_err(raise)?,
            None => None,
        };
        let poll = choices.poll;
        let follower = tasks.run(py, None, || pulse_sync::Follower::open(&feed, mark, choices))?;
        let holding = if weights.is_some() { Holding::Unknown } else { Holding::Known(None) };
        let weights = Mutex::new(weights);
        let opened = Mutex::new(Some(State { follower, holding }));
        Ok(Follower { tasks, at, poll, mark: state, threads, weights, state: opened })
    }

    /// The next version, once it is there and its data has arrived; None when `timeout` seconds have gone by, or at once
    /// if they are 0.
    #[pyo3(signature = (*, timeout=None, progress=None))]
    fn next(
        slf: Bound<'_, Self>,
        timeout: Option<f64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Option<Version>> {
        let py = slf.py();
        let this = slf.get();
        let timeout = timeout.map(seconds).transpose()?;
        let found = this.with(|state| {
            if let (Holding::Unknown, Some(weights)) = (&state.holding, this.held(py)) {
                let held = Held::new(weights.bind(py))?;
                let _lease = held.lease(py, false)?;
                let digest = Work::new(this.threads, None)
                    .run(py, |control| Ok(TrustedBase::of(&held.weights(), control)?.checkpoint))?;
                state.holding = Holding::Known(Some(digest));
            }
            let held = match &state.holding {
                Holding::Known(held) => *held,
                Holding::Unknown => None,
            };
            let follower = &mut state.follower;
            // Without time there is one look, which takes what it takes.
            let is_once = timeout.is_some_and(|timeout| timeout.is_zero());
            let next = next(follower, held, this.at, is_once, this.poll);
            let update = this.tasks.run(py, progress, || async move {
                match timeout.filter(|_| !is_once) {
                    None => next.await,
                    Some(timeout) => tokio::time::timeout(timeout, next).await.unwrap_or(Ok(None)),
                }
            })?;
            Ok(update.map(|update| (update, held)))
        })?;
        Ok(found.map(|(update, held)| Version::new(update, held, slf.clone().unbind())))
    }

    fn cancel(&self) {
        self.tasks.meter.stop();
    }

    fn close(&self) {
        self.lock().take();
    }

    /// The weights that are followed into; None before the first version was loaded.
    #[getter]
    fn weights(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.held(py)
    }

    /// The newest version that is known.
    #[getter]
    fn head(&self) -> PyResult<Option<Record>> {
        self.with(|state| Ok(state.follower.head().map(Record::of)))
    }

    /// The key that signs the feed; None if it is unsigned, and as trustworthy as its store.
    #[getter]
    fn key(&self) -> PyResult<Option<String>> {
        self.with(|state| Ok(state.follower.key().map(|key| key.to_string())))
    }
}
