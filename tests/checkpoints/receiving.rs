//! What becomes of the files beside the tensors, at the publisher and at a receiver (SPEC.md §9).

use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::wire::{FileContent, FileKind, FileState};
use pulse::{Checkpoint, Limits, Patch};
use testkit::files::{safetensors, tensor, Files, Place};
use testkit::library::{diff_bytes, open};

/// One tensor file, and companions.
fn model(weight: u8, companions: &[(&str, &str)]) -> Files {
    let file = safetensors(&[tensor("w", "U8", &[4], [weight, 2, 3, 4])]);
    let companions =
        companions.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
    Files::Many(companions.chain([("model.safetensors".to_string(), file)]).collect())
}

fn patch(base: &Checkpoint, target: &Checkpoint) -> Patch {
    let options = EncoderOptions::default();
    let patch = diff_bytes(Some(base), target, options, Control::default()).unwrap();
    Patch::from_bytes(patch, Limits::default()).unwrap()
}

/// What a patch says of its companions.
fn companions(patch: &Patch) -> Vec<(&str, FileState)> {
    let records = patch.files().iter().map(|file| &file.record);
    let companions = records.filter(|record| record.kind == FileKind::Companion);
    companions.map(|record| (record.name.as_str(), record.state)).collect()
}

/// Each state of a file, with the bytes of the base that an update in place may touch.
#[test]
fn r97_a_writer_says_what_it_replaces_and_removes() {
    let place = Place::new();
    let base = place
        .put("base", &model(1, &[("a", "same"), ("b", "old"), ("c", "gone"), ("z", "gone too")]));
    let target = place.put("target", &model(2, &[("a", "same"), ("b", "new"), ("d", "comes")]));
    let patch = patch(&open(&base), &open(&target));
    let expected = [
        ("a", FileState::Kept),
        ("b", FileState::Replaced(FileContent::of(b"old"))),
        ("c", FileState::Removed),
        ("d", FileState::New),
        ("z", FileState::Removed),
    ];
    assert_eq!(companions(&patch), expected);
    let base_of = |name: &str| {
        let file = patch.files().iter().find(|file| file.record.name == name).unwrap();
        file.record.base()
    };
    assert_eq!(base_of("a"), Some(FileContent::of(b"same")));
    assert_eq!(base_of("b"), Some(FileContent::of(b"old")));
    assert_eq!(base_of("c"), Some(FileContent::of(b"gone")));
    assert_eq!(base_of("d"), None);
}

/// What a writer leaves out says nothing of the files of its base, whichever way it is left out.
#[test]
fn r97_what_is_left_out_is_not_removed() {
    let place = Place::new();
    let base = place.put(
        "base",
        &model(1, &[("log", "1"), ("config", "1"), ("optimizer.pt", "1"), (".env", "1")]),
    );
    let target = place.put("target", &model(2, &[("log", "2"), ("config", "1")]));
    let (base, mut target) = (open(&base), open(&target));
    // Trainer state and hidden files are no companions of the base.
    assert_eq!(companions(&patch(&base, &target)).len(), 2);
    target.select(|name, _| name != "log");
    assert_eq!(companions(&patch(&base, &target)), [("config", FileState::Kept)]);
    target.select(|_, _| false);
    assert_eq!(companions(&patch(&base, &target)), []);
}

/// A base that left a file out has it all the same: it is replaced.
#[test]
fn r97_a_file_that_the_base_left_out_is_replaced() {
    let place = Place::new();
    let base = place.put("base", &model(1, &[("optimizer.pt", "1")]));
    let target = place.put("target", &model(2, &[("optimizer.pt", "2")]));
    let (base, mut target) = (open(&base), open(&target));
    target.select(|_, _| true);
    let expected = [("optimizer.pt", FileState::Replaced(FileContent::of(b"1")))];
    assert_eq!(companions(&patch(&base, &target)), expected);
}

/// Directories become files and files directories: then there is nothing to replace or remove.
#[test]
fn r97_a_single_file_has_no_companions() {
    let place = Place::new();
    let directory = place.put("directory", &model(1, &[("config", "1")]));
    let file = place.put("file", &Files::one(&[tensor("w", "U8", &[4], [2, 2, 3, 4])]));
    let (directory, file) = (open(&directory), open(&file));
    assert_eq!(companions(&patch(&directory, &file)), []);
    assert_eq!(companions(&patch(&file, &directory)), [("config", FileState::New)]);
}
