//! Failures for programs: one JSON object on standard error, as docs/failure-json.md describes it;
//! and limits by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use pulse::hash::tensor_digest;
use serde_json::{json, Value};

use crate::inspect::{check_type, paths};
use crate::{model, pulse, scene, target};
use testkit::files::{tensor, Files, Place};
use testkit::forge;

/// The digest of a checkpoint.
fn digest(place: &Place, name: &str) -> String {
    pulse(place, &["digest", name]).done()[..64].to_string()
}

/// The scene, and what else can go wrong with it.
fn mishaps() -> Place {
    let place = scene();
    let put = |name: &str, tensors: &[_]| _ = place.put(name, &Files::one(tensors));
    let mut wrong = model();
    wrong[1].bytes[7] ^= 1;
    put("wrong", &wrong);
    let mut transposed = model();
    transposed[0].shape = vec![100, 20];
    put("transposed", &transposed);
    put("tied", &model()[..1]);
    put("third", &[&target()[..], &[tensor("c", "U8", &[1], *b"x")]].concat());
    place.put_bytes("notes.txt", b"no checkpoint, no patch");
    pulse(&place, &["diff", "base.safetensors", "third", "-o", "added.pulse"]).done();
    let patch = fs::read(place.path("41.pulse")).unwrap();
    place.put_bytes("cut.pulse", &patch[..patch.len() - 7]);
    let mut damaged = patch.clone();
    damaged[60] ^= 1;
    place.put_bytes("damaged.pulse", &damaged);
    let mut newer = patch.clone();
    newer[8] = 2;
    place.put_bytes("newer.pulse", &newer);
    let target = testkit::library::open_patch(&place.path("41.pulse")).footer().target;
    place.put_bytes("lie.pulse", &forge::replaced(&patch, b'F', &target.0, &[7; 32]));
    place.put("served", &Files::one(&model()));
    place.put_bytes(".served.pulse-undo", b"not a journal");
    place
}

type Case<'a> = (&'a [&'a str], i32, Value);

/// Commands that fail, and what the object must hold; of the rest, nothing.
fn cases(place: &Place) -> Vec<Case<'static>> {
    let [base, target] = ["base.safetensors", "target.safetensors"].map(|name| digest(place, name));
    let real = |name: &str| place.path(name).canonicalize().unwrap().display().to_string();
    let same = json!({ "is_target": false, "applied": 0, "missing": [], "extra": [], "reshaped": [], "tensors_expected": 2, "tensors_found": 2 });
    let base_with = |key: &str, value: Value| {
        let mut base = same.clone();
        base[key] = value;
        base
    };
    let seven = "07".repeat(32);
    vec![
        (&["diff", "base.safetensors", "-o", "out"], 2, json!({ "kind": "usage" })),
        (&["diff", "--frobnicate"], 2, json!({ "kind": "usage" })),
        (
            &["diff", "--snapshot", "base.safetensors", "--base-step", "1", "-o", "out"],
            2,
            json!({ "kind": "misuse" }),
        ),
        (
            &["verify", "notes.txt"],
            1,
            json!({ "kind": "signature", "file": "notes.txt", "offset": 0, "content": "text", "advice": "give-patch",
                "expected": "ab504c530d0a1a0a", "found": "6e6f20636865636b" }),
        ),
        (
            &["verify", "newer.pulse"],
            1,
            json!({ "kind": "version", "file": "newer.pulse", "expected": "1", "found": "2",
            "advice": "use-newer-reader" }),
        ),
        (
            &["verify", "cut.pulse"],
            1,
            json!({ "kind": "truncated", "file": "cut.pulse", "advice": "transfer-again",
                "offset": fs::metadata(place.path("cut.pulse")).unwrap().len() }),
        ),
        (
            &["verify", "41.pulse", "--limit", "tensors=1"],
            1,
            json!({ "kind": "limit", "file": "41.pulse", "limit": "tensors", "expected": "at most 1", "found": "2",
                "advice": "raise-limit",
                "advice_text": "if the source is trusted, raise the limit: --limit tensors=2 or more" }),
        ),
        (
            &["apply", "wrong", "41.pulse", "-o", "out"],
            1,
            json!({ "kind": "base", "file": "41.pulse", "tensor": "b", "base": same, "advice": "use-its-base" }),
        ),
        (
            &["apply", "transposed", "41.pulse", "-o", "out"],
            1,
            json!({ "kind": "base", "file": "41.pulse", "expected": base, "found": digest(place, "transposed"),
                "advice": "use-its-base",
                "base": base_with("reshaped",
                    json!([{ "tensor": "a", "expected": "BF16 [20, 100]", "found": "BF16 [100, 20]" }])) }),
        ),
        (
            &["verify", "41.pulse", "--base", "tied"],
            1,
            json!({ "kind": "base", "file": "41.pulse", "expected": base, "found": digest(place, "tied"),
                "advice": "use-its-base",
                "base": { "is_target": false, "applied": 0, "missing": ["b"], "extra": [], "reshaped": [],
                    "tensors_expected": 2, "tensors_found": 1 } }),
        ),
        (
            &["apply", "target.safetensors", "41.pulse", "-o", "out"],
            1,
            json!({ "kind": "base", "file": "41.pulse", "tensor": "a", "base": base_with("is_target", json!(true)),
                "advice": "nothing-to-do", "advice_text": "there is nothing left to apply" }),
        ),
        (
            &["compose", "41.pulse", "41.pulse", "-o", "out"],
            1,
            json!({ "kind": "base", "file": "41.pulse", "advice": "give-every-patch",
                "expected": digest(place, "base.safetensors"),
                "found": digest(place, "target.safetensors") }),
        ),
        (
            &["verify", "41.pulse", "--target", "wrong"],
            1,
            json!({ "kind": "target", "file": "41.pulse", "tensor": "a", "advice": "use-its-target",
                "expected": tensor_digest(&self::target()[0].bytes).to_string(),
                "found": tensor_digest(&model()[0].bytes).to_string() }),
        ),
        (
            &["verify", "lie.pulse", "--base", "base.safetensors"],
            1,
            json!({ "kind": "digest", "file": "lie.pulse", "expected": seven, "found": target,
                "advice": "create-again" }),
        ),
        (
            &["digest", "notes.txt"],
            1,
            json!({ "kind": "checkpoint", "file": "notes.txt", "content": "text", "advice": "give-checkpoint" }),
        ),
        (
            &["apply", "41.pulse", "-o", "out"],
            1,
            json!({ "kind": "needs-base", "file": "41.pulse", "advice": "give-its-base" }),
        ),
        (
            &["revert", "target.safetensors", "41.pulse", "-o", "out"],
            1,
            json!({ "kind": "not-invertible", "file": "41.pulse", "advice": "keep-base" }),
        ),
        (
            &["apply", "base.safetensors", "added.pulse", "--in-place=undo"],
            1,
            json!({ "kind": "not-in-place", "file": real("base.safetensors"), "advice": "write-new-checkpoint",
                "advice_text": "write the target to a new place: -o OUT" }),
        ),
        (
            &["apply", "base.safetensors", "41.pulse", "-o", "wrong"],
            1,
            json!({ "kind": "exists", "file": "wrong", "advice": "choose-another-place",
                "advice_text": "remove it, choose another name, or replace it: --force" }),
        ),
        (
            &["digest", "served"],
            1,
            json!({ "kind": "interrupted", "file": "served", "advice": "recover",
                "advice_text": "wait, or run `pulse recover` on it" }),
        ),
        (
            &["recover", "served"],
            1,
            json!({ "kind": "unrecovered", "file": real(".served.pulse-undo"), "advice": "fetch-checkpoint-again" }),
        ),
        (&["feed", "log", "nowhere"], 1, json!({ "kind": "no-feed", "feed": "nowhere" })),
        (
            &["digest", "nowhere"],
            1,
            json!({ "kind": "io", "file": "nowhere", "advice": "check-path" }),
        ),
    ]
}

const FIELDS: [&str; 15] = [
    "kind",
    "message",
    "file",
    "content",
    "offset",
    "section",
    "tensor",
    "block",
    "expected",
    "found",
    "limit",
    "base",
    "feed",
    "advice",
    "advice_text",
];

/// Compared only where a case gives them: the texts, and what depends on the bytes of the patch.
const OPEN: [&str; 5] = ["message", "advice_text", "offset", "expected", "found"];

#[test]
fn each_failure_is_one_object_with_the_fields_that_it_has() {
    let place = mishaps();
    for (args, code, expected) in cases(&place) {
        let found = place.untouched(|| pulse(&place, &[args, &["--json"]].concat()).failure(code));
        let text = pulse(&place, args);
        for field in FIELDS {
            let (found, expected) = (&found[field], &expected[field]);
            if !(OPEN.contains(&field) && expected.is_null()) {
                assert_eq!(found, expected, "{args:?}: {field}");
            }
        }
        // People are told the same.
        if code == 1 {
            let advice =
                found["advice_text"].as_str().map_or(String::new(), |advice| format!("; {advice}"));
            assert_eq!(
                text.err,
                format!("error: {}{advice}\n", found["message"].as_str().unwrap())
            );
        }
        assert_eq!((text.code, text.out.as_str()), (Some(code), ""));
    }
}

#[test]
fn damage_is_given_with_its_place() {
    let place = mishaps();
    let found = pulse(&place, &["verify", "damaged.pulse", "--json"]).failure(1);
    assert_eq!((&found["kind"], &found["file"]), (&json!("crc"), &json!("damaged.pulse")));
    assert!(found["offset"].is_u64() && found["section"].is_string(), "{found}");
    for side in ["expected", "found"] {
        let crc = found[side].as_str().unwrap();
        assert!(crc.len() == 8 && crc.bytes().all(|digit| digit.is_ascii_hexdigit()), "{found}");
    }
    // A block that breaks a rule, its CRC right all the same.
    let mut sections = forge::sections(&fs::read(place.path("41.pulse")).unwrap());
    let patch = fs::read(place.path("41.pulse")).unwrap();
    sections.iter_mut().rfind(|section| section.tag == b'B').unwrap().payload.push(0);
    place.put_bytes("rule.pulse", &forge::join(&patch, &sections));
    let found = pulse(&place, &["apply", "base.safetensors", "rule.pulse", "-o", "out", "--json"])
        .failure(1);
    assert_eq!(
        (&found["section"], &found["tensor"], &found["block"]),
        (&json!("block"), &json!("b"), &json!(0))
    );
    assert_eq!(found["advice"], "create-again");
}

/// The rows of the table under a heading: the cells of each.
fn rows<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, after) = document.split_once(heading).unwrap();
    let table = after.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let table = table.take_while(|line| line.starts_with("| "));
    table.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The words in backticks.
fn words(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn failures_are_as_documented() {
    let document =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failure-json.md"))
            .unwrap();
    let fields: BTreeMap<&str, (&str, &str)> = rows(&document, "*null*")
        .iter()
        .map(|row| (row[0].trim_matches('`'), (row[1], row[2])))
        .collect();
    let kinds: Vec<&str> =
        rows(&document, "## Kinds").iter().flat_map(|row| words(row[0])).collect();
    let of_feeds: Vec<&str> =
        rows(&document, "## Kinds of a feed").iter().flat_map(|row| words(row[0])).collect();
    let advice: Vec<&str> =
        rows(&document, "## Advice").iter().flat_map(|row| words(row[0])).collect();

    let place = mishaps();
    let mut found = BTreeSet::new();
    for (args, code, _) in cases(&place) {
        let failure = pulse(&place, &[args, &["--json"]].concat()).failure(code);
        paths(&failure, "", &mut found);
        for (field, (kind, null)) in &fields {
            check_type(&failure, field, kind, *null == "never");
        }
        let kinds = if failure["feed"].is_null() { &kinds } else { &of_feeds };
        assert!(kinds.contains(&failure["kind"].as_str().unwrap()), "{failure}");
        assert!(failure["advice"].as_str().is_none_or(|word| advice.contains(&word)), "{failure}");
    }
    assert!(found.iter().map(String::as_str).eq(fields.keys().copied()), "{found:?}");

    // Every word that can be printed, once.
    let mut known: Vec<&str> =
        [pulse::Error::KINDS, pulse::error::Fault::KINDS, &["usage"]].concat();
    known.sort_unstable();
    known.dedup();
    let sorted = |words: &[&str]| {
        let mut words: Vec<String> = words.iter().map(ToString::to_string).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(sorted(&kinds), sorted(&known));
    assert_eq!(sorted(&of_feeds), sorted(pulse_sync::Error::KINDS));
    for (heading, file, begin, end) in [
        ("## Advice", "advice", "fn row(self)", "fn fmt("),
        ("## Contents", "content", "fn name(&self)", "fn advice("),
    ] {
        let documented: Vec<&str> =
            rows(&document, heading).iter().flat_map(|row| words(row[0])).collect();
        let path = format!("{}/../src/error/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = fs::read_to_string(path).unwrap();
        let (_, table) = source.split_once(begin).unwrap();
        let (table, _) = table.split_once(end).unwrap();
        let is_word = |text: &&str| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && bytes.all(|byte| byte == b'-' || byte.is_ascii_lowercase() || byte == b'5')
        };
        let code = table.lines().filter(|line| !line.trim_start().starts_with("//"));
        let in_source: Vec<&str> =
            code.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(is_word).collect();
        assert_eq!(sorted(&documented), sorted(&in_source));
    }
}

/// Each command that reads patches takes limits; the advice is the option that lets it go on.
#[test]
fn limits_are_set_by_name_for_every_command_that_reads_patches() {
    let place = scene();
    pulse(
        &place,
        &["diff", "base.safetensors", "target.safetensors", "--values", "xor", "-o", "flat"],
    )
    .done();
    pulse(&place, &["diff", "target.safetensors", "base.safetensors", "-o", "prev"]).done();
    let commands: [&[&str]; 6] = [
        &["apply", "base.safetensors", "flat", "-o", "out"],
        &["verify", "flat", "--base", "base.safetensors"],
        &["compose", "flat", "-o", "out"],
        &["revert", "target.safetensors", "flat", "-o", "out"],
        &["diff", "base.safetensors", "target.safetensors", "--base-patch", "prev", "-o", "out"],
        &["inspect", "flat"],
    ];
    for args in commands {
        let run = |limits: &[&str]| pulse(&place, &[args, limits].concat());
        let refused = place.untouched(|| run(&["--limit", "tensors=1"]));
        assert_eq!(refused.code, Some(1), "{args:?}");
        let patch = if args[0] == "diff" { "prev" } else { "flat" };
        assert!(
            refused.err.starts_with(&format!("error: {patch}: limit `tensors` exceeded at byte ")),
            "{}",
            refused.err
        );
        assert!(
            refused
                .err
                .ends_with("asked for 2, allowed 1; if the source is trusted, raise the limit: --limit tensors=2 or more\n"),
            "{}",
            refused.err
        );
        // The last one counts, and the others hold as well.
        run(&["--limit", "tensors=1", "--limit", "tensors=2", "--limit", "target_bytes=1MiB"])
            .done();
        let _ = fs::remove_file(place.path("out"));
        assert_eq!(
            run(&["--limit", "tensors=2", "--limit", "target_bytes=1kB"]).code,
            Some(1),
            "{args:?}"
        );
    }
}
