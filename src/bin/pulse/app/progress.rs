//! Progress, on a terminal only.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
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
        let bar = ProgressBar::with_draw_target(Some(bytes), target)
            .with_style(style("{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"))
            .with_message(what);
        let counter = bar.clone();
        Progress { bar, threads: common.threads, advance: Box::new(move |bytes| counter.inc(bytes)) }
    }

    /// Counts tensors as well, for a command that goes through tensors of these sizes in this order.
    pub fn of_tensors(common: &Common, what: &'static str, sizes: &[u64]) -> Self {
        let mut end = 0u64;
        let ends: Vec<u64> = sizes
            .iter()
            .map(|&size| {
                end = end.saturating_add(size);
                end
            })
            .collect();
        let progress = Progress::new(common, what, end);
        // How many are done follows from how many bytes are.
        let tensors = move |state: &ProgressState, out: &mut dyn Write| {
            let done = ends.partition_point(|&end| end <= state.pos());
            // There is nobody to tell if a terminal fails.
            let _ = write!(out, "{done} of {} tensors", ends.len());
        };
        let template = "{msg} {bar:30} {bytes} of {total_bytes}, {tensors}, {bytes_per_sec}, {eta} left";
        progress.bar.set_style(style(template).with_key("tensors", tensors));
        progress
    }

    pub fn parallel(&self) -> Parallel<'_> {
        Parallel::threads(self.threads).with_progress(&*self.advance)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
