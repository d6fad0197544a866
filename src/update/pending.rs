//! An update whose journal is on disk, from the marks to the end: by the update itself, or by the
//! recovery after it.
//!
//! The order is what makes it safe. Nothing is marked before the journal and all that it names is
//! durable; nothing changes before every mark is; no mark goes before every change is; the journal
//! goes last.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::files::hash_file;
use crate::checkpoint::layout::Layout;
use crate::checkpoint::names::{name_tensors, SameTensor};
use crate::disk::mark::{Mark, MARK_BYTES};
use crate::disk::staged::failed;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, FileFault, Result};
use crate::update::record::{Content, Head, Record, Tensors};
use crate::update::Note;

/// One of the two checkpoints that an update leads from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Base,
    Target,
}

/// A tensor file of the record, open and locked.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// The file of the base, while it has the name.
    pub old: Option<Arc<DiskFile>>,
    /// The file that is to take the name, or has taken it.
    pub new: Option<Arc<DiskFile>>,
    /// It has.
    pub replaced: bool,
}

impl Member {
    /// The file that has the name now.
    pub fn named(&self) -> Option<&Arc<DiskFile>> {
        if self.replaced {
            self.new.as_ref()
        } else {
            self.old.as_ref()
        }
    }

    /// The file that has, or is to have, the name in the target.
    pub fn of_target(&self, staged: bool) -> Option<&Arc<DiskFile>> {
        if staged {
            self.new.as_ref()
        } else {
            self.old.as_ref()
        }
    }
}

/// An update between its first mark and its end.
#[derive(Debug)]
pub(super) struct Pending {
    pub disk: Disk,
    /// Holds the files and the journal.
    pub directory: PathBuf,
    pub mark: Mark,
    pub record: Record,
    /// For each tensor file of the record.
    pub members: Vec<Member>,
    pub notes: Vec<Note>,
    /// A sync failed: what the system says of these files from now on need not be true of the disk.
    pub sync_failed: Cell<bool>,
    /// Open and locked, so that nobody takes it for one that was left.
    pub journal: DiskFile,
}

impl Pending {
    pub fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Place of a file that is to take a name, by its number in the record.
    pub fn staged(&self, number: u32) -> PathBuf {
        self.place(&staged_name(&self.mark, number))
    }

    fn files(&self) -> impl Iterator<Item = (&Tensors, &Member)> {
        self.record.tensors.iter().zip(&self.members)
    }

    pub fn sync(&self, file: &DiskFile) -> Result<()> {
        file.sync().map_err(|error| self.note_failed_sync(failed("syncing", file.path())(error)))
    }

    pub fn sync_directory(&self) -> Result<()> {
        let synced = self.disk.sync_directory(&self.directory);
        synced.map_err(|error| self.note_failed_sync(failed("syncing", &self.directory)(error)))
    }

    fn note_failed_sync(&self, error: Error) -> Error {
        self.sync_failed.set(true);
        error
    }

    /// Marks each file that is to change: from now on nobody takes it for base or target.
    pub fn mark(&self) -> Result<()> {
        self.check_names()?;
        for (record, member) in self.files().filter(|(record, _)| record.marked) {
            let Some(file) = &member.old else { continue };
            file.write_all_at(&self.mark.bytes(), 0)
                .map_err(failed("marking", &self.place(&record.name)))?;
            self.sync(file)?;
        }
        Ok(())
    }

    /// Gives their names to the files of the target.
    pub fn replace(&mut self) -> Result<()> {
        for at in 0..self.members.len() {
            let record = &self.record.tensors[at];
            let name = self.place(&record.name);
            match (record.staged, &record.target) {
                (Some(number), _) if !self.members[at].replaced => {
                    let from = self.staged(number);
                    self.check_name(at)?;
                    let renamed = match &record.base {
                        Some(_) => self.disk.rename(&from, &name),
                        None => self.disk.rename_new(&from, &name),
                    };
                    renamed.map_err(failed("renaming to", &name))?;
                    let member = &mut self.members[at];
                    if let Some(new) = &member.new {
                        // The same open file, and the same lock.
                        let handle = new
                            .held()
                            .and_then(File::try_clone)
                            .map_err(failed("opening", &name))?;
                        member.new = Some(Arc::new(self.disk.adopt(&name, handle)));
                    }
                    member.replaced = true;
                }
                // It may be gone already.
                (None, None) => {
                    self.check_name(at)?;
                    self.disk.remove(&name).map_err(failed("removing", &name))?;
                    self.members[at].old = None;
                }
                _ => {}
            }
        }
        self.change_companions()?;
        self.sync_directory()
    }

    /// Creates, replaces and removes companions, last of all: from here there is only one way, and it is
    /// proved. One that is neither as before nor as after is not touched: it is someone's own.
    fn change_companions(&mut self) -> Result<()> {
        for companion in &self.record.companions {
            let place = self.place(&companion.name);
            // Looked at right before, whatever was seen at the start.
            match content_of(&place)? {
                found if found == Found::of(companion.target) => continue,
                found if found == Found::of(companion.base) => {}
                _ => {
                    self.notes.push(Note::OwnCompanion { name: companion.name.clone() });
                    continue;
                }
            }
            let staged = self.staged(companion.number);
            let changed = match (companion.base, companion.target) {
                (_, None) => self.disk.remove(&place),
                (Some(_), Some(_)) => self.disk.rename(&staged, &place),
                (None, Some(_)) => self.disk.rename_new(&staged, &place),
            };
            changed.map_err(failed("replacing", &place))?;
        }
        Ok(())
    }

    /// Every file is what it shall be but for its mark: takes the marks away, then the journal.
    pub fn settle(&mut self, side: Side) -> Result<()> {
        self.check_names()?;
        if side == Side::Target {
            self.check_directory()?;
        }
        for (record, member) in self.files() {
            let (Some(head), Some(file)) = (record.head(side), member.named()) else { continue };
            let first = read_head(file).map_err(failed("reading", file.path()))?;
            if Mark::of(first) == Some(self.mark) {
                file.write_all_at(&head.first(), 0)
                    .map_err(failed("writing", &self.place(&record.name)))?;
            }
        }
        self.finish()
    }

    /// All is done but for the journal.
    pub fn finish(&mut self) -> Result<()> {
        // Also those that were not written just now: perhaps a process wrote them that is gone.
        self.files()
            .filter_map(|(_, member)| member.named())
            .try_for_each(|file| self.sync(file))?;
        self.check_names()?;
        self.forget()
    }

    /// That readers of the directory find the tensors of the target there, whatever others have put beside
    /// them while the update ran: an index, another tensor file.
    pub fn check_directory(&self) -> Result<()> {
        if !self.record.directory {
            return Ok(());
        }
        let refused = |what: String| {
            let what = format!(
                "readers of this directory find other tensors than those of the update: {what}"
            );
            Error::bad_file(&self.directory, FileFault::Refused(what))
        };
        let files = self.target_files()?.map_err(&refused)?;
        let layout = Layout::read(&self.directory)?;
        let found = layout.tensors.iter().map(|(name, _)| name);
        if let Some(name) = differing(found, files.iter().map(|file| &file.name)) {
            return Err(refused(format!(
                "'{name}' is there and not listed, or the other way round"
            )));
        }
        let mut headers: Vec<_> = files.iter().map(|file| file.header.clone()).collect();
        let names = files.iter().map(|file| file.name.as_str());
        name_tensors(&mut names.zip(&mut headers).collect::<Vec<_>>(), &layout.names)
            .map_err(|SameTensor { tensor, .. }| refused(format!("'{tensor}' is in two files")))?;
        let read = headers.iter().flat_map(|header| &header.tensors).map(|tensor| &tensor.name);
        let meant = files.iter().flat_map(|file| &file.header.tensors).map(|tensor| &tensor.name);
        match read.zip(meant).find(|(read, meant)| read != meant) {
            Some((name, _)) => Err(refused(format!("the index tells otherwise where '{name}' is"))),
            None => Ok(()),
        }
    }

    /// Removes what the update needed, the journal last.
    fn forget(&self) -> Result<()> {
        for (mark, what, path) in files_of_updates(&self.directory)? {
            if mark == self.mark && what != JOURNAL {
                self.disk.remove(&path).map_err(failed("removing", &path))?;
            }
        }
        self.sync_directory()?;
        let journal = self.journal.path();
        self.disk.remove(journal).map_err(failed("removing", journal))?;
        self.sync_directory()
    }

    /// That every name leads to the file that was locked.
    fn check_names(&self) -> Result<()> {
        (0..self.members.len()).try_for_each(|at| self.check_name(at))
    }

    fn check_name(&self, at: usize) -> Result<()> {
        let (member, name) = (&self.members[at], self.place(&self.record.tensors[at].name));
        let is_right = match member.named() {
            Some(file) => file.has_its_name(),
            None => fs::symlink_metadata(&name)
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
        };
        if is_right {
            return Ok(());
        }
        let what = "another file has taken this name while the checkpoint was updated";
        Err(Error::bad_file(&name, FileFault::Refused(what.into())))
    }
}

/// The first name that is in one of the two only.
fn differing<'a>(
    found: impl Iterator<Item = &'a String>,
    expected: impl Iterator<Item = &'a String>,
) -> Option<&'a String> {
    let [found, expected] = [found.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>()];
    found.symmetric_difference(&expected).next().copied()
}

impl Tensors {
    pub fn head(&self, side: Side) -> Option<&Head> {
        match side {
            Side::Base => self.base.as_ref(),
            Side::Target => self.target.as_ref(),
        }
    }
}

/// What is at the name of a companion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    File(Content),
    /// A link, a directory, a device.
    Other,
}

impl Found {
    pub fn of(content: Option<Content>) -> Self {
        content.map_or(Found::Nothing, Found::File)
    }
}

pub(super) fn content_of(path: &Path) -> Result<Found> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(failed("looking at", path)(error)),
        Ok(metadata) if metadata.is_file() => Ok(Found::File(hash_file(path)?.into())),
        Ok(_) => Ok(Found::Other),
    }
}

pub(super) fn read_head(file: &DiskFile) -> io::Result<[u8; MARK_BYTES]> {
    let mut head = [0; MARK_BYTES];
    file.read_exact_at(&mut head, 0).map(|()| head)
}

/// Of the names of an update's files: what stands after the id.
pub(super) const JOURNAL: &str = "undo";
/// The patch that leads back, where the tensor files are overwritten.
pub(super) const BACK: &str = "back";

/// Name of a file that is to take a name.
pub(super) fn staged_name(mark: &Mark, number: u32) -> String {
    mark.file(&format!("new-{number}"))
}

/// Whether a file of this kind is one that an update makes.
pub(super) fn is_known(what: &str) -> bool {
    let number = what.strip_prefix("new-");
    what == JOURNAL || what == BACK || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The files of updates in a directory: mark, what it is, path.
pub(super) fn files_of_updates(directory: &Path) -> Result<Vec<(Mark, String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("listing", directory))? {
        let entry = entry.map_err(failed("listing", directory))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some((mark, what)) = Mark::of_name(&name).filter(|(_, what)| is_known(what)) {
            files.push((mark, what.to_string(), entry.path()));
        }
    }
    files.sort_by(|a, b| a.2.cmp(&b.2));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::mark::Mark;

    #[test]
    fn what_is_at_a_name_is_nothing_a_file_or_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::write(place("file"), "abc").unwrap();
        fs::create_dir(place("directory")).unwrap();
        let content = Content { bytes: 3, sha256: crate::hash::Sha::of(&[b"abc"]) };
        assert_eq!(content_of(&place("file")).unwrap(), Found::File(content));
        assert_eq!(content_of(&place("nowhere")).unwrap(), Found::Nothing);
        assert_eq!(content_of(&place("directory")).unwrap(), Found::Other);
        // Of what cannot be looked at nobody knows that it is not there.
        assert_eq!(content_of(&place(&"long".repeat(100))).unwrap_err().kind(), "io");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("file", place("link")).unwrap();
            assert_eq!(content_of(&place("link")).unwrap(), Found::Other);
        }
    }

    #[test]
    fn files_of_updates_are_those_that_one_makes() {
        let (dir, mark) = (tempfile::tempdir().unwrap(), Mark::random());
        let own = ["back", "new-0", "new-4294967295", "undo"];
        let others = ["", "new", "new-", "new-x", "new-4294967296", "undone", "lock"];
        for what in own.iter().chain(&others) {
            fs::write(dir.path().join(mark.file(what)), "").unwrap();
        }
        fs::write(dir.path().join("undo"), "").unwrap();
        let expected = own.map(|what| (mark, what.to_string(), dir.path().join(mark.file(what))));
        assert_eq!(files_of_updates(dir.path()).unwrap(), expected);
    }
}
