//! A base and patches to the target: planned first, then written in parallel, then verified.

use std::fs;
use std::path::Path;

use crate::checkpoint::index::{MODULES, PIPELINE};
use crate::checkpoint::plan::Plan;
use crate::checkpoint::Checkpoint;
use crate::disk::lock::Access;
use crate::disk::place::{Existing, Shape};
use crate::disk::staged::{parent, Staged};
use crate::disk::system::is_crowded;
use crate::disk::Disk;
use crate::error::{Error, FileFault, Result};
use crate::patch::{Chain, Patch};
use crate::tensors::diagnose::explain;
use crate::tensors::target::{build, Output};
use crate::tensors::{ApplyReport, Control, TensorSource};

/// What becomes of the files of a target where the receiver's are not those that the patch was made
/// with. The tensors are those of the target in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FilePolicy {
    /// Files are as the patch says wherever the receiver's are as it expects. Where they are not, the
    /// receiver keeps its own: companions, and headers and sharding of its tensor files. A
    /// [`FileNote`](crate::checkpoint::FileNote) names each of them.
    #[default]
    Follow,
    /// Files are byte for byte those of the publisher; anything else is an error.
    Exact,
    /// The receiver's files stay as they are, whatever the patch says of files.
    Keep,
}

/// Choices of [`Patch::apply`] and [`Patch::revert`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyOptions {
    /// What may happen to a file at the place of the output.
    pub existing: Existing,
    /// What becomes of files that are not as the patch expects.
    pub files: FilePolicy,
}

impl ApplyOptions {
    /// Replaces [`existing`](Self::existing).
    #[must_use]
    pub fn with_existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Replaces [`files`](Self::files).
    #[must_use]
    pub fn with_files(mut self, files: FilePolicy) -> Self {
        self.files = files;
        self
    }
}

impl Patch {
    /// Makes the target from `base` at `out`; a snapshot needs no base.
    ///
    /// Everything is written to a temporary sibling of `out`, compared with the digests that the
    /// patch names while it is written, synced and renamed. On any failure `out` does not appear.
    ///
    /// # Errors
    /// [`Error::BaseMismatch`] if the base is the wrong one, [`Error::NeedsBase`] if there is none,
    /// [`Error::Corrupt`], [`Error::WrongResult`] and [`Error::Unfit`] if the patch is wrong with the
    /// right base, [`Error::BaseFile`] if a file of the base is another one and
    /// [that is not allowed](FilePolicy::Exact), [`Error::Exists`] if `out` is taken, [`Error::Cancelled`], [`Error::Io`].
    ///
    /// See [`diff`](crate::checkpoint::diff()) for an example.
    pub fn apply(
        &self,
        base: Option<&Checkpoint>,
        out: impl AsRef<Path>,
        options: ApplyOptions,
        control: Control<'_>,
    ) -> Result<ApplyReport> {
        self.as_chain()?.apply(base, out, options, control)
    }
}

impl Chain<'_> {
    /// Makes the target of the last patch from `base` at `out`, in one pass over the base; if the first
    /// patch is a snapshot, no base is needed.
    ///
    /// The files are those that [`Patch::apply`] would make with one patch after the other, and so are the
    /// guarantees. What the patches before the last one make is not written anywhere, and so its digests
    /// are not compared with anything but those that the next patch names: only where the end is wrong is
    /// it looked up which patch is at fault.
    ///
    /// # Errors
    /// As [`Patch::apply`]. The error names the patch of the chain that does not lead to its target, if
    /// the base is the right one. [`Error::BaseMismatch`] says how many of the patches
    /// [were applied before](crate::error::BaseMismatch::applied), if some were.
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
    /// use pulse::checkpoint::{diff, ApplyOptions, DiffOptions};
    /// use pulse::patch::Chain;
    /// use pulse::tensors::Control;
    /// use pulse::{Limits, Patch};
    /// let mut patches = Vec::new();
    /// for pair in versions.windows(2) {
    ///     let mut patch = Vec::new();
    ///     diff(Some(&pair[0]), &pair[1], &mut patch, DiffOptions::default(), Control::default())?;
    ///     patches.push(Patch::from_bytes(patch, Limits::default())?);
    /// }
    /// let (chain, options) = (Chain::new(&patches)?, ApplyOptions::default());
    /// chain.apply(Some(&versions[0]), place("out"), options, Control::default())?;
    /// assert_eq!(std::fs::read(place("out")).unwrap(), std::fs::read(place("2")).unwrap());
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn apply(
        &self,
        base: Option<&Checkpoint>,
        out: impl AsRef<Path>,
        options: ApplyOptions,
        control: Control<'_>,
    ) -> Result<ApplyReport> {
        apply_on(&Disk::default(), base, self, out.as_ref(), options, control)
    }
}

/// Refuses an output that would be a part of its own base.
fn check_outside(base: &Checkpoint, out: &Path) -> Result<()> {
    let lists_parts = |name| base.companion(name).is_some();
    if !base.is_directory || ![PIPELINE, MODULES].into_iter().any(lists_parts) {
        return Ok(());
    }
    let io = |error| Error::io_at("looking at", out, error);
    let home = fs::canonicalize(base.path()).map_err(io)?;
    match fs::canonicalize(parent(out)) {
        Ok(place) if place.starts_with(home) => {
            let what = "it would be a part of its own base; choose a place outside";
            Err(Error::bad_file(out, FileFault::Refused(what.into())))
        }
        _ => Ok(()),
    }
}

pub(crate) fn apply_on(
    disk: &Disk,
    base: Option<&Checkpoint>,
    chain: &Chain<'_>,
    out: &Path,
    options: ApplyOptions,
    control: Control<'_>,
) -> Result<ApplyReport> {
    let base = base_of(base, chain.first())?;
    let plan = explain(source(base), chain, control, Plan::new(base, chain, options.files))?;
    let shape = Shape::of(plan.is_directory);
    if let Some(base) = base {
        check_outside(base, out)?;
    }
    let patches = chain.patches().iter().filter_map(Patch::path);
    let inputs: Vec<&Path> = base.map(Checkpoint::path).into_iter().chain(patches).collect();
    let staged = Staged::begin(out, shape, options.existing, &inputs, disk)?;
    let mut files = Vec::new();
    let is_crowded = is_crowded(plan.files.len() + plan.companions.len());
    for file in &plan.files {
        let mut created = staged.create(&file.name, file.header.file_bytes)?;
        created
            .write_all_at(&file.header.bytes, 0)
            .and_then(|()| if is_crowded { created.park() } else { Ok(()) })
            .map_err(|error| Error::io_at("writing", out, error))?;
        files.push(created);
    }
    let outputs: Vec<_> = files.iter().map(Some).collect();
    let output = Output { files: &outputs, in_place: false };
    let made = build(&plan.tensors, source(base), chain, Some(output), control)
        .and_then(|()| plan.write_companions(&staged, &mut files))
        .and_then(|notes| {
            source(base).map_or(Ok(()), |base| base.check_unchanged())?;
            Ok(notes)
        });
    let notes = explain(source(base), chain, control, made)?;
    // What counts is what a reader finds there.
    let found = Checkpoint::open_on(staged.path(), disk, Access::Read);
    plan.check_opened(&found.map_err(|error| match error {
        Error::BadFile { .. } => {
            Error::Internal(format!("what was made is no checkpoint: {error}"))
        }
        error => error,
    })?)?;
    staged.commit(&files)?;
    Ok(ApplyReport { notes, ..ApplyReport::of(chain, files.len() as u64) })
}

/// A checkpoint as a source of tensors.
pub(crate) fn source(base: Option<&Checkpoint>) -> Option<&dyn TensorSource> {
    base.map(|base| base as &dyn TensorSource)
}

/// The base to use: none for a snapshot, and one for everything else.
fn base_of<'a>(base: Option<&'a Checkpoint>, patch: &Patch) -> Result<Option<&'a Checkpoint>> {
    match base {
        _ if patch.header().snapshot => Ok(None),
        None => {
            let file = patch.path().map(Path::to_path_buf);
            Err(Error::NeedsBase {
                file,
                what: "not a snapshot: it needs the base that it was made from".into(),
            })
        }
        base => Ok(base),
    }
}
