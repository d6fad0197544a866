//! The changes of one block to a payload, in the smallest coding that is allowed.

use crate::changes::Changes;
use crate::coding::{contextual, flat, whole, BlockDecoder, Coding, Matrix};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::hash::LEAF_BYTES;
use crate::packed::Packer;
use crate::word::{at_width, ValueForm};

/// How blocks are written.
///
/// ```
/// use pulse::coding::{BlockOptions, Coding, ValueForm};
/// let options = BlockOptions::default().with_coding(Coding::Flat).with_values(ValueForm::Xor);
/// assert_eq!(options.level, 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockOptions {
    /// The richest coding allowed: contextual, the smallest, or flat, which readers without the
    /// base can decode.
    pub coding: Coding,
    /// How changed values are expressed in flat blocks.
    pub values: ValueForm,
    /// zstd level of packed streams. Levels above 1 gain next to nothing on patches.
    pub level: i32,
}

impl Default for BlockOptions {
    fn default() -> Self {
        BlockOptions { coding: Coding::Contextual, values: ValueForm::UlpStep, level: 1 }
    }
}

impl BlockOptions {
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

    /// Replaces [`level`](Self::level).
    #[must_use]
    pub fn with_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }
}

/// The changes of one block in the smallest coding that was allowed, without any container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncodedBlock {
    /// How the changes are written.
    pub coding: Coding,
    /// Number of elements that change.
    pub changes: u64,
    /// Columns of the matrix of which the block has rows, if that was told: signs may be predicted.
    pub columns: Option<u64>,
    /// The payload of the coding (SPEC.md §7).
    pub payload: Vec<u8>,
}

impl EncodedBlock {
    /// A block that was framed by other means. `columns` are those that its encoder was told of, if
    /// it was, and have to travel with the payload or follow from the shape of the tensor.
    ///
    /// ```
    /// use pulse::coding::{Coding, EncodedBlock};
    /// use pulse::dtype::Dtype;
    ///
    /// // SPEC.md §7.4: 1.0 and -2.0.
    /// let payload = vec![0x01, 0x04, 0x00, 0x01, 0x04, 0x7f, 0x80];
    /// let block = EncodedBlock::new(Coding::Whole, 2, None, payload);
    /// let mut weights = [0; 4];
    /// block.decode(&Dtype::Bf16, 2)?.apply(&mut weights)?;
    /// assert_eq!(weights, [0x80, 0x3f, 0x00, 0xc0]);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    #[must_use]
    pub fn new(coding: Coding, changes: u64, columns: Option<u64>, payload: Vec<u8>) -> Self {
        EncodedBlock { coding, changes, columns, payload }
    }

    /// Makes the block, which has this many elements of this dtype, ready to be applied.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the payload breaks a rule of its coding; [`Error::Misuse`] for more
    /// elements than a block can have.
    pub fn decode(&self, dtype: &Dtype, elements: u64) -> Result<BlockDecoder> {
        if elements.saturating_mul(dtype.element_bytes() as u64) > BLOCK_BYTES_MAX as u64 {
            return Err(Error::misuse(format!(
                "{elements} elements of {dtype} exceed the largest block, 64 MiB; divide the tensor into blocks"
            )));
        }
        let len = self.payload.len();
        let matrix = self.columns.and_then(|columns| Matrix::from_rows(dtype, columns));
        let (coding, changes, payload) = (self.coding, self.changes, &self.payload);
        BlockDecoder::new(dtype, matrix, coding, elements, changes, payload, len as u64)
            .map_err(|bad| bad.fault.at((len - bad.rest) as u64))
    }
}

/// Encodes single blocks without a container: for those who frame and verify them by other means.
///
/// ```
/// use pulse::coding::{BlockEncoder, BlockOptions};
/// use pulse::dtype::Dtype;
///
/// let mut encoder = BlockEncoder::new(BlockOptions::default());
/// let (base, target) = ([0x80, 0x3f, 0, 0], [0x81, 0x3f, 0, 0]);
/// let block = encoder.encode(&Dtype::Bf16, &base, &target)?.expect("something changed");
/// let mut weights = base;
/// block.decode(&Dtype::Bf16, 2)?.apply(&mut weights)?;
/// assert_eq!(weights, target);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct BlockEncoder {
    options: BlockOptions,
    columns: Option<u64>,
    scratch: Scratch,
}

/// Largest block that the format knows.
pub(crate) const BLOCK_BYTES_MAX: usize = 1024 * LEAF_BYTES;

impl BlockEncoder {
    /// An encoder with the coding, value form and zstd level of these options.
    #[must_use]
    pub fn new(options: BlockOptions) -> Self {
        BlockEncoder { options, columns: None, scratch: Scratch::default() }
    }

    /// Says that each block starts with a row of a matrix of so many columns, so that the signs of
    /// its changes may be predicted (SPEC.md §7.6). Beyond 65,536 columns they are not.
    #[must_use]
    pub fn with_columns(mut self, columns: u64) -> Self {
        self.columns = Some(columns);
        self
    }

    /// Encodes the changes from `base` to `target`; `None` if there are none.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the slices differ in length, cut an element, or exceed 64 MiB.
    pub fn encode(
        &mut self,
        dtype: &Dtype,
        base: &[u8],
        target: &[u8],
    ) -> Result<Option<EncodedBlock>> {
        let whole = target.len().is_multiple_of(dtype.element_bytes());
        if base.len() != target.len() || !whole || target.len() > BLOCK_BYTES_MAX {
            let (base, target) = (base.len(), target.len());
            return Err(Error::misuse(format!("base ({base} bytes) and target ({target} bytes) must have the same length: whole {dtype} elements, at most 64 MiB")));
        }
        let matrix = self.columns.and_then(|columns| Matrix::from_rows(dtype, columns));
        let block = encode(dtype, matrix, self.options, base, target, &mut self.scratch);
        Ok(block.map(|block| EncodedBlock { columns: self.columns, ..block }))
    }

    /// Encodes a block that has no base, whole: any reader has its bytes without another.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the slice cuts an element or exceeds 64 MiB.
    ///
    /// ```
    /// use pulse::coding::{BlockEncoder, BlockOptions};
    /// use pulse::dtype::Dtype;
    ///
    /// let block = BlockEncoder::new(BlockOptions::default()).encode_whole(&Dtype::Bf16, &[0x80, 0x3f])?;
    /// let mut weights = [0, 0];
    /// block.decode(&Dtype::Bf16, 1)?.apply(&mut weights)?;
    /// assert_eq!(weights, [0x80, 0x3f]);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn encode_whole(&mut self, dtype: &Dtype, target: &[u8]) -> Result<EncodedBlock> {
        let whole = target.len().is_multiple_of(dtype.element_bytes());
        if !whole || target.len() > BLOCK_BYTES_MAX {
            let target = target.len();
            return Err(Error::misuse(format!(
                "the target ({target} bytes) must be whole {dtype} elements, at most 64 MiB"
            )));
        }
        Ok(encode_whole(dtype, self.options, target, &mut self.scratch))
    }
}

/// Space that an encoder keeps from block to block.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    changes: Changes,
    sorted: contextual::Sorted,
    packer: Packer,
}

/// Blocks with at most this many changes are coded flat as well: a table may cost more than it saves.
const FEW_CHANGES: usize = 64;

/// Whether most gaps are as long as the gap before: zstd then finds what no Rice code can.
fn is_regular(changes: &Changes) -> bool {
    let repeats =
        changes.elements.windows(3).filter(|three| three[1] - three[0] == three[2] - three[1]);
    repeats.count() > changes.elements.len() / 2
}

/// Encodes the changes from `base` to `target`, which have the same length; `None` if there are none.
pub(crate) fn encode(
    dtype: &Dtype,
    matrix: Option<Matrix>,
    options: BlockOptions,
    base: &[u8],
    target: &[u8],
    scratch: &mut Scratch,
) -> Option<EncodedBlock> {
    let (element_bytes, order) = (dtype.element_bytes(), dtype.order());
    let Scratch { changes, sorted, packer } = scratch;
    let form = if options.coding == Coding::Flat { options.values } else { ValueForm::UlpStep };
    changes.collect(element_bytes, order, form, base, target);
    let count = changes.elements.len();
    if count == 0 {
        return None;
    }
    let block =
        |coding, payload| EncodedBlock { coding, changes: count as u64, columns: None, payload };
    if options.coding == Coding::Flat {
        return Some(block(Coding::Flat, flat::encode(changes, form, options.level, packer)));
    }
    let contextual =
        at_width!(element_bytes, contextual::encode(order, matrix, base, changes, sorted));
    // The others are tried only where they can win. Flat: few changes, changes at regular places,
    // or hardly any gain so far.
    let try_flat =
        count <= FEW_CHANGES || contextual.len() > target.len() / 4 || is_regular(changes);
    let mut best = block(Coding::Contextual, contextual);
    if try_flat {
        changes.collect(element_bytes, order, options.values, base, target);
        let payload = flat::encode(changes, options.values, options.level, packer);
        if payload.len() < best.payload.len() {
            best = block(Coding::Flat, payload);
        }
    }
    if best.payload.len() > target.len() / 2 {
        let payload = whole::encode(target, element_bytes, order, options.level, packer);
        if payload.len() < best.payload.len() {
            best = block(Coding::Whole, payload);
        }
    }
    Some(best)
}

/// Encodes changes that are known already as a flat block; `None` if there are none.
#[cfg(feature = "checkpoint")]
pub(crate) fn encode_flat(
    changes: &Changes,
    form: ValueForm,
    level: i32,
    scratch: &mut Scratch,
) -> Option<EncodedBlock> {
    if changes.elements.is_empty() {
        return None;
    }
    let payload = flat::encode(changes, form, level, &mut scratch.packer);
    let count = changes.elements.len() as u64;
    Some(EncodedBlock { coding: Coding::Flat, changes: count, columns: None, payload })
}

/// Encodes a block that has no base.
pub(crate) fn encode_whole(
    dtype: &Dtype,
    options: BlockOptions,
    target: &[u8],
    scratch: &mut Scratch,
) -> EncodedBlock {
    let (element_bytes, packer) = (dtype.element_bytes(), &mut scratch.packer);
    EncodedBlock {
        coding: Coding::Whole,
        changes: (target.len() / element_bytes) as u64,
        columns: None,
        payload: whole::encode(target, element_bytes, dtype.order(), options.level, packer),
    }
}
