//! What is in a feed, at a glance or byte by byte.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pulse::hash::Digest;

use crate::document::DOCUMENT_BYTES;
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::fetch::Fetch;
use crate::follower::{Follower, FollowerOptions};
use crate::hint::{parse_floor, ByProduct, Latest};
use crate::keep::{hints, open_log};
use crate::key::PublicKey;
use crate::name;
use crate::record::{Data, Record};

/// Versions over which rate and sizes are measured.
const RECENT: u64 = 64;
/// Records that are looked at together.
const SECTION: u64 = 512;

/// A feed at a glance.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The newest version.
    pub head: Record,
    /// The key that signs; `None` if the feed is unsigned.
    pub key: Option<PublicKey>,
    /// The hint of the newest version, if there is one that can be read.
    pub latest: Option<Latest>,
    /// This machine's time, to compare the times of records with.
    pub now: u64,
    /// The floor, if something was pruned.
    pub floor: Option<u64>,
    /// Names of the by-products that hints tell of.
    pub skips: u64,
    /// The same of anchors that no record names yet.
    pub anchors: u64,
    /// Of the newest versions: how many, milliseconds from the first to the last, and bytes of patches.
    pub recent: Recent,
    /// Parts and bytes that one who joins now would fetch; `None` if nothing leads to the newest version.
    pub join: Option<(u64, u64)>,
}

/// The newest versions together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recent {
    /// Versions that changed something.
    pub versions: u64,
    /// Milliseconds from the record before them to the last.
    pub milliseconds: u64,
    /// Bytes of their patches.
    pub bytes: u64,
}

/// Looks at a feed.
///
/// # Errors
/// What a [`Follower`] refuses.
pub async fn status(feed: &Feed, trust: Option<PublicKey>) -> Result<Status> {
    let mut log = open_log(feed, trust).await?;
    let head = log.head().record.clone();
    let known = hints(feed, head.run).await;
    let floor = feed.store.document(name::FLOOR, DOCUMENT_BYTES).await.ok().flatten();
    let section = log.section(head.version.saturating_sub(RECENT), head.version).await?;
    let mut recent = Recent::default();
    for sealed in &section[1..] {
        recent.versions += u64::from(sealed.record.is_change());
        recent.bytes += sealed.record.patch.as_ref().map_or(0, |data| data.bytes);
    }
    recent.milliseconds = head.time.saturating_sub(section[0].record.time);
    let mut options = FollowerOptions::default();
    options.trust = trust;
    let join = Follower::open(feed, None, options).await?.plan(None).await;
    Ok(Status {
        key: log.key_at(head.version + 1),
        latest: log.latest().await.ok().flatten(),
        now: feed.world.now(),
        floor: floor.and_then(|bytes| parse_floor(&bytes, head.run).ok()),
        skips: known.skips.len() as u64,
        anchors: known.anchors.len() as u64,
        recent,
        join: join.ok().map(|way| (way.parts.len() as u64, way.bytes())),
        head,
    })
}

/// The records of versions, both included; those of the newest `count` if no versions are given.
///
/// # Errors
/// What a [`Follower`] refuses.
pub async fn records(
    feed: &Feed,
    trust: Option<PublicKey>,
    from: u64,
    to: Option<u64>,
) -> Result<Vec<Record>> {
    let mut log = open_log(feed, trust).await?;
    let head = log.head().record.version;
    let to = to.map_or(head, |to| to.min(head));
    let mut found = Vec::new();
    let mut at = from;
    while at <= to {
        let section = log.section(at, to.min(at + SECTION - 1)).await?;
        at += section.len() as u64;
        found.extend(section.iter().map(|sealed| sealed.record.clone()));
    }
    Ok(found)
}

/// What a whole feed was found to be.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Audit {
    /// Records, each of which follows the one before it.
    pub records: u64,
    /// Objects with data that are what records or by-products say.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
    /// Objects that are pruned: below the floor.
    pub pruned: u64,
    /// What is wrong.
    pub problems: Vec<Error>,
}

/// Reads a whole feed and compares every byte with what records say: the chain of records, signatures,
/// size and SHA-256 of all data, and that each patch is whole and leads from where to where it should. No
/// weights are made.
///
/// # Errors
/// What stands in the way of looking further: [`Error::Store`], or a log that does not follow itself.
pub async fn verify(
    feed: &Feed,
    trust: Option<PublicKey>,
    spool: Option<PathBuf>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Audit> {
    let mut log = open_log(feed, trust).await?;
    let head = log.head().record.clone();
    let floor = feed.store.document(name::FLOOR, DOCUMENT_BYTES).await?;
    let floor = floor.and_then(|bytes| parse_floor(&bytes, head.run).ok()).unwrap_or(0);
    // It excuses nothing that a pruner leaves.
    let floor = floor.min(head.anchor.version);
    let mut audit = Audit::default();
    let mut seen = BTreeSet::new();
    let mut auditor = Auditor { feed, spool, floor, seen: BTreeSet::new(), audit: &mut audit };
    let mut targets = Vec::new();
    let mut at = 0;
    while at <= head.version {
        let section = log.section(at, head.version.min(at + SECTION - 1)).await?;
        for sealed in &section {
            let record = &sealed.record;
            auditor.audit.records += 1;
            targets.push(record.target);
            let base = record.links.map(|links| links.base);
            if let Some(patch) = &record.patch {
                auditor.check(record.version, patch, base, record.target).await?;
            }
            let anchor = &record.anchor;
            if seen.insert(anchor.version) {
                auditor.check(anchor.version, &anchor.data, None, anchor.target).await?;
            }
            progress(record.version, head.version);
        }
        at += section.len() as u64;
    }
    let known = hints(feed, head.run).await;
    for name in known.anchors.iter().chain(&known.skips) {
        let bytes = feed.store.document(name, DOCUMENT_BYTES).await?;
        let Some(bytes) = bytes else {
            auditor.missing(name, name::version_of(name).unwrap_or(0));
            continue;
        };
        match ByProduct::parse(name, &bytes, head.run) {
            Err(error) => auditor.audit.problems.push(error),
            Ok(made) => {
                let target =
                    |version: u64| usize::try_from(version).ok().and_then(|at| targets.get(at));
                let base = made.from.map(|(_, base)| base);
                let is_right = target(made.to) == Some(&made.target)
                    && made.from.is_none_or(|(from, base)| target(from) == Some(&base));
                if is_right {
                    auditor.check(made.to, &made.data, base, made.target).await?;
                } else {
                    let what = "it starts or ends elsewhere than records say";
                    auditor.audit.problems.push(Error::data(name, what));
                }
            }
        }
    }
    Ok(audit)
}

struct Auditor<'a> {
    feed: &'a Feed,
    spool: Option<PathBuf>,
    floor: u64,
    /// Objects that were looked at: a by-product may be recorded later.
    seen: BTreeSet<String>,
    audit: &'a mut Audit,
}

impl Auditor<'_> {
    fn missing(&mut self, name: &str, version: u64) {
        if version < self.floor {
            self.audit.pruned += 1;
        } else {
            self.audit.problems.push(Error::data(name, "it is not there"));
        }
    }

    async fn check(
        &mut self,
        version: u64,
        data: &Data,
        base: Option<Digest>,
        target: Digest,
    ) -> Result<()> {
        if !self.seen.insert(data.object.clone()) {
            return Ok(());
        }
        let arrived = |_| {};
        let fetch = Fetch {
            store: &self.feed.store,
            world: self.feed.world.as_ref(),
            spool: self.spool.as_ref(),
            limits: pulse::Limits::default(),
            beside: None,
            arrived: &arrived,
        };
        match fetch.patch(data).await {
            Ok(None) => self.missing(&data.object, version),
            Ok(Some(read)) => {
                let footer = read.patch.footer();
                if (footer.base, footer.target) == (base, target) {
                    self.audit.objects += 1;
                    self.audit.bytes += data.bytes;
                } else {
                    let what = "it leads from or to another digest than its record";
                    self.audit.problems.push(Error::data(&data.object, what));
                }
            }
            Err(error @ (Error::Data { .. } | Error::Pulse(_))) => self.audit.problems.push(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
