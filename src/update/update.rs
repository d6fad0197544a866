//! A checkpoint on disk turned into the target of a patch where it stands, for models too large to copy.
//!
//! The patch is checked against the base first, and an undo journal is on disk before the first
//! byte changes. Killed at any moment, the journal leads back to the base; without one, the
//! checkpoint is the base or the target.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::slice;

use crate::chain::chain::Chain;
use crate::checkpoint::apply::FilePolicy;
use crate::checkpoint::checkpoint::Companion;
use crate::checkpoint::companions::OutCompanion;
use crate::checkpoint::files::{for_each_chunk, hash_file, write_header};
use crate::checkpoint::plan::Plan;
use crate::checkpoint::safetensors::TensorFile;
use crate::checkpoint::{Checkpoint, LeftOut};
use crate::coding::Coding;
use crate::digest::Digest;
use crate::disk::journal::Journal;
use crate::disk::staged::failed;
use crate::disk::{Disk, DiskFile, Sequential};
use crate::error::{Error, FileFault, Made, Result};
use crate::limits::Limits;
use crate::patch::Patch;
use crate::stream::{BaseSide, EncoderOptions, Lineage, Session};
use crate::tensors::diagnose::{check_base, explain};
use crate::tensors::diff::encode_tensors;
use crate::tensors::target::{build, target_tensors, Output};
use crate::tensors::{ApplyReport, Control};
use crate::wire::{is_file_name, Action, FileKind, FileRecord, FileState, Footer};
use crate::word::ValueForm;

/// Metadata of a journal: this key and the name of a companion that the update creates.
const CREATED: &str = "created:";

/// What [`Patch::update`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpdateReport {
    /// The target, which the checkpoint is now.
    pub target: ApplyReport,
    /// The checkpoint was the target already; nothing was changed.
    pub already: bool,
    /// What an earlier update that was interrupted had left.
    pub recovery: Recovery,
}

/// What [`recover`] found and did. Whichever it is, the checkpoint is whole now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// No update was interrupted.
    Nothing,
    /// An update was interrupted before it changed anything: the checkpoint is its base.
    Untouched,
    /// The bytes of the base were put back and have its digest.
    RolledBack {
        /// Digest of the base.
        base: Digest,
        /// Optimizer step of the base, if the patch named it.
        base_step: Option<u64>,
    },
}

impl Patch {
    /// Turns the checkpoint at `path`, a file or a directory, from the base into the target of the
    /// patch, in place.
    ///
    /// Base and target digests are computed first and an undo journal is written beside the
    /// checkpoint; then what changes is overwritten, read back and compared with the digests. On any
    /// error, the base is restored. After a crash, the next `update` or [`recover`] restores it. A
    /// checkpoint that is the target already stays as it is. The journal takes as much room as a flat
    /// patch that overwrites.
    ///
    /// Tensors keep their place: a patch that adds, deletes or replaces tensors, or moves them within
    /// their file, is refused; [`apply`](Self::apply) makes a new checkpoint of it. Linked files
    /// are refused, because others who share them would see them change.
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] if the checkpoint is neither base nor target, [`Error::NotInPlace`] and
    /// [`Error::BadFile`] if it cannot be changed in place, [`Error::Busy`] if another process does
    /// that, [`Error::Unrecovered`], [`Error::Cancelled`], [`Error::Io`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let write = |name: &str, data: &[u8; 3]| {
    /// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    /// #     let path = dir.path().join(name);
    /// #     std::fs::write(&path, [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
    /// #     path
    /// # };
    /// # let (base, target) = (write("model.safetensors", b"abc"), write("target", b"abd"));
    /// # let wanted = std::fs::read(&target).unwrap();
    /// use pulse::checkpoint::{diff, DiffOptions};
    /// use pulse::tensors::Control;
    /// use pulse::{Checkpoint, Limits, Patch};
    /// # let (from, to, mut patch) = (Checkpoint::open(&base)?, Checkpoint::open(&target)?, Vec::new());
    /// # diff(Some(&from), &to, &mut patch, DiffOptions::default(), Control::default())?;
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// assert!(!patch.update(&base, Control::default())?.already);
    /// assert_eq!(std::fs::read(&base).unwrap(), wanted);
    /// assert!(patch.update(&base, Control::default())?.already);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn update(&self, path: impl AsRef<Path>, control: Control<'_>) -> Result<UpdateReport> {
        update_on(&Disk::default(), path.as_ref(), self, control)
    }
}

/// Restores the base after an [update](Patch::update) that was interrupted, if one was.
///
/// # Errors
/// [`Error::Unrecovered`] if the base cannot be restored from the journal, [`Error::Busy`] if another
/// process holds the checkpoint, [`Error::Cancelled`], [`Error::Io`]. The journal then stays, and the
/// next call starts again.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// # let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// # std::fs::write(&path, [&53u64.to_le_bytes()[..], json, b"abc"].concat()).unwrap();
/// use pulse::tensors::Control;
/// use pulse::update::{Recovery, recover};
/// assert_eq!(recover(&path, Control::default())?, Recovery::Nothing);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn recover(path: impl AsRef<Path>, control: Control<'_>) -> Result<Recovery> {
    recover_on(&Disk::default(), path.as_ref(), control)
}

pub(crate) fn recover_on(disk: &Disk, path: &Path, control: Control<'_>) -> Result<Recovery> {
    let journal = Journal::of(path)?;
    let _lock = journal.lock(disk)?;
    roll_back(disk, &journal, control)
}

pub(crate) fn update_on(
    disk: &Disk,
    path: &Path,
    patch: &Patch,
    control: Control<'_>,
) -> Result<UpdateReport> {
    if patch.header().snapshot {
        let what = "a snapshot replaces every tensor".into();
        return Err(Error::NotInPlace { path: Some(path.into()), what });
    }
    let journal = Journal::of(path)?;
    check_links(path)?;
    let _lock = journal.lock(disk)?;
    let recovery = roll_back(disk, &journal, control)?;
    let base = Checkpoint::open_on(&journal.checkpoint, disk)?;
    let report = |already| UpdateReport {
        target: ApplyReport::of(patch, base.file_count()),
        already,
        recovery,
    };
    let update = match classify(disk, &journal, &base, patch, control)? {
        Found::Target => return Ok(report(true)),
        Found::Base(update) => update,
    };
    let changed = disk
        .rename(&journal.unfinished, &journal.undo)
        .and_then(|()| disk.sync_directory(journal.directory()))
        .map_err(failed("keeping", &journal.undo))
        .and_then(|()| update.change(disk, &journal, control));
    if let Err(error) = changed {
        // Stopping the work does not stop its undoing.
        return Err(match roll_back(disk, &journal, Control::threads(control.count())) {
            Ok(_) => error,
            Err(Error::Unrecovered { path, source, .. }) => {
                Error::Unrecovered { path, source, update: Some(Box::new(error)) }
            }
            Err(source) => {
                let path = journal.undo.clone();
                Error::Unrecovered { path, source: Box::new(source), update: Some(Box::new(error)) }
            }
        });
    }
    Ok(report(false))
}

/// What a checkpoint is to a patch.
enum Found<'a> {
    /// Its base; the journal is written, under its unfinished name.
    Base(Update<'a>),
    /// Its target already.
    Target,
}

/// Finds out whether the checkpoint is base or target; an error if it is neither.
fn classify<'a>(
    disk: &Disk,
    journal: &Journal,
    checkpoint: &'a Checkpoint,
    patch: &'a Patch,
    control: Control<'_>,
) -> Result<Found<'a>> {
    let plan = Update::plan(checkpoint, patch);
    let update = explain(Some(checkpoint), patch, control, plan)?;
    let is_base = update.is_done().and_then(|done| {
        Ok(!done && is_right(&update.write_journal(disk, journal, control)?, patch))
    });
    if let Ok(true) = is_base {
        return Ok(Found::Base(update));
    }
    disk.remove(&journal.unfinished).map_err(failed("removing", &journal.unfinished))?;
    match is_base {
        Err(
            error @ (Error::Io { .. } | Error::Cancelled | Error::Misuse(_) | Error::Internal(_)),
        ) => Err(error),
        // Whatever was wrong: perhaps it is not the base, but the target.
        found => update.check_already(found.err(), control).map(|()| Found::Target),
    }
}

/// Whether base and target are the right ones. The journal leads from the target to the base, so
/// its digests are the other way round.
fn is_right(journal: &Footer, patch: &Patch) -> bool {
    journal.base == Some(patch.footer().target) && Some(journal.target) == patch.footer().base
}

/// Refuses a file that is a link, or has other names: it would change for them, too.
fn check_links(path: &Path) -> Result<()> {
    let is_link =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    let check = |path: &Path| {
        let metadata = fs::metadata(path).map_err(failed("opening", path))?;
        let names = if metadata.is_file() { hard_links(&metadata) } else { 1 };
        match (metadata.is_file() && is_link(path), names) {
            (false, 1) => Ok(()),
            (true, _) => Err(Error::bad_file(path, FileFault::Linked("is a link".into()))),
            (_, names) => Err(Error::bad_file(
                path,
                FileFault::Linked(format!("has {names} names (hard links)")),
            )),
        }
    };
    check(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed("listing", path))? {
            check(&entry.map_err(failed("listing", path))?.path())?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn hard_links(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn hard_links(_: &fs::Metadata) -> u64 {
    1
}

/// A change of a checkpoint, as far as it can be known before its bytes are read.
struct Update<'a> {
    base: &'a Checkpoint,
    patch: &'a Patch,
    plan: Plan<'a>,
}

impl<'a> Update<'a> {
    /// Finds out whether everything has the same place in base and target.
    fn plan(base: &'a Checkpoint, patch: &'a Patch) -> Result<Self> {
        let refuse = |what: String| Err(Error::NotInPlace { path: Some(base.path().into()), what });
        if let Some(tensor) =
            patch.tensors().iter().find(|tensor| tensor.header.action != Action::Patched)
        {
            return refuse(format!(
                "tensor '{}' is {}",
                tensor.header.name,
                tensor.header.action.name()
            ));
        }
        let plan = Plan::new(Some(base), patch, FilePolicy::Exact)?;
        let files = base.files.iter().map(|file| (&file.name, file.header.bytes.len()));
        if !files.eq(plan.files.iter().map(|file| (&file.name, file.header.bytes.len()))) {
            return refuse("the tensor files, or the sizes of their headers, change".into());
        }
        if let Some(moved) = plan
            .tensors
            .iter()
            .find(|tensor| base.place(tensor.name) != Some((tensor.file, tensor.offset)))
        {
            return refuse(format!("tensor '{}' moves in its file", moved.name));
        }
        // What is there and is no companion would be destroyed, and could not be put back.
        for companion in &plan.companions {
            let (name, place) = (companion.name(), base.path().join(companion.name()));
            if base.companion(name).is_none() && fs::symlink_metadata(&place).is_ok() {
                return refuse(format!("'{name}' is there already, and is no file of the base"));
            }
        }
        let beside = |out: &&LeftOut| out.name == "model.safetensors";
        if let Some(out) = base.left_out().iter().find(beside) {
            return refuse(format!(
                "{out} would stay as it is, and some loaders read it instead of the shards"
            ));
        }
        Ok(Update { base, patch, plan })
    }

    /// Numbers of the files whose headers change.
    fn changed_headers(&self) -> impl Iterator<Item = usize> + '_ {
        let pairs = self.base.files.iter().zip(&self.plan.files).enumerate();
        pairs
            .filter(|(_, (base, target))| base.header.bytes != target.header.bytes)
            .map(|(number, _)| number)
    }

    /// Companions that change or are new, with those of the base that they replace.
    fn changed_companions(&self) -> Result<Vec<(&OutCompanion<'a>, Option<&Companion>)>> {
        let mut changed = Vec::new();
        for companion in &self.plan.companions {
            let OutCompanion::Carried { file, .. } = companion else {
                // The same as in the base, and proved to be so.
                companion.for_each_chunk(self.patch, |_| Ok(()))?;
                continue;
            };
            let before = self.base.companion(companion.name());
            if before.map(|before| hash_file(&before.path)).transpose()?
                != Some(file.record.content())
            {
                changed.push((companion, before));
            }
        }
        Ok(changed)
    }

    /// No tensor, header or companion differs from the target.
    fn is_done(&self) -> Result<bool> {
        let none = self.patch.footer().changes == 0 && self.changed_headers().next().is_none();
        Ok(none && self.changed_companions()?.is_empty())
    }

    /// Checks that the checkpoint is the target already; if not, it is a wrong base, or the patch is
    /// at fault, as `failure` says.
    fn check_already(&self, failure: Option<Error>, control: Control<'_>) -> Result<()> {
        let footer = self.patch.footer();
        match check_base(self.base, self.patch, control) {
            Err(Error::BaseMismatch(mismatch)) if mismatch.is_target => self.check_files(),
            Err(error) => Err(error),
            // The tensors are the same before and after.
            Ok(()) if footer.base == Some(footer.target) => self.check_files(),
            Ok(()) => {
                let what =
                    "the patch is inconsistent: applied to its own base it does not give its target";
                Err(failure.unwrap_or_else(|| self.patch.unfit(what)))
            }
        }
    }

    /// Checks that headers and companions are those of the target.
    fn check_files(&self) -> Result<()> {
        if let Some(number) = self.changed_headers().next() {
            let path = self.base.files[number].path();
            return Err(Error::bad_file(path, FileFault::OtherFile("the header".into())));
        }
        match self.changed_companions()?.first() {
            None => Ok(()),
            Some((companion, _)) => Err(Error::bad_file(
                self.base.path(),
                FileFault::OtherFile(companion.name().into()),
            )),
        }
    }

    /// Writes the patch that leads back, synced, under its unfinished name. Every byte of base and
    /// target is digested on the way.
    fn write_journal(
        &self,
        disk: &Disk,
        journal: &Journal,
        control: Control<'_>,
    ) -> Result<Footer> {
        let header = self.patch.header();
        let companions = self.changed_companions()?;
        let mut options = EncoderOptions::default()
            .with_coding(Coding::Flat)
            .with_values(ValueForm::Overwrite)
            // Read back under the default limits.
            .with_block_leaves(header.block_leaves.min(Limits::default().block_leaves))
            .with_lineage(Lineage::from(header).inverted());
        for (companion, _) in companions.iter().filter(|(_, before)| before.is_none()) {
            options = options.with_metadata(format!("{CREATED}{}", companion.name()), "");
        }
        let file =
            disk.create(&journal.unfinished).map_err(failed("creating", &journal.unfinished))?;
        let out = BufWriter::with_capacity(1 << 18, Sequential { file: &file, offset: 0 });
        let mut session = Session::new(out, options, BaseSide::Hashed)?;
        for (base, target) in self.base.files.iter().zip(&self.plan.files) {
            write_header(
                &mut session,
                &base.name,
                &base.header.bytes,
                base.header.bytes == target.header.bytes,
            )?;
        }
        for before in companions.iter().filter_map(|(_, before)| *before) {
            let (kind, content) = (FileKind::Companion, hash_file(&before.path)?);
            session.file(&FileRecord::new(&before.name, kind, FileState::New, content))?;
            for_each_chunk(&before.path, |chunk| session.file_data(chunk))?;
        }
        let target = Chain::new(slice::from_ref(self.patch))?.on(self.base)?;
        encode_tensors(&mut session, Some(&target), self.base, control)?;
        let (mut out, summary) = session.finish()?;
        out.flush().and_then(|()| file.sync()).map_err(failed("writing", &journal.unfinished))?;
        Ok(summary.footer)
    }

    /// Makes the changes, and proves them.
    fn change(&self, disk: &Disk, journal: &Journal, control: Control<'_>) -> Result<()> {
        let files = open_files(self.base, disk)?;
        for number in self.changed_headers() {
            let (file, header) = (&files[number], &self.plan.files[number].header);
            file.write_all_at(&header.bytes, 0).map_err(failed("writing", file.path()))?;
        }
        let output = Output { files: &files, in_place: true };
        build(&self.plan.tensors, Some(self.base), self.patch, Some(output), control)?;
        sync(&files)?;
        for (companion, _) in self.changed_companions()? {
            let path = self.base.path().join(companion.name());
            let file = disk.create(&path).map_err(failed("creating", &path))?;
            companion.copy_to(&file, self.patch)?;
            file.sync().map_err(failed("syncing", &path))?;
        }
        if self.base.is_directory {
            disk.sync_directory(self.base.path()).map_err(failed("syncing", self.base.path()))?;
        }
        // What counts is what a reader finds there.
        let found = Checkpoint::open_on(&journal.checkpoint, disk)?;
        let (expected, digest) = (self.patch.footer().target, found.digest(control)?);
        if digest != expected {
            return Err(self.patch.wrong_result(Made::Checkpoint, expected, digest));
        }
        Update::plan(&found, self.patch)?.check_files()?;
        forget(disk, journal)
    }
}

/// Removes the journal: what is there now, stays.
fn forget(disk: &Disk, journal: &Journal) -> Result<()> {
    let removed =
        disk.remove(&journal.undo).and_then(|()| disk.sync_directory(journal.directory()));
    removed.map_err(failed("removing", &journal.undo))
}

fn open_files(checkpoint: &Checkpoint, disk: &Disk) -> Result<Vec<DiskFile>> {
    let open = |file: &TensorFile| {
        disk.open_to_change(file.path()).map_err(failed("opening for writing", file.path()))
    };
    checkpoint.files.iter().map(open).collect()
}

fn sync(files: &[DiskFile]) -> Result<()> {
    files.iter().try_for_each(|file| file.sync().map_err(failed("syncing", file.path())))
}

/// Puts back what the journal holds, if there is one.
fn roll_back(disk: &Disk, journal: &Journal, control: Control<'_>) -> Result<Recovery> {
    let Journal { checkpoint: path, undo: undo_path, unfinished, .. } = journal;
    let untouched = unfinished.exists();
    disk.remove(unfinished).map_err(failed("removing", unfinished))?;
    if !undo_path.exists() {
        return Ok(if untouched { Recovery::Untouched } else { Recovery::Nothing });
    }
    let stuck = |error: Error| match error {
        // These say nothing of the journal.
        Error::Io { .. } | Error::Cancelled | Error::Misuse(_) | Error::Internal(_) => error,
        error => {
            Error::Unrecovered { path: undo_path.clone(), source: Box::new(error), update: None }
        }
    };
    let undo = Patch::open_on(undo_path, Limits::default(), disk).map_err(stuck)?;
    restore_files(disk, path, &undo).map_err(stuck)?;
    let torn = Checkpoint::open_on(path, disk).map_err(stuck)?;
    let mut tensors = target_tensors(Some(&torn), &undo).map_err(stuck)?;
    for tensor in &mut tensors {
        (tensor.file, tensor.offset) = torn.place(tensor.name).unwrap_or_default();
    }
    let files = open_files(&torn, disk)?;
    let output = Output { files: &files, in_place: true };
    build(&tensors, Some(&torn), &undo, Some(output), control).map_err(stuck)?;
    sync(&files)?;
    forget(disk, journal)?;
    Ok(Recovery::RolledBack { base: undo.footer().target, base_step: undo.header().target_step })
}

/// Puts back headers and companions.
fn restore_files(disk: &Disk, checkpoint: &Path, undo: &Patch) -> Result<()> {
    let is_directory = checkpoint.is_dir();
    let place =
        |name: &str| if is_directory { checkpoint.join(name) } else { checkpoint.to_path_buf() };
    for file in undo.files().iter().filter(|file| file.record.state.is_carried()) {
        let path = place(&file.record.name);
        let out = match file.record.kind {
            FileKind::Tensors => disk.open_to_change(&path),
            FileKind::Companion => disk.create(&path),
        };
        let out = out.map_err(failed("restoring", &path))?;
        OutCompanion::Carried { file, replaces: None }.copy_to(&out, undo)?;
        out.sync().map_err(failed("restoring", &path))?;
    }
    for name in undo.header().metadata.keys().filter_map(|key| key.strip_prefix(CREATED)) {
        // Written by this program, but names that lead elsewhere are not followed.
        if is_directory && is_file_name(name) {
            disk.remove(&checkpoint.join(name))
                .map_err(failed("removing", &checkpoint.join(name)))?;
        }
    }
    if is_directory {
        disk.sync_directory(checkpoint).map_err(failed("syncing", checkpoint))?;
    }
    Ok(())
}
