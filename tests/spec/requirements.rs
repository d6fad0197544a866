//! Every requirement of SPEC.md is tied to a vector or to a test that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Requirements that nothing here can break or keep, and why.
const BOUND_BY_NOTHING: [(u32, &str); 1] =
    [(60, "a permission: where a file breaks several rules, a reader may name any one of them")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Numbers after a letter R that begins a word, as in R12.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.strip_prefix('R').and_then(|number| number.parse().ok()))
        .collect()
}

/// The requirements that SPEC.md states, each in brackets.
fn requirements() -> Vec<u32> {
    let spec = read(&root().join("SPEC.md"));
    let bracketed = |part: &str| part.split_once(']').map(|(inside, _)| inside.to_string());
    let stated = spec.split("[R").skip(1).filter_map(|part| bracketed(part)?.parse().ok());
    stated.collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                found.push(path)
            }
            false => {}
        }
    }
}

/// What each test of a source file says of itself: its name, and the comment above it.
fn tests(source: &str) -> Vec<(String, String)> {
    let (mut found, mut comment, mut is_test) = (Vec::new(), String::new(), false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment.push_str(text);
        } else if line == "#[test]" {
            is_test = true;
        } else if !line.starts_with("#[") {
            if let (true, Some(rest)) = (is_test, line.strip_prefix("fn ")) {
                let name = rest.split('(').next().unwrap_or(rest);
                found.push((name.to_string(), std::mem::take(&mut comment)));
            }
            (comment, is_test) = (String::new(), false);
        }
    }
    found
}

/// For each requirement, the vectors and tests that name it.
fn covered() -> BTreeMap<u32, BTreeSet<String>> {
    let mut covered: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let manifest: Value =
        serde_json::from_str(&read(&root().join("testvectors/manifest.json"))).expect("JSON");
    for row in
        ["good", "malformed"].iter().flat_map(|list| manifest[list].as_array().expect("a list"))
    {
        for number in numbers(&row["rules"].to_string()) {
            covered.entry(number).or_default().insert(row["name"].to_string());
        }
    }
    let mut paths = Vec::new();
    sources(&root().join("tests"), &mut paths);
    sources(&root().join("src"), &mut paths);
    for (name, comment) in paths.iter().flat_map(|path| tests(&read(path))) {
        for number in numbers(&comment) {
            covered.entry(number).or_default().insert(name.clone());
        }
    }
    covered
}

#[test]
fn requirements_are_numbered_once_and_without_gaps() {
    let mut stated = requirements();
    stated.sort_unstable();
    assert_eq!(stated, (1..=stated.len() as u32).collect::<Vec<_>>());
}

#[test]
fn every_requirement_is_named_by_a_vector_or_a_test() {
    let (stated, covered) = (BTreeSet::from_iter(requirements()), covered());
    let excused: BTreeSet<u32> = BOUND_BY_NOTHING.iter().map(|(number, _)| *number).collect();
    let by_nothing: BTreeSet<u32> =
        stated.iter().copied().filter(|number| !covered.contains_key(number)).collect();
    assert_eq!(
        by_nothing, excused,
        "left: what no vector and no test names; right: what is excused"
    );
    let unknown: Vec<_> = covered.iter().filter(|(number, _)| !stated.contains(number)).collect();
    assert!(unknown.is_empty(), "not in SPEC.md: {unknown:?}");
}
