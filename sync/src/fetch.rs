//! Data on its way down: in parallel ranges, each asked for again if it was cut, hashed in their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::iter;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use object_store::Error as Answer;
use pulse::hash::Digest;
use pulse::tensors::{Ahead, Control, PrepareOptions, TensorSource};
use pulse::{Limits, Patch};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::record::Data;
use crate::retry::Backoff;
use crate::store::Store;
use crate::work::in_place;
use crate::world::World;

/// Data up to this size is asked for at once.
const WHOLE_BYTES: u64 = 256 << 10;
/// Bytes of a range, at least and at most.
const RANGE_MIN: u64 = 64 << 10;
const RANGE_MAX: u64 = 1 << 20;
/// Ranges that data is cut into, if that makes none too small or too large.
const RANGES: u64 = 96;
/// Ranges that are asked for at once.
const AT_ONCE: usize = 32;
/// Ranges from the first that is missing to the last that is asked for: memory is as many of them.
const AHEAD: usize = 64;
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
    /// Weights that a patch is prepared for while it arrives.
    pub beside: Option<Beside<'a>>,
    /// Told the bytes that arrived since the last call.
    pub arrived: &'a (dyn Fn(u64) + Send + Sync),
}

/// Weights that the next version is prepared for.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub weights: &'a dyn TensorSource,
    pub options: PrepareOptions,
    pub control: Control<'a>,
}

/// Where the bytes go.
enum Sink {
    Memory(Vec<u8>),
    File(File, tempfile::TempPath),
}

/// Data that is arriving.
struct Arriving<'a> {
    sink: Sink,
    hasher: Sha256,
    ahead: Option<(Ahead, Beside<'a>)>,
}

impl Arriving<'_> {
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        if let Some((ahead, Beside { weights, control, .. })) = &mut self.ahead {
            ahead.push(bytes, *weights, *control);
        }
        match &mut self.sink {
            Sink::Memory(held) => held.extend_from_slice(bytes),
            Sink::File(file, path) => file
                .write_all(bytes)
                .map_err(|error| Error::io("writing what was fetched to", path, error))?,
        }
        Ok(())
    }
}

/// A patch that was fetched, and its file, which goes when this does.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub patch: Patch,
    pub file: Option<tempfile::TempPath>,
    /// What was made of it meanwhile.
    pub ahead: Option<Ahead>,
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
        let mut arriving = self.begin(data)?;
        // A name is used once, and the digest decides: no range waits for what another tells of the object.
        let ranges = ranges(data.bytes, self.beside.is_some());
        let mut ranges = ranges.enumerate().peekable();
        let mut asked = FuturesUnordered::new();
        let (mut there, mut next) = (BTreeMap::new(), 0);
        loop {
            while let Some((number, range)) =
                ranges.next_if(|(number, _)| asked.len() < AT_ONCE && number - next < AHEAD)
            {
                asked.push(self.range(data, range).map(move |range| (number, range)));
            }
            // What came is taken in its order. Others may have come meanwhile: they are not waited for then.
            let (number, range) = match there.remove(&next) {
                None => match asked.next().await {
                    Some(came) => came,
                    None => break,
                },
                Some(bytes) => {
                    self.take(&mut arriving, &bytes)?;
                    next += 1;
                    // There may be much to take: whoever wants to end this is heard in between.
                    tokio::task::yield_now().await;
                    match asked.next().now_or_never().flatten() {
                        Some(came) => came,
                        None => continue,
                    }
                }
            };
            match range {
                Ok(Some(bytes)) => drop(there.insert(number, bytes)),
                Ok(None) => return Ok(None),
                Err(Error::Store { source: Answer::NotSupported { .. }, .. }) => {
                    drop(asked);
                    return self.whole(data).await;
                }
                Err(error) => {
                    // Of an object that is removed meanwhile, some ranges fail and others are absent.
                    while let Some(Some((_, other))) = asked.next().now_or_never() {
                        if matches!(other, Ok(None)) {
                            return Ok(None);
                        }
                    }
                    return Err(error);
                }
            }
        }
        self.open(data, arriving).map(Some)
    }

    /// From a server that has no ranges.
    async fn whole(&self, data: &Data) -> Result<Option<Fetched>> {
        let mut arriving = self.begin(data)?;
        let Some(mut body) = self.store.stream(&data.object).await? else { return Ok(None) };
        let mut arrived = 0;
        while let Some(bytes) = body.next().await? {
            arrived += bytes.len() as u64;
            if arrived > data.bytes {
                break;
            }
            self.take(&mut arriving, &bytes)?;
        }
        if arrived != data.bytes {
            let found = if arrived > data.bytes { "more" } else { "fewer" };
            let what = format!("it has {found} than the {} bytes that were published", data.bytes);
            return Err(Error::data(&data.object, what));
        }
        self.open(data, arriving).map(Some)
    }

    fn begin(&self, data: &Data) -> Result<Arriving<'_>> {
        let sink = match self.spool {
            Some(dir) if data.bytes > IN_MEMORY_BYTES => {
                let failed = |error| Error::io("making a file in", dir, error);
                let file = tempfile::Builder::new().prefix(crate::files::FETCH).tempfile_in(dir);
                let (file, path) = file.map_err(failed)?.into_parts();
                Sink::File(file, path)
            }
            _ => Sink::Memory(Vec::new()),
        };
        let ahead =
            self.beside.map(|beside| (Ahead::new(self.limits.clone(), beside.options), beside));
        Ok(Arriving { sink, hasher: Sha256::new(), ahead })
    }

    fn take(&self, arriving: &mut Arriving<'_>, bytes: &Bytes) -> Result<()> {
        (self.arrived)(bytes.len() as u64);
        in_place(|| arriving.take(bytes))
    }

    fn open(&self, data: &Data, arriving: Arriving<'_>) -> Result<Fetched> {
        let Arriving { sink, hasher, ahead } = arriving;
        let found = Digest(hasher.finalize().into());
        if found != data.sha256 {
            let what = format!("it has SHA-256 {found}, but {} was published", data.sha256);
            return Err(Error::data(&data.object, what));
        }
        let limits = self.limits.clone();
        let opened = in_place(|| match sink {
            Sink::Memory(bytes) => Patch::from_bytes(bytes, limits).map(|patch| (patch, None)),
            Sink::File(file, path) => {
                drop(file);
                Patch::open(&path, limits).map(|patch| (patch, Some(path)))
            }
        });
        // These are the bytes that were published: to fetch them again does not help.
        let (patch, file) = opened.map_err(|error| match error {
            error @ (pulse::Error::Io { .. } | pulse::Error::Limit { .. }) => Error::Pulse(error),
            error => Error::data(&data.object, format!("it is no patch that can be used: {error}")),
        })?;
        Ok(Fetched { patch, file, ahead: ahead.map(|(ahead, _)| ahead) })
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

/// The ranges that an object is asked for in: several for each connection, each of which is slow at first.
///
/// Where what arrives is worked on, the first of them grow, and so do not all end together: some bytes are
/// there long before the others, and what is asked for next is under way while those arrive.
fn ranges(bytes: u64, grow: bool) -> impl Iterator<Item = Range<u64>> {
    let whole = match bytes {
        0..=WHOLE_BYTES => WHOLE_BYTES,
        _ => bytes.div_ceil(RANGES).clamp(RANGE_MIN, RANGE_MAX),
    };
    let growing = if grow && bytes > AT_ONCE as u64 * whole { AT_ONCE as u64 } else { 0 };
    let lengths = (1..growing).map(move |part| whole * part / AT_ONCE as u64);
    let mut lengths = lengths.chain(iter::repeat(whole));
    let mut start = 0;
    iter::from_fn(move || {
        let range = start..bytes.min(start + lengths.next()?);
        start = range.end;
        (!range.is_empty()).then_some(range)
    })
}

impl Data {
    /// How many requests fetch it, if none fails: for what a store charges. A follower that works on what
    /// arrives ([`next_beside`](crate::Follower::next_beside)) needs up to 16 more.
    #[must_use]
    pub fn requests(&self) -> u64 {
        ranges(self.bytes, false).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_byte_once_and_are_never_too_large() {
        for bytes in [0, 1, WHOLE_BYTES, WHOLE_BYTES + 1, 6_130_000, RANGES * RANGE_MAX, 14 << 30] {
            for grow in [false, true] {
                let (mut end, mut count) = (0, 0);
                for range in ranges(bytes, grow) {
                    assert_eq!(range.start, end);
                    assert!(!range.is_empty() && range.end - range.start <= RANGE_MAX);
                    (end, count) = (range.end, count + 1);
                }
                assert_eq!(end, bytes);
                assert!(bytes > WHOLE_BYTES || count <= 1, "{count} ranges of {bytes} bytes");
            }
        }
    }
}
