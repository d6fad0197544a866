//! Two sets of weights to a patch.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pulse::checkpoint::write_whole;
use pulse::tensors::{Control, DiffOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::options::{encoder, slices, trusting, EncoderOptions, Run};
use crate::part::Part;
use crate::patch::{existing, Patch, Place};
use crate::source::Source;
use crate::work::Work;

/// Writes to a file that appears whole or not at all, or into memory; gives back where that is.
pub(crate) fn write<T>(
    out: Option<PathBuf>,
    replace: bool,
    inputs: &[&Path],
    write: impl FnOnce(&mut dyn Write) -> pulse::Result<T>,
) -> pulse::Result<(Place, T)> {
    match out {
        Some(path) => {
            let value = write_whole(&path, existing(replace), inputs, write)?;
            Ok((Place::File(path), value))
        }
        None => {
            let mut bytes = Vec::new();
            let value = write(&mut bytes)?;
            bytes.shrink_to_fit();
            Ok((Place::Memory(Arc::new(bytes)), value))
        }
    }
}

/// Makes the patch that turns `base` into `target`. Each is tensors by name, or the path of a checkpoint; without a
/// base, the patch is a snapshot.
///
/// Tensors are those of PyTorch on the CPU, arrays of NumPy (also with dtypes of ml_dtypes), what exchanges its memory
/// by DLPack, or `View`. Nothing is copied: they must not be written to meanwhile.
///
/// The patch is in memory, or in a new file `out` (`replace=True` takes the place of an old one). `step`, `base_step`
/// and `run` say where it belongs; `options` how it is written. `trusted` are digests of the base that need not be
/// computed again: the patch that led to it, or `Digests`; one tensor is hashed all the same. `part_of` says which
/// tensors are slices of larger ones, and then a `Part` is made for `join`.
///
/// `threads=0` is one for each core. `progress` is called with the number of tensor bytes done since the last call, at
/// most ten times a second; what it raises ends the work.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> base = {"w": numpy.zeros(1000, numpy.float32)}
/// >>> target = {"w": base["w"].copy()}
/// >>> target["w"][7] = 1
/// >>> patch = pulse.diff(base, target, base_step=40, step=41)
/// >>> pulse.apply(base, patch).changes
/// 1
/// >>> int(base["w"][7])
/// 1
#[pyfunction]
#[pyo3(signature = (base, target, *, out=None, replace=false, step=None, base_step=None, run=None, options=None, trusted=None, part_of=None, threads=0, progress=None))]
#[allow(clippy::too_many_arguments)] // Python has names for them
pub(crate) fn diff<'py>(
    py: Python<'py>,
    base: Option<&Bound<'py, PyAny>>,
    target: &Bound<'py, PyAny>,
    out: Option<PathBuf>,
    replace: bool,
    step: Option<u64>,
    base_step: Option<u64>,
    run: Option<Run>,
    options: Option<&Bound<'py, EncoderOptions>>,
    trusted: Option<&Bound<'py, PyAny>>,
    part_of: Option<&Bound<'py, PyDict>>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let encoder = encoder(options.map(Bound::get), base_step, step, run);
    let options = trusting(DiffOptions::from(encoder), trusted)?;
    let base = base.map(Source::new).transpose()?;
    let target = Source::new(target)?;
    let _lease = Source::lease(py, base.iter().chain([&target]))?;
    let work = Work::new(threads, progress);
    if let Some(part_of) = part_of {
        let slices = slices(part_of, base.as_ref(), &target)?;
        let (place, _) = work.run(py, |control| {
            write(out, replace, &[], |out| {
                target.with(|target| match &base {
                    Some(base) => base.with(|base| {
                        pulse::tensors::Part::diff(
                            Some(base),
                            target,
                            &slices,
                            out,
                            options,
                            control,
                        )
                    }),
                    None => {
                        pulse::tensors::Part::diff(None, target, &slices, out, options, control)
                    }
                })
            })
        })?;
        return Ok(Bound::new(py, Part::made(place))?.into_any());
    }
    let patch = patch(py, &work, base.as_ref(), &target, (out, replace), options)?;
    Ok(Bound::new(py, patch)?.into_any())
}

/// A patch of two sources: with their files, if both have some.
fn patch(
    py: Python<'_>,
    work: &Work,
    base: Option<&Source>,
    target: &Source,
    (out, replace): (Option<PathBuf>, bool),
    options: DiffOptions,
) -> PyResult<Patch> {
    let files = [base, Some(target)].into_iter().flatten().filter_map(Source::checkpoint);
    let inputs: Vec<&Path> = files.map(pulse::Checkpoint::path).collect();
    let (place, report) = work.run(py, |control: Control<'_>| {
        write(out, replace, &inputs, |out| match (base, target) {
            (None, Source::Checkpoint(target)) => {
                pulse::checkpoint::diff(None, target, out, options, control)
            }
            (Some(Source::Checkpoint(base)), Source::Checkpoint(target)) => {
                pulse::checkpoint::diff(Some(base), target, out, options, control)
            }
            (Some(base), target) => base.with(|base| {
                target
                    .with(|target| pulse::tensors::diff(Some(base), target, out, options, control))
            }),
            (None, target) => {
                target.with(|target| pulse::tensors::diff(None, target, out, options, control))
            }
        })
    })?;
    Ok(Patch::made(place, report.digests))
}

/// Makes a snapshot of weights, or of the checkpoint at a path: a patch without a base, which a receiver that has
/// nothing starts from. The arguments are those of `diff`.
///
/// >>> import numpy, pulse_codec as pulse
/// >>> anchor = pulse.snapshot({"w": numpy.arange(3, dtype=numpy.uint8)}, step=40)
/// >>> anchor.is_snapshot, anchor.step
/// (True, 40)
/// >>> pulse.load(anchor, like="numpy")["w"]
/// array([0, 1, 2], dtype=uint8)
#[pyfunction]
#[pyo3(signature = (weights, *, out=None, replace=false, step=None, run=None, options=None, part_of=None, threads=0, progress=None))]
#[allow(clippy::too_many_arguments)] // Python has names for them
pub(crate) fn snapshot<'py>(
    py: Python<'py>,
    weights: &Bound<'py, PyAny>,
    out: Option<PathBuf>,
    replace: bool,
    step: Option<u64>,
    run: Option<Run>,
    options: Option<&Bound<'py, EncoderOptions>>,
    part_of: Option<&Bound<'py, PyDict>>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if weights.is_none() {
        return Err(PyValueError::new_err("a snapshot needs weights"));
    }
    diff(
        py, None, weights, out, replace, step, None, run, options, None, part_of, threads, progress,
    )
}
