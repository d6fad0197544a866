//! Outputs appear whole or not at all, and never in the place of something else.

use std::fs;
use std::path::Path;

use pulse::checkpoint::{write_whole, ApplyOptions, Existing};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::Error;

use testkit::files::{safetensors, tensor, Files, Place};
use testkit::library::{apply, diff, open, open_patch};

/// A place with "base", "target" and the "patch" between them, as files or as directories.
fn patched(directory: bool) -> (Place, Files) {
    let files = |bytes: &[u8]| match (directory, [tensor("w", "U8", &[3], bytes)]) {
        (true, tensors) => {
            Files::many([("model.safetensors", safetensors(&tensors)), ("config.json", vec![])])
        }
        (false, tensors) => Files::one(&tensors),
    };
    let place = Place::new();
    let (base, target) = (place.put("base", &files(b"abc")), place.put("target", &files(b"abd")));
    diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
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
        fs::create_dir(place.path("empty")).unwrap();
        place.put("full", &Files::many([("mine", b"mine".to_vec())]));
        for name in ["file", "empty", "full", "base", "patch"] {
            let error = place
                .untouched(|| apply_to(&place, &place.path(name), Existing::Refuse).unwrap_err());
            let Error::Exists { path, directory } = &error else { panic!("{name}: {error}") };
            assert_eq!((path, *directory), (&place.path(name), place.path(name).is_dir()));
            assert!(error.to_string().contains(name), "{error}");
        }
        // Directories are not replaced even if replacing was asked for.
        for name in ["empty", "full"] {
            let error = place
                .untouched(|| apply_to(&place, &place.path(name), Existing::Replace).unwrap_err());
            assert!(matches!(error, Error::Exists { directory: true, .. }), "{name}: {error}");
        }
    }
}

#[test]
fn a_file_is_replaced_if_asked_for_even_if_it_is_the_base() {
    let (place, target) = patched(false);
    place.put_bytes("file", b"mine");
    for name in ["file", "base"] {
        apply_to(&place, &place.path(name), Existing::Replace).unwrap();
        Files::read(&place.path(name)).assert_same(&target);
    }
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 4);
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
    let error = place.untouched(|| write_whole(&path, Existing::Refuse, failing).unwrap_err());
    assert_eq!(error.to_string(), "no more");
    place.put_bytes("patch", b"mine");
    place.untouched(|| write_whole(&path, Existing::Replace, failing).unwrap_err());
    place.untouched(|| write_whole(&path, Existing::Refuse, |_| Ok(())).unwrap_err());
    write_whole(&path, Existing::Replace, |_| Ok(())).unwrap();
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
    write_whole(place.path("whole"), Existing::Refuse, |_| Ok(())).unwrap();
    assert_eq!(mode(&place.path("whole")), mode(&file));
}

#[cfg(unix)]
/// R79: the output is written in a new place, and follows no link.
#[test]
fn a_link_in_the_place_is_replaced_and_what_it_leads_to_stays() {
    let (place, target) = patched(false);
    let mine = place.put_bytes("mine", b"mine");
    std::os::unix::fs::symlink(&mine, place.path("link")).unwrap();
    place.untouched(|| apply_to(&place, &place.path("link"), Existing::Refuse).unwrap_err());
    apply_to(&place, &place.path("link"), Existing::Replace).unwrap();
    assert_eq!(fs::read(mine).unwrap(), b"mine");
    Files::read(&place.path("link")).assert_same(&target);
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
