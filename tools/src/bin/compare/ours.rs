//! The codings of this crate: payloads of blocks alone, and whole files.

use std::collections::BTreeMap;

use pulse::coding::{BlockEncoder, Coding, ValueForm};
use pulse::hash::{tensor_digest, CheckpointHasher, Digest, LEAF_BYTES};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::{Decoder, Event, Limits};

use crate::pair::{Pair, Tensor};
use crate::{text, Message, Result};

/// Options for flat blocks with such values.
pub fn flat(values: ValueForm) -> EncoderOptions {
    EncoderOptions::default().with_coding(Coding::Flat).with_values(values)
}

/// Payloads only: no framing, no digests. Where signs may be predicted, blocks are whole rows.
pub fn encode_blocks(pair: &Pair, options: &EncoderOptions, rows: Rows) -> Result<Message> {
    let mut message = Message::default();
    for tensor in &pair.tensors {
        let mut encoder = BlockEncoder::new(options.block);
        if let (Rows::Known, [_, .., columns]) = (rows, tensor.spec.shape()) {
            encoder = encoder.with_columns(*columns);
        }
        let (base, target) = pair.bytes_of(tensor);
        let size = block_bytes(tensor, rows);
        for (base, target) in base.chunks(size).zip(target.chunks(size)) {
            message.blocks.push(encoder.encode(tensor.spec.dtype(), base, target)?);
        }
    }
    Ok(message)
}

pub fn decode_blocks(pair: &Pair, message: &Message, weights: &mut [u8], rows: Rows) -> Result<()> {
    let mut blocks = message.blocks.iter();
    for tensor in &pair.tensors {
        let (dtype, width) = (tensor.spec.dtype(), tensor.width());
        for chunk in weights[tensor.range.clone()].chunks_mut(block_bytes(tensor, rows)) {
            if let Some(block) = blocks.next().ok_or("too few blocks")? {
                block.decode(dtype, (chunk.len() / width) as u64)?.apply(chunk)?;
            }
        }
    }
    Ok(())
}

/// An anchor: the target, without a base.
pub fn encode_whole(pair: &Pair) -> Result<Message> {
    let mut encoder = BlockEncoder::new(EncoderOptions::default().block);
    let mut message = Message::default();
    for tensor in &pair.tensors {
        for target in pair.bytes_of(tensor).1.chunks(block_bytes(tensor, Rows::Unknown)) {
            message.blocks.push(Some(encoder.encode_whole(tensor.spec.dtype(), target)?));
        }
    }
    Ok(message)
}

/// Whether blocks are told of the rows and columns of their tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Known,
    Unknown,
}

fn block_bytes(tensor: &Tensor, rows: Rows) -> usize {
    let full = EncoderOptions::default().block_leaves as usize * LEAF_BYTES;
    match (rows, tensor.spec.shape()) {
        (Rows::Known, [_, .., columns]) => {
            let row = (*columns as usize * tensor.width()).max(1);
            (full / row).max(1) * row
        }
        _ => full,
    }
}

/// A `.pulse` file with everything in it, made from the files of the checkpoints.
pub fn encode_file(pair: &Pair, options: EncoderOptions) -> Result<Message> {
    let (base, target) = (&pair.base_files, &pair.target_files);
    let mut patch = Vec::new();
    pulse::checkpoint::diff(Some(base), target, &mut patch, options.into(), Control::threads(1))?;
    Ok(Message { pieces: vec![patch], ..Message::default() })
}

/// Applies the file and checks the digests of base and target.
pub fn decode_file(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    let base = digest(pair, weights)?;
    let mut decoder = Decoder::new(message.pieces[0].as_slice(), Limits::default());
    let mut start = 0;
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Tensor(header) => {
                let open = pair.tensors.iter().find(|tensor| tensor.name == header.name);
                start = open.ok_or("an unknown tensor")?.range.start;
            }
            Event::Block(block) => {
                block.apply_within(&mut weights[start..])?;
            }
            Event::End(footer) if footer.base != Some(base) => return Err("wrong base".into()),
            Event::End(footer) if footer.target != digest(pair, weights)? => {
                return Err("wrong target".into())
            }
            _ => {}
        }
    }
    decoder.finish()?;
    Ok(())
}

fn digest(pair: &Pair, weights: &[u8]) -> Result<Digest> {
    let mut hasher = CheckpointHasher::new();
    for tensor in &pair.tensors {
        hasher.add(&tensor.name, &tensor.spec, tensor_digest(&weights[tensor.range.clone()]));
    }
    Ok(hasher.finish()?)
}

/// Where the default encoder spends its bytes, as a line of text.
pub fn spent(pair: &Pair) -> Result<String> {
    let mut codings: BTreeMap<Coding, [u64; 3]> = BTreeMap::new();
    for block in
        encode_blocks(pair, &EncoderOptions::default(), Rows::Unknown)?.blocks.iter().flatten()
    {
        let [blocks, changes, bytes] = codings.entry(block.coding).or_default();
        *blocks += 1;
        *changes += block.changes;
        *bytes += block.payload.len() as u64;
    }
    let line = |(coding, [blocks, changes, bytes]): (&Coding, &[u64; 3])| {
        format!(
            "{} blocks {} with {} changes in {} bytes",
            text::count(*blocks),
            coding.name(),
            text::count(*changes),
            text::count(*bytes)
        )
    };
    let lines: Vec<String> = codings.iter().map(line).collect();
    Ok(format!("The contextual row has {}.\n", lines.join(", ")))
}
