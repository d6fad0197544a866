//! The tensors of a target from base and patches: made in parallel, verified by their digests.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::disk::DiskFile;
use crate::dtype::TensorSpec;
use crate::error::{Error, Made, Result};
use crate::hash::TensorHasher;
use crate::patch::chain::{Chain, Link};
use crate::patch::Patch;
use crate::stream::fit::misfit;
use crate::stream::tally::{Differs, Tally};
use crate::tensors::builder::{Builder, OutPiece};
use crate::tensors::parallel::ordered;
use crate::tensors::pieces::{digests_of, leaves_of_all, Groups, PIECE_BYTES};
use crate::tensors::{Control, FileNote, TensorSource};
use crate::wire::{Action, Footer};

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyReport {
    /// Digest of the result, which is that of the target.
    pub target: Digest,
    /// Tensor bytes of the result.
    pub target_bytes: u64,
    /// Elements that changed. Of a chain the changes of all patches: an element that several of them
    /// change counts for each.
    pub changes: u64,
    /// Files of the result.
    pub files: u64,
    /// Files that are not as the patch says, in the order of names.
    pub notes: Vec<FileNote>,
}

impl ApplyReport {
    /// Of patches whose target was made and proved.
    pub(crate) fn of(chain: &Chain<'_>, files: u64) -> Self {
        let Footer { target, target_bytes, .. } = *chain.last().footer();
        let changes = chain.patches().iter().map(|patch| patch.footer().changes);
        let changes = changes.fold(0, u64::saturating_add);
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
    /// What is applied, one after the other; none if the tensor stays as it is.
    pub links: Vec<Link<'a>>,
    /// Number of its file, and its offset there.
    pub file: usize,
    pub offset: u64,
}

impl<'a> OutTensor<'a> {
    /// A tensor of the base, or one that a patch puts whole, with no place yet.
    pub fn new(name: &'a str, spec: &'a TensorSpec, whole: Option<Link<'a>>) -> Self {
        let from_base = whole.is_none();
        let links = whole.into_iter().collect();
        OutTensor { name, spec, from_base, links, file: 0, offset: 0 }
    }
}

/// Checks the base tensors that leave no trace in the target: those replaced or deleted. The
/// digest of the target says nothing of them, and yet a base where they differ is a wrong one.
fn check_gone(
    base: Option<&dyn TensorSource>,
    chain: &Chain<'_>,
    control: Control<'_>,
) -> Result<()> {
    let Some(base) = base else { return Ok(()) };
    let expected = |name: &str| {
        let history = chain.histories.get(name).filter(|history| history.is_whole())?;
        history.base.map(|base| base.digest)
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

/// The tensors of a base, in the order of their names.
pub(crate) fn base_tensors(base: &dyn TensorSource) -> Vec<OutTensor<'_>> {
    let found = base.tensors().into_iter();
    let mut tensors: Vec<_> = found.map(|(name, spec)| OutTensor::new(name, spec, None)).collect();
    tensors.sort_unstable_by_key(|tensor| tensor.name);
    tensors
}

/// The tensors that a patch makes of these, in the order of their names, with no place yet.
pub(crate) fn patched_tensors<'a>(
    tensors: Vec<OutTensor<'a>>,
    patch: &'a Patch,
) -> Result<Vec<OutTensor<'a>>> {
    let mut patched = Vec::with_capacity(tensors.len());
    let mut met = HashSet::new();
    for mut tensor in tensors {
        let Some(entry) = patch.tensor(tensor.name) else {
            patched.push(tensor);
            continue;
        };
        met.insert(tensor.name);
        let link = Link { patch, tensor: entry };
        match (entry.header.action, &entry.header.spec) {
            (Action::Deleted, _) => {}
            (Action::Replaced, Some(spec)) => {
                patched.push(OutTensor::new(tensor.name, spec, Some(link)));
            }
            (Action::Patched, Some(spec)) if spec == tensor.spec => {
                tensor.links.push(link);
                patched.push(tensor);
            }
            (action, spec) => {
                let misfit = misfit(tensor.name, action, spec.as_ref(), Some(tensor.spec));
                return Err(patch.unfit(misfit));
            }
        }
    }
    for entry in patch.tensors().iter().filter(|entry| !met.contains(&*entry.header.name)) {
        let name = &entry.header.name;
        match (&entry.header.spec, entry.header.action) {
            (Some(spec), Action::Added) => {
                patched.push(OutTensor::new(name, spec, Some(Link { patch, tensor: entry })));
            }
            (spec, action) => {
                return Err(patch.unfit(misfit(name, action, spec.as_ref(), None)));
            }
        }
    }
    patched.sort_unstable_by_key(|tensor| tensor.name);
    Ok(patched)
}

/// Tensors that the target must have, in the order of their names, with no place yet.
pub(crate) fn target_tensors<'a>(
    base: Option<&'a dyn TensorSource>,
    chain: &Chain<'a>,
) -> Result<Vec<OutTensor<'a>>> {
    let held = base.map(base_tensors).unwrap_or_default();
    chain.patches().iter().try_fold(held, patched_tensors)
}

/// Where tensors are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output<'a> {
    /// By their numbers; what would go to a file that is not there is made, but not written.
    pub files: &'a [Option<&'a DiskFile>],
    /// The files hold the base: what does not change is not written.
    pub in_place: bool,
}

/// Makes every tensor in one pass over the base, writes it where there is an output, and checks every
/// digest of the target. Those on the way were compared with one another, and are not made.
pub(crate) fn build(
    tensors: &[OutTensor<'_>],
    base: Option<&dyn TensorSource>,
    chain: &Chain<'_>,
    output: Option<Output<'_>>,
    control: Control<'_>,
) -> Result<()> {
    let tasks = tensors.iter().flat_map(OutTensor::pieces).map(|piece| Task { piece, with: () });
    let work = |own: &mut Builder, group| own.build(group, base, output);
    prove(tasks, chain, base, control, work, |_, ()| {})
}

/// A piece to be made, and what that takes.
#[derive(Debug)]
pub(crate) struct Task<'a, T> {
    pub piece: OutPiece<'a>,
    pub with: T,
}

/// All pieces of tensors, each with the place in memory where it is made.
pub(crate) fn pieces_in<'a, 'b>(
    tensors: &'a [OutTensor<'a>],
    buffers: impl IntoIterator<Item = &'b mut [u8], IntoIter: Send>,
) -> impl Iterator<Item = Task<'a, &'b mut [u8]>> + Send {
    tensors.iter().zip(buffers).flat_map(|(tensor, mut rest)| {
        tensor.pieces().map(move |piece| {
            // Within the tensor, whose bytes are in memory.
            let (with, later) = std::mem::take(&mut rest).split_at_mut(piece.bytes as usize);
            rest = later;
            Task { piece, with }
        })
    })
}

/// Pieces whose bytes are in memory, with the digests of their leaves.
pub(crate) fn hashed<'a>(group: Vec<Task<'a, &mut [u8]>>) -> Vec<Done<'a, ()>> {
    let made: Vec<&[u8]> = group.iter().map(|task| &*task.with).collect();
    let made = group.iter().zip(leaves_of_all(&made));
    made.map(|(task, leaves)| Done { piece: task.piece, leaves, kept: () }).collect()
}

/// A piece that was made: the digests of its leaves, and what is kept of it.
#[derive(Debug)]
pub(crate) struct Done<'a, K> {
    pub piece: OutPiece<'a>,
    pub leaves: Vec<Digest>,
    pub kept: K,
}

/// Tasks that each make a piece in a time worth a thread's.
pub(crate) fn groups<'a, T>(
    tasks: impl Iterator<Item = Task<'a, T>> + Send,
) -> impl Iterator<Item = Vec<Task<'a, T>>> + Send {
    let size = |task: &Task<'a, T>| usize::try_from(task.piece.bytes).unwrap_or(usize::MAX);
    Groups { items: tasks, size, full: PIECE_BYTES }
}

/// Makes every piece of the target with `work`, in groups, checks every digest, and passes what is
/// kept of each piece to `keep` in their order. The tasks are all pieces of all tensors.
pub(crate) fn prove<'a, S: Default, T: Send, K: Send>(
    tasks: impl Iterator<Item = Task<'a, T>> + Send,
    chain: &Chain<'_>,
    base: Option<&dyn TensorSource>,
    control: Control<'_>,
    work: impl Fn(&mut S, Vec<Task<'a, T>>) -> Result<Vec<Done<'a, K>>> + Sync,
    keep: impl FnMut(&OutPiece<'a>, K),
) -> Result<()> {
    let mut tally = Tally::default();
    make_tensors(tasks, control, work, keep, |tensor, digest| {
        tally.add(tensor.name, tensor.spec, digest);
    })?;
    check_whole(tally, chain, base, control)
}

/// As [`prove`], of some tensors: compares the digest of each and passes it to `tell`.
pub(crate) fn make_tensors<'a, S: Default, T: Send, K: Send>(
    tasks: impl Iterator<Item = Task<'a, T>> + Send,
    control: Control<'_>,
    work: impl Fn(&mut S, Vec<Task<'a, T>>) -> Result<Vec<Done<'a, K>>> + Sync,
    mut keep: impl FnMut(&OutPiece<'a>, K),
    mut tell: impl FnMut(&'a OutTensor<'a>, Digest),
) -> Result<()> {
    let mut hasher = TensorHasher::new();
    ordered(control.count(), S::default, groups(tasks), work, |done| {
        for Done { piece, leaves, kept } in done {
            leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
            keep(&piece, kept);
            if piece.last {
                let found = std::mem::take(&mut hasher).finish();
                let OutTensor { name, links, .. } = piece.tensor;
                let link = links.last().and_then(|link| Some((link, link.tensor.end?.target?)));
                if let Some((link, expected)) = link.filter(|&(_, expected)| expected != found) {
                    let made = Made::Tensor(name.to_string());
                    return Err(link.patch.wrong_result(made, expected, found));
                }
                tell(piece.tensor, found);
            }
            control.report(piece.bytes)?;
        }
        Ok(())
    })
}

/// Compares what was made of all tensors with what the patches say of the whole.
pub(crate) fn check_whole(
    tally: Tally,
    chain: &Chain<'_>,
    base: Option<&dyn TensorSource>,
    control: Control<'_>,
) -> Result<()> {
    let last = chain.last();
    match tally.compare(last.footer())? {
        Some(Differs::Digest { expected, found }) => {
            Err(last.wrong_result(Made::Checkpoint, expected, found))
        }
        Some(Differs::Total(fault)) => Err(last.wrong_total(fault)),
        None => check_gone(base, chain, control),
    }
}
