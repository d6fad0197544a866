//! Outputs that appear whole or not at all: written beside their place, synced, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::error::{Error, Result};

/// Prefix of the temporary siblings; a killed process may leave one behind.
const PREFIX: &str = ".pulse-";

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let context = format!("{what} {}", path.display());
    |error| Error::io(context, error)
}

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename durable.
fn sync_directory(path: &Path) -> Result<()> {
    // Only Unix opens directories; elsewhere the file system sees to it.
    if cfg!(unix) {
        File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("syncing", path))?;
    }
    Ok(())
}

/// Refuses a place that is taken. A file may be replaced if the caller says so; a directory never.
fn check_free(path: &Path, replace: bool) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("looking at", path)(error)),
        Ok(metadata) if metadata.is_dir() => {
            Err(Error::checkpoint(path, "this directory exists already; remove it or choose another name"))
        }
        Ok(_) if replace => Ok(()),
        Ok(_) => Err(Error::checkpoint(path, "exists already; remove it, or say that it may be replaced (--force)")),
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

fn temporary_file(path: &Path) -> Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX);
    with_permissions(&mut builder, 0o666);
    builder.tempfile_in(parent(path)).map_err(failed("creating a file beside", path))
}

fn persist(file: NamedTempFile, path: &Path, replace: bool) -> Result<()> {
    file.as_file().sync_all().map_err(failed("syncing", path))?;
    let renamed = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    renamed.map_err(|error| failed("renaming to", path)(error.error))?;
    sync_directory(parent(path))
}

/// Writes a file that appears at `path` whole, synced to disk, or not at all.
///
/// # Errors
/// Those of `write`; [`Error::Checkpoint`] if `path` is taken and not to be replaced, [`Error::Io`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("step.pulse");
/// use pulse::{write_whole, Encoder, EncoderOptions};
/// write_whole(&path, false, |file| Ok(Encoder::new(file, EncoderOptions::default())?.finish()?.1))?;
/// assert!(path.exists());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn write_whole<T>(path: &Path, replace: bool, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    check_free(path, replace)?;
    let file = temporary_file(path)?;
    let mut buffered = std::io::BufWriter::with_capacity(1 << 18, file.as_file());
    let value = write(&mut buffered)?;
    buffered.flush().map_err(failed("writing", path))?;
    drop(buffered);
    persist(file, path, replace)?;
    Ok(value)
}

/// A checkpoint that is being written beside its place.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    replace: bool,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(NamedTempFile),
    Directory(TempDir),
}

impl Staged {
    pub fn file(path: &Path, replace: bool) -> Result<Self> {
        check_free(path, replace)?;
        Ok(Staged { path: path.into(), replace, place: Place::File(temporary_file(path)?) })
    }

    pub fn directory(path: &Path) -> Result<Self> {
        check_free(path, false)?;
        let mut builder = Builder::new();
        builder.prefix(PREFIX);
        with_permissions(&mut builder, 0o777);
        let dir = builder.tempdir_in(parent(path)).map_err(failed("creating a directory beside", path))?;
        Ok(Staged { path: path.into(), replace: false, place: Place::Directory(dir) })
    }

    /// Makes a file of the checkpoint, of `bytes` bytes. The name must be a legal file name, or
    /// empty if the checkpoint is one file.
    pub fn create(&self, name: &str, bytes: u64) -> Result<File> {
        let path = self.path.join(name);
        let file = match &self.place {
            Place::File(file) => file.as_file().try_clone(),
            // create_new: two names that this file system takes for one are an error, not a mix.
            Place::Directory(dir) => {
                OpenOptions::new().read(true).write(true).create_new(true).open(dir.path().join(name))
            }
        };
        let file = file.map_err(failed("creating", &path))?;
        file.set_len(bytes).map_err(failed("making room for", &path))?;
        Ok(file)
    }

    /// Syncs and renames: the checkpoint appears.
    pub fn commit(self, files: &[File]) -> Result<()> {
        for file in files {
            file.sync_all().map_err(failed("syncing", &self.path))?;
        }
        match self.place {
            Place::File(file) => persist(file, &self.path, self.replace),
            Place::Directory(dir) => {
                sync_directory(dir.path())?;
                // Looked at again: the place may have been taken while the work was done.
                check_free(&self.path, false)?;
                fs::rename(dir.path(), &self.path).map_err(failed("renaming to", &self.path))?;
                let _ = dir.keep();
                sync_directory(parent(&self.path))
            }
        }
    }
}
