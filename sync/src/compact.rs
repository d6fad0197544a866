//! Skips and anchors that are made afterwards (F38).

use std::io::Write;
use std::path::{Path, PathBuf};

use pulse::checkpoint::{self, DiffOptions};
use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::Checkpoint;

use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::files::make;
use crate::follower::{Follower, FollowerOptions};
use crate::hint::ByProduct;
use crate::id::Run;
use crate::keep::{announce, hints, open_log};
use crate::key::PublicKey;
use crate::name;
use crate::record::Record;
use crate::upload::Upload;
use crate::work::in_place;
use crate::world::nonce;

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
