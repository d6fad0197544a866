//! Writes sections in the order that SPEC.md §4 demands. Knows nothing of weights.

use std::io::Write;
use std::sync::Arc;

use crate::coding::EncodedBlock;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hash::Sha;
use crate::limits::Limits;
use crate::packed::{Content, Packer};
use crate::stream::Summary;
use crate::tag::Tag;
use crate::wire::{
    self, index, BlockHeader, FileRecord, Footer, Header, IndexEntry, TensorHeader, TensorTrailer,
};

/// What the writer cannot know by itself when it closes the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub target_tensors: u64,
    pub target_elements: u64,
    pub target_bytes: u64,
    pub base: Option<Digest>,
    pub target: Digest,
}

#[derive(Debug)]
pub(crate) struct PatchWriter<W: Write> {
    out: W,
    sha: Sha,
    offset: u64,
    /// The section being built, reused from one to the next.
    section: Vec<u8>,
    payload: Vec<u8>,
    packer: Packer,
    index: Vec<IndexEntry>,
    changes: u64,
}

impl<W: Write> PatchWriter<W> {
    /// Writes signature, version and header.
    pub fn new(out: W, header: &Header) -> Result<Self> {
        let mut writer = PatchWriter {
            out,
            sha: Sha::default(),
            offset: 0,
            section: Vec::new(),
            payload: Vec::new(),
            packer: Packer::default(),
            index: Vec::new(),
            changes: 0,
        };
        writer.section.extend_from_slice(&wire::SIGNATURE);
        writer.section.extend_from_slice(&[wire::MAJOR, wire::MINOR]);
        writer.put_out()?;
        writer.section(Tag::HEADER, &header.write())?;
        Ok(writer)
    }

    pub fn get_ref(&self) -> &W {
        &self.out
    }

    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|source| Error::io("flushing the patch", source))
    }

    /// Writes what `section` holds and forgets it.
    fn put_out(&mut self) -> Result<()> {
        self.sha.update(&self.section);
        self.write_section_bytes()
    }

    fn write_section_bytes(&mut self) -> Result<()> {
        self.out.write_all(&self.section).map_err(|source| {
            Error::io(format!("writing the patch at byte {}", self.offset), source)
        })?;
        self.offset += self.section.len() as u64;
        self.section.clear();
        Ok(())
    }

    fn section(&mut self, tag: Tag, payload: &[u8]) -> Result<()> {
        let (bytes, allowed) = (payload.len() as u64, Limits::default().section_bytes);
        if bytes > allowed {
            return Err(Error::misuse(format!(
                "{tag} of {bytes} bytes: readers refuse more than {allowed}; make blocks smaller or metadata shorter"
            )));
        }
        wire::put_section(&mut self.section, tag, payload);
        self.put_out()
    }

    pub fn file(&mut self, record: &FileRecord) -> Result<()> {
        self.section(Tag::FILE, &record.write())
    }

    /// Writes bytes of the file record before; at most [`wire::FILE_DATA_BYTES`] at once.
    pub fn file_data(&mut self, bytes: &[u8], level: i32) -> Result<()> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        self.packer.put(&mut payload, bytes, Content::Numbers, level);
        self.section(Tag::FILE_DATA, &payload)?;
        self.payload = payload;
        Ok(())
    }

    pub fn tensor(&mut self, tensor: &TensorHeader) -> Result<()> {
        let previous = self.index.last().map(|entry| entry.name.clone());
        let payload = tensor.write(previous.as_deref().unwrap_or(""));
        self.index.push(IndexEntry { name: Arc::from(&*tensor.name), offset: self.offset });
        self.section(Tag::TENSOR, &payload)
    }

    pub fn block(&mut self, skipped_leaves: u64, leaves: u64, block: &EncodedBlock) -> Result<()> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        BlockHeader { coding: block.coding, skipped_leaves, leaves, changes: block.changes }
            .write(&mut payload);
        payload.extend_from_slice(&block.payload);
        self.section(Tag::BLOCK, &payload)?;
        self.payload = payload;
        self.changes += block.changes;
        Ok(())
    }

    pub fn tensor_end(&mut self, end: &TensorTrailer) -> Result<()> {
        self.section(Tag::TENSOR_END, &end.write())
    }

    /// Writes index and footer and gives the writer back.
    pub fn finish(mut self, totals: Totals) -> Result<(W, Summary)> {
        let index_offset = self.offset;
        self.section(Tag::INDEX, &index::write(&self.index))?;
        let mut footer = Footer {
            tensors: self.index.len() as u64,
            changes: self.changes,
            target_tensors: totals.target_tensors,
            target_elements: totals.target_elements,
            target_bytes: totals.target_bytes,
            index_offset,
            base: totals.base,
            target: totals.target,
            sha256: Digest([0; 32]),
        };
        let mut payload = footer.write_open();
        payload.extend_from_slice(&footer.sha256.0);
        // Frame the footer once without its SHA-256: all that comes before the field is then known.
        wire::put_section(&mut self.section, Tag::FOOTER, &payload);
        let open = self.section.len() - wire::CRC_BYTES - wire::FOOTER_DIGEST_BYTES;
        let mut sha = std::mem::take(&mut self.sha);
        sha.update(&self.section[..open]);
        footer.sha256 = sha.finish();
        let closed = payload.len() - wire::FOOTER_DIGEST_BYTES;
        payload[closed..].copy_from_slice(&footer.sha256.0);
        self.section.clear();
        wire::put_section(&mut self.section, Tag::FOOTER, &payload);
        self.write_section_bytes()?;
        self.flush()?;
        Ok((self.out, Summary { patch_bytes: self.offset, footer }))
    }
}
