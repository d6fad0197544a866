//! Where a publisher or follower waits for the network.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pulse_sync::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::live::failure;
use crate::work::{Meter, Work};

/// How soon what waits sees that it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A runtime of its own, and the process whose threads it has.
pub(crate) struct Tasks {
    runtime: Option<Runtime>,
    process: u32,
    pub meter: Arc<Meter>,
}

impl Tasks {
    pub fn new() -> PyResult<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (process, meter) = (std::process::id(), Arc::default());
        Ok(Tasks { runtime: Some(runtime), process, meter })
    }

    /// The runtime, for what is made in its context.
    pub fn runtime(&self) -> PyResult<&Runtime> {
        let own = self.runtime.as_ref().filter(|_| self.process == std::process::id());
        own.ok_or_else(|| {
            PyRuntimeError::new_err(
                "this process was forked from the one that opened the feed; open it here",
            )
        })
    }

    /// Waits for what a future makes, until it is there or Python wants something else.
    pub fn run<T, F>(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        make: impl FnOnce() -> F + Send,
    ) -> PyResult<T>
    where
        T: Send,
        F: Future<Output = pulse_sync::Result<T>>,
    {
        let (runtime, meter) = (self.runtime()?, &*self.meter);
        meter.start();
        let result = Work::new(0, progress).attend(py, meter, || {
            runtime.block_on(async {
                tokio::select! {
                    result = make() => result,
                    () = stopped(meter) => Err(Error::Pulse(pulse::Error::Cancelled)),
                }
            })
        })?;
        result.map_err(|error| failure::raise(py, error))
    }
}

async fn stopped(meter: &Meter) {
    while !meter.is_stopped() {
        tokio::time::sleep(LOOK).await;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.process == std::process::id() {
            runtime.shutdown_background();
        } else {
            // Its threads are not in this process, and would be waited for.
            std::mem::forget(runtime);
        }
    }
}
