//! Files that cannot be rebuilt: patches whose tensors are right, and only §9 of SPEC.md is broken.

use pulse::wire::Tag;

use super::files::record;
use super::{row, Malformed};
use crate::checkpoint::header_of;
use crate::vectors::good::File;
use crate::vectors::raw::{fields, sha256, zstd_frame, Fields, Raw};
use crate::vectors::sample::{base, patch, target};

/// Flags of a safetensors file whose header the patch carries, or the base has.
const CARRIED: u8 = 2;
const KEPT: u8 = 0;
/// Flags of a companion that the patch carries, or the base has.
const CARRIED_COMPANION: u8 = 3;
const KEPT_COMPANION: u8 = 1;
/// Flags of a companion that only the base has.
const REMOVED: u8 = 7;
const INDEX: &str = "model.safetensors.index.json";

/// An index to a file that is not there.
const INDEX_OF_NOTHING: &[u8] = br#"{"weight_map":{"x":"x.safetensors"}}"#;

fn file(flags: u8, name: &str, described: &[u8]) -> Fields {
    fields().u8(flags).string(name).varint(described.len() as u64).digest(sha256(described))
}

/// The sample's patch with file sections, and the data of those that are carried.
fn with_files(files: &[(u8, &str, &[u8])]) -> Raw {
    let section = |raw: Raw, tag, payload| raw.add_before(Tag::TENSOR, tag, payload);
    files.iter().fold(patch(), |raw, &(flags, name, described)| {
        let raw = section(raw, Tag::FILE, file(flags, name, described));
        match flags & CARRIED {
            0 => raw,
            _ => section(raw, Tag::FILE_DATA, fields().stored(described)),
        }
    })
}

/// A safetensors header with this JSON.
fn header(json: &str) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

const OLD: &str = r#""old":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}"#;
/// The same tensor in a file of its own.
const OLD_ALONE: &str = r#"{"old":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
const W: &str = r#""w":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}"#;

/// Two tensor files, the second with the tensor `old` only, and an index with these entries.
fn twice(index: &str) -> Raw {
    with_files(&[
        (CARRIED, "a.safetensors", &header(&format!("{{{W},{OLD}}}"))),
        (CARRIED, "b.safetensors", &header(OLD_ALONE)),
        (CARRIED_COMPANION, INDEX, format!(r#"{{"weight_map":{{{index}}}}}"#).as_bytes()),
    ])
}

/// A patch that carries a header with this JSON for its only file.
fn json(name: &'static str, rules: &'static str, shows: &'static str, json: &str) -> Malformed {
    row(name, "checkpoint", rules, shows, with_files(&[(CARRIED, "", &header(json))]))
}

/// A patch that carries a header in which a tensor has a further key with this value.
fn ignored(name: &'static str, shows: &'static str, value: &str) -> Malformed {
    json(name, "R76", shows, &format!("{{{W},{}}}", noted(value)))
}

/// The tensor `old` with a further key.
fn noted(value: &str) -> String {
    OLD.replace("\"dtype\"", &format!("\"note\":{value},\"dtype\""))
}

fn not_utf8() -> Vec<u8> {
    let mut header = header(&format!("{{{W},{}}}", noted("\"?\"")));
    header.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
    header
}

/// Two carried headers, each within the bound, of one byte too many together: zeros, in frames of 1 MiB.
fn too_many_header_bytes() -> Raw {
    [("a.safetensors", 100_000_000), ("b.safetensors", 9)].into_iter().fold(
        patch(),
        |raw, (name, bytes)| {
            let zeros = vec![0; bytes];
            let raw = raw.add_before(Tag::TENSOR, Tag::FILE, file(CARRIED, name, &zeros));
            zeros.chunks(1 << 20).fold(raw, |raw, part| {
                raw.add_before(Tag::TENSOR, Tag::FILE_DATA, fields().frame(&zstd_frame(part)))
            })
        },
    )
}

pub fn rebuild() -> Vec<Malformed> {
    let right = target().to_file();
    let right = header_of(&right);
    let cut = &header(&format!("{{{W},{OLD}}}"))[..20];
    let in_directory = File {
        companions: vec![("notes.txt", b"notes".to_vec())],
        ..File::new("notes-base", &base())
    };
    vec![
        row(
            "rebuild-kept-header",
            "checkpoint",
            "R71 R74",
            "The base has another header than the one to keep.",
            with_files(&[(KEPT, "", &header(&format!("{{{W},{OLD}}} ")))]),
        ),
        row(
            "rebuild-kept-companion",
            "checkpoint",
            "R71 R74",
            "The base has no companion of the name to keep.",
            with_files(&[(CARRIED, "model.safetensors", right), (KEPT_COMPANION, "notes.txt", b"notes")]),
        ),
        Malformed {
            base: Some(in_directory.clone()),
            ..row(
                "rebuild-kept-companion-differs",
                "checkpoint",
                "R71 R74",
                "The companion to keep has other bytes in the base.",
                with_files(&[(CARRIED, "model.safetensors", right), (KEPT_COMPANION, "notes.txt", b"Notes")]),
            )
        },
        row(
            "rebuild-empty-name-and-companion",
            "checkpoint",
            "R75",
            "A file without a name stands next to another.",
            with_files(&[(CARRIED, "", right)]).add_before(Tag::TENSOR, Tag::FILE, record(5)).add_before(
                Tag::TENSOR,
                Tag::FILE_DATA,
                fields().stored(b"notes"),
            ),
        ),
        row(
            "rebuild-empty-name-and-removed",
            "checkpoint",
            "R75",
            "A file without a name stands next to one that is removed.",
            with_files(&[(CARRIED, "", right)]).add_before(
                Tag::TENSOR,
                Tag::FILE,
                file(REMOVED, "notes.txt", b"notes"),
            ),
        ),
        Malformed {
            base: Some(in_directory),
            ..row(
                "rebuild-file-of-directory",
                "checkpoint",
                "R75",
                "The header to keep is that of a single file, but the base is a directory.",
                with_files(&[(KEPT, "", right)]),
            )
        },
        row(
            "rebuild-directory-of-file",
            "checkpoint",
            "R74 R75",
            "The header to keep is that of a file with a name, but the base is a single file.",
            with_files(&[(KEPT, "model.safetensors", right)]),
        ),
        row(
            "rebuild-header-length",
            "checkpoint",
            "R76",
            "The length field of a header says more than there is.",
            with_files(&[(CARRIED, "", cut)]),
        ),
        row(
            "rebuild-header-seven-bytes",
            "checkpoint",
            "R76",
            "A header is too short for its length field.",
            with_files(&[(CARRIED, "", &[0; 7])]),
        ),
        json("rebuild-json-array", "R76", "The JSON of a header is an array.", "[]"),
        json(
            "rebuild-json-tensor-array",
            "R76",
            "A tensor is an array of its values.",
            &format!(r#"{{{W},"old":["U8",[2],[8,10]]}}"#),
        ),
        json(
            "rebuild-json-metadata-array",
            "R76",
            "__metadata__ is an array.",
            &format!(r#"{{"__metadata__":[],{W},{OLD}}}"#),
        ),
        json(
            "rebuild-json-metadata-key-twice",
            "R76",
            "A key of __metadata__ stands twice, once with an escape.",
            &format!(r#"{{"__metadata__":{{"step":"41","\u0073tep":"41"}},{W},{OLD}}}"#),
        ),
        json(
            "rebuild-json-field-twice",
            "R76",
            "A tensor has its shape twice.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2],"shape":[2],"data_offsets":[8,10]}}}}"#),
        ),
        ignored("rebuild-json-ignored-key-twice", "In an ignored value, a key stands twice.", r#"[{"k":1,"k":1}]"#),
        ignored("rebuild-json-ignored-surrogate", "An ignored string has a lone surrogate.", r#""\ud800""#),
        ignored("rebuild-json-ignored-infinite", "An ignored number has no finite value.", "1e999"),
        ignored("rebuild-json-ignored-nan", "An ignored value is NaN, which JSON does not have.", "NaN"),
        ignored(
            "rebuild-json-ignored-deep",
            "An ignored value is nested one deeper than is allowed.",
            &format!("{}{}", "[".repeat(63), "]".repeat(63)),
        ),
        row(
            "rebuild-json-ignored-bytes",
            "checkpoint",
            "R76",
            "An ignored string is not UTF-8.",
            with_files(&[(CARRIED, "", &not_utf8())]),
        ),
        json(
            "rebuild-json-offset-fraction",
            "R76",
            "An offset has a fraction, though it is zero.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2],"data_offsets":[8.0,10]}}}}"#),
        ),
        json(
            "rebuild-json-shape-exponent",
            "R76",
            "A dimension has an exponent, though it is zero.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2e0],"data_offsets":[8,10]}}}}"#),
        ),
        json(
            "rebuild-json-minus-zero",
            "R76",
            "An offset is minus zero.",
            r#"{"w":{"dtype":"BF16","shape":[4],"data_offsets":[-0,8]},"old":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}}"#,
        ),
        json(
            "rebuild-json-dimension-too-great",
            "R76",
            "A dimension does not fit in 64 bits.",
            &format!(r#"{{{W},"old":{{"dtype":"?","shape":[18446744073709551616],"data_offsets":[8,10]}}}}"#),
        ),
        json("rebuild-json-space-first", "R76", "A space stands before the JSON.", &format!(" {{{W},{OLD}}}")),
        json("rebuild-json-more", "R76", "A character follows the JSON.", &format!("{{{W},{OLD}}}}}")),
        json("rebuild-json-key-twice", "R76", "A tensor stands twice in the JSON.", &format!("{{{W},{OLD},{OLD}}}")),
        json(
            "rebuild-json-metadata",
            "R76",
            "A value of __metadata__ is no string.",
            &format!(r#"{{"__metadata__":{{"step":41}},{W},{OLD}}}"#),
        ),
        json(
            "rebuild-json-no-offsets",
            "R76",
            "A tensor has no data_offsets.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2]}}}}"#),
        ),
        json(
            "rebuild-json-hole",
            "R76",
            "A byte of the file belongs to no tensor.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2],"data_offsets":[9,11]}}}}"#),
        ),
        json(
            "rebuild-json-overlap",
            "R76",
            "Two tensors share a byte of the file.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2],"data_offsets":[7,9]}}}}"#),
        ),
        json(
            "rebuild-json-size",
            "R76",
            "A tensor of two bytes has room for three.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2],"data_offsets":[8,11]}}}}"#),
        ),
        json("rebuild-tensor-missing", "R77", "A tensor of the target is in no header.", &format!("{{{W}}}")),
        json(
            "rebuild-tensor-unknown",
            "R77",
            "A header lists a tensor that the target does not have.",
            &format!(r#"{{{W},{OLD},"new":{{"dtype":"U8","shape":[0],"data_offsets":[10,10]}}}}"#),
        ),
        json(
            "rebuild-tensor-shape",
            "R77",
            "A header gives a tensor another shape than it has.",
            &format!(r#"{{{W},"old":{{"dtype":"U8","shape":[2,1],"data_offsets":[8,10]}}}}"#),
        ),
        json(
            "rebuild-tensor-dtype",
            "R77",
            "A header gives a tensor another dtype than it has.",
            &format!(r#"{{{W},"old":{{"dtype":"I8","shape":[2],"data_offsets":[8,10]}}}}"#),
        ),
        row(
            "rebuild-tensor-twice",
            "checkpoint",
            "R77",
            "Two headers list the same tensor.",
            with_files(&[
                (CARRIED, "a.safetensors", right),
                (CARRIED, "b.safetensors", &header(OLD_ALONE)),
            ]),
        ),
        row(
            "rebuild-tensor-twice-not-in-index",
            "checkpoint",
            "R77 R99",
            "Two headers list the same tensor, and the index does not have it.",
            twice(r#""w":"a.safetensors","v":"b.safetensors""#),
        ),
        row(
            "rebuild-tensor-twice-index-elsewhere",
            "checkpoint",
            "R77 R99",
            "Two headers list the same tensor, and the index gives it a third file.",
            with_files(&[
                (CARRIED, "a.safetensors", right),
                (CARRIED, "b.safetensors", &header(OLD_ALONE)),
                (CARRIED, "c.safetensors", &header("{}")),
                (
                    CARRIED_COMPANION,
                    INDEX,
                    br#"{"weight_map":{"w":"a.safetensors","v":"b.safetensors","old":"c.safetensors"}}"#,
                ),
            ]),
        ),
        row(
            "rebuild-tensor-twice-not-in-target",
            "checkpoint",
            "R77 R99",
            "The index tells two tensors of one name apart, and the target has only one of them.",
            twice(r#""w":"a.safetensors","old":"b.safetensors""#),
        ),
        row(
            "rebuild-tensors-below",
            "checkpoint",
            "R95",
            "A tensor file lies in a subdirectory, and nothing leads there.",
            with_files(&[
                (CARRIED, "a/a.safetensors", right),
                (CARRIED, "b.safetensors", &header("{}")),
            ]),
        ),
        row(
            "rebuild-companion-shadows-tensors-below",
            "checkpoint",
            "R95",
            "A companion in a subdirectory is tensors, as there is a model_index.json.",
            with_files(&[
                (CARRIED, "a.safetensors", right),
                (CARRIED_COMPANION, "b/b.safetensors", &header("{}")),
                (CARRIED_COMPANION, "model_index.json", b"{}"),
            ]),
        ),
        row(
            "rebuild-tensors-of-no-module",
            "checkpoint",
            "R95",
            "A tensor file lies in a subdirectory that modules.json does not name.",
            with_files(&[
                (CARRIED, "a/a.safetensors", right),
                (CARRIED, "b.safetensors", &header("{}")),
                (CARRIED_COMPANION, "modules.json", br#"[{"path":"b"},{"path":"a/b"}]"#),
            ]),
        ),
        row(
            "rebuild-part-without-its-shards",
            "checkpoint",
            "R95",
            "A subdirectory of a pipeline has an index, and no file that it leads to.",
            with_files(&[
                (CARRIED, "a.safetensors", right),
                (CARRIED_COMPANION, "b/model.safetensors.index.json", INDEX_OF_NOTHING),
                (CARRIED_COMPANION, "model_index.json", b"{}"),
            ]),
        ),
        row(
            "rebuild-index-of-no-module",
            "checkpoint",
            "R95",
            "An index lies in a subdirectory that modules.json, which has a key twice, does not name.",
            with_files(&[
                (CARRIED, "a.safetensors", right),
                (CARRIED_COMPANION, "b/model.safetensors.index.json", INDEX_OF_NOTHING),
                (CARRIED_COMPANION, "modules.json", br#"[{"path":"b","path":"c"}]"#),
            ]),
        ),
        row(
            "rebuild-tensor-of-a-module-without-its-path",
            "checkpoint",
            "R77 R99",
            "A tensor of a module has the name of its header only.",
            with_files(&[
                (CARRIED, "a/a.safetensors", right),
                (CARRIED, "b.safetensors", &header("{}")),
                (CARRIED_COMPANION, "modules.json", br#"[{"path":"a"}]"#),
            ]),
        ),
        row(
            "rebuild-tensor-of-a-checkpoint-inside",
            "checkpoint",
            "R95",
            "A tensor file lies in the directory of a trainer, where nobody looks.",
            with_files(&[
                (CARRIED, "checkpoint-500/a.safetensors", right),
                (CARRIED, "b.safetensors", &header("{}")),
                (CARRIED_COMPANION, "model_index.json", b"{}"),
            ]),
        ),
        row(
            "rebuild-companion-shadows-tensors",
            "checkpoint",
            "R95",
            "The weights are in a file that no reader takes for tensors, and other weights in a companion that all do.",
            with_files(&[
                (CARRIED, "weights.bak", right),
                (CARRIED_COMPANION, "model.safetensors", &base().to_file()),
            ]),
        ),
        row(
            "rebuild-companion-is-tensors",
            "checkpoint",
            "R95",
            "A companion has a name that readers take for tensors.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (CARRIED_COMPANION, "other.safetensors", &base().to_file()),
            ]),
        ),
        row(
            "rebuild-index-leads-to-companion",
            "checkpoint",
            "R95",
            "The index has a companion for the file of a tensor, and not the tensor file.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (CARRIED_COMPANION, "model-2.bin", &base().to_file()),
                (CARRIED_COMPANION, INDEX, br#"{"weight_map":{"w":"model-2.bin"}}"#),
            ]),
        ),
        row(
            "rebuild-index-leaves-out-tensors",
            "checkpoint",
            "R95",
            "The index has one of two tensor files.",
            with_files(&[
                (CARRIED, "a.safetensors", &header(&format!("{{{W}}}"))),
                (CARRIED, "b.safetensors", &header(OLD_ALONE)),
                (CARRIED_COMPANION, INDEX, br#"{"weight_map":{"w":"a.safetensors"}}"#),
            ]),
        ),
        row(
            "rebuild-index-leads-nowhere",
            "checkpoint",
            "R95",
            "The index has a file that is not listed.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (CARRIED_COMPANION, INDEX, br#"{"weight_map":{"w":"gone.safetensors"}}"#),
            ]),
        ),
        row(
            "rebuild-index-is-no-index",
            "checkpoint",
            "R95",
            "The index has no object of file names.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (CARRIED_COMPANION, INDEX, br#"{"weight_map":["model.safetensors"]}"#),
            ]),
        ),
        row(
            "rebuild-index-key-twice",
            "checkpoint",
            "R76 R95",
            "The index has a tensor twice.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (
                    CARRIED_COMPANION,
                    INDEX,
                    br#"{"weight_map":{"w":"model.safetensors","w":"model.safetensors"}}"#,
                ),
            ]),
        ),
        row(
            "rebuild-index-bytes",
            "checkpoint",
            "R76 R95",
            "The index has metadata that is not UTF-8.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (
                    CARRIED_COMPANION,
                    INDEX,
                    b"{\"metadata\":\"\xff\",\"weight_map\":{\"w\":\"model.safetensors\"}}",
                ),
            ]),
        ),
        row(
            "rebuild-index-is-array",
            "checkpoint",
            "R95",
            "The index is an array that holds the object.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (CARRIED_COMPANION, INDEX, br#"[{"w":"model.safetensors"}]"#),
            ]),
        ),
        row(
            "rebuild-companion-is-tensors-in-capitals",
            "checkpoint",
            "R95",
            "A companion has the name of a tensor file, in other letters.",
            with_files(&[
                (CARRIED, "model.safetensors", right),
                (CARRIED_COMPANION, "other.SafeTensors", &base().to_file()),
            ]),
        ),
        row(
            "rebuild-tensors-hidden",
            "checkpoint",
            "R95",
            "The name of the only tensor file starts with a dot.",
            with_files(&[(CARRIED, ".model.safetensors", right)]),
        ),
        row(
            "rebuild-headers-too-large",
            "checkpoint",
            "R80",
            "Two headers have 100,000,009 bytes together; their zeros take a few thousand bytes in the patch.",
            too_many_header_bytes(),
        ),
    ]
}
