//! The file operations of apply, update and recover, all in one place. They are positioned: any thread, any order, no
//! shared cursor, no memory maps. Tests watch them, and make any one of them fail or be the last.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "checkpoint")]
use crate::disk::stamp::Identity;

/// One operation that is about to happen.
#[derive(Debug, Clone, Copy)]
// What an operation is about, for those who watch.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Call<'a> {
    /// Opens a file that is there.
    Open,
    /// Makes an empty file.
    Create(&'a Path),
    /// Makes a directory.
    CreateDirectory,
    Read,
    Write {
        path: &'a Path,
        offset: u64,
        bytes: &'a [u8],
    },
    Resize,
    Sync(&'a Path),
    /// Lets go of what is cached of a file.
    Reload(&'a Path),
    SyncDirectory(&'a Path),
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Remove(&'a Path),
}

/// Sees every operation before it happens, and may forbid it.
pub(crate) trait Watch: Debug + Send + Sync {
    fn before(&self, call: Call<'_>) -> io::Result<()>;
}

/// The file system, perhaps watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    watch: Option<Arc<dyn Watch>>,
}

impl Disk {
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn watched(watch: Arc<dyn Watch>) -> Self {
        Disk { watch: Some(watch) }
    }

    /// Whether writes must reach the disk: a test that watches has a disk of its own in mind.
    fn is_real(&self) -> bool {
        self.watch.is_none()
    }

    pub fn before(&self, call: Call<'_>) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.before(call))
    }

    /// Takes over a file that was opened by other means.
    pub fn adopt(&self, path: impl Into<PathBuf>, file: File) -> DiskFile {
        DiskFile { path: path.into(), handle: Handle::Open(file), disk: self.clone() }
    }

    pub fn open(&self, path: &Path) -> io::Result<DiskFile> {
        self.before(Call::Open)?;
        Ok(self.adopt(path, File::open(path)?))
    }

    /// Opens a file that is there, to be changed.
    pub fn open_to_change(&self, path: &Path) -> io::Result<DiskFile> {
        self.before(Call::Open)?;
        Ok(self.adopt(path, OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Makes a file where none is, for nobody else to read until it is given another mode.
    #[cfg(feature = "checkpoint")]
    pub fn create_private(&self, path: &Path) -> io::Result<DiskFile> {
        self.before(Call::Create(path))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(self.adopt(path, options.open(path)?))
    }

    /// Makes a file where none is: two names that a file system takes for one are an error, not a mix.
    pub fn create_new(&self, path: &Path) -> io::Result<DiskFile> {
        self.before(Call::Create(path))?;
        Ok(self.adopt(path, OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    /// Makes the directories that lead from one to a file in it. None of them is a link.
    #[cfg(feature = "checkpoint")]
    pub fn create_directories(&self, directory: &Path, name: &str) -> io::Result<()> {
        for (end, _) in name.match_indices('/') {
            let path = directory.join(&name[..end]);
            self.before(Call::CreateDirectory)?;
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(error) if !fs::symlink_metadata(&path)?.is_dir() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(Call::Rename { from, to })?;
        fs::rename(from, to)
    }

    /// As `rename`, but replaces nothing.
    #[cfg(feature = "checkpoint")]
    pub fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(Call::Rename { from, to })?;
        crate::disk::system::rename_new(from, to)
    }

    /// Removes a file; it need not be there.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.before(Call::Remove(path))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Makes what was created, renamed or removed in a directory durable.
    pub fn sync_directory(&self, path: &Path) -> io::Result<()> {
        // Only Unix opens directories; elsewhere the file system sees to it.
        let sync =
            || if cfg!(unix) && self.is_real() { File::open(path)?.sync_all() } else { Ok(()) };
        match self.before(Call::SyncDirectory(path)).and_then(|()| sync()) {
            // SMB and some FUSE file systems cannot: what was renamed is whole, and there to stay when
            // the server says so.
            Err(error) if cannot(&error) => Ok(()),
            synced => synced,
        }
    }
}

/// Whether a file system does not have an operation, as opposed to one that failed.
fn cannot(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// A file, open, or opened for each operation.
#[derive(Debug)]
pub(crate) struct DiskFile {
    path: PathBuf,
    handle: Handle,
    disk: Disk,
}

#[derive(Debug)]
enum Handle {
    Open(File),
    /// Closed because there are more files than a process may have open; it must be the same when it
    /// is opened again.
    #[cfg(feature = "checkpoint")]
    Parked(Identity),
}

impl DiskFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file; an error if it is not kept open.
    pub fn held(&self) -> io::Result<&File> {
        match &self.handle {
            Handle::Open(file) => Ok(file),
            #[cfg(feature = "checkpoint")]
            Handle::Parked(_) => Err(io::Error::other("the file is not kept open")),
        }
    }

    pub fn metadata(&self) -> io::Result<fs::Metadata> {
        self.with(false, File::metadata)
    }

    /// Closes the file until its next operation. A lock on it goes.
    #[cfg(feature = "checkpoint")]
    pub fn park(&mut self) -> io::Result<()> {
        self.handle = Handle::Parked(Identity::of(&self.metadata()?));
        Ok(())
    }

    /// Does something with the open file.
    fn with<T>(&self, write: bool, act: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        #[cfg(not(feature = "checkpoint"))]
        let _ = write;
        match &self.handle {
            Handle::Open(file) => act(file),
            #[cfg(feature = "checkpoint")]
            Handle::Parked(identity) => {
                let file = OpenOptions::new().read(true).write(write).open(&self.path)?;
                if Identity::of(&file.metadata()?) != *identity {
                    return Err(io::Error::other("another file has taken its name"));
                }
                act(&file)
            }
        }
    }

    /// Whether the name still leads to this file.
    #[cfg(feature = "checkpoint")]
    pub fn has_its_name(&self) -> bool {
        match (self.metadata(), fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => {
                let [open, named] = [open, named].map(|found| Identity::of(&found));
                // Where files have no numbers, one that is open keeps its name.
                open == named
            }
            _ => false,
        }
    }

    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.before(Call::Read)?;
        self.with(false, |file| read_exact_at(file, buffer, offset))
    }

    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.before(Call::Write { path: &self.path, offset, bytes })?;
        self.with(true, |file| write_all_at(file, bytes, offset))
    }

    pub fn resize(&self, bytes: u64) -> io::Result<()> {
        self.disk.before(Call::Resize)?;
        self.with(true, |file| file.set_len(bytes))
    }

    pub fn sync(&self) -> io::Result<()> {
        self.disk.before(Call::Sync(&self.path))?;
        if self.disk.is_real() {
            self.with(true, File::sync_all)
        } else {
            Ok(())
        }
    }

    /// Makes the next read come from the disk: after a sync that failed, what is cached may be what the
    /// disk does not have.
    #[cfg(feature = "checkpoint")]
    pub fn reload(&self) -> io::Result<()> {
        self.disk.before(Call::Reload(&self.path))?;
        self.with(false, |file| {
            crate::disk::system::drop_clean_pages(file);
            Ok(())
        })
    }
}

/// Writes a file from its start to its end.
#[derive(Debug)]
pub(crate) struct Sequential<'a> {
    pub file: &'a DiskFile,
    pub offset: u64,
}

impl Write for Sequential<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(unix)]
fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(windows)]
fn write_all_at(file: &File, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_write(buffer, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                buffer = &buffer[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system on which syncing a directory ends with this error.
    #[derive(Debug)]
    struct Syncing(io::ErrorKind);

    impl Watch for Syncing {
        fn before(&self, call: Call<'_>) -> io::Result<()> {
            match call {
                Call::SyncDirectory(_) => Err(self.0.into()),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn a_directory_that_cannot_be_synced_is_no_error_and_one_that_fails_to_is() {
        let sync = |kind| {
            Disk::watched(Arc::new(Syncing(kind)))
                .sync_directory(Path::new("."))
                .map_err(|e| e.kind())
        };
        for kind in [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported] {
            assert_eq!(sync(kind), Ok(()));
        }
        for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
            assert_eq!(sync(kind), Err(kind));
        }
    }
}
