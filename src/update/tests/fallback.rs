//! Where the usual way is closed: what is done instead, and what nobody does.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Fault, Faulty};
use super::scene::{restore, snapshot, Contents, Scene};
use crate::checkpoint::{diff, Checkpoint};
use crate::coding::Coding;
use crate::disk::mark::Mark;
use crate::disk::{Call, Disk, Watch};
use crate::error::{Error, Result};
use crate::stream::EncoderOptions;
use crate::tensors::Control;
use crate::update::recover::recover_on;
use crate::update::{Note, Recovery, Way};
use crate::word::ValueForm;

fn recovered(scene: &Scene, faulty: &Arc<Faulty>) -> Result<Recovery> {
    recover_on(&faulty.disk(), &scene.checkpoint, Control::threads(1))
}

/// A file system that is full, or has no renames from one file to another, shows that at some operation.
#[test]
fn where_files_cannot_be_made_beside_they_are_overwritten_if_that_is_possible_and_nobody_chose() {
    let scenes = [
        (Scene::of_two(Way::Redo), true),
        (Scene::new(false, Coding::Contextual, Way::Redo), true),
        // Its files come and go.
        (Scene::of_other_shards(), false),
    ];
    let closed = [
        (io::ErrorKind::StorageFull, true),
        (io::ErrorKind::CrossesDevices, true),
        (io::ErrorKind::PermissionDenied, false),
    ];
    for (scene, can_overwrite) in &scenes {
        for ((kind, is_closed), way) in
            closed.into_iter().flat_map(|closed| [None, Some(Way::Redo)].map(|way| (closed, way)))
        {
            let mut overwritten = 0;
            for at in 0.. {
                scene.reset();
                let faulty = Faulty::new(at, Fault::Error(kind));
                let done = scene.update_on(&faulty.disk(), way);
                if !faulty.fired() {
                    break;
                }
                let about = format!("{kind:?} at {at}, {way:?}: {done:?}");
                if let Ok(report) = &done {
                    assert!(scene.holds(&scene.target), "{about}");
                    let told =
                        report.notes.iter().any(|note| matches!(note, Note::Overwritten { .. }));
                    assert_eq!(report.way == Some(Way::Undo), told, "{about}");
                    overwritten += u64::from(told);
                } else {
                    scene.check_recovers().expect(&about);
                }
            }
            let is_done = *can_overwrite && is_closed && way.is_none();
            assert_eq!(overwritten > 0, is_done, "{kind:?}, {way:?}");
        }
    }
}

/// A file system on which something is known to be impossible before it is tried.
#[derive(Debug)]
struct Closed {
    free: Option<u64>,
    /// A file that only another user may replace.
    held: Option<&'static str>,
}

impl Watch for Closed {
    fn before(&self, _: Call<'_>) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> Option<u64> {
        self.free
    }

    fn may_replace(&self, path: &Path) -> bool {
        self.held.is_none_or(|name| !path.ends_with(name))
    }
}

/// How the update went, why not as usual, or what kind of error it was; then nothing was changed.
fn closed(
    scene: &Scene,
    closed: Closed,
    way: Option<Way>,
) -> std::result::Result<(Way, Option<String>), &'static str> {
    scene.reset();
    let report = scene.update_on(&Disk::watched(Arc::new(closed)), way);
    let side = if report.is_ok() { &scene.target } else { &scene.base };
    assert!(scene.holds(side), "{report:?}");
    let report = report.map_err(|error| error.kind())?;
    let mut why = report.notes.into_iter().map(|note| match note {
        Note::Overwritten { why } => why,
        other => panic!("{other:?}"),
    });
    Ok((report.way.unwrap(), why.next()))
}

/// Room is needed for the files that change, and for others.
#[test]
fn without_room_for_what_changes_it_is_overwritten_if_that_is_possible_and_nobody_chose() {
    let scene = Scene::new(true, Coding::Contextual, Way::Redo);
    let needed = scene.target[Path::new("one.safetensors")].len() as u64 + (16 << 20);
    let update = |free, way| closed(&scene, Closed { free, held: None }, way);
    for enough in [Some(needed), Some(u64::MAX), None] {
        assert_eq!(update(enough, None), Ok((Way::Redo, None)), "{enough:?}");
    }
    let short = Some(needed - 1);
    let why = format!("{} bytes are free and {needed} are needed", needed - 1);
    assert_eq!(update(short, None), Ok((Way::Undo, Some(why))));
    assert_eq!(update(short, Some(Way::Undo)), Ok((Way::Undo, None)));
    assert_eq!(update(short, Some(Way::Redo)), Err("io"));
    let moving = Scene::of_other_shards();
    assert_eq!(closed(&moving, Closed { free: short, held: None }, None), Err("io"));
}

/// In a sticky directory, as another user than root.
#[test]
fn what_only_its_owner_may_replace_is_overwritten_if_that_is_possible_and_nobody_chose() {
    let scene = Scene::new(true, Coding::Contextual, Way::Redo);
    let held = |held| Closed { free: None, held: Some(held) };
    let update = |name, way| closed(&scene, held(name), way);
    let (way, why) = update("one.safetensors", None).unwrap();
    assert_eq!(way, Way::Undo);
    assert!(why.unwrap().contains("one.safetensors' in a sticky directory"));
    assert_eq!(update("one.safetensors", Some(Way::Undo)), Ok((Way::Undo, None)));
    assert_eq!(update("one.safetensors", Some(Way::Redo)), Err("not-in-place"));
    // These do not change.
    for name in ["two.safetensors", "config.json"] {
        assert_eq!(update(name, None), Ok((Way::Redo, None)), "{name}");
    }
    for way in [None, Some(Way::Redo), Some(Way::Undo)] {
        assert_eq!(update("state.json", way), Err("not-in-place"));
    }
    let moving = Scene::of_other_shards();
    assert_eq!(closed(&moving, held("one.safetensors"), None), Err("not-in-place"));
}

/// Kills an update that overwrites before each of its operations; `then` gets what is left where the patch
/// that leads back is there and a file is marked.
fn at_every_torn(scene: &Scene, mut then: impl FnMut(&Path, &Contents)) {
    let mut torn = 0;
    for at in 0.. {
        scene.reset();
        let faulty = Faulty::new(at, Fault::Kill);
        let (fired, _) = scene.update(&faulty);
        if !fired {
            break;
        }
        let left = snapshot(&scene.room);
        let marked = |bytes: &Vec<u8>| Mark::of(bytes[..8].try_into().unwrap()).is_some();
        let is_tensors = |name: &Path| name.extension().is_some_and(|end| end == "safetensors");
        let is_marked = left.iter().any(|(name, bytes)| is_tensors(name) && marked(bytes));
        let back = left.keys().find(|name| name.extension().is_some_and(|end| end == "back"));
        if let Some(back) = back.filter(|_| is_marked) {
            torn += 1;
            then(&scene.room.join(back), &left);
        }
    }
    assert!(torn > 4, "{torn}");
}

#[test]
fn without_the_patch_that_leads_back_nothing_is_written_that_needs_it() {
    let scene = Scene::of_two(Way::Undo);
    let none = || Faulty::new(u64::MAX, Fault::None);
    let mut needed = 0;
    at_every_torn(&scene, |back, left| {
        fs::remove_file(back).unwrap();
        let before = snapshot(&scene.room);
        match recovered(&scene, &none()) {
            Ok(_) => assert!(scene.holds(&scene.base) || scene.holds(&scene.target)),
            Err(Error::Unrecovered { .. }) => {
                needed += 1;
                assert_eq!(snapshot(&scene.room), before);
                restore(&scene.room, left);
                scene.check_recovers().unwrap();
            }
            Err(error) => panic!("{error:?}"),
        }
    });
    assert!(needed > 0);
}

/// What the system refuses says nothing of what the files are.
#[test]
fn what_cannot_be_read_while_recovering_is_an_error_of_the_system() {
    let scene = Scene::of_two(Way::Undo);
    at_every_torn(&scene, |_, left| {
        for at in 0.. {
            restore(&scene.room, left);
            let faulty = Faulty::new(at, Fault::Error(io::ErrorKind::PermissionDenied));
            let done = recovered(&scene, &faulty);
            if !faulty.fired() {
                break;
            }
            assert!(matches!(done, Ok(_) | Err(Error::Io { .. })), "{at}: {done:?}");
            scene.check_recovers().unwrap();
        }
    });
}

/// A patch that is whole and leads back from any mixture, but to other weights than those of the base.
#[test]
fn a_patch_that_leads_back_to_another_base_is_not_taken() {
    let scene = Scene::of_two(Way::Undo);
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["target", "other"].map(|name| dir.path().join(name));
    let mut other = scene.base.clone();
    for (name, bytes) in &mut other {
        let target = &scene.target[name];
        if name.extension().is_some_and(|end| end == "safetensors") {
            // Where base and target differ, and in the tensors alone: a third value.
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let differ = (header..bytes.len()).filter(|&at| bytes[at] != target[at]);
            differ.collect::<Vec<_>>().into_iter().for_each(|at| bytes[at] ^= 0x55);
        }
    }
    restore(&from, &scene.target);
    restore(&to, &other);
    let options = EncoderOptions::default()
        .with_coding(Coding::Flat)
        .with_values(ValueForm::Overwrite)
        .with_block_leaves(1);
    let (from, to) = (Checkpoint::open(from).unwrap(), Checkpoint::open(to).unwrap());
    let mut patch = Vec::new();
    diff(Some(&from), &to, &mut patch, options.into(), Control::threads(1)).unwrap();
    let none = || Faulty::new(u64::MAX, Fault::None);
    let (mut refused, mut told) = (0, 0);
    at_every_torn(&scene, |back, left| {
        fs::write(back, &patch).unwrap();
        let before = snapshot(&scene.room);
        match recovered(&scene, &none()) {
            Ok(_) => assert!(scene.holds(&scene.base) || scene.holds(&scene.target)),
            Err(error) => {
                refused += 1;
                let Error::Unrecovered { source, .. } = error else { panic!("{error:?}") };
                let why = "; back: the patch that leads back is of another base";
                told += u64::from(source.to_string().contains(why));
                assert_eq!(snapshot(&scene.room), before);
                restore(&scene.room, left);
                scene.check_recovers().unwrap();
            }
        }
    });
    assert!(refused > 0 && told > 0, "{told} of {refused}");
}

#[test]
fn the_ways_have_names() {
    assert_eq!([Way::Redo, Way::Undo].map(Way::name), ["redo", "undo"]);
}
