//! Payloads of the flat coding, and packed streams.

use pulse::wire::Tag;

use super::{row, Malformed};
use crate::vectors::flat::{block_with_window, frame_with_content_size, frame_with_dictionary};
use crate::vectors::raw::{fields, zstd_frame, Fields};
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
    let gaps = |frame: &[u8]| {
        patch().replace(Tag::BLOCK, block_of(2, fields().u8(FORM).frame(frame).stored(&[2, 3])))
    };
    let frame = zstd_frame(&[1, 1]);
    let mut damaged = frame.clone();
    *damaged.last_mut().expect("a checksum") ^= 1;
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &frame[..]].concat();
    vec![
        row("stream-not-zstd", "stream", "R50", "A stream marked as zstd is none.", gaps(&[1, 1])),
        row("stream-empty", "stream", "R50", "A zstd stream of no bytes.", gaps(&[])),
        row(
            "stream-checksum",
            "stream",
            "R51",
            "The checksum of a zstd frame is wrong.",
            gaps(&damaged),
        ),
        row(
            "stream-cut",
            "stream",
            "R50",
            "A zstd frame is cut short.",
            gaps(&frame[..frame.len() - 1]),
        ),
        row(
            "stream-two-frames",
            "stream",
            "R50",
            "Two zstd frames in one stream.",
            gaps(&[zstd_frame(&[1]), zstd_frame(&[1])].concat()),
        ),
        row(
            "stream-skippable-frame",
            "stream",
            "R50",
            "A skippable frame before the zstd frame.",
            gaps(&skippable),
        ),
        row(
            "stream-after-frame",
            "stream",
            "R50",
            "A byte follows the zstd frame.",
            gaps(&[&frame[..], &[0]].concat()),
        ),
        row(
            "stream-short",
            "stream",
            "R53",
            "A zstd frame of one byte where two are due.",
            gaps(&zstd_frame(&[1])),
        ),
        row(
            "stream-bomb",
            "stream",
            "R53",
            "A zstd frame of 16 MiB where two bytes are due.",
            gaps(&zstd_frame(&vec![1; 16 << 20])),
        ),
        row(
            "stream-window",
            "stream",
            "R52",
            "A zstd frame asks for a window of 16 MiB; 8 MiB are allowed.",
            patch().replace(Tag::BLOCK, block_with_window(14 << 3)),
        ),
        row(
            "stream-window-of-small-content",
            "stream",
            "R52",
            "A zstd frame asks for a window of 16 MiB and says that it holds two bytes.",
            gaps(&frame_with_content_size(14 << 3, 2, &[1, 1])),
        ),
        row(
            "stream-content-size",
            "stream",
            "R51",
            "A zstd frame says that it holds three bytes, and holds two.",
            gaps(&frame_with_content_size(0, 3, &[1, 1])),
        ),
        row(
            "stream-dictionary",
            "stream",
            "R51",
            "A zstd frame asks for dictionary 1.",
            gaps(&frame_with_dictionary(1, &[1, 1])),
        ),
    ]
}
