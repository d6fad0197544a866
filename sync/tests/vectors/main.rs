//! The feeds of `testvectors/feed`: what every reader of FEED.md must make of them, and refuse.
//!
//! With `PULSE_WRITE_VECTORS` in the environment the directory is written again, from nothing but this
//! source.

mod documents;
mod feeds;
mod follow;
mod good;
mod refused;
mod vector;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use feeds::feeds;
use vector::{Expected, Vector};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testvectors/feed")
}

fn vectors() -> Vec<Vector> {
    let feeds = feeds();
    good::vectors(&feeds).into_iter().chain(refused::vectors(&feeds)).collect()
}

/// Every file of the directory that is generated, by its path there.
fn generated() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut add = |path: String, bytes: Vec<u8>| {
        let before = files.insert(path.clone(), bytes.clone());
        assert!(before.is_none_or(|before| before == bytes), "{path} would hold two things");
    };
    for (feed, objects) in feeds() {
        for (name, bytes) in objects {
            add(format!("feeds/{feed}/{name}"), bytes);
        }
    }
    let vectors = vectors();
    for vector in &vectors {
        for (name, bytes) in &vector.changes {
            add(format!("changes/{}/{name}", vector.name), bytes.clone());
        }
        vector.held_file().into_iter().for_each(|(path, bytes)| add(path, bytes));
    }
    let rows: Vec<String> = vectors.iter().map(Vector::row).collect();
    add("manifest.json".into(), format!("[\n{}\n]\n", rows.join(",\n")).into_bytes());
    files
}

fn committed() -> BTreeMap<String, Vec<u8>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![directory()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(directory()).unwrap().components();
            let parts: Vec<_> = below.map(|part| part.as_os_str().to_str().unwrap()).collect();
            files.insert(parts.join("/"), fs::read(&path).unwrap());
        }
    }
    files.remove("README.md");
    files
}

fn write(files: &BTreeMap<String, Vec<u8>>) {
    for folder in ["feeds", "changes", "held"] {
        // A vector that was renamed must not stay behind.
        let _ = fs::remove_dir_all(directory().join(folder));
    }
    for (path, bytes) in files {
        let path = directory().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn the_generator_writes_what_is_committed() {
    let generated = generated();
    if std::env::var_os("PULSE_WRITE_VECTORS").is_some() {
        write(&generated);
    }
    let committed = committed();
    assert!(committed.keys().eq(generated.keys()), "files come or go: write them again");
    for (path, bytes) in &generated {
        assert!(*bytes == committed[path], "{path} differs: write it again");
    }
    let size: usize = committed.values().map(Vec::len).sum();
    assert!(size < 300_000, "{size} bytes are too many for a repository");
}

#[test]
fn the_follower_makes_and_refuses_what_the_vectors_say() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let mut misses = Vec::new();
    for vector in vectors() {
        let outcome = runtime.block_on(follow::follow(&vector));
        let is_right = match (&vector.expected, &outcome.end) {
            (Expected::Version { version, digest }, Ok(made)) => {
                (*version, digest) == (made.0, &made.1)
                    && vector.says == outcome.says
                    && vector.way.as_ref().is_none_or(|way| *way == outcome.way)
            }
            (Expected::Refusal(kinds), Err(kind)) => kinds.contains(kind),
            _ => false,
        };
        if !is_right {
            let (name, expected) = (vector.name, &vector.expected);
            misses.push(format!("{name}: expected {expected:?}, {outcome:?}"));
        }
        // Whatever happens, a mark never goes back (F28).
        if let (Some(before), Some(after)) = (&vector.mark, outcome.mark) {
            assert!(after.version >= before.version, "{}: the mark went back", vector.name);
        }
    }
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn vectors_have_names_of_their_own_and_rules_that_exist() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../FEED.md"));
    let (text, mut names) = (text.unwrap(), BTreeSet::new());
    for vector in vectors() {
        assert!(names.insert(vector.name), "{} occurs twice", vector.name);
        assert!(vector.shows.ends_with('.'), "{}", vector.name);
        for rule in vector.rules.split(' ') {
            assert!(text.contains(&format!("[{rule}]")), "{}: no {rule}", vector.name);
        }
    }
}
