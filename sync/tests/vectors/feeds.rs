//! Good feeds, made by the publisher of this crate with a clock and dice that are always the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use pulse::dtype::Dtype;
use pulse::tensors::{Control, Shadow};
use pulse_sync::{compact, CompactOptions, Feed, Publisher, PublisherOptions, SecretKey, World};
use sha2::{Digest as _, Sha256};
use testkit::checkpoint::{Checkpoint, Tensor};
use testkit::held::{refs, Tensors};

/// The objects of a feed by their names.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// When all of them begin: milliseconds since 1970.
pub const BEGUN: u64 = 1_790_000_000_000;

/// Dice that begin with a number, and a clock that goes on by a second whenever it is looked at.
#[derive(Debug)]
struct Fixed {
    seed: u8,
    thrown: AtomicU64,
    looks: AtomicU64,
}

impl World for Fixed {
    fn now(&self) -> u64 {
        BEGUN + 1_000 * self.looks.fetch_add(1, Ordering::Relaxed)
    }

    fn random(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(32) {
            let throw = self.thrown.fetch_add(1, Ordering::Relaxed);
            let dice = Sha256::digest([&[self.seed][..], &throw.to_le_bytes()].concat());
            piece.copy_from_slice(&dice[..piece.len()]);
        }
    }
}

/// Dice of one number: those of the keys, which tests have to know.
#[derive(Debug)]
struct Same(u8);

impl World for Same {
    fn now(&self) -> u64 {
        BEGUN
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

/// A key that everybody knows.
#[derive(Debug, Clone, Copy)]
pub struct Key(pub u8);

impl Key {
    fn secret(self) -> SecretKey {
        SecretKey::generate(&Same(self.0))
    }

    pub fn signing(self) -> SigningKey {
        SigningKey::from_bytes(&[self.0; 32])
    }

    pub fn public(self) -> String {
        hex::encode(self.signing().verifying_key().to_bytes())
    }
}

/// The keys of the feeds, one after the other.
pub const KEYS: [Key; 3] = [Key(0xa1), Key(0xb2), Key(0xc3)];

/// Weights of a number, which differ from those of the number before in four elements.
pub fn weights(number: u64) -> Checkpoint {
    let mut matrix: Vec<u64> = (0..128).map(|at| 0x3c00 + at * 37 % 256).collect();
    for before in 1..=number {
        for which in 0..4 {
            matrix[((before * 29 + which * 41) % 128) as usize] ^= before % 7 + 1;
        }
    }
    let scale = (0..8).map(|at| 0x3f80_0000 + at).collect::<Vec<u64>>();
    Checkpoint::from([
        ("layer.weight", Tensor::new(Dtype::Bf16, &[16, 8], &matrix)),
        ("norm.scale", Tensor::new(Dtype::F32, &[8], &scale)),
    ])
}

fn held(checkpoint: Checkpoint) -> Tensors {
    let tensors = checkpoint.tensors.into_iter();
    tensors.map(|(name, tensor)| (name, (tensor.spec, tensor.bytes))).collect()
}

struct Trainer {
    publisher: Publisher,
    shadow: Shadow,
}

impl Trainer {
    /// Starts with the weights of a number.
    async fn start(feed: &Feed, key: Option<Key>, anchor_every: u64, number: u64) -> Trainer {
        let mut options = PublisherOptions::default().with_anchor_every(anchor_every);
        options.threads = 1;
        options.key = key.map(Key::secret);
        options = options.with_expires(Duration::from_secs(24 * 3600));
        let publisher = Publisher::start(feed, options).await.unwrap();
        let shadow = Shadow::new(&refs(&held(weights(number))), Control::default()).unwrap();
        Trainer { publisher, shadow }
    }

    async fn publish(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let weights = held(weights(number));
            let step = Some(10 * number);
            let published = self.publisher.publish(&mut self.shadow, &refs(&weights), step).await;
            assert_eq!(published.unwrap().warnings, [""; 0]);
        }
    }
}

async fn objects(store: &InMemory) -> Objects {
    let mut objects = Objects::new();
    for meta in store.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        objects.insert(meta.location.to_string(), bytes.to_vec());
    }
    objects
}

fn new_feed(seed: u8) -> (Arc<InMemory>, Feed) {
    let store = Arc::new(InMemory::new());
    let world = Fixed { seed, thrown: AtomicU64::new(0), looks: AtomicU64::new(0) };
    let feed = Feed::new(store.clone(), "", "a test vector").with_world(Arc::new(world));
    (store, feed)
}

/// Twelve versions of two writers, the second of which claims the feed by version 7; anchors of versions 5
/// and 10, and a skip from 4 to 8.
async fn plain() -> Objects {
    let (store, feed) = new_feed(1);
    let mut first = Trainer::start(&feed, None, 5, 0).await;
    first.publish(0..=6).await;
    let mut second = Trainer::start(&feed, None, 5, 6).await;
    second.publisher.claim().await.unwrap();
    second.publish(8..=11).await;
    let options = CompactOptions::default().with_spans([4]).with_threads(1);
    assert_eq!(compact(&feed, &options).await.unwrap().len(), 1);
    objects(&store).await
}

/// Three versions from the weights of a number on.
async fn short(seed: u8, number: u64) -> Objects {
    let (store, feed) = new_feed(seed);
    Trainer::start(&feed, None, 0, number).await.publish(number..=number + 2).await;
    objects(&store).await
}

async fn ended() -> Objects {
    let (store, feed) = new_feed(4);
    let mut trainer = Trainer::start(&feed, None, 0, 0).await;
    trainer.publish(0..=1).await;
    trainer.publisher.end().await.unwrap();
    trainer.publisher.refresh().await.unwrap();
    objects(&store).await
}

async fn signed() -> Objects {
    let (store, feed) = new_feed(5);
    Trainer::start(&feed, Some(KEYS[0]), 0, 0).await.publish(0..=3).await;
    objects(&store).await
}

/// Keys change in versions 2 and 4.
async fn rekeyed() -> Objects {
    let (store, feed) = new_feed(6);
    let mut trainer = Trainer::start(&feed, Some(KEYS[0]), 0, 0).await;
    trainer.publish(0..=1).await;
    trainer.publisher.hand_over(KEYS[1].secret()).unwrap();
    trainer.publish(2..=3).await;
    trainer.publisher.hand_over(KEYS[2].secret()).unwrap();
    trainer.publish(4..=6).await;
    objects(&store).await
}

/// All of them by their names.
pub fn feeds() -> BTreeMap<&'static str, Objects> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        BTreeMap::from([
            ("plain", plain().await),
            ("short", short(2, 0).await),
            ("other", short(3, 20).await),
            ("ended", ended().await),
            ("signed", signed().await),
            ("rekeyed", rekeyed().await),
        ])
    })
}
