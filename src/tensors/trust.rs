//! Digests taken on trust, compared with the base that they are said to be of.

use crate::error::{BaseMismatch, Error, Result};
use crate::stream::TrustedBase;
use crate::tensors::pieces::{digests, digests_of};
use crate::tensors::{Control, TensorSource};

impl TrustedBase {
    /// The digests of a checkpoint, or of weights, wherever they are: all of it is read.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::Io`].
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::hash::tensor_digest;
    /// use pulse::stream::TrustedBase;
    /// use pulse::tensors::{Control, TensorRef, Weights};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let weights: Weights = [("w", TensorRef::new(spec, b"abc")?)].into_iter().collect();
    /// let digests = TrustedBase::of(&weights, Control::default())?;
    /// assert_eq!(digests.tensors["w"], tensor_digest(b"abc"));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn of(source: &dyn TensorSource, control: Control<'_>) -> Result<Self> {
        let mut of = TrustedBase::default();
        of.checkpoint = digests(source, control, |name, _, digest| {
            of.tensors.insert(name.into(), digest);
        })?;
        Ok(of)
    }

    /// Compares one tensor of the base with its trusted digest: enough to notice the digests of
    /// another checkpoint, for the price of one tensor. Which one it is depends on the digest of the
    /// checkpoint, so it is another for each. Without a trusted digest of a tensor, every
    /// tensor is read, as by [`check`](Self::check).
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] names the tensor; [`Error::Cancelled`], [`Error::Io`].
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::hash::{tensor_digest, Digest};
    /// use pulse::stream::TrustedBase;
    /// use pulse::tensors::{Control, TensorRef, Weights};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let base: Weights = [("w", TensorRef::new(spec, b"abc")?)].into_iter().collect();
    /// let mut trusted = TrustedBase::new(Digest([7; 32]));
    /// trusted.tensors.insert("w".into(), tensor_digest(b"abc"));
    /// trusted.check_sample(&base, Control::default())?;
    /// // The whole shows that the digest of the checkpoint is wrong.
    /// assert!(trusted.check(&base, Control::default()).is_err());
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn check_sample(&self, base: &dyn TensorSource, control: Control<'_>) -> Result<()> {
        let Some(name) = self.sample(base, |_| true) else {
            // Only all of them together have a digest to compare.
            return self.check(base, control);
        };
        if base.spec(name).is_none() {
            // It is not there: all of them tell what is.
            return self.check(base, control);
        }
        let mut wrong = None;
        digests_of(
            base,
            |tensor| tensor == name,
            control,
            |_, _, found| {
                wrong = self
                    .tensors
                    .get(name)
                    .filter(|&&expected| expected != found)
                    .map(|&expected| Error::wrong_base(Some(name.into()), expected, found));
            },
        )?;
        wrong.map_or(Ok(()), Err)
    }

    /// The tensor that the digest of the checkpoint picks among those that are trusted and
    /// `eligible`, without those that have no bytes in the base.
    pub(crate) fn sample(
        &self,
        base: &dyn TensorSource,
        eligible: impl Fn(&str) -> bool,
    ) -> Option<&str> {
        let has_bytes = |name: &&str| base.spec(name).is_none_or(|spec| spec.bytes() > 0);
        let names: Vec<&str> = self
            .tensors
            .keys()
            .map(String::as_str)
            .filter(has_bytes)
            .filter(|name| eligible(name))
            .collect();
        let [a, b, c, d, ..] = self.checkpoint.0;
        let chosen = u32::from_le_bytes([a, b, c, d]) as usize;
        chosen.checked_rem(names.len()).and_then(|at| names.get(at)).copied()
    }

    /// Compares every tensor of the base, and the checkpoint, with the trusted digests: as much work
    /// as not to trust them.
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] names the first tensor that differs, and those that are missing;
    /// [`Error::Cancelled`], [`Error::Io`].
    ///
    /// See [`check_sample`](Self::check_sample) for an example.
    pub fn check(&self, base: &dyn TensorSource, control: Control<'_>) -> Result<()> {
        let mut wrong = None;
        let found = digests(base, control, |name, _, found| {
            if let Some(&expected) = self.tensors.get(name).filter(|&&expected| expected != found) {
                wrong.get_or_insert((name.to_string(), expected, found));
            }
        })?;
        let missing: Vec<String> =
            self.tensors.keys().filter(|name| base.spec(name).is_none()).cloned().collect();
        if wrong.is_none() && missing.is_empty() && found == self.checkpoint {
            return Ok(());
        }
        let mut mismatch = match wrong {
            Some((name, expected, found)) => BaseMismatch::new(Some(name), expected, found),
            None => BaseMismatch::new(None, self.checkpoint, found),
        };
        mismatch.missing = missing;
        Err(Error::BaseMismatch(Box::new(mismatch)))
    }
}
