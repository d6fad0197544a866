//! Applying to weights in memory: verified first, then written, so that there is nothing to undo.

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::patch::Patch;
use crate::tensors::diagnose::check_target;
use crate::tensors::{ApplyReport, Control, PrepareOptions, TensorSource, WeightsMut};

impl Patch {
    /// Turns weights in memory from the base into the target of the patch, in parallel and without
    /// a copy of any tensor.
    ///
    /// The whole target is first made block by block in scratch space and its digests compared;
    /// only then are the weights written. After an error they are what they were. Tensors keep
    /// their place: a patch that adds, replaces or deletes tensors is refused. A snapshot is taken if
    /// it has the same tensors as the weights, and these too stay what they were until it is proved.
    ///
    /// This is [`prepare`](Self::prepare) and [`commit`](crate::tensors::Prepared::commit) in one call:
    /// apart, the weights can be used until the last moment.
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
        let prepared = self.prepare(&*weights, PrepareOptions::default(), control)?;
        prepared.commit(weights, control)
    }

    /// Checks that weights have the digests that the patch names for its target: all of them are hashed.
    /// See [`prepare`](Self::prepare) for an example.
    ///
    /// # Errors
    /// [`Error::TargetMismatch`] names the first tensor of the patch that differs, if one does;
    /// [`Error::Cancelled`], [`Error::Io`].
    pub fn verify_weights(&self, weights: &dyn TensorSource, control: Control<'_>) -> Result<()> {
        check_target(weights, self, control)
    }
}
