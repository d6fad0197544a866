//! What the tests share: checkpoints in memory, and the plainest way to apply a patch to one.
//!
//! The applier is written for reading, not for speed: it is what SPEC.md says, event by event. Tests
//! hold `pulse::stream::Receiver` against it, so it shares no code with that.

use std::io::{self, Read};

use crate::checkpoint::{Checkpoint, Tensor};
use pulse::coding::{Coding, ValueForm};
use pulse::dtype::TensorSpec;
use pulse::error::{BaseMismatch, Fault};
use pulse::hash::{tensor_digest, Digest};
use pulse::stream::EncoderOptions;
use pulse::wire::{Action, FileRecord, TensorHeader, TensorTrailer};
use pulse::{Decoder, Error, Event, Limits, PushDecoder, Result};

/// Makes the options of an encoder.
pub type Options = fn() -> EncoderOptions;

/// The ways in which an encoder can be asked to write changes; a new coding is a new row.
pub const CODINGS: [(&str, Options); 4] = [
    ("contextual", || EncoderOptions::default().with_coding(Coding::Contextual)),
    ("flat, steps", || flat(ValueForm::UlpStep)),
    ("flat, xor", || flat(ValueForm::Xor)),
    ("flat, overwrite", || flat(ValueForm::Overwrite)),
];

fn flat(values: ValueForm) -> EncoderOptions {
    EncoderOptions::default().with_coding(Coding::Flat).with_values(values)
}

/// What a patch makes of a base.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub base_digest: Option<Digest>,
    pub target: Checkpoint,
    /// Files of the target with the bytes that the patch carries for them.
    pub files: Vec<(FileRecord, Vec<u8>)>,
    /// Sections that the decoder did not know.
    pub skipped: usize,
}

/// Applies a patch event by event, as SPEC.md §8.2 says.
struct Applier<'a> {
    base: &'a Checkpoint,
    open: Option<(TensorHeader, Tensor)>,
    applied: Applied,
    /// The first check that failed, and the sign that the base is the reason (R63).
    failure: Option<Error>,
    wrong_base: Option<Error>,
}

pub fn corrupt(offset: u64, fault: Fault) -> Error {
    fault.at(offset)
}

fn check_digest(field: &'static str, expected: Digest, found: Digest) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(corrupt(0, Fault::Digest { field, expected, found }))
    }
}

fn check_count(field: &'static str, found: u64, expected: u64) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(corrupt(0, Fault::Count { field, expected, found }))
    }
}

impl<'a> Applier<'a> {
    fn new(base: &'a Checkpoint) -> Self {
        Applier { base, open: None, applied: Applied::default(), failure: None, wrong_base: None }
    }

    /// After a failure, the patch is read on only to find out whether the base was the right one.
    fn take(&mut self, event: &Event<'_>) {
        self.compare_base(event);
        if self.failure.is_none() {
            self.failure = self.follow(event).err();
        }
    }

    fn compare_base(&mut self, event: &Event<'_>) {
        let Event::End(footer) = event else { return };
        if let (Some(expected), Some(found)) = (footer.base, self.applied.base_digest) {
            if expected != found {
                self.wrong_base =
                    Some(Error::BaseMismatch(Box::new(BaseMismatch::new(None, expected, found))));
            }
        }
    }

    fn follow(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Header(header) if !header.snapshot => {
                self.applied.base_digest = Some(self.base.digest());
                self.applied.target = self.base.clone();
            }
            Event::File(record) => self.applied.files.push(((*record).clone(), Vec::new())),
            Event::FileData(bytes) => {
                self.applied
                    .files
                    .last_mut()
                    .expect("data follows its file")
                    .1
                    .extend_from_slice(bytes);
            }
            Event::Tensor(header) => self.open = Some(((*header).clone(), self.begin(header)?)),
            Event::Block(block) => {
                let (_, tensor) = self.open.as_mut().expect("a block is within its tensor");
                block.apply_within(&mut tensor.bytes)?;
            }
            Event::TensorEnd(end) => self.end(end)?,
            Event::Skipped(_) => self.applied.skipped += 1,
            Event::End(footer) => {
                check_digest("target", footer.target, self.applied.target.digest())?;
                let specs = || self.applied.target.tensors.values().map(|tensor| &tensor.spec);
                check_count("target tensors", footer.target_tensors, specs().count() as u64)?;
                check_count(
                    "target elements",
                    footer.target_elements,
                    specs().map(TensorSpec::elements).sum(),
                )?;
                check_count(
                    "target bytes",
                    footer.target_bytes,
                    specs().map(TensorSpec::bytes).sum(),
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The bytes that blocks are applied to: those of the base, or zeros for a tensor that is put.
    fn begin(&self, header: &TensorHeader) -> Result<Tensor> {
        let base = self.base.tensors.get(&header.name);
        let base_spec = base.map(|tensor| &tensor.spec);
        match (header.action, &header.spec, base) {
            (Action::Patched, spec, Some(base)) if base_spec == spec.as_ref() => Ok(base.clone()),
            (Action::Deleted, _, Some(base)) => Ok(base.clone()),
            (Action::Added, Some(spec), None) | (Action::Replaced, Some(spec), Some(_)) => {
                Ok(Tensor { spec: spec.clone(), bytes: vec![0; spec.bytes() as usize] })
            }
            (action, ..) => {
                let what = format!("tensor '{}' cannot be {}", header.name, action.name());
                Err(Error::Unfit { file: None, what })
            }
        }
    }

    fn end(&mut self, end: &TensorTrailer) -> Result<()> {
        let (header, tensor) = self.open.take().expect("a tensor is open");
        if matches!(header.action, Action::Replaced | Action::Deleted) {
            // The old tensor leaves no trace in the target: only this tells whether it was the right one.
            let base = &self.base.tensors[&header.name].bytes;
            check_digest("base tensor", end.base.expect("a base"), tensor_digest(base))?;
        }
        match end.target {
            Some(expected) => {
                check_digest("target tensor", expected, tensor_digest(&tensor.bytes))?;
                self.applied.target.tensors.insert(header.name, tensor);
            }
            None => {
                self.applied.target.tensors.remove(&header.name);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Applied> {
        match (self.failure, self.wrong_base) {
            (None, _) => Ok(self.applied),
            (Some(failure), wrong_base) => Err(wrong_base.unwrap_or(failure)),
        }
    }
}

/// Applies a patch that is pulled from a reader.
pub fn apply(base: &Checkpoint, patch: impl Read) -> Result<Applied> {
    apply_within(Limits::default(), base, patch)
}

/// The same within limits.
pub fn apply_within(limits: Limits, base: &Checkpoint, patch: impl Read) -> Result<Applied> {
    let mut applier = Applier::new(base);
    let mut decoder = Decoder::new(patch, limits);
    while let Some(event) = decoder.next_event()? {
        applier.take(&event);
    }
    decoder.finish()?;
    applier.finish()
}

/// Applies a patch that is pushed in chunks of so many bytes.
pub fn apply_pushed(base: &Checkpoint, patch: &[u8], chunk_bytes: usize) -> Result<Applied> {
    apply_pushed_within(Limits::default(), base, patch, chunk_bytes)
}

/// The same within limits.
pub fn apply_pushed_within(
    limits: Limits,
    base: &Checkpoint,
    patch: &[u8],
    chunk_bytes: usize,
) -> Result<Applied> {
    let mut applier = Applier::new(base);
    let mut decoder = PushDecoder::new(limits);
    for mut chunk in patch.chunks(chunk_bytes) {
        while !chunk.is_empty() {
            if decoder.is_done() {
                return Err(corrupt(decoder.offset(), Fault::Trailing));
            }
            let (taken, event) = decoder.feed(chunk)?;
            chunk = &chunk[taken..];
            event.iter().for_each(|event| applier.take(event));
        }
    }
    decoder.finish()?;
    applier.finish()
}

/// A reader that gives a few bytes at a time, and is interrupted before each of them.
#[derive(Debug)]
pub struct Trickle<'a> {
    bytes: &'a [u8],
    chunk_bytes: usize,
    interrupt: bool,
}

impl<'a> Trickle<'a> {
    pub fn new(bytes: &'a [u8], chunk_bytes: usize) -> Self {
        Trickle { bytes, chunk_bytes, interrupt: false }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = out.len().min(self.chunk_bytes);
        self.bytes.read(&mut out[..most])
    }
}
