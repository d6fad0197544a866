//! What changed along a series of checkpoints: step by step, and over ever longer windows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::measure::{patch_sizes, stat, PairStat, PatchSizes, TensorStat};
use crate::tensors::Control;
use crate::wire::Action;

/// Pairs of checkpoints that are equally many checkpoints apart.
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
    /// The windows to measure in a series: of length 1, 2, 4, 8 …, and one over all. Longer ones
    /// overlap by half, so that all of them together cost at most about three times as much as those
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
        lengths.into_iter().map(|length| Window { length, stride: (length / 2).max(1), checkpoints }).collect()
    }

    /// Base and target of each window, as places in the series.
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
    /// Number of tensors.
    pub tensors: u64,
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
            tensors: checkpoint.tensors().count() as u64,
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
    /// Opens every checkpoint once, so that one that is missing or broken shows before the work.
    /// None stays open.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`]; [`Error::Misuse`] for fewer than two checkpoints.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        if paths.len() < 2 {
            return Err(Error::misuse(format!("a series of {} checkpoints given; expected two or more", paths.len())));
        }
        let checkpoints = paths.iter().map(|path| SeriesCheckpoint::open(path.as_ref())).collect::<Result<_>>()?;
        Ok(Series { checkpoints })
    }

    /// Tensor bytes that [`measure`](Self::measure) goes through and reports as progress.
    #[must_use]
    pub fn work_bytes(&self, sizes: bool) -> u64 {
        let mut bytes = 0u64;
        for window in Window::all(self.checkpoints.len()) {
            let passes = if sizes && window.length == 1 { 3 } else { 1 };
            for (base, target) in window.pairs() {
                let pair = self.checkpoints[base].tensor_bytes.max(self.checkpoints[target].tensor_bytes);
                bytes = bytes.saturating_add(pair.saturating_mul(passes));
            }
        }
        bytes
    }

    /// Measures [all windows](Window::all), and with `sizes` the patches from each checkpoint to the next.
    ///
    /// Two checkpoints are open at a time, and read in pieces: memory does not depend on their
    /// size, apart from the names of the tensors.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], [`stat`] and, with `sizes`, [`diff`](crate::diff()).
    pub fn measure(&self, sizes: bool, control: Control<'_>) -> Result<SeriesStat> {
        let mut found =
            SeriesStat { checkpoints: self.checkpoints.clone(), windows: Vec::new(), tensors: BTreeMap::new() };
        for window in Window::all(self.checkpoints.len()) {
            let mut pairs = Vec::new();
            for (base, target) in window.pairs() {
                let open = |place: usize| Checkpoint::open(&self.checkpoints[place].path);
                let (from, to) = (open(base)?, open(target)?);
                let stats = stat(&from, &to, control)?;
                let sizes = match sizes && window.length == 1 {
                    true => Some(patch_sizes(&from, &to, control)?),
                    false => None,
                };
                if window.length == 1 {
                    stats.iter().for_each(|stat| found.add_tensor(stat));
                }
                pairs.push(SeriesPair { base, target, stat: PairStat::of(&stats), sizes });
            }
            found.windows.push(SeriesWindow { window, pairs });
        }
        Ok(found)
    }
}

/// One pair of checkpoints of a series.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesPair {
    /// Place of the earlier checkpoint in the series.
    pub base: usize,
    /// Place of the later one.
    pub target: usize,
    /// What changed.
    pub stat: PairStat,
    /// Exact sizes of the patches; measured only if asked for, and from each checkpoint to the next.
    pub sizes: Option<PatchSizes>,
}

/// All pairs measured that are equally many checkpoints apart.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesWindow {
    /// How far apart.
    pub window: Window,
    /// In the order of the series; never empty.
    pub pairs: Vec<SeriesPair>,
}

impl SeriesWindow {
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
}

/// One tensor from each checkpoint to the next, all pairs together.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorTotal {
    /// Dtype and shape where it was seen last.
    pub spec: TensorSpec,
    /// What a patch did when the tensor changed last; `None` if it never did.
    pub action: Option<Action>,
    /// Sum of [`TensorStat::changes`].
    pub changes: u64,
    /// Sum of the elements of the tensor, once for each pair.
    pub elements: u64,
}

/// What was measured along a series.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeriesStat {
    /// The checkpoints.
    pub checkpoints: Vec<SeriesCheckpoint>,
    /// Ascending lengths; the first is 1: from each checkpoint to the next.
    pub windows: Vec<SeriesWindow>,
    /// Name → what changed in the tensor from each checkpoint to the next.
    pub tensors: BTreeMap<String, TensorTotal>,
}

impl SeriesStat {
    fn add_tensor(&mut self, stat: &TensorStat) {
        let none = || TensorTotal { spec: stat.spec.clone(), action: None, changes: 0, elements: 0 };
        let total = self.tensors.entry(stat.name.clone()).or_insert_with(none);
        total.spec = stat.spec.clone();
        total.action = stat.action.or(total.action);
        total.changes = total.changes.saturating_add(stat.changes);
        total.elements = total.elements.saturating_add(stat.spec.elements());
    }

    /// The pairs from each checkpoint to the next.
    #[must_use]
    pub fn pairs(&self) -> &[SeriesPair] {
        self.windows.first().map_or(&[], |first| &first.pairs)
    }

    /// All pairs from each checkpoint to the next together: densities, steps and modules summed up.
    #[must_use]
    pub fn total(&self) -> PairStat {
        let mut total = PairStat::default();
        for pair in self.pairs() {
            total.add(&pair.stat);
        }
        total
    }
}
