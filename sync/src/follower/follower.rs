//! The side of those who run the model: finds the newest version, fetches what leads to it, and says what to
//! apply (FEED.md §7).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pulse::dtype::TensorSpec;
use pulse::hash::Digest;
use pulse::tensors::{Control, PrepareOptions, TensorSource};
use tokio::time::Instant;

use super::{Event, FollowerOptions, Update};
use crate::document::{DOCUMENT_BYTES, HINTS_BYTES};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::fetch::{Beside, Fetch, Fetched};
use crate::hint::{ByProduct, Hints};
use crate::key::PublicKey;
use crate::log::{Log, Mark};
use crate::name;
use crate::record::{Data, Record, Sealed};
use crate::retry::{jittered, Backoff};
use crate::way::{Map, Part, Way};
use crate::work::in_place;

/// Versions that are looked at one by one behind the one that is wanted.
const SECTION_MAX: u64 = 1_024;
/// By-products that are looked at for one way.
const BY_PRODUCTS_MAX: usize = 64;
/// How often the hint of the newest version is looked at, for its age.
const LATEST_EVERY: Duration = Duration::from_secs(60);
/// Clocks may differ by this much.
const CLOCK_SKEW: u64 = 5 * 60 * 1000;

/// Follows a feed: gives one update after the other to whoever holds the weights.
///
/// What is served is the caller's: it applies an [`Update`], says so by [`served`](Self::served) with the
/// digest of what it made, or by [`failed`](Self::failed), and asks for the next. The
/// [`mark`](Self::mark) is to be kept where a restart finds it.
///
/// ```
/// # use pulse::dtype::{Dtype, TensorSpec};
/// # use pulse::tensors::{Shadow, TensorRef, Weights};
/// use pulse::tensors::{Control, PrepareOptions, TensorMut, WeightsMut};
/// use pulse_sync::{Feed, Follower, FollowerOptions};
/// # use pulse_sync::{Publisher, PublisherOptions};
/// # let dir = tempfile::tempdir().unwrap();
/// # let address = dir.path().to_str().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// # let weights = |bytes| -> pulse::Result<Weights<'_>> {
/// #     Ok([("w", TensorRef::new(spec.clone(), bytes)?)].into_iter().collect())
/// # };
/// # let feed = Feed::open(address)?;
/// # let mut publisher = Publisher::start(&feed, PublisherOptions::default()).await?;
/// # let mut shadow = Shadow::new(&weights(b"abc")?, Control::default())?;
/// # publisher.publish(&mut shadow, &weights(b"abc")?, None).await?;
/// let mut follower = Follower::open(&Feed::open(address)?, None, FollowerOptions::default()).await?;
/// // At first: all of it, into memory.
/// let update = follower.next(None).await?;
/// let mut tensors = update.chain()?.to_memory(Control::default())?;
/// follower.served(&update, update.record.target)?;
/// # publisher.publish(&mut shadow, &weights(b"abd")?, None).await?;
/// // Then, for ever: what changed, made beside the weights that are served …
/// let mut held: WeightsMut = (tensors.iter_mut())
///     .map(|(name, (spec, bytes))| Ok((name, TensorMut::new(spec.clone(), bytes)?)))
///     .collect::<pulse::Result<_>>()?;
/// let (digest, options, control) =
///     (update.record.target, PrepareOptions::default(), Control::default());
/// let update = follower.next_beside(&held, digest, options, control).await?;
/// let prepared = update.prepare(&held, options, control)?;
/// // … and switched to in an instant.
/// let report = prepared.commit(&mut held, control)?;
/// follower.served(&update, report.target)?;
/// # assert_eq!(tensors["w"].1, b"abd");
/// # Ok::<(), pulse_sync::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Follower {
    feed: Feed,
    options: FollowerOptions,
    log: Option<Log>,
    /// The key that the feed begins with.
    first_key: Option<PublicKey>,
    mark: Option<Mark>,
    /// Objects and digests of by-products that are not used again (F31).
    barred_names: HashSet<String>,
    barred_digests: HashSet<Digest>,
    /// Recorded data that failed once, and that which failed again.
    suspects: HashSet<String>,
    barred_records: HashSet<String>,
    /// When the head was found to be the newest.
    head_since: Instant,
    /// When the hint of the newest version was looked at.
    latest_seen: Option<Instant>,
}

impl Follower {
    /// Begins to follow a feed, from the mark on if this reader has one.
    ///
    /// # Errors
    /// [`Error::NoFeed`]; [`Error::Document`] of another run or key; [`Error::RolledBack`] and
    /// [`Error::Forked`] if the feed does not lead back to the mark; [`Error::Chain`]; [`Error::Store`].
    pub async fn open(feed: &Feed, mark: Option<Mark>, options: FollowerOptions) -> Result<Self> {
        let mut follower = Follower {
            feed: feed.clone(),
            options,
            log: None,
            first_key: None,
            mark,
            barred_names: HashSet::new(),
            barred_digests: HashSet::new(),
            suspects: HashSet::new(),
            barred_records: HashSet::new(),
            head_since: Instant::now(),
            latest_seen: None,
        };
        follower.log = follower.open_log().await?;
        Ok(follower)
    }

    async fn open_log(&mut self) -> Result<Option<Log>> {
        let manifest = self.feed.existing().await?;
        self.first_key = manifest.key;
        Log::open(&self.feed.store, manifest, self.options.trust, self.mark.as_ref()).await
    }

    /// What was served last: to be kept, and given to [`open`](Self::open) after a restart.
    #[must_use]
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// The newest version that is known.
    #[must_use]
    pub fn head(&self) -> Option<&Record> {
        self.log.as_ref().map(|log| &log.head().record)
    }

    /// The key that signs the feed now; `None` if it is unsigned, and as trustworthy as its store.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        match &self.log {
            Some(log) => log.key_at(log.head().record.version + 1),
            None => self.first_key,
        }
    }

    fn tell(&self, event: &Event<'_>) {
        (self.options.told)(event);
    }

    /// Waits for a newer version than the one with the digest that is `held`, and fetches what leads there.
    ///
    /// What passes by itself is waited for: a store that fails, a hint or record that does not parse, data that is
    /// missing. [`Event::Refused`] tells of it. To drop the call is to lose nothing.
    ///
    /// # Errors
    /// What does not pass: [`Error::Chain`], [`Error::Document`] of another run or key,
    /// [`Error::Ended`] when the last version is held, [`Error::Io`].
    pub async fn next(&mut self, held: Option<Digest>) -> Result<Update> {
        self.next_with(held, None).await
    }

    /// As [`next`](Self::next), for weights in memory that have the digest `held`: they are read, and the
    /// version is prepared beside them while its data arrives. [`Update::prepare`] finishes that.
    ///
    /// From the first byte of a version on the weights have to stay as they are until the commit, as they
    /// have from [`prepare`](pulse::Patch::prepare) on. The work counts as time in which data arrives.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_beside(
        &mut self,
        weights: &dyn TensorSource,
        held: Digest,
        options: PrepareOptions,
        control: Control<'_>,
    ) -> Result<Update> {
        self.next_with(Some(held), Some(Beside { weights, options, control })).await
    }

    async fn next_with(
        &mut self,
        held: Option<Digest>,
        beside: Option<Beside<'_>>,
    ) -> Result<Update> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let error = match self.look_with(held, beside).await {
                Ok(Some(update)) => return Ok(update),
                Ok(None) => {
                    let pause = self.pause();
                    let head = self.head().map(|head| head.version);
                    self.tell(&Event::Waiting { head, pause });
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            };
            let pause = backoff.pause(self.feed.world.as_ref());
            self.tell(&Event::Refused { error: &error, pause });
            tokio::time::sleep(pause).await;
        }
    }

    /// As [`next`](Self::next), but says `None` where that would wait for a newer version.
    ///
    /// # Errors
    /// As [`next`](Self::next), and what it waits for.
    pub async fn look(&mut self, held: Option<Digest>) -> Result<Option<Update>> {
        self.look_with(held, None).await
    }

    /// As [`next_beside`](Self::next_beside), but says `None` where that would wait for a newer version.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub async fn look_beside(
        &mut self,
        weights: &dyn TensorSource,
        held: Digest,
        options: PrepareOptions,
        control: Control<'_>,
    ) -> Result<Option<Update>> {
        self.look_with(Some(held), Some(Beside { weights, options, control })).await
    }

    async fn look_with(
        &mut self,
        held: Option<Digest>,
        beside: Option<Beside<'_>>,
    ) -> Result<Option<Update>> {
        self.advance().await?;
        let Some(log) = &mut self.log else { return Ok(None) };
        let head = log.head().record.version;
        let wanted = match self.options.at {
            Some(at) if at > head => return Ok(None),
            Some(at) => at,
            None => head,
        };
        let target = log.record(wanted).await?;
        if Some(target.record.target) == held {
            // It is served already, perhaps under an older number.
            if self.mark.is_none_or(|mark| mark.version <= wanted) {
                self.mark = Some(log.mark(&target));
            }
            self.tell(&Event::Held { record: &target.record });
            if target.record.ended {
                return Err(Error::Ended { version: wanted });
            }
            return Ok(None);
        }
        self.fetch(held, wanted, beside).await
    }

    /// Looks for newer records.
    async fn advance(&mut self) -> Result<()> {
        match &mut self.log {
            Some(log) => {
                if log.advance().await? {
                    self.head_since = Instant::now();
                }
            }
            None => self.log = self.open_log().await?,
        }
        self.check_freshness().await;
        Ok(())
    }

    /// How long to wait for the next version: a share of the time that the newest one took, so that who
    /// waits long asks seldom.
    fn pause(&self) -> Duration {
        let age = self.head_since.elapsed() / 64;
        let pause = age.clamp(self.options.poll, self.options.poll_max.max(self.options.poll));
        jittered(pause, self.feed.world.as_ref())
    }

    /// Tells if the hint of the newest version is older than promised (F34). What is wrong with it is no
    /// reason to do anything else.
    async fn check_freshness(&mut self) {
        let due = self.latest_seen.is_none_or(|seen| seen.elapsed() >= LATEST_EVERY);
        let Some(log) = self.log.as_ref().filter(|_| due) else { return };
        let latest = log.latest().await;
        let is_over = log.head().record.ended;
        self.latest_seen = Some(Instant::now());
        let now = self.feed.world.now();
        if let Ok(Some(latest)) = latest {
            let (time, expires) = (latest.time, latest.expires);
            // After the last version nothing more was promised.
            let is_late = expires < now && !is_over;
            if is_late || time > now.saturating_add(CLOCK_SKEW) {
                self.tell(&Event::Expired { time, expires, now });
            } else {
                self.tell(&Event::Fresh);
            }
        }
    }

    /// The newest version whose target is held, if one is that can be looked at.
    async fn version_of(&mut self, held: Option<Digest>, wanted: u64) -> Result<Option<u64>> {
        let (Some(held), Some(log)) = (held, &mut self.log) else { return Ok(None) };
        if let Some(mark) = self.mark.filter(|mark| mark.version <= wanted) {
            // Between the mark and what is wanted there is nothing that was served.
            let sealed = log.record(mark.version).await?;
            if sealed.record.target == held {
                return Ok(Some(mark.version));
            }
        }
        let section = log.section(wanted.saturating_sub(SECTION_MAX), wanted).await?;
        let same = section.iter().rev().find(|sealed| sealed.record.target == held);
        Ok(same.map(|sealed| sealed.record.version))
    }

    /// The cheapest way from what is held to the newest version, or the one wanted, without fetching it.
    ///
    /// # Errors
    /// [`Error::Lost`] if there is none, and those of [`look`](Self::look).
    pub async fn plan(&mut self, held: Option<Digest>) -> Result<Way> {
        self.advance().await?;
        let head = self.head().map(|head| head.version);
        let wanted = self
            .options
            .at
            .or(head)
            .ok_or_else(|| Error::Lost { wanted: 0, why: "the feed has no version yet".into() })?;
        Ok(self.find_way(held, wanted, &HashSet::new()).await?.1)
    }

    /// Whether data failed before (F31).
    fn is_barred(&self, data: &Data, is_recorded: bool) -> bool {
        if is_recorded {
            // What a record names is not barred for what others say of it.
            return self.barred_records.contains(&data.object);
        }
        self.barred_names.contains(&data.object) || self.barred_digests.contains(&data.sha256)
    }

    /// The version that a way leads to, the way, and the records along it, without objects that are absent.
    async fn find_way(
        &mut self,
        held: Option<Digest>,
        wanted: u64,
        absent: &HashSet<String>,
    ) -> Result<(Arc<Sealed>, Way, Vec<Arc<Sealed>>)> {
        let from = self.version_of(held, wanted).await?;
        let far = wanted.saturating_sub(SECTION_MAX);
        let mut start = self.start(from, wanted).await?.max(far);
        loop {
            let section = self.section(start, wanted).await?;
            let by_products = self.by_products(&section).await;
            let is_barred = |data: &Data, is_recorded: bool| {
                absent.contains(&data.object) || self.is_barred(data, is_recorded)
            };
            let mut map = Map::new(&section, &is_barred);
            by_products.iter().for_each(|made| map.add_by_product(made));
            let mut found = map.way(from, wanted).map(|way| (wanted, way));
            if found.is_none() && start > far {
                // The anchor before the one that is of no use.
                start = self.start(None, start - 1).await?.max(far);
                continue;
            }
            if found.is_none() && self.options.at.is_none() {
                // What is wanted cannot be reached: the newest that can (F32).
                let least = from.map_or(0, |from| from + 1);
                let least = least.max(self.mark.map_or(0, |mark| mark.version));
                let newest = map.newest(from, wanted);
                found = newest.filter(|(version, way)| *version >= least && !way.parts.is_empty());
            }
            let Some((version, way)) = found else {
                // What failed may have been mended by the time of the next look.
                self.suspects.clear();
                self.barred_records.clear();
                let why = "no patch, skip or anchor that leads there is to be had".into();
                return Err(Error::Lost { wanted, why });
            };
            return self.found(version, way, section);
        }
    }

    fn found(
        &self,
        version: u64,
        way: Way,
        section: Vec<Arc<Sealed>>,
    ) -> Result<(Arc<Sealed>, Way, Vec<Arc<Sealed>>)> {
        let sealed = section.iter().find(|sealed| sealed.record.version == version);
        let Some(sealed) = sealed.cloned() else {
            return Err(Error::Misuse(format!("version {version} is not in its section")));
        };
        Ok((sealed, way, section))
    }

    async fn fetch(
        &mut self,
        held: Option<Digest>,
        wanted: u64,
        beside: Option<Beside<'_>>,
    ) -> Result<Option<Update>> {
        let started = Instant::now();
        // What is absent was pruned: no failure, but another way (F32). The next look asks for it again.
        let mut absent = HashSet::new();
        let (sealed, way, fetched) = loop {
            let (sealed, way, section) = self.find_way(held, wanted, &absent).await?;
            self.tell(&Event::Planned { version: sealed.record.version, way: &way });
            match self.fetch_all(&way, &section, beside).await? {
                Ok(fetched) => break (sealed, way, fetched),
                Err(object) => absent.insert(object),
            };
        };
        let seconds = started.elapsed().as_secs_f64();
        Ok(Some(Update::new(sealed, way, seconds, fetched)))
    }

    /// The parts of a way, or the name of an object that is absent.
    async fn fetch_all(
        &mut self,
        way: &Way,
        section: &[Arc<Sealed>],
        beside: Option<Beside<'_>>,
    ) -> Result<Result<Vec<Fetched>, String>> {
        // Several patches are applied at once, when the last of them is there.
        let beside = beside.filter(|_| way.parts.len() == 1);
        let mut files = Vec::new();
        for part in &way.parts {
            match self.part(part, section, beside).await {
                Ok(Some(fetched)) => files.push(fetched),
                Ok(None) => return Ok(Err(part.data.object.clone())),
                Err(error) => {
                    if matches!(error, Error::Data { .. }) {
                        self.bar(part);
                    }
                    return Err(error);
                }
            }
        }
        Ok(Ok(files))
    }

    /// Where the records begin that may be on the way: at what is held, or the newest anchor if that is
    /// older.
    async fn start(&mut self, from: Option<u64>, wanted: u64) -> Result<u64> {
        let Some(log) = &mut self.log else { return Ok(wanted) };
        let anchor = log.record(wanted).await?.record.anchor.version;
        Ok(from.map_or(anchor, |from| from.min(anchor)))
    }

    async fn section(&mut self, start: u64, wanted: u64) -> Result<Vec<Arc<Sealed>>> {
        match &mut self.log {
            Some(log) => log.section(start, wanted).await,
            None => Ok(Vec::new()),
        }
    }

    /// Skips and anchors that start and end in this section, as far as hints tell of them.
    async fn by_products(&self, section: &[Arc<Sealed>]) -> Vec<ByProduct> {
        let Some((first, last, run)) = section
            .first()
            .zip(section.last())
            .map(|(first, last)| (first.record.version, last.record.version, last.record.run))
        else {
            return Vec::new();
        };
        if last - first < 2 {
            return Vec::new();
        }
        let store = &self.feed.store;
        let Ok(Some(bytes)) = store.document(name::HINTS, HINTS_BYTES).await else {
            return Vec::new();
        };
        let Ok(hints) = Hints::parse(&bytes, run) else { return Vec::new() };
        let names = hints.anchors.iter().chain(&hints.skips).rev();
        let near = |name: &&String| {
            let to = name::version_of(name).is_some_and(|to| (first..=last).contains(&to));
            to && name::start_of(name).is_none_or(|from| from >= first)
        };
        let reads = names.filter(near).take(BY_PRODUCTS_MAX).map(|name| async move {
            let bytes = store.document(name, DOCUMENT_BYTES).await.ok().flatten()?;
            ByProduct::parse(name, &bytes, run).ok()
        });
        futures::future::join_all(reads).await.into_iter().flatten().collect()
    }

    /// The data of a part; `None` if it is absent.
    async fn part(
        &self,
        part: &Part,
        section: &[Arc<Sealed>],
        beside: Option<Beside<'_>>,
    ) -> Result<Option<Fetched>> {
        let told = Arc::clone(&self.options.told);
        let fetch = Fetch {
            store: &self.feed.store,
            world: self.feed.world.as_ref(),
            spool: self.options.spool.as_ref(),
            limits: self.options.limits.clone(),
            beside,
            arrived: &move |bytes| told(&Event::Arrived { bytes }),
        };
        let fetched = fetch.patch(&part.data).await.map_err(|error| match error {
            // What nobody vouches for is no reason to stop, only not to be used (F9).
            Error::Pulse(error @ pulse::Error::Limit { .. }) if !part.is_recorded => {
                Error::data(&part.data.object, error.to_string())
            }
            error => error,
        });
        let Some(fetched) = fetched? else { return Ok(None) };
        // What it leads from and to is what records say, not what it is called (F29).
        let footer = fetched.patch.footer();
        let target = |version: u64| {
            let sealed = section.iter().find(|sealed| sealed.record.version == version);
            sealed.map(|sealed| sealed.record.target)
        };
        let base = part.from.and_then(target);
        if footer.base != base || footer.target != part.target {
            let name =
                |digest: Option<Digest>| digest.map_or("nothing".into(), |it| it.to_string());
            let what = format!(
                "it leads from {} to {}, but was to lead from {} to {}",
                name(footer.base),
                footer.target,
                name(base),
                part.target
            );
            return Err(Error::data(&part.data.object, what));
        }
        Ok(Some(fetched))
    }

    fn bar(&mut self, part: &Part) {
        let object = part.data.object.clone();
        if !part.is_recorded {
            self.barred_names.insert(object);
            self.barred_digests.insert(part.data.sha256);
        } else if !self.suspects.insert(object.clone()) {
            // It was tried once more: the store or the way there may have been at fault.
            self.barred_records.insert(object);
        }
    }

    /// To be called when the version of an update is served: `made` is the digest that was recomputed from
    /// the weights, as all calls that apply patches report it.
    ///
    /// # Errors
    /// [`Error::Wrong`] if it is not that of the version; the parts are then not used again.
    pub fn served(&mut self, update: &Update, made: Digest) -> Result<()> {
        let (version, expected) = (update.record.version, update.record.target);
        if made != expected {
            self.failed(update);
            return Err(Error::Wrong { version, expected, found: made });
        }
        // A version that was asked for by number may be older than what was served (F28).
        let is_newer = self.mark.is_none_or(|mark| mark.version <= version);
        if let Some(log) = self.log.as_ref().filter(|_| is_newer) {
            self.mark = Some(log.mark(&update.sealed));
        }
        Ok(())
    }

    /// To be called when an update could not be applied, although the weights are those that it starts from:
    /// another way is taken next (F31).
    pub fn failed(&mut self, update: &Update) {
        let by_products = update.way.parts.iter().any(|part| !part.is_recorded);
        for part in &update.way.parts {
            if !by_products || !part.is_recorded {
                self.bar(part);
            }
        }
    }

    /// Fetches the newest version, or the one wanted, from nothing, into memory: name, dtype and shape, bytes.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn to_memory(
        &mut self,
        control: Control<'_>,
    ) -> Result<(Record, BTreeMap<String, (TensorSpec, Vec<u8>)>)> {
        loop {
            let update = self.next(None).await?;
            match in_place(|| update.chain().and_then(|chain| Ok(chain.to_memory(control)?))) {
                Ok(tensors) => {
                    self.served(&update, update.record.target)?;
                    return Ok((update.record, tensors));
                }
                Err(error @ Error::Pulse(pulse::Error::Cancelled)) => return Err(error),
                Err(error) => {
                    self.failed(&update);
                    let pause = self.options.poll;
                    self.tell(&Event::Refused { error: &error, pause });
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
