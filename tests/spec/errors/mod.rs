//! One error of every variant, with all that it says.
//!
//! `KINDS` lists the kinds from the same table that gives them out, the kinds of any reader are those
//! of SPEC.md, the library's own and all variants are those of the table in `pulse::error`: a new
//! variant fails here until it has a row and an error.

#[cfg(feature = "checkpoint")]
mod disk;
mod fields;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::{BaseMismatch, Fault};
use pulse::hash::{tensor_digest, CheckpointHasher, Digest};
use pulse::stream::EncoderOptions;
use pulse::wire::Tag;
use pulse::{Decoder, Encoder, Error, Event, Limits, Result};
use testkit::forge::{self, Section};

/// The example of SPEC.md §12, whose every byte is explained there.
fn example() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors/good/spec-example.pulse"))
        .unwrap()
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
    placed(offset, section, tensor, block, fault)
}

fn placed(
    offset: u64,
    section: Tag,
    tensor: Option<String>,
    block: Option<u64>,
    fault: Fault,
) -> Error {
    let Error::Corrupt(mut corrupt) = fault.at(offset) else {
        panic!("a fault makes a corrupt file")
    };
    (corrupt.section, corrupt.tensor, corrupt.block) = (Some(section), tensor, block);
    Error::Corrupt(corrupt)
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
            Fault::Signature { found: [0xaa, b'P', b'L', b'S', b'\r', b'\n', 0x1a, b'\n'] }.at(0),
        ),
        (error_of(&flipped(8, 3)), Error::Version { file: None, major: 2, minor: 0, known: 1 }),
        // 71 bytes of the tensor trailer at 52 are there to byte 123.
        (error_of(&example()[..100]), Fault::Truncated { missing: 23 }.at(100)),
        (error_of(&[example(), vec![0]].concat()), Fault::Trailing.at(286)),
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
            placed(
                23,
                Tag::BLOCK,
                None,
                None,
                Fault::Order { expected: "a file, a tensor or the index" },
            ),
        ),
        (
            error_of(&forged(|sections| {
                sections.insert(1, Section { tag: b'Z', payload: vec![] })
            })),
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
            at(
                54,
                Tag::TENSOR_END,
                Fault::Count { field: "tensor changes", expected: 2, found: 3 },
            ),
        ),
        (
            error_of(&block(&[1, 0, 1, 2, 0x21, 6, 0, 1, 0, 4, 2, 1])),
            at(
                42,
                Tag::BLOCK,
                Fault::Stream {
                    field: "gaps",
                    found: "3 bytes, more than the 2 that its block allows".into(),
                },
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
            Error::Limit {
                file: None,
                limit: "block_leaves",
                asked: 1024,
                allowed: 64,
                offset: 10,
            },
        ),
        (
            wrong_base(),
            Error::BaseMismatch(Box::new(BaseMismatch::new(
                None,
                Digest([7; 32]),
                digest_of(b"abcd"),
            ))),
        ),
        (
            Encoder::new(Vec::new(), EncoderOptions::default())
                .unwrap()
                .patched("w", &four())
                .unwrap()
                .end()
                .unwrap_err(),
            Error::Misuse("tensor 'w': 0 base bytes pushed, expected 4".into()),
        ),
        (
            Decoder::new(Broken, Limits::default()).next_event().unwrap_err(),
            Error::Io {
                doing: "reading the patch after byte 0".into(),
                path: None,
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
    let mut writer = encoder.patched("w", &four()).unwrap();
    writer.push(b"abcd", b"abce").unwrap();
    writer.end().unwrap();
    encoder.finish().unwrap_err()
}

/// All that can be produced; without checkpoints, the streaming part.
fn produced() -> Vec<(Error, Error)> {
    let mut all = streaming();
    #[cfg(feature = "checkpoint")]
    all.extend(disk::on_disk());
    all
}

#[test]
fn every_field_of_every_error_is_the_right_one() {
    for (found, expected) in produced() {
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        assert_eq!((found.kind(), found.to_string()), (expected.kind(), expected.to_string()));
        assert_eq!(found.advice(), expected.advice());
    }
}

/// All kinds, each once.
fn all_kinds() -> BTreeSet<&'static str> {
    Error::KINDS.iter().chain(Fault::KINDS).copied().collect()
}

/// Kinds that cannot be produced, and why.
const NEVER: [(&str, &str); 1] = [(
    "internal",
    "each is a rule that the code of the library keeps: an error of this kind is a bug in it",
)];

#[cfg(feature = "checkpoint")]
#[test]
fn every_kind_is_produced() {
    let produced: BTreeSet<_> = produced().iter().map(|(found, _)| found.kind()).collect();
    let never: BTreeSet<_> = NEVER.map(|(kind, _)| kind).into();
    assert!(produced.is_disjoint(&never));
    assert_eq!(&produced | &never, all_kinds());
    // Two kinds are of both: `limit`, a fault within the library and an error for callers, and
    // `digest`, that of a field and that of what was made.
    assert_eq!(all_kinds().len() + 2, Error::KINDS.len() + Fault::KINDS.len());
}

/// The name of the variant, which is how its Debug text starts.
#[cfg(feature = "checkpoint")]
fn variant(error: &Error) -> String {
    format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[cfg(feature = "checkpoint")]
#[test]
fn every_variant_is_produced_and_in_the_table_of_its_module() {
    let source = read("src/error/mod.rs");
    let (_, body) = source.split_once("pub enum Error {\n").unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let declared = body.lines().filter_map(|line| line.strip_prefix("    ")).filter_map(|line| {
        let name: String = line.chars().take_while(char::is_ascii_alphanumeric).collect();
        name.starts_with(|first: char| first.is_ascii_uppercase()).then_some(name)
    });
    let declared: BTreeSet<String> = declared.collect();
    let mut produced: BTreeSet<String> =
        produced().iter().map(|(found, _)| variant(found)).collect();
    assert!(produced.insert("Internal".into()), "see NEVER");
    assert_eq!(produced, declared);
    let table = source.lines().filter(|line| line.starts_with("//! | ")).collect::<String>();
    let linked =
        table.split("[`Error::").skip(1).map(|rest| rest.split('`').next().unwrap().to_string());
    assert_eq!(linked.collect::<BTreeSet<String>>(), declared);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Kinds that SPEC.md §11 lists, and who is at fault.
fn kinds_of_the_spec() -> Vec<(String, String)> {
    let spec = read("SPEC.md");
    let (_, errors) = spec.split_once("\n## 11 Errors\n").unwrap();
    let (errors, _) = errors.split_once("\n## 12 ").unwrap();
    let cells = |line: &str| {
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_string()).collect::<Vec<_>>()
    };
    let rows = errors.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|cells| (cells[1].clone(), cells[3].clone())).collect()
}

/// Any reader can give the kinds of SPEC.md §11; those of this library's own are in the table of
/// `pulse::error`, which leaves to SPEC.md only what is wrong with a patch.
#[test]
fn the_kinds_are_those_of_the_spec_and_of_the_module() {
    let spec = kinds_of_the_spec();
    let of_any_reader: BTreeSet<&str> = spec.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(of_any_reader.len(), spec.len(), "a kind is listed twice");
    assert!(of_any_reader.is_subset(&all_kinds()), "{:?}", &of_any_reader - &all_kinds());
    let in_patches =
        spec.iter().filter(|(_, at_fault)| at_fault == "patch").map(|(kind, _)| kind.as_str());

    let source = read("src/error/mod.rs");
    let firsts = source.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(" | ").next());
    let listed: Vec<&str> = firsts.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let of_the_module: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(of_the_module.len(), listed.len(), "a kind is listed twice");
    let in_patches: BTreeSet<&str> = in_patches.collect();
    assert!(of_the_module.is_disjoint(&in_patches));
    assert_eq!(&of_the_module | &in_patches, all_kinds());
}

/// What an error says, and what it advises.
#[test]
fn errors_say_where_and_their_advice_what_to_do() {
    let said = |patch: &[u8]| {
        let error = error_of(patch);
        (error.to_string(), error.advice().unwrap().to_string())
    };
    let pair = |message: &str, advice: &str| (message.to_string(), advice.to_string());
    assert_eq!(
        said(&example()[..100]),
        pair(
            "at byte 100: the file is truncated: at least 23 more bytes expected",
            "transfer it again"
        )
    );
    assert_eq!(
        said(&with_payload(2, &[1, 0, 1, 2, 0x21, 4, 0, 9, 4, 2, 1])),
        pair(
            "at byte 48, block ('B') section, tensor 'w', block 0: change at element 10 lies past the end of its block of 4 elements",
            "the program that made the patch is at fault: create the patch again"
        )
    );
    assert_eq!(
        said(&with_payload(0, &[0x0c, 0x80, 8, 40, 41, 0])),
        pair(
            "limit `block_leaves` exceeded at byte 10: asked for 1024, allowed 64",
            "raise the limit if the source is trusted"
        )
    );
    assert_eq!(
        said(&flipped(8, 3)),
        pair("format version 2.0: this reader knows major version 1 only", "use a newer reader")
    );
}

/// The typed error survives the trip through `io::Error`.
#[test]
fn an_io_error_keeps_the_typed_error() {
    let wrapped = io::Error::from(error_of(&flipped(0, 1)));
    assert_eq!(wrapped.kind(), ErrorKind::InvalidData);
    let inner =
        wrapped.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("the typed error");
    assert_eq!(inner.kind(), "signature");
}
