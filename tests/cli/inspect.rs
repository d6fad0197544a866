//! `inspect` accounts for every byte of a good patch, and says where a bad one breaks.

use std::fs;

use serde_json::{json, Value};

use crate::fixtures::{noise, safetensors, tensor, Files, Place};
use crate::{assert_keys, model, pulse, pulse_inspect, scene, target, Run};

/// A place with "rich.pulse", in which every kind of section stands.
fn rich() -> Place {
    let place = scene();
    let directory = |mut tensors: Vec<crate::Tensor>, seed: u64, own: &str| {
        tensors.push(tensor(own, "U8", &[9], noise(seed, 9)));
        tensors.push(tensor("c", "U8", &[seed], noise(seed, seed as usize)));
        Files::many([("model.safetensors", safetensors(&tensors)), ("config.json", noise(seed, 20))])
    };
    place.put("base", &directory(model(), 1, "gone"));
    place.put("target", &directory(target(), 2, "new"));
    let told = ["--step", "41", "--meta", "trainer=example"];
    pulse(&place, &[&["diff", "base", "target", "-o", "rich.pulse"][..], &told].concat()).done();
    pulse(&place, &["diff", "--snapshot", "target", "-o", "snapshot.pulse"]).done();
    pulse(&place, &["diff", "base", "base", "-o", "same.pulse"]).done();
    place
}

fn sum(values: &Value) -> u64 {
    values.as_array().unwrap().iter().map(|value| value["bytes"].as_u64().unwrap()).sum()
}

/// The JSON of a patch whether it is right or not.
#[track_caller]
fn inspected(run: &Run) -> Value {
    let json: Value = serde_json::from_str(&run.out).expect("JSON");
    let keys = ["file_bytes", "good_bytes", "error", "header", "footer", "actions", "tensors", "files", "sections"];
    assert_keys(&json, &keys);
    // Ten bytes of signature and version, then sections without a gap.
    let good = json["good_bytes"].as_u64().unwrap();
    assert_eq!(sum(&json["sections"]) + good.min(10), good);
    assert!(good <= json["file_bytes"].as_u64().unwrap());
    json
}

#[test]
fn every_byte_of_a_good_patch_is_accounted_for() {
    let place = rich();
    for name in ["41.pulse", "rich.pulse", "snapshot.pulse", "same.pulse"] {
        let bytes = fs::metadata(place.path(name)).unwrap().len();
        let run = pulse(&place, &["inspect", name, "--json"]);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
        let json = inspected(&run);
        assert_eq!(
            (&json["good_bytes"], &json["file_bytes"], &json["error"]),
            (&json!(bytes), &json!(bytes), &Value::Null)
        );
        let of_tensors = ["tensor header", "block", "tensor trailer"];
        let tensors: Vec<_> = json["sections"].as_array().unwrap().to_vec();
        let tensors = tensors.into_iter().filter(|section| of_tensors.contains(&section["name"].as_str().unwrap()));
        assert_eq!(sum(&json["tensors"]), sum(&tensors.collect()), "{name}");
        let tensor_changes =
            json["tensors"].as_array().unwrap().iter().map(|tensor| tensor["changes"].as_u64().unwrap());
        assert_eq!(json["footer"]["changes"], tensor_changes.sum::<u64>());

        // The table says the same: the rows of sections add up to the last, which is the file.
        let out = pulse(&place, &["inspect", name]).done();
        let rows: Vec<_> = out.lines().skip_while(|line| !line.starts_with("section ")).skip(1).collect();
        let number = |row: &str| row.split_whitespace().rev().nth(1).unwrap().replace(',', "").parse::<u64>().unwrap();
        let (last, rows) = rows.split_last().unwrap();
        assert!(last.starts_with("file"), "{out}");
        assert_eq!(number(last), bytes);
        assert_eq!(rows.iter().map(|row| number(row)).sum::<u64>(), bytes, "{out}");
        assert!(out.contains("right to the last byte"), "{out}");
    }
}

#[test]
fn a_good_patch_is_described() {
    let place = rich();
    let json = pulse(&place, &["inspect", "rich.pulse", "--json"]).json();
    assert_eq!(json["actions"], json!({"patched": 2, "added": 1, "replaced": 1, "deleted": 1}));
    let header = &json["header"];
    assert_keys(header, &["snapshot", "block_leaves", "run", "base_step", "target_step", "base_digest", "metadata"]);
    assert_eq!((&header["snapshot"], &header["target_step"]), (&json!(false), &json!(41)));
    assert_eq!(header["metadata"], json!({"trainer": "example"}));
    let digest = |name| pulse(&place, &["digest", name, "--json"]).json()[0]["digest"].clone();
    assert_eq!(
        (&json["footer"]["base_digest"], &json["footer"]["target_digest"]),
        (&digest("base"), &digest("target"))
    );
    let names: Vec<_> = json["tensors"].as_array().unwrap().iter().map(|tensor| &tensor["name"]).collect();
    assert_eq!(names, ["a", "b", "c", "gone", "new"]);
    let files: Vec<_> = json["files"].as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(files, ["model.safetensors", "config.json"]);
    let out = pulse(&place, &["inspect", "rich.pulse"]).done();
    for text in ["trainer = example", "- to 41", "deleted", "replaced", "config.json", "carried"] {
        assert!(out.contains(text), "no '{text}' in:\n{out}");
    }
}

#[test]
fn pulse_inspect_is_pulse_inspect() {
    let place = rich();
    place.put_bytes("notes.txt", b"some text");
    for args in [&["rich.pulse"][..], &["rich.pulse", "--json"], &["notes.txt"], &["nowhere"], &["--help"], &[]] {
        assert_eq!(pulse_inspect(&place, args), pulse(&place, &[&["inspect"], args].concat()), "{args:?}");
    }
}

#[test]
fn a_patch_that_is_cut_short_is_shown_as_far_as_it_goes() {
    let place = rich();
    let patch = fs::read(place.path("rich.pulse")).unwrap();
    let mut good = 0;
    for length in (0..patch.len()).step_by(23) {
        place.put_bytes("cut.pulse", &patch[..length]);
        let run = pulse(&place, &["inspect", "cut.pulse", "--json"]);
        assert_eq!(run.code, Some(1), "{length} bytes");
        assert!(run.err.starts_with("error: ") && run.err.contains("cut short"), "{}", run.err);
        let json = inspected(&run);
        assert_eq!(json["file_bytes"], length);
        assert!(run.err.contains(json["error"].as_str().unwrap()));
        assert!(json["footer"].is_null());
        // What was read stays read.
        let now = json["good_bytes"].as_u64().unwrap();
        assert!(now >= good);
        good = now;
    }
    let text = pulse(&place, &["inspect", "cut.pulse"]);
    assert_eq!(text.code, Some(1));
    for needle in ["BROKEN after", "not readable", "trainer = example", "gone"] {
        assert!(text.out.contains(needle), "no '{needle}' in:\n{}", text.out);
    }
}

#[test]
fn a_damaged_patch_is_shown_up_to_the_damage() {
    let place = rich();
    let patch = fs::read(place.path("rich.pulse")).unwrap();
    for at in (0..patch.len()).step_by(31) {
        let mut bytes = patch.clone();
        bytes[at] ^= 0x10;
        place.put_bytes("bad.pulse", &bytes);
        let run = pulse(&place, &["inspect", "bad.pulse", "--json"]);
        assert_eq!(run.code, Some(1), "byte {at}");
        let json = inspected(&run);
        // All sections before the damage, and none after it. Only the SHA-256 covers the minor version.
        assert!(at == 9 || json["good_bytes"].as_u64().unwrap() <= at as u64, "byte {at}: {json}");
        assert!(json["error"].is_string());
    }
}

#[test]
fn bytes_after_the_footer_are_the_only_ones_not_accounted_for() {
    let place = scene();
    let patch = fs::read(place.path("41.pulse")).unwrap();
    for more in [&b"\n"[..], &patch] {
        place.put_bytes("more.pulse", &[&patch, more].concat());
        let run = pulse(&place, &["inspect", "more.pulse", "--json"]);
        assert_eq!(run.code, Some(1));
        let json = inspected(&run);
        assert_eq!(json["good_bytes"], patch.len());
        assert_eq!(json["footer"]["changes"], 26);
        assert!(run.err.contains("follow the footer"), "{}", run.err);
    }
}

#[test]
fn what_is_no_patch_at_all_is_said_to_be_none() {
    let place = scene();
    place.put_bytes("empty", b"");
    place.put_bytes("text", b"PULSE patch, or so this text says.\n");
    place.put_bytes("short", b"\xabPLS");
    // What a transfer as text does.
    let mut unix = fs::read(place.path("41.pulse")).unwrap();
    unix.retain(|&byte| byte != b'\r');
    place.put_bytes("unix", &unix);
    fs::create_dir(place.path("directory")).unwrap();
    for (name, needle) in [
        ("empty", "cut short"),
        ("short", "cut short"),
        ("text", "not a .pulse file"),
        ("unix", "transferred as text"),
        ("base.safetensors", "not a .pulse file"),
    ] {
        for more in [&[][..], &["--json"]] {
            let run = pulse(&place, &[&["inspect", name], more].concat());
            assert_eq!(run.code, Some(1), "{name}");
            assert!(run.err.starts_with("error: ") && run.err.contains(needle), "{name}: {}", run.err);
            assert!(run.out.contains('0'), "{name}: {}", run.out);
        }
    }
    let run = pulse(&place, &["inspect", "directory"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("directory: not a regular file"), "{}", run.err);
}

#[test]
fn the_bytes_of_a_tensor_are_told_apart_and_sum_up() {
    let place = scene();
    let run = pulse(&place, &["inspect", "41.pulse", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let tensors = found["tensors"].as_array().unwrap();
    assert!(!tensors.is_empty());
    for tensor in tensors {
        let bytes_for = tensor["bytes_for"].as_object().unwrap();
        let sum: u64 = bytes_for.values().map(|bytes| bytes.as_u64().unwrap()).sum();
        assert_eq!(Some(sum), tensor["bytes"].as_u64(), "{tensor}");
        assert!(["positions", "signs", "values", "tables", "digests", "framing"]
            .iter()
            .all(|name| bytes_for.contains_key(*name)));
    }
}
