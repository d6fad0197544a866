//! A patch read through once: opened at random, and an inventory of what it holds.

mod inventory;
mod patch;

pub use inventory::{BlockEntry, FileEntry, Inventory, SectionTotal, TensorEntry};
pub use patch::Patch;
