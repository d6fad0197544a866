//! A receiver that keeps weights in memory up to date from a directory of patches.
//!
//! `cargo run --release --example receiver -- DIR STEP` reads what the example `trainer` writes, as
//! it is written, until the weights are those of STEP. It works as `docs/guide/chains.md` says: it
//! goes by the digest that it holds and by the step that it has reached, never by names of files.
//! Where a patch is missing it waits for it, or for an anchor that is newer than its weights.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pulse::dtype::TensorSpec;
use pulse::hash::Digest;
use pulse::stream::Received;
use pulse::stream::Receiver;
use pulse::{Decoder, Event, Limits};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long to wait for the next patch.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a patch leads, and from where.
#[derive(Clone, Copy)]
struct Link {
    step: u64,
    /// Digest of the base; none for an anchor.
    base: Option<Digest>,
}

/// Reads what a patch says of itself. This also proves that the file has come in full.
fn link(path: &Path) -> Result<Link> {
    let mut decoder = Decoder::new(BufReader::new(File::open(path)?), Limits::default());
    let (mut step, mut base) = (None, None);
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Header(header) => step = header.target_step,
            Event::End(footer) => base = footer.base,
            _ => {}
        }
    }
    decoder.finish()?;
    let step = step.ok_or_else(|| format!("{} does not say its step", path.display()))?;
    Ok(Link { step, base })
}

/// Weights that follow a trainer.
struct Follower {
    dir: PathBuf,
    /// The patches seen so far.
    links: BTreeMap<PathBuf, Link>,
    /// For each tensor what it is, and its little-endian bytes.
    weights: BTreeMap<String, (TensorSpec, Vec<u8>)>,
    /// Digest and step of the weights; none before the first anchor.
    held: Option<(Digest, u64)>,
}

impl Follower {
    fn new(dir: &Path) -> Self {
        Follower { dir: dir.into(), links: BTreeMap::new(), weights: BTreeMap::new(), held: None }
    }

    /// Reads the patches that are new in the directory. They are renamed into place when complete.
    fn look(&mut self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_patch = path.extension().is_some_and(|extension| extension == "pulse");
            if is_patch && !self.links.contains_key(&path) {
                let link = link(&path)?;
                self.links.insert(path, link);
            }
        }
        Ok(())
    }

    /// The newest patch for the weights as they are, or else the newest anchor. Both lead to a
    /// greater step, so that every round either raises the step or waits.
    fn next(&self) -> Option<(PathBuf, Link)> {
        let newer = |link: &Link| self.held.is_none_or(|(_, step)| link.step > step);
        let find = |base: Option<Digest>| {
            let found = self.links.iter().filter(|(_, link)| link.base == base && newer(link));
            found.max_by_key(|(_, link)| link.step).map(|(path, link)| (path.clone(), *link))
        };
        let patch = self.held.and_then(|(digest, _)| find(Some(digest)));
        patch.or_else(|| find(None))
    }

    /// Waits until there is something to apply.
    fn wait(&mut self) -> Result<(PathBuf, Link)> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.look()?;
            if let Some(next) = self.next() {
                return Ok(next);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        match self.held {
            Some((_, step)) => {
                Err(format!("neither a patch for step {step} nor a newer anchor came").into())
            }
            None => Err("there is no anchor; start the trainer first".into()),
        }
    }

    /// Applies a patch, or loads an anchor. The weights change only if all of it is verified.
    fn apply(&mut self, path: &Path) -> Result<Received> {
        let mut receiver = Receiver::in_memory(&mut self.weights, Limits::default())?;
        receiver.read_from(File::open(path)?)?;
        Ok(receiver.finish()?)
    }

    fn follow(&mut self, last: u64) -> Result<()> {
        while self.held.is_none_or(|(_, step)| step < last) {
            let (path, Link { step, base }) = self.wait()?;
            let received = self.apply(&path)?;
            self.held = Some((received.target(), step));
            match base {
                None => println!("anchor of step {step}: {} tensors", self.weights.len()),
                Some(_) => println!(
                    "step {step}: {} changes, target {}",
                    received.footer.changes,
                    received.target()
                ),
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let usage = "usage: receiver DIR STEP";
    let mut args = std::env::args().skip(1);
    let (dir, last) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?.parse()?);
    Follower::new(Path::new(&dir)).follow(last)
}
