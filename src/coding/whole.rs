//! The whole coding: every byte of the target, as byte planes (SPEC.md §7.4).
//!
//! Byte plane `p` holds byte `p` of every element. The high bytes of floats compress well, the
//! low ones hardly: apart, each stream gets what it deserves.

use crate::packed::{self, Packer};
use crate::parse::{self, Bad};

/// Writes the payload: one packed stream for each byte of an element.
pub(crate) fn encode(
    target: &[u8],
    element_bytes: usize,
    level: i32,
    packer: &mut Packer,
) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut plane = Vec::with_capacity(target.len() / element_bytes);
    for p in 0..element_bytes {
        plane.clear();
        plane.extend(target.iter().skip(p).step_by(element_bytes));
        packer.put(&mut payload, &plane, level);
    }
    payload
}

/// Reads the payload of a block of `elements` elements: the bytes of the target.
pub(crate) fn decode(payload: &[u8], element_bytes: usize, elements: u64) -> Result<Vec<u8>, Bad> {
    parse::all(payload, "whole payload", |mut i| {
        let mut target = Vec::new();
        for p in 0..element_bytes {
            let (rest, packed) = packed::parse(i, "plane")?;
            let plane = match packed.unpack_exact(elements) {
                Ok(plane) => plane,
                Err(fault) => return parse::fail(i, fault),
            };
            if element_bytes == 1 {
                target = plane;
            } else {
                target.resize(plane.len() * element_bytes, 0);
                for (element, byte) in target.chunks_exact_mut(element_bytes).zip(plane) {
                    element[p] = byte;
                }
            }
            i = rest;
        }
        Ok((i, target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_round_trip_at_every_width() {
        for element_bytes in [1, 2, 4, 8] {
            let target: Vec<u8> = (0..element_bytes * 1000).map(|i| (i * i / 77) as u8).collect();
            let payload = encode(&target, element_bytes, 1, &mut Packer::default());
            assert_eq!(decode(&payload, element_bytes, 1000).unwrap(), target);
            assert!(decode(&payload, element_bytes, 999).is_err());
            assert!(decode(&payload[..payload.len() - 1], element_bytes, 1000).is_err());
        }
    }

    #[test]
    fn the_worked_example_of_the_spec() {
        // SPEC.md §7.4: BF16 values 1.0 and -2.0.
        assert_eq!(
            encode(&[0x80, 0x3f, 0x00, 0xc0], 2, 1, &mut Packer::default()),
            [0x04, 0x80, 0x00, 0x04, 0x3f, 0xc0]
        );
    }
}
