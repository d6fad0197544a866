//! The push decoder: bytes in, events out. The only decoder; everything else drives it.

#[cfg(feature = "parallel")]
use std::ops::Range;
#[cfg(feature = "parallel")]
use std::sync::Arc;

use crate::error::{Corrupt, Error, Fault, Result};
use crate::limits::Limits;
use crate::parse::Bad;
use crate::stream::event::{Block, Event, Place, Section};
use crate::stream::framing::{Cut, Flaw, Framing};
use crate::stream::grammar::{Found, Grammar};
use crate::tag::Tag;
use crate::wire;
#[cfg(feature = "parallel")]
use crate::wire::Header;

/// Reads a patch from bytes that arrive in any amounts. Never blocks, never takes a byte beyond
/// the section it reads, and so never a byte beyond the end of the patch.
///
/// A decoder checks the file, not what it makes of a base: a [`Receiver`](crate::stream::Receiver)
/// does both.
///
/// ```
/// use pulse::{Encoder, Event, Limits, PushDecoder};
/// use pulse::stream::EncoderOptions;
/// let (patch, _) = Encoder::new(Vec::new(), EncoderOptions::default())?.finish()?;
/// let mut decoder = PushDecoder::new(Limits::default());
/// let mut arrived = patch.as_slice();
/// let mut ended = false;
/// while !arrived.is_empty() {
///     let (taken, event) = decoder.feed(arrived)?;
///     arrived = &arrived[taken..];
///     if let Some(Event::End(footer)) = event {
///         ended = footer.tensors == 0;
///     }
/// }
/// decoder.finish()?; // an error if the footer has not come
/// assert!(ended);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct PushDecoder {
    /// Cuts the bytes into sections.
    framing: Framing,
    /// Reads the sections.
    grammar: Grammar,
    /// What the last feed found, if it found anything.
    found: Option<Found>,
    /// Major and minor version, once they were read.
    version: Option<(u8, u8)>,
    /// The section that gave the last event.
    section: Option<Section>,
    /// There was an error: nothing more is taken (R61).
    failed: bool,
}

impl PushDecoder {
    /// A decoder that waits for the first byte of a file.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        PushDecoder {
            framing: Framing::new(limits.section_bytes),
            grammar: Grammar::new(limits),
            found: None,
            version: None,
            section: None,
            failed: false,
        }
    }

    /// A decoder that waits for a tensor header at `offset` of a file with this header. The name of
    /// the tensor is coded against that of the one before, `previous` (SPEC.md §8.3). What it gives
    /// after the end of the tensor is of no use: it knows nothing of the tensors before.
    #[cfg(feature = "parallel")]
    pub(crate) fn at_tensor(
        limits: Limits,
        header: &Header,
        previous: Arc<str>,
        offset: u64,
    ) -> Self {
        PushDecoder {
            framing: Framing::at_section(limits.section_bytes, offset),
            grammar: Grammar::at_tensor(limits.clone(), header, previous),
            ..Self::new(limits)
        }
    }

    /// Takes bytes from the front of `input` until an event is complete or the input is used up.
    /// Returns how many, and the event. After the end nothing is taken any more.
    ///
    /// ```
    /// # let (patch, _) = pulse::Encoder::new(Vec::new(), Default::default())?.finish()?;
    /// let mut decoder = pulse::PushDecoder::new(pulse::Limits::default());
    /// let (taken, event) = decoder.feed(&patch)?;
    /// assert!(matches!(event, Some(pulse::Event::Header(_))));
    /// assert!(taken < patch.len()); // the rest is for the next call
    /// # Ok::<(), pulse::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Limit`], [`Error::Version`]. The decoder is then of no further
    /// use, and says so with [`Error::Misuse`].
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Event<'_>>)> {
        let taken = self.advance(input)?;
        Ok((taken, self.event()))
    }

    /// [`feed`](Self::feed) without the event, which [`event`](Self::event) gives.
    pub(crate) fn advance(&mut self, input: &[u8]) -> Result<usize> {
        self.usable()?;
        self.found = None;
        let mut rest = input;
        let advanced = self.advance_through(&mut rest);
        if let Err(error) = advanced {
            self.failed = true;
            self.framing.clear();
            return Err(error);
        }
        Ok(input.len() - rest.len())
    }

    fn advance_through(&mut self, rest: &mut &[u8]) -> Result<()> {
        while self.found.is_none() && !self.is_done() {
            match self.framing.take(rest).map_err(|Flaw { at, fault }| self.place(fault, at))? {
                None => return Ok(()),
                Some(Cut::Version(major, minor)) => {
                    self.version = Some((major, minor));
                    if major != wire::MAJOR {
                        return Err(Error::Version {
                            file: None,
                            major,
                            minor,
                            known: wire::MAJOR,
                        });
                    }
                }
                Some(Cut::Section(tag)) => self.read(tag)?,
            }
        }
        Ok(())
    }

    /// Reads the section that the framing has completed.
    fn read(&mut self, tag: Tag) -> Result<()> {
        let (offset, end) = (self.framing.start(), self.framing.payload_range().end);
        let found = self.grammar.read(tag, self.framing.payload(), offset);
        let found = found.map_err(|Bad { rest, fault }| self.place(fault, end - rest))?;
        if let Found::End(footer) = &found {
            let (expected, found) = (footer.sha256, self.framing.sha256());
            if expected != found {
                return Err(self.place(
                    Fault::FileDigest { expected, found },
                    end - wire::FOOTER_DIGEST_BYTES,
                ));
            }
        }
        self.section = Some(Section { tag, offset, bytes: self.framing.bytes() });
        self.found = Some(found);
        Ok(())
    }

    /// The event that the last feed found, if it found one.
    pub(crate) fn event(&self) -> Option<Event<'_>> {
        self.found.as_ref().map(|found| match found {
            Found::Header => Event::Header(self.grammar.header()),
            Found::File(record) => Event::File(record),
            Found::FileData(bytes) => Event::FileData(bytes),
            Found::Tensor(header) => Event::Tensor(header),
            Found::Block { tensor, dtype, number, extent, coded } => Event::Block(Block {
                dtype,
                extent: *extent,
                payload: &self.framing.payload()[coded.clone()],
                place: Place {
                    tensor: &tensor.name,
                    block: *number,
                    end: self.framing.start() + self.framing.payload_range().end as u64,
                },
            }),
            Found::TensorEnd(end) => Event::TensorEnd(end),
            Found::Skipped(tag) => Event::Skipped(*tag),
            Found::Index => Event::Index,
            Found::End(footer) => Event::End(footer),
        })
    }

    pub(crate) fn has_event(&self) -> bool {
        self.found.is_some()
    }

    fn usable(&self) -> Result<()> {
        if self.failed {
            return Err(Error::misuse("this decoder has already failed; create a new one"));
        }
        Ok(())
    }

    /// Number of bytes that the decoder is sure to take next: a reader that fetches that many never
    /// reads ahead. Zero after the end, and after an error.
    #[must_use]
    pub fn wanted(&self) -> usize {
        if self.failed || self.is_done() {
            return 0;
        }
        self.framing.wanted()
    }

    /// Major and minor version of the file, once they were read.
    #[must_use]
    pub fn version(&self) -> Option<(u8, u8)> {
        self.version
    }

    /// The section that gave the last event.
    #[must_use]
    pub fn section(&self) -> Option<Section> {
        self.section
    }

    /// Where in the file the payload of the last event stands: of the coding for a block, of the
    /// section for any other.
    #[cfg(feature = "parallel")]
    pub(crate) fn payload(&self) -> Range<u64> {
        let Range { mut start, end } = self.framing.payload_range();
        if let Some(Found::Block { coded, .. }) = &self.found {
            start += coded.start;
        }
        self.framing.start() + start as u64..self.framing.start() + end as u64
    }

    /// Offset of the section that is being read: all bytes before it are valid.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.framing.complete_bytes()
    }

    /// Whether the footer was read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.failed && self.grammar.is_done()
    }

    /// Says that no more bytes will come.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the footer has not been read.
    pub fn finish(&mut self) -> Result<()> {
        self.usable()?;
        if self.is_done() {
            return Ok(());
        }
        self.failed = true;
        let missing = self.framing.wanted() as u64;
        Err(Fault::Truncated { missing }.at(self.framing.taken()))
    }

    /// A fault at a byte of the section that is being read.
    fn place(&self, fault: Fault, at: usize) -> Error {
        let offset = self.framing.start();
        if let Fault::Limit { limit, asked, allowed } = fault {
            return Error::Limit { file: None, limit, asked, allowed, offset };
        }
        let section = self.framing.tag();
        let tensor = self.grammar.open_tensor();
        Error::Corrupt(Box::new(Corrupt {
            file: None,
            offset: offset + at as u64,
            section,
            tensor: tensor.map(|tensor| tensor.header.name.clone()),
            block: tensor.map(|tensor| tensor.blocks).filter(|_| section == Some(Tag::BLOCK)),
            content: None,
            fault,
        }))
    }
}
