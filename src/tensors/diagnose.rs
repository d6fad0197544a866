//! Why something went wrong: because of the base, or because of the patch.
//!
//! Asked only after a failure, for it costs a pass over the base.

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{BaseMismatch, Error, Reshaped, Result};
use crate::patch::{Patch, TensorEntry};
use crate::tensors::pieces::digests;
use crate::tensors::{Control, TensorSource};
use crate::wire::Action;

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
    compare_tensors(&mut mismatch, base, patch);
    Err(Error::BaseMismatch(Box::new(mismatch)).in_file(patch.path()))
}

/// How the tensors of the base differ from those that the patch expects, as far as it names them.
fn compare_tensors(mismatch: &mut BaseMismatch, base: &dyn TensorSource, patch: &Patch) {
    let reshaped = |name: &str, expected: &TensorSpec, found: &TensorSpec| Reshaped {
        tensor: name.into(),
        expected: expected.to_string(),
        found: found.to_string(),
    };
    let mut tensors = patch.footer().target_tensors;
    for TensorEntry { header, .. } in patch.tensors() {
        let name = &header.name;
        match (header.action, &header.spec, base.spec(name)) {
            (Action::Added, _, Some(_)) => mismatch.extra.push(name.clone()),
            (Action::Patched, Some(expected), Some(found)) if expected != found => {
                mismatch.reshaped.push(reshaped(name, expected, found));
            }
            (Action::Patched | Action::Replaced | Action::Deleted, _, None) => {
                mismatch.missing.push(name.clone())
            }
            _ => {}
        }
        match header.action {
            Action::Added => tensors = tensors.saturating_sub(1),
            Action::Deleted => tensors = tensors.saturating_add(1),
            Action::Patched | Action::Replaced => {}
        }
    }
    mismatch.tensors = Some((tensors, base.tensors().len() as u64));
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
