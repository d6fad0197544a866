//! What is printed of feeds for programs is what docs/report-json.md says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Value};

use super::{keygen, publish, scene, Live};
use crate::inspect::{check_type, paths};
use crate::pulse;
use crate::reports::{document, rows};

/// Whether these values have the fields that are documented under the heading, and no others.
#[track_caller]
fn check(document: &str, heading: &str, values: &[Value]) {
    let documented: BTreeMap<String, (String, bool)> = rows(document, heading)
        .into_iter()
        .map(|row| {
            (row[0].trim_end_matches('`').to_string(), (row[1].to_string(), row[2] == "never"))
        })
        .collect();
    let mut found = BTreeSet::new();
    for value in values {
        paths(value, "", &mut found);
        for (field, (kind, never)) in &documented {
            check_type(value, field, kind, *never);
        }
    }
    assert!(!values.is_empty() && found.iter().eq(documented.keys()), "{heading}: {found:?}");
}

#[cfg(unix)]
#[test]
fn every_report_of_a_feed_has_the_fields_that_are_documented_and_no_others() {
    let document = document();
    let place = scene(6);
    let key = keygen(&place, "key");
    let signed = ["--key", "key", "--anchor-every", "2", "--keep", "1"];
    let mut published: Vec<_> = (0..4).map(|step| publish(&place, step, &signed)).collect();
    // It promises nothing, so that it is late at once.
    published.push(publish(&place, 4, &[&signed[..], &["--expires", "0s"]].concat()));
    assert!(published.iter().any(|version| version["pruned"].is_object()), "{published:?}");
    let exec = [
        "follow",
        "feed",
        "served",
        "--trust",
        &key,
        "--exec",
        "true",
        "--max-lag",
        "0",
        "--poll",
        "10ms",
    ];
    let mut live = Live::start(&place, &[&exec[..], &["--metrics", "127.0.0.1:0"]].concat());
    let mut events = BTreeMap::<String, Vec<Value>>::new();
    let mut until = |live: &mut Live, name: &str| loop {
        let event = live.line();
        let found = event["event"].as_str().unwrap().to_string();
        events.entry(found.clone()).or_default().push(event);
        if found == name {
            break;
        }
    };
    until(&mut live, "waiting");
    // Two records at once put it behind.
    published.push(publish(&place, 5, &[&signed[..2], &["--end"]].concat()));
    until(&mut live, "ended");
    drop(live);
    for args in [&["--at", "4"][..], &["--once", "--at", "4"]] {
        let args = [&["follow", "feed", "served"], args].concat();
        let mut live = Live::start(&place, &args);
        until(&mut live, if args.contains(&"--once") { "already" } else { "switched" });
    }
    check(&document, "publish", &published);
    for (name, values) in &events {
        check(&document, &format!("follow: {name}"), values);
    }
    let names: Vec<&str> = events.keys().map(String::as_str).collect();
    for name in
        ["already", "ended", "executed", "expired", "following", "planned", "switched", "waiting"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    let run = |args: &[&str]| pulse(&place, &[&["feed"], args, &["--json"]].concat());
    check(&document, "feed log", run(&["log", "feed"]).json().as_array().unwrap());
    check(&document, "feed status", &[run(&["status", "feed"]).json()]);
    check(&document, "feed prune", &[run(&["prune", "feed"]).json()]);
    check(&document, "feed mirror", &[run(&["mirror", "feed", "copy"]).json()]);
    let made = ["compact", "feed", "--spans", "2", "--anchor-every", "1"];
    check(&document, "feed compact", &[run(&made).json()]);
    for entry in std::fs::read_dir(place.path("feed/data")).unwrap() {
        std::fs::write(entry.unwrap().path(), "").unwrap();
    }
    let verified = run(&["verify", "feed"]);
    assert_eq!(verified.failure_beside()["kind"], "data");
    check(&document, "feed verify", &[serde_json::from_str(&verified.out).unwrap()]);
    check(&document, "keygen", &[json!(pulse(&place, &["keygen", "key2", "--json"]).json())]);
}
