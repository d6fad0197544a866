//! `pulse apply` with several patches at once.

use std::fs;

use crate::compose::run;
use crate::pulse;
use testkit::files::Place;

#[track_caller]
fn same(place: &Place, found: &str, expected: &str) {
    assert!(fs::read(place.path(found)).unwrap() == fs::read(place.path(expected)).unwrap());
}

#[test]
fn several_patches_are_applied_at_once() {
    for options in [&[][..], &["--values", "step"], &["--coding", "contextual", "--block", "1"]] {
        let place = run(options);
        let out = pulse(&place, &["apply", "0", "01", "12", "23", "-o", "out"]).done();
        assert!(out.contains("verified") && out.contains("output    out"), "{out}");
        same(&place, "out", "3");
        let part = pulse(&place, &["apply", "1", "12", "23", "-o", "part", "--json"]).json();
        same(&place, "part", "3");
        let changes = |patch: &str| {
            pulse(&place, &["inspect", patch, "--json"]).json()["footer"]["changes"]
                .as_u64()
                .unwrap()
        };
        assert_eq!(part["changes"], changes("12") + changes("23"));
    }
}

#[test]
fn an_anchor_may_be_the_first() {
    let place = run(&[]);
    pulse(&place, &["diff", "--snapshot", "1", "-o", "anchor.pulse"]).done();
    pulse(&place, &["apply", "anchor.pulse", "12", "23", "-o", "out"]).done();
    same(&place, "out", "3");
    // As with one patch, a base does no harm.
    pulse(&place, &["apply", "0", "anchor.pulse", "12", "-o", "two"]).done();
    same(&place, "two", "2");
    pulse(&place, &["apply", "12", "23", "-o", "none"]).failed(&["12", "a patch"]);
    pulse(&place, &["apply", "0", "01", "anchor.pulse", "-o", "none"]).failed(&["snapshot"]);
    pulse(&place, &["apply", "0", "anchor.pulse", "12", "--in-place"]).failed(&["in place"]);
    assert!(!place.path("none").exists());
}

#[test]
fn several_patches_change_a_checkpoint_in_place() {
    for way in ["--in-place", "--in-place=redo", "--in-place=undo"] {
        let place = run(&[]);
        pulse(&place, &["apply", "0", "01", "12", "23", way]).done();
        same(&place, "0", "3");
        let again =
            place.untouched(|| pulse(&place, &["apply", "0", "01", "12", "23", way]).done());
        assert!(again.contains("already the target"), "{again}");
        pulse(&place, &["apply", "1", "01", "12", "23", way])
            .failed(&["01: ", "already the target of the first patch; leave it out"]);
        same(&place, "1", "1");
    }
}

#[test]
fn patches_that_do_not_follow_one_another_are_refused() {
    let place = run(&[]);
    for way in [&["-o", "out"][..], &["--in-place"]] {
        let refused = |patches: &[&str], needles: &[&str]| {
            let args = [&["apply", "0"], patches, way].concat();
            place.untouched(|| pulse(&place, &args).failed(needles));
        };
        refused(
            &["01", "23"],
            &["23 does not follow 01", "its base has digest", "the target of the other is"],
        );
        refused(&["12", "01"], &["01 does not follow 12"]);
        refused(&["12", "23"], &["12: wrong base"]);
    }
}
