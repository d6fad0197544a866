//! Documents name files and link to pages; all of them exist.

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// Every Markdown file of the repository that is kept by hand.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![repository()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                let made = name == "target"
                    || name == ".git"
                    || name == "node_modules"
                    || name == "corpus";
                if !made && !path.is_symlink() {
                    open.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text outside fenced blocks: those are run, not read.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let outside = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// What stands between two marks, each time.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(open) {
        let Some((inside, later)) = after.split_once(close) else { break };
        found.push(inside);
        rest = later;
    }
    found
}

/// Folders of the repository whose files documents name by their path from the root.
const FOLDERS: [&str; 13] = [
    ".ci",
    ".github",
    "cli",
    "conformance",
    "docs",
    "examples",
    "fuzz",
    "scripts",
    "src",
    "testkit",
    "tests",
    "testvectors",
    "tools",
];

/// Made by commands that the documents describe.
const MADE: [&str; 3] = ["fuzz/corpus", "fuzz/artifacts", "fuzz/target"];

/// Whether a code span is a path from the root, and nothing else.
fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let first = span.split('/').next().unwrap_or("");
    span.contains('/') && FOLDERS.contains(&first) && span.chars().all(plain)
}

#[test]
fn every_path_that_a_document_names_exists() {
    let (mut named, mut missing) = (0, Vec::new());
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for span in between(&text, "`", "`").into_iter().filter(|span| is_path(span)) {
            let made = MADE.iter().any(|made| span.starts_with(made));
            named += 1;
            if !made && !repository().join(span).exists() {
                missing.push(format!("{}: `{span}`", document.display()));
            }
        }
    }
    assert!(named > 40, "only {named} paths were recognised");
    assert!(missing.is_empty(), "there is no such file:\n{}", missing.join("\n"));
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let (mut followed, mut broken) = (0, Vec::new());
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for link in between(&text, "](", ")") {
            let path = link.split('#').next().unwrap_or("");
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            if !document.parent().unwrap().join(path).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(followed > 30, "only {followed} links were recognised");
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
}
