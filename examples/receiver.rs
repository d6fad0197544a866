//! A receiver that keeps weights in memory up to date from a directory of patches.
//!
//! `cargo run --release --example receiver -- DIR STEP` reads what the example `trainer` writes, as it
//! is written, until the weights are those of STEP. A lost patch is no disaster: the next one says
//! that its base is another, and the receiver starts again from the newest anchor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pulse::dtype::TensorSpec;
use pulse::hash::tensor_digest;
use pulse::tensors::{ApplyReport, Control, TensorMut, WeightsMut};
use pulse::{Decoder, Error, Event, Limits, Patch};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The weights: for each tensor what it is, and its little-endian bytes.
type Weights = BTreeMap<String, (TensorSpec, Vec<u8>)>;

/// How long to wait for the next patch.
const PATIENCE: Duration = Duration::from_secs(30);

struct Receiver {
    dir: PathBuf,
    step: u64,
    weights: Weights,
}

/// All weights from a snapshot, event by event: nothing else than the weights is held in memory.
fn load(path: &Path) -> Result<Weights> {
    let mut decoder = Decoder::new(BufReader::new(File::open(path)?), Limits::default());
    let (mut weights, mut name, mut bytes) = (Weights::new(), String::new(), Vec::new());
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Header(header) if !header.snapshot => return Err("an anchor must be a snapshot".into()),
            Event::Tensor(header) => {
                name.clone_from(&header.name);
                let spec = header.spec.clone().ok_or("a snapshot deletes nothing")?;
                weights.insert(name.clone(), (spec, Vec::new()));
            }
            Event::Block(block) => {
                // Memory grows with what arrives, not with what a header claims.
                let start = bytes.len();
                bytes.resize(usize::try_from(block.range().end)?, 0);
                block.apply(&mut bytes[start..])?;
            }
            // Nothing is right until its digest says so.
            Event::TensorEnd(end) => {
                if end.target != Some(tensor_digest(&bytes)) {
                    return Err(format!("tensor {name:?} is damaged; get the anchor again").into());
                }
                if let Some(tensor) = weights.get_mut(&name) {
                    tensor.1 = std::mem::take(&mut bytes);
                }
            }
            _ => {}
        }
    }
    decoder.finish()?;
    Ok(weights)
}

impl Receiver {
    /// Starts from the newest anchor.
    fn new(dir: &Path) -> Result<Self> {
        let mut receiver = Receiver { dir: dir.into(), step: 0, weights: Weights::new() };
        receiver.restart()?;
        Ok(receiver)
    }

    fn restart(&mut self) -> Result<()> {
        let step = *self.steps(".anchor.pulse")?.last().ok_or("there is no anchor; start the trainer first")?;
        self.weights = load(&self.dir.join(format!("{step}.anchor.pulse")))?;
        self.step = step;
        println!("anchor of step {step}: {} tensors", self.weights.len());
        Ok(())
    }

    /// The steps of the files that end so, in order.
    fn steps(&self, suffix: &str) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let step: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(suffix)?.parse().ok());
            steps.extend(step);
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Waits for a patch that is newer than the weights.
    fn wait(&self) -> Result<u64> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(&next) = self.steps(".pulse")?.iter().find(|&&step| step > self.step) {
                return Ok(next);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("no patch came after step {}", self.step).into())
    }

    /// Changes the weights in place. The result is verified before the first byte is touched, so that
    /// after an error the weights are what they were.
    fn apply(&mut self, step: u64) -> pulse::Result<ApplyReport> {
        let patch = Patch::open(self.dir.join(format!("{step}.pulse")), Limits::default())?;
        let tensors = self.weights.iter_mut();
        let held = tensors.map(|(name, (spec, bytes))| Ok((name.as_str(), TensorMut::new(spec.clone(), bytes)?)));
        patch.apply_to(&mut held.collect::<pulse::Result<WeightsMut>>()?, Control::default())
    }

    fn follow(&mut self, last: u64) -> Result<()> {
        while self.step < last {
            let next = self.wait()?;
            match self.apply(next) {
                Ok(report) => {
                    self.step = next;
                    println!("step {next}: {} changes, target {}", report.changes, report.target);
                }
                // A patch was lost, or the weights are of another run. An anchor needs neither.
                Err(error @ Error::BaseMismatch { .. }) => {
                    println!("step {next}: {error}");
                    let before = self.step;
                    self.restart()?;
                    if self.step <= before {
                        return Err("no newer anchor has come yet; try again later".into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let usage = "usage: receiver DIR STEP";
    let mut args = std::env::args().skip(1);
    let (dir, last) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?.parse()?);
    Receiver::new(Path::new(&dir))?.follow(last)
}
