//! Patches of the streaming encoder, which knows nothing of files, applied to files.

use std::fs;
use std::path::Path;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::stream::EncoderOptions;
use pulse::wire::FileKind;
use pulse::Encoder;
use serde_json::Value;

use testkit::encode::begin;
use testkit::files::{
    data, header, noise, raw, safetensors, stepped, tensor, weights, Files, Place, Tensor,
};
use testkit::library::{apply, diff, every_coding, open, verify};

fn spec(tensor: &Tensor) -> TensorSpec {
    TensorSpec::with_bytes(
        Dtype::from_name(&tensor.dtype),
        &tensor.shape,
        tensor.bytes.len() as u64,
    )
    .unwrap()
}

/// Pushes all tensors of both sides in the order of their names.
fn push_all(encoder: &mut Encoder<Vec<u8>>, base: &[Tensor], target: &[Tensor]) {
    let mut names: Vec<_> = base.iter().chain(target).map(|tensor| &tensor.name).collect();
    names.sort();
    names.dedup();
    for name in names {
        let find = |tensors: &[Tensor]| {
            let found = tensors.iter().find(|tensor| tensor.name == *name);
            (found.map(spec), found.map_or(Vec::new(), |tensor| tensor.bytes.clone()))
        };
        let (base, target) = (find(base), find(target));
        let mut writer = begin(encoder, name, base.0.as_ref(), target.0.as_ref()).unwrap();
        writer.push(&base.1, &target.1).unwrap();
        writer.end().unwrap();
    }
}

fn encoded(base: &[Tensor], target: &[Tensor]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    push_all(&mut encoder, base, target);
    encoder.finish().unwrap().0
}

fn snapshot(target: &[Tensor]) -> Vec<u8> {
    let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap();
    push_all(&mut encoder, &[], target);
    encoder.finish().unwrap().0
}

fn model() -> Vec<Tensor> {
    let mut tensors: Vec<_> = (0..4)
        .map(|i| tensor(&format!("w.{i}"), "BF16", &[700, 1000], weights(i, 700_000)))
        .collect();
    tensors.push(tensor("scalar", "F32", &[], [0, 0, 0x80, 0x3f]));
    tensors.push(tensor("gone", "U8", &[3], *b"abc"));
    tensors
}

/// Patched, unchanged, deleted, added and replaced tensors.
fn target() -> Vec<Tensor> {
    let mut tensors = model();
    tensors[5] = tensor("new", "U8", &[4], *b"wxyz");
    tensors[1].bytes = stepped(&tensors[1].bytes, 2, 100);
    tensors[2].bytes = stepped(&tensors[2].bytes, 2, 3);
    tensors[3] = tensor("w.3", "I64", &[9], noise(1, 72));
    tensors
}

#[test]
fn diff_writes_what_the_encoder_writes() {
    let place = Place::new();
    let config = noise(2, 3_000_000);
    let directory = |tensors: &[Tensor], seed: u64| {
        let files = [
            ("a-config", config.clone()),
            ("model.safetensors", safetensors(tensors)),
            ("z", noise(seed, 99)),
        ];
        Files::many(files)
    };
    let base = place.put("base", &directory(&model(), 1));
    let target_path = place.put("target", &directory(&target(), 2));
    for (options, leaves) in every_coding().into_iter().zip([1, 2, 32, 64]) {
        let options = options.with_block_leaves(leaves).with_metadata("k", "v");
        diff(Some(&base), &target_path, &place.path("patch"), options.clone(), 3);

        let mut encoder = Encoder::new(Vec::new(), options).unwrap();
        let json = raw(&header(&target(), &[]), &[]);
        encoder.carry_file("model.safetensors", FileKind::Tensors, &json).unwrap();
        encoder.keep_file("a-config", FileKind::Companion, &config).unwrap();
        encoder.replace_file("z", &noise(1, 99), &noise(2, 99)).unwrap();
        push_all(&mut encoder, &model(), &target());
        let patch = encoder.finish().unwrap().0;
        assert!(fs::read(place.path("patch")).unwrap() == patch, "blocks of {leaves} leaves");
    }
}

#[test]
fn a_patch_without_files_keeps_the_files_of_the_base() {
    let mut changed = model();
    changed[0].bytes = stepped(&changed[0].bytes, 2, 1000);
    let patch = encoded(&model(), &changed);
    let file = |tensors: &[Tensor]| {
        raw(&(header(tensors, &[r#""__metadata__":{"a":"b"}"#]) + "   "), &data(tensors))
    };
    let directory = |tensors: &[Tensor]| {
        let (a, b) = tensors.split_at(2);
        Files::many([
            ("1.safetensors", file(b)),
            ("2.safetensors", file(a)),
            ("config.json", b"{}".to_vec()),
        ])
    };
    for (base, target) in [
        (Files::One(file(&model())), Files::One(file(&changed))),
        (directory(&model()), directory(&changed)),
    ] {
        let place = Place::new();
        let (base, patch) = (place.put("base", &base), place.put_bytes("patch", &patch));
        apply(Some(&base), &patch, &place.path("out")).unwrap();
        Files::read(&place.path("out")).assert_same(&target);
        verify(&patch, Some(&base), Some(&place.path("out"))).unwrap();
    }
}

/// Checks that a file is one of the library's own making that holds exactly these tensors.
#[track_caller]
fn assert_canonical(path: &Path, tensors: &[Tensor]) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0, "tensors are not aligned");
    let json: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(json.as_object().unwrap().len(), tensors.len());
    let mut sorted = tensors.to_vec();
    sorted.sort_by_key(|tensor| {
        (std::cmp::Reverse(spec(tensor).dtype().element_bytes()), tensor.name.clone())
    });
    assert_eq!(json, serde_json::from_str::<Value>(&header(&sorted, &[])).unwrap());
    assert!(bytes[8 + length..] == data(&sorted));
    open(path);
}

#[test]
fn a_patch_without_files_that_adds_tensors_makes_a_file_of_its_own() {
    let patch = encoded(&model(), &target());
    let place = Place::new();
    let patch = place.put_bytes("patch", &patch);
    let base = place.put("base", &Files::one(&model()));
    apply(Some(&base), &patch, &place.path("out")).unwrap();
    assert_canonical(&place.path("out"), &target());
    verify(&patch, Some(&base), Some(&place.path("out"))).unwrap();

    let tensors = model();
    let (a, b) = tensors.split_at(2);
    let sharded =
        Files::many([("1.safetensors", safetensors(a)), ("2.safetensors", safetensors(b))]);
    apply(Some(&place.put("sharded", &sharded)), &patch, &place.path("directory")).unwrap();
    assert_canonical(&place.path("directory/model.safetensors"), &target());
}

#[test]
fn a_snapshot_without_files_makes_a_file_of_its_own() {
    let place = Place::new();
    let patch = place.put_bytes("patch", &snapshot(&target()));
    apply(None, &patch, &place.path("out")).unwrap();
    assert_canonical(&place.path("out"), &target());
    verify(&patch, None, Some(&place.path("out"))).unwrap();
    let none = place.put_bytes("none", &snapshot(&[]));
    apply(None, &none, &place.path("empty")).unwrap();
    assert_canonical(&place.path("empty"), &[]);
}

#[test]
fn a_tensor_that_no_safetensors_file_can_hold_is_refused() {
    let place = Place::new();
    let tensors = [tensor("__metadata__", "U8", &[1], *b"x")];
    let patch = place.put_bytes("patch", &snapshot(&tensors));
    let error = place.untouched(|| apply(None, &patch, &place.path("out")).unwrap_err());
    assert_eq!(error.kind(), "checkpoint");
}
