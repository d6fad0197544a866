//! `pulse apply`: a base and patches to the target.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use pulse::checkpoint::ApplyOptions;
use pulse::error::Occupant;
use pulse::patch::Chain;
use pulse::tensors::ApplyReport;
use pulse::update::{UpdateOptions, UpdateReport, Way};
use pulse::wire::SIGNATURE;
use pulse::{Checkpoint, Error, Patch};
use serde_json::json;

use super::failure::{Failure, Result};
use super::following::{self, Following};
use super::opening::Reading;
use super::progress::Progress;
use super::writing::existing;
use super::{recover, streams, text, Common, Outcome};

/// Apply a patch, or several that follow one another, to the base.
///
/// OUT is created only if every digest matches. A snapshot needs no BASE.
///
/// Several patches are applied in one pass: the base is read once and the result digested once, so that to catch up
/// with eight versions takes hardly longer than with one or two. Each patch must start where the one before it ends,
/// which is checked before anything else. With --in-place the checkpoint goes from the base to the last target, with no
/// version in between.
///
/// With --in-place the base itself becomes the target: proved first, then each file that changes is made beside and
/// takes the name of the old one. Where there is no room for that, or with --in-place=undo, bytes are overwritten
/// with a journal of those of before. Files that are being changed are marked, so that no reader takes them; after a
/// crash, the same command or `pulse recover` makes base or target of them.
#[derive(Debug, Args)]
#[command(override_usage = "pulse apply [OPTIONS] BASE PATCH... -o OUT
       pulse apply [OPTIONS] SNAPSHOT [PATCH]... -o OUT
       pulse apply [OPTIONS] CHECKPOINT PATCH... --in-place")]
#[command(after_help = "Examples:
  pulse apply step_0040.safetensors 41.pulse -o step_0041.safetensors
  pulse apply run/step40/ 41.pulse -o run/step41/
  pulse apply 40.pulse -o step_0040.safetensors
  pulse apply step_0040.safetensors 41.pulse 42.pulse 43.pulse -o step_0043.safetensors
  pulse apply 40.anchor.pulse 41.pulse 42.pulse -o step_0042.safetensors
  pulse apply served/ 41.pulse --in-place
  pulse apply served/ 41.pulse 42.pulse 43.pulse --in-place
  pulse apply served/ 41.pulse --in-place=undo")]
pub struct Apply {
    /// The checkpoint that the first patch was made from; a snapshot has none.
    #[arg(value_name = "BASE")]
    first: PathBuf,
    /// The patch, or patches each of which follows the one before it; `-` is standard input.
    #[arg(value_name = "PATCH")]
    patches: Vec<PathBuf>,
    /// Write the target here.
    #[arg(long, short, value_name = "OUT", required_unless_present = "in_place")]
    output: Option<PathBuf>,
    /// Replace OUT if it is a file that exists.
    #[arg(long, requires = "output")]
    force: bool,
    /// Change the checkpoint itself; `pulse recover` makes it whole after a crash.
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "auto",
        conflicts_with = "output",
        requires = "patches"
    )]
    in_place: Option<InPlace>,
    #[command(flatten)]
    following: Following,
    #[command(flatten)]
    reading: Reading,
}

/// How a checkpoint is changed where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InPlace {
    /// Redo where there is room for it, else undo.
    Auto,
    /// Make each file that changes beside, whole; who has the old one open keeps it.
    Redo,
    /// Overwrite the bytes that change; needs room for a journal only.
    Undo,
}

impl InPlace {
    fn way(self) -> Option<Way> {
        match self {
            InPlace::Auto => None,
            InPlace::Redo => Some(Way::Redo),
            InPlace::Undo => Some(Way::Undo),
        }
    }
}

impl Apply {
    /// The base, unless there is none, and the patches. Of several arguments the first is the base if it
    /// is no snapshot: a patch in its place is told so.
    fn inputs(&self) -> Result<(Option<&Path>, Vec<Patch>)> {
        let mut patches = Vec::new();
        if self.patches.is_empty() || self.output.is_some() && is_patch(&self.first) {
            patches.push(self.reading.patch(&self.first)?);
        }
        let is_first = |patch: &Patch| self.patches.is_empty() || patch.header().snapshot;
        let has_base = !patches.first().is_some_and(is_first);
        if has_base {
            patches.clear();
            streams::refuse_checkpoint(&self.first)?;
        }
        for path in &self.patches {
            patches.push(self.reading.patch(path)?);
        }
        Ok((has_base.then_some(&*self.first), patches))
    }

    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let started = Instant::now();
        self.output.as_deref().map_or(Ok(()), streams::refuse_output)?;
        let (base, patches) = self.inputs()?;
        let base = match &self.output {
            Some(_) => base.map(Checkpoint::open).transpose()?,
            None => None,
        };
        let chain = Chain::new(&patches)?;
        patches.iter().for_each(|patch| note_unportable(common, patch));
        let target_bytes = patches.last().map_or(0, |last| last.footer().target_bytes);
        match &self.output {
            Some(output) => {
                let progress = Progress::new(common, "apply", target_bytes);
                let options = ApplyOptions::default()
                    .with_existing(existing(self.force))
                    .with_files(self.following.policy());
                let report = chain.apply(base.as_ref(), output, options, progress.control());
                drop(progress);
                let report = report.map_err(|error| match error {
                    Error::NeedsBase { .. } => Failure::hinted(
                        error,
                        "give the checkpoint that it was made from: pulse apply BASE PATCH -o OUT",
                    ),
                    Error::Exists { found: Occupant::Input, .. } => Failure::hinted(
                        error,
                        "choose another name, or change BASE where it is: --in-place instead of -o",
                    ),
                    other => other.into(),
                })?;
                following::tell(common, &report.notes);
                Ok(done(output, &report, started))
            }
            None => {
                // Verified, changed, and read back.
                let progress = Progress::new(common, "apply", target_bytes.saturating_mul(3));
                let way = self.in_place.and_then(InPlace::way);
                let options =
                    UpdateOptions::default().with_way(way).with_files(self.following.policy());
                let report = chain.update(&self.first, options, progress.control())?;
                drop(progress);
                following::tell(common, &report.target.notes);
                recover::tell(common, &report.recovery.notes);
                recover::tell(common, &report.notes);
                Ok(self.updated(&report, started))
            }
        }
    }

    /// What to say of a checkpoint that was changed in place.
    fn updated(&self, report: &UpdateReport, started: Instant) -> Outcome {
        let mut outcome = done(&self.first, &report.target, started);
        outcome.json["already"] = report.already().into();
        outcome.json["way"] = report.way.map(Way::name).into();
        outcome.json["recovery"] = recover::name(&report.recovery).into();
        if let Some(notes) = outcome.json["notes"].as_array_mut() {
            notes.extend(report.recovery.notes.iter().chain(&report.notes).map(recover::note));
        }
        if report.already() {
            outcome.text =
                format!("{} is already the target; nothing was changed\n", text::path(&self.first));
        }
        if let Some(sentence) = recover::sentence(&report.recovery) {
            outcome.text = format!("{sentence}\n{}", outcome.text);
        }
        outcome
    }
}

/// Whether a file says that it is a patch; a pipe is not asked, for what is read of it is gone.
fn is_patch(path: &Path) -> bool {
    let head = || {
        let mut head = [0; SIGNATURE.len()];
        File::open(path).ok()?.read_exact(&mut head).ok()?;
        Some(head)
    };
    fs::metadata(path).is_ok_and(|found| found.is_file()) && head() == Some(SIGNATURE)
}

/// Says which files cannot be everywhere, before the system is asked to hold them.
fn note_unportable(common: &Common, patch: &Patch) {
    let names: Vec<String> = patch.unportable_files().into_iter().map(String::from).collect();
    if !names.is_empty() && !common.quiet && !common.json {
        text::note(&format!("names that not every system can hold: {}", text::list(&names)));
    }
}

fn done(output: &Path, report: &ApplyReport, started: Instant) -> Outcome {
    let seconds = started.elapsed().as_secs_f64();
    let throughput = (report.target_bytes as f64 / seconds) as u64;
    let text = text::facts(&[
        ("output", output.display().to_string()),
        ("changes", text::count(report.changes)),
        (
            "verified",
            format!(
                "{} in {}",
                text::bytes(report.target_bytes),
                text::number(report.files, "file")
            ),
        ),
        ("time", format!("{}, {}/s", text::seconds(seconds), text::bytes(throughput))),
        ("digest", report.target.to_string()),
    ]);
    let json = json!({
        "output": output.display().to_string(),
        "changes": report.changes,
        "target_bytes": report.target_bytes,
        "files": report.files,
        "target_digest": report.target.to_string(),
        "notes": following::json(&report.notes),
        "seconds": seconds,
    });
    Outcome::new(text, json)
}
