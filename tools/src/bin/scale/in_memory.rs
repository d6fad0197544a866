//! Weights in memory, as an inference process has them: the library beside what the field does today,
//! dense XOR with zstd 1 for each tensor and a checksum of 64 bits, from memory to memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::tensor_digest;
use pulse::tensors::{
    diff, Control, DiffOptions, PrepareOptions, TensorMut, TensorRef, Weights, WeightsMut,
};
use pulse::{Limits, Patch};
use xxhash_rust::xxh3::xxh3_64;

use crate::measure::Run;
use crate::pair::{Layout, Pair};
use crate::Result;

/// A command of this section, and what each round of it took.
pub type Row = (&'static str, Vec<Run>);

const THREADS: usize = 2;

/// Tensors by name.
type Model = BTreeMap<String, Vec<u8>>;

/// The tensors of a file that [`Pair`] has made.
fn read(path: &Path, layout: Layout) -> Result<Model> {
    let mut bytes = fs::read(path)?;
    let mut tensors = Model::new();
    for number in (0..layout.tensors).rev() {
        let begin = bytes.len() - layout.tensor_bytes;
        tensors.insert(format!("layers.{number:05}.weight"), bytes.split_off(begin));
    }
    Ok(tensors)
}

fn spec(layout: Layout) -> Result<TensorSpec> {
    Ok(TensorSpec::new(Dtype::Bf16, &[(layout.tensor_bytes / 2) as u64])?)
}

fn weights<'a>(model: &'a Model, spec: &TensorSpec) -> Result<Weights<'a>> {
    let tensors = model.iter();
    Ok(tensors
        .map(|(name, bytes)| Ok((name.as_str(), TensorRef::new(spec.clone(), bytes)?)))
        .collect::<pulse::Result<_>>()?)
}

fn weights_mut<'a>(model: &'a mut Model, spec: &TensorSpec) -> Result<WeightsMut<'a>> {
    let tensors = model.iter_mut();
    Ok(tensors
        .map(|(name, bytes)| Ok((name.as_str(), TensorMut::new(spec.clone(), bytes)?)))
        .collect::<pulse::Result<_>>()?)
}

/// Does something with each item, on all threads, and keeps the results in their order.
fn on_all<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (items, done) = (Mutex::new(items.into_iter().enumerate()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| loop {
                let next = items.lock().expect("no work panics").next();
                let Some((at, item)) = next else { return };
                let result = work(item);
                done.lock().expect("no work panics").push((at, result));
            });
        }
    });
    let mut done = done.into_inner().expect("no work panics");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A tensor as its bits that differ, and a checksum of what it becomes.
struct Dense {
    packed: Vec<u8>,
    checksum: u64,
}

fn xor(one: &mut [u8], other: &[u8]) {
    one.iter_mut().zip(other).for_each(|(one, other)| *one ^= other);
}

fn encode_dense(base: &Model, target: &Model) -> Vec<Dense> {
    let pairs = base.values().zip(target.values()).collect();
    on_all(pairs, |(base, target): (&Vec<u8>, &Vec<u8>)| {
        let mut bits = base.clone();
        xor(&mut bits, target);
        let packed = zstd::bulk::compress(&bits, 1).expect("compression into memory");
        Dense { packed, checksum: xxh3_64(target) }
    })
}

/// Changes the weights where they are; whether they are right then.
fn apply_dense(weights: &mut Model, dense: &[Dense]) -> bool {
    let pairs = weights.values_mut().zip(dense).collect();
    let right = on_all(pairs, |(weights, dense): (&mut Vec<u8>, &Dense)| {
        let bits = zstd::bulk::decompress(&dense.packed, weights.len()).expect("what was packed");
        xor(weights, &bits);
        xxh3_64(weights) == dense.checksum
    });
    right.into_iter().all(|right| right)
}

fn timed<T>(runs: &mut Vec<Run>, act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = act();
    runs.push(Run { seconds: begin.elapsed().as_secs_f64(), peak: None });
    done
}

/// Runs everything so many times, on two threads; the last line says what the patches weigh.
pub fn run(pair: &Pair, rounds: usize) -> Result<(Vec<Row>, String)> {
    let layout = pair.layout;
    let spec = spec(layout)?;
    let [base, target] = ["base", "target"].map(|name| read(&pair.path(name), layout));
    let (base, target) = (base?, target?);
    let mut held = base.clone();
    let control = Control::threads(THREADS);
    let mut rows = [
        "hash",
        "dense XOR: encode",
        "dense XOR: apply and check",
        "tensors::diff",
        "Patch::prepare",
        "Prepared::commit",
        "Patch::apply_to",
    ]
    .map(|name| (name, Vec::new()));
    let (mut dense_bytes, mut patch_bytes) = (0, 0);
    for _ in 0..=rounds {
        let [hash, encode, apply, diffed, prepare, commit, apply_to] =
            rows.each_mut().map(|row| &mut row.1);
        timed(hash, || on_all(target.values().collect(), |bytes: &Vec<u8>| tensor_digest(bytes)));
        let dense = timed(encode, || encode_dense(&base, &target));
        dense_bytes = dense.iter().map(|tensor| tensor.packed.len()).sum();
        if !timed(apply, || apply_dense(&mut held, &dense)) || held != target {
            return Err("dense XOR made other weights".into());
        }
        restore(&mut held, &base);
        let (from, to) = (weights(&base, &spec)?, weights(&target, &spec)?);
        let mut patch = Vec::new();
        timed(diffed, || diff(Some(&from), &to, &mut patch, DiffOptions::default(), control))?;
        patch_bytes = patch.len();
        let patch = Patch::from_bytes(patch, Limits::default())?;
        {
            let mut own = weights_mut(&mut held, &spec)?;
            let prepared =
                timed(prepare, || patch.prepare(&own, PrepareOptions::default(), control))?;
            timed(commit, || prepared.commit(&mut own, control))?;
        }
        if held != target {
            return Err("another result".into());
        }
        restore(&mut held, &base);
        let mut own = weights_mut(&mut held, &spec)?;
        timed(apply_to, || patch.apply_to(&mut own, control))?;
        drop(own);
        restore(&mut held, &base);
    }
    let note = format!(
        "in memory: dense XOR {dense_bytes} bytes, {:.1} times the {patch_bytes} of the patch\n",
        dense_bytes as f64 / patch_bytes as f64
    );
    Ok((rows.into(), note))
}

fn restore(held: &mut Model, base: &Model) {
    held.values_mut().zip(base.values()).for_each(|(held, base)| held.copy_from_slice(base));
}
