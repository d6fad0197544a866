//! What a follower hands out.

use std::sync::{Arc, Mutex, PoisonError};

use pulse::patch::Chain;
use pulse::tensors::{Ahead, Control, PrepareOptions, Prepared, TensorSource};
use pulse::Patch;

use crate::error::{Error, Result};
use crate::fetch::Fetched;
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
    patches: Vec<Patch>,
    /// What was made while they arrived, until it is asked for.
    ahead: Mutex<Option<Ahead>>,
    _files: Vec<tempfile::TempPath>,
}

impl Update {
    pub(super) fn new(sealed: Arc<Sealed>, way: Way, seconds: f64, fetched: Vec<Fetched>) -> Self {
        let (mut patches, mut files, mut made) = (Vec::new(), Vec::new(), None);
        for Fetched { patch, file, ahead } in fetched {
            patches.push(patch);
            files.extend(file);
            made = ahead;
        }
        let (record, ahead) = (sealed.record.clone(), Mutex::new(made));
        Update { record, way, seconds, sealed, patches, ahead, _files: files }
    }

    /// Prepares it beside weights that are in use ([`Chain::prepare`]), without what was made while its data
    /// arrived ([`Follower::next_beside`](super::Follower::next_beside)): of the same weights, which have
    /// stayed as they were.
    ///
    /// # Errors
    /// As [`Chain::new`] and [`Patch::prepare`].
    pub fn prepare(
        &self,
        weights: &dyn TensorSource,
        options: PrepareOptions,
        control: Control<'_>,
    ) -> pulse::Result<Prepared> {
        let chain = Chain::new(&self.patches)?;
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ahead.filter(|ahead| ahead.options() == options) {
            Some(ahead) => ahead.prepare(&chain, weights, control),
            None => chain.prepare(weights, options, control),
        }
    }

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
