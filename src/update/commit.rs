//! From what is made beside the checkpoint to the last mark: nothing of the checkpoint changes before all
//! that is needed is durable.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::safetensors::FileHeader;
use crate::disk::lock::{try_lock, Access};
use crate::disk::mark::Mark;
use crate::disk::place::lessen_access;
use crate::disk::staged::failed;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::hash::Sha;
use crate::tensors::{Control, TensorSource};
use crate::update::pending::{files_of_updates, Member, Pending, Side};
use crate::update::record::{Head, Record, State, Tensors, Way};
use crate::update::recover::{Note, Recovered};
use crate::update::update::{number_of, Update};

/// What was made beside the checkpoint for an update, and is removed unless the journal needs it.
#[derive(Debug)]
pub(super) struct Staging {
    pub mark: Mark,
    pub way: Way,
    disk: Disk,
    directory: PathBuf,
    kept: bool,
    /// Companions and the patch that leads back, open until the update is done: no other process takes a
    /// file that is locked for one that was left behind.
    held: RefCell<Vec<DiskFile>>,
}

impl Staging {
    /// Locks a file for as long as it is open.
    pub fn lock(&self, file: &DiskFile) -> Result<()> {
        let locked = file.held().and_then(|open| try_lock(open, Access::Change));
        locked.map(|_| ()).map_err(failed("locking", file.path()))
    }

    /// Keeps a file open until the update is done.
    pub fn hold(&self, file: DiskFile) {
        self.held.borrow_mut().push(file);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for (mark, _, path) in files_of_updates(&self.directory).unwrap_or_default() {
            if mark == self.mark {
                // If it stays, the next update or recovery removes it.
                let _ = self.disk.remove(&path);
            }
        }
    }
}

/// All that is needed is beside the checkpoint, and the target is proved.
#[derive(Debug)]
pub(super) struct Prepared {
    pub staging: Staging,
    members: Vec<Member>,
}

impl Update<'_> {
    /// Makes all that is needed beside the checkpoint, and proves the target.
    pub fn prepare(&self, way: Way, control: Control<'_>) -> Result<Prepared> {
        let staging = Staging {
            mark: Mark::random(),
            way,
            disk: self.disk.clone(),
            directory: self.room.directory.clone(),
            kept: false,
            held: RefCell::default(),
        };
        let members = match way {
            Way::Redo => self.stage_tensors(&staging, control)?,
            Way::Undo => self.stage_undo(&staging, control)?,
        };
        self.stage_companions(&staging)?;
        self.chain.check_unchanged()?;
        Ok(Prepared { staging, members })
    }

    /// Makes the companions of the target that change.
    fn stage_companions(&self, staging: &Staging) -> Result<()> {
        for (companion, source) in &self.companions {
            let Some(out) = source.map(|at| &self.plan.companions[at]) else { continue };
            let replaces = companion.base.map(|_| self.room.directory.join(&companion.name));
            let file = self.create_beside(staging, companion.number, replaces)?;
            out.copy_to(&file)?;
            file.sync().map_err(failed("syncing", file.path()))?;
            staging.hold(file);
        }
        Ok(())
    }

    /// The tensor files of the record, open; `staged` gives those that are to take a name, by their
    /// number in the plan.
    pub fn members(&self, staged: impl Fn(usize) -> Option<Arc<DiskFile>>) -> Vec<Member> {
        let member = |name: String| {
            let old = self.base.file(&name).map(|file| file.disk_file().clone());
            let new = self.numbers.get(&name).copied().and_then(&staged);
            Member { old, new, replaced: false }
        };
        self.names().into_iter().map(member).collect()
    }

    /// Names of all tensor files of base and target.
    fn names(&self) -> BTreeSet<String> {
        let base = self.base.files.iter().map(|file| &file.name);
        base.chain(self.numbers.keys()).cloned().collect()
    }

    fn record(&self, staging: &Staging) -> Record {
        let (first, last) = (self.chain.first(), self.chain.last());
        let head = |header: &FileHeader| Head {
            bytes: header.file_bytes,
            length: (header.bytes.len() - 8) as u64,
            header: Sha::of(&[&header.bytes]),
            qualified: header.prefixed(),
        };
        let mut tensors = Vec::new();
        for name in self.names() {
            let number = self.numbers.get(&name).copied();
            let base = self.base.file(&name).map(|file| head(&file.header));
            let target = number.map(|at| head(&self.plan.files[at].header));
            let changed = number.filter(|&at| self.is_changed(at));
            let staged = changed.filter(|_| staging.way == Way::Redo).map(number_of);
            let marked = base.is_some() && (changed.is_some() || target.is_none());
            let name = if self.base.is_directory { name } else { self.file_name() };
            tensors.push(Tensors { name, base, target, marked, staged });
        }
        // Companions alone change: one file is marked all the same, so that nobody opens a mixture.
        if let (true, Some(first)) = (tensors.iter().all(|file| !file.marked), tensors.first_mut())
        {
            first.marked = true;
        }
        Record {
            id: staging.mark.id(),
            way: staging.way,
            directory: self.base.is_directory,
            base: State {
                digest: first.footer().base.unwrap_or_default(),
                step: first.header().base_step,
            },
            target: State { digest: last.footer().target, step: last.header().target_step },
            tensors,
            companions: self.companions.iter().map(|(companion, _)| companion.clone()).collect(),
        }
    }

    fn file_name(&self) -> String {
        let name = self.room.checkpoint.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default().to_string()
    }

    /// Owner and group of the tensor files, and what all of their modes allow.
    pub fn keep_least_access(&self, file: &DiskFile) -> Result<()> {
        let mut allowed = 0o666;
        for tensors in &self.base.files {
            let taken =
                fs::metadata(tensors.path()).map_err(failed("looking at", tensors.path()))?;
            allowed = file
                .held()
                .and_then(|file| lessen_access(tensors.path(), &taken, file, allowed))
                .map_err(failed("setting the mode of", file.path()))?;
        }
        Ok(())
    }

    /// Writes the journal. From now on the update can be completed or taken back by whoever comes.
    fn write_journal(&self, staging: &Staging, record: &Record) -> Result<DiskFile> {
        let path = self.room.directory.join(staging.mark.journal());
        let io = |error| failed("writing", &path)(error);
        let file = self.disk.create_private(&path).map_err(io)?;
        staging.lock(&file)?;
        self.keep_least_access(&file)?;
        let bytes = record.to_bytes();
        // What a recovery could not read must not be the only way back.
        Record::read(&bytes, staging.mark)
            .map_err(|what| self.refused(format!("its journal {what}")))?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync()).map_err(io)?;
        // Its name, and those of all that was staged.
        self.disk
            .sync_directory(&self.room.directory)
            .map_err(failed("syncing", &self.room.directory))?;
        Ok(file)
    }

    /// Changes the checkpoint. What goes wrong is taken back, or what is left is done.
    pub fn commit(&self, prepared: Prepared, control: Control<'_>) -> Result<Vec<Note>> {
        let Prepared { mut staging, members } = prepared;
        let record = self.record(&staging);
        let journal = self.write_journal(&staging, &record)?;
        // Others had all the time that the syncs took.
        self.base.check_unchanged()?;
        staging.kept = true;
        let mut pending = Pending {
            disk: self.disk.clone(),
            directory: self.room.directory.clone(),
            mark: staging.mark,
            record,
            members,
            notes: Vec::new(),
            sync_failed: false.into(),
            journal,
        };
        let overwrite = |pending: &Pending| match pending.record.way {
            Way::Redo => Ok(()),
            Way::Undo => self.overwrite(pending, control),
        };
        let done = pending
            .mark()
            .and_then(|()| overwrite(&pending))
            .and_then(|()| pending.replace())
            .and_then(|()| self.check_opened(&pending))
            .and_then(|()| pending.settle(Side::Target));
        match done {
            Ok(()) => Ok(pending.notes),
            Err(error) => give_up(pending, error, control),
        }
    }

    /// What counts is what a reader finds under the names.
    fn check_opened(&self, pending: &Pending) -> Result<()> {
        let files = match pending.target_files()? {
            Ok(files) => files,
            Err(what) => {
                return Err(Error::Internal(format!("what was made opens otherwise: {what}")))
            }
        };
        self.plan.check_opened(&pending.checkpoint(files)?)
    }
}

/// An update failed after its journal was written.
fn give_up(mut pending: Pending, error: Error, control: Control<'_>) -> Result<Vec<Note>> {
    let path = pending.journal.path().to_path_buf();
    if pending.sync_failed.get() {
        // What the system says of these files now need not be true of the disk: nothing more is done.
        return Err(Error::Unrecovered { path, source: Box::new(error), update: None });
    }
    // Stopping the work does not stop its undoing.
    match pending.resolve(Side::Base, Control::threads(control.count())) {
        Ok(Some(Recovered::Completed { .. })) => Ok(pending.notes),
        Ok(_) => Err(error),
        Err(Error::Unrecovered { path, source, .. }) => {
            Err(Error::Unrecovered { path, source, update: Some(Box::new(error)) })
        }
        Err(source) => {
            let (source, update) = (Box::new(source), Some(Box::new(error)));
            Err(Error::Unrecovered { path, source, update })
        }
    }
}
