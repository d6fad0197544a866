//! Finding changes between slices, and lists of them.

use fearless_simd::prelude::*;
use fearless_simd::{dispatch, u8x64, Level};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
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

/// Bytes compared at once, with a bit for each of them.
const GROUP: usize = 64;
/// Bytes whose changes are listed before they are looked at.
const TILE: usize = 32 * GROUP;
/// So many changes of a group are listed without a branch: where a change comes cannot be guessed, and
/// a wrong guess costs more than the comparison.
const FEW: usize = 2;

/// Elements of a tile that differ, in ascending order.
struct Places {
    list: [u16; TILE + FEW],
    count: usize,
}

impl Places {
    /// Adds those of a group whose first element is number `first`; of `bytes` those bits are set that
    /// differ.
    #[inline(always)]
    fn add<W: Word>(&mut self, first: usize, bytes: u64) {
        // One bit for each element.
        let mut bits = bytes;
        let mut width = 1;
        while width < W::BYTES {
            bits |= bits >> width;
            width *= 2;
        }
        bits &= u64::MAX / (u64::MAX >> (64 - W::BYTES));
        let end = self.count + bits.count_ones() as usize;
        let mut list = self.list[self.count..].iter_mut();
        // Of an empty group there are places too, which the next one overwrites.
        for place in list.by_ref().take(FEW) {
            *place = (first + bits.trailing_zeros() as usize / W::BYTES) as u16;
            bits &= bits.wrapping_sub(1);
        }
        for place in list {
            if bits == 0 {
                break;
            }
            *place = (first + bits.trailing_zeros() as usize / W::BYTES) as u16;
            bits &= bits.wrapping_sub(1);
        }
        self.count = end;
    }
}

/// Lists the elements of a tile that differ.
#[inline(always)]
fn compare<W: Word, S: Simd>(simd: S, base: &[u8], target: &[u8], places: &mut Places) {
    places.count = 0;
    let (bases, base_tail) = base.as_chunks::<GROUP>();
    let (targets, target_tail) = target.as_chunks::<GROUP>();
    for (number, (base, target)) in bases.iter().zip(targets).enumerate() {
        let same = u8x64::from_slice(simd, base).simd_eq(u8x64::from_slice(simd, target));
        places.add::<W>(number * GROUP / W::BYTES, !same.to_bitmask());
    }
    let mut bytes = 0;
    for (at, (base, target)) in base_tail.iter().zip(target_tail).enumerate() {
        bytes |= u64::from(base != target) << at;
    }
    places.add::<W>(bases.len() * GROUP / W::BYTES, bytes);
}

/// Calls `found` with each element that differs and its two bit patterns. Both slices are whole elements,
/// and as many.
#[inline(always)]
pub(crate) fn for_each_change<W: Word>(
    base: &[u8],
    target: &[u8],
    mut found: impl FnMut(usize, W, W),
) {
    let level = Level::new();
    let mut places = Places { list: [0; TILE + FEW], count: 0 };
    for (number, (base, target)) in base.chunks(TILE).zip(target.chunks(TILE)).enumerate() {
        dispatch!(level, simd => compare::<W, _>(simd, base, target, &mut places));
        for &place in &places.list[..places.count] {
            let (place, first) = (usize::from(place), number * (TILE / W::BYTES));
            let at = place * W::BYTES;
            found(first + place, W::load(&base[at..]), W::load(&target[at..]));
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

    #[test]
    fn changes_are_those_of_a_plain_comparison_however_many_there_are() {
        fn check<W: Word>(base: &[u8], target: &[u8]) {
            let words = |bytes: &[u8]| bytes.chunks(W::BYTES).map(W::load).collect::<Vec<_>>();
            let pairs = words(base).into_iter().zip(words(target)).enumerate();
            let expected: Vec<_> = pairs
                .filter(|(_, (base, target))| base != target)
                .map(|(element, (base, target))| (element, base.widen(), target.widen()))
                .collect();
            let mut found = Vec::new();
            for_each_change::<W>(base, target, |element, base, target| {
                found.push((element, base.widen(), target.widen()));
            });
            assert_eq!(found, expected);
        }
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for one_in in [1, 2, 3, 20, 500, 60_000] {
            for elements in [0, 1, 7, 8, 9, 255, 256, 257, 1000] {
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
