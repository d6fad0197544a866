//! One patch being written: which tensor is open, what was skipped, the digests of both sides.
//!
//! The encoder gathers blocks one after the other, `diff` makes them in parallel; both describe a
//! tensor to a session, which writes the sections.

use std::collections::HashSet;
use std::io::Write;
use std::mem;

use crate::coding::EncodedBlock;
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Fault, Result};
use crate::hash::{CheckpointHasher, TensorHasher};
use crate::limits::{Limits, Used};
use crate::stream::options::BaseSide;
use crate::stream::tally::Tally;
use crate::stream::writer::{PatchWriter, Totals};
use crate::stream::EncoderOptions;
use crate::wire::{Action, FileRecord, FileState, Footer, TensorHeader, TensorTrailer};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Size of the patch.
    pub patch_bytes: u64,
    /// The footer: totals and digests.
    pub footer: Footer,
}

/// Refuses a tensor that a reader with default limits would refuse.
pub(crate) fn check_tensor(name: &str, spec: Option<&TensorSpec>) -> Result<()> {
    let limits = Limits::default();
    let too_long = |what: &str, asked: usize, allowed: u64| {
        Err(Error::misuse(format!(
            "tensor '{name}': {what} {asked} exceeds the limit of {allowed} that readers have; shorten it"
        )))
    };
    if name.len() as u64 > limits.name_bytes {
        return too_long("name length", name.len(), limits.name_bytes);
    }
    if let Some(spec) = spec {
        if spec.shape().len() as u64 > limits.rank {
            return too_long("rank", spec.shape().len(), limits.rank);
        }
        let dtype = spec.dtype().name();
        if dtype.is_empty() || dtype.len() > 255 {
            return too_long("dtype name length", dtype.len(), 255);
        }
    }
    Ok(())
}

/// What readers with default limits would refuse.
fn refused(what: &str, name: &str, fault: &Fault) -> Error {
    Error::misuse(format!(
        "{what} '{name}': {fault}; readers would refuse the file, so make several patches of parts of the checkpoint"
    ))
}

/// The action that leads from one side to the other, and the header that says it.
pub(crate) fn tensor_header(
    name: &str,
    base: Option<&TensorSpec>,
    target: Option<&TensorSpec>,
) -> Result<TensorHeader> {
    let action = match (base, target) {
        (Some(base), Some(target)) if base == target => Action::Patched,
        (Some(_), Some(_)) => Action::Replaced,
        (None, Some(_)) => Action::Added,
        (Some(_), None) => Action::Deleted,
        (None, None) => {
            return Err(Error::misuse(format!(
                "tensor '{name}' is in neither checkpoint; do not begin it"
            )))
        }
    };
    check_tensor(name, base)?;
    check_tensor(name, target)?;
    Ok(TensorHeader { name: name.into(), action, spec: target.cloned() })
}

#[derive(Debug)]
pub(crate) struct OpenTensor {
    pub header: TensorHeader,
    pub base_spec: Option<TensorSpec>,
    pub base: TensorHasher,
    pub target: TensorHasher,
    /// Digest of the base tensor, if it is known already; nothing is then hashed of it.
    pub trusted: Option<Digest>,
    /// The tensor header was written: something changed.
    written: bool,
    skipped_leaves: u64,
    changes: u64,
}

/// What became of a tensor.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "parallel"), allow(dead_code))] // the encoder need not know
pub(crate) struct TensorOutcome {
    pub action: Action,
    /// The tensor is in the patch.
    pub written: bool,
    /// Digest of the tensor in the target, if it has it.
    pub target: Option<Digest>,
}

#[derive(Debug)]
pub(crate) struct Session<W: Write> {
    writer: PatchWriter<W>,
    pub options: EncoderOptions,
    /// What is known of the base beforehand.
    pub base_side: BaseSide,
    open: Option<OpenTensor>,
    files: HashSet<String>,
    names: HashSet<Box<str>>,
    used: Used,
    base: CheckpointHasher,
    target: Tally,
    /// A write failed half way: the file cannot be completed any more.
    broken: bool,
}

impl<W: Write> Session<W> {
    /// Writes the header.
    pub fn new(out: W, options: EncoderOptions, base_side: BaseSide) -> Result<Self> {
        let header = base_side.header(&options)?;
        Ok(Session {
            writer: PatchWriter::new(out, &header)?,
            options,
            base_side,
            open: None,
            files: HashSet::new(),
            names: HashSet::new(),
            used: Used::default(),
            base: CheckpointHasher::new(),
            target: Tally::default(),
            broken: false,
        })
    }

    fn is_snapshot(&self) -> bool {
        self.base_side == BaseSide::Absent
    }

    /// Marks the file as impossible to complete.
    pub fn set_broken(&mut self) {
        self.broken = true;
    }

    pub fn usable(&self) -> Result<()> {
        if self.broken {
            Err(Error::misuse("this encoder has already failed, so its file cannot be completed; create a new one"))
        } else {
            Ok(())
        }
    }

    /// Writes sections that belong together. Broken until they are out, whole.
    fn write(&mut self, sections: impl FnOnce(&mut PatchWriter<W>) -> Result<()>) -> Result<()> {
        self.usable()?;
        self.broken = true;
        sections(&mut self.writer)?;
        self.broken = false;
        Ok(())
    }

    /// Writes a file record. Only before the first tensor.
    pub fn file(&mut self, record: &FileRecord) -> Result<()> {
        if !self.names.is_empty() {
            return Err(Error::misuse(format!(
                "file '{}': files come before tensors; give all files first",
                record.name
            )));
        }
        record.check()?;
        if self.is_snapshot() && record.state != FileState::New {
            return Err(Error::misuse(format!(
                "file '{}': a snapshot has no base; carry the file instead",
                record.name
            )));
        }
        if !self.files.insert(record.name.clone()) {
            return Err(Error::misuse(format!(
                "file '{}' was already given; give each file once",
                record.name
            )));
        }
        let carried = if record.state.is_carried() { record.bytes } else { 0 };
        let used = self.used.file(&Limits::default(), carried);
        used.map_err(|fault| refused("file", &record.name, &fault))?;
        self.write(|writer| writer.file(record))
    }

    /// Writes bytes of the file record before.
    pub fn file_data(&mut self, bytes: &[u8]) -> Result<()> {
        let level = self.options.block.level;
        self.write(|writer| writer.file_data(bytes, level))
    }

    pub fn begin(
        &mut self,
        name: &str,
        base: Option<&TensorSpec>,
        target: Option<&TensorSpec>,
    ) -> Result<&OpenTensor> {
        self.usable()?;
        self.none_open()?;
        if self.is_snapshot() && base.is_some() {
            return Err(Error::misuse(format!(
                "tensor '{name}': a snapshot has no base; call added() for all of its tensors"
            )));
        }
        self.begin_as(tensor_header(name, base, target)?, base)
    }

    /// Begins a tensor whose header is known, whatever its base was.
    pub fn begin_as(
        &mut self,
        header: TensorHeader,
        base: Option<&TensorSpec>,
    ) -> Result<&OpenTensor> {
        let trusted = self.base_side.trusted_digest(&header.name);
        if !self.names.insert(header.name.as_str().into()) {
            return Err(Error::misuse(format!(
                "tensor '{}' was already pushed; push each tensor once",
                header.name
            )));
        }
        // Unchanged tensors count as well: whether a checkpoint can be written must not depend on what changed.
        let bytes = header.spec.as_ref().map_or(0, TensorSpec::bytes);
        let used = self.used.tensor(&Limits::default(), &header.name, bytes);
        used.map_err(|fault| refused("tensor", &header.name, &fault))?;
        Ok(self.open.insert(OpenTensor {
            header,
            base_spec: base.cloned(),
            base: TensorHasher::new(),
            target: TensorHasher::new(),
            trusted,
            written: false,
            skipped_leaves: 0,
            changes: 0,
        }))
    }

    fn none_open(&self) -> Result<()> {
        match &self.open {
            Some(open) => Err(Error::misuse(format!(
                "tensor '{}' was not ended, so the file cannot be completed; call end() on each tensor",
                open.header.name
            ))),
            None => Ok(()),
        }
    }

    /// The tensor between `begin` and `end`.
    pub fn open(&mut self) -> Result<&mut OpenTensor> {
        self.usable()?;
        self.open.as_mut().ok_or_else(|| Error::misuse("no tensor is open; begin one first"))
    }

    /// The open tensor, which gets one more block.
    fn admit_block(&mut self) -> Result<&mut OpenTensor> {
        let used = self.used.block(&Limits::default());
        let open = self.open()?;
        used.map_err(|fault| refused("tensor", &open.header.name, &fault))?;
        Ok(open)
    }

    /// Takes the next block of the open tensor, `None` if it is unchanged.
    pub fn block(&mut self, leaves: u64, encoded: Option<&EncodedBlock>) -> Result<()> {
        let open = self.open()?;
        let Some(encoded) = encoded else {
            open.skipped_leaves += leaves;
            return Ok(());
        };
        let open = self.admit_block()?;
        let first = !mem::replace(&mut open.written, true);
        let skipped_leaves = mem::take(&mut open.skipped_leaves);
        open.changes += encoded.changes;
        let header = first.then(|| open.header.clone());
        self.write(|writer| {
            if let Some(header) = &header {
                writer.tensor(header)?;
            }
            writer.block(skipped_leaves, leaves, encoded)
        })
    }

    fn take_open(&mut self) -> Result<OpenTensor> {
        self.usable()?;
        self.open.take().ok_or_else(|| Error::misuse("no tensor is open; begin one first"))
    }

    pub fn end(&mut self) -> Result<TensorOutcome> {
        let open = self.open()?;
        let base = open.trusted.unwrap_or_else(|| mem::take(&mut open.base).finish());
        let target = mem::take(&mut open.target).finish();
        self.end_with(base, target)
    }

    /// Ends the open tensor with digests of its bytes that were computed elsewhere.
    pub fn end_with(&mut self, base: Digest, target: Digest) -> Result<TensorOutcome> {
        let open = self.take_open()?;
        let name = &open.header.name;
        if let Some(spec) = &open.base_spec {
            self.base.add(name, spec, base);
        }
        if let Some(spec) = &open.header.spec {
            self.target.add(name, spec, target);
        }
        self.close(open, Some(base), Some(target))
    }

    /// Ends the open tensor with digests that are known: those of the bytes were not computed.
    #[cfg(feature = "checkpoint")]
    pub fn end_as(
        &mut self,
        base: Option<Digest>,
        target: Option<Digest>,
    ) -> Result<TensorOutcome> {
        let open = self.take_open()?;
        self.close(open, base, target)
    }

    fn close(
        &mut self,
        open: OpenTensor,
        base: Option<Digest>,
        target: Option<Digest>,
    ) -> Result<TensorOutcome> {
        let action = open.header.action;
        let written = action != Action::Patched || open.written;
        if written {
            let end = TensorTrailer {
                changes: open.changes,
                base: base.filter(|_| action.has_base()),
                target: target.filter(|_| action.has_target()),
            };
            self.write(|writer| {
                if !open.written {
                    writer.tensor(&open.header)?;
                }
                writer.tensor_end(&end)
            })?;
        }
        Ok(TensorOutcome { action, written, target: target.filter(|_| action.has_target()) })
    }

    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }

    pub fn get_ref(&self) -> &W {
        self.writer.get_ref()
    }

    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }

    /// Writes index and footer.
    pub fn finish(mut self) -> Result<(W, Summary)> {
        self.usable()?;
        self.none_open()?;
        let base = match &self.base_side {
            BaseSide::Absent => None,
            BaseSide::Hashed => Some(self.base.finish()?),
            // What was taken on trust must at least agree: those of tensors that another base has do not.
            BaseSide::Trusted(trusted) => {
                let found = self.base.finish()?;
                if found != trusted.checkpoint {
                    return Err(Error::wrong_base(None, trusted.checkpoint, found));
                }
                Some(found)
            }
        };
        if let (Some(expected), Some(found)) = (self.options.base_digest, base) {
            if expected != found {
                return Err(Error::wrong_base(None, expected, found));
            }
        }
        self.writer.finish(Totals {
            target_tensors: self.target.tensors,
            target_elements: self.target.elements,
            target_bytes: self.target.bytes,
            base,
            target: self.target.digest()?,
        })
    }

    /// Writes index and footer with totals that are known: not all tensors were seen.
    #[cfg(feature = "checkpoint")]
    pub fn finish_as(self, totals: Totals) -> Result<(W, Summary)> {
        self.usable()?;
        self.none_open()?;
        self.writer.finish(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::Coding;
    use crate::dtype::Dtype;

    /// 2^24 blocks and one more: a file that only a test can afford to write, for it keeps nothing.
    #[test]
    fn the_writer_stays_within_the_number_of_blocks() {
        let mut session =
            Session::new(std::io::sink(), EncoderOptions::default(), BaseSide::Hashed).unwrap();
        let spec = TensorSpec::new(Dtype::U8, &[1 << 42]).unwrap();
        session.begin("w", Some(&spec), Some(&spec)).unwrap();
        let block =
            EncodedBlock { coding: Coding::Flat, changes: 1, columns: None, payload: Vec::new() };
        for _ in 0..1 << 24 {
            session.block(1, Some(&block)).unwrap();
        }
        assert_eq!(
            session.block(1, Some(&block)).unwrap_err().to_string(),
            "tensor 'w': limit `blocks` exceeded: asked for 16777217, allowed 16777216; readers would refuse the file, so make several patches of parts of the checkpoint"
        );
    }
}
