//! Chains of anything: generated tensors that come, go, change, change their shape, and come back.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use pulse::coding::ValueForm;
use pulse::dtype::{Dtype, TensorSpec};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::{Error, Limits, Patch};

use super::flat;
use testkit::files::{noise, tensor, Files, Place, Tensor};
use testkit::held::refs;
use testkit::library::{diff_tensors, every_coding, open};

/// A version of a tensor: dtype and shape of a few, and contents of a few, so that they come back.
type Version = Option<(u8, u8)>;
/// Versions of the tensors "0", "1" and "2".
type Model = [Version; 3];

fn spec((kind, _): (u8, u8)) -> TensorSpec {
    let (dtype, shape) =
        [(Dtype::Bf16, [40_000, 2]), (Dtype::I8, [50, 1]), (Dtype::F64, [9_000, 3])]
            [usize::from(kind)]
        .clone();
    TensorSpec::new(dtype, &shape).unwrap()
}

/// Contents differ from one another here and there, and at times on every leaf.
fn bytes((kind, content): (u8, u8)) -> Vec<u8> {
    let mut bytes = noise(u64::from(kind), spec((kind, 0)).bytes() as usize);
    let every = [usize::MAX, 7919, 101, 70_001][usize::from(content)];
    bytes.iter_mut().step_by(every).for_each(|byte| *byte = byte.wrapping_add(1 + content));
    bytes
}

fn tensors(model: &Model) -> BTreeMap<String, (TensorSpec, Vec<u8>)> {
    let named = model
        .iter()
        .enumerate()
        .filter_map(|(name, version)| Some((name.to_string(), (*version)?)));
    named.map(|(name, version)| (name, (spec(version), bytes(version)))).collect()
}

/// The same as a safetensors file takes them.
fn held(model: &Model) -> Vec<Tensor> {
    let one = |(name, (spec, bytes)): (String, (TensorSpec, Vec<u8>))| {
        tensor(&name, spec.dtype().name(), spec.shape(), bytes)
    };
    tensors(model).into_iter().map(one).collect()
}

fn diff(base: &Model, target: &Model, options: &EncoderOptions) -> Vec<u8> {
    let (base, target) = (tensors(base), tensors(target));
    diff_tensors(Some(&refs(&base)), &refs(&target), options.clone(), Control::threads(1)).unwrap()
}

fn patches(models: &[Model], options: &[EncoderOptions]) -> Vec<Patch> {
    let steps = models.windows(2).zip(options.iter().cycle());
    let one = |(pair, options): (&[Model], &EncoderOptions)| diff(&pair[0], &pair[1], options);
    steps.map(one).map(|patch| Patch::from_bytes(patch, Limits::default()).unwrap()).collect()
}

/// Whether a tensor of both ends was put on the way: it may have come back in its old shape.
fn is_unsure(models: &[Model]) -> bool {
    (0..3).any(|name| {
        let kinds: Vec<_> =
            models.iter().map(|model| model[name].map(|version| version.0)).collect();
        let in_both = kinds[0].is_some() && kinds[kinds.len() - 1].is_some();
        in_both && kinds.windows(2).any(|pair| pair[0] != pair[1])
    })
}

fn model() -> impl Strategy<Value = Model> {
    // Mostly one kind, so that many chains are patched all the way.
    let version = || {
        prop_oneof![
            6 => (Just(0u8), 0..4u8).prop_map(Some),
            1 => (1..3u8, 0..4u8).prop_map(Some),
            1 => Just(None),
        ]
    };
    [version(), version(), version()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_composes_to_the_diff_of_its_ends(
        models in vec(model(), 2..6),
        xor in any::<bool>(),
        blocks in vec(1..4u64, 5),
        block in 1..4u64,
    ) {
        let form = if xor { ValueForm::Xor } else { ValueForm::UlpStep };
        let inputs: Vec<_> = blocks.iter().map(|&leaves| flat(form).with_block_leaves(leaves)).collect();
        let patches = patches(&models, &inputs);
        let options = flat(form).with_block_leaves(block);
        let mut patch = Vec::new();
        match Patch::compose(&patches, None, &mut patch, options.clone().into(), Control::threads(2)) {
            Ok(_) => prop_assert!(patch == diff(&models[0], &models[models.len() - 1], &options)),
            Err(Error::NeedsBase { what, .. }) => {
                prop_assert!(what.contains("old dtype and shape") && is_unsure(&models), "{what}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn any_chain_composes_on_its_base(models in vec(model(), 2..5), turn in 0..4usize, block in 1..4u64) {
        let mut codings = every_coding();
        codings.rotate_left(turn);
        let patches = patches(&models, &codings);
        let place = Place::new();
        let base = place.put("base", &Files::one(&held(&models[0])));
        let base = Some(open(&base));
        let options = codings[0].clone().with_block_leaves(block);
        let (mut patch, control) = (Vec::new(), Control::threads(2));
        let report = Patch::compose(&patches, base.as_ref(), &mut patch, options.clone().into(), control).unwrap();
        prop_assert!(report.verified && patch == diff(&models[0], &models[models.len() - 1], &options));
    }

    #[test]
    fn a_patch_turned_round_is_the_diff_the_other_way(
        base in model(),
        target in model(),
        xor in any::<bool>(),
        block in 1..4u64,
    ) {
        let form = if xor { ValueForm::Xor } else { ValueForm::UlpStep };
        let patch = Patch::from_bytes(diff(&base, &target, &flat(form)), Limits::default()).unwrap();
        let options = flat(form).with_block_leaves(block);
        let kind = |version: &Version| version.map(|version| version.0);
        let lost = base.iter().zip(&target).any(|(base, target)| base.is_some() && kind(base) != kind(target));
        let mut back = Vec::new();
        match patch.invert(&mut back, options.clone().into(), Control::threads(2)) {
            Ok(_) => prop_assert!(!lost && back == diff(&target, &base, &options)),
            Err(error) => prop_assert!(lost && matches!(error, Error::NotInvertible { .. }), "{error}"),
        }
    }
}
