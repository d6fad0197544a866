//! Every rule of FEED.md that a test can hold has one that carries its number.

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The numbers between this text and one of the characters that may end them.
fn numbers(text: &str, before: &str, ends: &[char]) -> BTreeSet<u32> {
    let found = text.split(before).skip(1);
    found.filter_map(|rest| rest.split(ends).next()?.parse().ok()).collect()
}

#[test]
fn every_rule_has_a_test_and_every_test_a_rule() {
    let rules = numbers(&read("../FEED.md"), "- [F", &[']']);
    let mut tests = BTreeSet::new();
    for directory in ["src", "tests/feed"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for line in text.lines().filter(|line| line.trim_start().contains("fn f")) {
                let name = line.split("fn ").nth(1).unwrap_or_default();
                let parts = name.split('_').map_while(|part| part.strip_prefix('f'));
                tests.extend(parts.filter_map(|number| number.parse::<u32>().ok()));
            }
        }
    }
    assert_eq!(rules, (1..=38).collect(), "the numbers of FEED.md have no gap");
    let without: Vec<_> = rules.difference(&tests).collect();
    assert!(without.is_empty(), "no test for {without:?}");
    assert!(tests.is_subset(&rules), "tests of no rule: {:?}", tests.difference(&rules));
}

#[test]
fn every_kind_of_error_is_in_the_table() {
    let feed = read("../FEED.md");
    let table = feed.split("## 9 Errors").nth(1).unwrap().split("## 10").next().unwrap();
    let in_table: BTreeSet<&str> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            let cell = line.split('|').nth(1).unwrap_or_default();
            cell.split('`').skip(1).step_by(2).collect::<Vec<_>>()
        })
        .collect();
    // After a requirement: the kinds with which it refuses.
    for kind in feed.split("(`").skip(1).filter_map(|rest| rest.split('`').next()) {
        let is_kind = kind.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(!is_kind || in_table.contains(kind), "`{kind}` is not in the table of §9");
    }
    let code = read("src/error.rs");
    for kind in &in_table {
        assert!(code.contains(&format!("\"{kind}\"")), "`{kind}` is no kind of the library");
    }
}
