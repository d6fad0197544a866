//! What was done, for programs: as docs/report-json.md describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use pulse::checkpoint::{Deviation, Reason};
use serde_json::Value;

use crate::inspect::{check_type, paths};
use crate::{pulse, scene};
use testkit::files::{safetensors, Files};

pub(crate) fn document() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/report-json.md")).unwrap()
}

/// Rows of the table under a heading: the cells of each.
pub(crate) fn rows<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = document.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.trim_end_matches(" |").splitn(4, " | ").collect()).collect()
}

#[test]
fn every_report_has_the_fields_that_are_documented_and_no_others() {
    let document = document();
    let place = scene();
    let files = |config: &str, tensors: &[_]| {
        Files::many([
            ("model.safetensors", safetensors(tensors)),
            ("config.json", config.into()),
            (".env", b"KEY=1".to_vec()),
        ])
    };
    place.put("from", &files("{}", &crate::model()));
    place.put("to", &files("{\"a\":1}", &crate::target()));
    fs::write(place.path("from/gone.json"), "[]").unwrap();
    let run = |args: &[&str]| pulse(&place, &[args, &["--json"]].concat()).json();
    let diffs = [
        &["diff", "from", "to", "-o", "p"][..],
        &["diff", "from", "to", "-o", "f", "--coding", "flat"],
    ]
    .map(run);
    fs::write(place.path("from/own.json"), "[]").unwrap();
    let reports: [(&[&str], Vec<Value>); 8] = [
        (&["diff"], diffs.to_vec()),
        (&["apply"], vec![run(&["apply", "from", "p", "-o", "out"])]),
        (&["revert"], vec![run(&["revert", "to", "f", "-o", "back"])]),
        (&["compose"], vec![run(&["compose", "f", "-o", "composed"])]),
        (&["verify"], vec![run(&["verify", "p", "--base", "from", "--target", "to"])]),
        (&["digest"], vec![run(&["digest", "from"])[0].clone()]),
        (&["apply", "apply --in-place"], vec![run(&["apply", "from", "p", "--in-place"])]),
        (&["recover"], vec![run(&["recover", "from"])]),
    ];
    for (headings, values) in reports {
        let documented: BTreeMap<String, (String, bool)> = headings
            .iter()
            .flat_map(|heading| rows(&document, heading))
            .map(|row| {
                let field = row[0].trim_end_matches('`').to_string();
                (field, (row[1].to_string(), row[2] == "never"))
            })
            .collect();
        let mut found = BTreeSet::new();
        for value in &values {
            paths(value, "", &mut found);
            for (field, (kind, never)) in &documented {
                check_type(value, field, kind, *never);
            }
        }
        // Entries of notes are described once.
        found.retain(|path| headings[0] == "apply" || !path.starts_with("notes[]"));
        assert!(found.iter().eq(documented.keys()), "{headings:?}: {found:?}");
    }
}

#[test]
fn every_word_of_a_report_is_documented() {
    let document = document();
    let notes: Vec<&str> = document.split_once("\n## Notes\n").unwrap().1.lines().collect();
    for deviation in [
        Deviation::Missing,
        Deviation::Own,
        Deviation::OwnTensors,
        Deviation::Made,
        Deviation::Removed,
        Deviation::Stays,
        Deviation::LeftBehind,
        Deviation::Extra,
    ] {
        let row = format!("| `{}` |", deviation.name());
        assert!(notes.iter().any(|line| line.starts_with(&row)), "{row}");
    }
    let reasons = document.lines().find(|line| line.starts_with("| `left_out[].reason`")).unwrap();
    for reason in [
        Reason::NotAFile,
        Reason::Hidden,
        Reason::TrainerState,
        Reason::Key,
        Reason::OfPulse,
        Reason::Below,
        Reason::TooMany,
        Reason::NotInIndex,
        Reason::StaleIndex,
        Reason::Unreadable,
        Reason::Name,
        Reason::NotPortable,
        Reason::Excluded,
    ] {
        assert!(reasons.contains(&format!("`{}`", reason.name())), "{reason:?}");
    }
}
