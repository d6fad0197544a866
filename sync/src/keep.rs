//! Keeping a feed: by-products that shorten ways, and deleting what nobody needs (FEED.md §8).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pulse::checkpoint::{self, DiffOptions};
use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::Checkpoint;

use crate::document::{DOCUMENT_BYTES, HINTS_BYTES};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::fetch::Fetch;
use crate::files::make;
use crate::follower::{Follower, FollowerOptions};
use crate::hint::{parse_floor, seal_floor, ByProduct, Hints};
use crate::id::Run;
use crate::key::PublicKey;
use crate::log::Log;
use crate::name;
use crate::record::{Anchor, Record};
use crate::store::Put;
use crate::upload::Upload;
use crate::work::in_place;
use crate::world::nonce;

/// Puts the documents of by-products, whose data is there, and adds them to the hints.
pub(crate) async fn announce(feed: &Feed, run: Run, made: &[ByProduct]) -> Result<()> {
    let store = &feed.store;
    // A store that does not answer now must not cost what was known.
    let known = store.document(name::HINTS, HINTS_BYTES).await?;
    let mut hints = known.and_then(|bytes| Hints::parse(&bytes, run).ok()).unwrap_or_default();
    for made in made {
        let name = made.name(nonce(feed.world.as_ref()));
        if let Put::Unclear(error) = store.create(&name, made.seal(run)).await {
            return Err(error);
        }
        let names = if made.from.is_some() { &mut hints.skips } else { &mut hints.anchors };
        names.push(name);
    }
    store.overwrite(name::HINTS, hints.seal(run)).await
}

/// What the hints say; nothing, if there are none that can be read.
pub(crate) async fn hints(feed: &Feed, run: Run) -> Hints {
    let known = feed.store.document(name::HINTS, HINTS_BYTES).await.ok().flatten();
    known.and_then(|bytes| Hints::parse(&bytes, run).ok()).unwrap_or_default()
}

/// The newest anchor that somebody made since the one that records name, whole as far as the store can tell: what the
/// next record may name. An anchor that a publisher made right before it was stopped is not made again.
pub(crate) async fn announced_anchor(feed: &Feed, log: &mut Log) -> Option<Anchor> {
    let (run, head) = (log.manifest().run, log.head().record.clone());
    let known = hints(feed, run).await;
    let newer = |name: &&String| {
        name::version_of(name).is_some_and(|it| head.anchor.version < it && it <= head.version)
    };
    let newest = known.anchors.iter().filter(newer).max_by_key(|name| name::version_of(name))?;
    let bytes = feed.store.document(newest, DOCUMENT_BYTES).await.ok()??;
    let made = ByProduct::parse(newest, &bytes, run).ok()?;
    let record = log.record(made.to).await.ok()?;
    let found = feed.store.head(&made.data.object).await.ok()??;
    let is_right = record.record.target == made.target && found.bytes == made.data.bytes;
    is_right.then_some(Anchor { version: made.to, target: made.target, data: made.data })
}

/// The log of a feed that exists and has a version.
pub(crate) async fn open_log(feed: &Feed, trust: Option<PublicKey>) -> Result<Log> {
    let manifest = feed.existing().await?;
    let log = Log::open(&feed.store, manifest, trust, None).await?;
    log.ok_or_else(|| Error::NoFeed { store: feed.address().into() })
}

/// Choices of [`compact`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompactOptions {
    /// The key that is trusted, as of a follower.
    pub trust: Option<PublicKey>,
    /// How many versions skips lead over; of each number the newest is made that ends at a multiple of it.
    pub spans: Vec<u64>,
    /// An anchor is made if the newest one is so many versions old; never, if it is 0.
    pub anchor_every: u64,
    /// Where checkpoints are made, two at a time; a directory in the system's place for temporary files by
    /// default.
    pub work: Option<PathBuf>,
    /// Threads.
    pub threads: usize,
}

impl Default for CompactOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        CompactOptions { trust: None, spans: vec![8, 64], anchor_every: 0, work: None, threads }
    }
}

impl CompactOptions {
    /// Replaces [`trust`](Self::trust).
    #[must_use]
    pub fn with_trust(mut self, key: PublicKey) -> Self {
        self.trust = Some(key);
        self
    }

    /// Replaces [`spans`](Self::spans).
    #[must_use]
    pub fn with_spans(mut self, spans: impl Into<Vec<u64>>) -> Self {
        self.spans = spans.into();
        self
    }

    /// Replaces [`anchor_every`](Self::anchor_every).
    #[must_use]
    pub fn with_anchor_every(mut self, versions: u64) -> Self {
        self.anchor_every = versions;
        self
    }

    /// Replaces [`work`](Self::work).
    #[must_use]
    pub fn with_work(mut self, directory: impl Into<PathBuf>) -> Self {
        self.work = Some(directory.into());
        self
    }

    /// Replaces [`threads`](Self::threads).
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }
}

/// A by-product that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Made {
    /// The version that a skip starts from; `None` of an anchor.
    pub from: Option<u64>,
    /// The version that it leads to.
    pub to: u64,
    /// Its size.
    pub bytes: u64,
    /// Size of the patches that a skip stands for.
    pub instead_of: Option<u64>,
}

/// A version as a checkpoint on disk.
struct Held {
    version: u64,
    digest: Digest,
    path: PathBuf,
}

/// Makes the skips and the anchor that are due, off the path of the trainer. Whoever may write to the feed
/// may do so, in any number: what is made is no version, and readers prove it as they prove everything.
///
/// Both ends of a skip are made as checkpoints from data that was verified, and the skip is what leads from
/// one to the other.
///
/// # Errors
/// As [`Follower::next`], and [`Error::Store`] if the feed cannot be written to.
pub async fn compact(feed: &Feed, options: &CompactOptions) -> Result<Vec<Made>> {
    let mut log = open_log(feed, options.trust).await?;
    let head = log.head().record.clone();
    let known = hints(feed, head.run).await;
    let place = |error| Error::io("making a place to work in", Path::new(""), error);
    let work = match &options.work {
        Some(work) => tempfile::Builder::new().prefix("pulse-compact-").tempdir_in(work),
        None => tempfile::Builder::new().prefix("pulse-compact-").tempdir(),
    };
    let work = work.map_err(place)?;
    let mut maker = Maker { feed, options, work: work.path(), held: None };
    let mut made = Vec::new();
    for span in options.spans.iter().copied().filter(|span| *span > 1) {
        let to = head.version - head.version % span;
        let Some(from) = to.checked_sub(span).filter(|_| to > 0) else { continue };
        let stem = name::skip(from, to, 0);
        let stem = &stem[..stem.len().saturating_sub("0000000000000000.json".len())];
        if known.skips.iter().any(|name| name.starts_with(stem)) {
            continue;
        }
        let section = log.section(from, to).await?;
        let patches = section[1..].iter().filter_map(|sealed| sealed.record.patch.as_ref());
        let instead_of = patches.map(|data| data.bytes).fold(0, u64::saturating_add);
        let is_gap = |record: &Record| record.is_change() && record.patch.is_none();
        if instead_of == 0 || section[1..].iter().any(|sealed| is_gap(&sealed.record)) {
            continue;
        }
        match maker.skip(from, to, instead_of).await {
            Ok(skip) => made.extend(skip),
            // What is pruned cannot be made; the rest can.
            Err(Error::Lost { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let age = head.version - head.anchor.version;
    if options.anchor_every > 0 && age >= options.anchor_every {
        let anchors = known.anchors.iter().filter_map(|name| name::version_of(name));
        if anchors
            .max()
            .is_none_or(|newest| head.version.saturating_sub(newest) >= options.anchor_every)
        {
            made.push(maker.anchor(head.version).await?);
        }
    }
    Ok(made)
}

struct Maker<'a> {
    feed: &'a Feed,
    options: &'a CompactOptions,
    work: &'a Path,
    held: Option<Held>,
}

impl Maker<'_> {
    /// Makes the checkpoint of a version, from the one that is held if that leads there.
    async fn checkpoint(&mut self, version: u64) -> Result<(Held, Run)> {
        let base = self.held.take().filter(|held| held.version <= version);
        let mut options = FollowerOptions::default().with_at(version).with_spool(self.work);
        options.trust = self.options.trust;
        let mut follower = Follower::open(self.feed, None, options).await?;
        let run = self.feed.existing().await?.run;
        let held = base.as_ref().map(|base| base.digest);
        loop {
            let update = match follower.look(held).await {
                Ok(Some(update)) => update,
                // It is held already.
                Ok(None) | Err(Error::Ended { .. }) => {
                    let why = "it is not there any more".into();
                    return base
                        .map(|base| (base, run))
                        .ok_or(Error::Lost { wanted: version, why });
                }
                Err(error) => return Err(error),
            };
            let path = self.work.join(version.to_string());
            let base = base.as_ref().map(|base| base.path.as_path()).filter(|_| !update.is_whole());
            let control = Control::threads(self.options.threads);
            match in_place(|| make(&update, base, &path, control)) {
                Ok(report) => {
                    follower.served(&update, report.target)?;
                    return Ok((Held { version, digest: report.target, path }, run));
                }
                Err(error @ Error::Pulse(pulse::Error::Io { .. })) => return Err(error),
                Err(_) => follower.failed(&update),
            }
        }
    }

    async fn skip(&mut self, from: u64, to: u64, instead_of: u64) -> Result<Option<Made>> {
        let (start, _) = self.checkpoint(from).await?;
        let base = start.path.clone();
        let digest = start.digest;
        self.held = Some(start);
        let (end, run) = self.checkpoint(to).await?;
        let data = {
            let write = |out: &mut dyn Write, control: Control<'_>| {
                let (base, target) = (Checkpoint::open(&base)?, Checkpoint::open(&end.path)?);
                let options = DiffOptions::from(EncoderOptions::default().with_run(run.0));
                Ok(checkpoint::diff(Some(&base), &target, out, options, control)?
                    .summary
                    .footer
                    .target)
            };
            self.put(to, end.digest, Some(instead_of), instead_of, write).await?
        };
        let target = end.digest;
        self.held = Some(end);
        let Some(data) = data else { return Ok(None) };
        let bytes = data.bytes;
        let made = ByProduct { from: Some((from, digest)), to, target, data };
        announce(self.feed, run, &[made]).await?;
        Ok(Some(Made { from: Some(from), to, bytes, instead_of: Some(instead_of) }))
    }

    async fn anchor(&mut self, version: u64) -> Result<Made> {
        let (end, run) = self.checkpoint(version).await?;
        let write = |out: &mut dyn Write, control: Control<'_>| {
            let target = Checkpoint::open(&end.path)?;
            let options = DiffOptions::from(EncoderOptions::default().with_run(run.0));
            Ok(checkpoint::diff(None, &target, out, options, control)?.summary.footer.target)
        };
        let largest = Checkpoint::open(&end.path)?.file_bytes();
        let largest = largest.saturating_add(largest / 8);
        let data = self.put(version, end.digest, None, largest, write).await?;
        let data = data.ok_or_else(|| Error::Misuse("an anchor has no bound".into()))?;
        let (target, bytes) = (end.digest, data.bytes);
        self.held = Some(end);
        announce(self.feed, run, &[ByProduct { from: None, to: version, target, data }]).await?;
        Ok(Made { from: None, to: version, bytes, instead_of: None })
    }

    /// Puts what leads to a version, if it is smaller than the bound.
    async fn put(
        &self,
        version: u64,
        target: Digest,
        below: Option<u64>,
        largest: u64,
        write: impl FnOnce(&mut dyn Write, Control<'_>) -> Result<Digest>,
    ) -> Result<Option<crate::record::Data>> {
        let object = name::data(version, nonce(self.feed.world.as_ref()));
        let mut upload = Upload::new(&self.feed.store, object, largest);
        match in_place(|| write(&mut upload, Control::threads(self.options.threads))) {
            Ok(found) if found == target => {}
            Ok(found) => {
                upload.abort().await;
                return Err(Error::Wrong { version, expected: target, found });
            }
            Err(error) => return Err(upload.cause(error).await),
        }
        if below.is_some_and(|below| upload.bytes() >= below) {
            upload.abort().await;
            return Ok(None);
        }
        upload.finish().await.map(Some)
    }
}

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
/// [`Error::Store`], when nothing or only a part was deleted: what is left goes the next time.
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
        let arrived = |_| {};
        let fetch = Fetch {
            store: &feed.store,
            world: feed.world.as_ref(),
            spool: options.spool.as_ref(),
            limits: pulse::Limits::default(),
            arrived: &arrived,
        };
        let absent = || Error::data(&anchor.data.object, "it is not there");
        let read = fetch.patch(&anchor.data).await?.ok_or_else(absent)?;
        let footer = read.patch.footer();
        if footer.target != anchor.target || footer.base.is_some() {
            return Err(Error::data(&anchor.data.object, "it is no anchor of its version"));
        }
        // What it says of itself is not what it makes.
        in_place(|| read.patch.verify(Control::default()))
            .map_err(|error| Error::data(&anchor.data.object, error.to_string()))?;
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
