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
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let report = |bytes| {
            done.fetch_add(bytes, Relaxed);
            if stop.load(Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let control = self.control().with_progress(&report);
        let (result, raised) = py.detach(|| {
            thread::scope(|scope| {
                let (ended, end) = mpsc::channel::<()>();
                let worker = thread::Builder::new().name("pulse".into());
                let worker = worker.spawn_scoped(scope, move || {
                    // Tells of the end however it comes.
                    let _ended = ended;
                    work(control)
                })?;
                let mut raised = None;
                while end.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    if raised.is_none() {
                        raised = Python::attach(|py| self.tick(py, &done)).err();
                        stop.store(raised.is_some(), Relaxed);
                    }
                }
                let result = worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
                PyResult::Ok((result, raised))
            })
        })?;
        if let Some(raised) = raised {
            return Err(raised);
        }
        let result = result.map_err(|error| failure::raise(py, error))?;
        self.tick(py, &done)?;
        Ok(result)
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
