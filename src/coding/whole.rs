//! The whole coding: every byte of the target, as byte planes (SPEC.md §7.4).
//!
//! Byte plane `p` holds byte `p` of every element. The exponents of floats compress well, signs
//! and mantissas hardly: apart, each stream gets what it deserves. So that no plane has some of
//! both, floats are rotated left by one bit first: the sign joins the lowest bit of the mantissa,
//! and the highest byte of a BF16 or F32 is its exponent.

use crate::error::Fault;
use crate::packed::{self, Content, Packer};
use crate::parse::{self, Bad};
use crate::word::{at_width, Order, Word};

/// What is done to an element before its bytes go to the planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// Rotated left by one bit.
    Rotated,
}

impl Form {
    fn of(order: Order, element_bytes: usize) -> Form {
        match order {
            Order::Float { .. } if element_bytes > 1 => Form::Rotated,
            _ => Form::Plain,
        }
    }

    /// Code on the wire.
    fn code(self) -> u8 {
        match self {
            Form::Plain => 0,
            Form::Rotated => 1,
        }
    }

    fn from_code(code: u8) -> Option<Form> {
        [Form::Plain, Form::Rotated].into_iter().find(|form| form.code() == code)
    }
}

/// Writes the payload: the form, and one packed stream for each byte of an element.
pub(crate) fn encode(
    target: &[u8],
    element_bytes: usize,
    order: Order,
    level: i32,
    packer: &mut Packer,
) -> Vec<u8> {
    let form = Form::of(order, element_bytes);
    let mut payload = vec![form.code()];
    let mut plane = Vec::with_capacity(target.len() / element_bytes);
    let repeats = packed::repeats(target);
    for p in 0..element_bytes {
        at_width!(element_bytes, take_plane(target, p, form, &mut plane));
        packer.put(&mut payload, &plane, Content::Plane { repeats }, level);
    }
    payload
}

/// Into a slice, whose length lets compilers take many elements at once; so does a rotation that is
/// known when they compile.
fn take_plane<W: Word>(target: &[u8], p: usize, form: Form, plane: &mut Vec<u8>) {
    plane.resize(target.len() / W::BYTES, 0);
    let elements = target.chunks_exact(W::BYTES).map(W::load).zip(plane);
    match form {
        Form::Plain => elements.for_each(|(word, byte)| *byte = word.byte(p)),
        Form::Rotated => elements.for_each(|(word, byte)| *byte = word.rotate_left(1).byte(p)),
    }
}

/// A whole block, unpacked.
#[derive(Debug)]
pub(crate) struct Planes {
    form: Form,
    planes: Vec<Vec<u8>>,
}

impl Planes {
    /// Reads the payload of a block of `elements` elements.
    pub fn read(payload: &[u8], element_bytes: usize, elements: u64) -> Result<Planes, Bad> {
        parse::all(payload, "whole payload", |i| {
            let (mut rest, code) = parse::u8(i, "form")?;
            let Some(form) = Form::from_code(code) else {
                let found = u64::from(code);
                let expected = "0 (plain) or 1 (rotated)";
                return parse::fail(i, Fault::Value { field: "form", found, expected });
            };
            let mut planes = Vec::with_capacity(element_bytes);
            for _ in 0..element_bytes {
                let (after, packed) = packed::parse(rest, "plane")?;
                match packed.unpack_exact(elements) {
                    Ok(plane) => planes.push(plane),
                    Err(fault) => return parse::fail(rest, fault),
                }
                rest = after;
            }
            Ok((rest, Planes { form, planes }))
        })
    }

    /// Writes the target's elements from number `first` on.
    pub fn copy<W: Word>(&self, first: usize, target: &mut [u8]) {
        match self.form {
            Form::Plain => self.join::<W>(first, target, |word| word),
            Form::Rotated => self.join::<W>(first, target, |word| word.rotate_right(1)),
        }
    }

    #[inline(always)]
    fn join<W: Word>(&self, first: usize, target: &mut [u8], turn: impl Fn(W) -> W) {
        let elements = target.chunks_exact_mut(W::BYTES);
        // Two planes, which most weights have, without a check of the length at each element.
        if let [low, high] = &*self.planes {
            for ((element, &low), &high) in elements.zip(&low[first..]).zip(&high[first..]) {
                turn(W::load(&[low, high])).store(element);
            }
        } else {
            let mut bytes = [0; 8];
            for (i, element) in elements.enumerate() {
                for (byte, plane) in bytes.iter_mut().zip(&self.planes) {
                    *byte = plane[first + i];
                }
                turn(W::load(&bytes)).store(element);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOAT: Order = Order::Float { mantissa: 7 };

    fn copy<W: Word>(planes: &Planes, first: usize, target: &mut [u8]) {
        planes.copy::<W>(first, target);
    }

    #[test]
    fn planes_round_trip_at_every_width() {
        for order in [Order::Unsigned, FLOAT] {
            for element_bytes in [1, 2, 4, 8] {
                let target: Vec<u8> =
                    (0..element_bytes * 1000).map(|i| (i * i / 77) as u8).collect();
                let payload = encode(&target, element_bytes, order, 1, &mut Packer::default());
                let read = |payload, elements| Planes::read(payload, element_bytes, elements);
                let planes = read(&payload, 1000).unwrap();
                // In chunks of any size.
                let mut found = vec![0; target.len()];
                for (i, chunk) in found.chunks_mut(30 * element_bytes).enumerate() {
                    at_width!(element_bytes, copy(&planes, 30 * i, chunk));
                }
                assert_eq!(found, target);
                assert!(read(&payload, 999).is_err());
                assert!(read(&payload[..payload.len() - 1], 1000).is_err());
            }
        }
    }

    #[test]
    fn the_worked_example_of_the_spec() {
        // SPEC.md §7.4: BF16 values 1.0 and -2.0.
        assert_eq!(
            encode(&[0x80, 0x3f, 0x00, 0xc0], 2, FLOAT, 1, &mut Packer::default()),
            [0x01, 0x04, 0x00, 0x01, 0x04, 0x7f, 0x80]
        );
    }
}
