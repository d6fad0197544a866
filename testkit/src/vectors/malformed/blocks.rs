//! Heads of blocks, and the whole coding.

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{tensor_digest, CheckpointHasher};
use pulse::wire::Tag;

use super::{row, Malformed};
use crate::checkpoint::Tensor;
use crate::hostile::bomb;
use crate::vectors::raw::{fields, sha256, Fields, Raw};
use crate::vectors::sample::{
    addition, base, block, footer, new, patch, ADDED, FLAT, FORM, PLAIN, U8, WHOLE,
};

/// A patch that adds zeros, so many leaves in a block; the header allows `most`.
fn zeros(most: u64, leaves: u64, blocks: u64, bytes: u64) -> Raw {
    let size = blocks * bytes;
    let leaf = |bytes: u64| sha256(&vec![0; bytes as usize + 1]).0.to_vec();
    // All leaves but the last of a block are the same: the digest of SPEC.md §5 for little work.
    let (inner, last) =
        (leaf(1 << 16).repeat(leaves as usize - 1), leaf(bytes - ((leaves - 1) << 16)));
    let digest = sha256(&[vec![1], [inner, last].concat().repeat(blocks as usize)].concat());
    let spec = TensorSpec::new(Dtype::U8, &[size]).expect("a legal shape");
    let mut target = CheckpointHasher::new();
    target.add("new", &spec, digest);
    for (name, Tensor { spec, bytes }) in &base().tensors {
        target.add(name, spec, tensor_digest(bytes));
    }
    let mut end = footer(size, Some(&base()), &base());
    end.target = target.finish().expect("names are unique");
    end.target_tensors += 1;
    end.target_elements += size;
    end.target_bytes += size;
    let block = fields().block(WHOLE, 0, leaves, bytes).u8(PLAIN).bytes(&bomb(0, bytes as usize));
    let raw = Raw::new(fields().u8(0).varint(most).varint(0), end)
        .add_tensor("new", fields().name(0, "new").spec(ADDED, U8, &[size]));
    let raw = (0..blocks).fold(raw, |raw, _| raw.add(Tag::BLOCK, block.clone()));
    raw.add(Tag::TENSOR_END, fields().varint(size).digest(digest))
}

fn two_leaves() -> Raw {
    zeros(1, 2, 1, (1 << 16) + 2)
}

fn many_zeros() -> Raw {
    zeros(16, 16, 280, 1 << 20)
}

pub fn blocks() -> Vec<Malformed> {
    let payload = fields().u8(FORM).stored(&[1, 1]).stored(&[2, 3]);
    let with = |head: Fields| patch().replace(Tag::BLOCK, head.bytes(&payload.0));
    let put = |head: Fields| addition().replace(Tag::BLOCK, head.u8(PLAIN).stored(&[1, 2]));
    vec![
        row(
            "block-coding",
            "value",
            "R48",
            "Coding 200, which no version defines.",
            with(fields().block(200, 0, 1, 2)),
        ),
        row(
            "block-no-leaves",
            "value",
            "R33",
            "A block of no leaves.",
            with(fields().block(FLAT, 0, 0, 2)),
        ),
        row(
            "block-too-large",
            "value",
            "R33",
            "A block of more leaves than the header allows.",
            two_leaves(),
        ),
        row(
            "block-beyond-tensor",
            "value",
            "R33",
            "A block starts past the end of its tensor.",
            with(fields().block(FLAT, 1, 1, 2)),
        ),
        row(
            "block-skip-wraps-in-bytes",
            "value",
            "R33",
            "A block skips 2^48 leaves, of which the bytes wrap to none.",
            with(fields().block(FLAT, 1 << 48, 1, 2)),
        ),
        row(
            "block-skip-overflow",
            "value",
            "R33",
            "The skipped leaves exceed 64 bits as bytes.",
            with(fields().block(FLAT, 1 << 60, 1, 2)),
        ),
        row(
            "block-past-end",
            "value",
            "R33",
            "A block of two leaves in a tensor of one.",
            with(fields().block(FLAT, 0, 2, 2))
                .replace(Tag::HEADER, fields().u8(0).varint(2).varint(0)),
        ),
        row(
            "block-second",
            "value",
            "R33",
            "A second block where the first covers the tensor.",
            patch().add_before(Tag::TENSOR_END, Tag::BLOCK, block()),
        ),
        row(
            "block-no-changes",
            "value",
            "R34",
            "A block without changes.",
            with(fields().block(FLAT, 0, 1, 0)),
        ),
        row(
            "block-too-many-changes",
            "count",
            "R34",
            "Five changes in four elements.",
            with(fields().block(FLAT, 0, 1, 5)),
        ),
        row(
            "block-varint",
            "varint",
            "R7",
            "The number of leaves is not in its shortest form.",
            with(fields().u8(FLAT).varint(0).bytes(&[0x81, 0x00]).varint(2)),
        ),
        row(
            "block-short",
            "length",
            "R6",
            "A block without its number of changes.",
            patch().replace(Tag::BLOCK, fields().u8(FLAT).varint(0).varint(1)),
        ),
        row(
            "block-put-flat",
            "value",
            "R35",
            "A tensor that is put has a flat block.",
            // It overwrites zeros with what is due.
            addition().replace(
                Tag::BLOCK,
                fields().block(FLAT, 0, 1, 2).u8(0x31).stored(&[0, 0]).stored(&[1, 2]),
            ),
        ),
        row(
            "block-put-skip",
            "value",
            "R35",
            "A tensor that is put skips a leaf.",
            put(fields().block(WHOLE, 1, 1, 2))
                .replace(Tag::TENSOR, fields().name(0, "new").spec(ADDED, U8, &[65538])),
        ),
        row(
            "block-put-changes",
            "count",
            "R35",
            "A tensor that is put changes fewer elements than it has.",
            put(fields().block(WHOLE, 0, 1, 1))
                .replace(Tag::TENSOR_END, fields().varint(1).digest(tensor_digest(&new().bytes)))
                .footer(|footer| footer.changes = 1),
        ),
        row(
            "block-expansion-limit",
            "limit",
            "R81",
            "Blocks of zeros: together more than 256 MiB and 1,024 bytes for each of the file.",
            many_zeros(),
        ),
        row(
            "whole-form",
            "value",
            "R59",
            "A form that does not exist.",
            addition().replace(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(2).stored(&[1, 2])),
        ),
        row(
            "whole-plane-short",
            "stream",
            "R59",
            "A byte plane has fewer bytes than the block has elements.",
            addition().replace(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1])),
        ),
        row(
            "whole-plane-long",
            "stream",
            "R59",
            "A byte plane has more bytes than the block has elements.",
            addition()
                .replace(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2, 3])),
        ),
        row(
            "whole-plane-missing",
            "length",
            "R6",
            "One byte plane for elements of two bytes.",
            patch().replace(
                Tag::BLOCK,
                fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2, 3, 4]),
            ),
        ),
        row(
            "whole-plane-excess",
            "length",
            "R49",
            "Two byte planes for elements of one byte.",
            addition().replace(
                Tag::BLOCK,
                fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2]).stored(&[1, 2]),
            ),
        ),
    ]
}
