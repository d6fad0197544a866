//! The files of a directory, and of those below it, as far as they may belong to its checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use crate::checkpoint::index::Lists;
use crate::checkpoint::layout::{is_hidden, is_tensors, Found, LeftOut, Reason};
use crate::disk::stamp::Stamp;
use crate::error::{Error, FileFault, Result};
use crate::wire::{is_component, is_file_name};

/// Most entries of one subdirectory that are looked at: models have some dozens.
const ENTRIES_MAX: usize = 10_000;
/// Most entries of all of them.
const ALL_MAX: usize = 100_000;
/// What a trainer calls a directory with its state, before the number of a step.
const TRAINER_DIRECTORIES: [&str; 2] = ["checkpoint-", "global_step"];

/// The directory that a file is in; empty for the one at the top.
pub(crate) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The name of a file in its directory.
pub(crate) fn base(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, base)| base)
}

pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.into()
    } else {
        format!("{parent}/{name}")
    }
}

/// Whether this is a directory, or something in it.
pub(crate) fn is_below(name: &str, directory: &str) -> bool {
    name.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why nothing in this directory is looked at, by the names that lead there.
pub(crate) fn directory_reason(directory: &str) -> Option<Reason> {
    let is_step = |digits: &str| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    directory.split('/').find_map(|name| {
        let mut steps = TRAINER_DIRECTORIES.iter().filter_map(|start| name.strip_prefix(start));
        if is_hidden(name) {
            Some(Reason::Hidden)
        } else {
            steps.any(is_step).then_some(Reason::TrainerState)
        }
    })
}

/// Refuses more files in subdirectories than are looked at.
pub(crate) fn check_entries<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let (mut entries, mut counts) = (BTreeSet::new(), BTreeMap::<&str, usize>::new());
    for name in names {
        let mut entry = name;
        while !parent(entry).is_empty() && entries.insert(entry) {
            *counts.entry(parent(entry)).or_default() += 1;
            entry = parent(entry);
        }
    }
    let too_many =
        |count, most, of: &str| Err(format!("{count} files in {of}; at most {most} are looked at"));
    match counts.into_iter().find(|(_, count)| *count > ENTRIES_MAX) {
        Some((directory, count)) => too_many(count, ENTRIES_MAX, directory),
        None if entries.len() > ALL_MAX => too_many(entries.len(), ALL_MAX, "subdirectories"),
        None => Ok(()),
    }
}

/// What is found in a directory and below it.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// By their names, which are paths; with an error, what nobody can look at.
    pub files: BTreeMap<String, io::Result<Found>>,
    pub left_out: Vec<LeftOut>,
    /// Of what is left out: directories that nobody looked into, and names that stand for tensors.
    unseen: Vec<LeftOut>,
    entries: usize,
}

impl Tree {
    /// Follows links to files, as model caches are directories of them, but none to a directory.
    pub fn walk(directory: &Path) -> Result<Self> {
        let mut tree = Tree::default();
        let mut open = BTreeSet::from([String::new()]);
        while let Some(below) = open.pop_first() {
            let path = directory.join(&below);
            let io = |error| Error::io_at("listing", &path, error);
            let listed = match fs::read_dir(&path) {
                Err(_) if !below.is_empty() => {
                    tree.leave_out(below, Reason::Unreadable, true);
                    continue;
                }
                listed => listed.map_err(io)?,
            };
            let most = ENTRIES_MAX.min(ALL_MAX - tree.entries);
            let most = if below.is_empty() { usize::MAX } else { most };
            let listed: Vec<_> =
                listed.take(most.saturating_add(1)).collect::<Result<_, _>>().map_err(io)?;
            if listed.len() > most {
                tree.leave_out(below, Reason::TooMany, true);
                continue;
            }
            if !below.is_empty() {
                tree.entries += listed.len();
            }
            for entry in listed {
                tree.add(directory, &below, &entry, &mut open)?;
            }
        }
        Ok(tree)
    }

    fn leave_out(&mut self, name: String, reason: Reason, may_have_tensors: bool) {
        let out = LeftOut { name, reason };
        if may_have_tensors {
            self.unseen.push(out.clone());
        }
        self.left_out.push(out);
    }

    fn add(
        &mut self,
        directory: &Path,
        below: &str,
        entry: &fs::DirEntry,
        open: &mut BTreeSet<String>,
    ) -> Result<()> {
        let own = entry.file_name().to_string_lossy().into_owned();
        let name = join(below, &own);
        let is_plain = entry.file_name().to_str().is_some_and(is_component);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match directory_reason(&own) {
                Some(reason) => self.leave_out(name, reason, false),
                // Nothing could be named that is in it.
                None if !is_plain || !is_file_name(&join(&name, "x")) => {
                    self.leave_out(name, Reason::Name, true)
                }
                None => _ = open.insert(name),
            }
            return Ok(());
        }
        let found = fs::metadata(entry.path());
        let may_be_directory = found.as_ref().map_or(true, fs::Metadata::is_dir);
        let may_have_tensors =
            is_tensors(&own) || may_be_directory && directory_reason(&own).is_none();
        if !is_plain || !is_file_name(&name) {
            // What is not at the top may be of another model.
            if is_tensors(&own) && below.is_empty() {
                return Err(Error::bad_file(directory, FileFault::Name(name)));
            }
            self.leave_out(name, Reason::Name, may_have_tensors);
            return Ok(());
        }
        match found {
            Ok(metadata) if !metadata.is_file() => {
                self.leave_out(name, Reason::NotAFile, may_have_tensors)
            }
            found => {
                if found.is_err() && may_have_tensors {
                    let (name, reason) = (name.clone(), Reason::Unreadable);
                    self.unseen.push(LeftOut { name, reason });
                }
                let found = found.map(|metadata| {
                    let bytes = metadata.len();
                    Found { stamp: Stamp::of(&metadata), bytes }
                });
                self.files.insert(name, found);
            }
        }
        Ok(())
    }

    /// Refuses what nobody looked into, and what nobody can name, where it may be of a part of the model.
    pub fn check_parts(&self, lists: &Lists) -> Result<(), FileFault> {
        match self.unseen.iter().find_map(|out| Some((out, lists.may_list(&out.name)?))) {
            Some((out, list)) => {
                let what = format!("{out} may be of a part of the model, by {list}");
                Err(FileFault::Refused(what))
            }
            None => Ok(()),
        }
    }
}
