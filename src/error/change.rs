//! How an input changed while it was read.

use std::fmt;

/// How an input changed while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// Its size is another one.
    Resized {
        /// Bytes at first.
        expected: u64,
        /// Bytes later.
        found: u64,
    },
    /// It was written to.
    Written,
    /// Its name leads to another file, or nowhere.
    Replaced,
    /// Files were added to a directory, or removed from it.
    Files,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Resized { expected, found } => {
                write!(f, "its size changed from {expected} to {found} bytes")
            }
            Change::Written => f.write_str("it was written to"),
            Change::Replaced => f.write_str("it was replaced or removed"),
            Change::Files => f.write_str("files were added to it or removed from it"),
        }
    }
}
