//! One tensor of a patch, read without the rest.

use std::io::BufReader;
use std::ops::Range;

use crate::error::{BaseMismatch, Corrupt, Error, Fault, Made, Result};
use crate::hash::TensorHasher;
use crate::patch::read_at::RangeReader;
use crate::patch::tail::within;
use crate::patch::ReadAt;
use crate::stream::{Block, Decoder, Event};
use crate::tag::Tag;
use crate::wire::{Action, TensorHeader, TensorTrailer};

/// Reads one tensor of a patch, block by block; made by [`Tail::tensor`](super::Tail::tensor).
///
/// Its sections are checked like those of a patch that is read from first byte to last. Memory is
/// bounded by the largest block, whatever the size of the tensor.
///
/// ```
/// use pulse::{Encoder, Limits};
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::patch::Tail;
/// use pulse::stream::EncoderOptions;
/// # let spec = TensorSpec::new(Dtype::U8, &[4])?;
/// # let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// # let mut tensor = encoder.patched("w", &spec)?;
/// # tensor.push(b"abcd", b"abXd")?;
/// # tensor.end()?;
/// # let (patch, _) = encoder.finish()?;
/// let tail = Tail::new(patch, Limits::default())?;
/// let mut tensor = tail.tensor("w")?.expect("a tensor of this patch");
/// println!("{} is {}", tensor.header().name, tensor.header().action.name());
/// while let Some(block) = tensor.next_block()? {
///     println!("{} changes in bytes {:?}", block.changes(), block.range());
/// }
/// let trailer = tensor.trailer().expect("no block is left");
/// assert_eq!(trailer.changes, 1);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorReader<'t, S: ReadAt> {
    decoder: Decoder<BufReader<RangeReader<&'t S>>>,
    /// Where the next tensor starts, or the index.
    end: u64,
    header: TensorHeader,
    /// A block was given.
    begun: bool,
    trailer: Option<TensorTrailer>,
}

impl<'t, S: ReadAt> TensorReader<'t, S> {
    /// Most bytes that are read at once.
    pub(super) const CHUNK_BYTES: u64 = 4 << 20;

    /// The decoder stands where the index says that the tensor starts.
    pub(super) fn new(
        mut decoder: Decoder<BufReader<RangeReader<&'t S>>>,
        name: &str,
        range: Range<u64>,
    ) -> Result<Self> {
        let elsewhere = Fault::Order { expected: "the tensor header that the index names" };
        let header = match decoder.next_event() {
            Ok(Some(Event::Tensor(header))) => header.clone(),
            // No section at all, rather than one of a later version.
            Err(Error::Corrupt(corrupt))
                if matches!(corrupt.fault, Fault::UnknownSection { .. }) =>
            {
                return Err(elsewhere.at(range.start));
            }
            Err(error) => return Err(within(range.end, error)),
            // The decoder takes nothing else.
            Ok(_) => return Err(elsewhere.at(range.start)),
        };
        if header.name != name {
            return Err(Error::Corrupt(Box::new(Corrupt {
                file: None,
                offset: range.start,
                section: Some(Tag::TENSOR),
                tensor: Some(name.into()),
                block: None,
                content: None,
                fault: Fault::Name { field: "tensor name", found: header.name },
            })));
        }
        Ok(TensorReader { decoder, end: range.end, header, begun: false, trailer: None })
    }

    /// Name, action, dtype and shape.
    #[must_use]
    pub fn header(&self) -> &TensorHeader {
        &self.header
    }

    /// The next block of changes; `None` after the last, when the trailer has come as well.
    ///
    /// A block is right by itself. A caller who applies blocks has the tensor that the patch names only
    /// if its digest is that of the [`trailer`](Self::trailer); [`apply`](Self::apply) compares it.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Limit`], [`Error::Io`]; the reader is then of no further use.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>> {
        loop {
            if self.trailer.is_some() {
                return Ok(None);
            }
            match self.decoder.next_event().map_err(|error| within(self.end, error))? {
                Some(Event::Block(_)) => break,
                Some(Event::TensorEnd(trailer)) => self.trailer = Some(*trailer),
                // A section that is not known and may be skipped.
                _ => {}
            }
        }
        self.begun = true;
        match self.decoder.event() {
            Some(Event::Block(block)) => Ok(Some(block)),
            _ => Ok(None),
        }
    }

    /// The trailer, with the digests of the tensor in base and target, once
    /// [`next_block`](Self::next_block) has given `None`.
    #[must_use]
    pub fn trailer(&self) -> Option<&TensorTrailer> {
        self.trailer.as_ref()
    }

    /// Turns the bytes of the tensor in the base into those in the target, in place, and compares
    /// the tensor digests. For a tensor that is added or replaced the bytes may be anything; there
    /// must be as many as [`header`](Self::header) says.
    ///
    /// The tensor is then what the patch says. Whether it belongs to a checkpoint with the target
    /// digest of the footer is not known (SPEC.md §8.4).
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] if the bytes were not those of the base, [`Error::WrongResult`],
    /// [`Error::Corrupt`], [`Error::Limit`], [`Error::Io`]: the contents of `bytes` are then unspecified.
    /// [`Error::Misuse`] if the number of bytes is wrong, the tensor is deleted, or a block was
    /// taken before: the bytes are then untouched.
    ///
    /// ```
    /// use pulse::{Encoder, Error, Limits};
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::patch::Tail;
    /// use pulse::stream::EncoderOptions;
    /// # let spec = TensorSpec::new(Dtype::U8, &[4])?;
    /// # let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
    /// # let mut tensor = encoder.patched("w", &spec)?;
    /// # tensor.push(b"abcd", b"abXd")?;
    /// # tensor.end()?;
    /// # let (patch, _) = encoder.finish()?;
    /// let tail = Tail::new(patch, Limits::default())?;
    /// let mut other = *b"abce";
    /// let tensor = tail.tensor("w")?.expect("a tensor of this patch");
    /// assert!(matches!(tensor.apply(&mut other), Err(Error::BaseMismatch(_))));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn apply(mut self, bytes: &mut [u8]) -> Result<TensorTrailer> {
        let name = self.header.name.clone();
        let Some(spec) = &self.header.spec else {
            return Err(Error::misuse(format!(
                "tensor '{name}' is deleted: there is nothing to make of it"
            )));
        };
        spec.check_bytes(&format!("tensor '{name}'"), bytes.len())?;
        if self.begun {
            return Err(Error::misuse(format!(
                "blocks of tensor '{name}' were taken before; apply a new reader"
            )));
        }
        // The base changes block by block, and the digest that it should have comes last.
        let mut base = (self.header.action == Action::Patched).then(TensorHasher::new);
        let mut target = TensorHasher::new();
        let (mut applied, mut at) = (Ok(()), 0);
        while let Some(block) = self.next_block()? {
            let range = block.range();
            // Within the tensor, whose bytes are in memory.
            let (start, end) = (range.start as usize, range.end as usize);
            if let Some(base) = &mut base {
                base.update(&bytes[at..end]);
            }
            if applied.is_ok() {
                applied = block.apply(&mut bytes[start..end]);
                target.update(&bytes[at..end]);
            }
            at = end;
        }
        if let Some(base) = &mut base {
            base.update(&bytes[at..]);
        }
        target.update(&bytes[at..]);
        // next_block has given all.
        let trailer = self
            .trailer
            .ok_or_else(|| Error::Internal(format!("tensor '{name}' ended without a trailer")))?;
        let target = target.finish();
        if applied.is_ok() && trailer.target == Some(target) {
            return Ok(trailer);
        }
        if let (Some(expected), Some(found)) = (trailer.base, base.map(TensorHasher::finish)) {
            if expected != found {
                let mut mismatch = BaseMismatch::new(Some(name), expected, found);
                mismatch.is_target = trailer.target == Some(found);
                return Err(Error::BaseMismatch(Box::new(mismatch)));
            }
        }
        applied?;
        let expected = trailer.target.unwrap_or(target);
        Err(Error::WrongResult { file: None, made: Made::Tensor(name), expected, found: target })
    }
}
