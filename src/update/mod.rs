//! A checkpoint changed in place, with an undo journal.

#[cfg(test)]
mod faults;
mod update;

pub use update::{recover, Recovery, UpdateReport};
