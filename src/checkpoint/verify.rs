//! A patch checked without writing anything.

use std::collections::BTreeSet;
use std::slice;

use crate::checkpoint::apply::{source, FilePolicy};
use crate::checkpoint::ground::Ground;
use crate::checkpoint::index::leads_to_tensors;
use crate::checkpoint::plan::Plan;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, FileFault, Result};
use crate::patch::Patch;
use crate::tensors::diagnose::{check_base, check_target, explain};
use crate::tensors::target::build;
use crate::tensors::{Control, Deviation, FileNote};
use crate::wire::{FileContent, FileKind};

impl Patch {
    /// Checks the patch beyond what [`Patch::open`] has checked: payloads that need no base are
    /// decoded; the target of a snapshot is made in memory, block by block, and its digests compared.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Cancelled`], [`Error::Io`].
    ///
    /// ```
    /// use pulse::stream::EncoderOptions;
    /// use pulse::tensors::Control;
    /// use pulse::{Encoder, Limits, Patch};
    /// let (bytes, _) = Encoder::snapshot(Vec::new(), EncoderOptions::default())?.finish()?;
    /// Patch::from_bytes(bytes, Limits::default())?.verify(Control::default())?;
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn verify(&self, control: Control<'_>) -> Result<()> {
        if self.header().snapshot {
            let chain = self.as_chain()?;
            let plan = Plan::new(None, &chain, FilePolicy::Exact)?;
            return build(&plan.tensors, None, &chain, None, control);
        }
        Patch::check_expansion(slice::from_ref(self))?;
        let mut payload = Vec::new();
        for tensor in self.tensors() {
            for (number, block) in tensor.blocks.iter().enumerate() {
                self.decode_block(tensor, number, &mut payload)?;
                let range = block.range();
                control.report(range.end - range.start)?;
            }
        }
        Ok(())
    }

    /// Checks that the patch leads from `base` to its target: the digest of the base is compared,
    /// the target made in memory, block by block, and its digests compared. Gives back what
    /// [`apply`](Self::apply) with the same `files` would note.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Misuse`] for a snapshot, which has no base.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("model.safetensors");
    /// # let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    /// # std::fs::write(&path, [&53u64.to_le_bytes()[..], json, b"abc"].concat()).unwrap();
    /// use pulse::checkpoint::{diff, DiffOptions};
    /// use pulse::tensors::Control;
    /// use pulse::{Checkpoint, Limits, Patch};
    /// let (checkpoint, mut patch) = (Checkpoint::open(&path)?, Vec::new());
    /// diff(Some(&checkpoint), &checkpoint, &mut patch, DiffOptions::default(), Control::default())?;
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// use pulse::checkpoint::FilePolicy;
    /// patch.verify_with_base(&checkpoint, FilePolicy::Exact, Control::default())?;
    /// let notes = patch.verify_target(&checkpoint, FilePolicy::Follow, Control::default())?;
    /// assert!(notes.is_empty());
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn verify_with_base(
        &self,
        base: &Checkpoint,
        files: FilePolicy,
        control: Control<'_>,
    ) -> Result<Vec<FileNote>> {
        if self.header().snapshot {
            return Err(Error::misuse("a snapshot has no base: verify it without one"));
        }
        let chain = self.as_chain()?;
        check_base(base, &chain, control)?;
        let base = Some(base);
        let plan = Plan::new(base, &chain, files);
        let plan = explain(source(base), &chain, control, plan)?;
        let made = build(&plan.tensors, source(base), &chain, None, control);
        explain(source(base), &chain, control, made.and_then(|()| plan.check_companions()))
    }

    /// Checks that `target` has the digests that the patch names for its target, and compares its
    /// files with those that the patch lists: gives back what differs.
    ///
    /// # Errors
    /// [`Error::TargetMismatch`], [`Error::Cancelled`], [`Error::Io`], and if `files` are to be exact
    /// [`Error::BadFile`] for one that differs.
    ///
    /// See [`verify_with_base`](Self::verify_with_base) for an example.
    pub fn verify_target(
        &self,
        target: &Checkpoint,
        files: FilePolicy,
        control: Control<'_>,
    ) -> Result<Vec<FileNote>> {
        check_target(target, self, control)?;
        check_files(self, target, files)
    }
}

/// The files of a target that are not as the patch says; an error if they are to be.
pub(crate) fn check_files(
    patch: &Patch,
    target: &Checkpoint,
    files: FilePolicy,
) -> Result<Vec<FileNote>> {
    let notes = match files {
        FilePolicy::Keep => Vec::new(),
        _ => differing_files(patch, target)?,
    };
    match notes.iter().find(|note| note.deviation != Deviation::Extra) {
        Some(FileNote { name, .. }) if files == FilePolicy::Exact => {
            Err(Error::bad_file(&target.file_path(name), FileFault::OtherFile))
        }
        _ => Ok(notes),
    }
}

/// The files of a target that are not as the patch says.
fn differing_files(patch: &Patch, target: &Checkpoint) -> Result<Vec<FileNote>> {
    let mut notes = Vec::new();
    let mut listed = BTreeSet::new();
    for record in patch.files().iter().map(|file| &file.record) {
        listed.insert(record.name.as_str());
        let (name, content) = (&record.name, record.content());
        let companion = target.companion(name);
        let is_same = match record.kind {
            FileKind::Tensors => {
                let file = target.file(name);
                file.map(|file| FileContent::of(&file.header.bytes) == content)
            }
            FileKind::Companion => companion.map(|found| found.has(content)).transpose()?,
        };
        let deviation = match (record.state.is_in_target(), is_same) {
            (true, Some(true)) | (false, None) => continue,
            (true, Some(false)) => Deviation::Own,
            (true, None) => Deviation::Missing,
            (false, Some(_)) => Deviation::Stays,
        };
        notes.push(FileNote::new(name, deviation));
    }
    if !listed.is_empty() {
        let own = target.files.iter().map(|file| &file.name);
        let own: Vec<&String> = own.filter(|name| !listed.contains(name.as_str())).collect();
        // An index goes with the tensor files that it leads to.
        let is_own = !own.is_empty() || notes.iter().any(|note| target.file(&note.name).is_some());
        let has_parts = Ground::new(Some(target), false).has_parts(patch);
        notes.extend(own.iter().map(|name| FileNote::new(*name, Deviation::OwnTensors)));
        let companions = target.companions.iter().map(|found| &found.name);
        for name in companions.filter(|name| !listed.contains(name.as_str())) {
            let is_own = is_own && leads_to_tensors(name, has_parts);
            // A patch to a single file says nothing of what is beside it.
            if is_own || !listed.contains("") {
                let deviation = if is_own { Deviation::OwnTensors } else { Deviation::Extra };
                notes.push(FileNote::new(name, deviation));
            }
        }
    }
    notes.sort_unstable();
    Ok(notes)
}
