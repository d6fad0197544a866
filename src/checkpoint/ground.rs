//! What a patch is applied to: a checkpoint, or what the patches before it make of one.

use std::collections::BTreeMap;

use crate::checkpoint::checkpoint::Companion;
use crate::checkpoint::companions::{CarriedFile, OutCompanion, RemovedCompanion};
use crate::checkpoint::index::{leads_to_tensors, PIPELINE};
use crate::checkpoint::plan::{OutFile, Plan};
use crate::checkpoint::safetensors::FileHeader;
use crate::checkpoint::Checkpoint;
use crate::dtype::TensorSpec;
use crate::error::{Error, FileFault, Result};
use crate::patch::chain::broken;
use crate::patch::{FileEntry, Patch};
use crate::tensors::target::{base_tensors, OutTensor};
use crate::wire::{FileContent, FileKind, FileRecord, FileState};

/// A companion that is there before a patch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held<'a> {
    /// A file of the checkpoint.
    Own(&'a Companion),
    /// A patch before carries it.
    Carried(CarriedFile<'a>),
}

impl<'a> Held<'a> {
    pub fn name(&self) -> &'a str {
        match self {
            Held::Own(found) => &found.name,
            Held::Carried(carried) => &carried.file.record.name,
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Held::Own(found) => found.bytes,
            Held::Carried(carried) => carried.file.record.bytes,
        }
    }

    /// Whether the file has this content; it is read only if nothing else tells.
    pub fn has(&self, content: FileContent) -> Result<bool> {
        match self {
            Held::Own(found) => found.has(content),
            Held::Carried(carried) => Ok(carried.file.record.content() == content),
        }
    }

    /// What is at this name in the checkpoint, if the companion is the `expected` one.
    pub fn in_checkpoint(&self, expected: Option<FileContent>) -> Option<FileContent> {
        match self {
            Held::Own(_) => expected,
            Held::Carried(carried) => carried.replaces,
        }
    }

    /// The companion stays as it is.
    pub fn kept(self, expected: Option<FileContent>, exact: bool) -> OutCompanion<'a> {
        match self {
            Held::Own(found) => OutCompanion::Kept { found, expected, exact },
            Held::Carried(carried) => OutCompanion::Carried(carried),
        }
    }
}

/// What the patches so far make.
#[derive(Debug)]
struct Made<'a> {
    /// The last of them.
    patch: &'a Patch,
    is_directory: bool,
    files: Vec<OutFile>,
    tensors: Vec<OutTensor<'a>>,
    companions: BTreeMap<&'a str, Held<'a>>,
    /// Companions that are here no more, and what is at these names in the checkpoint.
    removed: BTreeMap<&'a str, Option<FileContent>>,
}

/// What a patch of a chain is applied to.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    checkpoint: Option<&'a Checkpoint>,
    /// Companions of the checkpoint that no patch speaks of stay beside what is made.
    in_place: bool,
    made: Option<Made<'a>>,
}

impl<'a> Ground<'a> {
    pub fn new(checkpoint: Option<&'a Checkpoint>, in_place: bool) -> Self {
        Ground { checkpoint, in_place, made: None }
    }

    /// What `patch` makes of it, as it was planned.
    pub fn after(&mut self, patch: &'a Patch, plan: Plan<'a>) {
        let before = self.made.take().filter(|_| self.in_place);
        let (mut companions, mut removed) =
            before.map(|made| (made.companions, made.removed)).unwrap_or_default();
        for RemovedCompanion { name, content } in plan.removed {
            companions.remove(name);
            removed.insert(name, content);
        }
        for companion in &plan.companions {
            let held = match *companion {
                OutCompanion::Carried(carried) => Held::Carried(carried),
                OutCompanion::Kept { found, .. } => Held::Own(found),
            };
            removed.remove(held.name());
            companions.insert(held.name(), held);
        }
        let Plan { is_directory, files, tensors, .. } = plan;
        self.made = Some(Made { patch, is_directory, files, tensors, companions, removed });
    }

    /// Whether there is nothing, as before a snapshot.
    pub fn is_none(&self) -> bool {
        self.checkpoint.is_none() && self.made.is_none()
    }

    pub fn is_directory(&self) -> bool {
        match &self.made {
            Some(made) => made.is_directory,
            None => self.checkpoint.is_some_and(|base| base.is_directory),
        }
    }

    /// Its tensors, in the order of their names; asked for once.
    pub fn take_tensors(&mut self) -> Vec<OutTensor<'a>> {
        match &mut self.made {
            Some(made) => std::mem::take(&mut made.tensors),
            None => self.checkpoint.map(|base| base_tensors(base)).unwrap_or_default(),
        }
    }

    /// Names and headers of its tensor files, in the order of names.
    fn files(&self) -> Box<dyn Iterator<Item = (&str, &FileHeader)> + '_> {
        match &self.made {
            Some(made) => Box::new(made.files.iter().map(|file| (&*file.name, &file.header))),
            None => {
                let files = self.checkpoint.iter().flat_map(|base| &base.files);
                Box::new(files.map(|file| (&*file.name, &file.header)))
            }
        }
    }

    pub fn out_files(&self) -> Vec<OutFile> {
        let out = |(name, header): (&str, &FileHeader)| OutFile {
            name: name.into(),
            header: header.clone(),
        };
        self.files().map(out).collect()
    }

    /// The header of the file of the same name, if it is the recorded one.
    pub fn header(&self, record: &FileRecord) -> Option<&[u8]> {
        let header = match &self.made {
            Some(made) => &made.files.iter().find(|file| file.name == record.name)?.header,
            None => &self.checkpoint?.file(&record.name)?.header,
        };
        (FileContent::of(&header.bytes) == record.content()).then_some(header.bytes.as_slice())
    }

    /// Whether tensor files lie in subdirectories, of these or of the target of a patch.
    pub fn has_parts(&self, patch: &Patch) -> bool {
        let files = patch.files().iter().map(|file| &file.record);
        let of_patch = files.filter(|record| record.kind == FileKind::Tensors);
        let own = self.files().map(|(name, _)| name);
        own.chain(of_patch.map(|record| record.name.as_str())).any(|name| name.contains('/'))
    }

    /// The companion of this name, also one that the checkpoint leaves out: the patch may mean it.
    pub fn companion(&self, name: &str) -> Option<Held<'a>> {
        let own = || self.checkpoint.and_then(|base| base.companion(name)).map(Held::Own);
        match &self.made {
            None => own(),
            Some(made) => match made.companions.get(name) {
                Some(held) => Some(*held),
                None if self.in_place && !made.removed.contains_key(name) => own(),
                None => None,
            },
        }
    }

    /// Its companions, in the order of their names.
    pub fn companions(&self) -> Vec<Held<'a>> {
        let own = self.checkpoint.filter(|_| self.made.is_none() || self.in_place);
        let own = own.iter().flat_map(|base| &base.companions).map(|found| found.name.as_str());
        let made = self.made.iter().flat_map(|made| made.companions.keys().copied());
        let mut names: Vec<&str> = own.chain(made).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.companion(name)).collect()
    }

    /// Where files stay: companions that patches so far carry.
    pub fn carried_in_place(&self) -> Vec<CarriedFile<'a>> {
        let made = self.made.as_ref().filter(|_| self.in_place);
        let held = made.into_iter().flat_map(|made| made.companions.values());
        let carried = held.filter_map(|held| match held {
            Held::Carried(carried) => Some(*carried),
            Held::Own(_) => None,
        });
        carried.collect()
    }

    /// What the checkpoint has at the name of a companion that was removed.
    pub fn removed(&self, name: &str) -> Option<FileContent> {
        self.made.as_ref()?.removed.get(name).copied().flatten()
    }

    /// All companions that were removed so far.
    pub fn all_removed(&self) -> Vec<RemovedCompanion<'a>> {
        let removed = self.made.iter().flat_map(|made| &made.removed);
        removed.map(|(&name, &content)| RemovedCompanion { name, content }).collect()
    }

    /// A file that the patch takes from what is here is not here, or another one.
    pub fn missing(&self, patch: &Patch, record: &FileRecord) -> Error {
        let FileRecord { name, bytes, sha256, .. } = record.clone();
        if let Some(made) = &self.made {
            let what = format!(
                "it takes the file '{name}' ({bytes} bytes, SHA-256 {sha256}) of its base, but the other does not lead to it"
            );
            return broken(made.patch, patch, what);
        }
        let wants_directory = !name.is_empty();
        let base = self.checkpoint;
        if let Some(base) = base.filter(|base| base.is_directory != wants_directory) {
            let fault =
                if wants_directory { FileFault::WantsDirectory } else { FileFault::WantsFile };
            return Error::bad_file(base.path(), fault);
        }
        Error::BaseFile { path: base.map(|base| base.file_path(&name)), name, bytes, sha256 }
    }

    /// Whether it has all that the files of the patch need of it: headers, and what leads to them.
    pub fn has_files_of(&self, patch: &Patch) -> Result<bool> {
        let has_parts = self.has_parts(patch);
        for FileEntry { record, .. } in patch.files() {
            let is_there = match record.kind {
                _ if record.state != FileState::Kept => true,
                FileKind::Tensors => self.header(record).is_some(),
                FileKind::Companion if leads_to_tensors(&record.name, has_parts) => {
                    match self.companion(&record.name) {
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
}

/// Names and specs of tensors.
pub(crate) fn specs_of<'a>(tensors: &[OutTensor<'a>]) -> Vec<(&'a str, &'a TensorSpec)> {
    tensors.iter().map(|tensor| (tensor.name, tensor.spec)).collect()
}
