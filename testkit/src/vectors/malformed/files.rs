//! File records and their data.

use pulse::hash::Digest;
use pulse::wire::Tag;
use sha2::{Digest as _, Sha256};

use super::{row, Malformed};
use crate::checkpoint::header_of;
use crate::hostile::bomb;
use crate::vectors::raw::{fields, sha256, zstd_frame, Fields, Raw};
use crate::vectors::sample::{patch, snapshot, target};

/// Flags of a companion that is replaced, and of one that is removed.
const REPLACED: u8 = 5;
const REMOVED: u8 = 7;

/// Record of `notes.txt`, in any state, that holds this.
fn state(flags: u8, bytes: &[u8]) -> Fields {
    fields().u8(flags).string("notes.txt").varint(bytes.len() as u64).digest(sha256(bytes))
}

/// The end of a record: what the base has.
fn base_of(record: Fields, bytes: &[u8]) -> Fields {
    record.varint(bytes.len() as u64).digest(sha256(bytes))
}

/// Record of the companion `notes.txt` that holds "notes".
pub fn record(bytes: u64) -> Fields {
    fields().u8(3).string("notes.txt").varint(bytes).digest(sha256(b"notes"))
}

pub fn with_file(record: Fields, data: &[&[u8]]) -> Raw {
    let raw = patch().add_before(Tag::TENSOR, Tag::FILE, record);
    data.iter()
        .fold(raw, |raw, data| raw.add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(data)))
}

/// A companion of 280 MiB of zeros.
fn many_zeros() -> Raw {
    const MIB: u64 = 280;
    let mut all = Sha256::new();
    (0..MIB).for_each(|_| all.update(vec![0; 1 << 20]));
    let record = fields().u8(3).string("zeros.bin").varint(MIB << 20).bytes(&all.finalize());
    let data = fields().bytes(&bomb(0, 1 << 20));
    let target = target().to_file();
    let model = header_of(&target);
    let model_record = fields().u8(2).string("model.safetensors").varint(model.len() as u64);
    let raw = patch()
        .add_before(Tag::TENSOR, Tag::FILE, model_record.digest(sha256(model)))
        .add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(model))
        .add_before(Tag::TENSOR, Tag::FILE, record);
    (0..MIB).fold(raw, |raw, _| raw.add_before(Tag::TENSOR, Tag::FILE_DATA, data.clone()))
}

pub fn files() -> Vec<Malformed> {
    let kept = |flags: u8, name: &[u8]| {
        with_file(fields().u8(flags).string(name).varint(0).digest(Digest([0; 32])), &[])
    };
    vec![
        row(
            "file-reserved-flag",
            "reserved",
            "R41",
            "Bit 3 of the file flags is set.",
            kept(9, b"a"),
        ),
        row(
            "file-tensors-replaced",
            "reserved",
            "R41",
            "The header of a tensor file is replaced, with that of the base.",
            with_file(base_of(state(REPLACED - 1, b"notes"), b"other"), &[b"notes"]),
        ),
        row(
            "file-tensors-removed",
            "reserved",
            "R41",
            "A tensor file is removed.",
            with_file(state(REMOVED - 1, b"notes"), &[]),
        ),
        row(
            "file-replaced-by-itself",
            "value",
            "R96",
            "A companion is replaced, and is the same in the base.",
            with_file(base_of(state(REPLACED, b"notes"), b"notes"), &[b"notes"]),
        ),
        row(
            "file-replaced-without-base",
            "length",
            "R6",
            "A companion is replaced, and its bytes in the base are not described.",
            with_file(state(REPLACED, b"notes"), &[b"notes"]),
        ),
        row(
            "file-removed-with-base",
            "length",
            "R6",
            "A companion is removed, and its bytes in the base are described twice.",
            with_file(base_of(state(REMOVED, b"notes"), b"notes"), &[]),
        ),
        row(
            "file-replaced-without-data",
            "order",
            "R21",
            "A companion is replaced, and nothing is carried.",
            with_file(base_of(state(REPLACED, b"notes"), b"other"), &[]),
        ),
        row(
            "file-removed-with-data",
            "order",
            "R21",
            "A companion is removed, and its bytes are carried.",
            with_file(state(REMOVED, b"notes"), &[b"notes"]),
        ),
        row(
            "file-removed-and-new",
            "duplicate",
            "R23",
            "A companion is removed, and new under the same name.",
            with_file(state(REMOVED, b"old"), &[])
                .add_before(Tag::TENSOR, Tag::FILE, record(5))
                .add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(b"notes")),
        ),
        row("file-name-parent", "name", "R42", "A file name leaves the directory.", kept(1, b"..")),
        row("file-name-slash", "name", "R42", "A file name has a slash.", kept(1, b"../a")),
        row("file-name-drive", "name", "R42", "A file name has a colon.", kept(1, b"C:a")),
        row(
            "file-name-control",
            "name",
            "R42",
            "A file name has a control character.",
            kept(1, b"a\0"),
        ),
        row("file-name-backslash", "name", "R42", "A file name has a backslash.", kept(1, b"a\\b")),
        row(
            "file-name-c1-control",
            "name",
            "R42",
            "A file name has the control character U+0085.",
            kept(1, "a\u{85}".as_bytes()),
        ),
        row(
            "file-name-absolute",
            "name",
            "R42",
            "A file name starts with a slash.",
            kept(1, b"/a"),
        ),
        row(
            "file-name-empty-component",
            "name",
            "R42",
            "A file name has two slashes.",
            kept(1, b"a//b"),
        ),
        row(
            "file-name-trailing-slash",
            "name",
            "R42",
            "A file name ends in a slash.",
            kept(1, b"a/"),
        ),
        row(
            "file-name-dot",
            "name",
            "R42",
            "A component of a file name is a dot.",
            kept(1, b"a/./b"),
        ),
        row(
            "file-name-climbs",
            "name",
            "R42",
            "A file name leaves the directory after it has entered another.",
            kept(1, b"a/../../b"),
        ),
        row(
            "file-name-deep",
            "name",
            "R42",
            "A file name has nine components.",
            kept(1, b"a/b/c/d/e/f/g/h/i"),
        ),
        row(
            "file-name-1025",
            "name",
            "R42",
            "A file name of components that are short enough has 1,025 bytes.",
            kept(1, format!("{}aaaaa", format!("{}/", "a".repeat(203)).repeat(5)).as_bytes()),
        ),
        row("file-name-256", "name", "R42", "A file name has 256 bytes.", kept(1, &[b'a'; 256])),
        row(
            "file-name-of-tensors-parent",
            "name",
            "R42",
            "The name of a tensor file leaves the directory.",
            kept(0, b"../model.safetensors"),
        ),
        row("file-name-utf-8", "name", "R8", "A file name is not UTF-8.", kept(1, b"\xff")),
        row("file-name-empty", "name", "R42", "A companion has no name.", kept(1, b"")),
        row(
            "file-twice",
            "duplicate",
            "R23",
            "A file name stands twice.",
            with_file(record(5), &[b"notes"]).add_before(Tag::TENSOR, Tag::FILE, record(5)),
        ),
        row(
            "file-digest-wrong",
            "digest",
            "R44",
            "The file data does not have the SHA-256 of its record.",
            with_file(record(5), &[b"Notes"]),
        ),
        row(
            "file-digest-of-nothing",
            "digest",
            "R44",
            "A file of no bytes has the SHA-256 of others.",
            with_file(record(0), &[]),
        ),
        row(
            "file-data-too-long",
            "stream",
            "R43",
            "A data section holds more than the file.",
            with_file(record(5), &[b"notes!"]),
        ),
        row(
            "file-data-over-1-mib",
            "stream",
            "R43",
            "A data section holds 1 MiB and one byte.",
            with_file(record((1 << 20) + 1), &[]).add_before(
                Tag::TENSOR,
                Tag::FILE_DATA,
                fields().frame(&zstd_frame(&vec![0; (1 << 20) + 1])),
            ),
        ),
        row(
            "file-data-empty",
            "value",
            "R43",
            "A data section holds no bytes.",
            with_file(record(5), &[b"", b"notes"]),
        ),
        // The limits are the defaults; they are named because other readers of files may have others.
        Malformed {
            limits: vec![("target_bytes", 16 << 40)],
            ..row(
                "file-target-bytes-limit",
                "limit",
                "R81",
                "A file of 32 TiB; the limit is 16 TiB.",
                with_file(record(1 << 45), &[]),
            )
        },
        Malformed {
            limits: vec![("expansion", 1024)],
            ..row(
                "file-expansion-limit",
                "limit",
                "R81",
                "Data sections of zeros: together more than 256 MiB and 1,024 bytes for each of the file.",
                many_zeros(),
            )
        },
        row(
            "file-data-excess",
            "length",
            "R6",
            "A byte follows the stream of a data section.",
            with_file(record(5), &[]).add_before(
                Tag::TENSOR,
                Tag::FILE_DATA,
                fields().stored(b"notes").u8(0),
            ),
        ),
        row(
            "file-snapshot-from-base",
            "value",
            "R24",
            "A file of a snapshot comes from the base.",
            snapshot().add_before(
                Tag::TENSOR,
                Tag::FILE,
                fields().u8(1).string("notes.txt").varint(5).digest(sha256(b"notes")),
            ),
        ),
        row(
            "file-snapshot-replaced",
            "value",
            "R24",
            "A file of a snapshot is replaced.",
            snapshot()
                .add_before(Tag::TENSOR, Tag::FILE, base_of(state(REPLACED, b"notes"), b"other"))
                .add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(b"notes")),
        ),
        row(
            "file-snapshot-removed",
            "value",
            "R24",
            "A file is removed by a snapshot.",
            snapshot().add_before(Tag::TENSOR, Tag::FILE, state(REMOVED, b"notes")),
        ),
    ]
}
