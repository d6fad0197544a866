//! Finding changes between slices, and lists of them.

use crate::dtype::Dtype;
use crate::word::{at_width, unzigzag, Order, ValueForm, Word};

/// The changes of one block: elements in ascending order and, at the same places, their values.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub elements: Vec<u32>,
    pub values: Vec<u64>,
}

impl Changes {
    /// Collects the changes between two slices of the same length, replacing what was held.
    pub fn collect(&mut self, bytes: usize, order: Order, form: ValueForm, base: &[u8], target: &[u8]) {
        self.elements.clear();
        self.values.clear();
        at_width!(bytes, collect(self, order, form, base, target));
    }

    /// Turns the changes round, which must not be of the form overwrite.
    #[cfg_attr(not(feature = "checkpoint"), allow(dead_code))] // encoders see one step at a time
    pub fn invert(&mut self, bytes: usize, form: ValueForm) {
        at_width!(bytes, invert(self, form));
    }

    /// These changes and then those, as one. Elements that come back to where they were vanish.
    #[cfg_attr(not(feature = "checkpoint"), allow(dead_code))] // encoders see one step at a time
    pub fn join(&self, then: &Changes, bytes: usize, form: ValueForm) -> Changes {
        at_width!(bytes, join(self, then, form))
    }
}

fn invert<W: Word>(changes: &mut Changes, form: ValueForm) {
    for value in &mut changes.values {
        *value = form.invert(W::narrow(*value)).widen();
    }
}

fn join<W: Word>(first: &Changes, second: &Changes, form: ValueForm) -> Changes {
    let mut joined = Changes::default();
    let mut put = |element: u32, value: u64| {
        joined.elements.push(element);
        joined.values.push(value);
    };
    let (mut a, mut b) = (0, 0);
    while let (Some(&left), Some(&right)) = (first.elements.get(a), second.elements.get(b)) {
        if left < right {
            put(left, first.values[a]);
        } else if right < left {
            put(right, second.values[b]);
        } else {
            let value = form.join(W::narrow(first.values[a]), W::narrow(second.values[b])).widen();
            if value != 0 || form == ValueForm::Overwrite {
                put(left, value);
            }
        }
        a += usize::from(left <= right);
        b += usize::from(right <= left);
    }
    for (changes, from) in [(first, a), (second, b)] {
        joined.elements.extend_from_slice(&changes.elements[from..]);
        joined.values.extend_from_slice(&changes.values[from..]);
    }
    joined
}

/// 64-bit words compared at once. Which of them differ is written down without a branch: where a
/// change comes cannot be guessed, and a wrong guess costs more than the comparison.
const WORDS: usize = 256;

/// Calls `found` with each element that differs and its two bit patterns.
#[inline(always)]
pub(crate) fn for_each_change<W: Word>(base: &[u8], target: &[u8], mut found: impl FnMut(usize, W, W)) {
    let (bases, base_tail) = base.as_chunks::<8>();
    let (targets, target_tail) = target.as_chunks::<8>();
    let per_word = 8 / W::BYTES;
    let mut differ = [0u16; WORDS];
    for (tile, (bases, targets)) in bases.chunks(WORDS).zip(targets.chunks(WORDS)).enumerate() {
        let mut count = 0;
        for (i, (base, target)) in bases.iter().zip(targets).enumerate() {
            differ[count % WORDS] = i as u16;
            count += usize::from(base != target);
        }
        for &i in &differ[..count] {
            let (base, target) = (bases[usize::from(i)], targets[usize::from(i)]);
            let mut bits = u64::from_le_bytes(base) ^ u64::from_le_bytes(target);
            let first = (tile * WORDS + usize::from(i)) * per_word;
            while bits != 0 {
                let lane = (bits.trailing_zeros() / W::BITS) as usize;
                let at = lane * W::BYTES;
                found(first + lane, W::load(&base[at..]), W::load(&target[at..]));
                bits &= !(u64::MAX >> (64 - W::BITS) << (8 * at));
            }
        }
    }
    let first = bases.len() * per_word;
    for (i, (base, target)) in base_tail.chunks_exact(W::BYTES).zip(target_tail.chunks_exact(W::BYTES)).enumerate() {
        let (base, target) = (W::load(base), W::load(target));
        if base != target {
            found(first + i, base, target);
        }
    }
}

fn collect<W: Word>(changes: &mut Changes, order: Order, form: ValueForm, base: &[u8], target: &[u8]) {
    for_each_change::<W>(base, target, |element, base, target| {
        // A block has at most 2^26 elements.
        changes.elements.push(element as u32);
        changes.values.push(form.value(order, base, target).widen());
    });
}

/// Number of elements whose bits differ between two slices of the same length.
///
/// ```
/// use pulse::count_changes;
/// assert_eq!(count_changes(2, &[0, 0, 1, 0], &[0, 0x80, 1, 0]), 1); // 0.0 against -0.0
/// ```
#[must_use]
pub fn count_changes(element_bytes: usize, base: &[u8], target: &[u8]) -> u64 {
    fn count<W: Word>(base: &[u8], target: &[u8]) -> u64 {
        let mut count = 0;
        for_each_change::<W>(base, target, |_, _, _| count += 1);
        count
    }
    at_width!(element_bytes, count(base, target))
}

/// Calls `found` with the signed step, in ULPs, of every element that differs between two slices
/// of the same length. A step too long for `i64` (64-bit dtypes only) wraps, as on the wire.
///
/// ```
/// let mut steps = Vec::new();
/// let (base, target) = (0x3f80u16.to_le_bytes(), 0x3f7eu16.to_le_bytes());
/// pulse::for_each_step(&pulse::Dtype::Bf16, &base, &target, |step| steps.push(step));
/// assert_eq!(steps, [-2]);
/// ```
pub fn for_each_step(dtype: &Dtype, base: &[u8], target: &[u8], mut found: impl FnMut(i64)) {
    fn walk<W: Word>(order: Order, base: &[u8], target: &[u8], found: &mut dyn FnMut(i64)) {
        for_each_change::<W>(base, target, |_, base, target| {
            found(unzigzag(ValueForm::Step.value(order, base, target).widen()));
        });
    }
    at_width!(dtype.element_bytes(), walk(dtype.order(), base, target, &mut found));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_changes_are_in_order_and_those_undone_are_gone() {
        let changes = |pairs: &[(u32, u64)]| Changes {
            elements: pairs.iter().map(|pair| pair.0).collect(),
            values: pairs.iter().map(|pair| pair.1).collect(),
        };
        // Steps +1, -1, +2 at 1, 4, 9; then +1, +1, +1 at 0, 4, 9: the element 4 is back.
        let (first, second) = (changes(&[(1, 2), (4, 1), (9, 4)]), changes(&[(0, 2), (4, 2), (9, 2)]));
        let joined = first.join(&second, 2, ValueForm::Step);
        assert_eq!((joined.elements, joined.values), (vec![0, 1, 9], vec![2, 2, 6]));
        let overwritten = first.join(&second, 2, ValueForm::Overwrite);
        assert_eq!((overwritten.elements, overwritten.values), (vec![0, 1, 4, 9], vec![2, 2, 2, 2]));
        assert!(first.join(&first, 2, ValueForm::Xor).elements.is_empty());
    }

    #[test]
    fn changes_are_found_at_any_alignment_of_the_stride() {
        for bytes in [1, 2, 4, 8] {
            let base = vec![7u8; 8 * 37];
            for at in 0..base.len() {
                let mut target = base.clone();
                target[at] ^= 0x80;
                let mut changes = Changes::default();
                changes.collect(bytes, Order::Unsigned, ValueForm::Xor, &base, &target);
                assert_eq!(changes.elements, [(at / bytes) as u32]);
                assert_eq!(changes.values, [0x80 << (at % bytes * 8)]);
            }
        }
    }
}
