//! Journals of earlier builds.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::scene::{restore, snapshot, Scene};
use super::situations::elsewhere;
use crate::disk::mark::Mark;
use crate::disk::{Call, Disk, Watch};
use crate::tensors::Control;
use crate::update::recover::recover_on;
use crate::update::{Recovered, Way};

/// What is synced until the first file is marked.
#[derive(Debug, Default)]
struct Syncs {
    synced: Mutex<Vec<PathBuf>>,
    before_the_marks: Mutex<Option<Vec<PathBuf>>>,
}

impl Watch for Syncs {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let mut synced = self.synced.lock().unwrap();
        match call {
            Call::Sync(path) | Call::SyncDirectory(path) => synced.push(path.into()),
            Call::Write { offset: 0, bytes, .. }
                if bytes.try_into().is_ok_and(|head| Mark::of(head).is_some()) =>
            {
                self.before_the_marks.lock().unwrap().get_or_insert_with(|| synced.clone());
            }
            _ => {}
        }
        Ok(())
    }
}

/// From the marks on the new journal is the only way back.
#[test]
fn a_journal_of_earlier_builds_is_on_disk_in_its_new_place_before_a_file_is_marked() {
    let scene = Scene::of_two(Way::Undo);
    restore(&scene.room, &scene.target);
    let journal = scene.room.with_file_name(".room.pulse-undo");
    let back = elsewhere(&scene, |scene, name| scene.base[&PathBuf::from(name)].clone());
    std::fs::write(&journal, back).unwrap();
    let syncs = Arc::new(Syncs::default());
    let disk = Disk::watched(syncs.clone());
    let found = recover_on(&disk, &scene.checkpoint, Control::threads(1)).unwrap();
    assert!(matches!(found.outcome, Recovered::RolledBack { .. }), "{found:?}");
    let files = snapshot(&scene.room);
    for name in ["one.safetensors", "two.safetensors"].map(PathBuf::from) {
        assert!(files[&name] == scene.base[&name], "{}", name.display());
    }
    assert!(!journal.exists());
    let synced = syncs.before_the_marks.lock().unwrap().take().expect("marks");
    for end in ["back", "undo"] {
        let is_synced = synced.iter().any(|path| path.extension().is_some_and(|own| own == end));
        assert!(is_synced, "{end}: {synced:?}");
    }
    assert!(synced.contains(&scene.room), "{synced:?}");
}
