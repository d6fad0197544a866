//! Why something went wrong: because of the base, or because of a patch, and of which.
//!
//! Asked only after a failure, for it costs passes over the base.

use crate::digest::Digest;
use crate::error::{BaseMismatch, Error, Result};
use crate::patch::{Chain, Patch, TensorEntry};
use crate::stream::fit::compare_tensors;
use crate::tensors::pieces::digests;
use crate::tensors::target::{build, target_tensors};
use crate::tensors::{Control, TensorSource};

/// When something went wrong, finds out whether the base is the reason, and else which patch: the
/// structure of the patches themselves was verified before.
pub(crate) fn explain<T>(
    base: Option<&dyn TensorSource>,
    chain: &Chain<'_>,
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
        chain.check_unchanged()?;
        base.map_or(Ok(()), |base| base.check_unchanged())?;
    }
    if let (true, Some(base)) = (suspect, base) {
        check_base(base, chain, control)?;
    }
    match result {
        Err(error @ (Error::Corrupt(_) | Error::WrongResult { .. })) => {
            Err(first_failure(base, chain, control, error))
        }
        result => result,
    }
}

/// The error of a patch that does not lead from its base to its target, if one in the middle of a chain
/// does not: what it made may look like a fault of those after it. The base of the chain is right, and
/// `error` is what all of it came to; so by halves, as what the patches before one of them make is proved
/// or not.
fn first_failure(
    base: Option<&dyn TensorSource>,
    chain: &Chain<'_>,
    control: Control<'_>,
    mut error: Error,
) -> Error {
    let patches = chain.patches();
    let (mut right, mut wrong) = (0, patches.len());
    while wrong - right > 1 {
        let middle = right + (wrong - right) / 2;
        let made = Chain::new(&patches[..middle])
            .and_then(|part| build(&target_tensors(base, &part)?, base, &part, None, control));
        match made {
            Ok(()) => right = middle,
            Err(found @ (Error::Corrupt(_) | Error::WrongResult { .. })) => {
                (wrong, error) = (middle, found);
            }
            Err(other) => return other,
        }
    }
    error
}

/// Compares the digest of the base with the one that the first patch names.
pub(crate) fn check_base(
    base: &dyn TensorSource,
    chain: &Chain<'_>,
    control: Control<'_>,
) -> Result<()> {
    let first = chain.first();
    let Some(expected) = first.footer().base else { return Ok(()) };
    let differing = differing_tensor(base, control, |name| {
        chain.histories.get(name)?.base.map(|base| base.digest)
    })?;
    if expected == differing.checkpoint {
        return Ok(());
    }
    let mut mismatch = match differing.tensor {
        Some((name, expected, found)) => BaseMismatch::new(Some(name), expected, found),
        None => BaseMismatch::new(None, expected, differing.checkpoint),
    };
    let is_reached = |patch: &Patch| patch.footer().target == differing.checkpoint;
    let reached = chain.patches().iter().rposition(is_reached);
    let applied = reached.map_or(0, |last| last + 1);
    mismatch.is_target = applied == chain.patches().len();
    mismatch.applied = if mismatch.is_target { 0 } else { applied };
    let named = first.tensors().iter().map(|TensorEntry { header, .. }| header);
    compare_tensors(
        &mut mismatch,
        first.footer().target_tensors,
        named.map(|tensor| (tensor.name.as_str(), tensor.action, tensor.spec.as_ref())),
        base.tensors().len() as u64,
        |name| base.spec(name),
    );
    Err(Error::BaseMismatch(Box::new(mismatch)).in_file(first.path()))
}

/// Compares the digests of a checkpoint with those that the patch names for its target.
pub(crate) fn check_target(
    target: &dyn TensorSource,
    patch: &Patch,
    control: Control<'_>,
) -> Result<()> {
    let found = differing_tensor(target, control, |name| patch.tensor(name)?.end?.target)?;
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

/// Digests a checkpoint and compares it with the tensor digests that are expected.
pub(crate) fn differing_tensor(
    checkpoint: &dyn TensorSource,
    control: Control<'_>,
    expected: impl Fn(&str) -> Option<Digest>,
) -> Result<Differing> {
    let mut tensor = None;
    let checkpoint = digests(checkpoint, control, |name, _, found| {
        if let Some(expected) = expected(name) {
            if expected != found && tensor.is_none() {
                tensor = Some((name.to_string(), expected, found));
            }
        }
    })?;
    Ok(Differing { checkpoint, tensor })
}
