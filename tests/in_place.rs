//! Weights in memory, and a base whose digests are taken on trust.

use std::collections::BTreeMap;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::tensor_digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::{apply_in_place, diff_tensors, Parallel, TensorMut, TensorRef, TensorSource};
use pulse::{Encoder, Error, Limits, Patch};

type Weights = BTreeMap<String, (TensorSpec, Vec<u8>)>;

/// Three tensors: several blocks, a small one, an empty one.
fn weights(seed: u64) -> Weights {
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

fn refs(weights: &Weights) -> BTreeMap<String, TensorRef<'_>> {
    let mut held = BTreeMap::new();
    for (name, (spec, bytes)) in weights {
        held.insert(name.clone(), TensorRef::new(spec.clone(), bytes).unwrap());
    }
    held
}

fn muts(weights: &mut Weights) -> BTreeMap<String, TensorMut<'_>> {
    let mut held = BTreeMap::new();
    for (name, (spec, bytes)) in weights {
        held.insert(name.clone(), TensorMut::new(spec.clone(), bytes).unwrap());
    }
    held
}

fn patch_bytes(base: &Weights, target: &Weights, options: EncoderOptions, threads: usize) -> Vec<u8> {
    let (from, to) = (refs(base), refs(target));
    diff_tensors(Some(&from), &to, Vec::new(), options, Parallel::threads(threads)).unwrap().0
}

fn patch(base: &Weights, target: &Weights) -> Patch {
    open(patch_bytes(base, target, EncoderOptions::default(), 2))
}

fn open(bytes: Vec<u8>) -> Patch {
    Patch::from_bytes(bytes, &Limits::default()).unwrap()
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
        let report = apply_in_place(&mut muts(&mut held), &open(found), Parallel::threads(threads)).unwrap();
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
    for (name, at) in [("a.large", 1), ("a.large", 399_999), ("b.small", 59)] {
        let mut wrong = weights(0);
        wrong.get_mut(name).unwrap().1[at] ^= 0x10;
        let before = wrong.clone();
        let error = apply_in_place(&mut muts(&mut wrong), &patch, Parallel::threads(2)).unwrap_err();
        assert!(matches!(error, Error::BaseMismatch { .. }), "{error}");
        assert!(wrong == before, "the weights were touched");
    }
}

#[test]
fn a_patch_that_lies_about_its_target_leaves_the_weights_as_they_were() {
    // The base is trusted to have a digest that it has not: the writer's target is what it says,
    // and so a receiver finds its own base to be another.
    let (base, target) = (weights(0), weights(1));
    let mut trusted = patch(&target, &base).trusted_target();
    *trusted.tensors.get_mut("a.large").unwrap() = tensor_digest(b"another");
    trusted.checkpoint = tensor_digest(b"another");
    let lie = open(patch_bytes(&base, &target, EncoderOptions::default().with_trusted_base(trusted), 1));
    // The result is right, so the lie about the base does no harm here.
    let mut held = base.clone();
    apply_in_place(&mut muts(&mut held), &lie, Parallel::default()).unwrap();
    assert_eq!(held, target);
    // On another base it is refused, and nothing has changed.
    let mut other = weights(2);
    assert!(apply_in_place(&mut muts(&mut other), &lie, Parallel::default()).is_err());
    assert_eq!(other, weights(2));
}

#[test]
fn a_trusted_base_gives_the_same_patch_but_for_the_digest_in_the_header() {
    let (before, base, target) = (weights(2), weights(0), weights(1));
    let previous = patch(&before, &base);
    let options = EncoderOptions::default().with_trusted_base(previous.trusted_target());
    let trusting = patch_bytes(&base, &target, options, 2);
    let hashing = EncoderOptions::default().with_base_digest(Some(previous.footer().target));
    assert!(trusting == patch_bytes(&base, &target, hashing, 2));
}

#[test]
fn what_does_not_stay_in_place_is_refused() {
    let (base, mut target) = (weights(0), weights(1));
    target.insert("d.new".into(), (TensorSpec::new(Dtype::U8, &[3]).unwrap(), vec![1, 2, 3]));
    let mut held = base.clone();
    let error = apply_in_place(&mut muts(&mut held), &patch(&base, &target), Parallel::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor 'd.new' is added: only changes can be applied in place; use apply, or load a snapshot"
    );
    let mut fewer = base.clone();
    fewer.remove("a.large");
    let patch = patch(&base, &weights(1));
    let error = apply_in_place(&mut muts(&mut fewer), &patch, Parallel::default()).unwrap_err();
    assert_eq!(error.kind(), "base");
}

#[test]
fn tensors_in_memory_have_the_size_of_their_spec() {
    let spec = TensorSpec::new(Dtype::Bf16, &[3]).unwrap();
    let error = TensorRef::new(spec.clone(), &[0; 5]).unwrap_err();
    assert_eq!(error.to_string(), "5 bytes given for a tensor BF16 [3], expected 6");
    let held = BTreeMap::from([("w".to_string(), TensorRef::new(spec, &[0; 6]).unwrap())]);
    assert!(held.read("w", 2, &mut [0; 4]).is_ok());
    assert!(held.read("w", 2, &mut [0; 5]).is_err());
    assert!(held.read("v", 0, &mut [0; 1]).is_err());
}
