//! Tensors wherever they are: sources, parallel diff, and targets made and verified.

mod builder;
#[cfg(feature = "checkpoint")]
pub(crate) mod chain_end;
mod control;
pub(crate) mod diagnose;
pub(crate) mod diff;
mod in_place;
mod note;
pub(crate) mod parallel;
pub(crate) mod pieces;
pub(crate) mod source;
pub(crate) mod target;
mod trust;
mod weights;

pub use control::Control;
pub use diff::{diff, Carried, DiffOptions, DiffReport};
pub use note::{Deviation, FileNote};
pub use source::TensorSource;
pub use target::ApplyReport;
pub use weights::{TensorMut, TensorRef, Weights, WeightsMut};
