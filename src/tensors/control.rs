//! How work is done: on how many threads, who is told, and who may stop it.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::error::{Error, Result};

/// More threads than this gain nothing, and a system may refuse them.
const THREADS_MAX: usize = 1024;

/// How work is done: on how many threads, who is told of progress, and who may stop it. Results
/// never depend on it.
///
/// ```
/// use std::ops::ControlFlow;
/// use pulse::tensors::Control;
/// let stop_at_once = |_bytes| ControlFlow::Break(());
/// let control = Control::threads(2).with_progress(&stop_at_once);
/// # let weights = pulse::tensors::Weights::default();
/// # let _ = (control, weights);
/// ```
#[derive(Clone, Copy)]
pub struct Control<'a> {
    threads: usize,
    progress: Option<&'a Progress<'a>>,
}

/// Told the number of tensor bytes done since the last call; stops the work by breaking.
type Progress<'a> = dyn Fn(u64) -> ControlFlow<()> + Sync + 'a;

impl fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Default for Control<'_> {
    /// One thread for each core.
    fn default() -> Self {
        Control::threads(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

impl<'a> Control<'a> {
    /// Work on this many threads: at least one, and at most 1,024.
    #[must_use]
    pub fn threads(threads: usize) -> Self {
        Control { threads: threads.clamp(1, THREADS_MAX), progress: None }
    }

    /// Calls `progress` with the number of tensor bytes done since the last call. If it breaks,
    /// the work ends with [`Error::Cancelled`]. Files and checkpoints are then as they were; what was
    /// already sent to a writer is not a whole patch, and no reader takes it for one.
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync + 'a),
    ) -> Self {
        self.progress = Some(progress);
        self
    }

    pub(crate) fn count(&self) -> usize {
        self.threads
    }

    pub(crate) fn report(&self, bytes: u64) -> Result<()> {
        match self.progress.map(|progress| progress(bytes)) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled),
            Some(ControlFlow::Continue(())) | None => Ok(()),
        }
    }
}
