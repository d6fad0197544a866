//! The small patches that the malformed vectors are made from, one change at a time.

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{tensor_digest, Digest};
use pulse::wire::Tag;

use super::raw::{fields, Fields, Footer, Raw};
use crate::checkpoint::{Checkpoint, Tensor};

/// Wire codes that the samples use.
pub const U8: u8 = 2;
pub const BF16: u8 = 10;
pub const PATCHED: u8 = 0;
pub const ADDED: u8 = 1;
pub const REPLACED: u8 = 2;
pub const DELETED: u8 = 3;
pub const WHOLE: u8 = 0;
pub const FLAT: u8 = 1;
/// Forms of the whole coding.
pub const PLAIN: u8 = 0;
pub const ROTATED: u8 = 1;
/// Form byte of the sample's block: gaps u8, values are steps, as u8.
pub const FORM: u8 = 0x21;

fn w(elements: [u64; 4]) -> Tensor {
    Tensor::new(Dtype::Bf16, &[4], &elements)
}

pub fn new() -> Tensor {
    Tensor::new(Dtype::U8, &[2], &[1, 2])
}

/// Tensors `w` and `old`.
pub fn base() -> Checkpoint {
    [("w", w([0x3f80, 0x3f80, 0xbf80, 0x0000])), ("old", Tensor::new(Dtype::U8, &[2], &[8, 9]))]
        .into()
}

/// One step up in element 1 of `w`; two steps down, across both zeros, in element 3.
pub fn target() -> Checkpoint {
    let mut target = base();
    target.tensors.insert("w".into(), w([0x3f80, 0x3f81, 0xbf80, 0x8001]));
    target
}

/// Footer of a patch between two checkpoints with one tensor in it.
pub fn footer(changes: u64, base: Option<&Checkpoint>, target: &Checkpoint) -> Footer {
    let sum = |size: fn(&TensorSpec) -> u64| {
        target.tensors.values().map(|tensor| size(&tensor.spec)).sum()
    };
    Footer {
        flags: base.is_some().into(),
        tensors: 1,
        changes,
        target_tensors: target.tensors.len() as u64,
        target_elements: sum(TensorSpec::elements),
        target_bytes: sum(TensorSpec::bytes),
        index_offset: 0,
        base: base.map_or(Digest([0; 32]), Checkpoint::digest),
        target: target.digest(),
        excess: Vec::new(),
        sha256_flip: 0,
    }
}

/// Flags, block size, no metadata.
pub fn header() -> Fields {
    fields().u8(0).varint(1).varint(0)
}

pub fn tensor() -> Fields {
    fields().name(0, "w").spec(PATCHED, BF16, &[4])
}

/// The sample's block with another payload after its head.
pub fn block_of(changes: u64, payload: Fields) -> Fields {
    fields().block(FLAT, 0, 1, changes).bytes(&payload.0)
}

pub fn block() -> Fields {
    block_of(2, fields().u8(FORM).stored(&[1, 1]).stored(&[2, 3]))
}

/// Digest of a tensor of the base or the target.
pub fn digest_in(checkpoint: &Checkpoint, name: &str) -> Digest {
    tensor_digest(&checkpoint.tensors[name].bytes)
}

pub fn trailer() -> Fields {
    fields().varint(2).digest(digest_in(&base(), "w")).digest(digest_in(&target(), "w"))
}

/// The patch from [`base`] to [`target`].
pub fn patch() -> Raw {
    patch_of("w", tensor())
}

/// The same of a tensor with this name and header.
pub fn patch_of(name: impl AsRef<[u8]>, tensor: Fields) -> Raw {
    Raw::new(header(), footer(2, Some(&base()), &target()))
        .add_tensor(name, tensor)
        .add(Tag::BLOCK, block())
        .add(Tag::TENSOR_END, trailer())
}

/// Adds `new`.
pub fn with_new(raw: Raw) -> Raw {
    raw.add_tensor("new", fields().name(0, "new").spec(ADDED, U8, &[2]))
        .add(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2]))
        .add(Tag::TENSOR_END, fields().varint(2).digest(tensor_digest(&new().bytes)))
}

/// A patch that adds `new` to [`base`].
pub fn addition() -> Raw {
    let mut target = base();
    target.tensors.insert("new".into(), new());
    with_new(Raw::new(header(), footer(2, Some(&base()), &target)))
}

/// A patch that deletes `old` from [`base`].
pub fn deletion() -> Raw {
    let mut target = base();
    target.tensors.remove("old");
    Raw::new(header(), footer(0, Some(&base()), &target))
        .add_tensor("old", fields().name(0, "old").u8(DELETED))
        .add(Tag::TENSOR_END, fields().varint(0).digest(digest_in(&base(), "old")))
}

/// A patch that gives `old` another shape.
pub fn replacement() -> Raw {
    let mut target = base();
    target.tensors.insert("old".into(), Tensor::new(Dtype::U8, &[2, 1], &[1, 2]));
    Raw::new(header(), footer(2, Some(&base()), &target))
        .add_tensor("old", fields().name(0, "old").spec(REPLACED, U8, &[2, 1]))
        .add(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2]))
        .add(
            Tag::TENSOR_END,
            fields().varint(2).digest(digest_in(&base(), "old")).digest(digest_in(&target, "old")),
        )
}

/// A snapshot of `new` alone.
pub fn snapshot() -> Raw {
    with_new(Raw::new(
        fields().u8(1).varint(1).varint(0),
        footer(2, None, &[("new", new())].into()),
    ))
}
