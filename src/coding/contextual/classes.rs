//! Classes: the exponent of the base element, clamped to a range that suits the block.

use super::magnitude;
use crate::changes::Changes;
use crate::word::{Order, Word};

/// Most classes of a block.
pub(crate) const CLASSES_MAX: usize = 32;
/// About so many elements of a block are looked at to learn how common each exponent is: one of seven,
/// within these bounds. An odd number, so that small matrices are not looked at in some columns only.
const SAMPLES_MIN: usize = 1 << 9;
const SAMPLES_MAX: usize = 1 << 12;
/// Elements of a stride.
const STRIDE: usize = 32;
/// Counters that neighbouring elements use in turn, so that they do not wait for one another.
const LANES: usize = 4;
/// Bits that one more class costs in the table.
const TABLE_BITS: u64 = 40;
const EMPTY_TABLE_BITS: u64 = 8;

/// How the class of a base element follows from its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Classes {
    shift: u32,
    mask: u64,
    lowest: u64,
    highest: u64,
}

impl Classes {
    /// Classes for exponents `lowest` to `highest`; `None` if the dtype has no such exponents.
    /// Integers have one class, as if their exponent was always zero.
    pub fn new<W: Word>(order: Order, lowest: u64, count: usize) -> Option<Self> {
        let exponent = Exponent::new::<W>(order);
        let highest = lowest.checked_add(count as u64)?.checked_sub(1)?;
        let legal = (1..=CLASSES_MAX).contains(&count) && highest <= exponent.mask;
        legal.then_some(Classes { shift: exponent.shift, mask: exponent.mask, lowest, highest })
    }

    pub fn lowest(&self) -> u64 {
        self.lowest
    }

    pub fn count(&self) -> usize {
        (self.highest - self.lowest) as usize + 1
    }

    /// Class of an exponent.
    fn of(&self, exponent: u64) -> usize {
        (exponent.clamp(self.lowest, self.highest) - self.lowest) as usize
    }

    /// Classes of consecutive elements.
    #[inline(always)]
    pub fn fill<W: Word>(&self, base: &[u8], classes: &mut [u8]) {
        let [mask, low, high] = [self.mask, self.lowest, self.highest].map(W::narrow);
        for (class, word) in classes.iter_mut().zip(base.chunks_exact(W::BYTES)) {
            *class = W::load(word).clamped_field(self.shift, mask, low, high);
        }
    }

    /// The range with the least estimated cost for these changes of a block, and how many changes each
    /// class has.
    pub fn choose<W: Word>(order: Order, base: &[u8], changes: &Changes) -> (Self, Vec<usize>) {
        let exponent = Exponent::new::<W>(order);
        let one = Classes { shift: exponent.shift, mask: exponent.mask, lowest: 0, highest: 0 };
        if exponent.mask == 0 {
            return (one, vec![changes.elements.len()]);
        }
        let histogram = Histogram::new::<W>(exponent, base, changes);
        let (lowest, highest) = histogram.cheapest();
        let classes = Classes { lowest, highest, ..one };
        let mut counts = vec![0; classes.count()];
        for (exponent, load) in (histogram.first..).zip(&histogram.loads) {
            counts[classes.of(exponent)] += load.changes as usize;
        }
        (classes, counts)
    }
}

/// Where the exponent field lies.
#[derive(Debug, Clone, Copy)]
struct Exponent {
    shift: u32,
    mask: u64,
}

impl Exponent {
    fn new<W: Word>(order: Order) -> Self {
        match order {
            Order::Float { mantissa } => {
                Exponent { shift: mantissa, mask: (1 << (8 * W::BYTES as u32 - 1 - mantissa)) - 1 }
            }
            Order::Unsigned | Order::Signed => Exponent { shift: 0, mask: 0 },
        }
    }
}

/// Bits that gaps cost if `changes` of `elements` change at random places. Integers only: the
/// encoder's choices must not depend on a platform's logarithm.
fn estimate(elements: u64, changes: u64) -> u64 {
    let unchanged = elements.saturating_sub(changes);
    let Some(mean) = unchanged.checked_div(changes) else { return 0 };
    let k = (mean | 1).ilog2();
    let cost = |k: u32| changes * u64::from(1 + k) + (unchanged >> k);
    cost(k).min(cost(k.saturating_sub(1)))
}

/// What the cost of a class depends on; sums of these describe merged classes.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Estimated from a sample.
    elements: u64,
    changes: u64,
    /// Changes whose magnitude exceeds 1, and the sum of what they have beyond 2.
    exceptions: u64,
    excess: u64,
}

impl Load {
    fn plus(self, other: Load) -> Load {
        Load {
            elements: self.elements + other.elements,
            changes: self.changes + other.changes,
            exceptions: self.exceptions + other.exceptions,
            excess: self.excess.saturating_add(other.excess),
        }
    }

    fn minus(self, other: Load) -> Load {
        Load {
            elements: self.elements - other.elements,
            changes: self.changes - other.changes,
            exceptions: self.exceptions - other.exceptions,
            excess: self.excess.saturating_sub(other.excess),
        }
    }

    /// Estimated bits of a class, without the signs that every choice has.
    fn bits(self) -> u64 {
        if self.changes == 0 {
            return EMPTY_TABLE_BITS;
        }
        let magnitudes = estimate(self.excess.saturating_add(self.exceptions), self.exceptions);
        let sparse = estimate(self.elements, self.changes)
            + estimate(self.changes, self.exceptions)
            + magnitudes;
        TABLE_BITS + sparse
    }
}

/// The load of each exponent that occurs.
struct Histogram {
    first: u64,
    loads: Vec<Load>,
}

impl Histogram {
    fn new<W: Word>(exponent: Exponent, base: &[u8], changes: &Changes) -> Self {
        let of = |word: &[u8]| (W::load(word).widen() >> exponent.shift & exponent.mask) as usize;
        let mut loads = vec![Load::default(); exponent.mask as usize + 1];
        let stride = STRIDE * W::BYTES;
        let elements = base.len() / W::BYTES;
        // The smallest blocks are counted in full.
        let sample = (elements / (elements / 7).clamp(SAMPLES_MIN, SAMPLES_MAX)).max(1);
        // Neighbours often have the same exponent: in lanes they need not wait for one another.
        let mut seen = vec![[0u32; LANES]; loads.len()];
        for words in base.chunks(stride).step_by(sample) {
            words
                .chunks_exact(W::BYTES)
                .enumerate()
                .for_each(|(i, word)| seen[of(word)][i % LANES] += 1);
        }
        for (load, lanes) in loads.iter_mut().zip(&seen) {
            load.elements =
                lanes.iter().map(|&count| u64::from(count)).sum::<u64>() * sample as u64;
        }
        for (&element, &step) in changes.elements.iter().zip(&changes.values) {
            let load = &mut loads[of(&base[element as usize * W::BYTES..])];
            load.changes += 1;
            if let Some(excess) = magnitude(step).checked_sub(2) {
                load.exceptions += 1;
                load.excess = load.excess.saturating_add(excess);
            }
        }
        // What changed is there, even if the sample missed it.
        loads.iter_mut().for_each(|load| load.elements = load.elements.max(load.changes));
        let first = loads.iter().position(|load| load.elements > 0).unwrap_or(0);
        let end =
            loads.iter().rposition(|load| load.elements > 0).map_or(first + 1, |last| last + 1);
        loads.truncate(end);
        Histogram { first: first as u64, loads: loads.split_off(first) }
    }

    /// The range of exponents with the least cost; those outside count as its ends.
    fn cheapest(&self) -> (u64, u64) {
        let size = self.loads.len();
        let mut sums = vec![(Load::default(), 0)];
        sums.extend(self.loads.iter().scan((Load::default(), 0), |sum, &load| {
            *sum = (sum.0.plus(load), sum.1 + load.bits());
            Some(*sum)
        }));
        let merged = |from: usize, to: usize| sums[to].0.minus(sums[from].0).bits();
        let tails: Vec<u64> = (0..size).map(|high| merged(high, size)).collect();
        let mut best = (merged(0, size), 0, 0);
        for low in 0..size {
            let head = merged(0, low + 1);
            for high in low + 1..size.min(low + CLASSES_MAX) {
                best = best.min((head + sums[high].1 - sums[low + 1].1 + tails[high], low, high));
            }
        }
        (self.first + best.1 as u64, self.first + best.2 as u64)
    }
}
