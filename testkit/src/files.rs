//! Checkpoints made by hand, and a place on disk to try them in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

/// A tensor as a safetensors file holds it.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

pub fn tensor(name: &str, dtype: &str, shape: &[u64], bytes: impl Into<Vec<u8>>) -> Tensor {
    Tensor { name: name.into(), dtype: dtype.into(), shape: shape.into(), bytes: bytes.into() }
}

/// A safetensors file of this JSON and this data, right or wrong.
pub fn raw(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
}

/// The JSON object of a header: tensors in this order, then any further entries.
pub fn header(tensors: &[Tensor], more: &[&str]) -> String {
    let mut begin = 0;
    let mut entries: Vec<String> = Vec::new();
    for Tensor { name, dtype, shape, bytes } in tensors {
        let end = begin + bytes.len();
        let (name, dtype) = (json!(name), json!(dtype));
        entries.push(format!(
            r#"{name}:{{"dtype":{dtype},"shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
        begin = end;
    }
    entries.extend(more.iter().map(ToString::to_string));
    format!("{{{}}}", entries.join(","))
}

pub fn data(tensors: &[Tensor]) -> Vec<u8> {
    tensors.iter().flat_map(|tensor| &tensor.bytes).copied().collect()
}

/// A plain safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    raw(&header(tensors, &[]), &data(tensors))
}

/// A checkpoint: one file, or a directory of named files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    One(Vec<u8>),
    Many(BTreeMap<String, Vec<u8>>),
}

impl Files {
    pub fn one(tensors: &[Tensor]) -> Files {
        Files::One(safetensors(tensors))
    }

    pub fn many<const N: usize>(files: [(&str, Vec<u8>); N]) -> Files {
        Files::Many(files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect())
    }

    pub fn write(&self, path: &Path) {
        match self {
            Files::One(bytes) => fs::write(path, bytes).unwrap(),
            Files::Many(files) => {
                fs::create_dir(path).unwrap();
                for (name, bytes) in files {
                    let file = path.join(name);
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(file, bytes).unwrap();
                }
            }
        }
    }

    pub fn read(path: &Path) -> Files {
        if !path.is_dir() {
            return Files::One(fs::read(path).unwrap());
        }
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            match Files::read(&entry.path()) {
                Files::One(bytes) => _ = files.insert(name, bytes),
                Files::Many(below) => {
                    files.extend(
                        below.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)),
                    );
                }
            }
        }
        Files::Many(files)
    }

    fn by_name(&self) -> BTreeMap<&str, &[u8]> {
        match self {
            Files::One(bytes) => [("", bytes.as_slice())].into(),
            Files::Many(files) => {
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
            }
        }
    }

    /// Panics with the names of the files that differ, not with their bytes.
    #[track_caller]
    pub fn assert_same(&self, expected: &Files) {
        let (found, expected) = (self.by_name(), expected.by_name());
        assert!(
            found.keys().eq(expected.keys()),
            "files {:?}, expected {:?}",
            found.keys(),
            expected.keys()
        );
        let differs: Vec<_> =
            found.iter().filter(|(name, bytes)| expected[*name] != **bytes).collect();
        assert!(
            differs.is_empty(),
            "not the same: {:?}",
            differs.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
}

/// A temporary directory.
#[derive(Debug)]
pub struct Place(TempDir);

impl Place {
    #[allow(clippy::new_without_default)] // makes a directory
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn put(&self, name: &str, files: &Files) -> PathBuf {
        let path = self.path(name);
        files.write(&path);
        path
    }

    pub fn put_bytes(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Everything in the place: files with their bytes, directories with none.
    pub fn contents(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.root().to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    found.insert(path.clone(), None);
                    open.push(path);
                } else {
                    found.insert(path.clone(), Some(fs::read(path).unwrap()));
                }
            }
        }
        found
    }

    /// Runs `work`, which must leave everything in the place as it was.
    #[track_caller]
    pub fn untouched<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.contents();
        let result = work();
        let after = self.contents();
        assert!(before.keys().eq(after.keys()), "{:?} became {:?}", before.keys(), after.keys());
        assert!(before == after, "a file was changed");
        result
    }
}

/// Bytes without a pattern, the same on every run.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

/// BF16 weights between 2^-8 and 1, as a model has them.
pub fn weights(seed: u64, elements: usize) -> Vec<u8> {
    let bits =
        |pair: &[u8]| [pair[0], if pair[1] & 0x80 == 0 { 0x3c } else { 0xbc } + (pair[1] & 3)];
    noise(seed, 2 * elements).chunks(2).flat_map(bits).collect()
}

/// The same with the lowest bit flipped in every `every`-th element of `width` bytes.
pub fn stepped(bytes: &[u8], width: usize, every: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.chunks_mut(width).step_by(every).for_each(|element| element[0] ^= 1);
    bytes
}
