//! Applying to weights in memory: proved first, then changed, so that there is nothing to undo.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::patch::{Patch, TensorEntry};
use crate::tensors::parallel::ordered;
use crate::tensors::pieces::{Groups, PIECE_BYTES};
use crate::tensors::target::{build, explain, target_tensors};
use crate::tensors::{ApplyReport, Parallel, TensorMut, TensorSource};
use crate::wire::Action;

/// Turns weights in memory from the base into the target of `patch`, in parallel and without a
/// copy of any tensor.
///
/// The whole target is first made block by block in scratch space and its digests compared;
/// only then are the weights touched. After an error they are what they were: a patch in a file is
/// read into memory, so that what was proved is what is applied. Tensors keep
/// their place: a patch that adds, replaces or deletes tensors is refused.
///
/// # Errors
/// [`Error::BaseMismatch`] if the weights are not the base, [`Error::Corrupt`] if the patch does
/// not lead to its target, [`Error::Misuse`] if it does more than change tensors.
///
/// ```
/// use std::collections::BTreeMap;
/// use pulse::{Limits, Patch};
/// use pulse::dtype::Dtype;
/// use pulse::stream::EncoderOptions;
/// use pulse::tensors::{Parallel, apply_in_place, diff_tensors};
/// use pulse::dtype::TensorSpec;
/// use pulse::tensors::{TensorMut, TensorRef};
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let (mut weights, target) = (*b"abc", *b"abd");
/// # let base = BTreeMap::from([("w".to_string(), TensorRef::new(spec.clone(), b"abc")?)]);
/// # let wanted = BTreeMap::from([("w".to_string(), TensorRef::new(spec.clone(), &target)?)]);
/// # let (patch, _) = diff_tensors(Some(&base), &wanted, Vec::new(), EncoderOptions::default(), Parallel::default())?;
/// let patch = Patch::from_bytes(patch, &Limits::default())?;
/// let mut held = BTreeMap::from([("w".to_string(), TensorMut::new(spec, &mut weights)?)]);
/// apply_in_place(&mut held, &patch, Parallel::default())?;
/// assert_eq!(weights, target);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn apply_in_place(
    weights: &mut BTreeMap<String, TensorMut<'_>>,
    patch: &Patch,
    parallel: Parallel<'_>,
) -> Result<ApplyReport> {
    let stays = |tensor: &&TensorEntry| tensor.header.action != Action::Patched;
    if let Some(tensor) = patch.tensors().iter().find(stays) {
        let (name, action) = (&tensor.header.name, tensor.header.action.name());
        return Err(Error::misuse(format!(
            "tensor '{name}' is {action}: only changes can be applied in place; use apply, or load a snapshot"
        )));
    }
    let loaded = patch.load()?;
    let patch = loaded.as_ref().unwrap_or(patch);
    prove(&*weights, patch, parallel)?;
    change(weights, patch, parallel)?;
    Ok(ApplyReport::of(patch, 0))
}

/// Makes the target in scratch space and compares its digests.
fn prove(weights: &dyn TensorSource, patch: &Patch, parallel: Parallel<'_>) -> Result<()> {
    let made =
        target_tensors(Some(weights), patch).and_then(|tensors| build(&tensors, Some(weights), patch, None, parallel));
    explain(Some(weights), patch, parallel, made)
}

/// A block and the bytes that it changes.
struct Change<'a> {
    tensor: &'a TensorEntry,
    block: usize,
    bytes: &'a mut [u8],
}

/// Applies every block. The same bytes, in memory, were decoded from the same base a moment ago, so
/// nothing is left that could fail.
fn change(weights: &mut BTreeMap<String, TensorMut<'_>>, patch: &Patch, parallel: Parallel<'_>) -> Result<()> {
    let mut changes = Vec::new();
    for (name, weight) in weights.iter_mut() {
        let Some(tensor) = patch.tensor(name) else { continue };
        let mut rest = &mut *weight.bytes;
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
    let groups =
        Groups { items: changes.into_iter(), size: |change: &Change<'_>| change.bytes.len(), full: PIECE_BYTES };
    let work = |payload: &mut Vec<u8>, group: Vec<Change<'_>>| {
        group.into_iter().try_for_each(|change| patch.apply_block(change.tensor, change.block, payload, change.bytes))
    };
    ordered(parallel.count(), Vec::new, groups, work, Ok)
}
