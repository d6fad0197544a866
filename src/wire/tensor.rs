//! Tensor headers and trailers (SPEC.md §6.2 and §6.4).

use crate::digest::Digest;
use crate::dtype::{Dtype, TensorSpec};
use crate::error::Fault;
use crate::limits::Limits;
use crate::parse::{self, Parse};
use crate::varint;
use crate::wire::{parse_name, parse_string, put_digest, put_name, put_string};

/// What happens to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Same dtype and shape in base and target; blocks carry the changes.
    Patched,
    /// In the target only; put whole.
    Added,
    /// In both, but its dtype or shape changed; put whole.
    Replaced,
    /// In the base only.
    Deleted,
}

impl Action {
    const ALL: [Action; 4] = [Action::Patched, Action::Added, Action::Replaced, Action::Deleted];

    fn code(self) -> u8 {
        match self {
            Action::Patched => 0,
            Action::Added => 1,
            Action::Replaced => 2,
            Action::Deleted => 3,
        }
    }

    /// Whether the base has the tensor.
    #[must_use]
    pub fn has_base(self) -> bool {
        self != Action::Added
    }

    /// Whether the target has the tensor.
    #[must_use]
    pub fn has_target(self) -> bool {
        self != Action::Deleted
    }

    /// Whether all bytes of the target are in the patch.
    #[must_use]
    pub fn is_whole(self) -> bool {
        matches!(self, Action::Added | Action::Replaced)
    }

    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::Patched => "patched",
            Action::Added => "added",
            Action::Replaced => "replaced",
            Action::Deleted => "deleted",
        }
    }
}

/// Begin of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorHeader {
    /// Name, unique in the file.
    pub name: String,
    /// What happens to the tensor.
    pub action: Action,
    /// Dtype and shape in the target; absent if the tensor is deleted.
    pub spec: Option<TensorSpec>,
}

impl TensorHeader {
    /// `previous` is the name of the tensor before in the file, empty for the first.
    pub(crate) fn write(&self, previous: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_name(&mut out, previous, &self.name);
        out.push(self.action.code());
        if let Some(spec) = &self.spec {
            put_spec(&mut out, spec);
        }
        out
    }

    pub(crate) fn parse<'a>(
        i: &'a [u8],
        previous: &str,
        limits: &Limits,
    ) -> Parse<'a, TensorHeader> {
        let (action_at, name) = parse_name(i, previous, limits)?;
        let (i, code) = parse::u8(action_at, "action")?;
        let Some(&action) = Action::ALL.get(usize::from(code)) else {
            return parse::fail(
                action_at,
                Fault::Value { field: "action", found: code.into(), expected: "0 to 3" },
            );
        };
        if !action.has_target() {
            return Ok((i, TensorHeader { name, action, spec: None }));
        }
        let (i, spec) = parse_spec(i, limits)?;
        Ok((i, TensorHeader { name, action, spec: Some(spec) }))
    }
}

pub(crate) fn put_spec(out: &mut Vec<u8>, spec: &TensorSpec) {
    out.push(spec.dtype().code());
    if let Dtype::Other(name) = spec.dtype() {
        put_string(out, name);
        varint::put(out, spec.bytes());
    }
    varint::put(out, spec.shape().len() as u64);
    spec.shape().iter().for_each(|&dim| varint::put(out, dim));
}

pub(crate) fn parse_spec<'a>(start: &'a [u8], limits: &Limits) -> Parse<'a, TensorSpec> {
    let (mut i, code) = parse::u8(start, "dtype")?;
    let mut other = None;
    let dtype = if code == 0 {
        let (rest, name) = parse_string(i, "dtype name", limits.name_bytes.min(255))?;
        let dtype = Dtype::from_name(name);
        if name.is_empty() || !matches!(dtype, Dtype::Other(_)) {
            // A known dtype has a code; two spellings would be one too many.
            return parse::fail(i, Fault::Name { field: "dtype name", found: name.into() });
        }
        let (rest, bytes) = parse::varint(rest, "tensor bytes")?;
        other = Some(bytes);
        i = rest;
        dtype
    } else {
        match Dtype::from_code(code) {
            Some(dtype) => dtype,
            None => {
                return parse::fail(
                    start,
                    Fault::Value { field: "dtype", found: code.into(), expected: "0 to 17" },
                )
            }
        }
    };
    let (mut rest, rank) = parse::varint(i, "rank")?;
    parse::limit(i, "rank", rank, limits.rank.min(255))?;
    let mut shape = Vec::new();
    for _ in 0..rank {
        let (after, dim) = parse::varint(rest, "dimension")?;
        shape.push(dim);
        rest = after;
    }
    let spec = match other {
        Some(bytes) => TensorSpec::with_bytes(dtype, &shape, bytes),
        None => TensorSpec::new(dtype, &shape),
    };
    match spec {
        Ok(spec) => Ok((rest, spec)),
        Err(_) => {
            let expected = "dimensions whose product fits 64 bits";
            parse::fail(i, Fault::Value { field: "shape", found: rank, expected })
        }
    }
}

/// End of a tensor: what it must have become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorTrailer {
    /// Changes in all blocks of the tensor.
    pub changes: u64,
    /// Digest of the base tensor; absent if there is none.
    pub base: Option<Digest>,
    /// Digest of the target tensor; absent if there is none.
    pub target: Option<Digest>,
}

impl TensorTrailer {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(&mut out, self.changes);
        [self.base, self.target].iter().flatten().for_each(|digest| put_digest(&mut out, digest));
        out
    }

    pub(crate) fn parse(start: &[u8], action: Action) -> Parse<'_, TensorTrailer> {
        let (i, changes) = parse::varint(start, "tensor changes")?;
        let legal = changes > 0 || action != Action::Patched;
        parse::check(
            start,
            legal,
            "tensor changes",
            changes,
            "at least 1: an unchanged tensor is not in a patch",
        )?;
        let digest = |i, present: bool, field| {
            if present {
                parse::digest(i, field).map(|(i, digest)| (i, Some(digest)))
            } else {
                Ok((i, None))
            }
        };
        let (i, base) = digest(i, action.has_base(), "base tensor digest")?;
        let (i, target) = digest(i, action.has_target(), "target tensor digest")?;
        Ok((i, TensorTrailer { changes, base, target }))
    }
}
