//! Whole checkpoints: safetensors files and directories; parallel diff, apply and verify.

mod apply;
mod chain;
mod compose;
mod diff;
mod disk;
#[cfg(test)]
mod faults;
mod invert;
mod join;
mod journal;
mod kind;
mod make;
mod memory;
mod output;
mod patch;
mod pieces;
mod pipeline;
mod safetensors;
mod series;
mod source;
mod stat;
mod tensors;
mod update;

pub use apply::{apply, verify, ApplyOptions, ApplyReport};
pub use compose::{compose, ComposeReport};
pub use diff::{diff, diff_tensors, DiffReport};
pub use invert::{invert, revert};
pub use kind::{module_of, Kind};
pub use memory::apply_in_place;
pub use output::write_whole;
pub use patch::{MappedBlock, MappedFile, MappedTensor, PatchFile, PatchMap, SectionTotal};
pub use pipeline::Parallel;
pub use series::{Series, SeriesCheckpoint, SeriesPair, SeriesStat, SeriesWindow, TensorTotal, Window};
pub use source::{Checkpoint, CheckpointTensor};
pub use stat::{patch_sizes, stat, Density, ModuleStat, PairStat, PatchSizes, TensorStat};
pub use tensors::{TensorMut, TensorRef, TensorSource};
pub use update::{recover, update, Recovery, UpdateReport};
