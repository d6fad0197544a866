//! An update in two phases: all that takes time first, beside weights that are in use, and then the
//! changes alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::patch::{Chain, Patch, TensorEntry};
use crate::stream::tally::Tally;
use crate::tensors::builder::{Builder, OutPiece};
use crate::tensors::changed::{compare, make, ChangedTensor, KeptBlock, KeptTensor};
use crate::tensors::diagnose::explain;
use crate::tensors::parallel::ordered;
use crate::tensors::pieces::{leaves_of_all, Groups, PIECE_BYTES};
use crate::tensors::target::{check_whole, make_tensors, target_tensors, Done, OutTensor, Task};
use crate::tensors::{ApplyReport, Control, TensorSource, WeightsMut};
use crate::wire::Action;

/// Choices of [`Patch::prepare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrepareOptions {
    /// Bytes of changes that are held ready to be written: 4 and those of an element for each change,
    /// at most those of the block. Of blocks beyond, what the patch says is held, about a byte for a
    /// change: [`commit`](Prepared::commit) decodes them again, without I/O, which takes about as long as
    /// making the target without hashing it. 1 GiB by default.
    pub changes_bytes_max: u64,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        PrepareOptions { changes_bytes_max: 1 << 30 }
    }
}

impl PrepareOptions {
    /// Replaces [`changes_bytes_max`](Self::changes_bytes_max).
    #[must_use]
    pub fn with_changes_bytes_max(mut self, changes_bytes_max: u64) -> Self {
        self.changes_bytes_max = changes_bytes_max;
        self
    }
}

impl Patch {
    /// Makes the target of the patch from weights that are in use, proves it, and holds what is needed
    /// to finish: the weights are only read, by many threads, and others may read them meanwhile.
    ///
    /// The whole target is made block by block in scratch space and its digests compared.
    /// [`Prepared::commit`] then writes the changes alone, in an instant;
    /// [`Prepared::tensors`] lists them for weights elsewhere. To drop it is to change nothing.
    ///
    /// A snapshot says nothing of the weights that it replaces: they have to be the same tensors,
    /// whatever their bytes.
    ///
    /// # Errors
    /// [`Error::NotInPlace`] if the patch adds, replaces or deletes tensors, before any work;
    /// [`Error::BaseMismatch`] if the weights are not the base, [`Error::Corrupt`] or
    /// [`Error::WrongResult`] if the patch does not lead to its target, [`Error::Cancelled`].
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// # use pulse::tensors::{diff, DiffOptions, TensorRef, Weights};
    /// use pulse::tensors::{Control, PrepareOptions, TensorMut, WeightsMut};
    /// use pulse::{Limits, Patch};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let (mut weights, target) = (*b"abc", *b"abd");
    /// # let mut patch = Vec::new();
    /// # let base: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
    /// # let wanted: Weights = [("w", TensorRef::new(spec.clone(), &target)?)].into_iter().collect();
    /// # diff(Some(&base), &wanted, &mut patch, DiffOptions::default(), Control::default())?;
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// let mut held: WeightsMut = [("w", TensorMut::new(spec, &mut weights)?)].into_iter().collect();
    /// // While the weights are served …
    /// let prepared = patch.prepare(&held, PrepareOptions::default(), Control::default())?;
    /// // … and in a pause:
    /// prepared.commit(&mut held, Control::default())?;
    /// // If you want to know that nobody wrote to them in between:
    /// patch.verify_weights(&held, Control::default())?;
    /// assert_eq!(weights, target);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn prepare(
        &self,
        weights: &dyn TensorSource,
        options: PrepareOptions,
        control: Control<'_>,
    ) -> Result<Prepared> {
        self.as_chain()?.prepare(weights, options, control)
    }
}

impl Chain<'_> {
    /// As [`Patch::prepare`], for all patches at once: the weights are read once, every patch is applied
    /// to what was read, and the end is proved.
    ///
    /// # Errors
    /// As [`Patch::prepare`].
    pub fn prepare(
        &self,
        weights: &dyn TensorSource,
        options: PrepareOptions,
        control: Control<'_>,
    ) -> Result<Prepared> {
        Made::new(options).finish(self, weights, control)
    }
}

/// A tensor that is made and proved.
#[derive(Debug)]
struct MadeTensor {
    kept: KeptTensor,
    digest: Digest,
    /// Where it was in memory, if it was there: what has the same name elsewhere is another one.
    place: Option<usize>,
}

/// Where a tensor is in memory.
fn place(weights: Option<&dyn TensorSource>, name: &str, spec: &TensorSpec) -> Option<usize> {
    let bytes = usize::try_from(spec.bytes()).ok()?;
    weights?.slice(name, 0, bytes).map(|slice| slice.as_ptr().addr())
}

/// Tensors that are made and proved, and what is kept of them.
#[derive(Debug)]
pub(super) struct Made {
    tensors: HashMap<String, MadeTensor>,
    /// Bytes of changes that may still be held.
    room: AtomicU64,
}

impl Made {
    pub fn new(options: PrepareOptions) -> Self {
        Made { tensors: HashMap::new(), room: AtomicU64::new(options.changes_bytes_max) }
    }

    /// Tensors that are made.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.tensors.len()
    }

    /// Makes tensors of some of the weights, which are given with the patches that lead to them, in the
    /// order of their names.
    pub fn add(
        &mut self,
        tensors: &[OutTensor<'_>],
        base: Option<&dyn TensorSource>,
        control: Control<'_>,
    ) -> Result<()> {
        let mut kept: Vec<KeptTensor> = tensors.iter().map(KeptTensor::begin).collect();
        let mut digests = Vec::with_capacity(kept.len());
        let mut growing = kept.iter_mut().peekable();
        let tasks = tensors.iter().flat_map(OutTensor::pieces);
        let tasks = tasks.map(|piece| Task { piece, with: () });
        let room = &self.room;
        let work = |own: &mut Maker, group| own.make(group, base, room);
        let keep = |piece: &OutPiece<'_>, block| {
            if let Some(tensor) = growing.peek_mut() {
                tensor.blocks.extend(block);
            }
            if piece.last {
                growing.next();
            }
        };
        let before = room.load(Relaxed);
        make_tensors(tasks, control, work, keep, |_, digest| digests.push(digest))
            // What was made of these is dropped.
            .inspect_err(|_| room.store(before, Relaxed))?;
        let made = kept.into_iter().zip(digests).map(|(kept, digest)| {
            let place = place(base, &kept.name, &kept.spec);
            (kept.name.clone(), MadeTensor { kept, digest, place })
        });
        self.tensors.extend(made);
        Ok(())
    }

    /// Makes what is not made yet, and proves the whole. What was made before and is not what the chain
    /// leads to is made again.
    pub fn finish(
        mut self,
        chain: &Chain<'_>,
        weights: &dyn TensorSource,
        control: Control<'_>,
    ) -> Result<Prepared> {
        check_in_place(chain, weights)?;
        check_tied(weights, |name| chain.new_digest(name))?;
        let base = (!chain.first().header().snapshot).then_some(weights);
        let made = target_tensors(base, chain).and_then(|tensors| {
            // Who has the digest that is wanted has the bytes.
            self.tensors.retain(|name, MadeTensor { kept, digest, place: before }| {
                let wanted = chain.histories.get(name.as_str()).and_then(|history| history.target);
                let is_wanted = wanted.is_some_and(|wanted| {
                    wanted.digest == *digest && wanted.spec == Some(&kept.spec)
                });
                is_wanted && place(base, name, &kept.spec) == *before
            });
            self.tensors.values().try_for_each(|made| control.report(made.kept.spec.bytes()))?;
            let (known, rest): (Vec<_>, Vec<_>) =
                tensors.into_iter().partition(|tensor| self.tensors.contains_key(tensor.name));
            self.add(&rest, base, control)?;
            let mut all: Vec<&OutTensor<'_>> = known.iter().chain(&rest).collect();
            all.sort_unstable_by_key(|tensor| tensor.name);
            let mut tally = Tally::default();
            let mut kept = Vec::with_capacity(all.len());
            for tensor in all {
                let made = self.tensors.remove(tensor.name).ok_or_else(|| {
                    Error::Internal(format!("tensor '{}' was not made", tensor.name))
                })?;
                tally.add(tensor.name, tensor.spec, made.digest);
                let (changes, new_digest) = (tensor.changes(), chain.new_digest(tensor.name));
                kept.push(KeptTensor { changes, new_digest, ..made.kept });
            }
            check_whole(tally, chain, base, control)?;
            Ok(kept)
        });
        let tensors = explain(base, chain, control, made)?;
        Ok(Prepared { tensors, report: ApplyReport::of(chain, 0) })
    }
}

impl Chain<'_> {
    /// The digest of a tensor at the end, if it changes.
    fn new_digest(&self, name: &str) -> Option<Digest> {
        let history = self.histories.get(name)?;
        let before = history.base.map(|base| base.digest);
        history.target.map(|target| target.digest).filter(|&after| before != Some(after))
    }
}

/// Refuses to make two tensors of one memory different from each other; `new_digest` tells what each
/// becomes, if it changes.
fn check_tied(
    weights: &dyn TensorSource,
    new_digest: impl Fn(&str) -> Option<Digest>,
) -> Result<()> {
    for (name, _) in weights.tensors() {
        match weights.tied_to(name) {
            Some(other) if new_digest(name) != new_digest(other) => {
                let what =
                    format!("tensors '{name}' and '{other}' have one memory, but would differ");
                return Err(Error::NotInPlace { path: None, what });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses patches that change which tensors there are.
fn check_in_place(chain: &Chain<'_>, weights: &dyn TensorSource) -> Result<()> {
    let moved = |name: &str, action: Action| {
        let what = format!("tensor '{name}' is {}", action.name());
        Err(Error::NotInPlace { path: None, what })
    };
    for patch in chain.patches() {
        let is_snapshot = patch.header().snapshot;
        for TensorEntry { header, .. } in patch.tensors() {
            match weights.spec(&header.name) {
                _ if !is_snapshot && header.action == Action::Patched => {}
                found if is_snapshot && found == header.spec.as_ref() => {}
                Some(_) if is_snapshot => return moved(&header.name, Action::Replaced),
                _ => return moved(&header.name, header.action),
            }
        }
    }
    let first = chain.first();
    let gone = |(name, _): &(&str, _)| first.tensor(name).is_none();
    match weights.tensors().into_iter().find(gone) {
        Some((name, _)) if first.header().snapshot => moved(name, Action::Deleted),
        _ => Ok(()),
    }
}

impl OutTensor<'_> {
    /// Elements that change, as the patches count them.
    fn changes(&self) -> u64 {
        let ends = self.links.iter().filter_map(|link| link.tensor.end);
        ends.fold(0, |sum: u64, end| sum.saturating_add(end.changes))
    }
}

impl KeptTensor {
    fn begin(tensor: &OutTensor<'_>) -> Self {
        let (name, spec) = (tensor.name.into(), tensor.spec.clone());
        KeptTensor { name, spec, changes: 0, new_digest: None, blocks: Vec::new() }
    }
}

/// What a thread keeps while it makes pieces.
#[derive(Debug, Default)]
struct Maker {
    bytes: Vec<u8>,
    /// The bytes of a piece before several patches change it.
    before: Vec<u8>,
    payload: Vec<u8>,
    offsets: Vec<u32>,
    values: Vec<u8>,
    builder: Builder,
}

impl Maker {
    /// Makes the pieces of a group: gives back the digests of their leaves, and what changes. Of that,
    /// as much is held as there is room for.
    fn make<'a>(
        &mut self,
        group: Vec<Task<'a, ()>>,
        base: Option<&dyn TensorSource>,
        room: &AtomicU64,
    ) -> Result<Vec<Done<'a, Option<KeptBlock>>>> {
        let mut done = Vec::with_capacity(group.len());
        let mut small = Vec::with_capacity(group.len());
        for task in group {
            if task.piece.is_one_window() {
                small.push(task.piece);
                continue;
            }
            // Larger than what is made at once: its blocks are kept as they are. Such a piece is the
            // last of its group.
            let kept = KeptBlock::coded(&task.piece, &mut self.payload)?;
            let built = self.builder.build(vec![task], base, None)?.pop();
            done.extend(built.map(|Done { piece, leaves, .. }| Done {
                piece,
                leaves,
                kept: Some(kept),
            }));
        }
        let mut all = self.make_small(small, base, room)?;
        all.append(&mut done);
        Ok(all)
    }

    fn make_small<'a>(
        &mut self,
        pieces: Vec<OutPiece<'a>>,
        base: Option<&dyn TensorSource>,
        room: &AtomicU64,
    ) -> Result<Vec<Done<'a, Option<KeptBlock>>>> {
        // What stays is hashed where it is, if it is in memory.
        let stays = |piece: &OutPiece<'a>| {
            let base = base.filter(|_| !piece.is_changed && piece.bytes > 0)?;
            let bytes = piece.bytes as usize;
            let slice = base.slice(piece.tensor.name, piece.start, bytes)?;
            (slice.len() == bytes).then_some(slice)
        };
        let there: Vec<Option<&[u8]>> = pieces.iter().map(stays).collect();
        let missing = pieces.iter().zip(&there).filter(|(_, slice)| slice.is_none());
        let total = missing.map(|(piece, _)| piece.bytes as usize).sum();
        let mut bytes = std::mem::take(&mut self.bytes);
        // What is there is overwritten; only growth needs to be filled first.
        bytes.resize(bytes.len().max(total), 0);
        let mut rest = bytes.as_mut_slice();
        let mut made = Vec::with_capacity(pieces.len());
        let mut kept = Vec::with_capacity(pieces.len());
        for (piece, slice) in pieces.iter().zip(there) {
            if let Some(slice) = slice {
                made.push(slice);
                kept.push(None);
                continue;
            }
            let (now, later) = rest.split_at_mut(piece.bytes as usize);
            rest = later;
            let OutTensor { name, from_base, .. } = piece.tensor;
            if let (Some(base), true, true) = (base, *from_base, piece.bytes > 0) {
                base.read(name, piece.start, now)?;
            }
            kept.push(if piece.is_changed { Some(self.change(piece, now, room)?) } else { None });
            made.push(&*now);
        }
        let leaves = leaves_of_all(&made);
        self.bytes = bytes;
        let done = |((piece, leaves), kept)| Done { piece, leaves, kept };
        Ok(pieces.into_iter().zip(leaves).zip(kept).map(done).collect())
    }

    /// Changes the bytes of a piece; gives back what changes.
    fn change(
        &mut self,
        piece: &OutPiece<'_>,
        now: &mut [u8],
        room: &AtomicU64,
    ) -> Result<KeptBlock> {
        let Maker { before, payload, offsets, values, builder, .. } = self;
        let bytes = now.len();
        let has_room =
            |held| room.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(held)).is_ok();
        let mut blocks = piece.blocks();
        let changed = match (blocks.next(), blocks.next()) {
            (Some((link, number)), None) => {
                let block = link.patch.block(link.tensor, number, payload)?;
                let made = make(&block, now, offsets, values);
                made.map_err(|error| error.in_file(link.patch.path()))?
            }
            _ => {
                before.clear();
                before.extend_from_slice(now);
                builder.apply(piece, now)?;
                // What a snapshot puts is compared with nothing.
                let before = piece.tensor.from_base.then_some(&before[..]);
                compare(piece.tensor.spec.dtype(), before, now, offsets, values)
            }
        };
        if has_room(changed.bytes()) {
            return Ok(KeptBlock::new(piece.start, bytes, changed));
        }
        KeptBlock::coded(piece, payload)
    }
}

/// An update of weights in memory that is proved and ready: made by [`Patch::prepare`], finished by
/// [`commit`](Self::commit). It holds neither the weights nor the patch.
///
/// Whoever writes to the weights before the commit spoils them: the result is then what nobody has
/// proved. [`Patch::verify_weights`] tells, afterwards.
#[derive(Debug)]
#[must_use = "nothing changes before commit"]
pub struct Prepared {
    /// All tensors of the target, in the order of their names.
    tensors: Vec<KeptTensor>,
    report: ApplyReport,
}

/// A block and the bytes that it changes.
struct Write<'a> {
    tensor: &'a KeptTensor,
    block: &'a KeptBlock,
    bytes: &'a mut [u8],
}

impl Prepared {
    /// What [`commit`](Self::commit) will have done: the digest of the target, which is proved, and totals.
    #[must_use]
    pub fn report(&self) -> &ApplyReport {
        &self.report
    }

    /// The tensors that change, in the order of their names, with their changes: for weights on a
    /// device, and for whoever wants to know what an update changes.
    pub fn tensors(&self) -> impl Iterator<Item = ChangedTensor<'_>> {
        self.tensors.iter().filter(|tensor| !tensor.blocks.is_empty()).map(ChangedTensor)
    }

    /// Tensor bytes in blocks that have to be decoded again, since their changes are more than
    /// [`changes_bytes_max`](PrepareOptions::changes_bytes_max) allows to hold.
    #[must_use]
    pub fn coded_bytes(&self) -> u64 {
        let blocks = self.tensors.iter().flat_map(|tensor| &tensor.blocks);
        blocks.filter(|block| block.is_coded()).map(|block| block.bytes as u64).sum()
    }

    /// Whether [`commit`](Self::commit) would take these weights: by names, dtypes and shapes.
    ///
    /// # Errors
    /// [`Error::Misuse`] names the tensor that is another, [`Error::NotInPlace`] two that have
    /// [one memory](TensorSource::tied_to), but would differ.
    pub fn check(&self, weights: &dyn TensorSource) -> Result<()> {
        self.tensors.iter().try_for_each(|tensor| tensor.check(weights))?;
        let found = weights.tensors();
        if found.len() == self.tensors.len() {
            return check_tied(weights, |name| self.tensor(name)?.new_digest);
        }
        let unknown = |name: &&str| self.tensor(name).is_none();
        let more = found.into_iter().map(|(name, _)| name).find(unknown).unwrap_or_default();
        Err(Error::misuse(format!(
            "tensor '{more}' is one too many: give the weights that the update was prepared for"
        )))
    }

    fn tensor(&self, name: &str) -> Option<&KeptTensor> {
        let at = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        at.ok().map(|at| &self.tensors[at])
    }

    /// Turns the weights, which are those that the update was prepared for and have the same bytes as
    /// then, into the target: writes what changes, in parallel, and hashes nothing.
    ///
    /// The progress of `control` is not asked: once the first weight is written there is no way back.
    ///
    /// # Errors
    /// [`Error::Misuse`] or [`Error::NotInPlace`] for other tensors, as [`check`](Self::check) finds them,
    /// before anything is written. If the weights were written to since, that may be found too, and then
    /// they are spoiled; otherwise nothing is left that could fail.
    pub fn commit(self, weights: &mut WeightsMut<'_>, control: Control<'_>) -> Result<ApplyReport> {
        self.check(weights)?;
        let mut writes = Vec::new();
        for (name, mut rest) in weights.bytes_mut() {
            // They have the same names. What has the memory of another becomes what that one does.
            let Some(tensor) = self.tensor(name) else { continue };
            let mut at = 0;
            for block in &tensor.blocks {
                // Within the tensor, whose bytes are in memory.
                let (_, from) = rest.split_at_mut((block.start - at) as usize);
                let (bytes, later) = from.split_at_mut(block.bytes);
                writes.push(Write { tensor, block, bytes });
                (rest, at) = (later, block.start + block.bytes as u64);
            }
        }
        let groups = Groups {
            items: writes.into_iter(),
            size: |write: &Write<'_>| write.block.work(),
            full: PIECE_BYTES,
        };
        let work = |(): &mut (), group: Vec<Write<'_>>| {
            group.into_iter().try_for_each(|write| write.block.write(write.tensor, write.bytes))
        };
        ordered(control.count(), || (), groups, work, Ok)?;
        Ok(self.report)
    }
}
