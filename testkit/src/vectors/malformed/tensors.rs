//! Tensor headers and trailers.

use pulse::dtype::Dtype;
use pulse::hash::tensor_digest;
use pulse::wire::Tag;

use super::{row, Malformed};
use crate::checkpoint::Tensor;
use crate::vectors::raw::{fields, sha256, Fields, Raw};
use crate::vectors::sample::{
    base, deletion, digest_in, footer, header, patch, patch_of, replacement, snapshot, target,
    trailer, ADDED, BF16, DELETED, PATCHED, U8,
};

/// A patch that adds a tensor of 2^64 bytes as if it had none.
fn overflowing() -> Raw {
    let shape = [1 << 32, 1 << 31];
    let nothing = tensor_digest(&[]);
    let mut target = footer(0, Some(&base()), &base());
    target.target_tensors += 1;
    // No library function gives the digest of what cannot be: this is SPEC.md §5.
    let entry = |name: &str, dtype: &str, shape: &[u64], digest| {
        let (name, dtype) = (name.as_bytes(), dtype.as_bytes());
        let named = fields().bytes(&(name.len() as u32).to_le_bytes()).bytes(name);
        let typed = named.u8(dtype.len() as u8).bytes(dtype).u8(shape.len() as u8);
        shape.iter().fold(typed, |all, dim| all.bytes(&dim.to_le_bytes())).digest(digest).0
    };
    let entries = [
        vec![2],
        entry("new", "BF16", &shape, nothing),
        entry("old", "U8", &[2], digest_in(&base(), "old")),
        entry("w", "BF16", &[4], digest_in(&base(), "w")),
    ];
    target.target = sha256(&entries.concat());
    Raw::new(header(), target)
        .add_tensor("new", fields().name(0, "new").spec(ADDED, BF16, &shape))
        .add(Tag::TENSOR_END, fields().varint(0).digest(nothing))
}

/// A patch that adds two zeros, and has no block for them.
fn zeros() -> Raw {
    let mut target = base();
    target.tensors.insert("new".into(), Tensor::new(Dtype::U8, &[2], &[0, 0]));
    Raw::new(header(), footer(0, Some(&base()), &target))
        .add_tensor("new", fields().name(0, "new").spec(ADDED, U8, &[2]))
        .add(Tag::TENSOR_END, fields().varint(0).digest(digest_in(&target, "new")))
}

/// A patch that adds empty tensors, whose names have 4,096 bytes and differ in six.
fn long_names() -> Raw {
    const TENSORS: u64 = 300;
    let (shared, empty) = ("n".repeat(4090), Tensor::new(Dtype::U8, &[0], &[]));
    let mut target = base();
    let names: Vec<String> = (0..TENSORS).map(|n| format!("{shared}{n:06}")).collect();
    target.tensors.extend(names.iter().map(|name| (name.clone(), empty.clone())));
    let mut end = footer(0, Some(&base()), &target);
    end.tensors = TENSORS;
    names.iter().enumerate().fold(Raw::new(header(), end), |raw, (n, name)| {
        let from = if n == 0 { 0 } else { shared.len() };
        raw.add_tensor(name, fields().name(from as u64, &name[from..]).spec(ADDED, U8, &[0]))
            .add(Tag::TENSOR_END, fields().varint(0).digest(tensor_digest(&[])))
    })
}

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
            patch_of(b"\xff", fields().name(0, b"\xff").spec(PATCHED, BF16, &[4])),
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
            replacement().replace(Tag::TENSOR, fields().name(0, "old").spec(4, U8, &[2, 1])),
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
        Malformed {
            limits: vec![("rank", 256)],
            needs: Some("limits"),
            ..row(
                "tensor-rank-256",
                "limit",
                "R82",
                "Rank 256, where the limit is 256; the format allows 255.",
                with(fields().name(0, "w").spec(PATCHED, BF16, &[1; 256])),
            )
        },
        row(
            "tensor-shape-overflow",
            "value",
            "R32",
            "The size of the tensor is 2^64: in 64 bits it wraps to 0, and all else fits that.",
            overflowing(),
        ),
        row(
            "tensor-target-bytes-limit",
            "limit",
            "R81",
            "A tensor of 32 TiB; the default limit is 16 TiB.",
            with(fields().name(0, "w").spec(PATCHED, BF16, &[1 << 44])),
        ),
        row(
            "tensor-name-expansion-limit",
            "limit",
            "R81",
            "Names that share 4,090 bytes: together more than 1 MiB and 8 bytes for each of the file.",
            long_names(),
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
            end(fields().varint(3).bytes(&digests().0)).footer(|footer| footer.changes = 3),
        ),
        row(
            "trailer-changes-alone",
            "count",
            "R37",
            "The trailer counts three changes, blocks and footer two.",
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
                .replace(Tag::TENSOR_END, fields().varint(1).digest(digest_in(&base(), "old")))
                .footer(|footer| footer.changes = 1),
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
            "A tensor that is put has no block: it is right for a reader that starts from zeros.",
            zeros(),
        ),
    ]
}
