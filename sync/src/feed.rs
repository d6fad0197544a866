//! A feed at an address.

use std::sync::Arc;

use object_store::path::Path;
use object_store::ObjectStore;

use crate::address;
use crate::error::{Error, Result};
use crate::id::Run;
use crate::key::SecretKey;
use crate::log;
use crate::manifest::Manifest;
use crate::name;
use crate::store::{Put, Store};
use crate::world::{id, nonce, System, World};

/// Where a feed is, or shall be.
///
/// ```
/// # fn main() -> pulse_sync::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().to_str().unwrap();
/// let feed = pulse_sync::Feed::open(path)?; // or s3://bucket/run-7, gs://…, az://…, https://…
/// let runtime = tokio::runtime::Runtime::new().unwrap();
/// assert_eq!(runtime.block_on(feed.manifest())?, None, "nobody published to it");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Feed {
    pub(crate) store: Store,
    pub(crate) world: Arc<dyn World>,
}

impl Feed {
    /// A feed at an address: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
    /// `https://host/prefix` (to read), `file:///path`, or a path. Credentials and endpoints come from
    /// the environment, by the names that the providers' own tools use.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Store`], [`Error::Io`].
    pub fn open(address: &str) -> Result<Self> {
        Ok(Feed { store: address::open(address)?, world: Arc::new(System) })
    }

    /// A feed below a prefix of any store; `address` is what messages call it.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, address: impl Into<String>) -> Self {
        let store = Store::new(store, Path::from(prefix), address.into());
        Feed { store, world: Arc::new(System) }
    }

    /// The same with another clock and other dice.
    #[must_use]
    pub fn with_world(mut self, world: Arc<dyn World>) -> Self {
        self.world = world;
        self
    }

    /// The address in messages.
    #[must_use]
    pub fn address(&self) -> &str {
        self.store.address()
    }

    /// What the feed says that it is; `None` if there is none yet.
    ///
    /// # Errors
    /// [`Error::Document`], [`Error::Store`].
    pub async fn manifest(&self) -> Result<Option<Manifest>> {
        log::read_manifest(&self.store).await
    }

    pub(crate) async fn existing(&self) -> Result<Manifest> {
        let absent = || Error::NoFeed { store: self.address().into() };
        self.manifest().await?.ok_or_else(absent)
    }

    /// Creates the feed, if nobody was faster.
    pub(crate) async fn create(&self, key: Option<&SecretKey>) -> Result<Manifest> {
        match self.probe().await {
            // A keeper with a wrong clock may have deleted what was asked for twice. It does not do so again.
            Err(Error::Conditions { .. }) => self.probe().await?,
            other => other?,
        }
        let world = self.world.as_ref();
        let (run, time) = (Run(id(world)), world.now());
        let manifest = Manifest { run, time, key: key.map(SecretKey::public) };
        match self.store.create(name::FEED, manifest.seal(key)).await {
            Put::Unclear(error) => match self.manifest().await {
                Ok(Some(found)) => Ok(found),
                _ => Err(error),
            },
            Put::Created | Put::Exists => self.existing().await,
        }
    }

    /// Refuses stores that replace what they were asked to create (F23).
    async fn probe(&self) -> Result<()> {
        let name = name::data(0, nonce(self.world.as_ref()));
        let first = self.store.create(&name, b"first\n".to_vec()).await;
        if let Put::Unclear(error) = first {
            return Err(error);
        }
        let second = self.store.create(&name, b"second\n".to_vec()).await;
        let kept = self.store.document(&name, 64).await;
        // Left behind, it is as good as data that no record names.
        let _ = self.store.delete(&name).await;
        match (first, second, kept) {
            (_, Put::Unclear(error), _) | (.., Err(error)) => Err(error),
            (_, Put::Exists, Ok(Some(bytes))) if *bytes == *b"first\n" => Ok(()),
            // Only of what is known to have been there first.
            (Put::Created, Put::Created, _) => {
                Err(Error::Conditions { store: self.address().into() })
            }
            (Put::Created, _, Ok(Some(bytes))) if *bytes == *b"second\n" => {
                Err(Error::Conditions { store: self.address().into() })
            }
            _ => Err(Error::data(&name, "the store says that it exists, but not what it is")),
        }
    }
}
