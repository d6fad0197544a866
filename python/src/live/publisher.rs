//! The side of the trainer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pulse::tensors::{Control, Shadow, TensorRef, Weights};
use pulse_sync::{Error, Feed, FollowerOptions, PublicKey, PublisherOptions, SecretKey, Update};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use tokio::task::block_in_place;

use crate::live::failure;
use crate::live::keeping::open;
use crate::live::record::Record;
use crate::live::tasks::Tasks;
use crate::options::{encoder, EncoderOptions};
use crate::patch::Patch;
use crate::source::{path, Held};

/// What was published.
#[pyclass(frozen, get_all, skip_from_py_object, module = "pulse_codec")]
#[derive(Debug)]
pub(crate) struct Published {
    /// Number of the version.
    version: u64,
    /// Digest of the weights.
    digest: String,
    /// Optimizer step, if it is known.
    step: Option<u64>,
    /// Whether it can be had without the version before.
    is_anchor: bool,
    /// Elements that changed; None of an anchor, and of a patch that was made before.
    changes: Option<u64>,
    /// Bytes that were put for it.
    bytes: u64,
    /// Seconds of making and sending its data.
    make_seconds: f64,
    /// Seconds of putting its record.
    record_seconds: f64,
    /// Why the hint of the newest version or an anchor that was due could not be put. Nothing is lost.
    warnings: Vec<String>,
}

#[pymethods]
impl Published {
    fn __repr__(&self) -> String {
        let kind = if self.is_anchor { "anchor" } else { "patch" };
        format!(
            "<version {}: {kind} of {} bytes, {}…>",
            self.version,
            self.bytes,
            &self.digest[..16]
        )
    }
}

impl From<pulse_sync::Published> for Published {
    fn from(published: pulse_sync::Published) -> Self {
        let record = published.record;
        Published {
            version: record.version,
            digest: record.target.to_string(),
            step: record.step,
            is_anchor: record.patch.is_none() && record.anchor.version == record.version,
            changes: published.report.map(|report| report.summary.footer.changes),
            bytes: published.bytes,
            make_seconds: published.seconds.0,
            record_seconds: published.seconds.1,
            warnings: published.warnings,
        }
    }
}

/// How often the newest version is looked for.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// What the next patch starts from.
enum Base {
    /// It was published by this publisher, or given.
    Known(Shadow),
    /// The newest version is fetched from the feed when it is needed.
    Fetched,
    /// The first version is an anchor.
    None,
}

struct State {
    publisher: pulse_sync::Publisher,
    base: Base,
}

/// Publishes weights. `pulse_codec.Publisher` is made of it.
#[pyclass(frozen, module = "pulse_codec._pulse")]
pub(crate) struct Publisher {
    tasks: Tasks,
    feed: Feed,
    /// The key that signs the feed, or signed it first: what the newest version is fetched with.
    trust: Option<PublicKey>,
    threads: usize,
    /// Nothing while a call is at work.
    state: Mutex<Option<State>>,
}

impl Publisher {
    fn with<T>(&self, use_it: impl FnOnce(&mut State) -> PyResult<T>) -> PyResult<T> {
        let taken = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut state) = taken else {
            return Err(PyRuntimeError::new_err(
                "another thread is at work on this publisher, or it is closed",
            ));
        };
        let result = use_it(&mut state);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        result
    }

    fn control(&self) -> Control<'static> {
        match self.threads {
            0 => Control::default(),
            threads => Control::threads(threads),
        }
    }
}

/// The newest version, as a follower fetches it; why not, if nothing that can be had leads to it.
async fn newest(
    feed: &Feed,
    options: FollowerOptions,
    control: Control<'_>,
) -> pulse_sync::Result<Result<Shadow, Error>> {
    let mut follower = pulse_sync::Follower::open(feed, None, options).await?;
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match follower.look(None).await {
            Ok(Some(update)) => match block_in_place(|| shadow(&update, control)) {
                Ok(shadow) => return Ok(Ok(shadow)),
                Err(error) => {
                    follower.failed(&update);
                    error
                }
            },
            Ok(None) => return Err(Error::Misuse("there is no version".into())),
            Err(error @ (Error::Lost { .. } | Error::Data { .. })) => error,
            Err(error) if error.is_passing() && tries < TRIES => error,
            Err(error) => return Err(error),
        };
        if tries == TRIES {
            // The feed is there, but not its data: an anchor helps all who meet the same.
            return Ok(Err(error));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A copy of what an update makes.
fn shadow(update: &Update, control: Control<'_>) -> pulse_sync::Result<Shadow> {
    let tensors = update.chain()?.to_memory(control)?;
    let mut pairs = Vec::new();
    for (name, (spec, bytes)) in &tensors {
        pairs.push((name.as_str(), TensorRef::new(spec.clone(), bytes)?));
    }
    let weights: Weights<'_> = pairs.into_iter().collect();
    Ok(Shadow::new(&weights, control)?)
}

#[pymethods]
impl Publisher {
    #[new]
    #[pyo3(signature = (feed, *, key=None, base=None, fetch=true, anchor_every=50, expires=86400.0, patience=300.0,
                        options=None, threads=0))]
    #[allow(clippy::too_many_arguments)] // Python has names for them
    fn new(
        py: Python<'_>,
        feed: &str,
        key: Option<PathBuf>,
        base: Option<&Bound<'_, PyAny>>,
        fetch: bool,
        anchor_every: u64,
        expires: f64,
        patience: f64,
        options: Option<&Bound<'_, EncoderOptions>>,
        threads: usize,
    ) -> PyResult<Self> {
        let raise = |error| failure::raise(py, error);
        let tasks = Tasks::new()?;
        let feed = open(py, &tasks, feed)?;
        let meter = Arc::clone(&tasks.meter);
        let mut choices = PublisherOptions::default()
            .with_anchor_every(anchor_every)
            .with_expires(seconds(expires)?)
            .with_patience(seconds(patience)?)
            .with_encoder(encoder(options.map(Bound::get), None, None, None))
            .with_progress(move |bytes| meter.report(bytes));
        if threads > 0 {
            choices = choices.with_threads(threads);
        }
        let key = key.map(SecretKey::load).transpose().map_err(raise)?;
        let trust = key.as_ref().map(SecretKey::public);
        choices.key = key;
        let publisher = tasks.run(py, None, || pulse_sync::Publisher::start(&feed, choices))?;
        let base = match base {
            Some(base) => {
                let held = Held::new(base)?;
                let _lease = held.lease(py, false)?;
                let control =
                    if threads > 0 { Control::threads(threads) } else { Control::default() };
                let made = py.detach(|| Shadow::new(&held.weights(), control));
                Base::Known(made.map_err(|error| crate::failure::raise(py, error))?)
            }
            None if fetch => Base::Fetched,
            None => Base::None,
        };
        let state = Mutex::new(Some(State { publisher, base }));
        Ok(Publisher { tasks, feed, trust, threads, state })
    }

    #[pyo3(signature = (weights, *, step=None, progress=None))]
    fn publish(
        &self,
        weights: &Bound<'_, PyAny>,
        step: Option<u64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Published> {
        let py = weights.py();
        if let Ok(patch) = weights.cast::<Patch>() {
            let patch = patch.get().opened(py)?;
            return self.with(|state| {
                // Nobody here has the weights that it leads to.
                state.base = Base::Fetched;
                let publisher = &mut state.publisher;
                let published =
                    self.tasks.run(py, progress, move || publisher.publish_patch(patch, step))?;
                Ok(published.into())
            });
        }
        if path(weights).is_some() {
            return Err(PyTypeError::new_err(
                "expected tensors by name, or a Patch, found a path; `pulse publish` publishes checkpoints",
            ));
        }
        let held = Held::new(weights)?;
        let _lease = held.lease(py, false)?;
        let weights = held.weights();
        self.with(|state| {
            let control = self.control();
            let State { publisher, base } = state;
            let head = publisher.head().is_some();
            let mut lost = None;
            if matches!(base, Base::Fetched) && head {
                let mut options = FollowerOptions::default();
                options.trust = self.trust;
                let feed = &self.feed;
                match self.tasks.run(py, None, || newest(feed, options, control))? {
                    Ok(fetched) => *base = Base::Known(fetched),
                    Err(error) => lost = Some(error),
                }
            }
            if !matches!(base, Base::Known(_)) {
                let made = py.detach(|| Shadow::new(&weights, control));
                *base = Base::Known(made.map_err(|error| crate::failure::raise(py, error))?);
            }
            let weights = &weights;
            let Base::Known(shadow) = base else {
                return Err(PyRuntimeError::new_err("there is no base"));
            };
            let mut published =
                self.tasks.run(py, progress, move || publisher.publish(shadow, weights, step))?;
            if let Some(error) = lost {
                let warning = format!("the newest version could not be fetched: {error}");
                published.warnings.insert(0, warning);
            }
            Ok(published.into())
        })
    }

    fn claim(&self, py: Python<'_>) -> PyResult<()> {
        self.with(|State { publisher, .. }| self.tasks.run(py, None, move || publisher.claim()))
    }

    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        self.with(|State { publisher, .. }| self.tasks.run(py, None, move || publisher.refresh()))
    }

    fn end(&self, py: Python<'_>) -> PyResult<()> {
        self.with(|State { publisher, .. }| self.tasks.run(py, None, move || publisher.end()))
    }

    fn hand_over(&self, py: Python<'_>, key: PathBuf) -> PyResult<()> {
        let key = SecretKey::load(key).map_err(|error| failure::raise(py, error))?;
        self.with(|state| state.publisher.hand_over(key).map_err(|error| failure::raise(py, error)))
    }

    fn cancel(&self) {
        self.tasks.meter.stop();
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    #[getter]
    fn run(&self) -> PyResult<String> {
        self.with(|state| Ok(state.publisher.run().to_string()))
    }

    #[getter]
    fn writer(&self) -> PyResult<String> {
        self.with(|state| Ok(state.publisher.writer().to_string()))
    }

    #[getter]
    fn head(&self) -> PyResult<Option<Record>> {
        self.with(|state| Ok(state.publisher.head().map(Record::of)))
    }
}

/// A time that Python gives.
pub(super) fn seconds(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| {
        pyo3::exceptions::PyValueError::new_err(format!("{seconds} seconds: {error}"))
    })
}
