//! What Python calls a tensor, and where its bytes are: PyTorch, NumPy, DLPack, or a [`View`].
//!
//! Neither PyTorch nor NumPy is imported for it: who gives their tensors has imported them.

use pulse::dtype::{Dtype, TensorSpec};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::failure;
use crate::lent::{Lent, Owner};
use crate::view::View;

/// Names of dtypes as PyTorch and NumPy spell them, and as safetensors does.
const DTYPES: [(&str, &str); 19] = [
    ("bool", "BOOL"),
    ("uint8", "U8"),
    ("int8", "I8"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
    ("float8_e8m0fnu", "F8_E8M0"),
    ("float8_e4m3fnuz", "F8_E4M3FNUZ"),
    ("float8_e5m2fnuz", "F8_E5M2FNUZ"),
    ("int16", "I16"),
    ("uint16", "U16"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    ("int32", "I32"),
    ("uint32", "U32"),
    ("float32", "F32"),
    ("complex64", "C64"),
    ("float64", "F64"),
    ("int64", "I64"),
    ("uint64", "U64"),
];

/// How PyTorch and NumPy spell the dtype.
pub(crate) fn python_name(dtype: &Dtype) -> Option<&'static str> {
    DTYPES.iter().find(|row| row.1 == dtype.name()).map(|row| row.0)
}

/// Whose tensors they are: new ones are made of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Torch,
    NumPy,
    View,
}

fn refuse<T>(name: &str, what: impl std::fmt::Display) -> PyResult<T> {
    Err(PyTypeError::new_err(format!("tensor '{name}' {what}")))
}

/// A class of a module, if somebody has imported it.
fn imported<'py>(
    py: Python<'py>,
    module: &str,
    class: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    match modules.cast::<PyDict>()?.get_item(module)? {
        Some(module) if !module.is_none() => module.getattr_opt(class),
        _ => Ok(None),
    }
}

/// The classes of tensors that are known.
pub(crate) struct Tensors<'py> {
    torch: Option<Bound<'py, PyAny>>,
    numpy: Option<Bound<'py, PyAny>>,
}

impl<'py> Tensors<'py> {
    pub fn known(py: Python<'py>) -> PyResult<Self> {
        let torch = imported(py, "torch", "Tensor")?;
        Ok(Tensors { torch, numpy: imported(py, "numpy", "ndarray")? })
    }

    /// Where the bytes of a tensor are, and whose tensor it is.
    pub fn lend(&self, name: String, object: &Bound<'py, PyAny>) -> PyResult<(Lent, Kind)> {
        if let Ok(view) = object.cast::<View>() {
            return Ok((view.get().lend(name)?, Kind::View));
        }
        let is = |class: &Option<Bound<'py, PyAny>>| match class {
            Some(class) => object.is_instance(class),
            None => Ok(false),
        };
        if is(&self.torch)? {
            return Ok((torch(name, object)?, Kind::Torch));
        }
        if is(&self.numpy)? {
            return Ok((numpy(name, object)?, Kind::NumPy));
        }
        if object.hasattr(intern!(object.py(), "__dlpack__"))? {
            return self.dlpack(name, object);
        }
        let class = object.get_type().fully_qualified_name()?;
        refuse(
            &name,
            format!("is a {class}; give tensors of PyTorch, arrays of NumPy, or pulse.View(buffer, dtype, shape)"),
        )
    }

    /// What exchanges its memory by DLPack: as a tensor of PyTorch, which knows all dtypes, or else of NumPy.
    fn dlpack(&self, name: String, object: &Bound<'py, PyAny>) -> PyResult<(Lent, Kind)> {
        let py = object.py();
        let device = object.call_method0(intern!(py, "__dlpack_device__"))?;
        // The host, and memory of the host that a device may read.
        let kind: i64 = device.get_item(0)?.extract()?;
        if ![1, 3].contains(&kind) {
            return refuse(&name, format!("is not in the memory of the host, but on DLPack device {kind}; copy it to the host"));
        }
        let (module, kind) = match &self.torch {
            Some(_) => ("torch", Kind::Torch),
            None => ("numpy", Kind::NumPy),
        };
        let shared = py.import(module)?.call_method1("from_dlpack", (object,))?;
        let lent = match kind {
            Kind::Torch => torch(name, &shared)?,
            _ => numpy(name, &shared)?,
        };
        Ok((lent, kind))
    }
}

fn spec(name: &str, dtype: &str, shape: Vec<u64>, bytes: usize) -> PyResult<TensorSpec> {
    let Some(row) = DTYPES.iter().find(|row| row.0 == dtype) else {
        return refuse(name, format!("has dtype {dtype}, which is none of safetensors; give a view of its bytes, as uint8"));
    };
    let spec = TensorSpec::with_bytes(Dtype::from_name(row.1), &shape, bytes as u64);
    spec.map_err(|error| PyValueError::new_err(format!("tensor '{name}': {error}")))
}

/// A tensor of PyTorch.
fn torch(name: String, object: &Bound<'_, PyAny>) -> PyResult<Lent> {
    let py = object.py();
    let is = |question| object.call_method0(question)?.is_truthy();
    if object.get_type().name()? == "DTensor" {
        return refuse(&name, "is a DTensor; give what this rank has of it, tensor.to_local(), and say with part_of= which slice that is");
    }
    let device = object.getattr(intern!(py, "device"))?;
    let kind: String = device.getattr(intern!(py, "type"))?.extract()?;
    if kind == "meta" {
        return refuse(&name, "is on the meta device, so it has no data; load it first");
    }
    if kind != "cpu" {
        return refuse(
            &name,
            format!("is on {device}, not in the memory of the host; give tensor.cpu(), or keep a copy there: pulse.Shadow(…, alloc=…) does"),
        );
    }
    let layout = object.getattr(intern!(py, "layout"))?.str()?;
    if layout != "torch.strided" {
        return refuse(&name, format!("has layout {layout}; give tensor.to_dense()"));
    }
    if is(intern!(py, "is_conj"))? {
        return refuse(
            &name,
            "is a conjugate that is not computed yet; give tensor.resolve_conj()",
        );
    }
    if is(intern!(py, "is_neg"))? {
        return refuse(&name, "is a negation that is not computed yet; give tensor.resolve_neg()");
    }
    if !is(intern!(py, "is_contiguous"))? {
        return refuse(&name, "is not contiguous; give tensor.contiguous()");
    }
    let dtype = object.getattr(intern!(py, "dtype"))?.str()?;
    let dtype = dtype.to_str()?;
    let shape = object.getattr(intern!(py, "shape"))?.extract()?;
    let bytes = object.getattr(intern!(py, "nbytes"))?.extract()?;
    let spec = spec(&name, dtype.strip_prefix("torch.").unwrap_or(dtype), shape, bytes)?;
    let Some(address) = torch_address(object, bytes)? else {
        return refuse(
            &name,
            "has no storage of its size: it was resized or freed, as FSDP does between steps",
        );
    };
    Ok(Lent::new(name, spec, address, true, Owner::Torch(object.clone().unbind())))
}

/// Where a tensor of PyTorch has that many bytes; none if its storage is shorter.
fn torch_address(tensor: &Bound<'_, PyAny>, bytes: usize) -> PyResult<Option<usize>> {
    let py = tensor.py();
    if bytes == 0 {
        return Ok(Some(0));
    }
    let storage = tensor.call_method0(intern!(py, "untyped_storage"))?;
    let held: usize = storage.call_method0(intern!(py, "nbytes"))?.extract()?;
    let first: usize = tensor.call_method0(intern!(py, "storage_offset"))?.extract()?;
    let width: usize = tensor.call_method0(intern!(py, "element_size"))?.extract()?;
    let end = first.checked_mul(width).and_then(|start| start.checked_add(bytes));
    let address = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
    Ok(Some(address).filter(|&address| address != 0 && end.is_some_and(|end| end <= held)))
}

/// An array of NumPy, also with a dtype of ml_dtypes.
fn numpy(name: String, object: &Bound<'_, PyAny>) -> PyResult<Lent> {
    let py = object.py();
    let flags = object.getattr(intern!(py, "flags"))?;
    if !flags.getattr(intern!(py, "c_contiguous"))?.is_truthy()? {
        return refuse(&name, "is not contiguous; give numpy.ascontiguousarray(array)");
    }
    let writable = flags.getattr(intern!(py, "writeable"))?.is_truthy()?;
    let dtype = object.getattr(intern!(py, "dtype"))?;
    if !dtype.getattr(intern!(py, "isnative"))?.is_truthy()? {
        return refuse(&name, "has the byte order of other machines; give array.astype(array.dtype.newbyteorder('='))");
    }
    let dtype: String = dtype.getattr(intern!(py, "name"))?.extract()?;
    let shape = object.getattr(intern!(py, "shape"))?.extract()?;
    let bytes = object.getattr(intern!(py, "nbytes"))?.extract()?;
    let spec = spec(&name, &dtype, shape, bytes)?;
    let address = numpy_address(object)?;
    Ok(Lent::new(name, spec, address, writable, Owner::NumPy(object.clone().unbind())))
}

fn numpy_address(array: &Bound<'_, PyAny>) -> PyResult<usize> {
    let interface = array.getattr(intern!(array.py(), "__array_interface__"))?;
    let (address, _): (usize, bool) = interface.get_item("data")?.extract()?;
    Ok(address)
}

/// Whether the bytes of a tensor are elsewhere than when they were lent, or gone.
pub(crate) fn has_moved(py: Python<'_>, lent: &Lent) -> PyResult<bool> {
    // It was in memory, so its size is one of memory.
    let bytes = lent.spec.bytes() as usize;
    if bytes == 0 {
        return Ok(false);
    }
    let found = match &lent.owner {
        Owner::Torch(tensor) => torch_address(tensor.bind(py), bytes)?,
        Owner::NumPy(array) => {
            let array = array.bind(py);
            let held: usize = array.getattr(intern!(py, "nbytes"))?.extract()?;
            Some(numpy_address(array)?).filter(|_| held >= bytes)
        }
        Owner::Buffer(_) => return Ok(false),
    };
    Ok(found != Some(lent.address()))
}

/// Tells PyTorch that tensors were written to, so that autograd notices what it had saved of them.
pub(crate) fn written<'a>(
    py: Python<'_>,
    lent: impl IntoIterator<Item = &'a Lent>,
) -> PyResult<()> {
    let mut tensors = Vec::new();
    for lent in lent {
        let Owner::Torch(tensor) = &lent.owner else { continue };
        let tensor = tensor.bind(py);
        // Of those, nobody keeps count.
        if !tensor.call_method0(intern!(py, "is_inference"))?.is_truthy()? {
            tensors.push(tensor);
        }
    }
    if tensors.is_empty() {
        return Ok(());
    }
    py.import("torch.autograd.graph")?.call_method1("increment_version", (tensors,)).map(drop)
}

/// A new tensor of this kind on memory that is lent to it, with any number of elements.
pub(crate) fn over<'py>(
    py: Python<'py>,
    kind: Kind,
    buffer: crate::buffer::Buffer,
    spec: &TensorSpec,
) -> PyResult<Bound<'py, PyAny>> {
    let buffer = Bound::new(py, buffer)?;
    let shape = pyo3::types::PyTuple::new(py, spec.shape())?;
    let named = python_name(spec.dtype());
    let (kind, named) = match (kind, named) {
        (Kind::View, _) | (_, None) => {
            return Ok(Bound::new(py, View::over(buffer.as_any(), spec.clone())?)?.into_any());
        }
        (kind, Some(named)) => (kind, named),
    };
    let module = if kind == Kind::Torch { "torch" } else { "numpy" };
    let module = py.import(module)?;
    let dtype = if kind == Kind::Torch { module.getattr(named)? } else { numpy_dtype(py, named)? };
    let dtype = [("dtype", dtype)];
    let dtype = pyo3::types::IntoPyDict::into_py_dict(dtype, py)?;
    if spec.bytes() == 0 {
        return module.call_method("empty", (shape,), Some(&dtype));
    }
    let flat = module.call_method("frombuffer", (buffer,), Some(&dtype))?;
    flat.call_method1("reshape", (shape,))
}

/// The dtype of NumPy of this name, or of ml_dtypes.
fn numpy_dtype<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let dtype = py.import("numpy")?.getattr("dtype")?;
    if name.starts_with("float8") || name == "bfloat16" {
        return dtype.call1((py.import("ml_dtypes")?.getattr(name)?,));
    }
    dtype.call1((name,))
}

/// The kind of tensors to make where nobody gave any: PyTorch if it is installed, else NumPy, else views.
pub(crate) fn default_kind(py: Python<'_>) -> PyResult<Kind> {
    for (module, kind) in [("torch", Kind::Torch), ("numpy", Kind::NumPy)] {
        match py.import(module) {
            Ok(_) => return Ok(kind),
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyImportError>(py) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Kind::View)
}

/// The kind of this name.
pub(crate) fn kind_of_name(py: Python<'_>, name: Option<&str>) -> PyResult<Option<Kind>> {
    match name {
        None => Ok(None),
        Some("torch") => py.import("torch").map(|_| Some(Kind::Torch)),
        Some("numpy") => py.import("numpy").map(|_| Some(Kind::NumPy)),
        Some("view") => Ok(Some(Kind::View)),
        Some(other) => Err(PyValueError::new_err(format!(
            "'{other}' is no kind of tensors; expected 'torch', 'numpy' or 'view'"
        ))),
    }
}

/// The tensor is spec'd by Rust, so its errors are those of the library.
pub(crate) fn spec_of(
    py: Python<'_>,
    dtype: &str,
    shape: &[u64],
    bytes: Option<u64>,
) -> PyResult<TensorSpec> {
    let dtype = Dtype::from_name(dtype);
    let spec = match bytes {
        Some(bytes) => TensorSpec::with_bytes(dtype, shape, bytes),
        None => TensorSpec::new(dtype, shape),
    };
    spec.map_err(|error| failure::raise(py, error))
}
