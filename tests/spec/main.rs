//! What is promised elsewhere and held here: vectors and requirements of SPEC.md, errors, the layers
//! of the source, the paths in documents.

mod docs;
mod errors;
mod layers;
mod requirements;
mod vectors;
