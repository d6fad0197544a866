//! What versions are made of.

use std::io::Write;

use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::{Control, DiffReport, Unpublished};

use crate::error::Result;

/// A patch that was written.
pub(super) struct Made {
    /// Digest of what it starts from; `None` of a snapshot.
    pub base: Option<Digest>,
    /// Digest of what it leads to.
    pub target: Digest,
    /// What the diff found, if it was made here.
    pub report: Option<DiffReport>,
}

impl From<DiffReport> for Made {
    fn from(report: DiffReport) -> Self {
        let footer = report.summary.footer;
        Made { base: footer.base, target: footer.target, report: Some(report) }
    }
}

/// Makes the patch and the anchor of one version.
pub(super) trait Source: Send {
    /// Digest of the weights that patches start from; `None` if there are none.
    fn base(&self) -> Option<Digest>;

    /// Whether the weights of the version are here, of which an anchor can be made.
    fn has_weights(&self) -> bool {
        true
    }

    /// How large data may become.
    fn largest(&self) -> u64;

    /// Writes the patch from the base to the version.
    fn diff(
        &mut self,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Made>;

    /// Writes an anchor of the version, which is published already or is to be.
    fn snapshot(
        &mut self,
        is_published: bool,
        out: &mut dyn Write,
        options: EncoderOptions,
        control: Control<'_>,
    ) -> Result<Digest>;

    /// What the base becomes when the version that was made last is there.
    fn unpublished(&mut self) -> Option<Unpublished> {
        None
    }

    /// Makes it the base.
    fn advance(&mut self, _: Unpublished, _: Control<'_>) -> Result<()> {
        Ok(())
    }
}

/// How large data of so many bytes may become.
pub(super) fn largest(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8)
}
