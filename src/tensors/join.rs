//! The parts of all producers to one patch.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use crate::coding::{self, BlockOptions, EncodedBlock, Matrix};
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::hash::{leaf_digests, TensorHasher, LEAF_BYTES};
use crate::stream::{BaseSide, EncoderOptions, Session};
use crate::tensors::diff::Outcomes;
use crate::tensors::part::Settings;
use crate::tensors::pieces::for_each_item;
use crate::tensors::share::{Digests, Edge, Share, Stored};
use crate::tensors::{Control, DiffReport, Part};

/// Writes the patch, or snapshot, of which each producer made a [`Part`]. Their order does not matter.
///
/// The digests are those that a single producer would have found, and so is what receivers make of the
/// patch. Its bytes are the same as well, except around the ends of slices within a tensor: blocks begin
/// where slices do, and leaves that were cut make blocks of their own. No tensor comes together here:
/// blocks are copied from part to patch, and only leaves that were cut are hashed and encoded.
///
/// Every element of every tensor must come from exactly one part. The options must have the block
/// options with which the parts were made. What the parts say is believed, as it is of a single
/// producer: of a part made from other weights comes a patch from or to these. Give the digest that the
/// base must have as [`EncoderOptions::base_digest`], and a rank with another base is noticed here.
///
/// # Errors
/// [`Error::Part`] names tensor, elements and parts where parts leave gaps, overlap or do not agree;
/// [`Error::Misuse`] for options that readers would refuse, and for no parts at all;
/// [`Error::BaseMismatch`] if the base is not the one announced in the options;
/// [`Error::Cancelled`], [`Error::Io`].
///
/// See [`Part`] for an example.
pub fn join(
    parts: impl IntoIterator<Item = Part>,
    out: impl Write,
    options: EncoderOptions,
    control: Control<'_>,
) -> Result<DiffReport> {
    let parts: Vec<Part> = parts.into_iter().collect();
    let has_base = check_settings(&parts, &options)?;
    let tensors = gather(&parts)?;
    let block = options.block;
    let full = options.block_bytes();
    let base_side = if has_base { BaseSide::Hashed } else { BaseSide::Absent };
    let mut session = Session::new(out, options, base_side)?;
    let mut outcomes = Outcomes::default();
    let mut hashers = [TensorHasher::new(), TensorHasher::new()];
    let steps = tensors.iter().flat_map(|tensor| tensor.steps(full));
    let work = |scratch: &mut coding::Scratch, group: &[Step<'_>]| {
        group.iter().map(|step| step.take(block, scratch)).collect()
    };
    let scratch = coding::Scratch::default;
    for_each_item(steps, Step::bytes, full, control, scratch, work, |step, taken| {
        let tensor = step.tensor;
        if step.first {
            session.begin(tensor.name, tensor.base, tensor.target)?;
        }
        for (hasher, leaves) in hashers.iter_mut().zip(taken.leaves) {
            leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
        }
        if let Some(skipped) = step.skipped() {
            session.block(skipped, None)?;
        }
        if let Some((leaves, block)) = taken.block {
            session.block(leaves, block.as_ref())?;
        }
        if step.last {
            let [base, target] = hashers.each_mut().map(|hasher| std::mem::take(hasher).finish());
            let digests =
                (tensor.base_digest.unwrap_or(base), tensor.target_digest.unwrap_or(target));
            outcomes.add(tensor.name, session.end_with(digests.0, digests.1)?);
        }
        Ok(())
    })?;
    let (_, summary) = session.finish()?;
    Ok(outcomes.report(summary))
}

/// Parts of one patch were made in the same way.
fn check_settings(parts: &[Part], options: &EncoderOptions) -> Result<bool> {
    let Some(first) = parts.first() else {
        return Err(Error::misuse("there are no parts to join; give those of all ranks"));
    };
    let expected = Settings::new(options, first.settings().has_base);
    for (number, part) in parts.iter().enumerate() {
        let found = part.settings();
        if found != expected {
            return Err(part.error(format!(
                "part {number} was made with other options, or another kind of patch: {found}; expected {expected}"
            )));
        }
    }
    Ok(expected.has_base)
}

/// A tensor, with what each part has of it.
struct Tensor<'a> {
    name: &'a str,
    base: Option<&'a TensorSpec>,
    target: Option<&'a TensorSpec>,
    /// In the order of the elements; none is empty, unless the tensor is.
    shares: Vec<(&'a Part, &'a Share)>,
    /// Where they are known of the whole.
    base_digest: Option<Digest>,
    target_digest: Option<Digest>,
}

/// A share, and the number of its part.
type Numbered<'a> = (usize, &'a Part, &'a Share);

/// All tensors, each complete.
fn gather(parts: &[Part]) -> Result<Vec<Tensor<'_>>> {
    let mut by_name: BTreeMap<&str, Vec<Numbered<'_>>> = BTreeMap::new();
    for (number, part) in parts.iter().enumerate() {
        for share in part.shares() {
            by_name.entry(&share.name).or_default().push((number, part, share));
        }
    }
    by_name.into_iter().map(|(name, shares)| Tensor::new(name, shares)).collect()
}

fn refused(tensor: &str, what: impl Into<String>) -> Error {
    Error::Part { file: None, what: format!("tensor '{tensor}': {}", what.into()) }
}

fn describe(spec: Option<&TensorSpec>) -> String {
    spec.map_or("absent".into(), TensorSpec::to_string)
}

impl<'a> Tensor<'a> {
    fn new(name: &'a str, mut shares: Vec<Numbered<'a>>) -> Result<Self> {
        let Some(&(one, _, first)) = shares.first() else {
            return Err(Error::Internal(format!("tensor '{name}' is of no part")));
        };
        for &(other, _, share) in &shares {
            for (side, of_one, of_other) in
                [("base", &first.base, &share.base), ("target", &first.target, &share.target)]
            {
                if of_one != of_other {
                    let (of_one, of_other) =
                        (describe(of_one.as_ref()), describe(of_other.as_ref()));
                    return Err(refused(
                        name,
                        format!("in the {side} it is {of_one} in part {one}, and {of_other} in part {other}"),
                    ));
                }
            }
        }
        shares.sort_by_key(|(_, _, share)| (share.range.start, share.range.end));
        if first.total() > 0 {
            shares.retain(|(_, _, share)| !share.range.is_empty());
        } else {
            // Without elements there is nothing that could be there twice.
            shares.truncate(1);
        }
        check_complete(name, first.total(), first.element_bytes(), &shares)?;
        let base_digest = known_digest(name, &shares, |share| &share.base_digests)?;
        let target_digest = known_digest(name, &shares, |share| &share.target_digests)?;
        let shares = shares.into_iter().map(|(_, part, share)| (part, share)).collect();
        let (base, target) = (first.base.as_ref(), first.target.as_ref());
        Ok(Tensor { name, base, target, shares, base_digest, target_digest })
    }

    /// What has to be done for the tensor, in the order of its bytes.
    fn steps(&'a self, full: usize) -> Vec<Step<'a>> {
        let step = |what| Step { tensor: self, what, first: false, last: false };
        let mut steps = Vec::new();
        let mut run: Vec<Piece<'a>> = Vec::new();
        let mut run_bytes = 0;
        for &(part, share) in &self.shares {
            let cut = share.cut();
            let ends = [(cut.head.clone(), &share.head), (cut.tail.clone(), &share.tail)];
            for (end, (range, edge)) in ends.into_iter().enumerate() {
                if !range.is_empty() {
                    run_bytes += range.end - range.start;
                    let stop = range.end;
                    run.push(Piece { part, edge, range });
                    // Where a leaf ends, and the block is full.
                    let is_leaf = stop.is_multiple_of(LEAF_BYTES as u64);
                    if is_leaf && run_bytes >= full as u64 {
                        steps.push(step(What::Run(std::mem::take(&mut run))));
                        run_bytes = 0;
                    }
                }
                if end == 0 && !cut.inner.is_empty() {
                    if !run.is_empty() {
                        steps.push(step(What::Run(std::mem::take(&mut run))));
                        run_bytes = 0;
                    }
                    steps.push(step(What::Digests(share)));
                    let mut at = cut.inner.start / LEAF_BYTES as u64;
                    for (leaves, stored) in &share.blocks {
                        steps.push(step(What::Block {
                            part,
                            stored,
                            skipped: leaves.start - at,
                            leaves: leaves.clone(),
                        }));
                        at = leaves.end;
                    }
                    let left = cut.inner.end.div_ceil(LEAF_BYTES as u64) - at;
                    steps.push(step(What::Unchanged(left)));
                }
            }
        }
        if !run.is_empty() {
            steps.push(step(What::Run(run)));
        }
        if steps.is_empty() {
            steps.push(step(What::Unchanged(0)));
        }
        if let Some(first) = steps.first_mut() {
            first.first = true;
        }
        if let Some(last) = steps.last_mut() {
            last.last = true;
        }
        steps
    }
}

/// Every element is in one share, and in no other.
fn check_complete(
    name: &str,
    total: u64,
    element_bytes: u64,
    shares: &[Numbered<'_>],
) -> Result<()> {
    let elements =
        |from: u64, to: u64| format!("elements {} to {}", from / element_bytes, to / element_bytes);
    let mut end = 0;
    let mut before: Option<usize> = None;
    for &(number, _, share) in shares {
        let Range { start, end: stop } = share.range;
        match before {
            Some(other) if start < end => {
                let (in_both, hint) = if (start..stop) == (0..total) {
                    (
                        "all of it is".into(),
                        "; give a tensor that several ranks hold from one of them",
                    )
                } else {
                    (elements(start, end.min(stop)) + " are", "")
                };
                return Err(refused(
                    name,
                    format!("{in_both} in part {other} and in part {number}{hint}"),
                ));
            }
            _ if start > end => {
                return Err(refused(name, format!("{} are in no part", elements(end, start))));
            }
            _ => {}
        }
        (end, before) = (stop.max(end), Some(number));
    }
    if end < total {
        return Err(refused(name, format!("{} are in no part", elements(end, total))));
    }
    Ok(())
}

/// The digest of a side, if shares have it rather than those of leaves: then all of them have the same.
fn known_digest(
    name: &str,
    shares: &[Numbered<'_>],
    side: impl Fn(&Share) -> &Option<Digests>,
) -> Result<Option<Digest>> {
    let digest = |share: &Share| match side(share) {
        Some(Digests::Tensor(digest)) => Some(*digest),
        Some(Digests::Leaves(_)) | None => None,
    };
    let Some(&(one, _, first)) = shares.first() else { return Ok(None) };
    let expected = digest(first);
    match shares.iter().find(|(_, _, share)| digest(share) != expected) {
        None => Ok(expected),
        Some(&(other, ..)) => Err(refused(
            name,
            format!(
                "part {one} and part {other} were made with different digests of the base on trust"
            ),
        )),
    }
}

/// A part of a leaf.
struct Piece<'a> {
    part: &'a Part,
    edge: &'a Edge,
    /// Bytes of the tensor.
    range: Range<u64>,
}

/// One thing to be done for a tensor.
struct Step<'a> {
    tensor: &'a Tensor<'a>,
    what: What<'a>,
    first: bool,
    last: bool,
}

enum What<'a> {
    /// Leaves that were cut: they come together here.
    Run(Vec<Piece<'a>>),
    /// The digests of a share.
    Digests(&'a Share),
    /// A block that a part has, and the leaves that do not change before it.
    Block { part: &'a Part, stored: &'a Stored, skipped: u64, leaves: Range<u64> },
    /// Leaves that do not change.
    Unchanged(u64),
}

/// What was read for a step.
#[derive(Default)]
struct Taken {
    /// Digests of leaves of base and target.
    leaves: [Vec<Digest>; 2],
    /// A block, `None` if it is unchanged, and the leaves that it covers.
    block: Option<(u64, Option<EncodedBlock>)>,
}

impl Step<'_> {
    /// Bytes of the tensor that are done.
    fn bytes(&self) -> usize {
        let leaf = LEAF_BYTES as u64;
        let bytes = match &self.what {
            What::Run(pieces) => pieces.iter().map(|it| it.range.end - it.range.start).sum(),
            What::Digests(_) => 0,
            What::Block { skipped, leaves, .. } => (skipped + leaves.end - leaves.start) * leaf,
            What::Unchanged(leaves) => leaves * leaf,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Leaves before the block that do not change.
    fn skipped(&self) -> Option<u64> {
        match self.what {
            What::Block { skipped: leaves, .. } | What::Unchanged(leaves) if leaves > 0 => {
                Some(leaves)
            }
            _ => None,
        }
    }

    fn take(&self, options: BlockOptions, scratch: &mut coding::Scratch) -> Result<Taken> {
        let mut taken = Taken::default();
        match &self.what {
            What::Run(pieces) => return self.tensor.close(pieces, options, scratch),
            What::Digests(share) => {
                let sides = [&share.base_digests, &share.target_digests];
                for (leaves, digests) in taken.leaves.iter_mut().zip(sides) {
                    if let Some(Digests::Leaves(found)) = digests {
                        leaves.clone_from(found);
                    }
                }
            }
            What::Block { part, stored, leaves, .. } => {
                taken.block = Some((leaves.end - leaves.start, Some(part.block(stored)?)));
            }
            What::Unchanged(_) => {}
        }
        Ok(taken)
    }
}

impl Tensor<'_> {
    /// Hashes and encodes leaves whose parts are all there.
    fn close(
        &self,
        pieces: &[Piece<'_>],
        options: BlockOptions,
        scratch: &mut coding::Scratch,
    ) -> Result<Taken> {
        let (mut base, mut target) = (Vec::new(), Vec::new());
        let Some(spec) = self.target.or(self.base) else { return Ok(Taken::default()) };
        for Piece { part, edge, range } in pieces {
            // Parts of leaves, which have 64 KiB at most.
            let bytes = (range.end - range.start) as usize;
            let elements = (bytes / spec.dtype().element_bytes()) as u64;
            let mut now = vec![0; bytes];
            let mut apply = |stored: &Option<Stored>, to: Option<&mut Vec<u8>>| -> Result<()> {
                if let Some(stored) = stored {
                    let block = part.block(stored)?;
                    let applied = block
                        .decode(spec.dtype(), elements)
                        .and_then(|mut block| block.apply(&mut now));
                    applied.map_err(|error| part.error(format!("the end of a slice: {error}")))?;
                }
                if let Some(to) = to {
                    to.extend_from_slice(&now);
                }
                Ok(())
            };
            apply(&edge.base, self.base.map(|_| &mut base))?;
            apply(&edge.target, self.target.map(|_| &mut target))?;
        }
        let start = pieces.first().map_or(0, |piece| piece.range.start);
        let block = match (self.base, self.target) {
            (_, None) => None,
            (None, Some(spec)) => {
                Some(coding::encode_whole(spec.dtype(), options, &target, scratch))
            }
            (Some(_), Some(spec)) => {
                let matrix = Matrix::of(spec, start);
                coding::encode(spec.dtype(), matrix, options, &base, &target, scratch)
            }
        };
        let leaves = base.len().max(target.len()).div_ceil(LEAF_BYTES) as u64;
        let block = self.target.map(|_| (leaves, block));
        Ok(Taken { leaves: [leaf_digests(&base), leaf_digests(&target)], block })
    }
}
