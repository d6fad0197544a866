//! Gaps and flipped bits (NeMo RL): the gaps of all tensors, then their values in groups by width,
//! in one zstd frame.
//!
//! A table of three numbers for each tensor stands here for a pickled list of dicts with names,
//! shapes and offsets. What those cost on top is left out.

use crate::elements::{pack, unpack, update, Changes};
use crate::pair::Pair;
use crate::{Message, Result, LEVEL};

/// Table, gaps, and values of elements of 1, 2, 4 and 8 bytes.
const PARTS: usize = 6;

fn group(width: usize) -> usize {
    2 + width.ilog2() as usize
}

pub fn encode(pair: &Pair) -> Result<Message> {
    let mut parts: [Vec<u8>; PARTS] = Default::default();
    let mut changes = Changes::default();
    for tensor in &pair.tensors {
        let (base, target) = pair.bytes_of(tensor);
        changes.find(tensor.width(), base, target);
        let (Some(&first), Some(&last)) = (changes.places.first(), changes.places.last()) else {
            pack(&mut parts[0], 8, [0; 3]);
            continue;
        };
        let mut next = 0;
        let gap = |&place: &u64| place - std::mem::replace(&mut next, place + 1);
        let gaps: Vec<u64> = changes.places.iter().map(gap).collect();
        // A run of neighbours needs no gaps; one large gap widens those of the whole tensor.
        let width = match gaps.iter().max() {
            _ if last - first + 1 == gaps.len() as u64 => 0,
            Some(0..=0xffff) => 2,
            Some(0..=0xffff_ffff) => 4,
            _ => 8,
        };
        pack(&mut parts[0], 8, [width as u64, gaps.len() as u64, first]);
        if width > 0 {
            pack(&mut parts[1], width, gaps);
        }
        let flips = changes.base.iter().zip(&changes.target).map(|(base, target)| base ^ target);
        pack(&mut parts[group(tensor.width())], tensor.width(), flips);
    }
    let mut payload = Vec::new();
    pack(&mut payload, 8, parts.iter().map(|part| part.len() as u64));
    payload.extend(parts.concat());
    Ok(Message { pieces: vec![zstd::bulk::compress(&payload, LEVEL)?], ..Message::default() })
}

pub fn decode(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let payload = zstd::decode_all(&message.pieces[0][..])?;
    let mut rest = payload.as_slice();
    let mut take = |bytes| rest.split_off(..bytes).ok_or("too short");
    let mut parts = Vec::new();
    for bytes in unpack(take(8 * PARTS)?, 8) {
        parts.push(take(bytes as usize)?);
    }
    let table = unpack(parts[0], 8);
    for (tensor, row) in pair.tensors.iter().zip(table.chunks_exact(3)) {
        let (width, count, first) = (row[0] as usize, row[1] as usize, row[2]);
        let values = &mut parts[group(tensor.width())];
        let flips = unpack(
            values.split_off(..count * tensor.width()).ok_or("too few values")?,
            tensor.width(),
        );
        let gaps = parts[1].split_off(..count * width).ok_or("too few gaps")?;
        let flip = |base, flip| base ^ flip;
        let weights = &mut weights[tensor.range.clone()];
        if width == 0 {
            update(weights, tensor.width(), (first..).zip(flips), flip);
        } else {
            let mut next = 0;
            let place = |gap| {
                next += gap + 1;
                next - 1
            };
            update(
                weights,
                tensor.width(),
                unpack(gaps, width).into_iter().map(place).zip(flips),
                flip,
            );
        }
    }
    Ok(())
}
