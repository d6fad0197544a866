//! The weights that were published last, kept with their digests: what the next patch starts from.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::hash::{CheckpointHasher, TensorHasher};
use crate::limits::Limits;
use crate::patch::chain::Link;
use crate::patch::{Patch, TensorEntry};
use crate::stream::{EncoderOptions, TrustedBase};
use crate::tensors::builder::Builder;
use crate::tensors::parallel::ordered;
use crate::tensors::snapshot::buffers;
use crate::tensors::target::{base_tensors, groups, hashed, pieces_in, Done, OutTensor, Task};
use crate::tensors::{diff, Control, DiffOptions, DiffReport, TensorRef, TensorSource, Weights};
use crate::wire::TensorHeader;

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
        let tensors = base_tensors(weights);
        let mut buffers = buffers(&tensors)?;
        let tasks = pieces_in(&tensors, buffers.iter_mut().map(Vec::as_mut_slice));
        let copy = |(): &mut (), group| copied(weights, group);
        let (mut checkpoint, mut hasher) = (CheckpointHasher::new(), TensorHasher::new());
        let mut digests = TrustedBase::default();
        ordered(
            control.count(),
            || (),
            groups(tasks),
            copy,
            |copied| {
                for Done { piece, leaves, .. } in copied {
                    leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
                    if piece.last {
                        let OutTensor { name, spec, .. } = piece.tensor;
                        let digest = std::mem::take(&mut hasher).finish();
                        checkpoint.add(name, spec, digest);
                        digests.tensors.insert((*name).into(), digest);
                    }
                    control.report(piece.bytes)?;
                }
                Ok(())
            },
        )?;
        // A copy of what never was would be worse than none.
        weights.check_unchanged()?;
        digests.checkpoint = checkpoint.finish()?;
        let tensors = tensors.iter().zip(buffers);
        let tensors =
            tensors.map(|(tensor, bytes)| (tensor.name.into(), (tensor.spec.clone(), bytes)));
        Ok(Shadow { tensors: tensors.collect(), digests, broken: false })
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
        let put = |entry: &&TensorEntry| entry.header.action.is_whole();
        let put: Vec<OutTensor<'_>> =
            patch.tensors().iter().filter(put).filter_map(|entry| changed(&patch, entry)).collect();
        let room = buffers(&put)?;
        // Past this, the weights are neither what they were nor what they become.
        self.broken = true;
        for (tensor, room) in put.iter().zip(room) {
            self.tensors.insert(tensor.name.into(), (tensor.spec.clone(), room));
        }
        let mut tensors = Vec::new();
        let mut held = Vec::new();
        for (name, (_, bytes)) in &mut self.tensors {
            if let Some(tensor) = patch.tensor(name).and_then(|entry| changed(&patch, entry)) {
                tensors.push(tensor);
                held.push(bytes.as_mut_slice());
            }
        }
        let tasks = pieces_in(&tensors, held).filter(|task| task.piece.is_changed);
        let apply = |builder: &mut Builder, group: Vec<Task<'_, &mut [u8]>>| {
            group.into_iter().try_for_each(|task| builder.apply(&task.piece, task.with))
        };
        // Past the point of no return: the callback is not asked any more.
        ordered(control.count(), Builder::default, groups(tasks), apply, Ok)?;
        for entry in patch.tensors().iter().filter(|entry| entry.header.spec.is_none()) {
            self.tensors.remove(&entry.header.name);
        }
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

/// Pieces with the bytes of the weights, and their digests.
fn copied<'a>(
    weights: &dyn TensorSource,
    mut group: Vec<Task<'a, &mut [u8]>>,
) -> Result<Vec<Done<'a, ()>>> {
    for Task { piece, with } in group.iter_mut().filter(|task| task.piece.bytes > 0) {
        weights.read(piece.tensor.name, piece.start, with)?;
    }
    Ok(hashed(group))
}

/// A tensor that the patch changes or puts; none if it deletes it.
fn changed<'a>(patch: &'a Patch, tensor: &'a TensorEntry) -> Option<OutTensor<'a>> {
    let TensorHeader { name, spec, .. } = &tensor.header;
    Some(OutTensor::new(name, spec.as_ref()?, Some(Link { patch, tensor })))
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
