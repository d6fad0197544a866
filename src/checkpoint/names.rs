//! The names of the tensors of a directory (SPEC.md §9).

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::safetensors::FileHeader;

/// Two tensors of a directory that would have one name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SameTensor {
    pub tensor: String,
    /// Number of one of the files.
    pub file: usize,
    /// Number of the other; the same if one file has both.
    pub other: usize,
}

/// Gives each tensor of these files its name in the checkpoint. A name that stands in several files
/// is that of the tensor to which the index leads; any other one is named with its file, so that it
/// is a tensor as all are.
pub(crate) fn name_tensors(
    files: &mut [(&str, &mut FileHeader)],
    index: &BTreeMap<String, String>,
) -> Result<(), SameTensor> {
    let named = |tensor: &str, file: &str| index.get(tensor).is_some_and(|named| named == file);
    for (file, header) in files.iter_mut() {
        header.qualify(file, |_| false);
    }
    // Of each name the file that has it, and of those in several files the one that the index names.
    let mut owners: HashMap<String, usize> = HashMap::new();
    let mut twice: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (number, (file, header)) in files.iter().enumerate() {
        for tensor in &header.tensors {
            let Some(owner) = owners.get_mut(&tensor.name) else {
                owners.insert(tensor.name.clone(), number);
                continue;
            };
            twice.entry(tensor.name.clone()).or_insert((number, *owner));
            if named(&tensor.name, file) {
                *owner = number;
            }
        }
    }
    for (tensor, (file, other)) in &twice {
        if !named(tensor, files[owners[tensor]].0) {
            return Err(SameTensor { tensor: tensor.clone(), file: *file, other: *other });
        }
    }
    for (number, (file, header)) in files.iter_mut().enumerate() {
        header.qualify(file, |tensor| twice.contains_key(tensor) && owners[tensor] != number);
    }
    if twice.is_empty() {
        return Ok(());
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
