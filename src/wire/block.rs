//! Block headers (SPEC.md §6.3): which leaves, how many changes, in which coding.

use crate::coding::{self, Coding};
use crate::parse::{self, Parse};
use crate::varint;

/// Head of a block section; the coding's payload follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub coding: Coding,
    /// Unchanged leaves between the block before, or the begin of the tensor, and this block.
    pub skipped_leaves: u64,
    pub leaves: u64,
    pub changes: u64,
}

impl BlockHeader {
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.coding.code());
        [self.skipped_leaves, self.leaves, self.changes]
            .iter()
            .for_each(|&field| varint::put(out, field));
    }

    /// Gives back the payload of the coding as the rest. `max_leaves` is the header's block size.
    pub fn parse(start: &[u8], max_leaves: u64) -> Parse<'_, BlockHeader> {
        let (i, code) = parse::u8(start, "coding")?;
        let Some(coding) = Coding::from_code(code) else {
            return parse::fail(start, coding::unknown(code));
        };
        let (leaves_at, skipped_leaves) = parse::varint(i, "skipped leaves")?;
        let (changes_at, leaves) = parse::varint(leaves_at, "block leaves")?;
        let legal = (1..=max_leaves).contains(&leaves);
        parse::check(
            leaves_at,
            legal,
            "block leaves",
            leaves,
            "1 to the block size of the header",
        )?;
        let (i, changes) = parse::varint(changes_at, "block changes")?;
        parse::check(changes_at, changes > 0, "block changes", changes, "at least 1")?;
        Ok((i, BlockHeader { coding, skipped_leaves, leaves, changes }))
    }
}
