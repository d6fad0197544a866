//! The header section (SPEC.md §6.1).

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::Fault;
use crate::limits::Limits;
use crate::parse::{self, Parse};
use crate::varint;
use crate::wire::{put_digest, put_string};

const SNAPSHOT: u8 = 1;
const RUN: u8 = 2;
const BASE_STEP: u8 = 4;
const TARGET_STEP: u8 = 8;
const BASE_DIGEST: u8 = 16;
const FLAGS: u8 = 31;
/// Largest block that the format allows: 64 MiB.
const BLOCK_LEAVES_MAX: u64 = 1024;

/// What a patch says of itself before its first tensor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Header {
    /// No block of this file has more leaves than this.
    pub block_leaves: u64,
    /// The patch has no base and carries every tensor whole.
    pub snapshot: bool,
    /// Lineage: the training run.
    pub run: Option<[u8; 16]>,
    /// Optimizer step of the base.
    pub base_step: Option<u64>,
    /// Optimizer step of the target.
    pub target_step: Option<u64>,
    /// Digest of the base, if it was known when the header was written. The footer has it always.
    pub base_digest: Option<Digest>,
    /// Free strings of the writer.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    pub(crate) fn write(&self) -> Vec<u8> {
        let flag = |bit, set: bool| if set { bit } else { 0 };
        let mut out = vec![
            flag(SNAPSHOT, self.snapshot)
                | flag(RUN, self.run.is_some())
                | flag(BASE_STEP, self.base_step.is_some())
                | flag(TARGET_STEP, self.target_step.is_some())
                | flag(BASE_DIGEST, self.base_digest.is_some()),
        ];
        varint::put(&mut out, self.block_leaves);
        if let Some(run) = self.run {
            out.extend_from_slice(&run);
        }
        for step in [self.base_step, self.target_step].into_iter().flatten() {
            varint::put(&mut out, step);
        }
        if let Some(digest) = &self.base_digest {
            put_digest(&mut out, digest);
        }
        varint::put(&mut out, self.metadata.len() as u64);
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            put_string(&mut out, value);
        }
        out
    }

    pub(crate) fn parse<'a>(i: &'a [u8], limits: &Limits) -> Parse<'a, Header> {
        let (rest, flags) = parse::u8(i, "header flags")?;
        if flags & !FLAGS != 0 {
            return parse::fail(i, Fault::Reserved { field: "header flags", found: flags });
        }
        if flags & SNAPSHOT != 0 && flags & (BASE_STEP | BASE_DIGEST) != 0 {
            let expected = "no base step and no base digest in a snapshot";
            return parse::fail(
                i,
                Fault::Value { field: "header flags", found: flags.into(), expected },
            );
        }
        let (i, block_leaves) = parse::varint(rest, "block size")?;
        parse::check(
            rest,
            (1..=BLOCK_LEAVES_MAX).contains(&block_leaves),
            "block size",
            block_leaves,
            "1 to 1024 leaves",
        )?;
        parse::limit(rest, "block_leaves", block_leaves, limits.block_leaves)?;
        let (i, run) = optional(i, flags & RUN, |i| parse::run(i, "run"))?;
        let (i, base_step) = optional(i, flags & BASE_STEP, |i| parse::varint(i, "base step"))?;
        let (i, target_step) =
            optional(i, flags & TARGET_STEP, |i| parse::varint(i, "target step"))?;
        let (i, base_digest) =
            optional(i, flags & BASE_DIGEST, |i| parse::digest(i, "base digest"))?;
        let (i, metadata) = parse_metadata(i, limits)?;
        let snapshot = flags & SNAPSHOT != 0;
        Ok((
            i,
            Header { block_leaves, snapshot, run, base_step, target_step, base_digest, metadata },
        ))
    }
}

/// Runs the parser if the flag is set.
fn optional<'a, T>(
    i: &'a [u8],
    flag: u8,
    parser: impl FnOnce(&'a [u8]) -> Parse<'a, T>,
) -> Parse<'a, Option<T>> {
    if flag == 0 {
        return Ok((i, None));
    }
    parser(i).map(|(i, value)| (i, Some(value)))
}

fn parse_metadata<'a>(start: &'a [u8], limits: &Limits) -> Parse<'a, BTreeMap<String, String>> {
    parse::limit(start, "metadata_bytes", start.len() as u64, limits.metadata_bytes)?;
    let (mut i, count) = parse::varint(start, "metadata count")?;
    let mut metadata = BTreeMap::<String, String>::new();
    for _ in 0..count {
        let (rest, key) = parse::string(i, "metadata key")?;
        if metadata.last_key_value().is_some_and(|(last, _)| last.as_bytes() >= key.as_bytes()) {
            return parse::fail(i, Fault::Duplicate { field: "metadata key", found: key.into() });
        }
        let (rest, value) = parse::string(rest, "metadata value")?;
        metadata.insert(key.into(), value.into());
        i = rest;
    }
    Ok((i, metadata))
}
