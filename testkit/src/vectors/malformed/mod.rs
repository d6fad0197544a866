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
mod limits;
mod rebuild;
mod signs;
mod tensors;

use super::good::{File, Good};
use super::raw::Raw;
use super::sample::base;
use super::Limits;

/// Good vectors, and the limits that they are at.
pub fn at_limits() -> Vec<(Good, Limits)> {
    limits::pairs().into_iter().map(limits::Pair::good).collect()
}

pub struct Malformed {
    pub name: String,
    /// The kinds of error that a reader may give.
    pub errors: Vec<&'static str>,
    /// Numbers of the requirements of SPEC.md that it breaks.
    pub rules: &'static str,
    /// What is wrong.
    pub shows: String,
    /// None for a snapshot that only its result gives away: applying it takes no base.
    pub base: Option<File>,
    pub patch: Vec<u8>,
    /// Those that are not the defaults.
    pub limits: Limits,
    /// What a reader may do without that would refuse the file: `files` (to read file sections), `rebuild` (to
    /// rebuild files), `limits` (to have the default limits).
    pub needs: Option<&'static str>,
}

impl Malformed {
    fn needs(self, what: &'static str) -> Malformed {
        Malformed { needs: Some(what), ..self }
    }

    /// A wrong base shows in this check, and a reader may say so (R63).
    fn or(mut self, error: &'static str) -> Malformed {
        self.errors.push(error);
        self
    }

    fn without_base(self) -> Malformed {
        Malformed { base: None, ..self }
    }
}

/// A vector that is applied to the sample's base.
fn row(
    name: impl Into<String>,
    error: &'static str,
    rules: &'static str,
    shows: impl Into<String>,
    patch: impl Into<Vec<u8>>,
) -> Malformed {
    // Other readers may have other limits than the defaults.
    let needs = (rules == "R81").then_some("limits");
    Malformed {
        name: name.into(),
        errors: vec![error],
        rules,
        shows: shows.into(),
        base: Some(File::new("sample-base", &base())),
        patch: patch.into(),
        limits: Limits::new(),
        needs,
    }
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
        grammar::orders(),
        headers::headers(),
        files::files().into_iter().map(|vector| vector.needs("files")).collect(),
        rebuild::rebuild().into_iter().map(|vector| vector.needs("rebuild")).collect(),
        tensors::tensors(),
        blocks::blocks(),
        flat::flat_payloads(),
        flat::streams(),
        contextual::tables(),
        contextual::codes(),
        signs::signs(),
        contextual::widths(),
        ends::ends(),
        ends::bases(),
        limits::limits(),
    ];
    groups.into_iter().flatten().collect()
}
