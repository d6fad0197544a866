//! A patch read through once: opened at random, and an inventory of what it holds.

mod inventory;
mod patch;

pub use inventory::{MappedBlock, MappedFile, MappedTensor, PatchMap, SectionTotal};
pub use patch::PatchFile;
