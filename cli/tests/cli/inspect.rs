//! `inspect` accounts for every byte of a good patch, and says where a bad one is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{json, Value};

use crate::commands::fact;
use crate::{assert_keys, command, model, pulse, pulse_inspect, scene, target, Run};
use testkit::files::{noise, safetensors, stepped, tensor, weights, Files, Place};

/// A place with "rich.pulse", in which every kind of section stands.
fn rich() -> Place {
    let place = scene();
    let directory = |mut tensors: Vec<crate::Tensor>, seed: u64, own: &str| {
        tensors.push(tensor(own, "U8", &[9], noise(seed, 9)));
        tensors.push(tensor("c", "U8", &[seed], noise(seed, seed as usize)));
        Files::many([
            ("model.safetensors", safetensors(&tensors)),
            ("config.json", noise(seed, 20)),
        ])
    };
    let Files::Many(mut base) = directory(model(), 1, "gone") else { panic!("a directory") };
    base.insert("notes.txt".into(), b"only in the base".to_vec());
    place.put("base", &Files::Many(base));
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

/// The JSON of a patch, damaged or not.
#[track_caller]
fn inspected(run: &Run) -> Value {
    let json: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(json["schema"], 1);
    // Ten bytes of signature and version, then sections without a gap.
    let good = json["good_bytes"].as_u64().unwrap();
    assert_eq!(sum(&json["sections"]) + good.min(10), good);
    assert!(good <= json["file_bytes"].as_u64().unwrap());
    // And once more, by what the bytes are for.
    let uses = json["bytes_for"].as_object().unwrap().values();
    assert_eq!(uses.map(|bytes| bytes.as_u64().unwrap()).sum::<u64>(), json["file_bytes"]);
    assert_eq!(json["error"].is_null(), json["damage"].is_null());
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
        let tensors = tensors
            .into_iter()
            .filter(|section| of_tensors.contains(&section["name"].as_str().unwrap()));
        assert_eq!(sum(&json["tensors"]), sum(&tensors.collect()), "{name}");
        let tensor_changes = json["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tensor| tensor["changes"].as_u64().unwrap());
        assert_eq!(json["footer"]["changes"], tensor_changes.sum::<u64>());

        // The tables say the same: the rows of each add up to its last, which is the file.
        let out = pulse(&place, &["inspect", name, "--bytes"]).done();
        let number = |row: &&str| {
            row.split("  ").filter(|cell| !cell.is_empty()).nth(1).unwrap().trim().replace(',', "")
        };
        for table in out.split("\n\n") {
            let rows: Vec<_> = table.lines().skip(1).collect();
            let numbers: Vec<u64> = rows.iter().map(|row| number(row).parse().unwrap()).collect();
            let (last, numbers) = numbers.split_last().unwrap();
            assert!(rows.last().unwrap().starts_with("file "), "{out}");
            assert_eq!((*last, numbers.iter().sum()), (bytes, bytes), "{out}");
        }
        assert!(pulse(&place, &["inspect", name]).done().contains("SHA-256 of the file"), "{out}");
    }
}

#[test]
fn a_good_patch_is_described() {
    let place = rich();
    let json = pulse(&place, &["inspect", "rich.pulse", "--json"]).json();
    assert_eq!(json["actions"], json!({"patched": 2, "added": 1, "replaced": 1, "deleted": 1}));
    let header = &json["header"];
    assert_keys(
        header,
        &["snapshot", "block_leaves", "run", "base_step", "target_step", "base_digest", "metadata"],
    );
    assert_eq!((&header["snapshot"], &header["target_step"]), (&json!(false), &json!(41)));
    assert_eq!(header["metadata"], json!({"trainer": "example"}));
    let digest = |name| pulse(&place, &["digest", name, "--json"]).json()[0]["digest"].clone();
    assert_eq!(
        (&json["footer"]["base_digest"], &json["footer"]["target_digest"]),
        (&digest("base"), &digest("target"))
    );
    let names: Vec<_> =
        json["tensors"].as_array().unwrap().iter().map(|tensor| &tensor["name"]).collect();
    assert_eq!(names, ["a", "b", "c", "gone", "new"]);
    let files: Vec<_> =
        json["files"].as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(files, ["model.safetensors", "config.json", "notes.txt"]);
    let state =
        |file: &Value| (file["state"].clone(), file["carried"].clone(), file["base"].clone());
    let sha256 = testkit::vectors::raw::sha256(&noise(1, 20)).to_string();
    assert_eq!(
        json["files"].as_array().unwrap().iter().map(state).collect::<Vec<_>>(),
        [
            (json!("new"), json!(true), json!(null)),
            (json!("replaced"), json!(true), json!({ "bytes": 20, "sha256": sha256 })),
            (json!("removed"), json!(false), json!(null)),
        ]
    );
    // What only the base has is no part of a copy of the target.
    let copy = fs::metadata(place.path("target/model.safetensors")).unwrap().len() + 20;
    assert_eq!(json["full_copy_bytes"], copy);
    let out = pulse(&place, &["inspect", "rich.pulse"]).done();
    for text in [
        "patch, format 1.0",
        "trainer = example",
        "step 41",
        "1 deleted",
        "1 replaced",
        "2 files carried",
        "1 file removed",
        "tensor files and 1 other file",
        "10 Gbit/s",
    ] {
        assert!(out.contains(text), "no '{text}' in:\n{out}");
    }
    let out = pulse(&place, &["inspect", "rich.pulse", "--files"]).done();
    for row in ["model.safetensors", "config.json", "notes.txt"].into_iter().zip([
        "carried",
        "carried, replaced",
        "removed",
    ]) {
        let (name, state) = row;
        let line = out.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.contains(&format!("  {state}  ")), "{out}");
    }
    let out = pulse(&place, &["inspect", "rich.pulse", "--tensors"]).done();
    for digest in ["base_digest", "target_digest", "sha256"]
        .map(|name| json["footer"][name].as_str().unwrap())
    {
        assert!(out.contains(digest), "{out}");
    }
}

#[test]
fn pulse_inspect_is_pulse_inspect() {
    let place = rich();
    place.put_bytes("notes.txt", b"some text");
    for args in [
        &["rich.pulse"][..],
        &["rich.pulse", "--json"],
        &["notes.txt"],
        &["nowhere"],
        &["--help"],
        &[],
    ] {
        assert_eq!(
            pulse_inspect(&place, args),
            pulse(&place, &[&["inspect"], args].concat()),
            "{args:?}"
        );
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
        let failure = run.failure_beside();
        assert_eq!(
            (&failure["kind"], &failure["file"]),
            (&"truncated".into(), &"cut.pulse".into())
        );
        let json = inspected(&run);
        assert_eq!(json["file_bytes"], length);
        assert_eq!(failure["message"], json["error"]);
        assert!(json["footer"].is_null());
        // What was read stays read.
        let now = json["good_bytes"].as_u64().unwrap();
        assert!(now >= good);
        good = now;
    }
    let text = pulse(&place, &["inspect", "cut.pulse"]);
    assert_eq!(text.code, Some(1));
    for needle in ["BROKEN", "what to do", "resume the transfer", "trainer = example", "unread"] {
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
        let damage = &json["damage"];
        assert!(
            damage["offset"].as_u64().unwrap() >= json["good_bytes"].as_u64().unwrap() || at == 9,
            "{damage}"
        );
        let failure = run.failure_beside();
        assert!(
            failure["message"].as_str().unwrap().contains(damage["message"].as_str().unwrap()),
            "{damage}"
        );
        assert!(!damage["advice"].as_str().unwrap().is_empty());
        // In words as well: where, and what to do.
        if at % 5 == 0 {
            let run = pulse(&place, &["inspect", "bad.pulse"]);
            assert_eq!(run.code, Some(1));
            assert!(
                run.out.contains("BROKEN") && run.out.contains(damage["advice"].as_str().unwrap()),
                "{}",
                run.out
            );
        }
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
        ("empty", "an empty file, not a .pulse file"),
        ("short", "truncated"),
        ("text", "not a .pulse file"),
        ("unix", "transferred as binary"),
        ("base.safetensors", "it is a checkpoint"),
    ] {
        for more in [&[][..], &["--json"]] {
            let run = pulse(&place, &[&["inspect", name], more].concat());
            assert_eq!(run.code, Some(1), "{name}");
            let start = if more.is_empty() { "error: " } else { "{" };
            assert!(run.err.starts_with(start) && run.err.contains(needle), "{name}: {}", run.err);
            assert!(run.out.contains('0'), "{name}: {}", run.out);
        }
    }
    let run = pulse(&place, &["inspect", "directory"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err.contains("directory: it is an empty directory, not a .pulse file"),
        "{}",
        run.err
    );
}

#[test]
fn the_bytes_of_a_tensor_are_told_apart_and_sum_up() {
    let place = scene();
    let run = pulse(&place, &["inspect", "41.pulse", "--json"]);
    let found: Value = serde_json::from_str(&run.out).unwrap();
    let tensors = found["tensors"].as_array().unwrap();
    assert!(!tensors.is_empty());
    for tensor in tensors {
        let bytes_for = tensor["bytes_for"].as_object().unwrap();
        let sum: u64 = bytes_for.values().map(|bytes| bytes.as_u64().unwrap()).sum();
        assert_eq!(Some(sum), tensor["bytes"].as_u64(), "{tensor}");
    }
}

/// A place with "deep.pulse": three layers with long names, one of which is meant to do harm.
fn deep() -> Place {
    let place = Place::new();
    let model = |every: usize| {
        let mut tensors = Vec::new();
        for layer in 0..3 {
            for (number, module) in
                ["self_attn.q_proj", "mlp.up_proj_of_the_third_and_last_kind"].iter().enumerate()
            {
                let (name, seed) =
                    (format!("model.layers.{layer}.{module}.weight"), 2 * layer + number as u64);
                let bytes = weights(seed, 4000);
                let changed =
                    if every == 0 { bytes } else { stepped(&bytes, 2, every + seed as usize) };
                tensors.push(tensor(&name, "BF16", &[40, 100], changed));
            }
        }
        tensors.push(tensor(EVIL, "U8", &[100], noise(every as u64, 100)));
        Files::one(&tensors)
    };
    place.put("base", &model(0));
    place.put("target", &model(10));
    let lineage = [
        "--base-step",
        "40",
        "--step",
        "48",
        "--run",
        "00112233445566778899aabbccddeeff",
        "--meta",
        "a=b",
    ];
    pulse(&place, &[&["diff", "base", "target", "-o", "deep.pulse"], &lineage[..]].concat()).done();
    place
}

const EVIL: &str = "</td><script>alert(\"1\")</script>\u{1b}[31m";

#[test]
fn the_summary_fits_a_screen_of_24_lines_and_80_columns() {
    let (rich, deep) = (rich(), deep());
    let patch = fs::read(deep.path("deep.pulse")).unwrap();
    deep.put_bytes("bad.pulse", &[&patch[..2000], b"!", &patch[2001..]].concat());
    for (place, name) in [
        (&rich, "rich.pulse"),
        (&rich, "snapshot.pulse"),
        (&deep, "deep.pulse"),
        (&deep, "bad.pulse"),
    ] {
        let out = pulse(place, &["inspect", name, "--width", "80"]).out;
        assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
        // The last line is that of the prompt.
        assert!(out.lines().count() < 24, "{out}");
    }
    // In a pipe nothing is shortened, however long.
    let out = pulse(&deep, &["inspect", "deep.pulse", "--tensors"]).done();
    assert!(
        out.contains("model.layers.2.mlp.up_proj_of_the_third_and_last_kind.weight")
            && !out.contains('…'),
        "{out}"
    );
    let out = pulse(&deep, &["inspect", "deep.pulse", "--tensors", "--width", "90"]).done();
    assert!(
        out.contains("model.layers.2.mlp.up…_and_last_kind.weight")
            && out.contains("columns omitted: "),
        "{out}"
    );
}

#[test]
fn tensors_are_sorted_and_filtered() {
    let place = deep();
    let names = |args: &[&str]| {
        let json = pulse(&place, &[&["inspect", "deep.pulse", "--json"], args].concat()).json();
        let names = json["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tensor| tensor["name"].as_str().unwrap().to_string());
        names.collect::<Vec<_>>()
    };
    let all = names(&[]);
    assert_eq!(all.len(), 7);
    let by = |field: &str| {
        let json = pulse(&place, &["inspect", "deep.pulse", "--json", "--sort", field]).json();
        let tensors = json["tensors"].as_array().unwrap().clone();
        tensors.iter().map(|tensor| tensor[field].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for field in ["bytes", "changes", "density"] {
        assert!(by(field).is_sorted_by(|a, b| a >= b), "{field}: {:?}", by(field));
    }
    assert!(names(&["--sort", "name"]).is_sorted());
    assert_eq!(names(&["--filter", "*.1.*.weight"]).len(), 2);
    assert_eq!(names(&["--filter", "q_proj"]).len(), 3);
    assert_eq!(
        names(&["--filter", "model.layers.?.self*", "--sort", "name"])[2],
        "model.layers.2.self_attn.q_proj.weight"
    );
    // The table has the same rows in the same order.
    let out =
        pulse(&place, &["inspect", "deep.pulse", "--filter", "proj", "--sort", "changes"]).done();
    let rows = out.lines().skip_while(|line| !line.starts_with("tensor ")).skip(1);
    let rows: Vec<_> = rows.map(|row| row.split(' ').next().unwrap().to_string()).collect();
    assert_eq!(rows, names(&["--filter", "proj", "--sort", "changes"]));
    for (filter, told) in [
        ("nothing", "no tensor name contains 'nothing' (7 checked)"),
        ("q_proj.*", "no tensor matches 'q_proj.*' in full (7 checked); try '*q_proj.*'"),
    ] {
        let out = pulse(&place, &["inspect", "deep.pulse", "--filter", filter]).done();
        assert!(out.contains(told), "{out}");
    }
    pulse(&place, &["inspect", "deep.pulse", "--sort", "size"]).misused(&["density"]);
    pulse(&place, &["inspect", "deep.pulse", "--width", "0"]).misused(&["--width"]);
}

#[test]
fn there_are_colours_only_where_they_are_welcome() {
    let place = scene();
    let coloured = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), args);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let run = Run::new(command.envs(variables.iter().copied()).output().unwrap());
        (run.out.contains('\u{1b}'), run.err.contains('\u{1b}'))
    };
    for args in [&["inspect", "41.pulse"][..], &["inspect", "41.pulse", "--tensors"]] {
        // This is no terminal.
        assert_eq!(coloured(&[], args), (false, false));
        assert_eq!(coloured(&[("CLICOLOR", "1")], args), (false, false));
        assert_eq!(coloured(&[("CLICOLOR_FORCE", "1")], args), (true, false));
        assert_eq!(coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], args), (false, false));
    }
    assert_eq!(
        coloured(&[("CLICOLOR_FORCE", "1")], &["inspect", "base.safetensors"]),
        (true, true)
    );
    assert_eq!(
        coloured(&[("CLICOLOR_FORCE", "1")], &["inspect", "41.pulse", "--json"]),
        (false, false)
    );
}

/// Paths of all values: `[]` for entries of arrays, `*` for keys that are data.
pub fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let free = ["header.metadata", "tensors[].blocks"].contains(&path);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if free { "*" } else { key };
                let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                paths(value, &path, found);
                found.insert(path);
            }
        }
        // What is in an array of plain numbers has no name.
        Value::Array(entries) => {
            entries.iter().for_each(|entry| paths(entry, &format!("{path}[]"), found))
        }
        _ => {}
    }
}

#[test]
fn the_json_is_as_documented() {
    let document =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/inspect-json.md"))
            .unwrap();
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split_once("` | ").unwrap());
    let documented: BTreeMap<&str, Vec<&str>> =
        rows.map(|(field, rest)| (field, rest.split(" | ").collect())).collect();
    let place = rich();
    let patch = fs::read(place.path("rich.pulse")).unwrap();
    place.put_bytes("cut.pulse", &patch[..patch.len() / 2]);
    place.put_bytes("empty.pulse", b"");
    let mut found = BTreeSet::new();
    for name in ["rich.pulse", "snapshot.pulse", "same.pulse", "cut.pulse", "empty.pulse"] {
        let run = pulse(&place, &["inspect", name, "--json"]);
        let json = inspected(&run);
        paths(&json, "", &mut found);
        for (field, described) in &documented {
            check_type(&json, field, described[0], described[1] == "never");
        }
    }
    let documented: BTreeSet<String> = documented.keys().map(ToString::to_string).collect();
    assert_eq!(found, documented);
}

/// Holds the values of a documented field against its type; it is there wherever its object is.
#[track_caller]
pub fn check_type(json: &Value, field: &str, kind: &str, never_null: bool) {
    let mut values = vec![json];
    for step in field.split('.') {
        let (key, entries) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
        values.retain(|value| !value.is_null());
        values = match key {
            "*" => {
                values.into_iter().flat_map(|value| value.as_object().unwrap().values()).collect()
            }
            key => values
                .into_iter()
                .map(|value| value.get(key).unwrap_or_else(|| panic!("no {field}")))
                .collect(),
        };
        if entries {
            values = values.into_iter().flat_map(|value| value.as_array().unwrap()).collect();
        }
    }
    for value in values {
        let right = match kind {
            "number" => value.is_number(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            "array" => value.is_array(),
            other => panic!("{field}: unknown type {other}"),
        };
        assert!(right || value.is_null() && !never_null, "{field} is {value}");
    }
}

/// Checks that every tag is closed and in its place; styles and scripts are not looked into.
#[track_caller]
fn assert_well_formed(page: &str) {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    let mut open: Vec<&str> = Vec::new();
    while let Some((text, tag)) = rest.split_once('<') {
        assert!(!text.contains('>'), "{text}");
        let (tag, after) = tag.split_once('>').expect("a tag that ends");
        rest = after;
        let name = tag.split(' ').next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if name == "meta" => {}
            None => open.push(name),
        }
        if ["style", "script"].contains(&name) {
            rest = &rest[rest.find(&format!("</{name}>")).expect("an end")..];
        }
    }
    assert_eq!((open.as_slice(), rest.trim()), (&[][..], ""));
}

#[test]
fn the_page_is_one_file_that_needs_nothing_else() {
    let place = deep();
    let out = pulse(&place, &["inspect", "deep.pulse", "--html", "deep.html"]).done();
    assert!(out.ends_with("\npage  deep.html\n"), "{out}");
    let page = fs::read_to_string(place.path("deep.html")).unwrap();
    assert_well_formed(&page);
    for outside in ["://", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let json = pulse(&place, &["inspect", "deep.pulse", "--json"]).json();
    let tensors =
        json["tensors"].as_array().unwrap().iter().map(|tensor| tensor["name"].as_str().unwrap());
    for name in tensors.filter(|name| *name != EVIL) {
        assert!(page.contains(&format!(">{name}<")), "{name}");
    }
    for text in [
        "viewport",
        "prefers-color-scheme: dark",
        "heatmap",
        "Where the bytes go",
        "Step sizes in ULPs",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for digest in ["base_digest", "target_digest", "sha256"] {
        assert!(page.contains(json["footer"][digest].as_str().unwrap()));
    }
    // A name is text, whatever it says: there is one script, that of the page.
    assert_eq!(page.matches("<script").count(), 1);
    assert!(
        page.contains("&lt;/td&gt;&lt;script&gt;alert(&quot;1&quot;)") && !page.contains('\u{1b}')
    );
}

#[test]
fn a_page_replaces_nothing_unless_told_to() {
    let place = deep();
    let page = ["inspect", "deep.pulse", "--html", "page.html"];
    place.put_bytes("page.html", b"mine");
    place.untouched(|| pulse(&place, &page).failed(&["page.html", "--force"]));
    pulse(&place, &[&page[..], &["--force"]].concat()).done();
    assert_ne!(fs::read(place.path("page.html")).unwrap(), b"mine");
    place.untouched(|| {
        pulse(&place, &["inspect", "deep.pulse", "--html", "deep.pulse", "--force"])
            .failed(&["deep.pulse: this is an input of the same command"]);
        pulse(&place, &["inspect", "deep.pulse", "--html", "no/such/page"])
            .failed(&["no/such/page"]);
        pulse(&place, &["inspect", "nowhere", "--html", "new.html"]).failed(&["nowhere"]);
        pulse(&place, &["inspect", "deep.pulse", "--force"]).misused(&["--html"]);
    });
}

#[test]
fn the_page_of_a_damaged_patch_marks_the_break() {
    let place = deep();
    let patch = fs::read(place.path("deep.pulse")).unwrap();
    for at in (0..patch.len()).step_by(97) {
        let mut bytes = patch.clone();
        bytes[at] ^= 0x10;
        place.put_bytes("bad.pulse", &bytes);
        let run =
            pulse(&place, &["inspect", "bad.pulse", "--json", "--html", "bad.html", "--force"]);
        assert_eq!(run.code, Some(1), "byte {at}");
        let page = fs::read_to_string(place.path("bad.html")).unwrap();
        assert_well_formed(&page);
        let damage = &inspected(&run)["damage"];
        assert!(page.contains("Broken at byte") && page.contains("What to do: "), "byte {at}");
        assert!(
            damage["section"].is_null()
                || page.contains(&format!("{} section", damage["section"].as_str().unwrap()))
        );
        let tensors = inspected(&run)["tensors"].as_array().unwrap().clone();
        let shown = tensors.iter().filter(|tensor| tensor["name"] != EVIL).count();
        assert_eq!(page.matches("<td class=\"name\">model.").count(), shown, "byte {at}");
    }
}

#[test]
fn a_snapshot_is_not_shown_as_a_diff() {
    let place = rich();
    for more in [&[][..], &["--tensors"]] {
        let out = pulse(&place, &[&["inspect", "snapshot.pulse"], more].concat()).done();
        assert!(
            ["density", "change", "added", "100.000%"].iter().all(|diff| !out.contains(diff)),
            "{out}"
        );
        assert!(out.contains("bits/element"), "{out}");
    }
    let out = pulse(&place, &["inspect", "snapshot.pulse"]).done();
    let json = pulse(&place, &["inspect", "snapshot.pulse", "--json"]).json();
    let elements = json["footer"]["target_elements"].as_u64().unwrap();
    assert_eq!(fact(&out, "elements").replace(',', ""), elements.to_string());
    assert_eq!(fact(&out, "tensors"), json["footer"]["target_tensors"].to_string());
    assert!(fact(&out, "size").contains("bits per element"), "{out}");

    pulse(&place, &["inspect", "snapshot.pulse", "--html", "page.html"]).done();
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(
        page.contains("<dt>per element</dt>") && page.contains("snapshot, without other files")
    );
    for diff in ["density", "<dt>changes</dt>", "per change", "added"] {
        assert!(!page.contains(diff), "{diff}");
    }
    // A broken one says so still.
    let patch = fs::read(place.path("snapshot.pulse")).unwrap();
    place.put_bytes("cut.pulse", &patch[..patch.len() / 2]);
    let out = pulse(&place, &["inspect", "cut.pulse"]).out;
    assert!(fact(&out, "tensors").ends_with(" broken"), "{out}");
}

#[test]
fn a_patch_is_compared_with_all_bytes_of_its_target() {
    let place = Place::new();
    let directory = |tensors: &[crate::Tensor], companion: usize| {
        Files::many([
            ("model.safetensors", safetensors(tensors)),
            ("data.bin", noise(companion as u64, companion)),
        ])
    };
    place.put("base", &directory(&model(), 10));
    place.put("target", &directory(&target(), 1 << 17));
    pulse(&place, &["diff", "base", "target", "-o", "large.pulse"]).done();
    let files = |name: &str| fs::metadata(place.path(name)).unwrap().len();
    let full = files("target/model.safetensors") + files("target/data.bin");
    let json = pulse(&place, &["inspect", "large.pulse", "--json"]).json();
    assert_eq!(json["full_copy_bytes"], full);
    assert_eq!(json["transfer"][0]["full_seconds"].as_f64(), Some(full as f64 * 8.0 / 1e8));
    assert!(
        json["file_bytes"].as_u64() > json["footer"]["target_bytes"].as_u64(),
        "larger than the tensors alone"
    );

    let out = pulse(&place, &["inspect", "large.pulse", "--html", "page.html"]).done();
    let size = fact(&out, "size");
    assert!(
        size.starts_with("1.0 times smaller than 136 kB of tensor files and 1 other file, "),
        "{size}"
    );
    // The file that comes along is no cost of the changes.
    let bits =
        8.0 * (json["file_bytes"].as_f64().unwrap() - files("target/data.bin") as f64) / 26.0;
    assert!(size.ends_with(&format!("{bits:.2} bits per change without carried files")), "{size}");
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(
        page.contains("than a full copy: tensor files and 1 other file")
            && page.contains("without carried files")
    );
    assert!(!page.contains("0.0×"));

    // What is larger than a full copy is called that.
    let tiny = Files::one(&[tensor("w", "U8", &[1], *b"x")]);
    place.put("tiny", &tiny);
    pulse(&place, &["diff", "--snapshot", "tiny", "-o", "tiny.pulse"]).done();
    let out = pulse(&place, &["inspect", "tiny.pulse", "--html", "page.html", "--force"]).done();
    assert!(fact(&out, "size").starts_with("not smaller than "), "{out}");
    assert!(fs::read_to_string(place.path("page.html")).unwrap().contains("<dt>larger</dt>"));
}

#[test]
fn a_damage_banner_says_each_thing_once() {
    let place = rich();
    let patch = fs::read(place.path("rich.pulse")).unwrap();
    let mut bad = patch.clone();
    bad[patch.len() / 2] ^= 1;
    place.put_bytes("bad.pulse", &bad);
    place.put_bytes("cut.pulse", &patch[..patch.len() / 2]);
    place.put_bytes("text.pulse", b"PULSE patch, or so this text says.\n");
    place.put_bytes("none.pulse", b"");
    for name in ["bad.pulse", "cut.pulse", "text.pulse", "none.pulse"] {
        let run = pulse(&place, &["inspect", name, "--html", "page.html", "--force"]);
        let page = fs::read_to_string(place.path("page.html")).unwrap();
        let banner = page.lines().find(|line| line.contains("class=\"bad\"")).unwrap();
        for once in ["ransfer it again", "as text", "resume", " OK", "bytes are"] {
            assert!(banner.matches(once).count() <= 1, "{banner}");
            let told = run
                .out
                .lines()
                .skip_while(|line| !line.starts_with("BROKEN"))
                .collect::<Vec<_>>()
                .join(" ");
            assert!(told.matches(once).count() <= 1, "{told}");
        }
        assert!(!banner.contains("first 0 bytes"), "{banner}");
    }
}

#[test]
fn a_small_tensor_does_not_set_the_scale_of_the_heat_map() {
    let place = Place::new();
    let (matrix, bias) = (weights(1, 100_000), weights(2, 100));
    let model = |layers: [Vec<u8>; 2], bias: Vec<u8>| {
        let [first, second] = layers;
        Files::one(&[
            tensor("layers.0.mlp.weight", "BF16", &[1000, 100], first),
            tensor("layers.1.mlp.weight", "BF16", &[1000, 100], second),
            tensor("layers.0.mlp.bias", "BF16", &[100], bias),
        ])
    };
    place.put("base", &model([matrix.clone(), matrix.clone()], bias.clone()));
    place.put(
        "target",
        &model([stepped(&matrix, 2, 100), stepped(&matrix, 2, 200)], stepped(&bias, 2, 2)),
    );
    pulse(&place, &["diff", "base", "target", "-o", "p.pulse"]).done();
    pulse(&place, &["inspect", "p.pulse", "--html", "page.html"]).done();
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(
        page.contains("≥ 1.00%")
            && page.contains("class=\"hot off\"")
            && page.contains("<span>0.50%</span>")
    );
}
