//! Which section may come where, what each says, and whether it agrees with those before it
//! (SPEC.md §4 and §6). Knows nothing of how sections are framed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::coding::{Coding, Matrix};
use crate::digest::Digest;
use crate::dtype::{Dtype, TensorSpec};
use crate::error::Fault;
use crate::hash::{Sha, LEAF_BYTES};
use crate::limits::{self, Limits, Used};
use crate::parse::{self, Bad};
use crate::stream::event::Extent;
use crate::tag::Tag;
use crate::wire::{
    self, index, Action, BlockHeader, FileRecord, FileState, Footer, Header, IndexEntry,
    TensorHeader, TensorTrailer,
};

/// What a section said. Owns all of it but for the payload of a block, so that the decoder can
/// change before the event is taken.
#[derive(Debug)]
pub(crate) enum Found {
    Header,
    File(FileRecord),
    FileData(Vec<u8>),
    Tensor(Arc<TensorHeader>),
    Block {
        tensor: Arc<TensorHeader>,
        dtype: Dtype,
        /// Number of the block in its tensor, from 0.
        number: u64,
        extent: Extent,
        /// Where in the payload of the section that of the coding is.
        coded: Range<usize>,
    },
    TensorEnd(TensorTrailer),
    Skipped(Tag),
    Index,
    End(Footer),
}

/// Where in the file the reader is, and with it what may come next.
#[derive(Debug)]
enum State {
    /// Before the header.
    Start,
    /// A file record may come, or a tensor.
    Files,
    /// Data of this file must come.
    InFile(OpenFile),
    /// A tensor may come, or the index.
    Tensors,
    /// The tensor header that an index names, and nothing else.
    #[cfg(feature = "parallel")]
    OneTensor,
    /// Blocks of this tensor, or its trailer.
    InTensor(OpenTensor),
    /// After the index, which starts here.
    Footer {
        index_offset: u64,
    },
    Done,
}

/// A file whose data has not come in full.
#[derive(Debug)]
struct OpenFile {
    /// Bytes that are to come.
    left: u64,
    /// SHA-256 of those that came.
    sha: Sha,
    /// SHA-256 of all of them, as the record says.
    expected: Digest,
}

#[derive(Debug)]
pub(crate) struct OpenTensor {
    pub header: Arc<TensorHeader>,
    /// Blocks so far.
    pub blocks: u64,
    /// Bytes of the tensor that these and the skipped leaves before them cover.
    covered: u64,
    /// Sum of the changes of the blocks.
    changes: u64,
}

#[derive(Debug)]
pub(crate) struct Grammar {
    limits: Limits,
    /// What the file has used up of the limits.
    used: Used,
    state: State,
    /// The header; the default before it came.
    header: Header,
    /// Names of all files, so that none comes twice.
    file_names: HashSet<String>,
    /// Names of all tensors, so that none comes twice.
    names: HashSet<Arc<str>>,
    /// What the index must say.
    index: Vec<IndexEntry>,
    /// Sum of the changes of the tensors that have ended.
    changes: u64,
}

impl Grammar {
    pub fn new(limits: Limits) -> Self {
        Grammar {
            limits,
            used: Used::default(),
            state: State::Start,
            header: Header::default(),
            file_names: HashSet::new(),
            names: HashSet::new(),
            index: Vec::new(),
            changes: 0,
        }
    }

    /// Waits for the header of a tensor whose name is coded against `previous`, in a file with this
    /// header.
    #[cfg(feature = "parallel")]
    pub fn at_tensor(limits: Limits, header: &Header, previous: Arc<str>) -> Self {
        Grammar {
            state: State::OneTensor,
            // No tensor depends on run, steps and metadata.
            header: Header {
                block_leaves: header.block_leaves,
                snapshot: header.snapshot,
                ..Header::default()
            },
            index: vec![IndexEntry { name: previous, offset: 0 }],
            ..Self::new(limits)
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn open_tensor(&self) -> Option<&OpenTensor> {
        match &self.state {
            State::InTensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Reads the payload of the section at `offset` of the file, if it is allowed there.
    pub fn read(&mut self, tag: Tag, payload: &[u8], offset: u64) -> Result<Found, Bad> {
        if !tag.is_known() && !tag.is_skippable() {
            return Err(bad(payload, Fault::UnknownSection { tag }));
        }
        let expected = match (&mut self.state, tag) {
            (State::Start, Tag::HEADER) => return self.read_header(payload),
            (State::Start, _) => "the header",
            #[cfg(feature = "parallel")]
            (State::OneTensor, Tag::TENSOR) => return self.read_tensor(payload, offset),
            #[cfg(feature = "parallel")]
            (State::OneTensor, _) => "the tensor header that the index names",
            (State::Footer { .. }, _) if !tag.is_known() => "the footer",
            (State::Done, _) => "nothing",
            _ if !tag.is_known() => return Ok(Found::Skipped(tag)),
            (State::InFile(file), Tag::FILE_DATA) => {
                let bytes = file.read_data(payload)?;
                self.used
                    .unpacked(&self.limits, bytes.len() as u64, offset + payload.len() as u64)
                    .map_err(|fault| bad(payload, fault))?;
                if file.left == 0 {
                    self.state = State::Files;
                }
                return Ok(Found::FileData(bytes));
            }
            (State::InFile(_), _) => "more data of the preceding file",
            (State::Files, Tag::FILE) => return self.read_file(payload),
            (State::Files | State::Tensors, Tag::TENSOR) => {
                return self.read_tensor(payload, offset)
            }
            (State::Files | State::Tensors, Tag::INDEX) => return self.read_index(payload, offset),
            (State::Files, _) => "a file, a tensor or the index",
            (State::Tensors, _) => "a tensor or the index",
            (State::InTensor(tensor), Tag::BLOCK) => {
                self.used.block(&self.limits).map_err(|fault| bad(payload, fault))?;
                let found = tensor.read_block(payload, self.header.block_leaves)?;
                if let Found::Block { extent, .. } = &found {
                    if extent.coding == Coding::Whole {
                        let read = offset + payload.len() as u64;
                        self.used
                            .unpacked(&self.limits, extent.bytes, read)
                            .map_err(|fault| bad(payload, fault))?;
                    }
                }
                return Ok(found);
            }
            (State::InTensor(tensor), Tag::TENSOR_END) => {
                let (end, changes) = tensor.read_end(payload, self.changes)?;
                self.changes = changes;
                self.state = State::Tensors;
                return Ok(Found::TensorEnd(end));
            }
            (State::InTensor(_), _) => "a block or the end of the tensor",
            (&mut State::Footer { index_offset }, Tag::FOOTER) => {
                return self.read_footer(payload, index_offset)
            }
            (State::Footer { .. }, _) => "the footer",
        };
        Err(bad(payload, Fault::Order { expected }))
    }

    fn read_header(&mut self, payload: &[u8]) -> Result<Found, Bad> {
        self.header = parse::all(payload, "header", |i| Header::parse(i, &self.limits))?;
        self.state = State::Files;
        Ok(Found::Header)
    }

    fn read_file(&mut self, payload: &[u8]) -> Result<Found, Bad> {
        let record = parse::all(payload, "file", |i| FileRecord::parse(i, &self.limits))?;
        if record.state != FileState::New && self.header.snapshot {
            let expected = "new: a snapshot has no base";
            let found = u64::from(payload[0] >> 1);
            return Err(bad(payload, Fault::Value { field: "file state", found, expected }));
        }
        if !self.file_names.insert(record.name.clone()) {
            return Err(bad(payload, Fault::Duplicate { field: "file name", found: record.name }));
        }
        let carried = if record.state.is_carried() { record.bytes } else { 0 };
        self.used.file(&self.limits, carried).map_err(|fault| bad(payload, fault))?;
        if record.state.is_carried() {
            let file =
                OpenFile { left: record.bytes, sha: Sha::default(), expected: record.sha256 };
            file.check(payload)?;
            if file.left > 0 {
                self.state = State::InFile(file);
            }
        }
        Ok(Found::File(record))
    }

    fn read_tensor(&mut self, payload: &[u8], offset: u64) -> Result<Found, Bad> {
        let previous = self.index.last().map_or("", |entry| &*entry.name);
        let header = parse::all(payload, "tensor header", |i| {
            TensorHeader::parse(i, previous, &self.limits)
        })?;
        if self.header.snapshot && header.action != Action::Added {
            let expected = "added: a snapshot has no base";
            return Err(bad(
                payload,
                Fault::Value { field: "action", found: header.action as u64, expected },
            ));
        }
        let bytes = header.spec.as_ref().map_or(0, TensorSpec::bytes);
        self.used
            .tensor(&self.limits, &header.name, bytes)
            .and_then(|()| self.used.names(&self.limits, offset + payload.len() as u64))
            .map_err(|fault| bad(payload, fault))?;
        let name = Arc::<str>::from(&*header.name);
        if !self.names.insert(name.clone()) {
            return Err(bad(
                payload,
                Fault::Duplicate { field: "tensor name", found: header.name },
            ));
        }
        self.index.push(IndexEntry { name, offset });
        let header = Arc::new(header);
        self.state = State::InTensor(OpenTensor {
            header: header.clone(),
            blocks: 0,
            covered: 0,
            changes: 0,
        });
        Ok(Found::Tensor(header))
    }

    fn read_index(&mut self, payload: &[u8], offset: u64) -> Result<Found, Bad> {
        parse::all(payload, "index", |i| index::check(i, &self.index, &self.limits))?;
        self.state = State::Footer { index_offset: offset };
        Ok(Found::Index)
    }

    fn read_footer(&mut self, payload: &[u8], index_offset: u64) -> Result<Found, Bad> {
        let footer = parse::all(payload, "footer", Footer::parse)?;
        for (field, expected, found) in [
            ("footer tensors", self.index.len() as u64, footer.tensors),
            ("footer changes", self.changes, footer.changes),
            ("index offset", index_offset, footer.index_offset),
        ] {
            if expected != found {
                return Err(bad(payload, Fault::Count { field, expected, found }));
            }
        }
        footer.check(&self.header).map_err(|fault| bad(payload, fault))?;
        // Tensors that stay as they are count too; only the footer knows of them.
        let allowed = self.limits.target_bytes;
        limits::check("target_bytes", footer.target_bytes, allowed)
            .map_err(|fault| bad(payload, fault))?;
        self.state = State::Done;
        Ok(Found::End(footer))
    }
}

impl OpenFile {
    fn read_data(&mut self, payload: &[u8]) -> Result<Vec<u8>, Bad> {
        let most = self.left.min(wire::FILE_DATA_BYTES as u64);
        let bytes = parse::all(payload, "file data", |i| {
            let (rest, packed) = wire::parse_file_data(i)?;
            match packed.unpack(most) {
                Ok(bytes) if bytes.is_empty() => parse::fail(
                    i,
                    Fault::Value { field: "file data bytes", found: 0, expected: "at least 1" },
                ),
                Ok(bytes) => Ok((rest, bytes)),
                Err(fault) => parse::fail(i, fault),
            }
        })?;
        self.sha.update(&bytes);
        self.left -= bytes.len() as u64;
        self.check(payload)?;
        Ok(bytes)
    }

    /// Checks the SHA-256 once all bytes have come.
    fn check(&self, payload: &[u8]) -> Result<(), Bad> {
        if self.left > 0 {
            return Ok(());
        }
        let (expected, found) = (self.expected, self.sha.clone().finish());
        if expected != found {
            return Err(bad(
                payload,
                Fault::Digest { field: "SHA-256 of the file data", expected, found },
            ));
        }
        Ok(())
    }
}

impl OpenTensor {
    fn read_block(&mut self, payload: &[u8], max_leaves: u64) -> Result<Found, Bad> {
        let Some(spec) = &self.header.spec else {
            return Err(bad(payload, Fault::Order { expected: "the end of a deleted tensor" }));
        };
        let (rest, block) = BlockHeader::parse(payload, max_leaves).map_err(parse::bad)?;
        let put = self.header.action.is_whole();
        if put && (block.coding != Coding::Whole || block.skipped_leaves > 0) {
            let found = block.coding.code().into();
            let expected = "whole blocks without gaps in a tensor that is written whole";
            return Err(bad(payload, Fault::Value { field: "coding", found, expected }));
        }
        let leaf = LEAF_BYTES as u64;
        let start = block
            .skipped_leaves
            .checked_mul(leaf)
            .and_then(|skipped| self.covered.checked_add(skipped));
        let Some(start) = start.filter(|&start| start < spec.bytes()) else {
            let expected = "a block that starts within its tensor";
            return Err(bad(
                payload,
                Fault::Value { field: "skipped leaves", found: block.skipped_leaves, expected },
            ));
        };
        let left = spec.bytes() - start;
        if block.leaves > left.div_ceil(leaf) {
            let expected = "a block that ends within its tensor";
            return Err(bad(
                payload,
                Fault::Value { field: "block leaves", found: block.leaves, expected },
            ));
        }
        let bytes = left.min(block.leaves * leaf);
        let elements = bytes / spec.dtype().element_bytes() as u64;
        if block.changes > elements || put && block.changes != elements {
            let fault =
                Fault::Count { field: "block changes", expected: elements, found: block.changes };
            return Err(bad(payload, fault));
        }
        let found = Found::Block {
            tensor: self.header.clone(),
            dtype: spec.dtype().clone(),
            number: self.blocks,
            extent: Extent {
                coding: block.coding,
                start,
                bytes,
                changes: block.changes,
                matrix: Matrix::of(spec, start),
            },
            coded: payload.len() - rest.len()..payload.len(),
        };
        self.covered = start + bytes;
        self.blocks += 1;
        // Bounded by the elements of the tensor, so the sum cannot overflow.
        self.changes += block.changes;
        Ok(found)
    }

    /// Gives back the trailer and the sum of the changes of all tensors, of which `before` had ended.
    fn read_end(&self, payload: &[u8], before: u64) -> Result<(TensorTrailer, u64), Bad> {
        let action = self.header.action;
        let end = parse::all(payload, "tensor trailer", |i| TensorTrailer::parse(i, action))?;
        let bytes = self.header.spec.as_ref().map_or(0, TensorSpec::bytes);
        let covered = if action.is_whole() { self.covered } else { bytes };
        for (field, expected, found) in [
            ("tensor changes", self.changes, end.changes),
            ("bytes of the tensor that is written whole", bytes, covered),
        ] {
            if expected != found {
                return Err(bad(payload, Fault::Count { field, expected, found }));
            }
        }
        let Some(changes) = before.checked_add(end.changes) else {
            let expected = "a sum that fits 64 bits";
            return Err(bad(
                payload,
                Fault::Value { field: "tensor changes", found: end.changes, expected },
            ));
        };
        Ok((end, changes))
    }
}

/// A fault of the section as a whole, placed at the start of its payload.
fn bad(payload: &[u8], fault: Fault) -> Bad {
    Bad { rest: payload.len(), fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R46: only a file of more blocks than can ever be read has that many changes.
    #[test]
    fn r46_a_sum_of_changes_beyond_64_bits_is_refused() {
        let header = TensorHeader {
            name: "w".into(),
            action: Action::Patched,
            spec: Some(TensorSpec::new(Dtype::U8, &[4]).unwrap()),
        };
        let tensor = OpenTensor { header: Arc::new(header), blocks: 1, covered: 4, changes: 2 };
        let trailer = TensorTrailer {
            changes: 2,
            base: Some(Digest([1; 32])),
            target: Some(Digest([2; 32])),
        };
        let payload = trailer.write();
        let expected = "a sum that fits 64 bits";
        assert_eq!(
            tensor.read_end(&payload, u64::MAX - 1).unwrap_err().fault,
            Fault::Value { field: "tensor changes", found: 2, expected }
        );
        // The greatest sum is one.
        assert_eq!(tensor.read_end(&payload, u64::MAX - 2).unwrap(), (trailer, u64::MAX));
    }
}
