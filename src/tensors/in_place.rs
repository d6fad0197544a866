//! Applying to weights in memory: verified first, then written, so that there is nothing to undo.

use crate::error::{Error, Result};
use crate::patch::{Patch, TensorEntry};
use crate::tensors::diagnose::explain;
use crate::tensors::parallel::ordered;
use crate::tensors::pieces::{Groups, PIECE_BYTES};
use crate::tensors::target::{build, target_tensors};
use crate::tensors::{ApplyReport, Control, TensorSource, WeightsMut};
use crate::wire::Action;

impl Patch {
    /// Turns weights in memory from the base into the target of the patch, in parallel and without
    /// a copy of any tensor.
    ///
    /// The whole target is first made block by block in scratch space and its digests compared;
    /// only then are the weights written. After an error they are what they were: a patch in a file
    /// is read into memory, so that what was verified is what is applied. Tensors keep
    /// their place: a patch that adds, replaces or deletes tensors is refused.
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] if the weights are not the base, [`Error::Corrupt`] if the patch does
    /// not lead to its target, [`Error::NotInPlace`] if it does more than change tensors,
    /// [`Error::Cancelled`].
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::tensors::{diff, Control, DiffOptions, TensorMut, TensorRef, Weights, WeightsMut};
    /// use pulse::{Limits, Patch};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let (mut weights, target) = (*b"abc", *b"abd");
    /// # let mut patch = Vec::new();
    /// # let base: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
    /// # let wanted: Weights = [("w", TensorRef::new(spec.clone(), &target)?)].into_iter().collect();
    /// # diff(Some(&base), &wanted, &mut patch, DiffOptions::default(), Control::default())?;
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// let mut held: WeightsMut = [("w", TensorMut::new(spec, &mut weights)?)].into_iter().collect();
    /// patch.apply_to(&mut held, Control::default())?;
    /// assert_eq!(weights, target);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn apply_to(
        &self,
        weights: &mut WeightsMut<'_>,
        control: Control<'_>,
    ) -> Result<ApplyReport> {
        let stays = |tensor: &&TensorEntry| tensor.header.action != Action::Patched;
        if let Some(tensor) = self.tensors().iter().find(stays) {
            let (name, action) = (&tensor.header.name, tensor.header.action.name());
            return Err(Error::NotInPlace {
                path: None,
                what: format!("tensor '{name}' is {action}"),
            });
        }
        let loaded = self.load()?;
        let patch = loaded.as_ref().unwrap_or(self);
        verify(&*weights, patch, control)?;
        commit(weights, patch, control)?;
        Ok(ApplyReport::of(patch, 0))
    }
}

/// Makes the target in scratch space and compares its digests.
fn verify(weights: &dyn TensorSource, patch: &Patch, control: Control<'_>) -> Result<()> {
    let made = target_tensors(Some(weights), patch)
        .and_then(|tensors| build(&tensors, Some(weights), patch, None, control));
    explain(Some(weights), patch, control, made)
}

/// A block and the bytes that it changes.
struct Change<'a> {
    tensor: &'a TensorEntry,
    block: usize,
    bytes: &'a mut [u8],
}

/// Writes every change. The same bytes, in memory, were decoded from the same base a moment ago, so
/// nothing is left that could fail.
pub(super) fn commit(
    weights: &mut WeightsMut<'_>,
    patch: &Patch,
    control: Control<'_>,
) -> Result<()> {
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
