//! What a checkpoint is whose update was interrupted: proved by its digests before anything is written.
//!
//! Names, ids and records say what may be touched, never what is true: a file may have been moved,
//! copied back or fetched again since.

use std::slice;
use std::sync::Arc;

use crate::checkpoint::safetensors::{FileHeader, TensorFile};
use crate::checkpoint::Checkpoint;
use crate::disk::mark::Mark;
use crate::disk::staged::failed;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::hash::Sha;
use crate::limits::Limits;
use crate::patch::{Chain, Patch};
use crate::tensors::target::{build, target_tensors, OutTensor};
use crate::tensors::Control;
use crate::update::pending::{content_of, read_head, Found, Pending, Side, BACK};
use crate::update::record::{Head, Way};

/// Where an update can go.
#[derive(Debug)]
pub(super) enum Verdict {
    /// All files are the target's, or can be made so.
    Forward,
    /// All files are the base's, or can be made so.
    Back {
        /// Bytes were overwritten, and must be put back.
        torn: bool,
    },
    /// No file bears the mark, and they are neither: the journal is of files that are not here.
    Inert,
    /// Some bear the mark, and there is no way that can be proved.
    Stuck { forward: String, back: String },
}

/// What was proved, or why it cannot be.
type Proof<T> = Result<std::result::Result<T, String>>;

/// Leaves a function that proves something.
macro_rules! disproved {
    ($($what:tt)*) => { return Ok(Err(format!($($what)*))) };
}

impl Pending {
    /// Decides by the bytes of all files; nothing is written. Where both ways are open, as they are when
    /// all is written that an undo would take back, it is `first`.
    pub fn judge(&self, first: Side, control: Control<'_>) -> Result<Verdict> {
        let back_first = first == Side::Base;
        let mut reasons = [String::new(), String::new()];
        for side in if back_first { [Side::Base, Side::Target] } else { [Side::Target, Side::Base] }
        {
            let proof = match side {
                Side::Target => self.prove_target(control)?.map(|()| Verdict::Forward),
                Side::Base => self.prove_base(control)?.map(|torn| Verdict::Back { torn }),
            };
            match proof {
                Ok(verdict) => return Ok(verdict),
                Err(why) => reasons[usize::from(side == Side::Base)] = why,
            }
        }
        let [forward, back] = reasons;
        Ok(if self.is_marked()? { Verdict::Stuck { forward, back } } else { Verdict::Inert })
    }

    /// Whether a file that has its name bears the mark.
    pub fn is_marked(&self) -> Result<bool> {
        for file in self.members.iter().filter_map(|member| member.named()) {
            if self.has_mark(file)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub fn has_mark(&self, file: &DiskFile) -> Result<bool> {
        let head = read_head(file).map_err(failed("reading", file.path()))?;
        Ok(Mark::of(head) == Some(self.mark))
    }

    /// That all files are the target's once the marks are gone, and what is staged has its name.
    pub fn prove_target(&self, control: Control<'_>) -> Proof<()> {
        let files = match self.target_files()? {
            Ok(files) => files,
            Err(what) => return Ok(Err(what)),
        };
        let found = self.checkpoint(files)?.digest(control)?;
        if found != self.record.target.digest {
            disproved!("the target has digest {}, found {found}", self.record.target.digest);
        }
        // Marks go when companions have changed. Where tensors do not tell base from target, companions do.
        if !self.is_marked()? && found != self.record.base.digest {
            return Ok(Ok(()));
        }
        self.prove_companions(Side::Target)
    }

    /// The files of the target, with the headers that they should have.
    pub fn target_files(&self) -> Proof<Vec<TensorFile>> {
        let mut files = Vec::new();
        let is_marked = self.is_marked()?;
        for (record, member) in self.record.tensors.iter().zip(&self.members) {
            let (name, waits) = (&record.name, record.staged.is_some() && !member.replaced);
            if let (true, Some(old)) = (waits || record.target.is_none(), &member.old) {
                if record.base.is_none() || !self.has_mark(old)? {
                    disproved!("'{name}' is another file than the one that was to be replaced");
                }
            }
            // The marks go last: without any, nothing waits any more.
            if waits && !is_marked {
                disproved!("no file is marked, and '{name}' is not in its place");
            }
            let Some(head) = &record.target else { continue };
            let Some(file) = member.of_target(record.staged.is_some()) else {
                disproved!("'{name}' is not there")
            };
            match self.header(file, head)? {
                Ok(header) => files.push(self.member(name, head, header, file)?),
                Err(what) => disproved!("'{name}' {what}"),
            }
        }
        Ok(Ok(files))
    }

    /// That all files are the base's once the marks are gone, and whether bytes must be put back before.
    fn prove_base(&self, control: Control<'_>) -> Proof<bool> {
        let files = match self.base_files(None)? {
            Ok(files) => files,
            Err(what) => return self.prove_undone(control, what),
        };
        let found = self.checkpoint(files)?.digest(control)?;
        if found == self.record.base.digest {
            return Ok(self.prove_companions(Side::Base)?.map(|()| false));
        }
        let what = format!("the base has digest {}, found {found}", self.record.base.digest);
        self.prove_undone(control, what)
    }

    /// That the base can be made of what was overwritten, if anything was; if not, it is not the base
    /// because of `what`.
    fn prove_undone(&self, control: Control<'_>, what: String) -> Proof<bool> {
        if self.record.way == Way::Redo {
            return Ok(Err(what));
        }
        let undo = match self.open_undo() {
            Ok(undo) => undo,
            Err(error) if is_absent(&error) => disproved!("{error}"),
            Err(error) => return disproof(error).map(Err),
        };
        let torn = match self.base_files(Some(&undo))? {
            Ok(files) => self.checkpoint(files)?,
            Err(what) => return Ok(Err(what)),
        };
        let chain = Chain::new(slice::from_ref(&undo))?;
        let tensors = match self.undo_tensors(&torn, &chain) {
            Ok(tensors) => tensors,
            Err(error) => return disproof(error).map(Err),
        };
        match build(&tensors, Some(&torn), &chain, None, control) {
            Ok(()) if undo.footer().target == self.record.base.digest => {
                Ok(self.prove_companions(Side::Base)?.map(|()| true))
            }
            Ok(()) => disproved!("the patch that leads back is of another base"),
            Err(error) => disproof(error).map(Err),
        }
    }

    pub fn open_undo(&self) -> Result<Patch> {
        Patch::open_on(&self.place(&self.mark.file(BACK)), Limits::default(), &self.disk)
    }

    /// The tensors of the base, each with its place. A file without the mark is not written to: it must
    /// be the base's as it is.
    pub fn undo_tensors<'a>(
        &self,
        torn: &'a Checkpoint,
        undo: &Chain<'a>,
    ) -> Result<Vec<OutTensor<'a>>> {
        let mut tensors = target_tensors(Some(torn), undo)?;
        let marked: Vec<bool> =
            torn.files.iter().map(|file| self.has_mark(file.disk_file())).collect::<Result<_>>()?;
        for tensor in &mut tensors {
            (tensor.file, tensor.offset) = torn.place(tensor.name).unwrap_or_default();
            if !marked[tensor.file] {
                tensor.links.clear();
            }
        }
        Ok(tensors)
    }

    /// The files of the base under their names; the headers of those that were overwritten come from
    /// the patch that leads back.
    pub fn base_files(&self, undo: Option<&Patch>) -> Proof<Vec<TensorFile>> {
        let mut files = Vec::new();
        for (record, member) in self.record.tensors.iter().zip(&self.members) {
            let name = &record.name;
            // Where what was staged is gone, this is the new file or still the old one: bytes tell.
            let (file, head) = match (member.named(), &record.base) {
                (Some(file), Some(head)) => (file, head),
                (None, Some(_)) => disproved!("'{name}' is not there"),
                (Some(_), None) => disproved!("'{name}' is there already"),
                (None, None) => continue,
            };
            let carried = match undo {
                Some(undo) if self.has_mark(file)? => self.carried_header(undo, name)?,
                _ => None,
            };
            let header = match carried {
                Some(bytes) => self.parsed(file, head, bytes)?,
                None => self.header(file, head)?,
            };
            match header {
                Ok(header) => files.push(self.member(name, head, header, file)?),
                Err(what) => disproved!("'{name}' {what}"),
            }
        }
        Ok(Ok(files))
    }

    /// The header of a file in the patch that leads back, if it changes.
    pub fn carried_header(&self, undo: &Patch, name: &str) -> Result<Option<Vec<u8>>> {
        let own = if self.record.directory { name } else { "" };
        let found =
            undo.files().iter().find(|file| file.record.name == own && !file.data.is_empty());
        let Some(found) = found else { return Ok(None) };
        let mut bytes = Vec::new();
        undo.for_each_data(found, |data| {
            bytes.extend_from_slice(data);
            Ok(())
        })?;
        Ok(Some(bytes))
    }

    /// The header of a file, which is the recorded one, or what differs.
    fn header(&self, file: &DiskFile, head: &Head) -> Proof<FileHeader> {
        let first = read_head(file).map_err(failed("reading", file.path()))?;
        if Mark::of(first) != Some(self.mark) && first != head.first() {
            return Ok(Err("is another file".into()));
        }
        let bytes = file.metadata().map_err(failed("reading", file.path()))?.len();
        match FileHeader::read_marked(file, head.first(), bytes) {
            Ok(header) if Sha::of(&[&header.bytes]) == head.header && bytes == head.bytes => {
                Ok(Ok(header))
            }
            Ok(_) => Ok(Err("has another header".into())),
            Err(Error::BadFile { fault, .. }) => Ok(Err(format!("has another header: {fault}"))),
            Err(error) => Err(error),
        }
    }

    fn parsed(&self, file: &DiskFile, head: &Head, header: Vec<u8>) -> Proof<FileHeader> {
        let bytes = file.metadata().map_err(failed("reading", file.path()))?.len();
        if Sha::of(&[&header]) != head.header || bytes != head.bytes {
            return Ok(Err("has another header".into()));
        }
        Ok(FileHeader::parse(header, Some(bytes)).map_err(|fault| fault.to_string()))
    }

    fn member(
        &self,
        name: &str,
        head: &Head,
        mut header: FileHeader,
        file: &Arc<DiskFile>,
    ) -> Result<TensorFile> {
        header.set_prefixes(|tensor| {
            let is_qualified = head.qualified.contains(&format!("{name}/{tensor}"));
            if is_qualified {
                name
            } else {
                ""
            }
        });
        let name = if self.record.directory { name } else { "" };
        TensorFile::with_header(name, header, file.clone())
    }

    pub fn checkpoint(&self, files: Vec<TensorFile>) -> Result<Checkpoint> {
        Checkpoint::of_files(&self.directory, files)
    }

    /// That each companion is right, or can be made so; one that is someone's own stays.
    fn prove_companions(&self, side: Side) -> Proof<()> {
        for companion in &self.record.companions {
            let name = &companion.name;
            let found = content_of(&self.place(name))?;
            let [base, target] = [companion.base, companion.target].map(Found::of);
            if side == Side::Base && found == target {
                disproved!("'{name}' was changed already");
            }
            let waits = side == Side::Target && found == base && companion.target.is_some();
            if waits && content_of(&self.staged(companion.number))? != target {
                disproved!("'{name}' cannot be made: its new bytes are not there");
            }
        }
        Ok(Ok(()))
    }
}

/// What an error disproves; those of the system say nothing of what the files are.
fn disproof(error: Error) -> Result<String> {
    match error {
        Error::Io { .. } | Error::Cancelled => Err(error),
        error => Ok(error.to_string()),
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
