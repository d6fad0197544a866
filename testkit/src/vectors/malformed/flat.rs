//! Payloads of the flat coding, and packed streams.

use pulse::wire::Tag;

use super::{row, Malformed};
use crate::vectors::flat::block_with_gaps;
use crate::vectors::raw::{fields, frame, raw_frame, zstd_frame, zstd_frame_with_checksum, Fields};
use crate::vectors::sample::{block_of, patch, FORM};

pub fn flat_payloads() -> Vec<Malformed> {
    let with = |payload: Fields| patch().replace(Tag::BLOCK, block_of(2, payload));
    let form = |form: u8| with(fields().u8(form).stored(&[1, 1]).stored(&[2, 3]));
    let (gaps, values) = (fields().u8(FORM).stored(&[1, 1]), || fields().u8(FORM).stored(&[1, 1]));
    vec![
        row("flat-gap-width", "value", "R54", "Gap width 4.", form(FORM & !7 | 4)),
        row("flat-value-form", "value", "R54", "Value form 3.", form(FORM | 3 << 3)),
        row("flat-value-width", "value", "R54", "Value width 5.", form(FORM & 0x1f | 5 << 5)),
        row(
            "flat-first-position",
            "position",
            "R56",
            "The first change lies past the end of the block.",
            with(fields().u8(FORM).stored(&[4, 0]).stored(&[2, 3])),
        ),
        row(
            "flat-position",
            "position",
            "R56",
            "The second change lies past the end of the block.",
            with(fields().u8(FORM).stored(&[1, 2]).stored(&[2, 3])),
        ),
        row(
            "flat-gap-excess",
            "stream",
            "R55",
            "Three gaps for two changes.",
            with(fields().u8(FORM & !7).stored(&[1, 1, 0]).stored(&[2, 3])),
        ),
        row(
            "flat-position-overflow",
            "position",
            "R56",
            "A gap of 2^64 - 1, so that the position wraps to a legal one.",
            with(
                fields()
                    .u8(FORM & !7)
                    .stored(&fields().varint(1).varint(u64::MAX).0)
                    .stored(&[2, 3]),
            ),
        ),
        row("flat-step-0", "value", "R58", "A step of 0.", with(gaps.stored(&[2, 0]))),
        row(
            "flat-xor-0",
            "value",
            "R58",
            "An exclusive or with 0.",
            with(fields().u8(FORM | 1 << 3).stored(&[1, 1]).stored(&[0, 3])),
        ),
        row(
            "flat-value-too-wide",
            "value",
            "R57",
            "A value of 17 bits for elements of 16.",
            with(
                fields()
                    .u8(FORM & 0x1f)
                    .stored(&[1, 1])
                    .stored(&fields().varint(2).varint(0x1_0000).0),
            ),
        ),
        row(
            "flat-gap-varint",
            "varint",
            "R7 R55",
            "A gap is not in its shortest form.",
            with(fields().u8(FORM & !7).stored(&[1, 0x81, 0x00]).stored(&[2, 3])),
        ),
        row(
            "flat-value-varint",
            "varint",
            "R7 R55",
            "A value exceeds 64 bits.",
            with(
                fields()
                    .u8(FORM & 0x1f)
                    .stored(&[1, 1])
                    .stored(&[2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
            ),
        ),
        row(
            "flat-gap-missing",
            "stream",
            "R55",
            "One gap for two changes.",
            with(fields().u8(FORM).stored(&[1]).stored(&[2, 3])),
        ),
        row(
            "flat-gap-missing-varint",
            "stream",
            "R55",
            "One gap for two changes, as varint.",
            with(fields().u8(FORM & !7).stored(&[1]).stored(&[2, 3])),
        ),
        row(
            "flat-value-missing",
            "stream",
            "R55",
            "One value for two changes.",
            with(values().stored(&[2])),
        ),
        row(
            "flat-value-excess",
            "stream",
            "R55",
            "Three values for two changes, as varints.",
            with(fields().u8(FORM & 0x1f).stored(&[1, 1]).stored(&[2, 3, 2])),
        ),
        row("flat-no-values", "length", "R6", "The stream of values is missing.", with(values())),
        row(
            "flat-excess",
            "length",
            "R49",
            "A byte follows the stream of values.",
            with(values().stored(&[2, 3]).u8(0)),
        ),
        row(
            "flat-stream-length",
            "length",
            "R6",
            "A stream claims more bytes than the section has.",
            with(values().varint(200).bytes(&[2, 3])),
        ),
    ]
}

pub fn streams() -> Vec<Malformed> {
    let gaps = |frame: &[u8]| patch().replace(Tag::BLOCK, block_with_gaps(frame));
    let good = zstd_frame(&[1, 1]);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &good[..]].concat();
    let stream = |name, rules, shows, frame: &[u8]| row(name, "stream", rules, shows, gaps(frame));
    // The second byte of gaps is in a block that is not the last, and none follows.
    let open = [0x08, 0, 0, 1, 0x08, 0, 0, 1];
    // A compressed block that ends after its literals, where the number of sequences is due.
    let damaged = [0x15, 0, 0, 0x11, 0x01];
    vec![
        stream("stream-not-zstd", "R50", "A stream marked as zstd is none.", &[1, 1]),
        stream("stream-empty", "R50", "A zstd stream of no bytes.", &[]),
        stream("stream-cut", "R50", "A zstd frame is cut short.", &good[..good.len() - 1]),
        stream(
            "stream-two-frames",
            "R50",
            "Two zstd frames in one stream.",
            &[zstd_frame(&[1]), zstd_frame(&[1])].concat(),
        ),
        stream(
            "stream-skippable-frame",
            "R50",
            "A skippable frame before the zstd frame.",
            &skippable,
        ),
        stream(
            "stream-after-frame",
            "R50",
            "A byte follows the zstd frame.",
            &[&good[..], &[0]].concat(),
        ),
        stream(
            "stream-empty-frame-after",
            "R50",
            "An empty zstd frame follows the zstd frame.",
            &[&good[..], &frame(&[0x20, 0], &[0x01, 0, 0])].concat(),
        ),
        stream(
            "stream-open-frame",
            "R50",
            "No block of a zstd frame says that it is the last.",
            &frame(&[0x20, 2], &open),
        ),
        stream(
            "stream-block-type",
            "R50",
            "A block of a zstd frame has the reserved type.",
            &frame(&[0x20, 2], &[0x17, 0, 0, 1, 1]),
        ),
        stream(
            "stream-block-size",
            "R50",
            "A block of a zstd frame repeats its byte three times; the frame says that it holds two bytes.",
            &frame(&[0x20, 2], &[0x1b, 0, 0, 1]),
        ),
        stream(
            "stream-damaged",
            "R50",
            "A compressed block of a zstd frame cannot be decoded.",
            &frame(&[0x20, 2], &damaged),
        ),
        stream(
            "stream-checksum",
            "R51",
            "A zstd frame has a checksum, a right one.",
            &zstd_frame_with_checksum(&[1, 1]),
        ),
        stream(
            "stream-dictionary",
            "R51",
            "A zstd frame asks for dictionary 1.",
            &raw_frame(&[0x21, 1, 2], &[1, 1]),
        ),
        stream(
            "stream-dictionary-0",
            "R51",
            "A zstd frame asks for dictionary 0, which stands for none.",
            &raw_frame(&[0x21, 0, 2], &[1, 1]),
        ),
        stream(
            "stream-window",
            "R51",
            "A zstd frame says its window, and not its content size.",
            &raw_frame(&[0x00, 0x00], &[1, 1]),
        ),
        stream(
            "stream-window-and-content-size",
            "R51",
            "A zstd frame says its window and its content size.",
            &raw_frame(&[0x80, 0x00, 2, 0, 0, 0], &[1, 1]),
        ),
        stream(
            "stream-reserved-bit",
            "R51",
            "The reserved bit of a zstd frame is set.",
            &raw_frame(&[0x28, 2], &[1, 1]),
        ),
        stream(
            "stream-unused-bit",
            "R51",
            "The unused bit of a zstd frame is set.",
            &raw_frame(&[0x30, 2], &[1, 1]),
        ),
        stream(
            "stream-content-size",
            "R52",
            "A zstd frame says that it holds two bytes, and holds three.",
            &frame(&[0x20, 2], &[0x10, 0, 0, 1, 1, 0x09, 0, 0, 1]),
        ),
        stream(
            "stream-content-size-beyond",
            "R52",
            "A zstd frame says that it holds two bytes, and holds one.",
            &raw_frame(&[0x20, 2], &[1]),
        ),
        stream(
            "stream-short",
            "R53",
            "A zstd frame of one byte where two are due.",
            &zstd_frame(&[1]),
        ),
        stream(
            "stream-bomb",
            "R53",
            "A zstd frame of 16 MiB where two bytes are due.",
            &zstd_frame(&vec![1; 16 << 20]),
        ),
        stream(
            "stream-size-of-2-to-63",
            "R53",
            "A zstd frame says that it holds 2^63 bytes.",
            &raw_frame(&[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80], &[1, 1]),
        ),
    ]
}
