//! Pieces of a target: what can be made without the rest, made by one thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter;
use std::ops::Range;

use crate::coding::{BlockDecoder, Coding};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hash::LEAF_BYTES;
use crate::patch::chain::Link;
use crate::tensors::pieces::{leaves_of_all, Groups, PIECE_BYTES};
use crate::tensors::target::{Done, OutTensor, Output, Task};
use crate::tensors::TensorSource;

/// A run of whole leaves of a target tensor: bytes that stay, or blocks that overlap and that none
/// outside overlaps. Of one patch that is one block; of a chain it is one place of all patches, unless
/// their blocks are cut otherwise: then it may be as large as the tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutPiece<'a> {
    pub tensor: &'a OutTensor<'a>,
    pub start: u64,
    pub bytes: u64,
    /// The last of its tensor.
    pub last: bool,
    /// It has blocks.
    pub is_changed: bool,
    /// So much of it is made at once: all, or as much as its largest block.
    window: usize,
}

impl<'a> OutPiece<'a> {
    /// File of the target, and offset in it.
    fn place(&self) -> (usize, u64) {
        (self.tensor.file, self.tensor.offset + self.start)
    }

    /// All blocks that it has, by link and number: those of one patch after those of the one before.
    pub fn blocks(&self) -> impl Iterator<Item = (Link<'a>, usize)> {
        let here = self.start..self.start + self.bytes;
        let links = if self.is_changed { &self.tensor.links[..] } else { &[] };
        let of = move |link: &Link<'a>| {
            let link = *link;
            link.tensor.overlapping(&here).map(move |number| (link, number))
        };
        links.iter().flat_map(of)
    }

    /// Whether it is made at once, and not in parts that fit into memory.
    pub fn is_one_window(&self) -> bool {
        self.bytes <= self.window as u64
    }

    /// The piece in parts that fit into memory, in their order.
    fn windows(self) -> impl Iterator<Item = OutPiece<'a>> {
        let count = self.bytes.div_ceil(self.window as u64).max(1);
        (0..count).map(move |number| {
            let skip = number * self.window as u64;
            let bytes = (self.bytes - skip).min(self.window as u64);
            OutPiece { start: self.start + skip, bytes, ..self }
        })
    }
}

/// The blocks of the links of a tensor, in the order of their starts.
struct Fronts<'a> {
    links: &'a [Link<'a>],
    /// For each link its next block, the first one before the others.
    next: BinaryHeap<Reverse<(u64, usize, usize)>>,
}

impl<'a> Fronts<'a> {
    fn new(links: &'a [Link<'a>]) -> Self {
        let mut fronts = Fronts { links, next: BinaryHeap::with_capacity(links.len()) };
        (0..links.len()).for_each(|link| fronts.push(link, 0));
        fronts
    }

    fn push(&mut self, link: usize, number: usize) {
        if let Some(block) = self.links[link].tensor.blocks.get(number) {
            self.next.push(Reverse((block.range().start, link, number)));
        }
    }

    /// Where the next block starts.
    fn start(&self) -> Option<u64> {
        self.next.peek().map(|Reverse((start, ..))| *start)
    }

    /// Takes the next block.
    fn pop(&mut self) -> Option<Range<u64>> {
        let Reverse((_, link, number)) = self.next.pop()?;
        self.push(link, number + 1);
        Some(self.links[link].tensor.blocks[number].range())
    }
}

impl<'a> OutTensor<'a> {
    /// Blocks, those that overlap together, and between them unchanged runs of at most [`PIECE_BYTES`].
    pub fn pieces(&'a self) -> impl Iterator<Item = OutPiece<'a>> {
        let mut blocks = Fronts::new(&self.links);
        let end = self.spec.bytes();
        let (mut start, mut done) = (0, false);
        iter::from_fn(move || {
            if done {
                return None;
            }
            let is_changed = blocks.start() == Some(start);
            let (mut stop, mut largest) = (start, PIECE_BYTES as u64);
            if is_changed {
                while blocks.start().is_some_and(|next| next < stop || next == start) {
                    let Some(block) = blocks.pop() else { break };
                    stop = stop.max(block.end);
                    largest = largest.max(block.end - block.start);
                }
            } else {
                stop = blocks.start().unwrap_or(end).min(end).min(start + PIECE_BYTES as u64);
            }
            done = stop == end;
            let bytes = stop - start;
            // A block has at most 64 MiB.
            let window = (largest as usize).next_multiple_of(LEAF_BYTES);
            let piece = OutPiece { tensor: self, start, bytes, last: done, is_changed, window };
            start = stop;
            Some(piece)
        })
    }
}

/// What a thread keeps while it makes pieces.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
    payload: Vec<u8>,
    /// For each link of a tensor the block that goes on in the next window of the piece. A contextual
    /// block is applied from its start; all others start anywhere, and are not kept.
    open: Vec<Option<BlockDecoder>>,
}

impl Builder {
    /// Makes the pieces of a group, writes them, and gives back the digests of their leaves.
    pub fn build<'a>(
        &mut self,
        group: Vec<Task<'a, ()>>,
        base: Option<&dyn TensorSource>,
        output: Option<Output<'_>>,
    ) -> Result<Vec<Done<'a, ()>>> {
        self.open.clear();
        let mut pieces = group.iter().map(|task| task.piece);
        let mut made: Vec<Done<'a, ()>> = Vec::with_capacity(group.len());
        // More than one only if the last piece is larger than what is made at once.
        let batches = Groups {
            items: group.iter().flat_map(|task| task.piece.windows()),
            size: |window: &OutPiece<'_>| window.bytes as usize,
            full: PIECE_BYTES,
        };
        let mut rest = 0;
        for batch in batches {
            let leaves = self.make(&batch, base, output)?;
            for (window, mut leaves) in batch.iter().zip(leaves) {
                match made.last_mut().filter(|_| rest > 0) {
                    Some(before) => before.leaves.append(&mut leaves),
                    None => {
                        let Some(piece) = pieces.next() else { break };
                        rest = piece.bytes;
                        made.push(Done { piece, leaves, kept: () });
                    }
                }
                rest -= window.bytes;
            }
        }
        Ok(made)
    }

    /// Makes windows of pieces, writes them, and gives back the digests of their leaves.
    fn make(
        &mut self,
        batch: &[OutPiece<'_>],
        base: Option<&dyn TensorSource>,
        output: Option<Output<'_>>,
    ) -> Result<Vec<Vec<Digest>>> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(batch.iter().map(|piece| piece.bytes as usize).sum(), 0);
        let mut rest = bytes.as_mut_slice();
        let mut made = Vec::with_capacity(batch.len());
        for piece in batch {
            let (now, later) = rest.split_at_mut(piece.bytes as usize);
            rest = later;
            if let (Some(base), true, false) = (base, piece.tensor.from_base, now.is_empty()) {
                base.read(piece.tensor.name, piece.start, now)?;
            }
            if piece.is_changed {
                self.apply(piece, now)?;
            }
            made.push(&*now);
        }
        let leaves = leaves_of_all(&made);
        if let Some(output) = output {
            write_runs(batch, &bytes, output)?;
        }
        self.bytes = bytes;
        Ok(leaves)
    }

    /// Applies every link to the bytes of a window, one after the other.
    pub fn apply(&mut self, window: &OutPiece<'_>, bytes: &mut [u8]) -> Result<()> {
        let here = window.start..window.start + window.bytes;
        self.open.resize_with(window.tensor.links.len(), || None);
        for (open, link) in self.open.iter_mut().zip(&window.tensor.links) {
            let Link { patch, tensor } = link;
            for number in tensor.overlapping(&here) {
                let block = tensor.blocks[number].range();
                let (from, to) = (block.start.max(here.start), block.end.min(here.end));
                // Within the window, whose bytes are in memory.
                let bytes = &mut bytes[(from - here.start) as usize..(to - here.start) as usize];
                if (from, to) == (block.start, block.end) {
                    patch.apply_block(tensor, number, &mut self.payload, bytes)?;
                    continue;
                }
                let mut decoder = match open.take() {
                    Some(decoder) => decoder,
                    None => {
                        let mut new = patch.decode_block(tensor, number, &mut self.payload)?;
                        new.skip(from - block.start)?;
                        new
                    }
                };
                patch.apply_on(tensor, number, &mut decoder, bytes)?;
                let goes_on =
                    to < block.end && tensor.blocks[number].coding() == Coding::Contextual;
                *open = goes_on.then_some(decoder);
            }
        }
        Ok(())
    }
}

/// Writes consecutive pieces, whose bytes are consecutive too, with one call where they stand side
/// by side in one file: threads that write many small pieces wait for each other.
fn write_runs(pieces: &[OutPiece<'_>], bytes: &[u8], output: Output<'_>) -> Result<()> {
    let (mut rest, mut at) = (bytes, 0);
    while let Some(first) = pieces.get(at) {
        let (file, start) = first.place();
        let skipped = |piece: &OutPiece<'_>| output.in_place && !piece.is_changed;
        let mut end = start;
        let run = pieces[at..].iter().take_while(|piece| {
            let adjoins = piece.place() == (file, end) && skipped(piece) == skipped(first);
            end += if adjoins { piece.bytes } else { 0 };
            adjoins
        });
        at += run.count();
        let (now, later) = rest.split_at((end - start) as usize);
        rest = later;
        if let Some(out) = output.files.get(file).copied().flatten().filter(|_| !skipped(first)) {
            let doing = || format!("writing tensor '{}' to", first.tensor.name);
            out.write_all_at(now, start)
                .map_err(|error| Error::io_at(doing(), out.path(), error))?;
        }
    }
    Ok(())
}
