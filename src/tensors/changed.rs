//! What a patch changes, as indices and new values: for weights that are on a device, or anywhere else.

use crate::changes::for_each_change;
use crate::coding::Coding;
use crate::digest::Digest;
use crate::dtype::{Dtype, TensorSpec};
use crate::error::{Error, Result};
use crate::stream::{Block, Extent, Place};
use crate::tensors::builder::OutPiece;
use crate::tensors::TensorSource;
use crate::word::{at_width, Word};

/// What changes in a block of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed<'a> {
    /// Some elements.
    Sparse {
        /// Elements of the block that change, in ascending order, counted from its
        /// [first](ChangedBlock::first_element).
        offsets: &'a [u32],
        /// Their new values in the same order: little-endian bytes of the tensor's dtype.
        values: &'a [u8],
    },
    /// All elements, or so many that the block itself is smaller than a list: its new bytes, to be
    /// copied.
    Dense(&'a [u8]),
}

impl<'a> Changed<'a> {
    /// Of `target` the elements at these offsets have changed, in the form that takes fewer bytes.
    fn of(
        element_bytes: usize,
        target: &'a [u8],
        offsets: &'a [u32],
        values: &'a mut Vec<u8>,
    ) -> Self {
        let listed = offsets.len() * (size_of::<u32>() + element_bytes);
        if listed >= target.len() {
            return Changed::Dense(target);
        }
        values.resize(offsets.len() * element_bytes, 0);
        at_width!(element_bytes, gather(target, offsets, values));
        Changed::Sparse { offsets, values }
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Changed::Sparse { offsets, values } => (size_of_val(offsets) + values.len()) as u64,
            Changed::Dense(target) => target.len() as u64,
        }
    }

    /// Writes the new values into the bytes of the block.
    fn write(self, element_bytes: usize, block: &mut [u8]) {
        match self {
            Changed::Sparse { offsets, values } => {
                at_width!(element_bytes, scatter(block, offsets, values));
            }
            Changed::Dense(target) => block.copy_from_slice(target),
        }
    }
}

fn gather<W: Word>(target: &[u8], offsets: &[u32], values: &mut [u8]) {
    for (&offset, value) in offsets.iter().zip(values.chunks_exact_mut(W::BYTES)) {
        W::load(&target[offset as usize * W::BYTES..]).store(value);
    }
}

fn scatter<W: Word>(block: &mut [u8], offsets: &[u32], values: &[u8]) {
    for (&offset, value) in offsets.iter().zip(values.chunks_exact(W::BYTES)) {
        W::load(value).store(&mut block[offset as usize * W::BYTES..]);
    }
}

/// Changes of one block of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct ChangedBlock<'a> {
    first: u64,
    elements: u64,
    changed: Changed<'a>,
}

impl<'a> ChangedBlock<'a> {
    /// First element of the tensor that the block covers.
    #[must_use]
    pub fn first_element(&self) -> u64 {
        self.first
    }

    /// Number of elements that the block covers.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// What changes in it.
    #[must_use]
    pub fn changed(&self) -> Changed<'a> {
        self.changed
    }

    /// The new values, as little-endian bytes: of the elements of [`indices`](Self::indices).
    #[must_use]
    pub fn values(&self) -> &'a [u8] {
        match self.changed {
            Changed::Sparse { values, .. } | Changed::Dense(values) => values,
        }
    }

    /// Flat indices within the tensor, in ascending order: of all elements if the block is dense.
    pub fn indices(&self) -> impl Iterator<Item = u64> + 'a {
        let (offsets, all) = match self.changed {
            Changed::Sparse { offsets, .. } => (offsets, 0),
            Changed::Dense(_) => (&[][..], self.elements),
        };
        let first = self.first;
        let sparse = offsets.iter().map(move |&offset| first + u64::from(offset));
        sparse.chain(first..first + all)
    }
}

/// A tensor of a [`Prepared`](crate::tensors::Prepared) update that changes.
#[derive(Debug, Clone, Copy)]
pub struct ChangedTensor<'a>(pub(super) &'a KeptTensor);

impl<'a> ChangedTensor<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.0.name
    }

    /// Its dtype and shape.
    #[must_use]
    pub fn spec(&self) -> &'a TensorSpec {
        &self.0.spec
    }

    /// Number of elements that change, as the patch counts them.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.changes
    }

    /// Passes each block that changes to `found`, in their order. `weights` are those that the update
    /// was prepared for, as they were then: blocks beyond
    /// [`changes_bytes_max`](crate::tensors::PrepareOptions::changes_bytes_max) are decoded from them
    /// again, and are not verified another time. If there are none, they are not read.
    ///
    /// # Errors
    /// That of `found`; [`Error::Misuse`] if `weights` are others, [`Error::Io`] if they cannot be read.
    ///
    /// ```
    /// # use pulse::dtype::{Dtype, TensorSpec};
    /// # use pulse::tensors::{diff, DiffOptions, TensorRef, Weights};
    /// use pulse::tensors::{Changed, Control, PrepareOptions};
    /// # use pulse::{Limits, Patch};
    /// # let spec = TensorSpec::new(Dtype::Bf16, &[10])?;
    /// # let base: Vec<u16> = (100..110).collect();
    /// # let mut target = base.clone();
    /// # target[7] += 1;
    /// # let bytes = |of: &[u16]| of.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    /// # let (held, wanted) = (bytes(&base), bytes(&target));
    /// # let weights: Weights = [("w", TensorRef::new(spec.clone(), &held)?)].into_iter().collect();
    /// # let wanted: Weights = [("w", TensorRef::new(spec.clone(), &wanted)?)].into_iter().collect();
    /// # let mut patch = Vec::new();
    /// # diff(Some(&weights), &wanted, &mut patch, DiffOptions::default(), Control::default())?;
    /// # let patch = Patch::from_bytes(patch, Limits::default())?;
    /// let prepared = patch.prepare(&weights, PrepareOptions::default(), Control::default())?;
    /// // On a device this would be a tensor; `base` has its values.
    /// let mut device: Vec<u16> = base.clone();
    /// let value = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    /// for tensor in prepared.tensors() {
    ///     tensor.for_each_block(&weights, |block| {
    ///         let covered = &mut device[block.first_element() as usize..][..block.elements() as usize];
    ///         match block.changed() {
    ///             Changed::Sparse { offsets, values } => {
    ///                 for (&offset, bytes) in offsets.iter().zip(values.chunks_exact(2)) {
    ///                     covered[offset as usize] = value(bytes); // a scatter
    ///                 }
    ///             }
    ///             Changed::Dense(values) => {
    ///                 for (element, bytes) in covered.iter_mut().zip(values.chunks_exact(2)) {
    ///                     *element = value(bytes); // a copy
    ///                 }
    ///             }
    ///         }
    ///         Ok(())
    ///     })?;
    /// }
    /// assert_eq!(device, target);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn for_each_block(
        &self,
        weights: &dyn TensorSource,
        mut found: impl FnMut(ChangedBlock<'_>) -> Result<()>,
    ) -> Result<()> {
        let KeptTensor { name, spec, blocks, .. } = self.0;
        let element_bytes = spec.dtype().element_bytes();
        let mut scratch = Scratch::default();
        for KeptBlock { start, bytes, kept } in blocks {
            let changed = match kept {
                Kept::Sparse { offsets, values } => Changed::Sparse { offsets, values },
                Kept::Dense(target) => Changed::Dense(target),
                Kept::Coded(coded) => {
                    self.0.check(weights)?;
                    scratch.bytes.resize(*bytes, 0);
                    let is_put = coded.first().is_some_and(|first| first.is_all_of(*bytes));
                    if !is_put {
                        weights.read(name, *start, &mut scratch.bytes)?;
                    }
                    let Scratch { bytes, before, offsets, values } = &mut scratch;
                    if let [only] = &coded[..] {
                        let made = make(&only.block(self.0), bytes, offsets, values);
                        made.map_err(|_| written_meanwhile(name))?
                    } else {
                        before.clear();
                        before.extend_from_slice(bytes);
                        apply_all(coded, self.0, *start, bytes)?;
                        let before = (!is_put).then_some(&before[..]);
                        compare(spec.dtype(), before, bytes, offsets, values)
                    }
                }
            };
            let (first, elements) = (start / element_bytes as u64, (bytes / element_bytes) as u64);
            found(ChangedBlock { first, elements, changed })?;
        }
        Ok(())
    }

    /// All changes of the tensor: adds their flat indices to `indices` and their new values, as
    /// little-endian bytes, to `values`. All elements of a dense block are among them.
    ///
    /// # Errors
    /// As [`for_each_block`](Self::for_each_block), and [`Error::Misuse`] if the tensor has more than
    /// 2^32 elements: [`append_u64`](Self::append_u64) takes any.
    pub fn append_u32(
        &self,
        weights: &dyn TensorSource,
        indices: &mut Vec<u32>,
        values: &mut Vec<u8>,
    ) -> Result<()> {
        if self.spec().elements() > 1 << 32 {
            let (name, spec) = (self.name(), self.spec());
            return Err(Error::misuse(format!(
                "tensor '{name}' {spec} has more elements than u32 can number; use append_u64"
            )));
        }
        self.append(weights, indices, values, |index| index as u32)
    }

    /// As [`append_u32`](Self::append_u32), for tensors of any size.
    ///
    /// # Errors
    /// As [`for_each_block`](Self::for_each_block).
    pub fn append_u64(
        &self,
        weights: &dyn TensorSource,
        indices: &mut Vec<u64>,
        values: &mut Vec<u8>,
    ) -> Result<()> {
        self.append(weights, indices, values, |index| index)
    }

    fn append<I>(
        &self,
        weights: &dyn TensorSource,
        indices: &mut Vec<I>,
        values: &mut Vec<u8>,
        index: impl Fn(u64) -> I,
    ) -> Result<()> {
        self.for_each_block(weights, |block| {
            indices.extend(block.indices().map(&index));
            values.extend_from_slice(block.values());
            Ok(())
        })
    }
}

/// What listing the changes of a block takes; the next block uses it again.
#[derive(Debug, Default)]
struct Scratch {
    bytes: Vec<u8>,
    before: Vec<u8>,
    offsets: Vec<u32>,
    values: Vec<u8>,
}

/// Turns the base bytes of a block into target bytes, and lists what has changed.
pub(super) fn make<'a>(
    block: &Block<'_>,
    bytes: &'a mut [u8],
    offsets: &'a mut Vec<u32>,
    values: &'a mut Vec<u8>,
) -> Result<Changed<'a>> {
    offsets.clear();
    block.apply_noting(bytes, offsets)?;
    Ok(match block.coding() {
        Coding::Whole => Changed::Dense(bytes),
        _ => Changed::of(block.dtype().element_bytes(), bytes, offsets, values),
    })
}

/// What has changed between bytes and what several patches made of them; all, where nothing was before.
pub(super) fn compare<'a>(
    dtype: &Dtype,
    before: Option<&[u8]>,
    target: &'a [u8],
    offsets: &'a mut Vec<u32>,
    values: &'a mut Vec<u8>,
) -> Changed<'a> {
    fn note<W: Word>(before: &[u8], target: &[u8], offsets: &mut Vec<u32>) {
        // A piece that is made at once has few enough elements.
        for_each_change::<W>(before, target, |element, _, _| offsets.push(element as u32));
    }
    let Some(before) = before else { return Changed::Dense(target) };
    let element_bytes = dtype.element_bytes();
    offsets.clear();
    at_width!(element_bytes, note(before, target, offsets));
    Changed::of(element_bytes, target, offsets, values)
}

/// A tensor of the target and what is kept of its blocks: nothing if it does not change.
#[derive(Debug)]
pub(super) struct KeptTensor {
    pub name: String,
    pub spec: TensorSpec,
    pub changes: u64,
    /// Its digest at the end, if it changes.
    pub new_digest: Option<Digest>,
    pub blocks: Vec<KeptBlock>,
}

/// A block that changes, or blocks of several patches that overlap.
#[derive(Debug)]
pub(super) struct KeptBlock {
    /// First byte in the tensor, and number of bytes.
    pub start: u64,
    pub bytes: usize,
    kept: Kept,
}

/// What is kept of it, boxed so that no vector has room that it does not need.
#[derive(Debug)]
enum Kept {
    Sparse {
        offsets: Box<[u32]>,
        values: Box<[u8]>,
    },
    Dense(Box<[u8]>),
    /// One after the other.
    Coded(Box<[Coded]>),
}

/// A block as it is in the patch.
#[derive(Debug)]
struct Coded {
    extent: Extent,
    /// Its number in the tensor, and where it ends in the patch.
    number: u64,
    end: u64,
    payload: Box<[u8]>,
}

impl Coded {
    /// Whether it says all of so many bytes, whatever they were.
    fn is_all_of(&self, bytes: usize) -> bool {
        self.extent.coding == Coding::Whole && self.extent.bytes == bytes as u64
    }

    fn block<'a>(&'a self, tensor: &'a KeptTensor) -> Block<'a> {
        let place = Place { tensor: &tensor.name, block: self.number, end: self.end };
        Block::new(tensor.spec.dtype(), self.extent, &self.payload, place)
    }
}

impl KeptTensor {
    /// Refuses weights that do not have this tensor.
    pub fn check(&self, weights: &dyn TensorSource) -> Result<()> {
        let KeptTensor { name, spec, .. } = self;
        match weights.spec(name) {
            Some(found) if found == spec => Ok(()),
            found => {
                let found = found.map_or("not there".to_string(), ToString::to_string);
                Err(Error::misuse(format!(
                    "tensor '{name}' is {found}, expected {spec}: give the weights that the update was prepared for"
                )))
            }
        }
    }
}

impl KeptBlock {
    /// What has changed in so many bytes.
    pub fn new(start: u64, bytes: usize, changed: Changed<'_>) -> Self {
        let kept = match changed {
            Changed::Sparse { offsets, values } => {
                Kept::Sparse { offsets: offsets.into(), values: values.into() }
            }
            Changed::Dense(target) => Kept::Dense(target.into()),
        };
        KeptBlock { start, bytes, kept }
    }

    /// The blocks of a piece as they are in the patches.
    pub fn coded(piece: &OutPiece<'_>, payload: &mut Vec<u8>) -> Result<Self> {
        let mut coded = Vec::new();
        for (link, number) in piece.blocks() {
            let block = link.patch.block(link.tensor, number, payload)?;
            coded.push(Coded {
                extent: block.extent(),
                number: block.place.block,
                end: block.place.end,
                payload: block.payload.into(),
            });
        }
        let bytes = usize::try_from(piece.bytes)
            .map_err(|_| Error::misuse("a tensor of this size has no room in memory"))?;
        Ok(KeptBlock { start: piece.start, bytes, kept: Kept::Coded(coded.into()) })
    }

    /// Whether its changes have to be decoded again.
    pub fn is_coded(&self) -> bool {
        matches!(self.kept, Kept::Coded(_))
    }

    /// About how many bytes are touched to write it.
    pub fn work(&self) -> usize {
        match &self.kept {
            // A cache line for each.
            Kept::Sparse { offsets, .. } => 64 * offsets.len(),
            Kept::Dense(_) | Kept::Coded(_) => self.bytes,
        }
    }

    /// Turns the bytes of the block, which are those of the base, into target bytes.
    pub fn write(&self, tensor: &KeptTensor, bytes: &mut [u8]) -> Result<()> {
        let element_bytes = tensor.spec.dtype().element_bytes();
        match &self.kept {
            Kept::Sparse { offsets, values } => {
                Changed::Sparse { offsets, values }.write(element_bytes, bytes);
            }
            Kept::Dense(target) => Changed::Dense(target).write(element_bytes, bytes),
            Kept::Coded(coded) => apply_all(coded, tensor, self.start, bytes)?,
        }
        Ok(())
    }
}

/// Applies blocks one after the other to bytes from `start` on, within which all of them lie.
fn apply_all(coded: &[Coded], tensor: &KeptTensor, start: u64, bytes: &mut [u8]) -> Result<()> {
    for coded in coded {
        let from = (coded.extent.start - start) as usize;
        let own = &mut bytes[from..from + coded.extent.bytes as usize];
        coded.block(tensor).apply(own).map_err(|_| written_meanwhile(&tensor.name))?;
    }
    Ok(())
}

/// The block was decoded before, from what the weights were then.
fn written_meanwhile(name: &str) -> Error {
    Error::misuse(format!(
        "tensor '{name}' was written to since the update was prepared, and may now be neither base nor target; write nothing between prepare and commit"
    ))
}
