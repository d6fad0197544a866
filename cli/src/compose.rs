//! `pulse compose`: several patches to one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use pulse::chain::ComposeReport;
use pulse::{Error, Patch};
use serde_json::json;

use super::failure::{usage, Failure, Result};
use super::opening::Reading;
use super::progress::Progress;
use super::writing::{changes, existing, tensor_counts, Writing};
use super::{streams, text, Common, Outcome};

/// Combine several patches into one.
///
/// Each patch must start where the previous one ends. The result is what `pulse diff` of the two ends
/// would write. Without --base, only flat patches of one value form, step or xor, can be composed,
/// and snapshots with the patches that follow them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse compose 41.pulse 42.pulse 48.pulse -o 40-48.pulse
  pulse compose 41.pulse 42.pulse 48.pulse --base step_0040.safetensors -o 40-48.pulse
  pulse compose snapshot_40.pulse 41.pulse -o snapshot_41.pulse")]
pub struct Compose {
    /// The patches, in the order of their steps; one of them may be `-`, standard input.
    #[arg(value_name = "PATCH", required = true)]
    patches: Vec<PathBuf>,
    /// Write the patch here; `-` is standard output.
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// The base of the first patch, for patches that are not flat, or to choose another coding.
    #[arg(long, value_name = "BASE")]
    base: Option<PathBuf>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    reading: Reading,
    /// Replace OUT if it exists.
    #[arg(long)]
    force: bool,
}

impl Compose {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        self.writing.check()?;
        streams::check_output(&self.output, common)?;
        if self.base.is_none() && self.writing.is_chosen() {
            return usage(
                "--coding and --values need --base: without it, OUT has the coding and values of the patches",
            );
        }
        let inputs: Vec<&Path> =
            self.patches.iter().chain(&self.base).map(PathBuf::as_path).collect();
        let started = Instant::now();
        let patches =
            self.patches.iter().map(|path| self.reading.patch(path)).collect::<Result<Vec<_>>>()?;
        let base = self.base.as_deref().map(streams::checkpoint).transpose()?;
        let progress = Progress::new(
            common,
            "compose",
            patches.last().map_or(0, |last| last.footer().target_bytes),
        );
        let report = streams::write_patch(&self.output, existing(self.force), &inputs, |out| {
            Patch::compose(
                &patches,
                base.as_ref(),
                out,
                self.writing.options().into(),
                progress.control(),
            )
        });
        drop(progress);
        let report = report.map_err(|failure| match failure {
            Failure::Library { error, .. } if matches!(*error, Error::NeedsBase { .. }) => {
                Failure::hinted(
                    *error,
                    "give the checkpoint that the first patch was made from: --base BASE",
                )
            }
            other => other,
        })?;
        let mut outcome = self.outcome(&report, &patches, started.elapsed().as_secs_f64());
        outcome.is_aside = streams::is_stream(&self.output);
        Ok(outcome)
    }

    fn outcome(&self, report: &ComposeReport, patches: &[Patch], seconds: f64) -> Outcome {
        let footer = report.summary.footer;
        let (bytes, before) = (report.summary.patch_bytes, report.input_bytes);
        let changes_before =
            patches.iter().map(|patch| patch.footer().changes).fold(0, u64::saturating_add);
        let (tensors, tensors_json) = tensor_counts(&report.actions, &footer);
        let steps = (
            patches.first().and_then(|first| first.header().base_step),
            patches.last().and_then(|last| last.header().target_step),
        );
        let range = match steps {
            (Some(first), Some(last)) => format!(", step {first} to {last}"),
            (None, Some(last)) => format!(", to step {last}"),
            _ => String::new(),
        };
        let patches_text = if patches.len() == 1 {
            "1 patch".into()
        } else {
            format!("{} patches", patches.len())
        };
        let verified = if report.verified {
            "yes: the target was rebuilt and its digest matches"
        } else {
            "no (base not given); verified on apply"
        };
        let text = text::facts(&[
            ("patch", self.output.display().to_string()),
            ("composed", format!("{patches_text}{range}")),
            ("tensors", tensors),
            ("changes", format!("{}, {} before", changes(&footer), text::count(changes_before))),
            ("size", text::size(bytes, before, &format!("{} before", text::bytes(before)))),
            ("verified", verified.into()),
            ("time", text::seconds(seconds)),
            ("target", footer.target.to_string()),
        ]);
        let json = json!({
            "patch": self.output.display().to_string(),
            "patch_bytes": bytes,
            "patches": patches.len(),
            "input_bytes": before,
            "base_step": steps.0,
            "target_step": steps.1,
            "changes": footer.changes,
            "input_changes": changes_before,
            "target_elements": footer.target_elements,
            "target_bytes": footer.target_bytes,
            "tensors": tensors_json,
            "verified": report.verified,
            "base_digest": footer.base.map(|digest| digest.to_string()),
            "target_digest": footer.target.to_string(),
            "seconds": seconds,
        });
        Outcome::new(text, json)
    }
}
