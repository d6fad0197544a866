//! Patches that follow one another: composed into one, or undone.

mod changes;
mod combine;
mod compose;
mod files;
mod invert;

pub use compose::{ComposeOptions, ComposeReport};
pub use invert::InvertOptions;
