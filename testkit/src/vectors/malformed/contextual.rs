//! Payloads of the contextual coding: the example of SPEC.md §7.5 with one rule broken.

use pulse::dtype::Dtype;
use pulse::wire::Tag;

use super::{row, Malformed};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::vectors::contextual::{bits, example, parameters, patch, rice, CONTEXTUAL};
use crate::vectors::good::File;
use crate::vectors::raw::{fields, Fields};
use crate::vectors::sample::addition;

/// A vector whose block of three changes has this payload.
fn payload(
    name: &'static str,
    error: &'static str,
    rules: &'static str,
    shows: &'static str,
    payload: Fields,
) -> Malformed {
    let [base, target] = example();
    let file = File::new("classes-base", &base);
    Malformed {
        base: Some(file),
        ..row(name, error, rules, shows, patch(&base, &target, 3, payload))
    }
}

/// Lowest exponent 126, two classes; the first has the change of the example.
fn first() -> Fields {
    fields().varint(126).u8(2).varint(1).bytes(&parameters(1, 0, 0).0).varint(0)
}

/// Adds the second class of the example: a number of changes, parameters, a number of exceptions.
fn table(changes: u64, k: [u16; 3], exceptions: u64) -> Fields {
    first().varint(changes).bytes(&parameters(k[0], k[1], k[2]).0).varint(exceptions)
}

/// Codes of the first class, and of the second up to its exception.
const CODES: &str = "100 0 110 0 0 1";

/// The table of the example, and other codes after those of the changes.
fn exception(place: &str, magnitude: &str) -> Fields {
    table(2, [0, 0, 0], 1).bits(&[CODES, place, magnitude].concat())
}

/// One class, which holds every element; `k` is the parameter of its dense codes.
fn dense(count: u64, k: u16, codes: &str) -> Fields {
    fields().varint(127).u8(1).varint(count).bytes(&parameters(31, 0, k).0).bits(codes)
}

pub fn tables() -> Vec<Malformed> {
    let codes = "1001 1001 1010 1";
    vec![
        payload("contextual-empty", "length", "R6", "A payload of no bytes.", fields()),
        payload(
            "contextual-table-cut",
            "length",
            "R6",
            "The table ends within the parameters of a class.",
            first().varint(2).u8(0),
        ),
        payload(
            "contextual-varint",
            "varint",
            "R7",
            "The lowest exponent is not in its shortest form.",
            fields().bytes(&[0xfe, 0x00]).u8(1).varint(0),
        ),
        payload(
            "contextual-no-classes",
            "value",
            "R85",
            "A table of no classes.",
            fields().varint(126).u8(0),
        ),
        payload(
            "contextual-33-classes",
            "value",
            "R85",
            "A table of 33 classes.",
            fields().varint(126).u8(33).bytes(&[0; 33]),
        ),
        payload(
            "contextual-lowest",
            "value",
            "R85",
            "Exponents 255 and 256, of which the dtype has only one.",
            fields()
                .varint(255)
                .u8(2)
                .varint(3)
                .bytes(&parameters(0, 0, 0).0)
                .varint(0)
                .varint(0)
                .bits(codes),
        ),
        payload(
            "contextual-lowest-overflow",
            "value",
            "R85",
            "The greatest exponent of the table exceeds 64 bits.",
            fields()
                .varint(u64::MAX)
                .u8(2)
                .varint(3)
                .bytes(&parameters(0, 0, 0).0)
                .varint(0)
                .varint(0)
                .bits(codes),
        ),
        payload(
            "contextual-counts",
            "value",
            "R86",
            "Two classes have codes for nine elements of eight.",
            table(8, [0, 0, 0], 0).bytes(&[0; 3]),
        ),
        payload(
            "contextual-counts-of-bits",
            "value",
            "R86",
            "Eight elements have codes, and there are no bits.",
            dense(8, 0, ""),
        ),
        payload(
            "contextual-counts-overflow",
            "value",
            "R86",
            "The sum of the counts exceeds 64 bits.",
            table(u64::MAX, [0, 0, 0], 0).bytes(&[0; 3]),
        ),
        payload(
            "contextual-exceptions",
            "value",
            "R87",
            "Three exceptions among two changes.",
            table(2, [0, 0, 0], 3).bits("100 0 110 0 0 1 0 0 0 0 0 0"),
        ),
        payload(
            "contextual-exception-k",
            "value",
            "R87",
            "Exception parameter 31.",
            table(2, [0, 31, 0], 1).bits(&[CODES, "0", &"0".repeat(31), "10"].concat()),
        ),
        payload(
            "contextual-magnitude-k",
            "value",
            "R87",
            "Magnitude parameter 16 for elements of 16 bits.",
            table(2, [0, 0, 16], 1).bits(&[CODES, "10", "0", &"0".repeat(16)].concat()),
        ),
        payload(
            "contextual-dense-exception-k",
            "value",
            "R87",
            "A dense class has an exception parameter.",
            fields().varint(126).u8(1).varint(3).bytes(&parameters(31, 1, 1).0).bits("10 10 10"),
        ),
        payload(
            "contextual-no-exceptions",
            "reserved",
            "R87",
            "A class without exceptions has a magnitude parameter.",
            table(2, [0, 0, 1], 0).bits(CODES),
        ),
    ]
}

pub fn codes() -> Vec<Malformed> {
    let right = exception("10", "10");
    let [base, target] = example();
    let mut other = base.clone();
    // Elements move from the second class to the first.
    other.tensors.get_mut("w").expect("a tensor").bytes[6..16].copy_from_slice(&[0x3f; 10]);
    vec![
        payload(
            "contextual-codes-short",
            "stream",
            "R88",
            "The codes end before the last magnitude.",
            table(2, [0, 0, 0], 1).bits("100 0 1100"),
        ),
        payload(
            "contextual-codes-short-raw",
            "stream",
            "R88",
            "The codes end within a magnitude in the raw form: what is missing is not zero.",
            exception("10", &"1".repeat(24)),
        ),
        payload("contextual-codes-long", "stream", "R88", "A byte follows the codes.", right.clone().u8(0)),
        payload("contextual-padding", "reserved", "R88", "A padding bit is set.", exception("10", "10 01")),
        payload(
            "contextual-raw-too-small",
            "value",
            "R89",
            "A magnitude is written raw that has a shorter code.",
            exception("10", &["1".repeat(24), "1".to_string() + &"0".repeat(15)].concat()),
        ),
        payload(
            "contextual-raw-gap-too-small",
            "value",
            "R89",
            "A gap is written raw that has a shorter code.",
            table(2, [0, 0, 0], 1).bits(&["100 0", &"1".repeat(24), "01", &"0".repeat(30), "0 0 1 10 10"].concat()),
        ),
        payload(
            "contextual-dense-too-wide",
            "value",
            "R90",
            "A zigzag step of 17 bits in a dense class, for elements of 16.",
            dense(4, 15, &["0", "110"].map(|quotient| quotient.to_string() + &"0".repeat(15)).concat().repeat(2)),
        ),
        payload(
            "contextual-magnitude-too-large",
            "value",
            "R90",
            "A positive step of 2^15: only a negative one reaches it.",
            table(2, [0, 0, 0], 1).bits(&["100 0 110 0 0 0 10", &rice((1 << 15) - 2, 0, 16)].concat()),
        ),
        payload(
            "contextual-exception-place",
            "position",
            "R91",
            "The exception is the third of two changes.",
            exception("110", "10"),
        ),
        payload(
            "contextual-gap-largest",
            "position",
            "R91",
            "A gap of 2^32 - 1.",
            table(2, [0, 0, 0], 1).bits(&["100 0 110", &rice(u32::MAX.into(), 0, 32), "0 1 10 10"].concat()),
        ),
        payload(
            "contextual-gap-beyond-32-bits",
            "position",
            "R91",
            "A gap of 2^32, which has a short code where gap k is 30.",
            table(2, [30, 0, 0], 0).bits(&["100 0 11110", &"0".repeat(30), "0", &"0".repeat(30), "0 1"].concat()),
        ),
        payload(
            "contextual-exception-gap-largest",
            "position",
            "R91",
            "2^32 - 1 ordinary changes before an exception.",
            exception(&rice(u32::MAX.into(), 0, 32), "10"),
        ),
        payload(
            "contextual-exception-gap-beyond-32-bits",
            "position",
            "R91",
            "2^32 ordinary changes before an exception, which have a short code where exception k is 30.",
            table(2, [0, 30, 0], 1).bits(&[CODES, "11110", &"0".repeat(30), "10"].concat()),
        ),
        payload(
            "contextual-changes",
            "count",
            "R92",
            "The classes have two changes, the block three.",
            table(1, [0, 0, 0], 1).bits("100 0 1110 1 0 10"),
        ),
        payload(
            "contextual-dense-changes",
            "count",
            "R92",
            "A dense class with four codes that are not 0, in a block of three changes.",
            dense(8, 0, "10 10 10 10 0 0 0 0"),
        ),
        payload(
            "contextual-position",
            "position",
            "R93",
            "The second change of a class lies past its last element.",
            table(2, [0, 0, 0], 1).bits("100 0 110 1110 0 1 10 10"),
        ),
        payload(
            "contextual-dense-position",
            "position",
            "R93",
            "A dense class has codes for more elements than are in the class.",
            fields()
                .varint(126)
                .u8(2)
                .varint(4)
                .bytes(&parameters(31, 0, 1).0)
                .varint(1)
                .bytes(&parameters(0, 0, 0).0)
                .varint(0)
                .bits("00 00 100 100 110 0"),
        ),
        Malformed {
            base: Some(File::new("classes-other", &other)),
            ..row(
                "base-of-other-classes",
                "base",
                "R63 R93",
                "Another base, whose classes end before their changes: the base is at fault, not the block.",
                patch(&base, &target, 3, right),
            )
            .or("position")
        },
    ]
}

/// Elements of one byte and of eight.
pub fn widths() -> Vec<Malformed> {
    let wide = |elements: &[u64]| {
        [("w", Tensor::new(Dtype::U64, &[elements.len() as u64], elements))].into()
    };
    // One change, and one class: its parameters, and what follows them.
    let of_wide = |name, error, rules, shows, target: &[u64], table: Fields| {
        let (base, target): (Checkpoint, Checkpoint) = (wide(&[5, 5]), wide(target));
        let payload = fields().varint(0).u8(1).bytes(&table.0);
        Malformed {
            base: Some(File::new("u64-base", &base)),
            ..row(name, error, rules, shows, patch(&base, &target, 1, payload))
        }
    };
    let raw = |k, value| {
        let codes = ["1".repeat(24), bits(value, 64)].concat();
        fields().varint(1).bytes(&parameters(31, 0, k).0).bits(&codes)
    };
    vec![
        row(
            "contextual-put",
            "value",
            "R35",
            "A tensor that is put has a contextual block, of steps from zeros.",
            addition().replace(
                Tag::BLOCK,
                fields().block(CONTEXTUAL, 0, 1, 2).varint(0).u8(1).bytes(
                    &fields().varint(2).bytes(&parameters(31, 0, 0).0).bits("110 11110").0,
                ),
            ),
        ),
        of_wide(
            "contextual-no-exceptions-exception-k",
            "reserved",
            "R87",
            "A class without exceptions has an exception parameter.",
            &[6, 5],
            fields().varint(1).bytes(&parameters(0, 1, 0).0).varint(0).bits("0 0"),
        ),
        of_wide(
            "contextual-dense-wraps",
            "value",
            "R90",
            "A zigzag step of 2^64 in a dense class: in 64 bits it wraps to 0.",
            &[5, 6],
            fields().varint(2).bytes(&parameters(31, 0, 63).0).bits(
                &["110", &bits(0, 63), "0", &bits(2, 63)].concat(),
            ),
        ),
        of_wide(
            "contextual-raw-too-small-of-64-bits",
            "value",
            "R89",
            "A step of 64 bits is written raw; it is one less than those that must be.",
            &[5u64.wrapping_sub(12 << 59), 5],
            raw(59, (24 << 59) - 1),
        ),
        of_wide(
            "contextual-raw-never",
            "value",
            "R89",
            "A step of 64 bits is written raw where magnitude k is 60, and every step has a shorter code.",
            &[5 ^ 1 << 63, 5],
            raw(60, u64::MAX),
        ),
    ]
}
