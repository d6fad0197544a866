//! A copy of a feed at another place, which is a feed itself (F37).

use std::collections::HashSet;
use std::time::Duration;

use pulse::hash::Digest;
use sha2::{Digest as _, Sha256};

use crate::document::{Document, DOCUMENT_BYTES, HINTS_BYTES};
use crate::error::{DocumentFault, Error, Result};
use crate::feed::Feed;
use crate::hint::{parse_floor, seal_floor, ByProduct};
use crate::keep::{hints, open_log};
use crate::key::PublicKey;
use crate::log;
use crate::name;
use crate::record::Data;
use crate::retry::Backoff;
use crate::store::Put;
use crate::upload::Upload;
use crate::work::in_place;

/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 8 << 20;
/// How often data is asked for that is absent or damaged.
const TRIES: u32 = 4;
/// Records that are looked at together.
const SECTION: u64 = 512;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mirrored {
    /// Records.
    pub records: u64,
    /// Objects with data.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
    /// Data that the source has no more, although it is above its floor.
    pub missing: u64,
}

/// Copies what `to` does not have yet of `from`, all verified, in the order that keeps the copy whole at
/// every moment. Of what is below the floor of the source, only the records are copied.
///
/// # Errors
/// [`Error::Document`] if `to` is the feed of another run, [`Error::Forked`] if it has another record than the
/// source; what a [`Follower`](crate::Follower) refuses of the source; [`Error::Store`].
pub async fn mirror(from: &Feed, to: &Feed, trust: Option<PublicKey>) -> Result<Mirrored> {
    let mut log = open_log(from, trust).await?;
    let run = log.manifest().run;
    if let Ok(Some(theirs)) = to.manifest().await {
        if theirs.run != run {
            let fault = DocumentFault::Run { expected: run, found: theirs.run };
            return Err(Error::document(name::FEED, fault));
        }
    }
    copy_document(from, to, name::FEED, None).await?;
    // What was verified at the copy, and is named by many records perhaps.
    let mut there = HashSet::new();
    let floor = from.store.document(name::FLOOR, DOCUMENT_BYTES).await?;
    let floor = floor.and_then(|bytes| parse_floor(&bytes, run).ok()).unwrap_or(0);
    let head = log.head().record.version;
    // A floor is the version of an anchor that records name; from a higher one on, nothing could be joined.
    let floor = floor.min(log.head().record.anchor.version);
    if floor > 0 {
        to.store.overwrite(name::FLOOR, seal_floor(run, floor, from.world.now())).await?;
    }
    let manifest = to.existing().await?;
    let copied = log::Log::open(&to.store, manifest, trust, None).await?;
    let start = match copied {
        Some(copied) => {
            let theirs = copied.head();
            // Its record came after it.
            there.insert(theirs.record.anchor.data.clone());
            let version = theirs.record.version;
            if version > head {
                return Err(Error::RolledBack { mark: version, head });
            }
            let ours = log.record(version).await?;
            if ours.digest != theirs.digest {
                let (expected, found) = (ours.digest, theirs.digest);
                return Err(Error::Forked { version, expected, found });
            }
            version + 1
        }
        None => 0,
    };
    let mut done = Mirrored::default();
    let mut at = start;
    while at <= head {
        let section = log.section(at, head.min(at + SECTION - 1)).await?;
        for sealed in &section {
            let record = &sealed.record;
            if record.version >= floor {
                let patch = record.patch.as_ref();
                let newly = Some(&record.anchor).filter(|anchor| anchor.version >= floor);
                for data in patch.into_iter().chain(newly.map(|anchor| &anchor.data)) {
                    if there.insert(data.clone()) {
                        copy_data(from, to, data, &mut done).await?;
                    }
                }
            }
            copy_document(from, to, &name::record(record.version), Some(sealed.digest)).await?;
            done.records += 1;
        }
        at += section.len() as u64;
    }
    copy_by_products(from, to, floor, head, &mut done).await?;
    for (name, max) in [(name::LATEST, DOCUMENT_BYTES), (name::HINTS, HINTS_BYTES)] {
        if let Some(bytes) = from.store.document(name, max).await? {
            to.store.overwrite(name, bytes.to_vec()).await?;
        }
    }
    Ok(done)
}

async fn copy_by_products(
    from: &Feed,
    to: &Feed,
    floor: u64,
    head: u64,
    done: &mut Mirrored,
) -> Result<()> {
    let run = to.existing().await?.run;
    let hints = hints(from, run).await;
    for name in hints.anchors.iter().chain(&hints.skips) {
        let near = name::version_of(name).is_some_and(|version| (floor..=head).contains(&version));
        if !near || to.store.head(name).await?.is_some() {
            continue;
        }
        let Some(bytes) = from.store.document(name, DOCUMENT_BYTES).await? else { continue };
        let Ok(made) = ByProduct::parse(name, &bytes, run) else { continue };
        match copy_data(from, to, &made.data, done).await {
            Ok(()) => copy_document(from, to, name, None).await?,
            // By-products lie, and the copy is as good without them.
            Err(Error::Data { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Copies a document that is written once, of this digest if it was verified; what is there already must be
/// the same.
async fn copy_document(from: &Feed, to: &Feed, name: &str, expected: Option<Digest>) -> Result<()> {
    let absent = || Error::data(name, "it is not there any more");
    let bytes = from.store.document(name, DOCUMENT_BYTES).await?.ok_or_else(absent)?;
    // What is put is there for ever: nothing that was cut off on its way here.
    let found = Document::parse(name, &bytes)?;
    if expected.is_some_and(|expected| expected != found.digest) {
        return Err(Error::data(name, "it is another one than that which was verified"));
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    for _ in 0..8 {
        let put = to.store.create(name, bytes.to_vec()).await;
        // Whatever was answered, what is there decides.
        match to.store.document(name, DOCUMENT_BYTES).await {
            Ok(Some(found)) if found == bytes => return Ok(()),
            Ok(Some(found)) if Document::parse(name, &found).is_ok() => {
                return Err(Error::data(name, "another one is there already"));
            }
            _ => {}
        }
        if let Put::Unclear(error) = put {
            if !error.is_passing() {
                return Err(error);
            }
        }
        tokio::time::sleep(backoff.pause(to.world.as_ref())).await;
    }
    Err(Error::data(name, "it could not be written"))
}

/// Copies data. What is absent or damaged each time it is asked for is missing to the source's own readers too;
/// the copy goes on without it.
async fn copy_data(from: &Feed, to: &Feed, data: &Data, done: &mut Mirrored) -> Result<()> {
    if let Some(found) = to.store.head(&data.object).await? {
        // Names are used once: what is there is not replaced, whoever says so (F6).
        return if found.bytes == data.bytes && is_there(to, data).await? {
            Ok(())
        } else {
            Err(Error::data(&data.object, "other bytes of that name are there already"))
        };
    }
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    for _ in 0..TRIES {
        if try_data(from, to, data).await? {
            done.objects += 1;
            done.bytes += data.bytes;
            return Ok(());
        }
        tokio::time::sleep(backoff.pause(to.world.as_ref())).await;
    }
    done.missing += 1;
    Ok(())
}

/// Whether the copy has these bytes, which one that was interrupted left there.
async fn is_there(to: &Feed, data: &Data) -> Result<bool> {
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < data.bytes {
        let range = at..data.bytes.min(at + PIECE_BYTES);
        let Some(piece) = to.store.range(&data.object, range.clone()).await? else {
            return Ok(false);
        };
        if piece.bytes.len() as u64 != range.end - range.start {
            let what = format!("{} bytes of range {range:?} arrived", piece.bytes.len());
            return Err(Error::data(&data.object, what));
        }
        in_place(|| hasher.update(&piece.bytes));
        at = range.end;
    }
    Ok(Digest(hasher.finalize().into()) == data.sha256)
}

/// Copies data once, and verifies it on the way; what does not verify is not put. Whether it was there, and right.
async fn try_data(from: &Feed, to: &Feed, data: &Data) -> Result<bool> {
    let mut upload = Upload::new(&to.store, data.object.clone(), data.bytes);
    let mut at = 0;
    while at < data.bytes {
        let range = at..data.bytes.min(at + PIECE_BYTES);
        let failed = match from.store.range(&data.object, range.clone()).await {
            Ok(Some(piece)) if piece.bytes.len() as u64 == range.end - range.start => {
                upload.push(&piece.bytes).await?;
                at = range.end;
                continue;
            }
            Ok(Some(piece)) if piece.object_bytes == data.bytes => {
                let what = format!("{} bytes of range {range:?} arrived", piece.bytes.len());
                Err(Error::data(&data.object, what))
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        upload.abort().await;
        return failed;
    }
    Ok(upload.finish_if(data.sha256).await?.is_some())
}
