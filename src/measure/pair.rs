//! What changed between two checkpoints, without writing a patch.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use crate::changes::for_each_ulp_step;
use crate::checkpoint::diff;
use crate::checkpoint::Checkpoint;
use crate::coding::Coding;
use crate::dtype::TensorSpec;
use crate::error::Result;
use crate::measure::kind::{module_of, Kind};
use crate::stream::{tensor_header, EncoderOptions};
use crate::tensors::pieces::{for_each_piece, pairs, Buffers, Pair, Piece, PIECE_BYTES};
use crate::tensors::Control;
use crate::wire::Action;

/// Changes among elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Density {
    /// Elements whose bits differ.
    pub changes: u64,
    /// Elements compared.
    pub elements: u64,
}

impl Density {
    /// Changes / elements, between 0 and 1; `None` if nothing was compared.
    ///
    /// ```
    /// use pulse::measure::Density;
    /// assert_eq!(Density { changes: 1, elements: 4 }.ratio(), Some(0.25));
    /// assert_eq!(Density::default().ratio(), None);
    /// ```
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        (self.elements > 0).then(|| self.changes as f64 / self.elements as f64)
    }
}

impl AddAssign for Density {
    fn add_assign(&mut self, other: Density) {
        self.changes = self.changes.saturating_add(other.changes);
        self.elements = self.elements.saturating_add(other.elements);
    }
}

/// What changed in one tensor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorStat {
    /// Name.
    pub name: String,
    /// What a patch would do; `None` if the tensor is unchanged.
    pub action: Option<Action>,
    /// Dtype and shape in the target, or in the base if it is deleted.
    pub spec: TensorSpec,
    /// Elements whose bits differ; all of them in a tensor that a patch would carry whole.
    pub changes: u64,
    /// Step in ULPs → number of changes, for tensors in both checkpoints. Steps beyond 256 are
    /// counted at the next power of two, so that wide dtypes do not fill the memory.
    pub ulp_steps: BTreeMap<i64, u64>,
}

impl TensorStat {
    /// Whether both checkpoints have the tensor, with the same dtype and shape.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        matches!(self.action, None | Some(Action::Patched))
    }
}

/// The step at which a step is counted.
fn counted_at(step: i64) -> i64 {
    match step.unsigned_abs() {
        0..=256 => step,
        // 2^63 is one more than the greatest step.
        size => {
            size.checked_next_power_of_two()
                .and_then(|at| i64::try_from(at).ok())
                .unwrap_or(i64::MAX)
                * step.signum()
        }
    }
}

/// Measures what changed between two checkpoints, tensor by tensor in the order of their names.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let write = |name: &str, data: &[u8; 3]| {
/// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// #     let path = dir.path().join(name);
/// #     std::fs::write(&path, [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
/// #     path
/// # };
/// # let (base, target) = (write("base", b"abc"), write("target", b"abe"));
/// use pulse::Checkpoint;
/// use pulse::measure::{PairStat, stat};
/// use pulse::tensors::Control;
/// let stats = stat(&Checkpoint::open(&base)?, &Checkpoint::open(&target)?, Control::default())?;
/// assert_eq!((stats[0].changes, stats[0].ulp_steps[&2]), (1, 1));
/// assert_eq!(PairStat::of(&stats).density.ratio(), Some(1.0 / 3.0));
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn stat(
    base: &Checkpoint,
    target: &Checkpoint,
    control: Control<'_>,
) -> Result<Vec<TensorStat>> {
    let pairs = pairs(Some(base), Some(target));
    let mut stats: Vec<TensorStat> = Vec::new();
    let work = |own: &mut Buffers, group: &[Piece<'_>]| {
        let (bases, targets) = own.read(group, Some(base), Some(target))?;
        let steps = |((piece, base), target): ((&Piece<'_>, &[u8]), &[u8])| {
            let mut steps = BTreeMap::new();
            if let Some(spec) = piece.pair.target.filter(|_| piece.pair.base == piece.pair.target) {
                let count = |step| *steps.entry(counted_at(step)).or_default() += 1;
                for_each_ulp_step(spec.dtype(), base, target, count)?;
            }
            Ok(steps)
        };
        group.iter().zip(bases).zip(targets).map(steps).collect()
    };
    for_each_piece(
        &pairs,
        PIECE_BYTES,
        control,
        Buffers::default,
        work,
        |piece, steps: BTreeMap<i64, u64>| {
            let Pair { name, base, target, .. } = piece.pair;
            let Some(spec) = target.or(base) else { return Ok(()) };
            if piece.first {
                let action = tensor_header(name, base, target)?.action;
                let changes = if action.is_whole() { spec.elements() } else { 0 };
                stats.push(TensorStat {
                    name: name.into(),
                    action: Some(action),
                    spec: spec.clone(),
                    changes,
                    ulp_steps: BTreeMap::new(),
                });
            }
            if let Some(stat) = stats.last_mut() {
                for (step, count) in steps {
                    stat.changes += count;
                    *stat.ulp_steps.entry(step).or_default() += count;
                }
                if piece.last && stat.action == Some(Action::Patched) && stat.changes == 0 {
                    stat.action = None;
                }
            }
            Ok(())
        },
    )?;
    Ok(stats)
}

/// Tensors with the same role in all layers, see [`module_of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleStat {
    /// The part of the model.
    pub kind: Kind,
    /// Number of tensors.
    pub tensors: u64,
    /// Changes in them.
    pub density: Density,
}

/// What changed between two checkpoints, summed over the tensors that both have with the same dtype
/// and shape. The others are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairStat {
    /// Changes in the tensors compared.
    pub density: Density,
    /// Step in ULPs → number of changes, as in [`TensorStat::ulp_steps`].
    pub ulp_steps: BTreeMap<i64, u64>,
    /// The same changes by module.
    pub modules: BTreeMap<String, ModuleStat>,
    /// Tensors in the target only.
    pub added: Vec<String>,
    /// Tensors in both, with a different dtype or shape.
    pub replaced: Vec<String>,
    /// Tensors in the base only.
    pub deleted: Vec<String>,
}

impl PairStat {
    /// Sums what [`stat`] found.
    #[must_use]
    pub fn of(stats: &[TensorStat]) -> PairStat {
        let mut pair = PairStat::default();
        for stat in stats {
            match stat.action {
                Some(Action::Added) => pair.added.push(stat.name.clone()),
                Some(Action::Replaced) => pair.replaced.push(stat.name.clone()),
                Some(Action::Deleted) => pair.deleted.push(stat.name.clone()),
                None | Some(Action::Patched) => pair.compare(stat),
            }
        }
        pair
    }

    fn compare(&mut self, stat: &TensorStat) {
        let density = Density { changes: stat.changes, elements: stat.spec.elements() };
        self.density += density;
        let none =
            ModuleStat { kind: Kind::of(&stat.name), tensors: 0, density: Density::default() };
        let module = self.modules.entry(module_of(&stat.name)).or_insert(none);
        module.tensors += 1;
        module.density += density;
        for (step, count) in &stat.ulp_steps {
            *self.ulp_steps.entry(*step).or_default() += count;
        }
    }

    /// Adds another pair of checkpoints of the same model: densities and ULP steps are summed, and
    /// a tensor is listed or counted once.
    pub(crate) fn add(&mut self, other: &PairStat) {
        self.density += other.density;
        for (step, count) in &other.ulp_steps {
            *self.ulp_steps.entry(*step).or_default() += count;
        }
        for (name, module) in &other.modules {
            let none = ModuleStat { kind: module.kind, tensors: 0, density: Density::default() };
            let own = self.modules.entry(name.clone()).or_insert(none);
            own.tensors = own.tensors.max(module.tensors);
            own.density += module.density;
        }
        let lists = [(&mut self.added, &other.added), (&mut self.replaced, &other.replaced)];
        for (own, other) in lists.into_iter().chain([(&mut self.deleted, &other.deleted)]) {
            own.extend_from_slice(other);
            own.sort_unstable();
            own.dedup();
        }
    }

    /// Changes in the tensors of each kind that exists.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<Kind, Density> {
        let mut kinds = BTreeMap::<Kind, Density>::new();
        for module in self.modules.values() {
            *kinds.entry(module.kind).or_default() += module.density;
        }
        kinds
    }
}

/// Bytes to send from one checkpoint to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchSizes {
    /// Patch with contextual blocks.
    pub contextual: u64,
    /// Patch with flat blocks, values as steps.
    pub flat: u64,
    /// All files of the target: a full copy.
    pub full: u64,
}

/// The exact sizes of the patches that [`diff`] makes with default options and each coding. The
/// patches are made in full and counted, but not stored.
///
/// # Errors
/// As [`diff`].
pub fn patch_sizes(
    base: &Checkpoint,
    target: &Checkpoint,
    control: Control<'_>,
) -> Result<PatchSizes> {
    let bytes = |coding| {
        let options = EncoderOptions::default().with_coding(coding);
        let report = diff(Some(base), target, std::io::sink(), options.into(), control)?;
        Ok(report.summary.patch_bytes)
    };
    Ok(PatchSizes {
        contextual: bytes(Coding::Contextual)?,
        flat: bytes(Coding::Flat)?,
        full: target.file_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_steps_are_counted_at_the_power_of_two_above() {
        let expected = [(-1, -1), (256, 256), (-256, -256), (257, 512), (512, 512), (-513, -1024)];
        expected.iter().for_each(|&(step, at)| assert_eq!(counted_at(step), at));
        assert_eq!(counted_at(i64::MAX), i64::MAX);
        assert_eq!(counted_at(i64::MIN), -i64::MAX);
    }
}
