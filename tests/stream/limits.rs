//! Every limit of SPEC.md §10, just inside and just outside, for readers and for the writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pulse::coding::Coding;
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::LEAF_BYTES;
use pulse::stream::EncoderOptions;
use pulse::wire::{FileKind, Tag};
use pulse::{Decoder, Encoder, Error, Event, Limits, PushDecoder, Result};
use testkit::forge::{self, Section};
use testkit::hostile::{bomb, patch_of_blocks, tiny_tensors, varint};

fn u8s(shape: &[u64]) -> TensorSpec {
    TensorSpec::new(Dtype::U8, shape).unwrap()
}

fn other(name: &str, bytes: u64) -> TensorSpec {
    TensorSpec::with_bytes(Dtype::Other(name.into()), &[], bytes).unwrap()
}

/// Adds a tensor to a patch: in both checkpoints, with the first byte of each of these leaves changed.
fn change(encoder: &mut Encoder<Vec<u8>>, name: &str, spec: &TensorSpec, leaves: &[usize]) {
    let base = vec![0; usize::try_from(spec.bytes()).unwrap()];
    let mut target = base.clone();
    leaves.iter().for_each(|leaf| target[leaf * LEAF_BYTES] = 1);
    let mut writer = encoder.patched(name, spec).unwrap();
    let full = 2 * LEAF_BYTES;
    base.chunks(full)
        .zip(target.chunks(full))
        .for_each(|(base, target)| writer.push(base, target).unwrap());
    writer.end().unwrap();
}

/// A patch that needs a little of everything that is limited.
fn sample() -> Vec<u8> {
    let options = EncoderOptions::default()
        .with_coding(Coding::Flat)
        .with_block_leaves(2)
        .with_metadata("k", "value");
    let mut encoder = Encoder::new(Vec::new(), options).unwrap();
    encoder.carry_file("f", FileKind::Companion, b"12345").unwrap();
    encoder.carry_file("g", FileKind::Companion, b"1234567").unwrap();
    change(&mut encoder, "a", &u8s(&[3]), &[0]);
    let mut writer = encoder.added("name", &u8s(&[1, 1, 2])).unwrap();
    writer.push(&[], b"ab").unwrap();
    writer.end().unwrap();
    change(&mut encoder, "tensor", &u8s(&[5 * LEAF_BYTES as u64]), &[0, 4]);
    change(&mut encoder, "unchanged", &u8s(&[10]), &[]);
    encoder.finish().unwrap().0
}

/// A patch of one tensor that is added.
fn added(name: &str, spec: &TensorSpec) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    let mut writer = encoder.added(name, spec).unwrap();
    writer.push(&[], &vec![0; usize::try_from(spec.bytes()).unwrap()]).unwrap();
    writer.end().unwrap();
    encoder.finish().unwrap().0
}

/// A patch of one file and nothing else.
fn carried(name: &str) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    encoder.carry_file(name, FileKind::Companion, b"").unwrap();
    encoder.finish().unwrap().0
}

/// A patch between equal checkpoints: only its footer knows of a tensor, of ten bytes.
fn unchanged() -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    change(&mut encoder, "unchanged", &u8s(&[10]), &[]);
    encoder.finish().unwrap().0
}

/// Offset of the last section with this tag.
fn last(patch: &[u8], tag: Tag) -> u64 {
    let mut decoder = Decoder::new(patch, Limits::default());
    let mut found = None;
    while decoder.next_event().unwrap().is_some() {
        found = decoder
            .section()
            .filter(|section| section.tag == tag)
            .map(|section| section.offset)
            .or(found);
    }
    found.expect("such a section")
}

fn pulled(patch: &[u8], limits: &Limits) -> Result<()> {
    let mut decoder = Decoder::new(patch, limits.clone());
    while let Some(event) = decoder.next_event()? {
        if let Event::Block(block) = event {
            block.decode()?;
        }
    }
    decoder.finish().map(|_| ())
}

fn pushed(patch: &[u8], limits: &Limits) -> Result<()> {
    let mut decoder = PushDecoder::new(limits.clone());
    for byte in patch.chunks(1) {
        decoder.feed(byte)?;
    }
    decoder.finish()
}

#[cfg(feature = "checkpoint")]
fn opened(patch: &[u8], limits: &Limits) -> Result<()> {
    pulse::Patch::from_bytes(patch.to_vec(), limits.clone()).map(|_| ())
}

#[cfg(not(feature = "checkpoint"))]
fn opened(patch: &[u8], limits: &Limits) -> Result<()> {
    pulled(patch, limits)
}

type Reader = fn(&[u8], &Limits) -> Result<()>;

const READERS: [Reader; 3] = [pulled, pushed, opened];

type SetLimit = fn(Limits, u64) -> Limits;

/// Patch, section at which it is refused, limit, what the patch needs, and how to set the limit.
type Row = (Vec<u8>, Tag, &'static str, u64, SetLimit);

fn rows() -> Vec<Row> {
    vec![
        // The footer is the largest section.
        (sample(), Tag::FOOTER, "section_bytes", 145, Limits::with_section_bytes),
        (sample(), Tag::HEADER, "block_leaves", 2, Limits::with_block_leaves),
        (sample(), Tag::TENSOR, "name_bytes", 6, Limits::with_name_bytes),
        (carried("config.json"), Tag::FILE, "name_bytes", 11, Limits::with_name_bytes),
        (added("w", &other("F4_E2M1", 2)), Tag::TENSOR, "name_bytes", 7, Limits::with_name_bytes),
        (sample(), Tag::TENSOR, "names_bytes", 1 + 4 + 6, Limits::with_names_bytes),
        // A count, and two strings with their lengths.
        (sample(), Tag::HEADER, "metadata_bytes", 1 + 2 + 6, Limits::with_metadata_bytes),
        (sample(), Tag::TENSOR, "tensors", 3, Limits::with_tensors),
        (sample(), Tag::FILE, "files", 2, Limits::with_files),
        (added("w", &u8s(&[1, 1, 2])), Tag::TENSOR, "rank", 3, Limits::with_rank),
        (sample(), Tag::BLOCK, "blocks", 1 + 1 + 2, Limits::with_blocks),
        // Two files and three tensors.
        (
            sample(),
            Tag::TENSOR,
            "target_bytes",
            5 + 7 + 3 + 2 + 5 * 65536,
            Limits::with_target_bytes,
        ),
        (unchanged(), Tag::FOOTER, "target_bytes", 10, Limits::with_target_bytes),
        // 256 names of 4096 bytes are free, and the next is one byte or more for each of the patch.
        (tiny_tensors(257, 4090), Tag::TENSOR, "name_expansion", 1, Limits::with_name_expansion),
        expanding(),
    ]
}

/// 65 blocks of 4 MiB, of which 64 are free.
fn expanding() -> Row {
    const BLOCK: u64 = 64 << 16;
    let payload = [&[0, 0, 64][..], &varint(BLOCK), &[0], &bomb(0, BLOCK as usize)].concat();
    let patch = patch_of_blocks(65 * BLOCK, vec![payload.clone(); 65], 65 * BLOCK);
    let needed = BLOCK.div_ceil(last(&patch, Tag::BLOCK) + payload.len() as u64);
    (patch, Tag::BLOCK, "expansion", needed, Limits::with_expansion)
}

#[test]
fn every_limit_holds_to_the_byte_for_every_reader() {
    for (patch, tag, limit, needed, with) in rows() {
        let expected = Error::Limit {
            file: None,
            limit,
            asked: needed,
            allowed: needed - 1,
            offset: last(&patch, tag),
        };
        for read in READERS {
            read(&patch, &with(Limits::default(), needed))
                .unwrap_or_else(|error| panic!("{limit}: {error}"));
            let found = read(&patch, &with(Limits::default(), needed - 1)).expect_err(limit);
            assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        }
    }
}

/// Name and default of each limit in the table of SPEC.md §10.
fn limits_of_the_spec() -> BTreeMap<String, u64> {
    let spec = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap();
    let (_, section) = spec.split_once("\n## 10 Limits\n").unwrap();
    let (section, _) = section.split_once("\n## 11 ").unwrap();
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((name.to_string(), rest.split(' ').next()?.replace(',', "").parse().ok()?))
    };
    section.lines().filter_map(row).collect()
}

#[test]
fn the_defaults_are_those_of_the_spec() {
    let limits = format!("{:?}", Limits::default());
    let fields = limits.trim_start_matches("Limits { ").trim_end_matches(" }").split(", ");
    let pair = |field: &str| {
        let (name, value) = field.split_once(": ").unwrap();
        (name.to_string(), value.parse().unwrap())
    };
    let defaults: BTreeMap<String, u64> = fields.map(pair).collect();
    assert_eq!(defaults, limits_of_the_spec());
    // And each of them has its rows above.
    let tried: std::collections::BTreeSet<_> = rows().iter().map(|row| row.2.to_string()).collect();
    assert!(tried.iter().eq(defaults.keys()));
}

/// By name as by method, whatever the field; and no other name is one.
#[test]
fn limits_are_set_by_name_as_by_method() {
    let mut names: Vec<_> = Limits::NAMES.to_vec();
    names.sort_unstable();
    assert!(names.iter().eq(limits_of_the_spec().keys()));
    let mut methods = BTreeMap::new();
    for (_, _, limit, _, with) in rows() {
        methods.insert(limit, with);
    }
    for &name in Limits::NAMES {
        let named = Limits::default().with(name, 12_345).unwrap();
        assert_eq!(named, methods[name](Limits::default(), 12_345), "{name}");
        assert_ne!(named, Limits::default(), "{name}");
    }
    for other in ["", "tensor", "Tensors", "tensors ", "default"] {
        assert_eq!(Limits::default().with(other, 1), None, "{other:?}");
    }
}

/// The sample with a section more, or another payload, CRCs and SHA-256 right.
fn forged(edit: impl FnOnce(&mut Vec<Section>)) -> Vec<u8> {
    let patch = sample();
    let mut sections = forge::sections(&patch);
    edit(&mut sections);
    forge::join(&patch, &sections)
}

#[test]
fn a_section_of_64_mib_is_read_and_one_byte_more_is_not() {
    let skipped = |bytes: usize| {
        forged(|sections| sections.insert(1, Section { tag: b'x', payload: vec![0; bytes] }))
    };
    pulled(&skipped(64 << 20), &Limits::default()).unwrap();
    // Refused by what it claims: nothing of it need be there.
    let patch = skipped((64 << 20) + 1);
    let offset = last(&sample(), Tag::HEADER) + 2 + 11 + 4;
    let short = &patch[..usize::try_from(offset).unwrap() + 10];
    let expected = Error::Limit {
        file: None,
        limit: "section_bytes",
        asked: (64 << 20) + 1,
        allowed: 64 << 20,
        offset,
    };
    for read in READERS {
        let found = read(short, &Limits::default()).unwrap_err();
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }
}

fn unlimited() -> Limits {
    Limits::default()
        .with_section_bytes(u64::MAX)
        .with_block_leaves(u64::MAX)
        .with_name_bytes(u64::MAX)
        .with_names_bytes(u64::MAX)
        .with_metadata_bytes(u64::MAX)
        .with_tensors(u64::MAX)
        .with_files(u64::MAX)
        .with_rank(u64::MAX)
        .with_blocks(u64::MAX)
        .with_target_bytes(u64::MAX)
        .with_name_expansion(u64::MAX)
        .with_expansion(u64::MAX)
}

/// R82: what the format itself forbids stays forbidden to a reader without limits.
#[test]
fn the_maxima_of_the_format_hold_without_limits() {
    let said = |error: Error| match error.advice() {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    };
    let found = |patch: &[u8]| READERS.map(|read| read(patch, &unlimited()).map_err(said));
    let good = |patch: &[u8]| assert_eq!(found(patch), [Ok(()), Ok(()), Ok(())]);
    let bad = |patch: &[u8], expected: &str| {
        for error in found(patch) {
            let error = error.expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    };
    let header = |block_size: [u8; 2]| {
        forged(|sections| {
            sections[0].payload.splice(1..2, block_size);
        })
    };
    good(&header([0x80, 8]));
    bad(&header([0x81, 8]), "header ('H') section: block size is 1025; expected 1 to 1024 leaves");

    // A tensor "a" of dtype U8 that is deleted and added again: only its header matters here.
    let shape = |rank: u64| {
        let mut payload = vec![0, 1, b'a', 0, 2];
        payload.extend([rank as u8 | 0x80, (rank >> 7) as u8]);
        payload.extend(std::iter::once(3).chain(vec![1; rank as usize - 1]));
        forged(|sections| {
            sections.iter_mut().find(|section| section.tag == b'T').unwrap().payload = payload
        })
    };
    good(&shape(255));
    let raise = "raise the limit if the source is trusted";
    bad(&shape(256), &format!("asked for 256, allowed 255; {raise}"));

    let dtype = |bytes: usize| {
        let mut payload = vec![0, 1, b'a', 0, 0, bytes as u8 | 0x80, (bytes >> 7) as u8];
        payload.extend(vec![b'x'; bytes]);
        payload.extend([3, 1, 3]);
        forged(|sections| {
            sections.iter_mut().find(|section| section.tag == b'T').unwrap().payload = payload
        })
    };
    good(&dtype(255));
    bad(&dtype(256), &format!("asked for 256, allowed 255; {raise}"));

    let name = |bytes: usize| {
        forged(|sections| {
            let mut name = vec![bytes as u8 | 0x80, (bytes >> 7) as u8];
            name.extend(vec![b'f'; bytes]);
            sections
                .iter_mut()
                .find(|section| section.tag == b'l')
                .unwrap()
                .payload
                .splice(1..3, name);
        })
    };
    good(&name(255));
    bad(&name(256), &format!("file name {:?} is not a legal name", "f".repeat(256)));

    let data = |bytes: usize| {
        let content = vec![7; bytes];
        let mut file = vec![3, 1, b'z'];
        file.extend([bytes as u8 | 0x80, (bytes >> 7) as u8 | 0x80, (bytes >> 14) as u8]);
        file.extend(<sha2::Sha256 as sha2::Digest>::digest(&content));
        let stored = bytes << 1;
        let mut packed =
            vec![stored as u8 | 0x80, (stored >> 7) as u8 | 0x80, (stored >> 14) as u8 | 0x80];
        packed.push((stored >> 21) as u8);
        packed.extend(content);
        forged(|sections| {
            let new =
                [Section { tag: b'l', payload: file }, Section { tag: b'd', payload: packed }];
            sections.splice(1..1, new);
        })
    };
    good(&data(1 << 20));
    bad(
        &data((1 << 20) + 1),
        "file data: 1048577 bytes, more than the 1048576 that its block allows",
    );
}

fn encoder() -> Encoder<Vec<u8>> {
    Encoder::new(Vec::new(), EncoderOptions::default()).unwrap()
}

#[track_caller]
fn assert_misuse<T: std::fmt::Debug>(result: Result<T>, message: &str) {
    let error = result.expect_err(message);
    assert_eq!(error.kind(), "misuse");
    // What to do follows.
    assert!(error.to_string().starts_with(message), "{error}");
}

/// What the writer takes, readers with default limits accept; what they would refuse, it refuses.
#[test]
fn the_writer_stays_within_what_one_name_or_shape_may_have() {
    pulled(&added(&"n".repeat(4096), &u8s(&[2])), &Limits::default()).unwrap();
    let long = "n".repeat(4097);
    let message = format!("tensor '{long}': name length 4097 exceeds the limit of 4096");
    assert_misuse(encoder().added(&long, &u8s(&[2])), &message);

    pulled(&added("w", &u8s(&[1; 64])), &Limits::default()).unwrap();
    let message = "tensor 'w': rank 65 exceeds the limit of 64";
    assert_misuse(encoder().added("w", &u8s(&[1; 65])), message);

    pulled(&added("w", &other(&"x".repeat(255), 2)), &Limits::default()).unwrap();
    let message = "tensor 'w': dtype name length 256 exceeds the limit of 255";
    assert_misuse(encoder().added("w", &other(&"x".repeat(256), 2)), message);

    pulled(&carried(&"f".repeat(255)), &Limits::default()).unwrap();
    let (long, kind) = ("f".repeat(256), FileKind::Companion);
    assert_misuse(
        encoder().carry_file(&long, kind, b""),
        &format!("{long:?} is not a legal file name"),
    );

    let new = |options| Encoder::new(Vec::new(), options);
    let metadata = |bytes: usize| EncoderOptions::default().with_metadata("k", "v".repeat(bytes));
    // A count, key and value, and three bytes for the length of the value.
    let most = (1 << 20) - 1 - 2 - 3;
    pulled(&new(metadata(most)).unwrap().finish().unwrap().0, &Limits::default()).unwrap();
    let message = "options: limit `metadata_bytes` exceeded: asked for 1048577, allowed 1048576";
    assert_misuse(new(metadata(most + 1)), message);

    let leaves = |leaves| EncoderOptions::default().with_block_leaves(leaves);
    pulled(&new(leaves(64)).unwrap().finish().unwrap().0, &Limits::default()).unwrap();
    let message = "options: limit `block_leaves` exceeded: asked for 65, allowed 64";
    assert_misuse(new(leaves(65)), message);
}

#[test]
fn the_writer_stays_within_the_number_of_files() {
    let mut encoder = encoder();
    for number in 0..65_536 {
        encoder.keep_file(&number.to_string(), FileKind::Companion, b"").unwrap();
    }
    let message = "file 'f': limit `files` exceeded: asked for 65537, allowed 65536; readers would refuse the file";
    assert_misuse(encoder.keep_file("f", FileKind::Companion, b""), message);
    pulled(&encoder.finish().unwrap().0, &Limits::default()).unwrap();
}

#[test]
fn the_writer_stays_within_the_number_of_tensors() {
    let mut encoder = encoder();
    for number in 0..1 << 20 {
        let writer = encoder.added(&number.to_string(), &u8s(&[0])).unwrap();
        writer.end().unwrap();
    }
    let message =
        "tensor 't': limit `tensors` exceeded: asked for 1048577, allowed 1048576; readers would refuse the file";
    assert_misuse(encoder.added("t", &u8s(&[0])), message);
    pulled(&encoder.finish().unwrap().0, &Limits::default()).unwrap();
}

/// Names of 4096 bytes that share all but the end, or nothing.
fn name(number: usize, shared: bool) -> String {
    let digits = format!("{number:06}");
    if shared {
        "n".repeat(4090) + &digits
    } else {
        digits.chars().rev().collect::<String>() + &"n".repeat(4090)
    }
}

#[test]
fn the_writer_stays_within_the_bytes_of_all_names() {
    let mut encoder = encoder();
    for number in 0..32_768 {
        let writer = encoder.deleted(&name(number, true), &u8s(&[0])).unwrap();
        writer.end().unwrap();
    }
    let message =
        "tensor 't': limit `names_bytes` exceeded: asked for 134217729, allowed 134217728; \
                   readers would refuse the file";
    assert_misuse(encoder.deleted("t", &u8s(&[0])), message);
    let (patch, _) = encoder.finish().unwrap();
    assert!(patch.len() < 5 << 20, "front coding: {} bytes", patch.len());
    // No model has such names; a reader that is to take them is told so.
    pulled(&patch, &Limits::default().with_name_expansion(128)).unwrap();
}

/// An index that front coding does not shorten outgrows its section before the names outgrow theirs.
#[test]
fn the_writer_stays_within_the_bytes_of_a_section() {
    let patch = |tensors: usize| {
        let mut encoder = encoder();
        for number in 0..tensors {
            let writer = encoder.deleted(&name(number, false), &u8s(&[0])).unwrap();
            writer.end().unwrap();
        }
        encoder.finish()
    };
    // An entry: the name, three bytes for its parts, two for its offset (one for the first two); and three for the count.
    pulled(&patch(16_364).unwrap().0, &Limits::default()).unwrap();
    assert_misuse(
        patch(16_365),
        "index ('I') of 67112866 bytes: readers refuse more than 67108864",
    );
}

#[test]
fn the_writer_stays_within_the_bytes_of_a_target() {
    let spec = |bytes| other("F4", bytes);
    drop(encoder().added("w", &spec(16 << 40)).unwrap());
    let message = "tensor 'w': limit `target_bytes` exceeded: asked for 17592186044417, allowed 17592186044416; \
                   readers would refuse the file";
    assert_misuse(encoder().added("w", &spec((16 << 40) + 1)), message);
    // Files that travel count, and files that stay do not.
    let mut with_files = encoder();
    with_files.keep_file("a", FileKind::Companion, b"kept").unwrap();
    with_files.carry_file("b", FileKind::Companion, b"carried").unwrap();
    let message = "tensor 'w': limit `target_bytes` exceeded: asked for 17592186044423, allowed 17592186044416; \
                   readers would refuse the file";
    assert_misuse(with_files.added("w", &spec(16 << 40)), message);
}
