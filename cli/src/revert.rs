//! `pulse revert`: a target and its patch to the base.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use pulse::checkpoint::ApplyOptions;
use pulse::wire::{FileKind, FileRecord, FileState};
use serde_json::json;

use super::failure::Result;
use super::opening::Reading;
use super::progress::Progress;
use super::writing::existing;
use super::{streams, text, Common, Outcome};

/// Undo a patch: rebuild the base from the target.
///
/// Works for flat patches with step or xor values, and for tensors that were added. The tensors are
/// verified to be those of the base. The files are those of TARGET with these tensors in them: the
/// patch does not hold the headers and companions that the base had.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse revert step_0041.safetensors 41.pulse -o step_0040.safetensors
  pulse revert run/step41/ 41.pulse -o run/step40/")]
pub struct Revert {
    /// The checkpoint that the patch led to.
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// The patch; `-` is standard input.
    #[arg(value_name = "PATCH")]
    patch: PathBuf,
    /// Write the base here.
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// Replace OUT if it is a file that exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    reading: Reading,
}

/// What a record describes, in words.
fn described(record: &FileRecord) -> String {
    match (record.kind, record.name.as_str()) {
        (FileKind::Tensors, "") => "header".into(),
        (FileKind::Tensors, name) => format!("header of {name}"),
        (_, name) => name.into(),
    }
}

impl Revert {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let started = Instant::now();
        streams::refuse_output(&self.output)?;
        let target = streams::checkpoint(&self.target)?;
        let patch = self.reading.patch(&self.patch)?;
        let progress = Progress::new(common, "revert", patch.footer().target_bytes);
        let options = ApplyOptions::default().with_existing(existing(self.force));
        let report = patch.revert(&target, &self.output, options, progress.control())?;
        drop(progress);
        let seconds = started.elapsed().as_secs_f64();
        let changed = patch
            .files()
            .iter()
            .map(|file| &file.record)
            .filter(|file| file.state != FileState::Kept);
        let not_restored: Vec<String> = changed.map(described).collect();
        let mut facts = vec![
            ("output", self.output.display().to_string()),
            ("changes", text::count(report.changes)),
            (
                "verified",
                format!(
                    "{} in {}",
                    text::bytes(report.target_bytes),
                    text::number(report.files, "file")
                ),
            ),
        ];
        if !not_restored.is_empty() {
            facts.push((
                "not restored",
                format!("{}: the patch does not hold those of the base", not_restored.join(", ")),
            ));
        }
        facts.push(("time", text::seconds(seconds)));
        facts.push(("digest", report.target.to_string()));
        let json = json!({
            "output": self.output.display().to_string(),
            "changes": report.changes,
            "base_bytes": report.target_bytes,
            "files": report.files,
            "not_restored": not_restored,
            "base_digest": report.target.to_string(),
            "seconds": seconds,
        });
        Ok(Outcome::new(text::facts(&facts), json))
    }
}
