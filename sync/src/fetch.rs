//! Data on its way down: in parallel ranges, each asked for again if it was cut, hashed in their order.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::{stream, StreamExt};
use object_store::Error as Answer;
use pulse::hash::Digest;
use pulse::{Limits, Patch};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::record::Data;
use crate::retry::Backoff;
use crate::store::Store;
use crate::work::in_place;
use crate::world::World;

/// Bytes of a range, at least and at most.
const RANGE_MIN: u64 = 256 << 10;
const RANGE_MAX: u64 = 2 << 20;
/// Ranges that are under way at once: memory is as many of them.
const AT_ONCE: usize = 16;
/// Tries of one range before the object is given up.
const TRIES: u32 = 4;
/// Data up to this size is held in memory.
const IN_MEMORY_BYTES: u64 = 64 << 20;

/// Where data is kept until it is applied, and who is told of it.
pub(crate) struct Fetch<'a> {
    pub store: &'a Store,
    pub world: &'a dyn World,
    /// A directory for what is too large for memory; without one, memory takes all.
    pub spool: Option<&'a PathBuf>,
    pub limits: Limits,
    /// Told the bytes that arrived since the last call.
    pub arrived: &'a (dyn Fn(u64) + Send + Sync),
}

enum Sink {
    Memory(Vec<u8>),
    File(File, tempfile::TempPath),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Memory(held) => {
                held.extend_from_slice(bytes);
                Ok(())
            }
            Sink::File(file, _) => file.write_all(bytes),
        }
    }
}

/// A patch that was fetched, and its file, which goes when this does.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub patch: Patch,
    pub file: Option<tempfile::TempPath>,
}

impl Fetch<'_> {
    /// Fetches data and opens it as a patch; `None` if the object is absent. It has the size and SHA-256
    /// that are named (F29), or is asked for once more as a whole.
    pub async fn patch(&self, data: &Data) -> Result<Option<Fetched>> {
        match self.once(data).await {
            Err(error @ Error::Data { .. }) => match self.once(data).await {
                Err(Error::Data { .. }) => Err(error),
                other => other,
            },
            other => other,
        }
    }

    async fn once(&self, data: &Data) -> Result<Option<Fetched>> {
        let mut sink = self.sink(data)?;
        let mut hasher = Sha256::new();
        let length = range_bytes(data.bytes);
        // A name is used once, and the digest decides: no range waits for what another tells of the object.
        let starts = (0..data.bytes).step_by(usize::try_from(length).unwrap_or(usize::MAX));
        let ranges = starts.map(|start| self.range(data, start..data.bytes.min(start + length)));
        let mut ranges = stream::iter(ranges).buffered(AT_ONCE);
        while let Some(range) = ranges.next().await {
            match range {
                Ok(Some(bytes)) => self.take(&mut sink, &mut hasher, &bytes)?,
                Ok(None) => return Ok(None),
                Err(Error::Store { source: Answer::NotSupported { .. }, .. }) => {
                    drop(ranges);
                    return self.whole(data).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.open(data, sink, hasher).map(Some)
    }

    /// From a server that has no ranges.
    async fn whole(&self, data: &Data) -> Result<Option<Fetched>> {
        let mut sink = self.sink(data)?;
        let mut hasher = Sha256::new();
        let Some(mut body) = self.store.stream(&data.object).await? else { return Ok(None) };
        let mut arrived = 0;
        while let Some(bytes) = body.next().await? {
            arrived += bytes.len() as u64;
            if arrived > data.bytes {
                break;
            }
            self.take(&mut sink, &mut hasher, &bytes)?;
        }
        if arrived != data.bytes {
            let found = if arrived > data.bytes { "more" } else { "fewer" };
            let what = format!("it has {found} than the {} bytes that were published", data.bytes);
            return Err(Error::data(&data.object, what));
        }
        self.open(data, sink, hasher).map(Some)
    }

    fn sink(&self, data: &Data) -> Result<Sink> {
        match self.spool {
            Some(dir) if data.bytes > IN_MEMORY_BYTES => {
                let failed = |error| Error::io("making a file in", dir, error);
                let file = tempfile::Builder::new().prefix(crate::files::FETCH).tempfile_in(dir);
                let (file, path) = file.map_err(failed)?.into_parts();
                Ok(Sink::File(file, path))
            }
            _ => Ok(Sink::Memory(Vec::new())),
        }
    }

    fn take(&self, sink: &mut Sink, hasher: &mut Sha256, bytes: &Bytes) -> Result<()> {
        (self.arrived)(bytes.len() as u64);
        in_place(|| {
            hasher.update(bytes);
            sink.write(bytes)
        })
        .map_err(|error| {
            let path = match sink {
                Sink::File(_, path) => path.to_path_buf(),
                Sink::Memory(_) => PathBuf::new(),
            };
            Error::io("writing what was fetched to", &path, error)
        })
    }

    fn open(&self, data: &Data, sink: Sink, hasher: Sha256) -> Result<Fetched> {
        let found = Digest(hasher.finalize().into());
        if found != data.sha256 {
            let what = format!("it has SHA-256 {found}, but {} was published", data.sha256);
            return Err(Error::data(&data.object, what));
        }
        let limits = self.limits.clone();
        let opened = in_place(|| match sink {
            Sink::Memory(bytes) => {
                Patch::from_bytes(bytes, limits).map(|patch| Fetched { patch, file: None })
            }
            Sink::File(file, path) => {
                drop(file);
                Patch::open(&path, limits).map(|patch| Fetched { patch, file: Some(path) })
            }
        });
        // These are the bytes that were published: to fetch them again does not help.
        opened.map_err(|error| match error {
            error @ (pulse::Error::Io { .. } | pulse::Error::Limit { .. }) => Error::Pulse(error),
            error => Error::data(&data.object, format!("it is no patch that can be used: {error}")),
        })
    }

    /// A range, tried a few times.
    async fn range(&self, data: &Data, range: Range<u64>) -> Result<Option<Bytes>> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut tries = 0;
        loop {
            let error = match self.store.range(&data.object, range.clone()).await {
                Ok(None) => return Ok(None),
                Ok(Some(got)) if got.object_bytes != data.bytes => {
                    return Err(other_size(data, got.object_bytes));
                }
                Ok(Some(got)) if got.bytes.len() as u64 == range.end - range.start => {
                    return Ok(Some(got.bytes));
                }
                Ok(Some(got)) => {
                    let what = format!("{} bytes of range {range:?} arrived", got.bytes.len());
                    Error::data(&data.object, what)
                }
                Err(error) if !error.is_passing() => return Err(error),
                // To ask for what is behind the end is an error of its own, on every store.
                Err(error) => match self.store.head(&data.object).await {
                    Ok(Some(head)) if head.bytes != data.bytes => {
                        return Err(other_size(data, head.bytes));
                    }
                    _ => error,
                },
            };
            tries += 1;
            if tries == TRIES {
                return Err(error);
            }
            tokio::time::sleep(backoff.pause(self.world)).await;
        }
    }
}

fn other_size(data: &Data, found: u64) -> Error {
    Error::data(&data.object, format!("it has {found} bytes, but {} were published", data.bytes))
}

/// Bytes of a range of an object: small ones come over several connections, too, each of which is slow at
/// first.
fn range_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(AT_ONCE as u64).clamp(RANGE_MIN, RANGE_MAX)
}
