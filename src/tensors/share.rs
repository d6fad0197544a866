//! What a part says of one tensor: a rank's share of it.

use std::ops::Range;

use crate::coding::Coding;
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::Fault;
use crate::hash::LEAF_BYTES;
use crate::limits::Limits;
use crate::parse::{self, Parse};
use crate::stream::tensor_header;
use crate::tensors::slices::Cut;
use crate::varint;
use crate::wire::{parse_spec, put_spec, Action, TensorHeader};

/// A block, or a part of a leaf, whose payload is among those of the part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub coding: Coding,
    pub changes: u64,
    /// Where the payload is in the part.
    pub payload: Range<u64>,
    pub crc: u32,
}

/// A part of a leaf: what is needed to hash and encode the leaf where the rest of it comes together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Edge {
    /// The bytes of the base, as a whole block; absent if there is no base.
    pub base: Option<Stored>,
    /// What changes from there; without a base, the bytes of the target. Absent if nothing does.
    pub target: Option<Stored>,
}

/// What is known of one side of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digests {
    /// The digest of all of it.
    Tensor(Digest),
    /// Those of the leaves that lie whole in the slice.
    Leaves(Vec<Digest>),
}

/// A tensor, or the slice of it that a rank has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub name: String,
    /// Of the full tensor, as the specs are.
    pub base: Option<TensorSpec>,
    pub target: Option<TensorSpec>,
    pub range: Range<u64>,
    pub base_digests: Option<Digests>,
    pub target_digests: Option<Digests>,
    /// Blocks that change, and the leaves of the full tensor that they cover.
    pub blocks: Vec<(Range<u64>, Stored)>,
    pub head: Edge,
    pub tail: Edge,
}

/// What has to be known of a part to read its shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most leaves of a block.
    pub block_leaves: u64,
    /// Payloads of the part lie before this.
    pub payloads_end: u64,
}

impl Share {
    /// Bytes of the full tensor; in the target, if it is there.
    pub fn total(&self) -> u64 {
        self.target.as_ref().or(self.base.as_ref()).map_or(0, TensorSpec::bytes)
    }

    pub fn cut(&self) -> Cut {
        Cut::of(&self.range, self.total())
    }

    pub fn action(&self) -> Action {
        match (&self.base, &self.target) {
            (Some(base), Some(target)) if base == target => Action::Patched,
            (Some(_), Some(_)) => Action::Replaced,
            (None, _) => Action::Added,
            (Some(_), None) => Action::Deleted,
        }
    }

    /// Writes the share; `previous` is the name of the one before.
    pub fn write(&self, previous: &str, out: &mut Vec<u8>) {
        let (name, action) = (self.name.clone(), self.action());
        out.extend(TensorHeader { name, action, spec: self.target.clone() }.write(previous));
        if let (Action::Replaced | Action::Deleted, Some(base)) = (action, &self.base) {
            put_spec(out, base);
        }
        varint::put(out, self.range.start);
        varint::put(out, self.range.end);
        for digests in [&self.base_digests, &self.target_digests].into_iter().flatten() {
            let (form, digests) = match digests {
                Digests::Tensor(digest) => (0, std::slice::from_ref(digest)),
                Digests::Leaves(leaves) => (1, leaves.as_slice()),
            };
            out.push(form);
            digests.iter().for_each(|digest| out.extend_from_slice(&digest.0));
        }
        varint::put(out, self.blocks.len() as u64);
        let mut end = self.cut().inner.start / LEAF_BYTES as u64;
        for (leaves, stored) in &self.blocks {
            varint::put(out, leaves.start - end);
            varint::put(out, leaves.end - leaves.start);
            stored.write(out);
            end = leaves.end;
        }
        let edges = [&self.head.base, &self.head.target, &self.tail.base, &self.tail.target];
        let present = edges.iter().enumerate().map(|(bit, edge)| u8::from(edge.is_some()) << bit);
        out.push(present.sum());
        edges.into_iter().flatten().for_each(|stored| stored.write(out));
    }

    /// Reads a share that lies within these bounds and has all that belongs to its range.
    pub fn parse<'a>(start: &'a [u8], previous: &str, bounds: Bounds) -> Parse<'a, Share> {
        let limits = Limits::default();
        let (i, header) = TensorHeader::parse(start, previous, &limits)?;
        let TensorHeader { name, action, spec: target } = header;
        let (i, base) = match action {
            Action::Patched => (i, target.clone()),
            Action::Added => (i, None),
            Action::Replaced | Action::Deleted => {
                let (i, base) = parse_spec(i, &limits)?;
                (i, Some(base))
            }
        };
        // As whoever writes the patch will look at it.
        let agrees = tensor_header(&name, base.as_ref(), target.as_ref())
            .is_ok_and(|header| header.action == action);
        let expected = "that of the specs of base and target";
        parse::check(start, agrees, "action", action as u64, expected)?;
        let (i, from) = parse::varint(i, "start of the slice")?;
        let (rest, to) = parse::varint(i, "end of the slice")?;
        let mut share = Share {
            name,
            base,
            target,
            range: from..to,
            base_digests: None,
            target_digests: None,
            blocks: Vec::new(),
            head: Edge::default(),
            tail: Edge::default(),
        };
        let (total, width) = (share.total(), share.element_bytes());
        let legal = from <= to && to <= total && (from % width, to % width) == (0, 0);
        let legal = legal && (action != Action::Replaced || (from..to) == (0..total));
        parse::check(i, legal, "end of the slice", to, "whole elements of the tensor")?;
        let rest = share.parse_digests(rest)?;
        let rest = share.parse_blocks(rest, bounds)?;
        let rest = share.parse_edges(rest, bounds)?;
        Ok((rest, share))
    }

    pub fn element_bytes(&self) -> u64 {
        let spec = self.target.as_ref().or(self.base.as_ref());
        spec.map_or(1, |spec| spec.dtype().element_bytes() as u64)
    }

    fn parse_digests<'a>(&mut self, mut i: &'a [u8]) -> Result<&'a [u8], nom::Err<parse::Bad>> {
        let is_whole = self.range == (0..self.total());
        let leaves = self.cut().leaves();
        let replaced = self.action() == Action::Replaced;
        for side in [Side::Base, Side::Target] {
            let present = match side {
                Side::Base => self.base.is_some(),
                Side::Target => self.target.is_some(),
            };
            if !present {
                continue;
            }
            let (rest, form) = parse::u8(i, "form of digests")?;
            // That of a whole base may be known from before.
            let legal = match form {
                0 => is_whole || side == Side::Base,
                1 => !replaced,
                _ => false,
            };
            parse::check(i, legal, "form of digests", form.into(), "one that fits the slice")?;
            let count = if form == 0 { 1 } else { leaves };
            let (after, bytes) = parse::take(rest, count.saturating_mul(32), "digests")?;
            let (found, _) = bytes.as_chunks::<32>();
            let found: Vec<Digest> = found.iter().map(|bytes| Digest(*bytes)).collect();
            let digests = match (form, found.as_slice()) {
                (0, [digest]) => Digests::Tensor(*digest),
                _ => Digests::Leaves(found),
            };
            match side {
                Side::Base => self.base_digests = Some(digests),
                Side::Target => self.target_digests = Some(digests),
            }
            i = after;
        }
        Ok(i)
    }

    fn parse_blocks<'a>(
        &mut self,
        i: &'a [u8],
        bounds: Bounds,
    ) -> Result<&'a [u8], nom::Err<parse::Bad>> {
        let leaf = LEAF_BYTES as u64;
        let inner = self.cut().inner;
        let (first, end) = (inner.start / leaf, inner.end.div_ceil(leaf));
        let whole = self.action().is_whole();
        let (mut i, count) = parse::varint(i, "number of blocks")?;
        let mut at = first;
        for _ in 0..count {
            let (rest, skipped) = parse::varint(i, "skipped leaves")?;
            let (rest, leaves) = parse::varint(rest, "leaves")?;
            let start = at.saturating_add(skipped);
            let stop = start.saturating_add(leaves);
            let legal = (1..=bounds.block_leaves).contains(&leaves)
                && (skipped == 0 || !whole)
                && self.target.is_some()
                && !inner.is_empty()
                && stop <= end;
            parse::check(i, legal, "leaves", leaves, "leaves within the slice and block size")?;
            let bytes = stop.saturating_mul(leaf).min(inner.end) - start * leaf;
            let (rest, stored) = Stored::parse(rest, bounds, bytes / self.element_bytes(), whole)?;
            self.blocks.push((start..stop, stored));
            (i, at) = (rest, stop);
        }
        let covered = !whole || inner.is_empty() || at == end;
        parse::check(i, covered, "leaves", at, "all leaves of a tensor that is put whole")?;
        Ok(i)
    }

    fn parse_edges<'a>(
        &mut self,
        i: &'a [u8],
        bounds: Bounds,
    ) -> Result<&'a [u8], nom::Err<parse::Bad>> {
        let (mut rest, present) = parse::u8(i, "edges")?;
        let cut = self.cut();
        let width = self.element_bytes();
        for (number, range) in [cut.head, cut.tail].into_iter().enumerate() {
            let elements = (range.end - range.start) / width;
            let [base, target] = [0, 1].map(|bit| present >> (2 * number + bit) & 1 == 1);
            let cuts = !range.is_empty();
            let legal = base == (cuts && self.base.is_some())
                && (!target || cuts && self.target.is_some())
                && (target || !cuts || self.base.is_some())
                && present < 16;
            parse::check(i, legal, "edges", present.into(), "those of the slice")?;
            let mut edge = Edge::default();
            if base {
                let (after, stored) = Stored::parse(rest, bounds, elements, true)?;
                (rest, edge.base) = (after, Some(stored));
            }
            if target {
                let (after, stored) = Stored::parse(rest, bounds, elements, self.base.is_none())?;
                (rest, edge.target) = (after, Some(stored));
            }
            if number == 0 {
                self.head = edge;
            } else {
                self.tail = edge;
            }
        }
        Ok(rest)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Base,
    Target,
}

impl Stored {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.coding.code());
        varint::put(out, self.changes);
        varint::put(out, self.payload.start);
        varint::put(out, self.payload.end - self.payload.start);
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    /// Reads a block of so many elements, which must be `whole` where there is no base.
    fn parse(start: &[u8], bounds: Bounds, elements: u64, whole: bool) -> Parse<'_, Stored> {
        let (i, code) = parse::u8(start, "coding")?;
        let coding = match Coding::from_code(code) {
            Some(coding) if !whole || coding == Coding::Whole => coding,
            _ => {
                let expected = "a coding that fits the tensor";
                let found = code.into();
                return parse::fail(start, Fault::Value { field: "coding", found, expected });
            }
        };
        let (rest, changes) = parse::varint(i, "changes")?;
        let legal = (1..=elements).contains(&changes) && (!whole || changes == elements);
        parse::check(i, legal, "changes", changes, "a number that fits the elements")?;
        let (i, at) = parse::varint(rest, "payload")?;
        let (rest, bytes) = parse::varint(i, "payload bytes")?;
        let end = at.checked_add(bytes).filter(|&end| end <= bounds.payloads_end);
        parse::check(i, end.is_some(), "payload bytes", bytes, "payloads before the index")?;
        let (i, crc) = parse::take(rest, 4, "CRC-32")?;
        let mut stored = [0; 4];
        stored.copy_from_slice(crc);
        let payload = at..end.unwrap_or(at);
        Ok((i, Stored { coding, changes, payload, crc: u32::from_le_bytes(stored) }))
    }
}
