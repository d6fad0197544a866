//! Contextual blocks: an encoder that is told what to choose, written from SPEC.md §7.5.

use pulse::dtype::{Dtype, Order};
use pulse::wire::Tag;

use super::good::{File, Good};
use super::raw::{fields, Fields, Raw};
use super::sample::{self, digest_in, PATCHED};
use crate::checkpoint::{Checkpoint, Tensor};

pub const CONTEXTUAL: u8 = 2;

/// How the changes of a class are written.
#[derive(Clone, Copy)]
pub enum Class {
    /// Parameters of gaps, exceptions and magnitudes.
    Sparse(u16, u16, u16),
    /// Parameter, and the number of elements that have a code.
    Dense(u16, usize),
}

/// The lowest bits of a number, least significant first.
pub fn bits(value: u64, count: u32) -> String {
    (0..count).map(|bit| if value >> bit & 1 == 1 { '1' } else { '0' }).collect()
}

/// A Rice code, in the order of its bits.
pub fn rice(value: u64, k: u16, raw_bits: u32) -> String {
    let (quotient, k) = (value >> k, u32::from(k));
    match usize::try_from(quotient) {
        Ok(quotient) if quotient < 24 => format!("{}0{}", "1".repeat(quotient), bits(value, k)),
        _ => format!("{}{}", "1".repeat(24), bits(value, raw_bits)),
    }
}

/// Parameters of a class in the table.
pub fn parameters(gap: u16, exception: u16, magnitude: u16) -> Fields {
    fields().bytes(&(gap | exception << 5 | magnitude << 10).to_le_bytes())
}

fn rank(order: Order, element: u64, width: u32) -> u64 {
    let (sign, mask) = (1 << (width - 1), u64::MAX >> (64 - width));
    match order {
        Order::Unsigned => element,
        Order::Float { .. } if element & sign != 0 => !element & mask,
        Order::Signed | Order::Float { .. } => element ^ sign,
    }
}

/// Zigzag of the step between two elements.
fn zigzag(dtype: &Dtype, base: u64, target: u64) -> u64 {
    let width = 8 * dtype.element_bytes() as u32;
    let unused = 64 - width;
    let difference =
        rank(dtype.order(), target, width).wrapping_sub(rank(dtype.order(), base, width));
    let step = (difference << unused) as i64 >> unused;
    ((step << 1 ^ step >> 63) as u64) << unused >> unused
}

fn exponent(dtype: &Dtype, element: u64) -> u64 {
    match dtype.order() {
        Order::Float { mantissa } => {
            (element >> mantissa) & ((1 << (8 * dtype.element_bytes() as u32 - 1 - mantissa)) - 1)
        }
        _ => 0,
    }
}

/// Number of changes, and the payload for them.
fn encode(
    dtype: &Dtype,
    base: &[u64],
    target: &[u64],
    lowest: u64,
    classes: &[Class],
) -> (u64, Fields) {
    let width = 8 * dtype.element_bytes() as u32;
    let mut steps = vec![Vec::new(); classes.len()];
    for (&base, &target) in base.iter().zip(target) {
        let class = exponent(dtype, base).clamp(lowest, lowest + classes.len() as u64 - 1) - lowest;
        steps[class as usize].push(zigzag(dtype, base, target));
    }
    let mut table = fields().varint(lowest).u8(classes.len() as u8);
    let mut codes = String::new();
    for (class, steps) in classes.iter().zip(&steps) {
        let changes: Vec<(usize, u64)> =
            steps.iter().copied().enumerate().filter(|&(_, step)| step != 0).collect();
        match *class {
            Class::Sparse(..) if changes.is_empty() => table = table.varint(0),
            Class::Sparse(gap_k, exception_k, magnitude_k) => {
                // Zigzag 1 and 2 are the steps of magnitude 1.
                let exceptions: Vec<(usize, u64)> = changes
                    .iter()
                    .map(|change| change.1)
                    .enumerate()
                    .filter(|&(_, step)| step > 2)
                    .collect();
                table = table.varint(changes.len() as u64);
                table = table
                    .bytes(&parameters(gap_k, exception_k, magnitude_k).0)
                    .varint(exceptions.len() as u64);
                let mut next = 0;
                for &(at, _) in &changes {
                    codes += &rice((at - next) as u64, gap_k, 32);
                    next = at + 1;
                }
                changes.iter().for_each(|(_, step)| codes += if step % 2 == 1 { "1" } else { "0" });
                next = 0;
                for &(at, _) in &exceptions {
                    codes += &rice((at - next) as u64, exception_k, 32);
                    next = at + 1;
                }
                exceptions
                    .iter()
                    .for_each(|(_, step)| codes += &rice(step.div_ceil(2) - 2, magnitude_k, width));
            }
            Class::Dense(k, count) => {
                table = table.varint(count as u64).bytes(&parameters(31, 0, k).0);
                steps[..count].iter().for_each(|&step| codes += &rice(step, k, width));
                assert!(steps[count..].iter().all(|&step| step == 0), "a change without a code");
            }
        }
    }
    let changes = base.iter().zip(target).filter(|(base, target)| base != target).count();
    (changes as u64, table.bits(&codes))
}

/// A patch of the tensor `w` with one block, in which so many elements change.
pub fn patch(base: &Checkpoint, target: &Checkpoint, changes: u64, payload: Fields) -> Raw {
    let spec = &base.tensors["w"].spec;
    let code = Dtype::known().position(|dtype| dtype == *spec.dtype()).expect("a known dtype") + 1;
    let trailer =
        fields().varint(changes).digest(digest_in(base, "w")).digest(digest_in(target, "w"));
    Raw::new(sample::header(), sample::footer(changes, Some(base), target))
        .add_tensor("w", fields().name(0, "w").spec(PATCHED, code as u8, spec.shape()))
        .add(Tag::BLOCK, fields().block(CONTEXTUAL, 0, 1, changes).bytes(&payload.0))
        .add(Tag::TENSOR_END, trailer)
}

fn checkpoint(dtype: &Dtype, elements: &[u64]) -> Checkpoint {
    [("w", Tensor::new(dtype.clone(), &[elements.len() as u64], elements))].into()
}

/// What a vector says of itself, and the names of its checkpoints.
type Told = (&'static str, &'static str, [&'static str; 2]);

fn vector(told: Told, dtype: Dtype, elements: [&[u64]; 2], lowest: u64, classes: &[Class]) -> Good {
    let (name, shows, files) = told;
    let (changes, payload) = encode(&dtype, elements[0], elements[1], lowest, classes);
    let [base, target] = elements.map(|elements| checkpoint(&dtype, elements));
    Good {
        name: name.into(),
        rules: "R5",
        shows,
        patch: patch(&base, &target, changes, payload).write(),
        base: Some(File::new(files[0], &base)),
        target: File::new(files[1], &target),
    }
}

/// Base and target of the example of SPEC.md §7.5.
pub const EXAMPLE: [[u64; 8]; 2] = [
    [0x3f80, 0x3f00, 0x3f81, 0x3f82, 0x3f01, 0x3f83, 0x3f02, 0x3f84],
    [0x3f80, 0x3f00, 0x3f81, 0x3f83, 0x3f01, 0x3f80, 0x3f03, 0x3f84],
];

pub fn example() -> [Checkpoint; 2] {
    EXAMPLE.map(|elements| checkpoint(&Dtype::Bf16, &elements))
}

pub fn vectors() -> Vec<Good> {
    use Class::{Dense, Sparse};
    let example = [&EXAMPLE[0][..], &EXAMPLE[1]];
    let example_files = ["classes-base", "classes-target"];
    let bf16 =
        |told, lowest, classes: &[Class]| vector(told, Dtype::Bf16, example, lowest, classes);
    // Steps from the smallest to the largest, at gaps that need the raw form.
    let mut far = vec![0x3f80; 100];
    let near = far.clone();
    (far[30], far[31], far[60], far[99]) = (0x3f81, 0xbf80, 0xbf7f, 0x3f00);
    let integers: [u64; 4] = [0, u64::MAX, 1 << 63, 7];
    let moved: [u64; 4] = [1 << 63, 0, (1 << 63) - 1, 7];
    vec![
        bf16(
            ("contextual-example", "The example of SPEC.md §7.5: two classes.", example_files),
            126,
            &[Sparse(1, 0, 0), Sparse(0, 0, 0)],
        ),
        bf16(
            (
                "contextual-one-class",
                "The same changes in one class, to which all exponents are clamped.",
                example_files,
            ),
            200,
            &[Sparse(2, 1, 0)],
        ),
        bf16(
            ("contextual-32-classes", "The same changes with 30 classes that have none.", example_files),
            124,
            &[Sparse(0, 0, 0); 32],
        ),
        bf16(
            (
                "contextual-dense",
                "The same changes in a dense class, whose last element has no code, and a sparse one.",
                example_files,
            ),
            126,
            &[Sparse(30, 0, 0), Dense(1, 4)],
        ),
        vector(
            ("contextual-raw", "Gaps and magnitudes in the raw form, and a step of -2^15.", ["far-base", "far-target"]),
            Dtype::Bf16,
            [&near, &far],
            127,
            &[Sparse(0, 0, 0)],
        ),
        vector(
            ("contextual-dense-raw", "The steps of contextual-raw in a dense class.", ["far-base", "far-target"]),
            Dtype::Bf16,
            [&near, &far],
            127,
            &[Dense(0, 100)],
        ),
        vector(
            ("contextual-u64", "Integers have one class; steps of 64 bits that wrap.", ["wide-base", "wide-target"]),
            Dtype::U64,
            [&integers, &moved],
            0,
            &[Sparse(0, 0, 63)],
        ),
    ]
}
