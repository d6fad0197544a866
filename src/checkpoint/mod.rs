//! Whole checkpoints: safetensors files and directories; diff, apply and verify.

pub(crate) mod apply;
pub(crate) mod checkpoint;
pub(crate) mod companions;
mod diff;
pub(crate) mod files;
mod layout;
pub(crate) mod plan;
pub(crate) mod safetensors;
mod verify;

pub use crate::disk::place::Existing;
pub use crate::disk::staged::write_whole;
pub use crate::tensors::{ApplyReport, Carried, Deviation, DiffOptions, DiffReport, FileNote};
pub use apply::{ApplyOptions, FilePolicy};
pub use checkpoint::{Checkpoint, CheckpointTensor};
pub use diff::diff;
pub use layout::{LeftOut, Reason};
