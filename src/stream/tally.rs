//! What a footer says of the target, gathered tensor by tensor.

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Fault, Result};
use crate::hash::CheckpointHasher;
use crate::wire::Footer;

/// Checkpoint digest and totals of a target.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    checkpoint: CheckpointHasher,
    pub tensors: u64,
    pub elements: u64,
    pub bytes: u64,
}

/// How a target is not the one of a footer.
#[derive(Debug)]
pub(crate) enum Differs {
    /// Its checkpoint digest is another one.
    Digest { expected: Digest, found: Digest },
    /// One of its totals is another one.
    Total(Fault),
}

impl Tally {
    pub fn add(&mut self, name: &str, spec: &TensorSpec, digest: Digest) {
        self.checkpoint.add(name, spec, digest);
        self.tensors += 1;
        self.elements = self.elements.saturating_add(spec.elements());
        self.bytes = self.bytes.saturating_add(spec.bytes());
    }

    pub fn digest(&mut self) -> Result<Digest> {
        std::mem::take(&mut self.checkpoint).finish()
    }

    /// Compares the target with the footer (R69, R70); `None` if all agrees.
    pub fn compare(mut self, footer: &Footer) -> Result<Option<Differs>> {
        let (expected, found) = (footer.target, self.digest()?);
        if expected != found {
            return Ok(Some(Differs::Digest { expected, found }));
        }
        let totals = [
            ("target tensors", self.tensors, footer.target_tensors),
            ("target elements", self.elements, footer.target_elements),
            ("target bytes", self.bytes, footer.target_bytes),
        ];
        // The fault is that of the footer: what it says is what was found.
        let differs = totals.into_iter().find(|(_, expected, found)| expected != found);
        Ok(differs.map(|(field, expected, found)| {
            Differs::Total(Fault::Count { field, expected, found })
        }))
    }
}
