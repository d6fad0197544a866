//! Predicted signs: the example of SPEC.md §7.6 with one rule broken.

use super::{row, Malformed};
use crate::vectors::signs::{base, other_dtype, right, too_wide, turned_base, vector_base, wrong};

pub fn signs() -> Vec<Malformed> {
    let mut all: Vec<Malformed> = wrong()
        .into_iter()
        .map(|(name, error, rule, shows, patch)| {
            let base = if name == "signs-of-a-vector" { vector_base() } else { base() };
            Malformed { base: Some(base), ..row(name, error, rule, shows, patch) }
        })
        .collect();
    let (base, patch) = too_wide();
    let shows = "Predicted signs in a matrix of 65,537 columns.";
    all.push(Malformed {
        base: Some(base),
        ..row("signs-too-wide", "value", "R100", shows, patch)
    });
    let (base, patch) = other_dtype();
    let shows = "Predicted signs in a matrix of a dtype that has no code.";
    all.push(Malformed {
        base: Some(base),
        ..row("signs-of-other-dtype", "value", "R100", shows, patch)
    });
    let shows = "Another base, whose tensor has other dimensions and as many.";
    all.push(Malformed {
        base: Some(turned_base()),
        ..row("base-tensor-dimensions", "base", "R63", shows, right()).or("checkpoint")
    });
    all
}
