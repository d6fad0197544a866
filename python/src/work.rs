//! Work that takes long: other Python threads run meanwhile, who wants it is told of progress, and Ctrl-C stops it.

use std::ops::ControlFlow;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use pulse::tensors::Control;
use pyo3::prelude::*;

use crate::failure;

/// How often Python is asked, at most.
const TICK: Duration = Duration::from_millis(100);

/// How far work is, and whether it is to stop.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    done: AtomicU64,
    stop: AtomicBool,
}

impl Meter {
    /// Counts bytes that were done, and says whether to go on.
    pub fn report(&self, bytes: u64) -> ControlFlow<()> {
        self.done.fetch_add(bytes, Relaxed);
        if self.is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// For work that begins.
    pub fn start(&self) {
        self.done.store(0, Relaxed);
        self.stop.store(false, Relaxed);
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

/// On how many threads, and who is told.
pub(crate) struct Work {
    threads: usize,
    progress: Option<Py<PyAny>>,
}

impl Work {
    pub fn new(threads: usize, progress: Option<Py<PyAny>>) -> Self {
        Work { threads, progress }
    }

    /// One thread for each core if nothing else was asked for.
    fn control(&self) -> Control<'static> {
        match self.threads {
            0 => Control::default(),
            threads => Control::threads(threads),
        }
    }

    /// Asks for signals, and tells of the bytes done since the last time.
    fn tick(&self, py: Python<'_>, done: &AtomicU64) -> PyResult<()> {
        py.check_signals()?;
        let bytes = done.swap(0, Relaxed);
        match &self.progress {
            Some(progress) if bytes > 0 => progress.call1(py, (bytes,)).map(drop),
            _ => Ok(()),
        }
    }

    /// Does it on a thread of its own, while this one waits for the end and for what Python wants: only
    /// the main thread sees signals, and a callback expects the thread of its caller.
    pub fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Control<'_>) -> pulse::Result<T> + Send,
    ) -> PyResult<T> {
        let meter = Meter::default();
        let report = |bytes| meter.report(bytes);
        let control = self.control().with_progress(&report);
        let result = self.attend(py, &meter, || work(control))?;
        result.map_err(|error| failure::raise(py, error))
    }

    /// As [`run`](Self::run), for work that reports to the meter and stops when the meter says so.
    pub fn attend<T: Send>(
        &self,
        py: Python<'_>,
        meter: &Meter,
        work: impl FnOnce() -> T + Send,
    ) -> PyResult<T> {
        let (result, raised) = py.detach(|| {
            thread::scope(|scope| {
                let (ended, end) = mpsc::channel::<()>();
                let worker = thread::Builder::new().name("pulse".into());
                let worker = worker.spawn_scoped(scope, move || {
                    // Tells of the end however it comes.
                    let _ended = ended;
                    work()
                })?;
                let mut raised = None;
                while end.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    if raised.is_none() {
                        raised = Python::attach(|py| self.tick(py, &meter.done)).err();
                        if raised.is_some() {
                            meter.stop();
                        }
                    }
                }
                let result = worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
                PyResult::Ok((result, raised))
            })
        })?;
        match raised {
            Some(raised) => Err(raised),
            None => {
                self.tick(py, &meter.done)?;
                Ok(result)
            }
        }
    }

    /// Does what cannot be stopped once it has begun.
    pub fn finish<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Control<'_>) -> pulse::Result<T> + Send,
    ) -> PyResult<T> {
        let control = self.control();
        py.detach(|| work(control)).map_err(|error| failure::raise(py, error))
    }
}
