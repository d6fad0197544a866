//! Publishing what was made elsewhere.

use std::io::Write;

use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::Patch;

use super::source::{Made, Source};
use super::{Published, Publisher};
use crate::error::{Error, Result};

impl Publisher {
    /// Publishes a patch that starts from the newest version, such as many ranks have
    /// [joined](pulse::tensors::join) from their parts, or a snapshot. Of the weights it leads to,
    /// nothing is known here: followers prove them.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`Error::Base`] if it does not start from the newest version;
    /// [`Error::Misuse`] if readers need a snapshot: there is no version yet, or the data that leads to
    /// the newest one is gone. Anchors are never due here: publish a snapshot now and then.
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::tensors::{diff, Control, TensorRef, Weights};
    /// use pulse::{Limits, Patch};
    /// use pulse_sync::{Feed, Publisher, PublisherOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let address = dir.path().to_str().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let weights = |bytes| -> pulse::Result<Weights<'_>> {
    ///     Ok([("w", TensorRef::new(spec.clone(), bytes)?)].into_iter().collect())
    /// };
    /// let (old, new) = (weights(b"abc")?, weights(b"abd")?);
    /// let made = |base: Option<&Weights<'_>>, target: &Weights<'_>| -> pulse::Result<Patch> {
    ///     let mut patch = Vec::new();
    ///     let base = base.map(|base| base as _);
    ///     diff(base, target, &mut patch, Default::default(), Control::default())?;
    ///     Patch::from_bytes(patch, Limits::default())
    /// };
    /// let mut publisher = Publisher::start(&Feed::open(address)?, PublisherOptions::default()).await?;
    /// publisher.publish_patch(&made(None, &old)?, Some(0)).await?;
    /// let published = publisher.publish_patch(&made(Some(&old), &new)?, Some(1)).await?;
    /// assert!(published.record.patch.is_some());
    /// # Ok::<(), pulse_sync::Error>(()) }).unwrap();
    /// ```
    pub async fn publish_patch(&mut self, patch: &Patch, step: Option<u64>) -> Result<Published> {
        self.publish_from(&mut OfPatch { patch }, step).await
    }
}

struct OfPatch<'a> {
    patch: &'a Patch,
}

impl Source for OfPatch<'_> {
    fn base(&self) -> Option<Digest> {
        self.patch.footer().base
    }

    fn has_weights(&self) -> bool {
        false
    }

    fn largest(&self) -> u64 {
        self.patch.bytes()
    }

    fn diff(&mut self, out: &mut dyn Write, _: EncoderOptions, _: Control<'_>) -> Result<Made> {
        self.patch.write_to(out)?;
        let footer = self.patch.footer();
        Ok(Made { base: footer.base, target: footer.target, report: None })
    }

    fn snapshot(
        &mut self,
        _: bool,
        out: &mut dyn Write,
        _: EncoderOptions,
        _: Control<'_>,
    ) -> Result<Digest> {
        if self.patch.footer().base.is_some() {
            let what = "readers of the newest version would not find what leads to it, so that this patch is of \
                        no use to them; publish a snapshot of the new weights";
            return Err(Error::Misuse(what.into()));
        }
        self.patch.write_to(out)?;
        Ok(self.patch.footer().target)
    }
}
