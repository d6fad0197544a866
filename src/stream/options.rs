//! What an encoder is told beside the weights.

use std::collections::BTreeMap;

use crate::coding::{BlockOptions, Coding, ValueForm};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hash::LEAF_BYTES;
use crate::limits::Limits;
use crate::parse;
use crate::wire::Header;

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

/// Where a patch belongs: the training run, and the optimizer steps of its two ends (SPEC.md §6.1).
/// Absent by default, so that output depends on the weights alone.
///
/// ```
/// use pulse::stream::Lineage;
/// let lineage = Lineage::default().with_steps(40, 41);
/// assert_eq!(lineage.base_step, Some(40));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Lineage {
    /// Identity of the training run.
    pub run: Option<[u8; 16]>,
    /// Optimizer step of the base.
    pub base_step: Option<u64>,
    /// Optimizer step of the target.
    pub target_step: Option<u64>,
}

impl Lineage {
    /// Replaces [`run`](Self::run).
    #[must_use]
    pub fn with_run(mut self, run: [u8; 16]) -> Self {
        self.run = Some(run);
        self
    }

    /// Replaces [`base_step`](Self::base_step) and [`target_step`](Self::target_step).
    #[must_use]
    pub fn with_steps(self, base: u64, target: u64) -> Self {
        self.with_base_step(base).with_target_step(target)
    }

    /// Replaces [`base_step`](Self::base_step).
    #[must_use]
    pub fn with_base_step(mut self, step: u64) -> Self {
        self.base_step = Some(step);
        self
    }

    /// Replaces [`target_step`](Self::target_step), the only one that a snapshot has.
    #[must_use]
    pub fn with_target_step(mut self, step: u64) -> Self {
        self.target_step = Some(step);
        self
    }

    /// The lineage of the inverse patch.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn inverted(self) -> Self {
        Lineage { run: self.run, base_step: self.target_step, target_step: self.base_step }
    }

    /// What is absent here, taken from `other`.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn or(self, other: Lineage) -> Self {
        Lineage {
            run: self.run.or(other.run),
            base_step: self.base_step.or(other.base_step),
            target_step: self.target_step.or(other.target_step),
        }
    }
}

impl From<&Header> for Lineage {
    fn from(header: &Header) -> Self {
        Lineage { run: header.run, base_step: header.base_step, target_step: header.target_step }
    }
}

/// How a patch is written.
///
/// ```
/// use pulse::coding::{Coding, ValueForm};
/// use pulse::stream::EncoderOptions;
/// let options = EncoderOptions::default()
///     .with_coding(Coding::Flat)
///     .with_values(ValueForm::Overwrite)
///     .with_steps(40, 41)
///     .with_metadata("trainer", "example");
/// assert_eq!(options.lineage.base_step, Some(40));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderOptions {
    /// How blocks are written.
    pub block: BlockOptions,
    /// Leaves of 64 KiB in a block, 1 to 64. Larger blocks are smaller in sum; memory grows with them.
    pub block_leaves: u64,
    /// Run and optimizer steps.
    pub lineage: Lineage,
    /// Digest of the base, if it is known beforehand; the footer's must then be the same.
    pub base_digest: Option<Digest>,
    /// Free strings.
    pub metadata: BTreeMap<String, String>,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        EncoderOptions {
            block: BlockOptions::default(),
            block_leaves: 32,
            lineage: Lineage::default(),
            base_digest: None,
            metadata: BTreeMap::new(),
        }
    }
}

impl EncoderOptions {
    /// Replaces the coding of [`block`](Self::block).
    #[must_use]
    pub fn with_coding(mut self, coding: Coding) -> Self {
        self.block.coding = coding;
        self
    }

    /// Replaces the value form of [`block`](Self::block).
    #[must_use]
    pub fn with_values(mut self, values: ValueForm) -> Self {
        self.block.values = values;
        self
    }

    /// Replaces the zstd level of [`block`](Self::block).
    #[must_use]
    pub fn with_level(mut self, level: i32) -> Self {
        self.block.level = level;
        self
    }

    /// Replaces [`block_leaves`](Self::block_leaves).
    #[must_use]
    pub fn with_block_leaves(mut self, leaves: u64) -> Self {
        self.block_leaves = leaves;
        self
    }

    /// Replaces [`lineage`](Self::lineage).
    #[must_use]
    pub fn with_lineage(mut self, lineage: Lineage) -> Self {
        self.lineage = lineage;
        self
    }

    /// Replaces the run of [`lineage`](Self::lineage).
    #[must_use]
    pub fn with_run(mut self, run: [u8; 16]) -> Self {
        self.lineage.run = Some(run);
        self
    }

    /// Replaces the optimizer steps of [`lineage`](Self::lineage).
    #[must_use]
    pub fn with_steps(mut self, base: u64, target: u64) -> Self {
        self.lineage = self.lineage.with_steps(base, target);
        self
    }

    /// Replaces [`base_digest`](Self::base_digest).
    #[must_use]
    pub fn with_base_digest(mut self, digest: Digest) -> Self {
        self.base_digest = Some(digest);
        self
    }

    /// Adds one string to [`metadata`](Self::metadata).
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Bytes of a full block.
    pub(crate) fn block_bytes(&self) -> usize {
        // The header was checked: at most 64 leaves.
        usize::try_from(self.block_leaves).unwrap_or(1) * LEAF_BYTES
    }
}

/// What an encoder knows of the base before it sees its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum BaseSide {
    /// Nothing: its bytes are hashed.
    #[default]
    Hashed,
    /// Digests that need not be computed again.
    Trusted(TrustedBase),
    /// There is none: the patch is a snapshot.
    Absent,
}

impl BaseSide {
    /// Digest of a base tensor that is taken on trust.
    pub fn trusted_digest(&self, name: &str) -> Option<Digest> {
        match self {
            BaseSide::Trusted(base) => base.tensors.get(name).copied(),
            BaseSide::Hashed | BaseSide::Absent => None,
        }
    }

    /// The header of a patch with these options; the writer refuses whatever a reader with default
    /// limits would refuse.
    pub fn header(&self, options: &EncoderOptions) -> Result<Header> {
        let trusted = match self {
            BaseSide::Trusted(base) => Some(base.checkpoint),
            BaseSide::Hashed | BaseSide::Absent => None,
        };
        let header = Header {
            block_leaves: options.block_leaves,
            snapshot: *self == BaseSide::Absent,
            run: options.lineage.run,
            base_step: options.lineage.base_step,
            target_step: options.lineage.target_step,
            base_digest: options.base_digest.or(trusted),
            metadata: options.metadata.clone(),
        };
        if options.block.coding == Coding::Whole {
            return Err(Error::misuse(
                "options: coding must be contextual or flat; snapshots are always whole",
            ));
        }
        let payload = header.write();
        match parse::all(&payload, "header", |i| Header::parse(i, &Limits::default())) {
            Ok(_) => Ok(header),
            Err(bad) => Err(Error::misuse(format!("options: {}", bad.fault))),
        }
    }
}
