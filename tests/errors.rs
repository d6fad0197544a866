//! One error of every kind, with all that it says.
//!
//! Each variant of `Error` and `Fault` has a kind of its own, and `KINDS` lists them from the same
//! table that gives them out: a new variant fails here until it has a row.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::{Corrupt, Fault};
use pulse::hash::{tensor_digest, CheckpointHasher, Digest};
use pulse::stream::EncoderOptions;
use pulse::wire::Tag;
use pulse::{Decoder, Encoder, Error, Event, Limits, Result};
use testkit::forge::{self, Section};

/// The example of SPEC.md §12, whose every byte is explained there.
fn example() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors/good/spec-example.pulse")).unwrap()
}

/// Reads a patch to its end and unpacks its blocks; the error that it must give.
fn error_of(patch: &[u8]) -> Error {
    fn read(patch: &[u8]) -> Result<()> {
        let mut decoder = Decoder::new(patch, Limits::default());
        while let Some(event) = decoder.next_event()? {
            if let Event::Block(block) = event {
                block.decode()?;
            }
        }
        decoder.finish().map(|_| ())
    }
    read(patch).expect_err("a bad patch")
}

/// The example with one bit flipped and nothing put right.
fn flipped(at: usize, bits: u8) -> Vec<u8> {
    let mut patch = example();
    patch[at] ^= bits;
    patch
}

/// The example with other sections, CRCs and SHA-256 right.
fn forged(edit: impl FnOnce(&mut Vec<Section>)) -> Vec<u8> {
    let mut sections = forge::sections(&example());
    edit(&mut sections);
    forge::join(&example(), &sections)
}

/// The example with another payload in one of its sections: 0 header, 1 tensor header, 2 block,
/// 3 tensor trailer, 4 index, 5 footer.
fn with_payload(number: usize, payload: &[u8]) -> Vec<u8> {
    forged(|sections| sections[number].payload = payload.to_vec())
}

/// A fault in a section of the example. Within the tensor, all know its name.
fn at(offset: u64, section: Tag, fault: Fault) -> Error {
    let tensor = matches!(section, Tag::BLOCK | Tag::TENSOR_END).then(|| "w".to_string());
    let block = (section == Tag::BLOCK).then_some(0);
    Error::Corrupt(Box::new(Corrupt { offset, section: Some(section), tensor, block, fault }))
}

fn bare(offset: u64, fault: Fault) -> Error {
    Error::Corrupt(Box::new(Corrupt { offset, section: None, tensor: None, block: None, fault }))
}

/// A reader whose disk fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(ErrorKind::TimedOut, "no answer"))
    }
}

fn four() -> TensorSpec {
    TensorSpec::new(Dtype::U8, &[4]).unwrap()
}

/// Digest of the checkpoint of one tensor, "w".
fn digest_of(bytes: &[u8; 4]) -> Digest {
    let mut hasher = CheckpointHasher::new();
    hasher.add("w", &four(), tensor_digest(bytes));
    hasher.finish().unwrap()
}

/// Bytes 282 to 285 of the example are the CRC of its footer, 250 to 281 its SHA-256.
fn stored_sha256() -> Digest {
    Digest(example()[250..282].try_into().unwrap())
}

/// What was produced, and what it must be.
fn streaming() -> Vec<(Error, Error)> {
    let block = |bytes: &[u8]| with_payload(2, bytes);
    let crc = |patch: &[u8]| crc32fast::hash(&patch[35..48]);
    let stored_crc = u32::from_le_bytes(example()[48..52].try_into().unwrap());
    vec![
        (
            error_of(&flipped(0, 1)),
            bare(0, Fault::Signature { found: [0xaa, b'P', b'L', b'S', b'\r', b'\n', 0x1a, b'\n'] }),
        ),
        (error_of(&flipped(8, 3)), Error::Version { major: 2, minor: 0, known: 1 }),
        // 71 bytes of the tensor trailer at 52 are there to byte 123.
        (error_of(&example()[..100]), bare(100, Fault::Truncated { missing: 23 })),
        (error_of(&[example(), vec![0]].concat()), bare(286, Fault::Trailing)),
        (
            error_of(&flipped(40, 1)),
            at(48, Tag::BLOCK, Fault::Crc { expected: stored_crc, found: crc(&flipped(40, 1)) }),
        ),
        // Another minor version is legal, and no CRC covers it.
        (
            error_of(&flipped(9, 1)),
            at(
                250,
                Tag::FOOTER,
                Fault::FileDigest {
                    expected: stored_sha256(),
                    found: Digest(sha2::Digest::finalize(sha2_of(&flipped(9, 1)[..250])).into()),
                },
            ),
        ),
        (
            error_of(&forged(|sections| sections.swap(1, 2))),
            Error::Corrupt(Box::new(Corrupt {
                offset: 23,
                section: Some(Tag::BLOCK),
                tensor: None,
                block: None,
                fault: Fault::Order { expected: "a file, a tensor or the index" },
            })),
        ),
        (
            error_of(&forged(|sections| sections.insert(1, Section { tag: b'Z', payload: vec![] }))),
            at(23, Tag(b'Z'), Fault::UnknownSection { tag: Tag(b'Z') }),
        ),
        (
            error_of(&with_payload(0, &[0x0c, 0x81, 0x00, 40, 41, 0])),
            at(13, Tag::HEADER, Fault::Varint { field: "block size" }),
        ),
        (
            error_of(&with_payload(0, &[0x2c, 1, 40, 41, 0])),
            at(12, Tag::HEADER, Fault::Reserved { field: "header flags", found: 0x2c }),
        ),
        (
            error_of(&with_payload(1, &[0, 1, b'w', 9, 10, 2, 2, 2])),
            at(26, Tag::TENSOR, Fault::Value { field: "action", found: 9, expected: "0 to 3" }),
        ),
        (
            error_of(&with_payload(0, &[0x0c, 1, 40, 41, 0, 7])),
            at(17, Tag::HEADER, Fault::Length { field: "header", expected: 5, found: 6 }),
        ),
        (
            error_of(&with_payload(1, &[0, 1, 0xff, 0, 10, 2, 2, 2])),
            at(23, Tag::TENSOR, Fault::Name { field: "tensor name", found: "\u{fffd}".into() }),
        ),
        (
            error_of(&forged(|sections| {
                let again = [Section { tag: b'T', payload: vec![1, 0, 0, 10, 2, 2, 2] }];
                sections.splice(4..4, again);
            })),
            at(125, Tag::TENSOR, Fault::Duplicate { field: "tensor name", found: "w".into() }),
        ),
        (
            error_of(&forged(|sections| sections[3].payload[0] = 3)),
            at(54, Tag::TENSOR_END, Fault::Count { field: "tensor changes", expected: 2, found: 3 }),
        ),
        (
            error_of(&block(&[1, 0, 1, 2, 0x21, 6, 0, 1, 0, 4, 2, 1])),
            at(
                42,
                Tag::BLOCK,
                Fault::Stream { field: "gaps", found: "more than the 2 bytes that its block allows".into() },
            ),
        ),
        (
            error_of(&block(&[1, 0, 1, 2, 0x21, 4, 0, 9, 4, 2, 1])),
            at(48, Tag::BLOCK, Fault::Position { found: 10, elements: 4 }),
        ),
        (
            error_of(&with_payload(
                0,
                &[0x1c, 1, 40, 41].iter().copied().chain([7; 32]).chain([0]).collect::<Vec<u8>>(),
            )),
            at(
                169,
                Tag::FOOTER,
                Fault::Digest {
                    field: "base digest of the footer",
                    expected: Digest([7; 32]),
                    found: Digest(example()[186..218].try_into().unwrap()),
                },
            ),
        ),
        (
            error_of(&with_payload(0, &[0x0c, 0x80, 8, 40, 41, 0])),
            Error::Limit { limit: "block_leaves", asked: 1024, allowed: 64, offset: 10 },
        ),
        (wrong_base(), {
            let (expected, found) = (Digest([7; 32]), digest_of(b"abcd"));
            Error::BaseMismatch { tensor: None, expected, found }
        }),
        (
            Encoder::new(Vec::new(), EncoderOptions::default()).unwrap().end().unwrap_err(),
            Error::Misuse("no tensor is open; call begin() first".into()),
        ),
        (
            Decoder::new(Broken, Limits::default()).next_event().unwrap_err(),
            Error::Io {
                context: "reading the patch after byte 0".into(),
                source: io::Error::new(ErrorKind::TimedOut, "no answer"),
            },
        ),
    ]
}

fn sha2_of(bytes: &[u8]) -> sha2::Sha256 {
    let mut sha = <sha2::Sha256 as sha2::Digest>::new();
    sha2::Digest::update(&mut sha, bytes);
    sha
}

fn wrong_base() -> Error {
    let options = EncoderOptions::default().with_base_digest(Digest([7; 32]));
    let mut encoder = Encoder::new(Vec::new(), options).unwrap();
    encoder.begin("w", Some(&four()), Some(&four())).unwrap();
    encoder.push(b"abcd", b"abce").unwrap();
    encoder.end().unwrap();
    encoder.finish().unwrap_err()
}

/// The kinds that only checkpoints on disk can give.
#[cfg(feature = "checkpoint")]
fn on_disk() -> Vec<(Error, Error)> {
    use std::ops::ControlFlow;

    use pulse::checkpoint::DiffOptions;
    use pulse::tensors::Control;
    use pulse::{Checkpoint, Patch};

    let place = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let checkpoint = |name: &str, data: &[u8; 4]| {
        let json = br#"{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        Checkpoint::open(&put(name, &[&53u64.to_le_bytes()[..], json, data].concat())).unwrap()
    };
    let (base, target, other) = (checkpoint("base", b"abcd"), checkpoint("target", b"abce"), checkpoint("x", b"abcf"));
    let (mut patch, control) = (Vec::new(), Control::threads(1));
    pulse::checkpoint::diff(Some(&base), &target, &mut patch, DiffOptions::default(), control).unwrap();
    let patch = Patch::from_bytes(patch, Limits::default()).unwrap();
    let junk = put("junk", b"short");
    let stop = |_| ControlFlow::Break(());
    vec![
        (base.digest(control.with_progress(&stop)).unwrap_err(), Error::Cancelled),
        (
            patch.verify_target(&other, control).unwrap_err(),
            Error::TargetMismatch { tensor: Some("w".into()), expected: digest_of(b"abce"), found: digest_of(b"abcf") },
        ),
        (
            patch.verify_with_base(&other, control).unwrap_err(),
            Error::BaseMismatch {
                tensor: Some("w".into()),
                expected: tensor_digest(b"abcd"),
                found: tensor_digest(b"abcf"),
            },
        ),
        (
            Checkpoint::open(&junk).unwrap_err(),
            Error::Checkpoint {
                path: junk.display().to_string(),
                what: "5 bytes are too few for a safetensors file; copy it again".into(),
            },
        ),
    ]
}

#[cfg(not(feature = "checkpoint"))]
fn on_disk() -> Vec<(Error, Error)> {
    Vec::new()
}

#[test]
fn every_field_of_every_error_is_the_right_one() {
    for (found, expected) in streaming().into_iter().chain(on_disk()) {
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        assert_eq!((found.kind(), found.to_string()), (expected.kind(), expected.to_string()));
    }
}

/// All kinds, each once.
fn all_kinds() -> BTreeSet<&'static str> {
    Error::KINDS.iter().chain(Fault::KINDS).copied().collect()
}

#[test]
fn every_variant_is_produced() {
    let mut produced: BTreeSet<_> = streaming().iter().chain(&on_disk()).map(|(found, _)| found.kind()).collect();
    if cfg!(not(feature = "checkpoint")) {
        produced.extend(["target", "checkpoint", "cancelled"]);
    }
    assert_eq!(produced, all_kinds());
    // `limit` is the one kind of both: a fault within the library, an error for callers.
    assert_eq!(all_kinds().len() + 1, Error::KINDS.len() + Fault::KINDS.len());
}

#[test]
fn the_kinds_are_those_of_the_spec() {
    let spec = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap();
    let (_, errors) = spec.split_once("\n## 11 Errors\n").unwrap();
    let (errors, _) = errors.split_once("\n## 12 ").unwrap();
    let listed: Vec<&str> =
        errors.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(kind, _)| kind).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), all_kinds());
    assert_eq!(listed.len(), all_kinds().len(), "a kind stands twice");
}

/// What an error says: where, what was found, what was expected, and what to do.
#[test]
fn errors_say_where_and_what_to_do() {
    let said = |patch: &[u8]| error_of(patch).to_string();
    assert_eq!(
        said(&example()[..100]),
        "at byte 100: the file is cut short: at least 23 more bytes expected; transfer it again"
    );
    assert_eq!(
        said(&with_payload(2, &[1, 0, 1, 2, 0x21, 4, 0, 9, 4, 2, 1])),
        "at byte 48, block ('B') section, tensor 'w', block 0: change at element 10 lies past the end of its block of 4 elements; its writer is at fault: have the patch made again"
    );
    assert_eq!(
        said(&with_payload(0, &[0x0c, 0x80, 8, 40, 41, 0])),
        "limit `block_leaves` exceeded at byte 10: asked for 1024, allowed 64; raise the limit if the source is trusted"
    );
    assert_eq!(said(&flipped(8, 3)), "format version 2.0: this reader knows major version 1 only; use a newer reader");
}

/// The typed error survives the trip through `io::Error`.
#[test]
fn an_io_error_keeps_the_typed_error() {
    let wrapped = io::Error::from(error_of(&flipped(0, 1)));
    assert_eq!(wrapped.kind(), ErrorKind::InvalidData);
    let inner = wrapped.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("the typed error");
    assert_eq!(inner.kind(), "signature");
}
