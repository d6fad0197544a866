//! The push decoder: bytes in, events out. The only decoder; everything else drives it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::coding::Coding;
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Corrupt, Error, Fault, Result};
use crate::hash::{Sha, LEAF_BYTES};
use crate::limits::{self, Limits, Used};
use crate::parse::{self, Bad, Parse};
use crate::stream::event::{Block, Event, Extent, Place, Section};
use crate::tag::Tag;
use crate::varint;
use crate::wire::{
    self, index, Action, BlockHeader, FileRecord, FileSource, Footer, Header, IndexEntry, TensorHeader, TensorTrailer,
};

/// The file record whose data is awaited.
#[derive(Debug)]
struct OpenFile {
    left: u64,
    sha: Sha,
    expected: Digest,
}

#[derive(Debug)]
struct OpenTensor {
    header: TensorHeader,
    /// Bytes of the tensor covered by blocks and skips so far.
    covered: u64,
    blocks: u64,
    changes: u64,
}

/// The event that was found last.
#[derive(Debug)]
enum Pending {
    Header,
    File(FileRecord),
    FileData(Vec<u8>),
    Tensor,
    Block { extent: Extent, payload: Range<usize> },
    TensorEnd(TensorTrailer),
    Skipped(Tag),
    Index,
    End(Footer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Prelude,
    Header,
    /// File records may come, or tensors.
    Files,
    Tensors,
    /// The tensor header that an index names, and nothing else.
    OneTensor,
    InTensor,
    Footer,
    Done,
    Failed,
}

/// Reads a patch from bytes that arrive in any amounts. Never blocks, never takes a byte beyond
/// the section it reads, and so never a byte beyond the end of the patch.
///
/// ```
/// use pulse::{Encoder, Event, Limits, PushDecoder};
/// use pulse::stream::EncoderOptions;
/// let (patch, _) = Encoder::new(Vec::new(), EncoderOptions::default())?.finish()?;
/// let mut decoder = PushDecoder::new(Limits::default());
/// let mut arrived = patch.as_slice();
/// let mut ended = false;
/// while !arrived.is_empty() {
///     let taken = decoder.feed(arrived)?;
///     arrived = &arrived[taken..];
///     if let Some(Event::End(footer)) = decoder.event() {
///         ended = footer.tensors == 0;
///     }
/// }
/// decoder.finish()?; // an error if the footer has not come
/// assert!(ended);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct PushDecoder {
    limits: Limits,
    used: Used,
    state: State,
    version: Option<(u8, u8)>,
    /// Bytes of the section being read.
    buffer: Vec<u8>,
    /// Where that section starts in the file.
    offset: u64,
    /// Bytes of the section that gave the pending event.
    section: Option<Section>,
    /// Bytes of its tag and length.
    head: usize,
    /// The section in `buffer` is done with; the next feed starts another.
    spent: bool,
    sha: Sha,
    header: Header,
    file: Option<OpenFile>,
    file_names: HashSet<String>,
    tensor: Option<OpenTensor>,
    names: HashSet<Arc<str>>,
    index: Vec<IndexEntry>,
    index_offset: u64,
    changes: u64,
    pending: Option<Pending>,
}

impl PushDecoder {
    /// A decoder that waits for the first byte of a file.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        PushDecoder {
            limits,
            used: Used::default(),
            state: State::Prelude,
            version: None,
            buffer: Vec::new(),
            offset: 0,
            section: None,
            head: 0,
            spent: false,
            sha: Sha::default(),
            header: Header::default(),
            file: None,
            file_names: HashSet::new(),
            tensor: None,
            names: HashSet::new(),
            index: Vec::new(),
            index_offset: 0,
            changes: 0,
            pending: None,
        }
    }

    /// A decoder that waits for a tensor header at `offset` of a file with this header. The name of
    /// the tensor is coded against that of the one before, `previous` (SPEC.md §8.3). What it gives
    /// after the end of the tensor is of no use: it knows nothing of the tensors before.
    #[cfg_attr(not(feature = "parallel"), allow(dead_code))] // patches are read from front to back only
    pub(crate) fn at_tensor(limits: Limits, header: &Header, previous: Arc<str>, offset: u64) -> Self {
        PushDecoder {
            state: State::OneTensor,
            offset,
            // No tensor depends on run, steps and metadata.
            header: Header { block_leaves: header.block_leaves, snapshot: header.snapshot, ..Header::default() },
            index: vec![IndexEntry { name: previous, offset: 0 }],
            ..Self::new(limits)
        }
    }

    /// Takes bytes from the front of `input` until an event is ready or the input is used up;
    /// returns how many. Take the event with [`event`](Self::event) before feeding on, or it is
    /// gone. After the end nothing is taken any more.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Limit`], [`Error::Version`]. The decoder is then of no further
    /// use, and says so with [`Error::Misuse`].
    pub fn feed(&mut self, input: &[u8]) -> Result<usize> {
        if self.state == State::Failed {
            return Err(Error::misuse("this decoder has already failed; create a new one"));
        }
        self.pending = None;
        let fed = self.advance(input);
        if fed.is_err() {
            self.state = State::Failed;
            self.buffer = Vec::new();
        }
        fed
    }

    fn advance(&mut self, input: &[u8]) -> Result<usize> {
        let mut taken = 0;
        self.next_section();
        while self.pending.is_none() && self.state != State::Done {
            let wanted = self.need()?;
            let now = wanted.min(input.len() - taken);
            self.buffer.extend_from_slice(&input[taken..taken + now]);
            taken += now;
            if now < wanted {
                break;
            }
            if wanted == 0 {
                self.close_section()?;
                if self.pending.is_none() {
                    self.next_section();
                }
            }
        }
        Ok(taken)
    }

    /// The event that the last feed found, if it found one.
    #[must_use]
    pub fn event(&mut self) -> Option<Event<'_>> {
        Some(match self.pending.as_ref()? {
            Pending::Header => Event::Header(&self.header),
            Pending::File(record) => Event::File(record),
            Pending::FileData(bytes) => Event::FileData(bytes),
            Pending::Tensor => Event::Tensor(&self.tensor.as_ref()?.header),
            Pending::Block { extent, payload } => {
                let tensor = self.tensor.as_ref()?;
                Event::Block(Block {
                    spec: tensor.header.spec.as_ref()?,
                    extent: *extent,
                    payload: self.buffer.get(payload.clone())?,
                    place: Place {
                        tensor: &tensor.header.name,
                        block: tensor.blocks - 1,
                        end: self.offset + payload.end as u64,
                    },
                })
            }
            Pending::TensorEnd(end) => Event::TensorEnd(end),
            Pending::Skipped(tag) => Event::Skipped(*tag),
            Pending::Index => Event::Index,
            Pending::End(footer) => Event::End(footer),
        })
    }

    pub(crate) fn has_event(&self) -> bool {
        self.pending.is_some()
    }

    /// Number of bytes that the decoder is sure to take next: a reader that fetches so many never
    /// reads ahead. Zero after the end.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn wanted(&self) -> Result<usize> {
        match self.state {
            State::Done => Ok(0),
            State::Failed => Err(Error::misuse("this decoder has already failed; create a new one")),
            _ => self.need(),
        }
    }

    /// Major and minor version of the file, once they were read.
    #[must_use]
    pub fn version(&self) -> Option<(u8, u8)> {
        self.version
    }

    /// The section that gave the last event.
    #[must_use]
    pub fn section(&self) -> Option<Section> {
        self.section
    }

    /// Where in the file the payload of the last event stands: of the coding for a block, of the
    /// section for any other.
    #[cfg(feature = "parallel")]
    pub(crate) fn payload(&self) -> Range<u64> {
        let start = match &self.pending {
            Some(Pending::Block { payload, .. }) => payload.start,
            _ => self.head,
        };
        let end = self.buffer.len().saturating_sub(wire::CRC_BYTES);
        self.offset + start as u64..self.offset + end as u64
    }

    /// Offset of the section that is being read: all bytes before it were right.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self.spent {
            true => self.offset + self.buffer.len() as u64,
            false => self.offset,
        }
    }

    /// Whether the footer was read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Says that no more bytes will come.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the footer has not been read.
    pub fn finish(&mut self) -> Result<()> {
        let missing = self.wanted()? as u64;
        if self.is_done() {
            return Ok(());
        }
        let held = if self.spent { 0 } else { self.buffer.len() as u64 };
        self.state = State::Failed;
        Err(Fault::Truncated { missing }.at(self.offset() + held))
    }

    /// Lets go of a section that is done with.
    fn next_section(&mut self) {
        if std::mem::take(&mut self.spent) {
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
    }

    /// Bytes that are missing before the section in `buffer` can be looked at further.
    fn need(&self) -> Result<usize> {
        if self.spent {
            return Ok(wire::SECTION_BYTES_MIN);
        }
        let have = self.buffer.len();
        if self.state == State::Prelude {
            let right = self.buffer.iter().zip(wire::SIGNATURE).all(|(found, expected)| *found == expected);
            if have >= wire::SIGNATURE.len() && !right {
                let mut found = [0; 8];
                found.copy_from_slice(&self.buffer[..8]);
                return Err(Fault::Signature { found }.at(0));
            }
            return Ok(if have < 8 { 8 - have } else { wire::PRELUDE_BYTES - have });
        }
        if have < wire::SECTION_BYTES_MIN {
            return Ok(wire::SECTION_BYTES_MIN - have);
        }
        let tag = Tag(self.buffer[0]);
        if !tag.0.is_ascii_alphabetic() {
            return Err(self.place(Fault::UnknownSection { tag }, 0));
        }
        match varint::parse(&self.buffer[1..]) {
            varint::Parsed::Incomplete => Ok(1),
            varint::Parsed::Invalid => Err(self.place(Fault::Varint { field: "section length" }, 1)),
            varint::Parsed::Value(len, bytes) => {
                let (asked, allowed) = (len, self.limits.section_bytes.min(wire::SECTION_BYTES_MAX));
                match usize::try_from(len) {
                    Ok(len) if asked <= allowed => Ok(1 + bytes + len + wire::CRC_BYTES - have),
                    _ => Err(Error::Limit { file: None, limit: "section_bytes", asked, allowed, offset: self.offset }),
                }
            }
        }
    }

    /// A fault at a byte of the section in `buffer`.
    fn place(&self, fault: Fault, at: usize) -> Error {
        if let Fault::Limit { limit, asked, allowed } = fault {
            return Error::Limit { file: None, limit, asked, allowed, offset: self.offset };
        }
        let tensor = self.tensor.as_ref();
        let in_block = self.buffer.first() == Some(&Tag::BLOCK.0);
        Error::Corrupt(Box::new(Corrupt {
            file: None,
            offset: self.offset + at as u64,
            section: self.buffer.first().copied().map(Tag),
            tensor: tensor.map(|tensor| tensor.header.name.clone()),
            block: tensor.map(|tensor| tensor.blocks).filter(|_| in_block),
            fault,
        }))
    }

    /// Looks at the section that `buffer` now holds in full.
    fn close_section(&mut self) -> Result<()> {
        if self.state == State::Prelude {
            let (major, minor) = (self.buffer[8], self.buffer[9]);
            self.version = Some((major, minor));
            if major != wire::MAJOR {
                return Err(Error::Version { file: None, major, minor, known: wire::MAJOR });
            }
            self.sha.update(&self.buffer);
            self.state = State::Header;
            self.spent = true;
            return Ok(());
        }
        let body = self.buffer.len() - wire::CRC_BYTES;
        let mut stored = [0; wire::CRC_BYTES];
        stored.copy_from_slice(&self.buffer[body..]);
        let (expected, found) = (u32::from_le_bytes(stored), crc32fast::hash(&self.buffer[..body]));
        if expected != found {
            return Err(self.place(Fault::Crc { expected, found }, body));
        }
        let tag = Tag(self.buffer[0]);
        let head = match varint::parse(&self.buffer[1..]) {
            varint::Parsed::Value(_, bytes) => 1 + bytes,
            // need() has read it before.
            _ => return Err(self.place(Fault::Varint { field: "section length" }, 1)),
        };
        // The payload leaves the decoder while it is read, so that reading may change the decoder.
        let buffer = std::mem::take(&mut self.buffer);
        let result = self.read(tag, &buffer[head..body], head);
        if tag == Tag::FOOTER {
            let open = body.saturating_sub(wire::FOOTER_DIGEST_BYTES);
            self.sha.update(&buffer[..open]);
        } else {
            self.sha.update(&buffer);
        }
        self.buffer = buffer;
        match result {
            Ok(pending) => self.pending = Some(pending),
            Err(Bad { rest, fault }) => return Err(self.place(fault, body - rest)),
        }
        if let Some(Pending::End(footer)) = &self.pending {
            let (expected, found) = (footer.sha256, std::mem::take(&mut self.sha).finish());
            if expected != found {
                return Err(self.place(Fault::FileDigest { expected, found }, body - wire::FOOTER_DIGEST_BYTES));
            }
        }
        self.head = head;
        self.section = Some(Section { tag, offset: self.offset, bytes: self.buffer.len() as u64 });
        self.spent = true;
        Ok(())
    }

    /// Reads the payload of a section where the grammar allows it.
    fn read(&mut self, tag: Tag, payload: &[u8], head: usize) -> Result<Pending, Bad> {
        let known = !tag.name().eq("unknown");
        if !known && !tag.is_skippable() {
            return Err(bad(payload, Fault::UnknownSection { tag }));
        }
        let expected = match (self.state, tag) {
            (State::Header, Tag::HEADER) => return self.read_header(payload),
            (State::Header, _) => "the header",
            (State::OneTensor, Tag::TENSOR) => return self.read_tensor(payload),
            (State::OneTensor, _) => "the tensor header that the index names",
            _ if !known => {
                let done = self.state == State::Footer;
                return if done {
                    Err(bad(payload, Fault::Order { expected: "the footer" }))
                } else {
                    Ok(Pending::Skipped(tag))
                };
            }
            (State::Files, Tag::FILE_DATA) if self.file.is_some() => return self.read_file_data(payload),
            (State::Files, _) if self.file.is_some() => "more data of the file before",
            (State::Files, Tag::FILE) => return self.read_file(payload),
            (State::Files | State::Tensors, Tag::TENSOR) => return self.read_tensor(payload),
            (State::Files | State::Tensors, Tag::INDEX) => return self.read_index(payload),
            (State::InTensor, Tag::BLOCK) => return self.read_block(payload, head),
            (State::InTensor, Tag::TENSOR_END) => return self.read_tensor_end(payload),
            (State::Footer, Tag::FOOTER) => return self.read_footer(payload),
            (State::Files, _) => "a file, a tensor or the index",
            (State::Tensors, _) => "a tensor or the index",
            (State::InTensor, _) => "a block or the end of the tensor",
            (State::Footer, _) => "the footer",
            (State::Prelude | State::Done | State::Failed, _) => "nothing",
        };
        Err(bad(payload, Fault::Order { expected }))
    }

    fn read_header(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        self.header = parse::all(payload, "header", |i| Header::parse(i, &self.limits))?;
        self.state = State::Files;
        Ok(Pending::Header)
    }

    fn read_file(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        let record = parse::all(payload, "file", |i| FileRecord::parse(i, &self.limits))?;
        if record.source == FileSource::Base && self.header.snapshot {
            let expected = "data in the patch: a snapshot has no base";
            return Err(bad(payload, Fault::Value { field: "file source", found: 0, expected }));
        }
        if !self.file_names.insert(record.name.clone()) {
            return Err(bad(payload, Fault::Duplicate { field: "file name", found: record.name }));
        }
        let carried = if record.source == FileSource::Patch { record.bytes } else { 0 };
        self.used.file(&self.limits, carried).map_err(|fault| bad(payload, fault))?;
        if record.source == FileSource::Patch {
            self.file = Some(OpenFile { left: record.bytes, sha: Sha::default(), expected: record.sha256 });
            self.close_file(payload)?;
        }
        Ok(Pending::File(record))
    }

    fn read_file_data(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        let Some(file) = &mut self.file else {
            return Err(bad(payload, Fault::Order { expected: "a file" }));
        };
        let most = file.left.min(wire::FILE_DATA_BYTES as u64);
        let bytes = parse::all(payload, "file data", |i| {
            let (rest, packed) = wire::parse_file_data(i)?;
            match packed.unpack(most) {
                Ok(bytes) if bytes.is_empty() => {
                    parse::fail(i, Fault::Value { field: "file data bytes", found: 0, expected: "at least 1" })
                }
                Ok(bytes) => Ok((rest, bytes)),
                Err(fault) => parse::fail(i, fault),
            }
        })?;
        file.sha.update(&bytes);
        file.left -= bytes.len() as u64;
        self.close_file(payload)?;
        Ok(Pending::FileData(bytes))
    }

    /// Checks the SHA-256 of the open file once all of its bytes have come.
    fn close_file(&mut self, payload: &[u8]) -> Result<(), Bad> {
        let Some(file) = self.file.take_if(|file| file.left == 0) else { return Ok(()) };
        let (expected, found) = (file.expected, file.sha.finish());
        if expected != found {
            return Err(bad(payload, Fault::Digest { field: "SHA-256 of the file data", expected, found }));
        }
        Ok(())
    }

    fn read_tensor(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        let previous = self.index.last().map(|entry| entry.name.clone());
        let previous = previous.as_deref().unwrap_or("");
        let header = parse::all(payload, "tensor header", |i| TensorHeader::parse(i, previous, &self.limits))?;
        if self.header.snapshot && header.action != Action::Added {
            let expected = "added: a snapshot has no base";
            return Err(bad(payload, Fault::Value { field: "action", found: header.action as u64, expected }));
        }
        let bytes = header.spec.as_ref().map_or(0, TensorSpec::bytes);
        self.used.tensor(&self.limits, &header.name, bytes).map_err(|fault| bad(payload, fault))?;
        let name = Arc::<str>::from(&*header.name);
        if !self.names.insert(name.clone()) {
            return Err(bad(payload, Fault::Duplicate { field: "tensor name", found: header.name }));
        }
        self.index.push(IndexEntry { name, offset: self.offset });
        self.tensor = Some(OpenTensor { header, covered: 0, blocks: 0, changes: 0 });
        self.state = State::InTensor;
        Ok(Pending::Tensor)
    }

    fn read_block(&mut self, payload: &[u8], head: usize) -> Result<Pending, Bad> {
        let max_leaves = self.header.block_leaves;
        let Some(tensor) = &mut self.tensor else { return Err(bad(payload, Fault::Order { expected: "a tensor" })) };
        let Some(spec) = &tensor.header.spec else {
            return Err(bad(payload, Fault::Order { expected: "the end of a deleted tensor" }));
        };
        self.used.block(&self.limits).map_err(|fault| bad(payload, fault))?;
        let (rest, block) = match BlockHeader::parse(payload, max_leaves) {
            Ok(parsed) => parsed,
            Err(error) => return parse::all(payload, "block", |_| -> Parse<'_, Pending> { Err(error) }),
        };
        let put = tensor.header.action.is_whole();
        if put && (block.coding != Coding::Whole || block.skipped_leaves > 0) {
            let found = block.coding.code().into();
            let expected = "whole blocks without gaps in a tensor that is put";
            return Err(bad(payload, Fault::Value { field: "coding", found, expected }));
        }
        let leaf = LEAF_BYTES as u64;
        let start = block.skipped_leaves.checked_mul(leaf).and_then(|skipped| tensor.covered.checked_add(skipped));
        let Some(start) = start.filter(|&start| start < spec.bytes()) else {
            let expected = "a block that starts within its tensor";
            return Err(bad(payload, Fault::Value { field: "skipped leaves", found: block.skipped_leaves, expected }));
        };
        let left = spec.bytes() - start;
        if block.leaves > left.div_ceil(leaf) {
            let expected = "a block that ends within its tensor";
            return Err(bad(payload, Fault::Value { field: "block leaves", found: block.leaves, expected }));
        }
        let bytes = left.min(block.leaves * leaf);
        let elements = bytes / spec.dtype().element_bytes() as u64;
        if block.changes > elements || put && block.changes != elements {
            return Err(bad(
                payload,
                Fault::Count { field: "block changes", expected: elements, found: block.changes },
            ));
        }
        tensor.covered = start + bytes;
        tensor.blocks += 1;
        // Bounded by the elements of the tensor, so the sum cannot overflow.
        tensor.changes += block.changes;
        let extent = Extent { coding: block.coding, start, bytes, changes: block.changes };
        let end = head + payload.len();
        Ok(Pending::Block { extent, payload: end - rest.len()..end })
    }

    fn read_tensor_end(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        let Some(tensor) = &self.tensor else {
            return Err(bad(payload, Fault::Order { expected: "a tensor" }));
        };
        let action = tensor.header.action;
        let end = parse::all(payload, "tensor trailer", |i| TensorTrailer::parse(i, action))?;
        let count = |field, expected, found| match expected == found {
            true => Ok(()),
            false => Err(bad(payload, Fault::Count { field, expected, found })),
        };
        count("tensor changes", tensor.changes, end.changes)?;
        let bytes = tensor.header.spec.as_ref().map_or(0, TensorSpec::bytes);
        if action.is_whole() {
            count("bytes of the tensor that is put", bytes, tensor.covered)?;
        }
        let Some(changes) = self.changes.checked_add(end.changes) else {
            let expected = "a sum that fits 64 bits";
            return Err(bad(payload, Fault::Value { field: "tensor changes", found: end.changes, expected }));
        };
        self.changes = changes;
        self.tensor = None;
        self.state = State::Tensors;
        Ok(Pending::TensorEnd(end))
    }

    fn read_index(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        parse::all(payload, "index", |i| index::check(i, &self.index, &self.limits))?;
        self.index_offset = self.offset;
        self.state = State::Footer;
        Ok(Pending::Index)
    }

    fn read_footer(&mut self, payload: &[u8]) -> Result<Pending, Bad> {
        let footer = parse::all(payload, "footer", Footer::parse)?;
        for (field, expected, found) in [
            ("footer tensors", self.index.len() as u64, footer.tensors),
            ("footer changes", self.changes, footer.changes),
            ("index offset", self.index_offset, footer.index_offset),
        ] {
            if expected != found {
                return Err(bad(payload, Fault::Count { field, expected, found }));
            }
        }
        footer.check(&self.header).map_err(|fault| bad(payload, fault))?;
        // Tensors that stay as they are count too; only the footer knows of them.
        let allowed = self.limits.target_bytes;
        limits::check("target_bytes", footer.target_bytes, allowed).map_err(|fault| bad(payload, fault))?;
        self.state = State::Done;
        Ok(Pending::End(footer))
    }
}

/// A fault of the section as a whole, placed at the begin of its payload.
fn bad(payload: &[u8], fault: Fault) -> Bad {
    Bad { rest: payload.len(), fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::stream::{Encoder, EncoderOptions};

    /// R46: only a file of more blocks than any reader lives to see has so many changes.
    #[test]
    fn r46_a_sum_of_changes_beyond_64_bits_is_refused() {
        let spec = TensorSpec::new(Dtype::U8, &[4]).unwrap();
        let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
        encoder.begin("w", Some(&spec), Some(&spec)).unwrap();
        encoder.push(b"abcd", b"abef").unwrap();
        encoder.end().unwrap();
        let (patch, _) = encoder.finish().unwrap();
        let fault = |changes_before: u64| {
            let mut decoder = PushDecoder { changes: changes_before, ..PushDecoder::new(Limits::default()) };
            let mut rest = patch.as_slice();
            loop {
                match decoder.feed(rest) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(Error::Corrupt(corrupt)) => return corrupt.fault,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let expected = "a sum that fits 64 bits";
        assert_eq!(fault(u64::MAX - 1), Fault::Value { field: "tensor changes", found: 2, expected });
        // The greatest sum is one; only the footer says otherwise.
        let footer = Fault::Count { field: "footer changes", expected: u64::MAX, found: 2 };
        assert_eq!(fault(u64::MAX - 2), footer);
    }
}
