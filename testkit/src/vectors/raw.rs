//! A writer of patches that checks nothing, so that a vector can break one rule at a time.
//!
//! It shares no code with the library beyond tags and digests. CRCs, offsets and the file's SHA-256
//! come out right unless a vector asks otherwise.

use pulse::hash::Digest;
use pulse::wire::{Tag, SIGNATURE};
use sha2::{Digest as _, Sha256};

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A zstd frame of a single segment: the window holds it all.
pub fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    compress(bytes, false)
}

/// The same with a checksum at its end.
pub fn zstd_frame_with_checksum(bytes: &[u8]) -> Vec<u8> {
    compress(bytes, true)
}

fn compress(bytes: &[u8], checksum: bool) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::new(1).expect("a zstd context");
    compressor.include_checksum(checksum).expect("a legal parameter");
    compressor.window_log(24).expect("a legal parameter");
    compressor.compress(bytes).expect("room for the frame")
}

/// A zstd frame of one raw block. `head` is the frame header: descriptor, then what it announces.
pub fn raw_frame(head: &[u8], bytes: &[u8]) -> Vec<u8> {
    let block_head = (bytes.len() as u32) << 3 | 1;
    frame(head, &[&block_head.to_le_bytes()[..3], bytes].concat())
}

/// A zstd frame of these blocks, heads included.
pub fn frame(head: &[u8], blocks: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd], head, blocks].concat()
}

/// Bytes of a section, field by field.
#[derive(Debug, Clone, Default)]
pub struct Fields(pub Vec<u8>);

pub fn fields() -> Fields {
    Fields::default()
}

impl Fields {
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    pub fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8)
    }

    /// Bits in the order of a stream: the first is bit 0 of the first byte. Spaces are for the eye.
    pub fn bits(self, bits: &str) -> Self {
        let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b' ').map(|bit| bit - b'0').collect();
        let bytes =
            bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit));
        self.bytes(&bytes.collect::<Vec<u8>>())
    }

    pub fn digest(self, digest: Digest) -> Self {
        self.bytes(&digest.0)
    }

    pub fn string(self, text: impl AsRef<[u8]>) -> Self {
        self.varint(text.as_ref().len() as u64).bytes(text.as_ref())
    }

    /// A tensor name: bytes shared with the name before, and the rest.
    pub fn name(self, shared: u64, rest: impl AsRef<[u8]>) -> Self {
        self.varint(shared).string(rest)
    }

    /// Action, dtype code and shape of a tensor header.
    pub fn spec(self, action: u8, dtype: u8, shape: &[u64]) -> Self {
        let fields = self.u8(action).u8(dtype).varint(shape.len() as u64);
        shape.iter().fold(fields, |fields, &dim| fields.varint(dim))
    }

    /// Head of a block: coding, skipped leaves, leaves, changes.
    pub fn block(self, coding: u8, skipped: u64, leaves: u64, changes: u64) -> Self {
        self.u8(coding).varint(skipped).varint(leaves).varint(changes)
    }

    /// A packed stream that is stored.
    pub fn stored(self, bytes: &[u8]) -> Self {
        self.varint((bytes.len() as u64) << 1).bytes(bytes)
    }

    /// A packed stream that claims to be a zstd frame.
    pub fn frame(self, frame: &[u8]) -> Self {
        self.varint((frame.len() as u64) << 1 | 1).bytes(frame)
    }
}

/// Name and offset of a tensor.
pub type Entry = (Vec<u8>, u64);

/// The index that belongs to these tensors.
pub fn right_index(entries: &[Entry]) -> Fields {
    let mut index = fields().varint(entries.len() as u64);
    let (mut before, mut from) = (&[][..], 0);
    for (name, offset) in entries {
        let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
        index = index.name(shared as u64, &name[shared..]).varint(offset - from);
        (before, from) = (name, *offset);
    }
    index
}

/// Fields of the footer.
#[derive(Debug, Clone)]
pub struct Footer {
    pub flags: u8,
    pub tensors: u64,
    pub changes: u64,
    pub target_tensors: u64,
    pub target_elements: u64,
    pub target_bytes: u64,
    /// Zero stands for the right one.
    pub index_offset: u64,
    pub base: Digest,
    pub target: Digest,
    /// Bytes that do not belong there, before the SHA-256.
    pub excess: Vec<u8>,
    /// Bits to flip in the first byte of the SHA-256.
    pub sha256_flip: u8,
}

impl Footer {
    fn open(&self) -> Fields {
        let numbers = [
            self.tensors,
            self.changes,
            self.target_tensors,
            self.target_elements,
            self.target_bytes,
            self.index_offset,
        ];
        let fields = numbers
            .iter()
            .fold(fields().u8(self.flags), |fields, number| fields.bytes(&number.to_le_bytes()));
        fields.digest(self.base).digest(self.target).bytes(&self.excess)
    }
}

/// What a section holds. Index and footer depend on where the sections before them end up.
#[derive(Debug, Clone)]
enum Payload {
    Fixed(Fields),
    Index(fn(&[Entry]) -> Fields),
    Footer(fn(&mut Footer)),
}

#[derive(Debug, Clone)]
struct Section {
    tag: Tag,
    payload: Payload,
    /// Name for the index, if this is a tensor header.
    tensor: Option<Vec<u8>>,
    /// Bits to flip in the CRC.
    crc_flip: u32,
}

impl Section {
    fn new(tag: Tag, payload: Payload) -> Section {
        Section { tag, payload, tensor: None, crc_flip: 0 }
    }
}

/// A patch as a list of sections that can be replaced, moved and spoiled.
#[derive(Debug, Clone)]
pub struct Raw {
    pub prelude: Vec<u8>,
    sections: Vec<Section>,
    footer: Footer,
    /// Bytes after the footer.
    tail: Vec<u8>,
}

impl Raw {
    /// A header, an index and a footer.
    pub fn new(header: Fields, footer: Footer) -> Raw {
        let sections = vec![
            Section::new(Tag::HEADER, Payload::Fixed(header)),
            Section::new(Tag::INDEX, Payload::Index(right_index)),
            Section::new(Tag::FOOTER, Payload::Footer(|_| {})),
        ];
        Raw { prelude: [&SIGNATURE[..], &[1, 0]].concat(), sections, footer, tail: Vec::new() }
    }

    fn find(&self, tag: Tag) -> usize {
        self.sections.iter().position(|section| section.tag == tag).expect("a section of this tag")
    }

    /// Adds a section before the index.
    pub fn add(self, tag: Tag, payload: Fields) -> Raw {
        self.add_before(Tag::INDEX, tag, payload)
    }

    /// Adds a tensor header before the index and lists it there.
    pub fn add_tensor(self, name: impl AsRef<[u8]>, payload: Fields) -> Raw {
        let at = self.find(Tag::INDEX);
        let mut raw = self.add(Tag::TENSOR, payload);
        raw.sections[at].tensor = Some(name.as_ref().to_vec());
        raw
    }

    /// Adds a section before the first of another tag.
    pub fn add_before(mut self, before: Tag, tag: Tag, payload: Fields) -> Raw {
        self.sections.insert(self.find(before), Section::new(tag, Payload::Fixed(payload)));
        self
    }

    /// Replaces the payload of the first section of this tag.
    pub fn replace(mut self, tag: Tag, payload: Fields) -> Raw {
        let at = self.find(tag);
        self.sections[at].payload = Payload::Fixed(payload);
        self
    }

    pub fn remove(mut self, tag: Tag) -> Raw {
        self.sections.remove(self.find(tag));
        self
    }

    pub fn index(mut self, index: fn(&[Entry]) -> Fields) -> Raw {
        let at = self.find(Tag::INDEX);
        self.sections[at].payload = Payload::Index(index);
        self
    }

    pub fn footer(mut self, edit: fn(&mut Footer)) -> Raw {
        let at = self.find(Tag::FOOTER);
        self.sections[at].payload = Payload::Footer(edit);
        self
    }

    pub fn spoil_crc(mut self, tag: Tag) -> Raw {
        let at = self.find(tag);
        self.sections[at].crc_flip = 1;
        self
    }

    pub fn tail(mut self, tail: &[u8]) -> Raw {
        self.tail = tail.to_vec();
        self
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = self.prelude.clone();
        let (mut entries, mut index_offset) = (Vec::new(), 0);
        for section in &self.sections {
            let start = out.len();
            if let Some(name) = &section.tensor {
                entries.push((name.clone(), start as u64));
            }
            let head = |length: usize| fields().u8(section.tag.0).varint(length as u64);
            match &section.payload {
                Payload::Fixed(payload) => out.extend(head(payload.0.len()).bytes(&payload.0).0),
                Payload::Index(index) => {
                    index_offset = start as u64;
                    let payload = index(&entries).0;
                    out.extend(head(payload.len()).bytes(&payload).0);
                }
                Payload::Footer(edit) => {
                    let mut footer = Footer { index_offset, ..self.footer.clone() };
                    edit(&mut footer);
                    let open = footer.open().0;
                    out.extend(head(open.len() + 32).bytes(&open).0);
                    let mut sha256 = sha256(&out);
                    sha256.0[0] ^= footer.sha256_flip;
                    out.extend(sha256.0);
                }
            }
            let crc = crc32fast::hash(&out[start..]) ^ section.crc_flip;
            out.extend(crc.to_le_bytes());
        }
        out.extend(&self.tail);
        out
    }
}
