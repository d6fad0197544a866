//! A base that is not the one that the patch was made from gives an error, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use pulse::error::{Advice, BaseMismatch, Made};
use pulse::hash::tensor_digest;
use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::Error;

use testkit::files::{safetensors, stepped, tensor, weights, Files, Place, Tensor};
use testkit::forge;
use testkit::library::{apply, diff, every_coding, open, open_patch, verify};

fn model() -> Vec<Tensor> {
    let mut tensors: Vec<_> =
        ["a", "b", "c", "d"].map(|name| tensor(name, "BF16", &[30, 40], weights(1, 1200))).into();
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

/// The error must be a base mismatch.
#[track_caller]
fn mismatch(error: Error) -> BaseMismatch {
    let Error::BaseMismatch(mismatch) = error else { panic!("{error}") };
    assert_ne!(mismatch.expected, mismatch.found);
    *mismatch
}

/// What is said of a base in which the model was changed by `change`.
#[track_caller]
fn diagnosis(change: impl FnOnce(&mut Vec<Tensor>)) -> BaseMismatch {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let mut changed = model();
    change(&mut changed);
    let wrong = place.put("wrong", &Files::one(&changed));
    let mismatch = mismatch(refused(&place, &wrong, &patch));
    // The digests are those of the tensor that is named, or of the checkpoints.
    let whole = open(&wrong).digest(Default::default()).unwrap() == mismatch.found;
    assert_eq!(whole, open_patch(&patch).footer().base == Some(mismatch.expected));
    assert_eq!(whole, mismatch.tensor.is_none());
    assert_eq!(mismatch.file, Some(patch));
    mismatch
}

/// The tensor that is named, and whether the digests are those of the checkpoints.
#[track_caller]
fn refused_after(change: impl FnOnce(&mut Vec<Tensor>)) -> (Option<String>, bool) {
    let mismatch = diagnosis(change);
    let whole = mismatch.tensor.is_none();
    (mismatch.tensor, whole)
}

#[test]
fn a_base_that_differs_in_a_patched_tensor_names_the_first_one() {
    assert_eq!(refused_after(|tensors| tensors[1].bytes[2399] ^= 1), (Some("b".into()), false));
    assert_eq!(refused_after(|tensors| tensors[2].bytes[0] ^= 0x80), (Some("c".into()), false));
    let both =
        refused_after(|tensors| tensors[1..3].iter_mut().for_each(|tensor| tensor.bytes[7] ^= 4));
    assert_eq!(both, (Some("b".into()), false));
}

#[test]
fn a_base_that_differs_in_a_changed_element_is_refused() {
    // Element 0 of "b" changes in the patch, so an overwrite would give the right target all the same.
    let place = Place::new();
    let (base, target) =
        (place.put("base", &Files::one(&model())), place.put("target", &Files::one(&target())));
    let mut wrong = model();
    wrong[1].bytes[0] ^= 2;
    let wrong = place.put("wrong", &Files::one(&wrong));
    let [contextual, step, xor, _] = every_coding();
    for options in [contextual, step, xor] {
        diff(Some(&base), &target, &place.path("patch"), options, 1);
        assert_eq!(
            mismatch(refused(&place, &wrong, &place.path("patch"))).tensor.as_deref(),
            Some("b")
        );
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

/// Names, shapes and numbers: the commonest mistakes are a tied head, a buffer more, a transpose.
#[test]
fn tensors_that_are_missing_or_of_another_shape_are_listed() {
    type Change = fn(&mut Vec<Tensor>);
    /// What is done, what is then missing, what reshaped, and how many tensors there are.
    type Case = (Change, &'static [&'static str], &'static [[&'static str; 3]], u64);
    let cases: [Case; 9] = [
        (|tensors| _ = tensors.remove(1), &["b"], &[], 5),
        (|tensors| _ = tensors.drain(1..3), &["b", "c"], &[], 4),
        (|tensors| _ = tensors.remove(4), &["gone"], &[], 5),
        (|tensors| tensors[5].name.push('x'), &["put"], &[], 6),
        (
            |tensors| tensors[1].shape = vec![40, 30],
            &[],
            &[["b", "BF16 [30, 40]", "BF16 [40, 30]"]],
            6,
        ),
        (
            |tensors| tensors[2].dtype = "F16".into(),
            &[],
            &[["c", "BF16 [30, 40]", "F16 [30, 40]"]],
            6,
        ),
        // The patch does not name what it leaves alone: there is only the number.
        (|tensors| _ = tensors.remove(0), &[], &[], 5),
        (|tensors| tensors.push(tensor("more", "U8", &[1], *b"x")), &[], &[], 7),
        (|tensors| tensors[3].shape = vec![40, 30], &[], &[], 6),
    ];
    for (number, (change, missing, reshaped, tensors)) in cases.into_iter().enumerate() {
        let found = diagnosis(change);
        assert_eq!(found.missing, missing, "case {number}");
        let listed: Vec<_> =
            found.reshaped.iter().map(|row| [&*row.tensor, &*row.expected, &*row.found]).collect();
        assert_eq!(listed, reshaped, "case {number}");
        assert_eq!((found.tensors, found.is_target), (Some((6, tensors)), false), "case {number}");
        assert!(found.extra.is_empty() && found.tensor.is_none(), "case {number}");
        // All of it is in the message.
        let text = found.to_string();
        let said = missing.iter().chain(reshaped.iter().flatten());
        assert!(said.into_iter().all(|word| text.contains(word)), "{text}");
        assert_eq!(
            text.contains(&format!("number of tensors: {tensors}, expected 6")),
            tensors != 6,
            "{text}"
        );
    }
    let both = diagnosis(|tensors| {
        tensors[1].bytes[0] ^= 1;
        _ = tensors.remove(2);
    });
    assert_eq!((both.tensor.as_deref(), both.missing), (Some("b"), vec!["c".to_string()]));
}

#[test]
fn the_target_is_no_base_for_its_own_patch_and_is_recognised() {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let found = mismatch(refused(&place, &place.path("target"), &patch));
    assert!(found.is_target);
    assert!(
        found.to_string().ends_with("the checkpoint is already the target of the patch"),
        "{found}"
    );
    assert_eq!(Error::BaseMismatch(Box::new(found)).advice(), Some(Advice::NothingToDo));
    // One bit off, it is any wrong base.
    let mut near = target();
    near[0].bytes[0] ^= 1;
    let near = place.put("near", &Files::one(&near));
    let found = mismatch(refused(&place, &near, &patch));
    assert!(!found.is_target);
    assert_eq!(Error::BaseMismatch(Box::new(found)).advice(), Some(Advice::UseItsBase));
}

#[test]
fn a_patch_that_adds_a_tensor_refuses_a_base_that_has_it_and_says_so() {
    let (place, patch) = patched(&Files::one(&model()[..2]), &Files::one(&model()[..3]));
    let mut wrong = model()[..3].to_vec();
    wrong[2].bytes[0] ^= 1;
    let wrong = place.put("wrong", &Files::one(&wrong));
    let found = mismatch(refused(&place, &wrong, &patch));
    assert_eq!((found.tensor.as_deref(), &found.extra[..]), (None, &["c".to_string()][..]));
    assert_eq!(found.tensors, Some((2, 3)));
    assert!(found.to_string().contains("'c'"), "{found}");
    // With the bytes that would be added, it is the target.
    let wrong = place.path("target");
    assert!(mismatch(refused(&place, &wrong, &patch)).is_target);
}

/// The digest of the base says which of the two is wrong, whatever went wrong first.
#[test]
fn a_lying_patch_is_told_from_a_wrong_base() {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let good = fs::read(&patch).unwrap();
    let footer = *open_patch(&patch).footer();
    let mut wrong = model();
    wrong[1].bytes[7] ^= 1;
    let wrong = place.put("wrong", &Files::one(&wrong));
    let trailer = open_patch(&patch).tensor("b").unwrap().end.unwrap().target.unwrap();
    for (tag, digest, made) in
        [(b'E', trailer, Made::Tensor("b".into())), (b'F', footer.target, Made::Checkpoint)]
    {
        let lie = place.put_bytes("lie", &forge::replaced(&good, tag, &digest.0, &[7; 32]));
        let error = refused(&place, &place.path("base"), &lie);
        let Error::WrongResult { file, made: found, expected, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((file.as_deref(), found, expected), (Some(&*lie), &made, &Digest([7; 32])));
        assert_eq!(mismatch(refused(&place, &wrong, &lie)).tensor.as_deref(), Some("b"));
    }
    // A patch whose tensors do not fit the base that it names itself.
    let renamed = place.put_bytes("renamed", &forge::replaced(&good, b'T', b"gone", b"gonf"));
    assert!(matches!(refused(&place, &place.path("base"), &renamed), Error::Unfit { .. }));
    assert_eq!(mismatch(refused(&place, &wrong, &renamed)).missing, ["gonf"]);
}

#[test]
fn a_patch_needs_a_base_and_a_snapshot_none() {
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&target()));
    let error = place.untouched(|| apply(None, &patch, &place.path("out")).unwrap_err());
    assert!(
        matches!(&error, Error::NeedsBase { file: Some(file), .. } if *file == patch),
        "{error}"
    );
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
    let error = verify(&patch, None, Some(&wrong)).unwrap_err();
    let Error::TargetMismatch { tensor, expected, found, .. } = error else { panic!("{error}") };
    assert_eq!(tensor.as_deref(), Some("c"));
    // The digests are those of the tensor, as everywhere where a tensor is named.
    assert_eq!(expected, tensor_digest(&target()[2].bytes));
    assert_ne!(found, expected);
    let error = verify(&patch, Some(&place.path("base")), Some(&place.path("base"))).unwrap_err();
    assert_eq!(error.kind(), "target");
}

fn directory(config: &str, tensors: &[Tensor]) -> Files {
    Files::many([("config.json", config.into()), ("model.safetensors", safetensors(tensors))])
}

#[test]
fn a_base_with_another_companion_is_refused_and_the_file_named() {
    let (place, patch) =
        patched(&directory("{\"a\":1}", &model()), &directory("{\"a\":1}", &target()));
    let mut none = directory("", &model());
    if let Files::Many(files) = &mut none {
        files.remove("config.json");
    }
    for (name, wrong) in [
        ("same-size", directory("{\"a\":2}", &model())),
        ("longer", directory("{\"a\":11}", &model())),
        ("none", none),
    ] {
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
    let (place, patch) =
        patched(&directory("{\"a\":1}", &model()), &directory("{\"a\":1}", &target()));
    let mut tensors = model();
    tensors[1].bytes[0] ^= 1;
    for (name, config) in [("same-size", "{\"a\":2}"), ("longer", "{\"a\":11}")] {
        let wrong = place.put(name, &directory(config, &tensors));
        assert_eq!(mismatch(refused(&place, &wrong, &patch)).tensor.as_deref(), Some("b"));
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

/// The tensors are those of the base, but what was given is a file of it, or a directory around it.
#[test]
fn a_file_given_for_a_directory_is_told_as_that() {
    let directory = |tensors: &[Tensor]| directory("{}", tensors);
    let (place, patch) = patched(&directory(&model()), &directory(&target()));
    let file = place.path("base/model.safetensors");
    let error = place.untouched(|| apply(Some(&file), &patch, &place.path("out")).unwrap_err());
    assert!(error.to_string().contains("but the patch was made from a directory"), "{error}");
    assert_eq!(error.file(), Some(&*file));

    // The same header, which the patch takes from the base.
    let mut changed = model();
    changed[0].bytes[0] ^= 1;
    let (place, patch) = patched(&Files::one(&model()), &Files::one(&changed));
    let around = place.put("around", &directory(&model()));
    let error = place.untouched(|| apply(Some(&around), &patch, &place.path("out")).unwrap_err());
    assert!(error.to_string().contains("but the patch was made from a single file"), "{error}");
    assert_eq!(error.file(), Some(&*around));
}
