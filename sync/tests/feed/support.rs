//! A small model, feeds in memory, and hands to change what is in them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::Digest;
use pulse::tensors::{Control, PrepareOptions, Shadow, TensorMut, TensorRef, Weights, WeightsMut};
use pulse_sync::{
    Feed, Follower, FollowerOptions, Mark, Published, Publisher, PublisherOptions, Result, Update,
    World,
};

use crate::scripted::Scripted;

/// A clock that is set, and dice that never show the same twice.
#[derive(Debug)]
pub struct TestWorld {
    pub now: AtomicU64,
    dice: AtomicU64,
}

impl TestWorld {
    /// From now on, names are other ones.
    pub fn random_run(&self) {
        self.dice.fetch_add(999, SeqCst);
    }
}

impl World for TestWorld {
    fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }

    fn random(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let next = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
            let mixed = (next ^ next >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            piece.copy_from_slice(&mixed.to_le_bytes()[..piece.len()]);
        }
    }
}

/// The time at which the tests begin.
pub const START: u64 = 1_764_000_000_000;

/// A feed in memory.
pub struct Bench {
    pub store: Scripted,
    pub world: Arc<TestWorld>,
    pub feed: Feed,
}

impl Bench {
    pub fn new() -> Self {
        let store = Scripted::default();
        let world =
            Arc::new(TestWorld { now: AtomicU64::new(START), dice: AtomicU64::new(12_345) });
        let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
        let feed = Feed::new(shared, "run", "memory").with_world(world.clone());
        Bench { store, world, feed }
    }

    /// Names and bytes of all objects.
    pub async fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        use futures::TryStreamExt;
        let all: Vec<_> = self.store.inner.list(None).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for meta in all {
            let bytes = self.store.inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
            let name = meta.location.as_ref().strip_prefix("run/").unwrap().to_string();
            objects.insert(name, bytes.to_vec());
        }
        objects
    }

    pub async fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        let path = Path::from(format!("run/{name}"));
        self.store.inner.put(&path, bytes.into().into()).await.unwrap();
    }

    pub async fn delete(&self, name: &str) {
        self.store.inner.delete(&Path::from(format!("run/{name}"))).await.unwrap();
    }

    /// Changes the text of a document and seals it again, without a signature.
    pub async fn edit(&self, name: &str, from: &str, to: &str) {
        let bytes = self.objects().await.remove(name).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let payload = text.lines().next().unwrap();
        assert!(payload.contains(from), "{payload}");
        self.put(name, sealed(&payload.replacen(from, to, 1))).await;
    }

    pub async fn publisher(&self) -> Trainer {
        self.publisher_with(PublisherOptions::default()).await
    }

    pub async fn publisher_with(&self, options: PublisherOptions) -> Trainer {
        Trainer::start(&self.feed, options).await.unwrap()
    }

    pub async fn follower(&self) -> Reader {
        Reader::open(&self.feed, None, FollowerOptions::default()).await.unwrap()
    }
}

/// A document without signatures.
pub fn sealed(payload: &str) -> String {
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(payload));
    format!("{payload}\n{{\"sha256\":\"{digest}\",\"signatures\":[]}}\n")
}

pub fn record(version: u64) -> String {
    format!("log/{version:020}.json")
}

/// The model: as many bytes as there are in a leaf and some more, so that there are blocks and leaves.
pub fn model(version: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..70_000u32).flat_map(|i| (0x3c00 + (i % 1009) as u16).to_le_bytes()).collect();
    for change in 0..version {
        let at = (change * 7_919 % 140_000) as usize;
        bytes[at] ^= 1 + (change % 5) as u8;
    }
    bytes
}

pub fn weights(bytes: &[u8]) -> Weights<'_> {
    let spec = TensorSpec::new(Dtype::Bf16, &[bytes.len() as u64 / 2]).unwrap();
    [("w", TensorRef::new(spec, bytes).unwrap())].into_iter().collect()
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Shadow::new(&weights(bytes), Control::threads(1)).unwrap().digests().checkpoint
}

/// A publisher and its shadow.
pub struct Trainer {
    pub publisher: Publisher,
    pub shadow: Shadow,
}

impl Trainer {
    pub async fn start(feed: &Feed, options: PublisherOptions) -> Result<Self> {
        let shadow = Shadow::new(&weights(&model(0)), Control::threads(1))?;
        Ok(Trainer { publisher: Publisher::start(feed, options.with_threads(1)).await?, shadow })
    }

    /// Publishes the model of this step.
    pub async fn publish(&mut self, step: u64) -> Result<Published> {
        self.publisher.publish(&mut self.shadow, &weights(&model(step)), Some(step)).await
    }

    pub async fn publish_all(&mut self, steps: impl IntoIterator<Item = u64>) {
        for step in steps {
            self.publish(step).await.unwrap();
        }
    }
}

/// A follower and the weights that it serves.
pub struct Reader {
    pub follower: Follower,
    pub held: Option<Vec<u8>>,
}

impl Reader {
    pub async fn open(feed: &Feed, mark: Option<Mark>, options: FollowerOptions) -> Result<Self> {
        Ok(Reader { follower: Follower::open(feed, mark, options).await?, held: None })
    }

    pub fn digest(&self) -> Option<Digest> {
        self.held.as_deref().map(digest_of)
    }

    /// Looks once, and serves what is found; says which version that is.
    pub async fn look(&mut self) -> Result<Option<u64>> {
        let Some(update) = self.follower.look(self.digest()).await? else { return Ok(None) };
        let version = update.record.version;
        self.apply(&update)?;
        Ok(Some(version))
    }

    pub fn apply(&mut self, update: &Update) -> Result<()> {
        let control = Control::threads(1);
        let made = (|| {
            let chain = update.chain()?;
            match &mut self.held {
                Some(held) if !update.is_whole() => {
                    let spec = TensorSpec::new(Dtype::Bf16, &[held.len() as u64 / 2])?;
                    let mut held: WeightsMut =
                        [("w", TensorMut::new(spec, held)?)].into_iter().collect();
                    let prepared = chain.prepare(&held, PrepareOptions::default(), control)?;
                    Ok(prepared.commit(&mut held, control)?.target)
                }
                held => {
                    let mut made = chain.to_memory(control)?;
                    *held = made.remove("w").map(|(_, bytes)| bytes);
                    Ok(update.record.target)
                }
            }
        })();
        match made {
            Ok(made) => self.follower.served(update, made),
            Err(error) => {
                self.follower.failed(update);
                Err(error)
            }
        }
    }
}
