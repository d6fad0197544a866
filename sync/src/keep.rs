//! Keeping a feed: by-products that shorten ways, and deleting what nobody needs (FEED.md §8).

use crate::document::HINTS_BYTES;
use crate::error::Result;
use crate::feed::Feed;
use crate::hint::{ByProduct, Hints};
use crate::id::Run;
use crate::name;
use crate::store::Put;
use crate::world::nonce;

/// Puts the documents of by-products, whose data is there, and adds them to the hints.
pub(crate) async fn announce(feed: &Feed, run: Run, made: &[ByProduct]) -> Result<()> {
    let store = &feed.store;
    // Hints of another run, or none, count for nothing.
    let known = store.document(name::HINTS, HINTS_BYTES).await.ok().flatten();
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
