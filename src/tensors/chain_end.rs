//! The target of a chain as a source of tensors, which are made as they are read.

use crate::coding::Coding;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::patch::chain::{Chain, Link, Version};
use crate::tensors::TensorSource;

/// How far before the bytes asked for those may start that they depend on: more than any patches
/// whose blocks are cut alike, and a bound for the work on those whose blocks are not.
const HULL_BYTES_MAX: u64 = 64 << 20;

/// The target of a chain: every tensor if it stands on a base or starts with a snapshot, otherwise those
/// that were put whole on the way.
pub(crate) struct ChainEnd<'a> {
    chain: &'a Chain<'a>,
    base: Option<&'a dyn TensorSource>,
}

impl<'a> ChainEnd<'a> {
    /// The end of a chain on its base, which must have the tensors that the first patches expect.
    pub fn new(chain: &'a Chain<'a>, base: Option<&'a dyn TensorSource>) -> Result<Self> {
        if let Some(base) = base {
            check_base_of(chain, base)?;
        }
        Ok(ChainEnd { chain, base })
    }
}

fn check_base_of(chain: &Chain<'_>, base: &dyn TensorSource) -> Result<()> {
    for (name, history) in &chain.histories {
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
        return Err(chain.first().unfit(format!("the patches do not fit this base: {what}")));
    }
    Ok(())
}

impl TensorSource for ChainEnd<'_> {
    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        let kept = self.base.iter().flat_map(|base| base.tensors());
        let kept = kept.filter(|(name, _)| !self.chain.histories.contains_key(name));
        let made = self
            .chain
            .histories
            .iter()
            .filter_map(|(name, history)| Some((*name, history.target?.spec?)));
        let mut tensors: Vec<_> = kept.chain(made).collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        tensors
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        match self.chain.histories.get(name) {
            Some(history) => history.target?.spec,
            None => self.base?.spec(name),
        }
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let missing = || Error::Internal(format!("no bytes of tensor '{name}'"));
        let Some(history) = self.chain.histories.get(name) else {
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
            let run = tensor.overlapping(&hull);
            match tensor.blocks.get(run.start).filter(|_| !run.is_empty()) {
                Some(block) if block.coding() == Coding::Contextual => {
                    hull.start = hull.start.min(block.range().start);
                }
                _ => {}
            }
            if start - hull.start > HULL_BYTES_MAX {
                return Err(self.chain.first().unfit(format!(
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
        if self.chain.histories.contains_key(name) {
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
    use crate::patch::Patch;

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
            ChainEnd::new(&chain, None).unwrap().read("w", at, &mut [0]).unwrap_err().to_string()
        };
        // Within the bound, all that is missing is the base.
        assert!(read(10).contains("no bytes of tensor 'w'"), "{}", read(10));
        assert!(read(18).contains("overlap like stairs"), "{}", read(18));
    }
}
