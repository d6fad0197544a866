//! What an encoder is told beside the weights.

use std::collections::BTreeMap;

use crate::coding::{Choice, Coding};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hash::LEAF_BYTES;
use crate::limits::Limits;
use crate::wire::Header;
use crate::word::ValueForm;

/// Digests of a base that are known from the patch that produced it, so that a trainer hashes each
/// checkpoint once in its life. A wrong one makes a patch that no receiver accepts, never a
/// wrong model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TrustedBase {
    /// Digest of the checkpoint.
    pub checkpoint: Digest,
    /// Digests of its tensors by name; those that are missing are computed.
    pub tensors: BTreeMap<String, Digest>,
}

impl TrustedBase {
    /// A base whose checkpoint digest is known.
    #[must_use]
    pub fn new(checkpoint: Digest) -> Self {
        TrustedBase { checkpoint, tensors: BTreeMap::new() }
    }
}

/// What an encoder is to write, beside the weights.
///
/// ```
/// use pulse::coding::ValueForm;
/// use pulse::stream::EncoderOptions;
/// let options = EncoderOptions::default()
///     .with_values(ValueForm::Overwrite)
///     .with_steps(Some(40), Some(41))
///     .with_metadata("trainer", "example");
/// assert_eq!(options.base_step, Some(40));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderOptions {
    /// Contextual, the smallest, or flat, which readers without the base can decode.
    pub coding: Coding,
    /// How changed values are expressed in flat blocks.
    pub values: ValueForm,
    /// Leaves of 64 KiB in a block, 1 to 64. Larger blocks are smaller in sum; memory grows with them.
    pub block_leaves: u64,
    /// zstd level of packed streams. Levels above 1 gain next to nothing on patches.
    pub level: i32,
    /// The patch has no base: every tensor travels whole.
    pub snapshot: bool,
    /// Lineage: the training run. Absent by default, so that output is deterministic.
    pub run: Option<[u8; 16]>,
    /// Optimizer step of the base.
    pub base_step: Option<u64>,
    /// Optimizer step of the target.
    pub target_step: Option<u64>,
    /// Digest of the base, if it is known beforehand; the footer's must then be the same.
    pub base_digest: Option<Digest>,
    /// Digests of the base that need not be computed again.
    pub trusted_base: Option<TrustedBase>,
    /// Free strings.
    pub metadata: BTreeMap<String, String>,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        EncoderOptions {
            coding: Coding::Contextual,
            values: ValueForm::Step,
            block_leaves: 32,
            level: 1,
            snapshot: false,
            run: None,
            base_step: None,
            target_step: None,
            base_digest: None,
            trusted_base: None,
            metadata: BTreeMap::new(),
        }
    }
}

impl EncoderOptions {
    /// Options of a snapshot: a patch without a base.
    #[must_use]
    pub fn snapshot() -> Self {
        EncoderOptions { snapshot: true, ..Self::default() }
    }

    /// Replaces [`coding`](Self::coding).
    #[must_use]
    pub fn with_coding(mut self, coding: Coding) -> Self {
        self.coding = coding;
        self
    }

    /// Replaces [`values`](Self::values).
    #[must_use]
    pub fn with_values(mut self, values: ValueForm) -> Self {
        self.values = values;
        self
    }

    /// Replaces [`block_leaves`](Self::block_leaves).
    #[must_use]
    pub fn with_block_leaves(mut self, leaves: u64) -> Self {
        self.block_leaves = leaves;
        self
    }

    /// Replaces [`level`](Self::level).
    #[must_use]
    pub fn with_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Replaces [`run`](Self::run).
    #[must_use]
    pub fn with_run(mut self, run: Option<[u8; 16]>) -> Self {
        self.run = run;
        self
    }

    /// Replaces [`base_step`](Self::base_step) and [`target_step`](Self::target_step).
    #[must_use]
    pub fn with_steps(mut self, base: Option<u64>, target: Option<u64>) -> Self {
        (self.base_step, self.target_step) = (base, target);
        self
    }

    /// Replaces [`base_digest`](Self::base_digest).
    #[must_use]
    pub fn with_base_digest(mut self, digest: Option<Digest>) -> Self {
        self.base_digest = digest;
        self
    }

    /// Replaces [`trusted_base`](Self::trusted_base), and [`base_digest`](Self::base_digest) with
    /// its checkpoint digest.
    #[must_use]
    pub fn with_trusted_base(mut self, base: TrustedBase) -> Self {
        self.base_digest = Some(base.checkpoint);
        self.trusted_base = Some(base);
        self
    }

    /// Digest of a base tensor that is taken on trust.
    pub(crate) fn trusted_digest(&self, name: &str) -> Option<Digest> {
        self.trusted_base.as_ref()?.tensors.get(name).copied()
    }

    /// Adds one string to [`metadata`](Self::metadata).
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    pub(crate) fn header(&self) -> Result<Header> {
        let header = Header {
            block_leaves: self.block_leaves,
            snapshot: self.snapshot,
            run: self.run,
            base_step: self.base_step,
            target_step: self.target_step,
            base_digest: self.base_digest,
            metadata: self.metadata.clone(),
        };
        if self.coding == Coding::Whole {
            return Err(Error::misuse("options: coding must be contextual or flat; a snapshot is whole by itself"));
        }
        // The writer refuses whatever a reader with default limits would refuse.
        let payload = header.write();
        match crate::parse::all(&payload, "header", |i| Header::parse(i, &Limits::default())) {
            Ok(_) => Ok(header),
            Err(bad) => Err(Error::misuse(format!("options: {}", bad.fault))),
        }
    }

    /// Bytes of a full block.
    pub(crate) fn block_bytes(&self) -> usize {
        // The header was checked: at most 64 leaves.
        usize::try_from(self.block_leaves).unwrap_or(1) * LEAF_BYTES
    }

    pub(crate) fn choice(&self) -> Choice {
        Choice { coding: self.coding, values: self.values, level: self.level }
    }
}
