//! Finding changes between slices, and lists of them.

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

/// 64-bit words compared at once. Which of them differ is written down without a branch: where a
/// change comes cannot be guessed, and a wrong guess costs more than the comparison.
const WORDS: usize = 256;

/// Calls `found` with each element that differs and its two bit patterns.
#[inline(always)]
pub(crate) fn for_each_change<W: Word>(
    base: &[u8],
    target: &[u8],
    mut found: impl FnMut(usize, W, W),
) {
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
    for (i, (base, target)) in
        base_tail.chunks_exact(W::BYTES).zip(target_tail.chunks_exact(W::BYTES)).enumerate()
    {
        let (base, target) = (W::load(base), W::load(target));
        if base != target {
            found(first + i, base, target);
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
}
