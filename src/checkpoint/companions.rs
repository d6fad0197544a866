//! The companions of a target: carried by the patch, or the receiver's own.

use crate::checkpoint::checkpoint::Companion;
use crate::checkpoint::files::{for_each_chunk, hash_file};
use crate::checkpoint::plan::check_carried;
use crate::digest::Digest;
use crate::disk::DiskFile;
use crate::error::{Error, FileFault, Result};
use crate::hash::Sha;
use crate::patch::{FileEntry, Patch};
use crate::wire::FileContent;

/// A companion that a patch carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CarriedFile<'a> {
    pub patch: &'a Patch,
    pub file: &'a FileEntry,
    /// What it replaces where a checkpoint is updated in place. `None`: there is no companion of this
    /// name; or there is an index that neither base nor target has, which only an output in a new
    /// place can do without.
    pub replaces: Option<FileContent>,
}

/// A companion of the target.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OutCompanion<'a> {
    /// It comes with a patch.
    Carried(CarriedFile<'a>),
    /// The file that the receiver has stays as it is.
    Kept {
        found: &'a Companion,
        /// What it is at the publisher, as far as it is not known to differ.
        expected: Option<FileContent>,
        /// Whether another one is an error.
        exact: bool,
    },
}

/// A companion that the target does not have, and that was here what it was in the base.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemovedCompanion<'a> {
    pub name: &'a str,
    /// As it is in the checkpoint; `None` if a patch before brought it.
    pub content: Option<FileContent>,
}

impl Companion {
    /// Whether the file has this content; it is read only if its size does not tell.
    pub fn has(&self, content: FileContent) -> Result<bool> {
        Ok(self.bytes == content.bytes && hash_file(&self.path)? == content)
    }
}

impl CarriedFile<'_> {
    /// Unpacks the companion chunk by chunk, and compares its digest.
    fn for_each_chunk(&self, mut found: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut sha = Sha::default();
        self.patch.for_each_data(self.file, |chunk| {
            sha.update(chunk);
            found(chunk)
        })?;
        check_carried(self.patch, &self.file.record, sha.finish())
    }

    /// Writes the companion.
    pub fn copy_to(&self, file: &DiskFile) -> Result<()> {
        self.for_each_chunk(writing(file))
    }
}

/// Writes chunks one after the other.
fn writing(file: &DiskFile) -> impl FnMut(&[u8]) -> Result<()> + '_ {
    let mut offset = 0;
    move |chunk| {
        file.write_all_at(chunk, offset)
            .map_err(|error| Error::io_at("writing", file.path(), error))?;
        offset += chunk.len() as u64;
        Ok(())
    }
}

impl<'a> OutCompanion<'a> {
    pub fn name(&self) -> &'a str {
        match self {
            OutCompanion::Carried(carried) => &carried.file.record.name,
            OutCompanion::Kept { found, .. } => &found.name,
        }
    }

    /// Reads the companion chunk by chunk; gives back whether it is what the patch says.
    pub fn for_each_chunk(&self, mut found: impl FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self {
            OutCompanion::Carried(carried) => carried.for_each_chunk(found).map(|()| true),
            OutCompanion::Kept { found: own, expected: None, .. } => {
                for_each_chunk(&own.path, found)?;
                Ok(true)
            }
            OutCompanion::Kept { found: own, expected: Some(expected), exact } => {
                let mut sha = Sha::default();
                let bytes = for_each_chunk(&own.path, |chunk| {
                    sha.update(chunk);
                    found(chunk)
                })?;
                let sha256: Digest = sha.finish();
                let is_expected = FileContent { bytes, sha256 } == *expected;
                if *exact && !is_expected {
                    return Err(Error::bad_file(&own.path, FileFault::OtherCompanion));
                }
                Ok(is_expected)
            }
        }
    }

    /// Writes the companion; gives back whether it is what the patch says.
    pub fn copy_to(&self, file: &DiskFile) -> Result<bool> {
        self.for_each_chunk(writing(file))
    }
}
