//! The in-memory path of a process that holds the weights: `tensors::diff`, `Patch::apply_to` and its
//! two phases, a snapshot to new and to given buffers, at one thread and at all of them, and
//! one-thread SHA-256 over the same bytes, in one run.
//!
//! `cargo run --release -p pulse-tools --bin memory [-- MEGABYTES [STEPS]]`: the size of the weights, and
//! optimizer steps from base to target.

use std::collections::BTreeMap;
use std::time::Instant;

use pulse::dtype::TensorSpec;
use pulse::tensors::{
    diff, Control, DiffOptions, PrepareOptions, TensorMut, TensorRef, Weights, WeightsMut,
};
use pulse::{Checkpoint, Limits, Patch};
use pulse_cli::simulation::Simulation;
use sha2::{Digest, Sha256};

/// Name, dtype and shape, and bytes of each tensor.
type Tensors = Vec<(String, TensorSpec, Vec<u8>)>;

const ROUNDS: usize = 7;

fn load(checkpoint: &Checkpoint) -> pulse::Result<Tensors> {
    let read = |(name, tensor): (&str, &pulse::checkpoint::CheckpointTensor)| {
        let mut bytes = vec![0; usize::try_from(tensor.spec().bytes()).unwrap_or(0)];
        checkpoint.read_at(tensor, 0, &mut bytes)?;
        Ok((name.to_string(), tensor.spec().clone(), bytes))
    };
    checkpoint.tensors().map(read).collect()
}

fn refs(tensors: &Tensors) -> pulse::Result<Weights<'_>> {
    tensors
        .iter()
        .map(|(name, spec, bytes)| Ok((name.as_str(), TensorRef::new(spec.clone(), bytes)?)))
        .collect()
}

fn muts(tensors: &mut Tensors) -> pulse::Result<WeightsMut<'_>> {
    tensors
        .iter_mut()
        .map(|(name, spec, bytes)| Ok((name.as_str(), TensorMut::new(spec.clone(), bytes)?)))
        .collect()
}

fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let value = work();
    (started.elapsed().as_secs_f64(), value)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let megabytes: usize = std::env::args().nth(1).map_or(Ok(512), |text| text.parse())?;
    let steps: usize = std::env::args().nth(2).map_or(Ok(4), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let mut simulation = Simulation::new(megabytes * 500_000, 1e-6, 1);
    simulation.save(&path("base"))?;
    (0..steps).for_each(|_| simulation.step());
    simulation.save(&path("target"))?;
    let (base, target) =
        (load(&Checkpoint::open(path("base"))?)?, load(&Checkpoint::open(path("target"))?)?);
    drop(simulation);
    let bytes: usize = target.iter().map(|weight| weight.2.len()).sum();

    let all = std::thread::available_parallelism().map_or(1, usize::from);
    // One round after the other, so that a change in the machine's speed touches all figures.
    let mut times = BTreeMap::<String, Vec<f64>>::new();
    let mut snapshot = Vec::new();
    diff(None, &refs(&target)?, &mut snapshot, DiffOptions::default(), Control::default())?;
    let snapshot = Patch::from_bytes(snapshot, Limits::default())?;
    let mut density = 0.0;
    for _ in 0..ROUNDS {
        let (sha, _) = seconds(|| target.iter().map(|weight| Sha256::digest(&weight.2)[0]).max());
        times.entry("SHA-256, 1 thread".into()).or_default().push(sha);
        for threads in [1, all] {
            let control = Control::threads(threads);
            let (from, to, mut patch) = (refs(&base)?, refs(&target)?, Vec::new());
            let (time, report) =
                seconds(|| diff(Some(&from), &to, &mut patch, DiffOptions::default(), control));
            report?;
            times.entry(format!("diff, {threads} threads")).or_default().push(time);
            let patch = Patch::from_bytes(patch, Limits::default())?;
            density = patch.footer().changes as f64 / patch.footer().target_elements as f64;
            let mut weights = base.clone();
            let (time, report) = seconds(|| patch.apply_to(&mut muts(&mut weights)?, control));
            report?;
            times.entry(format!("apply_to, {threads} threads")).or_default().push(time);
            assert!(weights == target, "the weights are the target's, bit for bit");
            // With all changes held, and with none: these are decoded twice.
            for (how, max) in [("", u64::MAX), (" of none", 0)] {
                let mut weights = base.clone();
                let options = PrepareOptions::default().with_changes_bytes_max(max);
                let mut held = muts(&mut weights)?;
                let (time, prepared) = seconds(|| patch.prepare(&held, options, control));
                times.entry(format!("prepare{how}, {threads} threads")).or_default().push(time);
                let (time, report) = seconds(|| prepared?.commit(&mut held, control));
                report?;
                times.entry(format!("commit{how}, {threads} threads")).or_default().push(time);
                assert!(weights == target, "the weights are the target's, bit for bit");
            }
            let (time, made) = seconds(|| snapshot.to_memory(control));
            drop(made?);
            times.entry(format!("snapshot, new, {threads} threads")).or_default().push(time);
            let (time, report) = seconds(|| snapshot.apply_to(&mut muts(&mut weights)?, control));
            report?;
            times.entry(format!("snapshot, given, {threads} threads")).or_default().push(time);
        }
    }
    println!(
        "{} MB of BF16 weights in memory, {:.2}% changed, median of {ROUNDS} rounds",
        bytes / 1_000_000,
        100.0 * density
    );
    let sha = median(times["SHA-256, 1 thread"].clone());
    for (what, times) in &times {
        let time = median(times.clone());
        println!(
            "{what:28} {time:7.3} s  {:6.2} GB/s  {:5.2} x SHA-256",
            bytes as f64 / time / 1e9,
            time / sha
        );
    }
    for what in ["diff", "apply_to"] {
        let time = |threads| median(times[&format!("{what}, {threads} threads")].clone());
        println!("{what}: {all} threads are {:.2} times as fast as 1", time(1) / time(all));
    }
    Ok(())
}
