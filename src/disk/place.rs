//! Where an output goes: what it may replace, and what it must not.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::staged::{failed, parent};
use crate::disk::stamp::Identity;
use crate::error::{Error, Occupant, Result};

/// What may happen to a file that is at the place of the output already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// It stays, and the work is refused before it begins.
    #[default]
    Refuse,
    /// A regular file is replaced by the output, whole; mode and owner stay. Nothing else ever is.
    Replace,
}

/// A place for an output, and what is there.
#[derive(Debug)]
pub(crate) struct Place {
    /// The name that the output takes: the one given, or what it leads to if it is a link.
    pub path: PathBuf,
    existing: Existing,
    taken: Option<Metadata>,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    File,
    Directory,
}

impl Place {
    /// Looks at a place, and refuses it if the output would destroy something there. `inputs` are
    /// files and directories that are read for the output.
    pub fn find(path: &Path, shape: Shape, existing: Existing, inputs: &[&Path]) -> Result<Self> {
        let refuse = |found| Err(Error::Exists { path: path.into(), found });
        let named = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Place { path: path.into(), existing, taken: None })
            }
            named => named.map_err(failed("looking at", path))?,
        };
        let found = match fs::metadata(path) {
            // A link whose target is gone: nobody can tell what would take its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return refuse(Occupant::Link),
            found => found.map_err(failed("looking at", path))?,
        };
        match shape {
            Shape::File if found.is_file() => {
                if is_input(&found, path, inputs) {
                    return refuse(Occupant::Input);
                }
                if existing == Existing::Refuse {
                    return refuse(Occupant::File);
                }
            }
            Shape::Directory if found.is_dir() => {
                let mut entries = fs::read_dir(path).map_err(failed("listing", path))?;
                if entries.next().is_some() {
                    return refuse(Occupant::Directory);
                }
            }
            _ if found.is_dir() => return refuse(Occupant::Directory),
            _ if found.is_file() => return refuse(Occupant::File),
            _ => return refuse(Occupant::Special),
        }
        let path = if named.is_symlink() {
            fs::canonicalize(path).map_err(failed("following", path))?
        } else {
            path.into()
        };
        Ok(Place { path, existing, taken: Some(found) })
    }

    /// The directory in which the output is staged: the one of its place, so that it can be renamed.
    pub fn parent(&self) -> &Path {
        parent(&self.path)
    }

    /// Whether a regular file is replaced.
    pub fn replaces(&self) -> bool {
        self.existing == Existing::Replace
    }

    /// Looks again, right before the output takes its name.
    pub fn check(&self, shape: Shape) -> Result<()> {
        Self::find(&self.path, shape, self.existing, &[]).map(drop)
    }

    /// The mode to create with: what replaces something is private until it has the mode of that.
    pub fn new_mode(&self, ordinary: u32) -> u32 {
        match self.taken {
            Some(_) => ordinary & 0o700,
            None => ordinary,
        }
    }

    /// Gives what is staged the mode and the owner of what it replaces.
    pub fn keep_access(&self, staged: &Path) -> Result<()> {
        match &self.taken {
            Some(taken) => {
                keep_access(taken, staged).map_err(failed("setting the mode of", staged))
            }
            None => Ok(()),
        }
    }
}

/// Opens a pipe or a character device, into which a file can be written as it is made.
pub(crate) fn stream(path: &Path) -> Result<Option<File>> {
    match fs::metadata(path) {
        Ok(found) if is_stream(&found) => {
            OpenOptions::new().write(true).open(path).map(Some).map_err(failed("opening", path))
        }
        _ => Ok(None),
    }
}

/// Whether a file is one of the inputs, or in a directory that is.
fn is_input(found: &Metadata, path: &Path, inputs: &[&Path]) -> bool {
    let identity = Identity::of(found);
    let canonical = fs::canonicalize(path).ok();
    let same = |other: &Path| {
        let metadata = fs::metadata(other);
        metadata.is_ok_and(|metadata| Identity::of(&metadata).is(&identity))
            || canonical.is_some() && fs::canonicalize(other).ok() == canonical
    };
    inputs.iter().any(|input| {
        let entries = fs::read_dir(input).into_iter().flatten();
        same(input) || entries.flatten().any(|entry| same(&entry.path()))
    })
}

#[cfg(unix)]
fn is_stream(found: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.file_type().is_fifo() || found.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_stream(_: &Metadata) -> bool {
    false
}

#[cfg(unix)]
fn keep_access(taken: &Metadata, staged: &Path) -> io::Result<()> {
    use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
    let now = fs::metadata(staged)?;
    let mut mode = taken.mode() & 0o7777;
    let mut owners = (now.uid(), now.gid());
    if owners != (taken.uid(), taken.gid()) {
        // Not everyone may give files away. Some may at least give them to the group.
        let given = chown(staged, Some(taken.uid()), Some(taken.gid()))
            .or_else(|_| chown(staged, None, Some(taken.gid())));
        if given.is_ok() {
            let now = fs::metadata(staged)?;
            owners = (now.uid(), now.gid());
        }
    }
    if owners.1 != taken.gid() {
        // Another group reads no more than everyone could.
        mode &= 0o7707 | (mode & 0o7) << 3;
    }
    if owners.0 != taken.uid() || owners.1 != taken.gid() {
        mode &= 0o777;
    }
    fs::set_permissions(staged, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn keep_access(taken: &Metadata, staged: &Path) -> io::Result<()> {
    fs::set_permissions(staged, taken.permissions())
}
