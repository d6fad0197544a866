//! Signs that are predicted (SPEC.md §7.6).
//!
//! The step of a matrix is partly of low rank: the sign in a row and a column is about that of a
//! factor of the row times one of the column. Encoder and decoder learn two such factors alike,
//! from the signs that went before, and a range coder spends few bits on what was foreseen. All
//! numbers are integers, so that both come to the same on every machine.

use crate::coding::Matrix;

/// 1 in fixed point.
const ONE: i32 = 1 << 12;
/// Factors stay below 2 in magnitude, and with them whatever is computed stays within 32 bits.
const FACTOR_MAX: i32 = 2 * ONE - 1;
/// What a row must weigh before its factors are trusted.
const DOUBT: i32 = 4 * ONE;
const WEIGHT_MAX: i32 = 1 << 30;
/// The factors of a column at first: a sixteenth, in the second alternating.
const START: i16 = 256;

/// What was learned of columns, in the rows before.
#[derive(Debug)]
struct Columns {
    matrix: Matrix,
    /// Factors of each column.
    factors: Vec<[i16; 2]>,
    /// Room for the changes of a row: column and sign, [`ONE`] or less than zero. As many as there are
    /// columns, so that it never grows.
    changes: Vec<(u16, i16)>,
}

/// What was learned of the row of the last change: apart from the columns, so that a loop keeps it in
/// registers.
#[derive(Debug)]
struct Row {
    /// Where it starts.
    start: u64,
    factors: [i32; 2],
    weight: i32,
    changes: usize,
}

impl Row {
    fn new(start: u64) -> Self {
        Row { start, factors: [0; 2], weight: DOUBT, changes: 0 }
    }

    #[inline(always)]
    fn predict(&self, column: [i32; 2]) -> i32 {
        (self.factors[0] * column[0] + self.factors[1] * column[1]) >> 12
    }
}

impl Columns {
    fn new(matrix: Matrix) -> Self {
        let columns = matrix.columns();
        let start = |c| [START, if c % 2 == 0 { START } else { -START }];
        let factors = (0..columns).map(start).collect();
        Columns { matrix, factors, changes: vec![(0, 0); columns as usize] }
    }

    /// Codes the sign of the change of an element of the block: whether it is negative.
    #[inline(always)]
    fn sign(
        &mut self,
        row: &mut Row,
        coder: &mut impl Coder,
        element: u64,
        negative: bool,
    ) -> bool {
        let at = self.matrix.number_in_rows(element);
        let columns = u64::from(self.matrix.columns());
        if at >= row.start + columns {
            self.learn(row);
            *row = Row::new(at - at % columns);
        }
        // Less than the columns.
        let column = (at - row.start) as usize;
        let factors = self.factors[column].map(i32::from);
        let expected = row.predict(factors);
        let positive = (0x8000 + 8 * expected).clamp(0x400, 0xfc00);
        let negative = coder.code(positive as u32, negative);
        let sign = if negative { -ONE } else { ONE };
        // Both fit: there are at most 2^16 columns.
        self.changes[row.changes] = (column as u16, sign as i16);
        row.changes += 1;
        let [first, second] = factors;
        row.weight = WEIGHT_MAX.min(row.weight + ((first * first + second * second) >> 12));
        let step = (sign - expected) * (1 << 14) / row.weight;
        for (row, column) in row.factors.iter_mut().zip(factors) {
            *row = (*row + ((step * column) >> 14)).clamp(-FACTOR_MAX, FACTOR_MAX);
        }
        negative
    }

    /// Learns from a row that is complete.
    fn learn(&mut self, row: &Row) {
        for &(column, sign) in &self.changes[..row.changes] {
            let column = usize::from(column);
            let factors = self.factors[column].map(i32::from);
            let error = i32::from(sign) - row.predict(factors);
            let learned = |k: usize| {
                (factors[k] + ((error * row.factors[k]) >> 11)).clamp(-FACTOR_MAX, FACTOR_MAX)
                    as i16
            };
            self.factors[column] = [learned(0), learned(1)];
        }
    }
}

/// One half of a range coder of 32 bits.
trait Coder {
    /// Codes whether a sign is negative, and gives it back; `positive` is the probability, in 65,536,
    /// that it is not. A decoder does not look at what it is given.
    fn code(&mut self, positive: u32, negative: bool) -> bool;
}

/// The least range between two signs.
const RANGE_MIN: u32 = 1 << 24;

struct RangeEncoder {
    low: u64,
    range: u32,
    bytes: Vec<u8>,
}

impl RangeEncoder {
    /// What the signs took so far, rounded down.
    fn bits(&self) -> usize {
        8 * self.bytes.len() + self.range.leading_zeros() as usize
    }

    /// Adds what `low` has above 32 bits to the bytes that are out.
    fn carry(&mut self) {
        if self.low >> 32 != 0 {
            for byte in self.bytes.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
            self.low &= u64::from(u32::MAX);
        }
    }

    /// The least number with three zero bytes at its end, which are left out.
    fn finish(mut self) -> Vec<u8> {
        self.low += u64::from(RANGE_MIN - 1);
        self.carry();
        self.bytes.push((self.low >> 24) as u8);
        self.bytes
    }
}

impl Coder for RangeEncoder {
    fn code(&mut self, positive: u32, negative: bool) -> bool {
        let bound = (self.range >> 16) * positive;
        // Without a branch: half of them would be guessed wrong.
        let mask = u32::from(negative).wrapping_neg();
        self.low += u64::from(bound & mask);
        self.range = bound ^ ((bound ^ (self.range - bound)) & mask);
        self.carry();
        while self.range < RANGE_MIN {
            self.bytes.push((self.low >> 24) as u8);
            self.low = self.low << 8 & u64::from(u32::MAX);
            self.range <<= 8;
        }
        negative
    }
}

#[derive(Debug)]
struct RangeDecoder {
    code: u32,
    range: u32,
    bytes: Vec<u8>,
    at: usize,
}

impl RangeDecoder {
    fn new(bytes: &[u8]) -> Self {
        let mut decoder = RangeDecoder { code: 0, range: u32::MAX, bytes: bytes.to_vec(), at: 0 };
        (0..4).for_each(|_| decoder.next_byte());
        decoder
    }

    #[inline(always)]
    fn next_byte(&mut self) {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.code = self.code << 8 | u32::from(byte);
        self.at += 1;
    }
}

impl Coder for RangeDecoder {
    #[inline(always)]
    fn code(&mut self, positive: u32, _: bool) -> bool {
        let bound = (self.range >> 16) * positive;
        let negative = self.code >= bound;
        // Without a branch: half of them would be guessed wrong.
        let mask = u32::from(negative).wrapping_neg();
        self.code -= bound & mask;
        self.range = bound ^ ((bound ^ (self.range - bound)) & mask);
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.next_byte();
        }
        negative
    }
}

/// Changes of a column before which it may have learned too little for a quarter to tell.
const TELLING: usize = 32;

/// The sign stream of the changes of a block: elements in ascending order, and whether the step is
/// negative. `None` if it would not be smaller than a bit for each.
pub(super) fn encode(
    matrix: Matrix,
    changes: impl ExactSizeIterator<Item = (u32, bool)>,
) -> Option<Vec<u8>> {
    let count = changes.len();
    let is_telling = count / TELLING >= matrix.columns() as usize;
    let early = if is_telling { count / 4 } else { count / 2 };
    let mut coder = RangeEncoder { low: 0, range: u32::MAX, bytes: Vec::new() };
    let (mut columns, mut row) = (Columns::new(matrix), Row::new(0));
    for (i, (element, negative)) in changes.enumerate() {
        // What has saved no bit by then is given up, and that is all it costs where signs are random.
        if (i == count / 2 || i == early) && coder.bits() + 1 >= i {
            return None;
        }
        columns.sign(&mut row, &mut coder, element.into(), negative);
    }
    Some(coder.finish()).filter(|stream| stream.len() < count / 8)
}

/// Signs that are being read.
#[derive(Debug)]
pub(super) struct Signs {
    matrix: Matrix,
    /// Made with the first sign: who reads blocks without a base needs none.
    model: Option<(Columns, Row)>,
    decoder: RangeDecoder,
}

impl Signs {
    /// `None` if no writer begins a stream so.
    pub fn new(matrix: Matrix, stream: &[u8]) -> Option<Self> {
        let decoder = RangeDecoder::new(stream);
        (decoder.code < decoder.range).then_some(Signs { matrix, model: None, decoder })
    }

    /// Bytes of the stream.
    pub fn bytes(&self) -> u64 {
        self.decoder.bytes.len() as u64
    }

    /// Whether the step of the next element that changes is negative.
    #[inline(always)]
    pub fn next(&mut self, element: u64) -> bool {
        let new = || (Columns::new(self.matrix), Row::new(0));
        let (columns, row) = self.model.get_or_insert_with(new);
        columns.sign(row, &mut self.decoder, element, false)
    }

    /// Whether the stream ends as the writer ends it: no byte is left or missing, and no other
    /// bytes mean the same.
    pub fn is_complete(&self) -> bool {
        self.decoder.at == self.decoder.bytes.len() + 3 && self.decoder.code < RANGE_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    fn matrix_of(columns: u64) -> Matrix {
        Matrix::from_rows(&Dtype::Bf16, columns).unwrap()
    }

    /// The stream, also where it is no smaller.
    fn stream_of(matrix: Matrix, changes: &[(u32, bool)]) -> Vec<u8> {
        let mut coder = RangeEncoder { low: 0, range: u32::MAX, bytes: Vec::new() };
        let (mut columns, mut row) = (Columns::new(matrix), Row::new(0));
        for &(element, negative) in changes {
            columns.sign(&mut row, &mut coder, element.into(), negative);
        }
        let stream = coder.finish();
        let made = encode(matrix, changes.iter().copied());
        assert!(made.is_none_or(|made| made == stream && made.len() < changes.len() / 8));
        stream
    }

    fn decode(matrix: Matrix, elements: &[u32], stream: &[u8]) -> Option<Vec<bool>> {
        let mut signs = Signs::new(matrix, stream)?;
        let found = elements.iter().map(|&element| signs.next(element.into())).collect();
        signs.is_complete().then_some(found)
    }

    /// A dice from digests: even, and the same everywhere.
    fn dice(i: u32) -> u8 {
        crate::hash::leaf_digest(&i.to_le_bytes()).0[0]
    }

    /// Every third element changes; its sign is that of its row and its column, but for one in `noise`.
    fn changes(columns: u32, noise: u8) -> Vec<(u32, bool)> {
        let sign = |i: u32| dice(i).is_multiple_of(2);
        (0..40 * columns)
            .filter(|i| i % 3 == 0)
            .map(|i| {
                let flipped = dice(i + 1_000_000) < noise;
                (i, sign(i / columns) ^ sign(500_000 + i % columns) ^ flipped)
            })
            .collect()
    }

    #[test]
    fn signs_round_trip_and_only_what_repeats_gets_small() {
        for (columns, noise, most) in
            [(300, 0, 0.4), (300, 20, 0.7), (300, 128, 1.05), (1, 0, 1.05)]
        {
            let matrix = matrix_of(columns.into());
            let changes = changes(columns, noise);
            let stream = stream_of(matrix, &changes);
            let bits = stream.len() as f64 * 8.0 / changes.len() as f64;
            assert!(bits < most || changes.len() < 100, "{columns} columns: {bits} bits per sign");
            assert_eq!(encode(matrix, changes.iter().copied()).is_some(), bits < 1.0);
            let (elements, signs): (Vec<u32>, Vec<bool>) = changes.into_iter().unzip();
            assert_eq!(decode(matrix, &elements, &stream), Some(signs));
        }
    }

    #[test]
    fn random_signs_are_given_up_early_and_late_learners_are_not() {
        let coded = |columns: u64, changes: Vec<(u32, bool)>| {
            let mut coded = 0;
            let made = encode(matrix_of(columns), changes.into_iter().inspect(|_| coded += 1));
            (made.is_some(), coded)
        };
        let random = |count: u32| (0..count).map(|i| (i, dice(i).is_multiple_of(2))).collect();
        // Of a column with many changes a quarter tells, with few only half.
        assert_eq!(coded(100, random(4000)), (false, 1001));
        assert_eq!(coded(1000, random(4000)), (false, 2001));
        // The rows of the first quarter are random, those that follow are not.
        let (columns, rows) = (200, 40);
        let late = (0..rows * columns).map(|i| {
            let column = dice(500_000 + i % columns);
            (i, if i / columns < rows / 4 { dice(i) } else { column }.is_multiple_of(2))
        });
        let late: Vec<_> = late.filter(|change| change.0 % 2 == 0).collect();
        assert_eq!(coded(columns.into(), late.clone()), (true, late.len()));
    }

    #[test]
    fn a_stream_has_one_end() {
        let matrix = matrix_of(50);
        let changes = changes(50, 60);
        let stream = stream_of(matrix, &changes);
        let (elements, signs): (Vec<u32>, Vec<bool>) = changes.into_iter().unzip();
        let is_same = |stream: &[u8]| decode(matrix, &elements, stream).as_ref() == Some(&signs);
        assert!(is_same(&stream));
        assert!(!is_same(&stream[..stream.len() - 1]));
        assert!(!is_same(&[&stream[..], &[0]].concat()));
        let last = stream.len() - 1;
        for byte in (0..=255).filter(|&byte| byte != stream[last]) {
            assert!(!is_same(&[&stream[..last], &[byte]].concat()), "{byte}");
        }
        assert!(Signs::new(matrix, &[0xff; 4]).is_none());
        assert_eq!(stream_of(matrix, &[]), [0]);
        assert_eq!(decode(matrix, &[], &[0]), Some(vec![]));
        assert_eq!(decode(matrix, &[], &[]), None);
    }
}
