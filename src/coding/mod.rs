//! Codings: how the changes of one block are written. Plain functions on slices.
//!
//! The registry of SPEC.md §7 is open: a new coding is a new code, a new file here, and a new
//! arm in `block::encode` and `BlockDecoder::new`.

mod block;
mod contextual;
mod decoder;
mod flat;
mod matrix;
mod whole;

#[cfg(feature = "checkpoint")]
pub(crate) use block::encode_flat;
pub(crate) use block::{encode, encode_whole, Scratch};
pub use block::{BlockEncoder, BlockOptions, EncodedBlock};
pub use decoder::{BlockDecoder, PayloadBits, Value};
pub(crate) use matrix::Matrix;

pub use crate::word::ValueForm;

use crate::error::Fault;

/// The coding of a block, as its code byte on the wire says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Coding {
    /// Every byte of the target, in byte planes (SPEC.md §7.4).
    Whole,
    /// Gaps and values, readable without the base (SPEC.md §7.3).
    Flat,
    /// Gaps within exponent classes of the base, steps; about half of flat (SPEC.md §7.5).
    #[default]
    Contextual,
}

impl Coding {
    const ALL: [Coding; 3] = [Coding::Whole, Coding::Flat, Coding::Contextual];

    /// Code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Coding::Whole => 0,
            Coding::Flat => 1,
            Coding::Contextual => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Coding> {
        Self::ALL.into_iter().find(|coding| coding.code() == code)
    }

    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Coding::Whole => "whole",
            Coding::Flat => "flat",
            Coding::Contextual => "contextual",
        }
    }
}

/// The fault of a coding whose code this reader does not know.
pub(crate) fn unknown(code: u8) -> Fault {
    Fault::Value {
        field: "coding",
        found: u64::from(code),
        expected: "a known coding; use a newer reader",
    }
}
