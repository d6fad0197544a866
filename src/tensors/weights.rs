//! Weights in memory: borrowed bytes by name.

use std::collections::BTreeMap;

use crate::dtype::TensorSpec;
use crate::error::Result;
use crate::tensors::source::{no_tensor, TensorSource};

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
    /// [`Error::Misuse`](crate::Error::Misuse) if there are not as many bytes as the spec says.
    pub fn new(spec: TensorSpec, bytes: &'a [u8]) -> Result<Self> {
        spec.check_bytes("a tensor", bytes.len())?;
        Ok(TensorRef { spec, bytes })
    }

    /// Bytes that are known to be as many as the spec says.
    pub(crate) fn known(spec: &TensorSpec, bytes: &'a [u8]) -> Self {
        TensorRef { spec: spec.clone(), bytes }
    }
}

/// A tensor in memory that a patch may change.
#[derive(Debug)]
pub struct TensorMut<'a> {
    spec: TensorSpec,
    bytes: &'a mut [u8],
}

impl<'a> TensorMut<'a> {
    /// Little-endian bytes of a tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`](crate::Error::Misuse) if there are not as many bytes as the spec says.
    pub fn new(spec: TensorSpec, bytes: &'a mut [u8]) -> Result<Self> {
        spec.check_bytes("a tensor", bytes.len())?;
        Ok(TensorMut { spec, bytes })
    }
}

/// Weights in memory that are read: collected from pairs of name and tensor, whatever the caller
/// keeps them in. Of several tensors of one name, the last counts.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::{TensorRef, TensorSource, Weights};
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let weights: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
/// assert_eq!(weights.spec("w"), Some(&spec));
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Weights<'a> {
    tensors: BTreeMap<String, TensorRef<'a>>,
}

impl<'a, N: Into<String>> FromIterator<(N, TensorRef<'a>)> for Weights<'a> {
    fn from_iter<I: IntoIterator<Item = (N, TensorRef<'a>)>>(tensors: I) -> Self {
        Weights {
            tensors: tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect(),
        }
    }
}

/// Weights in memory that a patch may change: collected as [`Weights`] are.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::{TensorMut, WeightsMut};
/// let mut bytes = *b"abc";
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let weights: WeightsMut = [("w", TensorMut::new(spec, &mut bytes)?)].into_iter().collect();
/// # let _ = weights;
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct WeightsMut<'a> {
    tensors: BTreeMap<String, TensorMut<'a>>,
}

impl<'a, N: Into<String>> FromIterator<(N, TensorMut<'a>)> for WeightsMut<'a> {
    fn from_iter<I: IntoIterator<Item = (N, TensorMut<'a>)>>(tensors: I) -> Self {
        WeightsMut {
            tensors: tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect(),
        }
    }
}

impl<'a> WeightsMut<'a> {
    /// Names and bytes, to be changed.
    pub(crate) fn bytes_mut<'s>(
        &'s mut self,
    ) -> impl Iterator<Item = (&'s str, &'s mut [u8])> + use<'s, 'a> {
        self.tensors.iter_mut().map(|(name, tensor)| (name.as_str(), &mut *tensor.bytes))
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|tensor| &*tensor.bytes)
    }
}

impl<'a> Weights<'a> {
    fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.tensors.get(name).map(|tensor| tensor.bytes)
    }
}

fn range(bytes: &[u8], start: u64, len: usize) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(len)?)
}

/// Both kinds are sources in the same way.
macro_rules! source {
    ($weights:ident) => {
        impl TensorSource for $weights<'_> {
            fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
                self.tensors.iter().map(|(name, tensor)| (name.as_str(), &tensor.spec)).collect()
            }

            fn spec(&self, name: &str) -> Option<&TensorSpec> {
                self.tensors.get(name).map(|tensor| &tensor.spec)
            }

            fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
                let bytes = self.slice(name, start, buffer.len()).ok_or_else(|| no_tensor(name))?;
                buffer.copy_from_slice(bytes);
                Ok(())
            }

            fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
                range(self.bytes(name)?, start, bytes)
            }
        }
    };
}

source!(Weights);
source!(WeightsMut);
