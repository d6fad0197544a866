//! What a feed relies on in a store, held against each kind of store that it may lie in.
//!
//! Servers are started by `scripts/servers.py run s3 azure http rclone -- cargo test`, which says in the environment
//! where they are. Where a variable is missing its test says aloud that it did not run, and fails if `CI` is set.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, Result, RetryConfig,
};

const PART: usize = 8 << 20;

/// The variable that leads to a server, or `None` with a loud word about it.
fn variable(name: &str) -> Option<String> {
    // The TLS stack takes its cryptography from here. Another test may have been quicker.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let value = std::env::var(name).ok();
    if value.is_none() {
        let notice = format!("{name} is not set: start the servers with scripts/servers.py");
        assert!(std::env::var_os("CI").is_none(), "{notice}");
        // Past the capture of a passing test's output.
        let _ = writeln!(std::io::stderr(), "\nNOT RUN: {notice}");
    }
    value
}

/// A store and a place in it that nobody else has.
struct Place {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Place {
    fn new(store: impl ObjectStore) -> Place {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let time = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = Path::from(format!("tests/{time}-{count}"));
        Place { store: Arc::new(store), prefix }
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn create(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<()> {
        let options = PutOptions::from(PutMode::Create);
        self.store.put_opts(&self.path(name), bytes.into(), options).await.map(drop)
    }

    async fn overwrite(&self, name: &str, bytes: &'static str) -> Result<()> {
        self.store.put(&self.path(name), bytes.into()).await.map(drop)
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        self.store.get(&self.path(name)).await?.bytes().await
    }

    /// A range of the object, if it still has this tag.
    async fn range(
        &self,
        name: &str,
        range: std::ops::Range<u64>,
        if_match: Option<String>,
    ) -> Result<Bytes> {
        let options = GetOptions { range: Some(range.into()), if_match, ..GetOptions::default() };
        self.store.get_opts(&self.path(name), options).await?.bytes().await
    }

    /// The names below a folder, in order.
    async fn list(&self, folder: &str) -> Vec<String> {
        let found = self.store.list(Some(&self.path(folder)));
        let names: BTreeSet<_> =
            found.map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
        let here = format!("{}/", self.prefix);
        names.iter().map(|name| name.strip_prefix(&here).unwrap().into()).collect()
    }
}

/// Bytes that differ everywhere.
fn pattern(count: usize) -> Bytes {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[track_caller]
fn is_not_found<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
}

/// All that a writer, a pruner and readers of a feed do.
async fn holds_a_feed(place: &Place) {
    create_decides(place).await;
    one_of_many_creates_wins(place).await;
    overwriting_replaces(place).await;
    ranges_are_of_one_object(place).await;
    parts_appear_as_a_whole(place).await;
    parts_of_an_aborted_upload_never_appear(place).await;
    what_is_not_there_is_not_found(place).await;
    listing_is_complete(place).await;
    deleting_removes(place).await;
}

async fn create_decides(place: &Place) {
    place.create("log/1.json", "first").await.unwrap();
    let second = place.create("log/1.json", "second").await;
    assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
    // A repetition is told the same.
    let again = place.create("log/1.json", "first").await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(place.get("log/1.json").await.unwrap(), "first");
}

async fn one_of_many_creates_wins(place: &Place) {
    // Few rounds: SeaweedFS takes 2 s for one.
    for round in 0..2 {
        let name = format!("race/{round}");
        let creates = (0..16).map(|writer| place.create(&name, format!("writer {writer}")));
        let results = join_all(creates).await;
        let winners: Vec<_> = (0..16).filter(|&writer| results[writer].is_ok()).collect();
        let [winner] = winners[..] else { panic!("winners {winners:?} of {results:?}") };
        for (writer, result) in results.iter().enumerate().filter(|&(writer, _)| writer != winner) {
            let refused = matches!(result, Err(Error::AlreadyExists { .. }));
            assert!(refused, "writer {writer}: {result:?}");
        }
        assert_eq!(place.get(&name).await.unwrap(), format!("writer {winner}"));
    }
}

async fn overwriting_replaces(place: &Place) {
    for hint in ["the first hint", "another", ""] {
        place.overwrite("latest.json", hint).await.unwrap();
        assert_eq!(place.get("latest.json").await.unwrap(), hint);
        let meta = place.store.head(&place.path("latest.json")).await.unwrap();
        assert_eq!(meta.size, hint.len() as u64);
    }
}

async fn ranges_are_of_one_object(place: &Place) {
    let bytes = pattern(100_000);
    place.create("data/1-a", bytes.clone()).await.unwrap();
    let meta = place.store.head(&place.path("data/1-a")).await.unwrap();
    assert_eq!(meta.size, 100_000);
    for range in [0..1, 0..100_000, 99_999..100_000, 12_345..67_890] {
        let expected = bytes.slice(range.start as usize..range.end as usize);
        assert_eq!(place.range("data/1-a", range.clone(), None).await.unwrap(), expected);
        assert_eq!(place.range("data/1-a", range, meta.e_tag.clone()).await.unwrap(), expected);
    }
    // An end behind the object's is moved there; a start behind it is an error, of a kind that differs.
    assert_eq!(place.range("data/1-a", 99_990..200_000, None).await.unwrap(), bytes[99_990..]);
    assert!(place.range("data/1-a", 100_000..100_001, None).await.is_err());

    assert!(meta.e_tag.is_some());
    place.overwrite("data/1-a", "something else, which is long enough").await.unwrap();
    let stale = place.range("data/1-a", 0..10, meta.e_tag).await;
    assert!(matches!(stale, Err(Error::Precondition { .. })), "{stale:?}");
}

async fn parts_appear_as_a_whole(place: &Place) {
    let bytes = pattern(3 * PART);
    let path = place.path("data/2-a");
    let mut upload = place.store.put_multipart(&path).await.unwrap();
    let parts = [0, 1, 2].map(|part| bytes.slice(part * PART..(part + 1) * PART));
    // All on their way at a time, and the last one first.
    let mut sent = parts.map(|part| upload.put_part(part.into()));
    sent.reverse();
    join_all(sent).await.into_iter().collect::<Result<()>>().unwrap();
    is_not_found(place.store.head(&path).await);
    upload.complete().await.unwrap();
    assert_eq!(place.store.head(&path).await.unwrap().size, bytes.len() as u64);
    assert!(place.get("data/2-a").await.unwrap() == bytes);
    let middle = PART as u64 - 5..2 * PART as u64 + 5;
    let expected = bytes.slice(middle.start as usize..middle.end as usize);
    assert!(place.range("data/2-a", middle, None).await.unwrap() == expected);
}

async fn parts_of_an_aborted_upload_never_appear(place: &Place) {
    for (name, abort) in [("aborted/1", true), ("aborted/2", false)] {
        let mut upload = place.store.put_multipart(&place.path(name)).await.unwrap();
        upload.put_part(pattern(PART).into()).await.unwrap();
        if abort {
            upload.abort().await.unwrap();
        }
        drop(upload);
        is_not_found(place.get(name).await);
    }
    assert!(place.list("aborted").await.is_empty());
    // What is left of it is in nobody's way. (To create that name is refused by Azure as long as there are blocks of it.)
    place.overwrite("aborted/1", "whole").await.unwrap();
    assert_eq!(place.get("aborted/1").await.unwrap(), "whole");
}

async fn what_is_not_there_is_not_found(place: &Place) {
    for name in ["nothing", "nothing/below"] {
        is_not_found(place.get(name).await);
        is_not_found(place.store.head(&place.path(name)).await);
        is_not_found(place.range(name, 0..10, None).await);
        // What is gone may also count as something else than what was asked for.
        let gone = place.range(name, 0..10, Some("\"tag\"".into())).await;
        let known = matches!(gone, Err(Error::NotFound { .. } | Error::Precondition { .. }));
        assert!(known, "{gone:?}");
    }
    // What is only the beginning of names is no object.
    is_not_found(place.get("log").await);
    assert!(place.list("nothing").await.is_empty());
}

async fn listing_is_complete(place: &Place) {
    // More than one page of S3.
    let names: Vec<_> = (0..1_100).map(|number| format!("many/{number:05}-x")).collect();
    futures::stream::iter(&names)
        .map(|name| place.create(name, "x"))
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    // A prefix is whole parts of a path.
    place.create("many-more/1", "x").await.unwrap();
    place.create("many/deeper/1", "x").await.unwrap();
    let expected = names.into_iter().chain(["many/deeper/1".into()]).collect::<Vec<_>>();
    assert_eq!(place.list("many").await, expected);
}

async fn deleting_removes(place: &Place) {
    place.create("data/3-a", "x").await.unwrap();
    place.store.delete(&place.path("data/3-a")).await.unwrap();
    is_not_found(place.get("data/3-a").await);
    // Some say that it was not there.
    let again = place.store.delete(&place.path("data/3-a")).await;
    assert!(matches!(again, Ok(()) | Err(Error::NotFound { .. })), "{again:?}");
    // Which is why nothing but a hint or data is ever deleted.
    place.create("data/3-a", "y").await.unwrap();
}

/// Documents say what they are and how long caches may keep them.
async fn keeps_attributes(place: &Place) {
    let attributes = Attributes::from_iter([
        (Attribute::ContentType, "application/json"),
        (Attribute::CacheControl, "no-cache, max-age=0"),
    ]);
    let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
    place.store.put_opts(&place.path("hint"), "{}".into(), options).await.unwrap();
    let got = place.store.get(&place.path("hint")).await.unwrap();
    for (key, value) in &attributes {
        assert_eq!(got.attributes.get(key), Some(value));
    }
}

#[track_caller]
fn is_denied<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::PermissionDenied { .. })), "{result:?}");
}

/// What follows from credentials that are not right: the same error for each request.
async fn denies(place: &Place) {
    is_denied(place.create("log/1.json", "x").await);
    is_denied(place.overwrite("latest.json", "x").await);
    is_denied(place.get("latest.json").await);
    is_denied(place.range("latest.json", 0..10, None).await);
    is_denied(place.store.head(&place.path("latest.json")).await);
    // Azure hears of an upload with its first part.
    let part = async {
        let mut upload = place.store.put_multipart(&place.path("data/1-a")).await?;
        upload.put_part("x".into()).await
    };
    is_denied(part.await);
}

#[tokio::test]
async fn memory() {
    let place = Place::new(InMemory::new());
    holds_a_feed(&place).await;
    keeps_attributes(&place).await;
}

#[tokio::test]
async fn file() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(directory.path()).unwrap().with_fsync(true);
    let place = Place::new(store);
    holds_a_feed(&place).await;
    // A file system has no place for attributes, and refuses rather than forgets.
    let attributes = Attributes::from_iter([(Attribute::ContentType, "application/json")]);
    let options = PutOptions { attributes, ..PutOptions::default() };
    let refused = place.store.put_opts(&place.path("hint"), "{}".into(), options).await;
    assert!(matches!(refused, Err(Error::NotImplemented { .. })), "{refused:?}");
    // An upload that is cut off by a crash leaves a file beside, which no listing shows.
    let folder = directory.path().join(place.prefix.as_ref()).join("cut");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("2-a#1"), "half").unwrap();
    assert!(place.list("cut").await.is_empty());
}

#[tokio::test]
async fn s3() {
    let Some(url) = variable("PULSE_TEST_S3") else { return };
    let builder = || AmazonS3Builder::from_env().with_url(&url);
    let place = Place::new(builder().build().unwrap());
    holds_a_feed(&place).await;
    keeps_attributes(&place).await;

    denies(&Place::new(builder().with_secret_access_key("wrong").build().unwrap())).await;
    denies(&Place::new(builder().with_access_key_id("unknown").build().unwrap())).await;
    // A bucket that does not exist reads like an object that does not.
    let nowhere = Place::new(builder().with_url("s3://no-such-bucket").build().unwrap());
    is_not_found(nowhere.get("pulse.json").await);
    is_not_found(nowhere.create("pulse.json", "x").await);
}

#[tokio::test]
async fn azure() {
    let Some(url) = variable("PULSE_TEST_AZURE") else { return };
    let builder = || MicrosoftAzureBuilder::from_env().with_url(&url);
    let place = Place::new(builder().build().unwrap());
    holds_a_feed(&place).await;
    keeps_attributes(&place).await;

    denies(&Place::new(builder().with_access_key("d3Jvbmc=").build().unwrap())).await;
    let nowhere = Place::new(builder().with_url("az://no-such-container").build().unwrap());
    is_not_found(nowhere.get("pulse.json").await);
    is_not_found(nowhere.create("pulse.json", "x").await);
}

/// A web server for readers.
#[tokio::test]
async fn http() {
    let Some(url) = variable("PULSE_TEST_HTTP") else { return };
    let build = |url: &str| {
        let options = ClientOptions::new().with_allow_http(true);
        // A method that a server does not know is a 501, which is tried again as any 5xx.
        let retry = RetryConfig { max_retries: 1, ..RetryConfig::default() };
        let builder = HttpBuilder::new().with_client_options(options).with_retry(retry);
        builder.with_url(url).build().unwrap()
    };
    let place = Place::new(build(&url));
    let root = std::path::PathBuf::from(std::env::var_os("PULSE_TEST_HTTP_DIR").unwrap());
    let folder = root.join(place.prefix.as_ref());
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let bytes = pattern(100_000);
    std::fs::write(folder.join("data/1-a"), &bytes).unwrap();

    assert!(place.get("data/1-a").await.unwrap() == bytes);
    let meta = place.store.head(&place.path("data/1-a")).await.unwrap();
    assert_eq!(meta.size, 100_000);
    for range in [0..1, 0..100_000, 99_999..100_000, 12_345..67_890] {
        let expected = bytes.slice(range.start as usize..range.end as usize);
        assert_eq!(place.range("data/1-a", range, meta.e_tag.clone()).await.unwrap(), expected);
    }
    std::fs::write(folder.join("data/1-a"), &bytes[1..]).unwrap();
    let stale = place.range("data/1-a", 0..10, meta.e_tag).await;
    assert!(matches!(stale, Err(Error::Precondition { .. })), "{stale:?}");
    for name in ["nothing", "nothing/below", "data", "data/1-a/below"] {
        is_not_found(place.get(name).await);
        is_not_found(place.store.head(&place.path(name)).await);
        is_not_found(place.range(name, 0..10, None).await);
    }

    // A server without ranges sends all: that is an error of its own, and a whole body is to be had.
    let whole = Place {
        store: Arc::new(build(&std::env::var("PULSE_TEST_HTTP_WHOLE").unwrap())),
        prefix: place.prefix.clone(),
    };
    let range = whole.range("data/1-a", 0..10, None).await;
    assert!(matches!(range, Err(Error::NotSupported { .. })), "{range:?}");
    assert!(whole.get("data/1-a").await.unwrap() == bytes[1..]);

    // Nothing can be published there, and nothing listed.
    let created = place.create("pulse.json", "x").await;
    assert!(matches!(created, Err(Error::NotImplemented { .. })), "{created:?}");
    let upload = place.store.put_multipart(&place.path("data/2-a")).await.map(drop);
    assert!(matches!(upload, Err(Error::NotImplemented { .. })), "{upload:?}");
    assert!(place.store.list(None).try_collect::<Vec<_>>().await.is_err());
}

/// A store that ignores the precondition lets every writer win: no feed may be written there.
#[tokio::test]
async fn rclone_ignores_preconditions() {
    let Some(url) = variable("PULSE_TEST_RCLONE") else { return };
    let setting = |name| std::env::var(format!("PULSE_TEST_RCLONE_{name}")).unwrap();
    let builder = AmazonS3Builder::new().with_url(url).with_endpoint(setting("ENDPOINT"));
    let builder = builder
        .with_access_key_id(setting("KEY"))
        .with_secret_access_key(setting("SECRET"))
        .with_allow_http(true);
    let place = Place::new(builder.build().unwrap());
    place.create("log/1.json", "first").await.unwrap();
    place.create("log/1.json", "second").await.unwrap();
    assert_eq!(place.get("log/1.json").await.unwrap(), "second");
}

/// What a proxy does with an answer.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// 503 instead of what the server said.
    Replaced,
    /// The connection ends without an answer.
    Cut,
}

/// A proxy before a server, which loses the first answer to a request of this kind, after it did its work. Where it
/// listens, and how many such requests it saw.
fn lossy(server: String, loss: Loss, kind: fn(&str) -> bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, server, count) = (client.unwrap(), server.clone(), count.clone());
            std::thread::spawn(move || {
                while let Some(request) = message(&mut client) {
                    let mut upstream = TcpStream::connect(&server).unwrap();
                    upstream.write_all(&request).unwrap();
                    let answer = message(&mut upstream).unwrap();
                    let line = String::from_utf8_lossy(&request[..request.len().min(400)]);
                    let lost = kind(line.lines().next().unwrap())
                        && count.fetch_add(1, Ordering::Relaxed) == 0;
                    let answer = match loss {
                        Loss::Replaced if lost => {
                            b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n".to_vec()
                        }
                        Loss::Cut if lost => return,
                        _ => answer,
                    };
                    client.write_all(&answer).unwrap();
                }
            });
        }
    });
    (address, seen)
}

/// A request or an answer with its body, if one comes.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if bytes.len() >= end + 4 + length.map_or(0, |length| length.parse().unwrap()) {
                return Some(bytes);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// SeaweedFS behind a proxy that loses one answer to such a request.
fn s3_losing(url: &str, loss: Loss, kind: fn(&str) -> bool) -> (Place, Arc<AtomicUsize>) {
    let server = std::env::var("AWS_ENDPOINT").unwrap().replace("http://", "");
    let retry = RetryConfig { retry_timeout: Duration::from_secs(10), ..RetryConfig::default() };
    let (address, seen) = lossy(server, loss, kind);
    let builder = AmazonS3Builder::from_env().with_url(url).with_endpoint(address);
    (Place::new(builder.with_retry(retry).build().unwrap()), seen)
}

/// After a 5xx, and after a connection that ends, a create is tried again and meets itself: "exists" may be said of
/// what the very request put, and only its bytes tell.
#[tokio::test]
async fn s3_create_that_lost_its_answer() {
    let Some(url) = variable("PULSE_TEST_S3") else { return };
    for loss in [Loss::Replaced, Loss::Cut] {
        let (place, seen) = s3_losing(&url, loss, |line| line.starts_with("PUT "));
        let result = place.create("log/1.json", "mine").await;
        assert!(matches!(result, Err(Error::AlreadyExists { .. })), "{loss:?}: {result:?}");
        assert_eq!(seen.load(Ordering::Relaxed), 2);
        assert_eq!(place.get("log/1.json").await.unwrap(), "mine");
    }
}

/// The end of an upload may be told twice.
#[tokio::test]
async fn s3_upload_that_lost_its_last_answer() {
    let Some(url) = variable("PULSE_TEST_S3") else { return };
    for loss in [Loss::Replaced, Loss::Cut] {
        let completes = |line: &str| line.starts_with("POST ") && line.contains("uploadId=");
        let (place, seen) = s3_losing(&url, loss, completes);
        let mut upload = place.store.put_multipart(&place.path("data/1-a")).await.unwrap();
        upload.put_part("mine".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(seen.load(Ordering::Relaxed), 2);
        assert_eq!(place.get("data/1-a").await.unwrap(), "mine");
    }
}
