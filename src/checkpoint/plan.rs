//! What is needed to make the files of a target, known before the first byte is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::checkpoint::apply::{source, FilePolicy};
use crate::checkpoint::checkpoint::Companion;
use crate::checkpoint::companions::{OutCompanion, RemovedCompanion};
use crate::checkpoint::index::{check_index_bytes, leads_to_tensors, PIPELINE};
use crate::checkpoint::layout::{read_index, Layout};
use crate::checkpoint::names::{name_tensors, Names, SameTensor};
use crate::checkpoint::safetensors::{CarriedHeaders, FileHeader, FileTensor, TensorFile};
use crate::checkpoint::tree::{check_entries, is_below};
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::disk::staged::{failed, Staged};
use crate::disk::system::is_crowded;
use crate::disk::DiskFile;
use crate::error::{Error, FileFault, Made, Result};
use crate::hash::Sha;
use crate::patch::{FileEntry, Patch};
use crate::tensors::target::{target_tensors, OutTensor};
use crate::tensors::{Deviation, FileNote};
use crate::wire::{FileContent, FileKind, FileRecord, FileState};

/// A safetensors file of the target.
#[derive(Debug)]
pub(crate) struct OutFile {
    pub name: String,
    pub header: FileHeader,
}

/// All that is needed to make the target, in the order of its files.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub is_directory: bool,
    pub files: Vec<OutFile>,
    pub tensors: Vec<OutTensor<'a>>,
    pub companions: Vec<OutCompanion<'a>>,
    /// Companions that the target does not have and that are here what they are in the base: gone in
    /// an update in place, and not in a new output in any case.
    pub removed: Vec<RemovedCompanion<'a>>,
    /// What is known to differ from the patch before companions are read.
    pub notes: Vec<FileNote>,
    /// The tensor file was made here.
    is_made: bool,
    /// Tensor files of base or patch lie in subdirectories.
    has_parts: bool,
}

impl<'a> Plan<'a> {
    pub fn new(base: Option<&'a Checkpoint>, patch: &'a Patch, policy: FilePolicy) -> Result<Self> {
        let mut plan = Plan {
            is_directory: false,
            files: Vec::new(),
            tensors: Vec::new(),
            companions: Vec::new(),
            removed: Vec::new(),
            notes: Vec::new(),
            is_made: false,
            has_parts: has_parts(base, patch),
        };
        let target = target_tensors(source(base), patch)?;
        let is_nameless = |file: &FileEntry| file.record.name.is_empty();
        if patch.files().len() > 1 && patch.files().iter().any(is_nameless) {
            return Err(wrong_files(patch, "one file has no name, but the checkpoint has several"));
        }
        match base {
            _ if patch.files().is_empty() => plan.own_files(base, &target)?,
            None => plan.files_of_patch(base, patch, FilePolicy::Exact)?,
            Some(base) => match policy {
                FilePolicy::Keep => plan.own_files(Some(base), &target)?,
                FilePolicy::Follow if !has_files_of(base, patch)? => {
                    plan.own_tensor_files(Some(base), &target)?;
                    plan.follow(base, patch)?;
                }
                policy => plan.files_of_patch(Some(base), patch, policy)?,
            },
        }
        if let Some(base) = base {
            plan.note_left_behind(base, patch);
        }
        plan.name_tensors(patch)?;
        plan.assign(target, patch)?;
        Ok(plan)
    }

    /// Files as the patch describes them.
    fn files_of_patch(
        &mut self,
        base: Option<&'a Checkpoint>,
        patch: &'a Patch,
        policy: FilePolicy,
    ) -> Result<()> {
        self.is_directory = patch.files().iter().any(|file| !file.record.name.is_empty());
        let mut carried = CarriedHeaders::default();
        for file in patch.files() {
            let record = &file.record;
            if record.kind == FileKind::Companion {
                match policy {
                    FilePolicy::Exact => self.exact_companion(base, file)?,
                    _ => self.follow_companion(base, file)?,
                }
                continue;
            }
            let bytes = if record.state.is_carried() {
                carried.add(record.bytes).map_err(|fault| wrong_files(patch, fault.to_string()))?;
                let mut bytes = Vec::new();
                patch.for_each_data(file, |data| {
                    bytes.extend_from_slice(data);
                    Ok(())
                })?;
                check_carried(patch, record, Sha::of(&[&bytes]))?;
                bytes
            } else {
                let found = base.and_then(|base| base_header(base, record));
                found.ok_or_else(|| missing_file(base, record))?.to_vec()
            };
            let header = FileHeader::parse(bytes, None)
                .map_err(|fault| wrong_files(patch, format!("'{}': {fault}", record.name)))?;
            self.files.push(OutFile { name: record.name.clone(), header });
        }
        Ok(())
    }

    /// A companion as the patch has it, and no other.
    fn exact_companion(&mut self, base: Option<&'a Checkpoint>, file: &'a FileEntry) -> Result<()> {
        let (record, exact) = (&file.record, true);
        let found = base.and_then(|base| base.companion(&record.name));
        match record.state {
            FileState::Kept => {
                let found = found.filter(|found| found.bytes == record.bytes);
                let Companion { name, path, .. } =
                    found.ok_or_else(|| missing_file(base, record))?;
                let expected = Some(record.content());
                self.companions.push(OutCompanion::Kept { name, path, expected, exact });
            }
            FileState::Removed => {
                if let Some(found) = found {
                    self.removed_companion(found, file)?;
                }
            }
            _ => {
                let replaces = record.base().filter(|_| found.is_some());
                self.companions.push(OutCompanion::Carried { file, replaces });
            }
        }
        Ok(())
    }

    /// A companion as the patch has it, unless the receiver has one of its own.
    fn follow_companion(
        &mut self,
        base: Option<&'a Checkpoint>,
        file: &'a FileEntry,
    ) -> Result<()> {
        let (record, exact) = (&file.record, false);
        let Some(found) = base.and_then(|base| base.companion(&record.name)) else {
            match record.state {
                FileState::Removed => {}
                FileState::Kept => self.note(&record.name, Deviation::Missing),
                _ => self.companions.push(OutCompanion::Carried { file, replaces: None }),
            }
            return Ok(());
        };
        let Companion { name, path, .. } = found;
        let kept = |expected| OutCompanion::Kept { name, path, expected, exact };
        let content = record.content();
        match record.state {
            FileState::Removed => self.removed_companion(found, file)?,
            FileState::Kept => self.companions.push(kept(Some(content))),
            // It leads to the files of the patch, which are those that are made. That a model has parts
            // is said by that file whatever is in it.
            _ if self.leads_to_tensors(name) && name != PIPELINE => {
                let replaces = record.base();
                self.companions.push(OutCompanion::Carried { file, replaces });
            }
            _ if found.has(content)? => self.companions.push(kept(Some(content))),
            FileState::Replaced(base) if found.has(base)? => {
                self.companions.push(OutCompanion::Carried { file, replaces: Some(base) });
            }
            _ => {
                self.note(name, Deviation::Own);
                self.companions.push(kept(None));
            }
        }
        Ok(())
    }

    fn removed_companion(&mut self, found: &'a Companion, file: &FileEntry) -> Result<()> {
        let (name, content) = (found.name.as_str(), file.record.content());
        if found.has(content)? {
            self.removed.push(RemovedCompanion { name, content });
        } else {
            self.note(name, Deviation::Removed);
        }
        Ok(())
    }

    /// The companions of the patch beside the receiver's own tensor files, and a note for each file
    /// that is not as the patch says.
    fn follow(&mut self, base: &'a Checkpoint, patch: &'a Patch) -> Result<()> {
        let is_made = self.is_made;
        let own: BTreeMap<_, _> = self
            .files
            .iter()
            .map(|file| (file.name.clone(), FileContent::of(&file.header.bytes)))
            .collect();
        let listed: BTreeMap<_, _> =
            patch.files().iter().map(|file| (file.record.name.as_str(), file)).collect();
        for (name, file) in &listed {
            let record = &file.record;
            match own.get(*name) {
                Some(content)
                    if record.kind == FileKind::Tensors && *content == record.content() => {}
                Some(_) => self.note(name, Deviation::Own),
                None if record.kind == FileKind::Tensors => self.note(name, Deviation::Missing),
                // There is nothing beside a single file.
                None if !self.is_directory => {
                    if record.state.is_in_target() {
                        self.note(name, Deviation::Missing);
                    }
                }
                None if self.leads_to_tensors(name) => self.own_index(base, file)?,
                None => self.follow_companion(Some(base), file)?,
            }
        }
        let extra = if is_made { Deviation::Made } else { Deviation::OwnTensors };
        for name in own.keys().filter(|name| !listed.contains_key(name.as_str())) {
            self.note(name, extra);
        }
        if !is_made {
            let own = base.companions.iter();
            for Companion { name, path, .. } in own {
                if !self.leads_to_tensors(name) {
                    continue;
                }
                if !listed.contains_key(name.as_str()) {
                    self.note(name, Deviation::OwnTensors);
                }
                let (expected, exact) = (None, false);
                self.companions.push(OutCompanion::Kept { name, path, expected, exact });
            }
        }
        // A patch to a single file says nothing of what is beside it.
        if listed.contains_key("") {
            let has_parts = self.has_parts;
            self.own_companions(base, |found| !leads_to_tensors(&found.name, has_parts));
        }
        Ok(())
    }

    /// What to say of an index of the patch that is not in the output: it leads to other files.
    fn own_index(&mut self, base: &Checkpoint, file: &FileEntry) -> Result<()> {
        let record = &file.record;
        let found = base.companion(&record.name).filter(|_| !self.is_made);
        match (found, record.state.is_in_target()) {
            (None, false) => {}
            (None, true) => self.note(&record.name, Deviation::Missing),
            (Some(found), true) if found.has(record.content())? => {}
            (Some(_), _) => self.note(&record.name, Deviation::Own),
        }
        Ok(())
    }

    /// Companions of the receiver that the patch does not know of are in no new output.
    fn note_left_behind(&mut self, base: &Checkpoint, patch: &Patch) {
        let listed = patch.files().iter().map(|file| file.record.name.as_str());
        let kept = self.companions.iter().map(OutCompanion::name);
        let known: BTreeSet<&str> = listed.chain(kept).collect();
        let own = base.companions.iter().map(|own| own.name.as_str());
        let unknown = own.filter(|name| !known.contains(name));
        self.notes.extend(unknown.map(|name| FileNote::new(name, Deviation::LeftBehind)));
    }

    pub fn leads_to_tensors(&self, name: &str) -> bool {
        leads_to_tensors(name, self.has_parts)
    }

    fn note(&mut self, name: &str, deviation: Deviation) {
        self.notes.push(FileNote::new(name, deviation));
    }

    /// The files of the receiver, or those nearest to them.
    fn own_files(&mut self, base: Option<&'a Checkpoint>, target: &[OutTensor<'_>]) -> Result<()> {
        self.own_tensor_files(base, target)?;
        // An index leads to the files of before.
        let (is_made, has_parts) = (self.is_made, self.has_parts);
        if let Some(base) = base {
            let leads = |found: &Companion| leads_to_tensors(&found.name, has_parts);
            self.own_companions(base, |found| !is_made || !leads(found));
        }
        Ok(())
    }

    /// The tensor files of the receiver if the tensors have their places there, or else one that
    /// holds all of them.
    fn own_tensor_files(
        &mut self,
        base: Option<&'a Checkpoint>,
        target: &[OutTensor<'_>],
    ) -> Result<()> {
        self.is_directory = base.is_some_and(|base| base.is_directory);
        let specs = || target.iter().map(|tensor| (tensor.name, tensor.spec));
        let fitting = base
            .filter(|base| base.tensors().map(|(name, tensor)| (name, tensor.spec())).eq(specs()));
        self.is_made = fitting.is_none();
        self.files = match fitting {
            Some(base) => {
                let out = |file: &TensorFile| OutFile {
                    name: file.name.clone(),
                    header: file.header.clone(),
                };
                base.files.iter().map(out).collect()
            }
            None => {
                let header = FileHeader::canonical(specs())?;
                let name = if self.is_directory { "model.safetensors" } else { "" };
                vec![OutFile { name: name.into(), header }]
            }
        };
        Ok(())
    }

    fn own_companions(&mut self, base: &'a Checkpoint, wanted: impl Fn(&Companion) -> bool) {
        let (expected, exact) = (None, false);
        let kept =
            base.companions.iter().filter(|found| wanted(found)).map(
                |Companion { name, path, .. }| OutCompanion::Kept { name, path, expected, exact },
            );
        self.companions.extend(kept);
    }

    /// Gives the tensors of the files the names that readers of the directory will find there.
    fn name_tensors(&mut self, patch: &Patch) -> Result<()> {
        let names = self.check_roles(patch)?;
        let mut headers: Vec<_> =
            self.files.iter_mut().map(|file| (file.name.as_str(), &mut file.header)).collect();
        name_tensors(&mut headers, &names).map_err(|SameTensor { tensor, .. }| {
            let what = format!("tensor '{tensor}' is in two files, and no index tells them apart");
            wrong_files(patch, what)
        })
    }

    /// Gives each tensor its place in the files; both must name the same tensors.
    fn assign(&mut self, target: Vec<OutTensor<'a>>, patch: &Patch) -> Result<()> {
        let mut places = std::collections::HashMap::new();
        for (number, file) in self.files.iter().enumerate() {
            for FileTensor { name, spec, offset, .. } in &file.header.tensors {
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

    /// Writes the companions; gives back all notes.
    pub fn write_companions(
        &self,
        patch: &Patch,
        staged: &Staged,
        files: &mut Vec<DiskFile>,
    ) -> Result<Vec<FileNote>> {
        self.with_notes(|companion| {
            let mut created = staged.create(companion.name(), 0)?;
            let is_expected = companion.copy_to(&created, patch)?;
            if is_crowded(self.files.len() + self.companions.len()) {
                created.park().map_err(failed("closing", created.path()))?;
            }
            files.push(created);
            Ok(is_expected)
        })
    }

    /// Reads the companions; gives back all notes.
    pub fn check_companions(&self, patch: &Patch) -> Result<Vec<FileNote>> {
        self.with_notes(|companion| companion.for_each_chunk(patch, |_| Ok(())))
    }

    /// The notes so far, and one for each companion that is found to differ.
    fn with_notes(
        &self,
        mut is_expected: impl FnMut(&OutCompanion<'a>) -> Result<bool>,
    ) -> Result<Vec<FileNote>> {
        let mut notes = self.notes.clone();
        for companion in &self.companions {
            if !is_expected(companion)? {
                notes.push(FileNote::new(companion.name(), Deviation::Own));
            }
        }
        notes.sort_unstable();
        Ok(notes)
    }

    /// Refuses files that readers of the directory would take for others than they are (R95); gives
    /// back what the names of its tensors depend on.
    fn check_roles(&self, patch: &Patch) -> Result<Names> {
        self.check_roles_beside(patch, Path::new(""), &[]).map(|layout| layout.names)
    }

    /// As `check_roles`, in a directory in which other files stay.
    pub fn check_roles_beside(
        &self,
        patch: &Patch,
        directory: &Path,
        others: &[String],
    ) -> Result<Layout<()>> {
        if !self.is_directory {
            return Ok(Layout::default());
        }
        let tensors = self.files.iter().map(|file| (file.name.clone(), ()));
        let companions = self.companions.iter().map(|file| (file.name().to_string(), ()));
        check_entries(
            self.files
                .iter()
                .map(|file| file.name.as_str())
                .chain(self.companions.iter().map(OutCompanion::name)),
        )
        .map_err(|what| wrong_files(patch, what))?;
        let all = tensors.chain(companions).chain(others.iter().map(|name| (name.clone(), ())));
        let layout = Layout::of(Path::new(""), all.collect(), |index| {
            let mut bytes = Vec::new();
            let found = self.companions.iter().find(|companion| companion.name() == index);
            let Some(found) = found else {
                // A tensor file of that name is no list.
                let is_tensors = self.files.iter().any(|file| file.name == index);
                return if is_tensors { Ok(bytes) } else { read_index(directory, index) };
            };
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
        let read = layout.tensors.iter().map(|(name, ())| name).collect::<BTreeSet<_>>();
        if let Some(name) = read.difference(&tensors).next() {
            let what = format!("readers take the companion '{name}' for tensors");
            return Err(wrong_files(patch, what));
        }
        if let Some(name) = tensors.difference(&read).next() {
            let what = format!("readers do not take '{name}' for tensors");
            return Err(wrong_files(patch, what));
        }
        let planned = self.companions.iter().map(OutCompanion::name).collect::<Vec<_>>();
        let is_planned = |name: &str| planned.iter().any(|planned| is_below(planned, name));
        match layout.left_out.iter().find(|out| is_planned(&out.name)) {
            Some(out) => Err(wrong_files(patch, format!("readers leave out {out}"))),
            None => Ok(layout),
        }
    }

    /// Compares what was made, opened as any checkpoint is, with what was to be made: the tensors are
    /// those that were proved, in the files and at the places where they were written.
    pub fn check_opened(&self, made: &Checkpoint) -> Result<()> {
        let expected = self.files.iter().map(|file| (&file.name, &file.header.bytes));
        let expected = expected.collect::<BTreeMap<_, _>>();
        let found = made.files.iter().map(|file| (&file.name, &file.header.bytes));
        let is_there = |tensor: &OutTensor<'_>| {
            let place = made.place(tensor.name);
            place.is_some_and(|(file, offset)| {
                (&made.files[file].name, offset) == (&self.files[tensor.file].name, tensor.offset)
            })
        };
        if found.collect::<BTreeMap<_, _>>() == expected && self.tensors.iter().all(is_there) {
            return Ok(());
        }
        Err(Error::Internal("what was made opens as other tensors than were written".into()))
    }
}

fn missing_file(base: Option<&Checkpoint>, record: &FileRecord) -> Error {
    let wants_directory = !record.name.is_empty();
    if let Some(base) = base.filter(|base| base.is_directory != wants_directory) {
        let fault = if wants_directory { FileFault::WantsDirectory } else { FileFault::WantsFile };
        return Error::bad_file(base.path(), fault);
    }
    let FileRecord { name, bytes, sha256, .. } = record.clone();
    Error::BaseFile { path: base.map(|base| base.file_path(&name)), name, bytes, sha256 }
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
fn base_header<'a>(base: &'a Checkpoint, record: &FileRecord) -> Option<&'a [u8]> {
    let header = base.file(&record.name)?.header.bytes.as_slice();
    (FileContent::of(header) == record.content()).then_some(header)
}

/// Whether tensor files of a checkpoint, or of the target of a patch, lie in subdirectories.
pub(crate) fn has_parts(base: Option<&Checkpoint>, patch: &Patch) -> bool {
    let own = base.iter().flat_map(|base| &base.files).map(|file| file.name.as_str());
    let files = patch.files().iter().map(|file| &file.record);
    let of_patch = files.filter(|record| record.kind == FileKind::Tensors);
    own.chain(of_patch.map(|record| record.name.as_str())).any(|name| name.contains('/'))
}

/// Whether the base has all that the files of the patch need of it: headers, and what leads to them.
fn has_files_of(base: &Checkpoint, patch: &Patch) -> Result<bool> {
    let has_parts = has_parts(Some(base), patch);
    for FileEntry { record, .. } in patch.files() {
        let is_there = match record.kind {
            _ if record.state != FileState::Kept => true,
            FileKind::Tensors => base_header(base, record).is_some(),
            FileKind::Companion if leads_to_tensors(&record.name, has_parts) => {
                match base.companion(&record.name) {
                    Some(found) => record.name == PIPELINE || found.has(record.content())?,
                    None => false,
                }
            }
            FileKind::Companion => true,
        };
        if !is_there {
            return Ok(false);
        }
    }
    Ok(true)
}
