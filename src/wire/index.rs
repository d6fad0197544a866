//! The index: name and offset of each tensor, for readers with random access (SPEC.md §6.5).

use std::sync::Arc;

use crate::limits::Limits;
use crate::parse::{self, Parse};
use crate::varint;
use crate::wire::{limit, parse_name, put_name};

/// Where a tensor header stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub name: Arc<str>,
    pub offset: u64,
}

pub(crate) fn write(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, entries.len() as u64);
    let (mut name, mut offset) = ("", 0);
    for entry in entries {
        put_name(&mut out, name, &entry.name);
        varint::put(&mut out, entry.offset - offset);
        (name, offset) = (&entry.name, entry.offset);
    }
    out
}

pub(crate) fn parse<'a>(start: &'a [u8], limits: &Limits) -> Parse<'a, Vec<IndexEntry>> {
    let (mut i, count) = parse::varint(start, "index count")?;
    limit(start, "tensors", count, limits.tensors)?;
    let mut entries = Vec::<IndexEntry>::new();
    for _ in 0..count {
        let (before, from) = entries.last().map_or(("", 0), |last| (&*last.name, last.offset));
        let (delta_at, name) = parse_name(i, before, limits)?;
        let (rest, delta) = parse::varint(delta_at, "index offset")?;
        let Some(offset) = from.checked_add(delta).filter(|_| delta > 0) else {
            let expected = "an offset after the one before";
            return parse::fail(delta_at, crate::error::Fault::Value { field: "index offset", found: delta, expected });
        };
        entries.push(IndexEntry { name: name.into(), offset });
        i = rest;
    }
    Ok((i, entries))
}
