//! The objects of `--json` for programs that have this library in their own process.

use std::path::Path;

use pulse::measure::Sizes;
use pulse::patch::Inventory;
use pulse::tensors::Control;
use pulse::{Error, Limits, Result};

use crate::failure::Failure;
use crate::{inspect, stat};

/// What `pulse inspect PATCH --json` prints; docs/inspect-json.md lists the fields. A damaged file gives as much as can
/// be read of it.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened.
pub fn inspect(path: &Path, limits: Limits) -> Result<String> {
    let map = Inventory::inspect(path, limits)?;
    let mut json = Vec::new();
    inspect::write_object(&mut json, path.display().to_string(), &map).map_err(internal)?;
    String::from_utf8(json).map_err(internal)
}

/// What `pulse stat CHECKPOINT… --json` prints; docs/stat-json.md lists the fields.
///
/// # Errors
/// [`Error::Misuse`] for steps that do not ascend, and fewer than two checkpoints; those of checkpoints.
pub fn stat(
    checkpoints: &[&Path],
    steps: Option<&[u64]>,
    sizes: Sizes,
    interval: f64,
    control: Control<'_>,
) -> Result<String> {
    match stat::object(checkpoints, steps, sizes, interval, control) {
        Ok(object) => Ok(object.to_string()),
        Err(Failure::Library { error, .. }) => Err(*error),
        Err(Failure::Usage(what)) => Err(Error::Misuse(what)),
        Err(other) => Err(internal(format!("{other:?}"))),
    }
}

fn internal(problem: impl ToString) -> Error {
    Error::Internal(problem.to_string())
}
