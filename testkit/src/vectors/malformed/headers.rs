//! The header of the file.

use pulse::hash::Digest;
use pulse::wire::Tag;

use super::{row, Malformed};
use crate::vectors::raw::{fields, Fields, Raw};
use crate::vectors::sample::{deletion, header, patch, snapshot};

/// Metadata keys that are no UTF-8: what, and the bytes.
const ILL_FORMED: [(&str, &[u8]); 5] = [
    ("surrogate", &[0xed, 0xa0, 0x80]),
    ("overlong-2", &[0xc0, 0x80]),
    ("overlong-3", &[0xe0, 0x80, 0x80]),
    ("overlong-4", &[0xf0, 0x80, 0x80, 0x80]),
    ("beyond", &[0xf4, 0x90, 0x80, 0x80]),
];

pub fn headers() -> Vec<Malformed> {
    let with = |header: Fields| patch().replace(Tag::HEADER, header);
    let ill_formed = ILL_FORMED.map(|(what, key)| Malformed {
        name: format!("metadata-utf-8-{what}"),
        ..row(
            "",
            "name",
            "R8",
            "A metadata key has a surrogate, an overlong form, or what is beyond U+10FFFF.",
            with(fields().u8(0).varint(1).varint(1).string(key).string("")),
        )
    });
    ill_formed.into_iter().chain(fixed(with)).collect()
}

fn fixed(with: impl Fn(Fields) -> Raw) -> Vec<Malformed> {
    vec![
        row(
            "header-reserved-flag",
            "reserved",
            "R27",
            "Bit 5 of the header flags is set.",
            with(fields().u8(0x20).varint(1).varint(0)),
        ),
        row(
            "header-snapshot-with-base-step",
            "value",
            "R25",
            "A snapshot names a base step.",
            snapshot().replace(Tag::HEADER, fields().u8(1 | 4).varint(1).varint(40).varint(0)),
        ),
        row(
            "header-snapshot-with-base-digest",
            "value",
            "R25",
            "A snapshot names a base digest.",
            // Zeros, as in the footer: what is wrong is that it is there.
            snapshot().replace(
                Tag::HEADER,
                fields().u8(1 | 16).varint(1).digest(Digest([0; 32])).varint(0),
            ),
        ),
        row(
            "header-block-size-0",
            "value",
            "R27",
            "The block size is 0.",
            // There is no block that could be too large for it.
            deletion().replace(Tag::HEADER, fields().u8(0).varint(0).varint(0)),
        ),
        row(
            "header-block-size-1025",
            "value",
            "R27 R82",
            "The block size is 1025 leaves.",
            with(fields().u8(0).varint(1025).varint(0)),
        ),
        row(
            "header-block-size-limit",
            "limit",
            "R81",
            "The block size is 1024 leaves: legal, but beyond the default limit of 64.",
            with(fields().u8(0).varint(1024).varint(0)),
        ),
        row(
            "header-varint",
            "varint",
            "R7",
            "The block size is not in its shortest form.",
            with(fields().u8(0).bytes(&[0x81, 0x00]).varint(0)),
        ),
        row(
            "header-short",
            "length",
            "R6",
            "The header ends in the middle of the run.",
            with(fields().u8(2).varint(1).bytes(b"0123")),
        ),
        row("header-long", "length", "R6", "A byte follows the metadata.", with(header().u8(0))),
        row(
            "header-metadata-count",
            "length",
            "R6",
            "More metadata is announced than there is.",
            with(fields().u8(0).varint(1).varint(u64::MAX).string("a").string("b")),
        ),
        row(
            "header-metadata-key-twice",
            "duplicate",
            "R28",
            "A metadata key stands twice.",
            with(
                fields().u8(0).varint(1).varint(2).string("a").string("1").string("a").string("2"),
            ),
        ),
        row(
            "header-metadata-order",
            "duplicate",
            "R28",
            "Metadata keys are not in ascending order.",
            with(
                fields().u8(0).varint(1).varint(2).string("b").string("1").string("a").string("2"),
            ),
        ),
        row(
            "header-metadata-utf-8",
            "name",
            "R8",
            "A metadata value is not UTF-8.",
            with(fields().u8(0).varint(1).varint(1).string("a").string(b"\xff")),
        ),
    ]
}
