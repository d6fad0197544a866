//! What a follower hands out.

use std::sync::Arc;

use pulse::patch::Chain;
use pulse::Patch;

use crate::error::{Error, Result};
use crate::record::{Record, Sealed};
use crate::way::Way;

/// A newer version and the patches that lead to it: what to apply.
#[derive(Debug)]
#[non_exhaustive]
pub struct Update {
    /// The record of the version.
    pub record: Record,
    /// The way that was taken.
    pub way: Way,
    /// Seconds that the data took to arrive.
    pub seconds: f64,
    pub(super) sealed: Arc<Sealed>,
    pub(super) patches: Vec<Patch>,
    pub(super) _files: Vec<Option<tempfile::TempPath>>,
}

impl Update {
    /// The patches, each of which starts where the one before it ends: to be
    /// [prepared](Chain::prepare), [applied](Chain::apply) or [made in memory](Chain::to_memory).
    /// None for a version that is held already.
    ///
    /// # Errors
    /// [`Error::Data`] if they do not follow one another, although each leads where its record says.
    pub fn chain(&self) -> Result<Chain<'_>> {
        Chain::new(&self.patches).map_err(|error| Error::data("data", error.to_string()))
    }

    /// The patches.
    #[must_use]
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// Whether it starts from nothing: no weights are needed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.way.parts.first().is_some_and(|part| part.from.is_none())
    }
}
