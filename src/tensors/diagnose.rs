//! Why something went wrong: because of the base, or because of the patch.
//!
//! Asked only after a failure, for it costs a pass over the base.

use crate::digest::Digest;
use crate::error::{BaseMismatch, Error, Result};
use crate::patch::{Patch, TensorEntry};
use crate::stream::fit::compare_tensors;
use crate::tensors::pieces::digests;
use crate::tensors::{Control, TensorSource};

/// When something went wrong, finds out whether the base is the reason: the structure of the patch
/// itself was verified before.
pub(crate) fn explain<T>(
    base: Option<&dyn TensorSource>,
    patch: &Patch,
    control: Control<'_>,
    result: Result<T>,
) -> Result<T> {
    let suspect = matches!(
        result,
        Err(Error::Corrupt(_)
            | Error::WrongResult { .. }
            | Error::Unfit { .. }
            | Error::BaseFile { .. }
            | Error::BaseMismatch(_)
            | Error::BadFile { .. })
    );
    if suspect || matches!(result, Err(Error::Io { .. })) {
        // Nobody made a mistake if what was read changed meanwhile.
        patch.check_unchanged()?;
        base.map_or(Ok(()), |base| base.check_unchanged())?;
    }
    if let (true, Some(base)) = (suspect, base) {
        check_base(base, patch, control)?;
    }
    result
}

/// Compares the digest of the base with the one that the patch names.
pub(crate) fn check_base(
    base: &dyn TensorSource,
    patch: &Patch,
    control: Control<'_>,
) -> Result<()> {
    let Some(expected) = patch.footer().base else { return Ok(()) };
    let differing =
        differing_tensor(base, patch, control, |tensor| tensor.end.and_then(|end| end.base))?;
    if expected == differing.checkpoint {
        return Ok(());
    }
    let mut mismatch = match differing.tensor {
        Some((name, expected, found)) => BaseMismatch::new(Some(name), expected, found),
        None => BaseMismatch::new(None, expected, differing.checkpoint),
    };
    mismatch.is_target = differing.checkpoint == patch.footer().target;
    let named = patch.tensors().iter().map(|TensorEntry { header, .. }| header);
    compare_tensors(
        &mut mismatch,
        patch.footer().target_tensors,
        named.map(|tensor| (tensor.name.as_str(), tensor.action, tensor.spec.as_ref())),
        base.tensors().len() as u64,
        |name| base.spec(name),
    );
    Err(Error::BaseMismatch(Box::new(mismatch)).in_file(patch.path()))
}

/// Compares the digests of a checkpoint with those that the patch names for its target.
pub(crate) fn check_target(
    target: &dyn TensorSource,
    patch: &Patch,
    control: Control<'_>,
) -> Result<()> {
    let found =
        differing_tensor(target, patch, control, |tensor| tensor.end.and_then(|end| end.target))?;
    let expected = patch.footer().target;
    if found.checkpoint == expected {
        return Ok(());
    }
    let (tensor, expected, found) = match found.tensor {
        Some((name, expected, found)) => (Some(name), expected, found),
        None => (None, expected, found.checkpoint),
    };
    Err(Error::TargetMismatch { file: patch.path().map(Into::into), tensor, expected, found })
}

pub(crate) struct Differing {
    pub checkpoint: Digest,
    /// The first tensor, in the order of names, whose digest is not the expected one: name,
    /// expected, found.
    pub tensor: Option<(String, Digest, Digest)>,
}

/// Digests a checkpoint and compares it with the tensor digests that the patch names.
pub(crate) fn differing_tensor(
    checkpoint: &dyn TensorSource,
    patch: &Patch,
    control: Control<'_>,
    expected: impl Fn(&TensorEntry) -> Option<Digest>,
) -> Result<Differing> {
    let mut tensor = None;
    let checkpoint = digests(checkpoint, control, |name, _, found| {
        if let Some(expected) = patch.tensor(name).and_then(&expected) {
            if expected != found && tensor.is_none() {
                tensor = Some((name.to_string(), expected, found));
            }
        }
    })?;
    Ok(Differing { checkpoint, tensor })
}
