//! All that a patch holds, and where: read in one pass.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::coding::{Coding, PayloadBits};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::limits::{check_expansion, Limits, CHANGE_BYTES};
use crate::patch::Patch;
use crate::stream::{Block, Decoder, Event, Extent};
use crate::tag::Tag;
use crate::wire::{FileRecord, Footer, Header, TensorHeader, TensorTrailer};

/// A file record and where its data stands in the patch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileEntry {
    /// The record.
    pub record: FileRecord,
    /// Payloads of its data sections, as byte ranges of the patch.
    pub(crate) data: Vec<Range<u64>>,
}

/// A block and where its payload stands in the patch.
#[derive(Debug, Clone)]
pub struct BlockEntry {
    pub(crate) extent: Extent,
    pub(crate) payload: Range<u64>,
    // Boxed: a file can have millions of blocks, and only an inspection asks for this.
    account: Option<Box<PayloadBits>>,
}

impl BlockEntry {
    /// A block whose payload stands in this range of what is read.
    pub(crate) fn new(extent: Extent, payload: Range<u64>) -> Self {
        BlockEntry { extent, payload, account: None }
    }

    /// How the changes are written.
    #[must_use]
    pub fn coding(&self) -> Coding {
        self.extent.coding
    }

    /// The bytes of the tensor that the block covers.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.extent.start..self.extent.end()
    }

    /// Number of elements that change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.extent.changes
    }

    /// Where the bits of the payload go, if [`Inventory::inspect`] read it and it can be decoded.
    #[must_use]
    pub fn account(&self) -> Option<PayloadBits> {
        self.account.as_deref().copied()
    }

    /// Encoded size in bytes, without framing.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload.end - self.payload.start
    }
}

/// A tensor of the patch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorEntry {
    /// Name, action, dtype and shape.
    pub header: TensorHeader,
    /// Blocks in order.
    pub blocks: Vec<BlockEntry>,
    /// The trailer; absent if the file broke off before it.
    pub end: Option<TensorTrailer>,
    /// Bytes of all sections of the tensor.
    pub bytes: u64,
}

impl TensorEntry {
    /// A tensor of which nothing but the header has come.
    pub(crate) fn begin(header: TensorHeader) -> Self {
        TensorEntry { header, blocks: Vec::new(), end: None, bytes: 0 }
    }

    /// Numbers of the blocks that have bytes of the range.
    pub(crate) fn overlapping(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.blocks.partition_point(|block| block.range().end <= range.start);
        let end = self.blocks.partition_point(|block| block.range().start < range.end);
        first..end.max(first)
    }
}

/// Sections of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SectionTotal {
    /// How many.
    pub count: u64,
    /// Their bytes, framing included.
    pub bytes: u64,
}

/// All that a patch file says, read in one pass. A damaged file is mapped as far as it goes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Inventory {
    /// Size of the file.
    pub file_bytes: u64,
    /// Major and minor version, if they were reached.
    pub version: Option<(u8, u8)>,
    /// Bytes from the begin of the file that were read and found right.
    pub good_bytes: u64,
    /// The header, if it was reached.
    pub header: Option<Header>,
    /// Files of the target.
    pub files: Vec<FileEntry>,
    /// Tensors in the order of the file.
    pub tensors: Vec<TensorEntry>,
    /// The footer, if the file is right to the end.
    pub footer: Option<Footer>,
    /// Every section that was read, by kind. With the 10 bytes of signature and version they
    /// make up `good_bytes`.
    pub sections: BTreeMap<Tag, SectionTotal>,
    /// How often each step occurs in the blocks that have steps, if [`Inventory::inspect`] read
    /// them. Steps beyond ±[`ULP_STEP_MAX`](Self::ULP_STEP_MAX) are counted there.
    pub ulp_steps: BTreeMap<i64, u64>,
    /// Blocks that [`Inventory::inspect`] left packed: those before them have changes in all that
    /// [`Limits::expansion`] allows for a file of this size.
    pub left_packed: u64,
    /// Why reading ended before the end, or else what is wrong with the first block that
    /// [`Inventory::inspect`] could not decode; `None` if the file is right.
    pub error: Option<Error>,
}

/// How deep a patch is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Sections and their fields.
    Sections,
    /// The payload of each block as well.
    Payloads,
}

/// Steps as they are counted: nearly all are small.
#[derive(Debug)]
struct Steps {
    small: [u64; 2 * SMALL_STEP + 1],
    others: BTreeMap<i64, u64>,
    /// What the blocks that were unpacked for them count for.
    unpacked_bytes: u64,
}

/// The largest step that is counted in an array.
const SMALL_STEP: usize = 512;

impl Default for Steps {
    fn default() -> Self {
        Steps { small: [0; 2 * SMALL_STEP + 1], others: BTreeMap::new(), unpacked_bytes: 0 }
    }
}

impl Steps {
    fn add(&mut self, step: i64) {
        let place = usize::try_from(step.saturating_add(SMALL_STEP as i64)).ok();
        match place.and_then(|place| self.small.get_mut(place)) {
            Some(count) => *count += 1,
            None => {
                let step = step.clamp(-Inventory::ULP_STEP_MAX, Inventory::ULP_STEP_MAX);
                *self.others.entry(step).or_default() += 1;
            }
        }
    }

    fn counts(self) -> BTreeMap<i64, u64> {
        let small = (-(SMALL_STEP as i64)..).zip(self.small).filter(|(_, count)| *count > 0);
        small.chain(self.others).collect()
    }
}

impl Inventory {
    /// Reads what a file holds, as far as it can be read; see [`error`](Self::error).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn read(path: impl AsRef<Path>, limits: Limits) -> Result<Inventory> {
        Ok(Patch::scan_file(path.as_ref(), &limits, Depth::Sections, &Disk::default())?.0)
    }

    /// As [`read`](Self::read), and decodes every block to tell where its bits go.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn inspect(path: impl AsRef<Path>, limits: Limits) -> Result<Inventory> {
        Ok(Patch::scan_file(path.as_ref(), &limits, Depth::Payloads, &Disk::default())?.0)
    }

    /// The largest step that [`ulp_steps`](Self::ulp_steps) tells from greater ones: a bound for its memory.
    pub const ULP_STEP_MAX: i64 = 1 << 16;

    pub(super) fn scan(
        &mut self,
        patch: &mut dyn Read,
        limits: &Limits,
        depth: Depth,
    ) -> Result<()> {
        let mut decoder = Decoder::new(patch, limits.clone());
        let mut steps = Steps::default();
        let result = self.walk(&mut decoder, depth, limits, &mut steps);
        self.ulp_steps = steps.counts();
        self.version = decoder.push_decoder().version();
        self.good_bytes = decoder.push_decoder().offset();
        result?;
        decoder.finish().map(|_| ())?;
        self.error.take().map_or(Ok(()), Err)
    }

    /// What a block says without its base; an error is kept, and reading goes on.
    fn decode(
        &mut self,
        block: &Block<'_>,
        limits: &Limits,
        steps: &mut Steps,
    ) -> Option<PayloadBits> {
        // Whole blocks are bounded wherever they are read, by the same limit.
        if block.coding() != Coding::Whole {
            let bytes = steps.unpacked_bytes.saturating_add(block.changes() * CHANGE_BYTES);
            if check_expansion(bytes, self.file_bytes, limits).is_err() {
                self.left_packed += 1;
                return None;
            }
            steps.unpacked_bytes = bytes;
        }
        match block.decode() {
            Ok(decoded) => {
                decoded.ulp_steps().into_iter().flatten().for_each(|step| steps.add(step));
                Some(decoded.account())
            }
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn walk(
        &mut self,
        decoder: &mut Decoder<&mut dyn Read>,
        depth: Depth,
        limits: &Limits,
        steps: &mut Steps,
    ) -> Result<()> {
        while decoder.next_event()?.is_some() {
            // Asked once more, without a claim to change the decoder: it knows where the event is.
            let push = decoder.push_decoder();
            let (Some(event), Some(section)) = (push.event(), push.section()) else { continue };
            match event {
                Event::Header(header) => self.header = Some(header.clone()),
                Event::File(record) => {
                    self.files.push(FileEntry { record: record.clone(), data: Vec::new() });
                }
                Event::FileData(_) => {
                    if let Some(file) = self.files.last_mut() {
                        file.data.push(push.payload());
                    }
                }
                Event::Tensor(header) => self.tensors.push(TensorEntry::begin(header.clone())),
                Event::Block(block) => {
                    let account = match depth {
                        Depth::Payloads => self.decode(&block, limits, steps).map(Box::new),
                        Depth::Sections => None,
                    };
                    let entry =
                        BlockEntry { account, ..BlockEntry::new(block.extent(), push.payload()) };
                    if let Some(tensor) = self.tensors.last_mut() {
                        tensor.blocks.push(entry);
                    }
                }
                Event::TensorEnd(end) => {
                    if let Some(tensor) = self.tensors.last_mut() {
                        tensor.end = Some(*end);
                    }
                }
                Event::End(footer) => self.footer = Some(*footer),
                Event::Index | Event::Skipped(_) => {}
            }
            let total = self.sections.entry(section.tag).or_default();
            total.count += 1;
            total.bytes += section.bytes;
            if matches!(section.tag, Tag::TENSOR | Tag::BLOCK | Tag::TENSOR_END) {
                if let Some(tensor) = self.tensors.last_mut() {
                    tensor.bytes += section.bytes;
                }
            }
        }
        Ok(())
    }
}
