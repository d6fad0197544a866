//! Vectors that every reader must refuse, and the kind of error that it must give.
//!
//! Each is one of the patches of [`sample`](super::sample) with one rule broken.

mod blocks;
mod contextual;
mod ends;
mod files;
mod flat;
mod framing;
mod grammar;
mod headers;
mod tensors;

use super::good::File;
use super::raw::Raw;
use super::sample::base;

pub struct Malformed {
    pub name: &'static str,
    /// The kind of error.
    pub error: &'static str,
    /// Numbers of the requirements of SPEC.md that it breaks.
    pub rules: &'static str,
    /// What is wrong.
    pub shows: &'static str,
    pub base: File,
    pub patch: Vec<u8>,
}

/// A vector that is applied to the sample's base.
fn row(
    name: &'static str,
    error: &'static str,
    rules: &'static str,
    shows: &'static str,
    patch: impl Into<Vec<u8>>,
) -> Malformed {
    Malformed { name, error, rules, shows, base: File::new("sample-base", &base()), patch: patch.into() }
}

impl From<Raw> for Vec<u8> {
    fn from(raw: Raw) -> Self {
        raw.write()
    }
}

pub fn vectors() -> Vec<Malformed> {
    let groups = [
        framing::framing(),
        grammar::grammar(),
        headers::headers(),
        files::files(),
        tensors::tensors(),
        blocks::blocks(),
        flat::flat_payloads(),
        flat::streams(),
        contextual::tables(),
        contextual::codes(),
        ends::ends(),
        ends::bases(),
    ];
    groups.into_iter().flatten().collect()
}
