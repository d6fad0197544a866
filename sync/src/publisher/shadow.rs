//! Publishing weights from memory.

use std::io::{sink, Write};

use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::{diff, Control, Shadow, TensorSource, Unpublished};

use super::source::{largest, Made, Source};
use super::{Published, Publisher};
use crate::error::Result;

impl Publisher {
    /// Publishes weights as the next version: the patch from the shadow to them, or an anchor where there is
    /// no version that the shadow has. The shadow becomes these weights when the version is there.
    ///
    /// A call that is given up, or fails, leaves the shadow as it was: call it again with the weights
    /// that there are by then. If its record was on the way to the store, that is cleared up first.
    ///
    /// # Errors
    /// [`Error::Fenced`](crate::Error::Fenced) if another writer has taken over; [`Error::Store`](crate::Error::Store) if the store failed for longer than
    /// [`PublisherOptions::patience`](crate::PublisherOptions::patience); [`Error::Ended`](crate::Error::Ended); [`Error::Pulse`](crate::Error::Pulse).
    pub async fn publish(
        &mut self,
        shadow: &mut Shadow,
        weights: &dyn TensorSource,
        step: Option<u64>,
    ) -> Result<Published> {
        self.publish_from(&mut OfShadow { shadow, weights, unpublished: None }, step).await
    }
}

/// Weights in memory and the shadow of those that were published last.
struct OfShadow<'a> {
    shadow: &'a mut Shadow,
    weights: &'a dyn TensorSource,
    unpublished: Option<Unpublished>,
}

impl Source for OfShadow<'_> {
    fn base(&self) -> Option<Digest> {
        Some(self.shadow.digests().checkpoint)
    }

    fn largest(&self) -> u64 {
        let tensors = self.weights.tensors();
        largest(tensors.iter().map(|(_, spec)| spec.bytes()).fold(0, u64::saturating_add))
    }

    fn diff(
        &mut self,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Made> {
        let unpublished = self.shadow.diff(self.weights, out, options, control)?;
        let report = unpublished.report().clone();
        self.unpublished = Some(unpublished);
        Ok(report.into())
    }

    fn snapshot(
        &mut self,
        is_published: bool,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Digest> {
        if is_published {
            return Ok(self.shadow.snapshot(out, options, control)?.summary.footer.target);
        }
        // No version is what the shadow holds, so that no patch can start from it. It becomes these
        // weights when the version is there, and not before (F21).
        let encoder = EncoderOptions::default();
        self.unpublished = Some(self.shadow.diff(self.weights, sink(), encoder, control)?);
        Ok(diff(None, self.weights, out, options.into(), control)?.summary.footer.target)
    }

    fn unpublished(&mut self) -> Option<Unpublished> {
        self.unpublished.take()
    }

    fn advance(&mut self, published: Unpublished, control: Control<'_>) -> Result<()> {
        Ok(self.shadow.advance(published, control)?)
    }
}
