//! Outputs appear whole or not at all, and never in the place of something else.

use std::fs;
use std::path::Path;

use pulse::checkpoint::{write_whole, ApplyOptions, Existing};
use pulse::coding::Coding;
use pulse::error::Occupant;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::Error;

use testkit::files::{safetensors, tensor, Files, Place};
use testkit::library::{apply, diff, open, open_patch};

/// A place with "base", "target" and the "patch" between them, as files or as directories.
fn patched(directory: bool) -> (Place, Files) {
    patched_with(directory, EncoderOptions::default())
}

fn patched_with(directory: bool, options: EncoderOptions) -> (Place, Files) {
    let files = |bytes: &[u8]| match (directory, [tensor("w", "U8", &[3], bytes)]) {
        (true, tensors) => {
            Files::many([("model.safetensors", safetensors(&tensors)), ("config.json", vec![])])
        }
        (false, tensors) => Files::one(&tensors),
    };
    let place = Place::new();
    let (base, target) = (place.put("base", &files(b"abc")), place.put("target", &files(b"abd")));
    diff(Some(&base), &target, &place.path("patch"), options, 1);
    (place, files(b"abd"))
}

fn apply_to(
    place: &Place,
    out: &Path,
    existing: Existing,
) -> pulse::Result<pulse::tensors::ApplyReport> {
    let options = ApplyOptions::default().with_existing(existing);
    let base = open(&place.path("base"));
    open_patch(&place.path("patch")).apply(Some(&base), out, options, Control::threads(2))
}

#[test]
fn a_place_that_is_taken_is_refused_and_left_untouched() {
    for directory in [false, true] {
        let (place, _) = patched(directory);
        place.put_bytes("file", b"mine");
        place.put("full", &Files::many([("mine", b"mine".to_vec())]));
        for (name, shown) in [
            ("file", Occupant::File),
            ("full", Occupant::Directory),
            ("base", Occupant::Input),
            ("patch", Occupant::Input),
        ] {
            let error = place
                .untouched(|| apply_to(&place, &place.path(name), Existing::Refuse).unwrap_err());
            let Error::Exists { path, found } = &error else { panic!("{name}: {error}") };
            assert_eq!((path, *found), (&place.path(name), shown));
            assert!(error.to_string().contains(name), "{error}");
        }
        // Directories are not replaced even if replacing was asked for, but for an empty one.
        let error = place
            .untouched(|| apply_to(&place, &place.path("full"), Existing::Replace).unwrap_err());
        assert!(matches!(error, Error::Exists { found: Occupant::Directory, .. }), "{error}");
    }
}

#[test]
fn an_empty_directory_is_a_place_for_a_directory() {
    let (place, target) = patched(true);
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    apply_to(&place, &empty, Existing::Refuse).unwrap();
    Files::read(&empty).assert_same(&target);
    // Not for a file.
    let (place, _) = patched(false);
    fs::create_dir(place.path("empty")).unwrap();
    for existing in [Existing::Refuse, Existing::Replace] {
        let error =
            place.untouched(|| apply_to(&place, &place.path("empty"), existing).unwrap_err());
        assert!(matches!(error, Error::Exists { found: Occupant::Directory, .. }), "{error}");
    }
}

#[test]
fn a_file_is_replaced_if_asked_for() {
    let (place, target) = patched(false);
    place.put_bytes("file", b"mine");
    apply_to(&place, &place.path("file"), Existing::Replace).unwrap();
    Files::read(&place.path("file")).assert_same(&target);
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 4);
}

/// By its name, by another name of the same file, through a link, and inside a directory.
#[test]
fn an_input_is_never_replaced_by_whatever_name() {
    let (place, _) = patched(false);
    let mut names = vec!["base".to_string(), "patch".into(), "./patch".into()];
    fs::hard_link(place.path("base"), place.path("other name")).unwrap();
    names.push("other name".into());
    if cfg!(unix) {
        #[cfg(unix)]
        std::os::unix::fs::symlink(place.path("patch"), place.path("link")).unwrap();
        names.push("link".into());
    }
    for name in &names {
        let out = place.root().join(name);
        let error = place.untouched(|| apply_to(&place, &out, Existing::Replace).unwrap_err());
        assert!(matches!(error, Error::Exists { found: Occupant::Input, .. }), "{name}: {error}");
        assert_eq!(error.advice().unwrap().name(), "choose-another-place");
    }
    // A patch is an input of its inverse.
    let (place, _) = patched_with(false, EncoderOptions::default().with_coding(Coding::Flat));
    let options = ApplyOptions::default().with_existing(Existing::Replace);
    let target = open(&place.path("target"));
    for name in ["patch", "target"] {
        let error = place.untouched(|| {
            let patch = open_patch(&place.path("patch"));
            patch.revert(&target, place.path(name), options, Control::threads(1)).unwrap_err()
        });
        assert!(matches!(error, Error::Exists { found: Occupant::Input, .. }), "{name}: {error}");
    }
    // A file of a directory that is an input.
    let (place, _) = patched(true);
    let (base, shard) = (place.path("base"), place.path("base/model.safetensors"));
    let write = || write_whole(&shard, Existing::Replace, &[&base], |_| Ok(()));
    let error = place.untouched(|| write().unwrap_err());
    assert!(matches!(error, Error::Exists { found: Occupant::Input, .. }), "{error}");
    write_whole(base.join("new"), Existing::Replace, &[&base], |_| Ok(())).unwrap();
}

/// At whatever depth, and by whatever name.
#[cfg(unix)]
#[test]
fn no_file_below_an_input_is_replaced() {
    let (place, _) = patched(true);
    let base = place.path("base");
    fs::create_dir_all(base.join("unet/deep")).unwrap();
    let shard = base.join("unet/deep/model.safetensors");
    fs::write(&shard, "shard").unwrap();
    fs::hard_link(&shard, place.path("other name")).unwrap();
    std::os::unix::fs::symlink(&shard, place.path("link")).unwrap();
    std::os::unix::fs::symlink(&base, place.path("link to base")).unwrap();
    for out in ["base/unet/deep/model.safetensors", "other name", "link"] {
        for input in ["base", "link to base"].map(|name| place.path(name)) {
            let write = || write_whole(place.path(out), Existing::Replace, &[&input], |_| Ok(()));
            let error = place.untouched(|| write().unwrap_err());
            assert!(matches!(error, Error::Exists { found: Occupant::Input, .. }), "{error}");
        }
    }
}

/// Nobody is told to remove an input to make room.
#[test]
fn an_output_in_the_place_of_an_input_is_told_so_before_all_else() {
    let (place, _) = patched(true);
    for name in ["base", "patch", "base/model.safetensors"] {
        for existing in [Existing::Refuse, Existing::Replace] {
            let run = || apply_to(&place, &place.path(name), existing).unwrap_err();
            let error = place.untouched(run);
            assert!(matches!(error, Error::Exists { found: Occupant::Input, .. }), "{error}");
        }
    }
}

#[test]
fn a_name_that_only_a_directory_can_have_is_refused_before_any_work() {
    let place = Place::new();
    let out = format!("{}/", place.path("out").display());
    let work = |_: &mut dyn std::io::Write| -> pulse::Result<()> { panic!("work was done") };
    let error = write_whole(&out, Existing::Refuse, &[], work).unwrap_err();
    assert_eq!(error.kind(), "checkpoint", "{error}");
    assert_eq!(place.contents().len(), 0);
}

/// Readers would take it for the checkpoint of that journal.
#[test]
fn nothing_is_written_beside_a_journal_of_its_name() {
    for directory in [false, true] {
        let (place, _) = patched(directory);
        place.put_bytes(".out.pulse-undo", b"");
        let run = || apply_to(&place, &place.path("out"), Existing::Refuse).unwrap_err();
        assert_eq!(place.untouched(run).kind(), "interrupted");
    }
}

#[cfg(unix)]
#[test]
fn devices_pipes_sockets_and_links_to_nowhere_stay() {
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    let (place, _) = patched(false);
    let _socket = UnixListener::bind(place.path("socket")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("link")).unwrap();
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = |name: &str| {
        let error = apply_to(&place, &place.path(name), Existing::Replace).unwrap_err();
        let Error::Exists { found, .. } = error else { panic!("{error}") };
        found
    };
    assert_eq!(refused("socket"), Occupant::Special);
    assert_eq!(refused("pipe"), Occupant::Special);
    assert_eq!(refused("link"), Occupant::Link);
    let write = |file: &mut dyn std::io::Write| {
        file.write_all(b"written as it is made").unwrap();
        Ok(())
    };
    let error = write_whole(place.path("socket"), Existing::Replace, &[], write).unwrap_err();
    assert!(matches!(error, Error::Exists { found: Occupant::Special, .. }), "{error}");
    // What is written from its start to its end goes into a pipe, which stays one.
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut read = Vec::new();
            fs::File::open(pipe).unwrap().read_to_end(&mut read).unwrap();
            read
        }
    });
    write_whole(&pipe, Existing::Refuse, &[], write).unwrap();
    assert_eq!(reader.join().unwrap(), b"written as it is made");
    write_whole("/dev/null", Existing::Replace, &[], write).unwrap();
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
}

#[cfg(unix)]
#[test]
fn mode_and_owner_of_what_is_replaced_stay() {
    use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
    let (place, _) = patched(false);
    let out = place.put_bytes("out", b"mine");
    // Not everyone may give a file away; whoever may not keeps it.
    let _ = chown(&out, Some(65534), Some(65534));
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    let access = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode(), metadata.uid(), metadata.gid())
    };
    let before = access(&out);
    apply_to(&place, &out, Existing::Replace).unwrap();
    assert_eq!(access(&out), before);
    let (place, _) = patched(true);
    let out = place.path("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o2750)).unwrap();
    let before = access(&out);
    apply_to(&place, &out, Existing::Refuse).unwrap();
    assert_eq!(access(&out), before);
    // Its files have the group that it gives to those that are made in it.
    assert_eq!(access(&out.join("config.json")).2, before.2);
    // The right to run as its owner is not for bytes from elsewhere.
    let (place, _) = patched(false);
    let out = place.put_bytes("out", b"mine");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o6755)).unwrap();
    apply_to(&place, &out, Existing::Replace).unwrap();
    assert_eq!(access(&out).0 & 0o7777, 0o755);
}

/// What is there when the output takes its name must be what was there when the work began.
#[test]
fn a_place_that_is_taken_meanwhile_is_left_alone() {
    let place = Place::new();
    let out = place.path("out");
    for existing in [Existing::Refuse, Existing::Replace] {
        let error = write_whole(&out, existing, &[], |_| {
            fs::write(&out, "mine").unwrap();
            Ok(())
        })
        .unwrap_err();
        assert!(matches!(error, Error::Exists { found: Occupant::File, .. }), "{error}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
        fs::remove_file(&out).unwrap();
        assert_eq!(place.contents().len(), 0);
    }
}

/// What was agreed to be replaced is that file, not the one that has its name by now.
#[cfg(unix)]
#[test]
fn a_file_that_takes_the_name_of_the_replaced_one_is_left_alone() {
    let place = Place::new();
    let (out, theirs) = (place.put_bytes("out", b"mine"), place.put_bytes("theirs", b"theirs"));
    let error = write_whole(&out, Existing::Replace, &[], |_| {
        fs::rename(&theirs, &out).unwrap();
        Ok(())
    })
    .unwrap_err();
    assert!(matches!(error, Error::Exists { found: Occupant::File, .. }), "{error}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "theirs");
    // The name of one that is gone is free.
    write_whole(&out, Existing::Replace, &[], |_| {
        fs::remove_file(&out).unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), "");
    assert_eq!(place.contents().len(), 1);
}

#[test]
fn a_file_that_cannot_be_replaced_is_left_untouched() {
    // The target is a directory, which does not take the place of a file.
    let (place, _) = patched(true);
    place.put_bytes("file", b"mine");
    place.untouched(|| apply_to(&place, &place.path("file"), Existing::Replace).unwrap_err());
}

#[test]
fn of_many_that_write_to_the_same_place_one_wins() {
    for directory in [false, true] {
        let (place, target) = patched(directory);
        let before = place.contents().len();
        let done = std::thread::scope(|scope| {
            let threads = [(); 8].map(|()| {
                scope.spawn(|| apply_to(&place, &place.path("out"), Existing::Refuse).is_ok())
            });
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(done.into_iter().filter(|&done| done).count(), 1);
        Files::read(&place.path("out")).assert_same(&target);
        assert_eq!(place.contents().len(), before + if directory { 3 } else { 1 });
    }
}

#[test]
fn a_missing_parent_directory_is_an_error_that_names_the_place() {
    for directory in [false, true] {
        let (place, _) = patched(directory);
        let error = place.untouched(|| {
            apply_to(&place, &place.path("no/such/out"), Existing::Refuse).unwrap_err()
        });
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("no/such/out"), "{error}");
    }
}

#[test]
fn a_result_that_is_wrong_replaces_nothing() {
    let (place, _) = patched(false);
    place.put_bytes("file", b"mine");
    fs::remove_file(place.path("base")).unwrap();
    place.put("base", &Files::one(&[tensor("w", "U8", &[4], *b"abcd")]));
    let error =
        place.untouched(|| apply_to(&place, &place.path("file"), Existing::Replace).unwrap_err());
    assert_eq!(error.kind(), "base");
}

/// R66, R79.
#[test]
fn a_write_that_fails_leaves_nothing() {
    let place = Place::new();
    let path = place.path("patch");
    let failing = |file: &mut dyn std::io::Write| {
        file.write_all(&[1; 1_000_000]).unwrap();
        Err::<(), _>(Error::Misuse("no more".into()))
    };
    let error = place.untouched(|| write_whole(&path, Existing::Refuse, &[], failing).unwrap_err());
    assert_eq!(error.to_string(), "no more");
    place.put_bytes("patch", b"mine");
    place.untouched(|| write_whole(&path, Existing::Replace, &[], failing).unwrap_err());
    place.untouched(|| write_whole(&path, Existing::Refuse, &[], |_| Ok(())).unwrap_err());
    write_whole(&path, Existing::Replace, &[], |_| Ok(())).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"");
}

#[cfg(unix)]
#[test]
fn outputs_have_the_permissions_of_ordinary_files() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let (place, _) = patched(true);
    let (file, directory) = (place.put_bytes("file", b""), place.path("directory"));
    fs::create_dir(&directory).unwrap();
    let out = place.path("out");
    apply_to(&place, &out, Existing::Refuse).unwrap();
    assert_eq!(mode(&out), mode(&directory));
    assert_eq!(mode(&out.join("model.safetensors")), mode(&file));
    assert_eq!(mode(&out.join("config.json")), mode(&file));
    write_whole(place.path("whole"), Existing::Refuse, &[], |_| Ok(())).unwrap();
    assert_eq!(mode(&place.path("whole")), mode(&file));
}

#[cfg(unix)]
/// R79: what is written follows no link; the file that a link leads to is replaced whole.
#[test]
fn a_link_in_the_place_stays_and_what_it_leads_to_is_replaced_whole() {
    let (place, target) = patched(false);
    fs::create_dir(place.path("elsewhere")).unwrap();
    let mine = place.put_bytes("elsewhere/mine", b"mine");
    let held = fs::File::open(&mine).unwrap();
    std::os::unix::fs::symlink(&mine, place.path("link")).unwrap();
    place.untouched(|| apply_to(&place, &place.path("link"), Existing::Refuse).unwrap_err());
    apply_to(&place, &place.path("link"), Existing::Replace).unwrap();
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    Files::read(&mine).assert_same(&target);
    // Another file took its name: who has the old one open still reads it.
    assert_eq!(std::io::read_to_string(held).unwrap(), "mine");
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 1);
}

#[test]
fn a_damaged_patch_writes_nothing() {
    let (place, _) = patched(false);
    let good = fs::read(place.path("patch")).unwrap();
    for bytes in [&good[..good.len() - 1], &[], &[&good[..], &[0]].concat()] {
        place.put_bytes("patch", bytes);
        place.untouched(|| {
            apply(Some(&place.path("base")), &place.path("patch"), &place.path("out")).unwrap_err()
        });
    }
}

/// A process that is killed leaves what it had half written. The next one beside it removes that, unless
/// another holds it, and nothing else that looks like it.
#[test]
fn what_killed_processes_left_is_removed_by_the_next() {
    let place = Place::new();
    let left = place.put_bytes(".pulse-partial-abcdefABCDEF", b"half");
    fs::create_dir(place.path(".pulse-partial-000000000000")).unwrap();
    place.put_bytes(".pulse-partial-000000000000/model.safetensors", b"half");
    let mine = [".pulse-partial-", ".pulse-partial-notes", ".pulse-partial-abcdefABCDE-"];
    mine.iter().for_each(|name| drop(place.put_bytes(name, b"mine")));
    let held = fs::File::open(place.put_bytes(".pulse-partial-111111111111", b"half")).unwrap();
    held.lock_shared().unwrap();
    let write = |name: &str| {
        write_whole(place.path(name), Existing::Refuse, &[], |out| {
            std::io::Write::write_all(out, b"x").unwrap();
            Ok(())
        })
        .unwrap()
    };
    write("one");
    assert!(!left.exists() && !place.path(".pulse-partial-000000000000").exists());
    assert!(mine.iter().all(|name| place.path(name).exists()));
    assert!(place.path(".pulse-partial-111111111111").exists());
    drop(held);
    write("two");
    assert!(!place.path(".pulse-partial-111111111111").exists());
}
