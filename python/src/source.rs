//! Where weights are: in tensors that Python lends, or in a checkpoint on disk.

use std::path::PathBuf;

use pulse::tensors::{TensorMut, TensorRef, TensorSource, Weights, WeightsMut};
use pulse::Checkpoint;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

use crate::failure;
use crate::lent::{self, Lease, Lent, Overlap};
use crate::tensor::{has_moved, written, Kind, Tensors};

/// Tensors by name, lent by Python.
pub(crate) struct Held {
    lent: Vec<Lent>,
    /// Whose tensors they are; none if there is no tensor.
    pub kind: Option<Kind>,
}

/// The path, if it is one.
pub(crate) fn path(object: &Bound<'_, PyAny>) -> Option<PathBuf> {
    object.extract().ok()
}

impl Held {
    /// What a mapping of names to tensors lends.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if object.hasattr("state_dict")? {
            return Err(PyTypeError::new_err(
                "expected tensors by name, found a module; give module.state_dict()",
            ));
        }
        let Some(items) = object.getattr_opt("items")? else {
            let class = object.get_type().fully_qualified_name()?;
            return Err(PyTypeError::new_err(format!(
                "expected tensors by name, or the path of a checkpoint, found {class}"
            )));
        };
        let known = Tensors::known(py)?;
        let (mut lent, mut kind) = (Vec::new(), None);
        for item in items.call0()?.try_iter()? {
            let (name, tensor): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
            let Ok(name) = name.extract::<String>() else {
                return Err(PyTypeError::new_err(format!(
                    "{} is no name of a tensor",
                    name.repr()?
                )));
            };
            let (tensor, its) = known.lend(name, &tensor)?;
            kind.get_or_insert(its);
            lent.push(tensor);
        }
        let mut names: Vec<&str> = lent.iter().map(|lent| lent.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PyValueError::new_err(format!("tensor '{}' was given twice", twice[0])));
        }
        Ok(Held { lent, kind })
    }

    /// Refuses what cannot be written to.
    pub fn check_writable(&self) -> PyResult<()> {
        match self.lent.iter().find(|lent| !lent.writable && lent.spec.bytes() > 0) {
            Some(lent) => {
                Err(PyValueError::new_err(format!("tensor '{}' is read-only", lent.name)))
            }
            None => lent::ties(&self.lent).map(drop).map_err(overlapping),
        }
    }

    /// As a source of the library.
    pub fn weights(&self) -> Weights<'_> {
        self.lent
            .iter()
            .filter_map(|lent| {
                Some((lent.name.as_str(), TensorRef::new(lent.spec.clone(), lent.bytes()).ok()?))
            })
            .collect()
    }

    /// As a source of the library that knows which tensors have one memory.
    pub fn tied_weights(&self, py: Python<'_>) -> PyResult<Weights<'_>> {
        let ties = lent::ties(&self.lent).map_err(overlapping)?;
        let own = self.lent.iter().zip(&ties).filter(|(_, tie)| tie.is_none());
        let mut pairs = Vec::new();
        for (lent, _) in own {
            let tensor = TensorRef::new(lent.spec.clone(), lent.bytes());
            pairs.push((lent.name.as_str(), tensor.map_err(|error| failure::raise(py, error))?));
        }
        let mut weights: Weights<'_> = pairs.into_iter().collect();
        for (lent, tie) in self.lent.iter().zip(ties) {
            if let Some(tie) = tie {
                let to = &*self.lent[tie].name;
                weights = weights
                    .with_tied(lent.name.as_str(), lent.spec.clone(), to)
                    .map_err(|error| failure::raise(py, error))?;
            }
        }
        Ok(weights)
    }

    /// As weights of the library that it may write to.
    pub fn weights_mut(&mut self, py: Python<'_>) -> PyResult<WeightsMut<'_>> {
        self.check_writable()?;
        let raise = |error| failure::raise(py, error);
        let ties = lent::ties(&self.lent).map_err(overlapping)?;
        let facts: Vec<_> =
            self.lent.iter().map(|lent| (lent.name.clone(), lent.spec.clone())).collect();
        let split = lent::split_mut(&mut self.lent).map_err(overlapping)?;
        let mut own = Vec::new();
        for ((name, spec), bytes) in facts.iter().zip(split) {
            if let Some(bytes) = bytes {
                own.push((name.as_str(), TensorMut::new(spec.clone(), bytes).map_err(raise)?));
            }
        }
        let mut weights: WeightsMut<'_> = own.into_iter().collect();
        for ((name, spec), tie) in facts.iter().zip(ties) {
            if let Some(tie) = tie {
                let to = facts[tie].0.as_str();
                weights = weights.with_tied(name.as_str(), spec.clone(), to).map_err(raise)?;
            }
        }
        Ok(weights)
    }

    /// Claims the memory for a call.
    pub fn lease(&self, py: Python<'_>, writes: bool) -> PyResult<Lease> {
        lease(py, [self], writes)
    }

    /// Refuses tensors whose bytes are not where they were when they were lent.
    pub fn check_place(&self, py: Python<'_>) -> PyResult<()> {
        for lent in &self.lent {
            if has_moved(py, lent)? {
                return Err(PyValueError::new_err(format!(
                    "tensor '{}' is not where it was when the update was prepared; prepare it again",
                    lent.name
                )));
            }
        }
        Ok(())
    }

    /// Tells those who keep count that the tensors of these names, in ascending order, were written to.
    pub fn written(&self, py: Python<'_>, names: &[String]) -> PyResult<()> {
        let is_one = |lent: &&Lent| names.binary_search(&lent.name).is_ok();
        written(py, self.lent.iter().filter(is_one))
    }
}

/// Claims memory for a call.
fn lease<'a>(
    py: Python<'_>,
    held: impl IntoIterator<Item = &'a Held>,
    writes: bool,
) -> PyResult<Lease> {
    match Lease::take(held.into_iter().flat_map(|held| &held.lent), writes) {
        Some(lease) => Ok(lease),
        None => Err(busy(py)?),
    }
}

/// The exception for memory that another call is at work on.
pub(crate) fn busy(py: Python<'_>) -> PyResult<PyErr> {
    let fields = [("kind", "busy")].into_py_dict(py)?;
    failure::new(py, "Busy", "another call of this process is at work on these weights", &fields)
}

fn overlapping(Overlap(a, b): Overlap) -> PyErr {
    PyValueError::new_err(format!(
        "tensors '{a}' and '{b}' overlap in memory without being the same, so they cannot be written"
    ))
}

/// Weights, wherever they are.
pub(crate) enum Source {
    Held(Held),
    Checkpoint(Checkpoint),
}

impl Source {
    /// Tensors by name, or the checkpoint at a path.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Some(path) = path(object) else { return Ok(Source::Held(Held::new(object)?)) };
        let py = object.py();
        let opened = py.detach(|| Checkpoint::open(path));
        Ok(Source::Checkpoint(opened.map_err(|error| failure::raise(py, error))?))
    }

    /// As a source of the library, for `use_it`.
    pub fn with<T>(&self, use_it: impl FnOnce(&dyn TensorSource) -> T) -> T {
        match self {
            Source::Held(held) => use_it(&held.weights()),
            Source::Checkpoint(checkpoint) => use_it(checkpoint),
        }
    }

    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Source::Held(_) => None,
            Source::Checkpoint(checkpoint) => Some(checkpoint),
        }
    }

    /// Claims what is in memory, to be read by a call.
    pub fn lease<'a>(
        py: Python<'_>,
        sources: impl IntoIterator<Item = &'a Source>,
    ) -> PyResult<Lease> {
        let held = |source: &'a Source| match source {
            Source::Held(held) => Some(held),
            Source::Checkpoint(_) => None,
        };
        lease(py, sources.into_iter().filter_map(held), false)
    }
}
