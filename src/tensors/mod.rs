//! Tensors wherever they are: sources, parallel diff, and targets made and verified.

mod changed;
mod control;
pub(crate) mod diagnose;
pub(crate) mod diff;
mod in_place;
mod note;
pub(crate) mod parallel;
pub(crate) mod pieces;
mod prepared;
mod snapshot;
pub(crate) mod source;
pub(crate) mod target;
mod trust;
mod weights;

pub use changed::{Changed, ChangedBlock, ChangedTensor};
pub use control::Control;
pub use diff::{diff, Carried, DiffOptions, DiffReport};
pub use note::{Deviation, FileNote};
pub use prepared::{PrepareOptions, Prepared};
pub use source::TensorSource;
pub use target::ApplyReport;
pub use weights::{TensorMut, TensorRef, Weights, WeightsMut};
