//! Bytes that can be read at any place: a file, memory, or whatever a callback fetches.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use crate::disk::stamp::Stamp;
use crate::disk::{content, Disk, DiskFile};
use crate::error::{Error, FileFault, Result};

/// Reads at any offset, without a position of its own.
///
/// A [`LocalFile`] is one, and so are bytes in memory, an [`FnSource`] around a callback, and a
/// reference to any of them. What is read must not change while somebody reads it.
///
/// ```
/// use pulse::patch::ReadAt;
/// let source = b"some bytes".as_slice();
/// let mut buffer = [0; 5];
/// source.read_exact_at(&mut buffer, 5)?;
/// assert_eq!((&buffer, ReadAt::len(source)?), (b"bytes", 10));
/// # Ok::<(), pulse::Error>(())
/// ```
#[allow(clippy::len_without_is_empty)] // nobody asks, and asking may fail
pub trait ReadAt {
    /// Total number of bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be found out.
    fn len(&self) -> Result<u64>;

    /// Fills `buffer` with the bytes from `offset`.
    ///
    /// # Errors
    /// [`Error::Io`]; its source is of the kind
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if there are not as many bytes.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn len(&self) -> Result<u64> {
        (**self).len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut rest =
            usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or(&[]);
        rest.read_exact(buffer).map_err(|error| reading("memory", offset, error))
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> Result<u64> {
        ReadAt::len(self.as_slice())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

/// A file of this machine, open for reading.
///
/// ```
/// use pulse::patch::{LocalFile, ReadAt};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("letters");
/// std::fs::write(&path, b"abcdef").unwrap();
/// let file = LocalFile::open(&path)?;
/// let mut buffer = [0; 3];
/// file.read_exact_at(&mut buffer, 2)?;
/// assert_eq!(&buffer, b"cde");
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct LocalFile {
    file: DiskFile,
    stamp: Stamp,
}

impl LocalFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadFile`] if it is not a regular file: a pipe can only be read
    /// from front to back, by a [`Decoder`](crate::Decoder).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(path.as_ref(), &Disk::default())
    }

    pub(super) fn open_on(path: &Path, disk: &Disk) -> Result<Self> {
        let io = |error| Error::io_at("opening", path, error);
        // Asked before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let content = content::look(path);
            let fault = content.map_or(FileFault::NotRegular, FileFault::NoPatch);
            return Err(Error::bad_file(path, fault));
        }
        let file = disk.open(path).map_err(io)?;
        let stamp = Stamp::of(&file.metadata().map_err(io)?);
        Ok(LocalFile { file, stamp })
    }

    /// To be read from front to back.
    pub(super) fn file(&self) -> Result<&File> {
        self.file.held().map_err(|error| Error::io_at("reading", self.file.path(), error))
    }

    /// Whether the file, open and by its name, is what it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.stamp.check(self.file.path(), self.file.held().ok())
    }
}

impl ReadAt for LocalFile {
    fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| Error::io_at("reading the size of", self.file.path(), error))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            Error::io_at(format!("reading from byte {offset} of"), self.file.path(), error)
        })
    }
}

/// Bytes that a callback fetches, from an object store by range requests for instance.
///
/// ```
/// use pulse::patch::{FnSource, ReadAt};
/// # fn get(_: &str, range: std::ops::Range<u64>) -> std::io::Result<Vec<u8>> {
/// #     Ok((range.start as u8..range.end as u8).collect())
/// # }
/// // The size, from a HEAD request; then GET requests with a Range header.
/// let source = FnSource::new(100, |buffer, offset| {
///     let range = offset..offset + buffer.len() as u64;
///     buffer.copy_from_slice(&get("https://example.com/41.pulse", range)?);
///     Ok(())
/// });
/// let mut buffer = [0; 3];
/// source.read_exact_at(&mut buffer, 40)?;
/// assert_eq!(buffer, [40, 41, 42]);
/// # Ok::<(), pulse::Error>(())
/// ```
pub struct FnSource<F> {
    len: u64,
    read: F,
}

impl<F: Fn(&mut [u8], u64) -> io::Result<()>> FnSource<F> {
    /// `len` is the total number of bytes; `read` fills a buffer with those from an offset, and is
    /// asked for none beyond `len`.
    pub fn new(len: u64, read: F) -> Self {
        FnSource { len, read }
    }
}

impl<F> fmt::Debug for FnSource<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnSource").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<F: Fn(&mut [u8], u64) -> io::Result<()>> ReadAt for FnSource<F> {
    fn len(&self) -> Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        let read = if end.is_some_and(|end| end <= self.len) {
            (self.read)(buffer, offset)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
        read.map_err(|error| reading("the source", offset, error))
    }
}

fn reading(what: &str, offset: u64, error: io::Error) -> Error {
    Error::io(format!("reading from byte {offset} of {what}"), error)
}

/// A range of a source, read from front to back.
#[derive(Debug)]
pub(super) struct RangeReader<S> {
    pub source: S,
    pub range: Range<u64>,
}

impl<S: ReadAt> Read for RangeReader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let bytes = buffer.len().min(left);
        if bytes > 0 {
            self.source.read_exact_at(&mut buffer[..bytes], self.range.start).map_err(|error| {
                let kind = match &error {
                    Error::Io { source, .. } => source.kind(),
                    _ => io::ErrorKind::Other,
                };
                io::Error::new(kind, error)
            })?;
            self.range.start += bytes as u64;
        }
        Ok(bytes)
    }
}
