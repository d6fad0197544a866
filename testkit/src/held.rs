//! Weights in memory, as a caller keeps them.

use std::collections::BTreeMap;

use pulse::dtype::TensorSpec;
use pulse::tensors::{TensorMut, TensorRef, Weights, WeightsMut};

/// Tensors by name.
pub type Tensors = BTreeMap<String, (TensorSpec, Vec<u8>)>;

pub fn refs(tensors: &Tensors) -> Weights<'_> {
    tensors
        .iter()
        .map(|(name, (spec, bytes))| (name.as_str(), TensorRef::new(spec.clone(), bytes).unwrap()))
        .collect()
}

pub fn muts(tensors: &mut Tensors) -> WeightsMut<'_> {
    let held = tensors.iter_mut();
    held.map(|(name, (spec, bytes))| (name.as_str(), TensorMut::new(spec.clone(), bytes).unwrap()))
        .collect()
}
