//! What changed along a series of checkpoints: from each to the next, and over longer windows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::measure::{patch_sizes, stat, PairStat, PatchSizes, TensorStat};
use crate::tensors::Control;
use crate::wire::Action;

/// Which pairs of checkpoints to compare: those that are this many checkpoints apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// Checkpoints from base to target.
    pub length: usize,
    /// Checkpoints from one base to the next.
    pub stride: usize,
    /// Number of checkpoints in the series.
    pub checkpoints: usize,
}

impl Window {
    /// The windows to measure in a series: lengths 1, 2, 4, 8 …, and one from first to last. Longer
    /// ones overlap by half, so that all of them together cost about three times as much as those
    /// of length 1.
    ///
    /// ```
    /// use pulse::measure::Window;
    /// let lengths = |checkpoints| Window::all(checkpoints).iter().map(|window| window.length).collect::<Vec<_>>();
    /// assert_eq!(lengths(2), [1]);
    /// assert_eq!(lengths(4), [1, 2, 3]);
    /// assert_eq!(lengths(20), [1, 2, 4, 8, 16, 19]);
    /// let pairs: Vec<_> = Window::all(10)[2].pairs().collect();
    /// assert_eq!(pairs, [(0, 4), (2, 6), (4, 8)]);
    /// ```
    #[must_use]
    pub fn all(checkpoints: usize) -> Vec<Window> {
        let longest = checkpoints.saturating_sub(1);
        let powers = std::iter::successors(Some(1usize), |length| length.checked_mul(2));
        let mut lengths: Vec<usize> = powers.take_while(|&length| length <= longest).collect();
        if lengths.last().is_some_and(|&last| last < longest) {
            lengths.push(longest);
        }
        lengths
            .into_iter()
            .map(|length| Window { length, stride: (length / 2).max(1), checkpoints })
            .collect()
    }

    /// Base and target of each window, as indices into the series.
    pub fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        let bases = (0..self.checkpoints.saturating_sub(self.length)).step_by(self.stride);
        bases.map(move |base| (base, base + self.length))
    }
}

/// A checkpoint of a series.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesCheckpoint {
    /// Where it is.
    pub path: PathBuf,
    /// Optimizer step, if [known](Series::with_steps).
    pub step: Option<u64>,
    /// Number of tensors.
    pub tensors: u64,
    /// Elements of its tensors.
    pub elements: u64,
    /// Bytes of its tensors.
    pub tensor_bytes: u64,
    /// Size of its files.
    pub file_bytes: u64,
}

impl SeriesCheckpoint {
    fn open(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        Ok(SeriesCheckpoint {
            path: path.into(),
            step: None,
            tensors: checkpoint.tensors().count() as u64,
            elements: checkpoint
                .tensors()
                .fold(0, |sum: u64, (_, tensor)| sum.saturating_add(tensor.spec().elements())),
            tensor_bytes: checkpoint.tensor_bytes(),
            file_bytes: checkpoint.file_bytes(),
        })
    }
}

/// Checkpoints of one run, in the order in which they were made.
#[derive(Debug, Clone)]
pub struct Series {
    checkpoints: Vec<SeriesCheckpoint>,
}

impl Series {
    /// Opens every checkpoint once, so that a missing or broken one is found before the work starts.
    /// None stays open.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`]; [`Error::Misuse`] for fewer than two checkpoints.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        if paths.len() < 2 {
            return Err(Error::misuse(format!(
                "a series of {} checkpoints given; expected two or more",
                paths.len()
            )));
        }
        let checkpoints = paths
            .iter()
            .map(|path| SeriesCheckpoint::open(path.as_ref()))
            .collect::<Result<_>>()?;
        Ok(Series { checkpoints })
    }

    /// Sets the optimizer step of each checkpoint, so that distances are measured in steps.
    ///
    /// # Errors
    /// [`Error::Misuse`] unless there is one step for each checkpoint, each greater than the one
    /// before it.
    pub fn with_steps(mut self, steps: &[u64]) -> Result<Self> {
        if steps.len() != self.checkpoints.len() {
            let (found, expected) = (steps.len(), self.checkpoints.len());
            return Err(Error::misuse(format!(
                "{found} steps for {expected} checkpoints; expected one for each"
            )));
        }
        if let Some(pair) = steps.windows(2).find(|pair| pair[0] >= pair[1]) {
            let what = format!(
                "step {} follows step {}; expected steps in ascending order",
                pair[1], pair[0]
            );
            return Err(Error::misuse(what));
        }
        for (checkpoint, step) in self.checkpoints.iter_mut().zip(steps) {
            checkpoint.step = Some(*step);
        }
        Ok(self)
    }

    /// Distance between two checkpoints: in optimizer steps if they are known, else in checkpoints.
    fn distance(&self, base: usize, target: usize) -> u64 {
        let step = |index: usize| self.checkpoints[index].step;
        match (step(base), step(target)) {
            (Some(base), Some(target)) => target.saturating_sub(base),
            _ => target.saturating_sub(base) as u64,
        }
    }

    /// The most frequent distance from one checkpoint to the next; the shortest of equally frequent
    /// ones.
    fn typical_distance(&self) -> u64 {
        let mut counts = BTreeMap::<u64, usize>::new();
        for target in 1..self.checkpoints.len() {
            *counts.entry(self.distance(target - 1, target)).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|&(distance, count)| (count, Reverse(distance)));
        most.map_or(1, |(distance, _)| distance)
    }

    /// Tensor bytes that [`measure`](Self::measure) reads and reports as progress.
    #[must_use]
    pub fn work_bytes(&self, sizes: Sizes) -> u64 {
        let mut bytes = 0u64;
        for window in Window::all(self.checkpoints.len()) {
            let passes = if sizes == Sizes::Exact && window.length == 1 { 3 } else { 1 };
            for (base, target) in window.pairs() {
                let pair =
                    self.checkpoints[base].tensor_bytes.max(self.checkpoints[target].tensor_bytes);
                bytes = bytes.saturating_add(pair.saturating_mul(passes));
            }
        }
        bytes
    }

    /// Measures [all windows](Window::all) and, unless they are skipped, the sizes of the patches from
    /// each checkpoint to the next.
    ///
    /// Two checkpoints are open at a time, and read in pieces: memory does not depend on their
    /// size, apart from the names of the tensors.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], [`stat`] and [`diff`](crate::checkpoint::diff()).
    pub fn measure(&self, sizes: Sizes, control: Control<'_>) -> Result<SeriesStat> {
        let mut found = SeriesStat {
            checkpoints: self.checkpoints.clone(),
            typical_distance: self.typical_distance(),
            pairs: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for window in Window::all(self.checkpoints.len()) {
            let adjacent = window.length == 1;
            for (base, target) in window.pairs() {
                let open = |index: usize| Checkpoint::open(&self.checkpoints[index].path);
                let (from, to) = (open(base)?, open(target)?);
                let stats = stat(&from, &to, control)?;
                let sizes = match sizes {
                    Sizes::Exact if adjacent => Some(patch_sizes(&from, &to, control)?),
                    Sizes::Exact | Sizes::Skip => None,
                };
                let distance = self.distance(base, target);
                let is_typical = distance == found.typical_distance;
                stats.iter().for_each(|stat| found.add_tensor(stat, adjacent, is_typical));
                found.pairs.push(SeriesPair {
                    base,
                    target,
                    distance,
                    stat: PairStat::of(&stats),
                    sizes,
                });
            }
        }
        Ok(found)
    }
}

/// Whether the patches of a series are made to know their size; that takes two more passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sizes {
    /// Every patch from a checkpoint to the next is encoded, and not kept.
    Exact,
    /// No patch is made.
    Skip,
}

/// One pair of checkpoints of a series.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesPair {
    /// Index of the earlier checkpoint in the series.
    pub base: usize,
    /// Index of the later one.
    pub target: usize,
    /// Distance between them: in optimizer steps if they are [known](Series::with_steps), else in
    /// checkpoints.
    pub distance: u64,
    /// What changed.
    pub stat: PairStat,
    /// Exact sizes of the patches; measured only on request, and from each checkpoint to the next.
    pub sizes: Option<PatchSizes>,
}

/// All measured pairs of one distance.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesWindow<'a> {
    /// The distance, see [`SeriesPair::distance`].
    pub length: u64,
    /// The pairs, in the order in which they were measured; never empty.
    pub pairs: Vec<&'a SeriesPair>,
}

impl SeriesWindow<'_> {
    fn ratios(&self) -> impl Iterator<Item = f64> + '_ {
        self.pairs.iter().filter_map(|pair| pair.stat.density.ratio())
    }

    /// Mean of the densities of the pairs that have a tensor in common; `None` without one.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.ratios().count();
        (count > 0).then(|| self.ratios().sum::<f64>() / count as f64)
    }

    /// The smallest density of a pair.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        self.ratios().reduce(f64::min)
    }

    /// The greatest density of a pair.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.ratios().reduce(f64::max)
    }

    /// All pairs together: densities, ULP steps and modules, summed.
    #[must_use]
    pub fn total(&self) -> PairStat {
        let mut total = PairStat::default();
        self.pairs.iter().for_each(|pair| total.add(&pair.stat));
        total
    }
}

/// One tensor along a series.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorTotal {
    /// Dtype and shape where it was last seen.
    pub spec: TensorSpec,
    /// What a patch from one checkpoint to the next did when the tensor last changed; `None` if it
    /// never did.
    pub action: Option<Action>,
    /// Pairs at the [typical distance](SeriesStat::typical_distance) that have the tensor.
    pub pairs: u64,
    /// Sum of [`TensorStat::changes`] over these pairs.
    pub changes: u64,
    /// Elements of the tensor, summed over these pairs.
    pub elements: u64,
}

/// What was measured along a series.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesStat {
    /// The checkpoints.
    pub checkpoints: Vec<SeriesCheckpoint>,
    /// The most frequent distance from one checkpoint to the next, the shortest of equally frequent
    /// ones; see [`SeriesPair::distance`].
    pub typical_distance: u64,
    /// All pairs measured: first those from each checkpoint to the next, in order.
    pub pairs: Vec<SeriesPair>,
    /// Name → what changed in the tensor.
    pub tensors: BTreeMap<String, TensorTotal>,
}

impl SeriesStat {
    fn add_tensor(&mut self, stat: &TensorStat, adjacent: bool, is_typical: bool) {
        let none = || TensorTotal {
            spec: stat.spec.clone(),
            action: None,
            pairs: 0,
            changes: 0,
            elements: 0,
        };
        let total = self.tensors.entry(stat.name.clone()).or_insert_with(none);
        if adjacent {
            total.spec = stat.spec.clone();
            total.action = stat.action.or(total.action);
        }
        if is_typical {
            total.pairs += 1;
            total.changes = total.changes.saturating_add(stat.changes);
            total.elements = total.elements.saturating_add(stat.spec.elements());
        }
    }

    /// The pairs from each checkpoint to the next.
    #[must_use]
    pub fn adjacent(&self) -> &[SeriesPair] {
        let count = self.checkpoints.len().saturating_sub(1).min(self.pairs.len());
        &self.pairs[..count]
    }

    /// The pairs by distance, from the shortest. Pairs of different distances are never mixed.
    #[must_use]
    pub fn windows(&self) -> Vec<SeriesWindow<'_>> {
        let mut windows = BTreeMap::<u64, Vec<&SeriesPair>>::new();
        for pair in &self.pairs {
            windows.entry(pair.distance).or_default().push(pair);
        }
        windows.into_iter().map(|(length, pairs)| SeriesWindow { length, pairs }).collect()
    }

    /// The pairs at the [typical distance](Self::typical_distance).
    #[must_use]
    pub fn typical(&self) -> SeriesWindow<'_> {
        let length = self.typical_distance;
        SeriesWindow {
            length,
            pairs: self.pairs.iter().filter(|pair| pair.distance == length).collect(),
        }
    }
}
