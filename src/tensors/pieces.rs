//! How tensors are cut for parallel work: into pieces of whole leaves, and small pieces into groups.

#[cfg(feature = "checkpoint")]
use std::ops::Range;

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::Result;
use crate::hash::{digest_leaves, CheckpointHasher, TensorHasher, LEAF_BYTES};
use crate::tensors::parallel::ordered;
use crate::tensors::source::{read_spans, Span};
use crate::tensors::{Control, TensorSource};

/// Bytes of a piece where there are no blocks to follow.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A tensor in base and target; at least one side has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub name: &'a str,
    pub base: Option<&'a TensorSpec>,
    pub target: Option<&'a TensorSpec>,
    /// Byte of the tensor at which the sources begin, if they have a slice of it.
    pub from: u64,
}

/// All tensors of both sides in the order of their names.
pub(crate) fn pairs<'a>(
    base: Option<&'a dyn TensorSource>,
    target: Option<&'a dyn TensorSource>,
) -> Vec<Pair<'a>> {
    let mut names: Vec<&str> =
        base.iter().chain(&target).flat_map(|side| side.tensors()).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let find = |side: Option<&'a dyn TensorSource>, name| side.and_then(|side| side.spec(name));
    names
        .into_iter()
        .map(|name| Pair { name, base: find(base, name), target: find(target, name), from: 0 })
        .collect()
}

/// A run of whole leaves of a pair. Where the sides differ in length, one may have nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub pair: Pair<'a>,
    pub start: u64,
    pub base_bytes: usize,
    pub target_bytes: usize,
    /// First and last of its pair that is worked on; an empty tensor has one piece that is both.
    pub first: bool,
    pub last: bool,
}

impl Piece<'_> {
    /// Bytes of the longer side.
    pub fn bytes(&self) -> usize {
        self.base_bytes.max(self.target_bytes)
    }
}

impl<'a> Pair<'a> {
    /// Pieces of at most `piece_bytes`, which is a multiple of the leaf size.
    pub fn pieces(self, piece_bytes: usize) -> impl Iterator<Item = Piece<'a>> + Send {
        let bytes = |side: Option<&TensorSpec>| side.map_or(0, TensorSpec::bytes);
        let (base, target) = (bytes(self.base), bytes(self.target));
        let count = base.max(target).div_ceil(piece_bytes as u64).max(1);
        (0..count).map(move |i| self.piece(i, piece_bytes, i == 0, i + 1 == count))
    }

    /// The pieces that have something of these ranges, and no other; one if none has.
    #[cfg(feature = "checkpoint")]
    pub fn pieces_of(
        self,
        ranges: Vec<Range<u64>>,
        piece_bytes: usize,
    ) -> impl Iterator<Item = Piece<'a>> + Send {
        let bytes = piece_bytes as u64;
        let mut numbers: Vec<u64> = ranges
            .into_iter()
            .flat_map(|range| range.start / bytes..range.end.div_ceil(bytes))
            .collect();
        // Ranges of several patches are in order for each of them only.
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            numbers.push(0);
        }
        let count = numbers.len();
        numbers
            .into_iter()
            .enumerate()
            .map(move |(at, number)| self.piece(number, piece_bytes, at == 0, at + 1 == count))
    }

    /// Piece `number` of those of `piece_bytes` each.
    fn piece(self, number: u64, piece_bytes: usize, first: bool, last: bool) -> Piece<'a> {
        let start = number * piece_bytes as u64;
        let part = |side: Option<&TensorSpec>| {
            let left = side.map_or(0, TensorSpec::bytes).saturating_sub(start);
            // At most piece_bytes, so it fits.
            left.min(piece_bytes as u64) as usize
        };
        let (base_bytes, target_bytes) = (part(self.base), part(self.target));
        Piece { pair: self, start, base_bytes, target_bytes, first, last }
    }
}

/// Joins consecutive items until their sizes reach `full`, so that many small ones make one task.
pub(crate) struct Groups<I, F> {
    pub items: I,
    pub size: F,
    pub full: usize,
}

impl<T, I: Iterator<Item = T>, F: Fn(&T) -> usize> Iterator for Groups<I, F> {
    type Item = Vec<T>;

    fn next(&mut self) -> Option<Vec<T>> {
        let mut group = Vec::new();
        let mut size = 0;
        while size < self.full {
            let Some(item) = self.items.next() else { break };
            // Even an empty tensor costs something.
            size = size.saturating_add((self.size)(&item).max(1024));
            group.push(item);
        }
        (!group.is_empty()).then_some(group)
    }
}

/// The bytes of each piece of a group.
type Slices<'s> = Vec<&'s [u8]>;

/// What each thread keeps: the bytes of one group of pieces, for sources that are not in memory.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    base: Vec<u8>,
    target: Vec<u8>,
}

impl Buffers {
    /// The bytes of both sides of a group of pieces.
    pub fn read<'s>(
        &'s mut self,
        group: &[Piece<'_>],
        base: Option<&'s dyn TensorSource>,
        target: Option<&'s dyn TensorSource>,
    ) -> Result<(Slices<'s>, Slices<'s>)> {
        let side = |source: Option<&'s dyn TensorSource>,
                    buffer: &'s mut Vec<u8>,
                    bytes: fn(&Piece<'_>) -> usize| {
            let spans: Vec<Span<'_>> = group
                .iter()
                .map(|piece| Span {
                    name: piece.pair.name,
                    start: piece.start - piece.pair.from,
                    bytes: bytes(piece),
                })
                .collect();
            match source {
                Some(source) => read_present(source, &spans, buffer),
                None => Ok(vec![&[][..]; group.len()]),
            }
        };
        let base = side(base, &mut self.base, |piece| piece.base_bytes)?;
        let target = side(target, &mut self.target, |piece| piece.target_bytes)?;
        Ok((base, target))
    }
}

/// As `read_spans`, with nothing for spans without bytes: their tensor need not exist.
fn read_present<'s>(
    source: &'s dyn TensorSource,
    spans: &[Span<'_>],
    buffer: &'s mut Vec<u8>,
) -> Result<Vec<&'s [u8]>> {
    let present: Vec<Span<'_>> = spans.iter().copied().filter(|span| span.bytes > 0).collect();
    let mut found = read_spans(source, &present, buffer)?.into_iter();
    Ok(spans
        .iter()
        .map(|span| if span.bytes > 0 { found.next().unwrap_or(&[]) } else { &[] })
        .collect())
}

/// Digests of the leaves of several slices, in one batch.
pub(crate) fn leaves_of_all(slices: &[&[u8]]) -> Vec<Vec<Digest>> {
    let leaves: Vec<&[u8]> = slices.iter().flat_map(|slice| slice.chunks(LEAF_BYTES)).collect();
    let mut digests = digest_leaves(&leaves).into_iter();
    slices
        .iter()
        .map(|slice| digests.by_ref().take(slice.len().div_ceil(LEAF_BYTES)).collect())
        .collect()
}

/// Runs `work` on groups of pieces in parallel and `consume` on the results, one for each piece, in order.
pub(crate) fn for_each_piece<'a, S, R: Send>(
    pairs: &'a [Pair<'a>],
    piece_bytes: usize,
    control: Control<'_>,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &[Piece<'a>]) -> Result<Vec<R>> + Sync,
    consume: impl FnMut(&Piece<'a>, R) -> Result<()>,
) -> Result<()> {
    let pieces = pairs.iter().flat_map(move |pair| pair.pieces(piece_bytes));
    for_each_of(pieces, piece_bytes, control, scratch, work, consume)
}

/// As [`for_each_piece`], for pieces that were chosen already; groups of them have `full` bytes.
pub(crate) fn for_each_of<'a, S, R: Send>(
    pieces: impl Iterator<Item = Piece<'a>> + Send,
    full: usize,
    control: Control<'_>,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &[Piece<'a>]) -> Result<Vec<R>> + Sync,
    consume: impl FnMut(&Piece<'a>, R) -> Result<()>,
) -> Result<()> {
    for_each_item(pieces, Piece::bytes, full, control, scratch, work, consume)
}

/// The same for anything that stands for a number of tensor bytes.
pub(crate) fn for_each_item<T: Send, S, R: Send>(
    items: impl Iterator<Item = T> + Send,
    size: impl Fn(&T) -> usize + Copy + Send,
    full: usize,
    control: Control<'_>,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &[T]) -> Result<Vec<R>> + Sync,
    mut consume: impl FnMut(&T, R) -> Result<()>,
) -> Result<()> {
    ordered(
        control.count(),
        scratch,
        Groups { items, size, full },
        |own, group| Ok((work(own, &group)?, group)),
        |(results, group)| {
            for (item, result) in group.iter().zip(results) {
                consume(item, result)?;
                control.report(size(item) as u64)?;
            }
            Ok(())
        },
    )
}

/// Digest of each tensor that is `wanted`, in the order of their names, to `found`.
pub(crate) fn digests_of(
    source: &dyn TensorSource,
    wanted: impl Fn(&str) -> bool,
    control: Control<'_>,
    mut found: impl FnMut(&str, &TensorSpec, Digest),
) -> Result<()> {
    let mut pairs = pairs(None, Some(source));
    pairs.retain(|pair| wanted(pair.name));
    let mut tensor = TensorHasher::new();
    let work = |own: &mut Buffers, group: &[Piece<'_>]| {
        Ok(leaves_of_all(&own.read(group, None, Some(source))?.1))
    };
    for_each_piece(&pairs, PIECE_BYTES, control, Buffers::default, work, |piece, leaves| {
        leaves.iter().for_each(|leaf| tensor.push_leaf(leaf));
        if let (true, Some(spec)) = (piece.last, piece.pair.target) {
            found(piece.pair.name, spec, std::mem::take(&mut tensor).finish());
        }
        Ok(())
    })
}

/// Digest of each tensor, in the order of their names, to `found`; then of the checkpoint.
pub(crate) fn digests(
    source: &dyn TensorSource,
    control: Control<'_>,
    mut found: impl FnMut(&str, &TensorSpec, Digest),
) -> Result<Digest> {
    let mut checkpoint = CheckpointHasher::new();
    digests_of(
        source,
        |_| true,
        control,
        |name, spec, digest| {
            checkpoint.add(name, spec, digest);
            found(name, spec, digest);
        },
    )?;
    // A digest of what never was would be worse than none.
    source.check_unchanged()?;
    checkpoint.finish()
}
