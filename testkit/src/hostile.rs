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
    sections.push(section(b'E', [varint(changes), vec![0; 64]].concat()));
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

/// A zstd frame of so many equal bytes, as a packed stream.
pub fn bomb(byte: u8, bytes: usize) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    let chunk = vec![byte; bytes.min(1 << 20)];
    for _ in 0..bytes / chunk.len() {
        std::io::Write::write_all(&mut encoder, &chunk).unwrap();
    }
    let frame = encoder.finish().unwrap();
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
