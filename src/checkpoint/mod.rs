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
mod make;
mod memory;
mod output;
mod patch;
mod patched;
mod pieces;
mod pipeline;
mod safetensors;
mod source;
mod tensors;
mod update;

pub use apply::{apply, verify, ApplyOptions, ApplyReport};
pub use compose::{compose, ComposeReport};
pub use diff::{diff, diff_tensors, stat, DiffReport, TensorStat};
pub use invert::{invert, revert};
pub use memory::apply_in_place;
pub use output::write_whole;
pub use patch::{MappedBlock, MappedFile, MappedTensor, PatchFile, PatchMap, SectionTotal};
pub use pipeline::Parallel;
pub use source::{Checkpoint, CheckpointTensor};
pub use tensors::{TensorMut, TensorRef, TensorSource};
pub use update::{recover, update, Recovery, UpdateReport};
