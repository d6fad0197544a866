//! Small checkpoints on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use testkit::files::{data, header, raw, tensor, Tensor};

/// Files of a directory by their names.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// The regular files of a directory and of those below it, or a file, which then has no name.
pub fn snapshot(path: &Path) -> Contents {
    if path.is_file() {
        return [(String::new(), fs::read(path).expect("a file"))].into();
    }
    let mut found = Contents::new();
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(path.join(&below)).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().expect("names of ours are UTF-8");
            let name = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.path().is_file() {
                found.insert(name, fs::read(entry.path()).expect("a file of ours"));
            } else if entry.path().is_dir() {
                open.push(name);
            }
        }
    }
    found
}

/// Writes a directory as `snapshot` gave it, or one file, in the place of whatever is there.
pub fn write(path: &Path, files: &Contents) {
    let _ = fs::remove_dir_all(path);
    let _ = fs::remove_file(path);
    if let (1, Some(bytes)) = (files.len(), files.get("")) {
        return fs::write(path, bytes).expect("a file");
    }
    fs::create_dir(path).expect("a directory");
    for (name, bytes) in files {
        fs::write(path.join(name), bytes).expect("a file");
    }
}

/// A tensor of a few bytes, all of which follow from `version`.
pub fn small(name: &str, bytes: u8, version: u8) -> Tensor {
    let bytes: Vec<u8> = (0..bytes).map(|at| at.wrapping_mul(37) ^ (version << (at % 3))).collect();
    tensor(name, "U8", &[bytes.len() as u64], bytes)
}

/// A safetensors file with a note in its header, so that headers differ too.
pub fn tensor_file(tensors: &[Tensor], note: u8) -> Vec<u8> {
    let note = format!(r#""__metadata__":{{"note":"{note}"}}"#);
    raw(&header(tensors, &[&note]), &data(tensors))
}

/// An index that says which file each of these tensors is in.
pub fn index(places: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<String> =
        places.iter().map(|(name, file)| format!("{}:{}", json(name), json(file))).collect();
    format!(r#"{{"metadata":{{}},"weight_map":{{{}}}}}"#, entries.join(",")).into_bytes()
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}
