//! The library on paths, as a caller would use it.

use std::fs::File;
use std::path::Path;

use pulse::checkpoint::ApplyOptions;
use pulse::coding::{Coding, ValueForm};
use pulse::stream::EncoderOptions;
use pulse::tensors::{ApplyReport, DiffReport, Parallel};
use pulse::{Checkpoint, Limits, Patch, Result};

/// Options for each way in which changes can be written.
pub fn every_coding() -> [EncoderOptions; 4] {
    let flat = EncoderOptions::default().with_coding(Coding::Flat);
    let values = |values| flat.clone().with_values(values);
    let contextual = EncoderOptions::default().with_coding(Coding::Contextual);
    [contextual, values(ValueForm::Step), values(ValueForm::Xor), values(ValueForm::Overwrite)]
}

pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

pub fn open_patch(path: &Path) -> Patch {
    Patch::open(path, &Limits::default()).unwrap()
}

/// Writes the patch from `base` to `target`; a snapshot without a base.
pub fn diff(base: Option<&Path>, target: &Path, patch: &Path, options: EncoderOptions, threads: usize) -> DiffReport {
    let (base, file) = (base.map(open), File::create(patch).unwrap());
    pulse::checkpoint::diff(base.as_ref(), &open(target), file, options, Parallel::threads(threads)).unwrap().1
}

pub fn apply(base: Option<&Path>, patch: &Path, out: &Path) -> Result<ApplyReport> {
    let base = base.map(Checkpoint::open).transpose()?;
    let patch = Patch::open(patch, &Limits::default())?;
    pulse::checkpoint::apply(base.as_ref(), &patch, out, ApplyOptions::default(), Parallel::threads(2))
}

pub fn verify(patch: &Path, base: Option<&Path>, target: Option<&Path>) -> Result<()> {
    let patch = Patch::open(patch, &Limits::default())?;
    let open = |path: Option<&Path>| path.map(Checkpoint::open).transpose();
    pulse::checkpoint::verify(&patch, open(base)?.as_ref(), open(target)?.as_ref(), Parallel::threads(2))
}
