//! The file operations of apply, update and recover, all in one place. They are positioned: any thread, any order, no
//! shared cursor, no memory maps. Tests watch them, and make any one of them fail or be the last.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "checkpoint")]
use crate::disk::{stamp::Identity, system};

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

/// Sees every operation before it happens, and may forbid it; tells of the file system what it is to be taken for.
pub(crate) trait Watch: Debug + Send + Sync {
    fn before(&self, call: Call<'_>) -> io::Result<()>;

    #[cfg(feature = "checkpoint")]
    fn free_bytes(&self, _: &Path) -> Option<u64> {
        None
    }

    #[cfg(feature = "checkpoint")]
    fn may_replace(&self, _: &Path) -> bool {
        true
    }
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

    /// Bytes that may still be written to the file system of a directory, where that is known.
    #[cfg(feature = "checkpoint")]
    pub fn free_bytes(&self, directory: &Path) -> Option<u64> {
        match &self.watch {
            Some(watch) => watch.free_bytes(directory),
            None => system::free_bytes(directory),
        }
    }

    /// Whether this process may remove a file, or rename another over it, as far as that is known.
    #[cfg(feature = "checkpoint")]
    pub fn may_replace(&self, path: &Path) -> bool {
        match &self.watch {
            Some(watch) => watch.may_replace(path),
            None => system::may_replace(path),
        }
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
            if let Err(error) = fs::create_dir(&path) {
                if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                    return Err(error);
                }
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
        system::rename_new(from, to)
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
            system::drop_clean_pages(file);
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

    #[derive(Debug)]
    struct Allowing;

    impl Watch for Allowing {
        fn before(&self, _: Call<'_>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_directory_of_a_test_is_not_synced_and_a_real_one_is() {
        let nowhere = Path::new("no such directory");
        let error = Disk::default().sync_directory(nowhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        Disk::watched(Arc::new(Allowing)).sync_directory(nowhere).unwrap();
    }

    #[test]
    #[cfg(all(target_os = "linux", feature = "checkpoint"))]
    fn room_of_a_real_disk_is_what_the_system_says() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Disk::default().free_bytes(dir.path()).is_some_and(|bytes| bytes > 1));
        assert_eq!(Disk::watched(Arc::new(Allowing)).free_bytes(dir.path()), None);
    }

    #[test]
    fn what_is_removed_need_not_be_there_and_must_be_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::default(), dir.path().join("file"));
        fs::write(&path, "").unwrap();
        disk.remove(&path).unwrap();
        assert!(!path.exists());
        disk.remove(&path).unwrap();
        disk.remove(dir.path()).unwrap_err();
    }

    #[test]
    #[cfg(feature = "checkpoint")]
    fn directories_are_made_once_and_never_through_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| Disk::default().create_directories(dir.path(), name);
        make("a/b/file").unwrap();
        make("a/b/file").unwrap();
        assert!(dir.path().join("a/b").is_dir() && !dir.path().join("a/b/file").exists());
        fs::write(dir.path().join("taken"), "").unwrap();
        assert_eq!(make("taken/file").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        make(&format!("{}/file", "long".repeat(100))).unwrap_err();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
            assert_eq!(make("link/file").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    #[cfg(all(unix, feature = "checkpoint"))]
    fn a_parked_file_is_written_where_it_was_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        let mut file = Disk::default().create_new(&path).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        file.park().unwrap();
        // A handle that is closed reads nothing when its file has no name any more.
        file.write_all_at(b"d", 3).unwrap();
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, 2).unwrap();
        assert_eq!(&bytes, b"cd");
        fs::write(&other, "other").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(file.write_all_at(b"x", 0).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"other");
    }

    #[test]
    fn a_file_written_from_its_start_to_its_end_holds_all_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = Disk::default().create_new(&path).unwrap();
        let mut out = Sequential { file: &file, offset: 2 };
        ["ab", "c", "de"].iter().for_each(|text| out.write_all(text.as_bytes()).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"\0\0abcde");
    }
}
