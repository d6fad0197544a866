//! The pull decoder: a thin loop that feeds the push decoder from a reader.

use std::io::{ErrorKind, Read};

use crate::error::{Error, Fault, Result};
use crate::limits::Limits;
use crate::stream::{Event, PushDecoder, Section};

/// Most bytes that are asked of the reader at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads a patch from a [`Read`]. Never reads beyond the end of the patch, so that patches may
/// follow one another on a connection; [`finish`](Self::finish) checks that a file ends with it.
///
/// ```
/// use pulse::{Decoder, Encoder, Event, Limits};
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::EncoderOptions;
/// let spec = TensorSpec::new(Dtype::U8, &[4])?;
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// encoder.begin("w", Some(&spec), Some(&spec))?;
/// encoder.push(&[1, 2, 3, 4], &[1, 2, 5, 4])?;
/// encoder.end()?;
/// let (patch, _) = encoder.finish()?;
///
/// let mut weights = [1, 2, 3, 4];
/// let mut decoder = Decoder::new(patch.as_slice(), Limits::default());
/// while let Some(event) = decoder.next_event()? {
///     match event {
///         Event::Block(block) => {
///             let range = block.range();
///             block.apply(&mut weights[range.start as usize..range.end as usize])?;
///         }
///         // Nothing is right until its digest says so.
///         Event::TensorEnd(end) => assert_eq!(end.target, Some(pulse::hash::tensor_digest(&weights))),
///         _ => {}
///     }
/// }
/// decoder.finish()?;
/// assert_eq!(weights, [1, 2, 5, 4]);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder<R: Read> {
    reader: R,
    push: PushDecoder,
    chunk: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    /// Starts at the reader's position. Small reads are made: give it a
    /// [`BufReader`](std::io::BufReader) where those are dear and reading ahead does no harm.
    #[must_use]
    pub fn new(reader: R, limits: Limits) -> Self {
        Self::resume(reader, PushDecoder::new(limits))
    }

    /// Goes on where the push decoder stands, which must be where the reader stands.
    pub(crate) fn resume(reader: R, push: PushDecoder) -> Self {
        Decoder { reader, push, chunk: vec![0; CHUNK_BYTES] }
    }

    /// The next event; `None` after the end.
    ///
    /// # Errors
    /// As [`PushDecoder::feed`], [`Fault::Truncated`] if the reader ends before the patch, and
    /// [`Error::Io`] from the reader.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>> {
        loop {
            let wanted = self.push.wanted()?.min(CHUNK_BYTES);
            if self.push.is_done() {
                return Ok(None);
            }
            let read = if wanted == 0 { 0 } else { self.read(wanted)? };
            if read == 0 && wanted > 0 {
                self.push.finish()?;
            }
            // All is taken: no more than wanted was read.
            self.push.feed(&self.chunk[..read])?;
            if self.push.has_event() {
                return Ok(self.push.event());
            }
        }
    }

    /// The event that was given last, once more.
    #[cfg(feature = "parallel")]
    pub(crate) fn event(&mut self) -> Option<Event<'_>> {
        self.push.event()
    }

    fn read(&mut self, wanted: usize) -> Result<usize> {
        loop {
            match self.reader.read(&mut self.chunk[..wanted]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io(format!("reading the patch after byte {}", self.push.offset()), error))
                }
                Ok(read) => return Ok(read),
            }
        }
    }

    /// Checks that the patch was read to its end and that nothing follows it; gives back the reader.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Trailing`], [`Error::Io`].
    pub fn finish(mut self) -> Result<R> {
        self.push.finish()?;
        match self.read(1)? {
            0 => Ok(self.reader),
            _ => Err(Fault::Trailing.at(self.push.offset())),
        }
    }

    /// Gives back the reader, which stands after the last byte that was read.
    #[must_use]
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The push decoder that does the work.
    #[must_use]
    pub fn push_decoder(&self) -> &PushDecoder {
        &self.push
    }

    /// The section that gave the last event.
    #[must_use]
    pub fn section(&self) -> Option<Section> {
        self.push.section()
    }
}
