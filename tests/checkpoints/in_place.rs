//! Weights in memory, and a base whose digests are taken on trust.

use std::collections::{BTreeMap, BTreeSet};

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::Advice;
use pulse::hash::{tensor_digest, CheckpointHasher};
use pulse::stream::{EncoderOptions, TrustedBase};
use pulse::tensors::{Control, DiffOptions, TensorRef, TensorSource, Weights};
use pulse::{Encoder, Error, Limits, Patch};
use testkit::held::{muts, refs, Tensors};
use testkit::library;

/// Three tensors: several blocks, a small one, an empty one.
fn weights(seed: u64) -> Tensors {
    let mut state = 7u64;
    let mut tensor = |name: &str, elements: u64| {
        let spec = TensorSpec::new(Dtype::Bf16, &[elements]).unwrap();
        let bytes = (0..elements)
            .flat_map(|i| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // A seed of its own changes one element in a hundred.
                let changed = seed != 0 && (i + seed).is_multiple_of(100);
                ((state >> 48) as u16 ^ u16::from(changed)).to_le_bytes()
            })
            .collect();
        (name.to_string(), (spec, bytes))
    };
    BTreeMap::from([tensor("a.large", 200_000), tensor("b.small", 30), tensor("c.empty", 0)])
}

fn patch_bytes(
    base: &Tensors,
    target: &Tensors,
    options: impl Into<DiffOptions>,
    threads: usize,
) -> Vec<u8> {
    library::diff_tensors(Some(&refs(base)), &refs(target), options, Control::threads(threads))
        .unwrap()
}

fn patch(base: &Tensors, target: &Tensors) -> Patch {
    open(patch_bytes(base, target, EncoderOptions::default(), 2))
}

fn open(bytes: Vec<u8>) -> Patch {
    Patch::from_bytes(bytes, Limits::default()).unwrap()
}

#[test]
fn weights_in_memory_become_the_target_whatever_the_threads() {
    let (base, target) = (weights(0), weights(1));
    let expected = patch_bytes(&base, &target, EncoderOptions::default().with_block_leaves(1), 1);
    for threads in [1, 2, 7] {
        let options = EncoderOptions::default().with_block_leaves(1);
        let found = patch_bytes(&base, &target, options, threads);
        assert_eq!(found, expected);
        let mut held = base.clone();
        let report = open(found).apply_to(&mut muts(&mut held), Control::threads(threads)).unwrap();
        assert_eq!(held, target);
        assert_eq!(report.changes, 2000);
    }
}

#[test]
fn the_encoder_writes_the_same_bytes() {
    let (base, target) = (weights(0), weights(1));
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    for (name, (spec, bytes)) in &base {
        let mut writer = encoder.patched(name, spec).unwrap();
        writer.push(bytes, &target[name].1).unwrap();
        writer.end().unwrap();
    }
    let (found, _) = encoder.finish().unwrap();
    assert!(found == patch_bytes(&base, &target, EncoderOptions::default(), 2));
}

/// R62: an element that is wrong in the last block takes back what the blocks before have changed.
#[test]
fn a_wrong_base_is_named_and_left_as_it_was() {
    let patch = patch(&weights(0), &weights(1));
    // The patch does not change "b.small", and so does not know its name.
    for (name, at, named) in
        [("a.large", 1, true), ("a.large", 399_999, true), ("b.small", 59, false)]
    {
        let mut wrong = weights(0);
        wrong.get_mut(name).unwrap().1[at] ^= 0x10;
        let before = wrong.clone();
        let error = patch.apply_to(&mut muts(&mut wrong), Control::threads(2)).unwrap_err();
        let Error::BaseMismatch(mismatch) = &error else { panic!("{error}") };
        assert_eq!((mismatch.tensor.as_deref(), &mismatch.file), (named.then_some(name), &None));
        assert!(wrong == before, "the weights were touched");
    }
}

/// What is wrong with the weights: the same words as for files, and the weights stay.
#[test]
fn weights_that_are_not_the_base_are_told_how_they_differ() {
    let (base, target) = (weights(0), weights(1));
    let patch = patch(&base, &target);
    type Change = fn(&mut Tensors);
    /// What is done, what is then missing, what reshaped, and how many tensors there are.
    type Case = (Change, &'static [&'static str], &'static [[&'static str; 3]], u64);
    let cases: [Case; 4] = [
        (|held| _ = held.remove("a.large"), &["a.large"], &[], 2),
        (
            |held| {
                held.get_mut("a.large").unwrap().0 =
                    TensorSpec::new(Dtype::F16, &[200_000]).unwrap()
            },
            &[],
            &[["a.large", "BF16 [200000]", "F16 [200000]"]],
            3,
        ),
        (
            |held| {
                held.get_mut("a.large").unwrap().0 =
                    TensorSpec::new(Dtype::Bf16, &[400, 500]).unwrap()
            },
            &[],
            &[["a.large", "BF16 [200000]", "BF16 [400, 500]"]],
            3,
        ),
        (
            |held| {
                _ = held
                    .insert("d.more".into(), (TensorSpec::new(Dtype::U8, &[1]).unwrap(), vec![1]))
            },
            &[],
            &[],
            4,
        ),
    ];
    for (change, missing, reshaped, tensors) in cases {
        let mut held = base.clone();
        change(&mut held);
        let before = held.clone();
        let error = patch.apply_to(&mut muts(&mut held), Control::threads(2)).unwrap_err();
        assert!(held == before, "the weights were touched");
        let Error::BaseMismatch(found) = &error else { panic!("{error}") };
        let listed: Vec<_> =
            found.reshaped.iter().map(|row| [&*row.tensor, &*row.expected, &*row.found]).collect();
        assert_eq!(
            (found.missing.iter().map(String::as_str).collect::<Vec<_>>(), &listed[..]),
            (missing.to_vec(), reshaped)
        );
        assert_eq!(
            (found.tensors, found.is_target, &found.tensor),
            (Some((3, tensors)), false, &None)
        );
    }

    // A retry finds the target: there is nothing to do, and it says so.
    let mut held = target.clone();
    let error = patch.apply_to(&mut muts(&mut held), Control::threads(2)).unwrap_err();
    assert!(held == target, "the weights were touched");
    assert!(matches!(&error, Error::BaseMismatch(mismatch) if mismatch.is_target), "{error}");
    assert_eq!(error.advice(), Some(Advice::NothingToDo));
    assert_eq!(error.to_string(), "the checkpoint is already the target of the patch");
}

#[test]
fn a_patch_that_lies_about_its_target_leaves_the_weights_as_they_were() {
    // The base is trusted to have a digest that it has not: the writer's target is what it says,
    // and so a receiver finds its own base to be another.
    let (base, target) = (weights(0), weights(1));
    let mut trusted = patch(&target, &base).trusted_target();
    *trusted.tensors.get_mut("a.large").unwrap() = tensor_digest(b"another");
    let mut checkpoint = CheckpointHasher::new();
    for (name, (spec, bytes)) in &base {
        let digest = trusted.tensors.get(name).copied().unwrap_or_else(|| tensor_digest(bytes));
        checkpoint.add(name, spec, digest);
    }
    trusted.checkpoint = checkpoint.finish().unwrap();
    // A sample would notice.
    let options = DiffOptions::default().with_trusted_base(trusted).with_sample(false);
    let lie = open(patch_bytes(&base, &target, options, 1));
    // The result is right, so the lie about the base does no harm here.
    let mut held = base.clone();
    lie.apply_to(&mut muts(&mut held), Control::default()).unwrap();
    assert_eq!(held, target);
    // On another base it is refused, and nothing has changed.
    let mut other = weights(2);
    assert!(lie.apply_to(&mut muts(&mut other), Control::default()).is_err());
    assert_eq!(other, weights(2));
}

#[test]
fn a_trusted_base_gives_the_same_patch_but_for_the_digest_in_the_header() {
    let (before, base, target) = (weights(2), weights(0), weights(1));
    let previous = patch(&before, &base);
    let options = DiffOptions::default().with_trusted_base(previous.trusted_target());
    let trusting = patch_bytes(&base, &target, options, 2);
    let hashing = EncoderOptions::default().with_base_digest(previous.footer().target);
    assert!(trusting == patch_bytes(&base, &target, hashing, 2));
}

/// The sample is one tensor, by the digest of the checkpoint another one each time; the whole is all of it.
#[test]
fn digests_taken_on_trust_are_compared_with_the_base() {
    let (base, other) = (weights(0), weights(90));
    let control = Control::threads(2);
    let mut trusted = TrustedBase::new(Default::default());
    trusted.checkpoint = patch(&other, &base).footer().target;
    trusted.tensors =
        base.iter().map(|(name, (_, bytes))| (name.clone(), tensor_digest(bytes))).collect();
    trusted.check_sample(&refs(&base), control).unwrap();
    trusted.check(&refs(&base), control).unwrap();

    // Both tensors that have bytes differ; whichever is chosen is named.
    let mut named = BTreeSet::new();
    for byte in 0..8 {
        let mut trusted = trusted.clone();
        trusted.checkpoint.0[0] = byte;
        let error = trusted.check_sample(&refs(&other), control).unwrap_err();
        let Error::BaseMismatch(mismatch) = &error else { panic!("{error}") };
        let name = mismatch.tensor.clone().unwrap();
        assert_eq!(
            (mismatch.expected, mismatch.found),
            (trusted.tensors[&name], tensor_digest(&other[&name].1))
        );
        named.insert(name);
    }
    assert!(named.iter().eq(["a.large", "b.small"]), "{named:?}");

    // A tensor that is not trusted, or one too many, shows in the digest of the checkpoint only.
    let mut few = trusted.clone();
    few.tensors.retain(|name, _| name == "b.small");
    let mut wrong = base.clone();
    wrong.get_mut("a.large").unwrap().1[0] ^= 1;
    few.check_sample(&refs(&wrong), control).unwrap();
    let error = few.check(&refs(&wrong), control).unwrap_err();
    let Error::BaseMismatch(mismatch) = &error else { panic!("{error}") };
    assert_eq!((&mismatch.tensor, mismatch.expected), (&None, trusted.checkpoint));

    // What is missing is listed, by either.
    few.tensors.insert("d.gone".into(), tensor_digest(b"x"));
    few.tensors.remove("b.small");
    for error in [few.check_sample(&refs(&base), control), few.check(&refs(&wrong), control)] {
        let error = error.unwrap_err();
        let Error::BaseMismatch(mismatch) = &error else { panic!("{error}") };
        assert_eq!(mismatch.missing, ["d.gone"], "{error}");
    }
}

#[test]
fn what_does_not_stay_in_place_is_refused() {
    let (base, mut target) = (weights(0), weights(1));
    target.insert("d.new".into(), (TensorSpec::new(Dtype::U8, &[3]).unwrap(), vec![1, 2, 3]));
    let mut held = base.clone();
    let error =
        patch(&base, &target).apply_to(&mut muts(&mut held), Control::default()).unwrap_err();
    assert_eq!(error.to_string(), "tensor 'd.new' is added, which cannot be done in place");
    assert_eq!((error.kind(), error.advice()), ("not-in-place", Some(Advice::WriteNewCheckpoint)));
    let mut fewer = base.clone();
    fewer.remove("a.large");
    let patch = patch(&base, &weights(1));
    let error = patch.apply_to(&mut muts(&mut fewer), Control::default()).unwrap_err();
    assert_eq!(error.kind(), "base");
}

#[test]
fn tensors_in_memory_have_the_size_of_their_spec() {
    let spec = TensorSpec::new(Dtype::Bf16, &[3]).unwrap();
    let error = TensorRef::new(spec.clone(), &[0; 5]).unwrap_err();
    assert_eq!(error.to_string(), "5 bytes given for a tensor BF16 [3], expected 6");
    let held: Weights<'_> = [("w", TensorRef::new(spec, &[0; 6]).unwrap())].into_iter().collect();
    assert!(held.read("w", 2, &mut [0; 4]).is_ok());
    assert!(held.read("w", 2, &mut [0; 5]).is_err());
    assert!(held.read("v", 0, &mut [0; 1]).is_err());
}
