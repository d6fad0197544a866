//! The tensors of a target from base and patch: made in parallel, verified by their digests.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::disk::DiskFile;
use crate::dtype::TensorSpec;
use crate::error::{Error, Made, Result};
use crate::hash::TensorHasher;
use crate::patch::{Patch, TensorEntry};
use crate::stream::fit::misfit;
use crate::stream::tally::{Differs, Tally};
use crate::tensors::parallel::ordered;
use crate::tensors::pieces::{digests_of, leaves_of_all, Groups, PIECE_BYTES};
use crate::tensors::{Control, FileNote, TensorSource};
use crate::wire::Action;
use crate::wire::Footer;

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyReport {
    /// Digest of the result, which is that of the target.
    pub target: Digest,
    /// Tensor bytes of the result.
    pub target_bytes: u64,
    /// Elements that changed.
    pub changes: u64,
    /// Files of the result.
    pub files: u64,
    /// Files that are not as the patch says, in the order of names.
    pub notes: Vec<FileNote>,
}

impl ApplyReport {
    /// Of a patch whose target was made and proved.
    pub(crate) fn of(patch: &Patch, files: u64) -> Self {
        let Footer { target, target_bytes, changes, .. } = *patch.footer();
        ApplyReport { target, target_bytes, changes, files, notes: Vec::new() }
    }
}

/// A tensor of the target and what it is made of.
#[derive(Debug)]
pub(crate) struct OutTensor<'a> {
    pub name: &'a str,
    pub spec: &'a TensorSpec,
    /// The base has bytes that stay, or that the changes start from.
    pub from_base: bool,
    pub patch: Option<&'a TensorEntry>,
    /// Number of its file, and its offset there.
    pub file: usize,
    pub offset: u64,
}

/// Checks the base tensors that leave no trace in the target: those replaced or deleted. The
/// digest of the target says nothing of them, and yet a base where they differ is a wrong one.
fn check_gone(base: Option<&dyn TensorSource>, patch: &Patch, control: Control<'_>) -> Result<()> {
    let Some(base) = base else { return Ok(()) };
    let expected = |name: &str| {
        let tensor = patch.tensor(name).filter(|tensor| tensor.header.action != Action::Patched)?;
        tensor.end.and_then(|end| end.base)
    };
    let mut wrong = None;
    digests_of(
        base,
        |name| expected(name).is_some(),
        control,
        |name, _, found| {
            if let Some(expected) = expected(name).filter(|&expected| expected != found) {
                wrong.get_or_insert(Error::wrong_base(Some(name.into()), expected, found));
            }
        },
    )?;
    wrong.map_or(Ok(()), Err)
}

/// Tensors that the target must have, in the order of their names, with no place yet.
pub(crate) fn target_tensors<'a>(
    base: Option<&'a dyn TensorSource>,
    patch: &'a Patch,
) -> Result<Vec<OutTensor<'a>>> {
    let mut tensors = Vec::new();
    let mut met = HashSet::new();
    let place = |name, spec, from_base, patch| OutTensor {
        name,
        spec,
        from_base,
        patch,
        file: 0,
        offset: 0,
    };
    for (name, found) in base.iter().flat_map(|base| base.tensors()) {
        let Some(changed) = patch.tensor(name) else {
            tensors.push(place(name, found, true, None));
            continue;
        };
        met.insert(name);
        match (changed.header.action, &changed.header.spec) {
            (Action::Deleted, _) => {}
            (Action::Replaced, Some(spec)) => tensors.push(place(name, spec, false, Some(changed))),
            (Action::Patched, Some(spec)) if spec == found => {
                tensors.push(place(name, spec, true, Some(changed)));
            }
            (action, spec) => {
                return Err(patch.unfit(misfit(name, action, spec.as_ref(), Some(found))));
            }
        }
    }
    for tensor in patch.tensors().iter().filter(|tensor| !met.contains(&*tensor.header.name)) {
        match (&tensor.header.spec, tensor.header.action) {
            (Some(spec), Action::Added) => {
                tensors.push(place(&tensor.header.name, spec, false, Some(tensor)))
            }
            (spec, action) => {
                return Err(patch.unfit(misfit(&tensor.header.name, action, spec.as_ref(), None)));
            }
        }
    }
    tensors.sort_unstable_by_key(|tensor| tensor.name);
    Ok(tensors)
}

/// Where tensors are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output<'a> {
    /// By their numbers; what would go to a file that is not there is made, but not written.
    pub files: &'a [Option<&'a DiskFile>],
    /// The files hold the base: what does not change is not written.
    pub in_place: bool,
}

/// Makes every tensor, writes it where there is an output, and checks every digest.
pub(crate) fn build(
    tensors: &[OutTensor<'_>],
    base: Option<&dyn TensorSource>,
    patch: &Patch,
    output: Option<Output<'_>>,
    control: Control<'_>,
) -> Result<()> {
    let tasks = tensors.iter().flat_map(OutTensor::pieces).map(|piece| Task { piece, with: () });
    let work = |own: &mut Builder, group| own.build(group, base, patch, output);
    prove(tasks, base, patch, control, work, |_, ()| {})
}

/// A piece to be made, and what that takes or has given.
#[derive(Debug)]
pub(crate) struct Task<'a, T> {
    pub piece: OutPiece<'a>,
    pub with: T,
}

/// A piece that was made: the digests of its leaves, and what is kept of it.
#[derive(Debug)]
pub(crate) struct Done<'a, T> {
    pub piece: OutPiece<'a>,
    pub leaves: Vec<Digest>,
    pub kept: T,
}

/// Makes every piece of the target with `work`, in groups, checks every digest, and passes what is
/// kept of each piece to `keep` in their order. The tasks are all pieces of all tensors.
pub(crate) fn prove<'a, S: Default, T: Send, K: Send>(
    tasks: impl Iterator<Item = Task<'a, T>> + Send,
    base: Option<&dyn TensorSource>,
    patch: &Patch,
    control: Control<'_>,
    work: impl Fn(&mut S, Vec<Task<'a, T>>) -> Result<Vec<Done<'a, K>>> + Sync,
    mut keep: impl FnMut(&OutPiece<'a>, K),
) -> Result<()> {
    let groups =
        Groups { items: tasks, size: |task: &Task<'_, T>| task.piece.bytes, full: PIECE_BYTES };
    let mut tally = Tally::default();
    let mut hasher = TensorHasher::new();
    ordered(control.count(), S::default, groups, work, |done| {
        for Done { piece, leaves, kept } in done {
            leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
            keep(&piece, kept);
            if piece.last {
                let found = std::mem::take(&mut hasher).finish();
                let OutTensor { name, spec, patch: changed, .. } = piece.tensor;
                let expected = changed.and_then(|changed| changed.end).and_then(|end| end.target);
                if let Some(expected) = expected.filter(|&expected| expected != found) {
                    return Err(patch.wrong_result(
                        Made::Tensor(name.to_string()),
                        expected,
                        found,
                    ));
                }
                tally.add(name, spec, found);
            }
            control.report(piece.bytes as u64)?;
        }
        Ok(())
    })?;
    match tally.compare(patch.footer())? {
        Some(Differs::Digest { expected, found }) => {
            Err(patch.wrong_result(Made::Checkpoint, expected, found))
        }
        Some(Differs::Total(fault)) => Err(patch.wrong_total(fault)),
        None => check_gone(base, patch, control),
    }
}

/// A run of whole leaves of a target tensor: one block, or bytes that stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutPiece<'a> {
    pub tensor: &'a OutTensor<'a>,
    pub block: Option<usize>,
    pub start: u64,
    pub bytes: usize,
    pub last: bool,
}

impl OutPiece<'_> {
    /// File of the target, and offset in it.
    fn place(&self) -> (usize, u64) {
        (self.tensor.file, self.tensor.offset + self.start)
    }
}

impl<'a> OutTensor<'a> {
    /// Blocks and, between them, unchanged runs of at most [`PIECE_BYTES`].
    pub fn pieces(&'a self) -> impl Iterator<Item = OutPiece<'a>> {
        let blocks = self.patch.map_or(&[][..], |patch| &patch.blocks);
        let end = self.spec.bytes();
        let (mut start, mut number, mut done) = (0, 0, false);
        std::iter::from_fn(move || {
            if done {
                return None;
            }
            let next = blocks.get(number).map(|block| block.range());
            let (block, stop) = match next {
                Some(range) if range.start == start => (Some(number), range.end),
                Some(range) => (None, range.start.min(start + PIECE_BYTES as u64)),
                None => (None, end.min(start + PIECE_BYTES as u64)),
            };
            number += usize::from(block.is_some());
            done = stop == end;
            // A block has at most 64 MiB, other pieces less.
            let piece =
                OutPiece { tensor: self, block, start, bytes: (stop - start) as usize, last: done };
            start = stop;
            Some(piece)
        })
    }
}

/// What a thread keeps while it makes pieces.
#[derive(Debug, Default)]
struct Builder {
    bytes: Vec<u8>,
    payload: Vec<u8>,
}

impl Builder {
    /// Makes the pieces of a group, writes them, and gives back the digests of their leaves.
    fn build<'a>(
        &mut self,
        group: Vec<Task<'a, ()>>,
        base: Option<&dyn TensorSource>,
        patch: &Patch,
        output: Option<Output<'_>>,
    ) -> Result<Vec<Done<'a, ()>>> {
        let Builder { bytes, payload } = self;
        bytes.resize(group.iter().map(|task| task.piece.bytes).sum(), 0);
        let mut rest = bytes.as_mut_slice();
        let mut made = Vec::with_capacity(group.len());
        for Task { piece, .. } in &group {
            let (now, later) = rest.split_at_mut(piece.bytes);
            rest = later;
            let OutTensor { name, from_base, patch: changed, .. } = piece.tensor;
            if let (Some(base), true, true) = (base, *from_base, piece.bytes > 0) {
                base.read(name, piece.start, now)?;
            }
            if let (Some(changed), Some(block)) = (changed, piece.block) {
                patch.apply_block(changed, block, payload, now)?;
            }
            made.push(&*now);
        }
        let leaves = leaves_of_all(&made);
        let pieces: Vec<OutPiece<'a>> = group.into_iter().map(|task| task.piece).collect();
        if let Some(output) = output {
            write_runs(&pieces, bytes, output)?;
        }
        let done = |(piece, leaves)| Done { piece, leaves, kept: () };
        Ok(pieces.into_iter().zip(leaves).map(done).collect())
    }
}

/// Writes consecutive pieces, whose bytes are consecutive too, with one call where they stand side
/// by side in one file: threads that write many small pieces wait for each other.
fn write_runs(pieces: &[OutPiece<'_>], bytes: &[u8], output: Output<'_>) -> Result<()> {
    let (mut rest, mut at) = (bytes, 0);
    while let Some(first) = pieces.get(at) {
        let (file, start) = first.place();
        let skipped = |piece: &OutPiece<'_>| output.in_place && piece.block.is_none();
        let mut end = start;
        let run = pieces[at..].iter().take_while(|piece| {
            let adjoins = piece.place() == (file, end) && skipped(piece) == skipped(first);
            end += if adjoins { piece.bytes as u64 } else { 0 };
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
