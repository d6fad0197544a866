//! The weights that a version is prepared for while its data arrives.

use std::collections::HashMap;
use std::sync::OnceLock;

use pulse::dtype::TensorSpec;
use pulse::tensors::TensorSource;
use pyo3::prelude::*;

use crate::lent::{Lease, Lent};
use crate::source::Held;

/// Tensors by name, which are asked for when the first bytes of a version are there rather than when the wait for
/// them begins: until then nobody is kept from writing to them, or from moving them.
pub(super) struct Beside {
    weights: Py<PyAny>,
    lent: OnceLock<Option<Claimed>>,
}

/// Weights that nobody writes to meanwhile.
struct Claimed {
    held: Held,
    by_name: HashMap<String, usize>,
    _lease: Lease,
}

impl Beside {
    pub fn new(weights: Py<PyAny>) -> Self {
        Beside { weights, lent: OnceLock::new() }
    }

    /// None if they cannot be read now: then nothing is prepared ahead, and the reason is found when it is.
    fn claimed(&self) -> Option<&Claimed> {
        let claim = |py: Python<'_>| {
            let held = Held::new(self.weights.bind(py)).ok()?;
            let lease = held.lease(py, false).ok()?;
            let names = held.lent().iter().enumerate();
            let by_name = names.map(|(at, lent)| (lent.name.clone(), at)).collect();
            Some(Claimed { held, by_name, _lease: lease })
        };
        self.lent.get_or_init(|| Python::attach(claim)).as_ref()
    }

    fn find(&self, name: &str) -> Option<&Lent> {
        let claimed = self.claimed()?;
        claimed.held.lent().get(*claimed.by_name.get(name)?)
    }
}

impl TensorSource for Beside {
    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        let held = self.claimed().map_or(&[][..], |claimed| claimed.held.lent());
        held.iter().map(|lent| (lent.name.as_str(), &lent.spec)).collect()
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        self.find(name).map(|lent| &lent.spec)
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> pulse::Result<()> {
        let bytes = self
            .slice(name, start, buffer.len())
            .ok_or_else(|| pulse::Error::Internal(format!("no such bytes of tensor '{name}'")))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
        let start = usize::try_from(start).ok()?;
        self.find(name)?.bytes().get(start..start.checked_add(bytes)?)
    }
}
