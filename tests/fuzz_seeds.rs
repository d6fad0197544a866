//! The bodies of the fuzz targets over their seeds and over the test vectors.

#[path = "../fuzz/src/lib.rs"]
mod bodies;

use std::fs;
use std::path::Path;

/// Runs a body over every file of a directory; gives back how many there were.
fn run(body: fn(&[u8]), directory: &str) -> usize {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in &paths {
        // Shown if the body panics.
        println!("{}", path.display());
        body(&fs::read(path).unwrap());
    }
    paths.len()
}

#[test]
fn decode_seeds_are_refused_or_right() {
    assert!(run(bodies::decode, "fuzz/seeds/decode") > 0);
}

#[test]
fn roundtrip_seeds_come_back() {
    assert!(run(bodies::roundtrip, "fuzz/seeds/roundtrip") > 0);
}

#[test]
fn chunking_seeds_read_the_same_in_any_chunks() {
    assert!(run(bodies::chunking, "fuzz/seeds/chunking") > 0);
}

#[test]
fn vectors_hold_under_every_body() {
    for directory in ["testvectors/good", "testvectors/malformed"] {
        for body in [bodies::decode, bodies::roundtrip, bodies::chunking] {
            assert!(run(body, directory) > 0);
        }
    }
}
