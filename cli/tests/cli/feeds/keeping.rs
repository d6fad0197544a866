//! `pulse feed`: log, status, verify, prune, compact, mirror.

use std::fs;

use serde_json::{json, Value};
use testkit::files::Place;

use super::{assert_step, follow_once, publish, scene};
use crate::pulse;

fn feed(place: &Place, args: &[&str]) -> Value {
    pulse(place, &[&["feed"], args, &["--json"]].concat()).json()
}

/// A feed of nine versions with an anchor every third.
fn nine() -> Place {
    let place = scene(9);
    (0..9).for_each(|step| _ = publish(&place, step, &["--anchor-every", "3", "--keep", "all"]));
    place
}

fn objects(place: &Place, folder: &str) -> usize {
    fs::read_dir(place.path(folder)).map_or(0, Iterator::count)
}

#[test]
fn a_log_has_every_version() {
    let place = nine();
    let log = feed(&place, &["log", "feed", "--from", "0"]);
    let steps: Vec<_> =
        log.as_array().unwrap().iter().map(|entry| entry["step"].as_u64().unwrap()).collect();
    assert!(steps.iter().copied().eq(0..9), "{steps:?}");
    // An anchor that one process makes is recorded by the next one.
    let anchors: Vec<_> =
        log.as_array().unwrap().iter().map(|entry| entry["anchor"].as_u64().unwrap()).collect();
    assert_eq!(anchors, [0, 0, 0, 0, 3, 3, 3, 6, 6]);
    assert_eq!(
        feed(&place, &["log", "feed", "--from", "3", "--to", "5"]).as_array().unwrap().len(),
        3
    );
    let text = pulse(&place, &["feed", "log", "feed"]).done();
    assert_eq!(text.lines().count(), 10, "{text}");
    let status = feed(&place, &["status", "feed"]);
    assert_eq!(
        (&status["version"], &status["anchor"]["version"], &status["join"]["parts"]),
        (&json!(8), &json!(6), &json!(3))
    );
    let text = pulse(&place, &["feed", "status", "feed"]).done();
    assert!(
        text.contains("version 8 (step 8)") && text.contains("as trustworthy as its store"),
        "{text}"
    );
}

#[test]
fn a_feed_is_pruned_compacted_and_copied_and_stays_whole() {
    let place = nine();
    let verified = feed(&place, &["verify", "feed"]);
    assert_eq!((&verified["records"], &verified["problems"]), (&json!(9), &json!([])));
    let made = feed(&place, &["compact", "feed", "--spans", "4", "--anchor-every", "2"]);
    assert_eq!((&made["made"][0]["from"], &made["made"][0]["to"]), (&json!(4), &json!(8)));
    assert_eq!(made["made"][1]["to"], 8);
    assert_eq!(feed(&place, &["compact", "feed", "--spans", "4"])["made"], json!([]));
    assert_eq!(follow_once(&place, &[])["parts"], 1);
    let before = objects(&place, "feed/data");
    assert_eq!(
        feed(&place, &["prune", "feed"])["objects"],
        0,
        "all of it is younger than the grace time"
    );
    let pruned = feed(&place, &["prune", "feed", "--keep", "2", "--grace", "0s"]);
    assert_eq!(pruned["floor"], 3);
    assert_eq!(objects(&place, "feed/data"), before - pruned["objects"].as_u64().unwrap() as usize);
    let copied = feed(&place, &["mirror", "feed", "copy"]);
    assert_eq!((&copied["records"], &copied["missing"]), (&json!(9), &json!(0)));
    for address in ["feed", "copy"] {
        assert_eq!(feed(&place, &["verify", address])["problems"], json!([]), "{address}");
    }
    publish(&place, 0, &[]);
    assert_eq!(feed(&place, &["mirror", "feed", "copy"])["records"], 1);
    pulse(&place, &["follow", "copy", "mirrored", "--once", "-q"]).done();
    assert_step(&place, "mirrored", 0);
}

#[test]
fn damage_is_found_and_another_way_taken() {
    let place = nine();
    let damaged = fs::read_dir(place.path("feed/data")).unwrap().map(|entry| entry.unwrap().path());
    let damaged = damaged
        .min_by_key(|path| (!path.display().to_string().contains("00000008-"), path.clone()))
        .unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let run = pulse(&place, &["feed", "verify", "feed", "--json"]);
    assert_eq!(run.failure_beside()["kind"], "data");
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["problems"][0]["kind"], "data");
    assert_eq!(report["problems"].as_array().unwrap().len(), 1);
    // The newest version cannot be reached: the one before can, unless that is too old.
    let event = pulse(&place, &["follow", "feed", "served", "--once", "--json"]).done();
    assert!(
        event.lines().any(|line| line.contains("\"refused\"") && line.contains("SHA-256")),
        "{event}"
    );
    assert_step(&place, "served", 7);
    let late = pulse(&place, &["follow", "feed", "other", "--once", "--max-lag", "0", "--json"]);
    assert_eq!(late.code, Some(1));
    assert!(late.err.contains("1 behind the newest"), "{}", late.err);
}
