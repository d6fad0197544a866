//! Which tensors of a rank are slices of larger ones.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::hash::LEAF_BYTES;
use crate::stream::tensor_header;
use crate::tensors::pieces::{pairs, Pair, Piece};
use crate::tensors::TensorSource;

/// Which tensors of a rank are slices: consecutive elements of a tensor that several ranks share.
/// Rows of a matrix are consecutive, columns are not: gather those first. What is not declared
/// is whole.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::tensors::Slices;
/// // This rank has rows 100 to 199 of 400.
/// let full = TensorSpec::new(Dtype::Bf16, &[400, 1000])?;
/// let slices = Slices::default().with("layer.weight", full, 100_000..200_000)?;
/// # let _ = slices;
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slices {
    by_name: BTreeMap<String, Slice>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    full: TensorSpec,
    /// Bytes of the full tensor.
    range: Range<u64>,
}

impl Slices {
    /// Declares the tensor of this name to be these elements of a tensor of the spec `full`. Whatever
    /// shape the rank gives it, its dtype and number of elements must agree. An empty range is legal:
    /// the rank has nothing of it.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the range is not within the tensor, or the name was declared before.
    pub fn with(
        mut self,
        name: impl Into<String>,
        full: TensorSpec,
        elements: Range<u64>,
    ) -> Result<Self> {
        let name = name.into();
        let count = full.elements();
        if elements.start > elements.end || elements.end > count {
            return Err(Error::misuse(format!(
                "tensor '{name}': elements {} to {} are not a slice of {full}, which has {count}",
                elements.start, elements.end
            )));
        }
        let width = full.dtype().element_bytes() as u64;
        // Within the tensor, whose bytes were counted.
        let range = elements.start * width..elements.end * width;
        if self.by_name.insert(name.clone(), Slice { full, range }).is_some() {
            return Err(Error::misuse(format!(
                "tensor '{name}' was declared twice; make a part of its own for each slice"
            )));
        }
        Ok(self)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// What a rank has: whole tensors and slices, in the order of their names.
    pub(super) fn held<'a>(
        &'a self,
        base: Option<&'a dyn TensorSource>,
        target: &'a dyn TensorSource,
    ) -> Result<Vec<Held<'a>>> {
        let mut held = Vec::new();
        let mut declared = self.by_name.iter().peekable();
        for pair in pairs(base, Some(target)) {
            while let Some((name, slice)) = declared.next_if(|(name, _)| name.as_str() < pair.name)
            {
                slice.refuse_missing(name)?;
            }
            let slice = declared.next_if(|(name, _)| *name == pair.name).map(|(_, slice)| slice);
            let found = match slice {
                Some(slice) => slice.held(pair)?,
                None => Held { pair, slice: None },
            };
            // Refuses names and shapes that readers would refuse.
            tensor_header(pair.name, found.pair.base, found.pair.target)?;
            held.push(found);
        }
        declared.try_for_each(|(name, slice)| slice.refuse_missing(name))?;
        Ok(held)
    }
}

impl Slice {
    fn refuse_missing(&self, name: &str) -> Result<()> {
        if self.range.is_empty() {
            return Ok(());
        }
        Err(Error::misuse(format!(
            "tensor '{name}' was declared as a slice, but is in neither base nor target"
        )))
    }

    fn held<'a>(&'a self, pair: Pair<'a>) -> Result<Held<'a>> {
        let bytes = self.range.end - self.range.start;
        for (side, spec) in [("base", pair.base), ("target", pair.target)] {
            let Some(spec) = spec else { continue };
            if spec.dtype() != self.full.dtype() || spec.bytes() != bytes {
                return Err(Error::misuse(format!(
                    "tensor '{}' is {spec} in the {side}, but was declared as {bytes} bytes of {}; a tensor whose dtype or shape changes is given whole",
                    pair.name, self.full
                )));
            }
        }
        let full = |side: Option<&TensorSpec>| side.map(|_| &self.full);
        let (base, target) = (full(pair.base), full(pair.target));
        let pair = Pair { base, target, from: self.range.start, ..pair };
        Ok(Held { pair, slice: Some(self.range.clone()) })
    }
}

/// A tensor that a rank has, or the slice that it has of it: the specs are those of the full tensor.
#[derive(Debug, Clone)]
pub(super) struct Held<'a> {
    pub pair: Pair<'a>,
    /// Bytes of the full tensor, if it is a slice.
    pub slice: Option<Range<u64>>,
}

impl<'a> Held<'a> {
    /// Bytes of the full tensor; in the target, if it is there.
    pub fn total(&self) -> u64 {
        self.pair.target.or(self.pair.base).map_or(0, TensorSpec::bytes)
    }

    /// Bytes of the full tensor that are held.
    pub fn range(&self) -> Range<u64> {
        self.slice.clone().unwrap_or(0..self.total())
    }

    /// Whether a piece is a part of a leaf.
    pub fn is_edge(&self, piece: &Piece<'_>) -> bool {
        let bytes = piece.base_bytes.max(piece.target_bytes) as u64;
        let end = piece.start + bytes;
        let cuts = |at: u64| !at.is_multiple_of(LEAF_BYTES as u64) && at != self.total();
        self.slice.is_some() && bytes > 0 && (cuts(piece.start) || cuts(end))
    }

    /// The parts of leaves at both ends, and in between runs of whole leaves of at most
    /// `piece_bytes`. Where nothing is held, one piece without bytes.
    pub fn pieces(&self, piece_bytes: usize) -> Vec<Piece<'a>> {
        let pair = self.pair;
        let Some(range) = &self.slice else { return pair.pieces(piece_bytes).collect() };
        let Cut { inner, .. } = Cut::of(range, self.total());
        let mut ends = vec![range.start];
        let step = |at: u64| (at + piece_bytes as u64).min(inner.end);
        let inner_ends =
            std::iter::successors(Some(inner.start), |&at| (at < inner.end).then(|| step(at)));
        ends.extend(inner_ends);
        ends.push(range.end);
        ends.dedup();
        if ends.len() == 1 {
            ends.push(range.end);
        }
        let count = ends.len() - 1;
        let piece = |(number, bounds): (usize, &[u64])| {
            // At most piece_bytes, so it fits.
            let bytes = (bounds[1] - bounds[0]) as usize;
            let side = |spec: Option<&TensorSpec>| spec.map_or(0, |_| bytes);
            Piece {
                pair,
                start: bounds[0],
                base_bytes: side(pair.base),
                target_bytes: side(pair.target),
                first: number == 0,
                last: number + 1 == count,
            }
        };
        ends.windows(2).enumerate().map(piece).collect()
    }
}

/// A range of a tensor, cut where its leaves are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// The part of a leaf before the whole ones; all of it, if there are none.
    pub head: Range<u64>,
    /// Whole leaves, of which the last of the tensor may be shorter.
    pub inner: Range<u64>,
    /// The part of a leaf after them.
    pub tail: Range<u64>,
}

impl Cut {
    /// Cuts a range of a tensor of `total` bytes.
    pub fn of(range: &Range<u64>, total: u64) -> Cut {
        let leaf = LEAF_BYTES as u64;
        let start = range.start.div_ceil(leaf).saturating_mul(leaf).min(range.end);
        let end = if range.end == total { total } else { (range.end / leaf * leaf).max(start) };
        Cut { head: range.start..start, inner: start..end, tail: end..range.end }
    }

    /// Leaves that lie in it whole.
    pub fn leaves(&self) -> u64 {
        (self.inner.end - self.inner.start).div_ceil(LEAF_BYTES as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    #[test]
    fn ranges_are_cut_where_leaves_are() {
        let cut = |range, total| {
            let Cut { head, inner, tail } = Cut::of(&range, total);
            (head, inner, tail)
        };
        let leaf = LEAF_BYTES as u64;
        let total = 3 * leaf + 100;
        assert_eq!(cut(0..total, total), (0..0, 0..total, total..total));
        assert_eq!(cut(0..leaf, total), (0..0, 0..leaf, leaf..leaf));
        assert_eq!(
            cut(10..2 * leaf + 10, total),
            (10..leaf, leaf..2 * leaf, 2 * leaf..2 * leaf + 10)
        );
        assert_eq!(cut(10..total, total), (10..leaf, leaf..total, total..total));
        // Within one leaf: at its start, its middle, its end.
        assert_eq!(cut(0..10, total), (0..0, 0..0, 0..10));
        assert_eq!(cut(10..20, total), (10..20, 20..20, 20..20));
        assert_eq!(cut(10..leaf, total), (10..leaf, leaf..leaf, leaf..leaf));
        assert_eq!(
            cut(3 * leaf + 1..total, total),
            (3 * leaf + 1..total, total..total, total..total)
        );
        assert_eq!(cut(20..20, total).0, 20..20);
    }

    #[test]
    fn slices_are_within_their_tensor_and_declared_once() {
        let full = TensorSpec::new(Dtype::Bf16, &[3, 4]).unwrap();
        let of = |elements| Slices::default().with("w", full.clone(), elements);
        assert_eq!(of(4..8).unwrap().by_name["w"].range, 8..16);
        of(12..12).unwrap();
        #[allow(clippy::reversed_empty_ranges)] // it is what is refused
        for bad in [8..13, 5..4, u64::MAX..u64::MAX] {
            of(bad).unwrap_err();
        }
        of(0..1).unwrap().with("w", full.clone(), 1..2).unwrap_err();
    }
}
