//! Publishing checkpoints from disk.

use std::io::Write;

use pulse::checkpoint::{diff, DiffOptions};
use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::{Control, DiffReport};
use pulse::Checkpoint;

use super::source::{largest, Made, Source};
use super::{Published, Publisher};
use crate::error::Result;

impl Publisher {
    /// Publishes a checkpoint as the next version: the patch from `base` to it, if that is the newest
    /// version, otherwise an anchor. `base` comes with its digest as far as it is known, which is computed
    /// again: a base that has changed meanwhile is an error, and nothing is published.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Error::Base`](crate::Error::Base) if the base is not what it was
    /// said to be.
    ///
    /// ```
    /// use pulse::Checkpoint;
    /// use pulse_sync::{Feed, Publisher, PublisherOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let place = |name: &str| dir.path().join(name);
    /// # let write = |name: &str, data: &[u8; 3]| {
    /// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    /// #     std::fs::write(place(name), [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
    /// # };
    /// # write("step-0.safetensors", b"abc");
    /// # write("step-1.safetensors", b"abd");
    /// # let address = place("feed");
    /// # let address = address.to_str().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let mut publisher = Publisher::start(&Feed::open(address)?, PublisherOptions::default()).await?;
    /// let first = Checkpoint::open(place("step-0.safetensors"))?;
    /// let published = publisher.publish_checkpoint(None, &first, Some(0)).await?;
    /// let next = Checkpoint::open(place("step-1.safetensors"))?;
    /// let base = Some((&first, published.record.target));
    /// let published = publisher.publish_checkpoint(base, &next, Some(1)).await?;
    /// assert!(published.record.patch.is_some());
    /// # Ok::<(), pulse_sync::Error>(()) }).unwrap();
    /// ```
    pub async fn publish_checkpoint(
        &mut self,
        base: Option<(&Checkpoint, Digest)>,
        target: &Checkpoint,
        step: Option<u64>,
    ) -> Result<Published> {
        self.publish_from(&mut OfCheckpoints { base, target }, step).await
    }
}

struct OfCheckpoints<'a> {
    base: Option<(&'a Checkpoint, Digest)>,
    target: &'a Checkpoint,
}

impl OfCheckpoints<'_> {
    fn write(
        &self,
        base: Option<&Checkpoint>,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<DiffReport> {
        Ok(diff(base, self.target, out, DiffOptions::from(options), control)?)
    }
}

impl Source for OfCheckpoints<'_> {
    fn base(&self) -> Option<Digest> {
        self.base.map(|(_, digest)| digest)
    }

    fn largest(&self) -> u64 {
        largest(self.target.file_bytes())
    }

    fn diff(
        &mut self,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Made> {
        Ok(self.write(self.base.map(|(base, _)| base), out, options, control)?.into())
    }

    fn snapshot(
        &mut self,
        _: bool,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Digest> {
        Ok(self.write(None, out, options, control)?.summary.footer.target)
    }
}
