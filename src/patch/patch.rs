//! A patch file read through once: what is in it, where, and whether all of it is right.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::coding::BlockDecoder;
#[cfg(feature = "checkpoint")]
use crate::coding::Coding;
use crate::digest::Digest;
use crate::disk::{content, Disk};
use crate::error::{Corrupt, Error, Fault, Made, Result};
use crate::limits::Limits;
#[cfg(feature = "checkpoint")]
use crate::limits::{check_expansion, CHANGE_BYTES};
use crate::patch::inventory::Depth;
use crate::patch::{FileEntry, Inventory, LocalFile, ReadAt, TensorEntry};
use crate::stream::{Block, Place, TrustedBase};
use crate::tag::Tag;
use crate::wire::{self, Footer, Header};

/// Bytes that are copied at once.
const COPIED_BYTES: u64 = 1 << 20;

/// Names the file, and says what it is if it is no patch.
fn recognised(path: &Path, error: Error) -> Error {
    match error.in_file(Some(path)) {
        Error::Corrupt(mut corrupt) => {
            if corrupt.offset == 0 {
                corrupt.content = content::look(path);
            }
            Error::Corrupt(corrupt)
        }
        other => other,
    }
}

/// Where the bytes of a patch are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(Arc<LocalFile>),
    Memory(Arc<Vec<u8>>),
}

/// A patch of which every byte was read and found right: a file, or bytes in memory.
///
/// A clone is another handle of the same patch: it copies neither bytes nor inventory.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Where it was opened; `None` if it is in memory.
    path: Option<PathBuf>,
    source: Source,
    limits: Limits,
    header: Header,
    footer: Footer,
    map: Arc<Inventory>,
    by_name: Arc<HashMap<String, usize>>,
}

impl Patch {
    pub(super) fn scan_file(
        path: &Path,
        limits: &Limits,
        depth: Depth,
        disk: &Disk,
    ) -> Result<(Inventory, Source)> {
        let file = LocalFile::open_on(path, disk)?;
        let mut map = Inventory { file_bytes: file.len()?, ..Inventory::default() };
        let mut buffered = BufReader::with_capacity(1 << 18, file.file()?);
        map.error =
            map.scan(&mut buffered, limits, depth).err().map(|error| recognised(path, error));
        Ok((map, Source::File(Arc::new(file))))
    }

    /// Opens a patch and checks structure, CRCs and SHA-256 of the whole file.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Limit`], [`Error::Version`], [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, limits: Limits) -> Result<Self> {
        Self::open_on(path.as_ref(), limits, &Disk::default())
    }

    pub(crate) fn open_on(path: &Path, limits: Limits, disk: &Disk) -> Result<Self> {
        let (map, source) = Self::scan_file(path, &limits, Depth::Sections, disk)?;
        Self::new(Some(path.into()), map, source, limits)
    }

    /// As [`open`](Self::open), for a patch in memory: a `Vec<u8>`, or an `Arc` of one that is used
    /// elsewhere as well.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(patch: impl Into<Arc<Vec<u8>>>, limits: Limits) -> Result<Self> {
        let patch = patch.into();
        let mut map = Inventory { file_bytes: patch.len() as u64, ..Inventory::default() };
        map.error = map.scan(&mut patch.as_slice(), &limits, Depth::Sections).err();
        Self::new(None, map, Source::Memory(patch), limits)
    }

    fn new(
        path: Option<PathBuf>,
        mut map: Inventory,
        source: Source,
        limits: Limits,
    ) -> Result<Self> {
        if let Some(error) = map.error.take() {
            return Err(error);
        }
        let (Some(header), Some(footer)) = (map.header.clone(), map.footer) else {
            // A scan without an error has met both.
            return Err(Error::Internal("a patch without header or footer passed the scan".into()));
        };
        Ok(Self::of(path, header, footer, map, source, limits))
    }

    fn of(
        path: Option<PathBuf>,
        header: Header,
        footer: Footer,
        map: Inventory,
        source: Source,
        limits: Limits,
    ) -> Self {
        let by_name = map
            .tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| (tensor.header.name.clone(), i))
            .collect();
        let (map, by_name) = (Arc::new(map), Arc::new(by_name));
        Patch { path, source, limits, header, footer, map, by_name }
    }

    /// Whole tensors of a patch whose end has not come, with the payloads of their blocks: enough to make
    /// them. What the footer would say of all is left open.
    pub(crate) fn excerpt(
        header: Header,
        tensors: Vec<TensorEntry>,
        payloads: Vec<u8>,
        limits: Limits,
    ) -> Self {
        let none = Digest([0; 32]);
        let footer = Footer {
            tensors: tensors.len() as u64,
            changes: 0,
            target_tensors: 0,
            target_elements: 0,
            target_bytes: 0,
            index_offset: 0,
            base: None,
            target: none,
            sha256: none,
        };
        let map = Inventory { file_bytes: payloads.len() as u64, tensors, ..Inventory::default() };
        Self::of(None, header, footer, map, Source::Memory(Arc::new(payloads)), limits)
    }

    /// Whether the file that the patch is read from is what it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        match &self.source {
            Source::File(file) => file.check_unchanged(),
            Source::Memory(_) => Ok(()),
        }
    }

    /// The digests of the target, for the patch that starts from it.
    #[must_use]
    pub fn trusted_target(&self) -> TrustedBase {
        let digest = |tensor: &TensorEntry| Some((tensor.header.name.clone(), tensor.end?.target?));
        let mut trusted = TrustedBase::new(self.footer.target);
        trusted.tensors = self.map.tensors.iter().filter_map(digest).collect();
        trusted
    }

    /// The path that was opened; `None` for a patch in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The name of the patch in messages about several.
    pub(crate) fn label(&self) -> String {
        self.path.as_ref().map_or("the patch in memory".into(), |path| path.display().to_string())
    }

    /// What the patch describes does not fit, although its base is the right one.
    pub(crate) fn unfit(&self, what: impl Into<String>) -> Error {
        Error::Unfit { file: self.path.clone(), what: what.into() }
    }

    /// What was made with the patch has another digest than it names.
    pub(crate) fn wrong_result(&self, made: Made, expected: Digest, found: Digest) -> Error {
        Error::WrongResult { file: self.path.clone(), made, expected, found }
    }

    /// A total of the footer is not that of what was made.
    pub(crate) fn wrong_total(&self, fault: Fault) -> Error {
        let (file, section) = (self.path.clone(), Some(Tag::FOOTER));
        // The footer ends the file.
        Error::Corrupt(Box::new(Corrupt {
            file,
            offset: self.bytes(),
            section,
            tensor: None,
            block: None,
            content: None,
            fault,
        }))
    }

    /// Size of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.map.file_bytes
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The footer: totals and digests.
    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Files of the target.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.map.files
    }

    /// Tensors in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.map.tensors
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).and_then(|&i| self.map.tensors.get(i))
    }

    /// Reads a range of the file into `buffer`, replacing what it held.
    fn read(&self, range: &Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        // The range was read before under the section limit, so it is worth its memory.
        buffer.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        match &self.source {
            Source::File(file) => file.read_exact_at(buffer, range.start),
            Source::Memory(bytes) => bytes.read_exact_at(buffer, range.start),
        }
    }

    /// Writes the bytes of the patch, as they were checked.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Changed`] if the file is not what it was when it was opened.
    ///
    /// ```
    /// use pulse::{Encoder, Limits, Patch};
    /// let (bytes, _) = Encoder::new(Vec::new(), Default::default())?.finish()?;
    /// let mut copy = Vec::new();
    /// Patch::from_bytes(bytes.clone(), Limits::default())?.write_to(&mut copy)?;
    /// assert_eq!(copy, bytes);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn write_to(&self, mut out: impl Write) -> Result<()> {
        let (mut at, mut buffer) = (0, Vec::new());
        while at < self.bytes() {
            let end = self.bytes().min(at + COPIED_BYTES);
            self.read(&(at..end), &mut buffer)?;
            out.write_all(&buffer).map_err(|error| Error::io("writing", error))?;
            at = end;
        }
        self.check_unchanged()
    }

    /// Block `number` of `tensor`; its payload is read into `payload`.
    pub(crate) fn block<'a>(
        &self,
        tensor: &'a TensorEntry,
        number: usize,
        payload: &'a mut Vec<u8>,
    ) -> Result<Block<'a>> {
        let (Some(block), Some(spec)) = (tensor.blocks.get(number), &tensor.header.spec) else {
            return Err(Error::Internal(format!(
                "tensor '{}' has no block {number}",
                tensor.header.name
            )));
        };
        self.read(&block.payload, payload)?;
        let place =
            Place { tensor: &tensor.header.name, block: number as u64, end: block.payload.end };
        Ok(Block::new(spec.dtype(), block.extent, payload, place))
    }

    /// Turns the base bytes of block `number` of `tensor` into target bytes, in place.
    pub(crate) fn apply_block(
        &self,
        tensor: &TensorEntry,
        number: usize,
        payload: &mut Vec<u8>,
        bytes: &mut [u8],
    ) -> Result<()> {
        self.block(tensor, number, payload)?
            .apply(bytes)
            .map_err(|error| error.in_file(self.path()))
    }

    /// Turns base bytes of block `number` of `tensor` into target bytes, in place: those from `skip`
    /// bytes after its start on, as many as are given. A contextual block is applied from its start.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn apply_part(
        &self,
        tensor: &TensorEntry,
        number: usize,
        payload: &mut Vec<u8>,
        skip: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        self.block(tensor, number, payload)?
            .apply_part(skip, bytes)
            .map_err(|error| error.in_file(self.path()))
    }

    /// Makes block `number` of `tensor` ready, which checks it as far as it decodes without the base.
    pub(crate) fn decode_block(
        &self,
        tensor: &TensorEntry,
        number: usize,
        payload: &mut Vec<u8>,
    ) -> Result<BlockDecoder> {
        self.block(tensor, number, payload)?.decode().map_err(|error| error.in_file(self.path()))
    }

    /// Checks that patches can be unpacked without their base within [`Limits::expansion`], all together.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn check_expansion(patches: &[Patch]) -> Result<()> {
        let (mut unpacked, mut read) = (0u64, 0u64);
        for patch in patches {
            let blocks = patch.map.tensors.iter().flat_map(|tensor| &tensor.blocks);
            let changes = blocks
                .filter(|block| block.coding() != Coding::Whole)
                .fold(0, |sum: u64, block| sum.saturating_add(block.changes()));
            unpacked = unpacked.saturating_add(changes.saturating_mul(CHANGE_BYTES));
            read = read.saturating_add(patch.bytes());
            if let Err(Fault::Limit { limit, asked, allowed }) =
                check_expansion(unpacked, read, &patch.limits)
            {
                // Of all blocks together, which end with the index.
                let (file, offset) = (patch.path.clone(), patch.footer.index_offset);
                return Err(Error::Limit { file, limit, asked, allowed, offset });
            }
        }
        Ok(())
    }

    /// Applies a decoder of block `number` of `tensor` to the next of its bytes.
    pub(crate) fn apply_on(
        &self,
        tensor: &TensorEntry,
        number: usize,
        decoder: &mut BlockDecoder,
        bytes: &mut [u8],
    ) -> Result<()> {
        decoder.apply(bytes).map_err(|error| {
            let error = match error {
                Error::Corrupt(corrupt) => Error::Corrupt(Box::new(Corrupt {
                    section: Some(Tag::BLOCK),
                    tensor: Some(tensor.header.name.clone()),
                    block: Some(number as u64),
                    ..*corrupt
                })),
                other => other,
            };
            error.in_file(self.path())
        })
    }

    /// Passes the data of a carried file to `found`, chunk by chunk.
    pub(crate) fn for_each_data(
        &self,
        file: &FileEntry,
        mut found: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut payload = Vec::new();
        for range in &file.data {
            self.read(range, &mut payload)?;
            let unpacked = crate::parse::all(&payload, "file data", wire::parse_file_data)
                .map_err(|bad| bad.fault)
                .and_then(|packed| packed.unpack(wire::FILE_DATA_BYTES as u64));
            found(&unpacked.map_err(|fault| fault.at(range.start).in_file(self.path()))?)?;
        }
        Ok(())
    }
}
