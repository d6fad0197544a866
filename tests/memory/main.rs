//! Memory, measured: bounded by blocks, limits and the bytes that came.

#[cfg(feature = "checkpoint")]
mod chains;
mod hostile;
#[cfg(feature = "parallel")]
mod prepared;
mod streams;

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;

/// Counts what Rust code allocates. The contexts of zstd come from C: a few MB for each thread, by
/// the window that a frame may ask for.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// The allocator counts the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
