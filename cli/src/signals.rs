//! Signals that tell the program to stop: it does at its next report of progress, and removes what is
//! half written. A second signal ends it at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

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
    /// How many want that it does not.
    deferred: AtomicUsize,
}

static SIGNALS: LazyLock<Signals> = LazyLock::new(|| {
    let signals =
        Signals { came: Arc::default(), at_once: Arc::default(), deferred: AtomicUsize::new(0) };
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
    SIGNALS.deferred.fetch_add(1, SeqCst);
    SIGNALS.at_once.store(came(), SeqCst);
    Deferred(())
}

/// From now on the next signal ends the process: what it writes to, a pipe that nobody reads, may let it wait for ever,
/// and nothing is half written on a disk.
pub(crate) fn end_at_once() {
    SIGNALS.at_once.store(true, SeqCst);
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if SIGNALS.deferred.fetch_sub(1, SeqCst) == 1 {
            SIGNALS.at_once.store(true, SeqCst);
        }
    }
}

/// Whether a signal came.
pub(crate) fn came() -> bool {
    SIGNALS.came.load(SeqCst) != 0
}

/// Waits for a signal.
pub(crate) async fn stopped() {
    // A handler may do hardly anything but set a flag.
    while !came() {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// For every report of progress: whether to go on.
pub(crate) fn poll(_: u64) -> ControlFlow<()> {
    if came() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
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
