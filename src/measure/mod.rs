//! What changes between checkpoints, and what a patch of it costs.

mod kind;
mod pair;
mod series;

pub use kind::{module_of, Kind};
pub use pair::{patch_sizes, stat, Density, ModuleStat, PairStat, PatchSizes, TensorStat};
pub use series::{
    Series, SeriesCheckpoint, SeriesPair, SeriesStat, SeriesWindow, Sizes, TensorTotal, Window,
};
