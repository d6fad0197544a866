//! What keepers of a feed share: its log, and its by-products and hints (FEED.md §8).

use std::path::PathBuf;

use pulse::tensors::Control;

use crate::document::{DOCUMENT_BYTES, HINTS_BYTES};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::fetch::Fetch;
use crate::hint::{ByProduct, Hints};
use crate::id::Run;
use crate::key::PublicKey;
use crate::log::Log;
use crate::name;
use crate::record::Anchor;
use crate::store::Put;
use crate::work::in_place;
use crate::world::nonce;

/// Puts the documents of by-products, whose data is there, and adds them to the hints.
pub(crate) async fn announce(feed: &Feed, run: Run, made: &[ByProduct]) -> Result<()> {
    let store = &feed.store;
    // A store that does not answer now must not cost what was known.
    let known = store.document(name::HINTS, HINTS_BYTES).await?;
    let mut hints = known.and_then(|bytes| Hints::parse(&bytes, run).ok()).unwrap_or_default();
    for made in made {
        let name = made.name(nonce(feed.world.as_ref()));
        if let Put::Unclear(error) = store.create(&name, made.seal(run)).await {
            return Err(error);
        }
        let names = if made.from.is_some() { &mut hints.skips } else { &mut hints.anchors };
        names.push(name);
    }
    store.overwrite(name::HINTS, hints.seal(run)).await
}

/// What the hints say; nothing, if there are none that can be read.
pub(crate) async fn hints(feed: &Feed, run: Run) -> Hints {
    let known = feed.store.document(name::HINTS, HINTS_BYTES).await.ok().flatten();
    known.and_then(|bytes| Hints::parse(&bytes, run).ok()).unwrap_or_default()
}

/// The newest anchor that somebody made since the one that records name, read whole: what the next record may name. An
/// anchor that a publisher made right before it was stopped is not made again. Who announced it is not known, and a
/// record vouches for what it names (F9), so nothing less will do.
pub(crate) async fn announced_anchor(feed: &Feed, log: &mut Log) -> Option<Anchor> {
    let (run, head) = (log.manifest().run, log.head().record.clone());
    let known = hints(feed, run).await;
    let newer = |name: &&String| {
        name::version_of(name).is_some_and(|it| head.anchor.version < it && it <= head.version)
    };
    let newest = known.anchors.iter().filter(newer).max_by_key(|name| name::version_of(name))?;
    let bytes = feed.store.document(newest, DOCUMENT_BYTES).await.ok()??;
    let made = ByProduct::parse(newest, &bytes, run).ok()?;
    let record = log.record(made.to).await.ok()?;
    if record.record.target != made.target {
        return None;
    }
    let anchor = Anchor { version: made.to, target: made.target, data: made.data };
    read_anchor(feed, &anchor, Some(&std::env::temp_dir())).await.ok()?;
    Some(anchor)
}

/// Reads an anchor whole and makes the digest of its version of it; what is too large for memory goes to the `spool`.
pub(crate) async fn read_anchor(
    feed: &Feed,
    anchor: &Anchor,
    spool: Option<&PathBuf>,
) -> Result<()> {
    let arrived = |_| {};
    let fetch = Fetch {
        store: &feed.store,
        world: feed.world.as_ref(),
        spool,
        limits: pulse::Limits::default(),
        beside: None,
        arrived: &arrived,
    };
    let wrong = |what: &str| Error::data(&anchor.data.object, what);
    let read = fetch.patch(&anchor.data).await?.ok_or_else(|| wrong("it is not there"))?;
    let footer = read.patch.footer();
    if footer.target != anchor.target || footer.base.is_some() {
        return Err(wrong("it is no anchor of its version"));
    }
    // What it says of itself is not what it makes.
    let verified = in_place(|| read.patch.verify(Control::default()));
    verified.map(|_| ()).map_err(|error| wrong(&error.to_string()))
}

/// The log of a feed that exists and has a version.
pub(crate) async fn open_log(feed: &Feed, trust: Option<PublicKey>) -> Result<Log> {
    let manifest = feed.existing().await?;
    let log = Log::open(&feed.store, manifest, trust, None).await?;
    log.ok_or_else(|| Error::NoFeed { store: feed.address().into() })
}
