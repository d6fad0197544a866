//! `pulse compose` and `pulse revert`: one patch for many, and the way back.

use std::fs;

use serde_json::json;

use crate::{assert_keys, model, pulse};
use testkit::files::{header, raw, stepped, tensor, Files, Place};

/// Checkpoints "0" to "3" and the patches "01", "12" and "23" between them, made with these options.
pub(crate) fn run(options: &[&str]) -> Place {
    let place = Place::new();
    let mut tensors = model();
    for step in 0..4 {
        place.put(&step.to_string(), &Files::one(&tensors));
        tensors[0].bytes = stepped(&tensors[0].bytes, 2, 90 + step);
    }
    for (from, to) in [("0", "1"), ("1", "2"), ("2", "3")] {
        let out = format!("{from}{to}");
        let diff = ["diff", from, to, "-o", &out, "--base-step", from, "--step", to];
        pulse(&place, &[&diff, options].concat()).done();
    }
    place
}

#[test]
fn compose_writes_what_diff_of_the_ends_writes() {
    for (options, base) in [
        (&["--values", "step"][..], &[][..]),
        (&["--values", "xor"], &[]),
        (&["--values", "xor", "--block", "1", "--level", "19", "--meta", "a=b"], &[]),
        (&["--coding", "contextual"], &["--base", "0"]),
        (&["--values", "overwrite"], &["--base", "0"]),
    ] {
        let place = run(options);
        let direct = ["diff", "0", "3", "-o", "direct", "--base-step", "0", "--step", "3"];
        pulse(&place, &[&direct, options].concat()).done();
        // Without the base, coding and values are those of the patches.
        let options = if base.is_empty() { &options[2..] } else { options };
        let compose = [&["compose", "01", "12", "23", "-o", "03"], base, options].concat();
        pulse(&place, &compose).done();
        assert!(
            fs::read(place.path("03")).unwrap() == fs::read(place.path("direct")).unwrap(),
            "{options:?}"
        );
        pulse(&place, &["apply", "0", "03", "-o", "out"]).done();
        assert!(fs::read(place.path("out")).unwrap() == fs::read(place.path("3")).unwrap());
    }
}

#[test]
fn compose_says_what_it_saved() {
    let place = run(&["--values", "step"]);
    let size = |name: &str| fs::metadata(place.path(name)).unwrap().len();
    let out = pulse(&place, &["compose", "01", "12", "23", "-o", "03"]).done();
    for (label, value) in [
        ("patch", "03"),
        ("composed", "3 patches, step 0 to 3"),
        ("tensors", "1 patched, 1 unchanged"),
        ("verified", "no (base not given); verified on apply"),
    ] {
        let found = out.lines().any(|line| line.starts_with(label) && line.contains(value));
        assert!(found, "no {label} {value} in:\n{out}");
    }
    let bytes = size("03");
    assert!(out.contains(&format!("{bytes} bytes, ")) && out.contains(" before"), "{out}");
    let json = pulse(
        &place,
        &["compose", "01", "12", "23", "-o", "json", "--base", "0", "--values", "step", "--json"],
    );
    let json = json.json();
    assert_keys(
        &json,
        &[
            "patch",
            "patch_bytes",
            "patches",
            "input_bytes",
            "base_step",
            "target_step",
            "changes",
            "input_changes",
            "target_elements",
            "target_bytes",
            "tensors",
            "verified",
            "base_digest",
            "target_digest",
            "seconds",
        ],
    );
    assert_eq!(
        (&json["patches"], &json["verified"], &json["patch_bytes"]),
        (&json!(3), &json!(true), &json!(bytes))
    );
    assert_eq!(json["input_bytes"], size("01") + size("12") + size("23"));
    assert_eq!(json["target_digest"], pulse(&place, &["digest", "3"]).done()[..64]);
    assert!(json["changes"].as_u64() < json["input_changes"].as_u64(), "{json}");
}

#[test]
fn a_chain_that_breaks_is_refused_and_the_place_named() {
    let place = run(&["--values", "step"]);
    for (patches, needles) in [
        (["01", "23"], ["23 does not follow 01", "digest"]),
        (
            ["12", "01"],
            ["01 does not follow 12", "give every patch between the two checkpoints, in order"],
        ),
    ] {
        let compose = ["compose", patches[0], patches[1], "-o", "out"];
        place.untouched(|| pulse(&place, &compose).failed(&needles));
    }
    let wrong = ["compose", "01", "12", "--base", "1", "-o", "out"];
    place.untouched(|| pulse(&place, &wrong).failed(&["wrong base", "'a'"]));
    // What is there already stays, unless it may be replaced.
    place.put_bytes("out", b"mine");
    place.untouched(|| {
        pulse(&place, &["compose", "01", "12", "-o", "out"]).failed(&["out", "--force"])
    });
    pulse(&place, &["compose", "01", "12", "-o", "out", "--force"]).done();
    pulse(&place, &["verify", "out", "--base", "0", "--target", "2"]).done();
}

#[test]
fn revert_makes_the_base_again() {
    for values in ["step", "xor"] {
        let place = run(&["--values", values]);
        let out = pulse(&place, &["revert", "1", "01", "-o", "back"]).done();
        assert!(fs::read(place.path("back")).unwrap() == fs::read(place.path("0")).unwrap());
        let digest = pulse(&place, &["digest", "0"]).done()[..64].to_string();
        assert!(
            out.contains(&digest) && out.contains("in 1 file") && !out.contains("not restored"),
            "{out}"
        );
        let json = pulse(&place, &["revert", "1", "01", "-o", "json", "--json"]).json();
        assert_keys(
            &json,
            &["output", "changes", "base_bytes", "files", "not_restored", "base_digest", "seconds"],
        );
        assert_eq!((&json["base_digest"], &json["not_restored"]), (&json!(digest), &json!([])));
        // Several steps back: through the composed patch.
        pulse(&place, &["compose", "01", "12", "23", "-o", "03"]).done();
        pulse(&place, &["revert", "3", "03", "-o", "far"]).done();
        assert!(fs::read(place.path("far")).unwrap() == fs::read(place.path("0")).unwrap());
        place.untouched(|| {
            pulse(&place, &["revert", "2", "01", "-o", "out"])
                .failed(&["not the target of the patch"])
        });
    }
}

#[test]
fn revert_says_which_files_it_could_not_restore() {
    let place = Place::new();
    let model = |bytes: [u8; 3], note: &str| {
        let tensors = [tensor("w", "U8", &[3], bytes)];
        let json = header(&tensors, &[&format!(r#""__metadata__":{{"note":"{note}"}}"#)]);
        Files::many([
            ("model.safetensors", raw(&json, &bytes)),
            ("config.json", note.into()),
            ("same", b"s".to_vec()),
        ])
    };
    place.put("base", &model(*b"abc", "1"));
    place.put("target", &model(*b"abd", "2"));
    pulse(&place, &["diff", "base", "target", "-o", "patch", "--values", "xor"]).done();
    let out = pulse(&place, &["revert", "target", "patch", "-o", "out"]).done();
    assert!(
        out.contains(
            "header of model.safetensors, config.json: the patch does not hold those of the base"
        ),
        "{out}"
    );
    Files::read(&place.path("out")).assert_same(&model(*b"abc", "2"));
    let json = pulse(&place, &["revert", "target", "patch", "-o", "json", "--json"]).json();
    assert_eq!(json["not_restored"], json!(["header of model.safetensors", "config.json"]));
}
