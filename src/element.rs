//! Elements as unsigned integers: numeric order, steps, and finding changes in slices.
//!
//! Everything here works on little-endian bytes and on bit patterns. No float is ever compared,
//! so -0.0, NaN payloads and denormals are bits like any others (SPEC.md §7.1).

/// How the bit patterns of a dtype are ordered as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are.
    Unsigned,
    /// Two's complement.
    Signed,
    /// Sign and magnitude, with an exponent above `mantissa` bits.
    Float {
        /// Bits of the mantissa field.
        mantissa: u32,
    },
}

/// An element's bits in their own width.
pub(crate) trait Word: Copy + Eq + Send + Sync + 'static {
    const BYTES: usize;
    const BITS: u32 = Self::BYTES as u32 * 8;
    /// Reads the first `BYTES` bytes; the slice must have that many.
    fn load(bytes: &[u8]) -> Self;
    fn store(self, bytes: &mut [u8]);
    fn widen(self) -> u64;
    /// Keeps the low bits.
    fn narrow(wide: u64) -> Self;
    /// Position in numeric order.
    fn rank(self, order: Order) -> Self;
    /// Inverse of `rank`.
    fn unrank(self, order: Order) -> Self;
    /// Zigzag of the wrapping difference of two ranks.
    fn zigzag_from(self, base: Self) -> Self;
    /// Inverse: the rank that lies a zigzag step from `self`.
    fn zigzag_to(self, step: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// Bits from `shift` up under `mask`, clamped to a range of less than 256 values that starts at
    /// `low`, less `low`. In the element's own width, so that compilers can do many at once.
    fn clamped_field(self, shift: u32, mask: Self, low: Self, high: Self) -> u8;
}

macro_rules! word {
    ($($unsigned:ident $signed:ident),*) => {$(
        impl Word for $unsigned {
            const BYTES: usize = size_of::<$unsigned>();

            #[inline(always)]
            fn load(bytes: &[u8]) -> Self {
                let mut word = [0; size_of::<$unsigned>()];
                word.copy_from_slice(&bytes[..size_of::<$unsigned>()]);
                $unsigned::from_le_bytes(word)
            }

            #[inline(always)]
            fn store(self, bytes: &mut [u8]) {
                bytes[..Self::BYTES].copy_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            fn widen(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn narrow(wide: u64) -> Self {
                wide as $unsigned
            }

            #[inline(always)]
            fn rank(self, order: Order) -> Self {
                const SIGN: $unsigned = 1 << ($unsigned::BITS - 1);
                match order {
                    Order::Unsigned => self,
                    Order::Signed => self ^ SIGN,
                    // All bits of a negative flip; of a positive only the sign.
                    Order::Float { .. } => self ^ (((self as $signed) >> ($unsigned::BITS - 1)) as $unsigned | SIGN),
                }
            }

            #[inline(always)]
            fn unrank(self, order: Order) -> Self {
                const SIGN: $unsigned = 1 << ($unsigned::BITS - 1);
                match order {
                    Order::Unsigned => self,
                    Order::Signed => self ^ SIGN,
                    Order::Float { .. } => self ^ (((!self as $signed) >> ($unsigned::BITS - 1)) as $unsigned | SIGN),
                }
            }

            #[inline(always)]
            fn zigzag_from(self, base: Self) -> Self {
                let step = self.wrapping_sub(base);
                (step << 1) ^ (((step as $signed) >> ($unsigned::BITS - 1)) as $unsigned)
            }

            #[inline(always)]
            fn zigzag_to(self, step: Self) -> Self {
                self.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg())
            }

            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }

            #[inline(always)]
            fn clamped_field(self, shift: u32, mask: Self, low: Self, high: Self) -> u8 {
                ((self >> shift & mask).max(low).min(high) - low) as u8
            }
        }
    )*};
}

word!(u8 i8, u16 i16, u32 i32, u64 i64);

/// Runs a generic function at the width of an element of 1, 2, 4 or 8 bytes.
macro_rules! at_width {
    ($bytes:expr, $function:ident ( $($arg:expr),* $(,)? )) => {
        match $bytes {
            1 => $function::<u8>($($arg),*),
            2 => $function::<u16>($($arg),*),
            4 => $function::<u32>($($arg),*),
            _ => $function::<u64>($($arg),*),
        }
    };
}
pub(crate) use at_width;

/// How the value of a change is expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValueForm {
    /// Zigzag of the signed distance in numeric order.
    #[default]
    Step,
    /// Exclusive or of the two bit patterns.
    Xor,
    /// The bits of the target element; applying twice does no harm.
    Overwrite,
}

impl ValueForm {
    /// The value of a change from `base` to `target`.
    #[inline(always)]
    pub(crate) fn value<W: Word>(self, order: Order, base: W, target: W) -> W {
        match self {
            ValueForm::Step => target.rank(order).zigzag_from(base.rank(order)),
            ValueForm::Xor => base.xor(target),
            ValueForm::Overwrite => target,
        }
    }

    /// The target element that a value makes of `base`.
    #[inline(always)]
    pub(crate) fn target<W: Word>(self, order: Order, base: W, value: W) -> W {
        match self {
            ValueForm::Step => base.rank(order).zigzag_to(value).unrank(order),
            ValueForm::Xor => base.xor(value),
            ValueForm::Overwrite => value,
        }
    }

    /// The value of a change by `first` and then by `second`; zero if the second undoes the first,
    /// except in the form overwrite, which cannot tell.
    #[inline(always)]
    pub(crate) fn join<W: Word>(self, first: W, second: W) -> W {
        let zero = W::narrow(0);
        match self {
            ValueForm::Step => zero.zigzag_to(first).zigzag_to(second).zigzag_from(zero),
            ValueForm::Xor => first.xor(second),
            ValueForm::Overwrite => second,
        }
    }

    /// The value that leads back. In the form overwrite, which forgets what was there, there is none.
    #[inline(always)]
    pub(crate) fn invert<W: Word>(self, value: W) -> W {
        let zero = W::narrow(0);
        match self {
            ValueForm::Step => zero.zigzag_from(zero.zigzag_to(value)),
            ValueForm::Xor | ValueForm::Overwrite => value,
        }
    }
}

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
pub fn for_each_step(dtype: &crate::Dtype, base: &[u8], target: &[u8], mut found: impl FnMut(i64)) {
    fn walk<W: Word>(order: Order, base: &[u8], target: &[u8], found: &mut dyn FnMut(i64)) {
        for_each_change::<W>(base, target, |_, base, target| {
            found(unzigzag(ValueForm::Step.value(order, base, target).widen()));
        });
    }
    at_width!(dtype.element_bytes(), walk(dtype.order(), base, target, &mut found));
}

/// The signed step of a zigzag value.
pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) ^ (value & 1).wrapping_neg()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn ranks_follow_numeric_order_and_keep_both_zeros() {
        let values = [f32::NEG_INFINITY, -1.0, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 1.0, f32::INFINITY];
        let order = Dtype::F32.order();
        let ranks: Vec<u32> = values.iter().map(|v| v.to_bits().rank(order)).collect();
        assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ranks[4] - ranks[3], 1, "-0.0 and +0.0 are neighbours");
        let ints = [i16::MIN, -1, 0, 1, i16::MAX].map(|v| (v as u16).rank(Order::Signed));
        assert!(ints.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn every_16_bit_pattern_survives_rank_and_step() {
        for order in [Order::Unsigned, Order::Signed, Order::Float { mantissa: 7 }] {
            for bits in 0..=u16::MAX {
                assert_eq!(bits.rank(order).unrank(order), bits);
                let target = bits.wrapping_mul(40503) ^ 0x8000;
                for form in [ValueForm::Step, ValueForm::Xor, ValueForm::Overwrite] {
                    let value = form.value(order, bits, target);
                    assert_eq!(form.target(order, bits, value), target);
                }
            }
        }
    }

    #[test]
    fn values_add_up_and_lead_back() {
        for order in [Order::Unsigned, Order::Signed, Order::Float { mantissa: 7 }] {
            for bits in 0..=u16::MAX {
                let (middle, target) = (bits.wrapping_mul(40503) ^ 0x8000, bits.wrapping_mul(25717));
                for form in [ValueForm::Step, ValueForm::Xor, ValueForm::Overwrite] {
                    let (first, second) = (form.value(order, bits, middle), form.value(order, middle, target));
                    assert_eq!(form.join(first, second), form.value(order, bits, target));
                    if form != ValueForm::Overwrite {
                        let back = form.invert(first);
                        assert_eq!((back, form.join(first, back)), (form.value(order, middle, bits), 0));
                    }
                }
            }
        }
    }

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
