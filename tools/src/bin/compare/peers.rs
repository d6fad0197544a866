//! Simpler layouts of others: dense, plain sparse, and a general file delta.

use std::io::{Read, Write};

use serde_json::{json, Map, Value};
use zstd::bulk::{Compressor, Decompressor};

use crate::elements::{pack, unpack, update, Changes};
use crate::pair::Pair;
use crate::{Message, Result, Unfit, LEVEL};

/// Flipped bits of every element, one zstd frame for each tensor that changed (slime, SkyRL).
pub fn encode_dense(pair: &Pair) -> Result<Message> {
    let (mut compressor, mut flips) = (Compressor::new(LEVEL)?, Vec::new());
    let mut message = Message::default();
    for tensor in &pair.tensors {
        let (base, target) = pair.bytes_of(tensor);
        message.pieces.push(if base == target {
            Vec::new()
        } else {
            flips.clear();
            flips.extend(base.iter().zip(target).map(|(base, target)| base ^ target));
            compressor.compress(&flips)?
        });
    }
    Ok(message)
}

pub fn decode_dense(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let (mut decompressor, mut flips) = (Decompressor::new()?, Vec::new());
    for (tensor, piece) in pair.tensors.iter().zip(&message.pieces) {
        if !piece.is_empty() {
            flips.clear();
            flips.reserve(tensor.range.len());
            decompressor.decompress_to_buffer(piece, &mut flips)?;
            for (weight, flip) in weights[tensor.range.clone()].iter_mut().zip(&flips) {
                *weight ^= flip;
            }
        }
    }
    Ok(())
}

/// Bytes that ZipNN compresses at once, before they are taken apart.
const PLANES_BYTES: usize = 1 << 20;

/// The target without a base: byte planes, each a zstd frame, as ZipNN does it.
pub fn encode_planes(pair: &Pair) -> Result<Message> {
    let mut compressor = Compressor::new(LEVEL)?;
    let mut message = Message::default();
    for tensor in &pair.tensors {
        for chunk in pair.bytes_of(tensor).1.chunks(PLANES_BYTES) {
            for p in 0..tensor.width() {
                let plane: Vec<u8> =
                    chunk.iter().skip(p).step_by(tensor.width()).copied().collect();
                let frame = compressor.compress(&plane)?;
                message.pieces.push(if frame.len() < plane.len() { frame } else { plane });
            }
        }
    }
    Ok(message)
}

pub fn decode_planes(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let (mut decompressor, mut pieces) = (Decompressor::new()?, message.pieces.iter());
    for tensor in &pair.tensors {
        let width = tensor.width();
        for chunk in weights[tensor.range.clone()].chunks_mut(PLANES_BYTES) {
            for p in 0..width {
                let (piece, len) = (pieces.next().ok_or("too few planes")?, chunk.len() / width);
                let frame = (piece.len() < len).then(|| decompressor.decompress(piece, len));
                let unpacked = frame.transpose()?;
                let plane = unpacked.as_ref().unwrap_or(piece);
                chunk
                    .iter_mut()
                    .skip(p)
                    .step_by(width)
                    .zip(plane)
                    .for_each(|(byte, &new)| *byte = new);
            }
        }
    }
    Ok(())
}

/// A safetensors file with 32-bit indices and new values for each tensor that changed.
pub fn encode_sparse(pair: &Pair) -> Result<Message> {
    let (mut header, mut body, mut changes) = (Map::new(), Vec::new(), Changes::default());
    for tensor in &pair.tensors {
        let (base, target) = pair.bytes_of(tensor);
        changes.find(tensor.width(), base, target);
        let count = changes.places.len();
        if changes.places.last().is_some_and(|&last| last > i32::MAX as u64) {
            return Err(
                Unfit(format!("32-bit indices do not reach the end of {}", tensor.name)).into()
            );
        }
        if count > 0 {
            let start = body.len();
            pack(&mut body, 4, changes.places.iter().copied());
            let middle = body.len();
            pack(&mut body, tensor.width(), changes.target.iter().copied());
            let entry = |dtype: &str, start, end| json!({"dtype": dtype, "shape": [count], "data_offsets": [start, end]});
            header.insert(format!("{}.indices", tensor.name), entry("I32", start, middle));
            let values = entry(tensor.spec.dtype().name(), middle, body.len());
            header.insert(format!("{}.values", tensor.name), values);
        }
    }
    let json = serde_json::to_vec(&header)?;
    Ok(Message {
        pieces: vec![[&(json.len() as u64).to_le_bytes(), &json[..], &body].concat()],
        ..Message::default()
    })
}

pub fn decode_sparse(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let (length, rest) = message.pieces[0].split_first_chunk().ok_or("no header")?;
    let (json, body) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Map<String, Value> = serde_json::from_slice(json)?;
    let stream = |name: &str, stream: &str, width: usize| -> Option<Vec<u64>> {
        let offsets = header.get(&format!("{name}.{stream}"))?.get("data_offsets")?;
        let offset = |i: usize| offsets.get(i)?.as_u64().map(|offset| offset as usize);
        Some(unpack(&body[offset(0)?..offset(1)?], width))
    };
    for tensor in &pair.tensors {
        let width = tensor.width();
        if let (Some(places), Some(values)) =
            (stream(&tensor.name, "indices", 4), stream(&tensor.name, "values", width))
        {
            update(
                &mut weights[tensor.range.clone()],
                width,
                places.into_iter().zip(values),
                |_, value| value,
            );
        }
    }
    Ok(())
}

/// Larger checkpoints would need a window beyond what zstd has, and several times their memory.
const DELTA_BYTES_MAX: usize = 2_000_000_000;

/// All tensor bytes at once, with the base as prefix, as `zstd --patch-from --single-thread` does. With
/// worker threads, its default, version 1.5.4 of that program makes nine times as much of a small step.
pub fn encode_delta(pair: &Pair) -> Result<Message> {
    if pair.target.len() > DELTA_BYTES_MAX {
        return Err(Unfit("it is not tried above 2 GB".into()).into());
    }
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), LEVEL, &pair.base)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log(window_log(pair))?;
    encoder.set_pledged_src_size(Some(pair.target.len() as u64))?;
    encoder.write_all(&pair.target)?;
    Ok(Message { pieces: vec![encoder.finish()?], ..Message::default() })
}

pub fn decode_delta(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let mut decoder = zstd::Decoder::with_ref_prefix(&message.pieces[0][..], &pair.base)?;
    decoder.window_log_max(window_log(pair))?;
    decoder.read_exact(weights)?;
    Ok(())
}

/// A window over all of the target keeps all of the base within reach.
fn window_log(pair: &Pair) -> u32 {
    pair.target.len().next_power_of_two().ilog2().max(10)
}
