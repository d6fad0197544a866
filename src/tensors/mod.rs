//! Tensors wherever they are: sources, parallel diff, and targets made and verified.

pub(crate) mod diff;
mod in_place;
pub(crate) mod parallel;
pub(crate) mod pieces;
pub(crate) mod source;
pub(crate) mod target;

pub use diff::{diff_tensors, DiffReport};
pub use in_place::apply_in_place;
pub use parallel::Parallel;
pub use source::{TensorMut, TensorRef, TensorSource};
pub use target::ApplyReport;
