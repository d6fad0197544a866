//! `pulse diff`: two checkpoints to a patch.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use pulse::checkpoint::{DiffOptions, DiffReport, LeftOut};
use pulse::patch::TensorEntry;
use pulse::stream::{Lineage, TrustedBase};
use pulse::{Checkpoint, Error};
use serde_json::json;

use super::failure::{usage, Failure, Result, USE_ITS_PRODUCER};
use super::inspect::glob::Glob;
use super::opening::Reading;
use super::progress::Progress;
use super::writing::{changes, existing, tensor_counts, Writing};
use super::{streams, text, Common, Outcome};

/// Write the patch from one checkpoint to another.
///
/// BASE and TARGET are a .safetensors file or a directory of them.
#[derive(Debug, Args)]
#[command(override_usage = "pulse diff [OPTIONS] BASE TARGET -o PATCH
       pulse diff [OPTIONS] --snapshot TARGET -o PATCH")]
#[command(after_help = "Examples:
  pulse diff step_0040.safetensors step_0041.safetensors -o 41.pulse
  pulse diff run/step40/ run/step41/ -o 41.pulse --base-step 40 --step 41 --meta trainer=grpo
  pulse diff --snapshot step_0040.safetensors -o 40.pulse")]
pub struct Diff {
    /// The checkpoint that receivers hold.
    #[arg(value_name = "BASE")]
    first: PathBuf,
    /// The checkpoint that they need.
    #[arg(value_name = "TARGET")]
    second: Option<PathBuf>,
    /// Write the patch here; `-` is standard output.
    #[arg(long, short, value_name = "PATCH")]
    output: PathBuf,
    /// Carry TARGET whole, without a base.
    #[arg(long)]
    snapshot: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    reading: Reading,
    /// Take the digests of BASE from the patch that produced it instead of hashing BASE again.
    ///
    /// One tensor of BASE is hashed all the same, and compared.
    #[arg(long, value_name = "PREV", conflicts_with = "snapshot")]
    base_patch: Option<PathBuf>,
    /// With --base-patch: compare all of BASE with its digests, not one tensor.
    #[arg(long, requires = "base_patch")]
    check: bool,
    /// Lineage: the training run, 32 hexadecimal digits.
    #[arg(long, value_name = "ID", value_parser = parse_run)]
    run: Option<[u8; 16]>,
    /// Optimizer step of BASE.
    #[arg(long, value_name = "N")]
    base_step: Option<u64>,
    /// Optimizer step of TARGET.
    #[arg(long, value_name = "M")]
    step: Option<u64>,
    #[command(flatten)]
    beside: Beside,
    /// Replace PATCH if it exists.
    #[arg(long)]
    force: bool,
}

/// Which files beside the tensors travel.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files beside the tensors")]
struct Beside {
    /// Carry files that are left out otherwise, such as hidden ones.
    ///
    /// The pattern is of the whole name, from the directory of the checkpoint: `*` stands for any characters, `/` among
    /// them, `?` for one.
    #[arg(long, value_name = "NAMES", value_parser = Glob::whole)]
    include: Vec<Glob>,
    /// Leave out files; may be given several times, and goes before --include.
    #[arg(long, value_name = "NAMES", value_parser = Glob::whole)]
    exclude: Vec<Glob>,
    /// Leave out all files but those with tensors, and those without which they would not be found.
    #[arg(long, conflicts_with_all = ["include", "exclude"])]
    weights_only: bool,
}

impl Beside {
    /// Files with tensors that were to be left out.
    fn kept(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let files = checkpoint.tensor_files().map(String::from);
        files.filter(|name| self.exclude.iter().any(|glob| glob.matches(name))).collect()
    }

    /// Chooses; gives back what travels only because it is to be included.
    fn select(&self, checkpoint: &mut Checkpoint) -> Vec<String> {
        if self.weights_only {
            checkpoint.select_weights();
            return Vec::new();
        }
        let any = |globs: &[Glob], name: &str| globs.iter().any(|glob| glob.matches(name));
        let included = RefCell::new(Vec::new());
        checkpoint.select(|name, reason| {
            let is_wanted =
                !any(&self.exclude, name) && (reason.is_none() || any(&self.include, name));
            if is_wanted && reason.is_some() {
                included.borrow_mut().push(name.to_string());
            }
            is_wanted
        });
        included.into_inner()
    }
}

fn parse_run(hex: &str) -> Result<[u8; 16], String> {
    let bytes: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .filter(|_| hex.len() == 32)
        .ok_or_else(|| "expected 32 hexadecimal digits".into())
}

/// The digests of the target of a patch, for the base that it produced.
fn trusted(reading: &Reading, previous: &Path, base: &Checkpoint) -> Result<TrustedBase> {
    let patch = reading.patch(previous)?;
    let produced = |tensor: &&TensorEntry| {
        let found = base.tensor(&tensor.header.name).map(|found| found.spec());
        found == tensor.header.spec.as_ref()
    };
    match patch.tensors().iter().find(|tensor| !produced(tensor)) {
        None => Ok(patch.trusted_target()),
        Some(tensor) => {
            Err(Failure::NotProduced { patch: previous.into(), tensor: tensor.header.name.clone() })
        }
    }
}

/// Both have tensors, and none of the same name: the checkpoints of two models.
fn nothing_in_common(base: &Checkpoint, target: &Checkpoint) -> bool {
    let shared = base.tensors().any(|(name, _)| target.tensor(name).is_some());
    !shared && base.tensors().next().is_some() && target.tensors().next().is_some()
}

/// Bytes to go through for each tensor of either checkpoint, in the order of their names.
fn tensor_sizes(base: Option<&Checkpoint>, target: &Checkpoint) -> Vec<u64> {
    let mut sizes = BTreeMap::<&str, u64>::new();
    for (name, tensor) in base.into_iter().chain([target]).flat_map(Checkpoint::tensors) {
        let size = sizes.entry(name).or_default();
        *size = tensor.spec().bytes().max(*size);
    }
    sizes.into_values().collect()
}

/// The files that travel whole, the largest first.
fn carried(report: &DiffReport) -> String {
    let mut files: Vec<_> = report.carried.iter().collect();
    files.sort_by_key(|file| (Reverse(file.bytes), &file.name));
    let names: Vec<String> =
        files.iter().map(|file| format!("{} {}", file.name, text::bytes(file.bytes))).collect();
    text::list(&names)
}

/// What of the target is not in the patch.
fn notes(target: &Checkpoint) -> Vec<String> {
    let mut notes = Vec::new();
    if !target.left_out().is_empty() {
        let names: Vec<String> = target.left_out().iter().map(LeftOut::to_string).collect();
        notes.push(format!("left out: {}", text::list(&names)));
    }
    if !target.absent().is_empty() {
        let names = text::list(target.absent());
        notes.push(format!("the index lists tensors that no file has: {names}"));
    }
    notes
}

impl Diff {
    fn options(&self, common: &Common, base: Option<&Checkpoint>) -> Result<DiffOptions> {
        let mut lineage = Lineage::default();
        (lineage.run, lineage.base_step, lineage.target_step) =
            (self.run, self.base_step, self.step);
        let options = DiffOptions::from(self.writing.options().with_lineage(lineage));
        let (Some(previous), Some(base)) = (&self.base_patch, base) else { return Ok(options) };
        let trusted = trusted(&self.reading, previous, base)?;
        if self.check {
            let progress = Progress::new(common, "check", base.tensor_bytes());
            let checked = trusted.check(base, progress.control());
            checked.map_err(|error| self.of_producer(error.into()))?;
        }
        Ok(options.with_trusted_base(trusted).with_sample(!self.check))
    }

    /// With --base-patch, a wrong base is one that this patch has not produced.
    fn of_producer(&self, failure: Failure) -> Failure {
        match (failure, &self.base_patch) {
            (Failure::Library { error, hint: None }, Some(previous)) => match *error {
                Error::BaseMismatch(mut mismatch) => {
                    mismatch.file = Some(previous.clone());
                    Failure::hinted(Error::BaseMismatch(mismatch), USE_ITS_PRODUCER)
                }
                other => other.into(),
            },
            (failure, _) => failure,
        }
    }

    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let (base, target) = match (self.snapshot, &self.second) {
            (true, None) => (None, &self.first),
            (true, Some(_)) => return usage("--snapshot takes one checkpoint: a snapshot has no base"),
            (false, Some(target)) => (Some(&self.first), target),
            (false, None) => {
                return usage("diff takes two checkpoints, BASE and TARGET; use --snapshot for a patch without a base")
            }
        };
        self.writing.check()?;
        streams::check_output(&self.output, common)?;
        let inputs: Vec<&Path> = [Some(target), base, self.base_patch.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        let started = Instant::now();
        let mut base = base.map(|path| streams::checkpoint(path)).transpose()?;
        let mut target = streams::checkpoint(target)?;
        // What does not travel is no companion of the base either: it is not removed.
        base.as_mut().into_iter().for_each(|base| _ = self.beside.select(base));
        let included = self.beside.select(&mut target);
        let options = self.options(common, base.as_ref())?;
        let nothing_in_common = base.as_ref().is_some_and(|base| nothing_in_common(base, &target));
        // With --json, standard error is for a failure alone.
        if !common.quiet && !common.json {
            notes(&target).iter().for_each(|note| text::note(note));
            if !included.is_empty() {
                text::note(&format!("included, and left out otherwise: {}", text::list(&included)));
            }
            let kept = self.beside.kept(&target);
            if !kept.is_empty() {
                let names = text::list(&kept);
                text::note(&format!("--exclude leaves out no files with tensors: {names}"));
            }
            if nothing_in_common {
                text::note(
                    "BASE and TARGET have no tensor in common: the patch carries all of TARGET",
                );
            }
        }
        let progress = Progress::of_tensors(common, "diff", &tensor_sizes(base.as_ref(), &target));
        let report = streams::write_patch(&self.output, existing(self.force), &inputs, |out| {
            pulse::checkpoint::diff(base.as_ref(), &target, out, options, progress.control())
        });
        let report = report.map_err(|failure| self.of_producer(failure))?;
        drop(progress);
        let mut outcome = self.outcome(&report, started.elapsed().as_secs_f64());
        outcome.is_aside = streams::is_stream(&self.output);
        let left_out = |out: &LeftOut| json!({ "name": out.name, "reason": out.reason.name() });
        outcome.json["left_out"] = target.left_out().iter().map(left_out).collect();
        outcome.json["included"] = json!(included);
        outcome.json["absent"] = json!(target.absent());
        outcome.json["nothing_in_common"] = json!(nothing_in_common);
        Ok(outcome)
    }

    /// The patch as the command that applies it names it.
    fn written(&self) -> String {
        if streams::is_stream(&self.output) {
            "-".into()
        } else {
            text::shell(&self.output)
        }
    }

    fn outcome(&self, report: &DiffReport, seconds: f64) -> Outcome {
        let footer = report.summary.footer;
        let (patch_bytes, full) = (report.summary.patch_bytes, report.target_file_bytes);
        let bits = 8.0 * text::ratio(patch_bytes, footer.changes);
        let (tensors, tensors_json) = tensor_counts(&report.actions, &footer);
        let throughput = footer.target_bytes as f64 / seconds;
        let transfer = |megabits, line| {
            let time = |bytes| text::seconds(text::transfer(bytes, megabits));
            format!("{} instead of {} at {line}", time(patch_bytes), time(full))
        };
        let base = if self.snapshot { String::new() } else { text::shell(&self.first) + " " };
        let mut facts = vec![
            ("patch", self.output.display().to_string()),
            ("tensors", tensors),
            ("changes", changes(&footer)),
            ("size", text::size(patch_bytes, full, &format!("full {}", text::bytes(full)))),
            ("per change", format!("{bits:.2} bits")),
            (
                "transfer",
                format!("{}, {}", transfer(100.0, "100 Mbit/s"), transfer(1000.0, "1 Gbit/s")),
            ),
            ("time", format!("{}, {}/s", text::seconds(seconds), text::bytes(throughput as u64))),
            ("target", footer.target.to_string()),
            ("to apply", format!("pulse apply {base}{} -o OUT", self.written())),
        ];
        if !report.removed.is_empty() {
            facts.insert(3, ("removed", text::list(&report.removed)));
        }
        if !report.carried.is_empty() {
            // After the tensors and changes: what else is in the patch.
            facts.insert(3, ("carried", carried(report)));
        }
        let text = text::facts(&facts);
        let json = json!({
            "patch": self.output.display().to_string(),
            "patch_bytes": patch_bytes,
            "target_file_bytes": full,
            "changes": footer.changes,
            "target_elements": footer.target_elements,
            "target_bytes": footer.target_bytes,
            "density": text::ratio(footer.changes, footer.target_elements),
            "bits_per_change": bits,
            "tensors": tensors_json,
            "carried": report.carried.iter()
                .map(|file| json!({ "name": file.name, "bytes": file.bytes }))
                .collect::<Vec<_>>(),
            "removed": report.removed,
            "base_digest": footer.base.map(|digest| digest.to_string()),
            "target_digest": footer.target.to_string(),
            "seconds_100_mbit": text::transfers(full, patch_bytes, 100.0),
            "seconds_1_gbit": text::transfers(full, patch_bytes, 1000.0),
            "seconds": seconds,
        });
        Outcome::new(text, json)
    }
}
