//! The pull decoder: a thin loop that feeds the push decoder from a reader.

use std::io::{ErrorKind, Read};

use crate::error::{Error, Fault, Result};
use crate::limits::Limits;
use crate::stream::{Event, PushDecoder, Section};

/// Most bytes that are asked of the reader at once.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Reads what the decoder wants next, or as much of it as fits `chunk`; 0 at the end of the reader
/// or if nothing is wanted.
pub(crate) fn read_wanted(
    reader: &mut impl Read,
    chunk: &mut [u8],
    decoder: &PushDecoder,
) -> Result<usize> {
    let wanted = decoder.wanted().min(chunk.len());
    read(reader, &mut chunk[..wanted], decoder)
}

fn read(reader: &mut impl Read, chunk: &mut [u8], decoder: &PushDecoder) -> Result<usize> {
    loop {
        match reader.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Error::io(
                    format!("reading the patch after byte {}", decoder.offset()),
                    error,
                ));
            }
            Ok(read) if read > chunk.len() => {
                let asked = chunk.len();
                return Err(Error::misuse(format!(
                    "the reader says that it read {read} bytes, where {asked} were asked for"
                )));
            }
            Ok(read) => return Ok(read),
        }
    }
}

/// Reads a patch from a [`Read`], event by event. Never reads beyond the end of the patch, so that
/// patches may follow one another on a connection; [`finish`](Self::finish) checks that a file ends
/// with it.
///
/// A decoder checks the file, not what it makes of a base: a [`Receiver`](crate::stream::Receiver)
/// does both.
///
/// ```
/// use pulse::{Decoder, Encoder, Event, Limits};
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::EncoderOptions;
/// let spec = TensorSpec::new(Dtype::U8, &[4])?;
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// let mut tensor = encoder.patched("w", &spec)?;
/// tensor.push(&[1, 2, 3, 4], &[1, 2, 5, 4])?;
/// tensor.end()?;
/// let (patch, _) = encoder.finish()?;
///
/// let mut changes = 0;
/// let mut decoder = Decoder::new(patch.as_slice(), Limits::default());
/// while let Some(event) = decoder.next_event()? {
///     if let Event::Block(block) = event {
///         changes += block.changes();
///     }
/// }
/// decoder.finish()?;
/// assert_eq!(changes, 1);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder<R: Read> {
    reader: R,
    push: PushDecoder,
    chunk: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    /// Starts at the reader's position. Makes small reads: wrap the reader in a
    /// [`BufReader`](std::io::BufReader) if they are expensive and reading ahead is safe.
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
        if self.push.is_done() {
            return Ok(None);
        }
        loop {
            let read = read_wanted(&mut self.reader, &mut self.chunk, &self.push)?;
            if read == 0 {
                self.push.finish()?;
            }
            // All of it is taken: no more than wanted was read.
            self.push.advance(&self.chunk[..read])?;
            if self.push.has_event() {
                return Ok(self.push.event());
            }
        }
    }

    /// The event that was given last, once more.
    #[cfg(feature = "parallel")]
    pub(crate) fn event(&self) -> Option<Event<'_>> {
        self.push.event()
    }

    /// Checks that the patch was read to its end and that nothing follows it; gives back the reader.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Trailing`], [`Error::Io`].
    pub fn finish(mut self) -> Result<R> {
        self.push.finish()?;
        match read(&mut self.reader, &mut [0], &self.push)? {
            0 => Ok(self.reader),
            _ => Err(Fault::Trailing.at(self.push.offset())),
        }
    }

    /// The reader.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.reader
    }

    /// The reader. What is read from it is missing from the patch.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.reader
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
