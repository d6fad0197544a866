//! Flat blocks in every width, most of which the encoder would not choose.

use pulse::coding::ValueForm;
use pulse::dtype::Dtype;
use pulse::wire::Tag;

use super::good::{File, Good};
use super::raw::{fields, frame, raw_frame, zstd_frame, Fields, Raw};
use super::sample::{self, block_of, digest_in, FLAT, FORM, PATCHED};
use crate::checkpoint::{Checkpoint, Tensor};

/// Wire code of U64, whose elements hold values of every width.
const U64: u8 = 17;
const ELEMENTS: u64 = 16;
/// Elements 2, 3 and 9 change.
const GAPS: [u64; 3] = [2, 0, 5];
const CHANGED: [usize; 3] = [2, 3, 9];

/// Name of a width, its bytes (none for varints), and values that need it.
struct Width {
    name: &'static str,
    bytes: Option<usize>,
    values: [u64; 3],
}

const fn width(name: &'static str, bytes: Option<usize>, values: [u64; 3]) -> Width {
    Width { name, bytes, values }
}

/// In the order of their codes; gaps have the first four.
const WIDTHS: [Width; 5] = [
    width("varint", None, [1, 0x80, u64::MAX]),
    width("u8", Some(1), [1, 2, 0xff]),
    width("u16", Some(2), [1, 0x100, 0xffff]),
    width("u32", Some(4), [2, 0x1_0000, 0xffff_ffff]),
    width("u64", Some(8), [3, 1 << 32, u64::MAX]),
];

fn write(width: &Width, numbers: &[u64]) -> Vec<u8> {
    match width.bytes {
        None => numbers.iter().fold(fields(), |fields, &number| fields.varint(number)).0,
        Some(bytes) => {
            numbers.iter().flat_map(|number| number.to_le_bytes()[..bytes].to_vec()).collect()
        }
    }
}

/// The target element, computed here once more: U64 needs no mapping to numeric order.
fn target(form: ValueForm, base: u64, value: u64) -> u64 {
    match form {
        ValueForm::UlpStep if value.is_multiple_of(2) => base.wrapping_add(value / 2),
        ValueForm::UlpStep => base.wrapping_sub(value / 2 + 1),
        ValueForm::Xor => base ^ value,
        ValueForm::Overwrite => value,
        _ => unreachable!("the vectors know every form"),
    }
}

/// One tensor for each pair of widths, with streams stored and as zstd frames.
pub fn every_width(form: ValueForm) -> Good {
    let (form_code, vector, target_name) = match form {
        ValueForm::UlpStep => (0, "flat-step", "flat-step-target"),
        ValueForm::Xor => (1, "flat-xor", "flat-xor-target"),
        ValueForm::Overwrite => (2, "flat-overwrite", "flat-overwrite-target"),
        _ => unreachable!("the vectors know every form"),
    };
    let elements: Vec<u64> = (0..ELEMENTS).map(|i| i * 0x1111_1111_1111_1111).collect();
    let tensor = |elements: &[u64]| Tensor::new(Dtype::U64, &[ELEMENTS], elements);
    let (mut old, mut new) = (Checkpoint::default(), Checkpoint::default());
    let mut blocks = Vec::new();
    for (gap_code, gap) in WIDTHS.iter().enumerate().take(4) {
        for (value_code, value) in WIDTHS.iter().enumerate() {
            let mut changed = elements.clone();
            for (at, &value) in CHANGED.iter().zip(&value.values) {
                changed[*at] = target(form, changed[*at], value);
            }
            for (packing, pack) in
                [("stored", None), ("zstd", Some(zstd_frame as fn(&[u8]) -> Vec<u8>))]
            {
                let name = format!("{} gaps, {} values, {packing}", gap.name, value.name);
                let form_byte = (gap_code | form_code << 3 | value_code << 5) as u8;
                let payload = [write(gap, &GAPS), write(value, &value.values)].iter().fold(
                    fields().u8(form_byte),
                    |fields, bytes| match pack {
                        None => fields.stored(bytes),
                        Some(pack) => fields.frame(&pack(bytes)),
                    },
                );
                old.tensors.insert(name.clone(), tensor(&elements));
                new.tensors.insert(name.clone(), tensor(&changed));
                blocks.push((name, payload));
            }
        }
    }
    let mut footer = sample::footer(3 * blocks.len() as u64, Some(&old), &new);
    footer.tensors = blocks.len() as u64;
    let mut raw = Raw::new(sample::header(), footer);
    for (name, payload) in blocks {
        let trailer =
            fields().varint(3).digest(digest_in(&old, &name)).digest(digest_in(&new, &name));
        raw = raw
            .add_tensor(&name, fields().name(0, &name).spec(PATCHED, U64, &[ELEMENTS]))
            .add(Tag::BLOCK, fields().block(FLAT, 0, 1, 3).bytes(&payload.0))
            .add(Tag::TENSOR_END, trailer);
    }
    Good {
        name: vector.into(),
        rules: "R5 R54 R55",
        shows:
            "One value form in every gap width and value width, streams stored and as zstd frames.",
        base: Some(File::new("flat-base", &old)),
        target: File::new(target_name, &new),
        patch: raw.write(),
    }
}

/// The sample's block with its gaps, 1 and 1, in this frame.
pub fn block_with_gaps(frame: &[u8]) -> Fields {
    block_of(2, fields().u8(FORM).frame(frame).stored(&[2, 3]))
}

fn with_gaps(name: &str, rules: &'static str, shows: &'static str, frame: &[u8]) -> Good {
    Good {
        name: name.into(),
        rules,
        shows,
        base: Some(File::new("sample-base", &sample::base())),
        target: File::new("sample-target", &sample::target()),
        patch: sample::patch().replace(Tag::BLOCK, block_with_gaps(frame)).write(),
    }
}

/// Frames that no library makes of two bytes, and every one reads.
pub fn frames() -> Vec<Good> {
    // A raw block of one byte, then one that repeats its byte once, and no byte in the last.
    let blocks = [0x08, 0, 0, 1, 0x0a, 0, 0, 1, 0x01, 0, 0];
    vec![
        with_gaps(
            "frame-size-in-4-bytes",
            "R51",
            "A zstd frame that says its content size in four bytes, more than it needs.",
            &raw_frame(&[0xa0, 2, 0, 0, 0], &[1, 1]),
        ),
        with_gaps(
            "frame-size-in-8-bytes",
            "R51",
            "A zstd frame that says its content size in eight bytes, more than it needs.",
            &raw_frame(&[0xe0, 2, 0, 0, 0, 0, 0, 0, 0], &[1, 1]),
        ),
        with_gaps(
            "frame-of-three-blocks",
            "R50",
            "A zstd frame of three blocks: a raw one, one that repeats a byte, and an empty one.",
            &frame(&[0x20, 2], &blocks),
        ),
    ]
}
