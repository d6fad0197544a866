//! The way back: a patch turned round, and the base made again from the target.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::chain::chain::Chain;
use crate::chain::combine::{combine_tensors, Direction};
use crate::checkpoint::{apply, ApplyOptions, Checkpoint};
use crate::coding::Coding;
use crate::disk::staged::temporary_file;
use crate::disk::Disk;
use crate::dtype::TensorSpec;
use crate::error::{Error, Fault, Result};
use crate::limits::Limits;
use crate::patch::Patch;
use crate::stream::{EncoderOptions, Session, Summary, Totals};
use crate::tensors::{ApplyReport, Parallel};
use crate::wire::Action;

/// Turns a patch round: the result leads from its target to its base, and needs neither to be made.
///
/// That is possible for flat blocks of steps and flipped bits, and for added tensors, which are
/// deleted on the way back. The result is flat, has the value form of the patch, and carries no
/// files: what the base's files were does not stand in the patch. Run and steps are those of the
/// patch, unless `options` has its own.
///
/// # Errors
/// [`Error::Misuse`] for a snapshot, and where the way back is lost: contextual and whole blocks,
/// the form overwrite, replaced and deleted tensors. [`Error::Corrupt`], [`Error::Io`].
///
/// ```
/// use std::collections::BTreeMap;
/// use pulse::{Limits, Patch};
/// use pulse::chain::invert;
/// use pulse::coding::Coding;
/// use pulse::dtype::Dtype;
/// use pulse::stream::EncoderOptions;
/// use pulse::tensors::{Parallel, diff_tensors};
/// use pulse::dtype::TensorSpec;
/// use pulse::tensors::TensorRef;
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let base = BTreeMap::from([("w".to_string(), TensorRef::new(spec.clone(), b"abc")?)]);
/// let target = BTreeMap::from([("w".to_string(), TensorRef::new(spec, b"abd")?)]);
/// let options = EncoderOptions::default().with_coding(Coding::Flat);
/// let diff = |base, target| diff_tensors(Some(base), target, Vec::new(), options.clone(), Parallel::default());
///
/// let patch = Patch::from_bytes(diff(&base, &target)?.0, &Limits::default())?;
/// let (back, _) = invert(&patch, Vec::new(), options.clone(), Parallel::default())?;
/// assert_eq!(back, diff(&target, &base)?.0);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn invert<W: Write>(
    patch: &Patch,
    out: W,
    options: EncoderOptions,
    parallel: Parallel<'_>,
) -> Result<(W, Summary)> {
    let (header, footer) = (patch.header(), patch.footer());
    let Some(base) = footer.base else {
        return Err(Error::misuse(format!("{} is a snapshot: there is no base to go back to", patch.path().display())));
    };
    let options = EncoderOptions {
        coding: Coding::Flat,
        snapshot: false,
        run: options.run.or(header.run),
        base_step: options.base_step.or(header.target_step),
        target_step: options.target_step.or(header.base_step),
        trusted_base: None,
        ..options
    };
    let mut session = Session::new(out, options)?;
    let chain = Chain::new(std::slice::from_ref(patch))?;
    combine_tensors(&mut session, &chain, Direction::Back, parallel)?;

    // The base lacks what was added, and nothing was deleted: that would not have come this far.
    let added = || {
        let added = patch.tensors().iter().filter(|tensor| tensor.header.action == Action::Added);
        added.filter_map(|tensor| tensor.header.spec.as_ref())
    };
    let without = |field, total: u64, added: &mut dyn Iterator<Item = u64>| {
        let added = added.fold(0, u64::saturating_add);
        let fault = Fault::Count { field, expected: added, found: total };
        total.checked_sub(added).ok_or_else(|| fault.at(patch.bytes()))
    };
    session.finish_as(Totals {
        target_tensors: without("target tensors", footer.target_tensors, &mut added().map(|_| 1))?,
        target_elements: without("target elements", footer.target_elements, &mut added().map(TensorSpec::elements))?,
        target_bytes: without("target bytes", footer.target_bytes, &mut added().map(TensorSpec::bytes))?,
        base: Some(footer.target),
        target: base,
    })
}

/// Makes the base of `patch` again at `out` from the target that the patch led to.
///
/// The tensors are those of the base, bit for bit, proved by the digest that the patch names. The
/// files are those of `target` with these tensors in them: where the headers or companions of the
/// base were others, they are lost. If the patch added tensors, one file is made for the others.
///
/// # Errors
/// As [`invert`] and [`apply`]; [`Error::TargetMismatch`] if `target` is not the target of the patch.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let write = |name: &str, data: &[u8; 3]| {
/// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// #     let path = dir.path().join(name);
/// #     std::fs::write(&path, [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
/// #     path
/// # };
/// # let (base, target, out) = (write("base", b"abc"), write("target", b"abd"), dir.path().join("out"));
/// use pulse::{Checkpoint, Limits, Patch};
/// use pulse::chain::revert;
/// use pulse::checkpoint::diff;
/// use pulse::coding::Coding;
/// use pulse::stream::EncoderOptions;
/// use pulse::tensors::Parallel;
/// let (base, target) = (Checkpoint::open(&base)?, Checkpoint::open(&target)?);
/// let options = EncoderOptions::default().with_coding(Coding::Flat);
/// let (patch, _) = diff(Some(&base), &target, Vec::new(), options, Parallel::default())?;
///
/// let patch = Patch::from_bytes(patch, &Limits::default())?;
/// revert(&target, &patch, &out, Default::default(), Parallel::default())?;
/// assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(base.path()).unwrap());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn revert(
    target: &Checkpoint,
    patch: &Patch,
    out: &Path,
    options: ApplyOptions,
    parallel: Parallel<'_>,
) -> Result<ApplyReport> {
    // On disk, for it may be large; beside the output, where there is room for a checkpoint.
    let file = temporary_file(out, &Disk::default())?;
    let limits = Limits::default();
    let leaves = patch.header().block_leaves.min(limits.block_leaves);
    // Only the second part of the work is told to whoever watches: both are over the same tensors.
    let silent = Parallel::threads(parallel.count());
    let out_file = BufWriter::with_capacity(1 << 18, file.as_file());
    invert(patch, out_file, EncoderOptions::default().with_block_leaves(leaves), silent)?;
    let inverse = Patch::open(file.path(), &limits)?;
    apply(Some(target), &inverse, out, options, parallel).map_err(|error| match error {
        // The base of the way back is the target of the patch.
        Error::BaseMismatch { tensor, expected, found } => Error::TargetMismatch { tensor, expected, found },
        other => other,
    })
}
