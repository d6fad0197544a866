//! The way that never tears a file: what changes is made whole beside, proved, and takes the names.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::apply::source;
use crate::disk::place::keep_access;
use crate::disk::staged::failed;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::tensors::diagnose::explain;
use crate::tensors::target::{build, Output};
use crate::tensors::{Control, TensorSource};
use crate::update::commit::Staging;
use crate::update::pending::{staged_name, Member};
use crate::update::update::{number_of, Update};

/// Room that is left free beside what is staged: for directory entries, and for others.
const SPARE_BYTES: u64 = 16 << 20;

impl Update<'_> {
    /// Why the files that change cannot be made beside, if that is known before.
    pub fn no_room_to_redo(&self) -> Option<String> {
        let changed = self.changed_files().map(|at| self.plan.files[at].header.file_bytes);
        let needed = changed.fold(SPARE_BYTES, u64::saturating_add);
        let free = self.disk.free_bytes(&self.room.directory)?;
        (free < needed).then(|| format!("{free} bytes are free and {needed} are needed"))
    }

    /// Why files that change cannot be replaced by others, if that is known before.
    pub fn cannot_replace(&self) -> Option<String> {
        let mut places = self.changed_files().filter_map(|at| self.base_place(at));
        let held = places.find(|path| !self.disk.may_replace(path))?;
        Some(format!("only its owner may replace '{}' in a sticky directory", held.display()))
    }

    /// Makes the files of the target that change, with the mark as their first bytes, and proves all
    /// of the target.
    pub fn stage_tensors(&self, staging: &Staging, control: Control<'_>) -> Result<Vec<Member>> {
        let mut staged: Vec<Option<Arc<DiskFile>>> = Vec::new();
        for (at, file) in self.plan.files.iter().enumerate() {
            if !self.is_changed(at) {
                staged.push(None);
                continue;
            }
            let created = self.create_beside(staging, number_of(at), self.base_place(at))?;
            let io = failed("writing", created.path());
            let bytes = &file.header.bytes;
            let head = staging.mark.bytes();
            created
                .resize(file.header.file_bytes)
                .and_then(|()| created.write_all_at(&head, 0))
                .and_then(|()| created.write_all_at(&bytes[head.len()..], head.len() as u64))
                .map_err(io)?;
            staged.push(Some(Arc::new(created)));
        }
        let outputs: Vec<_> = staged.iter().map(|file| file.as_deref()).collect();
        let output = Output { files: &outputs, in_place: false };
        let base = source(Some(self.base));
        let made = build(&self.plan.tensors, base, self.chain, Some(output), control)
            .and_then(|()| self.base.check_unchanged());
        explain(base, self.chain, control, made)?;
        for file in staged.iter().flatten() {
            file.sync().map_err(failed("syncing", file.path()))?;
        }
        Ok(self.members(|at| staged[at].clone()))
    }

    /// Makes an empty file of the update, locked, and with the access of the file whose name it takes.
    pub fn create_beside(
        &self,
        staging: &Staging,
        number: u32,
        replaces: Option<PathBuf>,
    ) -> Result<DiskFile> {
        let path = self.room.directory.join(staged_name(&staging.mark, number));
        let file = match &replaces {
            Some(_) => self.disk.create_private(&path),
            None => self.disk.create_new(&path),
        };
        let file = file.map_err(failed("creating", &path))?;
        staging.lock(&file)?;
        if let Some(replaced) = replaces {
            let taken = fs::metadata(&replaced).map_err(failed("looking at", &replaced))?;
            let kept = file.held().and_then(|file| keep_access(&replaced, &taken, file, 0));
            kept.map_err(failed("setting the mode of", &path))?;
        }
        Ok(file)
    }
}

/// Whether a failure only says that the files cannot be made beside: they may still be overwritten.
pub(super) fn is_no_room(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a failure says that a file cannot get another's name there: it is a mount point, perhaps.
pub(super) fn is_no_rename(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    let kinds =
        [io::ErrorKind::ResourceBusy, io::ErrorKind::CrossesDevices, io::ErrorKind::Unsupported];
    kinds.contains(&source.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_mount_point_are_told_from_other_failures() {
        use io::ErrorKind::*;
        let error =
            |kind: io::ErrorKind| Error::io_at("writing", std::path::Path::new("out"), kind.into());
        for kind in [StorageFull, QuotaExceeded] {
            assert!(is_no_room(&error(kind)) && !is_no_rename(&error(kind)), "{kind:?}");
        }
        for kind in [ResourceBusy, CrossesDevices, Unsupported] {
            assert!(is_no_rename(&error(kind)) && !is_no_room(&error(kind)), "{kind:?}");
        }
        for error in [error(PermissionDenied), error(Other), Error::Cancelled] {
            assert!(!is_no_room(&error) && !is_no_rename(&error), "{error:?}");
        }
    }
}
