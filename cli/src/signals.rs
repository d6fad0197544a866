//! Signals that tell the program to stop: it does at its next report of progress, and removes what is
//! half written. A second signal ends it at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};

#[cfg(unix)]
use signal_hook::consts::SIGHUP;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What is known of signals; handlers hold it as well.
struct Signals {
    /// The one that came; 0 if none has.
    came: Arc<AtomicUsize>,
    /// The next one ends the process: nothing is half written, or it was asked to stop before.
    at_once: Arc<AtomicBool>,
}

static SIGNALS: LazyLock<Signals> = LazyLock::new(|| {
    let signals = Signals { came: Arc::default(), at_once: Arc::default() };
    let handled = [
        SIGINT,
        SIGTERM,
        #[cfg(unix)]
        SIGHUP,
    ];
    for signal in handled.into_iter().filter(|signal| !is_ignored(*signal)) {
        // In this order they run. What cannot be registered keeps its default, which is to end.
        let _ = flag::register_conditional_default(signal, Arc::clone(&signals.at_once))
            .and_then(|_| flag::register_usize(signal, Arc::clone(&signals.came), signal as usize))
            .and_then(|_| flag::register(signal, Arc::clone(&signals.at_once)));
    }
    signals
});

/// Whether whoever started the process wants it to go on in spite of a signal, as nohup does.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// While it lives, a signal stops the work at its next report instead of ending the process.
#[derive(Debug)]
pub(crate) struct Deferred(());

/// Begins work that must not be cut off in the middle.
pub(crate) fn defer() -> Deferred {
    SIGNALS.at_once.store(SIGNALS.came.load(SeqCst) != 0, SeqCst);
    Deferred(())
}

/// From now on the next signal ends the process: what it writes to, a pipe that nobody reads, may let it wait for ever,
/// and nothing is half written on a disk.
pub(crate) fn end_at_once() {
    SIGNALS.at_once.store(true, SeqCst);
}

impl Drop for Deferred {
    fn drop(&mut self) {
        SIGNALS.at_once.store(true, SeqCst);
    }
}

/// For every report of progress: whether to go on.
pub(crate) fn poll(_: u64) -> ControlFlow<()> {
    if SIGNALS.came.load(SeqCst) == 0 {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}

/// Ends the process by the signal that stopped the work, if one has: so that a shell which waits for
/// it stops as well.
pub(crate) fn end() {
    let came = SIGNALS.came.load(SeqCst);
    if let (true, Ok(signal)) = (came != 0, i32::try_from(came)) {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}
