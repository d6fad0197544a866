//! What is so, whatever anybody was told: it sees every change of every bucket, and says which rule is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use pulse::hash::Digest;
use pulse::patch::Chain;
use pulse::tensors::PrepareOptions;
use pulse::{Limits, Patch};
use pulse_sync::{Mark, Record};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::entry::{record, sha256, version_of, Entry, Named};
use crate::model::{self, muts, one, Tensors, Training};
use crate::store::{Change, Objects};

#[derive(Debug)]
pub struct Truth {
    start: Instant,
    is_kept: bool,
    state: Mutex<State>,
    /// Notified when a rule is broken.
    pub broken: Notify,
}

#[derive(Debug, Default)]
struct State {
    history: String,
    fault: Option<String>,
    /// Weights that some trainer had, by their digest.
    weights: BTreeMap<Digest, Arc<Tensors>>,
    /// What trainers wanted to be published, and which trainings these are.
    wanted: BTreeMap<(Digest, Option<u64>), BTreeSet<usize>>,
    log: Vec<Entry>,
    fenced: BTreeSet<String>,
    /// The highest floor that there was.
    floor: u64,
    /// Data that was deleted.
    gone: BTreeSet<String>,
    /// Data that was lost or damaged, and when.
    lost: BTreeMap<String, Instant>,
    /// What each reader serves: version and record.
    served: BTreeMap<String, (u64, Digest)>,
}

impl Truth {
    /// `is_kept`: whether the history is.
    pub fn new(is_kept: bool) -> Arc<Self> {
        let (start, broken) = (Instant::now(), Notify::new());
        Arc::new(Truth { start, is_kept, state: Mutex::default(), broken })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn tell(&self, who: &str, what: impl AsRef<str>) {
        if self.is_kept {
            let at = self.start.elapsed().as_secs_f64();
            let _ = writeln!(self.state().history, "{at:9.3} {who}: {}", what.as_ref());
        }
    }

    /// A rule is broken.
    pub fn accuse(&self, who: &str, what: impl AsRef<str>) {
        self.tell(who, format!("BROKEN: {}", what.as_ref()));
        let what = format!("{who}: {}", what.as_ref());
        self.state().fault.get_or_insert(what);
        self.broken.notify_one();
    }

    pub fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    pub fn history(&self) -> String {
        self.state().history.clone()
    }

    pub fn head(&self) -> Option<Entry> {
        self.state().log.last().cloned()
    }

    pub fn entry(&self, version: u64) -> Option<Entry> {
        self.state().log.get(version as usize).cloned()
    }

    pub fn weights(&self, digest: &Digest) -> Option<Arc<Tensors>> {
        self.state().weights.get(digest).cloned()
    }

    pub fn is_version(&self, digest: &Digest) -> bool {
        self.state().log.iter().any(|entry| entry.target == *digest)
    }

    pub fn has_lost(&self) -> bool {
        !self.state().lost.is_empty()
    }

    /// Somebody has these weights.
    pub fn know(&self, weights: &Arc<Tensors>) -> Digest {
        let digest = model::digest(weights);
        self.state().weights.insert(digest, Arc::clone(weights));
        digest
    }

    /// A trainer wants to publish.
    pub fn want(&self, training: &Training, weights: &Arc<Tensors>, step: u64) -> Digest {
        let digest = self.know(weights);
        self.state().wanted.entry((digest, Some(step))).or_default().insert(training.id());
        digest
    }

    pub fn lose(&self, name: &str) {
        self.state().lost.insert(name.into(), Instant::now());
        self.tell("store", format!("loses {name}"));
    }

    /// `publish` said that this is a version: it is, for ever.
    pub fn published(&self, who: &str, record: &Record, wanted: Digest) {
        let found = self.entry(record.version);
        let same = found.as_ref().is_some_and(|entry| {
            (entry.target, entry.step) == (record.target, record.step) && entry.target == wanted
        });
        if !same {
            self.accuse(who, format!("published {record:?}, but there is {found:?}"));
        }
    }

    pub fn fence(&self, writer: &str) {
        self.state().fenced.insert(writer.into());
    }

    /// A reader serves a version of the feed.
    pub fn serves(&self, who: &str, mark: &Mark, digest: Digest, weights: &Tensors) {
        let Some(entry) = self.entry(mark.version) else {
            return self.accuse(who, format!("serves version {}, which is none", mark.version));
        };
        if entry.digest != mark.record || entry.target != digest {
            return self.accuse(who, format!("serves {mark:?}, but there is {entry:?}"));
        }
        self.serves_any(who, mark, digest, weights);
    }

    /// A reader serves a version of whatever it was shown.
    pub fn serves_any(&self, who: &str, mark: &Mark, digest: Digest, weights: &Tensors) {
        if self.weights(&digest).as_deref() != Some(weights) {
            return self.accuse(who, format!("serves other weights than those of {digest}"));
        }
        let now = (mark.version, mark.record);
        let before = self.state().served.insert(who.into(), now);
        if let Some(before) = before.filter(|before| before.0 >= now.0 && *before != now) {
            self.accuse(who, format!("serves version {} after {}", now.0, before.0));
        }
    }

    /// A reader that has lost its mark begins anew.
    pub fn forgets(&self, who: &str) {
        self.state().served.remove(who);
    }

    /// A change of the feed itself.
    pub fn watch(&self, objects: &Objects, name: &str, change: Change<'_>) {
        let fault = match change {
            Change::Created(bytes) => {
                self.tell("store", format!("has {name}, {} bytes", bytes.len()));
                if name.starts_with("log/") {
                    self.appended(objects, name, bytes)
                } else {
                    None
                }
            }
            Change::Overwritten(_) if is_hint(name) => None,
            Change::Overwritten(_) => Some(format!("{name} is written twice")),
            Change::Deleted(old) => {
                self.tell("store", format!("has {name} no more"));
                self.deleted(name, &old.bytes)
            }
        };
        if let (Change::Overwritten(bytes) | Change::Created(bytes), "floor.json") = (change, name)
        {
            if let Some(what) = self.raised(objects, bytes) {
                self.accuse("store", what);
            }
        }
        if let Some(what) = fault {
            self.accuse("store", what);
        }
    }

    fn appended(&self, objects: &Objects, name: &str, bytes: &Bytes) -> Option<String> {
        let Some(entry) = Entry::parse(bytes) else { return Some(format!("{name} is no record")) };
        let mut state = self.state();
        let version = state.log.len() as u64;
        if entry.version != version || name != record(version) {
            return Some(format!("{name} is put after version {version} - 1: a gap"));
        }
        if let Some(before) = state.log.last() {
            if let Some(what) = entry.fault_after(before) {
                return Some(what);
            }
            let key = |entry: &Entry| (entry.target, entry.step);
            let trainings =
                |entry: &Entry| state.wanted.get(&key(entry)).cloned().unwrap_or_default();
            if entry.epoch == before.epoch
                && entry.writer != before.writer
                && trainings(&entry).is_disjoint(&trainings(before))
            {
                return Some(format!("version {version} is of another writer, of the same epoch"));
            }
        }
        if state.fenced.contains(&entry.writer) {
            return Some(format!("version {version} is of a writer that knows that it is fenced"));
        }
        if entry.is_change() && !state.wanted.contains_key(&(entry.target, entry.step)) {
            return Some(format!("nobody wanted version {version} to be {}", entry.target));
        }
        let own = entry.own_anchor();
        let bases = [(entry.patch.as_ref(), entry.base), (own, None)];
        for (data, base) in bases {
            let Some(data) = data else { continue };
            if state.lost.contains_key(&data.object) {
                continue;
            }
            if let Some(what) = fault_of(objects, data) {
                return Some(format!("version {version} is there before its data: {what}"));
            }
            let base = base.and_then(|base| state.weights.get(&base).cloned());
            let made = apply(&objects[&data.object].bytes, base.as_deref());
            if made.is_none()
                || made.as_ref() != state.weights.get(&entry.target).map(AsRef::as_ref)
            {
                return Some(format!("data of version {version} leads elsewhere"));
            }
        }
        state.log.push(entry);
        None
    }

    fn deleted(&self, name: &str, bytes: &Bytes) -> Option<String> {
        // What a publisher tries a store with, perhaps torn.
        if b"first\n".starts_with(bytes) || b"second\n".starts_with(bytes) {
            return None;
        }
        self.state().gone.insert(name.into());
        let deletable = ["data/", "skip/", "anchor/"].iter().any(|folder| name.starts_with(folder));
        // The hint may be an older one that arrived late.
        let floor = self.state().floor;
        match version_of(name) {
            Some(version) if deletable && version < floor => None,
            _ => Some(format!("{name} is deleted, with floor {floor}")),
        }
    }

    /// The floor rises to a version that everybody can start from.
    fn raised(&self, objects: &Objects, bytes: &Bytes) -> Option<String> {
        let floor = floor_of(bytes)?;
        let mut state = self.state();
        // An older one may arrive late; it is a hint.
        let before = state.floor;
        state.floor = floor.max(before);
        if floor <= before {
            return None;
        }
        let anchors = state.log.iter().filter(|entry| entry.anchor.0 == floor);
        let mut anchors = anchors.map(|entry| &entry.anchor.2).collect::<Vec<_>>();
        anchors.dedup();
        // It may have been lost after it was read.
        let is_usable = |data: &&Named| {
            let lost = state.lost.get(&data.object);
            match lost {
                Some(at) => at.elapsed() < Duration::from_secs(120),
                None => fault_of(objects, data).is_none(),
            }
        };
        let found = anchors.into_iter().any(|data| is_usable(&data));
        (!found).then(|| format!("the floor is {floor}, but nobody can start there"))
    }

    /// A change of a copy that keeps its order (F37).
    pub fn watch_copy(&self, objects: &Objects, name: &str, change: Change<'_>) {
        let fault = match change {
            Change::Created(bytes) if name.starts_with("log/") => self.copied(objects, name, bytes),
            Change::Created(_) => None,
            Change::Overwritten(_) if is_hint(name) => None,
            Change::Overwritten(_) => Some(format!("{name} is written twice")),
            Change::Deleted(_) => Some(format!("{name} is deleted")),
        };
        if let Some(what) = fault {
            self.accuse("copy", what);
        }
    }

    fn copied(&self, objects: &Objects, name: &str, bytes: &Bytes) -> Option<String> {
        let Some(entry) = Entry::parse(bytes) else { return Some(format!("{name} is no record")) };
        let version = entry.version;
        if self.entry(version).as_ref() != Some(&entry) {
            return Some(format!("{name} is another one than that of the feed"));
        }
        if version > 0 && !objects.contains_key(&record(version - 1)) {
            return Some(format!("{name} is there before the record before it"));
        }
        let floor = objects.get("floor.json").and_then(|floor| floor_of(&floor.bytes)).unwrap_or(0);
        let data = entry.patch.as_ref().or(entry.own_anchor()).filter(|_| version >= floor)?;
        let state = self.state();
        if state.lost.contains_key(&data.object) || state.gone.contains(&data.object) {
            return None;
        }
        let what = fault_of(objects, data)?;
        Some(format!("{name} is there before its data: {what}"))
    }
}

fn is_hint(name: &str) -> bool {
    ["latest.json", "hints.json", "floor.json"].contains(&name)
}

fn floor_of(bytes: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(crate::entry::payload(bytes)?).ok()?;
    value["version"].as_u64()
}

/// What is wrong with an object that was named.
fn fault_of(objects: &Objects, data: &Named) -> Option<String> {
    match objects.get(&data.object) {
        None => Some(format!("{} is absent", data.object)),
        Some(found) if sha256(&found.bytes) != data.sha256 => {
            Some(format!("{} is not it", data.object))
        }
        Some(_) => None,
    }
}

/// What a patch makes of its base.
pub fn apply(patch: &[u8], base: Option<&Tensors>) -> Option<Tensors> {
    let patches = [Patch::from_bytes(patch.to_vec(), Limits::default()).ok()?];
    let chain = Chain::new(&patches).ok()?;
    let Some(base) = base else { return chain.to_memory(one()).ok() };
    let mut made = base.clone();
    let prepared = chain.prepare(&muts(&mut made), PrepareOptions::default(), one()).ok()?;
    prepared.commit(&mut muts(&mut made), one()).ok()?;
    Some(made)
}
