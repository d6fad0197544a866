//! The modules of the library are layers: each uses only those below it, so there is no circle.
//! This reads the source, and fails where an arrow is turned round.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A module may use those before it, and nothing after.
const LAYERS: [&str; 24] = [
    // Values and errors.
    "tag",
    "digest",
    "error",
    "limits",
    // Bytes.
    "varint",
    "parse",
    "bits",
    "packed",
    // Elements.
    "word",
    "dtype",
    "places",
    "changes",
    "hash",
    // Blocks, sections, streams.
    "coding",
    "wire",
    "stream",
    // Patches and tensors, in parallel.
    "disk",
    "patch",
    "tensors",
    // Checkpoints in files.
    "checkpoint",
    "chain",
    "update",
    "measure",
    // The crate page and the names at the root.
    "lib",
];

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == module)
}

/// All files of the library.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules that a source names as `crate::module`, outside its tests and comments; names at the
/// root, such as `crate::Limits`, as "lib".
fn used(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    let mut found = BTreeSet::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, prefix) in line.match_indices("crate::") {
            let rest = &line[at + prefix.len()..];
            let word: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(if rank(&word).is_some() { word } else { format!("lib ({word})") });
        }
    }
    found
}

/// Arrows that point up, as "file uses module".
fn wrong_arrows(root: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for path in sources(root) {
        let inside = path.strip_prefix(root).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = rank(module) else {
            wrong.push(format!("{} is in no layer: add it to LAYERS", inside.display()));
            continue;
        };
        met.insert(module.to_string());
        // Test modules are not shipped, and may look at everything.
        if inside.file_name().is_some_and(|name| name == "tests.rs" || name == "faults.rs") {
            continue;
        }
        for name in used(&fs::read_to_string(&path).unwrap()) {
            let target = rank(name.split(' ').next().unwrap_or("")).unwrap_or(LAYERS.len());
            if target > own {
                wrong.push(format!("{} uses {name}, which is not below it", inside.display()));
            }
        }
    }
    for layer in LAYERS {
        if !met.contains(layer) {
            wrong.push(format!("there is no module {layer}"));
        }
    }
    wrong
}

#[test]
fn each_layer_uses_only_those_below_it() {
    let wrong = wrong_arrows(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_arrow_that_is_turned_round_is_found() {
    let place = tempfile::tempdir().unwrap();
    for layer in LAYERS {
        let text = match layer {
            "stream" => "use crate::wire::{Footer, Header};\n",
            // Below stream.
            "coding" => {
                "// crate::update\nfn f() -> crate::stream::Encoder {}\n#[cfg(test)]\nmod tests {\nuse crate::chain;\n}"
            }
            "hash" => "use crate::Limits;\n",
            _ => "",
        };
        fs::write(place.path().join(format!("{layer}.rs")), text).unwrap();
    }
    let mut wrong = wrong_arrows(place.path());
    wrong.sort();
    assert_eq!(
        wrong,
        [
            "coding.rs uses stream, which is not below it",
            "hash.rs uses lib (Limits), which is not below it"
        ]
    );
}
