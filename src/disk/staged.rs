//! Outputs that appear whole or not at all: written beside their place, synced, then renamed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::disk::lock::{try_lock, Access, Locked};
use crate::disk::old_journal;
use crate::disk::place::{stream, Existing, Place, Shape};
use crate::disk::{Call, Disk, DiskFile};
use crate::error::{Error, Result};

/// Names of the temporary siblings: this, and random letters and digits. A killed process may leave one
/// behind; the next output beside it removes it.
const PREFIX: &str = ".pulse-partial-";
const RANDOM: usize = 12;

pub(crate) fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
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

#[cfg(unix)]
fn with_permissions(builder: &mut Builder<'_, '_>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    // Temporary files are private by default; these become ordinary ones. The umask still applies.
    builder.permissions(fs::Permissions::from_mode(mode));
}

#[cfg(not(unix))]
fn with_permissions(_: &mut Builder<'_, '_>, _: u32) {}

/// A file beside a place, to be renamed to it.
pub(crate) fn temporary_file(place: &Place, disk: &Disk) -> Result<NamedTempFile> {
    let hold = |file: &NamedTempFile| Ok((file.path().to_path_buf(), file.as_file().try_clone()?));
    temporary(place, disk, Call::Create(&place.path), hold, || {
        let mut builder = Builder::new();
        builder.prefix(PREFIX).rand_bytes(RANDOM);
        with_permissions(&mut builder, place.new_mode(0o666));
        builder.tempfile_in(place.parent())
    })
    .map(|(file, _)| file)
}

/// A directory beside a place, and what keeps it while it is filled.
fn temporary_directory(place: &Place, disk: &Disk) -> Result<(TempDir, fs::File)> {
    let hold = |directory: &TempDir| {
        let path = directory.path().to_path_buf();
        // Only Unix opens directories.
        let open = if cfg!(unix) { fs::File::open(&path)? } else { tempfile::tempfile()? };
        Ok((path, open))
    };
    temporary(place, disk, Call::CreateDirectory, hold, || {
        let mut builder = Builder::new();
        builder.prefix(PREFIX).rand_bytes(RANDOM);
        with_permissions(&mut builder, place.new_mode(0o777));
        builder.tempdir_in(place.parent())
    })
}

/// Makes something beside a place and holds it by a lock, so that no other process takes it for left behind; first
/// removes what was.
fn temporary<T>(
    place: &Place,
    disk: &Disk,
    call: Call<'_>,
    hold: impl Fn(&T) -> io::Result<(PathBuf, fs::File)>,
    create: impl Fn() -> io::Result<T>,
) -> Result<(T, fs::File)> {
    remove_abandoned(place.parent());
    let io = |error| failed("creating a file or directory beside", &place.path)(error);
    disk.before(call).map_err(io)?;
    loop {
        let made = create().map_err(io)?;
        let (path, held) = hold(&made).map_err(io)?;
        // Others may read it, as this process will.
        let _ = try_lock(&held, Access::Read);
        // Between the two, someone may have taken it for left behind.
        if path.exists() {
            return Ok((made, held));
        }
    }
}

/// Removes what processes that were killed have left in a directory: of those that run, each holds its
/// own. Where files cannot be locked nobody can tell, and all stay.
fn remove_abandoned(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_own = random.is_some_and(|random| {
            random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        let Ok(kind) = entry.file_type() else { continue };
        if !is_own || !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let held = fs::File::open(&path).map(|file| (try_lock(&file, Access::Change), file));
        if let Ok((Ok(Locked::Yes), _held)) = held {
            // If it cannot be removed it does no harm.
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

fn keep_access(place: &Place, directory: &TempDir, needs: u32) -> Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let opened = fs::File::open(directory.path()).map_err(failed("opening", directory.path()))?;
    place.keep_access(&opened, needs)
}

/// The file, all of it synced, appears at its place.
fn persist(file: NamedTempFile, place: &Place, disk: &Disk) -> Result<()> {
    let path = &place.path;
    place.keep_access(file.as_file(), 0)?;
    disk.before(Call::Rename { from: file.path(), to: path })
        .map_err(failed("renaming to", path))?;
    let file = match file.persist_noclobber(path) {
        Ok(_) => return sync_parent(place, disk),
        // Taken, which may be right and the look below says; or this file system has no way but to
        // look first.
        Err(error) => error.file,
    };
    // Looked at again: something else may have come there while the work was done.
    place.check(Shape::File)?;
    file.persist(path).map_err(|error| failed("renaming to", path)(error.error))?;
    sync_parent(place, disk)
}

fn sync_parent(place: &Place, disk: &Disk) -> Result<()> {
    disk.sync_directory(place.parent()).map_err(failed("syncing the directory of", &place.path))
}

/// Writes a file that appears at `path` whole, synced to disk, or not at all. A pipe or a character
/// device takes the bytes as they are made.
///
/// `inputs` are the files and directories that are read for it: none of them, and no file in them,
/// is replaced, by whatever name `path` leads there.
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
/// write_whole(&path, Existing::Refuse, &[], |file| {
///     Ok(Encoder::new(file, EncoderOptions::default())?.finish()?.1)
/// })?;
/// assert!(path.exists());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn write_whole<T>(
    path: impl AsRef<Path>,
    existing: Existing,
    inputs: &[&Path],
    write: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<T> {
    let path = path.as_ref();
    if let Some(stream) = stream(path)? {
        return write_buffered(&stream, path, write);
    }
    let place = Place::find(path, Shape::File, existing, inputs)?;
    let disk = Disk::default();
    let file = temporary_file(&place, &disk)?;
    let value = write_buffered(file.as_file(), path, write)?;
    file.as_file().sync_all().map_err(failed("syncing", path))?;
    persist(file, &place, &disk)?;
    Ok(value)
}

fn write_buffered<T>(
    file: &fs::File,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<T> {
    let mut buffered = io::BufWriter::with_capacity(1 << 18, file);
    let value = write(&mut buffered)?;
    buffered.flush().map_err(failed("writing", path))?;
    Ok(value)
}

/// A checkpoint that is being written beside its place.
#[derive(Debug)]
pub(crate) struct Staged {
    place: Place,
    stage: Stage,
    disk: Disk,
}

#[derive(Debug)]
enum Stage {
    File(NamedTempFile),
    /// With what keeps it.
    Directory(TempDir, fs::File),
}

impl Staged {
    /// Begins an output of this shape; see [`Place::find`].
    pub fn begin(
        path: &Path,
        shape: Shape,
        existing: Existing,
        inputs: &[&Path],
        disk: &Disk,
    ) -> Result<Self> {
        let place = Place::find(path, shape, existing, inputs)?;
        let named = place.path.file_name().unwrap_or_default();
        let home = fs::canonicalize(place.parent()).ok();
        if let Some(journal) = home.and_then(|home| old_journal::find(&home.join(named))) {
            // Whoever opens it would take it for the checkpoint of that journal.
            return Err(Error::Interrupted { path: path.into(), journal, is_there: true });
        }
        let stage = match shape {
            Shape::File => Stage::File(temporary_file(&place, disk)?),
            Shape::Directory => {
                let (directory, held) = temporary_directory(&place, disk)?;
                // Already now: files get the group of their directory where it says so.
                keep_access(&place, &directory, 0o700)?;
                Stage::Directory(directory, held)
            }
        };
        Ok(Staged { place, stage, disk: disk.clone() })
    }

    /// Where it is until then.
    pub fn path(&self) -> &Path {
        match &self.stage {
            Stage::File(file) => file.path(),
            Stage::Directory(directory, _) => directory.path(),
        }
    }

    /// Makes a file of the checkpoint, of `bytes` bytes, and the directories that lead there. The name
    /// must be a legal file name, or empty if the checkpoint is one file.
    pub fn create(&self, name: &str, bytes: u64) -> Result<DiskFile> {
        let path = self.place.path.join(name);
        let file = match &self.stage {
            Stage::File(file) => {
                file.as_file().try_clone().map(|handle| self.disk.adopt(file.path(), handle))
            }
            Stage::Directory(dir, _) => self
                .disk
                .create_directories(dir.path(), name)
                .and_then(|()| self.disk.create_new(&dir.path().join(name))),
        };
        let file = file.map_err(failed("creating", &path))?;
        file.resize(bytes).map_err(failed("making room for", &path))?;
        Ok(file)
    }

    /// Syncs and renames: the checkpoint appears.
    pub fn commit(self, files: &[DiskFile]) -> Result<()> {
        let path = &self.place.path;
        for file in files {
            file.sync().map_err(failed("syncing", path))?;
        }
        match self.stage {
            Stage::File(file) => persist(file, &self.place, &self.disk),
            Stage::Directory(dir, held) => {
                // The files' own, and those that lead there.
                let parents = files.iter().flat_map(|file| file.path().ancestors().skip(1));
                let mut below: BTreeSet<_> =
                    parents.filter(|parent| parent.starts_with(dir.path())).collect();
                below.insert(dir.path());
                for directory in below {
                    self.disk.sync_directory(directory).map_err(failed("syncing", path))?;
                }
                keep_access(&self.place, &dir, 0)?;
                // Looked at again: the place may have been taken while the work was done.
                self.place.check(Shape::Directory)?;
                if cfg!(not(unix)) && path.exists() {
                    // Only Unix renames over a directory that is empty.
                    fs::remove_dir(path).map_err(failed("replacing", path))?;
                }
                self.disk.rename(dir.path(), path).map_err(failed("renaming to", path))?;
                let _ = dir.keep();
                drop(held);
                sync_parent(&self.place, &self.disk)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_in_the_directory_of_the_process() {
        for (path, home) in [("file", "."), ("a/file", "a"), ("/file", "/"), ("/", "."), ("", ".")]
        {
            assert_eq!(parent(Path::new(path)), Path::new(home), "{path}");
        }
    }
}
