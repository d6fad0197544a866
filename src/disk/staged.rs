//! Outputs that appear whole or not at all: written beside their place, synced, then renamed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::disk::{Call, Disk, DiskFile};
use crate::error::{Error, Result};

/// Prefix of the temporary siblings; a killed process may leave one behind.
const PREFIX: &str = ".pulse-";

pub(crate) fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let (doing, path) = (what.to_string(), path.to_path_buf());
    |source| Error::Io { doing, path: Some(path), source }
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What may happen to a file that is at the place of the output already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// It stays, and the work is refused before it begins.
    #[default]
    Refuse,
    /// A file is replaced by the output, whole; a directory never is.
    Replace,
}

/// Refuses a place that is taken. A file may be replaced if the caller says so; a directory never.
fn check_free(path: &Path, existing: Existing) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("looking at", path)(error)),
        Ok(metadata) if metadata.is_dir() => {
            Err(Error::Exists { path: path.into(), directory: true })
        }
        Ok(_) if existing == Existing::Replace => Ok(()),
        Ok(_) => Err(Error::Exists { path: path.into(), directory: false }),
    }
}

#[cfg(unix)]
fn with_permissions(builder: &mut Builder<'_, '_>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    // Temporary files are private by default; these become ordinary ones. The umask still applies.
    builder.permissions(fs::Permissions::from_mode(mode));
}

#[cfg(not(unix))]
fn with_permissions(_: &mut Builder<'_, '_>, _: u32) {}

pub(crate) fn temporary_file(path: &Path, disk: &Disk) -> Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX);
    with_permissions(&mut builder, 0o666);
    let created = disk.before(Call::Create(path)).and_then(|()| builder.tempfile_in(parent(path)));
    created.map_err(failed("creating a file beside", path))
}

/// The file, all of it synced, appears at `path`.
fn persist(file: NamedTempFile, path: &Path, existing: Existing, disk: &Disk) -> Result<()> {
    disk.before(Call::Rename { from: file.path(), to: path })
        .map_err(failed("renaming to", path))?;
    let renamed = match existing {
        Existing::Replace => file.persist(path),
        Existing::Refuse => file.persist_noclobber(path),
    };
    renamed.map_err(|error| failed("renaming to", path)(error.error))?;
    disk.sync_directory(parent(path)).map_err(failed("syncing the directory of", path))
}

/// Writes a file that appears at `path` whole, synced to disk, or not at all.
///
/// # Errors
/// Those of `write`; [`Error::Exists`] if `path` is taken and not to be replaced, [`Error::Io`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("step.pulse");
/// use pulse::Encoder;
/// use pulse::checkpoint::{write_whole, Existing};
/// use pulse::stream::EncoderOptions;
/// write_whole(&path, Existing::Refuse, |file| Ok(Encoder::new(file, EncoderOptions::default())?.finish()?.1))?;
/// assert!(path.exists());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn write_whole<T>(
    path: impl AsRef<Path>,
    existing: Existing,
    write: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<T> {
    let path = path.as_ref();
    check_free(path, existing)?;
    let disk = Disk::default();
    let file = temporary_file(path, &disk)?;
    let mut buffered = std::io::BufWriter::with_capacity(1 << 18, file.as_file());
    let value = write(&mut buffered)?;
    buffered.flush().map_err(failed("writing", path))?;
    drop(buffered);
    file.as_file().sync_all().map_err(failed("syncing", path))?;
    persist(file, path, existing, &disk)?;
    Ok(value)
}

/// A checkpoint that is being written beside its place.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    existing: Existing,
    place: Place,
    disk: Disk,
}

#[derive(Debug)]
enum Place {
    File(NamedTempFile),
    Directory(TempDir),
}

impl Staged {
    pub fn file(path: &Path, existing: Existing, disk: &Disk) -> Result<Self> {
        check_free(path, existing)?;
        let place = Place::File(temporary_file(path, disk)?);
        Ok(Staged { path: path.into(), existing, place, disk: disk.clone() })
    }

    pub fn directory(path: &Path, disk: &Disk) -> Result<Self> {
        check_free(path, Existing::Refuse)?;
        let mut builder = Builder::new();
        builder.prefix(PREFIX);
        with_permissions(&mut builder, 0o777);
        let created =
            disk.before(Call::CreateDirectory).and_then(|()| builder.tempdir_in(parent(path)));
        let place = Place::Directory(created.map_err(failed("creating a directory beside", path))?);
        Ok(Staged { path: path.into(), existing: Existing::Refuse, place, disk: disk.clone() })
    }

    /// Makes a file of the checkpoint, of `bytes` bytes. The name must be a legal file name, or
    /// empty if the checkpoint is one file.
    pub fn create(&self, name: &str, bytes: u64) -> Result<DiskFile> {
        let path = self.path.join(name);
        let file = match &self.place {
            Place::File(file) => {
                file.as_file().try_clone().map(|handle| self.disk.adopt(file.path(), handle))
            }
            Place::Directory(dir) => self.disk.create_new(&dir.path().join(name)),
        };
        let file = file.map_err(failed("creating", &path))?;
        file.resize(bytes).map_err(failed("making room for", &path))?;
        Ok(file)
    }

    /// Syncs and renames: the checkpoint appears.
    pub fn commit(self, files: &[DiskFile]) -> Result<()> {
        for file in files {
            file.sync().map_err(failed("syncing", &self.path))?;
        }
        match self.place {
            Place::File(file) => persist(file, &self.path, self.existing, &self.disk),
            Place::Directory(dir) => {
                self.disk.sync_directory(dir.path()).map_err(failed("syncing", &self.path))?;
                // Looked at again: the place may have been taken while the work was done.
                check_free(&self.path, Existing::Refuse)?;
                self.disk
                    .rename(dir.path(), &self.path)
                    .map_err(failed("renaming to", &self.path))?;
                let _ = dir.keep();
                self.disk
                    .sync_directory(parent(&self.path))
                    .map_err(failed("syncing the directory of", &self.path))
            }
        }
    }
}
