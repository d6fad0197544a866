//! File names that not every system can hold: companions of such names stay, tensor files are refused,
//! and a patch that has them is applied where they can be held.
#![cfg(unix)] // which can hold them all

use std::fs;
use std::path::PathBuf;

use pulse::checkpoint::Reason;
use pulse::error::{Advice, FileFault};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::{Checkpoint, Error};

use testkit::files::{safetensors, tensor, Files, Place, Tensor};
use testkit::library::{apply, diff, open, open_patch};

/// Names that some system cannot hold, of each sort.
const ODD: [&str; 9] =
    ["CON", "nul.json", "Com1.txt", "a.", "b ", "what?.md", "a<b>", "say \"x\"", "README.MD"];

fn tensors() -> Vec<Tensor> {
    vec![tensor("w", "U8", &[3], *b"abc")]
}

/// A directory of the tensors and these companions.
fn directory(
    place: &Place,
    name: &str,
    tensors: &[(&str, Vec<Tensor>)],
    companions: &[&str],
) -> PathBuf {
    let files = tensors.iter().map(|(name, tensors)| (name.to_string(), safetensors(tensors)));
    let beside = companions.iter().map(|name| (name.to_string(), name.as_bytes().to_vec()));
    place.put(name, &Files::Many(files.chain(beside).collect()))
}

fn names(path: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn companions_that_not_every_system_can_hold_stay_unless_they_are_wanted() {
    let place = Place::new();
    // The second of the two READMEs, in the order of names, is the odd one.
    let companions = [&ODD[..], &["README.md", "config.json", "caf\u{e9}", "cafe\u{301}"]].concat();
    let odd: Vec<&str> = [&ODD[..8], &["README.md", "caf\u{e9}"]].concat();
    let path = directory(&place, "model", &[("model.safetensors", tensors())], &companions);
    let mut checkpoint = open(&path);
    let left_out: Vec<_> =
        checkpoint.left_out().iter().map(|out| (out.name.as_str(), out.reason)).collect();
    let mut expected: Vec<_> = odd.iter().map(|name| (*name, Reason::NotPortable)).collect();
    expected.sort();
    assert_eq!(left_out, expected);
    diff(None, &path, &place.path("patch"), EncoderOptions::default(), 1);
    assert!(open_patch(&place.path("patch")).unportable_files().is_empty());
    apply(None, &place.path("patch"), &place.path("out")).unwrap();
    assert_eq!(
        names(&place.path("out")),
        ["README.MD", "cafe\u{301}", "config.json", "model.safetensors"]
    );

    // Whoever wants them has them, and so do receivers that can hold them; the patch says which.
    checkpoint.select(|_, _| true);
    let mut patch = Vec::new();
    pulse::checkpoint::diff(
        None,
        &checkpoint,
        &mut patch,
        EncoderOptions::default().into(),
        Control::threads(1),
    )
    .unwrap();
    let all = place.put_bytes("all.pulse", &patch);
    let mut unportable =
        open_patch(&all).unportable_files().into_iter().map(String::from).collect::<Vec<_>>();
    unportable.sort();
    assert_eq!(unportable, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    apply(None, &all, &place.path("whole")).unwrap();
    Files::read(&place.path("whole")).assert_same(&Files::read(&path));
    // What the base has by such a name is found there.
    let mut kept = Vec::new();
    pulse::checkpoint::diff(
        Some(&open(&path)),
        &checkpoint,
        &mut kept,
        EncoderOptions::default().into(),
        Control::threads(1),
    )
    .unwrap();
    apply(Some(&path), &place.put_bytes("kept.pulse", &kept), &place.path("again")).unwrap();
    Files::read(&place.path("again")).assert_same(&Files::read(&path));
}

#[test]
fn a_tensor_file_that_not_every_system_can_hold_is_refused_on_writing() {
    for (tensor_files, at_fault) in [
        (&["aux.safetensors"][..], "aux.safetensors"),
        (&["a.safetensors", "what?.safetensors"], "what?.safetensors"),
        (&["Model.safetensors", "model.safetensors"], "model.safetensors"),
        (&["cafe\u{301}.safetensors", "caf\u{e9}.safetensors"], "caf\u{e9}.safetensors"),
    ] {
        let place = Place::new();
        let each: Vec<_> = tensor_files
            .iter()
            .map(|name| (*name, vec![tensor(name, "U8", &[1], *b"a")]))
            .collect();
        let path = directory(&place, "model", &each, &[]);
        // It is read all the same.
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.tensors().count(), tensor_files.len());
        checkpoint.digest(Control::threads(1)).unwrap();
        let error = pulse::checkpoint::diff(
            None,
            &checkpoint,
            std::io::sink(),
            EncoderOptions::default().into(),
            Control::threads(1),
        )
        .unwrap_err();
        assert_eq!(error.file(), Some(path.join(at_fault).as_path()), "{error}");
        assert!(
            matches!(
                &error,
                Error::BadFile { fault: FileFault::Name(_) | FileFault::SameName { .. }, .. }
            ),
            "{error}"
        );
        assert_eq!(error.advice(), Some(Advice::Rename));
    }
}

/// Where case does not count, it would be taken for tensors, or for the index: readers refuse a patch
/// that has it, so no patch gets it.
#[test]
fn a_companion_that_is_for_tensors_in_other_letters_stays() {
    let place = Place::new();
    let disguised = ["Model.SAFETENSORS", ".x.SafeTensors", "model.safetensors.INDEX.json"];
    let path = directory(&place, "model", &[("model.safetensors", tensors())], &disguised);
    let checkpoint = open(&path);
    assert!(checkpoint.left_out().iter().all(|out| out.reason == Reason::Name));
    assert_eq!(checkpoint.left_out().len(), 3);
    diff(None, &path, &place.path("patch"), EncoderOptions::default(), 1);
    apply(None, &place.path("patch"), &place.path("out")).unwrap();
    assert_eq!(names(&place.path("out")), ["model.safetensors"]);
}
