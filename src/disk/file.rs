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
        DiskFile { path: path.into(), file, disk: self.clone() }
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

/// An open file.
#[derive(Debug)]
pub(crate) struct DiskFile {
    path: PathBuf,
    file: File,
    disk: Disk,
}

impl DiskFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the name still leads to this file.
    #[cfg(feature = "checkpoint")]
    pub fn has_its_name(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
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
        read_exact_at(&self.file, buffer, offset)
    }

    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.before(Call::Write { path: &self.path, offset, bytes })?;
        write_all_at(&self.file, bytes, offset)
    }

    pub fn resize(&self, bytes: u64) -> io::Result<()> {
        self.disk.before(Call::Resize)?;
        self.file.set_len(bytes)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.disk.before(Call::Sync(&self.path))?;
        if self.disk.is_real() {
            self.file.sync_all()
        } else {
            Ok(())
        }
    }

    /// Makes the next read come from the disk: after a sync that failed, what is cached may be what the
    /// disk does not have.
    #[cfg(feature = "checkpoint")]
    pub fn reload(&self) -> io::Result<()> {
        self.disk.before(Call::Reload(&self.path))?;
        crate::disk::system::drop_clean_pages(&self.file);
        Ok(())
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
