//! The library on paths, as a caller would use it.

use std::fs::File;
use std::path::Path;

use pulse::checkpoint::{ApplyOptions, ApplyReport, DiffOptions, DiffReport, FilePolicy};
use pulse::coding::{Coding, ValueForm};
use pulse::stream::EncoderOptions;
use pulse::tensors::{Control, TensorSource};
use pulse::{Checkpoint, Limits, Patch, Result};

/// Options for each way in which changes can be written.
pub fn every_coding() -> [EncoderOptions; 4] {
    let flat = EncoderOptions::default().with_coding(Coding::Flat);
    let values = |values| flat.clone().with_values(values);
    let contextual = EncoderOptions::default().with_coding(Coding::Contextual);
    [contextual, values(ValueForm::UlpStep), values(ValueForm::Xor), values(ValueForm::Overwrite)]
}

pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

pub fn open_patch(path: &Path) -> Patch {
    Patch::open(path, Limits::default()).unwrap()
}

/// Writes the patch from `base` to `target`; a snapshot without a base.
pub fn diff(
    base: Option<&Path>,
    target: &Path,
    patch: &Path,
    options: impl Into<DiffOptions>,
    threads: usize,
) -> DiffReport {
    let (base, file) = (base.map(open), File::create(patch).unwrap());
    pulse::checkpoint::diff(
        base.as_ref(),
        &open(target),
        file,
        options.into(),
        Control::threads(threads),
    )
    .unwrap()
}

/// The bytes of the patch between checkpoints, or the error.
pub fn diff_bytes(
    base: Option<&Checkpoint>,
    target: &Checkpoint,
    options: impl Into<DiffOptions>,
    control: Control<'_>,
) -> Result<Vec<u8>> {
    let mut patch = Vec::new();
    pulse::checkpoint::diff(base, target, &mut patch, options.into(), control)?;
    Ok(patch)
}

/// The bytes of the patch between tensors that may be anywhere, or the error.
pub fn diff_tensors(
    base: Option<&dyn TensorSource>,
    target: &dyn TensorSource,
    options: impl Into<DiffOptions>,
    control: Control<'_>,
) -> Result<Vec<u8>> {
    let mut patch = Vec::new();
    pulse::tensors::diff(base, target, &mut patch, options.into(), control)?;
    Ok(patch)
}

/// Makes the target, to the last file.
pub fn apply(base: Option<&Path>, patch: &Path, out: &Path) -> Result<ApplyReport> {
    let base = base.map(Checkpoint::open).transpose()?;
    let patch = Patch::open(patch, Limits::default())?;
    let options = ApplyOptions::default().with_files(FilePolicy::Exact);
    patch.apply(base.as_ref(), out, options, Control::threads(2))
}

/// Checks a patch to the last file, then that it leads from the base, and that the target is its target.
pub fn verify(patch: &Path, base: Option<&Path>, target: Option<&Path>) -> Result<()> {
    let patch = Patch::open(patch, Limits::default())?;
    let control = Control::threads(2);
    match base {
        Some(base) => {
            let base = Checkpoint::open(base)?;
            patch.verify_with_base(&base, FilePolicy::Exact, control)?;
        }
        None => patch.verify(control)?,
    }
    let Some(target) = target else { return Ok(()) };
    patch.verify_target(&Checkpoint::open(target)?, FilePolicy::Exact, control).map(drop)
}
