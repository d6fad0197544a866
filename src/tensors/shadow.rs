//! The weights that were published last, kept with their digests: what the next patch starts from.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::hash::{leaf_digests, CheckpointHasher, TensorHasher};
use crate::limits::Limits;
use crate::patch::{Patch, TensorEntry};
use crate::stream::{EncoderOptions, TrustedBase};
use crate::tensors::parallel::ordered;
use crate::tensors::pieces::{Groups, PIECE_BYTES};
use crate::tensors::{
    diff, Control, DiffOptions, DiffReport, TensorMut, TensorRef, TensorSource, Weights, WeightsMut,
};
use crate::wire::Action;

/// A trainer's copy of the weights that it published last, with their digests: each checkpoint is
/// hashed once in its life, and nobody has to keep account of what the next patch starts from.
///
/// [`diff`](Self::diff) makes the patch to new weights. When it is published,
/// [`advance`](Self::advance) makes the shadow what receivers now have; a diff that was not published
/// is dropped, and the next one starts from the same base. The shadow follows the patch, not the
/// weights of the trainer: these may change as soon as `diff` is done.
///
/// Memory is one copy of the weights and, from `diff` to `advance`, the patch.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::{Control, Shadow, TensorRef, Weights};
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let weights = |bytes| -> pulse::Result<Weights<'_>> {
///     Ok([("w", TensorRef::new(spec.clone(), bytes)?)].into_iter().collect())
/// };
/// let control = Control::default();
/// let mut shadow = Shadow::new(&weights(b"abc")?, control)?;
/// let mut anchor = Vec::new();
/// shadow.snapshot(&mut anchor, Default::default(), control)?;
/// for step in [b"abd", b"xbd"] {
///     let mut patch = Vec::new();
///     let made = shadow.diff(&weights(step)?, &mut patch, Default::default(), control)?;
///     // Publish the patch; if that fails, drop `made`.
///     shadow.advance(made, control)?;
/// }
/// assert_eq!(shadow.digests().tensors["w"], pulse::hash::tensor_digest(b"xbd"));
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Shadow {
    tensors: BTreeMap<String, (TensorSpec, Vec<u8>)>,
    digests: TrustedBase,
    /// An advance failed half way.
    broken: bool,
}

/// A patch from a [`Shadow`] to new weights that is not published yet.
#[derive(Debug)]
#[must_use = "the shadow stays where it is until advance()"]
pub struct Unpublished {
    /// Digest of the weights that it starts from.
    base: Digest,
    report: DiffReport,
    patch: Vec<u8>,
}

impl Unpublished {
    /// What the diff found.
    #[must_use]
    pub fn report(&self) -> &DiffReport {
        &self.report
    }

    /// The patch, as it was written: to send it again, or elsewhere.
    #[must_use]
    pub fn patch(&self) -> &[u8] {
        &self.patch
    }
}

impl Shadow {
    /// Copies the weights and hashes them, in one pass.
    ///
    /// # Errors
    /// [`Error::Misuse`] for names that are given twice or too long, [`Error::Cancelled`], and
    /// what the source gives.
    pub fn new(weights: &dyn TensorSource, control: Control<'_>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, spec) in weights.tensors() {
            let bytes = usize::try_from(spec.bytes()).map_err(|_| {
                Error::misuse(format!("tensor '{name}': {spec} is too large for this machine"))
            })?;
            tensors.insert(name.to_string(), (spec.clone(), vec![0; bytes]));
        }
        type Piece<'a> = (&'a str, usize, &'a mut [u8]);
        let mut hashers: BTreeMap<String, TensorHasher> =
            tensors.keys().map(|name| (name.clone(), TensorHasher::new())).collect();
        let groups = Groups {
            items: tensors.iter_mut().flat_map(|(name, (_, bytes))| {
                let pieces = bytes.chunks_mut(PIECE_BYTES).enumerate();
                pieces.map(move |(number, bytes)| (name.as_str(), number * PIECE_BYTES, bytes))
            }),
            size: |(_, _, bytes): &Piece<'_>| bytes.len(),
            full: PIECE_BYTES,
        };
        let copy = |group: Vec<Piece<'_>>| {
            group
                .into_iter()
                .map(|(name, start, bytes)| {
                    weights.read(name, start as u64, bytes)?;
                    Ok((name.to_string(), leaf_digests(bytes), bytes.len()))
                })
                .collect::<Result<Vec<_>>>()
        };
        ordered(
            control.count(),
            || (),
            groups,
            |_, group| copy(group),
            |copied| {
                for (name, leaves, bytes) in copied {
                    if let Some(hasher) = hashers.get_mut(&name) {
                        leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
                    }
                    control.report(bytes as u64)?;
                }
                Ok(())
            },
        )?;
        // A copy of what never was would be worse than none.
        weights.check_unchanged()?;
        let mut digests = TrustedBase::default();
        let mut checkpoint = CheckpointHasher::new();
        for (name, hasher) in hashers {
            let digest = hasher.finish();
            if let Some((spec, _)) = tensors.get(&name) {
                checkpoint.add(&name, spec, digest);
            }
            digests.tensors.insert(name, digest);
        }
        digests.checkpoint = checkpoint.finish()?;
        Ok(Shadow { tensors, digests, broken: false })
    }

    /// The digests of the weights that it holds: of the checkpoint, and of every tensor.
    #[must_use]
    pub fn digests(&self) -> &TrustedBase {
        &self.digests
    }

    /// The weights that it holds.
    #[must_use]
    pub fn weights(&self) -> Weights<'_> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, (spec, bytes))| (name, TensorRef::known(spec, bytes))).collect()
    }

    /// Writes the patch that leads from the weights that it holds to `target`, as
    /// [`tensors::diff`](crate::tensors::diff()) does. Its digests are taken on trust, but for one
    /// tensor, another each time, which is hashed again: memory that went bad is noticed.
    ///
    /// # Errors
    /// As [`tensors::diff`](crate::tensors::diff()).
    pub fn diff(
        &self,
        target: &dyn TensorSource,
        out: impl Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Unpublished> {
        self.usable()?;
        let mut out = Keeping { out, kept: Vec::new() };
        let options = DiffOptions::from(options).with_trusted_base(self.digests.clone());
        let report = diff(Some(&self.weights()), target, &mut out, options, control)?;
        Ok(Unpublished { base: self.digests.checkpoint, report, patch: out.kept })
    }

    /// Writes an anchor of the weights that it holds: a patch without a base.
    ///
    /// # Errors
    /// As [`tensors::diff`](crate::tensors::diff()).
    pub fn snapshot(
        &self,
        out: impl Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<DiffReport> {
        self.usable()?;
        diff(None, &self.weights(), out, options.into(), control)
    }

    /// Makes the weights what the published patch leads to. Nothing is hashed: the patch was made here,
    /// from these weights, and its digests were found when it was.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the patch does not start from the weights that this shadow holds: that of
    /// another shadow, or one that was made before the last `advance`. The shadow is then as it was.
    pub fn advance(&mut self, published: Unpublished, control: Control<'_>) -> Result<()> {
        self.usable()?;
        let Unpublished { base, report, patch } = published;
        if base != self.digests.checkpoint {
            return Err(Error::misuse(format!(
                "the patch starts from digest {base}, but the shadow holds {}; make it again",
                self.digests.checkpoint
            )));
        }
        // A patch of its own may unpack to whatever the weights are.
        let limits = Limits::default().with_expansion(u64::MAX).with_name_expansion(u64::MAX);
        let patch = Patch::from_bytes(patch, limits)?;
        let is = |wanted: fn(Action) -> bool| {
            patch.tensors().iter().filter(move |tensor| wanted(tensor.header.action))
        };
        let put = is(Action::is_whole).map(|tensor| put_whole(&patch, tensor));
        let put: Vec<_> = put.collect::<Result<_>>()?;
        let held = self.tensors.iter_mut().filter(|(name, _)| {
            patch.tensor(name).is_some_and(|tensor| tensor.header.action == Action::Patched)
        });
        let mut held: WeightsMut<'_> = held
            .map(|(name, (spec, bytes))| (name.as_str(), TensorMut::known(spec, bytes)))
            .collect();
        // Past this, the weights are neither what they were nor what they become.
        self.broken = true;
        commit(&mut held, &patch, control)?;
        for tensor in is(|action| action == Action::Deleted) {
            self.tensors.remove(&tensor.header.name);
        }
        self.tensors.extend(put);
        self.digests = report.digests;
        self.broken = false;
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        if self.broken {
            return Err(Error::misuse(
                "this shadow failed while it advanced, so its weights are of no state; make a new one",
            ));
        }
        Ok(())
    }
}

/// A block and the bytes that it changes.
struct Change<'a> {
    tensor: &'a TensorEntry,
    block: usize,
    bytes: &'a mut [u8],
}

/// Writes every change. The patch was made from these very bytes, and proves nothing that its maker did
/// not know.
fn commit(weights: &mut WeightsMut<'_>, patch: &Patch, control: Control<'_>) -> Result<()> {
    let mut changes = Vec::new();
    for (name, mut rest) in weights.bytes_mut() {
        let Some(tensor) = patch.tensor(name) else { continue };
        let mut at = 0;
        for (number, block) in tensor.blocks.iter().enumerate() {
            let range = block.range();
            // Within the tensor, whose bytes are in memory.
            let (skip, len) = ((range.start - at) as usize, (range.end - range.start) as usize);
            let (bytes, later) = rest.split_at_mut(skip).1.split_at_mut(len);
            changes.push(Change { tensor, block: number, bytes });
            (rest, at) = (later, range.end);
        }
    }
    let groups = Groups {
        items: changes.into_iter(),
        size: |change: &Change<'_>| change.bytes.len(),
        full: PIECE_BYTES,
    };
    let work = |payload: &mut Vec<u8>, group: Vec<Change<'_>>| {
        group.into_iter().try_for_each(|change| {
            patch.apply_block(change.tensor, change.block, payload, change.bytes)
        })
    };
    // Past the point of no return: the callback is not asked any more.
    ordered(control.count(), Vec::new, groups, work, Ok)
}

/// A tensor that the patch carries whole.
fn put_whole(patch: &Patch, tensor: &TensorEntry) -> Result<(String, (TensorSpec, Vec<u8>))> {
    let Some(spec) = &tensor.header.spec else {
        return Err(Error::Internal("a tensor that is put whole has no spec".into()));
    };
    // It was in memory when the patch was made.
    let mut bytes = vec![0; usize::try_from(spec.bytes()).unwrap_or(0)];
    let mut payload = Vec::new();
    for (number, block) in tensor.blocks.iter().enumerate() {
        let range = block.range();
        let bytes = &mut bytes[range.start as usize..range.end as usize];
        patch.apply_block(tensor, number, &mut payload, bytes)?;
    }
    Ok((tensor.header.name.clone(), (spec.clone(), bytes)))
}

/// Keeps what is written.
struct Keeping<W> {
    out: W,
    kept: Vec<u8>,
}

impl<W: Write> Write for Keeping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.kept.extend_from_slice(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
