//! The contextual coding: gaps within each exponent class of the base (SPEC.md §7.5).
//!
//! The chance that an element changes is about learning rate / ULP, so it depends on the
//! exponent of the base element, which both sides know. The elements of a class form a sequence
//! of their own; a change is a gap in that sequence, a sign, and for one in ten a magnitude. In a
//! matrix, the signs may be predicted instead (SPEC.md §7.6).

mod classes;
mod decode;
mod masks;
mod signs;
mod table;

pub(crate) use decode::Walk;

use crate::bits::{rice_bits, short_rice_bits, BitWriter};
use crate::changes::Changes;
use crate::coding::Matrix;
use crate::word::{Order, Word};
use classes::{Classes, CLASSES_MAX};
use fearless_simd::Level;
use masks::Tile;
use table::{ClassTable, Coded, Table, RAW_GAP_BITS};

/// Scratch space of the encoder: the changes sorted by class.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Unchanged elements of the class before each change.
    gaps: Vec<u32>,
    /// Zigzag steps at the same places.
    steps: Vec<u64>,
    /// Changes whose magnitude exceeds 1: numbers of ordinary ones of the class before each, and
    /// at the same places magnitude less 2.
    exception_gaps: Vec<u32>,
    magnitudes: Vec<u64>,
}

/// Writes the payload. `changes` holds elements and zigzag steps from `base`.
pub(crate) fn encode<W: Word>(
    order: Order,
    matrix: Option<Matrix>,
    base: &[u8],
    changes: &Changes,
    sorted: &mut Sorted,
) -> Vec<u8> {
    let (classes, counts) = Classes::choose::<W>(order, base, changes);
    let mut ranges = sorted.sort::<W>(&classes, &counts, base, changes);
    sorted.find_exceptions(&mut ranges);
    let signs = matrix.filter(|_| can_predict::<W>(changes)).and_then(|matrix| {
        let negative = changes.values.iter().map(|&step| step & 1 == 1);
        signs::encode(matrix, changes.elements.iter().copied().zip(negative))
    });
    let Some(signs) = signs else { return sorted.payload::<W>(&classes, &ranges, None).0 };
    let (predicted, is_dense) = sorted.payload::<W>(&classes, &ranges, Some(&signs));
    // A sign within a dense code may cost less than a bit; one beside a gap never does.
    if !is_dense {
        return predicted;
    }
    let (plain, _) = sorted.payload::<W>(&classes, &ranges, None);
    if predicted.len() < plain.len() {
        predicted
    } else {
        plain
    }
}

/// Whether no step is half the range, which is a magnitude that sign streams do not have.
fn can_predict<W: Word>(changes: &Changes) -> bool {
    let farthest = u64::MAX >> (64 - W::BITS);
    changes.values.iter().all(|&step| step != farthest)
}

/// What there is to say of one class.
struct ClassChanges<'a> {
    elements: u64,
    gaps: &'a [u32],
    steps: &'a [u64],
    exception_gaps: &'a [u32],
    magnitudes: &'a [u64],
    /// Signs are not among the codes.
    signs_apart: bool,
}

impl ClassChanges<'_> {
    /// What the code of a step says in a dense class.
    #[inline(always)]
    fn dense(&self, step: u64) -> u64 {
        if self.signs_apart {
            magnitude(step)
        } else {
            step
        }
    }
}

/// Where the changes of a class are in the sorted lists, and how many elements it has.
#[derive(Debug, Clone, Copy, Default)]
struct ClassRange {
    first: usize,
    end: usize,
    elements: u64,
    first_exception: usize,
    end_exception: usize,
}

impl Sorted {
    /// Counts the elements of each class up to each change: one pass over the base. Each class has so
    /// many changes.
    fn sort<W: Word>(
        &mut self,
        classes: &Classes,
        counts: &[usize],
        base: &[u8],
        changes: &Changes,
    ) -> Vec<ClassRange> {
        let mut first = 0;
        let mut ranges = Vec::with_capacity(counts.len());
        for count in counts {
            let end = first + count;
            ranges.push(ClassRange { first, end, ..ClassRange::default() });
            first = end;
        }
        self.gaps.resize(changes.elements.len(), 0);
        self.steps.resize(changes.elements.len(), 0);

        // For each class: elements so far, where its next change goes, and the element after the one
        // before.
        let mut seen = [0u32; CLASSES_MAX];
        let mut next = [0usize; CLASSES_MAX];
        let mut after = [0u32; CLASSES_MAX];
        next.iter_mut().zip(&ranges).for_each(|(next, range)| *next = range.first);
        let (level, mut tile) = (Level::new(), Tile::new());
        let mut pending = changes.elements.iter().map(|&element| element as usize).peekable();
        let mut steps = changes.values.iter();
        for (number, bytes) in base.chunks(Tile::ELEMENTS * W::BYTES).enumerate() {
            let (start, elements) = (number * Tile::ELEMENTS, bytes.len() / W::BYTES);
            tile.fill(level, elements, |filled| classes.fill::<W>(bytes, filled));
            let here =
                std::iter::from_fn(|| pending.next_if(|element| *element < start + elements));
            tile.rank(
                level,
                &mut seen[..ranges.len()],
                here.map(|element| element - start),
                |class, rank| {
                    self.gaps[next[class]] = rank - after[class];
                    self.steps[next[class]] = steps.next().copied().unwrap_or_default();
                    next[class] += 1;
                    after[class] = rank + 1;
                },
            );
        }
        for (range, seen) in ranges.iter_mut().zip(seen) {
            range.elements = u64::from(seen);
        }
        ranges
    }
}

impl Sorted {
    /// The payload, with signs among the codes or in a stream of their own, and whether a class is
    /// dense.
    fn payload<W: Word>(
        &self,
        classes: &Classes,
        ranges: &[ClassRange],
        signs: Option<&[u8]>,
    ) -> (Vec<u8>, bool) {
        let changes_of = |range: &ClassRange| ClassChanges {
            elements: range.elements,
            gaps: &self.gaps[range.first..range.end],
            steps: &self.steps[range.first..range.end],
            exception_gaps: &self.exception_gaps[range.first_exception..range.end_exception],
            magnitudes: &self.magnitudes[range.first_exception..range.end_exception],
            signs_apart: signs.is_some(),
        };
        let planned: Vec<_> = ranges.iter().map(|range| plan::<W>(&changes_of(range))).collect();
        let is_dense = planned.iter().any(|class| matches!(class.coded, Coded::Dense { .. }));
        let table =
            Table { lowest: classes.lowest(), predicts_signs: signs.is_some(), classes: planned };
        let mut payload = Vec::new();
        table.write(&mut payload);
        let mut bits = BitWriter::new(&mut payload);
        for (range, class) in ranges.iter().zip(&table.classes) {
            put_class::<W>(&mut bits, class, &changes_of(range));
        }
        bits.finish();
        payload.extend_from_slice(signs.unwrap_or_default());
        (payload, is_dense)
    }

    /// Gathers the changes of each class whose magnitude exceeds 1.
    fn find_exceptions(&mut self, ranges: &mut [ClassRange]) {
        let room = self.steps.len();
        self.exception_gaps.resize(room, 0);
        self.magnitudes.resize(room, 0);
        let mut count = 0;
        for range in ranges {
            range.first_exception = count;
            let mut after = 0;
            for (number, &step) in self.steps[range.first..range.end].iter().enumerate() {
                // Written always, kept if it is one: no branch to guess.
                let magnitude = magnitude(step);
                self.exception_gaps[count] = number as u32 - after;
                self.magnitudes[count] = magnitude.wrapping_sub(2);
                let exceeds = magnitude > 1;
                count += usize::from(exceeds);
                after = if exceeds { number as u32 + 1 } else { after };
            }
            range.end_exception = count;
        }
    }
}

/// Distance of a zigzag step from no change.
fn magnitude(step: u64) -> u64 {
    (step >> 1) + (step & 1)
}

/// Finds the cheapest parameters for a class.
fn plan<W: Word>(class: &ClassChanges<'_>) -> ClassTable {
    let raw_bits = 8 * W::BYTES as u32;
    let ClassChanges { elements, gaps, steps, exception_gaps, magnitudes, signs_apart } = *class;
    if gaps.is_empty() {
        return ClassTable::EMPTY;
    }
    let changes = gaps.len() as u64;
    let (gap_k, gap_bits) = best_gap_k(gaps);
    let count = magnitudes.len() as u64;
    let (exception_k, exception_bits) = best_gap_k(exception_gaps);
    let (magnitude_k, magnitude_bits) = best_wide_k(magnitudes, raw_bits);
    let sign_bits = if signs_apart { 0 } else { changes };
    let sparse_bits = gap_bits + sign_bits + exception_bits + magnitude_bits;
    let sparse = ClassTable {
        count: changes,
        coded: Coded::Sparse { gap_k, exceptions: count, exception_k, magnitude_k },
    };
    // Where less than a quarter changes, one code for each element cannot win.
    if changes * 4 < elements {
        return sparse;
    }
    let unchanged = gaps.iter().map(|&gap| u64::from(gap)).sum::<u64>();
    let trailing = elements - changes - unchanged;
    let dense_bits = |k: u32| {
        steps.iter().map(|&step| rice_bits(class.dense(step), k, raw_bits)).sum::<u64>()
            + unchanged * u64::from(1 + k)
    };
    let (mut k, mut bits) = (0, dense_bits(0));
    while k + 1 < raw_bits {
        let more = dense_bits(k + 1);
        if more >= bits {
            break;
        }
        (k, bits) = (k + 1, more);
    }
    if bits < sparse_bits {
        // Those after the last change need no code.
        ClassTable { count: elements - trailing, coded: Coded::Dense { k } }
    } else {
        sparse
    }
}

/// The Rice parameter with the least bits for these gaps, and how many.
fn best_gap_k(gaps: &[u32]) -> (u32, u64) {
    let sum = gaps.iter().map(|&gap| u64::from(gap)).sum();
    // Sums of 32 bits, which are added several at once: no code is longer than 64.
    let bits = |gaps: &[u32], k| gaps.iter().map(|&gap| short_rice_bits(gap, k)).sum::<u32>();
    let cost = |k| gaps.chunks(1 << 12).map(|gaps| u64::from(bits(gaps, k))).sum();
    best_k(gaps.len() as u64, sum, RAW_GAP_BITS, cost)
}

/// As `best_gap_k`, for numbers of any size.
fn best_wide_k(numbers: &[u64], raw_bits: u32) -> (u32, u64) {
    let sum = numbers.iter().fold(0u64, |sum, &number| sum.saturating_add(number));
    let cost = |k| numbers.iter().map(|&number| rice_bits(number, k, raw_bits)).sum();
    best_k(numbers.len() as u64, sum, raw_bits, cost)
}

/// The parameter of the least cost; starts at the mean of the numbers and looks both ways.
fn best_k(count: u64, sum: u64, raw_bits: u32, cost: impl Fn(u32) -> u64) -> (u32, u64) {
    let most = raw_bits.min(table::K_MAX);
    let start =
        sum.checked_div(count).map_or(0, |mean| mean.checked_ilog2().unwrap_or(0)).min(most);
    let (mut best, mut bits) = (start, cost(start));
    for step in [-1i64, 1] {
        let mut k = i64::from(start) + step;
        while (0..=i64::from(most)).contains(&k) {
            let now = cost(k as u32);
            if now >= bits {
                break;
            }
            (best, bits) = (k as u32, now);
            k += step;
        }
        if best != start {
            break;
        }
    }
    (best, bits)
}

/// Writes the codes of one class.
fn put_class<W: Word>(bits: &mut BitWriter<'_>, class: &ClassTable, changes: &ClassChanges<'_>) {
    let ClassChanges { gaps, steps, exception_gaps, magnitudes, .. } = *changes;
    let raw_bits = 8 * W::BYTES as u32;
    match class.coded {
        Coded::Sparse { gap_k, exception_k, magnitude_k, .. } => {
            gaps.iter().for_each(|&gap| bits.rice(gap.into(), gap_k, RAW_GAP_BITS));
            let signs = if changes.signs_apart { &[] } else { steps };
            for signs in signs.chunks(32) {
                let word =
                    signs.iter().enumerate().fold(0, |word, (i, &step)| word | (step & 1) << i);
                bits.put(word, signs.len() as u32);
            }
            exception_gaps.iter().for_each(|&gap| bits.rice(gap.into(), exception_k, RAW_GAP_BITS));
            magnitudes.iter().for_each(|&magnitude| bits.rice(magnitude, magnitude_k, raw_bits));
        }
        Coded::Dense { k } => {
            for (&gap, &step) in gaps.iter().zip(steps) {
                (0..gap).for_each(|_| bits.rice(0, k, raw_bits));
                bits.rice(changes.dense(step), k, raw_bits);
            }
        }
    }
}

#[cfg(test)]
mod tests;
