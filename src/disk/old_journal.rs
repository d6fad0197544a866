//! The journal that updates in place of earlier builds kept beside a checkpoint.
//!
//! They did not mark what they changed, so its name alone tells that a checkpoint may be torn.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::staged::parent;

const SUFFIX: &str = ".pulse-undo";
/// Of these nothing was changed, or all is done.
const HARMLESS: [&str; 2] = [".pulse-undo-new", ".pulse-lock"];

/// Where the journal of a checkpoint would be.
fn beside(checkpoint: &Path, suffix: &str) -> Option<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(checkpoint.file_name()?);
    hidden.push(suffix);
    Some(parent(checkpoint).join(hidden))
}

/// The old journal of a checkpoint without links in its path, or of the directory that it is in.
pub(crate) fn find(checkpoint: &Path) -> Option<PathBuf> {
    let holders = [Some(checkpoint), checkpoint.parent()];
    let journals = holders.into_iter().flatten().filter_map(|path| beside(path, SUFFIX));
    journals.into_iter().find(|journal| journal.exists())
}

/// What else old updates may have left beside a checkpoint: a journal that was never finished, and a
/// lock of nothing.
pub(crate) fn leftovers(checkpoint: &Path) -> Vec<PathBuf> {
    let paths = HARMLESS.iter().filter_map(|suffix| beside(checkpoint, suffix));
    paths.filter(|path| is_leftover(path)).collect()
}

fn is_leftover(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let is_patch = || fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\xabPLS"));
    found.is_file() && (found.len() == 0 || is_patch())
}
