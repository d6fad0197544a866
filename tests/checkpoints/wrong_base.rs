//! A base that is not the one that the patch was made from gives an error, and nothing else.

use std::path::{Path, PathBuf};

use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::Error;

use testkit::files::{safetensors, stepped, tensor, weights, Files, Place, Tensor};
use testkit::library::{apply, diff, every_coding, open, open_patch, verify};

fn model() -> Vec<Tensor> {
    let mut tensors: Vec<_> = ["a", "b", "c", "d"].map(|name| tensor(name, "BF16", &[30, 40], weights(1, 1200))).into();
    tensors.push(tensor("gone", "BF16", &[1200], weights(2, 1200)));
    tensors.push(tensor("put", "BF16", &[1200], weights(3, 1200)));
    tensors
}

/// "b" and "c" are patched, "gone" is deleted, "put" replaced, "a" and "d" stay.
fn target() -> Vec<Tensor> {
    let mut tensors = model();
    tensors.remove(4);
    tensors[1].bytes = stepped(&tensors[1].bytes, 2, 100);
    tensors[2].bytes = stepped(&tensors[2].bytes, 2, 100);
    tensors[4].shape = vec![2, 600];
    tensors
}

/// A place with the right base, and a patch from it.
fn patched(base: &Files, target: &Files) -> (Place, PathBuf) {
    let place = Place::new();
    let (base, target) = (place.put("base", base), place.put("target", target));
    let patch = place.path("patch");
    diff(Some(&base), &target, &patch, EncoderOptions::default(), 1);
    (place, patch)
}

/// What `apply` says to a base, which is what `verify` says as well. Nothing is written.
#[track_caller]
fn refused(place: &Place, base: &Path, patch: &Path) -> Error {
    let applied = place.untouched(|| apply(Some(base), patch, &place.path("out")).unwrap_err());
    let verified = place.untouched(|| verify(patch, Some(base), None).unwrap_err());
    assert_eq!(applied.to_string(), verified.to_string());
    applied
}

/// The error must be a base mismatch; gives back the tensor and the two digests.
#[track_caller]
fn mismatch(error: Error) -> (Option<String>, Digest, Digest) {
    let Error::BaseMismatch { tensor, expected, found } = error else { panic!("{error}") };
    assert_ne!(expected, found);
    (tensor, expected, found)
}

/// Refusal of a base in which the model was changed by `change`.
#[track_caller]
fn refused_after(change: impl FnOnce(&mut Vec<Tensor>)) -> (Option<String>, bool) {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let mut changed = model();
    change(&mut changed);
    let wrong = place.put("wrong", &Files::one(&changed));
    let (tensor, expected, found) = mismatch(refused(&place, &wrong, &patch));
    let whole = open(&wrong).digest(Default::default()).unwrap() == found;
    assert_eq!(whole, open_patch(&patch).footer().base == Some(expected));
    (tensor, whole)
}

#[test]
fn a_base_that_differs_in_a_patched_tensor_names_the_first_one() {
    assert_eq!(refused_after(|tensors| tensors[1].bytes[2399] ^= 1), (Some("b".into()), false));
    assert_eq!(refused_after(|tensors| tensors[2].bytes[0] ^= 0x80), (Some("c".into()), false));
    let both = refused_after(|tensors| tensors[1..3].iter_mut().for_each(|tensor| tensor.bytes[7] ^= 4));
    assert_eq!(both, (Some("b".into()), false));
}

#[test]
fn a_base_that_differs_in_a_changed_element_is_refused() {
    // Element 0 of "b" changes in the patch, so an overwrite would give the right target all the same.
    let place = Place::new();
    let (base, target) = (place.put("base", &Files::one(&model())), place.put("target", &Files::one(&target())));
    let mut wrong = model();
    wrong[1].bytes[0] ^= 2;
    let wrong = place.put("wrong", &Files::one(&wrong));
    let [contextual, step, xor, _] = every_coding();
    for options in [contextual, step, xor] {
        diff(Some(&base), &target, &place.path("patch"), options, 1);
        assert_eq!(mismatch(refused(&place, &wrong, &place.path("patch"))).0.as_deref(), Some("b"));
    }
}

#[test]
fn a_base_that_differs_in_an_untouched_tensor_names_none() {
    for number in [0, 3] {
        assert_eq!(refused_after(|tensors| tensors[number].bytes[1000] ^= 1), (None, true));
    }
}

#[test]
fn a_base_that_differs_in_a_tensor_that_goes_names_it() {
    assert_eq!(refused_after(|tensors| tensors[4].bytes[1000] ^= 1), (Some("gone".into()), false));
    assert_eq!(refused_after(|tensors| tensors[5].bytes[1000] ^= 1), (Some("put".into()), false));
}

#[test]
fn a_base_with_other_tensors_is_refused() {
    let extra = || tensor("extra", "U8", &[1], *b"x");
    refused_after(|tensors| tensors.push(extra()));
    for number in 0..6 {
        refused_after(|tensors| _ = tensors.remove(number));
        refused_after(|tensors| tensors[number].name.push('x'));
        refused_after(|tensors| tensors[number] = tensor(&tensors[number].name, "U8", &[1], *b"x"));
    }
    // The bytes are right, what they mean is not.
    for number in 0..4 {
        refused_after(|tensors| tensors[number].shape = vec![40, 30]);
        refused_after(|tensors| tensors[number].dtype = "F16".into());
    }
    refused_after(Vec::clear);
}

#[test]
fn the_target_is_no_base_for_its_own_patch() {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    mismatch(refused(&place, &place.path("target"), &patch));
}

#[test]
fn a_patch_that_adds_a_tensor_refuses_a_base_that_has_it() {
    let (place, patch) = patched(&Files::one(&model()[..2]), &Files::one(&model()[..3]));
    let wrong = place.put("wrong", &Files::one(&model()[..3]));
    let (tensor, ..) = mismatch(refused(&place, &wrong, &patch));
    assert_eq!(tensor, None);
}

#[test]
fn a_patch_needs_a_base_and_a_snapshot_none() {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let error = place.untouched(|| apply(None, &patch, &place.path("out")).unwrap_err());
    assert_eq!(error.kind(), "misuse");
    diff(None, &place.path("target"), &place.path("snapshot"), EncoderOptions::default(), 1);
    apply(Some(&place.path("base")), &place.path("snapshot"), &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&Files::one(&target()));
}

#[test]
fn another_target_is_refused_and_its_tensor_named() {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let mut wrong = target();
    wrong[2].bytes[0] ^= 1;
    let wrong = place.put("wrong", &Files::one(&wrong));
    let Error::TargetMismatch { tensor, .. } = verify(&patch, None, Some(&wrong)).unwrap_err() else { panic!() };
    assert_eq!(tensor.as_deref(), Some("c"));
    let error = verify(&patch, Some(&place.path("base")), Some(&place.path("base"))).unwrap_err();
    assert_eq!(error.kind(), "target");
}

fn directory(config: &str, tensors: &[Tensor]) -> Files {
    Files::many([("config.json", config.into()), ("model.safetensors", safetensors(tensors))])
}

#[test]
fn a_base_with_another_companion_is_refused_and_the_file_named() {
    let (place, patch) = patched(&directory("{\"a\":1}", &model()), &directory("{\"a\":1}", &target()));
    let mut none = directory("", &model());
    if let Files::Many(files) = &mut none {
        files.remove("config.json");
    }
    for (name, wrong) in
        [("same-size", directory("{\"a\":2}", &model())), ("longer", directory("{\"a\":11}", &model())), ("none", none)]
    {
        let error = refused(&place, &place.put(name, &wrong), &patch);
        assert_eq!(error.kind(), "checkpoint");
        assert!(error.to_string().contains("config.json"), "{error}");
    }
    // A companion more does no harm: the target's files are listed.
    let mut more = directory("{\"a\":1}", &model());
    if let Files::Many(files) = &mut more {
        files.insert("notes.txt".into(), b"mine".to_vec());
    }
    apply(Some(&place.put("more", &more)), &patch, &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&directory("{\"a\":1}", &target()));
}

#[test]
fn a_wrong_base_is_blamed_before_its_companions() {
    let (place, patch) = patched(&directory("{\"a\":1}", &model()), &directory("{\"a\":1}", &target()));
    let mut tensors = model();
    tensors[1].bytes[0] ^= 1;
    for (name, config) in [("same-size", "{\"a\":2}"), ("longer", "{\"a\":11}")] {
        let wrong = place.put(name, &directory(config, &tensors));
        assert_eq!(mismatch(refused(&place, &wrong, &patch)).0.as_deref(), Some("b"));
    }
}

#[test]
fn the_same_tensors_under_another_header_are_refused_and_the_file_named() {
    let mut changed = model();
    changed[1].bytes = stepped(&changed[1].bytes, 2, 100);
    let (place, patch) = patched(&directory("{}", &model()), &directory("{}", &changed));
    let mut reversed = model();
    reversed.reverse();
    let error = refused(&place, &place.put("reversed", &directory("{}", &reversed)), &patch);
    assert_eq!(error.kind(), "checkpoint");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}
