//! Checkpoints in memory, their digests once more, and what a receiver makes of a patch.
//! `Patch::verify` and the others must agree with it.

use std::collections::BTreeMap;

use pulse::dtype::TensorSpec;
use pulse::hash::LEAF_BYTES;
use pulse::stream::Receiver;
use pulse::stream::Store;
use pulse::wire::Footer;
use pulse::{Error, Limits, Result};
use sha2::{Digest as _, Sha256};

/// A tensor: dtype and shape, and its bytes.
pub type Tensor = (TensorSpec, Vec<u8>);
/// A checkpoint: tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The digest of a tensor (§5).
pub fn tensor_digest(bytes: &[u8]) -> [u8; 32] {
    let mut tensor = Sha256::new_with_prefix([1]);
    for leaf in bytes.chunks(LEAF_BYTES) {
        tensor.update(Sha256::new_with_prefix([0]).chain_update(leaf).finalize());
    }
    tensor.finalize().into()
}

/// The digest of a checkpoint (§5).
pub fn digest(tensors: &Tensors) -> [u8; 32] {
    let mut checkpoint = Sha256::new_with_prefix([2]);
    for (name, (spec, bytes)) in tensors {
        let dtype = spec.dtype().name();
        checkpoint.update((name.len() as u32).to_le_bytes());
        checkpoint.update(name);
        checkpoint.update([dtype.len() as u8]);
        checkpoint.update(dtype);
        checkpoint.update([spec.shape().len() as u8]);
        spec.shape().iter().for_each(|dimension| checkpoint.update(dimension.to_le_bytes()));
        checkpoint.update(tensor_digest(bytes));
    }
    checkpoint.finalize().into()
}

/// What came of a patch.
pub enum Received {
    /// The target, and the footer that promised it.
    Target(Tensors, Footer),
    /// Why there is none.
    Refused(String),
    /// More bytes than a fuzzer has time for.
    TooMuch,
}

/// Most bytes that are written in one run.
const BYTES_MAX: u64 = 4 << 20;

/// A store that holds a base and stages a target, and gives up when that becomes large.
struct Staging<'a> {
    base: &'a Tensors,
    staged: BTreeMap<String, Option<Tensor>>,
    open: String,
    budget: u64,
    target: Option<Tensors>,
}

impl Store for Staging<'_> {
    fn start(&mut self) -> Result<()> {
        self.staged.clear();
        Ok(())
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        self.base.iter().map(|(name, (spec, _))| (name.as_str(), spec)).collect()
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let start = start as usize;
        buffer.copy_from_slice(&self.base[name].1[start..start + buffer.len()]);
        Ok(())
    }

    fn begin(&mut self, name: &str, spec: &TensorSpec) -> Result<()> {
        self.open = name.into();
        let before = self.staged.insert(name.into(), Some((spec.clone(), Vec::new())));
        assert!(before.is_none(), "tensor {name:?} is staged twice");
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.budget = self.budget.saturating_sub(bytes.len() as u64);
        if self.budget == 0 {
            return Err(Error::Misuse("too much".into()));
        }
        let open = self.staged.get_mut(&self.open).expect("a tensor is open");
        open.as_mut().expect("it is not deleted").1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let (spec, bytes) = self.staged[&self.open].as_ref().expect("it is not deleted");
        assert_eq!(spec.bytes(), bytes.len() as u64, "tensor {:?} is not complete", self.open);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        assert!(self.base.contains_key(name), "tensor {name:?} is not held");
        let before = self.staged.insert(name.into(), None);
        assert!(before.is_none(), "tensor {name:?} is staged, and then deleted");
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let mut target = self.base.clone();
        for (name, tensor) in std::mem::take(&mut self.staged) {
            match tensor {
                Some(tensor) => drop(target.insert(name, tensor)),
                None => drop(target.remove(&name)),
            }
        }
        self.target = Some(target);
        Ok(())
    }
}

/// Applies a patch to its base, as it arrives in chunks of 997 bytes. What comes out has the digest that the
/// patch names, computed here once more.
pub fn receive(base: &Tensors, patch: &[u8], limits: Limits) -> Received {
    let (staged, open) = (BTreeMap::new(), String::new());
    let mut staging = Staging { base, staged, open, budget: BYTES_MAX, target: None };
    let mut receiver = Receiver::new(&mut staging, limits);
    let received = patch
        .chunks(997)
        .try_for_each(|chunk| receiver.push(chunk))
        .and_then(|()| receiver.finish());
    match (received, staging.target) {
        (Ok(received), Some(target)) => {
            assert_eq!(
                digest(&target),
                received.footer.target.0,
                "another target than the patch names"
            );
            Received::Target(target, received.footer)
        }
        (Err(_), None) if staging.budget == 0 => Received::TooMuch,
        (Err(error), None) => Received::Refused(error.to_string()),
        (received, _) => panic!("a target was committed, or none was: {received:?}"),
    }
}
