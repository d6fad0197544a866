//! What is needed to make the files of a target, known before the first byte is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::checkpoint::apply::FilePolicy;
use crate::checkpoint::companions::{CarriedFile, OutCompanion, RemovedCompanion};
use crate::checkpoint::ground::{specs_of, Ground, Held};
use crate::checkpoint::index::{check_index_bytes, leads_to_tensors, PIPELINE};
use crate::checkpoint::layout::{read_index, Layout};
use crate::checkpoint::names::{name_tensors, Names, SameTensor};
use crate::checkpoint::safetensors::{CarriedHeaders, FileHeader, FileTensor};
use crate::checkpoint::tree::{check_entries, is_below};
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::disk::staged::{failed, Staged};
use crate::disk::system::is_crowded;
use crate::disk::DiskFile;
use crate::error::{Error, Made, Result};
use crate::hash::Sha;
use crate::patch::{Chain, FileEntry, Patch};
use crate::tensors::target::{patched_tensors, OutTensor};
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
    /// The last one that was planned, which the files are described by.
    patch: &'a Patch,
    pub is_directory: bool,
    pub files: Vec<OutFile>,
    pub tensors: Vec<OutTensor<'a>>,
    pub companions: Vec<OutCompanion<'a>>,
    /// Companions that the target does not have and that were here what they are in the base: gone in
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
    /// The target of a chain in a new place.
    pub fn new(
        base: Option<&'a Checkpoint>,
        chain: &Chain<'a>,
        policy: FilePolicy,
    ) -> Result<Self> {
        Self::along(Ground::new(base, false), chain, policy)
    }

    /// The target of a chain where its base is: what no patch speaks of stays.
    pub fn in_place(base: &'a Checkpoint, chain: &Chain<'a>, policy: FilePolicy) -> Result<Self> {
        Self::along(Ground::new(Some(base), true), chain, policy)
    }

    /// Plans each patch on what the plans before it make: what becomes of the files is what it would be
    /// if the patches were applied one by one.
    fn along(mut ground: Ground<'a>, chain: &Chain<'a>, policy: FilePolicy) -> Result<Self> {
        let mut notes = Vec::new();
        let mut plan = Self::step(&mut ground, chain.first(), policy)?;
        for pair in chain.patches().windows(2) {
            let [before, patch] = pair else { continue };
            notes.append(&mut plan.notes);
            ground.after(before, plan);
            plan = Self::step(&mut ground, patch, policy)?;
            // What is absent since a patch before, and what this one has nothing to say of.
            let is_listed = |name: &str| patch.files().iter().any(|file| file.record.name == name);
            notes.retain(|note: &FileNote| note.deviation.is_absence() && !is_listed(&note.name));
        }
        let noted: BTreeSet<&str> = plan.notes.iter().map(|note| note.name.as_str()).collect();
        notes.retain(|note| !noted.contains(note.name.as_str()));
        plan.notes.append(&mut notes);
        let mut removed = ground.all_removed();
        removed.retain(|gone| {
            !plan.companions.iter().any(|companion| companion.name() == gone.name)
                && !plan.removed.iter().any(|own| own.name == gone.name)
        });
        plan.removed.append(&mut removed);
        plan.stay_beside(&ground);
        Ok(plan)
    }

    /// Where files stay unless they are changed, those of the patches before the last stay, too.
    fn stay_beside(&mut self, ground: &Ground<'a>) {
        let known = self.companions.iter().map(OutCompanion::name);
        let known: BTreeSet<&str> =
            known.chain(self.removed.iter().map(|gone| gone.name)).collect();
        let mut stay = ground.carried_in_place();
        stay.retain(|carried| !known.contains(carried.file.record.name.as_str()));
        self.companions.extend(stay.into_iter().map(OutCompanion::Carried));
    }

    /// What one patch makes of what is there; its tensors are taken.
    fn step(ground: &mut Ground<'a>, patch: &'a Patch, policy: FilePolicy) -> Result<Self> {
        let mut plan = Plan {
            patch,
            is_directory: false,
            files: Vec::new(),
            tensors: Vec::new(),
            companions: Vec::new(),
            removed: Vec::new(),
            notes: Vec::new(),
            is_made: false,
            has_parts: ground.has_parts(patch),
        };
        let held = ground.take_tensors();
        let specs = specs_of(&held);
        let target = patched_tensors(held, patch)?;
        let fits = specs == specs_of(&target);
        let ground = &*ground;
        let is_nameless = |file: &FileEntry| file.record.name.is_empty();
        if patch.files().len() > 1 && patch.files().iter().any(is_nameless) {
            return Err(wrong_files(patch, "one file has no name, but the checkpoint has several"));
        }
        match policy {
            _ if patch.files().is_empty() => plan.own_files(ground, &target, fits)?,
            _ if ground.is_none() => plan.files_of_patch(ground, FilePolicy::Exact)?,
            FilePolicy::Keep => plan.own_files(ground, &target, fits)?,
            FilePolicy::Follow if !ground.has_files_of(patch)? => {
                plan.own_tensor_files(ground, &target, fits)?;
                plan.follow(ground)?;
            }
            policy => plan.files_of_patch(ground, policy)?,
        }
        plan.note_left_behind(ground);
        plan.name_tensors()?;
        plan.assign(target)?;
        Ok(plan)
    }

    /// Files as the patch describes them.
    fn files_of_patch(&mut self, ground: &Ground<'a>, policy: FilePolicy) -> Result<()> {
        let patch = self.patch;
        self.is_directory = patch.files().iter().any(|file| !file.record.name.is_empty());
        let mut carried = CarriedHeaders::default();
        for file in patch.files() {
            let record = &file.record;
            if record.kind == FileKind::Companion {
                match policy {
                    FilePolicy::Exact => self.exact_companion(ground, file)?,
                    _ => self.follow_companion(ground, file)?,
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
                ground.header(record).ok_or_else(|| ground.missing(patch, record))?.to_vec()
            };
            let header = FileHeader::parse(bytes, None)
                .map_err(|fault| wrong_files(patch, format!("'{}': {fault}", record.name)))?;
            self.files.push(OutFile { name: record.name.clone(), header });
        }
        Ok(())
    }

    /// A companion as the patch has it, and no other.
    fn exact_companion(&mut self, ground: &Ground<'a>, file: &'a FileEntry) -> Result<()> {
        let record = &file.record;
        let found = ground.companion(&record.name);
        match record.state {
            FileState::Kept => {
                let found = found.filter(|found| found.bytes() == record.bytes);
                let found = found.ok_or_else(|| ground.missing(self.patch, record))?;
                if matches!(found, Held::Carried(_)) && !found.has(record.content())? {
                    return Err(ground.missing(self.patch, record));
                }
                self.companions.push(found.kept(Some(record.content()), true));
            }
            FileState::Removed => {
                if let Some(found) = found {
                    self.removed_companion(found, record)?;
                }
            }
            _ => self.carry(ground, file, found, record.base()),
        }
        Ok(())
    }

    /// Takes a companion from the patch, in place of the one that is found and is `expected`.
    fn carry(
        &mut self,
        ground: &Ground<'a>,
        file: &'a FileEntry,
        found: Option<Held<'a>>,
        expected: Option<FileContent>,
    ) {
        let replaces = match found {
            Some(found) => found.in_checkpoint(expected),
            None => ground.removed(&file.record.name),
        };
        let carried = CarriedFile { patch: self.patch, file, replaces };
        self.companions.push(OutCompanion::Carried(carried));
    }

    /// A companion as the patch has it, unless the receiver has one of its own.
    fn follow_companion(&mut self, ground: &Ground<'a>, file: &'a FileEntry) -> Result<()> {
        let record = &file.record;
        let Some(found) = ground.companion(&record.name) else {
            match record.state {
                FileState::Removed => {}
                FileState::Kept => self.note(&record.name, Deviation::Missing),
                _ => self.carry(ground, file, None, None),
            }
            return Ok(());
        };
        let (name, content) = (found.name(), record.content());
        match record.state {
            FileState::Removed => self.removed_companion(found, record)?,
            FileState::Kept => {
                if matches!(found, Held::Carried(_)) && !found.has(content)? {
                    self.note(name, Deviation::Own);
                }
                self.companions.push(found.kept(Some(content), false));
            }
            // It leads to the files of the patch, which are those that are made. That a model has parts
            // is said by that file whatever is in it.
            _ if self.leads_to_tensors(name) && name != PIPELINE => {
                self.carry(ground, file, Some(found), record.base());
            }
            _ if found.has(content)? => self.companions.push(found.kept(Some(content), false)),
            FileState::Replaced(base) if found.has(base)? => {
                self.carry(ground, file, Some(found), Some(base));
            }
            _ => {
                self.note(name, Deviation::Own);
                self.companions.push(found.kept(None, false));
            }
        }
        Ok(())
    }

    fn removed_companion(&mut self, found: Held<'a>, record: &FileRecord) -> Result<()> {
        let (name, content) = (found.name(), record.content());
        if found.has(content)? {
            let content = found.in_checkpoint(Some(content));
            self.removed.push(RemovedCompanion { name, content });
        } else {
            self.note(name, Deviation::Removed);
        }
        Ok(())
    }

    /// The companions of the patch beside the receiver's own tensor files, and a note for each file
    /// that is not as the patch says.
    fn follow(&mut self, ground: &Ground<'a>) -> Result<()> {
        let patch = self.patch;
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
                None if self.leads_to_tensors(name) => self.own_index(ground, file)?,
                None => self.follow_companion(ground, file)?,
            }
        }
        let extra = if is_made { Deviation::Made } else { Deviation::OwnTensors };
        for name in own.keys().filter(|name| !listed.contains_key(name.as_str())) {
            self.note(name, extra);
        }
        if !is_made {
            for found in ground.companions() {
                if !self.leads_to_tensors(found.name()) {
                    continue;
                }
                if !listed.contains_key(found.name()) {
                    self.note(found.name(), Deviation::OwnTensors);
                }
                self.companions.push(found.kept(None, false));
            }
        }
        // A patch to a single file says nothing of what is beside it.
        if listed.contains_key("") {
            let has_parts = self.has_parts;
            self.own_companions(ground, |name| !leads_to_tensors(name, has_parts));
        }
        Ok(())
    }

    /// What to say of an index of the patch that is not in the output: it leads to other files.
    fn own_index(&mut self, ground: &Ground<'a>, file: &FileEntry) -> Result<()> {
        let record = &file.record;
        let found = ground.companion(&record.name).filter(|_| !self.is_made);
        match (found, record.state.is_in_target()) {
            (None, false) => {}
            (None, true) => self.note(&record.name, Deviation::Missing),
            (Some(found), true) if found.has(record.content())? => {}
            (Some(_), _) => self.note(&record.name, Deviation::Own),
        }
        Ok(())
    }

    /// Companions of the receiver that the patch does not know of are in no new output.
    fn note_left_behind(&mut self, ground: &Ground<'a>) {
        let listed = self.patch.files().iter().map(|file| file.record.name.as_str());
        let kept = self.companions.iter().map(OutCompanion::name);
        let known: BTreeSet<&str> = listed.chain(kept).collect();
        let own = ground.companions().into_iter().map(|own| own.name());
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
    fn own_files(
        &mut self,
        ground: &Ground<'a>,
        target: &[OutTensor<'_>],
        fits: bool,
    ) -> Result<()> {
        self.own_tensor_files(ground, target, fits)?;
        // An index leads to the files of before.
        let (is_made, has_parts) = (self.is_made, self.has_parts);
        self.own_companions(ground, |name| !is_made || !leads_to_tensors(name, has_parts));
        Ok(())
    }

    /// The tensor files of the receiver if the tensors have their places there, or else one that
    /// holds all of them.
    fn own_tensor_files(
        &mut self,
        ground: &Ground<'a>,
        target: &[OutTensor<'_>],
        fits: bool,
    ) -> Result<()> {
        self.is_directory = ground.is_directory();
        self.is_made = ground.is_none() || !fits;
        self.files = if self.is_made {
            let specs = target.iter().map(|tensor| (tensor.name, tensor.spec));
            let header = FileHeader::canonical(specs)?;
            let name = if self.is_directory { "model.safetensors" } else { "" };
            vec![OutFile { name: name.into(), header }]
        } else {
            ground.out_files()
        };
        Ok(())
    }

    fn own_companions(&mut self, ground: &Ground<'a>, wanted: impl Fn(&str) -> bool) {
        let own = ground.companions().into_iter().filter(|found| wanted(found.name()));
        self.companions.extend(own.map(|found| found.kept(None, false)));
    }

    /// Gives the tensors of the files the names that readers of the directory will find there.
    fn name_tensors(&mut self) -> Result<()> {
        let (names, patch) = (self.check_roles()?, self.patch);
        let mut headers: Vec<_> =
            self.files.iter_mut().map(|file| (file.name.as_str(), &mut file.header)).collect();
        name_tensors(&mut headers, &names).map_err(|SameTensor { tensor, .. }| {
            let what = format!("tensor '{tensor}' is in two files, and no index tells them apart");
            wrong_files(patch, what)
        })
    }

    /// Gives each tensor its place in the files; both must name the same tensors.
    fn assign(&mut self, target: Vec<OutTensor<'a>>) -> Result<()> {
        let patch = self.patch;
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
        staged: &Staged,
        files: &mut Vec<DiskFile>,
    ) -> Result<Vec<FileNote>> {
        self.with_notes(|companion| {
            let mut created = staged.create(companion.name(), 0)?;
            let is_expected = companion.copy_to(&created)?;
            if is_crowded(self.files.len() + self.companions.len()) {
                created.park().map_err(failed("closing", created.path()))?;
            }
            files.push(created);
            Ok(is_expected)
        })
    }

    /// Reads the companions; gives back all notes.
    pub fn check_companions(&self) -> Result<Vec<FileNote>> {
        self.with_notes(|companion| companion.for_each_chunk(|_| Ok(())))
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
    fn check_roles(&self) -> Result<Names> {
        self.check_roles_beside(Path::new(""), &[]).map(|layout| layout.names)
    }

    /// As `check_roles`, in a directory in which other files stay.
    pub fn check_roles_beside(&self, directory: &Path, others: &[String]) -> Result<Layout<()>> {
        let patch = self.patch;
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
            found.for_each_chunk(|chunk| {
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
