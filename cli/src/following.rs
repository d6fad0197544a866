//! What becomes of the files of a target where the receiver has others: shared by commands that receive.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use pulse::checkpoint::{Deviation, FileNote, FilePolicy};
use serde_json::{json, Value};

use crate::{text, Common};

/// How far the files beside the tensors follow the publisher's.
#[derive(Debug, Args)]
pub(crate) struct Following {
    /// What becomes of files that are not those that the patch was made with.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "follow")]
    files: FilesArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FilesArg {
    /// Yours stay where they differ, all others become the publisher's; each that differs is noted.
    Follow,
    /// All become the publisher's, byte for byte, or it is an error.
    Exact,
    /// Yours stay as they are.
    Keep,
}

impl Following {
    pub fn policy(&self) -> FilePolicy {
        match self.files {
            FilesArg::Follow => FilePolicy::Follow,
            FilesArg::Exact => FilePolicy::Exact,
            FilesArg::Keep => FilePolicy::Keep,
        }
    }
}

/// Says which files are not as the patch says.
pub(crate) fn tell(common: &Common, notes: &[FileNote]) {
    // With --json, standard error is for a failure alone. Quiet is about what went as it should.
    if common.json {
        return;
    }
    let mut alike = BTreeMap::<Deviation, Vec<String>>::new();
    for FileNote { name, deviation, .. } in notes {
        let name = if name.is_empty() { "the header" } else { name };
        alike.entry(*deviation).or_default().push(name.into());
    }
    for (deviation, names) in &alike {
        let each = if names.len() > 1 { "each " } else { "" };
        text::note(&format!("{}: {each}{deviation}", text::list(names)));
    }
    if !notes.is_empty() {
        text::note("the tensors are those of the target; only files beside them differ");
    }
}

/// The same for programs.
pub(crate) fn json(notes: &[FileNote]) -> Value {
    let entry = |FileNote { name, deviation, .. }: &FileNote| json!({ "name": name, "what": deviation.name(), "text": deviation.to_string() });
    notes.iter().map(entry).collect()
}
