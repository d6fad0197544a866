//! `pulse recover`: a checkpoint whose update in place was interrupted.

use std::path::PathBuf;

use clap::Args;
use pulse::update::{Note, Recovered, Recovery};
use serde_json::json;

use super::failure::Result;
use super::progress::Progress;
use super::{streams, text, Common, Outcome};

/// Make a checkpoint whole after an interrupted `apply --in-place`.
///
/// Reads every file that the journal in the checkpoint lists, compares digests, and only then makes the base or the
/// target of them, whichever can be proved. Files that are neither are left alone. Without a journal no update was
/// interrupted, and nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse recover model.safetensors
  pulse recover served/")]
pub struct Recover {
    /// The checkpoint, a file or a directory.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
}

/// What was found, in one word.
pub fn name(recovery: &Recovery) -> &'static str {
    match recovery.outcome {
        Recovered::Untouched => "untouched",
        Recovered::RolledBack { .. } => "rolled-back",
        Recovered::Completed { .. } => "completed",
        _ => "nothing",
    }
}

/// What was found and done, if anything.
pub fn sentence(recovery: &Recovery) -> Option<String> {
    let at = |step: Option<u64>| step.map_or(String::new(), |step| format!(" (step {step})"));
    match recovery.outcome {
        Recovered::Untouched => {
            Some("an update was interrupted before it changed anything: this is the base".into())
        }
        Recovered::RolledBack { base, base_step } => Some(format!(
            "an update was interrupted: the base{} was restored, digest {base}",
            at(base_step)
        )),
        Recovered::Completed { target, target_step } => Some(format!(
            "an update was interrupted: it was completed, and this is the target{}, digest {target}",
            at(target_step)
        )),
        _ => None,
    }
}

/// Says what was left as it is, or done otherwise.
pub fn tell(common: &Common, notes: &[Note]) {
    if !common.json {
        notes.iter().for_each(|note| text::note(&note.to_string()));
    }
}

/// What was left as it is, or done otherwise, for programs: as a file that is not as a patch says.
pub fn note(note: &Note) -> serde_json::Value {
    let (what, name) = match note {
        Note::OwnCompanion { name } => ("own", name.clone()),
        Note::OtherJournal { path } => ("other-journal", path.display().to_string()),
        Note::Overwritten { .. } => ("overwritten", String::new()),
        _ => ("other", String::new()),
    };
    json!({ "name": name, "what": what, "text": note.to_string() })
}

impl Recover {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        streams::refuse_checkpoint(&self.checkpoint)?;
        let progress = Progress::new(common, "recover", 0);
        let recovery = pulse::update::recover(&self.checkpoint, progress.control())?;
        drop(progress);
        let nothing = || "no update was interrupted; nothing to do".to_string();
        let text = text::facts(&[
            ("checkpoint", self.checkpoint.display().to_string()),
            ("state", sentence(&recovery).unwrap_or_else(nothing)),
        ]);
        tell(common, &recovery.notes);
        let digest = match recovery.outcome {
            Recovered::RolledBack { base, .. } => Some(base),
            Recovered::Completed { target, .. } => Some(target),
            _ => None,
        };
        let json = json!({
            "checkpoint": self.checkpoint.display().to_string(),
            "recovery": name(&recovery),
            "digest": digest.map(|digest| digest.to_string()),
            "notes": recovery.notes.iter().map(note).collect::<Vec<_>>(),
        });
        Ok(Outcome::new(text, json))
    }
}
