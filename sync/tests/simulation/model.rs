//! A model small enough to be published ten thousand times a minute, and how training changes it.

use std::sync::{Arc, Mutex};

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::Digest;
use pulse::tensors::{Control, Shadow};
pub use testkit::held::{muts, refs, Tensors};

use crate::dice::Dice;

const TENSORS: [(&str, &[u64]); 3] = [("embed", &[12, 10]), ("head", &[20, 8]), ("norm", &[24])];

pub fn one() -> Control<'static> {
    Control::threads(1)
}

/// Weights that nobody else has.
pub fn random(dice: &mut Dice) -> Tensors {
    let tensor = |(name, shape): &(&str, &[u64])| {
        let spec = TensorSpec::new(Dtype::Bf16, shape).unwrap();
        // Between 0.5 and 2 in size, as weights are.
        let element = |_| {
            ((0x3f00 + dice.next() % 0x100) as u16 | (dice.next() as u16 & 0x8000)).to_le_bytes()
        };
        let bytes = (0..spec.bytes() / 2).flat_map(element).collect();
        ((*name).to_string(), (spec, bytes))
    };
    TENSORS.iter().map(tensor).collect()
}

pub fn digest(weights: &Tensors) -> Digest {
    Shadow::new(&refs(weights), one()).unwrap().digests().checkpoint
}

/// A step of the optimizer: a few elements move by their last bit.
fn step(weights: &mut Tensors, dice: &mut Dice) {
    // Some steps change nothing.
    let changes = if dice.chance(60) { 0 } else { dice.between(1..=20) };
    for _ in 0..changes {
        let (name, _) = dice.pick(&TENSORS);
        let bytes = &mut weights.get_mut(*name).unwrap().1;
        let at = 2 * (dice.next() as usize % (bytes.len() / 2));
        let old = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let new = if dice.chance(500) { old.wrapping_add(1) } else { old.wrapping_sub(1) };
        bytes[at..at + 2].copy_from_slice(&new.to_le_bytes());
    }
}

/// The weights of one training, step by step: the same for all ranks that hold it.
#[derive(Debug, Clone)]
pub struct Training(Arc<Mutex<States>>);

#[derive(Debug)]
struct States {
    dice: Dice,
    first: u64,
    states: Vec<Arc<Tensors>>,
}

impl Training {
    /// Goes on from weights that were those after a step.
    pub fn from(weights: Arc<Tensors>, first: u64, dice: Dice) -> Self {
        Training(Arc::new(Mutex::new(States { dice, first, states: vec![weights] })))
    }

    pub fn at(&self, number: u64) -> Arc<Tensors> {
        let mut all = self.0.lock().unwrap();
        let States { dice, first, states } = &mut *all;
        let wanted = (number - *first) as usize;
        while states.len() <= wanted {
            let mut next = Tensors::clone(&states[states.len() - 1]);
            step(&mut next, dice);
            states.push(Arc::new(next));
        }
        Arc::clone(&states[wanted])
    }

    /// The step that it starts from.
    pub fn first(&self) -> u64 {
        self.0.lock().unwrap().first
    }

    /// Which training it is.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}
