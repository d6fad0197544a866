//! `pulse verify`: checks a patch and writes nothing.

use std::path::PathBuf;

use clap::Args;
use pulse::Error;
use serde_json::json;

use super::failure::{Failure, Result};
use super::following::{self, Following};
use super::opening::Reading;
use super::progress::Progress;
use super::{streams, text, Common, Outcome};

/// Check a patch: structure, CRC-32, SHA-256; with a base, that applying it gives the target.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse verify 41.pulse
  pulse verify 41.pulse --base step_0040.safetensors
  pulse verify 41.pulse --base step_0040.safetensors --target step_0041.safetensors")]
pub struct Verify {
    /// The patch; `-` is standard input.
    #[arg(value_name = "PATCH")]
    patch: PathBuf,
    /// Apply the patch to this base, in memory, and check the digests.
    #[arg(long, value_name = "B")]
    base: Option<PathBuf>,
    /// Check that this checkpoint is the target.
    #[arg(long, value_name = "T")]
    target: Option<PathBuf>,
    #[command(flatten)]
    following: Following,
    #[command(flatten)]
    reading: Reading,
}

impl Verify {
    /// Here nothing is to be applied: who gives the target as the base has swapped the two.
    fn explain(&self, error: Error) -> Failure {
        match &error {
            Error::BaseMismatch(mismatch) if mismatch.is_target && self.target.is_some() => {
                Failure::swapped(error, "--base is the target: are --base and --target swapped?")
            }
            Error::BaseMismatch(mismatch) if mismatch.is_target => {
                Failure::swapped(error, "give it as --target, and its base as --base")
            }
            _ => error.into(),
        }
    }

    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let patch = self.reading.patch(&self.patch)?;
        let open = |path: &Option<PathBuf>| path.as_deref().map(streams::checkpoint).transpose();
        let (base, target) = (open(&self.base)?, open(&self.target)?);
        let progress = Progress::new(common, "verify", patch.footer().target_bytes);
        let (policy, mut notes) = (self.following.policy(), Vec::new());
        match &base {
            Some(base) => notes.extend(
                patch
                    .verify_with_base(base, policy, progress.control())
                    .map_err(|error| self.explain(error))?,
            ),
            None => patch.verify(progress.control())?,
        }
        if let Some(target) = &target {
            notes.extend(patch.verify_target(target, policy, progress.control())?);
        }
        drop(progress);
        notes.sort_unstable();
        notes.dedup();
        following::tell(common, &notes);
        let mut checked = vec!["structure", "crc", "sha256"];
        if patch.header().snapshot || base.is_some() {
            checked.push("result");
        }
        if base.is_some() && !patch.header().snapshot {
            checked.push("base");
        }
        if target.is_some() {
            checked.push("target");
        }
        let text = format!("{}: OK ({})\n", text::path(&self.patch), checked.join(", "));
        let digest = |digest: Option<pulse::hash::Digest>| digest.map(|digest| digest.to_string());
        let json = json!({
            "patch": self.patch.display().to_string(),
            "checked": checked,
            "sha256": patch.footer().sha256.to_string(),
            "base_digest": digest(patch.footer().base),
            "target_digest": digest(Some(patch.footer().target)),
            "notes": following::json(&notes),
        });
        Ok(Outcome::new(text, json))
    }
}
