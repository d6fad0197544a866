//! Every flipped bit and every truncation of a patch is refused, and no output appears.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use pulse::{Limits, Patch};

use crate::{command, pulse, scene};
use testkit::files::{tensor, weights, Files, Place};
use testkit::library::apply;

/// The small patch of the scene.
fn small() -> (Place, Vec<u8>) {
    let place = scene();
    let patch = fs::read(place.path("41.pulse")).unwrap();
    assert!((400..=600).contains(&patch.len()), "{} bytes", patch.len());
    (place, patch)
}

fn flipped(patch: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = patch.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// The library refuses these bytes as a patch, and says why in its own words.
#[track_caller]
fn refused(place: &Place, bytes: &[u8], what: impl std::fmt::Display) {
    let (bad, out) = (place.put_bytes("bad.pulse", bytes), place.path("out"));
    let error = Patch::open(&bad, Limits::default()).map(|_| ()).expect_err("refused");
    let applied = apply(Some(&place.path("base.safetensors")), &bad, &out).expect_err("refused");
    assert_eq!(error.to_string(), applied.to_string());
    assert!(!["io", "misuse", "checkpoint"].contains(&error.kind()), "{what}: {error}");
    assert!(!out.exists(), "{what}");
}

/// `pulse apply` refuses these bytes: exit status 1, one line on standard error, nothing written.
#[track_caller]
fn refused_by_process(place: &Place, bytes: &[u8], needles: &[&str]) {
    place.put_bytes("bad.pulse", bytes);
    let args = ["apply", "base.safetensors", "bad.pulse", "-o", "out"];
    place.untouched(|| pulse(place, &args).failed(needles));
}

#[test]
fn every_truncation_is_refused() {
    let (place, patch) = small();
    for length in 0..patch.len() {
        refused(&place, &patch[..length], format_args!("{length} bytes"));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let (place, patch) = small();
    for bit in 0..8 * patch.len() {
        refused(&place, &flipped(&patch, bit), format_args!("bit {bit}"));
    }
}

#[test]
fn truncations_and_flipped_bits_are_refused_by_the_program() {
    let (place, patch) = small();
    for length in (1..patch.len()).step_by(29).chain([patch.len() - 1]) {
        refused_by_process(&place, &patch[..length], &["at byte", "truncated"]);
    }
    for bit in (0..8 * patch.len()).step_by(37) {
        refused_by_process(&place, &flipped(&patch, bit), &[]);
    }
}

#[test]
fn bytes_before_or_after_a_patch_are_refused() {
    let (place, patch) = small();
    for (bytes, needle) in [
        (patch.repeat(2), "follow the footer"),
        ([&patch[..], b"\n"].concat(), "follow the footer"),
        ([&patch[..], &[0; 70_000]].concat(), "follow the footer"),
        ([&[0], &patch[..]].concat(), "not a .pulse file"),
        (Vec::new(), "an empty file, not a .pulse file"),
        (vec![0; 1000], "not a .pulse file"),
    ] {
        refused(&place, &bytes, needle);
        refused_by_process(&place, &bytes, &[needle]);
    }
}

#[test]
fn halves_of_two_patches_are_no_patch() {
    let (place, patch) = small();
    let back = ["diff", "target.safetensors", "base.safetensors", "-o", "back.pulse"];
    pulse(&place, &back).done();
    let other = fs::read(place.path("back.pulse")).unwrap();
    for cut in
        (1..patch.len()).filter(|&cut| patch[..cut] != other[..cut] && patch[cut..] != other[cut..])
    {
        refused(&place, &[&patch[..cut], &other[cut..]].concat(), cut);
    }
}

#[test]
fn a_flipped_bit_in_the_base_is_refused() {
    let (place, _) = small();
    let base = fs::read(place.path("base.safetensors")).unwrap();
    let header = base.len() - 5000;
    for bit in (0..8 * base.len()).step_by(97) {
        let wrong = place.put_bytes("wrong.safetensors", &flipped(&base, bit));
        let error =
            apply(Some(&wrong), &place.path("41.pulse"), &place.path("out")).expect_err("refused");
        // A header that still is one may hold the right tensors, but it is not the right file.
        let kinds: &[&str] = if bit / 8 < header { &["checkpoint", "base"] } else { &["base"] };
        assert!(kinds.contains(&error.kind()), "bit {bit}: {error}");
        assert!(!place.path("out").exists());
    }
}

#[test]
fn a_process_that_is_killed_leaves_no_half_of_an_output() {
    let place = Place::new();
    let file = |seed| Files::one(&[tensor("w", "BF16", &[5_000_000], weights(seed, 5_000_000))]);
    let target = file(2);
    place.put("base", &file(1));
    place.put("target", &target);
    pulse(&place, &["diff", "base", "target", "-o", "patch"]).done();
    let mut whole = 0;
    for milliseconds in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256] {
        let mut apply = command(
            &place,
            env!("CARGO_BIN_EXE_pulse"),
            &["apply", "base", "patch", "-o", "out", "--quiet"],
        );
        let mut process = apply.spawn().unwrap();
        sleep(Duration::from_millis(milliseconds));
        process.kill().unwrap();
        process.wait().unwrap();
        if place.path("out").exists() {
            Files::read(&place.path("out")).assert_same(&target);
            fs::remove_file(place.path("out")).unwrap();
            whole += 1;
        }
    }
    assert!(whole < 10, "none was killed in time");
    // What the killed ones left behind does not disturb the next.
    pulse(&place, &["apply", "base", "patch", "-o", "out"]).done();
    Files::read(&place.path("out")).assert_same(&target);
}
