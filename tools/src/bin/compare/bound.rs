//! What the changes hold: the entropy of their places and steps, given the exponents of the base.

use std::collections::BTreeMap;

use pulse::changes::for_each_ulp_step;
use pulse::dtype::{Dtype, Order};
use pulse::hash::LEAF_BYTES;

use crate::elements::{unpack, Changes};
use crate::pair::Pair;

/// Bits of H(changed? | tensor, exponent of base) and of H(step | exponent of base), summed over the
/// checkpoint. Both are empirical: a code would have to carry its tables on top.
pub fn bits(pair: &Pair) -> (f64, f64) {
    let mut places = 0.0;
    let mut steps: BTreeMap<(&str, u64), BTreeMap<i64, u64>> = BTreeMap::new();
    let mut changes = Changes::default();
    for tensor in &pair.tensors {
        let (dtype, width) = (tensor.spec.dtype(), tensor.width());
        let (base, target) = pair.bytes_of(tensor);
        let (mut elements, mut changed) = ([0u64; CLASSES], [0u64; CLASSES]);
        for leaf in base.chunks(LEAF_BYTES) {
            unpack(leaf, width).iter().for_each(|&bits| elements[class(dtype, bits)] += 1);
        }
        changes.find(width, base, target);
        let mut classes = changes.base.iter().map(|&bits| class(dtype, bits));
        for_each_ulp_step(dtype, base, target, |step| {
            // Steps come in the order of the changes.
            let class = classes.next().unwrap_or(0);
            changed[class] += 1;
            *steps.entry((dtype.name(), class as u64)).or_default().entry(step).or_default() += 1;
        })
        .expect("both sides have the spec of the tensor");
        places += elements
            .iter()
            .zip(changed)
            .map(|(n, changed)| entropy([changed, n - changed]))
            .sum::<f64>();
    }
    let steps = steps.values().map(|counts| entropy(counts.values().copied())).sum();
    (places, steps)
}

/// Exponents of F64, the widest.
const CLASSES: usize = 1 << 11;

/// The exponent of an element; integers have one class.
fn class(dtype: &Dtype, bits: u64) -> usize {
    match dtype.order() {
        Order::Float { mantissa } => {
            let sign = 1 << (8 * dtype.element_bytes() - 1);
            ((bits & !sign) >> mantissa) as usize
        }
        _ => 0,
    }
}

/// Bits that tell apart things which occur so many times each.
fn entropy(counts: impl IntoIterator<Item = u64> + Clone) -> f64 {
    let total = counts.clone().into_iter().sum::<u64>() as f64;
    let bits = |count: u64| count as f64 * (total / count as f64).log2();
    counts.into_iter().filter(|&count| count > 0).map(bits).sum()
}
