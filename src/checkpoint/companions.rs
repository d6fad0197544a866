//! The companions of a target: carried by the patch, or the receiver's own.

use std::path::Path;

use crate::checkpoint::checkpoint::Companion;
use crate::checkpoint::files::{for_each_chunk, hash_file};
use crate::checkpoint::plan::check_carried;
use crate::digest::Digest;
use crate::disk::DiskFile;
use crate::error::{Error, FileFault, Result};
use crate::hash::Sha;
use crate::patch::{FileEntry, Patch};
use crate::wire::FileContent;

/// A companion of the target.
#[derive(Debug)]
pub(crate) enum OutCompanion<'a> {
    /// The patch carries it.
    Carried {
        file: &'a FileEntry,
        /// What it replaces where a checkpoint is updated in place. `None`: there is no companion of
        /// this name; or there is an index that neither base nor target has, which only an output in
        /// a new place can do without.
        replaces: Option<FileContent>,
    },
    /// The file that the receiver has stays as it is.
    Kept {
        name: &'a str,
        path: &'a Path,
        /// What it is at the publisher, as far as it is not known to differ.
        expected: Option<FileContent>,
        /// Whether another one is an error.
        exact: bool,
    },
}

/// A companion that the target does not have; the receiver's is the one of the base.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemovedCompanion<'a> {
    pub name: &'a str,
    /// As it is here and in the base.
    pub content: FileContent,
}

impl Companion {
    /// Whether the file has this content; it is read only if its size does not tell.
    pub fn has(&self, content: FileContent) -> Result<bool> {
        Ok(self.bytes == content.bytes && hash_file(&self.path)? == content)
    }
}

impl OutCompanion<'_> {
    pub fn name(&self) -> &str {
        match self {
            OutCompanion::Carried { file, .. } => &file.record.name,
            OutCompanion::Kept { name, .. } => name,
        }
    }

    /// Reads the companion chunk by chunk; gives back whether it is what the patch says.
    pub fn for_each_chunk(
        &self,
        patch: &Patch,
        mut found: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        match self {
            OutCompanion::Carried { file, .. } => {
                let mut sha = Sha::default();
                patch.for_each_data(file, |chunk| {
                    sha.update(chunk);
                    found(chunk)
                })?;
                check_carried(patch, &file.record, sha.finish())?;
                Ok(true)
            }
            OutCompanion::Kept { path, expected: None, .. } => {
                for_each_chunk(path, found)?;
                Ok(true)
            }
            OutCompanion::Kept { path, expected: Some(expected), exact, .. } => {
                let mut sha = Sha::default();
                let bytes = for_each_chunk(path, |chunk| {
                    sha.update(chunk);
                    found(chunk)
                })?;
                let sha256: Digest = sha.finish();
                let is_expected = FileContent { bytes, sha256 } == *expected;
                if *exact && !is_expected {
                    return Err(Error::bad_file(path, FileFault::OtherCompanion));
                }
                Ok(is_expected)
            }
        }
    }

    /// Writes the companion; gives back whether it is what the patch says.
    pub fn copy_to(&self, file: &DiskFile, patch: &Patch) -> Result<bool> {
        let mut offset = 0;
        self.for_each_chunk(patch, |chunk| {
            file.write_all_at(chunk, offset)
                .map_err(|error| Error::io_at("writing", file.path(), error))?;
            offset += chunk.len() as u64;
            Ok(())
        })
    }
}
