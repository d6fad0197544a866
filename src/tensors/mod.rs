//! Tensors wherever they are: sources, parallel diff, and targets made and verified.

mod control;
pub(crate) mod diagnose;
pub(crate) mod diff;
mod in_place;
mod join;
mod note;
pub(crate) mod parallel;
mod part;
pub(crate) mod pieces;
mod shadow;
mod share;
mod slices;
pub(crate) mod source;
pub(crate) mod target;
mod trust;
mod weights;

pub use control::Control;
pub use diff::{diff, Carried, DiffOptions, DiffReport};
pub use join::join;
pub use note::{Deviation, FileNote};
pub use part::Part;
pub use shadow::{Shadow, Unpublished};
pub use slices::Slices;
pub use source::TensorSource;
pub use target::ApplyReport;
pub use weights::{TensorMut, TensorRef, Weights, WeightsMut};
