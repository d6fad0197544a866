//! A rank's part of a patch.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::failure;
use crate::patch::{copied, Place};

/// A rank's part of a patch, as `diff(…, part_of=…)` makes it: `join` makes one patch of the parts of all ranks. It is
/// bytes to be sent there, and nothing that anybody else reads.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> base, target = numpy.zeros((2, 3), "f4"), numpy.eye(2, 3, dtype="f4")
/// >>> parts = [
/// ...     pulse.diff({"w": base[rank:][:1]}, {"w": target[rank:][:1]}, part_of={"w": pulse.Slice((2, 3), (rank,))})
/// ...     for rank in range(2)
/// ... ]
/// >>> patch = pulse.join(parts)
/// >>> patch.target == pulse.digest({"w": target})
/// True
#[pyclass(frozen, module = "pulse_codec")]
#[derive(Debug)]
pub(crate) struct Part(Place);

impl Part {
    pub fn made(place: Place) -> Self {
        Part(place)
    }

    pub fn memory(&self) -> Option<&[u8]> {
        self.0.memory()
    }

    /// The part of the library.
    pub fn opened(&self, py: Python<'_>) -> PyResult<pulse::tensors::Part> {
        let opened = py.detach(|| match &self.0 {
            Place::Memory(bytes) => pulse::tensors::Part::from_bytes(bytes.to_vec()),
            Place::File(path) => pulse::tensors::Part::open(path),
        });
        opened.map_err(|error| failure::raise(py, error))
    }
}

#[pymethods]
impl Part {
    /// Opens a part that is a file, and checks it.
    #[classmethod]
    fn open(cls: &Bound<'_, PyType>, path: PathBuf) -> PyResult<Self> {
        let part = Part(Place::File(path));
        part.opened(cls.py())?;
        Ok(part)
    }

    /// A part from its bytes, which are copied and checked.
    #[classmethod]
    fn from_bytes(cls: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let part = Part(Place::Memory(Arc::new(copied(data)?)));
        part.opened(cls.py())?;
        Ok(part)
    }

    /// Where the file is; None if the part is in memory.
    #[getter]
    fn path(&self) -> Option<String> {
        self.0.path().map(|path| path.to_string_lossy().into_owned())
    }

    /// Writes the part to a file, which appears whole or not at all.
    #[pyo3(signature = (path, *, replace=false))]
    fn write(&self, py: Python<'_>, path: PathBuf, replace: bool) -> PyResult<()> {
        self.0.write(py, &path, replace)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.len().map_err(|error| failure::raise(py, error))
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.bytes(py)
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let py = slf.py();
        Ok((py.get_type::<Part>().getattr("from_bytes")?, (slf.get().0.bytes(py)?,)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<part: {} bytes>", self.__len__(py)?))
    }
}
