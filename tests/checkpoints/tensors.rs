//! Odd tensors.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};

use pulse::dtype::Dtype;
use pulse::stream::EncoderOptions;
use pulse::wire::Action;

use crate::rebuilds;
use testkit::files::{
    header, noise, raw, safetensors, stepped, tensor, weights, Files, Place, Tensor,
};
use testkit::library::{apply, diff, every_coding, open};

/// One tensor for each of these pairs of bit patterns, in a base and a target.
fn bit_pairs(dtype: &str, width: usize, pairs: &[(u64, u64)]) -> (Tensor, Tensor) {
    let bytes = |side: fn(&(u64, u64)) -> u64| -> Vec<u8> {
        pairs.iter().flat_map(|pair| side(pair).to_le_bytes()[..width].to_vec()).collect()
    };
    let shape = [pairs.len() as u64];
    (
        tensor(dtype, dtype, &shape, bytes(|pair| pair.0)),
        tensor(dtype, dtype, &shape, bytes(|pair| pair.1)),
    )
}

#[test]
fn every_dtype_rebuilds() {
    let (mut base, mut target) = (Vec::new(), Vec::new());
    for (seed, dtype) in Dtype::known().enumerate() {
        let (width, elements) = (dtype.element_bytes(), 5000);
        let mut add = |name: &str, every| {
            let (name, bytes) = (format!("{dtype}.{name}"), noise(seed as u64, width * elements));
            target.push(tensor(&name, dtype.name(), &[50, 100], stepped(&bytes, width, every)));
            base.push(tensor(&name, dtype.name(), &[50, 100], bytes));
        };
        add("sparse", 100);
        add("dense", 2);
        add("one", 5000);
    }
    assert_eq!(base.len(), 3 * 17);
    let report = rebuilds(&Files::one(&base), &Files::one(&target));
    assert_eq!(report.summary.footer.changes, 17 * (50 + 2500 + 1));
}

#[test]
fn dtypes_of_less_than_a_byte_and_of_the_future_rebuild() {
    let base = [
        tensor("a", "F4", &[3000], noise(1, 1500)),
        tensor("b", "Q7_\u{e9}", &[7, 11], noise(2, 999)),
    ];
    let target = [
        tensor("a", "F4", &[3000], stepped(&base[0].bytes, 1, 100)),
        tensor("b", "Q7_\u{e9}", &[7, 11], stepped(&base[1].bytes, 1, 999)),
    ];
    let report = rebuilds(&Files::one(&base), &Files::one(&target));
    assert_eq!(report.summary.footer.changes, 15 + 1);
}

#[test]
fn bits_that_compare_equal_or_not_at_all_are_changes() {
    // Zero against negative zero, NaN against another NaN, quiet and signalling, both ways; infinities.
    let f16 = [
        (0, 0x8000),
        (0x8000, 0),
        (0x7e00, 0x7e01),
        (0xfe00, 0x7c01),
        (0x7c00, 0xfc00),
        (0x0001, 0x8001),
    ];
    let bf16 = [
        (0, 0x8000),
        (0x8000, 0),
        (0x7fc0, 0x7fc1),
        (0xffc0, 0x7f81),
        (0x7f80, 0xff80),
        (0x0001, 0x8001),
    ];
    let high = |pair: (u64, u64), by: u32| (pair.0 << by, pair.1 << by);
    let f32 = bf16.map(|pair| high(pair, 16));
    let f64 = [
        (0, 1 << 63),
        (1 << 63, 0),
        (0x7ff8 << 48, (0x7ff8 << 48) + 1),
        (0xfff8 << 48, (0x7ff0 << 48) + 1),
    ];
    let f8 = [(0, 0x80), (0x80, 0), (0x7f, 0xff), (0x7e, 0x7f)];
    let u64 =
        [(0, u64::MAX), (u64::MAX, 0), (i64::MAX as u64, 1 << 63), (1 << 63, i64::MAX as u64)];
    let pairs = [
        bit_pairs("F16", 2, &f16),
        bit_pairs("BF16", 2, &bf16),
        bit_pairs("F32", 4, &f32),
        bit_pairs("F64", 8, &f64),
        bit_pairs("F8_E4M3", 1, &f8),
        bit_pairs("F8_E5M2", 1, &f8),
        bit_pairs("F8_E8M0", 1, &f8),
        bit_pairs("BOOL", 1, &[(0, 1), (1, 0), (1, 255), (2, 3)]),
        bit_pairs("U64", 8, &u64),
        bit_pairs("I64", 8, &u64),
        bit_pairs("C64", 8, &u64),
    ];
    let (base, target): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let report = rebuilds(&Files::one(&base), &Files::one(&target));
    assert_eq!(report.summary.footer.changes, 3 * 6 + 8 * 4);
}

#[test]
fn scalars_and_tensors_without_elements_rebuild() {
    let scalar = |bits: u16| tensor("scalar", "BF16", &[], bits.to_le_bytes());
    let empty = [tensor("none", "F32", &[0], []), tensor("flat", "F32", &[0, u64::MAX, 7], [])];
    let base = [&[scalar(0x3f80)][..], &empty].concat();
    let target = [&[scalar(0x3f81)][..], &empty].concat();
    assert_eq!(rebuilds(&Files::one(&base), &Files::one(&target)).summary.footer.changes, 1);
    // Appearing, vanishing, and changing without a byte.
    let reshaped = tensor("none", "I8", &[3, 0], []);
    rebuilds(&Files::one(&base), &Files::one(&[base[0].clone(), reshaped]));
}

#[test]
fn tensors_added_removed_reshaped_and_retyped_rebuild() {
    let bytes = noise(3, 600);
    let keep = tensor("keep", "U8", &[600], bytes.clone());
    let base = [
        keep.clone(),
        tensor("reshaped", "BF16", &[300], bytes.clone()),
        tensor("retyped", "F16", &[300], bytes.clone()),
        tensor("grown", "U8", &[600], bytes.clone()),
        tensor("removed", "F32", &[150], bytes.clone()),
        tensor("stepped", "I32", &[150], bytes.clone()),
    ];
    let target = [
        tensor("added", "F64", &[75], bytes.clone()),
        tensor("stepped", "I32", &[150], stepped(&bytes, 4, 10)),
        tensor("reshaped", "BF16", &[3, 100], bytes.clone()),
        tensor("retyped", "BF16", &[300], bytes.clone()),
        tensor("grown", "U8", &[700_000], noise(4, 700_000)),
        keep,
    ];
    let report = rebuilds(&Files::one(&base), &Files::one(&target));
    let counts =
        [(Action::Patched, 1), (Action::Added, 1), (Action::Replaced, 3), (Action::Deleted, 1)];
    assert_eq!(report.actions, counts.into());
    assert_eq!(report.summary.footer.changes, 15 + 75 + 300 + 300 + 700_000);
    assert_eq!(report.summary.footer.target_tensors, 6);
    // Nothing in common at all.
    rebuilds(&Files::one(&base[1..3]), &Files::one(&target[..1]));
}

#[test]
fn a_checkpoint_without_tensors_rebuilds() {
    let none = Files::one(&[]);
    let one = Files::one(&[tensor("w", "U8", &[3], *b"abc")]);
    assert_eq!(rebuilds(&none, &none).summary.footer.target_tensors, 0);
    rebuilds(&none, &one);
    rebuilds(&none, &Files::One(raw(r#"{"__metadata__":{}} "#, &[])));
}

#[test]
fn identical_checkpoints_make_a_patch_without_tensors() {
    let files = Files::one(&[tensor("w", "BF16", &[1000], weights(5, 1000))]);
    let report = rebuilds(&files, &files);
    assert!(report.actions.is_empty());
    assert_eq!((report.summary.footer.tensors, report.summary.footer.changes), (0, 0));
    assert!(report.summary.patch_bytes < 300);
}

#[test]
fn a_checkpoint_in_which_everything_changed_rebuilds() {
    let elements = 1_500_000;
    let file =
        |seed| Files::one(&[tensor("w", "BF16", &[elements], weights(seed, elements as usize))]);
    let report = rebuilds(&file(6), &file(7));
    let full = 2 * elements;
    assert!(report.summary.footer.changes > elements * 99 / 100);
    assert!(report.summary.patch_bytes < full + full / 50, "{} bytes", report.summary.patch_bytes);
}

#[test]
fn tensors_that_end_near_a_leaf_or_block_rebuild() {
    let (leaf, block) = (65536, 32 * 65536);
    let sizes = [1, leaf - 1, leaf, leaf + 1, block - 1, block, block + 1, block + leaf];
    let base = sizes.map(|size| tensor(&size.to_string(), "U8", &[size as u64], noise(8, size)));
    let change = |at: fn(usize) -> usize| {
        let mut target = base.clone();
        target.iter_mut().for_each(|tensor| tensor.bytes[at(tensor.shape[0] as usize)] ^= 0x80);
        Files::one(&target)
    };
    let (first, last) = (change(|_| 0), change(|size| size - 1));
    assert_eq!(rebuilds(&Files::one(&base), &first).summary.footer.changes, 8);
    // The first of one byte is the last as well.
    assert_eq!(rebuilds(&first, &last).summary.footer.changes, 2 * 7);
}

#[test]
fn three_changes_twenty_million_elements_apart_rebuild() {
    const ELEMENTS: u64 = 40_000_001;
    let place = Place::new();
    let shape = [tensor("w", "BF16", &[ELEMENTS], [])];
    let json = header(&shape, &[]).replace("[0,0]", &format!("[0,{}]", 2 * ELEMENTS));
    let head = raw(&json, &[]);
    // Zeros that take no room on disk.
    let write = |name: &str, changes: &[u64]| {
        let path = place.put_bytes(name, &head);
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(head.len() as u64 + 2 * ELEMENTS).unwrap();
        for element in changes {
            file.seek(SeekFrom::Start(head.len() as u64 + 2 * element)).unwrap();
            file.write_all(&[1]).unwrap();
        }
        path
    };
    let (base, target) = (write("base", &[]), write("target", &[0, 20_000_000, 40_000_000]));
    let (patch, out) = (place.path("patch"), place.path("out"));
    let report = diff(Some(&base), &target, &patch, EncoderOptions::default(), 2);
    assert_eq!(report.summary.footer.changes, 3);
    assert!(report.summary.patch_bytes < 600);
    apply(Some(&base), &patch, &out).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&target).unwrap());
}

#[test]
fn diff_writes_the_same_bytes_whatever_the_threads() {
    let mut base: Vec<_> = (0..300)
        .map(|i| tensor(&format!("small.{i}"), "BF16", &[i + 1], weights(i, i as usize + 1)))
        .collect();
    base.push(tensor("large", "BF16", &[5_000_000], weights(9, 5_000_000)));
    base.push(tensor("removed", "U8", &[3_000_000], noise(10, 3_000_000)));
    let mut target = base.clone();
    target.iter_mut().for_each(|tensor| tensor.bytes = stepped(&tensor.bytes, 2, 97));
    target[301] = tensor("added", "U8", &[3_000_000], noise(11, 3_000_000));
    let place = Place::new();
    let (base, target) =
        (place.put("base", &Files::one(&base)), place.put("target", &Files::one(&target)));
    let [contextual, flat, ..] = every_coding();
    for (options, leaves) in
        [(&contextual, 1), (&contextual, 32), (&contextual, 64), (&flat, 5), (&flat, 32)]
    {
        let patch = |threads| {
            let path = place.path("patch");
            diff(Some(&base), &target, &path, options.clone().with_block_leaves(leaves), threads);
            fs::read(&path).unwrap()
        };
        let first = patch(1);
        assert!(
            [2, 7].into_iter().all(|threads| patch(threads) == first),
            "blocks of {leaves} leaves"
        );
        let out = place.path("out");
        apply(Some(&base), &place.path("patch"), &out).unwrap();
        assert!(fs::read(&out).unwrap() == fs::read(&target).unwrap(), "blocks of {leaves} leaves");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn the_digest_is_that_of_the_content() {
    let tensors = [tensor("a", "U8", &[3], *b"abc"), tensor("b", "BF16", &[2], *b"wxyz")];
    let place = Place::new();
    let digest = |name: &str, files: &Files| {
        open(&place.put(name, files)).digest(Default::default()).unwrap()
    };
    let same = digest("one", &Files::one(&tensors));
    let (a, b) = tensors.split_at(1);
    assert_eq!(digest("order", &Files::one(&[b, a].concat())), same);
    let shards =
        Files::many([("1.safetensors", safetensors(a)), ("2.safetensors", safetensors(b))]);
    assert_eq!(digest("shards", &shards), same);
    for (name, other) in [
        ("value", tensor("a", "U8", &[3], *b"abd")),
        ("shape", tensor("a", "U8", &[3, 1], *b"abc")),
        ("dtype", tensor("a", "I8", &[3], *b"abc")),
        ("name", tensor("A", "U8", &[3], *b"abc")),
    ] {
        assert_ne!(digest(name, &Files::one(&[&[other], b].concat())), same, "{name}");
    }
}
