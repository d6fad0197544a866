//! Writing to disk so that nothing is lost: file operations that a test can fail, staging, locks, marks.

pub(crate) mod content;
mod file;
#[cfg(feature = "checkpoint")]
pub(crate) mod lock;
#[cfg(feature = "checkpoint")]
pub(crate) mod mark;
#[cfg(feature = "checkpoint")]
pub(crate) mod old_journal;
#[cfg(feature = "checkpoint")]
pub(crate) mod place;
#[cfg(feature = "checkpoint")]
pub(crate) mod staged;
pub(crate) mod stamp;
#[cfg(feature = "checkpoint")]
pub(crate) mod system;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use file::Watch;
#[cfg(feature = "checkpoint")]
pub(crate) use file::{Call, Sequential};
pub(crate) use file::{Disk, DiskFile};
