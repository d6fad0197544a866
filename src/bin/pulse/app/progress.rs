//! Progress, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pulse::Parallel;

use super::Common;

/// A bar for the tensor bytes that a command goes through.
pub struct Progress {
    bar: ProgressBar,
    threads: usize,
    advance: Box<dyn Fn(u64) + Sync + Send>,
}

impl Progress {
    pub fn new(common: &Common, what: &'static str, bytes: u64) -> Self {
        let hidden = common.quiet || common.json;
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
        let bar = ProgressBar::with_draw_target(Some(bytes), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(what);
        let counter = bar.clone();
        Progress { bar, threads: common.threads, advance: Box::new(move |bytes| counter.inc(bytes)) }
    }

    pub fn parallel(&self) -> Parallel<'_> {
        Parallel::threads(self.threads).with_progress(&*self.advance)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
