//! Work that takes a processor for long, among tasks that wait.

use std::future::Future;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Whether this thread may wait while others drive the tasks.
fn may_wait() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Does work where it is called, without holding up the other tasks of a runtime that has more threads.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    if may_wait() {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Waits for a future from within [`in_place`]; `None` where a single thread drives all tasks, which could
/// wait for ever.
pub(crate) fn wait<F: Future>(future: F) -> Option<F::Output> {
    may_wait().then(|| Handle::current().block_on(future))
}
