//! Patches made to do harm: every CRC and the SHA-256 are right, what they say is not.

use std::fs;
use std::path::PathBuf;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::{Change, Fault};
use pulse::patch::Inventory;
use pulse::stream::EncoderOptions;
use pulse::wire::{FileKind, Tag};
use pulse::{Encoder, Error, Limits, Patch};

use testkit::files::{raw, safetensors, stepped, tensor, weights, Files, Place};
use testkit::forge::{self, Section};
use testkit::library::{apply, diff, every_coding, open_patch, verify};

type File<'a> = (&'a str, FileKind, &'a [u8]);

/// A snapshot of one tensor, "w", U8 [4], that carries these files.
fn snapshot(files: &[File<'_>]) -> Vec<u8> {
    let spec = TensorSpec::new(Dtype::U8, &[4]).unwrap();
    let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap();
    files.iter().for_each(|(name, kind, bytes)| encoder.carry_file(name, *kind, bytes).unwrap());
    let mut writer = encoder.added("w", &spec).unwrap();
    writer.push(&[], b"abcd").unwrap();
    writer.end().unwrap();
    encoder.finish().unwrap().0
}

/// What apply and verify say to a snapshot; nothing may be written.
#[track_caller]
fn refused(place: &Place, patch: &[u8]) -> Error {
    let patch = place.put_bytes("patch", patch);
    let verified = verify(&patch, None, None).unwrap_err();
    let applied = place.untouched(|| apply(None, &patch, &place.path("out")).unwrap_err());
    assert_eq!(applied.to_string(), verified.to_string());
    applied
}

const ROW: &str = r#""dtype":"U8","shape":[4],"data_offsets":[0,4]"#;

#[test]
fn files_that_do_not_fit_the_tensors_are_refused() {
    let place = Place::new();
    let json = |json: &str| raw(json, &[]);
    let row = |name: &str| format!(r#""{name}":{{{ROW}}}"#);
    let good = json(&format!("{{{}}}", row("w")));
    let late = row("w").replace("[0,4]", "[4,8]");
    let headers = [
        ("twice", json(&format!("{{{},{}}}", row("w"), row("w")))),
        ("twice in a row", json(&format!("{{{},{}}}", row("w"), late))),
        ("not at all", json("{}")),
        ("under another name", json(&format!("{{{}}}", row("v")))),
        (
            "beside another",
            json(&format!(
                r#"{{{},"v":{{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}}}"#,
                row("w")
            )),
        ),
        ("with another shape", json(&format!("{{{}}}", row("w").replace("[4]", "[2,2]")))),
        ("with another dtype", json(&format!("{{{}}}", row("w").replace("U8", "I8")))),
        ("with another size", json(&format!("{{{}}}", row("w").replace("4]", "5]")))),
        ("after a hole", json(&format!("{{{}}}", late))),
        ("before its begin", json(&format!("{{{}}}", row("w").replace("[0,4]", "[4,0]")))),
        (
            "at the end of the world",
            json(&format!("{{{}}}", row("w").replace("[0,4]", "[18446744073709551612,0]"))),
        ),
        ("with data behind the header", [good.clone(), b"abcd".to_vec()].concat()),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("with another length", [&[1], &good[1..]].concat()),
        ("without length", b"{}".to_vec()),
        ("as an array", json("[]")),
        ("too deep", json(&("{\"w\":".to_string() + &"[".repeat(100_000)))),
        ("empty", Vec::new()),
    ];
    for (what, header) in &headers {
        let error = refused(&place, &snapshot(&[("", FileKind::Tensors, header)]));
        assert_eq!(error.kind(), "checkpoint", "w {what}: {error}");
    }
    let (tensors, companion) = (FileKind::Tensors, FileKind::Companion);
    let layouts: [(&str, &[File<'_>]); 4] = [
        ("in two files", &[("a", tensors, &good), ("b", tensors, &good)]),
        ("in no file", &[("a", companion, b"abcd")]),
        (
            "in a file without name, beside another",
            &[("", tensors, &good), ("b", tensors, &json("{}"))],
        ),
        (
            "in a file without name, beside a companion",
            &[("", tensors, &good), ("b", companion, b"")],
        ),
    ];
    for (what, files) in layouts {
        let error = refused(&place, &snapshot(files));
        assert_eq!(error.kind(), "checkpoint", "w {what}: {error}");
    }
    // All of these were refused for what they do, not for how they were made.
    let patch = place.put_bytes("patch", &snapshot(&[("", tensors, &good)]));
    apply(None, &patch, &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&Files::One([good, b"abcd".to_vec()].concat()));
}

#[test]
fn a_header_larger_than_any_reader_takes_is_refused() {
    let place = Place::new();
    let json = format!(r#"{{"w":{{{ROW}}}{}}}"#, " ".repeat(100_000_001));
    let patch = snapshot(&[("", FileKind::Tensors, &raw(&json, &[]))]);
    assert!(patch.len() < 100_000);
    assert_eq!(refused(&place, &patch).kind(), "checkpoint");
}

/// Names that lead elsewhere, or nowhere.
const NAMES: [&str; 17] = [
    ".",
    "..",
    "/",
    "\\",
    "../x",
    "..\\x",
    "/tmp/x",
    "a//b",
    "a/./b",
    "a/",
    "a/b/c/d/e/f/g/h/i",
    "a/../../b",
    "C:x",
    "C:\\x",
    "nul\0",
    "line\n",
    "del\u{7f}",
];

#[test]
fn the_encoder_refuses_file_names_that_lead_elsewhere() {
    for name in NAMES.into_iter().chain(["", &"x".repeat(256)]) {
        let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
        for error in [
            encoder.carry_file(name, FileKind::Companion, b"").unwrap_err(),
            encoder.keep_file(name, FileKind::Companion, b"").unwrap_err(),
        ] {
            assert_eq!(error.kind(), "misuse", "{name:?}");
        }
    }
}

#[test]
fn the_encoder_refuses_files_that_readers_would_refuse() {
    let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap();
    assert_eq!(encoder.keep_file("a", FileKind::Companion, b"x").unwrap_err().kind(), "misuse");
    encoder.carry_file("a", FileKind::Companion, b"x").unwrap();
    assert_eq!(encoder.carry_file("a", FileKind::Tensors, b"y").unwrap_err().kind(), "misuse");
    encoder.added("w", &TensorSpec::new(Dtype::U8, &[0]).unwrap()).unwrap().end().unwrap();
    assert_eq!(encoder.carry_file("b", FileKind::Companion, b"x").unwrap_err().kind(), "misuse");
    // None of that has harmed the patch.
    let place = Place::new();
    let patch = place.put_bytes("patch", &encoder.finish().unwrap().0);
    assert_eq!(open_patch(&patch).files().len(), 1);
}

#[test]
fn the_reader_refuses_file_names_that_lead_elsewhere() {
    let place = Place::new();
    for kind in [FileKind::Companion, FileKind::Tensors] {
        for name in NAMES {
            let innocent = "#".repeat(name.len());
            let patch = snapshot(&[(&innocent, kind, b"abcd")]);
            let forged = forge::replaced(&patch, b'l', innocent.as_bytes(), name.as_bytes());
            let Error::Corrupt(corrupt) = refused(&place, &forged) else { panic!("{name:?}") };
            assert!(
                matches!(corrupt.fault, Fault::Name { field: "file name", .. }),
                "{name:?}: {corrupt}"
            );
        }
    }
}

#[test]
fn names_that_are_odd_but_harmless_stay() {
    let json = raw(&format!(r#"{{"w":{{{ROW}}}}}"#), &[]);
    let names = ["...", "-rf", " ", "~", "$HOME", "*", ".pulse-x", "caf\u{e9}", "optimizer.pt"];
    let mut files: Vec<File<'_>> =
        names.iter().map(|name| (*name, FileKind::Companion, name.as_bytes())).collect();
    files.push(("weights.safetensors", FileKind::Tensors, &json));
    let place = Place::new();
    let patch = place.put_bytes("patch", &snapshot(&files));
    apply(None, &patch, &place.path("out")).unwrap();
    let Files::Many(found) = Files::read(&place.path("out")) else { panic!("not a directory") };
    assert_eq!(found.len(), names.len() + 1);
    assert!(names.iter().all(|name| found[*name] == name.as_bytes()));
}

fn patched() -> (Place, Vec<u8>) {
    patched_with(EncoderOptions::default())
}

/// A place with "base", "target" and a patch between them.
fn patched_with(options: EncoderOptions) -> (Place, Vec<u8>) {
    let place = Place::new();
    let file = |bytes: Vec<u8>| Files::one(&[tensor("w", "BF16", &[1000], bytes)]);
    let base = place.put("base", &file(weights(1, 1000)));
    let target = place.put("target", &file(stepped(&weights(1, 1000), 2, 100)));
    diff(Some(&base), &target, &place.path("patch"), options, 1);
    let patch = fs::read(place.path("patch")).unwrap();
    (place, patch)
}

/// What apply says to a forged patch with the right base.
#[track_caller]
fn refused_with_base(place: &Place, patch: &[u8]) -> Error {
    let patch: PathBuf = place.put_bytes("forged", patch);
    place.untouched(|| verify(&patch, Some(&place.path("base")), None).unwrap_err());
    place.untouched(|| apply(Some(&place.path("base")), &patch, &place.path("out")).unwrap_err())
}

#[test]
fn sections_taken_apart_and_joined_are_the_same_patch() {
    let (_, patch) = patched();
    assert!(forge::join(&patch, &forge::sections(&patch)) == patch);
}

#[test]
fn a_patch_that_leads_elsewhere_than_it_says_is_corrupt() {
    let (place, patch) = patched();
    for (tag, fields, kind) in [
        // The digest of the target tensor, then of the target checkpoint; then its totals.
        (b'E', (0..32).map(|at| 32 - at).collect(), "digest"),
        (b'F', (0..32).map(|at| 64 - at).collect(), "digest"),
        (b'F', vec![145 - 17, 145 - 25, 145 - 33], "count"),
    ] {
        for from_end in fields {
            let mut sections = forge::sections(&patch);
            let payload =
                &mut sections.iter_mut().find(|section| section.tag == tag).unwrap().payload;
            let at = payload.len() - from_end;
            payload[at] ^= 1;
            let error = refused_with_base(&place, &forge::join(&patch, &sections));
            assert_eq!(error.kind(), kind, "{}, byte {at}: {error}", tag.escape_ascii());
        }
    }
}

#[test]
fn a_forged_block_gives_the_right_target_or_none() {
    for options in every_coding() {
        let (place, patch) = patched_with(options);
        let target = Files::read(&place.path("target"));
        let sections = forge::sections(&patch);
        let block = sections.iter().position(|section| section.tag == b'B').unwrap();
        for bit in 0..8 * sections[block].payload.len() {
            let mut sections = sections.clone();
            sections[block].payload[bit / 8] ^= 1 << (bit % 8);
            let forged = place.put_bytes("forged", &forge::join(&patch, &sections));
            match apply(Some(&place.path("base")), &forged, &place.path("out")) {
                Err(error) => assert!(
                    matches!(
                        error,
                        Error::Corrupt(_) | Error::Limit { .. } | Error::WrongResult { .. }
                    ),
                    "bit {bit}: {error}"
                ),
                // Another spelling of the same changes.
                Ok(_) => {
                    Files::read(&place.path("out")).assert_same(&target);
                    fs::remove_file(place.path("out")).unwrap();
                }
            }
            assert!(!place.path("out").exists());
        }
    }
}

#[test]
fn a_block_that_does_not_decode_is_found_without_the_base() {
    for options in every_coding() {
        let (place, patch) = patched_with(options);
        let map = Inventory::inspect(place.path("patch"), Limits::default()).unwrap();
        let changes: u64 = map.ulp_steps.values().sum();
        assert!(map.error.is_none() && map.version == Some((1, 0)) && [0, 10].contains(&changes));
        let mut sections = forge::sections(&patch);
        let block = sections.iter_mut().find(|section| section.tag == b'B').unwrap();
        block.payload.push(0);
        let forged = place.put_bytes("forged", &forge::join(&patch, &sections));
        let map = Inventory::inspect(&forged, Limits::default()).unwrap();
        // All the rest of the file is right.
        let Some(Error::Corrupt(corrupt)) = map.error else { panic!("{:?}", map.error) };
        assert_eq!(
            (corrupt.section, corrupt.tensor.as_deref(), corrupt.block),
            (Some(Tag::BLOCK), Some("w"), Some(0))
        );
        assert!(map.footer.is_some() && map.good_bytes == map.file_bytes);
        assert_eq!(map.tensors[0].blocks[0].account(), None);
    }
}

#[test]
fn a_wrong_result_is_blamed_on_the_base_if_the_patch_names_another() {
    let (place, patch) = patched();
    let spec = TensorSpec::new(Dtype::Bf16, &[1000]).unwrap();
    let base = pulse::hash::tensor_digest(&weights(1, 1000));
    let mut hasher = pulse::hash::CheckpointHasher::new();
    hasher.add("w", &spec, base);
    let checkpoint = hasher.finish().unwrap();
    let other = forge::replaced(&patch, b'F', &checkpoint.0, &[7; 32]);
    let target = pulse::hash::tensor_digest(&stepped(&weights(1, 1000), 2, 100));
    let forged = forge::replaced(&other, b'E', &target.0, &[8; 32]);
    assert_eq!(refused_with_base(&place, &forged).kind(), "base");
}

#[test]
fn declared_sizes_cost_nothing() {
    let place = Place::new();
    // A file of 2^43 bytes, of which none come; then a base file of that size.
    let record = |flags: u8| {
        let size = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
        Section { tag: b'l', payload: [&[flags, 1, b'a'][..], &size, &[0; 32]].concat() }
    };
    let patch = snapshot(&[]);
    for flags in [2, 3] {
        let mut sections = forge::sections(&patch);
        sections.insert(1, record(flags));
        assert_eq!(refused(&place, &forge::join(&patch, &sections)).kind(), "order");
    }
    let (place, patch) = patched();
    for flags in [0, 1] {
        let mut sections = forge::sections(&patch);
        sections.retain(|section| section.tag != b'l');
        sections.insert(1, record(flags));
        assert_eq!(refused_with_base(&place, &forge::join(&patch, &sections)).kind(), "checkpoint");
    }
}

#[test]
fn a_tensor_of_more_bytes_than_any_disk_has_is_refused() {
    let (place, patch) = patched();
    // "w" becomes BF16 [2^40] in the patch only.
    let mut sections = forge::sections(&patch);
    let tensor = sections.iter_mut().find(|section| section.tag == b'T').unwrap();
    assert!(tensor.payload.ends_with(&[1, 0xe8, 0x07]));
    tensor.payload.truncate(tensor.payload.len() - 2);
    tensor.payload.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
    let forged = forge::join(&patch, &sections);
    let error = refused_with_base(&place, &forged);
    assert!(["checkpoint", "base"].contains(&error.kind()), "{error}");
}

#[test]
fn limits_of_the_caller_hold_for_files() {
    let (place, _) = patched();
    let open = |limits: Limits| Patch::open(place.path("patch"), limits).map(|_| ());
    for limits in [
        Limits::default().with_section_bytes(100),
        Limits::default().with_block_leaves(31),
        Limits::default().with_tensors(0),
        Limits::default().with_files(0),
        Limits::default().with_rank(0),
        Limits::default().with_name_bytes(0),
    ] {
        assert_eq!(open(limits.clone()).unwrap_err().kind(), "limit", "{limits:?}");
    }
    open(Limits::default()).unwrap();
}

#[test]
fn a_safetensors_file_is_no_patch() {
    let place = Place::new();
    let error = refused(&place, &safetensors(&[tensor("w", "U8", &[4], *b"abcd")]));
    assert_eq!(error.kind(), "signature");
}

#[test]
fn carried_headers_are_bounded_together_because_packed_they_cost_nothing() {
    let place = Place::new();
    // Two headers of spaces, each small enough by itself: 55 MB each from a few kB.
    let mut json = b"{}".to_vec();
    json.resize(55_000_000, b' ');
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    let patch = snapshot(&[("a", FileKind::Tensors, &header), ("b", FileKind::Tensors, &header)]);
    assert!(patch.len() < 100_000, "{} bytes", patch.len());
    let error = refused(&place, &patch);
    assert_eq!(error.kind(), "checkpoint");
    assert!(
        error
            .to_string()
            .contains("headers of 110000016 bytes; readers refuse more than 100000008"),
        "{error}"
    );
}

#[test]
fn a_patch_that_changes_after_it_was_opened_is_refused() {
    let place = Place::new();
    let header = raw(&format!("{{\"w\":{{{ROW}}}}}"), &[]);
    let carried = [
        ("m.safetensors", FileKind::Tensors, &header[..]),
        ("notes", FileKind::Companion, b"the original"),
    ];
    let path = place.put_bytes("patch", &snapshot(&carried));
    let patch = Patch::open(&path, Limits::default()).unwrap();
    let mut changed = fs::read(&path).unwrap();
    let at = changed.windows(12).position(|bytes| bytes == b"the original").unwrap();
    changed[at] ^= 1;
    fs::write(&path, changed).unwrap();
    let out = place.path("out");
    let error = patch.apply(None, &out, Default::default(), Default::default()).unwrap_err();
    // Nobody made a mistake in the patch.
    assert!(matches!(error, Error::Changed { how: Change::Written, .. }), "{error}");
    assert_eq!((error.kind(), error.file()), ("changed", Some(&*path)));
    assert!(!out.exists());
}
