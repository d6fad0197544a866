//! `apply --in-place` and `recover`.

use std::fs;

use crate::{assert_keys, pulse, scene, target, Files};

#[test]
fn a_checkpoint_is_updated_in_place_and_the_second_time_it_says_so() {
    let place = scene();
    let first = pulse(&place, &["apply", "base.safetensors", "41.pulse", "--in-place"]).done();
    assert!(first.contains("changes") && first.contains("base.safetensors"), "{first}");
    Files::read(&place.path("base.safetensors")).assert_same(&Files::one(&target()));
    let again = place.untouched(|| {
        pulse(&place, &["apply", "base.safetensors", "41.pulse", "--in-place"]).done()
    });
    assert!(again.contains("is already the target"), "{again}");
    let json =
        pulse(&place, &["apply", "base.safetensors", "41.pulse", "--in-place", "--json"]).json();
    assert_keys(
        &json,
        &[
            "already",
            "changes",
            "files",
            "notes",
            "output",
            "recovery",
            "seconds",
            "target_bytes",
            "target_digest",
            "way",
        ],
    );
    assert_eq!((&json["already"], &json["recovery"]), (&true.into(), &"nothing".into()));
}

#[test]
fn recover_says_what_it_found() {
    let place = scene();
    let nothing = place.untouched(|| pulse(&place, &["recover", "base.safetensors"]).done());
    assert!(nothing.contains("no update was interrupted"), "{nothing}");

    // What a process that was killed before it changed anything leaves.
    place.put_bytes("pulse-update-00112283aa.undo", b"pulse-update 1 400");
    let untouched = pulse(&place, &["recover", "base.safetensors"]).done();
    assert!(untouched.contains("before it changed anything"), "{untouched}");

    // What one of an earlier build leaves that was killed when all was written.
    let undo = [
        "diff",
        "target.safetensors",
        "base.safetensors",
        "--coding",
        "flat",
        "--values",
        "overwrite",
    ];
    pulse(&place, &[&undo[..], &["-o", "journal", "-q"]].concat()).done();
    fs::rename(place.path("journal"), place.path(".base.safetensors.pulse-undo")).unwrap();
    fs::copy(place.path("target.safetensors"), place.path("base.safetensors")).unwrap();
    pulse(&place, &["digest", "base.safetensors"]).failed(&["was interrupted", "`pulse recover`"]);
    let json = pulse(&place, &["recover", "base.safetensors", "--json"]).json();
    assert_keys(&json, &["checkpoint", "digest", "notes", "recovery"]);
    assert_eq!(json["recovery"], "completed");
    Files::read(&place.path("base.safetensors")).assert_same(&Files::one(&target()));
}

#[test]
fn a_place_is_given_or_the_checkpoint_itself_not_both() {
    let place = scene();
    pulse(&place, &["apply", "base.safetensors", "41.pulse"]).misused(&["--output"]);
    pulse(&place, &["apply", "base.safetensors", "41.pulse", "-o", "x", "--in-place"])
        .misused(&["--in-place"]);
    pulse(&place, &["apply", "41.pulse", "--in-place"]).misused(&["PATCH"]);
}
