//! Files that cannot be rebuilt: patches whose tensors are right, and only §9 of SPEC.md is broken.

use pulse::dtype::Dtype;
use pulse::hash::tensor_digest;
use pulse::wire::Tag;

use super::files::record;
use super::{row, Malformed};
use crate::checkpoint::{header_of, Tensor};
use crate::vectors::good::File;
use crate::vectors::raw::{fields, sha256, zstd_frame, Fields, Raw};
use crate::vectors::sample::{
    self, base, digest_in, footer, patch, target, ADDED, DELETED, PLAIN, U8, WHOLE,
};

/// Flags of a safetensors file whose header the patch carries, or the base has.
pub const CARRIED: u8 = 2;
const KEPT: u8 = 0;
/// Flags of a companion that the patch carries, or the base has.
pub const CARRIED_COMPANION: u8 = 3;
const KEPT_COMPANION: u8 = 1;
/// Flags of a companion that only the base has.
const REMOVED: u8 = 7;
const INDEX: &str = "model.safetensors.index.json";

/// An index to a file that is not there.
const INDEX_OF_NOTHING: &[u8] = br#"{"weight_map":{"x":"x.safetensors"}}"#;

fn file(flags: u8, name: &str, described: &[u8]) -> Fields {
    fields().u8(flags).string(name).varint(described.len() as u64).digest(sha256(described))
}

/// Flags, name and described bytes of a file.
pub type Listed<'a> = (u8, &'a str, &'a [u8]);

/// The sample's patch with file sections, and the data of those that are carried.
pub fn with_files(files: &[Listed<'_>]) -> Raw {
    add_files(patch(), Tag::TENSOR, files)
}

fn add_files(raw: Raw, before: Tag, files: &[Listed<'_>]) -> Raw {
    files.iter().fold(raw, |raw, &(flags, name, described)| {
        let raw = raw.add_before(before, Tag::FILE, file(flags, name, described));
        if flags & CARRIED == 0 || described.is_empty() {
            return raw;
        }
        let parts = described.chunks(1 << 20).map(|part| match part.len() {
            0..5000 => fields().stored(part),
            _ => fields().frame(&zstd_frame(part)),
        });
        parts.fold(raw, |raw, data| raw.add_before(before, Tag::FILE_DATA, data))
    })
}

/// A patch of the sample's base with these files, which deletes tensors (none) and adds others of two bytes.
fn with_tensors(files: &[Listed<'_>], tensors: &[(&str, Option<[u8; 2]>)]) -> Raw {
    let (mut target, mut changes) = (base(), 0);
    for (name, bytes) in tensors {
        match bytes {
            None => drop(target.tensors.remove(*name)),
            Some(bytes) => {
                changes += 2;
                let tensor = Tensor::from_bytes(Dtype::U8, &[2], bytes.to_vec());
                target.tensors.insert(name.to_string(), tensor);
            }
        }
    }
    let mut end = footer(changes, Some(&base()), &target);
    end.tensors = tensors.len() as u64;
    let raw = add_files(Raw::new(sample::header(), end), Tag::INDEX, files);
    tensors.iter().fold(raw, |raw, (name, bytes)| {
        let named = fields().name(0, name);
        match bytes {
            None => raw
                .add_tensor(name, named.u8(DELETED))
                .add(Tag::TENSOR_END, fields().varint(0).digest(digest_in(&base(), name))),
            Some(bytes) => raw
                .add_tensor(name, named.spec(ADDED, U8, &[2]))
                .add(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(bytes))
                .add(Tag::TENSOR_END, fields().varint(2).digest(tensor_digest(bytes))),
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

/// Two carried headers, each within the bound, of one byte too many together: spaces after their JSON.
fn too_many_header_bytes() -> Raw {
    let spaced =
        |json: String, bytes: usize| header(&(json.clone() + &" ".repeat(bytes - json.len())));
    let (one, two) =
        (spaced(format!("{{{W},{OLD}}}"), 50_000_000), spaced("{}".into(), 49_999_993));
    with_files(&[(CARRIED, "a.safetensors", &one), (CARRIED, "b.safetensors", &two)])
}

pub fn rebuild() -> Vec<Malformed> {
    let right = target().to_file();
    let right = header_of(&right);
    let cut = &header(&format!("{{{W},{OLD}}}"))[..20];
    let all = header(&format!("{{{W},{OLD}}}"));
    // `old` as the dtype, shape and offsets that are given.
    let old = |entry: &str| format!(r#"{{{W},"old":{{{entry}}}}}"#);
    let old_twice =
        [(CARRIED, "a.safetensors", &*all), (CARRIED, "b.safetensors", &*header(OLD_ALONE))];
    let header_of_length = |length: usize, json: &str| {
        with_files(&[(CARRIED, "", &[&(length as u64).to_le_bytes(), json.as_bytes()].concat())])
    };
    let whole = format!("{{{W},{OLD}}}");
    let in_directory = File {
        companions: vec![("notes.txt", b"notes".to_vec())],
        ..File::new("notes-base", &base())
    };
    vec![
        Malformed {
            base: Some(in_directory.clone()),
            ..row(
                "rebuild-kept-companion-size",
                "checkpoint",
                "R71 R74",
                "The companion to keep has the SHA-256 of the record, and another size.",
                with_files(&[(CARRIED, "model.safetensors", right)]).add_before(
                    Tag::TENSOR,
                    Tag::FILE,
                    fields().u8(KEPT_COMPANION).string("notes.txt").varint(6).digest(sha256(b"notes")),
                ),
            )
        },
        row(
            "rebuild-empty-name-in-index",
            "checkpoint",
            "R75",
            "A file without a name stands next to an index that has it.",
            with_files(&[
                (CARRIED, "", right),
                (CARRIED_COMPANION, INDEX, br#"{"weight_map":{"w":"","old":""}}"#),
            ]),
        ),
        row(
            "rebuild-header-length-more",
            "checkpoint",
            "R76",
            "The length field of a header says one byte more than its JSON has.",
            header_of_length(whole.len() + 1, &whole),
        ),
        row(
            "rebuild-header-length-less",
            "checkpoint",
            "R76",
            "A space follows the length that the length field of a header says.",
            header_of_length(whole.len(), &format!("{whole} ")),
        ),
        json(
            "rebuild-json-dtype-number",
            "R76",
            "The dtype of a tensor is a number.",
            &old(r#""dtype":1,"shape":[2],"data_offsets":[8,10]"#),
        ),
        json(
            "rebuild-json-dtype-array",
            "R76",
            "The dtype of a tensor is an array.",
            &old(r#""dtype":["U8"],"shape":[2],"data_offsets":[8,10]"#),
        ),
        json(
            "rebuild-json-no-dtype",
            "R76",
            "A tensor has no dtype.",
            &old(r#""shape":[2],"data_offsets":[8,10]"#),
        ),
        json(
            "rebuild-json-no-shape",
            "R76",
            "A tensor has no shape.",
            &old(r#""dtype":"U8","data_offsets":[8,10]"#),
        ),
        json(
            "rebuild-json-three-offsets",
            "R76",
            "A tensor has three data_offsets.",
            &old(r#""dtype":"U8","shape":[2],"data_offsets":[8,10,10]"#),
        ),
        json(
            "rebuild-json-offsets-turned",
            "R76",
            "A tensor ends before it begins.",
            &old(r#""dtype":"?","shape":[2],"data_offsets":[8,7]"#),
        ),
        json(
            "rebuild-json-offset-overflow",
            "R76",
            "An empty tensor lies 2^64 - 1 bytes into the file.",
            &old(r#""dtype":"?","shape":[2],"data_offsets":[18446744073709551615,18446744073709551615]"#),
        ),
        ignored(
            "rebuild-json-ignored-integer-infinite",
            "An ignored integer is beyond all floats.",
            &format!("1{}", "0".repeat(309)),
        ),
        ignored(
            "rebuild-json-ignored-abyss",
            "An ignored value is nested so deep that no stack holds it.",
            &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        row(
            "rebuild-tensor-twice-named-by-files",
            "checkpoint",
            "R77 R99",
            "Two headers list the same tensor, which the target has twice, named with the files; no index tells them apart.",
            with_tensors(
                &old_twice,
                &[
                    ("old", None),
                    ("a.safetensors/old", Some([1, 2])),
                    ("b.safetensors/old", Some([3, 4])),
                ],
            ),
        ),
        row(
            "rebuild-tensor-twice-second-named-by-file",
            "checkpoint",
            "R77 R99",
            "Two headers list the same tensor; the target has it, and the second named with its file; there is no index.",
            with_tensors(&old_twice, &[("b.safetensors/old", Some([3, 4]))]),
        ),
        row(
            "rebuild-two-names-the-same",
            "checkpoint",
            "R77 R99",
            "A tensor that is named with its file has the name of another.",
            with_tensors(
                &[
                    (
                        CARRIED,
                        "a.safetensors",
                        &header(&format!(
                            r#"{{{W},{OLD},"a.safetensors/old":{{"dtype":"U8","shape":[2],"data_offsets":[10,12]}}}}"#
                        )),
                    ),
                    old_twice[1],
                    (
                        CARRIED_COMPANION,
                        INDEX,
                        br#"{"weight_map":{"w":"a.safetensors","old":"b.safetensors"}}"#,
                    ),
                ],
                &[("a.safetensors/old", Some([1, 2]))],
            ),
        ),
        row(
            "rebuild-modules-of-strings",
            "checkpoint",
            "R95",
            "modules.json lists strings, not objects with a path, and so names nothing.",
            with_files(&[
                (CARRIED, "a/a.safetensors", right),
                (CARRIED, "b.safetensors", &header("{}")),
                (CARRIED_COMPANION, "modules.json", br#"["a"]"#),
            ]),
        ),
        row(
            "rebuild-index-without-map",
            "checkpoint",
            "R95",
            "The index is an empty object.",
            with_files(&[(CARRIED, "model.safetensors", right), (CARRIED_COMPANION, INDEX, b"{}")]),
        ),
        row(
            "rebuild-index-leaves-out-companion",
            "checkpoint",
            "R95",
            "The index leaves out a companion that has the name of a tensor file.",
            with_files(&[
                (CARRIED, "a.safetensors", right),
                (CARRIED_COMPANION, "b.safetensors", &header("{}")),
                (
                    CARRIED_COMPANION,
                    INDEX,
                    br#"{"weight_map":{"w":"a.safetensors","old":"a.safetensors"}}"#,
                ),
            ]),
        ),
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
            "Two headers have 100,000,009 bytes together, most of them spaces, which take a few thousand in the patch.",
            too_many_header_bytes(),
        ),
    ]
}
