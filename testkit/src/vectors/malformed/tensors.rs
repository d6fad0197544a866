//! Tensor headers and trailers.

use pulse::hash::Digest;
use pulse::wire::Tag;

use super::{row, Malformed};
use crate::vectors::raw::{fields, Fields};
use crate::vectors::sample::{
    addition, base, deletion, digest_in, patch, snapshot, target, trailer, BF16, DELETED, PATCHED,
    U8,
};

pub fn tensors() -> Vec<Malformed> {
    let with = |tensor: Fields| patch().replace(Tag::TENSOR, tensor);
    let other = |name: &[u8]| {
        with(fields().name(0, "w").u8(PATCHED).u8(0).string(name).varint(8).varint(1).varint(4))
    };
    let end = |fields: Fields| patch().replace(Tag::TENSOR_END, fields);
    let digests = || fields().digest(digest_in(&base(), "w")).digest(digest_in(&target(), "w"));
    vec![
        row(
            "tensor-name-utf-8",
            "name",
            "R8",
            "A tensor name is not UTF-8.",
            with(fields().name(0, b"\xff").spec(PATCHED, BF16, &[4])),
        ),
        row(
            "tensor-name-shared",
            "value",
            "R9",
            "A name shares more bytes than the name before has.",
            with(fields().name(1, "w").spec(PATCHED, BF16, &[4])),
        ),
        row(
            "tensor-name-limit",
            "limit",
            "R81",
            "A tensor name of 4097 bytes; the default limit is 4096.",
            with(fields().name(0, "w".repeat(4097)).spec(PATCHED, BF16, &[4])),
        ),
        row(
            "tensor-twice",
            "duplicate",
            "R23",
            "A tensor stands twice.",
            patch().add_tensor("w", fields().name(1, "").u8(DELETED)),
        ),
        row(
            "tensor-action",
            "value",
            "R30",
            "Action 4.",
            with(fields().name(0, "w").spec(4, BF16, &[4])),
        ),
        row(
            "tensor-snapshot-patched",
            "value",
            "R24",
            "A snapshot patches a tensor.",
            snapshot().replace(Tag::TENSOR, fields().name(0, "new").spec(PATCHED, U8, &[2])),
        ),
        row(
            "tensor-dtype",
            "value",
            "R30",
            "Dtype code 18.",
            with(fields().name(0, "w").spec(PATCHED, 18, &[4])),
        ),
        row(
            "tensor-dtype-spelled-out",
            "name",
            "R31",
            "A dtype that has a code is given by name.",
            other(b"BF16"),
        ),
        row("tensor-dtype-empty", "name", "R31", "A dtype name is empty.", other(b"")),
        row(
            "tensor-dtype-256",
            "limit",
            "R31 R82",
            "A dtype name of 256 bytes; the format allows 255.",
            other(&[b'x'; 256]),
        ),
        row("tensor-dtype-utf-8", "name", "R8", "A dtype name is not UTF-8.", other(b"\xff")),
        row(
            "tensor-rank-limit",
            "limit",
            "R81",
            "Rank 65; the default limit is 64.",
            with(fields().name(0, "w").spec(PATCHED, BF16, &[1; 65])),
        ),
        row(
            "tensor-shape-overflow",
            "value",
            "R32",
            "The size of the tensor exceeds 64 bits.",
            with(fields().name(0, "w").spec(PATCHED, BF16, &[1 << 32, 1 << 31])),
        ),
        row(
            "tensor-short",
            "length",
            "R6",
            "A dimension is missing.",
            with(fields().name(0, "w").u8(PATCHED).u8(BF16).varint(2).varint(4)),
        ),
        row(
            "tensor-long",
            "length",
            "R6",
            "A byte follows the shape.",
            with(fields().name(0, "w").spec(PATCHED, BF16, &[4]).u8(0)),
        ),
        row(
            "trailer-changes",
            "count",
            "R37",
            "The trailer counts three changes, the blocks two.",
            end(fields().varint(3).bytes(&digests().0)),
        ),
        row(
            "trailer-short",
            "length",
            "R6",
            "The target digest of the trailer is missing.",
            end(fields().varint(2).digest(digest_in(&base(), "w"))),
        ),
        row(
            "trailer-long",
            "length",
            "R6",
            "A byte follows the digests of the trailer.",
            end(trailer().u8(0)),
        ),
        row(
            "trailer-deleted-changes",
            "count",
            "R37",
            "A deleted tensor has a change.",
            deletion()
                .replace(Tag::TENSOR_END, fields().varint(1).digest(digest_in(&base(), "old"))),
        ),
        row(
            "trailer-unchanged",
            "value",
            "R38",
            "A patched tensor has no changes.",
            patch()
                .remove(Tag::BLOCK)
                .replace(Tag::TENSOR_END, fields().varint(0).bytes(&digests().0)),
        ),
        row(
            "trailer-incomplete",
            "count",
            "R39",
            "A tensor that is put has no bytes.",
            addition()
                .remove(Tag::BLOCK)
                .replace(Tag::TENSOR_END, fields().varint(0).digest(Digest([0; 32]))),
        ),
    ]
}
