//! Tensors wherever they are: sources, parallel diff, and targets made and verified.

mod ahead;
mod builder;
#[cfg(feature = "checkpoint")]
pub(crate) mod chain_end;
mod changed;
mod control;
pub(crate) mod diagnose;
pub(crate) mod diff;
mod in_place;
mod join;
mod note;
pub(crate) mod parallel;
mod part;
pub(crate) mod pieces;
mod prepared;
mod shadow;
mod share;
mod slices;
mod snapshot;
pub(crate) mod source;
pub(crate) mod target;
mod trust;
mod weights;

pub use ahead::Ahead;
pub use changed::{Changed, ChangedBlock, ChangedTensor};
pub use control::Control;
pub use diff::{diff, Carried, DiffOptions, DiffReport};
pub use join::join;
pub use note::{Deviation, FileNote};
pub use part::Part;
pub use prepared::{PrepareOptions, Prepared};
pub use shadow::{Shadow, Unpublished};
pub use slices::Slices;
pub use source::TensorSource;
pub use target::ApplyReport;
pub use weights::{TensorMut, TensorRef, Weights, WeightsMut};
