//! What tells that a file is still the one that it was, with the same bytes.

use std::fs::{self, File, Metadata};
use std::path::Path;
use std::time::SystemTime;

use crate::error::{Change, Error, Result};

/// Size, times and identity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    identity: Identity,
    /// Time of the last change of bytes, names, mode or owner, where the system has it; no program can set it back.
    changed: Option<(i64, i64)>,
}

/// Device and number of a file, where the system has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(Option<(u64, u64)>);

impl Identity {
    #[cfg(unix)]
    pub fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Identity(Some((metadata.dev(), metadata.ino())))
    }

    #[cfg(not(unix))]
    pub fn of(_: &Metadata) -> Self {
        Identity(None)
    }

    /// Whether both are known to be on different file systems.
    #[cfg(feature = "checkpoint")]
    pub fn is_on_another_device(&self, other: &Identity) -> bool {
        self.0.zip(other.0).is_some_and(|(own, other)| own.0 != other.0)
    }

    /// Whether both are known to be the same file.
    pub fn is(&self, other: &Identity) -> bool {
        self.0.is_some() && self == other
    }
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> Option<(i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> Option<(i64, i64)> {
    None
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Stamp {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            identity: Identity::of(metadata),
            changed: changed(metadata),
        }
    }

    /// How the file of this name differs from the one that was stamped, which may be open still.
    fn compare(&self, path: &Path, open: Option<&File>) -> Option<Change> {
        let Ok(named) = fs::metadata(path) else { return Some(Change::Replaced) };
        if Identity::of(&named) != self.identity {
            return Some(Change::Replaced);
        }
        // Where files have no numbers, what is open may be another one than that of the name.
        let Ok(open) = open.map(File::metadata).transpose() else {
            return Some(Change::Replaced);
        };
        let open = open.and_then(|open| self.differs(&open));
        open.or_else(|| self.differs(&named))
    }

    /// As [`compare`](Self::compare), as an error.
    pub fn check(&self, path: &Path, open: Option<&File>) -> Result<()> {
        match self.compare(path, open) {
            None => Ok(()),
            Some(how) => Err(Error::Changed { path: path.into(), how }),
        }
    }

    fn differs(&self, now: &Metadata) -> Option<Change> {
        let now = Stamp::of(now);
        if now.bytes != self.bytes {
            return Some(Change::Resized { expected: self.bytes, found: now.bytes });
        }
        // A new name, mode or owner moves the time of the change as well: what else came with it nobody can tell.
        (now.modified != self.modified || now.changed != self.changed).then_some(Change::Written)
    }
}

#[cfg(all(test, feature = "checkpoint"))]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_or_on_two_devices_only_where_that_is_known() {
        let [here, there, beside, unknown] =
            [Some((1, 7)), Some((2, 7)), Some((1, 8)), None].map(Identity);
        for (one, other, is_same, is_apart) in [
            (here, here, true, false),
            (here, there, false, true),
            (here, beside, false, false),
            (here, unknown, false, false),
            (unknown, unknown, false, false),
        ] {
            assert_eq!(one.is(&other), is_same, "{one:?} {other:?}");
            assert_eq!(one.is_on_another_device(&other), is_apart, "{one:?} {other:?}");
        }
    }
}
