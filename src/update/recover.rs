//! A checkpoint whose update in place was interrupted, made whole again.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use crate::checkpoint::safetensors::open_locked;
use crate::checkpoint::tree::Tree;
use crate::digest::Digest;
use crate::disk::lock::{try_lock, Access, LockFile, Locked};
use crate::disk::mark::Mark;
use crate::disk::staged::{failed, parent};
use crate::disk::system::is_of_an_equal;
use crate::disk::{old_journal, Disk, DiskFile};
use crate::error::{Error, FileFault, Result};
use crate::patch::Chain;
use crate::tensors::target::{build, Output};
use crate::tensors::Control;
use crate::update::judge::Verdict;
use crate::update::pending::{files_of_updates, Member, Pending, Side, JOURNAL};
use crate::update::record::{Record, Tensors, Way, RECORD_BYTES_MAX};

/// What [`recover`] found and did. Whichever it is, the checkpoint is whole now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// What had become of the update, and of the checkpoint.
    pub outcome: Recovered,
    /// What was left as it is, and why.
    pub notes: Vec<Note>,
}

/// What had become of an update that was interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovered {
    /// No update was interrupted.
    #[default]
    Nothing,
    /// An update was interrupted before it changed anything: the checkpoint is its base.
    Untouched,
    /// The checkpoint is the base again, and has its digest.
    RolledBack {
        /// Digest of the base.
        base: Digest,
        /// Optimizer step of the base, if the patch named it.
        base_step: Option<u64>,
    },
    /// What was left of the update was done: the checkpoint is the target, and has its digest.
    Completed {
        /// Digest of the target.
        target: Digest,
        /// Optimizer step of the target, if the patch named it.
        target_step: Option<u64>,
    },
}

/// Something that an update or a recovery met and did not touch, or did otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A companion is neither that of the base nor that of the target.
    OwnCompanion {
        /// Its name.
        name: String,
    },
    /// A journal of files that are not here any more: it does no harm, and may be removed.
    OtherJournal {
        /// The journal.
        path: PathBuf,
    },
    /// There was no room, or no way, to make the files beside; the bytes were changed where they are.
    Overwritten {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::OwnCompanion { name } => {
                write!(f, "'{name}' is neither the base's nor the target's, and was left as it is")
            }
            Note::OtherJournal { path } => write!(
                f,
                "{} is the journal of files that are not here any more; it may be removed",
                path.display()
            ),
            Note::Overwritten { why } => write!(f, "changed byte by byte, because {why}"),
        }
    }
}

/// Makes a checkpoint whole again after an [update](crate::Patch::update) that was interrupted, if one
/// was: its base, or its target if that is what can be proved.
///
/// It first reads every file that the journal lists and compares digests; only then it writes. Files
/// that are neither, such as a checkpoint fetched anew under the old name, are left alone.
///
/// # Errors
/// [`Error::Unrecovered`] if neither can be proved, [`Error::Interrupted`] if a file is marked whose
/// journal is not here, [`Error::Busy`] if another process holds the checkpoint, [`Error::Cancelled`],
/// [`Error::Io`]. The journal then stays, and the next call starts again.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// # let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// # std::fs::write(&path, [&53u64.to_le_bytes()[..], json, b"abc"].concat()).unwrap();
/// use pulse::tensors::Control;
/// use pulse::update::{Recovered, recover};
/// assert_eq!(recover(&path, Control::default())?.outcome, Recovered::Nothing);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn recover(path: impl AsRef<Path>, control: Control<'_>) -> Result<Recovery> {
    recover_on(&Disk::default(), path.as_ref(), control)
}

/// Where a checkpoint is.
#[derive(Debug)]
pub(super) struct Room {
    /// The checkpoint, without links.
    pub checkpoint: PathBuf,
    /// The directory of its files, in which journals are.
    pub directory: PathBuf,
    pub is_directory: bool,
}

impl Room {
    pub fn of(path: &Path) -> Result<Self> {
        let checkpoint = fs::canonicalize(path).map_err(failed("opening", path))?;
        if checkpoint.file_name().is_none() {
            return Err(Error::bad_file(path, FileFault::Root));
        }
        let is_directory = checkpoint.is_dir();
        let directory =
            if is_directory { checkpoint.clone() } else { parent(&checkpoint).to_path_buf() };
        Ok(Room { checkpoint, directory, is_directory })
    }

    /// Whether a journal is about this checkpoint, or about a part of it.
    fn is_about(&self, record: &Record) -> bool {
        let is_own = |file: &Tensors| self.checkpoint.ends_with(&file.name);
        self.is_directory || record.tensors.iter().any(is_own)
    }
}

/// Claims files of a directory for one process.
struct Claims<'a> {
    disk: &'a Disk,
    directory: &'a Path,
    lock: Option<LockFile>,
}

impl Claims<'_> {
    /// Whether the file is this process's now.
    fn claim(&mut self, file: &File, path: &Path) -> Result<bool> {
        let locked = try_lock(file, Access::Change).map_err(failed("locking", path))?;
        self.note(locked).map(|()| locked != Locked::Busy)
    }

    fn note(&mut self, locked: Locked) -> Result<()> {
        if locked == Locked::Unsupported && self.lock.is_none() {
            self.lock = Some(LockFile::take(self.directory, self.disk)?);
        }
        Ok(())
    }
}

pub(crate) fn recover_on(disk: &Disk, path: &Path, control: Control<'_>) -> Result<Recovery> {
    let room = Room::of(path)?;
    let mut recovery = Recovery::default();
    if let Some(path) = old_journal::find(&room.checkpoint) {
        super::old::convert(disk, &room, &path, control)?;
    }
    for leftover in old_journal::leftovers(&room.checkpoint) {
        disk.remove(&leftover).map_err(failed("removing", &leftover))?;
        recovery.outcome = Recovered::Untouched;
    }
    let mut claims = Claims { disk, directory: &room.directory, lock: None };
    let mut files = files_of_updates(&room.directory)?;
    // A pipe or a directory with such a name is nobody's.
    let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    files.retain(|(.., path)| is_file(path) && is_of_an_equal(path));
    let marks: BTreeSet<String> = files.iter().map(|(mark, ..)| mark.id()).collect();
    for mark in marks.iter().filter_map(|id| Mark::from_id(id)) {
        let own = || files.iter().filter(move |(other, ..)| *other == mark);
        let journal = own().find(|(_, what, _)| what == JOURNAL).map(|(.., path)| path);
        let record = match journal {
            Some(path) => read_record(disk, path, mark, &mut claims)?,
            None => None,
        };
        let Some((file, record)) = record else {
            // Nothing is marked before the journal is whole: this was interrupted before.
            let bears_it = bearer(&room.directory, mark)?;
            if let (Some(_), Some(path)) = (&bears_it, journal) {
                let what =
                    "the journal is cut short or damaged, but files bear its mark".to_string();
                let source = Box::new(Error::bad_file(path, FileFault::Refused(what)));
                return Err(Error::Unrecovered { path: path.clone(), source, update: None });
            }
            if bears_it.is_none()
                && remove_leftovers(disk, own().map(|(.., path)| path), &mut claims)?
            {
                recovery.outcome = Recovered::Untouched;
            }
            continue;
        };
        if !room.is_about(&record) {
            continue;
        }
        let mut pending = Pending::open(disk, &room.directory, mark, record, file, &mut claims)?;
        let replaced = pending.members.iter().any(|member| member.replaced);
        // While no file has been replaced it is little work to go back; to overwrite twice is much.
        let first = match pending.record.way {
            Way::Redo if !replaced => Side::Base,
            _ => Side::Target,
        };
        recovery.outcome = pending.resolve(first, control)?.unwrap_or(recovery.outcome);
        recovery.notes.append(&mut pending.notes);
    }
    check_marks(&room)?;
    Ok(recovery)
}

/// The open journal and what it says, if it is whole.
fn read_record(
    disk: &Disk,
    path: &Path,
    mark: Mark,
    claims: &mut Claims<'_>,
) -> Result<Option<(DiskFile, Record)>> {
    let file = disk.open_to_change(path).map_err(failed("opening", path))?;
    if !claims.claim(file.held().map_err(failed("locking", path))?, path)? {
        return Err(Error::Busy { path: path.into() });
    }
    let mut bytes = Vec::new();
    let read = file.held().and_then(|file| {
        let mut file = file;
        file.by_ref().take(RECORD_BYTES_MAX).read_to_end(&mut bytes)
    });
    read.map_err(failed("reading", path))?;
    match Record::read(&bytes, mark) {
        Ok(record) => Ok(Some((file, record))),
        Err(_) => Ok(None),
    }
}

/// A file of the directory that starts with this mark.
fn bearer(directory: &Path, mark: Mark) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).map_err(failed("listing", directory))? {
        let path = entry.map_err(failed("listing", directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let is_own = name.is_some_and(|name| Mark::of_name(name).is_some());
        if !is_own && mark_of(&path) == Some(mark) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The mark that a regular file starts with.
fn mark_of(path: &Path) -> Option<Mark> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let mut file =
        fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).and(File::open(path).ok())?;
    let mut head = [0; 8];
    file.read_exact(&mut head).ok()?;
    Mark::of(head)
}

/// Removes files of an update that never marked anything, unless another process is at it.
fn remove_leftovers<'a>(
    disk: &Disk,
    paths: impl Iterator<Item = &'a PathBuf>,
    claims: &mut Claims<'_>,
) -> Result<bool> {
    let mut removed = false;
    for path in paths {
        let Ok(file) = File::open(path) else { continue };
        if claims.claim(&file, path)? {
            disk.remove(path).map_err(failed("removing", path))?;
            removed = true;
        }
    }
    Ok(removed)
}

/// No file of the checkpoint may bear a mark now; one that does has its journal elsewhere.
fn check_marks(room: &Room) -> Result<()> {
    let check = |path: &Path| match mark_of(path) {
        Some(mark) => {
            let journal = parent(path).join(mark.journal());
            let is_there = journal.exists();
            Err(Error::Interrupted { path: path.into(), journal, is_there })
        }
        None => Ok(()),
    };
    if !room.is_directory {
        return check(&room.checkpoint);
    }
    for entry in fs::read_dir(&room.directory).map_err(failed("listing", &room.directory))? {
        let entry = entry.map_err(failed("listing", &room.directory))?;
        let name = entry.file_name();
        // What was staged for an update that somebody is still at bears its mark from the start.
        if name.to_str().is_none_or(|name| Mark::of_name(name).is_none()) {
            check(&entry.path())?;
        }
    }
    // A part may have been updated as a checkpoint of its own.
    // Where that cannot be looked at, whoever opens it is told why.
    let Ok(tree) = Tree::walk(&room.directory) else { return Ok(()) };
    let below = tree.files.into_keys();
    below.filter(|name| name.contains('/')).try_for_each(|name| check(&room.directory.join(name)))
}

impl Pending {
    /// Opens and locks all files of a journal, and sees to it that what is read of them is what is on
    /// the disk.
    fn open(
        disk: &Disk,
        directory: &Path,
        mark: Mark,
        record: Record,
        journal: DiskFile,
        claims: &mut Claims<'_>,
    ) -> Result<Self> {
        let mut pending = Pending {
            disk: disk.clone(),
            directory: directory.into(),
            mark,
            record,
            members: Vec::new(),
            notes: Vec::new(),
            sync_failed: false.into(),
            journal,
        };
        let mut open = |path: PathBuf| -> Result<Option<Arc<DiskFile>>> {
            if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
                return Ok(None);
            }
            let (file, locked) = open_locked(&path, disk, Access::Change)?;
            claims.note(locked)?;
            file.sync().map_err(failed("syncing", &path))?;
            file.reload().map_err(failed("reading", &path))?;
            Ok(Some(Arc::new(file)))
        };
        for record in &pending.record.tensors {
            let staged = record.staged.map(|number| pending.staged(number));
            let named = open(pending.place(&record.name))?;
            let new = staged.map(&mut open).transpose()?.flatten();
            // What is staged no more has taken the name. So has what has a name that nothing had: a
            // rename may leave the old name too, for a while or for good.
            let took_it = new.is_none() || record.base.is_none();
            let replaced = record.staged.is_some() && named.is_some() && took_it;
            pending.members.push(if replaced {
                Member { old: None, new: named, replaced }
            } else {
                Member { old: named, new, replaced }
            });
        }
        Ok(pending)
    }

    /// Goes where the bytes of all files say that it can go. None if nothing is to be done.
    pub fn resolve(&mut self, first: Side, control: Control<'_>) -> Result<Option<Recovered>> {
        let was_marked = self.is_marked()?;
        let stuck = |pending: &Self, error: Error| match error {
            // These say nothing of the journal.
            Error::Io { .. } | Error::Cancelled | Error::Misuse(_) | Error::Internal(_) => error,
            error => {
                let path = pending.journal.path().to_path_buf();
                Error::Unrecovered { path, source: Box::new(error), update: None }
            }
        };
        let verdict = self.judge(first, control).map_err(|error| stuck(self, error))?;
        let forward = matches!(verdict, Verdict::Forward);
        let done = match verdict {
            // What is otherwise since then is someone's own, and so perhaps is what readers find now.
            Verdict::Forward if !was_marked => {
                let is_target = self.check_directory().is_ok();
                self.finish().map_err(|error| stuck(self, error))?;
                if !is_target {
                    return Ok(None);
                }
                Ok(())
            }
            Verdict::Forward => self.replace().and_then(|()| self.settle(Side::Target)),
            Verdict::Back { torn } => self.go_back(torn, control),
            Verdict::Inert => {
                self.notes.push(Note::OtherJournal { path: self.journal.path().into() });
                return Ok(None);
            }
            Verdict::Stuck { forward, back } => {
                let what = format!("forward: {forward}; back: {back}");
                Err(Error::bad_file(&self.directory, FileFault::Refused(what)))
            }
        };
        done.map_err(|error| stuck(self, error))?;
        let Record { base, target, .. } = &self.record;
        Ok(Some(if forward {
            Recovered::Completed { target: target.digest, target_step: target.step }
        } else if was_marked {
            Recovered::RolledBack { base: base.digest, base_step: base.step }
        } else {
            Recovered::Untouched
        }))
    }

    /// Puts back what was overwritten, and the first bytes.
    fn go_back(&mut self, torn: bool, control: Control<'_>) -> Result<()> {
        if torn {
            self.undo(control)?;
        }
        self.settle(Side::Base)
    }

    /// Writes what the patch that leads back has, which was proved to give the base.
    fn undo(&self, control: Control<'_>) -> Result<()> {
        let undo = self.open_undo()?;
        let torn = match self.base_files(Some(&undo))? {
            Ok(files) => self.checkpoint(files)?,
            Err(what) => return Err(Error::Internal(what)),
        };
        let chain = Chain::new(slice::from_ref(&undo))?;
        let tensors = self.undo_tensors(&torn, &chain)?;
        let files: Vec<_> = torn.files.iter().map(|file| Some(&**file.disk_file())).collect();
        for file in torn.files.iter().map(|file| (file.disk_file(), &file.header.bytes)) {
            let (file, header) = file;
            if self.has_mark(file)? {
                file.write_all_at(&header[8..], 8).map_err(failed("writing", file.path()))?;
            }
        }
        let output = Output { files: &files, in_place: true };
        build(&tensors, Some(&torn), &chain, Some(output), control)?;
        torn.files.iter().try_for_each(|file| self.sync(file.disk_file()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One lock file, for the whole recovery, and only where files cannot be locked.
    #[test]
    fn a_lock_file_stands_for_all_locks_of_a_file_system_that_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let held = || fs::read_dir(dir.path()).unwrap().count();
        let mut claims = Claims { disk: &disk, directory: dir.path(), lock: None };
        claims.note(Locked::Yes).unwrap();
        claims.note(Locked::Busy).unwrap();
        assert_eq!(held(), 0);
        claims.note(Locked::Unsupported).unwrap();
        assert_eq!(held(), 1);
        claims.note(Locked::Unsupported).unwrap();
        claims.note(Locked::Yes).unwrap();
        let mut other = Claims { disk: &disk, directory: dir.path(), lock: None };
        assert_eq!(other.note(Locked::Unsupported).unwrap_err().kind(), "busy");
        drop(claims);
        assert_eq!(held(), 0);
    }
}
