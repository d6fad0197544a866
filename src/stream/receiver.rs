//! The receiver: a patch in, a verified target out, or nothing.

use std::collections::BTreeMap;
use std::io::Read;

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Fault, Result};
use crate::limits::Limits;
use crate::stream::pull::{read_wanted, CHUNK_BYTES};
use crate::stream::target::Target;
use crate::stream::{InMemory, PushDecoder, Store};
use crate::wire::{Footer, Header};

/// What a [`Receiver`] received. All of it is verified: the store holds the target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Header of the patch: run, steps, metadata.
    pub header: Header,
    /// Footer of the patch: totals and digests.
    pub footer: Footer,
}

impl Received {
    /// Checkpoint digest of the target, which the store now holds.
    #[must_use]
    pub fn target(&self) -> Digest {
        self.footer.target
    }
}

/// Applies a patch to weights as it arrives, and verifies the result: the store takes over the
/// target in [`finish`](Self::finish), after every check of SPEC.md §8.4, or not at all.
///
/// Every byte of the target is hashed once as it is made, and each tensor that is not in the patch
/// as the base has it. Memory is one block and a record for each tensor, beside what the [`Store`]
/// holds.
///
/// ```
/// use std::collections::BTreeMap;
/// use pulse::{Encoder, Limits};
/// use pulse::stream::Receiver;
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::EncoderOptions;
/// let spec = TensorSpec::new(Dtype::U8, &[4])?;
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// let mut tensor = encoder.patched("w", &spec)?;
/// tensor.push(b"abcd", b"abxd")?;
/// tensor.end()?;
/// let (patch, _) = encoder.finish()?;
///
/// let mut weights = BTreeMap::from([("w".to_string(), (spec, b"abcd".to_vec()))]);
/// let mut receiver = Receiver::in_memory(&mut weights, Limits::default())?;
/// for arrived in patch.chunks(7) {
///     receiver.push(arrived)?;
/// }
/// receiver.finish()?;
/// assert_eq!(weights["w"].1, b"abxd");
///
/// // The same patch again: these weights are not its base any more.
/// let mut receiver = Receiver::in_memory(&mut weights, Limits::default())?;
/// let error = receiver.push(&patch).unwrap_err();
/// assert_eq!(error.kind(), "base");
/// # Ok::<(), pulse::Error>(())
/// ```
///
/// # Errors
/// The methods return [`Error::Corrupt`], [`Error::WrongResult`], [`Error::Limit`] and
/// [`Error::Version`] if the patch is at fault, [`Error::BaseMismatch`] if the store does not hold its
/// base, [`Error::Unfit`] if it does, and yet the patch does not fit it, and whatever the store returns. After an error the
/// receiver is of no further use, and says so with [`Error::Misuse`].
#[derive(Debug)]
#[must_use = "the store holds the target only after finish()"]
pub struct Receiver<S: Store> {
    decoder: PushDecoder,
    target: Target<S>,
    /// Bytes of the patch that were taken.
    taken: u64,
    /// There was an error: nothing more is taken, and nothing is committed.
    failed: bool,
}

impl<'w> Receiver<InMemory<'w>> {
    /// A receiver for weights in a map, which is not touched before [`finish`](Self::finish).
    ///
    /// Until then it holds a copy of each tensor that changes. For weights that are too large for
    /// that, `pulse::tensors` applies a whole patch in place.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a tensor does not have as many bytes as its spec says.
    pub fn in_memory(
        weights: &'w mut BTreeMap<String, (TensorSpec, Vec<u8>)>,
        limits: Limits,
    ) -> Result<Self> {
        Ok(Receiver::new(InMemory::new(weights)?, limits))
    }
}

impl<S: Store> Receiver<S> {
    /// A receiver that waits for the first byte of a patch. To keep the store after an error, lend
    /// it: `Receiver::new(&mut store, …)`.
    pub fn new(store: S, limits: Limits) -> Self {
        Receiver {
            decoder: PushDecoder::new(limits),
            target: Target::new(store),
            taken: 0,
            failed: false,
        }
    }

    /// Takes the next bytes of the patch, which may be cut anywhere.
    ///
    /// # Errors
    /// As the type says, and [`Fault::Trailing`] for bytes after the end of the patch.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let taken = self.feed(bytes)?;
        if taken < bytes.len() {
            self.failed = true;
            return Err(Fault::Trailing.at(self.taken));
        }
        Ok(())
    }

    /// Takes bytes from the front of `input` until the patch ends or the input is used up; returns
    /// how many. For connections on which something follows the patch; where nothing does,
    /// [`push`](Self::push) makes sure of it.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # let (patch, _) = pulse::Encoder::new(Vec::new(), Default::default())?.finish()?;
    /// let arrived = [patch.as_slice(), b"more"].concat();
    /// let mut weights = BTreeMap::new();
    /// let mut receiver = pulse::stream::Receiver::in_memory(&mut weights, pulse::Limits::default())?;
    /// let taken = receiver.feed(&arrived)?;
    /// assert_eq!(&arrived[taken..], b"more");
    /// assert!(receiver.is_done());
    /// receiver.finish()?;
    /// # Ok::<(), pulse::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the type says.
    pub fn feed(&mut self, input: &[u8]) -> Result<usize> {
        self.usable()?;
        let before = self.taken;
        let advanced = self.advance(input);
        self.failed = advanced.is_err();
        advanced.map(|()| (self.taken - before) as usize) // no more than the input has
    }

    fn advance(&mut self, mut input: &[u8]) -> Result<()> {
        while !input.is_empty() && !self.decoder.is_done() {
            let (taken, event) = self.decoder.feed(input)?;
            input = &input[taken..];
            self.taken += taken as u64;
            if let Some(event) = event {
                self.target.take(&event, self.taken)?;
            }
        }
        Ok(())
    }

    /// Takes the rest of the patch from a reader, and not a byte beyond it.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # let (patch, _) = pulse::Encoder::new(Vec::new(), Default::default())?.finish()?;
    /// let mut weights = BTreeMap::new();
    /// let mut receiver = pulse::stream::Receiver::in_memory(&mut weights, pulse::Limits::default())?;
    /// receiver.read_from(patch.as_slice())?; // or a file, or a socket
    /// receiver.finish()?;
    /// # Ok::<(), pulse::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the type says, [`Fault::Truncated`] if the reader ends before the patch, and
    /// [`Error::Io`] from the reader, after which it can be called again.
    pub fn read_from(&mut self, mut reader: impl Read) -> Result<()> {
        self.usable()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        while !self.decoder.is_done() {
            let read = read_wanted(&mut reader, &mut chunk, &self.decoder)?;
            if read == 0 {
                return self.ended();
            }
            self.feed(&chunk[..read])?;
        }
        Ok(())
    }

    /// Header of the patch, once it was read: it says from which step to which the patch leads, and
    /// is verified with everything else.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.target.header()
    }

    /// Whether the patch was read to its end. All that is left to do is [`finish`](Self::finish).
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.failed && self.decoder.is_done()
    }

    /// Lets the store take over the target, which is verified.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the patch has not come in full; [`Error::Misuse`] if there was an
    /// error before; whatever the store returns.
    pub fn finish(mut self) -> Result<Received> {
        self.usable()?;
        self.ended()?;
        self.target.commit()
    }

    /// Says that no more bytes will come.
    fn ended(&mut self) -> Result<()> {
        let ended = self.decoder.finish();
        self.failed = ended.is_err();
        ended
    }

    fn usable(&self) -> Result<()> {
        if self.failed {
            return Err(Error::misuse("this receiver has already failed; create a new one"));
        }
        Ok(())
    }
}
