//! Weights in a map, for receivers.

use std::collections::BTreeMap;

use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::stream::Store;

/// What a tensor is, and its little-endian bytes.
type Tensor = (TensorSpec, Vec<u8>);

/// A [`Store`] of weights in memory: a map from names to tensors. Holds a copy of each tensor that
/// changes until all are verified; the map is not touched before. Files that a patch carries are
/// ignored.
///
/// [`Receiver::in_memory`](crate::stream::Receiver::in_memory) makes one.
///
/// ```
/// use std::collections::BTreeMap;
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::{InMemory, Store};
/// let spec = TensorSpec::new(Dtype::U8, &[2])?;
/// let mut weights = BTreeMap::from([("w".to_string(), (spec.clone(), b"ab".to_vec()))]);
/// let mut store = InMemory::new(&mut weights)?;
/// store.begin("w", &spec)?;
/// store.write(b"xy")?;
/// store.end()?;
/// store.commit()?; // what a receiver calls once all of the target is verified
/// assert_eq!(weights["w"].1, b"xy");
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct InMemory<'w> {
    weights: &'w mut BTreeMap<String, Tensor>,
    /// Tensors of the target that differ from those held, `None` for those that are deleted. The
    /// last may still be growing.
    staged: Vec<(String, Option<Tensor>)>,
}

impl<'w> InMemory<'w> {
    /// The weights that are to be changed.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a tensor does not have as many bytes as its spec says.
    pub fn new(weights: &'w mut BTreeMap<String, Tensor>) -> Result<Self> {
        for (name, (spec, bytes)) in &*weights {
            spec.check_bytes(&format!("tensor '{name}'"), bytes.len())?;
        }
        Ok(InMemory { weights, staged: Vec::new() })
    }
}

impl Store for InMemory<'_> {
    fn start(&mut self) -> Result<()> {
        self.staged.clear();
        Ok(())
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        self.weights.iter().map(|(name, (spec, _))| (name.as_str(), spec)).collect()
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.weights.get(name).and_then(|(_, bytes)| {
            let start = usize::try_from(start).ok()?;
            bytes.get(start..start.checked_add(buffer.len())?)
        });
        let Some(bytes) = bytes else {
            return Err(Error::misuse(format!(
                "{} bytes at {start} are not in tensor '{name}'",
                buffer.len()
            )));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn begin(&mut self, name: &str, spec: &TensorSpec) -> Result<()> {
        // As large as the tensor it replaces: a patch that claims more grows as its bytes come.
        let held = self.weights.get(name).map_or(0, |(_, bytes)| bytes.len());
        self.staged.push((name.into(), Some((spec.clone(), Vec::with_capacity(held)))));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.staged.last_mut() {
            Some((_, Some((_, staged)))) => staged.extend_from_slice(bytes),
            _ => return Err(Error::misuse("no tensor is being staged; call begin() first")),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        self.staged.push((name.into(), None));
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        for (name, tensor) in self.staged.drain(..) {
            match tensor {
                Some(tensor) => drop(self.weights.insert(name, tensor)),
                None => drop(self.weights.remove(&name)),
            }
        }
        Ok(())
    }
}
