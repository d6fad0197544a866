//! Byte order and numbers beyond 32 bits. Bytes are spelled out here: nothing is compared with what the
//! machine at hand makes of a number.

use pulse::coding::{BlockEncoder, BlockOptions, Coding, Value, ValueForm};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{CheckpointHasher, LEAF_BYTES};
use pulse::{Decoder, Event, Limits};
use sha2::{Digest as _, Sha256};
use testkit::forge;
use testkit::hostile::{self, list, patch_of_blocks, varint};

/// One changed element: dtype, its base, its target, the value as it is written, and as a number.
type Row = (Dtype, &'static [u8], &'static [u8], &'static [u8], Value);

fn payload(form: ValueForm, dtype: &Dtype, base: &[u8], target: &[u8]) -> (Vec<u8>, Value) {
    let options = BlockOptions::default().with_coding(Coding::Flat).with_values(form);
    let block = BlockEncoder::new(options).encode(dtype, base, target).unwrap().expect("a change");
    let decoder = block.decode(dtype, 1).unwrap();
    let (element, value) = decoder.changes().expect("a flat block").next().expect("a change");
    assert_eq!(element, 0);
    let mut applied = base.to_vec();
    block.decode(dtype, 1).unwrap().apply(&mut applied).unwrap();
    assert_eq!(applied, target);
    (block.payload, value)
}

#[test]
fn elements_and_values_are_little_endian() {
    let overwrite: [Row; 4] = [
        (Dtype::U8, &[0x01], &[0x23], &[0x23], Value::Overwrite(0x23)),
        (Dtype::Bf16, &[0x80, 0x3f], &[0x34, 0x12], &[0x34, 0x12], Value::Overwrite(0x1234)),
        (Dtype::F32, &[0, 0, 0x80, 0x3f], &[0x78, 0x56, 0x34, 0x12], &[0x78, 0x56, 0x34, 0x12], {
            Value::Overwrite(0x1234_5678)
        }),
        (
            Dtype::I64,
            &[0; 8],
            &[0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12],
            &[0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12],
            Value::Overwrite(0x1234_5678_9abc_def0),
        ),
    ];
    for (width, (dtype, base, target, value, number)) in overwrite.into_iter().enumerate() {
        let (found, change) = payload(ValueForm::Overwrite, &dtype, base, target);
        // Gap width u8, form overwrite, value width u8, u16, u32 or u64; a gap of 0; the value.
        let form = 1 | 2 << 3 | (width as u8 + 1) << 5;
        assert_eq!(found, [&[form, 2, 0, 2 * value.len() as u8], value].concat(), "{dtype}");
        assert_eq!(change, number, "{dtype}");
    }
    // Steps: the low byte carries into the high one; xor: each byte for itself.
    let step = payload(ValueForm::UlpStep, &Dtype::U16, &[0xff, 0x00], &[0x00, 0x01]);
    assert_eq!(step, (vec![0x21, 2, 0, 2, 2], Value::UlpStep(1)));
    let step = payload(ValueForm::UlpStep, &Dtype::I32, &[0, 0, 0, 0], &[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(step, (vec![0x21, 2, 0, 2, 1], Value::UlpStep(-1)));
    let xor = payload(ValueForm::Xor, &Dtype::U16, &[0x01, 0x10], &[0x01, 0x30]);
    assert_eq!(xor, (vec![0x49, 2, 0, 4, 0x00, 0x20], Value::Xor(0x2000)));
}

#[test]
fn fields_of_digests_are_little_endian() {
    let spec = TensorSpec::new(Dtype::U8, &[0, 0x0102_0304_0506_0708]).unwrap();
    let mut hasher = CheckpointHasher::new();
    let empty = pulse::hash::tensor_digest(b"");
    hasher.add("name", &spec, empty);
    let fields = [
        &[2][..],
        &[4, 0, 0, 0],
        b"name",
        &[2],
        b"U8",
        &[2],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[8, 7, 6, 5, 4, 3, 2, 1],
        &Sha256::digest([1]),
    ];
    assert_eq!(hasher.finish().unwrap().0, <[u8; 32]>::from(Sha256::digest(fields.concat())));
}

#[test]
fn fields_of_a_file_are_little_endian() {
    let patch = patch_of_blocks(258, vec![vec![1, 0, 1, 0x82, 2]], 258);
    let [.., footer] = &forge::sections(&patch)[..] else { panic!("no footer") };
    assert_eq!(footer.payload[9..17], [2, 1, 0, 0, 0, 0, 0, 0], "changes");
    let index_offset = patch.len() - 152 - 11;
    assert!(index_offset < 256);
    assert_eq!(footer.payload[41..49], [index_offset as u8, 0, 0, 0, 0, 0, 0, 0], "index offset");
    let crc = crc32fast::hash(&patch[patch.len() - 152..patch.len() - 4]);
    let stored = &patch[patch.len() - 4..];
    assert_eq!(stored, [crc as u8, (crc >> 8) as u8, (crc >> 16) as u8, (crc >> 24) as u8]);
    list(&patch, Limits::default()).1.unwrap();
}

#[test]
fn shapes_cross_32_bits_and_end_at_64() {
    let bytes = |dtype, shape: &[u64]| {
        TensorSpec::new(dtype, shape).map(|spec| (spec.elements(), spec.bytes()))
    };
    let most = u64::from(u32::MAX);
    assert_eq!(bytes(Dtype::U8, &[most]).unwrap(), (most, most));
    assert_eq!(bytes(Dtype::U8, &[65_536, 65_536]).unwrap(), (most + 1, most + 1));
    assert_eq!(bytes(Dtype::Bf16, &[most]).unwrap(), (most, 2 * most));
    assert_eq!(bytes(Dtype::F64, &[1 << 32, 2]).unwrap(), (1 << 33, 1 << 36));
    assert_eq!(bytes(Dtype::U8, &[u64::MAX]).unwrap(), (u64::MAX, u64::MAX));
    assert_eq!(bytes(Dtype::F64, &[(1 << 61) - 1]).unwrap(), ((1 << 61) - 1, u64::MAX - 7));
    assert_eq!(bytes(Dtype::F64, &[1 << 61]).unwrap_err().kind(), "misuse");
    assert_eq!(bytes(Dtype::U8, &[1 << 32, 1 << 32]).unwrap_err().kind(), "misuse");
    assert_eq!(bytes(Dtype::U8, &[1 << 32, 1 << 32, 0]).unwrap(), (0, 0));
}

/// Ranges of the blocks of a patch, or the error that it gives.
fn ranges(patch: &[u8]) -> pulse::Result<Vec<std::ops::Range<u64>>> {
    let limits = Limits::default().with_target_bytes(u64::MAX);
    let mut decoder = Decoder::new(patch, limits);
    let mut ranges = Vec::new();
    while let Some(event) = decoder.next_event()? {
        if let Event::Block(block) = event {
            assert_eq!(
                (block.first_element(), block.elements()),
                (block.range().start, { block.range().end - block.range().start })
            );
            ranges.push(block.range());
        }
    }
    decoder.finish().map(|_| ranges)
}

/// A block of one leaf after so many skipped ones; its one change is not looked at here.
fn block(skipped: u64) -> Vec<u8> {
    [&[1][..], &varint(skipped), &[1, 1]].concat()
}

#[test]
fn blocks_lie_at_either_side_of_2_to_the_32() {
    let leaf = LEAF_BYTES as u64;
    let blocks = vec![block((1 << 16) - 1), block(0), block((1 << 16) - 1)];
    let found = ranges(&patch_of_blocks((1 << 33) + leaf + 5, blocks, 3)).unwrap();
    let (low, high) = (1 << 32, 1 << 33);
    assert_eq!(found, [low - leaf..low, low..low + leaf, high..high + leaf]);
    // The last leaf is short, and a tensor may end just at, before or after the boundary.
    for bytes in [low - 1, low, low + 1] {
        let leaves = bytes.div_ceil(leaf);
        let found = ranges(&patch_of_blocks(bytes, vec![block(leaves - 1)], 1)).unwrap();
        assert_eq!(found, vec![(leaves - 1) * leaf..bytes; 1]);
        let error = ranges(&patch_of_blocks(bytes, vec![block(leaves)], 1)).unwrap_err();
        assert_eq!(error.kind(), "value", "{error}");
    }
}

/// Sums and products that wrap in 32 or in 64 bits would find a place within the tensor.
#[test]
fn places_do_not_wrap() {
    for skipped in [1 << 32, (1 << 48) - 1, 1 << 48, (1 << 48) + 1, 1 << 63, u64::MAX] {
        let error = ranges(&patch_of_blocks(1 << 40, vec![block(skipped)], 1)).unwrap_err();
        assert_eq!(error.kind(), "value", "{skipped} skipped leaves: {error}");
        let error =
            ranges(&patch_of_blocks(1 << 40, vec![block(1), block(skipped)], 2)).unwrap_err();
        assert_eq!(error.kind(), "value", "{skipped} skipped leaves: {error}");
    }
    // Leaves and changes that are small modulo 2^32.
    for (leaves, changes, kind) in
        [((1 << 32) + 1, 1, "value"), (1, (1 << 32) + 1, "count"), (1, u64::MAX, "count")]
    {
        let block = [&[1, 0][..], &varint(leaves), &varint(changes)].concat();
        assert_eq!(ranges(&patch_of_blocks(1 << 40, vec![block], 1)).unwrap_err().kind(), kind);
    }
    // Lengths of streams: 2^32 and 2^63 bytes, of which 2 are there.
    for length in [1 << 32, u64::from(u32::MAX), 1 << 62, (1 << 63) - 1] {
        let block = [&[1, 0, 1, 1, 0x21][..], &varint(length << 1), &[0, 0]].concat();
        assert_eq!(
            hostile::read(&patch_of_blocks(4, vec![block], 1), Limits::default())
                .1
                .unwrap_err()
                .kind(),
            "length"
        );
    }
    // Gaps whose sum is a place of the block modulo 2^32 or 2^64.
    for gap in [1 << 32, u64::MAX] {
        let gaps = [varint(0), varint(gap)].concat();
        let block =
            [&[1, 0, 1, 2, 0x20][..], &varint(2 * gaps.len() as u64), &gaps, &[4, 2, 2]].concat();
        assert_eq!(
            hostile::read(&patch_of_blocks(4, vec![block], 2), Limits::default())
                .1
                .unwrap_err()
                .kind(),
            "position"
        );
    }
}

/// A reader without limits still refuses a section that no memory can hold.
#[test]
fn a_section_is_one_allocation_at_most() {
    let mut patch = hostile::tiny_sections(0)[..10].to_vec();
    patch.push(b'x');
    patch.extend(varint(u64::MAX));
    let error = list(&patch, Limits::default().with_section_bytes(u64::MAX)).1.unwrap_err();
    let pulse::Error::Limit {
        limit: "section_bytes", asked: u64::MAX, allowed, offset: 10, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(allowed, isize::MAX as u64 - 64);
}
