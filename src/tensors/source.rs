//! Where tensors come from: files, memory, or whatever a caller has.

use std::collections::BTreeMap;

use crate::dtype::TensorSpec;
use crate::error::{Error, Result};

/// Tensors that can be read at any place, by many threads at once.
///
/// [`Checkpoint`] is one, and so is a map from names to [`TensorRef`]s for weights in memory.
pub trait TensorSource: Sync {
    /// What the source is, for error messages.
    fn describe(&self) -> String;

    /// Names and specs, in ascending order of the bytes of the names.
    fn tensors(&self) -> Vec<(&str, &TensorSpec)>;

    /// Spec of the tensor of this name.
    fn spec(&self, name: &str) -> Option<&TensorSpec>;

    /// Fills `buffer` with the bytes of a tensor from `start`.
    ///
    /// # Errors
    /// [`Error::Misuse`] beyond the end of a tensor, [`Error::Io`].
    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()>;

    /// The same bytes without a copy, if they are in memory.
    fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
        let _ = (name, start, bytes);
        None
    }
}

pub(crate) fn no_tensor(name: &str) -> Error {
    Error::misuse(format!(
        "there is no tensor '{name}', or it ends before the bytes asked for; ask for what tensors() names"
    ))
}

/// A tensor in memory.
#[derive(Debug, Clone)]
pub struct TensorRef<'a> {
    spec: TensorSpec,
    bytes: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// Little-endian bytes of a tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`] if there are not as many bytes as the spec says.
    pub fn new(spec: TensorSpec, bytes: &'a [u8]) -> Result<Self> {
        check_size(&spec, bytes.len())?;
        Ok(TensorRef { spec, bytes })
    }
}

fn check_size(spec: &TensorSpec, bytes: usize) -> Result<()> {
    match bytes as u64 == spec.bytes() {
        true => Ok(()),
        false => Err(Error::misuse(format!("{bytes} bytes given for a tensor {spec}, expected {}", spec.bytes()))),
    }
}

/// A tensor in memory that a patch may change.
#[derive(Debug)]
pub struct TensorMut<'a> {
    pub(crate) spec: TensorSpec,
    pub(crate) bytes: &'a mut [u8],
}

impl<'a> TensorMut<'a> {
    /// Little-endian bytes of a tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`] if there are not as many bytes as the spec says.
    pub fn new(spec: TensorSpec, bytes: &'a mut [u8]) -> Result<Self> {
        check_size(&spec, bytes.len())?;
        Ok(TensorMut { spec, bytes })
    }
}

/// What both kinds of tensors in memory have.
trait Held: Sync {
    fn held(&self) -> (&TensorSpec, &[u8]);
}

impl Held for TensorRef<'_> {
    fn held(&self) -> (&TensorSpec, &[u8]) {
        (&self.spec, self.bytes)
    }
}

impl Held for TensorMut<'_> {
    fn held(&self) -> (&TensorSpec, &[u8]) {
        (&self.spec, self.bytes)
    }
}

macro_rules! memory {
    ($($tensor:ident)*) => {$(
        impl TensorSource for BTreeMap<String, $tensor<'_>> {
            fn describe(&self) -> String {
                "the weights in memory".into()
            }

            fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
                self.iter().map(|(name, tensor)| (name.as_str(), tensor.held().0)).collect()
            }

            fn spec(&self, name: &str) -> Option<&TensorSpec> {
                self.get(name).map(|tensor| tensor.held().0)
            }

            fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
                let slice = self.slice(name, start, buffer.len()).ok_or_else(|| no_tensor(name))?;
                buffer.copy_from_slice(slice);
                Ok(())
            }

            fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
                let start = usize::try_from(start).ok()?;
                self.get(name)?.held().1.get(start..start.checked_add(bytes)?)
            }
        }
    )*};
}

memory!(TensorRef TensorMut);

/// One range of one tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub name: &'a str,
    pub start: u64,
    pub bytes: usize,
}

/// The bytes of several parts: as they are in memory, or read into `buffer` one after the other.
pub(crate) fn read_parts<'s>(
    source: &'s dyn TensorSource,
    parts: &[Part<'_>],
    buffer: &'s mut Vec<u8>,
) -> Result<Vec<&'s [u8]>> {
    let slices: Vec<Option<&'s [u8]>> =
        parts.iter().map(|part| source.slice(part.name, part.start, part.bytes)).collect();
    let missing = parts.iter().zip(&slices).filter(|(_, slice)| slice.is_none());
    let total = missing.map(|(part, _)| part.bytes).sum();
    // What is there is overwritten; only growth needs to be filled first.
    if buffer.len() < total {
        buffer.resize(total, 0);
    }
    let mut rest = &mut buffer[..total];
    let mut found = Vec::with_capacity(parts.len());
    for (part, slice) in parts.iter().zip(slices) {
        found.push(match slice {
            Some(slice) => slice,
            None => {
                let (now, later) = rest.split_at_mut(part.bytes);
                rest = later;
                if part.bytes > 0 {
                    source.read(part.name, part.start, now)?;
                }
                now
            }
        });
    }
    Ok(found)
}
