//! Damage of every sort: cut at every byte, one bit flipped at every place, bytes too many.

mod common;

use std::fs;
use std::path::Path;

use common::checkpoint::Checkpoint;
use common::{apply, apply_pushed, Trickle};
use pulse::{Decoder, Event, Limits, PushDecoder, Result};

/// Small vectors that together hold sections of every kind and blocks in every coding.
const PATCHES: [&str; 10] = [
    "empty",
    "smallest",
    "spec-example",
    "whole-in-patched",
    "contextual-example",
    "contextual-dense",
    "actions",
    "full-header",
    "files-of-a-directory",
    "skippable",
];

fn read(path: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors");
    fs::read(directory.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn patches() -> Vec<(&'static str, Vec<u8>)> {
    PATCHES.map(|name| (name, read(&format!("good/{name}.pulse")))).to_vec()
}

/// A snapshot that carries files: the sample's tensors and a text.
fn snapshot_with_files() -> Vec<u8> {
    let target = Checkpoint::from_file(&read("checkpoints/sample-target.safetensors"));
    let mut encoder = pulse::Encoder::new(Vec::new(), pulse::EncoderOptions::snapshot()).unwrap();
    encoder.carry_file("notes.txt", pulse::FileKind::Companion, b"a few notes").unwrap();
    for (name, tensor) in &target.tensors {
        encoder.begin(name, None, Some(&tensor.spec)).unwrap();
        encoder.push(&[], &tensor.bytes).unwrap();
        encoder.end().unwrap();
    }
    encoder.finish().unwrap().0
}

/// Reads a patch to its end and unpacks every block, without a base.
fn decode(patch: &[u8]) -> Result<()> {
    let mut decoder = Decoder::new(patch, Limits::default());
    while let Some(event) = decoder.next_event()? {
        if let Event::Block(block) = event {
            block.decode()?;
        }
    }
    decoder.finish().map(|_| ())
}

#[test]
fn every_prefix_of_a_patch_is_truncated() {
    for (name, patch) in patches().into_iter().chain([("snapshot with files", snapshot_with_files())]) {
        decode(&patch).unwrap_or_else(|error| panic!("{name}: {error}"));
        for end in 0..patch.len() {
            let pulled = decode(&patch[..end]).expect_err("a prefix");
            assert_eq!(pulled.kind(), "truncated", "{name} cut at {end}: {pulled}");
            let pushed = apply_pushed(&Checkpoint::default(), &patch[..end], usize::MAX).expect_err("a prefix");
            assert_eq!(pushed.to_string(), pulled.to_string(), "{name} cut at {end}");
        }
    }
}

/// The error of a truncated file never claims more bytes than are missing: who waits for them gets them.
#[test]
fn a_decoder_never_wants_more_than_the_patch_has() {
    for (name, patch) in patches() {
        let mut decoder = PushDecoder::new(Limits::default());
        let mut offset = 0;
        while !decoder.is_done() {
            let wanted = decoder.wanted().unwrap();
            assert!(offset + wanted <= patch.len(), "{name}: {wanted} bytes wanted at {offset}");
            offset += decoder.feed(&patch[offset..offset + wanted]).unwrap();
        }
        assert_eq!(offset, patch.len(), "{name}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for (name, patch) in patches().into_iter().chain([("snapshot with files", snapshot_with_files())]) {
        for bit in 0..8 * patch.len() {
            let mut flipped = patch.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "{name}: bit {} of byte {}", bit % 8, bit / 8);
        }
    }
}

#[test]
fn every_removed_or_doubled_byte_is_refused() {
    for (name, patch) in patches() {
        for at in 0..patch.len() {
            let removed = [&patch[..at], &patch[at + 1..]].concat();
            let doubled = [&patch[..=at], &patch[at..]].concat();
            assert!(decode(&removed).is_err(), "{name}: byte {at} removed");
            assert!(decode(&doubled).is_err(), "{name}: byte {at} doubled");
        }
    }
}

#[test]
fn a_byte_after_the_footer_is_trailing() {
    for (name, patch) in patches() {
        for tail in [&[0][..], &patch] {
            let patch = [&patch, tail].concat();
            assert_eq!(decode(&patch).expect_err("a tail").kind(), "trailing", "{name}");
        }
    }
}

/// On a connection, patches may follow one another (R18).
#[test]
fn decoders_leave_what_follows_the_footer() {
    let patches = patches();
    let glued: Vec<u8> = patches.iter().flat_map(|(_, patch)| patch.clone()).collect();
    let mut connection = Trickle::new(&glued, 5);
    for (name, _) in &patches {
        let mut decoder = Decoder::new(connection, Limits::default());
        while decoder.next_event().unwrap_or_else(|error| panic!("{name}: {error}")).is_some() {}
        connection = decoder.into_inner();
    }

    let mut rest = glued.as_slice();
    for (name, patch) in &patches {
        let mut decoder = PushDecoder::new(Limits::default());
        let before = rest.len();
        while !decoder.is_done() {
            let taken = decoder.feed(rest).unwrap();
            rest = &rest[taken..];
        }
        assert_eq!(before - rest.len(), patch.len(), "{name}");
        assert_eq!(decoder.feed(rest).unwrap(), 0, "nothing is taken after the end");
        decoder.finish().unwrap();
    }
}

#[test]
fn an_empty_file_is_truncated() {
    let error = apply(&Checkpoint::default(), &b""[..]).expect_err("no patch");
    assert_eq!(
        error.to_string(),
        "at byte 0: the file is cut short: at least 8 more bytes expected; transfer it again"
    );
    assert_eq!(error.kind(), "truncated");
}

/// R61: a decoder that failed says so, and takes no more bytes.
#[test]
fn a_decoder_that_failed_is_of_no_further_use() {
    let mut patch = read("good/smallest.pulse");
    patch[12] ^= 1;
    let mut decoder = PushDecoder::new(Limits::default());
    assert_eq!(decoder.feed(&patch).expect_err("a flipped bit").kind(), "crc");
    assert!(decoder.event().is_none());
    for error in [decoder.feed(&patch).map(|_| ()), decoder.wanted().map(|_| ()), decoder.finish()] {
        let error = error.expect_err("a failed decoder");
        assert_eq!(error.to_string(), "the decoder failed before; start anew with another");
        assert_eq!(error.kind(), "misuse");
    }
}

type SetLimit = fn(Limits, u64) -> Limits;

/// Every limit admits what is as large as itself, and refuses one more.
#[test]
fn limits_hold_to_the_byte() {
    let limits = Limits::default;
    // Vector, what it needs, and the same limit at that number.
    let rows: [(&str, &str, u64, SetLimit); 7] = [
        ("smallest", "section_bytes", 145, Limits::with_section_bytes),
        ("blocks-of-2-flat", "block_leaves", 2, Limits::with_block_leaves),
        ("names", "name_bytes", 300, Limits::with_name_bytes),
        ("full-header", "metadata_bytes", 37, Limits::with_metadata_bytes),
        ("names", "tensors", 8, Limits::with_tensors),
        ("files-of-a-directory", "files", 4, Limits::with_files),
        ("shapes", "rank", 6, Limits::with_rank),
    ];
    for (vector, limit, needed, with) in rows {
        let patch = read(&format!("good/{vector}.pulse"));
        let decode = |limits: Limits| {
            let mut decoder = Decoder::new(patch.as_slice(), limits);
            while decoder.next_event()?.is_some() {}
            decoder.finish().map(|_| ())
        };
        decode(with(limits(), needed)).unwrap_or_else(|error| panic!("{vector}: {error}"));
        let error = decode(with(limits(), needed - 1)).expect_err(limit);
        let expected = format!("limit `{limit}` exceeded at byte ");
        assert!(error.to_string().starts_with(&expected), "{vector}: {error}");
        let numbers = format!("asked for {needed}, allowed {};", needed - 1);
        assert!(error.to_string().contains(&numbers), "{vector}: {error}");
        assert_eq!(error.kind(), "limit");
    }
}
