//! What people do with a checkpoint whose update was interrupted, and who else comes while one runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::disk::{Fault, Faulty};
use super::scene::{restore, snapshot, Contents, Scene};
use crate::checkpoint::apply::apply_on;
use crate::checkpoint::{diff, ApplyOptions, Checkpoint};
use crate::coding::Coding;
use crate::disk::mark::Mark;
use crate::disk::{Call, Disk, Watch};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::patch::Patch;
use crate::stream::EncoderOptions;
use crate::tensors::Control;
use crate::update::recover::recover_on;
use crate::update::{recover, Note, Recovered, Recovery, UpdateOptions, Way};
use crate::word::ValueForm;

const WAYS: [Way; 2] = [Way::Redo, Way::Undo];
const ONE: &str = "one.safetensors";
const TWO: &str = "two.safetensors";

fn is_marked(bytes: &[u8]) -> bool {
    Mark::of(bytes[..8].try_into().unwrap()).is_some()
}

/// The tensor files of a room.
fn tensors(files: &Contents) -> Vec<(&Path, &Vec<u8>)> {
    let files = files.iter().map(|(name, bytes)| (name.as_path(), bytes));
    files.filter(|(name, _)| name.extension().is_some_and(|end| end == "safetensors")).collect()
}

/// Kills an update before each of its operations; `then` looks at what is left if a file is marked.
fn at_every_mark(scene: &Scene, mut then: impl FnMut(u64)) {
    let mut marked = 0;
    for at in 0.. {
        scene.reset();
        if !scene.update(&Faulty::new(at, Fault::Kill)).0 {
            break;
        }
        if tensors(&snapshot(&scene.room)).iter().any(|(_, bytes)| is_marked(bytes)) {
            marked += 1;
            then(at);
        }
    }
    assert!(marked > 8, "{marked}");
}

fn recovered(scene: &Scene) -> Result<Recovery> {
    recover_on(&Faulty::new(u64::MAX, Fault::None).disk(), &scene.checkpoint, Control::threads(1))
}

fn journal(scene: &Scene) -> PathBuf {
    let mut names = snapshot(&scene.room).into_keys();
    scene.room.join(names.find(|name| name.extension().is_some_and(|end| end == "undo")).unwrap())
}

#[test]
fn a_marked_file_is_refused_by_whatever_name_and_wherever_it_is() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        let elsewhere = tempfile::tempdir().unwrap();
        at_every_mark(&scene, |at| {
            for (name, bytes) in tensors(&snapshot(&scene.room)) {
                if !is_marked(bytes) {
                    continue;
                }
                // No reader takes more than this for a header.
                let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                assert!(length > 100_000_000 && length as u32 > 1 << 31);
                let moved = elsewhere.path().join("other.safetensors");
                fs::write(&moved, bytes).unwrap();
                for path in [&scene.room, &scene.room.join(name), &moved, elsewhere.path()] {
                    let error = Checkpoint::open(path).unwrap_err();
                    let here = path.starts_with(&scene.room);
                    assert!(
                        matches!(error, Error::Interrupted { is_there, .. } if is_there == here),
                        "{at}: {error}"
                    );
                }
                // Nor does a recovery say that all is well.
                assert_eq!(recover(&moved, Control::threads(1)).unwrap_err().kind(), "interrupted");
            }
        });
    }
}

#[test]
fn a_directory_that_is_moved_or_copied_with_its_journal_recovers() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        let elsewhere = tempfile::tempdir().unwrap();
        at_every_mark(&scene, |at| {
            let copy = elsewhere.path().join("copy");
            restore(&copy, &snapshot(&scene.room));
            let Recovery { outcome, notes } = recover(&copy, Control::threads(1)).unwrap();
            // Nobody has been there: nothing is someone's own.
            assert_eq!(notes, [], "{at}");
            let expected = match outcome {
                Recovered::RolledBack { .. } => &scene.base,
                Recovered::Completed { .. } => &scene.target,
                other => panic!("{at}: {other:?}"),
            };
            assert_eq!(&snapshot(&copy), expected, "{at}");
        });
    }
}

/// Something that is done to a room.
type Act = (&'static str, fn(&Scene));

fn put(scene: &Scene, name: &str, bytes: &[u8]) {
    // By its name, as a download does: not into the file that is there.
    let _ = fs::remove_file(scene.room.join(name));
    fs::write(scene.room.join(name), bytes).unwrap();
}

fn of(files: &Contents, name: &str) -> Vec<u8> {
    files[Path::new(name)].clone()
}

/// Another checkpoint with the same headers.
fn other(scene: &Scene, name: &str) -> Vec<u8> {
    let mut bytes = of(&scene.base, name);
    let last = bytes.len() - 1;
    bytes[last] ^= 0x55;
    bytes
}

/// The base's tensors after another header: its metadata, which no digest of tensors is of, tell of another step.
fn retold(scene: &Scene) -> Vec<u8> {
    let mut bytes = of(&scene.base, ONE);
    let step = bytes.windows(4).position(|bytes| bytes == b"\"40\"").unwrap();
    bytes[step + 2] = b'2';
    bytes
}

/// A patch that leads back from the target, but to another checkpoint than the base: what `third` makes of each file.
pub(super) fn elsewhere(scene: &Scene, third: impl Fn(&Scene, &str) -> Vec<u8>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, files: &Contents| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        restore(&path, files);
        Checkpoint::open(path).unwrap()
    };
    let mut files = scene.base.clone();
    for name in [ONE, TWO] {
        files.insert(name.into(), third(scene, name));
    }
    let (target, third) = (open("target", &scene.target), open("third", &files));
    let options =
        EncoderOptions::default().with_coding(Coding::Flat).with_values(ValueForm::Overwrite);
    let mut patch = Vec::new();
    diff(Some(&target), &third, &mut patch, options.into(), Control::threads(1)).unwrap();
    patch
}

/// Where there is a patch that leads back, another takes its place.
fn lead_back(scene: &Scene, third: impl Fn(&Scene, &str) -> Vec<u8>) {
    let mut files = snapshot(&scene.room).into_keys();
    let is_back = |name: &PathBuf| name.extension().is_some_and(|end| end == "back");
    if let Some(name) = files.find(is_back) {
        fs::write(scene.room.join(name), elsewhere(scene, third)).unwrap();
    }
}

const ACTS: [Act; 19] = [
    ("nothing", |_| {}),
    ("both fetched again", |scene| {
        [ONE, TWO].iter().for_each(|name| put(scene, name, &of(&scene.base, name)))
    }),
    ("both targets fetched", |scene| {
        [ONE, TWO].iter().for_each(|name| put(scene, name, &of(&scene.target, name)))
    }),
    ("another version fetched", |scene| {
        [ONE, TWO].iter().for_each(|name| put(scene, name, &other(scene, name)))
    }),
    ("one fetched again", |scene| put(scene, ONE, &of(&scene.base, ONE))),
    ("two fetched again", |scene| put(scene, TWO, &of(&scene.base, TWO))),
    ("target of one fetched", |scene| put(scene, ONE, &of(&scene.target, ONE))),
    ("target of two fetched", |scene| put(scene, TWO, &of(&scene.target, TWO))),
    ("one of another version", |scene| put(scene, ONE, &other(scene, ONE))),
    ("shards swapped", |scene| {
        let [one, two] = [ONE, TWO].map(|name| fs::read(scene.room.join(name)).unwrap());
        put(scene, ONE, &two);
        put(scene, TWO, &one);
    }),
    ("one removed", |scene| fs::remove_file(scene.room.join(ONE)).unwrap()),
    ("what was staged removed", |scene| {
        for name in snapshot(&scene.room).into_keys() {
            if Mark::of_name(name.to_str().unwrap()).is_some_and(|(_, what)| what != "undo") {
                fs::remove_file(scene.room.join(name)).unwrap();
            }
        }
    }),
    ("the journal damaged", |scene| {
        let journal = journal(scene);
        let mut bytes = fs::read(&journal).unwrap();
        bytes[100] ^= 1;
        fs::write(journal, bytes).unwrap();
    }),
    ("the patch that leads back leads elsewhere", |scene| lead_back(scene, other)),
    ("the patch that leads back has another header", |scene| {
        lead_back(scene, |scene, name| match name {
            ONE => retold(scene),
            _ => of(&scene.base, name),
        })
    }),
    ("one fetched with another header", |scene| put(scene, ONE, &retold(scene))),
    ("the journal removed", |scene| fs::remove_file(journal(scene)).unwrap()),
    ("a byte of a marked file changed", |scene| {
        let mut bytes = fs::read(scene.room.join(TWO)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        put(scene, TWO, &bytes);
    }),
    ("config and new companion edited", |scene| {
        put(scene, "state.json", b"mine");
        put(scene, "new.json", b"mine too");
    }),
];

/// Whatever was done to the files in between: a recovery makes all tensor files base or all target, or it
/// leaves every file as it found it. No mixture opens, before or after; nobody's own files are touched.
#[test]
fn a_recovery_is_right_or_touches_nothing_whatever_was_done_in_between() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        let mut counts = [0; 3];
        for (what, act) in ACTS {
            at_every_mark(&scene, |at| {
                act(&scene);
                let before = snapshot(&scene.room);
                let result = recovered(&scene);
                let after = snapshot(&scene.room);
                let about = || format!("{way:?}, {what}, {at}: {result:?}");
                let all = |files: &Contents| {
                    tensors(&after).into_iter().all(|(name, bytes)| files.get(name) == Some(bytes))
                };
                match &result {
                    Ok(_) if all(&scene.base) || all(&scene.target) => counts[0] += 1,
                    Ok(_) => {
                        counts[1] += 1;
                        assert_eq!(before, after, "{}", about());
                    }
                    Err(error) => {
                        counts[2] += 1;
                        assert_eq!(before, after, "{}", about());
                        let kinds = ["unrecovered", "interrupted"];
                        assert!(kinds.contains(&error.kind()), "{}", about());
                    }
                }
                // What bears no mark is not written to, and no file takes its place.
                for (name, bytes) in tensors(&before) {
                    assert!(is_marked(bytes) || after[name] == *bytes, "{}", about());
                }
                if what.starts_with("config") {
                    assert!(after[Path::new("state.json")] == *b"mine", "{}", about());
                    assert!(after[Path::new("new.json")] == *b"mine too", "{}", about());
                    let outcome = result.as_ref().unwrap();
                    let forward = matches!(outcome.outcome, Recovered::Completed { .. });
                    let own = |note: &Note| matches!(note, Note::OwnCompanion { .. });
                    assert_eq!(outcome.notes.iter().any(own), forward, "{}", about());
                }
                // A mixture opens to nobody. Where the last mark is gone, whole files were put side by side.
                let mixed = !all(&scene.base) && !all(&scene.target);
                if mixed && tensors(&before).iter().any(|(_, bytes)| is_marked(bytes)) {
                    Checkpoint::open(&scene.checkpoint).map(|_| ()).expect_err(&about());
                }
            });
        }
        println!("{way:?}: made whole {}, inert {}, refused {}", counts[0], counts[1], counts[2]);
        assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    }
}

#[test]
fn a_fresh_download_is_left_alone_and_can_be_updated_beside_the_old_journal() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        at_every_mark(&scene, |at| {
            for name in [ONE, TWO] {
                put(&scene, name, &other(&scene, name));
            }
            let report = recovered(&scene).unwrap();
            assert_eq!(report.outcome, Recovered::Nothing, "{at}");
            assert!(matches!(&report.notes[..], [Note::OtherJournal { .. }]), "{report:?}");
            for name in [ONE, TWO] {
                assert_eq!(fs::read(scene.room.join(name)).unwrap(), other(&scene, name));
            }
            // It opens, and is refused only because it is not the base.
            Checkpoint::open(&scene.checkpoint).unwrap();
            let error = scene.update(&Faulty::new(u64::MAX, Fault::None)).1.unwrap_err();
            assert_eq!(error.kind(), "base", "{error}");
        });
    }
}

/// The update of a part meets the journal of the whole, and ends that first.
#[test]
fn an_update_of_one_file_recovers_the_whole_directory_first() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        at_every_mark(&scene, |at| {
            let report = recover(scene.room.join(ONE), Control::threads(1)).unwrap();
            assert_ne!(report.outcome, Recovered::Nothing, "{at}");
            assert!(scene.holds(&scene.base) || scene.holds(&scene.target), "{at}");
        });
    }
}

/// Two checkpoints of one file each, side by side: the journal of one is no business of the other.
#[test]
fn a_recovery_of_one_file_leaves_the_journal_of_its_neighbour() {
    for way in WAYS {
        let scene = Scene::new(false, Coding::Contextual, way);
        let neighbour = scene.room.join("neighbour");
        let mut interrupted = 0;
        for at in 0.. {
            scene.reset();
            fs::write(&neighbour, &scene.base[Path::new("model")]).unwrap();
            if !scene.update(&Faulty::new(at, Fault::Kill)).0 {
                break;
            }
            let before = snapshot(&scene.room);
            if !before.keys().any(|name| name.extension().is_some_and(|end| end == "undo")) {
                continue;
            }
            let found = recover(&neighbour, Control::threads(1));
            if is_marked(&before[Path::new("model")]) {
                assert_eq!(found.unwrap(), Recovery::default(), "{at}");
                assert_eq!(snapshot(&scene.room), before, "{at}");
                interrupted += 1;
            }
            recovered(&scene).unwrap();
            fs::remove_file(&neighbour).unwrap();
            assert!(scene.holds(&scene.base) || scene.holds(&scene.target), "{at}");
        }
        assert!(interrupted > 4, "{interrupted}");
    }
}

/// A copy of a marked file comes back after all is done, and its journal is gone.
#[test]
fn a_marked_copy_that_comes_back_is_never_taken_for_whole() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        at_every_mark(&scene, |at| {
            let torn = snapshot(&scene.room);
            recovered(&scene).unwrap();
            let name = [ONE, TWO].into_iter().find(|name| is_marked(&of(&torn, name))).unwrap();
            put(&scene, name, &of(&torn, name));
            let before = snapshot(&scene.room);
            let error = recovered(&scene).unwrap_err();
            assert!(matches!(error, Error::Interrupted { is_there: false, .. }), "{at}: {error}");
            let error = scene.update(&Faulty::new(u64::MAX, Fault::None)).1.unwrap_err();
            assert_eq!(error.kind(), "interrupted", "{error}");
            assert_eq!(snapshot(&scene.room), before);
        });
    }
}

/// Does something before one operation of another process. Before a rename or a removal it is too late to be seen.
struct Meanwhile<'a> {
    at: u64,
    sees_names: bool,
    calls: AtomicU64,
    act: Mutex<Box<dyn FnMut() + Send + 'a>>,
}

impl std::fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Meanwhile<'static> {
    fn disk(at: u64, sees_names: bool, act: impl FnMut() + Send + 'static) -> Disk {
        let (calls, act) = (AtomicU64::new(0), Mutex::new(Box::new(act) as Box<_>));
        Disk::watched(Arc::new(Meanwhile { at, sees_names, calls, act }))
    }
}

impl Watch for Meanwhile<'static> {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let changes_names = matches!(call, Call::Rename { .. } | Call::Remove { .. });
        if self.sees_names && changes_names {
            return Ok(());
        }
        if self.calls.fetch_add(1, Relaxed) == self.at {
            (self.act.lock().unwrap())();
        }
        Ok(())
    }
}

/// An update, a recovery and a reader come at every moment of another update, by another name: they wait
/// their turn, or find base or target; and the first one ends as if nobody had come.
#[cfg(unix)]
#[test]
fn whoever_comes_while_an_update_runs_is_kept_out_or_finds_base_or_target() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        let link = scene.room.with_file_name("link");
        std::os::unix::fs::symlink(&scene.room, &link).unwrap();
        let digest = |files: &Contents| {
            let dir = tempfile::tempdir().unwrap();
            restore(dir.path(), files);
            Checkpoint::open(dir.path()).unwrap().digest(Control::threads(1)).unwrap()
        };
        let ends = [digest(&scene.base), digest(&scene.target)];
        for who in 0..3 {
            let mut at = 0;
            loop {
                scene.reset();
                let (link, patch) = (link.clone(), scene.patch.clone());
                let seen = Arc::new(Mutex::new(None));
                let told = seen.clone();
                let act = move || {
                    let control = Control::threads(1);
                    let result = match who {
                        0 => Patch::open(&patch, Limits::default())
                            .and_then(|patch| {
                                patch.update(&link, UpdateOptions::default(), control)
                            })
                            .map(|_| ()),
                        1 => recover(&link, control).map(|_| ()),
                        _ => Checkpoint::open(&link)
                            .and_then(|found| found.digest(control))
                            .map(|found| assert!(ends.contains(&found), "a mixture was read")),
                    };
                    *told.lock().unwrap() = Some(result.map_err(|error| error.kind()));
                };
                let disk = Meanwhile::disk(at, false, act);
                let done = scene.update_on(&disk, way);
                let Some(came) = *seen.lock().unwrap() else { break };
                let about = format!("{way:?}, {who} at {at}: {came:?}, {done:?}");
                assert!(
                    matches!(came, Ok(()) | Err("busy" | "interrupted" | "changed" | "io")),
                    "{about}"
                );
                let kind = done.as_ref().map(|_| ()).map_err(Error::kind);
                let found = snapshot(&scene.room);
                match kind {
                    Ok(()) => assert_eq!(found, scene.target, "{about}"),
                    // The other one was before it.
                    Err("busy" | "changed" | "io") => {
                        assert!(found == scene.target || found == scene.base, "{about}")
                    }
                    Err(_) => panic!("{about}"),
                }
                at += 1;
            }
            assert!(at > 40, "{at}");
        }
    }
}

/// Somebody puts files of their own at the names of a checkpoint while it is updated: no update replaces, removes or
/// writes to what it did not lock, and none says that it is done.
#[test]
fn what_takes_a_name_while_an_update_runs_stays_as_it_is() {
    for way in WAYS {
        let scene = Scene::of_two(way);
        for name in [ONE, TWO, "state.json", "new.json"] {
            let own = match name {
                ONE | TWO => other(&scene, name),
                _ => b"mine".to_vec(),
            };
            let is_tensors = [ONE, TWO].contains(&name);
            let (mut at, mut late) = (0, 0);
            loop {
                scene.reset();
                let came = Arc::new(AtomicU64::new(0));
                let (told, place, bytes) = (came.clone(), scene.room.join(name), own.clone());
                let act = move || {
                    let _ = fs::remove_file(&place);
                    fs::write(&place, &bytes).unwrap();
                    told.store(1, Relaxed);
                };
                let disk = Meanwhile::disk(at, true, act);
                let done = scene.update_on(&disk, way);
                if came.load(Relaxed) == 0 {
                    break;
                }
                let about = format!("{way:?}, {name} at {at}: {done:?}");
                assert_eq!(fs::read(scene.room.join(name)).unwrap(), own, "{about}");
                // When the last file has lost its mark, all is done but for the journal.
                let found = snapshot(&scene.room);
                let rest = |files: &Contents| {
                    let mut rest = files.clone();
                    rest.remove(Path::new(name));
                    rest
                };
                let ended = rest(&found) == rest(&scene.target);
                assert!(done.is_err() || !is_tensors || ended, "{about}");
                late += u64::from(done.is_ok() && is_tensors);
                at += 1;
            }
            // After the last look there are the two syncs around the journal's end.
            assert!(late <= 2, "{way:?}, {name}: {late}");
            assert!(at > 20, "{way:?}, {name}: {at}");
        }
    }
}

/// Changes the step in the header of a staged file, which no digest of tensors is of; whether it was there.
fn damage(directory: &Path, is_staged: impl Fn(&str) -> bool) -> bool {
    let mut found = false;
    for (name, mut bytes) in snapshot(directory) {
        let step = bytes.windows(4).take(300).position(|bytes| bytes == b"\"41\"");
        if let (Some(step), true) = (step, is_staged(name.to_str().unwrap())) {
            bytes[step + 2] = b'2';
            fs::write(directory.join(name), bytes).unwrap();
            found = true;
        }
    }
    found
}

/// A staged file that is changed before it takes its name is found when it is opened, and keeps its mark: nobody reads
/// it as base or target.
#[test]
fn what_opens_otherwise_than_planned_keeps_its_mark() {
    for scene in [Scene::of_two(Way::Redo), Scene::new(false, Coding::Contextual, Way::Redo)] {
        keeps_its_mark(&scene);
    }
}

fn keeps_its_mark(scene: &Scene) {
    let (mut at, mut found) = (0, 0);
    loop {
        scene.reset();
        let came = Arc::new(Mutex::new(None));
        let (told, room) = (came.clone(), scene.room.clone());
        let is_staged = |name: &str| Mark::of_name(name).is_some_and(|(_, what)| what == "new-0");
        let act = move || *told.lock().unwrap() = Some(damage(&room, is_staged));
        let disk = Meanwhile::disk(at, false, act);
        let done = scene.update_on(&disk, Way::Redo);
        let Some(was_changed) = *came.lock().unwrap() else { break };
        assert_eq!(done.is_err(), was_changed, "{at}: {done:?}");
        let after = snapshot(&scene.room);
        for (name, bytes) in tensors(&after) {
            let is_right = [&scene.base, &scene.target].iter().any(|side| side[name] == *bytes);
            assert!(is_right || is_marked(bytes), "{at}: {}", name.display());
        }
        found += u64::from(was_changed);
        at += 1;
    }
    assert!(found > 3, "{found} of {at}");
}

/// A new checkpoint is opened before it has its name, by the reader of any checkpoint: what was changed since it was
/// written does not appear.
#[test]
fn what_opens_otherwise_than_planned_does_not_appear() {
    let scene = Scene::of_two(Way::Redo);
    scene.reset();
    let place = scene.room.parent().unwrap().to_path_buf();
    let out = place.join("out");
    let (mut at, mut refused) = (0, 0);
    loop {
        let _ = fs::remove_dir_all(&out);
        let came = Arc::new(Mutex::new(None));
        let (told, place) = (came.clone(), place.clone());
        let is_staged = |name: &str| name.starts_with(".pulse-partial-") && name.contains(ONE);
        let act = move || *told.lock().unwrap() = Some(damage(&place, is_staged));
        let disk = Meanwhile::disk(at, false, act);
        let base = Checkpoint::open(&scene.checkpoint).unwrap();
        let patch = Patch::open(&scene.patch, Limits::default()).unwrap();
        let options = ApplyOptions::default();
        let done = apply_on(
            &disk,
            Some(&base),
            &patch.as_chain().unwrap(),
            &out,
            options,
            Control::threads(1),
        );
        let Some(was_changed) = *came.lock().unwrap() else { break };
        assert_eq!(done.is_ok(), out.exists(), "{at}: {done:?}");
        assert!(done.is_ok() || was_changed, "{at}: {done:?}");
        refused += u64::from(done.is_err());
        at += 1;
    }
    assert!(refused > 3, "{refused} of {at}");
}

/// One file is marked all the same: nobody opens the tensors of base and target beside a companion of the other.
#[test]
fn where_companions_alone_change_nobody_opens_a_mixture() {
    for way in WAYS {
        let scene = Scene::of_companions(way);
        at_every_mark(&scene, |at| {
            scene.check_seen().unwrap_or_else(|what| panic!("{way:?} at {at}: {what}"));
            scene.check_recovers().unwrap_or_else(|what| panic!("{way:?} at {at}: {what}"));
        });
    }
}

/// Whoever reads only what stays is not kept out, and need not be.
#[test]
fn a_file_that_does_not_change_is_not_marked() {
    for way in WAYS {
        let scene = Scene::new(true, Coding::Contextual, way);
        at_every_mark(&scene, |at| {
            let two = Path::new(TWO);
            assert!(snapshot(&scene.room)[two] == scene.base[two], "{way:?} at {at}");
        });
    }
}

/// The journal has bytes of the model: whoever may read that may read it, and recover, and nobody else.
#[test]
#[cfg(unix)]
fn the_journal_may_be_read_by_those_who_may_read_the_model() {
    use std::os::unix::fs::PermissionsExt;
    for way in WAYS {
        let scene = Scene::of_two(way);
        for (mode, expected) in [(0o640, 0o640), (0o644, 0o644), (0o600, 0o600)] {
            let mut seen = 0;
            for at in 0.. {
                scene.reset();
                let path = scene.room.join(ONE);
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                if !scene.update(&Faulty::new(at, Fault::Kill)).0 {
                    break;
                }
                for name in snapshot(&scene.room).keys() {
                    let what = Mark::of_name(name.to_str().unwrap()).map(|(_, what)| what);
                    let found = fs::metadata(scene.room.join(name)).unwrap();
                    if matches!(what, Some("undo" | "back")) && found.len() > 0 {
                        assert_eq!(found.permissions().mode() & 0o777, expected, "{what:?}");
                        seen += 1;
                    }
                }
            }
            assert!(seen > 8, "{seen}");
        }
    }
}

/// Without marks all was done but to remove the journal: what somebody has put there since is theirs.
#[test]
fn a_journal_whose_marks_are_gone_changes_nothing() {
    for (way, extra) in WAYS.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let scene = Scene::of_two(way);
        let mut left = 0;
        for at in 0.. {
            scene.reset();
            if !scene.update(&Faulty::new(at, Fault::Kill)).0 {
                break;
            }
            let files = snapshot(&scene.room);
            let is_marked = tensors(&files).iter().any(|(_, bytes)| is_marked(bytes));
            let is_target =
                tensors(&files).iter().all(|(name, bytes)| **bytes == scene.target[*name]);
            if is_marked || !is_target || files == scene.target {
                continue;
            }
            left += 1;
            let old = scene.base[Path::new("state.json")].clone();
            put(&scene, "state.json", &old);
            fs::remove_file(scene.room.join("new.json")).unwrap();
            let mut expected = scene.target.clone();
            let one = expected[Path::new(ONE)].clone();
            if extra {
                put(&scene, "zextra.safetensors", &one);
                expected.insert("zextra.safetensors".into(), one);
            }
            // Nor is called the target what readers take for another checkpoint.
            let is_target =
                matches!(recovered(&scene).unwrap().outcome, Recovered::Completed { .. });
            assert_eq!(is_target, !extra, "{at}");
            expected.insert("state.json".into(), old);
            expected.remove(Path::new("new.json"));
            assert!(scene.holds(&expected), "{at}: {:?}", snapshot(&scene.room).keys());
        }
        assert!(left > 0);
    }
}

/// What readers find counts, not what the files of the journal are: an index that somebody writes meanwhile, or
/// another tensor file, never leads to a digest that the directory does not have.
#[test]
fn a_directory_that_readers_would_take_for_another_is_not_called_the_target() {
    let other_index =
        r#"{"weight_map":{"a":"one.safetensors","c":"two.safetensors","b":"one.safetensors"}}"#;
    let acts: [(&str, &[u8]); 2] =
        [("model.safetensors.index.json", other_index.as_bytes()), ("zextra.safetensors", b"")];
    for way in WAYS {
        for (number, (name, bytes)) in acts.into_iter().enumerate() {
            let scene =
                if number == 0 { Scene::of_same_names(way, false) } else { Scene::of_two(way) };
            let extra = scene.base[Path::new(ONE)].clone();
            let bytes = if bytes.is_empty() { extra } else { bytes.to_vec() };
            let digest = |files: &Contents| {
                let dir = tempfile::tempdir().unwrap();
                restore(dir.path(), files);
                Checkpoint::open(dir.path()).and_then(|it| it.digest(Control::threads(1)))
            };
            let target = digest(&scene.target).unwrap();
            let mut refused = 0;
            // Killed, and recovered after somebody has been there.
            at_every_mark(&scene, |at| {
                put(&scene, name, &bytes);
                match recovered(&scene).map(|recovery| recovery.outcome) {
                    Ok(Recovered::Completed { .. }) => {
                        let found = Checkpoint::open(&scene.room).unwrap();
                        assert_eq!(found.digest(Control::threads(1)).unwrap(), target, "{at}");
                    }
                    Ok(_) => {}
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().contains("readers of this directory"), "{error}");
                        // What somebody did can be taken back, and then all is well.
                        match scene.base.get(Path::new(name)) {
                            Some(old) => put(&scene, name, old),
                            None => fs::remove_file(scene.room.join(name)).unwrap(),
                        }
                        recovered(&scene).unwrap();
                        assert!(scene.holds(&scene.base) || scene.holds(&scene.target), "{at}");
                    }
                }
            });
            assert!(refused > 2, "{refused}");
            // While it runs.
            for at in 0.. {
                scene.reset();
                let came = Arc::new(Mutex::new(false));
                let (told, place, bytes) = (came.clone(), scene.room.join(name), bytes.clone());
                let act = move || {
                    let _ = fs::remove_file(&place);
                    fs::write(&place, &bytes).unwrap();
                    *told.lock().unwrap() = true;
                };
                let disk = Meanwhile::disk(at, false, act);
                let done = scene.update_on(&disk, way);
                if !*came.lock().unwrap() {
                    break;
                }
                if done.is_ok() {
                    // After the last look nobody can tell.
                    let found =
                        Checkpoint::open(&scene.room).and_then(|it| it.digest(Control::threads(1)));
                    let is_late = scene.litter().is_empty() || scene.litter() == [Path::new(name)];
                    assert!(found.is_ok_and(|found| found == target) || is_late, "{at}");
                }
            }
        }
    }
}

/// What somebody writes to the base until its files are marked is not lost.
#[test]
fn what_is_written_to_the_base_before_the_marks_is_not_replaced() {
    let scene = Scene::of_two(Way::Redo);
    let mut kept = 0;
    for at in 0.. {
        scene.reset();
        let came = Arc::new(Mutex::new(None));
        let (told, room) = (came.clone(), scene.room.clone());
        let act = move || {
            let has_journal = snapshot(&room)
                .keys()
                .any(|name| name.extension().is_some_and(|end| end == "undo"));
            let mut file = fs::File::options().append(true).open(room.join(TWO)).unwrap();
            io::Write::write_all(&mut file, b"my own work").unwrap();
            *told.lock().unwrap() = Some(has_journal);
        };
        let disk = Meanwhile::disk(at, false, act);
        let done = scene.update_on(&disk, Way::Redo);
        let Some(has_journal) = *came.lock().unwrap() else { break };
        if has_journal {
            break;
        }
        let files = snapshot(&scene.room);
        assert!(files[Path::new(TWO)].ends_with(b"my own work"), "{at}: {done:?}");
        assert!(done.is_err() && scene.litter().is_empty(), "{at}: {done:?} {:?}", scene.litter());
        kept += 1;
    }
    assert!(kept > 3, "{kept}");
}

/// A pipe, a directory or a link with a name of ours is nobody's journal, and opening it would wait for ever.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_no_journal() {
    use rustix::fs::{mknodat, FileType, Mode, CWD};
    let scene = Scene::of_two(Way::Redo);
    let mark = Mark::random();
    for what in ["undo", "back", "new-7"] {
        for kind in 0..3 {
            scene.reset();
            let path = scene.room.join(mark.file(what));
            match kind {
                // Not by another program: until it runs, it has what is open here, and the locks.
                0 => mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
                1 => fs::create_dir(&path).unwrap(),
                _ => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            }
            assert_eq!(recovered(&scene).unwrap().outcome, Recovered::Nothing);
            scene.update(&Faulty::new(u64::MAX, Fault::None)).1.unwrap();
            assert!(fs::symlink_metadata(&path).is_ok());
            let removed = if kind == 1 { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
            assert!(scene.holds(&scene.target));
        }
    }
}
