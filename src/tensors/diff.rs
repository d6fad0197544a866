//! Two sets of tensors to a patch.

use std::collections::BTreeMap;
use std::io::Write;

use crate::coding::{self, BlockOptions, EncodedBlock, Matrix};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hash::{digest_leaves, LEAF_BYTES};
use crate::stream::{BaseSide, EncoderOptions, Session, Summary, TensorOutcome, TrustedBase};
use crate::tensors::pieces::{for_each_piece, pairs, Buffers, Pair, Piece};
use crate::tensors::{Control, TensorSource};
use crate::wire::Action;

/// What a diff found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiffReport {
    /// Size, totals and digests of the patch.
    pub summary: Summary,
    /// Digests of all tensors of the target, also of those that did not change: what the next diff,
    /// which starts from there, may take on trust.
    pub digests: TrustedBase,
    /// Tensors by what happens to them; those that are not counted here did not change.
    pub actions: BTreeMap<Action, u64>,
    /// Size of the target's files: what a full copy would transfer.
    pub target_file_bytes: u64,
    /// Companions that the base does not have: the patch carries them whole.
    pub carried: Vec<Carried>,
    /// Names of companions of the base that the target does not have: receivers lose them.
    pub removed: Vec<String>,
}

/// A file that a patch carries whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// Its size; it is compressed in the patch.
    pub bytes: u64,
}

/// How a diff is made and written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffOptions {
    /// How the patch is written.
    pub encoder: EncoderOptions,
    /// Digests of the base that need not be computed again.
    pub trusted_base: Option<TrustedBase>,
    /// Whether one tensor of a trusted base is hashed all the same, so that the digests of another
    /// base are noticed before a patch is published. Which one depends on the digest of the
    /// checkpoint, as with [`TrustedBase::check_sample`]. True by default.
    pub sample: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        EncoderOptions::default().into()
    }
}

impl DiffOptions {
    /// Replaces [`encoder`](Self::encoder).
    #[must_use]
    pub fn with_encoder(mut self, encoder: EncoderOptions) -> Self {
        self.encoder = encoder;
        self
    }

    /// Replaces [`trusted_base`](Self::trusted_base).
    #[must_use]
    pub fn with_trusted_base(mut self, base: TrustedBase) -> Self {
        self.trusted_base = Some(base);
        self
    }

    /// Replaces [`sample`](Self::sample).
    #[must_use]
    pub fn with_sample(mut self, sample: bool) -> Self {
        self.sample = sample;
        self
    }

    /// What is known of the base beforehand.
    pub(crate) fn base_side(&self, has_base: bool) -> Result<BaseSide> {
        match (&self.trusted_base, has_base) {
            (None, true) => Ok(BaseSide::Hashed),
            (Some(trusted), true) => Ok(BaseSide::Trusted(trusted.clone())),
            (None, false) => Ok(BaseSide::Absent),
            (Some(_), false) => Err(Error::misuse(
                "options: digests of a base were given, but there is no base; leave them out",
            )),
        }
    }
}

impl From<EncoderOptions> for DiffOptions {
    fn from(encoder: EncoderOptions) -> Self {
        DiffOptions { encoder, trusted_base: None, sample: true }
    }
}

/// Writes the patch that leads from `base` to `target`, which may be anywhere: in memory, or where
/// a [`TensorSource`] of the caller has them; without a base, a snapshot. It carries tensors only,
/// no files.
///
/// The bytes depend on the tensors and the options only, not on the number of threads.
///
/// # Errors
/// [`Error::Misuse`] for options and tensors that readers would refuse, [`Error::BaseMismatch`] if
/// the base is not the one announced in the options or the digests on trust are not its own, [`Error::Cancelled`], [`Error::Io`].
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::{diff, Control, DiffOptions, TensorRef, Weights};
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let base: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
/// let target: Weights = [("w", TensorRef::new(spec, b"abd")?)].into_iter().collect();
/// let mut patch = Vec::new();
/// let report = diff(Some(&base), &target, &mut patch, DiffOptions::default(), Control::default())?;
/// assert_eq!(report.summary.footer.changes, 1);
/// assert_eq!(report.summary.patch_bytes, patch.len() as u64);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn diff(
    base: Option<&dyn TensorSource>,
    target: &dyn TensorSource,
    out: impl Write,
    options: DiffOptions,
    control: Control<'_>,
) -> Result<DiffReport> {
    let sample = options.sample;
    let base_side = options.base_side(base.is_some())?;
    let mut session = Session::new(out, options.encoder, base_side)?;
    let found = encode_tensors(&mut session, base, target, sample, control)?;
    let (_, summary) = session.finish()?;
    Ok(found.report(summary))
}

/// What became of the tensors.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub actions: BTreeMap<Action, u64>,
    /// Digests of those that the target has.
    tensors: BTreeMap<String, Digest>,
}

impl Outcomes {
    pub fn add(&mut self, name: &str, outcome: TensorOutcome) {
        if outcome.written {
            *self.actions.entry(outcome.action).or_default() += 1;
        }
        if let Some(digest) = outcome.target {
            self.tensors.insert(name.into(), digest);
        }
    }

    pub fn report(self, summary: Summary) -> DiffReport {
        let mut digests = TrustedBase::new(summary.footer.target);
        digests.tensors = self.tensors;
        let target_file_bytes = summary.footer.target_bytes;
        let (carried, removed) = (Vec::new(), Vec::new());
        let actions = self.actions;
        DiffReport { summary, digests, actions, target_file_bytes, carried, removed }
    }
}

/// Encodes all tensors in parallel and tells the session of them in the order of their names. Of
/// digests taken on trust, that of a `sample` is compared.
pub(crate) fn encode_tensors<W: Write>(
    session: &mut Session<W>,
    base: Option<&dyn TensorSource>,
    target: &dyn TensorSource,
    sample: bool,
    control: Control<'_>,
) -> Result<Outcomes> {
    let (block_bytes, options) = (session.options.block_bytes(), session.options.block);
    let base_side = session.base_side.clone();
    let sample = match (&base_side, base) {
        (BaseSide::Trusted(trusted), Some(base)) if sample => trusted.sample(base, |_| true),
        _ => None,
    };
    let is_trusted = |name: &str| base_side.trusted_digest(name).is_some() && Some(name) != sample;
    let pairs = pairs(base, Some(target));
    let mut outcomes = Outcomes::default();
    let work = |own: &mut Encoding, group: &[Piece<'_>]| {
        own.encode(group, base, Some(target), options, &is_trusted)
    };
    let encoded = for_each_piece(
        &pairs,
        block_bytes,
        control,
        Encoding::default,
        work,
        |piece, done: Encoded| {
            if piece.first {
                session.begin(piece.pair.name, piece.pair.base, piece.pair.target)?;
            }
            let open = session.open()?;
            done.base_leaves.iter().for_each(|leaf| open.base.push_leaf(leaf));
            done.target_leaves.iter().for_each(|leaf| open.target.push_leaf(leaf));
            if !done.target_leaves.is_empty() {
                session.block(done.target_leaves.len() as u64, done.block.as_ref())?;
            }
            if piece.last {
                let name = piece.pair.name;
                if let (true, Some(expected)) = (Some(name) == sample, session.open()?.trusted) {
                    let found = std::mem::take(&mut session.open()?.base).finish();
                    check_sampled(name, expected, found)?;
                }
                outcomes.add(name, session.end()?);
            }
            Ok(())
        },
    );
    if matches!(encoded, Ok(()) | Err(Error::Io { .. } | Error::BaseMismatch(_))) {
        // Before the footer: a patch to what never was must not be complete.
        base.into_iter().chain([target]).try_for_each(|source| source.check_unchanged())?;
    }
    encoded?;
    Ok(outcomes)
}

/// A digest that was taken on trust, and that of the bytes.
pub(super) fn check_sampled(name: &str, expected: Digest, found: Digest) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::wrong_base(Some(name.into()), expected, found))
}

/// What a thread keeps while it encodes pieces.
#[derive(Debug, Default)]
pub(super) struct Encoding {
    buffers: Buffers,
    scratch: coding::Scratch,
}

/// What became of a piece.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Empty if the digest of the base tensor is taken on trust.
    pub base_leaves: Vec<Digest>,
    pub target_leaves: Vec<Digest>,
    /// Absent if nothing changed, or if there is no target.
    pub block: Option<EncodedBlock>,
}

impl Encoding {
    pub fn encode(
        &mut self,
        group: &[Piece<'_>],
        base: Option<&dyn TensorSource>,
        target: Option<&dyn TensorSource>,
        options: BlockOptions,
        is_trusted: &impl Fn(&str) -> bool,
    ) -> Result<Vec<Encoded>> {
        let (bases, targets) = self.buffers.read(group, base, target)?;
        // All leaves of the group are hashed in one batch.
        let mut batch = Batch::default();
        let mut encoded = Vec::with_capacity(group.len());
        for ((piece, base), target) in group.iter().zip(bases).zip(targets) {
            let Pair { name, base: base_spec, target: target_spec, .. } = piece.pair;
            let block = match (base_spec, target_spec) {
                (_, None) => None,
                (Some(base_spec), Some(spec)) if base_spec == spec => {
                    let matrix = Matrix::of(spec, piece.start);
                    coding::encode(spec.dtype(), matrix, options, base, target, &mut self.scratch)
                }
                (_, Some(_)) if target.is_empty() => None,
                (_, Some(spec)) => {
                    Some(coding::encode_whole(spec.dtype(), options, target, &mut self.scratch))
                }
            };
            encoded.push((batch.add(base, target, is_trusted(name)), block));
        }
        let digests = digest_leaves(&batch.leaves);
        let at = |places: Vec<usize>| places.into_iter().map(|place| digests[place]).collect();
        let finish = |((base, target), block): ((Vec<usize>, Vec<usize>), _)| Encoded {
            base_leaves: at(base),
            target_leaves: at(target),
            block,
        };
        Ok(encoded.into_iter().map(finish).collect())
    }
}

/// Leaves to hash at once.
#[derive(Debug, Default)]
struct Batch<'a> {
    leaves: Vec<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Adds the leaves of both sides; gives back where in the batch those of each are. A target
    /// leaf that equals its base leaf has the same digest and is not hashed again.
    fn add(
        &mut self,
        base: &'a [u8],
        target: &'a [u8],
        base_trusted: bool,
    ) -> (Vec<usize>, Vec<usize>) {
        let first = self.leaves.len();
        if !base_trusted {
            self.leaves.extend(base.chunks(LEAF_BYTES));
        }
        let end = self.leaves.len();
        let mut places = Vec::with_capacity(target.len().div_ceil(LEAF_BYTES));
        for (number, leaf) in target.chunks(LEAF_BYTES).enumerate() {
            let same = self.leaves[first..end].get(number) == Some(&leaf);
            places.push(if same { first + number } else { self.leaves.len() });
            if !same {
                self.leaves.push(leaf);
            }
        }
        ((first..end).collect(), places)
    }
}
