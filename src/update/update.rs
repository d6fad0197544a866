//! What an update in place will do, and all that can stand against it, known before a byte changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::checkpoint::apply::FilePolicy;
use crate::checkpoint::plan::{OutFile, Plan};
use crate::checkpoint::tree::Tree;
use crate::checkpoint::verify::check_files;
use crate::checkpoint::Checkpoint;
use crate::disk::lock::Access;
use crate::disk::mark::Mark;
use crate::disk::staged::failed;
use crate::disk::stamp::Identity;
use crate::disk::Disk;
use crate::error::{Error, FileFault, Result};
use crate::patch::{Chain, Patch};
use crate::tensors::diagnose::{check_base, explain};
use crate::tensors::pieces::digests_of;
use crate::tensors::{ApplyReport, Control, FileNote};
use crate::update::companions::refused_below;
use crate::update::record::{Beside, Way};
use crate::update::recover::{recover_on, Note, Recovery, Room};
use crate::update::redo::{is_no_rename, is_no_room};

/// Choices of [`Patch::update`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpdateOptions {
    /// How tensor files change. By default [`Way::Redo`] where there is room for it, and else
    /// [`Way::Undo`].
    pub way: Option<Way>,
    /// What becomes of files that are not as the patch expects.
    pub files: FilePolicy,
}

impl UpdateOptions {
    /// Replaces [`files`](Self::files).
    #[must_use]
    pub fn with_files(mut self, files: FilePolicy) -> Self {
        self.files = files;
        self
    }

    /// Replaces [`way`](Self::way).
    #[must_use]
    pub fn with_way(mut self, way: impl Into<Option<Way>>) -> Self {
        self.way = way.into();
        self
    }
}

/// What [`Patch::update`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpdateReport {
    /// The target, which the checkpoint is now.
    pub target: ApplyReport,
    /// How the tensor files were changed; none if the checkpoint was the target already.
    pub way: Option<Way>,
    /// What an earlier update that was interrupted had left.
    pub recovery: Recovery,
    /// What was left as it is, or done otherwise.
    pub notes: Vec<Note>,
}

impl UpdateReport {
    /// Whether the checkpoint was the target already, and nothing was changed.
    #[must_use]
    pub fn already(&self) -> bool {
        self.way.is_none()
    }
}

impl Patch {
    /// Turns the checkpoint at `path`, a file or a directory, from the base into the target of the
    /// patch, in place.
    ///
    /// All of the target is proved before a byte of the checkpoint changes. Each file that changes is
    /// then marked in its first eight bytes, so that no reader takes it for base or target; it gets its
    /// true first bytes when all files are the target's. After a crash, the next `update` or
    /// [`recover`](crate::update::recover()) proves what the files are, and makes the base or the target
    /// of them; other files of the directory stay. A checkpoint that is the target already stays as it
    /// is.
    ///
    /// Where there is room, each file that changes is made whole beside and renamed ([`Way::Redo`]):
    /// who has the old file open or mapped keeps it. Where there is not, bytes are overwritten
    /// ([`Way::Undo`]), which who has the file open or mapped sees happen; tensors then keep their
    /// place. Linked files are refused, because others who share them would see them change.
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] if the checkpoint is neither base nor target, [`Error::NotInPlace`] and
    /// [`Error::BadFile`] if it cannot be changed in place, [`Error::Busy`] if another process changes
    /// or reads it: nothing was changed, nor is it after [`Error::Cancelled`], or [`Error::Io`].
    /// [`Error::Unrecovered`] if a failure came later, and its consequences could not be taken back.
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
    /// use pulse::update::UpdateOptions;
    /// use pulse::{Checkpoint, Limits, Patch};
    /// # let mut patch = Vec::new();
    /// # let [from, to] = [&base, &target].map(|path| Checkpoint::open(path).unwrap());
    /// # diff(Some(&from), &to, &mut patch, DiffOptions::default(), Control::default())?;
    /// # drop(from); // Nobody may read what is to be changed.
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// let update = || patch.update(&base, UpdateOptions::default(), Control::default());
    /// assert!(!update()?.already());
    /// assert_eq!(std::fs::read(&base).unwrap(), wanted);
    /// assert!(update()?.already());
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn update(
        &self,
        path: impl AsRef<Path>,
        options: UpdateOptions,
        control: Control<'_>,
    ) -> Result<UpdateReport> {
        self.as_chain()?.update(path, options, control)
    }
}

impl Chain<'_> {
    /// Turns the checkpoint at `path`, a file or a directory, from the base of the first patch into the
    /// target of the last, in place and in one pass.
    ///
    /// All that is said of [`Patch::update`] holds: the target of the last patch is proved before a byte
    /// changes, and after a crash the checkpoint becomes the base or that target, never one on the way.
    ///
    /// # Errors
    /// As [`Patch::update`]; which patch is at fault is found out as in [`Chain::apply`](Self::apply).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let place = |name: &str| dir.path().join(name);
    /// # let write = |name: &str, data: &[u8; 3]| {
    /// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    /// #     std::fs::write(place(name), [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
    /// #     pulse::Checkpoint::open(place(name)).unwrap()
    /// # };
    /// # let versions = [write("0", b"abc"), write("1", b"abd"), write("2", b"xbd")];
    /// use pulse::checkpoint::{diff, DiffOptions};
    /// use pulse::patch::Chain;
    /// use pulse::tensors::Control;
    /// use pulse::update::UpdateOptions;
    /// use pulse::{Limits, Patch};
    /// # let mut patches = Vec::new();
    /// # for pair in versions.windows(2) {
    /// #     let mut patch = Vec::new();
    /// #     diff(Some(&pair[0]), &pair[1], &mut patch, DiffOptions::default(), Control::default())?;
    /// #     patches.push(Patch::from_bytes(patch, Limits::default())?);
    /// # }
    /// # drop(versions); // Nobody may read what is to be changed.
    /// let chain = Chain::new(&patches)?;
    /// chain.update(place("0"), UpdateOptions::default(), Control::default())?;
    /// assert_eq!(std::fs::read(place("0")).unwrap(), std::fs::read(place("2")).unwrap());
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn update(
        &self,
        path: impl AsRef<Path>,
        options: UpdateOptions,
        control: Control<'_>,
    ) -> Result<UpdateReport> {
        update_on(&Disk::default(), path.as_ref(), self, options, control)
    }
}

pub(crate) fn update_on(
    disk: &Disk,
    path: &Path,
    chain: &Chain<'_>,
    options: UpdateOptions,
    control: Control<'_>,
) -> Result<UpdateReport> {
    if chain.first().header().snapshot {
        let what = "a snapshot replaces every tensor".into();
        return Err(Error::NotInPlace { path: Some(path.into()), what });
    }
    let room = Room::of(path)?;
    let recovery = recover_on(disk, path, control)?;
    check_links(path)?;
    let mut base = Checkpoint::open_on(&room.checkpoint, disk, Access::Change)?;
    let lock = base.take_lock();
    let plan = Update::plan(disk, &room, &base, chain, options.files);
    let report = |way, files, notes| UpdateReport {
        target: ApplyReport { notes: files, ..ApplyReport::of(chain, base.file_count()) },
        way,
        recovery: recovery.clone(),
        notes,
    };
    let mut update = match explain(Some(&base), chain, control, plan) {
        Err(Error::BaseMismatch(mismatch)) if mismatch.is_target => {
            let files = check_files(chain.last(), &base, options.files)?;
            return Ok(report(None, files, Vec::new()));
        }
        update => update?,
    };
    if update.is_done() || update.seems_done(control)? {
        let files = update.check_already(None, options.files, control)?;
        return Ok(report(None, files, update.notes));
    }
    let (way, why) = update.choose(options.way)?;
    let prepared = match update.prepare(way, control) {
        Err(error)
            if options.way.is_none()
                && is_no_room(&error)
                && update.cannot_overwrite().is_none() =>
        {
            update.notes.push(Note::Overwritten { why: error.to_string() });
            update.prepare(Way::Undo, control)
        }
        prepared => {
            update.notes.extend(why.map(|why| Note::Overwritten { why }));
            prepared
        }
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) if error.is_of_the_system() => return Err(error),
        // Whatever was wrong: perhaps it is not the base, but the target.
        Err(error) => {
            let files = update.check_already(Some(error), options.files, control)?;
            return Ok(report(None, files, update.notes));
        }
    };
    let way = prepared.staging.way;
    let committed = update.commit(prepared, control);
    let (way, mut notes) = match committed {
        Err(error)
            if options.way.is_none()
                && is_no_rename(&error)
                && update.cannot_overwrite().is_none() =>
        {
            update.notes.push(Note::Overwritten { why: error.to_string() });
            let prepared = update.prepare(Way::Undo, control)?;
            (Way::Undo, update.commit(prepared, control)?)
        }
        committed => (way, committed?),
    };
    drop(lock);
    notes.splice(0..0, update.notes);
    Ok(report(Some(way), update.file_notes, notes))
}

impl Error {
    /// Whether it says nothing of patch and checkpoint.
    fn is_of_the_system(&self) -> bool {
        matches!(
            self,
            Error::Io { .. }
                | Error::Cancelled
                | Error::Misuse(_)
                | Error::Internal(_)
                | Error::Changed { .. }
                | Error::Busy { .. }
                | Error::Exists { .. }
        )
    }
}

/// Refuses a file that is a link, or has other names: it would change for them, too.
fn check_links(path: &Path) -> Result<()> {
    let is_link =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    let check = |path: &Path| {
        // A link that leads nowhere is no file of the checkpoint.
        let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
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

/// Number of the file that is staged for a file of the plan.
pub(super) fn number_of(file: usize) -> u32 {
    u32::try_from(file).unwrap_or(u32::MAX)
}

/// Whether the header of a file of the target is not that of the base.
fn differs(base: &Checkpoint, out: &OutFile) -> bool {
    base.file(&out.name).is_none_or(|base| base.header.bytes != out.header.bytes)
}

/// A change of a checkpoint, as far as it can be known before its bytes are read.
#[derive(Debug)]
pub(super) struct Update<'a> {
    pub disk: &'a Disk,
    pub room: &'a Room,
    pub base: &'a Checkpoint,
    pub chain: &'a Chain<'a>,
    pub plan: Plan<'a>,
    /// Number of each file of the plan by its name.
    pub numbers: BTreeMap<String, usize>,
    /// Whether a file of the plan differs from that of the base, by its number.
    changed: Vec<bool>,
    /// Companions that change, with where the bytes of the target are.
    pub companions: Vec<(Beside, Option<usize>)>,
    /// Files that are not as the patch says.
    pub file_notes: Vec<FileNote>,
    notes: Vec<Note>,
}

impl<'a> Update<'a> {
    fn plan(
        disk: &'a Disk,
        room: &'a Room,
        base: &'a Checkpoint,
        chain: &'a Chain<'a>,
        files: FilePolicy,
    ) -> Result<Self> {
        let refuse = |what: String| Err(Error::NotInPlace { path: Some(base.path().into()), what });
        let plan = Plan::in_place(base, chain, files)?;
        let mut file_notes = plan.check_companions()?;
        file_notes.iter_mut().for_each(|note| note.deviation = note.deviation.in_place());
        if plan.is_directory != base.is_directory {
            return refuse("a file becomes a directory, or a directory a file".into());
        }
        let tensors = base.files.iter().map(|file| &file.name);
        let mut tensors = tensors.chain(plan.files.iter().map(|file| &file.name));
        if let Some(name) = tensors.find(|name| name.contains('/')) {
            return Err(refused_below(&room.directory.join(name)));
        }
        let beside = |name: &str| name == "model.safetensors";
        if let Some(out) = base.left_out().iter().find(|out| beside(&out.name)) {
            return refuse(format!(
                "{out} would stay as it is, and some loaders read it instead of the shards"
            ));
        }
        // Once, not for each question: there can be as many files as tensors.
        let mut changed: Vec<bool> = plan.files.iter().map(|out| differs(base, out)).collect();
        for tensor in &plan.tensors {
            changed[tensor.file] |= tensor.links.iter().any(|link| !link.tensor.blocks.is_empty());
        }
        let numbers = plan.files.iter().enumerate().map(|(at, file)| (file.name.clone(), at));
        let mut update = Update {
            disk,
            room,
            base,
            chain,
            numbers: numbers.collect(),
            changed,
            plan,
            companions: Vec::new(),
            file_notes,
            notes: Vec::new(),
        };
        update.check_devices()?;
        update.check_new_names()?;
        update.plan_companions(files)?;
        Ok(update)
    }

    /// What cannot be done where the checkpoint is.
    pub fn refused(&self, what: String) -> Error {
        Error::NotInPlace { path: Some(self.base.path().into()), what }
    }

    /// A file that is a mount point cannot be renamed over, and its journal would be elsewhere.
    fn check_devices(&self) -> Result<()> {
        let of = |path: &Path| fs::metadata(path).map_err(failed("looking at", path));
        let home = Identity::of(&of(&self.room.directory)?);
        for file in &self.base.files {
            if Identity::of(&of(file.path())?).is_on_another_device(&home) {
                let what = format!(
                    "'{}' is on another file system than its directory",
                    file.path().display()
                );
                return Err(self.refused(what));
            }
        }
        Ok(())
    }

    /// New tensor files take names that nothing has; and what stays in the directory does not become a
    /// file of tensors by the change.
    fn check_new_names(&self) -> Result<()> {
        if !self.base.is_directory {
            return Ok(());
        }
        let refuse = |what: String| Err(self.refused(what));
        let companions: BTreeSet<&str> =
            self.plan.companions.iter().map(|companion| companion.name()).collect();
        let is_listed = |name: &str| self.base.file(name).is_some() || companions.contains(name);
        let directory = &self.room.directory;
        let is_taken = |name: &&String| {
            self.base.file(name).is_none() && fs::symlink_metadata(directory.join(name)).is_ok()
        };
        if let Some(name) = self.numbers.keys().find(is_taken) {
            return refuse(format!("'{name}' is there already, and is no file of the base"));
        }
        let tree = Tree::walk(directory)?;
        let stays = |name: &&String| !is_listed(name) && Mark::of_name(name).is_none();
        let stays: Vec<String> = tree.files.keys().filter(stays).cloned().collect();
        match self.plan.check_roles_beside(directory, &stays) {
            Err(Error::Unfit { what, .. }) => refuse(what),
            Err(error) => Err(error),
            Ok(layout) => match tree.check_parts(&layout.lists) {
                Err(fault) => refuse(fault.to_string()),
                Ok(()) => Ok(()),
            },
        }
    }

    /// Whether a file of the target differs from that of the base.
    pub fn is_changed(&self, at: usize) -> bool {
        self.changed[at]
    }

    pub fn changed_files(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.changed.len()).filter(|&at| self.is_changed(at))
    }

    /// Place of the file of the base whose name a file of the target takes.
    pub fn base_place(&self, at: usize) -> Option<PathBuf> {
        self.base.file(&self.plan.files[at].name).map(|file| file.path().to_path_buf())
    }

    /// No tensor, header or companion differs from the target, by what the patch says.
    fn is_done(&self) -> bool {
        self.changed_files().next().is_none()
            && self.base.files.len() == self.plan.files.len()
            && self.companions.is_empty()
    }

    /// Whether a tensor that the patch changes is the target's already.
    fn seems_done(&self, control: Control<'_>) -> Result<bool> {
        let changed = self.chain.histories.iter().filter_map(|(name, history)| {
            let (base, target) = (history.base.map(|base| base.digest), history.target?);
            let spec = target.spec.filter(|_| base != Some(target.digest))?;
            Some((spec.bytes(), *name, target.digest))
        });
        let Some((_, smallest, target)) = changed.min() else { return Ok(false) };
        let mut found = None;
        digests_of(
            self.base,
            |name| name == smallest,
            control,
            |_, _, digest| found = Some(digest),
        )?;
        Ok(found == Some(target))
    }

    /// Checks that the checkpoint is the target already; if not, it is a wrong base, or the patch is
    /// at fault, as `failure` says.
    fn check_already(
        &self,
        failure: Option<Error>,
        files: FilePolicy,
        control: Control<'_>,
    ) -> Result<Vec<FileNote>> {
        let (first, last) = (self.chain.first(), self.chain.last());
        let checked = || check_files(last, self.base, files);
        match check_base(self.base, self.chain, control) {
            Err(Error::BaseMismatch(mismatch)) if mismatch.is_target => checked(),
            Err(error) => Err(error),
            // The tensors are the same before and after.
            Ok(()) if first.footer().base == Some(last.footer().target) => checked(),
            Ok(()) => {
                let what =
                    "the patch is inconsistent: applied to its own base it does not give its target";
                Err(failure.unwrap_or_else(|| last.unfit(what)))
            }
        }
    }

    /// The way to go, and why it is not the usual one.
    fn choose(&self, wanted: Option<Way>) -> Result<(Way, Option<String>)> {
        let refuse = |what: String| Err(self.refused(what));
        match (wanted, self.cannot_replace(), self.cannot_overwrite()) {
            (None, Some(why), None) => return Ok((Way::Undo, Some(why))),
            (Some(Way::Redo) | None, Some(why), _) => return refuse(why),
            _ => {}
        }
        match (wanted, self.no_room_to_redo(), self.cannot_overwrite()) {
            (Some(Way::Undo), _, Some(what)) => refuse(what),
            (Some(Way::Undo), ..) => Ok((Way::Undo, None)),
            (None, Some(room), None) => Ok((Way::Undo, Some(room))),
            (_, Some(room), _) => {
                let full = io::Error::new(io::ErrorKind::StorageFull, room);
                Err(Error::io_at(
                    "making the changed files beside those in",
                    &self.room.directory,
                    full,
                ))
            }
            (_, None, _) => Ok((Way::Redo, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After any other failure it is looked whether the checkpoint is the target already.
    #[test]
    fn failures_of_the_system_say_nothing_of_patch_and_checkpoint() {
        let full = || Error::io_at("writing", Path::new("out"), io::ErrorKind::StorageFull.into());
        let refused = Error::NotInPlace { path: None, what: "it moves".into() };
        for (error, is_of_the_system) in [
            (full(), true),
            (Error::Cancelled, true),
            (Error::misuse("options"), true),
            (Error::Internal("a rule".into()), true),
            (Error::Busy { path: "out".into() }, true),
            (refused, false),
            (Error::bad_file(Path::new("out"), FileFault::OtherFile), false),
        ] {
            assert_eq!(error.is_of_the_system(), is_of_the_system, "{error:?}");
        }
    }
}
