//! Predicted signs: a writer of sign streams, from SPEC.md §7.6, and the vectors that have them.

use pulse::dtype::Dtype;
use pulse::wire::Tag;

use super::contextual::{parameters, rice, CONTEXTUAL};
use super::good::{File, Good};
use super::raw::{fields, Fields, Raw};
use super::sample::{self, digest_in, PATCHED};
use crate::checkpoint::{Checkpoint, Tensor};

/// The bit of the classes byte that says so.
pub const PREDICTED: u8 = 0x80;

/// A range coder and what the signs before say of the next one.
struct Writer {
    low: i64,
    range: i64,
    bytes: Vec<u8>,
    u: [i64; 2],
    v: Vec<[i64; 2]>,
    weight: i64,
    seen: Vec<(usize, i64)>,
}

fn clamp(x: i64) -> i64 {
    x.clamp(-8191, 8191)
}

impl Writer {
    fn new(columns: usize) -> Writer {
        let v = (0..columns).map(|c| [256, if c % 2 == 0 { 256 } else { -256 }]).collect();
        let (low, range) = (0, (1 << 32) - 1);
        Writer { low, range, bytes: Vec::new(), u: [0, 0], v, weight: 16384, seen: Vec::new() }
    }

    fn predict(&self, c: usize) -> i64 {
        (self.u[0] * self.v[c][0] + self.u[1] * self.v[c][1]) >> 12
    }

    fn carry(&mut self) {
        let mut at = self.bytes.len();
        let mut over = self.low >> 32 != 0;
        while over {
            at -= 1;
            self.bytes[at] = self.bytes[at].wrapping_add(1);
            over = self.bytes[at] == 0;
        }
        self.low &= 0xffff_ffff;
    }

    fn put(&mut self, c: usize, down: bool) {
        let d = self.predict(c);
        let bound = (self.range >> 16) * (32768 + 8 * d).clamp(1024, 64512);
        if down {
            self.low += bound;
            self.range -= bound;
            self.carry();
        } else {
            self.range = bound;
        }
        while self.range < 1 << 24 {
            self.bytes.push((self.low >> 24) as u8);
            self.low = (self.low << 8) & 0xffff_ffff;
            self.range <<= 8;
        }
        let s = if down { -4096 } else { 4096 };
        self.seen.push((c, s));
        let v = self.v[c];
        self.weight = (self.weight + ((v[0] * v[0] + v[1] * v[1]) >> 12)).min(1 << 30);
        let t = (s - d) * 16384 / self.weight;
        self.u = [0, 1].map(|j| clamp(self.u[j] + ((t * v[j]) >> 14)));
    }

    fn end_row(&mut self) {
        for (k, s) in std::mem::take(&mut self.seen) {
            let e = s - self.predict(k);
            self.v[k] = [0, 1].map(|j| clamp(self.v[k][j] + ((e * self.u[j]) >> 11)));
        }
        (self.u, self.weight) = ([0, 0], 16384);
    }

    fn finish(mut self) -> Vec<u8> {
        self.low += 0xff_ffff;
        self.carry();
        self.bytes.push((self.low >> 24) as u8);
        self.bytes
    }
}

/// The stream of these changes: elements of the block, which starts in column `first`, and whether they go down.
pub fn stream(columns: usize, first: usize, changes: &[(usize, bool)]) -> Vec<u8> {
    let mut writer = Writer::new(columns);
    let mut row = None;
    for &(element, down) in changes {
        let (now, c) = ((first + element) / columns, (first + element) % columns);
        if row.is_some_and(|before| before != now) {
            writer.end_row();
        }
        row = Some(now);
        writer.put(c, down);
    }
    writer.finish()
}

/// The payload of a block of one sparse class of which the first elements change by 1.
fn first_change(exponent: u64, columns: usize, first: usize, down: &[bool]) -> Fields {
    let changes: Vec<(usize, bool)> = down.iter().copied().enumerate().collect();
    fields()
        .varint(exponent)
        .u8(PREDICTED | 1)
        .varint(down.len() as u64)
        .bytes(&parameters(0, 0, 0).0)
        .varint(0)
        .bits(&rice(0, 0, 32).repeat(down.len()))
        .bytes(&stream(columns, first, &changes))
}

/// A patch of the tensor `w`, in blocks of so many leaves, given as payloads and changes.
fn patch(base: &Tensor, target: &Tensor, leaves: u64, blocks: Vec<(u64, Fields)>) -> Raw {
    let (spec, changes) = (&base.spec, blocks.iter().map(|block| block.0).sum());
    let [old, new] = [base, target].map(|tensor| Checkpoint::from([("w", tensor.clone())]));
    let tensor = match Dtype::known().position(|dtype| dtype == *spec.dtype()) {
        Some(known) => fields().name(0, "w").spec(PATCHED, known as u8 + 1, spec.shape()),
        None => {
            let fields = fields().name(0, "w").u8(PATCHED).u8(0).string(spec.dtype().name());
            let fields = fields.varint(spec.bytes()).varint(spec.shape().len() as u64);
            spec.shape().iter().fold(fields, |fields, &dim| fields.varint(dim))
        }
    };
    let mut raw = Raw::new(
        fields().u8(0).varint(leaves).varint(0),
        sample::footer(changes, Some(&old), &new),
    )
    .add_tensor("w", tensor);
    for (changes, payload) in blocks {
        raw = raw.add(Tag::BLOCK, fields().block(CONTEXTUAL, 0, leaves, changes).bytes(&payload.0));
    }
    let trailer =
        fields().varint(changes).digest(digest_in(&old, "w")).digest(digest_in(&new, "w"));
    raw.add(Tag::TENSOR_END, trailer)
}

/// All elements are 1.0, and go up or down by 1.
fn ones(shape: &[u64], down: &[bool]) -> [Tensor; 2] {
    let stepped: Vec<u64> = down.iter().map(|&down| if down { 0x3f7f } else { 0x3f81 }).collect();
    [vec![0x3f80; down.len()], stepped].map(|elements| Tensor::new(Dtype::Bf16, shape, &elements))
}

/// The example of the SPEC: columns 0 and 2 go up, column 1 down.
const EXAMPLE: [bool; 6] = [false, true, false, false, true, false];

fn example() -> Fields {
    first_change(127, 3, 0, &EXAMPLE)
}

fn good(
    names: [&'static str; 3],
    shows: &'static str,
    [base, target]: [&Tensor; 2],
    raw: Raw,
) -> Good {
    let file = |name, tensor: &Tensor| File::new(name, &Checkpoint::from([("w", tensor.clone())]));
    Good {
        name: names[0].into(),
        rules: "R100 R101",
        shows,
        base: Some(file(names[1], base)),
        target: file(names[2], target),
        patch: raw.write(),
    }
}

fn all_ones(names: [&'static str; 3], shows: &'static str, shape: [u64; 2], down: &[bool]) -> Good {
    let [base, target] = ones(&shape, down);
    let block = (down.len() as u64, first_change(127, shape[1] as usize, 0, down));
    good(names, shows, [&base, &target], patch(&base, &target, 1, vec![block]))
}

/// Base and target of a row of so many columns in which the first goes up, and the second down; and
/// the block.
fn wide_row(columns: usize) -> ([Tensor; 2], Fields) {
    let row = |first: [u64; 2]| {
        let elements = [&first[..], &vec![128; columns - 2]].concat();
        Tensor::new(Dtype::U8, &[1, columns as u64], &elements)
    };
    ([row([128, 128]), row([129, 127])], first_change(0, columns, 0, &[false, true]))
}

fn most_columns() -> Good {
    let ([base, target], block) = wide_row(65_536);
    good(
        ["signs-most-columns", "signs-most-columns-base", "signs-most-columns-target"],
        "Predicted signs in a row of 65,536 columns, the most that there may be.",
        [&base, &target],
        patch(&base, &target, 1, vec![(2, block)]),
    )
}

/// Dense class of U8 in two blocks, the second of which starts within a row.
fn blocks_within_rows() -> Good {
    const COLUMNS: usize = 1001;
    const ELEMENTS: usize = 70 * COLUMNS;
    let down = |i: usize| !(i / COLUMNS + i % COLUMNS / 3).is_multiple_of(2);
    let magnitude = |i: usize| if i.is_multiple_of(41) { 1 + i as u64 / 41 % 3 } else { 0 };
    let base = vec![128; ELEMENTS];
    let step = |i| if down(i) { 128 - magnitude(i) } else { 128 + magnitude(i) };
    let target = (0..ELEMENTS).map(step);
    let [base, target] = [base, target.collect()]
        .map(|elements| Tensor::new(Dtype::U8, &[2, 35, COLUMNS as u64], &elements));
    let block = |start: usize, end: usize| {
        let changes: Vec<(usize, bool)> =
            (start..end).filter(|&i| magnitude(i) > 0).map(|i| (i - start, down(i))).collect();
        let codes: String = (start..end).map(|i| rice(magnitude(i), 0, 8)).collect();
        let payload = fields()
            .varint(0)
            .u8(PREDICTED | 1)
            .varint((end - start) as u64)
            .bytes(&parameters(31, 0, 0).0)
            .bits(&codes)
            .bytes(&stream(COLUMNS, start % COLUMNS, &changes));
        (changes.len() as u64, payload)
    };
    let blocks = vec![block(0, 1 << 16), block(1 << 16, ELEMENTS)];
    good(
        ["signs-blocks-within-rows", "signs-blocks-base", "signs-blocks-target"],
        "Predicted signs in two blocks of a tensor of rank 3; the second starts within a row, in an odd column, has several rows, and learns afresh. Dense classes code magnitudes.",
        [&base, &target],
        patch(&base, &target, 1, blocks),
    )
}

pub fn vectors() -> Vec<Good> {
    let waves = |rows: usize, columns: usize| -> Vec<bool> {
        (0..rows * columns)
            .map(|i| {
                ((i / columns * 7 + i % columns * 5) % 11).is_multiple_of(2) || i.is_multiple_of(13)
            })
            .collect()
    };
    vec![
        all_ones(
            ["signs-example", "signs-example-base", "signs-example-target"],
            "The example of SPEC.md §7.6: predicted signs in a matrix.",
            [2, 3],
            &EXAMPLE,
        ),
        all_ones(
            ["signs-of-many-rows", "signs-rows-base", "signs-rows-target"],
            "Predicted signs in forty rows: factors are learned.",
            [40, 30],
            &[vec![false; 600], waves(20, 30)].concat(),
        ),
        all_ones(
            ["signs-one-column", "signs-one-column-base", "signs-one-column-target"],
            "Predicted signs in a matrix of one column, where nothing can be foreseen.",
            [50, 1],
            &waves(50, 1),
        ),
        all_ones(
            ["signs-clamped", "signs-clamped-base", "signs-clamped-target"],
            "Predicted signs of long rows that are all alike, and then are not: probabilities and factors are clamped.",
            [12, 400],
            &[vec![false; 3600], waves(2, 400), vec![true; 400]].concat(),
        ),
        most_columns(),
        blocks_within_rows(),
    ]
}

/// A patch of the example's matrix with another payload.
fn of_example(payload: Fields) -> Raw {
    let [base, target] = ones(&[2, 3], &EXAMPLE);
    patch(&base, &target, 1, vec![(6, payload)])
}

/// The example's base.
pub fn base() -> File {
    File::new("signs-example-base", &Checkpoint::from([("w", ones(&[2, 3], &EXAMPLE)[0].clone())]))
}

/// A vector of the same elements, which is no matrix.
pub fn vector_base() -> File {
    File::new("signs-vector-base", &Checkpoint::from([("w", ones(&[6], &EXAMPLE)[0].clone())]))
}

/// A matrix of a dtype that has no code, and a patch of it.
pub fn other_dtype() -> (File, Raw) {
    let row = |first: [u64; 2]| {
        let elements = [&first[..], &[128; 4]].concat();
        Tensor::new(Dtype::from_name("X4"), &[2, 3], &elements)
    };
    let (base, target) = (row([128, 128]), row([129, 127]));
    let block = first_change(0, 3, 0, &[false, true]);
    let file = File::new("signs-other-dtype-base", &Checkpoint::from([("w", base.clone())]));
    (file, patch(&base, &target, 1, vec![(2, block)]))
}

/// The right elements in a matrix of another shape.
pub fn turned_base() -> File {
    File::new("signs-turned-base", &Checkpoint::from([("w", ones(&[3, 2], &EXAMPLE)[0].clone())]))
}

/// The patch of the example.
pub fn right() -> Raw {
    of_example(example())
}

/// Patches of the base that are wrong: name, kind, rule, what they show.
pub fn wrong() -> Vec<(&'static str, &'static str, &'static str, &'static str, Raw)> {
    let good = example().0;
    let cut = |bytes: usize| fields().bytes(&good[..good.len() - bytes]);
    let with_end = |end: &[u8]| fields().bytes(&good).bytes(end);
    let mut other_end = good.clone();
    *other_end.last_mut().expect("a stream") ^= 1;
    let mut no_zero = good.clone();
    // Six gaps of one bit each, and two bits of padding.
    no_zero[6] |= 0x80;
    let head = fields().varint(127).u8(PREDICTED | 1).varint(6);
    let bits = rice(0, 0, 32).repeat(6);
    let first_is_max = fields()
        .bytes(&head.0)
        .bytes(&parameters(0, 0, 0).0)
        .varint(0)
        .bits(&bits)
        .bytes(&[0xff; 4]);
    // Magnitude 2^15: as an exception, and in a dense class.
    let changes: Vec<(usize, bool)> = EXAMPLE.iter().copied().enumerate().collect();
    let signs = stream(3, 0, &changes);
    let exception = fields()
        .bytes(&head.0)
        .bytes(&parameters(0, 0, 15).0)
        .varint(1)
        .bits(&[bits, rice(0, 0, 32), rice((1 << 15) - 2, 15, 16)].concat())
        .bytes(&signs);
    let dense = fields()
        .bytes(&head.0)
        .bytes(&parameters(31, 0, 15).0)
        .bits(&[rice(1, 15, 16).repeat(5), rice(1 << 15, 15, 16)].concat())
        .bytes(&signs);
    let [row, stepped] = ones(&[6], &EXAMPLE);
    vec![
        (
            "signs-of-a-vector",
            "value",
            "R100",
            "Predicted signs in a tensor of rank 1.",
            patch(&row, &stepped, 1, vec![(6, example())]),
        ),
        (
            "signs-cut",
            "stream",
            "R101",
            "A byte of the sign stream is missing.",
            of_example(cut(1)),
        ),
        ("signs-none", "stream", "R101", "There is no sign stream.", of_example(cut(signs.len()))),
        (
            "signs-excess",
            "stream",
            "R101",
            "A byte follows the sign stream.",
            of_example(with_end(&[0])),
        ),
        (
            "signs-other-end",
            "stream",
            "R101",
            "A sign stream that gives the same signs, with another last byte.",
            of_example(fields().bytes(&other_end)),
        ),
        (
            "signs-first-bytes",
            "stream",
            "R101",
            "A sign stream that begins with 2^32 - 1.",
            of_example(first_is_max),
        ),
        (
            "signs-padding",
            "reserved",
            "R88",
            "The padding between codes and sign stream is not zero.",
            of_example(fields().bytes(&no_zero)),
        ),
        (
            "signs-magnitude",
            "value",
            "R90",
            "An exception of half the range, with predicted signs.",
            of_example(exception),
        ),
        (
            "signs-dense-magnitude",
            "value",
            "R90",
            "A dense code of half the range, with predicted signs.",
            of_example(dense),
        ),
    ]
}

/// A patch of a row that is one column too wide, and its base.
pub fn too_wide() -> (File, Raw) {
    let ([base, target], block) = wide_row(65_537);
    let file = File::new("signs-too-wide-base", &Checkpoint::from([("w", base.clone())]));
    (file, patch(&base, &target, 2, vec![(2, block)]))
}
