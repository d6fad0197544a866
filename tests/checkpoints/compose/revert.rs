//! The way back from the target to the base.

use std::slice::from_ref;

use pulse::chain::{ComposeOptions, InvertOptions};
use pulse::checkpoint::ApplyOptions;
use pulse::coding::ValueForm;
use pulse::error::Advice;
use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::{ApplyReport, Control};
use pulse::{Error, Limits, Patch, Result};

use super::{drifted, every_dtype, flat};
use testkit::files::{header, noise, raw, stepped, tensor, weights, Files, Place};
use testkit::forge;
use testkit::library::{diff, every_coding, open, open_patch};

/// A place with a base, a target, and the patch between them.
fn scene(base: &Files, target: &Files, options: &EncoderOptions) -> Place {
    let place = Place::new();
    let (base, target) = (place.put("base", base), place.put("target", target));
    diff(Some(&base), &target, &place.path("patch"), options.clone(), 2);
    place
}

fn revert(place: &Place, target: &str, out: &str) -> Result<ApplyReport> {
    let (target, patch) = (open(&place.path(target)), open_patch(&place.path("patch")));
    patch.revert(&target, place.path(out), ApplyOptions::default(), Control::threads(2))
}

fn digest(place: &Place, name: &str) -> Digest {
    open(&place.path(name)).digest(Control::default()).unwrap()
}

#[test]
fn flat_patches_lead_back_byte_for_byte() {
    let base = every_dtype();
    let target: Vec<_> = base.iter().cloned().map(|tensor| drifted(tensor, 30, 3)).collect();
    for form in [ValueForm::UlpStep, ValueForm::Xor] {
        for block in [1, 2, 32] {
            let place = scene(
                &Files::one(&base),
                &Files::one(&target),
                &flat(form).with_block_leaves(block),
            );
            let report = revert(&place, "target", "out").unwrap();
            assert_eq!(report.target, digest(&place, "base"));
            Files::read(&place.path("out")).assert_same(&Files::one(&base));
        }
    }
}

#[test]
fn directories_lead_back_with_their_companions() {
    let shard = |seed| super::safetensors(&[tensor("a", "BF16", &[900], weights(seed, 900))]);
    let other = super::safetensors(&[tensor("b", "BF16", &[900], stepped(&weights(1, 900), 2, 5))]);
    let model = |seed| {
        Files::many([
            ("one.safetensors", shard(seed)),
            ("two.safetensors", other.clone()),
            ("config.json", b"{}".to_vec()),
        ])
    };
    let place = scene(&model(1), &model(2), &flat(ValueForm::UlpStep));
    assert_eq!(revert(&place, "target", "out").unwrap().files, 3);
    Files::read(&place.path("out")).assert_same(&model(1));
}

#[test]
fn the_tensors_are_the_base_s_and_the_files_those_of_the_target() {
    let model = |seed, note: &str, config: &str| {
        let tensors = [tensor("w", "BF16", &[100], weights(seed, 100))];
        let json = header(&tensors, &[&format!(r#""__metadata__":{{"note":"{note}"}}"#)]);
        Files::many([
            ("model.safetensors", raw(&json, &tensors[0].bytes)),
            ("config.json", config.into()),
        ])
    };
    let place = scene(&model(1, "a", "1"), &model(2, "b", "2"), &flat(ValueForm::Xor));
    revert(&place, "target", "out").unwrap();
    // What stood in the base's header and companion is not in the patch.
    Files::read(&place.path("out")).assert_same(&model(1, "b", "2"));
    assert_eq!(digest(&place, "out"), digest(&place, "base"));
}

#[test]
fn what_was_added_is_gone_again() {
    let (old, new) = (tensor("a", "U8", &[9], noise(1, 9)), tensor("b", "F32", &[3], noise(2, 12)));
    let empty = tensor("c", "F32", &[0], []);
    let base = Files::one(from_ref(&old));
    let place = scene(&base, &Files::one(&[old, new, empty]), &EncoderOptions::default());
    // The header of the base is not in the patch; the file has one of its own.
    revert(&place, "target", "out").unwrap();
    assert_eq!(digest(&place, "out"), digest(&place, "base"));
}

#[test]
fn the_inverse_is_a_patch_like_any_other() {
    let (base, target) = (weights(1, 5000), stepped(&weights(1, 5000), 2, 9));
    let files = |bytes: &[u8]| Files::one(&[tensor("w", "BF16", &[5000], bytes)]);
    let options = flat(ValueForm::UlpStep).with_run([3; 16]).with_steps(40, 41);
    let place = scene(&files(&base), &files(&target), &options);
    let patch = open_patch(&place.path("patch"));
    let back = |patch: &Patch| {
        let mut back = Vec::new();
        patch.invert(&mut back, InvertOptions::default(), Control::default()).unwrap();
        Patch::from_bytes(back, Limits::default()).unwrap()
    };
    let inverse = back(&patch);
    let header = inverse.header();
    assert_eq!(
        (header.run, header.base_step, header.target_step),
        (Some([3; 16]), Some(41), Some(40))
    );
    assert_eq!(
        (inverse.footer().base, Some(inverse.footer().target)),
        (Some(patch.footer().target), patch.footer().base)
    );
    assert!(inverse.files().is_empty(), "the base's files do not stand in the patch");
    // Turned round twice it is what it was, and both ways together are no way at all.
    let again = back(&inverse);
    assert_eq!(again.footer().base, patch.footer().base);
    let options = ComposeOptions::from(flat(ValueForm::UlpStep));
    let report =
        Patch::compose(&[inverse, again], None, std::io::sink(), options, Control::default())
            .unwrap();
    assert_eq!(report.summary.footer.changes, 0);
}

#[test]
fn where_the_way_back_is_lost_nothing_is_written() {
    let old = || tensor("w", "BF16", &[900], weights(1, 900));
    let changed = || Files::one(&[tensor("w", "BF16", &[900], stepped(&weights(1, 900), 2, 5))]);
    let [contextual, step, _, overwrite] = every_coding();
    let other = Files::one(&[tensor("w", "F32", &[450], weights(1, 900))]);
    let renamed = Files::one(&[tensor("v", "BF16", &[900], weights(1, 900))]);
    for (target, options, needle) in [
        (changed(), contextual, "has contextual blocks"),
        (changed(), overwrite, "is overwritten"),
        (other, step.clone(), "is replaced"),
        (renamed, step, "is deleted"),
    ] {
        let place = scene(&Files::one(&[old()]), &target, &options);
        let error = place.untouched(|| revert(&place, "target", "out").unwrap_err());
        let Error::NotInvertible { file, what } = &error else { panic!("{error}") };
        assert_eq!(file.as_deref(), Some(&*place.path("patch")));
        assert!(what.contains(needle) && what.contains("'w'"), "{error}");
        assert_eq!(error.advice(), Some(Advice::KeepBase));
    }
    let place = scene(&Files::one(&[old()]), &changed(), &flat(ValueForm::UlpStep));
    diff(None, &place.path("target"), &place.path("patch"), EncoderOptions::default(), 1);
    let error = place.untouched(|| revert(&place, "target", "out").unwrap_err());
    let Error::NotInvertible { what, .. } = &error else { panic!("{error}") };
    assert_eq!(what, "a snapshot has no base");
}

#[test]
fn another_checkpoint_than_the_target_is_refused() {
    let files = |seed| Files::one(&[tensor("w", "BF16", &[900], weights(seed, 900))]);
    let place = scene(&files(1), &files(2), &flat(ValueForm::UlpStep));
    place.put("wrong", &files(3));
    for wrong in ["wrong", "base"] {
        let error = place.untouched(|| revert(&place, wrong, "out").unwrap_err());
        assert!(matches!(error, Error::TargetMismatch { .. }), "{error}");
        assert!(error.to_string().contains("tensor 'w' differs"), "{error}");
    }
}

#[test]
fn a_patch_that_lies_about_its_base_makes_nothing() {
    let files = |seed| Files::one(&[tensor("w", "BF16", &[900], weights(seed, 900))]);
    let place = scene(&files(1), &files(2), &flat(ValueForm::UlpStep));
    let patch = std::fs::read(place.path("patch")).unwrap();
    let lie = forge::replaced(&patch, b'F', &digest(&place, "base").0, &[7; 32]);
    place.put_bytes("patch", &lie);
    let error = place.untouched(|| revert(&place, "target", "out").unwrap_err());
    assert_eq!(error.kind(), "digest");

    // It adds more than its target is said to have.
    let (one, two) = (tensor("v", "U8", &[1], [1]), tensor("w", "U8", &[8], noise(1, 8)));
    let place =
        scene(&Files::one(from_ref(&one)), &Files::one(&[one, two]), &flat(ValueForm::UlpStep));
    let patch = std::fs::read(place.path("patch")).unwrap();
    let totals = |bytes: u64| [2u64, 9, bytes].map(u64::to_le_bytes).concat();
    place.put_bytes("patch", &forge::replaced(&patch, b'F', &totals(9), &totals(7)));
    let error = place.untouched(|| revert(&place, "target", "out").unwrap_err());
    assert_eq!(error.kind(), "count");
}
