//! What decoders give: events, and blocks of changes that are still encoded.

use std::ops::Range;

use crate::coding::{BlockDecoder, Coding, Matrix};
use crate::dtype::Dtype;
use crate::error::{Corrupt, Error, Fault, Result};
use crate::tag::Tag;
use crate::wire::{FileRecord, Footer, Header, TensorHeader, TensorTrailer};

/// What a decoder found, in the order of the file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The header; always the first event.
    Header(&'a Header),
    /// A file of the target, or one that only the base has; only patches made from files have these.
    File(&'a FileRecord),
    /// The next bytes of the preceding file, decompressed. Their SHA-256 is checked with the last of them.
    FileData(&'a [u8]),
    /// A tensor begins.
    Tensor(&'a TensorHeader),
    /// Changes of the open tensor.
    Block(Block<'a>),
    /// The open tensor ends.
    TensorEnd(&'a TensorTrailer),
    /// A section that this reader does not know and may skip.
    Skipped(Tag),
    /// The index; it agrees with the tensors that were read.
    Index,
    /// The footer: every byte of the file was right. Always the last event.
    End(&'a Footer),
}

/// The changes of one block, still encoded.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    pub(crate) dtype: &'a Dtype,
    pub(crate) extent: Extent,
    pub(crate) payload: &'a [u8],
    pub(crate) place: Place<'a>,
}

/// Which part of a tensor a block covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub coding: Coding,
    /// First byte in the tensor, and number of bytes.
    pub start: u64,
    pub bytes: u64,
    pub changes: u64,
    /// Rows and columns, if the tensor has them.
    pub matrix: Option<Matrix>,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// Where a block stands in the file, for error messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub tensor: &'a str,
    pub block: u64,
    /// Offset of the byte after the payload.
    pub end: u64,
}

impl<'a> Block<'a> {
    /// A block whose payload was fetched from the file again.
    #[cfg(feature = "parallel")]
    pub(crate) fn new(
        dtype: &'a Dtype,
        extent: Extent,
        payload: &'a [u8],
        place: Place<'a>,
    ) -> Self {
        Block { dtype, extent, payload, place }
    }

    /// The bytes of the tensor that the block covers. Bytes between blocks are unchanged.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.extent.start..self.extent.end()
    }

    /// First element of the tensor that the block covers.
    #[must_use]
    pub fn first_element(&self) -> u64 {
        self.extent.start / self.element_bytes()
    }

    /// Number of elements that the block covers.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.extent.bytes / self.element_bytes()
    }

    fn element_bytes(&self) -> u64 {
        self.dtype().element_bytes() as u64
    }

    /// Number of elements that change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.extent.changes
    }

    /// How the changes are written.
    #[must_use]
    pub fn coding(&self) -> Coding {
        self.extent.coding
    }

    /// Type of the elements.
    #[must_use]
    pub fn dtype(&self) -> &Dtype {
        self.dtype
    }

    /// Encoded size in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload.len() as u64
    }

    #[cfg(feature = "parallel")]
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    #[cfg(feature = "parallel")]
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Checks the block in full and makes it ready to be applied, or to list its changes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the payload breaks a rule of its coding.
    pub fn decode(&self) -> Result<BlockDecoder> {
        let Block { extent, payload, place, .. } = *self;
        BlockDecoder::new(
            self.dtype(),
            extent.matrix,
            extent.coding,
            self.elements(),
            extent.changes,
            payload,
            place.end,
        )
        .map_err(|bad| self.corrupt(place.end - bad.rest as u64, bad.fault))
    }

    /// A fault of this block.
    fn corrupt(&self, offset: u64, fault: Fault) -> Error {
        Error::Corrupt(Box::new(Corrupt {
            file: None,
            offset,
            section: Some(Tag::BLOCK),
            tensor: Some(self.place.tensor.into()),
            block: Some(self.place.block),
            content: None,
            fault,
        }))
    }

    /// Turns the bytes that the block covers of a tensor from base into target bytes, in place.
    /// After an error the contents of `tensor` in [`range`](Self::range) are unspecified.
    ///
    /// ```
    /// use pulse::{Decoder, Encoder, Event, Limits};
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::stream::EncoderOptions;
    /// let spec = TensorSpec::new(Dtype::U8, &[4])?;
    /// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
    /// let mut tensor = encoder.patched("w", &spec)?;
    /// tensor.push(b"abcd", b"abxd")?;
    /// tensor.end()?;
    /// let (patch, _) = encoder.finish()?;
    ///
    /// let mut weights = *b"abcd";
    /// let mut decoder = Decoder::new(patch.as_slice(), Limits::default());
    /// while let Some(event) = decoder.next_event()? {
    ///     if let Event::Block(block) = event {
    ///         block.apply_within(&mut weights)?; // not verified: see `Receiver`
    ///     }
    /// }
    /// assert_eq!(&weights, b"abxd");
    /// # Ok::<(), pulse::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Misuse`] if the tensor ends before the block does.
    pub fn apply_within(&self, tensor: &mut [u8]) -> Result<()> {
        let bytes = tensor.len();
        let range =
            usize::try_from(self.extent.start).ok().zip(usize::try_from(self.extent.end()).ok());
        match range.and_then(|(start, end)| tensor.get_mut(start..end)) {
            Some(covered) => self.apply(covered),
            None => Err(Error::misuse(format!(
                "tensor '{}' has {bytes} bytes, but the block ends at {}; give the whole tensor",
                self.place.tensor,
                self.extent.end()
            ))),
        }
    }

    /// Turns the base bytes of [`range`](Self::range) into target bytes, in place: for callers that
    /// do not have the whole tensor at hand. After an error the contents of `bytes` are unspecified.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Misuse`] if the slice does not have the length of the range.
    pub fn apply(&self, bytes: &mut [u8]) -> Result<()> {
        if bytes.len() as u64 != self.extent.bytes {
            return Err(Error::misuse(format!(
                "{} bytes given, but the block covers {}; give the bytes of range()",
                bytes.len(),
                self.extent.bytes
            )));
        }
        let applied = self.decode()?.apply(bytes);
        applied.map_err(|error| self.placed(error))
    }

    /// As [`apply`](Self::apply), and adds to `changed` the elements of the block that change, if it is
    /// not whole.
    #[cfg(feature = "parallel")]
    pub(crate) fn apply_noting(&self, bytes: &mut [u8], changed: &mut Vec<u32>) -> Result<()> {
        let applied = self.decode()?.apply_noting(bytes, changed);
        applied.map_err(|error| self.placed(error))
    }

    /// As [`apply`](Self::apply), for some of the bytes: from `skip` bytes after the start on. A
    /// contextual block is applied from its start.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn apply_part(&self, skip: u64, bytes: &mut [u8]) -> Result<()> {
        let mut decoder = self.decode()?;
        decoder.skip(skip)?;
        decoder.apply(bytes).map_err(|error| self.placed(error))
    }

    /// An error of the decoder, which does not know which block it decodes.
    fn placed(&self, error: Error) -> Error {
        match error {
            Error::Corrupt(corrupt) => self.corrupt(corrupt.offset, corrupt.fault),
            other => other,
        }
    }
}

/// A section of the file, for those who account for its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Section {
    /// What it is.
    pub tag: Tag,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its size, framing included.
    pub bytes: u64,
}
