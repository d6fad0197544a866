//! Sections where the grammar does not allow them, or that nobody knows.

use pulse::wire::Tag;

use super::files::{record, with_file};
use super::{row, Malformed};
use crate::vectors::raw::{fields, sha256, Raw};
use crate::vectors::sample::{block, block_of, deletion, header, patch, trailer, DELETED};

/// Sections where the grammar does not allow them, or that nobody knows.
pub fn grammar() -> Vec<Malformed> {
    let unknown = || fields().bytes(b"?");
    vec![
        row(
            "unknown-critical",
            "unknown-section",
            "R12",
            "A section with an unknown upper-case tag.",
            patch().add(Tag(b'X'), unknown()),
        ),
        row(
            "unknown-not-a-letter",
            "unknown-section",
            "R12",
            "A tag that is no letter.",
            patch().add(Tag(b'1'), unknown()),
        ),
        row(
            "unknown-not-ascii",
            "unknown-section",
            "R12",
            "The tag e4: a small letter in Latin-1, and no letter of ASCII.",
            patch().add_before(Tag::BLOCK, Tag(0xe4), unknown()),
        ),
        row(
            "order-skippable-first",
            "order",
            "R20",
            "An unknown section stands before the header.",
            patch().add_before(Tag::HEADER, Tag(b'x'), unknown()),
        ),
        row(
            "order-no-header",
            "order",
            "R19",
            "The header is missing.",
            patch().remove(Tag::HEADER),
        ),
        row(
            "order-second-header",
            "order",
            "R19",
            "There is a second header.",
            patch().add_before(Tag::TENSOR, Tag::HEADER, header()),
        ),
        row(
            "order-block-outside",
            "order",
            "R19",
            "A block stands outside a tensor.",
            patch().remove(Tag::TENSOR),
        ),
        row(
            "order-trailer-outside",
            "order",
            "R19",
            "A tensor trailer stands outside a tensor.",
            patch().add(Tag::TENSOR_END, trailer()),
        ),
        row(
            "order-no-trailer",
            "order",
            "R19",
            "The trailer of the tensor is missing.",
            patch().remove(Tag::TENSOR_END),
        ),
        row(
            "order-tensor-in-tensor",
            "order",
            "R19",
            "A tensor begins within another.",
            patch().add_before(Tag::BLOCK, Tag::TENSOR, fields().name(0, "old").u8(DELETED)),
        ),
        row(
            "order-block-of-deleted",
            "order",
            "R22",
            "A deleted tensor has a block.",
            deletion().add_before(Tag::TENSOR_END, Tag::BLOCK, block_of(1, fields())),
        ),
        row("order-no-index", "order", "R19", "The index is missing.", patch().remove(Tag::INDEX)),
        row(
            "order-second-index",
            "order",
            "R19",
            "There is a second index.",
            patch().add_before(Tag::FOOTER, Tag::INDEX, fields().varint(0)),
        ),
        row(
            "order-skippable-after-index",
            "order",
            "R20",
            "An unknown section stands between index and footer.",
            patch().add_before(Tag::FOOTER, Tag(b'x'), unknown()),
        ),
        row(
            "order-file-after-tensor",
            "order",
            "R19",
            "A file comes after a tensor.",
            patch().add(Tag::FILE, record(5)),
        )
        .needs("files"),
        row(
            "order-data-without-file",
            "order",
            "R21",
            "File data without a file record before.",
            patch().add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(b"notes")),
        )
        .needs("files"),
        row(
            "order-data-of-kept-file",
            "order",
            "R21",
            "File data follows a file that comes from the base.",
            with_file(
                fields().u8(1).string("notes.txt").varint(5).digest(sha256(b"notes")),
                &[b"notes"],
            ),
        )
        .needs("files"),
        row(
            "order-file-unfinished",
            "order",
            "R21",
            "A tensor begins before the file's data is complete.",
            with_file(record(5), &[b"not"]),
        )
        .needs("files"),
        row(
            "order-too-much-file-data",
            "order",
            "R21",
            "File data goes on after the file is complete.",
            with_file(record(5), &[b"notes", b"!"]),
        )
        .needs("files"),
    ]
}

const TAGS: [(char, &str); 8] = [
    ('H', "header"),
    ('T', "tensor"),
    ('B', "block"),
    ('E', "trailer"),
    ('I', "index"),
    ('l', "file"),
    ('d', "data"),
    ('F', "footer"),
];

/// A section of each tag that is known, where the grammar has no place for it.
pub fn orders() -> Vec<Malformed> {
    let mut rows = Vec::new();
    let file = |raw: Raw| {
        raw.add_before(Tag::TENSOR, Tag::FILE, record(5)).add_before(
            Tag::TENSOR,
            Tag::FILE_DATA,
            fields().stored(b"notes"),
        )
    };
    // Where the section stands: a patch, the section after it, and the tags that are out of place there.
    for (state, what, raw, before, tags) in [
        ("start", "first of all", patch(), Tag::HEADER, "BEFITdl"),
        ("files", "after the header", patch(), Tag::TENSOR, "BEFHd"),
        ("after-file", "after a file", file(patch()), Tag::TENSOR, "BEFHd"),
        ("in-file", "within a file", file(patch()), Tag::FILE_DATA, "BEFHITl"),
        ("in-tensor", "at the start of a tensor", patch(), Tag::BLOCK, "FHITdl"),
        ("after-block", "after a block", patch(), Tag::TENSOR_END, "FHITdl"),
        ("in-deleted", "within a deleted tensor", deletion(), Tag::TENSOR_END, "BFHITdl"),
        ("tensors", "after a tensor", patch(), Tag::INDEX, "BEFHdl"),
        ("after-index", "after the index", patch(), Tag::FOOTER, "BEHITdl"),
    ] {
        for (letter, section) in TAGS.iter().filter(|(letter, _)| tags.contains(*letter)) {
            let tag = Tag(*letter as u8);
            let payload = match tag {
                Tag::HEADER => header(),
                Tag::TENSOR => fields().name(0, "old").u8(DELETED),
                Tag::BLOCK => block(),
                Tag::TENSOR_END => trailer(),
                Tag::INDEX => fields().varint(0),
                Tag::FILE => record(5),
                Tag::FILE_DATA => fields().stored(b"notes"),
                _ => fields().bytes(&[0; 145]),
            };
            let is_of_files = state.contains("file") && state != "files" || "ld".contains(*letter);
            let row = row(
                format!("order-{state}-{section}"),
                "order",
                match (state, *letter) {
                    (_, 'd') | ("in-file", _) => "R21",
                    ("in-deleted", 'B') => "R22",
                    _ => "R19",
                },
                format!("A section {letter}, {section}, stands {what}."),
                raw.clone().add_before(before, tag, payload),
            );
            rows.push(if is_of_files { row.needs("files") } else { row });
        }
    }
    rows
}
