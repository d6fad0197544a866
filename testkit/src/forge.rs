//! Patches that no encoder writes, with every CRC and the SHA-256 right all the same. Takes any bytes.

use sha2::{Digest as _, Sha256};

/// Bytes of signature and version.
const PRELUDE: usize = 10;
const CRC_BYTES: usize = 4;
/// Where the footer has the offset of the index, and from its end the SHA-256 of the file.
const INDEX_OFFSET: std::ops::Range<usize> = 41..49;
const SHA_BYTES: usize = 32;

/// One section: tag and payload.
#[derive(Debug, Clone)]
pub struct Section {
    pub tag: u8,
    pub payload: Vec<u8>,
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// The length that stands at `at`, and where it ends; none that a test could fill.
fn length(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut length = 0;
    for shift in (0..28).step_by(7) {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << shift;
        at += 1;
        if byte < 0x80 {
            return Some((length, at));
        }
    }
    None
}

/// Tag, begin and end of the payload of the section at `start`, if it is whole.
fn section(patch: &[u8], start: usize) -> Option<(u8, usize, usize)> {
    let (length, payload) = length(patch, start + 1)?;
    let end = payload + length;
    (end + CRC_BYTES <= patch.len()).then(|| (patch[start], payload, end))
}

/// Cuts a patch into its sections, as far as it is made of them.
pub fn sections(patch: &[u8]) -> Vec<Section> {
    let (mut sections, mut start) = (Vec::new(), PRELUDE);
    while let Some((tag, payload, end)) = section(patch, start) {
        sections.push(Section { tag, payload: patch[payload..end].to_vec() });
        start = end + CRC_BYTES;
    }
    sections
}

/// The same bytes with the CRC of every section and the SHA-256 of the file put right.
pub fn sealed(patch: &[u8]) -> Vec<u8> {
    let mut patch = patch.to_vec();
    let mut start = PRELUDE;
    while let Some((tag, payload, end)) = section(&patch, start) {
        if tag == b'F' && end - payload >= SHA_BYTES {
            let sha256 = Sha256::digest(&patch[..end - SHA_BYTES]);
            patch[end - SHA_BYTES..end].copy_from_slice(&sha256);
        }
        let crc = crc32fast::hash(&patch[start..end]);
        patch[end..end + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        start = end + CRC_BYTES;
    }
    patch
}

/// Joins sections to a patch again; CRCs and SHA-256 are made anew, all else stays.
pub fn join_as_is(prelude: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut patch = prelude[..PRELUDE.min(prelude.len())].to_vec();
    for Section { tag, payload } in sections {
        patch.push(*tag);
        put_length(&mut patch, payload.len());
        patch.extend_from_slice(payload);
        patch.extend_from_slice(&[0; CRC_BYTES]);
    }
    sealed(&patch)
}

/// Joins sections to a patch again; CRCs, index and SHA-256 are made anew, all else stays.
pub fn join(prelude: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut sections = sections.to_vec();
    let (mut index, mut index_offset, mut start, mut last_tensor) = (Vec::new(), 0, PRELUDE, 0);
    put_length(&mut index, sections.iter().filter(|section| section.tag == b'T').count());
    for Section { tag, payload } in &mut sections {
        match tag {
            b'T' => {
                index.extend_from_slice(coded_name(payload));
                put_length(&mut index, start - std::mem::replace(&mut last_tensor, start));
            }
            b'I' => (index_offset, *payload) = (start, index.clone()),
            b'F' => {
                if let Some(field) = payload.get_mut(INDEX_OFFSET) {
                    field.copy_from_slice(&(index_offset as u64).to_le_bytes());
                }
            }
            _ => {}
        }
        let mut framing = vec![*tag];
        put_length(&mut framing, payload.len());
        start += framing.len() + payload.len() + CRC_BYTES;
    }
    join_as_is(prelude, &sections)
}

/// The name of a tensor header, coded as in the index.
fn coded_name(payload: &[u8]) -> &[u8] {
    let suffix = length(payload, 0).and_then(|(_shared, at)| length(payload, at));
    suffix.and_then(|(length, at)| payload.get(..at + length)).unwrap_or(payload)
}

/// A patch in which `from` became `to`, of the same length, wherever it stands in a section of this tag.
pub fn replaced(patch: &[u8], tag: u8, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut sections = sections(patch);
    let mut found = false;
    for section in sections.iter_mut().filter(|section| section.tag == tag) {
        for at in 0..=section.payload.len().saturating_sub(from.len()) {
            if section.payload[at..].starts_with(from) {
                section.payload[at..at + from.len()].copy_from_slice(to);
                found = true;
            }
        }
    }
    assert!(found, "nothing to replace");
    join(patch, &sections)
}
