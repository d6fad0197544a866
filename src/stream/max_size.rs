//! How large a patch can become, known before it is made.

use crate::coding::Coding;
use crate::dtype::TensorSpec;
use crate::hash::LEAF_BYTES;
use crate::stream::EncoderOptions;
use crate::wire::FILE_DATA_BYTES;

/// Bytes of a varint, at most.
const VARINT: u64 = 10;
/// Tag, length and CRC-32 of a section, at most.
const FRAMING: u64 = 1 + VARINT + 4;
/// Signature and version.
const PRELUDE: u64 = 10;
/// Fields of the footer: flags, six numbers, three digests.
const FOOTER: u64 = 1 + 6 * 8 + 3 * 32;
/// Flags, block size, run, two steps, digest of the base, number of metadata entries.
const HEADER: u64 = 1 + VARINT + 16 + 2 * VARINT + 32 + VARINT;

/// An upper bound of the size of a patch, whatever changes: for quotas, buffers and part sizes that
/// must be known before a byte is written. It is close to the bytes of the target, which a patch
/// that changes everything comes to; most patches are a hundred times smaller.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::{EncoderOptions, MaxSize};
/// let spec = TensorSpec::new(Dtype::Bf16, &[1024, 1024])?;
/// let most = MaxSize::new(&EncoderOptions::default()).tensor("w", Some(&spec)).bytes();
/// assert!(most > spec.bytes() && most < spec.bytes() + spec.bytes() / 1000 + 1000);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct MaxSize {
    options: EncoderOptions,
    bytes: u64,
}

impl MaxSize {
    /// A patch without tensors and files.
    pub fn new(options: &EncoderOptions) -> Self {
        let strings =
            |(key, value): (&String, &String)| 2 * VARINT + (key.len() + value.len()) as u64;
        let metadata: u64 = options.metadata.iter().map(strings).sum();
        let index = FRAMING + VARINT;
        let bytes = PRELUDE + FRAMING + HEADER + metadata + index + FRAMING + FOOTER;
        MaxSize { options: options.clone(), bytes }
    }

    /// Adds a tensor: what it is in the target, `None` if the patch deletes it.
    pub fn tensor(mut self, name: &str, target: Option<&TensorSpec>) -> Self {
        let name = 2 * VARINT + name.len() as u64;
        let spec = |spec: &TensorSpec| {
            let dtype = 1 + VARINT + spec.dtype().name().len() as u64;
            dtype + (spec.shape().len() as u64 + 2) * VARINT
        };
        let header = FRAMING + name + 1 + target.map_or(0, spec);
        let trailer = FRAMING + VARINT + 2 * 32;
        let index = name + VARINT;
        let blocks = target.map_or(0, |spec| self.blocks(spec));
        self.bytes = self.bytes.saturating_add(header + trailer + index).saturating_add(blocks);
        self
    }

    /// Adds a file of the target of which the patch carries this many bytes.
    pub fn file(mut self, name: &str, carried: u64) -> Self {
        // Kind and source, name, size and SHA-256; then data sections, which are stored at worst.
        let record = FRAMING + 2 + VARINT + name.len() as u64 + VARINT + 32;
        let sections = carried.div_ceil(FILE_DATA_BYTES as u64);
        let data = carried.saturating_add(sections.saturating_mul(FRAMING + VARINT));
        self.bytes = self.bytes.saturating_add(record).saturating_add(data);
        self
    }

    /// No patch of what was added is larger.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All blocks of a tensor.
    fn blocks(&self, spec: &TensorSpec) -> u64 {
        let block_bytes = self.options.block_leaves.max(1).saturating_mul(LEAF_BYTES as u64);
        let blocks = spec.bytes().div_ceil(block_bytes);
        // Coding, skipped leaves, leaves, changes; and for each byte plane or stream its length.
        let overhead = FRAMING + 1 + 3 * VARINT + 8 * VARINT + 1;
        // Whole blocks are stored at worst, and the encoder takes them where nothing is smaller. Flat
        // ones, if it may write nothing else, have gaps besides: n elements and their gaps together take
        // at most n bytes as varints, since a gap that needs one more byte skips 128 elements.
        let gaps = match self.options.block.coding {
            Coding::Flat => spec.elements(),
            _ => 0,
        };
        spec.bytes().saturating_add(gaps).saturating_add(blocks.saturating_mul(overhead))
    }
}
