//! The target of a patch, made event by event and verified (SPEC.md §8.2 and §8.4).

use std::collections::{BTreeMap, HashMap};

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{BaseMismatch, Error, Made, Result};
use crate::hash::{CheckpointHasher, TensorHasher, LEAF_BYTES};
use crate::stream::fit::{compare_tensors, misfit};
use crate::stream::tally::{Differs, Tally};
use crate::stream::{Block, Event, Received, Store};
use crate::wire::{Action, Footer, Header, TensorHeader, TensorTrailer};

/// Bytes that are copied or hashed at once where no block says how many: leaves enough to be
/// hashed side by side.
const PIECE_BYTES: u64 = 16 * LEAF_BYTES as u64;

/// Why a target is not made.
enum Stop {
    /// The patch does not lead to its target, or does not fit the base. The base may be the reason.
    Wrong(Error),
    /// The store failed. That says nothing of patch or base.
    Store(Error),
}

/// The tensor that is being made.
#[derive(Debug)]
struct OpenTensor {
    name: String,
    action: Action,
    /// Absent if the tensor is deleted.
    spec: Option<TensorSpec>,
    /// Bytes made so far.
    made: u64,
    hasher: TensorHasher,
}

/// What the patch says of a tensor.
#[derive(Debug)]
struct Mention {
    name: String,
    action: Action,
    spec: Option<TensorSpec>,
    /// Digest in the base, once the trailer has come, if there is one.
    base: Option<Digest>,
}

#[derive(Debug)]
pub(crate) struct Target<S> {
    store: S,
    header: Option<Header>,
    /// What the store held when the header came.
    held: BTreeMap<String, TensorSpec>,
    /// The tensors of the patch, in its order.
    mentioned: Vec<Mention>,
    open: Option<OpenTensor>,
    /// Of the tensors of the target; the unchanged ones are added at the end.
    tally: Tally,
    /// The first check that failed. The patch is then read on only to learn from its footer whether
    /// the base is the reason (R63).
    failure: Option<Error>,
    /// Every check was made: what may be committed.
    verified: Option<Received>,
    /// A block, or bytes that no block covers.
    buffer: Vec<u8>,
}

impl<S: Store> Target<S> {
    pub fn new(store: S) -> Self {
        Target {
            store,
            header: None,
            held: BTreeMap::new(),
            mentioned: Vec::new(),
            open: None,
            tally: Tally::default(),
            failure: None,
            verified: None,
            buffer: Vec::new(),
        }
    }

    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Takes the next event of the patch, which ends before byte `at` of it.
    pub fn take(&mut self, event: &Event<'_>, at: u64) -> Result<()> {
        match event {
            Event::Header(header) => {
                self.store.start()?;
                self.header = Some((*header).clone());
                let held = self.store.tensors().into_iter();
                self.held = held.map(|(name, spec)| (name.to_string(), spec.clone())).collect();
            }
            Event::Tensor(TensorHeader { name, action, spec }) => {
                let (name, spec) = (name.clone(), spec.clone());
                self.mentioned.push(Mention { name, action: *action, spec, base: None });
            }
            Event::TensorEnd(end) => {
                if let Some(mention) = self.mentioned.last_mut() {
                    mention.base = end.base;
                }
            }
            _ => {}
        }
        if self.failure.is_none() {
            match self.follow(event, at) {
                Ok(()) => {}
                Err(Stop::Wrong(error)) => self.failure = Some(error),
                Err(Stop::Store(error)) => return Err(error),
            }
        }
        match (event, self.failure.take()) {
            (Event::End(footer), Some(failure)) => {
                Err(self.find_wrong_base(footer)?.unwrap_or(failure))
            }
            (Event::End(footer), None) => {
                self.verified =
                    self.header.clone().map(|header| Received { header, footer: **footer });
                Ok(())
            }
            (_, failure) => {
                self.failure = failure;
                Ok(())
            }
        }
    }

    /// Hands the target over to the store.
    pub fn commit(mut self) -> Result<Received> {
        let Some(received) = self.verified else {
            return Err(Error::misuse(
                "the patch has not been read to its end; nothing is verified",
            ));
        };
        self.store.commit()?;
        Ok(received)
    }

    fn is_snapshot(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.snapshot)
    }

    fn follow(&mut self, event: &Event<'_>, at: u64) -> Result<(), Stop> {
        match event {
            Event::File(record) => self.store.file(record).map_err(Stop::Store),
            Event::FileData(bytes) => self.store.file_data(bytes).map_err(Stop::Store),
            Event::Tensor(header) => self.begin(header),
            Event::Block(block) => self.apply(block),
            Event::TensorEnd(end) => self.end(end),
            Event::End(footer) => self.check(footer, at),
            Event::Header(_) | Event::Skipped(_) | Event::Index => Ok(()),
        }
    }

    fn begin(&mut self, header: &TensorHeader) -> Result<(), Stop> {
        let TensorHeader { name, action, spec } = header;
        // A snapshot replaces whatever is held.
        let held = if self.is_snapshot() { None } else { self.held.get(name) };
        match (action, spec, held) {
            (Action::Deleted, _, Some(_)) => self.store.delete(name),
            (Action::Patched, Some(spec), Some(held)) if spec == held => {
                self.store.begin(name, spec)
            }
            (Action::Added, Some(spec), None) | (Action::Replaced, Some(spec), Some(_)) => {
                self.store.begin(name, spec)
            }
            _ => {
                let what = misfit(name, *action, spec.as_ref(), held);
                return Err(Stop::Wrong(Error::Unfit { file: None, what }));
            }
        }
        .map_err(Stop::Store)?;
        let (name, action, spec) = (name.clone(), *action, spec.clone());
        self.open = Some(OpenTensor { name, action, spec, made: 0, hasher: TensorHasher::new() });
        Ok(())
    }

    fn apply(&mut self, block: &Block<'_>) -> Result<(), Stop> {
        let range = block.range();
        self.copy_base(range.start)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        // Within the limit on blocks, so it fits memory.
        self.buffer.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        if open.action == Action::Patched {
            self.store.read(&open.name, range.start, &mut self.buffer).map_err(Stop::Store)?;
        }
        block.apply(&mut self.buffer).map_err(Stop::Wrong)?;
        open.hasher.update(&self.buffer);
        open.made = range.end;
        self.store.write(&self.buffer).map_err(Stop::Store)
    }

    /// Makes the bytes of the open tensor up to `end` those of the base.
    fn copy_base(&mut self, end: u64) -> Result<(), Stop> {
        let Some(open) = &mut self.open else { return Ok(()) };
        while open.made < end {
            let bytes = PIECE_BYTES.min(end - open.made);
            self.buffer.resize(bytes as usize, 0);
            self.store.read(&open.name, open.made, &mut self.buffer).map_err(Stop::Store)?;
            open.hasher.update(&self.buffer);
            open.made += bytes;
            self.store.write(&self.buffer).map_err(Stop::Store)?;
        }
        Ok(())
    }

    fn end(&mut self, end: &TensorTrailer) -> Result<(), Stop> {
        let bytes =
            self.open.as_ref().and_then(|open| open.spec.as_ref()).map_or(0, TensorSpec::bytes);
        self.copy_base(bytes)?;
        let Some(OpenTensor { name, spec: Some(spec), hasher, .. }) = self.open.take() else {
            return Ok(());
        };
        let found = hasher.finish();
        if let Some(expected) = end.target.filter(|&expected| expected != found) {
            return Err(Stop::Wrong(wrong_result(Made::Tensor(name), expected, found)));
        }
        self.tally.add(&name, &spec, found);
        self.store.end().map_err(Stop::Store)
    }

    /// Checks the target as a whole (R69, R70), and the tensors that leave no trace in it (R94).
    fn check(&mut self, footer: &Footer, at: u64) -> Result<(), Stop> {
        let snapshot = self.is_snapshot();
        let mentioned = by_name(&self.mentioned);
        for (name, spec) in
            self.held.iter().filter(|(name, _)| !mentioned.contains_key(name.as_str()))
        {
            if snapshot {
                self.store.delete(name).map_err(Stop::Store)?;
                continue;
            }
            let digest = match self.store.digest(name) {
                Some(known) => known,
                None => {
                    hash_held(&self.store, name, spec, &mut self.buffer).map_err(Stop::Store)?
                }
            };
            self.tally.add(name, spec, digest);
        }
        match std::mem::take(&mut self.tally).compare(footer).map_err(Stop::Store)? {
            Some(Differs::Digest { expected, found }) => {
                return Err(Stop::Wrong(wrong_result(Made::Checkpoint, expected, found)));
            }
            Some(Differs::Total(fault)) => return Err(Stop::Wrong(fault.at(at))),
            None => {}
        }
        for Mention { name, base, .. } in
            self.mentioned.iter().filter(|mention| mention.action != Action::Patched)
        {
            let (Some(spec), &Some(expected)) = (self.held.get(name), base) else { continue };
            let found =
                hash_held(&self.store, name, spec, &mut self.buffer).map_err(Stop::Store)?;
            if expected != found {
                return Err(Stop::Wrong(Error::wrong_base(Some(name.clone()), expected, found)));
            }
        }
        Ok(())
    }

    /// The error of a store that does not hold the base that the patch names, if that is so.
    fn find_wrong_base(&mut self, footer: &Footer) -> Result<Option<Error>> {
        let Some(base) = footer.base else { return Ok(None) };
        let mentioned = by_name(&self.mentioned);
        let (mut checkpoint, mut differs) = (CheckpointHasher::new(), None);
        for (name, spec) in &self.held {
            let found = hash_held(&self.store, name, spec, &mut self.buffer)?;
            checkpoint.add(name, spec, found);
            let expected = mentioned.get(name.as_str()).and_then(|mention| mention.base);
            if let (None, Some(expected)) =
                (&differs, expected.filter(|&expected| expected != found))
            {
                differs = Some(BaseMismatch::new(Some(name.clone()), expected, found));
            }
        }
        let found = checkpoint.finish()?;
        if found == base {
            return Ok(None);
        }
        let mut mismatch = differs.unwrap_or_else(|| BaseMismatch::new(None, base, found));
        mismatch.is_target = found == footer.target;
        let mentions = self.mentioned.iter();
        compare_tensors(
            &mut mismatch,
            footer.target_tensors,
            mentions.map(|mention| (mention.name.as_str(), mention.action, mention.spec.as_ref())),
            self.held.len() as u64,
            |name| self.held.get(name),
        );
        Ok(Some(Error::BaseMismatch(Box::new(mismatch))))
    }
}

fn by_name(mentioned: &[Mention]) -> HashMap<&str, &Mention> {
    mentioned.iter().map(|mention| (mention.name.as_str(), mention)).collect()
}

/// Digest of a tensor that the store holds.
fn hash_held(
    store: &impl Store,
    name: &str,
    spec: &TensorSpec,
    buffer: &mut Vec<u8>,
) -> Result<Digest> {
    let (mut hasher, mut start) = (TensorHasher::new(), 0);
    while start < spec.bytes() {
        let bytes = PIECE_BYTES.min(spec.bytes() - start);
        buffer.resize(bytes as usize, 0); // at most a piece
        store.read(name, start, buffer)?;
        hasher.update(buffer);
        start += bytes;
    }
    Ok(hasher.finish())
}

fn wrong_result(made: Made, expected: Digest, found: Digest) -> Error {
    Error::WrongResult { file: None, made, expected, found }
}
