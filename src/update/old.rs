//! Journals of updates of earlier builds: a patch beside the checkpoint that leads back from whatever is
//! there. Nothing was marked then, so a journal was a threat to whatever had the name later.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::slice;
use std::sync::Arc;

use crate::checkpoint::companions::CarriedFile;
use crate::checkpoint::safetensors::{open_locked, FileHeader, TensorFile};
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::disk::lock::Access;
use crate::disk::mark::Mark;
use crate::disk::place::keep_access;
use crate::disk::staged::{failed, parent};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, FileFault, Result};
use crate::hash::Sha;
use crate::limits::Limits;
use crate::patch::{Chain, FileEntry, Patch};
use crate::tensors::target::{build, target_tensors};
use crate::tensors::Control;
use crate::update::pending::{staged_name, BACK};
use crate::update::record::{Beside, Content, Head, Record, State, Tensors, Way};
use crate::update::recover::Room;
use crate::wire::{is_component, FileKind};

/// Proves that the old journal is of these files, marks them, and leaves a journal of today that says
/// the same; the rest is as for any other.
pub(super) fn convert(
    disk: &Disk,
    room: &Room,
    journal: &Path,
    control: Control<'_>,
) -> Result<()> {
    let stuck = |error: Error| match error {
        Error::Io { .. } | Error::Cancelled | Error::Busy { .. } => error,
        error => {
            let path = journal.to_path_buf();
            Error::Unrecovered { path, source: Box::new(error), update: None }
        }
    };
    Conversion { disk, room, journal }.run(control).map_err(stuck)
}

/// What a companion was in the target, which an old journal does not say: as no file is. The companions are
/// the base's again, so that there is no way forward, whatever the tensors are.
const LOST: Content = Content { bytes: u64::MAX, sha256: Digest([0; 32]) };

struct Conversion<'a> {
    disk: &'a Disk,
    room: &'a Room,
    journal: &'a Path,
}

impl Conversion<'_> {
    fn run(&self, control: Control<'_>) -> Result<()> {
        let undo = Patch::open_on(self.journal, Limits::default(), self.disk)?;
        let files = undo.files().iter();
        let is_directory = files.clone().all(|file| !file.record.name.is_empty());
        if is_directory != self.room.is_directory {
            let what = "it is the journal of the whole directory: recover that";
            return Err(Error::bad_file(self.journal, FileFault::Refused(what.into())));
        }
        let mut tensors = Vec::new();
        let mut opened = Vec::new();
        for file in files.clone().filter(|file| file.record.kind == FileKind::Tensors) {
            let (entry, file) = self.open(&undo, file)?;
            tensors.push(entry);
            opened.push(file);
        }
        let locked: Vec<Arc<DiskFile>> =
            opened.iter().map(|file| file.disk_file().clone()).collect();
        let torn = Checkpoint::of_files(&self.room.directory, opened)?;
        let chain = Chain::new(slice::from_ref(&undo))?;
        build(&target_tensors(Some(&torn), &chain)?, Some(&torn), &chain, None, control)?;

        let mark = Mark::random();
        let place = |name: &str| self.room.directory.join(name);
        // One that the update left alone is listed without its bytes.
        let is_changed = |file: &&FileEntry| {
            file.record.kind == FileKind::Companion && file.record.state.is_carried()
        };
        let mut companions = Vec::new();
        for (number, file) in (0..).zip(files.filter(is_changed)) {
            self.restore(&undo, file, &place(&staged_name(&mark, 0)))?;
            companions.push(Beside {
                name: file.record.name.clone(),
                base: Some(file.record.content().into()),
                target: Some(LOST),
                number,
            });
        }
        let back = place(&mark.file(BACK));
        fs::copy(self.journal, &back).map_err(failed("writing", &back))?;
        self.sync(&back)?;
        let (header, footer) = (undo.header(), undo.footer());
        let record = Record {
            id: mark.id(),
            way: Way::Undo,
            directory: is_directory,
            base: State { digest: footer.target, step: header.target_step },
            target: State { digest: footer.base.unwrap_or_default(), step: header.base_step },
            tensors,
            companions,
        };
        let path = place(&mark.journal());
        let written = self.disk.create_private(&path);
        let written = written.and_then(|file| {
            file.write_all_at(&record.to_bytes(), 0)?;
            file.sync()
        });
        written.map_err(failed("writing", &path))?;
        self.disk
            .sync_directory(&self.room.directory)
            .map_err(failed("syncing", &self.room.directory))?;
        for file in locked {
            file.write_all_at(&mark.bytes(), 0)
                .and_then(|()| file.sync())
                .map_err(failed("marking", file.path()))?;
        }
        self.disk.remove(self.journal).map_err(failed("removing", self.journal))?;
        self.disk
            .sync_directory(parent(self.journal))
            .map_err(failed("syncing", parent(self.journal)))
    }

    /// A file of tensors with the header of the base, and what a journal says of it.
    fn open(&self, undo: &Patch, entry: &FileEntry) -> Result<(Tensors, TensorFile)> {
        let own = self.room.checkpoint.file_name().unwrap_or_default().to_string_lossy();
        let name =
            if self.room.is_directory { entry.record.name.clone() } else { own.into_owned() };
        let path = self.room.directory.join(&name);
        let (file, _) = open_locked(&path, self.disk, Access::Change)?;
        let bytes = file.metadata().map_err(failed("reading", &path))?.len();
        let mut header = Vec::new();
        if entry.data.is_empty() {
            // It did not change.
            header = FileHeader::read(&file, bytes)?.bytes;
        } else {
            undo.for_each_data(entry, |data| {
                header.extend_from_slice(data);
                Ok(())
            })?;
        }
        let bad = |fault| Error::bad_file(&path, fault);
        if Sha::of(&[&header]) != entry.record.sha256 {
            return Err(bad(FileFault::OtherFile));
        }
        let header = FileHeader::parse(header, Some(bytes)).map_err(bad)?;
        let head = |header: Option<&FileHeader>| Head {
            bytes,
            length: header.map_or(0, |header| (header.bytes.len() - 8) as u64),
            header: header.map(|header| Sha::of(&[&header.bytes])).unwrap_or_default(),
            // Such an update refused a tensor in two files.
            qualified: BTreeSet::new(),
        };
        // As it is now: all of the target's, or torn.
        let now = FileHeader::read_marked(&file, header.first8(), bytes).ok();
        let entry = Tensors {
            base: Some(head(Some(&header))),
            target: Some(head(now.as_ref())),
            marked: true,
            staged: None,
            name: name.clone(),
        };
        let name = if self.room.is_directory { name } else { String::new() };
        Ok((entry, TensorFile::with_header(&name, header, Arc::new(file))?))
    }

    /// A companion that the update changed, torn perhaps, becomes that of the base again; the old journal
    /// still keeps every reader away.
    fn restore(&self, undo: &Patch, file: &FileEntry, staged: &Path) -> Result<()> {
        let name = &file.record.name;
        if !is_component(name) {
            return Err(undo.unfit(format!("it lists {name:?}")));
        }
        let place = self.room.directory.join(name);
        let out = self.disk.create_private(staged).map_err(failed("creating", staged))?;
        CarriedFile { patch: undo, file, replaces: None }.copy_to(&out)?;
        if let Ok(taken) = fs::metadata(&place) {
            out.held()
                .and_then(|out| keep_access(&place, &taken, out, 0))
                .map_err(failed("setting the mode of", staged))?;
        }
        out.sync().map_err(failed("syncing", staged))?;
        self.disk.rename(staged, &place).map_err(failed("renaming to", &place))
    }

    fn sync(&self, path: &Path) -> Result<()> {
        let file = self.disk.open_to_change(path).map_err(failed("opening", path))?;
        file.sync().map_err(failed("syncing", path))
    }
}
