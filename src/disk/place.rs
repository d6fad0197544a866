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
    inputs: Vec<PathBuf>,
    taken: Option<Metadata>,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    File,
    Directory,
}

impl Shape {
    /// That of a checkpoint.
    pub fn of(is_directory: bool) -> Self {
        if is_directory {
            Shape::Directory
        } else {
            Shape::File
        }
    }
}

impl Place {
    /// Looks at a place, and refuses it if the output would destroy something there. `inputs` are
    /// files and directories that are read for the output.
    pub fn find(path: &Path, shape: Shape, existing: Existing, inputs: &[&Path]) -> Result<Self> {
        let refuse = |found| Err(Error::Exists { path: path.into(), found });
        let owned = || inputs.iter().map(|input| input.to_path_buf()).collect();
        let named = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Place { path: path.into(), existing, inputs: owned(), taken: None })
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
        Ok(Place { path, existing, inputs: owned(), taken: Some(found) })
    }

    /// The directory in which the output is staged: the one of its place, so that it can be renamed.
    pub fn parent(&self) -> &Path {
        parent(&self.path)
    }

    /// Whether a regular file is replaced.
    pub fn replaces(&self) -> bool {
        self.existing == Existing::Replace
    }

    /// Looks again, right before the output takes its name: what is there must be what was there.
    pub fn check(&self, shape: Shape) -> Result<()> {
        let inputs: Vec<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        let now = Self::find(&self.path, shape, self.existing, &inputs)?;
        let same = match (&self.taken, &now.taken) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(then), Some(now)) => cfg!(not(unix)) || Identity::of(then).is(&Identity::of(now)),
        };
        let found = if shape == Shape::File { Occupant::File } else { Occupant::Directory };
        if same {
            Ok(())
        } else {
            Err(Error::Exists { path: self.path.clone(), found })
        }
    }

    /// The mode to create with: what replaces something is private until it has the mode of that.
    pub fn new_mode(&self, ordinary: u32) -> u32 {
        match self.taken {
            Some(_) => ordinary & 0o700,
            None => ordinary,
        }
    }

    /// Gives what is staged the mode and the owner of what it replaces. `needs` are bits that the
    /// mode must have for now.
    pub fn keep_access(&self, staged: &File, needs: u32) -> Result<()> {
        match &self.taken {
            Some(taken) => {
                keep_access(taken, staged, needs).map_err(failed("setting the mode of", &self.path))
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

/// Gives a new file the mode and the owner of another. By the open file, not by its name, which may
/// lead elsewhere by now.
#[cfg(unix)]
pub(crate) fn keep_access(taken: &Metadata, staged: &File, needs: u32) -> io::Result<()> {
    use std::os::unix::fs::{fchown, MetadataExt, PermissionsExt};
    // Bits that give rights to whoever runs a file are not for bytes that came from elsewhere.
    let mut mode = taken.mode() & if taken.is_dir() { 0o3777 } else { 0o777 };
    let owners = |metadata: Metadata| (metadata.uid(), metadata.gid());
    let mut now = owners(staged.metadata()?);
    if now != owners(taken.clone()) {
        // Not everyone may give files away. Some may at least give them to the group.
        let given = fchown(staged, Some(taken.uid()), Some(taken.gid()))
            .or_else(|_| fchown(staged, None, Some(taken.gid())));
        if given.is_ok() {
            now = owners(staged.metadata()?);
        }
    }
    if now.1 != taken.gid() {
        // Another group may do no more than everyone.
        mode &= 0o3707 | (mode & 0o7) << 3;
    }
    staged.set_permissions(fs::Permissions::from_mode(mode | needs))
}

#[cfg(not(unix))]
pub(crate) fn keep_access(taken: &Metadata, staged: &File, _: u32) -> io::Result<()> {
    if taken.is_dir() {
        return Ok(());
    }
    staged.set_permissions(taken.permissions())
}

/// Gives a new file, which nobody but its owner may read so far, the owner of another, and takes from it
/// what the mode of that does not allow.
#[cfg(unix)]
pub(crate) fn lessen_access(taken: &Metadata, file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let before = file.metadata()?.permissions().mode() & 0o777;
    let allowed = if before == 0o600 { 0o666 } else { before };
    keep_access(taken, file, 0)?;
    let now = file.metadata()?.permissions().mode() & 0o777;
    file.set_permissions(fs::Permissions::from_mode(now & allowed))
}

#[cfg(not(unix))]
pub(crate) fn lessen_access(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}
