//! Inputs that change while they are read: an error that names them, and no output.
#![cfg(feature = "checkpoint")]

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Once;

use pulse::checkpoint::{write_whole, ApplyOptions, DiffOptions, Existing, FilePolicy};
use pulse::error::Change;
use pulse::tensors::Control;
use pulse::{Error, Patch, Result};

use testkit::files::{safetensors, stepped, tensor, weights, Files, Place, Tensor};
use testkit::library::{diff, open, open_patch};

const ELEMENTS: usize = 1_300_000;

fn directory(tensors: &[Tensor]) -> Files {
    Files::many([
        ("1.safetensors", safetensors(&tensors[..1])),
        ("2.safetensors", safetensors(&tensors[1..])),
        ("config.json", b"{}".to_vec()),
        (".hidden", b"left out".to_vec()),
    ])
}

/// "base", "target" and "patch".
fn scene() -> Place {
    let place = Place::new();
    let model = [
        tensor("large", "BF16", &[ELEMENTS as u64], weights(1, ELEMENTS)),
        tensor("small", "BF16", &[300], weights(2, 300)),
    ];
    let mut target = model.clone();
    target.iter_mut().for_each(|tensor| tensor.bytes = stepped(&tensor.bytes, 2, 100));
    let (base, target) =
        (place.put("base", &directory(&model)), place.put("target", &directory(&target)));
    diff(Some(&base), &target, &place.path("patch"), DiffOptions::default(), 1);
    place
}

/// A change that a file of the directory meets while it is read.
type Act = (&'static str, Change, fn(&Path));

fn overwrite(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    // Through the same file, as a trainer that saves again does it.
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all(&bytes).unwrap();
}

fn acts() -> Vec<Act> {
    vec![
        ("1.safetensors", Change::Written, |path| overwrite(path, 1000)),
        // Read already, or not yet, and not by its own tensors alone.
        ("2.safetensors", Change::Written, |path| overwrite(path, 200)),
        ("config.json", Change::Written, |path| overwrite(path, 1)),
        ("config.json", Change::Resized { expected: 2, found: 3 }, |path| {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b" ").unwrap();
        }),
        ("2.safetensors", Change::Replaced, |path| {
            // The same bytes under the same name, but another save.
            let beside = path.with_extension("new");
            fs::copy(path, &beside).unwrap();
            fs::rename(beside, path).unwrap();
        }),
        ("config.json", Change::Replaced, |path| fs::remove_file(path).unwrap()),
        ("", Change::Files, |path| {
            fs::write(path.join("3.safetensors"), safetensors(&[])).unwrap();
        }),
        ("", Change::Files, |path| fs::write(path.join("tokenizer.json"), "{}").unwrap()),
    ]
}

/// Runs the work, in which each act happens to the checkpoint `input` at the first report of progress.
#[track_caller]
fn refused(input: &str, work: impl Fn(&Place, Control<'_>) -> Result<()>) {
    for (name, how, act) in acts() {
        let place = scene();
        let path = place.path(input).join(name);
        // Times of a file that was just written may be too coarse to tell.
        std::thread::sleep(std::time::Duration::from_millis(15));
        let once = Once::new();
        let progress = |_: u64| {
            once.call_once(|| act(&path));
            ControlFlow::Continue(())
        };
        let error = work(&place, Control::threads(1).with_progress(&progress)).unwrap_err();
        let Error::Changed { path: found, how: found_how } = &error else {
            panic!("{input}/{name}, {how:?}: {error}")
        };
        let expected = if name.is_empty() { place.path(input) } else { path.clone() };
        assert_eq!((found, *found_how), (&expected, how), "{error}");
        assert_eq!((error.kind(), error.advice().unwrap().name()), ("changed", "leave-unchanged"));
        assert!(!place.path("out").exists(), "{error}");
    }
}

fn write_diff(place: &Place, control: Control<'_>) -> Result<()> {
    let (base, target) = (open(&place.path("base")), open(&place.path("target")));
    write_whole(place.path("out"), Existing::Refuse, &[], |out| {
        pulse::checkpoint::diff(Some(&base), &target, out, DiffOptions::default(), control)
    })
    .map(drop)
}

#[test]
fn diff_makes_no_patch_to_what_never_was() {
    refused("target", write_diff);
}

#[test]
fn diff_makes_no_patch_from_what_never_was() {
    refused("base", write_diff);
}

#[test]
fn a_digest_is_that_of_one_state() {
    refused("target", |place, control| open(&place.path("target")).digest(control).map(drop));
}

#[test]
fn verify_compares_with_one_state() {
    refused("target", |place, control| {
        let (patch, target) = (open_patch(&place.path("patch")), open(&place.path("target")));
        patch.verify_target(&target, FilePolicy::Exact, control).map(drop)
    });
    refused("base", |place, control| {
        let (patch, base) = (open_patch(&place.path("patch")), open(&place.path("base")));
        patch.verify_with_base(&base, FilePolicy::Exact, control).map(drop)
    });
}

#[test]
fn apply_reads_one_base() {
    refused("base", |place, control| {
        let (patch, base) = (open_patch(&place.path("patch")), open(&place.path("base")));
        patch.apply(Some(&base), place.path("out"), ApplyOptions::default(), control).map(drop)
    });
}

#[test]
fn compose_reads_one_base() {
    refused("base", |place, control| {
        let (patch, base) = (open_patch(&place.path("patch")), open(&place.path("base")));
        write_whole(place.path("out"), Existing::Refuse, &[], |out| {
            Patch::compose(&[patch], Some(&base), out, Default::default(), control)
        })
        .map(drop)
    });
}

fn overwrite_with_the_old_time(file: &Path) {
    let before = fs::metadata(file).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(15));
    overwrite(file, 1000);
    fs::File::options().write(true).open(file).unwrap().set_modified(before).unwrap();
}

/// A new name or another mode moves the time of the last change, under which a write can hide: it counts as one.
#[cfg(unix)]
#[test]
fn a_new_name_or_mode_may_hide_a_write() {
    use std::os::unix::fs::PermissionsExt;
    let rename = |file: &Path, place: &Place| fs::hard_link(file, place.path("snapshot")).unwrap();
    let restrict = |file: &Path, _: &Place| {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    type Act<'a> = &'a (dyn Fn(&Path, &Place) + Sync);
    let acts: [Act; 2] = [&rename, &restrict];
    for (act, writes) in [(acts[0], false), (acts[1], false), (acts[0], true), (acts[1], true)] {
        let place = scene();
        let file = place.path("base/1.safetensors");
        let once = Once::new();
        let progress = |_: u64| {
            once.call_once(|| {
                std::thread::sleep(std::time::Duration::from_millis(15));
                if writes {
                    overwrite_with_the_old_time(&file);
                }
                act(&file, &place);
            });
            ControlFlow::Continue(())
        };
        let error = write_diff(&place, Control::threads(1).with_progress(&progress)).unwrap_err();
        assert!(matches!(&error, Error::Changed { path, .. } if *path == file), "{error}");
    }
}

/// A time that was set back hides nothing.
#[cfg(unix)]
#[test]
fn a_write_with_the_old_time_is_a_write() {
    let place = scene();
    let file = place.path("target/1.safetensors");
    let once = Once::new();
    let progress = |_: u64| {
        once.call_once(|| overwrite_with_the_old_time(&file));
        ControlFlow::Continue(())
    };
    let error = write_diff(&place, Control::threads(1).with_progress(&progress)).unwrap_err();
    assert!(matches!(error, Error::Changed { how: Change::Written, .. }), "{error}");
}

/// What does not belong to a checkpoint may come and go.
#[test]
fn other_files_may_change() {
    let place = scene();
    let base = place.path("base");
    let progress = |_: u64| {
        fs::write(base.join(".hidden"), "other").unwrap();
        fs::write(base.join("41.pulse"), "a patch that is written beside it").unwrap();
        ControlFlow::Continue(())
    };
    write_diff(&place, Control::threads(1).with_progress(&progress)).unwrap();
}
