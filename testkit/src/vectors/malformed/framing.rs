//! Bytes that are no sections, or not whole ones.

use pulse::wire::Tag;

use super::{row, Malformed};
use crate::checkpoint::Checkpoint;
use crate::vectors::raw::{fields, Raw};
use crate::vectors::sample::{footer, header, patch};

/// A patch that breaks off in its first tensor header, after these bytes.
fn section_head(head: &[u8]) -> Raw {
    Raw::new(header(), footer(0, None, &Checkpoint::default()))
        .remove(Tag::INDEX)
        .remove(Tag::FOOTER)
        .tail(&[head, &[0; 16]].concat())
}

pub fn framing() -> Vec<Malformed> {
    let whole = patch().write();
    let line_ends: Vec<u8> = [&whole[..4], &whole[5..]].concat();
    let version = |major| {
        let mut raw = patch();
        raw.prelude[8] = major;
        raw
    };
    vec![
        row(
            "signature-other-format",
            "signature",
            "R11",
            "A JSON file.",
            br#"{"model_type": "bert"}"#.to_vec(),
        ),
        row(
            "signature-line-ends",
            "signature",
            "R11",
            "A text transfer turned CR LF into LF.",
            line_ends,
        ),
        row("version-major-2", "version", "R1", "Major version 2.", version(2)),
        row("version-major-0", "version", "R1", "Major version 0.", version(0)),
        row(
            "signature-nine-bytes",
            "signature",
            "R11",
            "Nine bytes that are no patch.",
            b"not pulse".to_vec(),
        ),
        row(
            "truncated-not-the-signature",
            "truncated",
            "R11 R16",
            "Five bytes, and none of the signature: of a file this short, nothing else is said.",
            b"other".to_vec(),
        ),
        row("truncated-empty", "truncated", "R16", "No bytes at all.", []),
        row("truncated-signature", "truncated", "R16", "Five bytes of the signature.", &whole[..5]),
        row(
            "truncated-block",
            "truncated",
            "R16",
            "The file ends in the middle of a block.",
            &whole[..50],
        ),
        row(
            "truncated-footer",
            "truncated",
            "R16 R67",
            "The last byte is missing.",
            &whole[..whole.len() - 1],
        ),
        row(
            "truncated-index",
            "truncated",
            "R16",
            "The file ends after the index.",
            patch().remove(Tag::FOOTER),
        ),
        row("trailing-byte", "trailing", "R17", "A byte follows the footer.", patch().tail(&[0])),
        row(
            "trailing-patch",
            "trailing",
            "R17",
            "Another patch follows the footer.",
            patch().tail(&whole),
        ),
        row(
            "crc-header",
            "crc",
            "R13",
            "The CRC of the header is wrong.",
            patch().spoil_crc(Tag::HEADER),
        ),
        row(
            "crc-block",
            "crc",
            "R13",
            "The CRC of a block is wrong.",
            patch().spoil_crc(Tag::BLOCK),
        ),
        row(
            "crc-footer",
            "crc",
            "R13",
            "The CRC of the footer is wrong.",
            patch().spoil_crc(Tag::FOOTER),
        ),
        row(
            "crc-skippable",
            "crc",
            "R13",
            "The CRC of an unknown section is wrong: skipping is not ignoring.",
            patch().add(Tag(b'x'), fields().bytes(b"?")).spoil_crc(Tag(b'x')),
        ),
        row(
            "file-digest",
            "file-digest",
            "R47 R67",
            "The SHA-256 of the file is wrong.",
            patch().footer(|footer| footer.sha256_flip = 1),
        ),
        row(
            "section-length-long-form",
            "varint",
            "R7",
            "A section length is not in its shortest form.",
            section_head(&[b'T', 0x87, 0x00]),
        ),
        row(
            "section-length-overflow",
            "varint",
            "R7",
            "A section length exceeds 64 bits.",
            section_head(&[b'T', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        ),
        row(
            "section-length-huge",
            "limit",
            "R14",
            "A section claims 1 TiB; the default limit is 64 MiB.",
            section_head(&fields().u8(b'T').varint(1 << 40).0),
        ),
    ]
}
