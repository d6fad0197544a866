//! A trainer that publishes a patch after every optimizer step, from weights in memory.
//!
//! `cargo run --release --example trainer -- DIR [STEPS]` writes `DIR/0.anchor.pulse` (all weights, for
//! receivers that start), then `DIR/1.pulse`, `DIR/2.pulse` … (what each step changed), and another
//! anchor every four steps, for receivers that come late or lost a patch. The example `receiver`
//! reads such a directory. Started again on it, the trainer goes on after the last patch there.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use pulse::checkpoint::{write_whole, Existing};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{tensor_digest, CheckpointHasher, Digest};
use pulse::stream::{EncoderOptions, Lineage, TrustedBase};
use pulse::tensors::{self, Control, DiffOptions, TensorRef, TensorSource};
use pulse::{Limits, Patch};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Steps from one anchor to the next: what a late receiver downloads at most, beside the anchor.
const ANCHOR_EVERY: u64 = 4;

/// The weights as receivers hold them: little-endian bytes of each tensor.
type Weights = BTreeMap<String, (TensorSpec, Vec<u8>)>;

/// Stands for your model and optimizer: FP32 masters that move by about the learning rate.
struct Model {
    masters: BTreeMap<String, Vec<f32>>,
    noise: u64,
}

impl Model {
    fn new() -> Self {
        let mut model = Model { masters: BTreeMap::new(), noise: 1 };
        for (name, elements) in
            [("embed.weight", 200_000), ("layer.0.weight", 100_000), ("norm.weight", 500)]
        {
            let master = (0..elements).map(|_| 0.05 * model.random()).collect();
            model.masters.insert(name.into(), master);
        }
        model
    }

    /// Between -1 and 1.
    fn random(&mut self) -> f32 {
        self.noise = self.noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.noise >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn step(&mut self) {
        let mut masters = std::mem::take(&mut self.masters);
        masters.values_mut().flatten().for_each(|master| *master += 1e-6 * self.random());
        self.masters = masters;
    }

    /// The masters cast to BF16. Most updates vanish here: that is why patches are small.
    fn weights(&self) -> Result<Weights> {
        let mut weights = Weights::new();
        for (name, master) in &self.masters {
            let spec = TensorSpec::new(Dtype::Bf16, &[master.len() as u64])?;
            let bytes = master
                .iter()
                .flat_map(|&weight| half::bf16::from_f32(weight).to_le_bytes())
                .collect();
            weights.insert(name.clone(), (spec, bytes));
        }
        Ok(weights)
    }
}

/// The weights by reference: nothing is copied.
fn source(weights: &Weights) -> pulse::Result<tensors::Weights<'_>> {
    weights
        .iter()
        .map(|(name, (spec, bytes))| Ok((name.as_str(), TensorRef::new(spec.clone(), bytes)?)))
        .collect()
}

/// Checkpoint digest of the weights.
fn digest(weights: &Weights) -> pulse::Result<Digest> {
    let mut hasher = CheckpointHasher::new();
    weights.iter().for_each(|(name, (spec, bytes))| hasher.add(name, spec, tensor_digest(bytes)));
    hasher.finish()
}

/// Writes patches, and remembers the digests of what it wrote.
struct Publisher {
    dir: PathBuf,
    /// Tells this run from others, so that nobody mixes their patches by mistake.
    run: [u8; 16],
    /// The digests of the weights published last.
    trusted: TrustedBase,
}

impl Publisher {
    /// A patch that needs no base.
    fn anchor(&mut self, step: u64, weights: &Weights) -> Result<()> {
        let lineage = Lineage::default().with_run(self.run).with_target_step(step);
        let options = EncoderOptions::default().with_lineage(lineage);
        self.write(&format!("{step}.anchor.pulse"), None, weights, options.into())
    }

    /// What one step changed. The base was hashed when it was the target of the patch before, and
    /// is not hashed again: its digests are taken on trust. A wrong one would make a patch that
    /// every receiver refuses, never a wrong model.
    fn patch(&mut self, step: u64, base: &Weights, target: &Weights) -> Result<()> {
        let encoder = EncoderOptions::default().with_run(self.run).with_steps(step - 1, step);
        let options = DiffOptions::from(encoder).with_trusted_base(self.trusted.clone());
        self.write(&format!("{step}.pulse"), Some(base), target, options)
    }

    fn write(
        &mut self,
        name: &str,
        base: Option<&Weights>,
        weights: &Weights,
        options: DiffOptions,
    ) -> Result<()> {
        let (base, target) = (base.map(source).transpose()?, source(weights)?);
        let base = base.as_ref().map(|base| base as &dyn TensorSource);
        // The file appears whole or not at all: receivers that watch the directory never see half.
        let path = self.dir.join(name);
        let published = path.exists();
        if !published {
            let diff = |file: &mut dyn Write| {
                tensors::diff(base, &target, file, options, Control::default())
            };
            write_whole(&path, Existing::Refuse, &[], diff)?;
        }

        // Read back, so that what is on the disk is known to be right; this gives the digests of
        // the tensors that changed. Those of the others stay what they were.
        let patch = Patch::open(&path, Limits::default())?;
        let written = patch.trusted_target();
        self.trusted.checkpoint = written.checkpoint;
        self.trusted.tensors.extend(written.tensors);

        let footer = patch.footer();
        if published {
            // This run was started again. What receivers may have seen stays, if it leads here.
            if footer.target != digest(weights)? {
                return Err(format!(
                    "{} is of another run; give a directory of its own",
                    path.display()
                )
                .into());
            }
            println!("{name}: published before, target {}", footer.target);
            return Ok(());
        }
        let bytes = path.metadata()?.len();
        let smaller = footer.target_bytes as f64 / bytes as f64;
        println!(
            "{name}: {bytes} bytes, {smaller:.1} times smaller than the weights, target {}",
            footer.target
        );
        Ok(())
    }
}

fn train(dir: &Path, steps: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut publisher =
        Publisher { dir: dir.into(), run: *b"example run 0001", trusted: TrustedBase::default() };
    let mut model = Model::new();
    let mut base = model.weights()?;
    publisher.anchor(0, &base)?;
    for step in 1..=steps {
        model.step();
        let target = model.weights()?;
        publisher.patch(step, &base, &target)?;
        if step.is_multiple_of(ANCHOR_EVERY) {
            publisher.anchor(step, &target)?;
        }
        // Only now, with the patch published, is the new checkpoint the base of the next.
        base = target;
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: trainer DIR [STEPS]")?;
    train(Path::new(&dir), args.next().map_or(Ok(6), |steps| steps.parse())?)
}
