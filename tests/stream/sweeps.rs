//! Damage of every sort: cut at every byte, one bit flipped at every place, bytes too many.

use std::fs;
use std::path::Path;

use pulse::{Decoder, Event, Limits, PushDecoder, Result};
use testkit::applier::{apply, apply_pushed, Trickle};
use testkit::checkpoint::Checkpoint;
use testkit::vectors::tensors_of;

/// Small vectors that together hold sections of every kind, blocks in every coding, and flat blocks in every
/// form, and in every width and kind of stream.
const PATCHES: [&str; 18] = [
    "empty",
    "smallest",
    "spec-example",
    "unchanged",
    "form-step",
    "form-xor",
    "form-overwrite",
    "flat-step",
    "frame-of-three-blocks",
    "whole-rotated-integers",
    "whole-in-patched",
    "contextual-example",
    "contextual-dense",
    "actions",
    "full-header",
    "files-of-a-directory",
    "skippable",
    "snapshot",
];

fn read(path: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors");
    fs::read(directory.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A patch and the base that it is for.
struct Sample {
    name: &'static str,
    patch: Vec<u8>,
    base: Checkpoint,
}

fn samples() -> Vec<Sample> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&read("manifest.json")).expect("a JSON manifest");
    let rows = manifest["good"].as_array().expect("a list of vectors");
    let base_of = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).expect("a vector of this name");
        row["base"].as_str().map(tensors_of).unwrap_or_default()
    };
    let sample =
        |name| Sample { name, patch: read(&format!("good/{name}.pulse")), base: base_of(name) };
    let mut samples: Vec<Sample> = PATCHES.into_iter().map(sample).collect();
    let (name, base) = ("snapshot with files", Checkpoint::default());
    samples.push(Sample { name, patch: snapshot_with_files(), base });
    samples
}

fn patches() -> Vec<(&'static str, Vec<u8>)> {
    samples().into_iter().map(|sample| (sample.name, sample.patch)).collect()
}

/// A snapshot that carries files: the sample's tensors and a text.
fn snapshot_with_files() -> Vec<u8> {
    let target = Checkpoint::from_file(&read("checkpoints/sample-target.safetensors"));
    let mut encoder =
        pulse::Encoder::snapshot(Vec::new(), pulse::stream::EncoderOptions::default()).unwrap();
    encoder.carry_file("notes.txt", pulse::wire::FileKind::Companion, b"a few notes").unwrap();
    for (name, tensor) in &target.tensors {
        let mut writer = encoder.added(name, &tensor.spec).unwrap();
        writer.push(&[], &tensor.bytes).unwrap();
        writer.end().unwrap();
    }
    encoder.finish().unwrap().0
}

/// Where a section stands: its begin, its payload, and the end of its CRC.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    payload: usize,
    crc: usize,
    end: usize,
}

fn spans(patch: &[u8]) -> Vec<Span> {
    let (mut spans, mut start) = (Vec::new(), 10);
    while start < patch.len() {
        let Some((length, width)) = varint(&patch[start + 1..]).expect("a legal length") else {
            unreachable!()
        };
        let payload = start + 1 + width;
        let crc = payload + length as usize;
        spans.push(Span { start, payload, crc, end: crc + 4 });
        start = crc + 4;
    }
    spans
}

/// A varint and its size; `None` if it is cut off, an error if it is not legal.
fn varint(bytes: &[u8]) -> std::result::Result<Option<(u64, usize)>, ()> {
    let mut value = 0u128;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u128::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let legal = value <= u128::from(u64::MAX) && (at == 0 || *byte != 0);
            return if legal { Ok(Some((value as u64, at + 1))) } else { Err(()) };
        }
    }
    if bytes.len() >= 10 {
        Err(())
    } else {
        Ok(None)
    }
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
    for (name, patch) in patches() {
        decode(&patch).unwrap_or_else(|error| panic!("{name}: {error}"));
        for end in 0..patch.len() {
            let pulled = decode(&patch[..end]).expect_err("a prefix");
            assert_eq!(pulled.kind(), "truncated", "{name} cut at {end}: {pulled}");
            let pushed = apply_pushed(&Checkpoint::default(), &patch[..end], usize::MAX)
                .expect_err("a prefix");
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
            let wanted = decoder.wanted();
            assert!(offset + wanted <= patch.len(), "{name}: {wanted} bytes wanted at {offset}");
            offset += decoder.feed(&patch[offset..offset + wanted]).unwrap().0;
        }
        assert_eq!(offset, patch.len(), "{name}");
    }
}

/// The kind of error that a flipped bit must give, by the part of the file that it is in.
fn kind_of_flip(flipped: &[u8], spans: &[Span], at: usize) -> &'static str {
    match at {
        0..8 => return "signature",
        8 => return "version",
        // Another minor version is legal; only the SHA-256 of the file covers it.
        9 => return "file-digest",
        _ => {}
    }
    let span = spans.iter().find(|span| at < span.end).expect("a section");
    if at == span.start && !flipped[at].is_ascii_alphabetic() {
        return "unknown-section";
    }
    if at == span.start || at >= span.payload {
        return "crc";
    }
    // The section now claims another length.
    match varint(&flipped[span.start + 1..]) {
        Err(()) => "varint",
        Ok(None) => "truncated",
        Ok(Some((length, _))) if length > Limits::default().section_bytes => "limit",
        Ok(Some((length, width)))
            if span.start + 1 + width + length as usize + 4 > flipped.len() =>
        {
            "truncated"
        }
        Ok(Some(_)) => "crc",
    }
}

/// R84: an error for any bytes, never a crash.
#[test]
fn every_flipped_bit_is_refused_for_what_it_is_part_of() {
    for (name, patch) in patches() {
        let spans = spans(&patch);
        for bit in 0..8 * patch.len() {
            let mut flipped = patch.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&flipped).expect_err("a flipped bit");
            let expected = kind_of_flip(&flipped, &spans, bit / 8);
            assert_eq!(
                error.kind(),
                expected,
                "{name}: bit {} of byte {}: {error}",
                bit % 8,
                bit / 8
            );
        }
    }
}

fn put_crc(patch: &mut [u8], span: Span) {
    let crc = crc32fast::hash(&patch[span.start..span.crc]);
    patch[span.crc..span.end].copy_from_slice(&crc.to_le_bytes());
}

fn put_sha256(patch: &mut [u8], footer: Span) {
    let at = footer.crc - 32;
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(&patch[..at]);
    patch[at..footer.crc].copy_from_slice(&sha256);
    put_crc(patch, footer);
}

/// The kind that a flip of this byte of a payload must give once CRC and SHA-256 are right again,
/// where it depends on the place alone.
fn kind_of_repaired(tag: u8, at: usize) -> Option<&'static str> {
    match (tag, at) {
        // Tensors, changes, tensors and elements of the target, offset of the index; then the digest of the
        // target. The bytes of the target between them may exceed a limit as well.
        (b'F', 1..33 | 41..49) => Some("count"),
        (b'F', 81..113) => Some("digest"),
        _ => None,
    }
}

/// Whoever flips a bit can put the checksums right too. What comes out is an error or the very
/// target that the patch names, never another.
#[test]
fn a_flipped_bit_with_checksums_put_right_gives_the_same_target_or_none() {
    for Sample { name, patch, base } in samples() {
        let good = apply(&base, patch.as_slice()).unwrap();
        let spans = spans(&patch);
        let footer = *spans.last().expect("a footer");
        let (mut same, mut refused) = (0, 0);
        // The largest samples are many flat blocks: there, these alone.
        let swept = spans.iter().filter(|span| patch.len() < 4000 || patch[span.start] == b'B');
        for (span, at) in swept.flat_map(|span| (span.payload..span.crc).map(move |at| (*span, at)))
        {
            for bit in 0..8 {
                let mut flipped = patch.clone();
                flipped[at] ^= 1 << bit;
                put_crc(&mut flipped, span);
                // The SHA-256 in the footer sees what the CRC no longer does.
                let kind = decode(&flipped).expect_err("a wrong SHA-256").kind();
                assert!(
                    !["crc", "truncated", "trailing", "misuse", "io"].contains(&kind),
                    "{name}: {kind}"
                );
                put_sha256(&mut flipped, footer);
                match apply(&base, flipped.as_slice()) {
                    Ok(found) => {
                        assert!(
                            found.target == good.target,
                            "{name}: another target by bit {bit} of byte {at}"
                        );
                        assert_eq!(kind, "file-digest", "{name}: bit {bit} of byte {at}");
                        same += 1;
                    }
                    Err(error) => {
                        let kind = error.kind();
                        assert!(
                            !["crc", "file-digest", "misuse", "io"].contains(&kind),
                            "{name}: {error}"
                        );
                        if let Some(expected) =
                            kind_of_repaired(patch[span.start], at - span.payload)
                        {
                            assert_eq!(kind, expected, "{name}: bit {bit} of byte {at}: {error}");
                        }
                        refused += 1;
                    }
                }
            }
        }
        // Steps, metadata and digests of the base do not change the target; most else does.
        assert!(refused >= 8 * (48 + 32), "{name}: {refused} refused, {same} without consequence");
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
            let (taken, _) = decoder.feed(rest).unwrap();
            rest = &rest[taken..];
        }
        assert_eq!(before - rest.len(), patch.len(), "{name}");
        assert!(matches!(decoder.feed(rest), Ok((0, None))), "nothing is taken after the end");
        decoder.finish().unwrap();
    }
}

#[test]
fn an_empty_file_is_truncated() {
    let error = apply(&Checkpoint::default(), &b""[..]).expect_err("no patch");
    assert_eq!(
        error.to_string(),
        "at byte 0: the file is truncated: at least 8 more bytes expected"
    );
    assert_eq!(error.advice(), Some(pulse::error::Advice::TransferAgain));
    assert_eq!(error.kind(), "truncated");
}

/// R61: a decoder that failed says so, and takes no more bytes.
#[test]
fn a_decoder_that_failed_is_of_no_further_use() {
    let mut patch = read("good/smallest.pulse");
    patch[12] ^= 1;
    let mut decoder = PushDecoder::new(Limits::default());
    assert_eq!(decoder.feed(&patch).expect_err("a flipped bit").kind(), "crc");
    assert_eq!(decoder.wanted(), 0);
    for error in [decoder.feed(&patch).map(|_| ()), decoder.finish()] {
        let error = error.expect_err("a failed decoder");
        assert_eq!(error.to_string(), "this decoder has already failed; create a new one");
        assert_eq!(error.kind(), "misuse");
    }
}
