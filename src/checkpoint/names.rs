//! The names of the tensors of a directory (SPEC.md §9).

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::safetensors::FileHeader;
use crate::checkpoint::tree::join;

/// What the names of tensors depend on beside the headers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// For each directory with an index, the file that it gives each name of a header.
    pub indexes: BTreeMap<String, BTreeMap<String, String>>,
    /// For each tensor file, the directory whose tensors are named together.
    pub homes: BTreeMap<String, String>,
}

impl Names {
    fn home(&self, file: &str) -> &str {
        self.homes.get(file).map_or("", String::as_str)
    }

    fn leads(&self, home: &str, tensor: &str, file: &str) -> bool {
        let map = self.indexes.get(home);
        map.and_then(|map| map.get(tensor)).is_some_and(|named| named == file)
    }

    /// Names of all tensors of the indexes.
    pub fn indexed(&self) -> impl Iterator<Item = String> + '_ {
        self.indexes.iter().flat_map(|(home, map)| map.keys().map(|tensor| join(home, tensor)))
    }
}

/// Two tensors of a directory that would have one name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SameTensor {
    pub tensor: String,
    /// Number of one of the files.
    pub file: usize,
    /// Number of the other; the same if one file has both.
    pub other: usize,
}

/// Gives each tensor of these files its name in the checkpoint: the name of its directory before the
/// one in the header. A name that stands in several files is that of the tensor to which the index
/// leads; any other one is named with its file, so that it is a tensor as all are.
pub(crate) fn name_tensors(
    files: &mut [(&str, &mut FileHeader)],
    by: &Names,
) -> Result<(), SameTensor> {
    for (_, header) in files.iter_mut() {
        header.set_prefixes(|_| "");
    }
    // Of each name the file that has it, and of those in several files the one that the index names.
    let mut owners: HashMap<(&str, String), usize> = HashMap::new();
    let mut twice: BTreeMap<(&str, String), (usize, usize)> = BTreeMap::new();
    for (number, (file, header)) in files.iter().enumerate() {
        let home = by.home(file);
        for tensor in &header.tensors {
            let key = (home, tensor.name.clone());
            let Some(owner) = owners.get_mut(&key) else {
                owners.insert(key, number);
                continue;
            };
            twice.entry(key).or_insert((number, *owner));
            if by.leads(home, &tensor.name, file) {
                *owner = number;
            }
        }
    }
    for (key, &(file, other)) in &twice {
        let (home, tensor) = key;
        if !by.leads(home, tensor, files[owners[key]].0) {
            return Err(SameTensor { tensor: join(home, tensor), file, other });
        }
    }
    for (number, (file, header)) in files.iter_mut().enumerate() {
        let home = by.home(file);
        header.set_prefixes(|tensor| {
            let key = (home, tensor.to_string());
            if twice.contains_key(&key) && owners[&key] != number {
                file
            } else {
                home
            }
        });
    }
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (number, (_, header)) in files.iter().enumerate() {
        for tensor in &header.tensors {
            if let Some(other) = names.insert(&tensor.name, number) {
                return Err(SameTensor { tensor: tensor.name.clone(), file: number, other });
            }
        }
    }
    Ok(())
}
