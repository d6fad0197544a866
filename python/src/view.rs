//! A tensor made of any memory that Python lends.

use std::sync::{Arc, Mutex, PoisonError};

use pulse::dtype::TensorSpec;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::lent::{Lent, Owner};
use crate::tensor::spec_of;

/// A tensor on memory that any object lends by the buffer protocol: bytes, bytearray, memoryview, mmap, shared
/// memory. `dtype` is spelled as safetensors does: "BF16", "F32", "F8_E4M3", …
///
/// The object stays lent, and cannot be resized or closed, until the view is closed or gone.
///
/// >>> import pulse_codec as pulse
/// >>> memory = bytearray(8)
/// >>> weights = {"w": pulse.View(memory, "BF16", [2, 2])}
/// >>> weights["w"].shape
/// (2, 2)
/// >>> pulse.digest(weights)[:16]
/// '2d4ff131c6fef9d3'
#[pyclass(frozen, module = "pulse_codec")]
pub(crate) struct View {
    buffer: Mutex<Option<Arc<PyUntypedBuffer>>>,
    spec: TensorSpec,
}

impl View {
    /// A view of all that an object lends.
    pub fn over(object: &Bound<'_, PyAny>, spec: TensorSpec) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyTypeError::new_err("the buffer is not contiguous"));
        }
        if buffer.len_bytes() as u64 != spec.bytes() {
            return Err(PyValueError::new_err(format!(
                "the buffer has {} bytes, but {spec} has {}",
                buffer.len_bytes(),
                spec.bytes()
            )));
        }
        Ok(View { buffer: Mutex::new(Some(Arc::new(buffer))), spec })
    }

    fn buffer(&self) -> PyResult<Arc<PyUntypedBuffer>> {
        let buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.clone().ok_or_else(|| PyValueError::new_err("the view is closed"))
    }

    pub fn lend(&self, name: String) -> PyResult<Lent> {
        let buffer = self.buffer()?;
        let (address, writable) = (buffer.buf_ptr().expose_provenance(), !buffer.readonly());
        Ok(Lent::new(name, self.spec.clone(), address, writable, Owner::Buffer(buffer)))
    }
}

#[pymethods]
impl View {
    #[new]
    fn new(buffer: &Bound<'_, PyAny>, dtype: &str, shape: Vec<u64>) -> PyResult<Self> {
        let bytes = PyUntypedBuffer::get(buffer)?.len_bytes() as u64;
        View::over(buffer, spec_of(buffer.py(), dtype, &shape, Some(bytes))?)
    }

    /// Name of the dtype.
    #[getter]
    fn dtype(&self) -> &str {
        self.spec.dtype().name()
    }

    /// Dimensions.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.spec.shape())
    }

    /// Size in bytes.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.spec.bytes()
    }

    /// The memory, as bytes.
    #[getter]
    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let buffer = self.buffer()?;
        let object = buffer.obj(py).ok_or_else(|| PyValueError::new_err("the view is closed"))?;
        py.import("builtins")?.call_method1("memoryview", (object,))
    }

    /// Gives the memory back: no call takes the view any more.
    fn close(&self) {
        // Dropped outside the lock: that may run Python.
        let taken = self.buffer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(taken);
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        format!("View({})", self.spec)
    }
}
