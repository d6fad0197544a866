//! A patch: in memory, or a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use pulse::checkpoint::write_whole;
use pulse::stream::TrustedBase;
use pulse::wire::{Footer, Header};
use pulse::{Error, Limits};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMapping, PyType};

use crate::digests::Digests;
use crate::failure;
use crate::options;
use crate::prepared::Prepared;
use crate::source::{path, Source};
use crate::work::Work;

/// Where the bytes of a patch, or of a part of one, are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Memory(Arc<Vec<u8>>),
    File(PathBuf),
}

impl Place {
    pub fn memory(&self) -> Option<&[u8]> {
        match self {
            Place::Memory(bytes) => Some(bytes),
            Place::File(_) => None,
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Place::Memory(_) => None,
            Place::File(path) => Some(path),
        }
    }

    fn io(&self, doing: &str, source: std::io::Error) -> Error {
        Error::Io { doing: doing.into(), path: self.path().map(Into::into), source }
    }

    /// Number of bytes.
    pub fn len(&self) -> pulse::Result<usize> {
        match self {
            Place::Memory(bytes) => Ok(bytes.len()),
            Place::File(path) => {
                let found = std::fs::metadata(path).map_err(|error| self.io("opening", error))?;
                Ok(usize::try_from(found.len()).unwrap_or(usize::MAX))
            }
        }
    }

    /// All of them, as Python has bytes.
    pub fn bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self {
            Place::Memory(bytes) => Ok(PyBytes::new(py, bytes)),
            Place::File(path) => {
                let raise = |error| failure::raise(py, self.io("reading", error));
                let mut file = File::open(path).map_err(raise)?;
                let len = self.len().map_err(|error| failure::raise(py, error))?;
                PyBytes::new_with(py, len, |bytes| file.read_exact(bytes).map_err(raise))
            }
        }
    }

    /// Writes them to a file: whole, or it does not appear.
    pub fn write(&self, py: Python<'_>, to: &Path, replace: bool) -> PyResult<()> {
        let inputs: Vec<&Path> = self.path().into_iter().collect();
        let written = py.detach(|| {
            write_whole(to, existing(replace), &inputs, |out| {
                let copied = match self {
                    Place::Memory(bytes) => out.write_all(bytes),
                    Place::File(path) => File::open(path)
                        .and_then(|mut file| std::io::copy(&mut file, out))
                        .map(drop),
                };
                copied.map_err(|error| self.io("writing", error))
            })
        });
        written.map_err(|error| failure::raise(py, error))
    }
}

/// What may happen to a file at the place of an output.
pub(crate) fn existing(replace: bool) -> pulse::checkpoint::Existing {
    if replace {
        pulse::checkpoint::Existing::Replace
    } else {
        pulse::checkpoint::Existing::Refuse
    }
}

/// The bytes that an object lends, copied.
pub(crate) fn copied(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    match object.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => PyBuffer::<u8>::get(object)?.to_vec(object.py()),
    }
}

/// A patch: what turns a base into a target, or, as a snapshot, a target by itself. It is in memory, and then it
/// lends its bytes (`memoryview(patch)`, `socket.sendall(patch)`, `file.write(patch)`), or it is a file.
///
/// What `diff` gives was made here; of what was opened, every byte has been checked.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> base, target = {"w": numpy.zeros(5, "f4")}, {"w": numpy.array([0, 0, 1, 0, 0], "f4")}
/// >>> patch = pulse.diff(base, target, base_step=40, step=41)
/// >>> patch.step, patch.changes, patch.base == pulse.digest(base), patch.target == pulse.digest(target)
/// (41, 1, True, True)
/// >>> again = pulse.Patch.from_bytes(bytes(patch))
/// >>> again.target == patch.target
/// True
#[pyclass(frozen, module = "pulse_codec")]
#[derive(Debug)]
pub(crate) struct Patch {
    place: Place,
    limits: Limits,
    /// Once it was asked for: what was made here needs no check.
    opened: OnceLock<pulse::Patch>,
    /// Of all tensors of the target, if the patch was made here.
    made: Option<TrustedBase>,
}

impl Patch {
    /// A patch that was made here. Whatever it unpacks to is no more than what it was made of.
    pub fn made(place: Place, digests: TrustedBase) -> Self {
        let limits = Limits::default().with_expansion(u64::MAX).with_name_expansion(u64::MAX);
        Patch { place, limits, opened: OnceLock::new(), made: Some(digests) }
    }

    fn opened_now(py: Python<'_>, place: Place, limits: Limits) -> PyResult<Self> {
        let patch = Patch { place, limits, opened: OnceLock::new(), made: None };
        patch.opened(py)?;
        Ok(patch)
    }

    /// The patch of the library.
    pub fn opened(&self, py: Python<'_>) -> PyResult<&pulse::Patch> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = py.detach(|| match &self.place {
            Place::Memory(bytes) => {
                pulse::Patch::from_bytes(Arc::clone(bytes), self.limits.clone())
            }
            Place::File(path) => pulse::Patch::open(path, self.limits.clone()),
        });
        let opened = opened.map_err(|error| failure::raise(py, error))?;
        // If two threads opened it, one of the two stays.
        Ok(self.opened.get_or_init(|| opened))
    }

    pub fn memory(&self) -> Option<&[u8]> {
        self.place.memory()
    }

    /// Digests of the target.
    pub fn trusted(&self, py: Python<'_>) -> PyResult<TrustedBase> {
        match &self.made {
            Some(made) => Ok(made.clone()),
            None => Ok(self.opened(py)?.trusted_target()),
        }
    }

    fn header(&self, py: Python<'_>) -> PyResult<&Header> {
        self.opened(py).map(pulse::Patch::header)
    }

    fn footer(&self, py: Python<'_>) -> PyResult<&Footer> {
        self.opened(py).map(pulse::Patch::footer)
    }
}

#[pymethods]
impl Patch {
    /// Opens a patch file and checks all of it: structure, CRC-32 of each section, SHA-256 of the whole.
    ///
    /// `limits` are what it may cost, by the names of SPEC.md §10: `{"target_bytes": 20 << 30}`.
    #[classmethod]
    #[pyo3(signature = (path, *, limits=None))]
    fn open(
        cls: &Bound<'_, PyType>,
        path: PathBuf,
        limits: Option<BTreeMap<String, u64>>,
    ) -> PyResult<Self> {
        Patch::opened_now(cls.py(), Place::File(path), options::limits(limits)?)
    }

    /// A patch from its bytes, which are copied and checked as those of a file are.
    #[classmethod]
    #[pyo3(signature = (data, *, limits=None))]
    fn from_bytes(
        cls: &Bound<'_, PyType>,
        data: &Bound<'_, PyAny>,
        limits: Option<BTreeMap<String, u64>>,
    ) -> PyResult<Self> {
        let place = Place::Memory(Arc::new(copied(data)?));
        Patch::opened_now(cls.py(), place, options::limits(limits)?)
    }

    /// Where the file is; None if the patch is in memory.
    #[getter]
    fn path(&self) -> Option<String> {
        self.place.path().map(|path| path.to_string_lossy().into_owned())
    }

    /// Digest of the base; None of a snapshot.
    #[getter]
    fn base(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.footer(py)?.base.map(|digest| digest.to_string()))
    }

    /// Digest of the target.
    #[getter]
    fn target(&self, py: Python<'_>) -> PyResult<String> {
        match &self.made {
            Some(made) => Ok(made.checkpoint.to_string()),
            None => Ok(self.footer(py)?.target.to_string()),
        }
    }

    /// Whether it has no base, and every tensor whole.
    #[getter]
    fn is_snapshot(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.header(py)?.snapshot)
    }

    /// Optimizer step of the target, if it is known.
    #[getter]
    fn step(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.header(py)?.target_step)
    }

    /// Optimizer step of the base, if it is known.
    #[getter]
    fn base_step(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.header(py)?.base_step)
    }

    /// Training run, 32 hexadecimal digits, if it is known.
    #[getter]
    fn run(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let hex = |run: [u8; 16]| run.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(self.header(py)?.run.map(hex))
    }

    /// Free strings of whoever made it.
    #[getter]
    fn metadata(&self, py: Python<'_>) -> PyResult<BTreeMap<String, String>> {
        Ok(self.header(py)?.metadata.clone())
    }

    /// Number of elements that change.
    #[getter]
    fn changes(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.footer(py)?.changes)
    }

    /// Number of elements of the target.
    #[getter]
    fn target_elements(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.footer(py)?.target_elements)
    }

    /// Tensor bytes of the target.
    #[getter]
    fn target_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.footer(py)?.target_bytes)
    }

    /// Tensors that it changes, adds, replaces or deletes, in the order of their names, and which of these it does.
    #[getter]
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<(String, &'static str)>> {
        let tensors = self.opened(py)?.tensors().iter();
        Ok(tensors.map(|entry| (entry.header.name.clone(), entry.header.action.name())).collect())
    }

    /// Digests of the target, for the diff that starts from it: those of all tensors if the patch was made here, else
    /// those of the tensors that are in it.
    #[getter]
    fn digests(&self, py: Python<'_>) -> PyResult<Digests> {
        self.trusted(py).map(Digests)
    }

    /// Writes the patch to a file, which appears whole or not at all.
    #[pyo3(signature = (path, *, replace=false))]
    fn write(&self, py: Python<'_>, path: PathBuf, replace: bool) -> PyResult<()> {
        self.place.write(py, &path, replace)
    }

    /// Makes the target beside weights that are in use, proves it, and holds what is needed to finish: see
    /// [`Prepared`]. The weights are only read.
    ///
    /// `changes_bytes_max` is how many bytes of changes are held ready to be written; what is beyond is decoded again
    /// by `commit`.
    #[pyo3(signature = (weights, *, changes_bytes_max=1 << 30, threads=0, progress=None))]
    fn prepare(
        &self,
        weights: &Bound<'_, PyAny>,
        changes_bytes_max: u64,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Prepared> {
        let patches = vec![self.opened(weights.py())?.clone()];
        Prepared::new(weights, patches, changes_bytes_max, &Work::new(threads, progress))
    }

    /// Checks that weights are the target of the patch: all of them are hashed. Raises TargetMismatch if not.
    #[pyo3(signature = (weights, *, threads=0, progress=None))]
    fn verify_weights(
        &self,
        weights: &Bound<'_, PyAny>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = weights.py();
        let weights = Source::new(weights)?;
        let _lease = Source::lease(py, [&weights])?;
        let patch = self.opened(py)?;
        Work::new(threads, progress)
            .run(py, |control| weights.with(|weights| patch.verify_weights(weights, control)))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.place.len().map_err(|error| failure::raise(py, error))
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.place.bytes(py)
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let py = slf.py();
        Ok((py.get_type::<Patch>().getattr("from_bytes")?, (slf.get().place.bytes(py)?,)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (header, footer) = (self.header(py)?, self.footer(py)?);
        let what = if header.snapshot { "snapshot" } else { "patch" };
        let step = |step: Option<u64>| step.map(|step| format!(" {step}")).unwrap_or_default();
        let steps = match header.base_step {
            Some(base) => format!(" {base} to{}", step(header.target_step)),
            None => step(header.target_step),
        };
        let (bytes, changes) = (self.__len__(py)?, footer.changes);
        Ok(format!("<{what}{steps}: {bytes} bytes, {changes} changes>"))
    }
}

/// A patch, or several that follow one another: patches, paths, or bytes.
pub(crate) fn patches(object: &Bound<'_, PyAny>) -> PyResult<Vec<pulse::Patch>> {
    if let Some(one) = one(object)? {
        return Ok(vec![one]);
    }
    // Weights go over their names, which would be taken for paths.
    let is_several = object.cast::<PyMapping>().is_err();
    let Some(items) = object.try_iter().ok().filter(|_| is_several) else {
        let class = object.get_type().fully_qualified_name()?;
        return Err(PyTypeError::new_err(format!(
            "expected a patch, its path or its bytes, or several of them, found {class}"
        )));
    };
    items
        .map(|item| {
            let item = item?;
            one(&item)?.ok_or_else(|| {
                PyTypeError::new_err("expected patches, paths or bytes in the sequence")
            })
        })
        .collect()
}

fn one(object: &Bound<'_, PyAny>) -> PyResult<Option<pulse::Patch>> {
    let py = object.py();
    if let Ok(patch) = object.cast::<Patch>() {
        return patch.get().opened(py).cloned().map(Some);
    }
    let raise = |error| failure::raise(py, error);
    if let Some(path) = path(object) {
        let opened = py.detach(|| pulse::Patch::open(path, Limits::default()));
        return opened.map(Some).map_err(raise);
    }
    match copied(object) {
        Ok(bytes) => {
            let opened = py.detach(|| pulse::Patch::from_bytes(bytes, Limits::default()));
            opened.map(Some).map_err(raise)
        }
        Err(_) => Ok(None),
    }
}
