//! Finding changes between slices, and lists of them.

use fearless_simd::prelude::*;
use fearless_simd::{dispatch, u16x32, u32x16, u64x8, u8x64, Level};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::places::{List, Places};
use crate::word::{at_width, unzigzag, Order, ValueForm, Word};

/// The changes of one block: elements in ascending order and, at the same places, their values.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub elements: Vec<u32>,
    pub values: Vec<u64>,
}

impl Changes {
    /// Collects the changes between two slices of the same length, replacing what was held.
    pub fn collect(
        &mut self,
        bytes: usize,
        order: Order,
        form: ValueForm,
        base: &[u8],
        target: &[u8],
    ) {
        self.elements.clear();
        self.values.clear();
        at_width!(bytes, collect(self, order, form, base, target));
    }
}

/// Bytes of a vector of comparisons.
const VECTOR: usize = 64;

/// A bit for each element that differs of vectors with at most 64 elements, the first one lowest.
#[inline(always)]
fn differing<W: Word, S: Simd>(simd: S, bases: &[[u8; VECTOR]], targets: &[[u8; VECTOR]]) -> u64 {
    let mut bits = 0;
    for (at, (base, target)) in bases.iter().zip(targets).enumerate() {
        let [base, target] = [u8x64::from_slice(simd, base), u8x64::from_slice(simd, target)];
        let same = match W::BYTES {
            1 => base.simd_eq(target).to_bitmask(),
            2 => {
                let base = base.bitcast::<u16x32<S>>().split();
                let target = target.bitcast::<u16x32<S>>().split();
                let (low, high) = (base.0.simd_eq(target.0), base.1.simd_eq(target.1));
                low.narrow(high).to_bitmask()
            }
            4 => base.bitcast::<u32x16<S>>().simd_eq(target.bitcast::<u32x16<S>>()).to_bitmask(),
            _ => base.bitcast::<u64x8<S>>().simd_eq(target.bitcast::<u64x8<S>>()).to_bitmask(),
        };
        let elements = VECTOR / W::BYTES;
        bits |= (!same & u64::MAX >> (64 - elements)) << (at * elements);
    }
    bits
}

/// Finds the elements that differ of at most [`Places::ELEMENTS`].
#[inline(always)]
fn compare<W: Word, S: Simd>(simd: S, base: &[u8], target: &[u8]) -> Places {
    let mut places = Places::new();
    let (bases, base_tail) = base.as_chunks::<VECTOR>();
    let (targets, target_tail) = target.as_chunks::<VECTOR>();
    let (whole_bases, whole_targets) =
        (bases.chunks_exact(W::BYTES), targets.chunks_exact(W::BYTES));
    let rest = (whole_bases.remainder(), whole_targets.remainder());
    let mut group = 0;
    for (bases, targets) in whole_bases.zip(whole_targets) {
        places.add(group, differing::<W, S>(simd, bases, targets));
        group += 1;
    }
    let mut last = differing::<W, S>(simd, rest.0, rest.1);
    let first = rest.0.len() * VECTOR / W::BYTES;
    let tails = base_tail.chunks_exact(W::BYTES).zip(target_tail.chunks_exact(W::BYTES));
    for (at, (base, target)) in tails.enumerate() {
        last |= u64::from(base != target) << (first + at);
    }
    // After a full tile there is no group.
    if last != 0 {
        places.add(group, last);
    }
    places
}

/// Calls `found` with each element that differs and its two bit patterns. Both slices are whole elements,
/// and as many.
#[inline(always)]
pub(crate) fn for_each_change<W: Word>(base: &[u8], target: &[u8], found: impl FnMut(usize, W, W)) {
    for_each_change_at::<W>(Level::new(), base, target, found);
}

/// The same in registers of some width.
#[inline(always)]
fn for_each_change_at<W: Word>(
    level: Level,
    base: &[u8],
    target: &[u8],
    mut found: impl FnMut(usize, W, W),
) {
    let mut list = List::new();
    let tile = Places::ELEMENTS * W::BYTES;
    for (number, (base, target)) in base.chunks(tile).zip(target.chunks(tile)).enumerate() {
        let places = dispatch!(level, simd => compare::<W, _>(simd, base, target));
        for place in list.of(level, &places) {
            let at = place * W::BYTES;
            let element = number * Places::ELEMENTS + place;
            found(element, W::load(&base[at..]), W::load(&target[at..]));
        }
    }
}

fn collect<W: Word>(
    changes: &mut Changes,
    order: Order,
    form: ValueForm,
    base: &[u8],
    target: &[u8],
) {
    for_each_change::<W>(base, target, |element, base, target| {
        // A block has at most 2^26 elements.
        changes.elements.push(element as u32);
        changes.values.push(form.value(order, base, target).widen());
    });
}

/// Number of elements whose bits differ between two slices of the same length.
///
/// # Errors
/// [`Error::Misuse`] if the slices differ in length or do not hold whole elements: a count of a part
/// would be wrong without anybody noticing.
///
/// ```
/// use pulse::changes::count_changes;
/// use pulse::dtype::Dtype;
/// assert_eq!(count_changes(&Dtype::F16, &[0, 0, 1, 0], &[0, 0x80, 1, 0])?, 1); // 0.0 against -0.0
/// assert!(count_changes(&Dtype::F16, &[0, 0, 1], &[0, 0, 1]).is_err());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn count_changes(dtype: &Dtype, base: &[u8], target: &[u8]) -> Result<u64> {
    fn count<W: Word>(base: &[u8], target: &[u8]) -> u64 {
        let mut count = 0;
        for_each_change::<W>(base, target, |_, _, _| count += 1);
        count
    }
    check_pair(dtype, base, target)?;
    Ok(at_width!(dtype.element_bytes(), count(base, target)))
}

/// Refuses slices that are not the same elements of two tensors.
fn check_pair(dtype: &Dtype, base: &[u8], target: &[u8]) -> Result<()> {
    if base.len() == target.len() && target.len().is_multiple_of(dtype.element_bytes()) {
        return Ok(());
    }
    let (base, target) = (base.len(), target.len());
    Err(Error::misuse(format!(
        "base ({base} bytes) and target ({target} bytes) must have the same length: whole {dtype} elements"
    )))
}

/// Calls `found` with the signed step, in ULPs, of every element that differs between two slices
/// of the same length. A step too long for `i64` (64-bit dtypes only) wraps, as on the wire.
///
/// # Errors
/// As [`count_changes`].
///
/// ```
/// let mut steps = Vec::new();
/// let (base, target) = (0x3f80u16.to_le_bytes(), 0x3f7eu16.to_le_bytes());
/// pulse::changes::for_each_ulp_step(&pulse::dtype::Dtype::Bf16, &base, &target, |step| steps.push(step))?;
/// assert_eq!(steps, [-2]);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn for_each_ulp_step(
    dtype: &Dtype,
    base: &[u8],
    target: &[u8],
    mut found: impl FnMut(i64),
) -> Result<()> {
    fn walk<W: Word>(order: Order, base: &[u8], target: &[u8], found: &mut dyn FnMut(i64)) {
        for_each_change::<W>(base, target, |_, base, target| {
            found(unzigzag(ValueForm::UlpStep.value(order, base, target).widen()));
        });
    }
    check_pair(dtype, base, target)?;
    at_width!(dtype.element_bytes(), walk(dtype.order(), base, target, &mut found));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_any_byte_is_found() {
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

    #[test]
    fn changes_are_those_of_a_plain_comparison_however_many_there_are() {
        fn check<W: Word>(base: &[u8], target: &[u8]) {
            let words = |bytes: &[u8]| bytes.chunks(W::BYTES).map(W::load).collect::<Vec<_>>();
            let pairs = words(base).into_iter().zip(words(target)).enumerate();
            let expected: Vec<_> = pairs
                .filter(|(_, (base, target))| base != target)
                .map(|(element, (base, target))| (element, base.widen(), target.widen()))
                .collect();
            for level in [Level::new(), Level::baseline()] {
                let mut found = Vec::new();
                for_each_change_at::<W>(level, base, target, |element, base, target| {
                    found.push((element, base.widen(), target.widen()));
                });
                assert_eq!(found, expected);
            }
        }
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for one_in in [1, 2, 3, 20, 500, 60_000] {
            for elements in [0, 1, 7, 8, 9, 255, 256, 257, 1000, 2047, 2048, 2049, 4100] {
                let base: Vec<u8> = (0..8 * elements).map(|_| next() as u8).collect();
                let change = |byte: &u8| if next().is_multiple_of(one_in) { !byte } else { *byte };
                let target: Vec<u8> = base.iter().map(change).collect();
                for end in [elements, 2 * elements, 4 * elements, 8 * elements] {
                    check::<u8>(&base[..end], &target[..end]);
                }
                check::<u16>(&base[..2 * elements], &target[..2 * elements]);
                check::<u32>(&base[..4 * elements], &target[..4 * elements]);
                check::<u64>(&base, &target);
            }
        }
    }
}
