//! Small patches that ask for much. CRCs, index and SHA-256 are right: only limits and bounds stop them.

use crate::forge::{self, Section};
use pulse::stream::EncoderOptions;
use pulse::{Decoder, Encoder, Event, Limits, Result};

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

pub fn section(tag: u8, payload: impl Into<Vec<u8>>) -> Section {
    Section { tag, payload: payload.into() }
}

/// A patch of these sections between header and index.
pub fn patch_of(sections: Vec<Section>, tensors: u64, changes: u64) -> Vec<u8> {
    let (empty, _) = Encoder::new(Vec::new(), EncoderOptions::default().with_block_leaves(64))
        .unwrap()
        .finish()
        .unwrap();
    let [header, index, mut footer] =
        <[Section; 3]>::try_from(forge::sections(&empty)).expect("three sections");
    footer.payload[1..9].copy_from_slice(&tensors.to_le_bytes());
    footer.payload[9..17].copy_from_slice(&changes.to_le_bytes());
    let all: Vec<Section> = [vec![header], sections, vec![index, footer]].concat();
    forge::join(&empty, &all)
}

/// A tensor "w" of so many U8 elements, patched by these blocks.
pub fn patch_of_blocks(elements: u64, blocks: Vec<Vec<u8>>, changes: u64) -> Vec<u8> {
    let tensor = [&[0, 1, b'w', 0, 2, 1][..], &varint(elements)].concat();
    let mut sections = vec![section(b'T', tensor)];
    sections.extend(blocks.into_iter().map(|block| section(b'B', block)));
    sections.push(section(b'E', [varint(changes), vec![0; 32], vec![1; 32]].concat()));
    patch_of(sections, 1, changes)
}

/// Blocks of ten bytes, framing included: flat, one leaf, one change, and nothing to decode.
pub fn tiny_blocks(count: u64) -> Vec<u8> {
    patch_of_blocks(1 << 40, (0..count).map(|_| vec![1, 0, 1, 1]).collect(), count)
}

/// Tensors that are deleted, each with a name that is `shared` bytes of the name before and six digits.
pub fn tiny_tensors(count: u64, shared: usize) -> Vec<u8> {
    let mut sections = Vec::new();
    for number in 0..count {
        let digits = format!("{number:06}");
        let name = match number {
            0 => [vec![0], varint(shared as u64 + 6), vec![b'n'; shared], digits.into_bytes()]
                .concat(),
            _ => [varint(shared as u64), vec![6], digits.into_bytes()].concat(),
        };
        sections.push(section(b'T', [name, vec![3]].concat()));
        sections.push(section(b'E', [0; 33]));
    }
    patch_of(sections, count, 0)
}

/// Sections that no reader knows, of six bytes each.
pub fn tiny_sections(count: u64) -> Vec<u8> {
    patch_of((0..count).map(|_| section(b'x', [])).collect(), 0, 0)
}

/// A packed stream of so many equal bytes, as small as a zstd frame can be: blocks that repeat them.
pub fn bomb(byte: u8, bytes: usize) -> Vec<u8> {
    const BLOCK: usize = 128 * 1024;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    frame.extend((bytes as u64).to_le_bytes());
    for start in (0..bytes).step_by(BLOCK) {
        let last = u32::from(start + BLOCK >= bytes);
        let head = (bytes - start).min(BLOCK) as u32 * 8 + 2 + last;
        frame.extend([&head.to_le_bytes()[..3], &[byte]].concat());
    }
    [varint((frame.len() as u64) << 1 | 1), frame].concat()
}

/// Reads a patch to its end, or to the error, and unpacks every block; gives back how many events came.
pub fn read(patch: &[u8], limits: Limits) -> (usize, Result<()>) {
    let mut decoder = Decoder::new(patch, limits);
    let mut events = 0;
    loop {
        match decoder.next_event() {
            Err(error) => return (events, Err(error)),
            Ok(None) => return (events, decoder.finish().map(|_| ())),
            Ok(Some(Event::Block(block))) => {
                if let Err(error) = block.decode() {
                    return (events, Err(error));
                }
            }
            Ok(Some(_)) => {}
        }
        events += 1;
    }
}

/// As [`read`], with the blocks left packed.
pub fn list(patch: &[u8], limits: Limits) -> (usize, Result<()>) {
    let mut decoder = Decoder::new(patch, limits);
    let mut events = 0;
    loop {
        match decoder.next_event() {
            Err(error) => return (events, Err(error)),
            Ok(None) => return (events, decoder.finish().map(|_| ())),
            Ok(Some(_)) => events += 1,
        }
    }
}

/// A snapshot of one tensor that carries the header of a safetensors file with this JSON.
pub fn with_header(json: &str) -> Vec<u8> {
    use pulse::dtype::{Dtype, TensorSpec};
    use pulse::wire::FileKind;

    let header = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap();
    encoder.carry_file("", FileKind::Tensors, &header).unwrap();
    let mut writer = encoder.added("w", &TensorSpec::new(Dtype::U8, &[4]).unwrap()).unwrap();
    writer.push(&[], b"abcd").unwrap();
    writer.end().unwrap();
    encoder.finish().unwrap().0
}

/// Bytes of the largest block that readers take by default.
pub const BLOCK_BYTES: u64 = 64 << 16;

/// One byte that changes, in a tensor that is said to have so many.
pub fn huge_tensor(bytes: u64) -> Vec<u8> {
    patch_of_blocks(bytes, vec![one_change(0)], 1)
}

/// A flat block of one leaf, so many leaves after the one before: its first byte goes up by one.
fn one_change(skipped: u64) -> Vec<u8> {
    [&[1][..], &varint(skipped), &[1, 1, 0x21, 2, 0, 2, 2]].concat()
}

/// Blocks of one change, each a gigabyte of unchanged bytes after the one before.
pub fn far_apart(count: u64) -> Vec<u8> {
    let skipped = (1 << 14) - 1;
    let blocks = (0..count).map(|_| one_change(skipped)).collect();
    patch_of_blocks(count << 30, blocks, count)
}

/// Blocks of 4 MiB in which every byte goes up by one, in under 300 bytes each.
pub fn all_steps(blocks: u64) -> Vec<u8> {
    let n = BLOCK_BYTES as usize;
    let head = [&[1, 0, 64][..], &varint(BLOCK_BYTES), &[0x21]].concat();
    let block = [head, bomb(0, n), bomb(2, n)].concat();
    patch_of_blocks(blocks * BLOCK_BYTES, vec![block; blocks as usize], blocks * BLOCK_BYTES)
}

/// Patches of one such block each, every one of which follows the one before.
pub fn steps_in_a_row(patches: u8) -> Vec<Vec<u8>> {
    let patch = all_steps(1);
    let one = |number: u8| {
        let mut sections = forge::sections(&patch);
        for section in &mut sections {
            if section.tag == b'E' {
                let digests = section.payload.len() - 64;
                section.payload[digests..digests + 32].fill(number);
                section.payload[digests + 32..].fill(number + 1);
            }
        }
        forge::join(&patch, &sections)
    };
    (0..patches).map(one).collect()
}

/// Blocks of 4 MiB of zeros, stored whole.
pub fn all_zeros(blocks: u64) -> Vec<u8> {
    let block = [&[0, 0, 64][..], &varint(BLOCK_BYTES), &bomb(0, BLOCK_BYTES as usize)].concat();
    patch_of_blocks(blocks * BLOCK_BYTES, vec![block; blocks as usize], blocks * BLOCK_BYTES)
}

/// A file of so many MiB of zeros.
pub fn zero_file(mebibytes: u64) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    let mut sha = Sha256::new();
    (0..mebibytes).for_each(|_| sha.update(vec![0; 1 << 20]));
    let bytes = varint(mebibytes << 20);
    let record = [&[3, 1, b'f'][..], &bytes, &sha.finalize()].concat();
    let data = section(b'd', bomb(0, 1 << 20));
    let sections = [vec![section(b'l', record)], vec![data; mebibytes as usize]].concat();
    patch_of(sections, 0, 0)
}

/// Files that are said to be those of the base.
pub fn many_files(count: u64) -> Vec<u8> {
    let record =
        |number: u64| [&[1, 5][..], format!("{number:05}").as_bytes(), &[1], &[7; 32]].concat();
    patch_of((0..count).map(|number| section(b'l', record(number))).collect(), 0, 0)
}

/// Tensors that are added and empty, with these names.
pub fn empty_tensors(names: impl Iterator<Item = String>, dimensions: usize) -> Vec<u8> {
    let (mut sections, mut count, mut previous) = (Vec::new(), 0, String::new());
    let empty = pulse::hash::TensorHasher::new().finish();
    for name in names {
        let pairs = previous.bytes().zip(name.bytes());
        let shared = pairs.take_while(|(a, b)| a == b).count();
        let suffix = &name.as_bytes()[shared..];
        let coded = [varint(shared as u64), varint(suffix.len() as u64), suffix.to_vec()].concat();
        // Added, U8; the last dimension is 0, the others as large as can be.
        let shape = [varint(u64::MAX).repeat(dimensions.saturating_sub(1)), vec![0]].concat();
        let header = [coded, vec![1, 2], varint(dimensions.max(1) as u64), shape].concat();
        sections.push(section(b'T', header));
        sections.push(section(b'E', [&[0][..], &empty.0].concat()));
        (count, previous) = (count + 1, name);
    }
    patch_of(sections, count, 0)
}

/// A patch whose metadata is one value of so many control characters.
pub fn long_metadata(bytes: usize) -> Vec<u8> {
    let options = EncoderOptions::default().with_metadata("k", "\u{1}".repeat(bytes));
    Encoder::new(Vec::new(), options).unwrap().finish().unwrap().0
}

/// Forged patches of every kind, each with a name, at a size that takes a reader that follows what they
/// declare minutes, and one that follows their bytes no time.
pub fn gallery() -> Vec<(&'static str, Vec<u8>)> {
    let long = |count: u64, fill: &'static str| {
        (0..count).map(move |number| fill.repeat(4000 / fill.len()) + &format!("{number:06x}"))
    };
    vec![
        ("a tensor of 2^40 bytes, one change", huge_tensor(1 << 40)),
        ("1,000 changes, a GiB apart", far_apart(1000)),
        ("100 blocks, every byte changes", all_steps(100)),
        ("100 blocks of zeros", all_zeros(100)),
        ("a file of 2,000 MiB of zeros", zero_file(2000)),
        ("60,000 files", many_files(60_000)),
        ("33,000 names of 4,006 bytes", empty_tensors(long(33_000, "\u{1}"), 1)),
        ("200,000 tensors", tiny_tensors(200_000, 0)),
        ("10,000 shapes of 64 dimensions", empty_tensors((0..10_000).map(|n| format!("t{n}")), 64)),
        ("20,000 stacks of layers", empty_tensors((0..20_000).map(|n| format!("s{n}.0.a")), 1)),
        ("500,000 blocks", tiny_blocks(500_000)),
        ("1 MB of metadata", long_metadata(1_000_000)),
    ]
}
