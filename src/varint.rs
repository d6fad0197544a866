//! Unsigned LEB128 varints, shortest form only (SPEC.md §2).

/// Most bytes that a varint of 64 bits takes.
pub(crate) const MAX_BYTES: usize = 10;

/// Appends a varint.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What the start of a slice holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A value and the bytes it took.
    Value(u64, usize),
    /// The slice ends within the varint.
    Incomplete,
    /// Not in shortest form, or more than 64 bits.
    Invalid,
}

/// Reads a varint from the start of a slice.
#[inline]
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == MAX_BYTES - 1 && byte > 1 {
            return Parsed::Invalid;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            let shortest = i == 0 || byte != 0;
            return if shortest { Parsed::Value(value, i + 1) } else { Parsed::Invalid };
        }
    }
    Parsed::Incomplete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_form_round_trips_at_every_width() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                put(&mut bytes, value);
                assert_eq!(parse(&bytes), Parsed::Value(value, bytes.len()));
                for end in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..end]), Parsed::Incomplete);
                }
            }
        }
    }

    #[test]
    fn long_forms_and_overflow_are_invalid() {
        assert_eq!(parse(&[0x80, 0x00]), Parsed::Invalid);
        assert_eq!(parse(&[0xff, 0x80, 0x00]), Parsed::Invalid);
        let mut overflow = [0xff; 10];
        overflow[9] = 2;
        assert_eq!(parse(&overflow), Parsed::Invalid);
        assert_eq!(parse(&[0xff; 10]), Parsed::Invalid);
    }
}
