//! A patch file read through once: what is in it, where, and whether all of it is right.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::coding::BlockDecoder;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::patch::FileEntry;
use crate::patch::Inventory;
use crate::patch::TensorEntry;
use crate::stream::{Block, Place, TrustedBase};
use crate::wire::{self, Footer, Header};

/// Where the bytes of a patch are.
#[derive(Debug)]
enum Store {
    File(DiskFile),
    Memory(Vec<u8>),
}

impl Store {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            Store::File(file) => file.read_exact_at(buffer, offset),
            Store::Memory(bytes) => {
                let mut rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or(&[]);
                rest.read_exact(buffer)
            }
        }
    }
}

/// A patch of which every byte was read and found right: a file, or bytes in memory.
#[derive(Debug)]
pub struct Patch {
    path: PathBuf,
    store: Store,
    limits: Limits,
    header: Header,
    footer: Footer,
    map: Inventory,
    by_name: HashMap<String, usize>,
}

impl Patch {
    /// Reads what the file holds, as far as it can be read; see [`Inventory::error`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn map(path: &Path, limits: &Limits) -> Result<Inventory> {
        Ok(Self::open_file(path, limits, false, &Disk::default())?.0)
    }

    /// As [`map`](Self::map), and decodes every block to tell where its bits go.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn inspect(path: &Path, limits: &Limits) -> Result<Inventory> {
        Ok(Self::open_file(path, limits, true, &Disk::default())?.0)
    }

    fn open_file(path: &Path, limits: &Limits, detail: bool, disk: &Disk) -> Result<(Inventory, Store)> {
        let io = |error| Error::io(format!("opening {}", path.display()), error);
        // Looked at before it is opened: opening a pipe would wait for a writer, and it cannot be read twice.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::checkpoint(path, "not a regular file; give a .pulse file, which can be read twice"));
        }
        let file = disk.open(path).map_err(io)?;
        let mut map = Inventory { file_bytes: file.file().metadata().map_err(io)?.len(), ..Inventory::default() };
        let mut buffered = BufReader::with_capacity(1 << 18, file.file());
        map.error = map.scan(&mut buffered, limits, detail).err();
        Ok((map, Store::File(file)))
    }

    /// Opens a patch and checks structure, CRCs and SHA-256 of the whole file.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Limit`], [`Error::Version`], [`Error::Io`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        Self::open_on(path, limits, &Disk::default())
    }

    pub(crate) fn open_on(path: &Path, limits: &Limits, disk: &Disk) -> Result<Self> {
        let (map, store) = Self::open_file(path, limits, false, disk)?;
        Self::new(path.into(), map, store, limits)
    }

    /// As [`open`](Self::open), for a patch in memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(patch: Vec<u8>, limits: &Limits) -> Result<Self> {
        let mut map = Inventory { file_bytes: patch.len() as u64, ..Inventory::default() };
        map.error = map.scan(&mut patch.as_slice(), limits, false).err();
        Self::new("the patch in memory".into(), map, Store::Memory(patch), limits)
    }

    fn new(path: PathBuf, mut map: Inventory, store: Store, limits: &Limits) -> Result<Self> {
        if let Some(error) = map.error.take() {
            return Err(error);
        }
        let (Some(header), Some(footer)) = (map.header.clone(), map.footer) else {
            // A scan without an error has met both.
            return Err(Error::misuse("the patch ended without header or footer"));
        };
        let by_name = map.tensors.iter().enumerate().map(|(i, tensor)| (tensor.header.name.clone(), i)).collect();
        Ok(Patch { path, store, limits: limits.clone(), header, footer, map, by_name })
    }

    /// The patch with its bytes in memory, checked again, if they are in a file: nothing can then
    /// fail to be read, or change.
    pub(crate) fn load(&self) -> Result<Option<Self>> {
        let Store::File(_) = &self.store else { return Ok(None) };
        let mut bytes = Vec::new();
        self.read(&(0..self.bytes()), &mut bytes)?;
        Self::from_bytes(bytes, &self.limits).map(Some)
    }

    /// The digests of the target, for the patch that starts from it.
    #[must_use]
    pub fn trusted_target(&self) -> TrustedBase {
        let digest = |tensor: &TensorEntry| Some((tensor.header.name.clone(), tensor.end?.target?));
        let mut trusted = TrustedBase::new(self.footer.target);
        trusted.tensors = self.map.tensors.iter().filter_map(digest).collect();
        trusted
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
        self.store
            .read_exact_at(buffer, range.start)
            .map_err(|error| Error::io(format!("reading {} at byte {}", self.path.display(), range.start), error))
    }

    /// Block `number` of `tensor`; its payload is read into `payload`.
    fn block<'a>(&self, tensor: &'a TensorEntry, number: usize, payload: &'a mut Vec<u8>) -> Result<Block<'a>> {
        let (Some(block), Some(spec)) = (tensor.blocks.get(number), &tensor.header.spec) else {
            return Err(Error::misuse("no such block"));
        };
        self.read(&block.payload, payload)?;
        let place = Place { tensor: &tensor.header.name, block: number as u64, end: block.payload.end };
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
        self.block(tensor, number, payload)?.apply(bytes)
    }

    /// Makes block `number` of `tensor` ready, which checks it as far as it decodes without the base.
    pub(crate) fn decode_block(
        &self,
        tensor: &TensorEntry,
        number: usize,
        payload: &mut Vec<u8>,
    ) -> Result<BlockDecoder> {
        self.block(tensor, number, payload)?.decode()
    }

    /// Passes the data of a carried file to `found`, chunk by chunk.
    pub(crate) fn for_each_data(&self, file: &FileEntry, mut found: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut payload = Vec::new();
        for range in &file.data {
            self.read(range, &mut payload)?;
            let unpacked = crate::parse::all(&payload, "file data", wire::parse_file_data)
                .map_err(|bad| bad.fault)
                .and_then(|packed| packed.unpack(wire::FILE_DATA_BYTES as u64));
            found(&unpacked.map_err(|fault| fault.at(range.start))?)?;
        }
        Ok(())
    }
}
