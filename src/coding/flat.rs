//! The flat coding: gaps and values as two packed streams; decodes without the base (SPEC.md §7.3).

use crate::changes::Changes;
use crate::coding::PayloadBits;
use crate::error::Fault;
use crate::packed::{self, Content, Packer};
use crate::parse::{self, Bad, Parse};
use crate::varint;
use crate::word::ValueForm;

/// How gaps or values are written: LEB128, or fixed at 1, 2, 4 or 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Varint,
    Fixed(usize),
}

impl Width {
    /// The narrowest fixed width that holds `max`.
    fn narrowest(max: u64) -> Width {
        Width::Fixed(match max {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        })
    }

    /// Code on the wire: 0 varint, 1 to 4 for u8 to u64.
    fn code(self) -> u8 {
        match self {
            Width::Varint => 0,
            Width::Fixed(bytes) => bytes.trailing_zeros() as u8 + 1,
        }
    }

    fn from_code(code: u8) -> Width {
        match code {
            0 => Width::Varint,
            code => Width::Fixed(1 << (code - 1)),
        }
    }

    fn put(self, out: &mut Vec<u8>, value: u64) {
        match self {
            Width::Varint => varint::put(out, value),
            Width::Fixed(bytes) => out.extend_from_slice(&value.to_le_bytes()[..bytes]),
        }
    }
}

fn form_code(form: ValueForm) -> u8 {
    match form {
        ValueForm::UlpStep => 0,
        ValueForm::Xor => 1,
        ValueForm::Overwrite => 2,
    }
}

/// Writes the payload: form byte, gaps, values; each stream in its smallest width.
pub(crate) fn encode(
    changes: &Changes,
    form: ValueForm,
    level: i32,
    packer: &mut Packer,
) -> Vec<u8> {
    let (gap_code, gaps) = smallest(gaps(&changes.elements), level, packer);
    let (value_code, values) = smallest(changes.values.iter().copied(), level, packer);
    let mut payload = Vec::with_capacity(1 + gaps.len() + values.len());
    payload.push(gap_code | form_code(form) << 3 | value_code << 5);
    payload.extend_from_slice(&gaps);
    payload.extend_from_slice(&values);
    payload
}

/// Numbers of unchanged elements before each change.
pub(crate) fn gaps(elements: &[u32]) -> impl Iterator<Item = u64> + Clone + '_ {
    let mut next = 0;
    elements.iter().map(move |&element| {
        let gap = element - next;
        next = element + 1;
        u64::from(gap)
    })
}

/// The numbers as a packed stream, as varints or at the narrowest fixed width, whichever is smaller.
fn smallest(
    numbers: impl Iterator<Item = u64> + Clone,
    level: i32,
    packer: &mut Packer,
) -> (u8, Vec<u8>) {
    let fixed = Width::narrowest(numbers.clone().max().unwrap_or(0));
    let mut pack = |width: Width| {
        let mut plain = Vec::new();
        numbers.clone().for_each(|number| width.put(&mut plain, number));
        let mut stream = Vec::new();
        packer.put(&mut stream, &plain, Content::Numbers, level);
        (width.code(), stream)
    };
    let (a, b) = (pack(fixed), pack(Width::Varint));
    if a.1.len() <= b.1.len() {
        a
    } else {
        b
    }
}

/// The numbers of one unpacked stream.
struct Numbers {
    field: &'static str,
    width: Width,
    bytes: Vec<u8>,
    at: usize,
}

impl Numbers {
    fn next(&mut self) -> Result<u64, Fault> {
        let rest = &self.bytes[self.at..];
        let (value, len) = match self.width {
            Width::Varint => match varint::parse(rest) {
                varint::Parsed::Value(value, len) => (value, len),
                varint::Parsed::Invalid => return Err(Fault::Varint { field: self.field }),
                varint::Parsed::Incomplete => return Err(self.short()),
            },
            Width::Fixed(len) => match rest.get(..len) {
                Some(fixed) => {
                    let mut wide = [0; 8];
                    wide[..len].copy_from_slice(fixed);
                    (u64::from_le_bytes(wide), len)
                }
                None => return Err(self.short()),
            },
        };
        self.at += len;
        Ok(value)
    }

    fn short(&self) -> Fault {
        Fault::Stream {
            field: self.field,
            found: "fewer numbers than the block has changes".into(),
        }
    }

    fn finish(&self) -> Result<(), Fault> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            extra => Err(Fault::Stream {
                field: self.field,
                found: format!("{extra} bytes follow the last number"),
            }),
        }
    }
}

/// Reads the payload of a block of `elements` elements of `element_bytes` bytes with `changes` changes.
pub(crate) fn decode(
    payload: &[u8],
    element_bytes: usize,
    elements: u64,
    changes: u64,
) -> Result<(ValueForm, Changes, PayloadBits), Bad> {
    parse::all(payload, "flat payload", |i| streams(i, element_bytes, elements, changes))
}

fn streams(
    i: &[u8],
    element_bytes: usize,
    elements: u64,
    changes: u64,
) -> Parse<'_, (ValueForm, Changes, PayloadBits)> {
    let (rest, form_byte) = parse::u8(i, "form")?;
    let (gap_code, form_code, value_code) = (form_byte & 7, form_byte >> 3 & 3, form_byte >> 5);
    parse::check(i, gap_code <= 3, "gap width", u64::from(gap_code), "0 to 3")?;
    parse::check(i, form_code <= 2, "value form", u64::from(form_code), "0 to 2")?;
    parse::check(i, value_code <= 4, "value width", u64::from(value_code), "0 to 4")?;
    let form = [ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite][usize::from(form_code)];
    let bits_before = |rest: &[u8]| (i.len() - rest.len()) as u64 * 8;
    let tables = bits_before(rest);
    let (rest, gaps) = numbers(rest, "gaps", gap_code, changes)?;
    let positions = bits_before(rest) - tables;
    let (rest, values) = numbers(rest, "values", value_code, changes)?;
    let account =
        PayloadBits { positions, signs: 0, values: bits_before(rest) - positions - tables, tables };
    match join(gaps, values, form, element_bytes, elements, changes) {
        Ok(changes) => Ok((rest, (form, changes, account))),
        Err(fault) => parse::fail(rest, fault),
    }
}

fn numbers<'a>(i: &'a [u8], field: &'static str, code: u8, count: u64) -> Parse<'a, Numbers> {
    let width = Width::from_code(code);
    let (rest, packed) = packed::parse(i, field)?;
    let bytes = match width {
        Width::Fixed(bytes) => packed.unpack_exact(count.saturating_mul(bytes as u64)),
        Width::Varint => packed.unpack(count.saturating_mul(varint::MAX_BYTES as u64)),
    };
    match bytes {
        Ok(bytes) => Ok((rest, Numbers { field, width, bytes, at: 0 })),
        Err(fault) => parse::fail(i, fault),
    }
}

fn join(
    mut gaps: Numbers,
    mut values: Numbers,
    form: ValueForm,
    element_bytes: usize,
    elements: u64,
    changes: u64,
) -> Result<Changes, Fault> {
    // Both streams hold at least one byte for each change: this is memory already paid for.
    let room = usize::try_from(changes).unwrap_or(0).min(gaps.bytes.len());
    let mut joined =
        Changes { elements: Vec::with_capacity(room), values: Vec::with_capacity(room) };
    let largest = u64::MAX >> (64 - 8 * element_bytes);
    let mut next = 0u64;
    for _ in 0..changes {
        let element = next.saturating_add(gaps.next()?);
        if element >= elements {
            return Err(Fault::Position { found: element, elements });
        }
        let value = values.next()?;
        if value > largest {
            return Err(Fault::Value {
                field: "value",
                found: value,
                expected: "a value that fits the dtype",
            });
        }
        if value == 0 && form != ValueForm::Overwrite {
            return Err(Fault::Value {
                field: "value",
                found: 0,
                expected: "a change that changes something",
            });
        }
        joined.elements.push(element as u32);
        joined.values.push(value);
        next = element + 1;
    }
    gaps.finish()?;
    values.finish()?;
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pairs: &[(u32, u64)]) -> Changes {
        Changes {
            elements: pairs.iter().map(|pair| pair.0).collect(),
            values: pairs.iter().map(|pair| pair.1).collect(),
        }
    }

    #[test]
    fn the_worked_example_of_the_spec() {
        // SPEC.md §7.3: elements 3, 4 and 300 of a BF16 block; steps +1, -1, +2.
        let payload = encode(
            &changes(&[(3, 2), (4, 1), (300, 4)]),
            ValueForm::UlpStep,
            1,
            &mut Packer::default(),
        );
        assert_eq!(payload, [0x20, 0x08, 0x03, 0x00, 0xa7, 0x02, 0x06, 0x02, 0x01, 0x04]);
    }

    #[test]
    fn every_gap_and_value_width_round_trips() {
        for gap in [0, 0x80, 0x100, 0x1_0000, 0x40_0000] {
            for value in [1, 0x80, 0x100, 0x1_0000, 1 << 32, u64::MAX] {
                for form in [ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite] {
                    let given = changes(&[(gap, value), (gap + 1, 1), (2 * gap + 2, value)]);
                    let payload = encode(&given, form, 1, &mut Packer::default());
                    let (found_form, found, _) = decode(&payload, 8, 1 << 26, 3).unwrap();
                    assert_eq!(found_form, form);
                    assert_eq!((found.elements, found.values), (given.elements, given.values));
                }
            }
        }
    }

    #[test]
    fn illegal_payloads_name_their_fault() {
        let kind =
            |payload: &[u8], changes| decode(payload, 2, 10, changes).unwrap_err().fault.kind();
        // form, gaps (varint, stored), values (u8, stored)
        assert_eq!(decode(&[0x20, 2, 9, 2, 1], 2, 10, 1).unwrap().1.elements, [9]);
        assert_eq!(kind(&[0x20, 2, 10, 2, 1], 1), "position");
        assert_eq!(kind(&[0x20, 2, 9, 2, 0], 1), "value"); // step 0
        assert_eq!(kind(&[0x80, 2, 9, 16, 0, 0, 1, 0, 0, 0, 0, 0], 1), "value"); // too wide for 2 bytes
        assert_eq!(kind(&[0x24, 2, 9, 2, 1], 1), "value"); // gap width
        assert_eq!(kind(&[0x38, 2, 9, 2, 1], 1), "value"); // value form
        assert_eq!(kind(&[0xa0, 2, 9, 2, 1], 1), "value"); // value width
        assert_eq!(kind(&[0x20, 4, 9, 0, 2, 1], 1), "stream"); // a gap too many
        assert_eq!(kind(&[0x20, 2, 1, 2, 1], 2), "stream"); // a gap missing
        assert_eq!(kind(&[0x20, 4, 0x89, 0, 2, 1], 1), "varint");
        assert_eq!(kind(&[0x20, 2, 9, 2, 1, 0], 1), "length");
        assert_eq!(kind(&[0x20, 2, 9, 2], 1), "length");
        assert_eq!(kind(&[0x20, 3, 9, 2, 1], 1), "stream"); // not a zstd frame
        assert_eq!(kind(&[], 1), "length");
    }
}
