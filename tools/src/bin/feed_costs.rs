//! What a feed costs in a day: requests and bytes of the real publisher and follower over a store that
//! counts, with a clock that runs through a day at once, times a number of followers and a price list.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::Digest;
use pulse::tensors::{Control, PrepareOptions, Shadow, TensorMut, TensorRef, Weights, WeightsMut};
use pulse_sync::{Data, Feed, Follower, FollowerOptions, Publisher, PublisherOptions, World};
use tokio::time::{sleep_until, Instant};

/// Counts what a day of a feed costs, and prints it as a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// Machines that follow.
    #[arg(long, default_value_t = 1000)]
    followers: u64,
    /// Machines that join new in the day.
    #[arg(long, default_value_t = 100)]
    joins: u64,
    /// Seconds from one version to the next.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Megabytes of a patch.
    #[arg(long, default_value_t = 60.0)]
    patch_mb: f64,
    /// Megabytes of an anchor.
    #[arg(long, default_value_t = 9300.0)]
    anchor_mb: f64,
    /// Dollars for a thousand PUT, POST or LIST requests.
    #[arg(long, default_value_t = 0.005)]
    put_price: f64,
    /// Dollars for a thousand GET or HEAD requests.
    #[arg(long, default_value_t = 0.0004)]
    get_price: f64,
    /// Dollars for a gigabyte that leaves the provider.
    #[arg(long, default_value_t = 0.09)]
    egress_price: f64,
}

/// Requests and bytes by verb and kind of object.
type Counts = BTreeMap<(&'static str, &'static str), (u64, u64)>;

/// A store that counts for one of those who use it.
#[derive(Debug, Clone)]
struct Counting {
    inner: Arc<InMemory>,
    counts: Arc<Mutex<Counts>>,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

fn kind(location: &Path) -> &'static str {
    let name = location.as_ref();
    let kinds = ["log/", "data/", "latest.json", "hints.json", "skip/", "anchor/", "floor.json"];
    kinds.into_iter().find(|kind| name.contains(kind)).unwrap_or("pulse.json")
}

impl Counting {
    fn count(&self, verb: &'static str, location: &Path, bytes: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let entry = counts.entry((verb, kind(location))).or_default();
        entry.0 += 1;
        entry.1 += bytes;
    }

    fn taken(&self) -> Counts {
        std::mem::take(&mut self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.count("put", location, payload.content_length() as u64);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        let is_head = options.head;
        let got = self.inner.get_opts(location, options).await;
        let bytes = got.as_ref().map_or(0, |got| got.range.end - got.range.start);
        self.count("get", location, if is_head { 0 } else { bytes });
        got
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.count("put", prefix.unwrap_or(&Path::default()), 0);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The time of day that the timer shows, and dice with a seed.
#[derive(Debug)]
struct Simulated {
    start: Instant,
    dice: Mutex<u64>,
}

impl World for Simulated {
    fn now(&self) -> u64 {
        1_764_000_000_000 + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut dice = self.dice.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for byte in bytes {
            *dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (*dice >> 33) as u8;
        }
    }
}

const ELEMENTS: usize = 4096;

fn spec() -> pulse::Result<TensorSpec> {
    TensorSpec::new(Dtype::Bf16, &[ELEMENTS as u64])
}

fn weights(bytes: &[u8]) -> pulse::Result<Weights<'_>> {
    Ok([("w", TensorRef::new(spec()?, bytes)?)].into_iter().collect())
}

/// Runs a day; gives back the counts of the publisher, of a follower, and of one that joins at its end, and
/// how many anchors were made.
async fn day(seconds: u64) -> pulse_sync::Result<(Counts, Counts, Counts, u64)> {
    let inner = Arc::new(InMemory::new());
    let world = Arc::new(Simulated { start: Instant::now(), dice: Mutex::new(7) });
    let counting = || Counting { inner: Arc::clone(&inner), counts: Arc::default() };
    let (publishing, following) = (counting(), counting());
    let feed = |store: &Counting| {
        let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
        Feed::new(store, "run", "memory").with_world(world.clone())
    };
    let (versions, start) = (24 * 3600 / seconds, Instant::now());
    let mut bytes = vec![0u8; 2 * ELEMENTS];
    let control = Control::threads(1);
    let mut shadow = Shadow::new(&weights(&bytes)?, control)?;
    let mut publisher =
        Publisher::start(&feed(&publishing), PublisherOptions::default().with_threads(1)).await?;
    publisher.publish(&mut shadow, &weights(&bytes)?, Some(0)).await?;
    publishing.taken();
    let reader = feed(&following);
    let follows = async move {
        let mut follower = Follower::open(&reader, None, FollowerOptions::default()).await?;
        let update = follower.next(None).await?;
        let mut made = update.chain()?.to_memory(control)?;
        let mut held = made.remove("w").map(|(_, bytes)| bytes).unwrap_or_default();
        let mut digest = update.record.target;
        follower.served(&update, digest)?;
        while update_number(&follower) < versions {
            let update = follower.next(Some(digest)).await?;
            let mut all: WeightsMut =
                [("w", TensorMut::new(spec()?, &mut held)?)].into_iter().collect();
            let prepared = update.chain()?.prepare(&all, PrepareOptions::default(), control)?;
            digest = prepared.commit(&mut all, control)?.target;
            follower.served(&update, digest)?;
        }
        Ok::<_, pulse_sync::Error>(())
    };
    let publishes = async {
        let mut anchors = 0;
        for step in 1..=versions {
            sleep_until(start + Duration::from_secs(step * seconds)).await;
            for change in 0..40 {
                bytes[(step as usize * 97 + change * 131) % (2 * ELEMENTS)] ^= 1;
            }
            let published = publisher.publish(&mut shadow, &weights(&bytes)?, Some(step)).await?;
            anchors += u64::from(published.record.anchor.version + 1 == step && step > 1);
        }
        Ok::<_, pulse_sync::Error>(anchors)
    };
    let (followed, anchors) = tokio::join!(follows, publishes);
    followed?;
    let joining = counting();
    let mut follower = Follower::open(&feed(&joining), None, FollowerOptions::default()).await?;
    follower.next(None).await?;
    Ok((publishing.taken(), following.taken(), joining.taken(), anchors?))
}

fn update_number(follower: &Follower) -> u64 {
    follower.mark().map_or(0, |mark| mark.version)
}

/// One line of the table: requests that write or list, those that read, gigabytes.
struct Line {
    what: &'static str,
    puts: f64,
    gets: f64,
    gigabytes: f64,
}

/// Bytes of a part on the way up.
const PART: f64 = 8_388_608.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let (publisher, follower, join, anchors) = runtime.block_on(day(arguments.seconds))?;
    let versions = 24 * 3600 / arguments.seconds;
    let requests = |counts: &Counts, verb: &str, is_data: bool| -> f64 {
        let own =
            counts.iter().filter(|((v, kind), _)| *v == verb && (*kind == "data/") == is_data);
        own.map(|(_, (requests, _))| *requests as f64).sum()
    };
    let documents = |counts: &Counts| -> f64 {
        let own = counts.iter().filter(|((verb, kind), _)| *verb == "get" && *kind != "data/");
        own.map(|(_, (_, bytes))| *bytes as f64).sum::<f64>() / 1e9
    };
    // Data is counted in objects here; these are the requests of its real size.
    let parts = |megabytes: f64| (megabytes * 1e6 / PART).ceil();
    let ranges = |megabytes: f64| {
        let (object, sha256) = (String::new(), Digest([0; 32]));
        Data { object, sha256, bytes: (megabytes * 1e6) as u64 }.requests() as f64
    };
    let (followers, joins) = (arguments.followers as f64, arguments.joins as f64);
    let (patch, anchor) = (arguments.patch_mb / 1e3, arguments.anchor_mb / 1e3);
    let chain = requests(&join, "get", true) - 1.0;
    let lines = [
        Line {
            what: "publisher: patches",
            puts: versions as f64 * (parts(arguments.patch_mb) + 2.0),
            gets: versions as f64 * 2.0,
            gigabytes: 0.0,
        },
        Line {
            what: "publisher: anchors",
            puts: anchors as f64 * (parts(arguments.anchor_mb) + 2.0),
            gets: anchors as f64,
            gigabytes: 0.0,
        },
        Line {
            what: "publisher: records and hints",
            puts: requests(&publisher, "put", false),
            gets: requests(&publisher, "get", false),
            gigabytes: 0.0,
        },
        Line {
            what: "followers: looking for versions",
            puts: 0.0,
            gets: followers * requests(&follower, "get", false),
            gigabytes: followers * documents(&follower),
        },
        Line {
            what: "followers: patches",
            puts: 0.0,
            gets: followers * versions as f64 * ranges(arguments.patch_mb),
            gigabytes: followers * versions as f64 * patch,
        },
        Line {
            what: "joins: anchor and the patches after it",
            puts: 0.0,
            gets: joins
                * (ranges(arguments.anchor_mb)
                    + chain * ranges(arguments.patch_mb)
                    + requests(&join, "get", false)),
            gigabytes: joins * (anchor + chain * patch),
        },
    ];
    println!(
        "{followers} followers and {joins} that join, a version every {} s for a day: {versions} versions of \
         {} MB, {anchors} anchors of {} MB.\n",
        arguments.seconds, arguments.patch_mb, arguments.anchor_mb
    );
    println!("| what | PUT, LIST | GET, HEAD | GB out | requests, $ | bytes out, $ |");
    println!("|---|---|---|---|---|---|");
    let mut total = (0.0, 0.0, 0.0, 0.0, 0.0);
    for Line { what, puts, gets, gigabytes } in lines {
        let asked = puts / 1e3 * arguments.put_price + gets / 1e3 * arguments.get_price;
        let sent = gigabytes * arguments.egress_price;
        println!("| {what} | {puts:.0} | {gets:.0} | {gigabytes:.1} | {asked:.2} | {sent:.2} |");
        total =
            (total.0 + puts, total.1 + gets, total.2 + gigabytes, total.3 + asked, total.4 + sent);
    }
    let (puts, gets, gigabytes, asked, sent) = total;
    println!("| all | {puts:.0} | {gets:.0} | {gigabytes:.1} | {asked:.2} | {sent:.2} |");
    let full = followers * versions as f64 * anchor;
    println!(
        "\nFull copies of every version instead: {full:.0} GB out, {:.0} times as much.",
        full / gigabytes
    );
    Ok(())
}
