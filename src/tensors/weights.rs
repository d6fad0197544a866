//! Weights in memory: borrowed bytes by name.

use std::collections::BTreeMap;

use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
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

/// Names of tensors that have the memory of others: what they are, and which others.
type Ties = BTreeMap<String, (TensorSpec, String)>;

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
    tied: Ties,
}

impl<'a, N: Into<String>> FromIterator<(N, TensorRef<'a>)> for Weights<'a> {
    fn from_iter<I: IntoIterator<Item = (N, TensorRef<'a>)>>(tensors: I) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect();
        Weights { tensors, tied: Ties::new() }
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
    tied: Ties,
}

impl<'a, N: Into<String>> FromIterator<(N, TensorMut<'a>)> for WeightsMut<'a> {
    fn from_iter<I: IntoIterator<Item = (N, TensorMut<'a>)>>(tensors: I) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect();
        WeightsMut { tensors, tied: Ties::new() }
    }
}

impl<'a> WeightsMut<'a> {
    /// Names and bytes, to be changed: each memory once.
    pub(crate) fn bytes_mut<'s>(
        &'s mut self,
    ) -> impl Iterator<Item = (&'s str, &'s mut [u8])> + use<'s, 'a> {
        self.tensors.iter_mut().map(|(name, tensor)| (name.as_str(), &mut *tensor.bytes))
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(self.memory_of(name)).map(|tensor| &*tensor.bytes)
    }
}

impl<'a> Weights<'a> {
    fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.tensors.get(self.memory_of(name)).map(|tensor| tensor.bytes)
    }
}

fn range(bytes: &[u8], start: u64, len: usize) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(len)?)
}

/// Both kinds are sources in the same way.
macro_rules! source {
    ($weights:ident) => {
        impl $weights<'_> {
            /// Adds a name for the memory of a tensor that is there already, as models have it whose
            /// output layer is their embedding. Its shape may be another one, not its size.
            ///
            /// Whoever writes to the one writes to the other, so a patch must make the same bytes of both.
            ///
            /// # Errors
            /// [`Error::Misuse`] if there is no tensor of the name `to` with its own memory, if its size
            /// is another one, or if the new name is taken.
            ///
            /// ```
            /// use pulse::dtype::{Dtype, TensorSpec};
            /// use pulse::tensors::{TensorMut, TensorSource, WeightsMut};
            /// let (spec, mut bytes) = (TensorSpec::new(Dtype::U8, &[3])?, *b"abc");
            /// let weights: WeightsMut =
            ///     [("embed", TensorMut::new(spec.clone(), &mut bytes)?)].into_iter().collect();
            /// let weights = weights.with_tied("lm_head", spec, "embed")?;
            /// assert_eq!(weights.slice("lm_head", 0, 3), Some(&b"abc"[..]));
            /// # Ok::<(), pulse::Error>(())
            /// ```
            pub fn with_tied(
                mut self,
                name: impl Into<String>,
                spec: TensorSpec,
                to: impl Into<String>,
            ) -> Result<Self> {
                let (name, to) = (name.into(), to.into());
                let Some(tensor) = self.tensors.get(&to) else {
                    return Err(Error::misuse(format!(
                        "tensor '{name}' cannot have the memory of '{to}', which has none of its own"
                    )));
                };
                spec.check_bytes(&format!("tensor '{name}'"), tensor.bytes.len())?;
                if self.spec(&name).is_some() {
                    return Err(Error::misuse(format!("tensor '{name}' was given twice")));
                }
                self.tied.insert(name, (spec, to));
                Ok(self)
            }

            /// The name of the tensor that has the memory of this one.
            fn memory_of<'n>(&'n self, name: &'n str) -> &'n str {
                self.tied_to(name).unwrap_or(name)
            }
        }

        impl TensorSource for $weights<'_> {
            fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
                let own = self.tensors.iter().map(|(name, tensor)| (name.as_str(), &tensor.spec));
                let tied = self.tied.iter().map(|(name, (spec, _))| (name.as_str(), spec));
                own.chain(tied).collect()
            }

            fn spec(&self, name: &str) -> Option<&TensorSpec> {
                let own = self.tensors.get(name).map(|tensor| &tensor.spec);
                own.or_else(|| self.tied.get(name).map(|(spec, _)| spec))
            }

            fn tied_to(&self, name: &str) -> Option<&str> {
                self.tied.get(name).map(|(_, to)| to.as_str())
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
