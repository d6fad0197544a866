//! Elements as unsigned integers: numeric order, steps, and the value of a change.
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
    /// Byte `p`, the lowest first.
    fn byte(self, p: usize) -> u8;
    fn rotate_left(self, bits: u32) -> Self;
    fn rotate_right(self, bits: u32) -> Self;
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
            fn byte(self, p: usize) -> u8 {
                (self >> (8 * p)) as u8
            }

            #[inline(always)]
            fn rotate_left(self, bits: u32) -> Self {
                <$unsigned>::rotate_left(self, bits)
            }

            #[inline(always)]
            fn rotate_right(self, bits: u32) -> Self {
                <$unsigned>::rotate_right(self, bits)
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
    ($bytes:expr, $($function:ident)::+ ( $($arg:expr),* $(,)? )) => {
        match $bytes {
            1 => $($function)::+::<u8>($($arg),*),
            2 => $($function)::+::<u16>($($arg),*),
            4 => $($function)::+::<u32>($($arg),*),
            _ => $($function)::+::<u64>($($arg),*),
        }
    };
}
pub(crate) use at_width;

/// How the value of a change is expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ValueForm {
    /// Zigzag of the signed distance in numeric order.
    #[default]
    UlpStep,
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
            ValueForm::UlpStep => target.rank(order).zigzag_from(base.rank(order)),
            ValueForm::Xor => base.xor(target),
            ValueForm::Overwrite => target,
        }
    }

    /// The target element that a value makes of `base`.
    #[inline(always)]
    pub(crate) fn target<W: Word>(self, order: Order, base: W, value: W) -> W {
        match self {
            ValueForm::UlpStep => base.rank(order).zigzag_to(value).unrank(order),
            ValueForm::Xor => base.xor(value),
            ValueForm::Overwrite => value,
        }
    }
}

/// The signed step of a zigzag value.
pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) ^ (value & 1).wrapping_neg()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    #[test]
    fn ranks_follow_numeric_order_and_keep_both_zeros() {
        let values =
            [f32::NEG_INFINITY, -1.0, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 1.0, f32::INFINITY];
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
                for form in [ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite] {
                    let value = form.value(order, bits, target);
                    assert_eq!(form.target(order, bits, value), target);
                }
            }
        }
    }
}
