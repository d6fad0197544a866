//! How patches are written and read.

use std::collections::BTreeMap;

use pulse::coding::{Coding, ValueForm};
use pulse::hash::Digest;
use pulse::tensors::{DiffOptions, Slices, TensorSource};
use pulse::Limits;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::digests::Digests;
use crate::failure;
use crate::patch::Patch;
use crate::source::Source;

/// A digest of 64 hexadecimal digits.
pub(crate) fn digest(hex: &str) -> PyResult<Digest> {
    hex.parse()
        .map_err(|error: pulse::hash::ParseDigestError| PyValueError::new_err(error.to_string()))
}

/// How a patch is written, beyond what everybody says: for `options=`.
///
/// `coding` is "contextual", which is the smallest, or "flat", which is readable without the base. `values` says how
/// values of flat blocks are expressed: "step", "xor" or "overwrite". `level` is that of zstd, `block_leaves` the size
/// of a block in leaves of 64 KiB, `metadata` free strings for the header, and `base_digest` the digest that the base
/// must have.
///
/// >>> import pulse_codec as pulse
/// >>> pulse.EncoderOptions(coding="flat", metadata={"trainer": "example"})
/// EncoderOptions(coding='flat', values='step', level=1, block_leaves=32)
#[pyclass(frozen, skip_from_py_object, module = "pulse_codec")]
#[derive(Debug, Clone, Default)]
pub(crate) struct EncoderOptions(pulse::stream::EncoderOptions);

#[pymethods]
impl EncoderOptions {
    #[new]
    #[pyo3(signature = (*, coding=None, values=None, level=1, block_leaves=32, metadata=None, base_digest=None))]
    fn new(
        coding: Option<&str>,
        values: Option<&str>,
        level: i32,
        block_leaves: u64,
        metadata: Option<BTreeMap<String, String>>,
        base_digest: Option<&str>,
    ) -> PyResult<Self> {
        let form = match values {
            None | Some("step") => ValueForm::UlpStep,
            Some("xor") => ValueForm::Xor,
            Some("overwrite") => ValueForm::Overwrite,
            Some(other) => {
                return Err(PyValueError::new_err(format!(
                    "values='{other}'; expected 'step', 'xor' or 'overwrite'"
                )))
            }
        };
        let coding = match (coding, values) {
            (Some("contextual"), Some(_)) => {
                return Err(PyValueError::new_err(
                    "values= is for flat blocks only: contextual blocks always hold steps",
                ))
            }
            (Some("contextual"), None) | (None, None) => Coding::Contextual,
            (Some("flat"), _) | (None, Some(_)) => Coding::Flat,
            (Some(other), _) => {
                return Err(PyValueError::new_err(format!(
                    "coding='{other}'; expected 'contextual' or 'flat'"
                )))
            }
        };
        let mut options = pulse::stream::EncoderOptions::default()
            .with_coding(coding)
            .with_values(form)
            .with_level(level)
            .with_block_leaves(block_leaves);
        options.metadata = metadata.unwrap_or_default();
        options.base_digest = base_digest.map(digest).transpose()?;
        Ok(EncoderOptions(options))
    }

    fn __repr__(&self) -> String {
        let block = self.0.block;
        let values = match block.values {
            ValueForm::UlpStep => "step",
            ValueForm::Xor => "xor",
            _ => "overwrite",
        };
        format!(
            "EncoderOptions(coding='{}', values='{values}', level={}, block_leaves={})",
            block.coding.name(),
            block.level,
            self.0.block_leaves
        )
    }
}

/// A training run: 16 bytes, 32 hexadecimal digits, or a UUID.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run([u8; 16]);

impl<'py> FromPyObject<'_, 'py> for Run {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let object = object.getattr_opt("bytes")?.unwrap_or_else(|| object.to_owned());
        let bytes = match object.extract::<String>() {
            Ok(hex) => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
                .collect::<Option<Vec<u8>>>(),
            Err(_) => Some(object.extract::<Vec<u8>>()?),
        };
        let run = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        run.map(Run).ok_or_else(|| {
            PyValueError::new_err("run: expected 16 bytes, 32 hexadecimal digits, or a UUID")
        })
    }
}

/// The options of an encoder, from those of a call.
pub(crate) fn encoder(
    options: Option<&EncoderOptions>,
    base_step: Option<u64>,
    step: Option<u64>,
    run: Option<Run>,
) -> pulse::stream::EncoderOptions {
    let mut encoder = options.cloned().unwrap_or_default().0;
    let lineage = &mut encoder.lineage;
    (lineage.base_step, lineage.target_step) = (base_step, step);
    lineage.run = run.map(|run| run.0);
    encoder
}

/// Digests of the base that are taken on trust: themselves, or the patch that led to it.
pub(crate) fn trusting(
    options: DiffOptions,
    trusted: Option<&Bound<'_, PyAny>>,
) -> PyResult<DiffOptions> {
    let Some(trusted) = trusted else { return Ok(options) };
    if let Ok(patch) = trusted.cast::<Patch>() {
        return Ok(options.with_trusted_base(patch.get().trusted(trusted.py())?));
    }
    match trusted.cast::<Digests>() {
        Ok(digests) => Ok(options.with_trusted_base(digests.get().0.clone())),
        Err(_) => Err(PyTypeError::new_err(
            "trusted: expected Digests, or the patch that led to the base",
        )),
    }
}

/// What readers are willing to spend, from a mapping of the names of limits.
pub(crate) fn limits(given: Option<BTreeMap<String, u64>>) -> PyResult<Limits> {
    let mut limits = Limits::default();
    for (name, value) in given.into_iter().flatten() {
        limits = limits.with(&name, value).ok_or_else(|| {
            let known = Limits::NAMES.join(", ");
            PyValueError::new_err(format!("there is no limit '{name}'; expected one of {known}"))
        })?;
    }
    Ok(limits)
}

/// Which slice of a tensor a rank has: consecutive elements of a tensor of this shape. `start` is the first of them,
/// as a flat index or as a tuple of indices, one for each dimension or fewer; how many there are, the tensor says.
///
/// Rows of a matrix are consecutive, columns are not: gather those first.
///
/// >>> import pulse_codec as pulse
/// >>> pulse.Slice((400, 1000), (100,)).start      # from row 100 on
/// 100000
#[pyclass(frozen, skip_from_py_object, module = "pulse_codec")]
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    shape: Vec<u64>,
    /// Flat index of the first element.
    #[pyo3(get)]
    start: u64,
}

#[pymethods]
impl Slice {
    #[new]
    fn new(shape: Vec<u64>, start: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(start) = start.extract() {
            return Ok(Slice { shape, start });
        }
        let indices: Vec<u64> = start.extract()?;
        if indices.len() > shape.len() {
            return Err(PyValueError::new_err(format!(
                "start has {} indices, but the tensor {} dimensions",
                indices.len(),
                shape.len()
            )));
        }
        let indices = indices.into_iter().chain(std::iter::repeat(0));
        let flat = shape.iter().zip(indices).try_fold(0u64, |flat, (&dimension, index)| {
            flat.checked_mul(dimension)?.checked_add(index)
        });
        let start = flat.ok_or_else(|| PyValueError::new_err("start is beyond 2^64 elements"))?;
        Ok(Slice { shape, start })
    }

    /// Dimensions of the full tensor.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    fn __repr__(&self) -> String {
        format!("Slice({:?}, {})", self.shape, self.start)
    }
}

/// Which tensors of a rank are slices of which.
pub(crate) fn slices(
    part_of: &Bound<'_, PyDict>,
    base: Option<&Source>,
    target: &Source,
) -> PyResult<Slices> {
    let py = part_of.py();
    let mut slices = Slices::default();
    for (name, slice) in part_of {
        let name: String = name.extract()?;
        let slice = slice.cast::<Slice>()?.get();
        let find = |source: &dyn TensorSource| source.spec(&name).cloned();
        let held = target.with(find).or_else(|| base.and_then(|base| base.with(find)));
        let Some(held) = held else {
            return Err(PyValueError::new_err(format!(
                "part_of: tensor '{name}' is in neither base nor target"
            )));
        };
        let full = pulse::dtype::TensorSpec::new(held.dtype().clone(), &slice.shape);
        let full = full.map_err(|error| failure::raise(py, error))?;
        let end = slice.start.saturating_add(held.elements());
        let with = slices.with(name, full, slice.start..end);
        slices = with.map_err(|error| failure::raise(py, error))?;
    }
    Ok(slices)
}
