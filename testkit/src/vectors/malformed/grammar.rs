//! Sections where the grammar does not allow them, or that nobody knows.

use pulse::wire::Tag;

use super::files::{record, with_file};
use super::{row, Malformed};
use crate::vectors::raw::{fields, sha256};
use crate::vectors::sample::{block_of, deletion, header, patch, trailer, DELETED};

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
