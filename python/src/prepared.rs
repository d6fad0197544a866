//! An update in two phases.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pulse::dtype::TensorSpec;
use pulse::patch::Chain;
use pulse::tensors::PrepareOptions;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::apply::Applied;
use crate::buffer::Buffer;
use crate::failure;
use crate::source::{busy, Held};
use crate::tensor::{default_kind, kind_of_name, over, Kind};
use crate::work::Work;

/// What is held until the commit.
struct Pending {
    update: pulse::tensors::Prepared,
    weights: Held,
    patches: Vec<pulse::Patch>,
}

/// An update of weights that is proved and ready: `patch.prepare(weights)` makes it while the weights are in use, and
/// `commit` writes what changes, in an instant. To drop it is to change nothing.
///
/// It keeps the tensors that it was prepared for. Whoever writes to them before the commit spoils them:
/// `commit(verify=True)` tells, afterwards.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> weights, target = {"w": numpy.zeros(1000, "f4")}, {"w": numpy.zeros(1000, "f4")}
/// >>> target["w"][7] = 1
/// >>> prepared = pulse.diff(weights, target).prepare(weights)
/// >>> [(name, indices.tolist(), values.tolist()) for name, indices, values in prepared.sparse()]
/// [('w', [7], [1.0])]
/// >>> prepared.commit().changes
/// 1
/// >>> pulse.digest(weights) == pulse.digest(target)
/// True
#[pyclass(frozen, module = "pulse_codec")]
pub(crate) struct Prepared {
    /// Whoever is at work on it keeps it; a commit needs all of it.
    pending: Mutex<Option<Arc<Pending>>>,
    report: pulse::tensors::ApplyReport,
}

impl Prepared {
    pub fn new(
        weights: &Bound<'_, PyAny>,
        patches: Vec<pulse::Patch>,
        changes_bytes_max: u64,
        work: &Work,
    ) -> PyResult<Self> {
        let py = weights.py();
        let weights = Held::new(weights)?;
        weights.check_writable()?;
        let options = PrepareOptions::default().with_changes_bytes_max(changes_bytes_max);
        let update = {
            let _lease = weights.lease(py, false)?;
            let source = weights.tied_weights(py)?;
            work.run(py, |control| Chain::new(&patches)?.prepare(&source, options, control))?
        };
        let report = update.report().clone();
        let pending = Arc::new(Pending { update, weights, patches });
        Ok(Prepared { pending: Mutex::new(Some(pending)), report })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Pending>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held, to be looked at.
    fn pending(&self) -> PyResult<Arc<Pending>> {
        self.lock().clone().ok_or_else(used)
    }

    /// Writes what changes; gives back the report. What is refused can be tried again.
    pub fn finish(&self, py: Python<'_>, threads: usize, verify: bool) -> PyResult<Applied> {
        let work = Work::new(threads, None);
        let pending = self.pending()?;
        pending.weights.check_place(py)?;
        let lease = pending.weights.lease(py, true)?;
        let names: Vec<String> =
            pending.update.tensors().map(|tensor| tensor.name().into()).collect();
        drop(pending);
        let taken = self.lock().take().ok_or_else(used)?;
        let Pending { update, mut weights, patches } = match Arc::try_unwrap(taken) {
            Ok(pending) => pending,
            Err(shared) => {
                *self.lock() = Some(shared);
                return Err(busy(py)?);
            }
        };
        let report = {
            let mut held = weights.weights_mut(py)?;
            work.finish(py, |control| update.commit(&mut held, control))?
        };
        weights.written(py, &names)?;
        if let (true, Some(last)) = (verify, patches.last()) {
            let held = weights.weights();
            work.finish(py, |control| last.verify_weights(&held, control))?;
        }
        drop(lease);
        Ok(Applied::of(&report))
    }
}

fn used() -> PyErr {
    PyValueError::new_err("the update was committed; prepare the next one")
}

#[pymethods]
impl Prepared {
    /// Writes the changes to the weights that the update was prepared for. Nothing is left that could fail, and Ctrl-C
    /// waits for the end. `verify=True` then hashes all weights, and raises TargetMismatch if somebody wrote to them
    /// since `prepare`.
    #[pyo3(signature = (*, verify=false, threads=0))]
    fn commit(&self, py: Python<'_>, verify: bool, threads: usize) -> PyResult<Applied> {
        self.finish(py, threads, verify)
    }

    /// What changes, tensor by tensor, for weights on a device: iterates over (name, indices, values). Indices are flat
    /// and ascending, int32, or int64 in tensors of 2^31 elements and more; values are new values in the tensor's
    /// dtype. Where all of a tensor changes, indices is None, and values has all of its elements, flat.
    ///
    /// They are tensors of PyTorch or arrays of NumPy, as the weights are, or as `like` says: "torch", "numpy", "view".
    /// Ask before the commit.
    #[pyo3(signature = (*, like=None))]
    fn sparse(slf: Bound<'_, Self>, like: Option<&str>) -> PyResult<Sparse> {
        let py = slf.py();
        let like = kind_of_name(py, like)?;
        let kind = like.or(slf.get().pending()?.weights.kind);
        let kind = kind.map_or_else(|| default_kind(py), Ok)?;
        Ok(Sparse { prepared: slf.unbind(), kind, next: Mutex::new(0) })
    }

    /// Digest of the target, which is proved.
    #[getter]
    fn target(&self) -> String {
        self.report.target.to_string()
    }

    /// Number of elements that change.
    #[getter]
    fn changes(&self) -> u64 {
        self.report.changes
    }

    /// Tensors that change, in the order of their names.
    #[getter]
    fn tensors(&self) -> PyResult<Vec<String>> {
        let pending = self.pending()?;
        Ok(pending.update.tensors().map(|tensor| tensor.name().into()).collect())
    }

    fn __repr__(&self) -> String {
        let state = if self.lock().is_some() { "ready" } else { "committed" };
        format!("<prepared update, {state}: {} changes>", self.report.changes)
    }
}

/// The changes of a prepared update, tensor by tensor.
#[pyclass(frozen, module = "pulse_codec")]
pub(crate) struct Sparse {
    prepared: Py<Prepared>,
    kind: Kind,
    next: Mutex<usize>,
}

/// What one tensor becomes: indices, unless all of it changes, and values.
struct Listed {
    name: String,
    spec: TensorSpec,
    indices: Option<(Buffer, &'static str, usize)>,
    values: Vec<u8>,
}

/// Lists the changes of the tensor of this number.
fn list(pending: &Pending, number: usize) -> pulse::Result<Option<Listed>> {
    let Some(tensor) = pending.update.tensors().nth(number) else { return Ok(None) };
    let (weights, spec) = (pending.weights.weights(), tensor.spec().clone());
    let elements = spec.elements();
    let mut values = Vec::new();
    let (indices, count) = if elements < 1 << 31 {
        let mut indices = Vec::new();
        tensor.append_u32(&weights, &mut indices, &mut values)?;
        let count = indices.len();
        (Some((Buffer::from(indices), "I32", count)), count as u64)
    } else {
        let mut indices = Vec::new();
        tensor.append_u64(&weights, &mut indices, &mut values)?;
        let count = indices.len();
        (Some((Buffer::from(indices), "I64", count)), count as u64)
    };
    let indices = indices.filter(|_| count < elements);
    Ok(Some(Listed { name: tensor.name().into(), spec, indices, values }))
}

#[pymethods]
impl Sparse {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[allow(clippy::type_complexity)] // it is what Python unpacks
    fn __next__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Option<(String, Option<Bound<'py, PyAny>>, Bound<'py, PyAny>)>> {
        let number = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next - 1
        };
        let pending = self.prepared.get().pending()?;
        pending.weights.check_place(py)?;
        let listed = py.detach(|| list(&pending, number));
        let listed = listed.map_err(|error| failure::raise(py, error))?;
        let Some(Listed { name, spec, indices, values }) = listed else { return Ok(None) };
        let flat = |dtype: pulse::dtype::Dtype, count: u64, bytes: u64| {
            TensorSpec::with_bytes(dtype, &[count], bytes)
                .map_err(|error| failure::raise(py, error))
        };
        let width = spec.dtype().element_bytes() as u64;
        let bytes = values.len() as u64;
        let count = bytes / width;
        let indices = indices.map(|(buffer, dtype, count)| {
            let dtype = pulse::dtype::Dtype::from_name(dtype);
            let bytes = buffer.place().1 as u64;
            over(py, self.kind, buffer, &flat(dtype, count as u64, bytes)?)
        });
        let values =
            over(py, self.kind, values.into(), &flat(spec.dtype().clone(), count, bytes)?)?;
        Ok(Some((name, indices.transpose()?, values)))
    }
}
