//! What says which tensors are where: the index of shards, and the list of the modules of a model.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::MapAccess;

use crate::checkpoint::json::{self, Object};
use crate::checkpoint::layout::is_hidden;
use crate::checkpoint::tree::{base, is_below};
use crate::error::FileFault;

const INDEX: &str = "model.safetensors.index.json";
pub(crate) const INDEX_SUFFIX: &str = ".safetensors.index.json";
const INDEX_BYTES_MAX: u64 = 100_000_000;
/// Where this is, each subdirectory with tensors is a part of the pipeline.
pub(crate) const PIPELINE: &str = "model_index.json";
/// Lists the subdirectories that are modules of a model.
pub(crate) const MODULES: &str = "modules.json";

/// An index: tensors, and the file that each is in. Further keys are ignored.
#[derive(Debug, Default)]
struct Index {
    weight_map: Option<WeightMap>,
}

impl<'de> Object<'de> for Index {
    const IS: &'static str = "an object with a weight_map";

    fn entry<A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "weight_map" => self.weight_map = Some(map.next_value()?),
            _ => json::skip(map, 1)?,
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct WeightMap(BTreeMap<String, String>);

impl<'de> Object<'de> for WeightMap {
    const IS: &'static str = "a weight_map, an object of file names";

    fn entry<A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        self.0.insert(key, map.next_value()?);
        Ok(())
    }
}

/// What an index says of each tensor: the file that it is in.
pub(crate) fn weight_map(index: &[u8]) -> Result<BTreeMap<String, String>, FileFault> {
    let index: Index = json::parse(index).map_err(FileFault::Index)?;
    let WeightMap(map) =
        index.weight_map.ok_or_else(|| FileFault::Index("it has no weight_map".into()))?;
    Ok(map)
}

/// A module of a model. Further keys are ignored.
#[derive(Debug, Default)]
struct Module {
    path: Option<String>,
}

impl<'de> Object<'de> for Module {
    const IS: &'static str = "an object with a path";

    fn entry<A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "path" => self.path = Some(map.next_value()?),
            _ => json::skip(map, 2)?,
        }
        Ok(())
    }
}

json::objects!(Index, WeightMap, Module);

/// What the root of a model says of its parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    /// Each subdirectory of tensors is one.
    pub is_pipeline: bool,
    /// Directories that are.
    pub modules: BTreeSet<String>,
}

impl Lists {
    /// Whether a subdirectory of tensors is a part.
    pub fn has(&self, directory: &str) -> bool {
        self.is_pipeline || self.modules.contains(directory)
    }

    /// The file by which something in a subdirectory, or a subdirectory, may be of a part.
    pub fn may_list(&self, name: &str) -> Option<&'static str> {
        let is_near = |module: &String| is_below(module, name) || is_below(name, module);
        if self.is_pipeline {
            Some(PIPELINE)
        } else {
            let mut modules = self.modules.iter().filter(|module| !module.is_empty());
            modules.any(is_near).then_some(MODULES)
        }
    }
}

/// The directories that a list of modules names; none if it is something else.
pub(crate) fn modules_of(list: &[u8]) -> BTreeSet<String> {
    let modules: Vec<Module> = json::parse(list).unwrap_or_default();
    let paths = modules.into_iter().filter_map(|module| module.path);
    paths.map(|path| plain(&path)).collect()
}

/// A path as loaders follow it: neither `.` nor a second `/` leads anywhere. One from the root of a file system stays.
fn plain(path: &str) -> String {
    if path.starts_with('/') {
        return path.into();
    }
    path.split('/').filter(|name| !matches!(*name, "" | ".")).collect::<Vec<_>>().join("/")
}

/// Whether a companion says which tensors are where: an index, or in a model of several parts what
/// lists them.
pub(crate) fn leads_to_tensors(name: &str, has_parts: bool) -> bool {
    is_index(name) || has_parts && (name == PIPELINE || name == MODULES)
}

/// Whether a file is an index, by its name or path.
pub(crate) fn is_index(name: &str) -> bool {
    let name = base(name);
    name.ends_with(INDEX_SUFFIX) && !is_hidden(name)
}

/// The index file among the names of a directory: the usual one, or the only one.
pub(crate) fn index_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let mut indexes = names.filter(|name| is_index(name));
    indexes.clone().find(|name| *name == INDEX).or_else(|| {
        let first = indexes.next();
        first.filter(|_| indexes.next().is_none())
    })
}

/// Refuses an index that is larger than any header may be, before it is held in memory.
pub(crate) fn check_index_bytes(bytes: u64) -> Result<(), FileFault> {
    if bytes > INDEX_BYTES_MAX {
        let what = format!("{bytes} bytes or more; at most {INDEX_BYTES_MAX} are read");
        return Err(FileFault::Index(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_modules_names_directories_or_nothing() {
        let list = br#"[{"idx":0,"path":""},{"idx":1,"path":"1_Pooling","type":{"a":[1]}},{}]"#;
        assert_eq!(modules_of(list), ["", "1_Pooling"].map(String::from).into());
        for other in [&b"{}"[..], b"[1]", br#"[{"path":1}]"#, br#"[{"path":"a","path":"b"}]"#, b""]
        {
            assert_eq!(modules_of(other), BTreeSet::new());
        }
    }

    #[test]
    fn the_usual_index_or_the_only_one_counts() {
        let a = "a.safetensors.index.json";
        let b = "b.safetensors.index.json";
        let hidden = "._b.safetensors.index.json";
        for (names, index) in [
            (vec![], None),
            (vec![a], Some(a)),
            (vec![a, b], None),
            (vec![a, INDEX, b], Some(INDEX)),
            (vec![hidden, a], Some(a)),
        ] {
            assert_eq!(index_of(names.iter().copied()), index, "{names:?}");
        }
    }
}
