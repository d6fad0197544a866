//! `pulse demo`: every step on a small model that trains as you watch, and then live.

mod live;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use pulse::checkpoint::{write_whole, ApplyOptions, Existing, FilePolicy};
use pulse::error::Occupant;
use pulse::patch::Inventory;
use pulse::stream::EncoderOptions;
use pulse::{Checkpoint, Error, Limits, Patch};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::outcome::{Common, Outcome};
use crate::progress::control;
use crate::signals;
use crate::simulation::Simulation;
use crate::text;

/// Train a small simulated model and synchronise it by patches, with the real code.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse demo
  pulse demo --megabytes 512 --steps 2
  pulse demo --megabytes 8 --keep run
  pulse demo --store s3://bucket/demo")]
pub struct Demo {
    /// Size of the BF16 weights.
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    megabytes: u64,
    /// Optimizer steps, with a patch for each.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Learning rate of Adam.
    #[arg(long, value_name = "RATE", default_value_t = 1e-6)]
    learning_rate: f32,
    /// Keep checkpoints and patches in this new directory, to try the other commands on them, and end without the
    /// live part.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// End without the live part: one process that publishes and three that follow.
    #[arg(long)]
    no_live: bool,
    /// Publish the live part below this address instead of into a directory. It stays there.
    #[arg(long, value_name = "URL", conflicts_with_all = ["no_live", "keep"])]
    store: Option<String>,
    /// The words that start this program, where its own file is not enough.
    #[arg(long, value_name = "WORD", hide = true, num_args = 1.., value_delimiter = ' ')]
    program: Vec<String>,
}

/// One patch of the demo.
struct Sync {
    step: u64,
    full: u64,
    patch: u64,
    changes: u64,
    elements: u64,
    diff: f64,
    apply: f64,
}

impl Demo {
    pub fn run(&self, common: &Common, program: Vec<String>) -> Result<Outcome> {
        let io = |source| Error::Io {
            doing: "working in the temporary directory".into(),
            path: None,
            source,
        };
        let say = |message: &str| {
            if !common.quiet && !common.json {
                text::note(message);
            }
        };
        let temporary = tempfile::tempdir().map_err(io)?;
        let dir = match &self.keep {
            Some(keep) => {
                std::fs::create_dir(keep).map_err(|source| {
                    let path = keep.clone();
                    if source.kind() == std::io::ErrorKind::AlreadyExists {
                        let found =
                            if path.is_dir() { Occupant::Directory } else { Occupant::File };
                        let error = Error::Exists { path, found };
                        return Failure::hinted(error, "give --keep the name of a new directory");
                    }
                    Error::Io { doing: "creating".into(), path: Some(path), source }.into()
                })?;
                keep
            }
            None => temporary.path(),
        };
        let parameters = usize::try_from(self.megabytes * 500_000).unwrap_or(usize::MAX);
        say(&format!(
            "simulating a model of {} MB of BF16 weights with FP32 masters, Adam at {:e}",
            self.megabytes, self.learning_rate
        ));
        let mut simulation = Simulation::new(parameters, self.learning_rate, 1);
        let path = |step: u64| dir.join(format!("step_{step}.safetensors"));
        simulation.save(&path(0)).map_err(io)?;
        let mut syncs = Vec::new();
        for step in 1..=self.steps {
            simulation.step();
            simulation.save(&path(step)).map_err(io)?;
            say(&format!("step {step}: diff, inspect, apply, verify"));
            let patch = dir.join(format!("{step}.pulse"));
            syncs.push(sync(
                common,
                step,
                temporary.path(),
                [&path(step - 1), &path(step), &patch],
            )?);
            if self.keep.is_none() {
                std::fs::remove_file(path(step - 1)).map_err(io)?;
            }
        }
        // Who keeps the checkpoints wants them, and nothing else.
        let live = if self.no_live || self.keep.is_some() {
            None
        } else {
            let program = self.words(program).map_err(io)?;
            Some(live::run(temporary.path(), self.store.as_deref(), program, say)?)
        };
        Ok(outcome(&syncs, live))
    }

    /// What starts this program again, if nobody asks for another.
    fn words(&self, program: Vec<String>) -> std::io::Result<Vec<String>> {
        if let Some(words) = [&self.program, &program].into_iter().find(|words| !words.is_empty()) {
            return Ok(words.clone());
        }
        let own = std::env::current_exe()?;
        let own = own.into_os_string().into_string();
        own.map(|own| vec![own])
            .map_err(|_| std::io::Error::other("the program's path is no UTF-8"))
    }
}

/// One step from trainer to receiver: everything that both sides would do.
fn sync(
    common: &Common,
    step: u64,
    dir: &Path,
    [base, target, patch_path]: [&PathBuf; 3],
) -> Result<Sync> {
    // The place it works in is removed even if it is stopped.
    let _deferred = signals::defer();
    let control = control(common.threads);
    let out = dir.join("received.safetensors");

    let started = Instant::now();
    let (base, target) = (Checkpoint::open(base)?, Checkpoint::open(target)?);
    let options = EncoderOptions::default().with_steps(step - 1, step);
    let report = write_whole(patch_path, Existing::Replace, &[], |file| {
        pulse::checkpoint::diff(Some(&base), &target, file, options.into(), control)
    })?;
    let diff = started.elapsed().as_secs_f64();

    let map = Inventory::read(patch_path, Limits::default())?;
    if let Some(error) = map.error {
        return Err(error.into());
    }

    let started = Instant::now();
    let patch = Patch::open(patch_path, Limits::default())?;
    patch.apply(
        Some(&base),
        &out,
        ApplyOptions::default().with_existing(Existing::Replace),
        control,
    )?;
    let apply = started.elapsed().as_secs_f64();

    patch.verify_target(&Checkpoint::open(&out)?, FilePolicy::Exact, control)?;
    let footer = report.summary.footer;
    Ok(Sync {
        step,
        full: report.target_file_bytes,
        patch: report.summary.patch_bytes,
        changes: footer.changes,
        elements: footer.target_elements,
        diff,
        apply,
    })
}

fn outcome(syncs: &[Sync], live: Option<(String, serde_json::Value)>) -> Outcome {
    let row = |sync: &Sync| {
        let both = |megabits| {
            format!(
                "{} / {}",
                text::seconds(text::transfer(sync.full, megabits)),
                text::seconds(text::transfer(sync.patch, megabits))
            )
        };
        vec![
            format!("{} to {}", sync.step - 1, sync.step),
            text::percent(sync.changes, sync.elements),
            text::bytes(sync.full),
            text::bytes(sync.patch),
            format!("{:.0}x", text::ratio(sync.full, sync.patch)),
            text::seconds(sync.diff),
            text::seconds(sync.apply),
            both(100.0),
            both(1000.0),
        ]
    };
    let head = [
        "step",
        "density",
        "full sync",
        "patch",
        "ratio",
        "diff",
        "apply",
        "100 Mbit/s: full / patch",
        "1 Gbit/s: full / patch",
    ];
    let table = text::table(&head, &syncs.iter().map(row).collect::<Vec<_>>());
    let mut text =
        format!("{table}\nEvery patch was applied and the result verified bit for bit.\n");
    let mut report = json!(null);
    if let Some((live_text, live)) = live {
        text.push_str(&format!("\n{live_text}"));
        report = live;
    }
    let steps: Vec<_> = syncs
        .iter()
        .map(|sync| {
            json!({
                "step": sync.step,
                "full_bytes": sync.full,
                "patch_bytes": sync.patch,
                "changes": sync.changes,
                "elements": sync.elements,
                "diff_seconds": sync.diff,
                "apply_seconds": sync.apply,
                "seconds_100_mbit": text::transfers(sync.full, sync.patch, 100.0),
                "seconds_1_gbit": text::transfers(sync.full, sync.patch, 1000.0),
            })
        })
        .collect();
    Outcome::new(text, json!({"steps": steps, "live": report}))
}
