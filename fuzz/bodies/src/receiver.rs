//! Checkpoints in memory, and a receiver as SPEC.md §8.2 and §8.4 describe it: one tensor after
//! the other, over the events of a decoder. `Patch::verify` and the others must agree with it.

use std::collections::BTreeMap;

use pulse::dtype::TensorSpec;
use pulse::hash::LEAF_BYTES;
use pulse::wire::{Action, Footer};
use pulse::{Decoder, Event, Limits};
use sha2::{Digest as _, Sha256};

/// A tensor: dtype and shape, and its bytes.
pub type Tensor = (TensorSpec, Vec<u8>);
/// A checkpoint: tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The digest of a tensor (§5).
pub fn tensor_digest(bytes: &[u8]) -> [u8; 32] {
    let mut tensor = Sha256::new_with_prefix([1]);
    for leaf in bytes.chunks(LEAF_BYTES) {
        tensor.update(Sha256::new_with_prefix([0]).chain_update(leaf).finalize());
    }
    tensor.finalize().into()
}

/// The digest of a checkpoint (§5).
pub fn digest(tensors: &Tensors) -> [u8; 32] {
    let mut checkpoint = Sha256::new_with_prefix([2]);
    for (name, (spec, bytes)) in tensors {
        let dtype = spec.dtype().name();
        checkpoint.update((name.len() as u32).to_le_bytes());
        checkpoint.update(name);
        checkpoint.update([dtype.len() as u8]);
        checkpoint.update(dtype);
        checkpoint.update([spec.shape().len() as u8]);
        spec.shape().iter().for_each(|dimension| checkpoint.update(dimension.to_le_bytes()));
        checkpoint.update(tensor_digest(bytes));
    }
    checkpoint.finalize().into()
}

/// What came of a patch.
pub enum Received {
    /// The target, and the footer that promised it.
    Target(Tensors, Footer),
    /// Why there is none.
    Refused(String),
    /// More bytes than a fuzzer has time for.
    TooMuch,
}

/// Most bytes that blocks may cover in one run.
const BYTES_MAX: u64 = 4 << 20;

/// Applies a patch to its base. Looks at the base no more than a right result needs.
pub fn receive(base: &Tensors, patch: &[u8], limits: Limits) -> Received {
    let mut budget = BYTES_MAX;
    match Receiver::default().run(base, patch, limits, &mut budget) {
        Ok((target, footer)) => Received::Target(target, footer),
        Err(_) if budget == 0 => Received::TooMuch,
        Err(why) => Received::Refused(why),
    }
}

#[derive(Default)]
struct Receiver {
    target: Tensors,
    /// The open tensor: name, what stands of it, and bytes done.
    open: Option<(String, Action, Option<TensorSpec>, Vec<u8>)>,
    footer: Option<Footer>,
}

impl Receiver {
    fn run(
        mut self,
        base: &Tensors,
        patch: &[u8],
        limits: Limits,
        budget: &mut u64,
    ) -> Result<(Tensors, Footer), String> {
        let empty = Tensors::new();
        let mut base = base;
        let mut decoder = Decoder::new(patch, limits);
        let text = |error: pulse::Error| error.to_string();
        while let Some(event) = decoder.next_event().map_err(text)? {
            match event {
                Event::Header(header) => {
                    base = if header.snapshot { &empty } else { base };
                    self.target = base.clone();
                }
                Event::Tensor(header) => {
                    let held = self.target.remove(&header.name);
                    let bytes = match (header.action, held) {
                        (Action::Patched, Some((spec, bytes))) if header.spec.as_ref() == Some(&spec) => bytes,
                        (Action::Added, None) | (Action::Replaced | Action::Deleted, Some(_)) => Vec::new(),
                        _ => return Err("the base has another tensor, or none".into()),
                    };
                    self.open = Some((header.name.clone(), header.action, header.spec.clone(), bytes));
                }
                Event::Block(block) => {
                    let (_, action, _, bytes) = self.open.as_mut().ok_or("a block without a tensor")?;
                    let (start, end) = (block.range().start as usize, block.range().end as usize);
                    *budget = budget.saturating_sub((end - start) as u64);
                    if *budget == 0 {
                        return Err("too much".into());
                    }
                    if *action != Action::Patched {
                        assert_eq!(start, bytes.len(), "bytes of a tensor that is put whole are missing");
                        bytes.resize(end, 0);
                    }
                    block.apply(&mut bytes[start..end]).map_err(text)?;
                }
                Event::TensorEnd(end) => {
                    let (name, action, spec, bytes) = self.open.take().ok_or("an end without a tensor")?;
                    if let Some(spec) = spec {
                        if end.target.map(|digest| digest.0) != Some(tensor_digest(&bytes)) {
                            return Err("another tensor was made".into());
                        }
                        assert_eq!(spec.bytes(), bytes.len() as u64);
                        self.target.insert(name.clone(), (spec, bytes));
                    }
                    // What leaves no trace in the target must be checked by itself (R94).
                    let gone = matches!(action, Action::Replaced | Action::Deleted);
                    if gone && end.base.map(|digest| digest.0) != Some(tensor_digest(&base[&name].1)) {
                        return Err("the base has another tensor".into());
                    }
                }
                Event::End(footer) => self.footer = Some(*footer),
                _ => {}
            }
        }
        decoder.finish().map_err(text)?;
        let footer = self.footer.ok_or("no footer")?;
        let sum = |count: fn(&TensorSpec) -> u64| self.target.values().map(|(spec, _)| count(spec)).sum::<u64>();
        let counts = [self.target.len() as u64, sum(TensorSpec::elements), sum(TensorSpec::bytes)];
        if counts != [footer.target_tensors, footer.target_elements, footer.target_bytes] {
            return Err("the footer counts otherwise".into());
        }
        if footer.target.0 != digest(&self.target) {
            return Err("another checkpoint was made".into());
        }
        Ok((self.target, footer))
    }
}
