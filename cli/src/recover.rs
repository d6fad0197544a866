//! `pulse recover`: a checkpoint whose update in place was interrupted.

use std::path::PathBuf;

use clap::Args;
use pulse::update::Recovery;
use serde_json::json;

use super::failure::Result;
use super::progress::Progress;
use super::{streams, text, Common, Outcome};

/// Restore the base after an interrupted `apply --in-place`.
///
/// Restores it from the undo journal beside the checkpoint and verifies its digest. Without a journal no update was
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
    match recovery {
        Recovery::Untouched => "untouched",
        Recovery::RolledBack { .. } => "rolled-back",
        _ => "nothing",
    }
}

/// What was found and done, if anything.
pub fn sentence(recovery: &Recovery) -> Option<String> {
    match recovery {
        Recovery::Untouched => {
            Some("an update was interrupted before it changed anything: this is the base".into())
        }
        Recovery::RolledBack { base, base_step } => {
            let step = base_step.map_or(String::new(), |step| format!(" (step {step})"));
            Some(format!("an update was interrupted: the base{step} was restored, digest {base}"))
        }
        _ => None,
    }
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
        let base = match &recovery {
            Recovery::RolledBack { base, .. } => Some(base.to_string()),
            _ => None,
        };
        let json = json!({ "checkpoint": self.checkpoint.display().to_string(), "recovery": name(&recovery), "base_digest": base });
        Ok(Outcome::new(text, json))
    }
}
