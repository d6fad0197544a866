//! The files of patches that follow one another: checked link by link, and what becomes of each
//! companion from the first base to the last target.

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::patch::chain::broken;
use crate::patch::{FileEntry, Patch};
use crate::wire::{FileContent, FileKind, FileRecord, FileState};

/// What a chain does to one companion.
#[derive(Debug)]
pub(crate) struct CompanionHistory {
    /// Before the first patch that knows of it.
    pub base: Option<FileContent>,
    pub target: CompanionEnd,
}

/// A companion after the last patch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CompanionEnd {
    Has(FileContent),
    /// A patch removed it, and none after it made it anew.
    Removed,
    /// A patch says nothing of it although the target before has it: its writer left it out.
    LeftOut,
}

/// The files of each patch of a chain by their names, and the companions that any of them knows.
#[derive(Debug)]
pub(crate) struct ChainFiles<'a> {
    patches: Vec<(&'a Patch, HashMap<&'a str, &'a FileEntry>)>,
    pub companions: BTreeMap<&'a str, CompanionHistory>,
}

impl<'a> ChainFiles<'a> {
    /// Checks that the files that each patch takes from its base, replaces or removes are in the
    /// target before it, and those that it adds are not.
    pub fn new(patches: &'a [Patch]) -> Result<Self> {
        let by_name = |patch: &'a Patch| {
            patch.files().iter().map(|file| (file.record.name.as_str(), file)).collect()
        };
        let mut files = ChainFiles {
            patches: patches.iter().map(|patch| (patch, by_name(patch))).collect(),
            companions: BTreeMap::new(),
        };
        for links in files.patches.windows(2) {
            let [(before, listed), (patch, _)] = links else { continue };
            if before.files().is_empty() != patch.files().is_empty() {
                let says =
                    |patch: &Patch| if patch.files().is_empty() { "no files" } else { "files" };
                let (this, other) = (says(patch), says(before));
                let what = format!("it describes {this}, but the other describes {other}");
                return Err(broken(before, patch, what));
            }
            for FileEntry { record, .. } in patch.files() {
                let found = listed.get(&*record.name).map(|file| &file.record);
                let found = found.filter(|found| found.state.is_in_target());
                check_link(record, found).map_err(|what| broken(before, patch, what))?;
            }
        }
        for (_, listed) in &files.patches {
            let companions =
                listed.iter().filter(|(_, file)| file.record.kind == FileKind::Companion);
            for (&name, FileEntry { record, .. }) in companions {
                let target = match record.state {
                    FileState::Removed => CompanionEnd::Removed,
                    _ => CompanionEnd::Has(record.content()),
                };
                let history = files.companions.entry(name);
                history
                    .and_modify(|history| history.target = target)
                    .or_insert_with(|| CompanionHistory { base: record.base(), target });
            }
        }
        let last = files.patches.last().map(|(_, listed)| listed);
        for (name, companion) in &mut files.companions {
            let is_listed = last.is_some_and(|listed| listed.contains_key(name));
            if !is_listed && matches!(companion.target, CompanionEnd::Has(_)) {
                companion.target = CompanionEnd::LeftOut;
            }
        }
        Ok(files)
    }

    /// The patch that carries these described bytes of the last target, and where; `None` if they
    /// are the base's.
    pub fn carried(&self, record: &FileRecord) -> Option<(&'a Patch, &'a FileEntry)> {
        let found =
            self.patches.iter().rev().map(|(patch, listed)| Some((*patch, same(listed, record)?)));
        found.map_while(|found| found).find(|(_, file)| file.record.state.is_carried())
    }

    /// Whether the first patch says that the base has this file.
    pub fn base_has(&self, record: &FileRecord) -> bool {
        let first = self.patches.first().and_then(|(_, listed)| same(listed, record));
        first.is_some_and(|file| file.record.state == FileState::Kept)
    }

    /// Whether the last patch lists a tensor file of this name, or its target is a single file: no
    /// companion of the base can be told to be removed.
    pub fn hides(&self, companion: &str) -> bool {
        self.patches.last().is_some_and(|(_, listed)| {
            let file = listed.get(companion).map(|file| file.record.kind);
            listed.contains_key("") || file == Some(FileKind::Tensors)
        })
    }
}

/// The file with the name and described bytes of `record`, if the target of a patch has it.
fn same<'a>(listed: &HashMap<&str, &'a FileEntry>, record: &FileRecord) -> Option<&'a FileEntry> {
    let file = listed.get(&*record.name).copied()?;
    let found = &file.record;
    let is_same = found.kind == record.kind && found.content() == record.content();
    (is_same && found.state.is_in_target()).then_some(file)
}

/// Whether a patch may say this of a file that `found` describes in the target before it; if not,
/// what is wrong.
fn check_link(record: &FileRecord, found: Option<&FileRecord>) -> Result<(), String> {
    let found = found.filter(|found| found.kind == record.kind);
    let Some(expected) = record.base() else {
        let is_companion = record.kind == FileKind::Companion;
        return match found.filter(|_| is_companion) {
            None => Ok(()),
            Some(_) => Err(format!(
                "it adds the file '{}', but the target of the other has it",
                record.name
            )),
        };
    };
    if found.is_some_and(|found| found.content() == expected) {
        return Ok(());
    }
    let does = match record.state {
        FileState::Kept => "takes the file",
        FileState::Removed => "removes the file",
        _ => "replaces the file",
    };
    let has = if found.is_some() { "has another" } else { "does not have it" };
    let (name, FileContent { bytes, sha256 }) = (&record.name, expected);
    Err(format!(
        "it {does} '{name}' ({bytes} bytes, SHA-256 {sha256}) of its base, but the target of the other {has}"
    ))
}
