//! The contextual coding against itself, at every width and density.

use super::*;
use crate::dtype::Dtype;
use crate::error::Fault;
use crate::word::{at_width, ValueForm};

/// Encodes, decodes in chunks, compares; gives back the payload. Also as rows of a matrix.
fn round_trip(dtype: &Dtype, base: &[u8], target: &[u8]) -> Vec<u8> {
    for columns in [1, 3, 100, 65_536] {
        round_trip_of(dtype, Matrix::from_rows(dtype, columns), base, target);
    }
    round_trip_of(dtype, None, base, target)
}

fn round_trip_of(dtype: &Dtype, matrix: Option<Matrix>, base: &[u8], target: &[u8]) -> Vec<u8> {
    let (bytes, order) = (dtype.element_bytes(), dtype.order());
    let mut changes = Changes::default();
    changes.collect(bytes, order, ValueForm::UlpStep, base, target);
    let mut sorted = Sorted::default();
    let payload = at_width!(bytes, encode(order, matrix, base, &changes, &mut sorted));
    let (elements, count) = ((base.len() / bytes) as u64, changes.elements.len() as u64);
    for chunk_elements in [1, 7, elements as usize] {
        let mut walk = Walk::new(&payload, bytes, order, matrix, elements, count).unwrap();
        let mut found = base.to_vec();
        for chunk in found.chunks_mut(chunk_elements * bytes) {
            at_width!(bytes, apply_chunk(&mut walk, chunk));
        }
        walk.finish(elements).unwrap();
        assert!(found == target, "{dtype}");
    }
    payload
}

fn apply_chunk<W: Word>(walk: &mut Walk, chunk: &mut [u8]) {
    walk.apply::<W>(chunk, |_| {});
}

/// Noise from digests: even, and the same everywhere.
fn noise(bytes: usize) -> Vec<u8> {
    (0u32..).flat_map(|i| crate::hash::leaf_digest(&i.to_le_bytes()).0).take(bytes).collect()
}

#[test]
fn every_dtype_round_trips_at_every_density() {
    for dtype in Dtype::known() {
        let base = noise(4096);
        let dice = noise(8192);
        for density in [1, 20, 200, 256] {
            let mut target = base.clone();
            for (i, byte) in target.iter_mut().enumerate() {
                if u32::from(dice[2 * i]) < density {
                    *byte = byte.wrapping_add(dice[2 * i + 1] % 8 + 1);
                }
            }
            if target != base {
                round_trip(&dtype, &base, &target);
            }
        }
    }
}

/// A step of a matrix: `percent` of the elements change, by a factor of the row times one of the column.
fn low_rank(dtype: &Dtype, columns: usize, percent: u32) -> [Vec<u8>; 2] {
    let bytes = dtype.element_bytes();
    let base = noise(64 * columns * bytes);
    let dice = noise(64 * columns * 2);
    let mut target = base.clone();
    for (i, word) in target.chunks_exact_mut(bytes).enumerate() {
        if u32::from(dice[2 * i]) * 100 < percent * 256 {
            let negative = (dice[i / columns] ^ dice[64 + i % columns]) & 1 == 1;
            let magnitude = 1 + u64::from(dice[2 * i + 1]).leading_zeros() as u64 - 56;
            let zigzag = 2 * magnitude - u64::from(negative);
            at_width!(bytes, step(dtype.order(), zigzag, word));
        }
    }
    [base, target]
}

fn step<W: Word>(order: Order, zigzag: u64, word: &mut [u8]) {
    ValueForm::UlpStep.target(order, W::load(word), W::narrow(zigzag)).store(word);
}

#[test]
fn signs_of_a_matrix_are_predicted_at_every_width_and_density() {
    for dtype in [Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::F64] {
        for percent in [3, 30, 90] {
            let [base, target] = low_rank(&dtype, 500, percent);
            let predicted = round_trip_of(&dtype, Matrix::from_rows(&dtype, 500), &base, &target);
            let plain = round_trip_of(&dtype, None, &base, &target);
            assert!(predicted.len() < plain.len(), "{dtype}, {percent}%");
            assert_eq!((predicted[1] & 0x80, plain[1] & 0x80), (0x80, 0), "{dtype}, {percent}%");
        }
    }
}

#[test]
fn predicted_signs_are_refused_where_there_is_no_matrix_and_where_they_do_not_end() {
    let [base, target] = low_rank(&Dtype::Bf16, 100, 20);
    let matrix = Matrix::from_rows(&Dtype::Bf16, 100);
    let payload = round_trip_of(&Dtype::Bf16, matrix, &base, &target);
    let mut changes = Changes::default();
    changes.collect(2, Dtype::Bf16.order(), ValueForm::UlpStep, &base, &target);
    let kind = |payload: &[u8], matrix| {
        let (order, count) = (Dtype::Bf16.order(), changes.elements.len() as u64);
        let walk = Walk::new(payload, 2, order, matrix, 6400, count);
        let walked = walk.map_err(|bad| bad.fault).and_then(|mut walk| {
            walk.apply::<u16>(&mut base.clone(), |_| {});
            walk.finish(6400)
        });
        walked.map_or_else(|fault| fault.kind(), |()| "none")
    };
    assert_eq!(kind(&payload, matrix), "none");
    assert_eq!(kind(&payload, None), "value");
    assert_eq!(kind(&payload[..payload.len() - 1], matrix), "stream");
    assert_eq!(kind(&[&payload[..], &[0]].concat(), matrix), "stream");
}

#[test]
fn extreme_steps_round_trip() {
    for dtype in Dtype::known() {
        let bytes = dtype.element_bytes();
        let values = [vec![0u8; bytes], vec![0xff; bytes], vec![0x7f; bytes], vec![0x80; bytes]];
        let mut pairs = (Vec::new(), Vec::new());
        for base in &values {
            for target in values.iter().filter(|target| *target != base) {
                pairs.0.extend_from_slice(base);
                pairs.1.extend_from_slice(target);
            }
        }
        round_trip(&dtype, &pairs.0, &pairs.1);
    }
}

#[test]
fn the_worked_example_of_the_spec() {
    // SPEC.md §7.5: eight BF16 elements of exponents 126 and 127; steps +1, -3 and +1.
    let base = [0x3f80u16, 0x3f00, 0x3f81, 0x3f82, 0x3f01, 0x3f83, 0x3f02, 0x3f84];
    let target = [0x3f80u16, 0x3f00, 0x3f81, 0x3f83, 0x3f01, 0x3f80, 0x3f03, 0x3f84];
    let bytes =
        |words: [u16; 8]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let payload = [0x7e, 2, 1, 1, 0, 0, 2, 0, 0, 1, 0x31, 0x16];
    let mut walk = Walk::new(&payload, 2, Dtype::Bf16.order(), None, 8, 3).unwrap();
    let mut found = bytes(base);
    walk.apply::<u16>(&mut found, |_| {});
    walk.finish(8).unwrap();
    assert_eq!(found, bytes(target));
    round_trip(&Dtype::Bf16, &bytes(base), &bytes(target));
}

#[test]
fn ranges_beyond_the_dtype_and_lies_about_counts_are_refused() {
    let kind = |payload: &[u8], changes| {
        Walk::new(payload, 2, Dtype::Bf16.order(), None, 8, changes)
            .map(|_| ())
            .unwrap_err()
            .fault
            .kind()
    };
    // Lowest exponent 0, one class, one change: gap k 0, no exceptions; gap 2, positive.
    let good = [0, 1, 1, 0, 0, 0, 0b0011];
    assert!(Walk::new(&good, 2, Dtype::Bf16.order(), None, 8, 1).is_ok());
    let with = |at: usize, byte: u8| {
        let mut payload = good;
        payload[at] = byte;
        payload
    };
    assert_eq!(kind(&good, 2), "count");
    assert_eq!(kind(&[0x80, 2, 1, 1, 0, 0, 0, 0b0011], 1), "value"); // exponent 256
    assert_eq!(kind(&[0xff, 1, 2, 1, 0, 0, 0, 0, 0b0011], 1), "value"); // 255 and 256
    assert_eq!(kind(&with(1, 0), 1), "value"); // no class
    assert_eq!(kind(&with(1, 33), 1), "value"); // too many
    assert_eq!(kind(&with(2, 9), 9), "value"); // more changes than elements
    assert_eq!(kind(&with(3, 0x20), 1), "reserved"); // a parameter for no exceptions
    assert_eq!(kind(&with(4, 0x40), 1), "value"); // magnitude parameter 16 of 16 bits
    assert_eq!(kind(&with(5, 2), 1), "value"); // more exceptions than changes
    assert_eq!(kind(&with(6, 0b1000_0011), 1), "reserved"); // padding
    assert_eq!(kind(&[0, 1, 1, 0, 0, 0, 0b0011, 0], 1), "stream"); // a byte too many
    assert_eq!(kind(&[0, 1, 1, 0, 0, 0, 0xff], 1), "stream"); // a bit too few
    assert_eq!(kind(&[0, 1, 1, 0, 0], 1), "length");
    assert_eq!(kind(&[0, 1, 1, 0xff, 3, 0], 1), "value"); // dense with an exception parameter
}

#[test]
fn gaps_past_the_end_of_a_class_are_refused() {
    let payload = [0, 1, 1, 0, 0, 0, 0b0011];
    let mut walk = Walk::new(&payload, 2, Dtype::Bf16.order(), None, 2, 1).unwrap();
    walk.apply::<u16>(&mut [0; 4], |_| {});
    assert!(matches!(walk.finish(2), Err(Fault::Position { .. })));
}

/// R91: the places of changes and exceptions are below 2^32 - 1, which stands for no place at all.
#[test]
fn r91_places_beyond_32_bits_are_refused() {
    let fault = |exceptions: u8, codes: &dyn Fn(&mut BitWriter<'_>)| {
        let mut payload = vec![0, 1, 1, 0, 0, exceptions];
        let mut bits = BitWriter::new(&mut payload);
        codes(&mut bits);
        bits.finish();
        Walk::new(&payload, 2, Dtype::Bf16.order(), None, 8, 1).map(|_| ()).map_err(|bad| bad.fault)
    };
    let gap = |gap: u64| {
        fault(0, &|bits| {
            bits.rice(gap, 0, 32);
            bits.put(0, 1);
        })
    };
    // A gap that is too large for the block shows only when the block was walked.
    assert_eq!(gap(u64::from(u32::MAX) - 1), Ok(()));
    assert_eq!(
        gap(u32::MAX.into()),
        Err(Fault::Position { found: u32::MAX.into(), elements: u32::MAX.into() })
    );
    // One change, which is number 0: an exception at 1 is after it.
    let exception = |place: u64| {
        fault(1, &|bits| {
            bits.rice(0, 0, 32);
            bits.put(0, 1);
            bits.rice(place, 0, 32);
            bits.rice(0, 0, 16);
        })
    };
    assert_eq!(exception(0), Ok(()));
    assert_eq!(exception(1), Err(Fault::Position { found: 1, elements: 1 }));
    let most = u64::from(u32::MAX) - 1;
    assert_eq!(exception(most), Err(Fault::Position { found: most, elements: 1 }));
    assert_eq!(exception(most + 1), Err(Fault::Position { found: most + 1, elements: most + 1 }));
}
