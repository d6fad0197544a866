//! Bits, least significant first, and Rice codes with a raw escape (SPEC.md §7.5).

/// A quotient of this many ones has no terminator: the value follows raw.
const QUOTIENT_MAX: u32 = 24;
/// Bits that one look at the stream is sure to see.
const PEEK_BITS: u32 = 57;

/// Parameter up to which four codes usually fit into so many bits.
const SHORT_K: u32 = 10;

/// Bits that the Rice code of `value` takes.
#[inline(always)]
pub(crate) fn rice_bits(value: u64, k: u32, raw_bits: u32) -> u64 {
    let quotient = value >> k;
    if quotient < u64::from(QUOTIENT_MAX) {
        quotient + 1 + u64::from(k)
    } else {
        u64::from(QUOTIENT_MAX + raw_bits)
    }
}

/// The same for a value of 32 bits whose raw form has as many, without a wider register.
#[inline(always)]
pub(crate) fn short_rice_bits(value: u32, k: u32) -> u32 {
    let quotient = value >> k;
    if quotient < QUOTIENT_MAX {
        quotient + 1 + k
    } else {
        QUOTIENT_MAX + u32::BITS
    }
}

/// Appends bits to bytes.
#[derive(Debug)]
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    held: u64,
    /// Bits in `held`, always less than 64 between calls.
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        BitWriter { out, held: 0, count: 0 }
    }

    /// Appends the low `bits` bits of `value`, at most 56; the others must be zero.
    #[inline(always)]
    pub fn put(&mut self, value: u64, bits: u32) {
        debug_assert!(bits <= 56 && value >> bits == 0);
        self.held |= value << self.count;
        self.count += bits;
        if self.count >= 64 {
            self.out.extend_from_slice(&self.held.to_le_bytes());
            self.count -= 64;
            // What did not fit: at least one bit of the value did.
            self.held = if self.count == 0 { 0 } else { value >> (bits - self.count) };
        }
    }

    /// Appends a Rice code; `value` must fit `raw_bits`.
    #[inline(always)]
    pub fn rice(&mut self, value: u64, k: u32, raw_bits: u32) {
        let quotient = value >> k;
        if quotient < u64::from(QUOTIENT_MAX) {
            // At most 23 ones, and the zero that ends them.
            let (ones, length) = ((1 << quotient) - 1, quotient as u32 + 1);
            let low = value & ((1 << k) - 1);
            if k <= 32 {
                self.put(ones | low << length, length + k);
            } else {
                self.put(ones, length);
                self.put_long(low, k);
            }
        } else {
            self.put((1 << QUOTIENT_MAX) - 1, QUOTIENT_MAX);
            self.put_long(value, raw_bits);
        }
    }

    fn put_long(&mut self, value: u64, bits: u32) {
        if bits > 32 {
            self.put(value & 0xffff_ffff, 32);
            self.put(value >> 32, bits - 32);
        } else {
            self.put(value, bits);
        }
    }

    /// Fills the last byte with zeros.
    pub fn finish(self) {
        let bytes = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.held.to_le_bytes()[..bytes]);
    }
}

/// The ones that a code begins with, at most [`QUOTIENT_MAX`].
#[inline(always)]
fn quotient(word: u64) -> u32 {
    // A number that is known not to be zero takes one instruction.
    (!word | 1 << QUOTIENT_MAX).trailing_zeros()
}

/// Reads bits from bytes. Beyond the end there are zeros; [`rest`](Self::rest) tells.
#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    at: u64,
}

/// What is wrong with a stream of bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadBits {
    /// More bits were read than there are.
    Short,
    /// The padding of the last byte is not zero.
    Padding,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, at: 0 }
    }

    /// The next bits, at least [`PEEK_BITS`] of them.
    #[inline(always)]
    fn peek(&self) -> u64 {
        let mut word = [0; 8];
        let start = usize::try_from(self.at / 8).unwrap_or(usize::MAX);
        match self.bytes.get(start..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(eight) => word = *eight,
            None => {
                let rest = self.bytes.get(start..).unwrap_or(&[]);
                word[..rest.len()].copy_from_slice(rest);
            }
        }
        u64::from_le_bytes(word) >> (self.at % 8)
    }

    /// Bits read so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next `bits` bits, at most 64.
    #[inline(always)]
    pub fn take(&mut self, bits: u32) -> u64 {
        if bits > PEEK_BITS {
            let low = self.take(32);
            return low | self.take(bits - 32) << 32;
        }
        let value = self.peek() & ((1 << bits) - 1);
        self.at += u64::from(bits);
        value
    }

    /// The next Rice code; an error, with the value, if one is written raw that has a shorter code.
    #[inline(always)]
    pub fn rice(&mut self, k: u32, raw_bits: u32) -> Result<u64, u64> {
        let word = self.peek();
        let quotient = quotient(word);
        if quotient < QUOTIENT_MAX {
            let taken = quotient + 1;
            if taken + k <= PEEK_BITS {
                self.at += u64::from(taken + k);
                return Ok(u64::from(quotient) << k | (word >> taken & ((1 << k) - 1)));
            }
            self.at += u64::from(taken);
            let low = self.take(k);
            // k may be 63: check that the quotient fits above it.
            let high =
                u64::from(quotient).checked_shl(k).filter(|high| high >> k == u64::from(quotient));
            return high.map(|high| high | low).ok_or(u64::MAX);
        }
        self.at += u64::from(QUOTIENT_MAX);
        let value = self.take(raw_bits);
        if value >> k < u64::from(QUOTIENT_MAX) {
            return Err(value);
        }
        Ok(value)
    }

    /// The next four Rice codes, if all of them are short and `k` is: read at one look at the stream, they
    /// wait less for one another.
    #[inline(always)]
    pub fn four_short(&mut self, k: u32) -> Option<[u64; 4]> {
        if k > SHORT_K {
            return None;
        }
        let (mut word, mut taken) = (self.peek(), 0);
        let mut values = [0; 4];
        for value in &mut values {
            let quotient = quotient(word);
            let ones = quotient + 1;
            *value = u64::from(quotient) << k | (word >> ones & ((1 << k) - 1));
            word >>= ones + k;
            // An escape is never short.
            taken += if quotient < QUOTIENT_MAX { ones + k } else { PEEK_BITS + 1 };
        }
        if taken > PEEK_BITS {
            return None;
        }
        self.at += u64::from(taken);
        Some(values)
    }

    /// The bytes after the last one that was used, which is padded with zeros.
    pub fn rest(mut self) -> Result<&'a [u8], BadBits> {
        let used = usize::try_from(self.at.div_ceil(8)).ok();
        let rest = used.and_then(|used| self.bytes.get(used..)).ok_or(BadBits::Short)?;
        match self.take((self.at.next_multiple_of(8) - self.at) as u32) {
            0 => Ok(rest),
            _ => Err(BadBits::Padding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rice_codes_round_trip_and_cost_what_is_said() {
        for k in [0, 1, 5, 13, 31, 40, 63] {
            for raw_bits in [8, 16, 32, 64] {
                let largest = u64::MAX >> (64 - raw_bits);
                for value in [
                    0,
                    1,
                    2,
                    23 << 5,
                    24 << 5,
                    1000,
                    65535,
                    u64::from(u32::MAX),
                    largest / 2,
                    largest,
                ] {
                    if value > largest {
                        continue;
                    }
                    let mut bytes = Vec::new();
                    let mut writer = BitWriter::new(&mut bytes);
                    writer.put(1, 3);
                    writer.rice(value, k, raw_bits);
                    writer.finish();
                    let bits = 3 + rice_bits(value, k, raw_bits);
                    if raw_bits == 32 && k < 32 {
                        assert_eq!(3 + u64::from(short_rice_bits(value as u32, k)), bits);
                    }
                    assert_eq!(bytes.len() as u64, bits.div_ceil(8));
                    let mut reader = BitReader::new(&bytes);
                    assert_eq!(reader.take(3), 1);
                    assert_eq!(reader.rice(k, raw_bits), Ok(value), "k {k}, raw {raw_bits}");
                    assert_eq!(reader.at, bits);
                    assert_eq!(reader.rest(), Ok(&[][..]));
                }
            }
        }
    }

    #[test]
    fn the_worked_example_of_the_spec() {
        // SPEC.md §7.5: 5 with k = 1 is 110 then 1, read from the left: quotient 2, rest 1.
        let mut bytes = Vec::new();
        let mut writer = BitWriter::new(&mut bytes);
        writer.rice(5, 1, 32);
        writer.finish();
        assert_eq!(bytes, [0b1011]);
    }

    #[test]
    fn four_codes_at_once_are_those_that_are_read_one_by_one() {
        let long = (QUOTIENT_MAX << SHORT_K).into();
        let numbers =
            [0, 1, 2, 3, 5, 7, 40, 900, 2000, long, 0, 0, 1, long, long, 6, 3, 2, 1, 0, 0];
        for k in 0..=SHORT_K + 1 {
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            numbers.iter().for_each(|&number| writer.rice(number, k, 32));
            writer.finish();
            let (mut reader, mut found, mut fours) = (BitReader::new(&bytes), Vec::new(), 0);
            while found.len() < numbers.len() {
                let is_last = numbers.len() - found.len() < 4;
                match if is_last { None } else { reader.four_short(k) } {
                    Some(four) => {
                        found.extend(four);
                        fours += 1;
                    }
                    None => found.push(reader.rice(k, 32).unwrap()),
                }
            }
            assert_eq!(found, numbers, "k {k}");
            assert_eq!(fours > 0, k <= SHORT_K, "k {k}");
            assert_eq!(reader.rest(), Ok(&[][..]));
        }
    }

    #[test]
    fn ends_and_escapes_are_checked() {
        assert_eq!(BitReader::new(&[0]).rest(), Ok(&[0][..]));
        let mut reader = BitReader::new(&[0x81]);
        reader.take(1);
        assert_eq!(reader.rest(), Err(BadBits::Padding));
        let mut reader = BitReader::new(&[0x01]);
        reader.take(9);
        assert_eq!(reader.rest(), Err(BadBits::Short));
        // 24 ones, then 23 raw: 23 has a code of its own.
        let mut bytes = vec![0xff; 3];
        bytes.extend_from_slice(&23u32.to_le_bytes());
        assert_eq!(BitReader::new(&bytes).rice(0, 32), Err(23));
        bytes[3] = 24;
        assert_eq!(BitReader::new(&bytes).rice(0, 32), Ok(24));
    }
}
