//! The records of a feed as a reader sees them: each one proved to lead to those that it trusts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{stream, StreamExt};
use pulse::hash::Digest;
use tokio::time::Instant;

use crate::document::DOCUMENT_BYTES;
use crate::error::{DocumentFault, Error, Result};
use crate::hint::Latest;
use crate::id::Run;
use crate::key::PublicKey;
use crate::manifest::Manifest;
use crate::name;
use crate::record::{back, path, Sealed};
use crate::store::Store;

/// Records that are kept to be asked for again.
const KEPT: usize = 4_096;
/// Requests for records that are under way at once.
const AT_ONCE: usize = 16;
/// Changes of keys in one run. A feed that names more is not worth the requests.
const KEYS_MAX: usize = 1_000;

/// Who looks at these intervals finds one record at a time.
const OFTEN: Duration = Duration::from_secs(20);

/// What a reader served last: to this, every head must lead back (FEED.md §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The run.
    pub run: Run,
    /// The version.
    pub version: u64,
    /// Digest of its record.
    pub record: Digest,
    /// The key in force after it; `None` of an unsigned feed.
    pub key: Option<PublicKey>,
}

/// Which key signs which records: each from a version on.
#[derive(Debug, Clone, Default)]
struct Keys(Vec<(u64, PublicKey)>);

impl Keys {
    fn at(&self, version: u64) -> Option<PublicKey> {
        self.0.iter().rev().find(|(from, _)| *from <= version).map(|(_, key)| *key)
    }

    fn add(&mut self, sealed: &Sealed) {
        if let Some(key) = sealed.record.new_key {
            self.0.push((sealed.record.version + 1, key));
        }
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    store: Store,
    manifest: Manifest,
    keys: Keys,
    head: Arc<Sealed>,
    records: BTreeMap<u64, Arc<Sealed>>,
    /// When there was none after the head at the last look.
    newest_at: Option<Instant>,
}

impl Log {
    /// Reads what the feed is, and its newest record, which leads back to the mark. `None` if the feed has
    /// no record yet.
    pub async fn open(
        store: &Store,
        manifest: Manifest,
        trusted: Option<PublicKey>,
        mark: Option<&Mark>,
    ) -> Result<Option<Self>> {
        if let Some(mark) = mark.filter(|mark| mark.run != manifest.run) {
            let fault = DocumentFault::Run { expected: mark.run, found: manifest.run };
            return Err(Error::document(name::FEED, fault));
        }
        // Who is given the first key may have seen that it was handed over.
        let trusted: Vec<_> = trusted.into_iter().chain(mark.and_then(|mark| mark.key)).collect();
        if let (Some(key), None) = (trusted.first(), manifest.key) {
            return Err(Error::document(name::FEED, DocumentFault::NoKey(*key)));
        }
        let Some(head) = find_head(store, mark.map_or(0, |mark| mark.version)).await? else {
            let Some(mark) = mark else { return Ok(None) };
            // What is there instead, for whoever has to find out why.
            let head = find_head(store, 0).await.ok().flatten();
            let head = head.map_or(0, |head| head.record.version);
            return Err(Error::RolledBack { mark: mark.version, head });
        };
        let mut log = Self::at(store, manifest, head);
        log.load_keys(&trusted).await?;
        log.check_origin(&log.head)?;
        if let Some(mark) = mark {
            log.check_mark(mark).await?;
        }
        Ok(Some(log))
    }

    /// The log of a feed whose first record was put just now.
    pub fn begin(store: &Store, manifest: Manifest, first: Sealed) -> Result<Self> {
        let log = Self::at(store, manifest, first);
        log.check_origin(&log.head)?;
        Ok(log)
    }

    fn at(store: &Store, manifest: Manifest, head: Sealed) -> Self {
        let keys = Keys(manifest.key.map(|key| (0, key)).into_iter().collect());
        let head = Arc::new(head);
        let records = BTreeMap::from([(head.record.version, Arc::clone(&head))]);
        Log { store: store.clone(), manifest, keys, head, records, newest_at: None }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The newest record that is known.
    pub fn head(&self) -> &Arc<Sealed> {
        &self.head
    }

    /// The key that signs the record of this version.
    pub fn key_at(&self, version: u64) -> Option<PublicKey> {
        self.keys.at(version)
    }

    /// The mark of a reader that serves this version.
    pub fn mark(&self, sealed: &Sealed) -> Mark {
        let version = sealed.record.version;
        Mark {
            run: self.manifest.run,
            version,
            record: sealed.digest,
            key: self.keys.at(version + 1),
        }
    }

    /// Whether it is of this run and signed by the key in force.
    pub fn check_origin(&self, sealed: &Sealed) -> Result<()> {
        sealed.check_origin(self.manifest.run, self.keys.at(sealed.record.version).as_ref())
    }

    /// Follows the changes of keys from the head back to the first key, and checks each of them (F16, F17).
    async fn load_keys(&mut self, trusted: &[PublicKey]) -> Result<()> {
        let Some(first) = self.manifest.key else { return Ok(()) };
        let mut changes = Vec::new();
        let mut at = Arc::clone(&self.head);
        while let Some(change) = at.record.rekeyed {
            if changes.len() == KEYS_MAX {
                let what = format!("it has more than {KEYS_MAX} changes of keys");
                return Err(Error::Chain { version: at.record.version, what });
            }
            let record = self.walk(&at, change).await?;
            if record.record.new_key.is_none() {
                let what = format!("version {change} has no new key, as later ones say");
                return Err(Error::Chain { version: at.record.version, what });
            }
            changes.push(Arc::clone(&record));
            match change.checked_sub(1) {
                Some(before) => at = self.walk(&record, before).await?,
                None => break,
            }
        }
        for change in changes.iter().rev() {
            self.check_origin(change)?;
            self.keys.add(change);
        }
        let stranger =
            trusted.iter().find(|trusted| !self.keys.0.iter().any(|(_, key)| key == *trusted));
        stranger.map_or(Ok(()), |trusted| {
            let (trusted, found) = (*trusted, self.keys.0.last().map_or(first, |(_, key)| *key));
            Err(Error::document(name::FEED, DocumentFault::Untrusted { trusted, found }))
        })
    }

    /// Whether the head leads back to what was served (F27).
    pub async fn check_mark(&mut self, mark: &Mark) -> Result<()> {
        let head = Arc::clone(&self.head);
        if head.record.version < mark.version {
            return Err(Error::RolledBack { mark: mark.version, head: head.record.version });
        }
        let found = self.walk(&head, mark.version).await?.digest;
        if found != mark.record {
            let (version, expected) = (mark.version, mark.record);
            return Err(Error::Forked { version, expected, found });
        }
        Ok(())
    }

    /// The record of this version, proved to be the one that `from` leads back to.
    async fn walk(&mut self, from: &Arc<Sealed>, to: u64) -> Result<Arc<Sealed>> {
        let numbers = path(from.record.version, to);
        let missing: Vec<u64> =
            numbers[1..].iter().copied().filter(|at| !self.records.contains_key(at)).collect();
        let mut read = self.read_all(missing).await?;
        let mut at = Arc::clone(from);
        for number in &numbers[1..] {
            let known = self.records.get(number).cloned();
            let next = known.or_else(|| read.remove(number)).ok_or_else(|| gone(*number))?;
            at.check_leads_to(&next)?;
            self.keep(&next);
            at = next;
        }
        Ok(at)
    }

    async fn read_all(&self, numbers: Vec<u64>) -> Result<BTreeMap<u64, Arc<Sealed>>> {
        let reads = numbers.into_iter().map(|number| read(&self.store, number));
        let mut reads = stream::iter(reads).buffered(AT_ONCE);
        let mut found = BTreeMap::new();
        while let Some(sealed) = reads.next().await {
            if let Some(sealed) = sealed? {
                found.insert(sealed.record.version, Arc::new(sealed));
            }
        }
        Ok(found)
    }

    fn keep(&mut self, sealed: &Arc<Sealed>) {
        self.records.insert(sealed.record.version, Arc::clone(sealed));
        while self.records.len() > KEPT {
            self.records.pop_first();
        }
    }

    /// The record of a version up to the head; checked, as all that is given out.
    pub async fn record(&mut self, version: u64) -> Result<Arc<Sealed>> {
        let head = Arc::clone(&self.head);
        if version > head.record.version {
            return Err(gone(version));
        }
        let sealed = self.walk(&head, version).await?;
        self.check_origin(&sealed)?;
        Ok(sealed)
    }

    /// The records of these versions, both included, each of which follows the one before it.
    pub async fn section(&mut self, from: u64, to: u64) -> Result<Vec<Arc<Sealed>>> {
        let last = self.record(to).await?;
        let missing = (from..to).filter(|at| !self.records.contains_key(at)).collect();
        let mut read = self.read_all(missing).await?;
        let mut section = vec![last];
        for number in (from..to).rev() {
            let known = self.records.get(&number).cloned();
            let sealed = known.or_else(|| read.remove(&number)).ok_or_else(|| gone(number))?;
            if let Some(next) = section.last() {
                next.check_follows(&sealed)?;
            }
            self.check_origin(&sealed)?;
            self.keep(&sealed);
            section.push(sealed);
        }
        section.reverse();
        // Those who jump back must come to the same records as those who walk.
        for sealed in &section {
            let version = sealed.record.version;
            let earlier = back(version).checked_sub(from).and_then(|at| usize::try_from(at).ok());
            if let Some(earlier) = earlier.filter(|_| version > from) {
                sealed.check_leads_to(&section[earlier])?;
            }
        }
        Ok(section)
    }

    /// Looks for newer records, all that there are. Whether some were found.
    ///
    /// Who looks often is told at once of the one that came since the last look; whether there are more is
    /// asked by the next.
    pub async fn advance(&mut self) -> Result<bool> {
        let old = self.head.record.version;
        let was_newest = self.newest_at.take().is_some_and(|at| at.elapsed() < OFTEN);
        let mut step = 1;
        loop {
            let next = self.head.record.version + 1;
            let mut found = self.read_all((next..next + step).collect()).await?;
            let mut count = 0;
            while let Some(sealed) = found.remove(&(next + count)) {
                self.accept(sealed)?;
                count += 1;
            }
            if count < step {
                self.newest_at = Some(Instant::now());
                return Ok(self.head.record.version > old);
            }
            if was_newest && step == 1 {
                return Ok(true);
            }
            step = (step * 2).min(AT_ONCE as u64);
        }
    }

    /// Takes the record after the head, if it follows it.
    pub fn accept(&mut self, sealed: Arc<Sealed>) -> Result<()> {
        self.check_next(&sealed)?;
        if self.manifest.key.is_some() {
            self.keys.add(&sealed);
        }
        self.keep(&sealed);
        self.head = sealed;
        Ok(())
    }

    /// Whether it is what comes after the head.
    pub fn check_next(&self, sealed: &Sealed) -> Result<()> {
        // What does not follow is not the next version; whether it is of this run comes first.
        self.check_origin(sealed)?;
        sealed.check_follows(&self.head)
    }

    /// The hint of the newest version, if there is one that is whole and of this feed.
    pub async fn latest(&self) -> Result<Option<Latest>> {
        let Some(bytes) = self.store.document(name::LATEST, DOCUMENT_BYTES).await? else {
            return Ok(None);
        };
        Latest::parse(&bytes, self.manifest.run, |version| self.keys.at(version)).map(Some)
    }
}

fn gone(version: u64) -> Error {
    let why = format!("the record of version {version} is not there");
    Error::Lost { wanted: version, why }
}

/// Reads a record as it is there.
pub(crate) async fn read(store: &Store, version: u64) -> Result<Option<Sealed>> {
    let name = name::record(version);
    let bytes = store.document(&name, DOCUMENT_BYTES).await?;
    bytes.map(|bytes| Sealed::parse(&name, &bytes)).transpose()
}

/// What the feed says that it is; `None` if there is none.
pub(crate) async fn read_manifest(store: &Store) -> Result<Option<Manifest>> {
    let bytes = store.document(name::FEED, DOCUMENT_BYTES).await?;
    bytes.map(|bytes| Manifest::parse(&bytes)).transpose()
}

/// The newest record. Numbers have no gap, so that it is enough to ask for some of them; a hint shortens
/// the search, and costs nothing but that if it is wrong.
async fn find_head(store: &Store, at_least: u64) -> Result<Option<Sealed>> {
    let hint = store.document(name::LATEST, DOCUMENT_BYTES).await.ok().flatten();
    let document =
        hint.and_then(|bytes| crate::document::Document::parse(name::LATEST, &bytes).ok());
    let hint = document.and_then(|document| document.fields.integer("version").ok());
    let mut found = None;
    if let Some(hint) = hint.filter(|hint| *hint > at_least) {
        found = read(store, hint).await.ok().flatten();
    }
    if found.is_none() {
        found = read(store, at_least).await?;
    }
    let Some(mut head) = found else { return Ok(None) };
    let mut step = 1;
    let mut absent = u64::MAX;
    while head.record.version.saturating_add(1) < absent {
        let next = head.record.version.saturating_add(step).min(absent - 1);
        match read(store, next).await? {
            Some(newer) => {
                head = newer;
                step = if absent == u64::MAX { step.saturating_mul(2) } else { step };
            }
            None => absent = next,
        }
        if absent != u64::MAX {
            step = ((absent - head.record.version) / 2).max(1);
        }
    }
    Ok(Some(head))
}
