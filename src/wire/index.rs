//! The index: name and offset of each tensor, for readers with random access (SPEC.md §6.5).

use std::ops::Range;
use std::sync::Arc;

use crate::error::Fault;
use crate::limits::{Limits, Used};
use crate::parse::{self, Parse};
use crate::varint;
use crate::wire::{parse_name, parse_name_parts, put_name};

/// Most bytes of a wrong name that an error repeats: a suffix may be as long as the section.
const FOUND_BYTES: usize = 4096;

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

/// Reads an index that must say what `expected` says. Compares entry by entry: names that share
/// their beginnings would be far larger than the section if they were all written out.
pub(crate) fn check<'a>(
    start: &'a [u8],
    expected: &[IndexEntry],
    limits: &Limits,
) -> Parse<'a, ()> {
    let (mut i, count) = parse::varint(start, "index count")?;
    if count != expected.len() as u64 {
        return parse::fail(
            start,
            Fault::Count { field: "index count", expected: expected.len() as u64, found: count },
        );
    }
    let (mut name, mut offset) = ("", 0u64);
    for entry in expected {
        let (offset_at, (prefix, suffix)) = parse_name_parts(i, name, limits)?;
        if entry.name.as_bytes().strip_prefix(prefix) != Some(suffix) {
            // No name is so long that its begin would not tell.
            let shown = &suffix[..suffix.len().min(FOUND_BYTES)];
            let found = String::from_utf8_lossy(&[prefix, shown].concat()).into_owned();
            return parse::fail(i, Fault::Name { field: "index name", found });
        }
        let (rest, delta) = parse::varint(offset_at, "index offset")?;
        let found = offset.saturating_add(delta);
        if found != entry.offset {
            return parse::fail(
                offset_at,
                Fault::Count { field: "index offset", expected: entry.offset, found },
            );
        }
        (name, offset) = (&entry.name, entry.offset);
        i = rest;
    }
    Ok((i, ()))
}

/// Reads an index on its own, for a reader that has not met the tensors. Offsets must ascend within
/// `places`; whether a tensor header stands there shows when it is read.
#[cfg_attr(not(feature = "parallel"), allow(dead_code))] // patches are read from front to back only
pub(crate) fn read<'a>(
    start: &'a [u8],
    tensors: u64,
    places: Range<u64>,
    limits: &Limits,
) -> Parse<'a, Vec<IndexEntry>> {
    let (mut i, count) = parse::varint(start, "index count")?;
    if count != tensors {
        return parse::fail(
            start,
            Fault::Count { field: "index count", expected: tensors, found: count },
        );
    }
    let mut used = Used::default();
    let mut entries = Vec::<IndexEntry>::new();
    let mut lowest = places.start;
    for _ in 0..count {
        let last = entries.last();
        let (previous, before) = last.map_or(("", 0), |entry| (&*entry.name, entry.offset));
        let (offset_at, name) = parse_name(i, previous, limits)?;
        // Bytes of the target are counted when the tensor header is read.
        let read = places.end.saturating_add(start.len() as u64);
        if let Err(fault) = used.tensor(limits, &name, 0).and_then(|()| used.names(limits, read)) {
            return parse::fail(i, fault);
        }
        let (rest, delta) = parse::varint(offset_at, "index offset")?;
        let offset = before.saturating_add(delta);
        if offset < lowest || offset >= places.end {
            let expected = if offset < lowest { lowest } else { places.end - 1 };
            return parse::fail(
                offset_at,
                Fault::Count { field: "index offset", expected, found: offset },
            );
        }
        // Cannot overflow: the offset is less than the end of `places`.
        lowest = offset + 1;
        entries.push(IndexEntry { name: name.into(), offset });
        i = rest;
    }
    Ok((i, entries))
}
