//! The side of the trainer.

mod checkpoints;
mod options;
mod patch;
mod pending;
mod publisher;
mod shadow;
mod source;

pub use options::PublisherOptions;
pub use publisher::{Published, Publisher};
