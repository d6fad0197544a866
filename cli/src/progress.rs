//! Progress, on a terminal only.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use pulse::tensors::Control;

use super::signals::{self, Deferred};
use super::{text, Common};

/// A bar for the tensor bytes that a command goes through.
pub struct Progress {
    bar: ProgressBar,
    threads: usize,
    advance: Box<dyn Fn(u64) -> ControlFlow<()> + Sync + Send>,
    _deferred: Deferred,
}

impl Progress {
    pub fn new(common: &Common, what: &'static str, bytes: u64) -> Self {
        Progress::with_tensors(common, what, bytes, Vec::new())
    }

    /// Counts tensors as well, for a command that goes through tensors of these sizes in this order.
    pub fn of_tensors(common: &Common, what: &'static str, sizes: &[u64]) -> Self {
        let mut end = 0u64;
        let mut next = |&size: &u64| {
            end = end.saturating_add(size);
            end
        };
        let ends: Vec<u64> = sizes.iter().map(&mut next).collect();
        Progress::with_tensors(common, what, end, ends)
    }

    fn with_tensors(common: &Common, what: &'static str, bytes: u64, ends: Vec<u64>) -> Self {
        let hidden = common.quiet || common.json;
        let target =
            if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{msg} {bar:30} {status}");
        let status = move |state: &ProgressState, out: &mut dyn Write| {
            let text = status(state.pos(), bytes, state.elapsed().as_secs_f64(), &ends);
            // There is nobody to tell if a terminal fails.
            let _ = out.write_str(&text);
        };
        let bar = ProgressBar::with_draw_target(Some(bytes), target)
            .with_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("status", status),
            )
            .with_message(what);
        let counter = bar.clone();
        let advance = move |bytes| {
            counter.inc(bytes);
            signals::poll(bytes)
        };
        let _deferred = signals::defer();
        Progress { bar, threads: common.threads, advance: Box::new(advance), _deferred }
    }

    /// Counts bytes that are done; whether to go on.
    pub fn advance(&self, bytes: u64) -> ControlFlow<()> {
        (self.advance)(bytes)
    }

    pub fn control(&self) -> Control<'_> {
        control(self.threads).with_progress(&*self.advance)
    }
}

/// A bar for work whose parts begin and end while somebody else, on any thread, tells how far they are.
#[derive(Default)]
pub struct Meter(Mutex<Option<Progress>>);

impl Meter {
    fn bar(&self) -> MutexGuard<'_, Option<Progress>> {
        // A thread that panicked has told what it had to tell.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of the work begins; the bar of the one before goes.
    pub fn begin(&self, common: &Common, what: &'static str, bytes: u64) {
        let mut bar = self.bar();
        drop(bar.take());
        *bar = Some(Progress::new(common, what, bytes));
    }

    /// The bar goes, so that something can be printed.
    pub fn end(&self) {
        drop(self.bar().take());
    }

    /// Counts bytes that are done; whether to go on.
    pub fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.bar().as_ref().map_or_else(|| signals::poll(bytes), |bar| bar.advance(bytes))
    }
}

/// Work on this many threads; on all cores for 0.
pub fn control(threads: usize) -> Control<'static> {
    let control = if threads == 0 { Control::default() } else { Control::threads(threads) };
    control.with_progress(&signals::poll)
}

/// Bytes, tensors, throughput and time left, from where the tensors end. The rate is that since the
/// begin: the work is the same all the way.
fn status(done: u64, bytes: u64, seconds: f64, ends: &[u64]) -> String {
    let mut parts = vec![format!("{} of {}", text::bytes(done), text::bytes(bytes))];
    if !ends.is_empty() {
        let tensors = ends.partition_point(|&end| end <= done) as u64;
        parts.push(format!(
            "{} of {} tensors",
            text::count(tensors),
            text::count(ends.len() as u64)
        ));
    }
    if done > 0 && seconds > 0.0 {
        let rate = done as f64 / seconds;
        parts.push(format!("{}/s", text::bytes(rate as u64)));
        parts.push(format!("{} left", text::seconds(bytes.saturating_sub(done) as f64 / rate)));
    }
    parts.join(", ")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_all_that_is_known() {
        let ends = [1_000_000, 1_000_000, 4_000_000];
        assert_eq!(status(0, 4_000_000, 0.0, &ends), "0 bytes of 4.00 MB, 0 of 3 tensors");
        assert_eq!(
            status(1_000_000, 4_000_000, 2.0, &ends),
            "1.00 MB of 4.00 MB, 2 of 3 tensors, 500 kB/s, 6.00 s left"
        );
        assert_eq!(
            status(4_000_000, 4_000_000, 8.0, &[]),
            "4.00 MB of 4.00 MB, 500 kB/s, 0 µs left"
        );
    }
}
