//! The side of the trainer: versions are put one after the other, by one writer (FEED.md §6).

use std::sync::Arc;

use pulse::hash::Digest;
use pulse::tensors::{Control, DiffReport, Unpublished};
use pulse::wire::Action;
use tokio::task::JoinHandle;

use super::options::PublisherOptions;
use super::pending::{Pending, Settled};
use super::source::Source;
use crate::error::{DocumentFault, Error, Result};
use crate::feed::Feed;
use crate::hint::{ByProduct, Latest};
use crate::id::{Run, Writer};
use crate::json::INTEGER_MAX;
use crate::keep;
use crate::key::SecretKey;
use crate::log::{Log, Mark};
use crate::manifest::Manifest;
use crate::name;
use crate::record::{back, Anchor, Data, Links, Record};
use crate::upload::Upload;
use crate::work::in_place;
use crate::world::{id, nonce};

/// A version that everybody can have now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Published {
    /// Its record.
    pub record: Record,
    /// Changed elements, and what else the diff found; `None` of an anchor, and of a patch that was made before.
    pub report: Option<DiffReport>,
    /// Bytes that were put for it.
    pub bytes: u64,
    /// Seconds of making and sending data together, and of putting the record.
    pub seconds: (f64, f64),
    /// What costs time or followers, but loses nothing: a hint or an anchor that was due and could not be put,
    /// tensors that are not those of the version before.
    pub warnings: Vec<String>,
}

/// What to say of a version whose tensors are not those of the one before: half a state dict looks like this.
fn other_tensors(report: &DiffReport) -> Option<String> {
    let of = |action| report.actions.get(&action).copied().unwrap_or(0);
    let (added, replaced, deleted) = (of(Action::Added), of(Action::Replaced), of(Action::Deleted));
    (added + replaced + deleted > 0).then(|| {
        format!(
            "the tensors are not those of the version before: {added} are new, {deleted} gone, and {replaced} of \
             another dtype or shape; followers that update weights in place stop there"
        )
    })
}

/// Appends versions to a feed.
///
/// It is the only one that may: whoever starts after it fences it, and it stops at its next version. What
/// fails can be tried again: a version is there when its record is, and until then the weights that the
/// next patch starts from stay what they were.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::{Control, Shadow, TensorRef, Weights};
/// use pulse_sync::{Feed, Publisher, PublisherOptions};
/// # let dir = tempfile::tempdir().unwrap();
/// # let address = dir.path().to_str().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let weights = |bytes| -> pulse::Result<Weights<'_>> {
///     Ok([("w", TensorRef::new(spec.clone(), bytes)?)].into_iter().collect())
/// };
/// let mut publisher = Publisher::start(&Feed::open(address)?, PublisherOptions::default()).await?;
/// let mut shadow = Shadow::new(&weights(b"abc")?, Control::default())?;
/// for (step, bytes) in [b"abc", b"abd", b"xbd"].into_iter().enumerate() {
///     let published = publisher.publish(&mut shadow, &weights(bytes)?, Some(step as u64)).await?;
///     assert_eq!(published.record.version, step as u64);
/// }
/// # Ok::<(), pulse_sync::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Publisher {
    pub(super) feed: Feed,
    pub(super) manifest: Manifest,
    pub(super) log: Option<Log>,
    pub(super) writer: Writer,
    pub(super) epoch: u64,
    pub(super) options: PublisherOptions,
    pub(super) pending: Option<Pending>,
    /// An anchor that the next record names.
    pub(super) anchor: Option<Anchor>,
    /// The key that signs from the record after the next one on.
    pub(super) new_key: Option<SecretKey>,
    pub(super) fenced: bool,
}

impl Publisher {
    /// Joins a feed as its writer, and creates it if there is none. Nothing is written to one that exists
    /// before the first version, or [`claim`](Self::claim).
    ///
    /// # Errors
    /// [`Error::Conditions`] if the store cannot hold a feed, [`Error::Ended`] if the run has ended,
    /// [`Error::Document`] if it is signed by another key, [`Error::Store`].
    pub async fn start(feed: &Feed, options: PublisherOptions) -> Result<Self> {
        let manifest = match feed.manifest().await? {
            Some(manifest) => manifest,
            None => feed.create(options.key.as_ref()).await?,
        };
        let key = options.key.as_ref().map(SecretKey::public);
        let mut log = Log::open(&feed.store, manifest, key, None).await?;
        let next = log.as_ref().map_or(0, |log| log.head().record.version + 1);
        let in_force = log.as_ref().map_or(manifest.key, |log| log.key_at(next));
        if let Some(found) = in_force.filter(|found| key != Some(*found)) {
            return Err(Error::Key(match key {
                Some(own) => format!("key {own} has handed over to {found}: publish with that one"),
                None => format!("the feed is signed by key {found}: publish with that key"),
            }));
        }
        if let Some(head) = log.as_ref().map(Log::head).filter(|head| head.record.ended) {
            return Err(Error::Ended { version: head.record.version });
        }
        let anchor = match &mut log {
            Some(log) => keep::announced_anchor(feed, log).await,
            None => None,
        };
        let epoch = log.as_ref().map_or(1, |log| log.head().record.epoch + 1);
        let (feed, writer) = (feed.clone(), Writer(id(feed.world.as_ref())));
        Ok(Publisher {
            feed,
            manifest,
            log,
            writer,
            epoch,
            options,
            pending: None,
            anchor,
            new_key: None,
            fenced: false,
        })
    }

    /// The run of the feed.
    #[must_use]
    pub fn run(&self) -> Run {
        self.manifest.run
    }

    /// The id of this writer, by which the records that it puts and those whom it fences know it.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// The newest version; `None` before the first.
    #[must_use]
    pub fn head(&self) -> Option<&Record> {
        self.log.as_ref().map(|log| &log.head().record)
    }

    /// What a reader of the newest version would remember; `None` before the first.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.log.as_ref().map(|log| log.mark(log.head()))
    }

    /// Fences every writer that was there before, without waiting for a version: it puts a version that
    /// changes nothing. Of an empty feed nothing can be claimed yet.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn claim(&mut self) -> Result<()> {
        loop {
            if let Some((settled, _)) = self.settle().await? {
                self.take(settled)?;
            }
            let Some(head) = self.head() else { return Ok(()) };
            if (head.epoch, head.writer) == (self.epoch, self.writer) {
                return Ok(());
            }
            let (target, step) = (head.target, head.step);
            let record = self.next_record(target, step, None, None).await?;
            self.begin(record, None)?;
        }
    }

    /// Publishes what a source makes.
    pub(super) async fn publish_from(
        &mut self,
        source: &mut dyn Source,
        step: Option<u64>,
    ) -> Result<Published> {
        loop {
            if let Some((settled, unpublished)) = self.settle().await? {
                self.conclude(settled, unpublished, source)?;
            }
            let (published, record) = self.make(source, step).await?;
            self.begin(record, source.unpublished())?;
            let started = tokio::time::Instant::now();
            let Some((settled, unpublished)) = self.settle().await? else { continue };
            let is_done = matches!(settled, Settled::Done(_));
            self.conclude(settled, unpublished, source)?;
            if is_done {
                let put = started.elapsed().as_secs_f64();
                return self.follow_up(published, put, source).await;
            }
        }
    }

    /// Goes on after a record that is there, and so does the source if it is its version.
    fn conclude(
        &mut self,
        settled: Settled,
        unpublished: Option<Unpublished>,
        source: &mut dyn Source,
    ) -> Result<()> {
        let is_done = matches!(settled, Settled::Done(_));
        self.take(settled)?;
        match unpublished.filter(|_| is_done) {
            Some(unpublished) => {
                let control = Control::threads(self.options.threads);
                in_place(|| source.advance(unpublished, control))
            }
            None => Ok(()),
        }
    }

    /// Hands the feed over to another key: the next version is signed by both, all after it by the new
    /// one alone.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the feed is not signed.
    pub fn hand_over(&mut self, key: SecretKey) -> Result<()> {
        if self.options.key.is_none() {
            return Err(Error::Misuse(
                "an unsigned feed cannot change its key; begin a new one".into(),
            ));
        }
        self.new_key = Some(key);
        Ok(())
    }

    /// Puts the last version of the run, which changes nothing.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn end(&mut self) -> Result<()> {
        loop {
            if let Some((settled, _)) = self.settle().await? {
                self.take(settled)?;
            }
            let Some(head) = self.head() else {
                return Err(Error::Misuse("a feed without a version cannot end".into()));
            };
            if head.ended {
                // That it is over is known by its record; the hint only helps to find it.
                let _ = self.refresh().await;
                return Ok(());
            }
            let (target, step) = (head.target, head.step);
            let record =
                Record { ended: true, ..self.next_record(target, step, None, None).await? };
            self.begin(record, None)?;
        }
    }

    /// Says that the publisher is there although there is nothing new: to be called when a third of
    /// [`PublisherOptions::expires`] has gone by since the last version (F26).
    ///
    /// # Errors
    /// [`Error::Store`], which is no failure of any version.
    pub async fn refresh(&mut self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let (head, time) = (log.head(), self.feed.world.now());
        let expires = u64::try_from(self.options.expires.as_millis()).unwrap_or(u64::MAX);
        let expires = time.saturating_add(expires).min(INTEGER_MAX);
        let (version, record) = (head.record.version, head.digest);
        let latest = Latest { version, record, time, expires };
        // Signed as the next record will be: the key before may be gone.
        let bytes = latest.seal(self.manifest.run, self.options.key.as_ref());
        self.feed.store.overwrite(name::LATEST, bytes).await
    }

    /// Makes the data of the next version and puts it; gives back the record that makes it one.
    async fn make(
        &mut self,
        source: &mut dyn Source,
        step: Option<u64>,
    ) -> Result<(Published, Record)> {
        self.check_turn()?;
        if let Some(step) = step.filter(|step| *step > INTEGER_MAX) {
            return Err(Error::Misuse(format!(
                "step {step} is above 2^53, where numbers end (F2)"
            )));
        }
        let started = tokio::time::Instant::now();
        let mut published = Published {
            record: self.blank(),
            report: None,
            bytes: 0,
            seconds: (0.0, 0.0),
            warnings: Vec::new(),
        };
        let head = self.head().map(|head| head.target);
        if let (Some(found), false) = (source.base(), source.has_weights()) {
            let version = self.next_version().saturating_sub(1);
            if let Some(expected) = head.filter(|head| *head != found) {
                return Err(Error::Base { version, expected, found });
            }
        }
        let mut record = None;
        if head.is_some() && head == source.base() {
            record = self.make_patch(source, step, &mut published).await?;
        }
        let record = match record {
            Some(record) => record,
            None => self.make_anchor(source, step, &mut published).await?,
        };
        published.seconds.0 = started.elapsed().as_secs_f64();
        published.record = record.clone();
        Ok((published, record))
    }

    /// Puts the patch from the head to the version; `None` if readers of the head do not find what leads to
    /// it, so that a patch would be of no use to them (F22).
    async fn make_patch(
        &mut self,
        source: &mut dyn Source,
        step: Option<u64>,
        published: &mut Published,
    ) -> Result<Option<Record>> {
        let (version, head) = (self.next_version(), self.head().map(|head| head.target));
        // Asked while the patch is being made.
        let is_there = self.ask_for_data().await?;
        let store = self.feed.store.clone();
        let object = name::data(version, nonce(self.feed.world.as_ref()));
        let mut upload = Upload::new(&store, object, source.largest());
        let options = self.options.encoder.clone().with_run(self.manifest.run.0);
        let progress = Arc::clone(&self.options.progress);
        let control = Control::threads(self.options.threads).with_progress(&*progress);
        let made = match in_place(|| source.diff(&mut upload, options, control)) {
            Ok(made) => made,
            Err(error) => return Err(upload.cause(error).await),
        };
        let (base, target) = (made.base, made.target);
        if base != head {
            upload.abort().await;
            let (expected, found) = (head.unwrap_or_default(), base.unwrap_or_default());
            return Err(Error::Base { version: version.saturating_sub(1), expected, found });
        }
        if !is_there.await.unwrap_or(Ok(false))? {
            upload.abort().await;
            return Ok(None);
        }
        published.warnings.extend(made.report.as_ref().and_then(other_tensors));
        published.report = made.report;
        if base == Some(target) {
            upload.abort().await;
            return Ok(Some(self.next_record(target, step, None, None).await?));
        }
        let data = upload.finish().await?;
        published.bytes = data.bytes;
        Ok(Some(self.next_record(target, step, Some(data), None).await?))
    }

    async fn make_anchor(
        &mut self,
        source: &mut dyn Source,
        step: Option<u64>,
        published: &mut Published,
    ) -> Result<Record> {
        let version = self.next_version();
        let object = name::data(version, nonce(self.feed.world.as_ref()));
        let (target, data) = self.snapshot(source, false, object).await?;
        published.bytes = data.bytes;
        self.next_record(target, step, None, Some(Anchor { version, target, data })).await
    }

    /// Puts an anchor.
    async fn snapshot(
        &self,
        source: &mut dyn Source,
        is_published: bool,
        object: String,
    ) -> Result<(Digest, Data)> {
        let mut upload = Upload::new(&self.feed.store, object, source.largest());
        let options = self.options.encoder.clone().with_run(self.manifest.run.0);
        let progress = Arc::clone(&self.options.progress);
        let control = Control::threads(self.options.threads).with_progress(&*progress);
        match in_place(|| source.snapshot(is_published, &mut upload, options, control)) {
            Ok(target) => Ok((target, upload.finish().await?)),
            Err(error) => Err(upload.cause(error).await),
        }
    }

    /// Asks whether readers of the newest version find the data that led to it.
    async fn ask_for_data(&mut self) -> Result<JoinHandle<Result<bool>>> {
        let mut led = None;
        if let Some(log) = &mut self.log {
            let head = log.head().clone();
            let (mut at, newest) = (head.clone(), &head.record.anchor);
            // What changes nothing, and has no anchor, is reached by what came before.
            while at.record.patch.is_none() && at.record.version != newest.version {
                let Some(before) = at.record.version.checked_sub(1) else { break };
                at = log.record(before).await?;
            }
            let own = Some(&newest.data).filter(|_| at.record.version == newest.version);
            led = at.record.patch.as_ref().or(own).cloned();
        }
        let store = self.feed.store.clone();
        Ok(tokio::spawn(async move {
            let Some(data) = led else { return Ok(false) };
            let found = store.head(&data.object).await?;
            Ok(found.is_some_and(|found| found.bytes == data.bytes))
        }))
    }

    pub(super) fn next_version(&self) -> u64 {
        self.head().map_or(0, |head| head.version + 1)
    }

    /// A record of nothing yet.
    fn blank(&self) -> Record {
        let data = Data { object: String::new(), sha256: Digest::default(), bytes: 0 };
        let anchor = Anchor { version: 0, target: Digest::default(), data };
        Record {
            run: self.manifest.run,
            version: self.next_version(),
            epoch: self.epoch,
            writer: self.writer,
            links: None,
            target: Digest::default(),
            step: None,
            time: self.feed.world.now(),
            patch: None,
            anchor,
            rekeyed: None,
            new_key: None,
            ended: false,
        }
    }

    /// Whether this writer may append to the head: not if the head is of a writer that has taken over,
    /// although both put the same version (F20, F25), and not with a key that is not in force any more (F16).
    /// Readers would refuse its record, and with it all that follow.
    fn check_turn(&mut self) -> Result<()> {
        let Some(head) = self.head() else { return Ok(()) };
        let (version, other, other_epoch) = (head.version, head.writer, head.epoch);
        if head.ended {
            return Err(Error::Ended { version });
        }
        if other_epoch > self.epoch {
            self.fenced = true;
            let (writer, epoch) = (self.writer, self.epoch);
            return Err(Error::Fenced { version, writer, epoch, other, other_epoch });
        }
        let in_force = self.log.as_ref().and_then(|log| log.key_at(version + 1));
        let trusted = self.options.key.as_ref().map(SecretKey::public);
        match (in_force, trusted) {
            (Some(found), Some(trusted)) if found != trusted => {
                Err(Error::document(name::FEED, DocumentFault::Untrusted { trusted, found }))
            }
            _ => Ok(()),
        }
    }

    async fn next_record(
        &mut self,
        target: Digest,
        step: Option<u64>,
        patch: Option<Data>,
        own: Option<Anchor>,
    ) -> Result<Record> {
        self.check_turn()?;
        let blank = self.blank();
        let version = blank.version;
        let back = match &mut self.log {
            Some(log) => Some(log.record(back(version)).await?.digest),
            None => None,
        };
        let head = self.log.as_ref().map(|log| (&log.head().record, log.head().digest));
        let newest = head.map(|(head, _)| head.anchor.clone());
        // One that was made meanwhile, if no other writer has recorded a newer one.
        let made = self
            .anchor
            .clone()
            .filter(|made| newest.as_ref().is_none_or(|newest| newest.version < made.version));
        let Some(anchor) = own.or(made).or(newest) else {
            return Err(Error::Misuse("the first version of a feed needs an anchor".into()));
        };
        let links = match head {
            None => None,
            Some((head, digest)) => {
                let back = back.unwrap_or(digest);
                Some(Links { previous: digest, back, base: head.target })
            }
        };
        let new_key = self.new_key.as_ref().map(SecretKey::public).filter(|_| version > 0);
        let rekeyed = match new_key {
            Some(_) => Some(version),
            None => head.and_then(|(head, _)| head.rekeyed),
        };
        Ok(Record { links, target, step, patch, anchor, rekeyed, new_key, ..blank })
    }

    /// Goes on after a record that is there.
    fn take(&mut self, settled: Settled) -> Result<()> {
        let (Settled::Done(sealed) | Settled::Overtaken(sealed)) = settled;
        if sealed.record.anchor.version >= self.anchor.as_ref().map_or(0, |made| made.version) {
            self.anchor = None;
        }
        let handed_over = sealed.record.new_key;
        match &mut self.log {
            Some(log) => log.accept(sealed.into())?,
            None => {
                self.log = Some(Log::begin(&self.feed.store, self.manifest, sealed)?);
            }
        }
        if handed_over.is_some() && handed_over == self.new_key.as_ref().map(SecretKey::public) {
            self.options.key = self.new_key.take();
        }
        Ok(())
    }

    /// What is due when a version is there: hints, and an anchor now and then.
    async fn follow_up(
        &mut self,
        mut published: Published,
        put: f64,
        source: &mut dyn Source,
    ) -> Result<Published> {
        published.seconds.1 = put;
        if let Some(head) = self.head() {
            published.record = head.clone();
        }
        if let Err(error) = self.refresh().await {
            published.warnings.push(format!("the hint of the newest version was not put: {error}"));
        }
        let newest = published.record.anchor.version;
        let newest = self.anchor.as_ref().map_or(newest, |made| made.version.max(newest));
        let gone_by = published.record.version - newest;
        let is_due = self.options.anchor_every > 0 && gone_by >= self.options.anchor_every;
        if is_due && source.has_weights() {
            if let Err(error) = self.put_anchor(source, published.record.target).await {
                published.warnings.push(format!("an anchor was due, and was not put: {error}"));
            }
        }
        Ok(published)
    }

    /// Makes an anchor of the newest version, which the next record names; until then it is a by-product.
    async fn put_anchor(&mut self, source: &mut dyn Source, target: Digest) -> Result<()> {
        let version = self.next_version().saturating_sub(1);
        let object = name::data(version, nonce(self.feed.world.as_ref()));
        let (found, data) = self.snapshot(source, true, object).await?;
        if found != target {
            return Err(Error::Wrong { version, expected: target, found });
        }
        self.anchor = Some(Anchor { version, target, data: data.clone() });
        let made = ByProduct { from: None, to: version, target, data };
        keep::announce(&self.feed, self.manifest.run, &[made]).await
    }
}
