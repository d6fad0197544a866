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
mod rebuild;
mod signs;
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
    /// None for a snapshot that only its result gives away: applying it takes no base.
    pub base: Option<File>,
    pub patch: Vec<u8>,
    /// What a reader may do without that would refuse the file: `files` (to read file sections), `rebuild` (to
    /// rebuild files), `limits` (to have the default limits).
    pub needs: Option<&'static str>,
}

impl Malformed {
    fn needs(self, what: &'static str) -> Malformed {
        Malformed { needs: Some(what), ..self }
    }

    fn without_base(self) -> Malformed {
        Malformed { base: None, ..self }
    }
}

/// A vector that is applied to the sample's base.
fn row(
    name: &'static str,
    error: &'static str,
    rules: &'static str,
    shows: &'static str,
    patch: impl Into<Vec<u8>>,
) -> Malformed {
    // Other readers may have other limits than the defaults.
    let needs = (rules == "R81").then_some("limits");
    Malformed {
        name,
        error,
        rules,
        shows,
        base: Some(File::new("sample-base", &base())),
        patch: patch.into(),
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
        ends::ends(),
        ends::bases(),
    ];
    groups.into_iter().flatten().collect()
}
