//! Every file operation of apply, update and recover fails once, or is the last before a crash that loses what was not
//! synced. Whatever happens: base or target.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::update::{recover_on, update_on};
use super::{recover, Recovery};
use crate::checkpoint::apply::apply_on;
use crate::checkpoint::{diff, ApplyOptions, Checkpoint};
use crate::coding::Coding;
use crate::disk::{Call, Disk, Watch};
use crate::error::Result;
use crate::limits::Limits;
use crate::patch::Patch;
use crate::stream::EncoderOptions;
use crate::tensors::Control;
use crate::word::ValueForm;

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It fails, and nothing of it is done; those after it work.
    Error(io::ErrorKind),
    /// A write gets half of its bytes down; other operations fail.
    ShortWrite,
    /// It is not done, nor is anything after it. What was not synced is lost as far as `Loss` says.
    Crash(Loss),
}

/// What a crash does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    /// All of it was on disk, as if only the process died.
    Nothing,
    /// None of it was.
    Everything,
    /// Some of it was: writes are lost, torn or kept at random.
    Some(u64),
}

/// How to take back an operation that was not synced.
#[derive(Debug)]
enum Unsynced {
    /// Bytes that were overwritten in a file, and how long it was.
    Write { path: PathBuf, offset: u64, before: Vec<u8>, bytes: u64 },
    /// The file at a name, `None` if there was none.
    Name { path: PathBuf, before: Option<Vec<u8>> },
}

impl Unsynced {
    fn path(&self) -> &Path {
        match self {
            Unsynced::Write { path, .. } | Unsynced::Name { path, .. } => path,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    crashed: bool,
    unsynced: Vec<Unsynced>,
}

/// A disk where one operation goes wrong.
#[derive(Debug)]
struct Faulty {
    at: u64,
    fault: Fault,
    state: Mutex<State>,
}

impl Faulty {
    fn new(at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Faulty { at, fault, state: Mutex::default() })
    }

    fn disk(self: &Arc<Self>) -> Disk {
        Disk::watched(self.clone())
    }

    /// Whether the chosen operation came.
    fn fired(&self) -> bool {
        self.state.lock().unwrap().calls > self.at
    }

    /// Takes back what was not synced, the latest first, as a crash might.
    fn lose(&self) {
        let Fault::Crash(loss) = self.fault else { return };
        let mut state = self.state.lock().unwrap();
        let mut random = match loss {
            Loss::Nothing => return,
            Loss::Everything => 0,
            Loss::Some(seed) => seed * 2 + 1,
        };
        for unsynced in std::mem::take(&mut state.unsynced).into_iter().rev() {
            random = random
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(u64::from(random != 0) * 0x1405_7b7e_f767_814f);
            let keep = random >> 62;
            if matches!(loss, Loss::Some(_)) && keep == 0 {
                continue;
            }
            match unsynced {
                Unsynced::Write { path, offset, before, bytes } => {
                    let Ok(mut file) = fs::read(&path) else { continue };
                    // A torn write: its begin was on disk, its end was not.
                    let torn = if matches!(loss, Loss::Some(_)) && keep == 1 {
                        before.len() / 2
                    } else {
                        0
                    };
                    let at = usize::try_from(offset).unwrap() + torn;
                    let end = (at + before.len() - torn).min(file.len());
                    if at < end {
                        file[at..end].copy_from_slice(&before[torn..torn + end - at]);
                    }
                    if torn == 0 {
                        file.resize(usize::try_from(bytes).unwrap(), 0);
                    }
                    fs::write(&path, file).unwrap();
                }
                Unsynced::Name { path, before: Some(bytes) } => fs::write(&path, bytes).unwrap(),
                Unsynced::Name { path, before: None } if path.is_dir() => {
                    fs::remove_dir_all(&path).unwrap()
                }
                Unsynced::Name { path, before: None } => drop(fs::remove_file(&path)),
            }
        }
    }
}

impl State {
    /// Notes what an operation changes, before it does.
    fn note(&mut self, call: Call<'_>) {
        let name = |path: &Path| Unsynced::Name { path: path.into(), before: fs::read(path).ok() };
        match call {
            Call::Write { path, offset, bytes } => {
                let file = fs::read(path).unwrap();
                let start = usize::try_from(offset).unwrap().min(file.len());
                let end = (start + bytes.len()).min(file.len());
                let before = file[start..end].to_vec();
                self.unsynced.push(Unsynced::Write {
                    path: path.into(),
                    offset,
                    before,
                    bytes: file.len() as u64,
                });
            }
            Call::Create(path) | Call::Remove(path) => self.unsynced.push(name(path)),
            Call::Rename { from, to } => {
                // What was written to it, and not synced, moves along.
                for unsynced in &mut self.unsynced {
                    if let Unsynced::Write { path, .. } = unsynced {
                        if let Ok(below) = path.strip_prefix(from) {
                            *path = if below.as_os_str().is_empty() {
                                to.into()
                            } else {
                                to.join(below)
                            };
                        }
                    }
                }
                // Not atomic on purpose: a crash may leave both names, or the old one.
                self.unsynced.push(name(to));
                if from.is_file() {
                    self.unsynced.push(name(from));
                }
            }
            Call::Sync(path) => self
                .unsynced
                .retain(|one| matches!(one, Unsynced::Name { .. }) || one.path() != path),
            Call::SyncDirectory(path) => {
                self.unsynced.retain(|one| {
                    matches!(one, Unsynced::Write { .. }) || one.path().parent() != Some(path)
                });
            }
            Call::Resize | Call::Open | Call::Read | Call::CreateDirectory => {}
        }
    }
}

impl Watch for Faulty {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let number = state.calls;
        state.calls += 1;
        let died = || Err(io::Error::other("the machine crashed"));
        if state.crashed {
            return died();
        }
        if number != self.at {
            if matches!(self.fault, Fault::Crash(_)) {
                state.note(call);
            }
            return Ok(());
        }
        match (self.fault, call) {
            (Fault::Error(kind), _) => Err(kind.into()),
            (Fault::ShortWrite, Call::Write { path, offset, bytes }) => {
                let mut file = fs::read(path)?;
                let (start, half) = (usize::try_from(offset).unwrap(), bytes.len() / 2);
                file.resize(file.len().max(start + half), 0);
                file[start..start + half].copy_from_slice(&bytes[..half]);
                fs::write(path, file)?;
                Err(io::ErrorKind::StorageFull.into())
            }
            (Fault::ShortWrite, _) => Err(io::ErrorKind::PermissionDenied.into()),
            (Fault::Crash(_), _) => {
                state.crashed = true;
                died()
            }
        }
    }
}

/// Every file below a directory, with its bytes.
fn snapshot(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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
fn restore(path: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
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
    let bytes = 2 * 65_536;
    let [first, second] = names;
    let json = format!(
        r#"{{"__metadata__":{{"step":"{note}"}},"{first}":{{"dtype":"BF16","shape":[65536],"data_offsets":[0,{bytes}]}},"{second}":{{"dtype":"U8","shape":[5],"data_offsets":[{bytes},{}]}}}}"#,
        bytes + 5
    );
    let data = (0..bytes + 5).map(fill);
    (json.len() as u64).to_le_bytes().into_iter().chain(json.into_bytes()).chain(data).collect()
}

/// Base and target: two files of tensors whose headers differ in their metadata, a companion that
/// stays, one that changes, and one that is new.
fn checkpoints() -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
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
        file("two.safetensors", tensors(["c", "d"], |i| (i % 251) as u8, "40")),
        file("config.json", b"{}".to_vec()),
        file("state.json", b"{\"step\": 41, \"more\": true}".to_vec()),
        file("new.json", b"[]".to_vec()),
    ];
    [base.into(), target.into()]
}

/// A directory with a checkpoint to be changed, the patch, and all that may be found there.
struct Scene {
    _dir: tempfile::TempDir,
    /// Holds the checkpoint and whatever is left beside it.
    room: PathBuf,
    checkpoint: PathBuf,
    base: BTreeMap<PathBuf, Vec<u8>>,
    target: BTreeMap<PathBuf, Vec<u8>>,
    patch: PathBuf,
}

impl Scene {
    /// The directory, or only the first file of it.
    fn new(directory: bool, coding: Coding) -> Result<Self> {
        let dir = tempfile::tempdir().unwrap();
        let [mut base, mut target] = checkpoints();
        if !directory {
            let first = PathBuf::from("one.safetensors");
            base = [(PathBuf::new(), base.remove(&first).unwrap())].into();
            target = [(PathBuf::new(), target.remove(&first).unwrap())].into();
        }
        let (room, patch) = (dir.path().join("room"), dir.path().join("step.pulse"));
        fs::create_dir(&room).unwrap();
        let [from, to] = ["base", "target"].map(|name| dir.path().join(name));
        restore(&from, &base);
        restore(&to, &target);
        let options =
            EncoderOptions::default().with_coding(coding).with_block_leaves(1).with_steps(40, 41);
        let (from, to) = (Checkpoint::open(&from)?, Checkpoint::open(&to)?);
        let file = fs::File::create(&patch).unwrap();
        diff(Some(&from), &to, file, options.into(), Control::threads(1))?;
        let checkpoint = room.join("checkpoint");
        Ok(Scene { _dir: dir, room, checkpoint, base, target, patch })
    }

    fn reset(&self) {
        restore(&self.checkpoint, &self.base);
        for entry in fs::read_dir(&self.room).unwrap() {
            let path = entry.unwrap().path();
            if path != self.checkpoint {
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir_all(&path);
            }
        }
    }

    /// What is in the room beside the checkpoint.
    fn litter(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(&self.room).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| *path != self.checkpoint).collect()
    }

    fn is_base(&self) -> bool {
        snapshot(&self.checkpoint) == self.base
    }

    fn is_target(&self) -> bool {
        snapshot(&self.checkpoint) == self.target
    }

    /// Updates on a disk with a fault; gives back whether the fault came, and whether it was done.
    fn update(&self, faulty: &Arc<Faulty>) -> (bool, Result<bool>) {
        let disk = faulty.disk();
        let done = Patch::open_on(&self.patch, Limits::default(), &disk)
            .and_then(|patch| update_on(&disk, &self.checkpoint, &patch, Control::threads(1)))
            .map(|report| !report.already);
        (faulty.fired(), done)
    }
}

const CODINGS: [Coding; 2] = [Coding::Contextual, Coding::Flat];

/// Runs `attempt` with a fault at operation 0, 1, 2 … until none comes; gives back how many came.
fn sweep(mut attempt: impl FnMut(u64) -> bool) -> u64 {
    let mut at = 0;
    while attempt(at) {
        at += 1;
    }
    at
}

#[test]
fn an_update_that_meets_an_error_leaves_the_base_or_the_target() {
    for (directory, coding) in [(false, CODINGS[0]), (true, CODINGS[0]), (true, CODINGS[1])] {
        let scene = Scene::new(directory, coding).unwrap();
        for fault in [
            Fault::Error(io::ErrorKind::Other),
            Fault::Error(io::ErrorKind::StorageFull),
            Fault::ShortWrite,
        ] {
            let faults = sweep(|at| {
                scene.reset();
                let (fired, done) = scene.update(&Faulty::new(at, fault));
                match &done {
                    Ok(changed) => assert!(*changed && scene.is_target(), "{fault:?} at {at}"),
                    Err(error) => assert!(fired, "{error}"),
                }
                if done.is_err() && !scene.is_target() && !scene.is_base() {
                    // Going back met the only fault; the next attempt goes back again.
                    assert!(matches!(
                        recover(&scene.checkpoint, Control::threads(1)),
                        Ok(Recovery::RolledBack { .. })
                    ));
                }
                if done.is_err() {
                    let recovered = recover(&scene.checkpoint, Control::threads(1)).unwrap();
                    assert_eq!(recovered, Recovery::Nothing);
                    assert!(scene.is_base() || scene.is_target(), "{fault:?} at {at}: {done:?}");
                }
                assert_eq!(scene.litter(), [] as [PathBuf; 0], "{fault:?} at {at}");
                fired
            });
            assert!(faults > 30, "{faults} operations");
        }
    }
}

#[test]
fn an_update_that_crashes_is_recovered_whatever_was_lost() {
    for (directory, coding) in [(false, CODINGS[1]), (true, CODINGS[0])] {
        let scene = Scene::new(directory, coding).unwrap();
        let losses = [Loss::Nothing, Loss::Everything].into_iter().chain((0..4).map(Loss::Some));
        let (mut rolled_back, mut untouched, mut targets) = (0, 0, 0);
        for loss in losses {
            sweep(|at| {
                scene.reset();
                let faulty = Faulty::new(at, Fault::Crash(loss));
                let (fired, done) = scene.update(&faulty);
                assert_eq!(done.is_err(), fired);
                faulty.lose();
                match recover(&scene.checkpoint, Control::threads(1)).unwrap() {
                    Recovery::Nothing => {}
                    Recovery::Untouched => {
                        untouched += 1;
                        assert!(scene.is_base());
                    }
                    Recovery::RolledBack { base_step, .. } => {
                        rolled_back += 1;
                        assert!(scene.is_base(), "{loss:?} at {at}");
                        assert_eq!(base_step, Some(40));
                    }
                }
                targets += u64::from(fired && scene.is_target());
                assert!(scene.is_base() || scene.is_target(), "{loss:?} at {at}");
                assert_eq!(scene.litter(), [] as [PathBuf; 0], "{loss:?} at {at}");
                // The same command once more gets there.
                let patch = Patch::open(&scene.patch, Limits::default()).unwrap();
                patch.update(&scene.checkpoint, Control::threads(2)).unwrap();
                assert!(scene.is_target(), "{loss:?} at {at}");
                fired
            });
        }
        assert!(
            rolled_back > 50 && untouched > 5 && targets > 0,
            "{rolled_back} {untouched} {targets}"
        );
    }
}

#[test]
fn a_recovery_that_crashes_is_recovered() {
    let scene = Scene::new(true, Coding::Contextual).unwrap();
    // An update that dies when all is written but not yet proved.
    let last = sweep(|at| {
        scene.reset();
        scene.update(&Faulty::new(at, Fault::Crash(Loss::Nothing))).0
    });
    for loss in [Loss::Nothing, Loss::Everything, Loss::Some(1), Loss::Some(2)] {
        sweep(|at| {
            scene.reset();
            scene.update(&Faulty::new(last - 4, Fault::Crash(Loss::Nothing))).1.unwrap_err();
            assert!(!scene.is_base());
            let faulty = Faulty::new(at, Fault::Crash(loss));
            let recovered = recover_on(&faulty.disk(), &scene.checkpoint, Control::threads(1));
            assert_eq!(recovered.is_err(), faulty.fired());
            faulty.lose();
            recover(&scene.checkpoint, Control::threads(1)).unwrap();
            assert!(scene.is_base(), "{loss:?} at {at}");
            assert_eq!(scene.litter(), [] as [PathBuf; 0], "{loss:?} at {at}");
            faulty.fired()
        });
    }
}

#[test]
fn a_new_checkpoint_appears_whole_or_not_at_all_whatever_fails() {
    for directory in [false, true] {
        let scene = Scene::new(directory, Coding::Contextual).unwrap();
        let out = scene.room.join("out");
        let losses = [Loss::Nothing, Loss::Everything, Loss::Some(3)].map(Fault::Crash);
        let errors = [Fault::Error(io::ErrorKind::StorageFull), Fault::ShortWrite];
        for fault in losses.into_iter().chain(errors) {
            let faults = sweep(|at| {
                scene.reset();
                let faulty = Faulty::new(at, fault);
                let disk = faulty.disk();
                let done = Checkpoint::open_on(&scene.checkpoint, &disk).and_then(|base| {
                    let patch = Patch::open_on(&scene.patch, Limits::default(), &disk)?;
                    apply_on(
                        &disk,
                        Some(&base),
                        &patch,
                        &out,
                        ApplyOptions::default(),
                        Control::threads(1),
                    )
                });
                assert_eq!(done.is_err(), faulty.fired());
                faulty.lose();
                assert!(scene.is_base());
                let found = snapshot(&out);
                let whole = found == scene.target;
                assert!(whole || !out.exists(), "{fault:?} at {at}");
                assert!(whole || done.is_err(), "{fault:?} at {at}");
                faulty.fired()
            });
            assert!(faults > 10, "{faults} operations");
        }
    }
}

#[test]
fn the_journal_takes_as_much_room_as_a_flat_patch_that_overwrites() {
    let scene = Scene::new(false, Coding::Contextual).unwrap();
    let journal = scene.room.join(".checkpoint.pulse-undo");
    // The first operation after which there is a journal.
    sweep(|at| {
        scene.reset();
        scene.update(&Faulty::new(at, Fault::Crash(Loss::Nothing))).0 && !journal.exists()
    });
    let (bytes, target) = (fs::metadata(&journal).unwrap().len(), scene.room.join("target"));
    recover(&scene.checkpoint, Control::threads(1)).unwrap();
    restore(&target, &scene.target);
    let (base, target) =
        (Checkpoint::open(&scene.checkpoint).unwrap(), Checkpoint::open(&target).unwrap());
    let options = EncoderOptions::default()
        .with_coding(Coding::Flat)
        .with_values(ValueForm::Overwrite)
        .with_block_leaves(1)
        .with_steps(41, 40);
    let report =
        diff(Some(&target), &base, io::sink(), options.into(), Control::threads(1)).unwrap();
    assert_eq!(bytes, report.summary.patch_bytes);
}
