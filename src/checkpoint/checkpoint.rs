//! A checkpoint on disk: one safetensors file, or a directory of them with its companions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::index::leads_to_tensors;
use crate::checkpoint::layout::{is_tensors, Found, Layout, LeftOut, Reason};
use crate::checkpoint::names::{name_tensors, SameTensor};
use crate::checkpoint::safetensors::{FileTensor, TensorFile};
use crate::checkpoint::tree::base;
use crate::digest::Digest;
use crate::disk::lock::{Access, LockFile, Locked};
use crate::disk::old_journal;
use crate::disk::staged::{failed, parent};
use crate::disk::stamp::Stamp;
use crate::disk::system::is_crowded;
use crate::disk::Disk;
use crate::dtype::TensorSpec;
use crate::error::{Change, Error, FileFault, Result};
use crate::tensors::pieces::digests;
use crate::tensors::source::no_tensor;
use crate::tensors::Control;
use crate::tensors::TensorSource;

/// A tensor of a checkpoint, and where its bytes are.
#[derive(Debug, Clone)]
pub struct CheckpointTensor {
    spec: TensorSpec,
    file: usize,
    offset: u64,
}

impl CheckpointTensor {
    /// Dtype and shape.
    #[must_use]
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }
}

/// A regular file of a checkpoint directory that holds no tensors.
#[derive(Debug, Clone)]
pub(crate) struct Companion {
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    stamp: Stamp,
    /// Why it is left out unless someone wants it.
    usual: Option<Reason>,
}

/// A checkpoint opened for reading.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// let mut file = (json.len() as u64).to_le_bytes().to_vec();
/// file.extend_from_slice(json);
/// file.extend_from_slice(b"abc");
/// std::fs::write(&path, file).unwrap();
///
/// let checkpoint = pulse::Checkpoint::open(&path)?;
/// let tensor = checkpoint.tensor("w").unwrap();
/// let mut bytes = vec![0; 2];
/// checkpoint.read_at(tensor, 1, &mut bytes)?;
/// assert_eq!(bytes, b"bc");
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pub(crate) files: Vec<TensorFile>,
    pub(crate) companions: Vec<Companion>,
    pub(crate) is_directory: bool,
    tensors: BTreeMap<String, CheckpointTensor>,
    /// Companions that are left out, in the order of names.
    spare: Vec<Companion>,
    left_out: Vec<LeftOut>,
    absent: Vec<String>,
    /// Held while it is changed, where files cannot be locked.
    lock: Option<LockFile>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file or a directory of them and validates every header.
    ///
    /// With an index file (`model.safetensors.index.json`), the tensor files are those that it
    /// names; without one, all `.safetensors` files. Other regular files are companions, but for
    /// those that [`left_out`](Self::left_out) lists with a reason each.
    ///
    /// # Errors
    /// [`Error::BadFile`] says what is wrong with which file, [`Error::Interrupted`] that an update
    /// was, [`Error::Busy`] that one is running, [`Error::Io`] what cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let canonical = fs::canonicalize(path).map_err(failed("opening", path))?;
        if let Some(journal) = old_journal::find(&canonical) {
            return Err(Error::Interrupted { path: path.into(), journal, is_there: true });
        }
        Self::open_on(path, &Disk::default(), Access::Read)
    }

    /// As `open`, locked for this access.
    pub(crate) fn open_on(path: &Path, disk: &Disk, access: Access) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| Error::io_at("opening", path, error))?;
        let mut checkpoint = Self::empty(path, metadata.is_dir());
        let opened = if metadata.is_dir() {
            checkpoint.open_directory(disk, access)
        } else {
            let opened = checkpoint.open_file(path, "", disk, access);
            opened.and_then(|()| checkpoint.collect_tensors())
        };
        opened.map(|()| checkpoint)
    }

    fn empty(path: &Path, is_directory: bool) -> Self {
        Checkpoint {
            path: path.into(),
            files: Vec::new(),
            companions: Vec::new(),
            is_directory,
            tensors: BTreeMap::new(),
            spare: Vec::new(),
            left_out: Vec::new(),
            absent: Vec::new(),
            lock: None,
        }
    }

    /// What is held where files cannot be locked, for as long as the checkpoint is changed.
    pub(crate) fn take_lock(&mut self) -> Option<LockFile> {
        self.lock.take()
    }

    /// A checkpoint of tensor files that are open, in the order of their names, whatever else is beside
    /// them. Their tensors have their names in the checkpoint.
    pub(crate) fn of_files(path: &Path, files: Vec<TensorFile>) -> Result<Self> {
        let mut checkpoint = Self::empty(path, false);
        checkpoint.files = files;
        checkpoint.collect_tensors()?;
        Ok(checkpoint)
    }

    fn open_directory(&mut self, disk: &Disk, access: Access) -> Result<()> {
        let layout = Layout::read(&self.path)?;
        let is_crowded = access == Access::Read && is_crowded(layout.tensors.len());
        for (name, _) in layout.tensors {
            self.open_file(&self.path.join(&name), &name, disk, access)?;
            if let (true, Some(file)) = (is_crowded, self.files.last_mut()) {
                file.park()?;
            }
        }
        let mut headers: Vec<_> =
            self.files.iter_mut().map(|file| (file.name.as_str(), &mut file.header)).collect();
        name_tensors(&mut headers, &layout.names)
            .map_err(|SameTensor { tensor, file, other }| self.same_tensor(tensor, file, other))?;
        self.collect_tensors()?;
        let companion = |name: String, Found { stamp, bytes }, usual| {
            let path = self.path.join(&name);
            Companion { name, path, bytes, stamp, usual }
        };
        let named = layout.companions.into_iter().map(|(name, found)| companion(name, found, None));
        let spare = layout.spare.into_iter();
        self.spare = named
            .chain(spare.map(|(name, found, why)| companion(name, found, Some(why))))
            .collect();
        self.left_out = layout.left_out;
        self.select(|_, reason| reason.is_none());
        let mut absent: Vec<String> = layout.names.indexed().collect();
        absent.retain(|tensor| !self.tensors.contains_key(tensor));
        self.absent = absent;
        Ok(())
    }

    fn open_file(&mut self, path: &Path, name: &str, disk: &Disk, access: Access) -> Result<()> {
        let (file, locked) = TensorFile::open(path, name, disk, access)?;
        if (locked, access) == (Locked::Unsupported, Access::Change) && self.lock.is_none() {
            self.lock = Some(LockFile::take(parent(path), disk)?);
        }
        self.files.push(file);
        Ok(())
    }

    /// Finds the tensors of the files, whose names are those in the checkpoint by now.
    fn collect_tensors(&mut self) -> Result<()> {
        for (number, file) in self.files.iter().enumerate() {
            for tensor in &file.header.tensors {
                let (spec, offset) = (tensor.spec.clone(), tensor.offset);
                let entry = CheckpointTensor { spec, file: number, offset };
                if let Some(other) = self.tensors.insert(tensor.name.clone(), entry) {
                    return Err(self.same_tensor(tensor.name.clone(), number, other.file));
                }
            }
        }
        Ok(())
    }

    fn same_tensor(&self, tensor: String, file: usize, other: usize) -> Error {
        let fault = FileFault::DuplicateTensor { tensor, other: self.files[other].name.clone() };
        Error::bad_file(self.files[file].path(), fault)
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &CheckpointTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&CheckpointTensor> {
        self.tensors.get(name)
    }

    /// Tensor bytes of the checkpoint.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        // Sparse files can claim more than there is room for in 64 bits.
        self.tensors.values().map(|tensor| tensor.spec.bytes()).fold(0, u64::saturating_add)
    }

    /// Size of all files of the checkpoint.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let tensors = self.files.iter().map(|file| file.header.file_bytes);
        tensors
            .chain(self.companions.iter().map(|companion| companion.bytes))
            .fold(0, u64::saturating_add)
    }

    /// Number of tensor files and companions.
    pub(crate) fn file_count(&self) -> u64 {
        (self.files.len() + self.companions.len()) as u64
    }

    /// Names of the files with tensors; that of a single file is empty.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("model.safetensors");
    /// # std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    /// use pulse::Checkpoint;
    /// assert!(Checkpoint::open(dir.path())?.tensor_files().eq(["model.safetensors"]));
    /// assert!(Checkpoint::open(&path)?.tensor_files().eq([""]));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn tensor_files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }

    /// What is in the directory and is not part of the checkpoint, in the order of names:
    /// subdirectories, hidden files, trainer state and the like.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Chooses which files beside the tensors belong to the checkpoint. `wanted` is asked for each
    /// that could, by its name and the reason for which it is left out otherwise.
    ///
    /// ```no_run
    /// # let mut checkpoint = pulse::Checkpoint::open("run/step_41")?;
    /// // The weights alone.
    /// checkpoint.select_weights();
    /// // What usually travels, without a large log.
    /// checkpoint.select(|name, reason| reason.is_none() && name != "train.log");
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn select(&mut self, wanted: impl Fn(&str, Option<Reason>) -> bool) {
        let mut all = std::mem::take(&mut self.companions);
        all.append(&mut self.spare);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        self.left_out.retain(|out| all.binary_search_by(|file| file.name.cmp(&out.name)).is_err());
        for file in all {
            if wanted(&file.name, file.usual) {
                self.companions.push(file);
            } else {
                let (name, reason) = (file.name.clone(), file.usual.unwrap_or(Reason::Excluded));
                self.left_out.push(LeftOut { name, reason });
                self.spare.push(file);
            }
        }
        self.left_out.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Leaves out all files but those with tensors, and those that say which tensors are where, if
    /// readers would not find the same tensors without them.
    pub fn select_weights(&mut self) {
        let has_parts = self.files.iter().any(|file| file.name.contains('/'));
        let by_suffix = |file: &TensorFile| {
            let is_qualified = |tensor: &FileTensor| tensor.prefix_bytes > file.name.len();
            is_tensors(base(&file.name)) && !file.header.tensors.iter().any(is_qualified)
        };
        let needs_index = has_parts || !self.files.iter().all(by_suffix);
        self.select(|name, reason| {
            reason.is_none() && needs_index && leads_to_tensors(name, has_parts)
        });
    }

    /// Tensors that the index lists although no file has them, in the order of names.
    #[must_use]
    pub fn absent(&self) -> &[String] {
        &self.absent
    }

    /// Reads bytes of a tensor of this checkpoint, from `offset` within the tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`] beyond the end of the tensor, [`Error::Io`].
    pub fn read_at(&self, tensor: &CheckpointTensor, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= tensor.spec.bytes());
        let (Some(_), Some(file)) = (end, self.files.get(tensor.file)) else {
            return Err(Error::misuse(format!(
                "{} bytes at {offset} lie beyond the end of a tensor of {} bytes",
                buffer.len(),
                tensor.spec.bytes()
            )));
        };
        file.read_at(buffer, tensor.offset + offset)
    }

    /// Number of the file that holds a tensor, and the offset of its bytes there.
    pub(crate) fn place(&self, name: &str) -> Option<(usize, u64)> {
        self.tensor(name).map(|tensor| (tensor.file, tensor.offset))
    }

    /// The tensor file of this name.
    pub(crate) fn file(&self, name: &str) -> Option<&TensorFile> {
        // In the order of names, as the directory was read.
        let at = self.files.binary_search_by(|file| file.name.as_str().cmp(name));
        at.ok().map(|at| &self.files[at])
    }

    /// The path of a file of it, also if there is none; the name of a single file is empty.
    pub(crate) fn file_path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.path().to_path_buf()
        } else {
            self.path().join(name)
        }
    }

    /// Whether the directory has a file of this name, whatever it is to the checkpoint, or may have one
    /// where nobody looked.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.file(name).is_some()
            || self.companion(name).is_some()
            || self.is_left_out(name)
            || name.match_indices('/').any(|(end, _)| self.is_left_out(&name[..end]))
    }

    fn is_left_out(&self, name: &str) -> bool {
        self.left_out.binary_search_by(|out| out.name.as_str().cmp(name)).is_ok()
    }

    /// The companion of this name, also if it is left out here: the patch may mean it.
    pub(crate) fn companion(&self, name: &str) -> Option<&Companion> {
        [&self.companions, &self.spare].into_iter().find_map(|files| {
            let at = files.binary_search_by(|file| file.name.as_str().cmp(name));
            at.ok().map(|at| &files[at])
        })
    }
}

impl Checkpoint {
    /// The checkpoint digest (SPEC.md §5).
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn digest(&self, control: Control<'_>) -> Result<Digest> {
        digests(self, control, |_, _, _| {})
    }
}

impl TensorSource for Checkpoint {
    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        Checkpoint::tensors(self).map(|(name, tensor)| (name, tensor.spec())).collect()
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        self.tensor(name).map(|tensor| tensor.spec())
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let tensor = self.tensor(name).ok_or_else(|| no_tensor(name))?;
        self.read_at(tensor, start, buffer)
    }

    fn check_unchanged(&self) -> Result<()> {
        for file in &self.files {
            file.check_unchanged()?;
        }
        for companion in &self.companions {
            companion.stamp.check(&companion.path, None)?;
        }
        if self.is_directory {
            // Another shard is as much of a change as another byte.
            let now = Layout::read(&self.path)?;
            let tensors = self.files.iter().map(|file| &file.name);
            let all = self.companions.iter().chain(&self.spare);
            let mut companions: Vec<_> =
                all.filter(|file| file.usual.is_none()).map(|file| &file.name).collect();
            companions.sort_unstable();
            if !tensors.eq(now.tensors.iter().map(|(name, _)| name))
                || !companions.into_iter().eq(now.companions.iter().map(|(name, _)| name))
            {
                return Err(Error::Changed { path: self.path.clone(), how: Change::Files });
            }
        }
        Ok(())
    }
}
