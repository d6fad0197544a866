//! Patches that follow one another: checked link by link, and the target of the last as a source
//! of tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::coding::Coding;
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::patch::{BlockEntry, Patch, TensorEntry};
use crate::tensors::TensorSource;
use crate::wire::{Action, TensorHeader};

/// A tensor between two patches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version<'a> {
    /// Unknown of a base tensor that the first patch replaces or deletes.
    pub spec: Option<&'a TensorSpec>,
    pub digest: Digest,
}

/// A tensor of one patch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link<'a> {
    pub patch: &'a Patch,
    pub tensor: &'a TensorEntry,
}

/// What the patches of a chain do to one tensor.
#[derive(Debug)]
pub(crate) struct TensorHistory<'a> {
    /// Before the first patch that has the tensor, and after the last; `None` where there is none.
    pub base: Option<Version<'a>>,
    pub target: Option<Version<'a>>,
    first: &'a TensorHeader,
    /// The links that make the target: from the last that puts the tensor whole or, if none does,
    /// all of them.
    pub links: Vec<Link<'a>>,
}

/// What a chain does to a tensor as a whole, as a diff of its ends would say it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect<'a> {
    Unchanged,
    Patched(&'a TensorSpec),
    /// Added or replaced.
    Put(Action, &'a TensorSpec),
    Deleted,
}

impl<'a> TensorHistory<'a> {
    fn new(link: Link<'a>) -> Result<Self> {
        let header = &link.tensor.header;
        let spec = header.spec.as_ref().filter(|_| header.action == Action::Patched);
        let base = digests(link)?.0.map(|digest| Version { spec, digest });
        Ok(TensorHistory { base, target: base, first: header, links: Vec::new() })
    }

    /// Takes the next link; `before` is the patch before it.
    fn follow(&mut self, before: &Patch, link: Link<'a>) -> Result<()> {
        let TensorHeader { name, action, spec } = &link.tensor.header;
        let (base, target) = digests(link)?;
        let broken = |what: String| broken(before, link.patch, format!("tensor '{name}' {what}"));
        match (self.target, base) {
            (None, Some(_)) => {
                return Err(broken(format!("is {}, but does not exist", action.name())))
            }
            (Some(_), None) => return Err(broken("is added, but already exists".into())),
            (Some(found), Some(expected)) if found.digest != expected => {
                return Err(broken(format!(
                    "is expected with digest {expected}, found {}",
                    found.digest
                )));
            }
            (Some(Version { spec: Some(found), .. }), _) if *action == Action::Patched => {
                if let Some(expected) = spec.as_ref().filter(|spec| *spec != found) {
                    return Err(broken(format!("is expected as {expected}, found {found}")));
                }
            }
            _ => {}
        }
        if *action != Action::Patched {
            self.links.clear();
        }
        self.links.push(link);
        self.target = target.map(|digest| Version { spec: spec.as_ref(), digest });
        Ok(())
    }

    /// Whether the target does not depend on the bytes of the base.
    pub fn is_whole(&self) -> bool {
        self.links.first().is_some_and(|link| link.tensor.header.action != Action::Patched)
    }

    /// What became of the tensor, if that can be told without the base; otherwise why not.
    pub fn effect(&self) -> Result<Effect<'a>, &'static str> {
        let target = self.target.and_then(|target| Some((target.spec?, target.digest)));
        let (base, (spec, digest)) = match (self.base, target) {
            (None, None) => return Ok(Effect::Unchanged),
            (None, Some((spec, _))) => return Ok(Effect::Put(Action::Added, spec)),
            (Some(_), None) => return Ok(Effect::Deleted),
            (Some(base), Some(target)) => (base, target),
        };
        match base.spec {
            Some(old) if old == spec && base.digest == digest => Ok(Effect::Unchanged),
            Some(old) if old == spec && self.is_whole() => {
                Err("comes back with its old dtype and shape")
            }
            Some(old) if old == spec => Ok(Effect::Patched(spec)),
            Some(_) => Ok(Effect::Put(Action::Replaced, spec)),
            // All that is known of the base is that it was not what the first patch made of it.
            None if self.first.spec.as_ref() == Some(spec) => {
                Ok(Effect::Put(Action::Replaced, spec))
            }
            None => Err("may have come back with its old dtype and shape"),
        }
    }
}

/// Digests of a tensor in base and target.
fn digests(link: Link<'_>) -> Result<(Option<Digest>, Option<Digest>)> {
    // A patch that was read to its end has a trailer for each tensor.
    let end = link
        .tensor
        .end
        .ok_or_else(|| Error::Internal("a tensor without a trailer passed the scan".into()))?;
    Ok((end.base, end.target))
}

pub(crate) fn broken(before: &Patch, patch: &Patch, what: String) -> Error {
    broken_by(before, patch, what, None)
}

fn broken_by(
    before: &Patch,
    patch: &Patch,
    what: String,
    digests: Option<(Digest, Digest)>,
) -> Error {
    let (file, digests) = (patch.path().map(Into::into), digests.map(Box::new));
    Error::Chain { file, before: before.label(), patch: patch.label(), what, digests }
}

/// Blocks that have bytes of the range.
pub(crate) fn overlapping(blocks: &[BlockEntry], range: &Range<u64>) -> Range<usize> {
    let first = blocks.partition_point(|block| block.range().end <= range.start);
    let end = blocks.partition_point(|block| block.range().start < range.end);
    first..end.max(first)
}

/// How far before the bytes asked for those may start that they depend on: more than any patches
/// whose blocks are cut alike, and a bound for the work on those whose blocks are not.
const HULL_BYTES_MAX: u64 = 64 << 20;

/// Patches each of which starts where the one before it ends.
///
/// As a [`TensorSource`] it is the target of the last one: every tensor if it stands on a base or
/// starts with a snapshot, otherwise those that were put whole on the way.
pub(crate) struct Chain<'a> {
    patches: &'a [Patch],
    first: &'a Patch,
    last: &'a Patch,
    base: Option<&'a dyn TensorSource>,
    pub histories: BTreeMap<&'a str, TensorHistory<'a>>,
}

impl<'a> Chain<'a> {
    /// Checks that each patch follows the one before it: by the digests of the checkpoints, of each
    /// tensor, and of the files.
    pub fn new(patches: &'a [Patch]) -> Result<Self> {
        let (Some(first), Some(last)) = (patches.first(), patches.last()) else {
            return Err(Error::misuse("no patch to compose"));
        };
        for (before, patch) in patches.iter().zip(&patches[1..]) {
            let found = before.footer().target;
            let (what, digests) = match patch.footer().base {
                None => ("it is a snapshot, which can only come first".into(), None),
                Some(base) if base != found => {
                    let what = format!(
                        "its base has digest {base}, but the target of the other is {found}"
                    );
                    (what, Some((base, found)))
                }
                Some(_) => continue,
            };
            return Err(broken_by(before, patch, what, digests));
        }
        let mut chain = Chain { patches, first, last, base: None, histories: BTreeMap::new() };
        let mut before = first;
        for patch in patches {
            for tensor in patch.tensors() {
                chain.follow(before, Link { patch, tensor })?;
            }
            before = patch;
        }
        Ok(chain)
    }

    fn follow(&mut self, before: &Patch, link: Link<'a>) -> Result<()> {
        let name = link.tensor.header.name.as_str();
        if let Some(history) = self.histories.get_mut(name) {
            return history.follow(before, link);
        }
        let mut history = TensorHistory::new(link)?;
        if self.first.header().snapshot {
            // What the snapshot does not have is not there.
            history.base = None;
            history.target = None;
        }
        history.follow(before, link)?;
        self.histories.insert(name, history);
        Ok(())
    }

    /// The chain on its base, which must have the tensors that the first patches expect.
    pub fn on(mut self, base: &'a dyn TensorSource) -> Result<Self> {
        for (name, history) in &self.histories {
            let what = match (base.spec(name), history.base) {
                (None, Some(_)) => {
                    format!("tensor '{name}' is missing, but the patches start from it")
                }
                (Some(_), None) => format!("tensor '{name}' exists, but the patches add it"),
                (Some(found), Some(Version { spec: Some(expected), .. })) if found != expected => {
                    format!("tensor '{name}' is {found}, but the patches start from {expected}")
                }
                _ => continue,
            };
            return Err(self.first().unfit(format!("the patches do not fit this base: {what}")));
        }
        self.base = Some(base);
        Ok(self)
    }

    pub fn first(&self) -> &'a Patch {
        self.first
    }

    pub fn last(&self) -> &'a Patch {
        self.last
    }

    pub fn patches(&self) -> &'a [Patch] {
        self.patches
    }
}

impl TensorSource for Chain<'_> {
    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        let kept = self.base.iter().flat_map(|base| base.tensors());
        let kept = kept.filter(|(name, _)| !self.histories.contains_key(name));
        let made = self
            .histories
            .iter()
            .filter_map(|(name, history)| Some((*name, history.target?.spec?)));
        let mut tensors: Vec<_> = kept.chain(made).collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        tensors
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        match self.histories.get(name) {
            Some(history) => history.target?.spec,
            None => self.base?.spec(name),
        }
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let missing = || Error::Internal(format!("no bytes of tensor '{name}'"));
        let Some(history) = self.histories.get(name) else {
            return self.base.ok_or_else(missing)?.read(name, start, buffer);
        };
        let spec = history.target.and_then(|target| target.spec).ok_or_else(missing)?;
        let end = start.checked_add(buffer.len() as u64).filter(|&end| end <= spec.bytes());
        let end = end.ok_or_else(|| {
            Error::misuse(format!("the bytes asked for lie beyond the end of tensor '{name}'"))
        })?;

        // From the last link back: a contextual block is made from its start, so what lies beneath
        // must reach as far. No other needs more than what is asked for, and none more behind it.
        let mut hull = start..end;
        let mut runs = Vec::with_capacity(history.links.len());
        for Link { patch, tensor } in history.links.iter().rev() {
            let run = overlapping(&tensor.blocks, &hull);
            match tensor.blocks.get(run.start).filter(|_| !run.is_empty()) {
                Some(block) if block.coding() == Coding::Contextual => {
                    hull.start = hull.start.min(block.range().start);
                }
                _ => {}
            }
            if start - hull.start > HULL_BYTES_MAX {
                return Err(self.first().unfit(format!(
                    "tensor '{name}': its blocks, and those of the patches up to {}, overlap like stairs, more than {HULL_BYTES_MAX} bytes of them; compose fewer patches at once",
                    patch.label()
                )));
            }
            runs.push(run);
        }
        let mut wider = Vec::new();
        let bytes = if hull == (start..end) {
            &mut *buffer
        } else {
            // Bounded above.
            wider.resize(usize::try_from(hull.end - hull.start).map_err(|_| missing())?, 0);
            wider.as_mut_slice()
        };
        if !history.is_whole() {
            self.base.ok_or_else(missing)?.read(name, hull.start, bytes)?;
        }
        let mut payload = Vec::new();
        for (Link { patch, tensor }, run) in history.links.iter().zip(runs.into_iter().rev()) {
            for number in run {
                let range = tensor.blocks[number].range();
                let (from, to) = (range.start.max(hull.start), range.end.min(hull.end));
                // Within the hull, whose bytes are in memory.
                let place = (from - hull.start) as usize..(to - hull.start) as usize;
                patch.apply_part(
                    tensor,
                    number,
                    &mut payload,
                    from - range.start,
                    &mut bytes[place],
                )?;
            }
        }
        if !wider.is_empty() {
            let from = (start - hull.start) as usize;
            buffer.copy_from_slice(&wider[from..from + buffer.len()]);
        }
        Ok(())
    }

    fn slice(&self, name: &str, start: u64, bytes: usize) -> Option<&[u8]> {
        if self.histories.contains_key(name) {
            None
        } else {
            self.base?.slice(name, start, bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    /// Patches of one contextual block each, whose first leaf is the last of the block before.
    fn stairs(count: u64) -> Vec<Patch> {
        let patch = |step: u64| {
            // 64 leaves, one change; one class with a gap of 0, upwards.
            let skipped = testkit::hostile::varint(63 * step);
            let block = [&[2][..], &skipped, &[64, 1, 0, 1, 1, 0, 0, 0, 0]].concat();
            let patch = testkit::hostile::patch_of_blocks(1 << 30, vec![block], 1);
            // The digests of a chain: what each starts from is what the one before made.
            let patch = testkit::forge::replaced(&patch, b'E', &[1; 32], &[0; 32]);
            Patch::from_bytes(patch, Limits::default()).unwrap()
        };
        (0..count).map(patch).collect()
    }

    #[test]
    fn what_bytes_depend_on_is_bounded() {
        let read = |count: u64| {
            let patches = stairs(count);
            let chain = Chain::new(&patches).unwrap();
            let at = 63 * (count - 1) * (1 << 16);
            chain.read("w", at, &mut [0]).unwrap_err().to_string()
        };
        // Within the bound, all that is missing is the base.
        assert!(read(10).contains("no bytes of tensor 'w'"), "{}", read(10));
        assert!(read(18).contains("overlap like stairs"), "{}", read(18));
    }
}
