//! Which files of a directory belong to a checkpoint, and as what (SPEC.md §9).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::{fs, io};

use crate::checkpoint::index::{
    check_index_bytes, index_of, is_index, leads_to_tensors, modules_of, weight_map, Lists,
    INDEX_SUFFIX, MODULES, PIPELINE,
};
use crate::checkpoint::names::Names;
use crate::checkpoint::portable::{is_portable, Taken};
use crate::checkpoint::tree::{base, directory_reason, is_below, join, parent, Tree};
use crate::disk::content;
use crate::disk::stamp::Stamp;
use crate::error::{Error, FileFault, Result, Visible};

const TENSORS_SUFFIX: &str = ".safetensors";

/// State of a trainer: names that start with one of these, and end as a pickle does.
const TRAINER_STATE: [&str; 10] = [
    "optim",
    "scheduler",
    "rng_state",
    "random_states",
    "scaler",
    "training_args",
    "dataloader",
    "mp_rank_",
    "zero_pp_rank_",
    "bf16_zero_pp_rank_",
];
const PICKLES: [&str; 5] = [".pt", ".pth", ".bin", ".pkl", ".ckpt"];
/// What is nobody's business: names, and ends of names.
const KEYS: [&str; 4] = ["id_rsa", "id_ecdsa", "id_ed25519", "credentials.json"];
const KEY_ENDS: [&str; 3] = [".pem", ".key", ".env"];

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
    /// A pipe, a device, or a link to a directory.
    NotAFile,
    /// Its name starts with a dot.
    Hidden,
    /// Optimizer, scheduler or random state of a trainer, or its logs.
    TrainerState,
    /// By its name a private key, or other credentials.
    Key,
    /// A patch, or a file that an update keeps beside a checkpoint.
    OfPulse,
    /// A subdirectory with tensor files that nothing in the directory speaks of.
    Below,
    /// A subdirectory of more files than are looked at.
    TooMany,
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
            Reason::Key => "key",
            Reason::OfPulse => "of-pulse",
            Reason::Below => "below",
            Reason::TooMany => "too-many",
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
            Reason::Hidden
                | Reason::TrainerState
                | Reason::Key
                | Reason::OfPulse
                | Reason::NotPortable
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotAFile => "not a regular file",
            Reason::Hidden => "hidden",
            Reason::TrainerState => "trainer state",
            Reason::Key => "a key",
            Reason::OfPulse => "a file of pulse",
            Reason::Below => "a subdirectory with tensors of its own",
            Reason::TooMany => "a subdirectory of too many files",
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

/// An index of this name in a directory, or a list of modules.
pub(crate) fn read_index(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let path = directory.join(name);
    let io = |error| Error::io_at("reading", &path, error);
    check_index_bytes(fs::metadata(&path).map_err(io)?.len())
        .map_err(|fault| Error::bad_file(&path, fault))?;
    fs::read(&path).map_err(io)
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
    pub names: Names,
    pub lists: Lists,
}

impl Layout<Found> {
    /// Looks at a directory and reads its indexes.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut tree = Tree::walk(directory)?;
        let files = std::mem::take(&mut tree.files);
        let left_out = std::mem::take(&mut tree.left_out);
        let layout = Layout::of(directory, files, |name| read_index(directory, name));
        let layout = layout.map_err(|error| match error {
            Error::BadFile { fault: FileFault::NoTensors, .. } => match content::look(directory) {
                Some(content) => Error::bad_file(directory, FileFault::NoCheckpoint(content)),
                None => error,
            },
            Error::BadFile { fault: FileFault::MissingShard(ref shard), .. } => {
                match left_out.iter().find(|out| is_below(shard, &out.name)) {
                    Some(out) => {
                        let what = format!("the index leads to '{shard}', below {out}");
                        Error::bad_file(directory, FileFault::Refused(what))
                    }
                    None => error,
                }
            }
            other => other,
        })?;
        let mut layout = layout.readable(directory)?;
        tree.check_parts(&layout.lists).map_err(|fault| Error::bad_file(directory, fault))?;
        layout.left_out.extend(left_out);
        Ok(layout)
    }
}

impl Layout<io::Result<Found>> {
    /// Leaves out what cannot be read. A tensor file that cannot is an error: a model without it would
    /// be another one.
    fn readable(self, directory: &Path) -> Result<Layout<Found>> {
        let mut left_out = self.left_out;
        let tensors = self.tensors.into_iter().map(|(name, found)| {
            let path = directory.join(&name);
            Ok((name, found.map_err(|error| Error::io_at("opening", &path, error))?))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let mut readable = |name: String, found: io::Result<Found>| match found {
            Ok(found) => Some((name, found)),
            Err(_) => {
                left_out.push(LeftOut { name, reason: Reason::Unreadable });
                None
            }
        };
        let readable_companions = self.companions.into_iter();
        let mut companions = Vec::new();
        let mut spare: Vec<_> = self
            .spare
            .into_iter()
            .filter_map(|(name, found, reason)| {
                readable(name, found).map(|(name, found)| (name, found, reason))
            })
            .collect();
        for (name, found) in readable_companions.filter_map(|(name, found)| readable(name, found)) {
            let target = || reason_of_target(&directory.join(&name));
            let reason = if leads_to_tensors(&name, true) { None } else { target() };
            match reason {
                None => companions.push((name, found)),
                Some(reason) => spare.push((name, found, reason)),
            }
        }
        Ok(Layout { tensors, companions, spare, left_out, names: self.names, lists: self.lists })
    }
}

/// Why what a link leads to would be left out under its own name.
fn reason_of_target(path: &Path) -> Option<Reason> {
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink)?;
    let target = fs::canonicalize(path).ok()?;
    match role(target.file_name()?.to_str()?) {
        Role::LeftOut(reason) => Some(reason),
        _ => None,
    }
}

/// A directory whose tensor files belong together: they share an index, and names.
struct Part {
    /// The files that the index has; without an index, all that look like tensors.
    shards: Option<BTreeSet<String>>,
    /// The index, if it is of files that are not there.
    stale: Option<String>,
}

/// The directories of tensors in a tree.
struct Parts {
    /// By their directories; the root is the empty one.
    parts: BTreeMap<String, Part>,
    /// Directories of tensors that nothing in the root speaks of.
    foreign: BTreeSet<String>,
    names: Names,
    lists: Lists,
}

impl Parts {
    fn find<T>(
        directory: &Path,
        files: &BTreeMap<String, T>,
        mut read: impl FnMut(&str) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let lists = Lists {
            is_pipeline: files.contains_key(PIPELINE),
            modules: if files.contains_key(MODULES) {
                modules_of(&read(MODULES)?)
            } else {
                BTreeSet::new()
            },
        };
        let (parts, foreign) = (BTreeMap::new(), BTreeSet::new());
        let mut found = Parts { parts, foreign, names: Names::default(), lists };
        let mut homes: BTreeMap<&str, Vec<&String>> = BTreeMap::from([("", Vec::new())]);
        for name in files.keys() {
            homes.entry(parent(name)).or_default().push(name);
        }
        for (home, own) in homes {
            let is_homed = |name: &String| found.names.homes.contains_key(name);
            let mut of_tensors = own.iter().filter(|name| is_tensors(base(name)) || is_index(name));
            let has_tensors = of_tensors.any(|name| !is_homed(name));
            if home.is_empty() || has_tensors && !found.is_foreign(home) {
                if home.is_empty() || found.lists.has(home) {
                    found.add(home, &own, directory, files, &mut read)?;
                } else {
                    found.foreign.insert(home.into());
                }
            }
        }
        Ok(found)
    }

    /// Whether a file or directory is in a directory that is no part of the model.
    fn is_foreign(&self, name: &str) -> bool {
        self.foreign.contains(name)
            || name.match_indices('/').any(|(end, _)| self.foreign.contains(&name[..end]))
    }

    fn add<T>(
        &mut self,
        home: &str,
        own: &[&String],
        directory: &Path,
        files: &BTreeMap<String, T>,
        read: &mut impl FnMut(&str) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let plain = || own.iter().copied().filter(|name| is_tensors(base(name)));
        let mut part = Part { shards: None, stale: None };
        let index = index_of(own.iter().map(|name| base(name))).map(|name| join(home, name));
        if let Some(name) = index {
            let mut map = weight_map(&read(&name)?)
                .map_err(|fault| Error::bad_file(&directory.join(&name), fault))?;
            map.values_mut().for_each(|file| *file = join(home, file));
            let named: BTreeSet<String> = map.values().cloned().collect();
            let missing = named.iter().find(|shard| !files.contains_key(*shard));
            match missing.or(named.is_empty().then_some(&name)) {
                None => {
                    self.names.indexes.insert(home.into(), map);
                    part.shards = Some(named);
                }
                // Saved anew under other names; the old index was not removed.
                Some(_)
                    if !named.iter().any(|shard| files.contains_key(shard))
                        && plain().next().is_some() =>
                {
                    part.stale = Some(name)
                }
                Some(missing) => {
                    let fault = FileFault::MissingShard(missing.to_string());
                    return Err(Error::bad_file(directory, fault));
                }
            }
        }
        let tensors: Vec<&String> = match &part.shards {
            Some(shards) => shards.iter().collect(),
            None => plain().collect(),
        };
        for name in tensors {
            self.names.homes.entry(name.clone()).or_insert_with(|| home.into());
        }
        self.parts.insert(home.into(), part);
        Ok(())
    }

    /// What a file is, if it is not left out with the directory that it is in.
    fn role(&self, name: &str) -> Option<Role> {
        if self.names.homes.contains_key(name) {
            return Some(Role::Tensors);
        }
        if self.is_foreign(name) {
            return None;
        }
        let part = self.parts.get(parent(name));
        Some(match role(base(name)) {
            Role::Tensors => Role::LeftOut(Reason::NotInIndex),
            _ if part.is_some_and(|part| part.stale.as_deref() == Some(name)) => {
                Role::LeftOut(Reason::StaleIndex)
            }
            // A reader where case does not count would take it for tensors.
            _ if is_disguised(base(name)) => Role::LeftOut(Reason::Name),
            role => role,
        })
    }
}

impl<T> Default for Layout<T> {
    fn default() -> Self {
        Layout {
            tensors: Vec::new(),
            companions: Vec::new(),
            spare: Vec::new(),
            left_out: Vec::new(),
            names: Names::default(),
            lists: Lists::default(),
        }
    }
}

impl<T> Layout<T> {
    /// Tells what each of these files is in a directory that has no others.
    pub fn of(
        directory: &Path,
        mut files: BTreeMap<String, T>,
        read: impl FnMut(&str) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let mut layout = Layout::default();
        let unseen: Vec<_> = files
            .keys()
            .filter_map(|name| Some((name.clone(), directory_reason(parent(name))?)))
            .collect();
        for (name, reason) in unseen {
            layout.spare.extend(files.remove(&name).map(|found| (name, found, reason)));
        }
        let parts = Parts::find(directory, &files, read)?;
        let foreign = parts.foreign.iter();
        layout.left_out =
            foreign.map(|name| LeftOut { name: name.clone(), reason: Reason::Below }).collect();
        // Tensor files are there first: a companion that is one with them elsewhere gives way.
        let mut taken = Taken::default();
        parts.names.homes.keys().for_each(|name| _ = taken.take(name));
        for (name, found) in files {
            let Some(role) = parts.role(&name) else { continue };
            let role = match role {
                Role::Companion if !is_portable(&name) || taken.take(&name).is_err() => {
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
        layout.names = parts.names;
        layout.lists = parts.lists;
        Ok(layout)
    }
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
    let is_log = name == "trainer_state.json" || name.starts_with("events.out.tfevents");
    if is_state || is_log || name.ends_with(".distcp") {
        return Role::LeftOut(Reason::TrainerState);
    }
    if KEYS.contains(&name) || KEY_ENDS.iter().any(|end| name.ends_with(end)) {
        return Role::LeftOut(Reason::Key);
    }
    Role::Companion
}

pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Whether every reader takes a file of this name for tensors, where no index says otherwise.
pub(crate) fn is_tensors(name: &str) -> bool {
    name.ends_with(TENSORS_SUFFIX) && !is_hidden(name)
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
            ("optim_states.pt", Reason::TrainerState),
            ("dataloader_state.pt", Reason::TrainerState),
            ("mp_rank_00_model_states.pt", Reason::TrainerState),
            ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", Reason::TrainerState),
            ("__0_0.distcp", Reason::TrainerState),
            ("id_rsa", Reason::Key),
            ("server.pem", Reason::Key),
            ("production.env", Reason::Key),
            ("credentials.json", Reason::Key),
            ("41.pulse", Reason::OfPulse),
            ("pulse-update-1a2b.undo", Reason::OfPulse),
        ] {
            assert_eq!(role(name), Role::LeftOut(reason), "{name}");
        }
    }
}
