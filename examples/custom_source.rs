//! A source of tensors of your own: BF16 weights that exist only as FP32 masters.
//!
//! `cargo run --release --example custom_source` makes a patch from the weights that receivers hold to
//! those that the masters round to, without ever holding a BF16 copy of the new weights. A source
//! may as well read a device, a database, or a file format that this crate does not know.

use std::collections::BTreeMap;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::tensors::{self, Control, DiffOptions, TensorMut, TensorRef, TensorSource, Weights, WeightsMut};
use pulse::{Error, Limits, Patch, Result};

/// FP32 masters, seen as the BF16 tensors that they round to.
struct Masters {
    tensors: BTreeMap<String, (TensorSpec, Vec<f32>)>,
}

/// Many threads ask at once, each for a range of one tensor; `&self` is all that they need.
impl TensorSource for Masters {
    /// In the order of the names, which a `BTreeMap` keeps.
    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        self.tensors.iter().map(|(name, (spec, _))| (name.as_str(), spec)).collect()
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.get(name).map(|(spec, _)| spec)
    }

    /// Bytes from `start` of the tensor, little-endian; both may be odd.
    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let beyond = || Error::Misuse(format!("{} bytes at {start} are not in tensor '{name}'", buffer.len()));
        let (_, master) = self.tensors.get(name).ok_or_else(beyond)?;
        let start = usize::try_from(start).map_err(|_| beyond())?;
        let end = start.checked_add(buffer.len()).filter(|&end| end <= 2 * master.len()).ok_or_else(beyond)?;
        for (at, byte) in (start..end).zip(buffer) {
            *byte = half::bf16::from_f32(master[at / 2]).to_le_bytes()[at % 2];
        }
        Ok(())
    }

    // `slice` stays as it is: these bytes are nowhere in memory, so there is nothing to lend.
}

fn main() -> Result<()> {
    let spec = TensorSpec::new(Dtype::Bf16, &[300, 1000])?;
    let mut master: Vec<f32> = (0..spec.elements()).map(|i| (i as f32).sin() / 20.0).collect();

    // What receivers hold: the masters of before, rounded.
    let mut held: Vec<u8> = master.iter().flat_map(|&weight| half::bf16::from_f32(weight).to_le_bytes()).collect();

    // An optimizer step.
    master.iter_mut().enumerate().for_each(|(i, weight)| *weight += 1e-6 * (i as f32).cos());
    let masters = Masters { tensors: BTreeMap::from([("layer.weight".into(), (spec.clone(), master))]) };

    // The trainer. Base and target may be sources of different kinds.
    let base: Weights = [("layer.weight", TensorRef::new(spec.clone(), &held)?)].into_iter().collect();
    let mut patch = Vec::new();
    let report = tensors::diff(Some(&base), &masters, &mut patch, DiffOptions::default(), Control::default())?;
    let footer = report.summary.footer;
    println!("{} of {} elements changed: {} bytes", footer.changes, footer.target_elements, patch.len());

    // The receiver.
    let patch = Patch::from_bytes(patch, Limits::default())?;
    let mut weights: WeightsMut = [("layer.weight", TensorMut::new(spec, &mut held)?)].into_iter().collect();
    patch.apply_to(&mut weights, Control::default())?;

    // The held bytes are now what the masters round to.
    let mut expected = vec![0; held.len()];
    masters.read("layer.weight", 0, &mut expected)?;
    assert!(held == expected, "the same bits");
    println!("applied: the same bits as the masters rounded");
    Ok(())
}
