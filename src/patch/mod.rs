//! A patch that was read in full, an inventory of what it holds, and tensors read one at a time.

pub(crate) mod chain;
mod inventory;
mod patch;
mod read_at;
mod tail;
mod tensor;

pub use chain::Chain;
pub use inventory::{BlockEntry, FileEntry, Inventory, SectionTotal, TensorEntry};
pub use patch::Patch;
pub use read_at::{FnSource, LocalFile, ReadAt};
pub use tail::Tail;
pub use tensor::TensorReader;
