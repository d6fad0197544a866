//! A model in memory that is trained: the same weights at the same step in every process.
use std::collections::BTreeMap;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::tensors::{TensorMut, TensorRef, Weights, WeightsMut};

/// MiB of each tensor.
pub const TENSOR_MIB: usize = 16;

/// Weights by name: BF16.
#[derive(Debug, Clone)]
pub struct Trained {
    tensors: BTreeMap<String, Vec<u8>>,
    step: u64,
}

fn spec(bytes: &[u8]) -> pulse::Result<TensorSpec> {
    TensorSpec::new(Dtype::Bf16, &[bytes.len() as u64 / 8192, 4096])
}

impl Trained {
    /// A model of so many MiB, at step 0.
    #[must_use]
    pub fn new(mib: usize) -> Self {
        let tensor = |number: usize| {
            let mut state = number as u64 + 1;
            let mut bytes = Vec::with_capacity(TENSOR_MIB << 20);
            while bytes.len() < TENSOR_MIB << 20 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Around 0.02, as weights are.
                let value = ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 0.03;
                bytes.extend_from_slice(&half::bf16::from_f32(value).to_le_bytes());
            }
            (format!("layers.{number:03}.weight"), bytes)
        };
        Trained { tensors: (0..mib.div_ceil(TENSOR_MIB)).map(tensor).collect(), step: 0 }
    }

    /// What a follower made.
    #[must_use]
    pub fn of(tensors: BTreeMap<String, (TensorSpec, Vec<u8>)>) -> Self {
        let tensors = tensors.into_iter().map(|(name, (_, bytes))| (name, bytes)).collect();
        Trained { tensors, step: 0 }
    }

    /// The step that it is at.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// One step of training: a share of the elements moves to a neighbour.
    pub fn train(&mut self, density: f64) {
        self.step += 1;
        let mut state = self.step.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for bytes in self.tensors.values_mut() {
            let mut at = 0;
            loop {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let uniform = (state >> 11) as f64 / 9_007_199_254_740_992.0;
                at += 1 + ((1.0 - uniform).ln() / (1.0 - density).ln()) as usize;
                let Some(element) = bytes.get_mut(2 * at..2 * at + 2) else { break };
                let value = u16::from_le_bytes([element[0], element[1]]);
                let is_up = state & 1 == 0;
                let moved = if is_up { value.wrapping_add(1) } else { value.wrapping_sub(1) };
                element.copy_from_slice(&moved.to_le_bytes());
            }
        }
    }

    /// To be read.
    ///
    /// # Errors
    /// None, for tensors that this made.
    pub fn refs(&self) -> pulse::Result<Weights<'_>> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, bytes)| Ok((name, TensorRef::new(spec(bytes)?, bytes)?))).collect()
    }

    /// To be written.
    ///
    /// # Errors
    /// None, for tensors that this made.
    pub fn muts(&mut self) -> pulse::Result<WeightsMut<'_>> {
        let tensors = self.tensors.iter_mut();
        tensors
            .map(|(name, bytes)| Ok((name.clone(), TensorMut::new(spec(bytes)?, bytes)?)))
            .collect()
    }
}
