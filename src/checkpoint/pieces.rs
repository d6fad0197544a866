//! How tensors are cut for parallel work: into pieces of whole leaves, and small pieces into groups.

use crate::checkpoint::source::{Checkpoint, CheckpointTensor};
use crate::digest::{leaf_digests, CheckpointHasher, Digest, TensorHasher};
use crate::dtype::TensorSpec;
use crate::error::Result;

use super::pipeline::{ordered, Parallel};

/// A tensor in base and target; at least one side has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub name: &'a str,
    pub base: Option<&'a CheckpointTensor>,
    pub target: Option<&'a CheckpointTensor>,
}

/// All tensors of both sides in the order of their names.
pub(crate) fn pairs<'a>(base: Option<&'a Checkpoint>, target: Option<&'a Checkpoint>) -> Vec<Pair<'a>> {
    let mut names: Vec<&str> =
        base.iter().chain(&target).flat_map(|side| side.tensors().map(|(name, _)| name)).collect();
    names.sort_unstable();
    names.dedup();
    let find = |side: Option<&'a Checkpoint>, name| side.and_then(|side| side.tensor(name));
    names.into_iter().map(|name| Pair { name, base: find(base, name), target: find(target, name) }).collect()
}

/// A run of whole leaves of a pair. Where the sides differ in length, one may have nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub pair: Pair<'a>,
    pub start: u64,
    pub base_bytes: usize,
    pub target_bytes: usize,
    /// First and last of its pair; an empty tensor has one piece that is both.
    pub first: bool,
    pub last: bool,
}

impl<'a> Pair<'a> {
    /// Pieces of at most `piece_bytes`, which is a multiple of the leaf size.
    pub fn pieces(self, piece_bytes: usize) -> impl Iterator<Item = Piece<'a>> + Send {
        let bytes = |side: Option<&CheckpointTensor>| side.map_or(0, |tensor| tensor.spec().bytes());
        let (base, target) = (bytes(self.base), bytes(self.target));
        let count = base.max(target).div_ceil(piece_bytes as u64).max(1);
        (0..count).map(move |i| {
            let start = i * piece_bytes as u64;
            // At most piece_bytes, so it fits.
            let part = |side: u64| side.saturating_sub(start).min(piece_bytes as u64) as usize;
            Piece {
                pair: self,
                start,
                base_bytes: part(base),
                target_bytes: part(target),
                first: i == 0,
                last: i + 1 == count,
            }
        })
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
            size += (self.size)(&item).max(1024);
            group.push(item);
        }
        (!group.is_empty()).then_some(group)
    }
}

/// What each thread keeps: the bytes of one piece.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub base: Vec<u8>,
    pub target: Vec<u8>,
}

impl Buffers {
    /// Reads both sides of a piece.
    pub fn read(&mut self, piece: &Piece<'_>, base: Option<&Checkpoint>, target: Option<&Checkpoint>) -> Result<()> {
        for (buffer, side, tensor, bytes) in [
            (&mut self.base, base, piece.pair.base, piece.base_bytes),
            (&mut self.target, target, piece.pair.target, piece.target_bytes),
        ] {
            buffer.resize(bytes, 0);
            if let (Some(side), Some(tensor)) = (side, tensor) {
                if bytes > 0 {
                    side.read_at(tensor, piece.start, buffer)?;
                }
            }
        }
        Ok(())
    }
}

/// Runs `work` on every piece in parallel and `consume` on the results in order.
pub(crate) fn for_each_piece<'a, S, R: Send>(
    pairs: &'a [Pair<'a>],
    piece_bytes: usize,
    parallel: Parallel<'_>,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &Piece<'a>) -> Result<R> + Sync,
    mut consume: impl FnMut(&Piece<'a>, R) -> Result<()>,
) -> Result<()> {
    let groups = Groups {
        items: pairs.iter().flat_map(move |pair| pair.pieces(piece_bytes)),
        size: |piece: &Piece<'_>| piece.base_bytes.max(piece.target_bytes),
        full: piece_bytes,
    };
    ordered(
        parallel.count(),
        scratch,
        groups,
        |own, group| group.into_iter().map(|piece| Ok((piece, work(own, &piece)?))).collect::<Result<Vec<_>>>(),
        |done| {
            for (piece, result) in done {
                consume(&piece, result)?;
                parallel.report(piece.base_bytes.max(piece.target_bytes) as u64);
            }
            Ok(())
        },
    )
}

/// Bytes of a piece where there are no blocks to follow.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

impl Checkpoint {
    /// Digest of each tensor that is `wanted`, in the order of their names, to `found`.
    pub(crate) fn digests_of(
        &self,
        wanted: impl Fn(&str) -> bool,
        parallel: Parallel<'_>,
        mut found: impl FnMut(&str, &TensorSpec, Digest),
    ) -> Result<()> {
        let mut pairs = pairs(None, Some(self));
        pairs.retain(|pair| wanted(pair.name));
        let mut tensor = TensorHasher::new();
        let work = |own: &mut Buffers, piece: &Piece<'_>| {
            own.read(piece, None, Some(self))?;
            Ok(leaf_digests(&own.target))
        };
        for_each_piece(&pairs, PIECE_BYTES, parallel, Buffers::default, work, |piece, leaves| {
            leaves.iter().for_each(|leaf| tensor.push_leaf(leaf));
            if let (true, Some(entry)) = (piece.last, piece.pair.target) {
                found(piece.pair.name, entry.spec(), std::mem::take(&mut tensor).finish());
            }
            Ok(())
        })
    }

    /// Digest of each tensor, in the order of their names, to `found`; then of the checkpoint.
    pub(crate) fn digests(
        &self,
        parallel: Parallel<'_>,
        mut found: impl FnMut(&str, &TensorSpec, Digest),
    ) -> Result<Digest> {
        let mut checkpoint = CheckpointHasher::new();
        self.digests_of(
            |_| true,
            parallel,
            |name, spec, digest| {
                checkpoint.add(name, spec, digest);
                found(name, spec, digest);
            },
        )?;
        checkpoint.finish()
    }

    /// The checkpoint digest (SPEC.md §5).
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn digest(&self, parallel: Parallel<'_>) -> Result<Digest> {
        self.digests(parallel, |_, _, _| {})
    }
}
