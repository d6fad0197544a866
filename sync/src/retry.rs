//! Waiting before something is tried again.

use std::time::Duration;

use crate::world::{nonce, World};

/// Growing pauses, each of another length for everybody.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff { next: first, max }
    }

    /// The pause before the next try, between half of its length and the whole.
    pub fn pause(&mut self, world: &dyn World) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        jittered(whole, world)
    }
}

/// Between half of a time and the whole of it.
pub(crate) fn jittered(whole: Duration, world: &dyn World) -> Duration {
    let share = (nonce(world) % 1024) as u32;
    whole / 2 + whole / 2 * share / 1024
}
