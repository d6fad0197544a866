//! Heads of blocks, and the whole coding.

use pulse::wire::Tag;

use super::{row, Malformed};
use crate::vectors::raw::{fields, Fields};
use crate::vectors::sample::{addition, block, patch, ADDED, FLAT, FORM, PLAIN, U8, WHOLE};

pub fn blocks() -> Vec<Malformed> {
    let payload = fields().u8(FORM).stored(&[1, 1]).stored(&[2, 3]);
    let with = |head: Fields| patch().replace(Tag::BLOCK, head.bytes(&payload.0));
    let put = |head: Fields| addition().replace(Tag::BLOCK, head.stored(&[1, 2]));
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
            with(fields().block(FLAT, 0, 2, 2)),
        ),
        row(
            "block-beyond-tensor",
            "value",
            "R33",
            "A block starts past the end of its tensor.",
            with(fields().block(FLAT, 1, 1, 2)),
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
            put(fields().block(FLAT, 0, 1, 2)),
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
            put(fields().block(WHOLE, 0, 1, 1)),
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
