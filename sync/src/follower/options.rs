//! Choices of a follower, and what it tells.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pulse::Limits;

use crate::error::Error;
use crate::key::PublicKey;
use crate::record::Record;
use crate::way::Way;

/// What a follower tells while it works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Nothing is new; the next look is after this time.
    Waiting {
        /// The newest version; `None` if there is none yet.
        head: Option<u64>,
        /// Until the next look.
        pause: Duration,
    },
    /// Something failed or was refused; it is tried again after this time.
    Refused {
        /// What.
        error: &'a Error,
        /// Until the next try.
        pause: Duration,
    },
    /// A way was found.
    Planned {
        /// The version that it leads to.
        version: u64,
        /// The parts.
        way: &'a Way,
    },
    /// The version that is wanted is held already.
    Held {
        /// Its record.
        record: &'a Record,
    },
    /// Bytes of it arrived.
    Arrived {
        /// Since the last event.
        bytes: u64,
    },
    /// The publisher has promised a newer hint than there is, or clocks differ: it is down, the mirror
    /// stale, or a clock wrong.
    Expired {
        /// When the hint was written, by the publisher's clock.
        time: u64,
        /// Until when a newer one was promised.
        expires: u64,
        /// What this machine's clock says.
        now: u64,
    },
    /// The publisher's hint is as fresh as was promised, or the run has ended.
    Fresh,
}

pub(super) type Told = dyn Fn(&Event<'_>) + Send + Sync;

/// Choices of a [`Follower`](crate::Follower).
#[derive(Clone)]
#[non_exhaustive]
pub struct FollowerOptions {
    /// The key that signs the feed, or that has handed over to the one that does. Without it the store is
    /// trusted for the key (FEED.md §5).
    pub trust: Option<PublicKey>,
    /// The shortest time between two looks for a newer version. The time grows with the age of the newest
    /// one, up to [`poll_max`](Self::poll_max).
    pub poll: Duration,
    /// The longest time between two looks.
    pub poll_max: Duration,
    /// A directory for data that is too large to be held in memory; without one, memory takes all.
    pub spool: Option<PathBuf>,
    /// Limits of the patches.
    pub limits: Limits,
    /// Follow to this version and no further, also if it is an older one.
    pub at: Option<u64>,
    pub(super) told: Arc<Told>,
}

impl fmt::Debug for FollowerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("FollowerOptions");
        shown.field("trust", &self.trust).field("poll", &self.poll).field("at", &self.at);
        shown.finish_non_exhaustive()
    }
}

impl Default for FollowerOptions {
    fn default() -> Self {
        FollowerOptions {
            trust: None,
            poll: Duration::from_millis(100),
            poll_max: Duration::from_secs(10),
            spool: None,
            limits: Limits::default(),
            at: None,
            told: Arc::new(|_| {}),
        }
    }
}

impl FollowerOptions {
    /// Replaces [`trust`](Self::trust).
    #[must_use]
    pub fn with_trust(mut self, key: PublicKey) -> Self {
        self.trust = Some(key);
        self
    }

    /// Replaces [`poll`](Self::poll) and [`poll_max`](Self::poll_max).
    #[must_use]
    pub fn with_poll(mut self, poll: Duration, poll_max: Duration) -> Self {
        (self.poll, self.poll_max) = (poll, poll_max);
        self
    }

    /// Replaces [`spool`](Self::spool).
    #[must_use]
    pub fn with_spool(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spool = Some(directory.into());
        self
    }

    /// Replaces [`limits`](Self::limits).
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces [`at`](Self::at).
    #[must_use]
    pub fn with_at(mut self, version: u64) -> Self {
        self.at = Some(version);
        self
    }

    /// Calls this for every [`Event`].
    #[must_use]
    pub fn with_events(mut self, told: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.told = Arc::new(told);
        self
    }
}
