//! Patches that follow one another: composed into one, or undone.

pub(crate) mod chain;
mod changes;
mod combine;
mod compose;
mod files;
mod invert;

pub use compose::{ComposeOptions, ComposeReport};
pub use invert::InvertOptions;
