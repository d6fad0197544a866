//! Where tensors come from: files, memory, or whatever a caller has.

use crate::dtype::TensorSpec;
use crate::error::{Error, Result};

/// Tensors that can be read at any place, by many threads at once.
///
/// [`Checkpoint`](crate::Checkpoint) is one, and so are [`Weights`](crate::tensors::Weights) in memory.
pub trait TensorSource: Sync {
    /// Names and specs, in any order; each name once.
    fn tensors(&self) -> Vec<(&str, &TensorSpec)>;

    /// Spec of the tensor of this name.
    fn spec(&self, name: &str) -> Option<&TensorSpec>;

    /// Fills `buffer` with the bytes of a tensor from `start`.
    ///
    /// # Errors
    /// [`Error::Misuse`] beyond the end of a tensor, [`Error::Io`].
    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()>;

    /// The same bytes without a copy, if they are in memory: exactly as many as are asked for.
    fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
        let _ = (name, start, bytes);
        None
    }

    /// The tensor whose memory this one is as well, where two names have one memory. What writes to the
    /// one writes to the other. The default is for sources where every tensor has its own.
    fn tied_to(&self, name: &str) -> Option<&str> {
        let _ = name;
        None
    }

    /// Whether the tensors are still those that were there at first; asked when all of them were
    /// read. The default is for sources that nobody can change meanwhile.
    ///
    /// # Errors
    /// [`Error::Changed`] names what changed, and how.
    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn no_tensor(name: &str) -> Error {
    Error::misuse(format!(
        "there is no tensor '{name}', or the bytes asked for lie beyond its end; read only what tensors() lists"
    ))
}

/// One range of one tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    pub name: &'a str,
    pub start: u64,
    pub bytes: usize,
}

/// The bytes of several spans: as they are in memory, or read into `buffer` one after the other.
pub(crate) fn read_spans<'s>(
    source: &'s dyn TensorSource,
    spans: &[Span<'_>],
    buffer: &'s mut Vec<u8>,
) -> Result<Vec<&'s [u8]>> {
    let slices: Vec<Option<&'s [u8]>> =
        spans.iter().map(|span| source.slice(span.name, span.start, span.bytes)).collect();
    let missing = spans.iter().zip(&slices).filter(|(_, slice)| slice.is_none());
    let total = missing.map(|(span, _)| span.bytes).sum();
    // What is there is overwritten; only growth needs to be filled first.
    if buffer.len() < total {
        buffer.resize(total, 0);
    }
    let mut rest = &mut buffer[..total];
    let mut found = Vec::with_capacity(spans.len());
    for (span, slice) in spans.iter().zip(slices) {
        found.push(match slice {
            Some(slice) if slice.len() != span.bytes => {
                return Err(Error::misuse(format!(
                    "the source gave a slice of {} bytes of tensor '{}', where {} were asked for",
                    slice.len(),
                    span.name,
                    span.bytes
                )))
            }
            Some(slice) => slice,
            None => {
                let (now, later) = rest.split_at_mut(span.bytes);
                rest = later;
                if span.bytes > 0 {
                    source.read(span.name, span.start, now)?;
                }
                now
            }
        });
    }
    Ok(found)
}
