//! A checkpoint that is updated, and what may be found of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Fault, Faulty};
use crate::checkpoint::{diff, Checkpoint};
use crate::coding::Coding;
use crate::disk::mark::Mark;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::patch::{Chain, Patch};
use crate::stream::EncoderOptions;
use crate::tensors::Control;
use crate::update::recover::recover_on;
use crate::update::update::update_on;
use crate::update::{Recovered, UpdateOptions, UpdateReport, Way};

/// Files by their names.
pub(super) type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// Every file below a directory, with its bytes.
pub(super) fn snapshot(path: &Path) -> Contents {
    let mut files = BTreeMap::new();
    if path.is_file() {
        files.insert(PathBuf::new(), fs::read(path).unwrap());
    }
    for entry in fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        for (name, bytes) in snapshot(&path) {
            let own = PathBuf::from(path.file_name().unwrap());
            files.insert(if name.as_os_str().is_empty() { own } else { own.join(name) }, bytes);
        }
    }
    files
}

/// Writes files as `snapshot` gave them, in the place of whatever is there.
pub(super) fn restore(path: &Path, files: &Contents) {
    let _ = fs::remove_dir_all(path);
    let _ = fs::remove_file(path);
    for (name, bytes) in files {
        let file = if name.as_os_str().is_empty() { path.to_path_buf() } else { path.join(name) };
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// A file of two tensors, the second a little one.
fn tensors(names: [&str; 2], fill: impl Fn(usize) -> u8, note: &str) -> Vec<u8> {
    let bytes = 2 * 1_500;
    let [first, second] = names;
    let json = format!(
        r#"{{"__metadata__":{{"step":"{note}"}},"{first}":{{"dtype":"BF16","shape":[1500],"data_offsets":[0,{bytes}]}},"{second}":{{"dtype":"U8","shape":[5],"data_offsets":[{bytes},{}]}}}}"#,
        bytes + 5
    );
    let data = (0..bytes + 5).map(fill);
    (json.len() as u64).to_le_bytes().into_iter().chain(json.into_bytes()).chain(data).collect()
}

/// Base and target: two files of tensors, of which one stays, headers that differ in their metadata, a
/// companion that stays, one that changes, and one that is new.
fn checkpoints(both: bool) -> [Contents; 2] {
    let changed = |i: usize| u8::from(i.is_multiple_of(97));
    let file = |name: &str, bytes: Vec<u8>| (PathBuf::from(name), bytes);
    let base = [
        file("one.safetensors", tensors(["a", "b"], |i| (i % 253) as u8, "40")),
        file("two.safetensors", tensors(["c", "d"], |i| (i % 251) as u8, "40")),
        file("config.json", b"{}".to_vec()),
        file("state.json", b"{\"step\": 40}".to_vec()),
    ];
    let target = [
        file("one.safetensors", tensors(["a", "b"], |i| (i % 253) as u8 ^ changed(i), "41")),
        file(
            "two.safetensors",
            tensors(["c", "d"], |i| (i % 251) as u8 ^ (changed(i) & u8::from(both)), "40"),
        ),
        file("config.json", b"{}".to_vec()),
        file("state.json", b"{\"step\": 41, \"more\": true}".to_vec()),
        file("new.json", b"[]".to_vec()),
    ];
    [base.into(), target.into()]
}

/// Between base and target of `checkpoints`: other changes, another header, a companion that is there for
/// this moment only, and one that differs from both.
fn middle() -> Contents {
    let changed = |i: usize| u8::from(i.is_multiple_of(61));
    let [mut files, _] = checkpoints(false);
    let one = tensors(["a", "b"], |i| (i % 253) as u8 ^ changed(i), "40 and a half");
    files.insert("one.safetensors".into(), one);
    files.insert("state.json".into(), b"{\"step\": 40.5}".to_vec());
    files.insert("passing.json".into(), b"[40.5]".to_vec());
    files
}

/// A directory in memory where there is one: a scene has a disk of its own in mind, and is set up
/// thousands of times.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A directory with a checkpoint to be changed, the patches, and all that may be found there.
pub(super) struct Scene {
    _dir: tempfile::TempDir,
    /// Holds the checkpoint and whatever is left beside it.
    pub room: PathBuf,
    pub checkpoint: PathBuf,
    pub base: Contents,
    pub target: Contents,
    /// The first of the patches.
    pub patch: PathBuf,
    pub patches: Vec<PathBuf>,
    pub way: Way,
}

impl Scene {
    /// The directory, or only the first file of it.
    pub fn new(directory: bool, coding: Coding, way: Way) -> Self {
        Self::of(checkpoints(false).into(), directory, coding, way).unwrap()
    }

    /// A directory of two files that both change.
    pub fn of_two(way: Way) -> Self {
        Self::of(checkpoints(true).into(), true, Coding::Contextual, way).unwrap()
    }

    /// The directory, and two patches that are applied at once.
    pub fn of_chain(directory: bool, way: Way) -> Self {
        let [base, target] = checkpoints(false);
        Self::of(vec![base, middle(), target], directory, Coding::Contextual, way).unwrap()
    }

    /// A directory of which one file goes and another one comes.
    pub fn of_other_shards() -> Self {
        let [base, mut target] = checkpoints(true);
        let moved = target.remove(Path::new("two.safetensors")).unwrap();
        target.insert("three.safetensors".into(), moved);
        Self::of(vec![base, target], true, Coding::Contextual, Way::Redo).unwrap()
    }

    /// A directory of which a companion alone changes.
    pub fn of_companions(way: Way) -> Self {
        let [base, other] = checkpoints(false);
        let mut target = base.clone();
        let state = PathBuf::from("state.json");
        target.insert(state.clone(), other[&state].clone());
        Self::of(vec![base, target], true, Coding::Contextual, way).unwrap()
    }

    /// A directory of two files that both have a tensor of the same name, and an index that names one of
    /// them: in the base the second, in the target perhaps the first.
    pub fn of_same_names(way: Way, moves: bool) -> Self {
        let [mut base, mut target] = checkpoints(true);
        for (files, counted) in
            [(&mut base, "two"), (&mut target, if moves { "one" } else { "two" })]
        {
            let index = format!(
                r#"{{"weight_map":{{"a":"one.safetensors","c":"two.safetensors","b":"{counted}.safetensors"}}}}"#
            );
            files.insert("model.safetensors.index.json".into(), index.into_bytes());
            let second = files.get_mut(Path::new("two.safetensors")).unwrap();
            let at = second.windows(4).position(|bytes| bytes == b"\"d\":").unwrap();
            second[at + 1] = b'b';
        }
        Self::of(vec![base, target], true, Coding::Contextual, way).unwrap()
    }

    fn of(mut versions: Vec<Contents>, directory: bool, coding: Coding, way: Way) -> Result<Self> {
        let dir = scratch();
        if !directory {
            let first = PathBuf::from("one.safetensors");
            for files in &mut versions {
                *files = [(PathBuf::from("model"), files.remove(&first).unwrap())].into();
            }
        }
        let room = dir.path().join("room");
        let at = |path: &Path| if directory { path.into() } else { path.join("model") };
        let mut patches = Vec::new();
        for (number, pair) in versions.windows(2).enumerate() {
            let [from, to] = ["base", "target"].map(|name| dir.path().join(name));
            restore(&from, &pair[0]);
            restore(&to, &pair[1]);
            let end = if number + 2 == versions.len() { 41 } else { 40 };
            let options = EncoderOptions::default()
                .with_coding(coding)
                .with_block_leaves(1)
                .with_steps(40, end);
            let (from, to) = (Checkpoint::open(at(&from))?, Checkpoint::open(at(&to))?);
            let patch = dir.path().join(format!("{number}.pulse"));
            let file = fs::File::create(&patch).unwrap();
            diff(Some(&from), &to, file, options.into(), Control::threads(1))?;
            patches.push(patch);
        }
        // Without links, as the calls name it.
        fs::create_dir(&room).unwrap();
        let room = room.canonicalize().unwrap();
        let checkpoint = at(&room);
        let (base, target) = (versions.remove(0), versions.pop().unwrap());
        let patch = patches[0].clone();
        Ok(Scene { _dir: dir, room, checkpoint, base, target, patch, patches, way })
    }

    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = [(false, Coding::Contextual), (true, Coding::Contextual), (true, Coding::Flat)];
        let ways = [Way::Redo, Way::Undo];
        kinds
            .into_iter()
            .flat_map(move |(directory, coding)| ways.map(|way| Scene::new(directory, coding, way)))
            .chain([Scene::of_other_shards()])
            .chain(ways.map(|way| Scene::of_chain(true, way)))
            .chain([Scene::of_chain(false, Way::Undo)])
    }

    pub fn reset(&self) {
        restore(&self.room, &self.base);
    }

    pub fn holds(&self, files: &Contents) -> bool {
        snapshot(&self.room) == *files
    }

    /// What is in the room and belongs to no checkpoint.
    pub fn litter(&self) -> Vec<PathBuf> {
        let files = snapshot(&self.room).into_keys();
        files
            .filter(|name| !self.base.contains_key(name) && !self.target.contains_key(name))
            .collect()
    }

    /// Base, target, or a file of it is marked; and pulse's own readers agree.
    pub fn check_seen(&self) -> std::result::Result<(), String> {
        let mut files = snapshot(&self.room);
        files.retain(|name, _| Mark::of_name(name.to_str().unwrap()).is_none());
        let is_marked = |bytes: &Vec<u8>| Mark::of(bytes[..8].try_into().unwrap()).is_some();
        let tensors = |name: &PathBuf| {
            name == Path::new("model") || name.to_str().unwrap().ends_with(".safetensors")
        };
        let marked = files.iter().any(|(name, bytes)| tensors(name) && is_marked(bytes));
        let opened = Checkpoint::open(&self.checkpoint);
        match (marked, opened) {
            (true, Err(Error::Interrupted { .. })) => Ok(()),
            (false, Ok(_)) if files == self.base || files == self.target => Ok(()),
            (false, Ok(_)) => Err("a mixture opens".into()),
            (marked, opened) => Err(format!("marked: {marked}, but {opened:?}")),
        }
    }

    /// Updates with the first patch on this disk, which does not see the patch.
    pub fn update_on(&self, disk: &Disk, way: impl Into<Option<Way>>) -> Result<UpdateReport> {
        let patch = Patch::open(&self.patch, Limits::default())?;
        let options = UpdateOptions::default().with_way(way);
        update_on(disk, &self.checkpoint, &patch.as_chain()?, options, Control::threads(1))
    }

    /// Updates on this disk; gives back whether the fault came, and what was done.
    pub fn update(&self, faulty: &Arc<Faulty>) -> (bool, Result<()>) {
        let disk = faulty.disk();
        let options = UpdateOptions::default().with_way(self.way);
        let open = |path: &PathBuf| Patch::open_on(path, Limits::default(), &disk);
        let patches = self.patches.iter().map(open).collect::<Result<Vec<_>>>();
        let done = patches.and_then(|patches| {
            let chain = Chain::new(&patches)?;
            update_on(&disk, &self.checkpoint, &chain, options, Control::threads(1))
        });
        (faulty.fired(), done.map(drop))
    }

    /// Recovers on this disk.
    pub fn recover(&self, faulty: &Arc<Faulty>) -> Result<Recovered> {
        recover_on(&faulty.disk(), &self.checkpoint, Control::threads(1)).map(|found| found.outcome)
    }

    /// After whatever went before: what is seen is right, and a recovery makes base or target of it.
    pub fn check_recovers(&self) -> std::result::Result<Recovered, String> {
        self.check_seen()?;
        let found = self.recover(&Faulty::new(u64::MAX, Fault::None));
        let outcome = found.map_err(|error| error.to_string())?;
        let is_right = match outcome {
            Recovered::RolledBack { base_step: Some(40), .. } | Recovered::Untouched => {
                self.holds(&self.base)
            }
            Recovered::Completed { target_step: Some(41), .. } => self.holds(&self.target),
            Recovered::Nothing => self.holds(&self.base) || self.holds(&self.target),
            _ => false,
        };
        if is_right {
            Ok(outcome)
        } else {
            Err(format!("{outcome:?}, but found {:?}", snapshot(&self.room).keys()))
        }
    }
}
