//! `pulse apply`: a base and a patch to the target.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use pulse::{ApplyOptions, Checkpoint, Limits, PatchFile, Result};
use serde_json::json;

use super::progress::Progress;
use super::{text, Common, Outcome};

/// Make the target of a patch from its base.
///
/// OUT appears when every digest is right, and not otherwise. A snapshot needs no BASE.
#[derive(Debug, Args)]
#[command(override_usage = "pulse apply [OPTIONS] BASE PATCH -o OUT
       pulse apply [OPTIONS] SNAPSHOT -o OUT")]
#[command(after_help = "Examples:
  pulse apply step_0040.safetensors 41.pulse -o step_0041.safetensors
  pulse apply run/step40/ 41.pulse -o run/step41/
  pulse apply 40.pulse -o step_0040.safetensors")]
pub struct Apply {
    /// The checkpoint that the patch was made from; a snapshot has none.
    #[arg(value_name = "BASE")]
    first: PathBuf,
    /// The patch.
    #[arg(value_name = "PATCH")]
    second: Option<PathBuf>,
    /// Write the target here.
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// Replace OUT if it is a file that exists.
    #[arg(long)]
    force: bool,
}

impl Apply {
    pub fn patch(&self) -> &Path {
        self.second.as_ref().unwrap_or(&self.first)
    }

    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let base = self.second.as_ref().map(|_| &self.first);
        let started = Instant::now();
        let patch = PatchFile::open(self.patch(), &Limits::default())?;
        let base = base.map(|path| Checkpoint::open(path)).transpose()?;
        let progress = Progress::new(common, "apply", patch.footer().target_bytes);
        let options = ApplyOptions::default().with_replace(self.force);
        let report = pulse::apply(base.as_ref(), &patch, &self.output, options, progress.parallel())?;
        drop(progress);
        let seconds = started.elapsed().as_secs_f64();
        let throughput = (report.target_bytes as f64 / seconds) as u64;
        let text = text::facts(&[
            ("output", self.output.display().to_string()),
            ("changes", text::count(report.changes)),
            ("verified", format!("{} in {}", text::bytes(report.target_bytes), text::number(report.files, "file"))),
            ("time", format!("{}, {}/s", text::seconds(seconds), text::bytes(throughput))),
            ("digest", report.target.to_string()),
        ]);
        let json = json!({
            "output": self.output,
            "changes": report.changes,
            "target_bytes": report.target_bytes,
            "files": report.files,
            "target_digest": report.target.to_string(),
            "seconds": seconds,
        });
        Ok(Outcome::new(text, json))
    }
}
