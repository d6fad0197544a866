//! Patches that follow one another, checked link by link, and what they do to each tensor.

use std::collections::BTreeMap;
use std::slice;

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::patch::{Patch, TensorEntry};
use crate::stream::Lineage;
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

/// Patches each of which starts where the one before it ends: they lead from the base of the first to
/// the target of the last.
///
/// [`apply`](Self::apply) and [`update`](Self::update) take all of them at once: each byte of the base is
/// read once, every patch is applied to it while it is at hand, and the result is digested once. The first
/// patch may be a snapshot. A single patch is the shortest chain.
#[derive(Debug)]
pub struct Chain<'a> {
    patches: &'a [Patch],
    first: &'a Patch,
    last: &'a Patch,
    pub(crate) histories: BTreeMap<&'a str, TensorHistory<'a>>,
}

impl Patch {
    /// The patch as the chain that it is.
    pub(crate) fn as_chain(&self) -> Result<Chain<'_>> {
        Chain::new(slice::from_ref(self))
    }
}

impl<'a> Chain<'a> {
    /// Checks that each patch follows the one before it, by the digests of the checkpoints and of each
    /// tensor; no base is read.
    ///
    /// # Errors
    /// [`Error::Chain`] names a patch that does not follow the one before it, and both digests;
    /// [`Error::Misuse`] without any patch.
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::patch::Chain;
    /// use pulse::stream::EncoderOptions;
    /// use pulse::{Encoder, Error, Limits, Patch};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let patch = |base: &[u8], target: &[u8]| {
    ///     let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
    ///     let mut tensor = encoder.patched("w", &spec)?;
    ///     tensor.push(base, target)?;
    ///     tensor.end()?;
    ///     Patch::from_bytes(encoder.finish()?.0, Limits::default())
    /// };
    /// let patches = [patch(b"abc", b"abd")?, patch(b"abd", b"xbd")?];
    /// assert_eq!(Chain::new(&patches)?.patches().len(), 2);
    /// let lost = [patch(b"abc", b"abd")?, patch(b"xbd", b"xyz")?];
    /// assert!(matches!(Chain::new(&lost), Err(Error::Chain { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(patches: &'a [Patch]) -> Result<Self> {
        let (Some(first), Some(last)) = (patches.first(), patches.last()) else {
            return Err(Error::misuse("no patch given; give one at least"));
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
        let mut chain = Chain { patches, first, last, histories: BTreeMap::new() };
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

    /// The patches, in their order.
    #[must_use]
    pub fn patches(&self) -> &'a [Patch] {
        self.patches
    }

    pub(crate) fn first(&self) -> &'a Patch {
        self.first
    }

    pub(crate) fn last(&self) -> &'a Patch {
        self.last
    }

    /// The run that all patches name, the step of the base and that of the target.
    pub(crate) fn lineage(&self) -> Lineage {
        let (first, last) = (self.first.header(), self.last.header());
        let same = self.patches.iter().all(|patch| patch.header().run == first.run);
        let run = first.run.filter(|_| same);
        Lineage { run, base_step: first.base_step, target_step: last.target_step }
    }

    /// Whether the files that the patches are read from are what they were when they were opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.patches.iter().try_for_each(Patch::check_unchanged)
    }
}
