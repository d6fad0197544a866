//! A checkpoint changed in place, so that at every moment it is base or target, or marked as neither.
//!
//! - `update`, `companions`: what is to change, and all that can go wrong before anything does.
//! - `redo`, `undo`: the two ways to change tensor files; `commit`: from what is staged to the end.
//! - `record`: the journal; `pending`: from the first mark to the end.
//! - `judge`, `recover`: what is done about an update that was interrupted.

mod commit;
mod companions;
#[cfg(feature = "fuzzing")]
mod fault;
mod judge;
mod old;
mod pending;
mod record;
mod recover;
mod redo;
#[cfg(test)]
mod tests;
mod undo;
mod update;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use fault::Fault;
pub use record::Way;
pub use recover::{recover, Note, Recovered, Recovery};
pub use update::{UpdateOptions, UpdateReport};
