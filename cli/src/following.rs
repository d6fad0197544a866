//! What becomes of the files of a target where the receiver has others: shared by commands that receive.

use clap::{Args, ValueEnum};
use pulse::checkpoint::{FileNote, FilePolicy};
use serde_json::{json, Value};

use crate::{text, Common};

/// Notes that are written out; the others are counted.
const NOTES: usize = 10;

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
    notes.iter().take(NOTES).for_each(|note| text::note(&note.to_string()));
    let more = notes.len().saturating_sub(NOTES) as u64;
    if more > 0 {
        text::note(&format!("{} more are not as the patch says", text::number(more, "file")));
    }
    if !notes.is_empty() {
        text::note("the tensors are those of the target; only files beside them differ");
    }
}

/// The same for programs.
pub(crate) fn json(notes: &[FileNote]) -> Value {
    notes.iter().map(|note| json!({ "name": note.name, "what": note.deviation.name() })).collect()
}
