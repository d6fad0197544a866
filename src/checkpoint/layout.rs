//! Which files of a directory belong to a checkpoint, and as what (SPEC.md §9).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer};

use crate::checkpoint::json::{self, Object};
use crate::checkpoint::portable::{folded, is_portable};
use crate::disk::content;
use crate::disk::stamp::Stamp;
use crate::error::{Error, FileFault, Result, Visible};
use crate::wire::{is_component, is_file_name};

const INDEX: &str = "model.safetensors.index.json";
pub(crate) const INDEX_SUFFIX: &str = ".safetensors.index.json";
const INDEX_BYTES_MAX: u64 = 100_000_000;
const TENSORS_SUFFIX: &str = ".safetensors";

/// State of a trainer: names that start with one of these, and end as a pickle does.
const TRAINER_STATE: [&str; 6] =
    ["optimizer", "scheduler", "rng_state", "random_states", "scaler", "training_args"];
const PICKLES: [&str; 5] = [".pt", ".pth", ".bin", ".pkl", ".ckpt"];

/// Something in a directory that does not belong to its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// Its name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// Why it does not belong.
    pub reason: Reason,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", Visible(&self.name), self.reason)
    }
}

/// Why something in a directory does not belong to its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A directory, a pipe, or a device.
    NotAFile,
    /// Its name starts with a dot.
    Hidden,
    /// Optimizer, scheduler or random state of a trainer, or its logs.
    TrainerState,
    /// A patch, or a file that an update keeps beside a checkpoint.
    OfPulse,
    /// A file of a subdirectory that the index does not lead to.
    Below,
    /// A safetensors file that the index does not lead to.
    NotInIndex,
    /// An index of shards of which none is there.
    StaleIndex,
    /// It cannot be opened, or is a link that leads nowhere.
    Unreadable,
    /// A name that a patch cannot carry.
    Name,
    /// A name that not every system can hold, or not beside another file of the checkpoint.
    NotPortable,
    /// Whoever opened the checkpoint did not want it.
    Excluded,
}

impl Reason {
    /// The reason as a word, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::NotAFile => "not-a-file",
            Reason::Hidden => "hidden",
            Reason::TrainerState => "trainer-state",
            Reason::OfPulse => "of-pulse",
            Reason::Below => "below",
            Reason::NotInIndex => "not-in-index",
            Reason::StaleIndex => "stale-index",
            Reason::Unreadable => "unreadable",
            Reason::Name => "name",
            Reason::NotPortable => "not-portable",
            Reason::Excluded => "excluded",
        }
    }

    /// Whether such a file may be a companion all the same: what travels is a choice of the writer,
    /// what a reader takes for tensors is not.
    fn is_choice(self) -> bool {
        matches!(
            self,
            Reason::Hidden | Reason::TrainerState | Reason::OfPulse | Reason::NotPortable
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotAFile => "not a regular file",
            Reason::Hidden => "hidden",
            Reason::TrainerState => "trainer state",
            Reason::OfPulse => "a file of pulse",
            Reason::Below => "in a subdirectory, and not in the index",
            Reason::NotInIndex => "tensors that the index does not lead to",
            Reason::StaleIndex => "an index of files that are not there",
            Reason::Unreadable => "cannot be read",
            Reason::Name => "a name that no patch can carry",
            Reason::NotPortable => "a name that not every system can hold",
            Reason::Excluded => "excluded",
        })
    }
}

/// A regular file of a directory as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub stamp: Stamp,
    pub bytes: u64,
}

/// The files of a directory by what they are to its checkpoint, each list in the order of names.
/// With each name goes what is known of the file.
#[derive(Debug)]
pub(crate) struct Layout<T> {
    pub tensors: Vec<(String, T)>,
    pub companions: Vec<(String, T)>,
    /// What is a companion only if someone wants it, and why.
    pub spare: Vec<(String, T, Reason)>,
    pub left_out: Vec<LeftOut>,
    /// What the index says of each tensor: the file that it is in.
    pub index: BTreeMap<String, String>,
}

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

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::object(deserializer)
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

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::object(deserializer)
    }
}

fn weight_map(index: &[u8]) -> Result<BTreeMap<String, String>, FileFault> {
    let index: Index = json::parse(index).map_err(FileFault::Index)?;
    let WeightMap(map) =
        index.weight_map.ok_or_else(|| FileFault::Index("it has no weight_map".into()))?;
    Ok(map)
}

impl Layout<Found> {
    /// Looks at a directory and reads its index.
    pub fn read(directory: &Path) -> Result<Self> {
        let (mut files, mut odd) = list(directory, "")?;
        let index = index_in(directory, &files, |name| {
            let path = directory.join(name);
            let io = |error| Error::io_at("reading", &path, error);
            check_index_bytes(fs::metadata(&path).map_err(io)?.len())
                .map_err(|fault| Error::bad_file(&path, fault))?;
            fs::read(&path).map_err(io)
        })?;
        let shards = index.iter().flat_map(|(_, map)| map.values());
        for below in directories_of(shards) {
            match fs::symlink_metadata(directory.join(below)) {
                Ok(found) if found.is_dir() => {}
                // What is below a link is another's: nothing there is read as of this checkpoint.
                Ok(found) if found.is_symlink() => {
                    let what =
                        format!("the index leads below '{below}', a link, which is not followed");
                    return Err(Error::bad_file(directory, FileFault::Refused(what)));
                }
                _ => continue,
            }
            let (found, left_out) = list(&directory.join(below), &format!("{below}/"))?;
            files.extend(found);
            odd.extend(left_out);
            odd.retain(|out| out.name != below);
        }
        let mut layout = Self::of_index(directory, files, index).map_err(|error| {
            match (error, content::look(directory)) {
                (Error::BadFile { fault: FileFault::NoTensors, .. }, Some(content)) => {
                    Error::bad_file(directory, FileFault::NoCheckpoint(content))
                }
                (other, _) => other,
            }
        })?;
        layout.left_out.extend(odd);
        Ok(layout)
    }
}

impl<T> Layout<T> {
    /// Tells what each of these files is in a directory that has no others.
    pub fn of(
        directory: &Path,
        files: BTreeMap<String, T>,
        read: impl FnOnce(&str) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let index = index_in(directory, &files, read)?;
        Self::of_index(directory, files, index)
    }

    fn of_index(
        directory: &Path,
        files: BTreeMap<String, T>,
        index: Option<(String, BTreeMap<String, String>)>,
    ) -> Result<Self> {
        let mut layout = Layout {
            tensors: Vec::new(),
            companions: Vec::new(),
            spare: Vec::new(),
            left_out: Vec::new(),
            index: BTreeMap::new(),
        };
        let mut shards: Option<BTreeSet<&String>> = None;
        let mut stale = None;
        let (index_name, map) = index.unzip();
        layout.index = map.unwrap_or_default();
        if let Some(name) = &index_name {
            let named: BTreeSet<&String> = layout.index.values().collect();
            let missing = named.iter().find(|shard| !files.contains_key(**shard));
            match missing.copied().or(named.is_empty().then_some(name)) {
                None => shards = Some(named),
                // Saved anew under other names; the old index was not removed.
                Some(_)
                    if !named.iter().any(|shard| files.contains_key(*shard))
                        && files.keys().any(|name| is_tensors(name) && !name.contains('/')) =>
                {
                    stale = Some(name)
                }
                Some(missing) => {
                    let fault = FileFault::MissingShard(missing.to_string());
                    return Err(Error::bad_file(directory, fault));
                }
            }
        }
        // Tensor files are there first: a companion that is one with them elsewhere gives way.
        let is_tensor_file = |name: &String| match &shards {
            Some(shards) => shards.contains(name),
            None => is_tensors(name) && !name.contains('/'),
        };
        let mut seen: HashSet<String> =
            files.keys().filter(|name| is_tensor_file(name)).map(|name| folded(name)).collect();
        for (name, found) in files {
            let role = match role(&name) {
                _ if shards.as_ref().is_some_and(|shards| shards.contains(&name)) => Role::Tensors,
                _ if name.contains('/') => Role::LeftOut(Reason::Below),
                Role::Tensors if shards.is_some() => Role::LeftOut(Reason::NotInIndex),
                _ if stale == Some(&name) => Role::LeftOut(Reason::StaleIndex),
                // A reader where case does not count would take it for tensors.
                _ if is_disguised(&name) => Role::LeftOut(Reason::Name),
                Role::Companion if !is_portable(&name) || !seen.insert(folded(&name)) => {
                    Role::LeftOut(Reason::NotPortable)
                }
                role => role,
            };
            match role {
                Role::Tensors => layout.tensors.push((name, found)),
                Role::Companion => layout.companions.push((name, found)),
                Role::LeftOut(reason) if reason.is_choice() => {
                    layout.spare.push((name, found, reason))
                }
                Role::LeftOut(reason) => layout.left_out.push(LeftOut { name, reason }),
            }
        }
        if layout.tensors.is_empty() {
            return Err(Error::bad_file(directory, FileFault::NoTensors));
        }
        if stale.is_some() {
            layout.index.clear();
        }
        Ok(layout)
    }
}

/// The index of a directory with these files, and what it says.
fn index_in<T>(
    directory: &Path,
    files: &BTreeMap<String, T>,
    read: impl FnOnce(&str) -> Result<Vec<u8>>,
) -> Result<Option<(String, BTreeMap<String, String>)>> {
    let Some(name) = index_of(files.keys().map(String::as_str)) else { return Ok(None) };
    let map = weight_map(&read(name)?);
    let map = map.map_err(|fault| Error::bad_file(&directory.join(name), fault))?;
    Ok(Some((name.to_string(), map)))
}

/// The subdirectories of these files, and those that lead there, each once; the outer one first.
fn directories_of<'a>(files: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let legal = files.filter(|name| is_file_name(name));
    legal.flat_map(|name| name.match_indices('/').map(|(end, _)| &name[..end])).collect()
}

/// The regular files of a directory by their names, and what else is in it; `before` goes before each
/// name.
fn list(directory: &Path, before: &str) -> Result<(BTreeMap<String, Found>, Vec<LeftOut>)> {
    let io = |error| Error::io_at("listing", directory, error);
    let (mut files, mut odd) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = match entry.file_name().into_string() {
            Ok(name) if is_component(&name) => format!("{before}{name}"),
            name => {
                let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
                if is_tensors(&name) && before.is_empty() {
                    return Err(Error::bad_file(directory, FileFault::Name(name)));
                }
                let name = format!("{before}{name}");
                odd.push(LeftOut { name, reason: Reason::Name });
                continue;
            }
        };
        // Follows links: model caches are directories of links.
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => {
                let found = Found { stamp: Stamp::of(&metadata), bytes: metadata.len() };
                files.insert(name, found);
            }
            Ok(_) => odd.push(LeftOut { name, reason: Reason::NotAFile }),
            Err(error) if is_tensors(&name) && before.is_empty() => {
                return Err(Error::io_at("opening", &entry.path(), error))
            }
            Err(_) => odd.push(LeftOut { name, reason: Reason::Unreadable }),
        }
    }
    Ok((files, odd))
}

/// The index file among the names of a directory: the usual one, or the only one.
fn index_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let mut indexes = names
        .filter(|name| name.ends_with(INDEX_SUFFIX) && !is_hidden(name) && !name.contains('/'));
    indexes.clone().find(|name| *name == INDEX).or_else(|| {
        let first = indexes.next();
        first.filter(|_| indexes.next().is_none())
    })
}

/// What a regular file is to a checkpoint whose index does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Tensors,
    Companion,
    LeftOut(Reason),
}

fn role(name: &str) -> Role {
    if is_hidden(name) {
        return Role::LeftOut(Reason::Hidden);
    }
    if is_tensors(name) {
        return Role::Tensors;
    }
    if name.ends_with(".pulse") || name.starts_with("pulse-update-") {
        return Role::LeftOut(Reason::OfPulse);
    }
    let is_state = TRAINER_STATE.iter().any(|start| name.starts_with(start))
        && PICKLES.iter().any(|end| name.ends_with(end));
    if is_state || name == "trainer_state.json" || name.starts_with("events.out.tfevents") {
        return Role::LeftOut(Reason::TrainerState);
    }
    Role::Companion
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Whether every reader takes a file of this name for tensors, where no index says otherwise.
fn is_tensors(name: &str) -> bool {
    name.ends_with(TENSORS_SUFFIX) && !is_hidden(name)
}

/// Refuses an index that is larger than any header may be, before it is held in memory.
pub(crate) fn check_index_bytes(bytes: u64) -> Result<(), FileFault> {
    if bytes > INDEX_BYTES_MAX {
        let what = format!("{bytes} bytes or more; at most {INDEX_BYTES_MAX} are read");
        return Err(FileFault::Index(what));
    }
    Ok(())
}

/// Whether a file is for tensors, or an index, only on a system where case does not count.
fn is_disguised(name: &str) -> bool {
    let lower = name.to_lowercase();
    [TENSORS_SUFFIX, INDEX_SUFFIX].iter().any(|end| lower.ends_with(end) && !name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors"] {
            assert_eq!(role(name), Role::Tensors, "{name}");
        }
        for name in [
            "config.json",
            "tokenizer.model",
            "modeling_x.py",
            "model.safetensors.index.json",
            "optimizer.md",
            "pytorch_model.bin",
            "model.safetensors.bak",
        ] {
            assert_eq!(role(name), Role::Companion, "{name}");
        }
        for (name, reason) in [
            (".env", Reason::Hidden),
            ("._model.safetensors", Reason::Hidden),
            ("optimizer.pt", Reason::TrainerState),
            ("optimizer_0.bin", Reason::TrainerState),
            ("rng_state_3.pth", Reason::TrainerState),
            ("random_states_0.pkl", Reason::TrainerState),
            ("scheduler.pt", Reason::TrainerState),
            ("training_args.bin", Reason::TrainerState),
            ("trainer_state.json", Reason::TrainerState),
            ("41.pulse", Reason::OfPulse),
            ("pulse-update-1a2b.undo", Reason::OfPulse),
        ] {
            assert_eq!(role(name), Role::LeftOut(reason), "{name}");
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
