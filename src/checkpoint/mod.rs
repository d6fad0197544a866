//! Whole checkpoints: safetensors files and directories; diff, apply and verify.

pub(crate) mod apply;
pub(crate) mod checkpoint;
pub(crate) mod companions;
mod diff;
pub(crate) mod files;
mod ground;
mod index;
mod json;
pub(crate) mod layout;
pub(crate) mod names;
pub(crate) mod plan;
mod portable;
pub(crate) mod safetensors;
pub(crate) mod tree;
pub(crate) mod verify;

pub use crate::disk::place::Existing;
pub use crate::disk::staged::write_whole;
pub use crate::tensors::{ApplyReport, Carried, Deviation, DiffOptions, DiffReport, FileNote};
pub use apply::{ApplyOptions, FilePolicy};
pub use checkpoint::{Checkpoint, CheckpointTensor};
pub use diff::diff;
pub use layout::{LeftOut, Reason};
