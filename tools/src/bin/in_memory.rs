//! Times what the library does with two checkpoints that are in memory: diff, prepare and commit. What it prints is what
//! bindings to other languages compare themselves with (`python/bench.py`).
//!
//! ```sh
//! cargo run --release -p pulse-tools --bin in_memory -- base.safetensors target.safetensors THREADS ROUNDS
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use pulse::dtype::TensorSpec;
use pulse::tensors::{
    diff, Control, DiffOptions, PrepareOptions, TensorMut, TensorRef, TensorSource, Weights,
    WeightsMut,
};
use pulse::{Checkpoint, Limits, Patch};

/// Tensors by name.
type Model = BTreeMap<String, (TensorSpec, Vec<u8>)>;

fn read(path: &str) -> pulse::Result<Model> {
    let checkpoint = Checkpoint::open(path)?;
    let mut model = Model::new();
    for (name, tensor) in checkpoint.tensors() {
        let mut bytes = vec![0; usize::try_from(tensor.spec().bytes()).unwrap_or(usize::MAX)];
        checkpoint.read(name, 0, &mut bytes)?;
        model.insert(name.into(), (tensor.spec().clone(), bytes));
    }
    Ok(model)
}

fn weights(model: &Model) -> pulse::Result<Weights<'_>> {
    let tensors = model.iter();
    tensors
        .map(|(name, (spec, bytes))| Ok((name.as_str(), TensorRef::new(spec.clone(), bytes)?)))
        .collect()
}

fn weights_mut(model: &mut Model) -> pulse::Result<WeightsMut<'_>> {
    let tensors = model.iter_mut();
    tensors
        .map(|(name, (spec, bytes))| Ok((name.as_str(), TensorMut::new(spec.clone(), bytes)?)))
        .collect()
}

/// The least of what was measured, and what was done.
fn timed<T>(least: &mut f64, act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = act();
    *least = least.min(begin.elapsed().as_secs_f64());
    done
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, target, threads, rounds] = arguments.as_slice() else {
        return Err("usage: in_memory BASE TARGET THREADS ROUNDS".into());
    };
    let (base, target) = (read(base)?, read(target)?);
    let control = Control::threads(threads.parse()?);
    let [mut diffed, mut prepared, mut committed] = [f64::INFINITY; 3];
    let mut bytes = 0;
    for _ in 0..rounds.parse::<usize>()? {
        let mut patch = Vec::new();
        timed(&mut diffed, || {
            let (base, target) = (weights(&base)?, weights(&target)?);
            diff(Some(&base), &target, &mut patch, DiffOptions::default(), control)
        })?;
        bytes = patch.len();
        let patch = Patch::from_bytes(patch, Limits::default())?;
        let mut model = base.clone();
        let mut held = weights_mut(&mut model)?;
        let ready =
            timed(&mut prepared, || patch.prepare(&held, PrepareOptions::default(), control))?;
        timed(&mut committed, || ready.commit(&mut held, control))?;
    }
    println!(
        "{}",
        serde_json::json!({ "bytes": bytes, "diff": diffed, "prepare": prepared, "commit": committed })
    );
    Ok(())
}
