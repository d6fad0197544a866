//! The files beside a checkpoint that is updated in place: an undo journal and a lock.
//!
//! The journal is an ordinary patch, from the target back to the base, that overwrites: applied to
//! bytes of which some are old, some new and some torn, it gives the old ones.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::disk::staged::{failed, parent};
use crate::disk::{Call, Disk};
use crate::error::{Error, FileFault, Result};

/// Where the journal of a checkpoint is.
#[derive(Debug)]
pub(crate) struct Journal {
    /// The checkpoint, without links.
    pub checkpoint: PathBuf,
    /// The journal. It has this name only when it is whole and on disk.
    pub undo: PathBuf,
    /// The journal while it is written; nothing of the checkpoint was changed yet.
    pub unfinished: PathBuf,
    lock: PathBuf,
}

impl Journal {
    pub fn of(checkpoint: &Path) -> Result<Self> {
        let path = fs::canonicalize(checkpoint).map_err(failed("opening", checkpoint))?;
        let Some(name) = path.file_name() else {
            return Err(Error::bad_file(checkpoint, FileFault::Root));
        };
        let beside = |suffix: &str| {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(suffix);
            parent(&path).join(hidden)
        };
        let (undo, unfinished, lock) =
            (beside(".pulse-undo"), beside(".pulse-undo-new"), beside(".pulse-lock"));
        Ok(Journal { checkpoint: path, undo, unfinished, lock })
    }

    /// Refuses a checkpoint that may be neither base nor target.
    pub fn refuse(&self) -> Result<()> {
        if !self.undo.exists() {
            return Ok(());
        }
        Err(Error::Interrupted { path: self.checkpoint.clone() })
    }

    /// Keeps every other process away until the lock is dropped. The system takes it from a process that dies.
    pub fn lock(&self, disk: &Disk) -> Result<Lock> {
        loop {
            let file = disk
                .before(Call::Create(&self.lock))
                .and_then(|()| {
                    File::options().create(true).write(true).truncate(false).open(&self.lock)
                })
                .map_err(failed("creating", &self.lock))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Busy { path: self.checkpoint.clone() })
                }
                Err(TryLockError::Error(error)) => {
                    return Err(failed("locking", &self.lock)(error))
                }
            }
            // The process that had the lock before removed its file, perhaps after this one was opened.
            if is_at(&file, &self.lock) {
                return Ok(Lock { path: self.lock.clone(), _file: file });
            }
        }
    }

    /// The directory that holds checkpoint and journal.
    pub fn directory(&self) -> &Path {
        parent(&self.checkpoint)
    }
}

/// Whether an open file is the one that has this name now.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Elsewhere a file that is open keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Held while a checkpoint is updated.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock goes with the file handle. If it stays, it is empty and does no harm.
        let _ = fs::remove_file(&self.path);
    }
}
