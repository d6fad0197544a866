//! Writes `testvectors/`: golden files, and a manifest that says what each of them shows.
//!
//! `cargo run -p pulse-tools --bin testvectors` rewrites the directory from nothing but
//! this source and the two checkpoints of the real slice, to the same bytes every time; a test
//! compares. Compressed bytes depend on the version of zstd, which Cargo.lock pins.

mod contextual;
mod flat;
mod good;
mod malformed;
pub mod raw;
pub mod sample;
mod signs;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{json, Value};

use crate::checkpoint;
use good::{File, Good};

/// Names of limits, and what a reader of a vector sets them to.
pub type Limits = Vec<(&'static str, u64)>;

fn limits_json(limits: &Limits) -> Value {
    if limits.is_empty() {
        return Value::Null;
    }
    limits.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}

const REAL: [&str; 2] = ["real-base", "real-target"];

fn real(read: impl Fn(&str) -> Vec<u8>) -> [File; 2] {
    REAL.map(|name| File::of_bytes(name, read(&format!("checkpoints/{name}.safetensors"))))
}

/// Every file of the directory, by its path there; `read` gives a file that is committed.
pub fn files(read: impl Fn(&str) -> Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut add = |path: String, bytes: &[u8]| {
        let before = files.insert(path.clone(), bytes.to_vec());
        assert!(before.is_none_or(|before| before == bytes), "{path} would hold two things");
        json!(path)
    };
    let (mut good, mut malformed) = (Vec::new(), Vec::new());
    let at_defaults = good::vectors(real(read)).into_iter().map(|good| (good, Limits::new()));
    for (vector, limits) in at_defaults.chain(malformed::at_limits()) {
        let digest = |file: &File| json!(file.checkpoint().digest().to_string());
        let base = vector.base.as_ref();
        let exact = is_exact(&vector);
        good.push(manifest_row(&[
            ("name", json!(vector.name)),
            ("rules", json!(vector.rules.split(' ').collect::<Vec<_>>())),
            ("shows", json!(vector.shows)),
            ("file", add(format!("good/{}.pulse", vector.name), &vector.patch)),
            ("sha256", json!(raw::sha256(&vector.patch).to_string())),
            ("base", base.map_or(Value::Null, |base| add_checkpoint(base, &mut add))),
            ("target", add_checkpoint(&vector.target, &mut add)),
            ("exact", json!(exact)),
            ("base_digest", base.map_or(Value::Null, digest)),
            ("target_digest", digest(&vector.target)),
            ("limits", limits_json(&limits)),
        ]));
    }
    for vector in malformed::vectors() {
        malformed.push(manifest_row(&[
            ("name", json!(vector.name)),
            ("errors", json!(vector.errors)),
            ("rules", json!(vector.rules.split(' ').collect::<Vec<_>>())),
            ("shows", json!(vector.shows)),
            ("file", add(format!("malformed/{}.pulse", vector.name), &vector.patch)),
            ("sha256", json!(raw::sha256(&vector.patch).to_string())),
            (
                "base",
                vector.base.as_ref().map_or(Value::Null, |base| add_checkpoint(base, &mut add)),
            ),
            ("limits", limits_json(&vector.limits)),
            ("needs", json!(vector.needs)),
        ]));
    }
    let list = |rows: &[String]| rows.join(",\n");
    let manifest = format!(
        "{{\n  \"good\": [\n{}\n  ],\n  \"malformed\": [\n{}\n  ]\n}}\n",
        list(&good),
        list(&malformed)
    );
    files.insert("manifest.json".into(), manifest.into_bytes());
    files
}

/// A file of `testvectors/`.
pub fn read(path: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testvectors");
    fs::read(directory.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The tensors of a checkpoint of `testvectors/`, by the names that SPEC.md §9 gives those of a
/// directory. That the files have them, those who read directories find out.
pub fn tensors_of(path: &str) -> checkpoint::Checkpoint {
    static ALL: OnceLock<BTreeMap<String, checkpoint::Checkpoint>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let limited = malformed::at_limits().into_iter().map(|(good, _)| good);
        let vectors = good::vectors(real(read)).into_iter().chain(limited);
        let files = vectors.flat_map(|vector| vector.base.into_iter().chain([vector.target]));
        files.map(|file| (file.files().0, file.checkpoint())).collect()
    });
    let of_file = || {
        let is_file = path.ends_with(".safetensors");
        let file = if is_file { path.into() } else { format!("{path}/model.safetensors") };
        checkpoint::Checkpoint::from_file(&read(&file))
    };
    all.get(path).cloned().unwrap_or_else(of_file)
}

/// Adds the files of a checkpoint; gives its path.
fn add_checkpoint(checkpoint: &File, add: &mut impl FnMut(String, &[u8]) -> Value) -> Value {
    let (path, files) = checkpoint.files();
    for (path, bytes) in files {
        add(path, bytes);
    }
    json!(path)
}

/// Whether the patch says what the bytes of the target's files are: it lists them, or keeps those of the base.
fn is_exact(vector: &Good) -> bool {
    let mut decoder = pulse::Decoder::new(vector.patch.as_slice(), pulse::Limits::default());
    let mut lists_files = false;
    while let Some(event) = decoder.next_event().expect("a good patch") {
        lists_files |= matches!(event, pulse::Event::File(_));
    }
    let header = |file: &File| checkpoint::header_of(&file.bytes).to_vec();
    lists_files || vector.base.as_ref().is_some_and(|base| header(base) == header(&vector.target))
}

/// An object with its fields in the order given, which a JSON library would sort.
fn manifest_row(row: &[(&str, Value)]) -> String {
    let fields: Vec<String> =
        row.iter().map(|(key, value)| format!("      \"{key}\": {value}")).collect();
    format!("    {{\n{}\n    }}", fields.join(",\n"))
}
