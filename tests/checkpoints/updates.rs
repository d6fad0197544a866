//! Updates in place: the target, or everything as it was, and a reason.

use std::fs::{self, File};
use std::ops::ControlFlow;

use pulse::checkpoint::FilePolicy;
use pulse::error::{Advice, FileFault, Made};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::{recover, Recovered, Recovery, UpdateOptions, UpdateReport, Way};
use pulse::{Checkpoint, Error};

use testkit::files::{
    header, noise, raw, safetensors, stepped, tensor, weights, Files, Place, Tensor,
};
use testkit::forge;
use testkit::library::{diff, every_coding, open, open_patch};

fn model() -> Vec<Tensor> {
    vec![tensor("a", "BF16", &[300, 300], weights(1, 90_000)), tensor("b", "U8", &[7], noise(2, 7))]
}

fn target() -> Vec<Tensor> {
    let mut tensors = model();
    tensors[0].bytes = stepped(&tensors[0].bytes, 2, 99);
    tensors
}

/// A place with "checkpoint", which is the base, "target", and the "patch" between them.
fn scene(base: &Files, target: &Files) -> Place {
    let place = Place::new();
    let (base, target) = (place.put("checkpoint", base), place.put("target", target));
    diff(
        Some(&base),
        &target,
        &place.path("patch"),
        EncoderOptions::default().with_steps(40, 41),
        1,
    );
    place
}

fn step() -> Place {
    scene(&Files::one(&model()), &Files::one(&target()))
}

fn updated(place: &Place) -> pulse::Result<UpdateReport> {
    open_patch(&place.path("patch")).update(
        place.path("checkpoint"),
        UpdateOptions::default(),
        Control::threads(2),
    )
}

#[track_caller]
fn refused(place: &Place, kind: &str, needles: &[&str]) {
    let error = place.untouched(|| updated(place).unwrap_err());
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(
        needles.iter().all(|needle| text.contains(needle)),
        "{text:?} without one of {needles:?}"
    );
}

#[test]
fn every_coding_and_any_number_of_threads_lead_to_the_target() {
    for options in every_coding() {
        for threads in [1, 2, 5] {
            let place = step();
            let checkpoint = place.path("checkpoint");
            diff(
                Some(&checkpoint),
                &place.path("target"),
                &place.path("patch"),
                options.clone(),
                1,
            );
            let patch = open_patch(&place.path("patch"));
            for way in [Way::Redo, Way::Undo] {
                place.put("checkpoint", &Files::one(&model()));
                let options = UpdateOptions::default().with_way(way);
                let report = patch.update(&checkpoint, options, Control::threads(threads)).unwrap();
                let files = report.target.files;
                assert_eq!((report.way, files, report.notes), (Some(way), 1, vec![]));
                assert_eq!(report.recovery, Recovery::default());
                assert_eq!(report.target.target, patch.footer().target);
                Files::read(&checkpoint).assert_same(&Files::one(&target()));
                // Nothing is left beside it.
                assert_eq!(fs::read_dir(place.root()).unwrap().count(), 3);
            }
            assert!(place.untouched(|| patch
                .update(&checkpoint, UpdateOptions::default(), Control::threads(threads))
                .unwrap()
                .already()));
        }
    }
}

#[test]
fn headers_and_companions_of_a_directory_change_too() {
    let files = |tensors: &[Tensor], step: &str| {
        let note = format!(r#""__metadata__":{{"step":"{step}"}}"#);
        let json = header(tensors, &[&note]);
        raw(&json, &testkit::files::data(tensors))
    };
    let base = Files::many([
        ("model.safetensors", files(&model(), "40")),
        ("config.json", b"{}".to_vec()),
        ("state.json", b"40".to_vec()),
    ]);
    let target = Files::many([
        ("model.safetensors", files(&target(), "41")),
        ("config.json", b"{}".to_vec()),
        ("state.json", b"41, and longer".to_vec()),
        ("new.json", b"[]".to_vec()),
    ]);
    let place = scene(&base, &target);
    assert_eq!(updated(&place).unwrap().target.files, 3);
    Files::read(&place.path("checkpoint")).assert_same(&target);
    assert!(place.untouched(|| updated(&place).unwrap().already()));
}

#[test]
fn a_patch_that_changes_nothing_finds_the_target() {
    let place = scene(&Files::one(&model()), &Files::one(&model()));
    assert!(place.untouched(|| updated(&place).unwrap().already()));
}

#[test]
fn a_wrong_base_is_refused_and_left_untouched() {
    for wrong in [stepped(&model()[0].bytes, 2, 1000), weights(9, 90_000)] {
        let place = step();
        let mut tensors = model();
        tensors[0].bytes = wrong;
        place.put("checkpoint", &Files::one(&tensors));
        refused(&place, "base", &["wrong base", "tensor 'a'"]);
    }
    // Only a tensor differs that the patch does not speak of.
    let place = step();
    let mut tensors = model();
    tensors[1].bytes[0] ^= 1;
    place.put("checkpoint", &Files::one(&tensors));
    refused(&place, "base", &["wrong base"]);
    // Tensors are missing, or more than in the base: no bytes are needed to tell.
    for tensors in [model()[..1].to_vec(), [model(), vec![tensor("c", "U8", &[1], [1])]].concat()] {
        let place = step();
        place.put("checkpoint", &Files::one(&tensors));
        refused(&place, "base", &["wrong base"]);
    }
}

/// Whichever way: that a patch does not give its own target is known before a byte changes.
#[test]
fn a_lying_patch_leaves_the_base_untouched() {
    let place = step();
    let good = fs::read(place.path("patch")).unwrap();
    let target = open_patch(&place.path("patch")).footer().target;
    place.put_bytes("patch", &forge::replaced(&good, b'F', &target.0, &[7; 32]));
    let patch = open_patch(&place.path("patch"));
    for way in [Way::Redo, Way::Undo] {
        let options = UpdateOptions::default().with_way(way);
        let update = || patch.update(place.path("checkpoint"), options, Control::threads(2));
        let error = place.untouched(|| update().unwrap_err());
        assert!(matches!(error, Error::WrongResult { .. }), "{way:?}: {error:?}");
    }
}

/// Tensors that come, go, move or change their dtype, headers of another length, other shards.
fn restructured() -> Vec<(&'static str, Files, Files)> {
    let one = |tensors: &[Tensor]| Files::one(tensors);
    let with = |more: Tensor| one(&[target(), vec![more]].concat());
    let mut other = target();
    other[1] = tensor("b", "I8", &[7], noise(2, 7));
    let pair = [tensor("a", "U8", &[7], noise(1, 7)), tensor("b", "U8", &[7], noise(2, 7))];
    let mut swapped = pair.clone();
    swapped.reverse();
    let longer = raw(&(header(&target(), &[]) + "  "), &testkit::files::data(&target()));
    let shards = |files: &[(&str, &[Tensor])]| {
        let shards = files.iter().map(|(name, tensors)| (name.to_string(), safetensors(tensors)));
        Files::Many(shards.chain([("config.json".to_string(), b"{}".to_vec())]).collect())
    };
    vec![
        ("tensor 'c' is added", one(&model()), with(tensor("c", "U8", &[1], [1]))),
        ("tensor 'b' is deleted", one(&model()), one(&target()[..1])),
        ("tensor 'b' is replaced", one(&model()), one(&other)),
        ("moves", one(&pair), one(&swapped)),
        ("headers", one(&model()), Files::One(longer)),
        (
            "the tensor files",
            shards(&[("model.safetensors", &model())]),
            shards(&[("a.safetensors", &target()[..1]), ("b.safetensors", &target()[1..])]),
        ),
        (
            "the tensor files",
            shards(&[("a.safetensors", &model()[..1]), ("b.safetensors", &model()[1..])]),
            shards(&[("b.safetensors", &target())]),
        ),
    ]
}

#[test]
fn what_moves_adds_or_replaces_tensors_is_made_beside_and_never_overwritten() {
    for (what, base, target) in restructured() {
        let place = scene(&base, &target);
        let (checkpoint, patch) = (place.path("checkpoint"), open_patch(&place.path("patch")));
        let update = |way: Option<Way>| {
            patch.update(&checkpoint, UpdateOptions::default().with_way(way), Control::threads(2))
        };
        let error = place.untouched(|| update(Some(Way::Undo)).unwrap_err());
        assert_eq!(error.kind(), "not-in-place");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(update(None).unwrap().way, Some(Way::Redo), "{what}");
        Files::read(&checkpoint).assert_same(&target);
        assert!(place.untouched(|| update(None).unwrap().already()), "{what}");
    }
}

#[test]
fn a_snapshot_is_refused() {
    let place = step();
    diff(None, &place.path("target"), &place.path("patch"), EncoderOptions::default(), 1);
    refused(&place, "not-in-place", &["snapshot"]);
}

#[cfg(unix)]
#[test]
fn linked_files_are_refused_because_others_would_see_them_change() {
    let place = step();
    fs::rename(place.path("checkpoint"), place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("checkpoint")).unwrap();
    refused(&place, "checkpoint", &["is a link"]);

    let place = step();
    fs::hard_link(place.path("checkpoint"), place.path("other")).unwrap();
    refused(&place, "checkpoint", &["2 names"]);

    let directory = |tensors: &[Tensor]| Files::many([("model.safetensors", safetensors(tensors))]);
    let place = scene(&directory(&model()), &directory(&target()));
    fs::hard_link(place.path("checkpoint/model.safetensors"), place.path("other")).unwrap();
    refused(&place, "checkpoint", &["model.safetensors", "2 names"]);

    // A link to the directory itself leads to the one place where it is.
    let place = scene(&directory(&model()), &directory(&target()));
    std::os::unix::fs::symlink(place.path("checkpoint"), place.path("link")).unwrap();
    open_patch(&place.path("patch"))
        .update(place.path("link"), UpdateOptions::default(), Control::threads(1))
        .unwrap();
    Files::read(&place.path("checkpoint")).assert_same(&directory(&target()));
}

/// Whoever reads or changes a file has it, by whatever name.
#[test]
fn another_process_on_the_same_file_is_kept_out() {
    let place = step();
    let checkpoint = place.path("checkpoint");
    let file = File::open(&checkpoint).unwrap();
    file.lock().unwrap();
    refused(&place, "busy", &["another process"]);
    let error = Checkpoint::open(&checkpoint).unwrap_err();
    assert!(matches!(&error, Error::Busy { path } if path.ends_with("checkpoint")), "{error}");
    assert_eq!(error.advice(), Some(Advice::Wait));
    drop(file);

    // Readers let one another in, but nobody who changes what they read.
    let [reader, other] = [(); 2].map(|()| open(&checkpoint));
    refused(&place, "busy", &["or has locked it to read it"]);
    drop((reader, other));
    updated(&place).unwrap();
    Files::read(&checkpoint).assert_same(&Files::one(&target()));
}

/// What has the old file open goes on with it: the new one has only its name.
#[cfg(unix)]
#[test]
fn a_file_that_is_open_keeps_its_bytes_and_its_access() {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let place = step();
    let checkpoint = place.path("checkpoint");
    fs::set_permissions(&checkpoint, fs::Permissions::from_mode(0o640)).unwrap();
    let (before, held) = (fs::read(&checkpoint).unwrap(), File::open(&checkpoint).unwrap());
    updated(&place).unwrap();
    let mut bytes = vec![0; before.len() - 8];
    held.read_exact_at(&mut bytes, 8).unwrap();
    assert!(bytes == before[8..], "the old file was changed");
    assert_eq!(fs::metadata(&checkpoint).unwrap().permissions().mode() & 0o777, 0o640);
}

#[cfg(unix)]
#[test]
fn a_directory_that_cannot_be_written_to_is_an_error_that_names_it() {
    use std::os::unix::fs::PermissionsExt;
    let place = step();
    fs::create_dir(place.path("locked")).unwrap();
    fs::rename(place.path("checkpoint"), place.path("locked/checkpoint")).unwrap();
    fs::set_permissions(place.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    let probe = File::create(place.path("locked/probe"));
    if probe.is_ok() {
        // Whoever may do everything cannot be kept out.
        return;
    }
    let patch = open_patch(&place.path("patch"));
    let error = patch
        .update(place.path("locked/checkpoint"), UpdateOptions::default(), Control::threads(1))
        .unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
}

/// The journal that an update of an earlier build, which leads to `target`, would have written.
fn journal(place: &Place) {
    let overwrite = every_coding()[3].clone();
    let written = place.path("journal");
    diff(Some(&place.path("target")), &place.path("checkpoint"), &written, overwrite, 1);
    fs::rename(written, place.path(".checkpoint.pulse-undo")).unwrap();
}

#[test]
fn a_checkpoint_with_a_journal_is_not_used_until_it_is_recovered() {
    let place = step();
    journal(&place);
    // Half of it is the target already.
    let (base, target) = (Files::one(&model()), safetensors(&target()));
    let mut torn = safetensors(&model());
    let half = torn.len() / 2 + 1;
    torn[..half].copy_from_slice(&target[..half]);
    fs::write(place.path("checkpoint"), torn).unwrap();
    let error = place.untouched(|| Checkpoint::open(place.path("checkpoint")).unwrap_err());
    assert!(
        matches!(&error, Error::Interrupted { path, .. } if path.ends_with("checkpoint")),
        "{error}"
    );
    assert_eq!(error.advice(), Some(Advice::Recover));

    let recovery = recover(place.path("checkpoint"), Control::threads(1)).unwrap();
    let digest = open(&place.path("checkpoint")).digest(Control::threads(1)).unwrap();
    assert_eq!(recovery.outcome, Recovered::RolledBack { base: digest, base_step: None });
    Files::read(&place.path("checkpoint")).assert_same(&base);
    let again = recover(place.path("checkpoint"), Control::threads(1)).unwrap();
    assert_eq!(again, Recovery::default());
}

#[test]
fn a_journal_of_a_directory_brings_back_companions_too() {
    let files = |tensors: &[Tensor], step: &str| {
        Files::many([
            ("model.safetensors", safetensors(tensors)),
            ("config.json", b"{}".to_vec()),
            ("state.json", step.as_bytes().to_vec()),
        ])
    };
    let (base, target) = (files(&model(), "40"), files(&target(), "41, and more"));
    let place = scene(&base, &target);
    journal(&place);
    // The tensors were changed, and the companion was torn.
    let torn = safetensors(&self::target());
    fs::write(place.path("checkpoint/model.safetensors"), torn).unwrap();
    fs::write(place.path("checkpoint/state.json"), "41, an").unwrap();
    let recovery = recover(place.path("checkpoint"), Control::threads(1)).unwrap();
    assert!(matches!(recovery.outcome, Recovered::RolledBack { .. }), "{recovery:?}");
    Files::read(&place.path("checkpoint")).assert_same(&base);
    assert!(!place.path(".checkpoint.pulse-undo").exists());
}

#[test]
fn a_recovery_that_is_stopped_keeps_the_journal_for_the_next() {
    let place = step();
    journal(&place);
    let stop = |_| ControlFlow::Break(());
    let control = Control::threads(1).with_progress(&stop);
    let error = recover(place.path("checkpoint"), control).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert!(place.path(".checkpoint.pulse-undo").exists());
    let recovery = recover(place.path("checkpoint"), Control::threads(1)).unwrap();
    assert!(matches!(recovery.outcome, Recovered::RolledBack { .. }));
    Files::read(&place.path("checkpoint")).assert_same(&Files::one(&model()));
}

#[test]
fn a_journal_that_is_damaged_or_of_another_checkpoint_stays_and_nothing_changes() {
    let place = step();
    journal(&place);
    let undo = place.path(".checkpoint.pulse-undo");
    let mut bytes = fs::read(&undo).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&undo, &bytes).unwrap();
    for attempt in [
        |place: &Place| recover(place.path("checkpoint"), Control::threads(1)).unwrap_err(),
        |place: &Place| updated(place).unwrap_err(),
    ] {
        let error = place.untouched(|| attempt(&place));
        let Error::Unrecovered { path, source, update: None } = &error else { panic!("{error}") };
        assert!(path.ends_with(".checkpoint.pulse-undo") && source.kind() == "crc", "{error}");
        assert_eq!(source.file(), Some(&**path));
        assert_eq!(error.advice(), Some(Advice::FetchCheckpointAgain));
    }

    let place = step();
    journal(&place);
    let mut other = model();
    other[1].bytes[0] ^= 1;
    place.put("checkpoint", &Files::one(&other));
    let error = recover(place.path("checkpoint"), Control::threads(1)).unwrap_err();
    let Error::Unrecovered { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(&**source, Error::WrongResult { made: Made::Checkpoint, .. }), "{error}");
    assert!(place.path(".checkpoint.pulse-undo").exists());
}

#[test]
fn an_unfinished_journal_means_that_nothing_was_changed() {
    let place = step();
    place.put_bytes(".checkpoint.pulse-undo-new", b"half of a journ");
    // Whatever has the name and is no journal is someone's own.
    let mine = || recover(place.path("checkpoint"), Control::threads(1)).unwrap();
    assert_eq!(mine(), Recovery::default());
    assert!(place.path(".checkpoint.pulse-undo-new").exists());
    place.put_bytes(".checkpoint.pulse-undo-new", b"\xabPLS\r\n half of a journal");
    assert_eq!(mine().outcome, Recovered::Untouched);
    place.put_bytes(".checkpoint.pulse-lock", b"");
    let report = updated(&place).unwrap();
    assert_eq!((report.already(), report.recovery.outcome), (false, Recovered::Untouched));
    Files::read(&place.path("checkpoint")).assert_same(&Files::one(&target()));
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() {
    let place = step();
    let patch = open_patch(&place.path("patch"));
    for path in [place.path("nothing"), place.path("nothing/deeper")] {
        for error in [
            patch.update(&path, UpdateOptions::default(), Control::threads(1)).unwrap_err(),
            recover(&path, Control::threads(1)).unwrap_err(),
        ] {
            assert!(
                matches!(error, Error::Io { .. }) && error.to_string().contains("nothing"),
                "{error}"
            );
        }
    }
    let error = patch.update("/", UpdateOptions::default(), Control::threads(1)).unwrap_err();
    assert!(matches!(&error, Error::BadFile { fault: FileFault::Root, .. }), "{error}");
}

#[test]
fn a_patch_that_is_cut_short_after_it_was_opened_changes_nothing() {
    let place = step();
    let patch = open_patch(&place.path("patch"));
    let before = fs::read(place.path("checkpoint")).unwrap();
    File::options().write(true).open(place.path("patch")).unwrap().set_len(40).unwrap();
    let error = patch
        .update(place.path("checkpoint"), UpdateOptions::default(), Control::threads(2))
        .unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(fs::read(place.path("checkpoint")).unwrap() == before);
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 3);
}

/// What is in the place of a companion that the patch creates is not of the base: it could not be put
/// back. Nor does an update leave weights beside the shards that some loaders would read instead.
#[test]
fn what_is_no_file_of_the_base_is_not_overwritten() {
    let shard = |byte| safetensors(&[tensor("w", "U8", &[1], [byte])]);
    let index = |file: &str| format!(r#"{{"weight_map":{{"w":"{file}"}}}}"#).into_bytes();
    let files = |byte, index: Option<Vec<u8>>| {
        let mut files = vec![("1.safetensors".to_string(), shard(byte))];
        files.extend(index.map(|index| ("model.safetensors.index.json".to_string(), index)));
        Files::Many(files.into_iter().collect())
    };
    let place = Place::new();
    let base = place.put("base", &files(1, Some(index("gone.safetensors"))));
    let target = place.put("target", &files(2, Some(index("1.safetensors"))));
    let patch = place.path("patch");
    diff(Some(&base), &target, &patch, EncoderOptions::default(), 1);
    let update = |base: &std::path::Path| {
        place.untouched(|| {
            open_patch(&patch)
                .update(base, UpdateOptions::default(), Control::threads(1))
                .unwrap_err()
        })
    };
    assert_eq!(update(&base).kind(), "not-in-place");

    let base = place.put("second", &files(1, Some(index("1.safetensors"))));
    fs::write(base.join("model.safetensors"), shard(9)).unwrap();
    diff(Some(&base), &target, &patch, EncoderOptions::default(), 1);
    let error = update(&base);
    assert_eq!(error.kind(), "not-in-place");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

/// What happens in place to each companion that a patch speaks of, by what is here (SPEC.md R73, R74).
#[test]
fn r74_a_companion_is_replaced_or_removed_only_if_it_is_that_of_the_base() {
    let with = |tensors: &[Tensor], files: &[(&str, &str)]| {
        let all = files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
        Files::Many(all.chain([("model.safetensors".into(), safetensors(tensors))]).collect())
    };
    let base = with(&model(), &[("kept", "k"), ("replaced", "r"), ("removed", "d")]);
    let made = with(&target(), &[("kept", "k"), ("replaced", "R"), ("new", "N")]);
    let noted = |report: &UpdateReport| -> Vec<String> {
        report.target.notes.iter().map(|note| note.name.clone()).collect()
    };
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
    );
    let cases: [Case; 6] = [
        // As in the base.
        (
            &[("kept", "k"), ("replaced", "r"), ("removed", "d")],
            &[("kept", "k"), ("replaced", "R"), ("new", "N")],
            &[],
        ),
        // Every one is the receiver's own, and one more that nobody speaks of.
        (
            &[("kept", "1"), ("replaced", "2"), ("removed", "3"), ("new", "4"), ("more", "5")],
            &[("kept", "1"), ("replaced", "2"), ("removed", "3"), ("new", "4"), ("more", "5")],
            &["kept", "more", "new", "removed", "replaced"],
        ),
        // None is there.
        (&[], &[("replaced", "R"), ("new", "N")], &["kept"]),
        // All are the target's already.
        (
            &[("kept", "k"), ("replaced", "R"), ("new", "N")],
            &[("kept", "k"), ("replaced", "R"), ("new", "N")],
            &[],
        ),
        // Some of each.
        (
            &[("replaced", "mine"), ("removed", "d"), ("new", "N")],
            &[("replaced", "mine"), ("new", "N")],
            &["kept", "replaced"],
        ),
        (
            &[("kept", "k"), ("replaced", "r"), ("removed", "mine")],
            &[("kept", "k"), ("replaced", "R"), ("removed", "mine"), ("new", "N")],
            &["removed"],
        ),
    ];
    for (before, after, notes) in cases {
        for way in [Way::Redo, Way::Undo] {
            let place = scene(&base, &made);
            let checkpoint = place.put("mine", &with(&model(), before));
            let options = UpdateOptions::default().with_way(way);
            let report = open_patch(&place.path("patch"))
                .update(&checkpoint, options, Control::threads(1))
                .unwrap();
            Files::read(&checkpoint).assert_same(&with(&target(), after));
            assert_eq!(noted(&report), notes, "{before:?}");
        }
        // To be exact, only what is as in the base will do.
        let place = scene(&base, &made);
        let checkpoint = place.put("mine", &with(&model(), before));
        let options = UpdateOptions::default().with_files(FilePolicy::Exact);
        let patch = open_patch(&place.path("patch"));
        let result = patch.update(&checkpoint, options, Control::threads(1));
        let is_right = notes.iter().all(|note| *note == "more");
        assert_eq!(result.is_ok(), is_right, "{before:?}: {result:?}");
    }
}

/// What has the name of a companion and is no file is the receiver's own.
#[test]
fn a_directory_in_the_place_of_a_companion_stays() {
    let files = |tensors: &[Tensor], new: Option<&str>| {
        let new = new.map(|text| ("new".to_string(), text.as_bytes().to_vec()));
        let tensors = ("model.safetensors".to_string(), safetensors(tensors));
        Files::Many([tensors].into_iter().chain(new).collect())
    };
    for (policy, is_done) in [(FilePolicy::Follow, true), (FilePolicy::Exact, false)] {
        let place = scene(&files(&model(), None), &files(&target(), Some("N")));
        let own = place.path("checkpoint/new");
        fs::create_dir(&own).unwrap();
        let options = UpdateOptions::default().with_files(policy);
        let patch = open_patch(&place.path("patch"));
        let done = patch.update(place.path("checkpoint"), options, Control::threads(1));
        match done {
            Ok(report) => {
                assert!(is_done);
                assert_eq!(report.target.notes.len(), 1, "{report:?}");
                assert_eq!(report.target.notes[0].name, "new");
            }
            Err(error) => {
                assert!(!is_done, "{error}");
                assert_eq!(error.kind(), "not-in-place", "{error}");
            }
        }
        assert!(own.is_dir());
        fs::remove_dir(&own).unwrap();
        let expected = files(&if is_done { target() } else { model() }, None);
        Files::read(&place.path("checkpoint")).assert_same(&expected);
    }
}

/// The journal is the way back: what a recovery could not read of it is never begun.
#[cfg(target_os = "linux")]
#[test]
fn a_file_whose_name_no_journal_can_hold_is_left_untouched() {
    use std::os::unix::ffi::OsStrExt;
    let place = step();
    let odd = place.root().join(std::ffi::OsStr::from_bytes(b"model\xff"));
    fs::rename(place.path("checkpoint"), &odd).unwrap();
    let patch = open_patch(&place.path("patch"));
    for way in [Way::Redo, Way::Undo] {
        let options = UpdateOptions::default().with_way(way);
        let error =
            place.untouched(|| patch.update(&odd, options, Control::threads(1)).unwrap_err());
        assert_eq!(error.kind(), "not-in-place", "{error}");
    }
}
