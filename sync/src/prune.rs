//! Deleting what nobody needs any more (F35, F36).

use std::path::PathBuf;
use std::time::Duration;

use crate::document::DOCUMENT_BYTES;
use crate::error::Result;
use crate::feed::Feed;
use crate::hint::{parse_floor, seal_floor};
use crate::keep::{open_log, read_anchor};
use crate::key::PublicKey;
use crate::log::Log;
use crate::name;
use crate::record::Anchor;

/// Choices of [`prune`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PruneOptions {
    /// The key that is trusted, as of a follower.
    pub trust: Option<PublicKey>,
    /// How many of the recorded anchors are kept, with all that comes after the oldest of them. At least 1.
    pub anchors: usize,
    /// Objects that are younger than this stay.
    pub grace: Duration,
    /// Where the anchor is kept while it is read, if it is too large for memory.
    pub spool: Option<PathBuf>,
}

impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions { trust: None, anchors: 2, grace: Duration::from_secs(3600), spool: None }
    }
}

impl PruneOptions {
    /// Replaces [`trust`](Self::trust).
    #[must_use]
    pub fn with_trust(mut self, key: PublicKey) -> Self {
        self.trust = Some(key);
        self
    }

    /// Replaces [`anchors`](Self::anchors).
    #[must_use]
    pub fn with_anchors(mut self, anchors: usize) -> Self {
        self.anchors = anchors;
        self
    }

    /// Replaces [`grace`](Self::grace).
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Replaces [`spool`](Self::spool).
    #[must_use]
    pub fn with_spool(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spool = Some(directory.into());
        self
    }
}

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// The oldest version whose data is kept; `None` if nothing can be pruned.
    pub floor: Option<u64>,
    /// Objects that were deleted.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

/// Deletes data and by-products of versions before the floor: that of one of the newest anchors, which is
/// read whole before. Records stay for ever (F35, F36).
///
/// # Errors
/// [`Error::Store`](crate::Error::Store), when nothing or only a part was deleted: what is left goes the next time.
pub async fn prune(feed: &Feed, options: &PruneOptions) -> Result<Pruned> {
    let mut log = open_log(feed, options.trust).await?;
    let run = log.manifest().run;
    let known = feed.store.document(name::FLOOR, DOCUMENT_BYTES).await?;
    // A floor is the version of an anchor that records name. What says more is wrong, whoever wrote it.
    let newest = log.head().record.anchor.version;
    let known = known.and_then(|bytes| parse_floor(&bytes, run).ok()).filter(|at| *at <= newest);
    let Some(anchor) = kept_anchor(&mut log, options.anchors.max(1)).await? else {
        return Ok(Pruned { floor: known, ..Pruned::default() });
    };
    let grace = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
    let before = feed.world.now().saturating_sub(grace);
    let mut old = Vec::new();
    // By-products first, so that none names what is gone already.
    for folder in [name::SKIP, name::ANCHOR, name::DATA] {
        let objects = feed.store.list(folder).await?;
        old.extend(objects.into_iter().filter(|object| {
            // Below the anchor that is read, whatever a document says of the floor (F9).
            object.modified < before
                && name::version_of(&object.name).is_some_and(|version| version < anchor.version)
        }));
    }
    let is_higher = known.is_none_or(|known| known < anchor.version);
    if is_higher || !old.is_empty() {
        // Nobody can start from an anchor that is damaged: then nothing goes.
        read_anchor(feed, &anchor, options.spool.as_ref()).await?;
    }
    if is_higher {
        let floor = seal_floor(run, anchor.version, feed.world.now());
        feed.store.overwrite(name::FLOOR, floor).await?;
    }
    let floor = known.unwrap_or(0).max(anchor.version);
    let mut pruned = Pruned { floor: Some(floor), ..Pruned::default() };
    for object in old {
        feed.store.delete(&object.name).await?;
        pruned.objects += 1;
        pruned.bytes += object.bytes;
    }
    Ok(pruned)
}

/// The oldest of so many of the newest anchors that records name; `None` if there are fewer.
async fn kept_anchor(log: &mut Log, count: usize) -> Result<Option<Anchor>> {
    let mut anchor = log.head().record.anchor.clone();
    for _ in 1..count {
        // The record of an anchor's version may name it; the one before that cannot.
        let Some(before) = anchor.version.checked_sub(1) else { return Ok(None) };
        anchor = log.record(before).await?.record.anchor.clone();
    }
    Ok(Some(anchor).filter(|anchor| anchor.version > 0))
}
