//! What is needed to make the files of a target, known before the first byte is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::checkpoint::apply::source;
use crate::checkpoint::files::for_each_chunk;
use crate::checkpoint::layout::{check_index_bytes, is_disguised, Layout, INDEX_SUFFIX};
use crate::checkpoint::safetensors::{CarriedHeaders, FileHeader, FileTensor, TensorFile};
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::disk::staged::Staged;
use crate::disk::DiskFile;
use crate::error::{Error, FileFault, Made, Result};
use crate::hash::Sha;
use crate::patch::{FileEntry, Patch};
use crate::tensors::target::{target_tensors, OutTensor};
use crate::wire::{FileKind, FileRecord, FileState};

/// A safetensors file of the target.
#[derive(Debug)]
pub(crate) struct OutFile {
    pub name: String,
    pub header: FileHeader,
}

/// A companion of the target.
#[derive(Debug)]
pub(crate) enum OutCompanion<'a> {
    Carried(&'a FileEntry),
    /// Path in the base, and what it must be.
    Copied(&'a Path, &'a FileRecord),
    /// The patch says nothing of files: the base's companions are kept.
    Kept(&'a str, &'a Path),
}

/// All that is needed to make the target, in the order of its files.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub is_directory: bool,
    pub files: Vec<OutFile>,
    pub tensors: Vec<OutTensor<'a>>,
    pub companions: Vec<OutCompanion<'a>>,
}

impl<'a> Plan<'a> {
    pub fn new(base: Option<&'a Checkpoint>, patch: &'a Patch) -> Result<Self> {
        let mut plan = Plan {
            is_directory: false,
            files: Vec::new(),
            tensors: Vec::new(),
            companions: Vec::new(),
        };
        let target = target_tensors(source(base), patch)?;
        if !patch.files().is_empty() {
            plan.files_of_patch(base, patch)?;
        } else if let Some(base) = base.filter(|base| {
            base.tensors()
                .map(|(name, tensor)| (name, tensor.spec()))
                .eq(target.iter().map(|tensor| (tensor.name, tensor.spec)))
        }) {
            plan.files_of_base(base);
        } else {
            let header =
                FileHeader::canonical(target.iter().map(|tensor| (tensor.name, tensor.spec)))?;
            plan.is_directory = base.is_some_and(|base| base.is_directory);
            let name = if plan.is_directory { "model.safetensors" } else { "" };
            plan.files.push(OutFile { name: name.into(), header });
            // An index file would name the files of before.
            let kept = base
                .iter()
                .flat_map(|base| &base.companions)
                .filter(|found| !found.name.ends_with(INDEX_SUFFIX));
            plan.companions =
                kept.map(|found| OutCompanion::Kept(&found.name, &found.path)).collect();
        }
        plan.assign(target, patch)?;
        plan.check_roles(patch)?;
        Ok(plan)
    }

    /// Files as the patch describes them.
    fn files_of_patch(&mut self, base: Option<&'a Checkpoint>, patch: &'a Patch) -> Result<()> {
        self.is_directory = patch.files().iter().any(|file| !file.record.name.is_empty());
        if self.is_directory && patch.files().iter().any(|file| file.record.name.is_empty()) {
            return Err(wrong_files(patch, "one file has no name, but the checkpoint has several"));
        }
        let mut carried = CarriedHeaders::default();
        for file in patch.files() {
            let record = &file.record;
            match (record.kind, record.state) {
                (FileKind::Tensors, state) => {
                    let bytes = match state {
                        _ if state.is_carried() => {
                            carried
                                .add(record.bytes)
                                .map_err(|fault| wrong_files(patch, fault.to_string()))?;
                            let mut bytes = Vec::new();
                            patch.for_each_data(file, |data| {
                                bytes.extend_from_slice(data);
                                Ok(())
                            })?;
                            check_carried(patch, record, Sha::of(&[&bytes]))?;
                            bytes
                        }
                        _ => base_header(base, record)?.to_vec(),
                    };
                    let header = FileHeader::parse(bytes, None).map_err(|fault| {
                        wrong_files(patch, format!("'{}': {fault}", record.name))
                    })?;
                    self.files.push(OutFile { name: record.name.clone(), header });
                }
                (FileKind::Companion, FileState::Removed) => {}
                (FileKind::Companion, state) if state.is_carried() => {
                    self.companions.push(OutCompanion::Carried(file))
                }
                (FileKind::Companion, _) => {
                    let found = base
                        .and_then(|base| base.companion(&record.name))
                        .filter(|found| found.bytes == record.bytes);
                    let path = found
                        .map(|found| found.path.as_path())
                        .ok_or_else(|| missing_file(base, record))?;
                    self.companions.push(OutCompanion::Copied(path, record));
                }
            }
        }
        Ok(())
    }

    fn files_of_base(&mut self, base: &'a Checkpoint) {
        self.is_directory = base.is_directory;
        let out =
            |file: &TensorFile| OutFile { name: file.name.clone(), header: file.header.clone() };
        self.files = base.files.iter().map(out).collect();
        self.companions = base
            .companions
            .iter()
            .map(|found| OutCompanion::Kept(&found.name, &found.path))
            .collect();
    }

    /// Gives each tensor its place in the files; both must name the same tensors.
    fn assign(&mut self, target: Vec<OutTensor<'a>>, patch: &Patch) -> Result<()> {
        let mut places = std::collections::HashMap::new();
        for (number, file) in self.files.iter().enumerate() {
            for FileTensor { name, spec, offset } in &file.header.tensors {
                if places.insert(name.as_str(), (spec, number, *offset)).is_some() {
                    return Err(wrong_files(patch, format!("tensor '{name}' is in two files")));
                }
            }
        }
        for mut tensor in target {
            match places.remove(tensor.name) {
                Some((spec, file, offset)) if spec == tensor.spec => {
                    (tensor.file, tensor.offset) = (file, offset)
                }
                Some((spec, ..)) => {
                    return Err(wrong_files(
                        patch,
                        format!(
                            "tensor '{}' is {} but its file says {spec}",
                            tensor.name, tensor.spec
                        ),
                    ))
                }
                None => {
                    return Err(wrong_files(
                        patch,
                        format!("tensor '{}' is in no file", tensor.name),
                    ))
                }
            }
            self.tensors.push(tensor);
        }
        if let Some(name) = places.keys().min() {
            return Err(wrong_files(
                patch,
                format!("tensor '{name}' is in a file but not in the target"),
            ));
        }
        Ok(())
    }

    pub fn write_companions(
        &self,
        patch: &Patch,
        staged: &Staged,
        files: &mut Vec<DiskFile>,
    ) -> Result<()> {
        for companion in &self.companions {
            let created = staged.create(companion.name(), 0)?;
            companion.copy_to(&created, patch)?;
            files.push(created);
        }
        Ok(())
    }

    /// Refuses files that readers of the directory would take for others than they are (R95).
    fn check_roles(&self, patch: &Patch) -> Result<()> {
        if !self.is_directory {
            return Ok(());
        }
        let tensors = self.files.iter().map(|file| (file.name.clone(), ()));
        let companions = self.companions.iter().map(|file| (file.name().to_string(), ()));
        let layout = Layout::of(Path::new(""), tensors.chain(companions).collect(), |index| {
            let mut bytes = Vec::new();
            let found = self.companions.iter().find(|companion| companion.name() == index);
            let Some(found) = found else { return Ok(bytes) };
            found.for_each_chunk(patch, |chunk| {
                check_index_bytes((bytes.len() + chunk.len()) as u64)
                    .map_err(|fault| Error::bad_file(Path::new(index), fault))?;
                bytes.extend_from_slice(chunk);
                Ok(())
            })?;
            Ok(bytes)
        });
        let layout = layout.map_err(|error| match error {
            Error::BadFile { fault, .. } => wrong_files(patch, fault.to_string()),
            error => error,
        })?;
        let tensors = self.files.iter().map(|file| &file.name).collect::<BTreeSet<_>>();
        for (name, ()) in &layout.tensors {
            if !tensors.contains(name) {
                return Err(wrong_files(
                    patch,
                    format!("readers take the companion '{name}' for tensors"),
                ));
            }
        }
        let companions = layout.companions.iter().map(|(name, ())| name);
        let spare = layout.spare.iter().map(|(name, (), _)| name);
        let left_out = layout.left_out.iter().map(|out| &out.name);
        let mut unread = companions.chain(spare).chain(left_out);
        let unread = unread.find(|name| tensors.contains(name));
        if let Some(name) = unread {
            let what = format!("readers do not take '{name}' for tensors");
            return Err(wrong_files(patch, what));
        }
        // Where case does not count, these would be what their names say in small letters.
        let disguised = layout.companions.iter().find(|(name, ())| is_disguised(name));
        if let Some((name, ())) = disguised {
            let what =
                format!("'{name}' is a file of tensors, or an index, where case does not count");
            return Err(wrong_files(patch, what));
        }
        match layout.left_out.first() {
            Some(out) => Err(wrong_files(patch, format!("readers leave out {out}"))),
            None => Ok(()),
        }
    }

    /// Compares what was made, opened as any checkpoint is, with what was to be made: the tensors are
    /// those that were proved, in the files and at the places where they were written.
    pub fn check_opened(&self, made: &Checkpoint) -> Result<()> {
        let expected = self.files.iter().map(|file| (&file.name, &file.header.bytes));
        let expected = expected.collect::<BTreeMap<_, _>>();
        let found = made.files.iter().map(|file| (&file.name, &file.header.bytes));
        if found.collect::<BTreeMap<_, _>>() == expected {
            return Ok(());
        }
        Err(Error::Internal("what was made opens as other tensors than were written".into()))
    }

    pub fn check_companions(&self, patch: &Patch) -> Result<()> {
        self.companions.iter().try_for_each(|companion| companion.for_each_chunk(patch, |_| Ok(())))
    }
}

fn missing_file(base: Option<&Checkpoint>, record: &FileRecord) -> Error {
    let wants_directory = !record.name.is_empty();
    if let Some(base) = base.filter(|base| base.is_directory != wants_directory) {
        let fault = if wants_directory { FileFault::WantsDirectory } else { FileFault::WantsFile };
        return Error::bad_file(base.path(), fault);
    }
    let FileRecord { name, bytes, sha256, .. } = record.clone();
    Error::BaseFile { path: base.map(|base| base.path().to_path_buf()), name, bytes, sha256 }
}

fn wrong_files(patch: &Patch, what: impl AsRef<str>) -> Error {
    patch.unfit(format!(
        "the files that the patch describes do not fit its tensors: {}",
        what.as_ref()
    ))
}

/// Checks carried bytes once more: the patch was read before, and may have changed since.
pub(crate) fn check_carried(patch: &Patch, record: &FileRecord, found: Digest) -> Result<()> {
    let expected = record.sha256;
    if expected == found {
        return Ok(());
    }
    Err(patch.wrong_result(Made::File(record.name.clone()), expected, found))
}

/// The header of the base's file of the same name, if it is the recorded one.
fn base_header<'a>(base: Option<&'a Checkpoint>, record: &FileRecord) -> Result<&'a [u8]> {
    base.and_then(|base| base.file(&record.name))
        .map(|file| file.header.bytes.as_slice())
        .filter(|bytes| bytes.len() as u64 == record.bytes && Sha::of(&[bytes]) == record.sha256)
        .ok_or_else(|| missing_file(base, record))
}

impl OutCompanion<'_> {
    pub fn name(&self) -> &str {
        match self {
            OutCompanion::Carried(file) => &file.record.name,
            OutCompanion::Copied(_, record) => &record.name,
            OutCompanion::Kept(name, _) => name,
        }
    }

    /// Reads the companion chunk by chunk and checks that it is the recorded one.
    pub fn for_each_chunk(
        &self,
        patch: &Patch,
        mut found: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self {
            OutCompanion::Carried(file) => {
                let mut sha = Sha::default();
                patch.for_each_data(file, |chunk| {
                    sha.update(chunk);
                    found(chunk)
                })?;
                check_carried(patch, &file.record, sha.finish())
            }
            OutCompanion::Kept(_, path) => for_each_chunk(path, found).map(|_| ()),
            OutCompanion::Copied(path, record) => {
                let mut sha = Sha::default();
                for_each_chunk(path, |chunk| {
                    sha.update(chunk);
                    found(chunk)
                })?;
                if sha.finish() != record.sha256 {
                    return Err(Error::bad_file(path, FileFault::OtherCompanion));
                }
                Ok(())
            }
        }
    }

    pub fn copy_to(&self, file: &DiskFile, patch: &Patch) -> Result<()> {
        let mut offset = 0;
        self.for_each_chunk(patch, |chunk| {
            file.write_all_at(chunk, offset)
                .map_err(|error| Error::io_at("writing", file.path(), error))?;
            offset += chunk.len() as u64;
            Ok(())
        })
    }
}
