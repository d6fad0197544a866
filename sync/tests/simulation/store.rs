//! A store in memory that does what stores on the internet do: it delays, fails before and after the fact,
//! answers late, cuts what it sends and shows what is old. And processes that use it die on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use tokio::sync::Notify;
use tokio::time::{sleep, Duration, Instant};

use crate::dice::{Dice, Shared, EPOCH};

/// Is told what becomes of a request.
type Told = dyn Fn(&str, String) + Send + Sync;

#[derive(Debug, Clone)]
pub struct Object {
    pub bytes: Bytes,
    /// When it was written.
    pub at: Instant,
    tag: u64,
    /// What was there before.
    older: Vec<Bytes>,
}

pub type Objects = BTreeMap<String, Object>;

/// What happened to an object.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    Created(&'a Bytes),
    Overwritten(&'a Bytes),
    Deleted(&'a Object),
}

type Watch = dyn Fn(&Objects, &str, Change<'_>) + Send + Sync;

/// The objects of one feed.
pub struct Bucket {
    objects: Mutex<Objects>,
    tags: Mutex<u64>,
    start: Instant,
    watch: Box<Watch>,
}

impl Bucket {
    pub fn new(watch: impl Fn(&Objects, &str, Change<'_>) + Send + Sync + 'static) -> Arc<Self> {
        let (objects, tags) = (Mutex::default(), Mutex::default());
        Arc::new(Bucket { objects, tags, start: Instant::now(), watch: Box::new(watch) })
    }

    fn put(&self, name: &str, bytes: Bytes, create: bool) -> bool {
        let mut objects = self.objects.lock().unwrap();
        let old = objects.remove(name);
        if let Some(old) = old.clone().filter(|_| create) {
            objects.insert(name.into(), old);
            return false;
        }
        let tag = {
            let mut tags = self.tags.lock().unwrap();
            *tags += 1;
            *tags
        };
        let is_new = old.is_none();
        let older = old.map_or(Vec::new(), |mut old| {
            old.older.push(old.bytes);
            old.older
        });
        let object = Object { bytes: bytes.clone(), at: Instant::now(), tag, older };
        objects.insert(name.into(), object);
        let change = if is_new { Change::Created(&bytes) } else { Change::Overwritten(&bytes) };
        (self.watch)(&objects, name, change);
        true
    }

    fn delete(&self, name: &str) {
        let mut objects = self.objects.lock().unwrap();
        if let Some(old) = objects.remove(name) {
            (self.watch)(&objects, name, Change::Deleted(&old));
        }
    }

    /// What somebody does to it who asks nobody.
    pub fn tamper<T>(&self, with: impl FnOnce(&mut Objects) -> T) -> T {
        with(&mut self.objects.lock().unwrap())
    }

    pub fn set(objects: &mut Objects, name: &str, bytes: impl Into<Bytes>) {
        let (bytes, at) = (bytes.into(), Instant::now());
        let tag =
            bytes.iter().fold(1 << 40, |tag: u64, byte| tag.wrapping_mul(31) + u64::from(*byte));
        objects.insert(name.into(), Object { bytes, at, tag, older: Vec::new() });
    }

    pub fn get(&self, name: &str) -> Option<Bytes> {
        self.objects.lock().unwrap().get(name).map(|object| object.bytes.clone())
    }
}

/// How often things go wrong, in a thousand operations.
#[derive(Debug)]
pub struct Weather {
    is_bad: AtomicBool,
    pub fail: u64,
    pub crash: u64,
    pub slow: u64,
    pub stale: u64,
    pub cut: u64,
    /// Objects with data that are not what was put, although the store said so: power was lost.
    pub lie: u64,
}

impl Weather {
    pub fn new(dice: &mut Dice) -> Self {
        let mut often = |most: u64| if dice.chance(300) { 0 } else { dice.between(0..=most) };
        Weather {
            is_bad: AtomicBool::new(true),
            fail: often(120),
            crash: often(25),
            slow: often(80),
            stale: often(60),
            cut: often(40),
            lie: often(20),
        }
    }

    pub fn calm(&self) {
        self.is_bad.store(false, Ordering::SeqCst);
    }

    pub fn is_bad(&self) -> bool {
        self.is_bad.load(Ordering::SeqCst)
    }
}

/// What becomes of a request that writes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Well,
    /// 503, and nothing happened.
    Refused,
    /// It happened, but the answer is lost.
    Unanswered,
    /// It answers with an error, and happens later.
    Late,
    /// 409 although nothing is there.
    Conflict,
    /// A retry below finds what the first try put.
    Retried,
    /// 403.
    Denied,
    /// Less than was put is there.
    Torn,
    DiesBefore,
    DiesAfter,
    DiesLate,
}

/// A process's way to a bucket.
pub struct Client {
    bucket: Arc<Bucket>,
    weather: Arc<Weather>,
    dice: Arc<Shared>,
    who: String,
    /// Ends the process.
    crash: Arc<Notify>,
    /// Whether it has been told that something is not there that is.
    pub misled: Arc<AtomicBool>,
    told: Arc<Told>,
}

impl Client {
    pub fn new(
        bucket: &Arc<Bucket>,
        weather: &Arc<Weather>,
        dice: Dice,
        who: &str,
        told: Arc<Told>,
    ) -> Self {
        let (bucket, weather) = (Arc::clone(bucket), Arc::clone(weather));
        let (dice, crash) = (Arc::new(Shared::new(dice)), Arc::default());
        Client { bucket, weather, dice, who: who.into(), crash, misled: Arc::default(), told }
    }

    /// Notified when the process dies.
    pub fn crash(&self) -> Arc<Notify> {
        Arc::clone(&self.crash)
    }

    fn tell(&self, what: String) {
        (self.told)(&self.who, what);
    }

    fn throw<T>(&self, calm: T, throw: impl FnOnce(&mut Dice, &Weather) -> T) -> T {
        if self.weather.is_bad() {
            self.dice.with(|dice| throw(dice, &self.weather))
        } else {
            calm
        }
    }

    async fn wait(&self) {
        let delay = self.throw(Duration::from_millis(3), |dice, weather| dice.delay(weather.slow));
        sleep(delay).await;
    }

    async fn die<T>(&self, doing: &str) -> T {
        self.tell(format!("dies {doing}"));
        self.crash.notify_one();
        std::future::pending().await
    }

    /// What every request that reads suffers.
    async fn read(&self, name: &str) -> Result<()> {
        self.wait().await;
        let (fails, dies) = self.throw((false, false), |dice, weather| {
            (dice.chance(weather.fail), dice.chance(weather.crash))
        });
        if dies {
            return self.die(&format!("reading {name}")).await;
        }
        if fails {
            return Err(failed("503"));
        }
        Ok(())
    }

    fn fate(&self, name: &str, create: bool) -> Fate {
        self.throw(Fate::Well, |dice, weather| {
            if dice.chance(weather.crash) {
                return *dice.pick(&[Fate::DiesBefore, Fate::DiesAfter, Fate::DiesLate]);
            }
            if name.starts_with("data/") && dice.chance(weather.lie) {
                return Fate::Torn;
            }
            if !dice.chance(weather.fail) {
                return Fate::Well;
            }
            if dice.chance(40) {
                return Fate::Denied;
            }
            let some = [Fate::Refused, Fate::Unanswered, Fate::Late, Fate::Conflict, Fate::Retried];
            *dice.pick(if create { &some } else { &some[..3] })
        })
    }

    /// Does what changes the bucket, as fate will have it. `land` says whether it was done.
    async fn write(
        &self,
        name: &str,
        fate: Fate,
        land: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<()> {
        let delay = self.throw(Duration::from_millis(3), |dice, weather| dice.delay(weather.slow));
        if fate != Fate::Well {
            self.tell(format!("{fate:?} writing {name}"));
        }
        match fate {
            Fate::Refused | Fate::Denied | Fate::Conflict | Fate::DiesBefore => sleep(delay).await,
            Fate::Late | Fate::DiesLate => {
                let late = self.dice.with(|dice| dice.millis(500..=45_000));
                tokio::spawn(async move {
                    sleep(late).await;
                    land();
                });
                sleep(delay).await;
            }
            _ => {
                // The request is on its way, whatever becomes of who sent it; or it is not.
                let landing = tokio::spawn(async move {
                    sleep(delay).await;
                    land()
                });
                let landing = Request(landing, self.dice.with(|dice| dice.chance(500)));
                let landed = landing.await;
                self.wait().await;
                if !landed && matches!(fate, Fate::Well | Fate::Torn) {
                    return Err(exists(name));
                }
            }
        }
        match fate {
            Fate::Well | Fate::Torn => Ok(()),
            Fate::Refused | Fate::Unanswered | Fate::Late => Err(failed("no answer")),
            Fate::Conflict | Fate::Retried => Err(exists(name)),
            Fate::Denied => {
                Err(Error::PermissionDenied { path: name.into(), source: "403".into() })
            }
            Fate::DiesBefore | Fate::DiesAfter | Fate::DiesLate => {
                self.die(&format!("writing {name}")).await
            }
        }
    }

    /// What the bucket has of this name, or had a while ago.
    fn look(&self, name: &str) -> Option<Object> {
        let found = self.bucket.objects.lock().unwrap().get(name).cloned()?;
        let is_stale = self.throw(false, |dice, weather| dice.chance(weather.stale));
        if !is_stale {
            return Some(found);
        }
        let Object { older, at, tag, .. } = &found;
        if older.is_empty() {
            // Caches remember for a while that there was nothing.
            if at.elapsed() < Duration::from_secs(10) {
                self.misled.store(true, Ordering::SeqCst);
                self.tell(format!("is told that {name} is absent"));
                return None;
            }
            return Some(found);
        }
        let old = self.dice.with(|dice| dice.pick(older).clone());
        Some(Object { bytes: old, at: *at, tag: tag ^ (1 << 50), older: Vec::new() })
    }

    fn meta(&self, location: &Path, object: &Object) -> ObjectMeta {
        let at = EPOCH + object.at.duration_since(self.bucket.start).as_millis() as u64;
        ObjectMeta {
            location: location.clone(),
            last_modified: (SystemTime::UNIX_EPOCH + Duration::from_millis(at)).into(),
            size: object.bytes.len() as u64,
            e_tag: Some(format!("\"{}\"", object.tag)),
            version: None,
        }
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let name = location.as_ref();
        self.read(name).await?;
        let absent = || Error::NotFound { path: name.into(), source: "404".into() };
        let object = self.look(name).ok_or_else(absent)?;
        let meta = self.meta(location, &object);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(GetRange::Bounded(range)) => range.start..range.end.min(meta.size),
            _ => 0..meta.size,
        };
        let whole = object.bytes.slice(range.start as usize..range.end as usize);
        let cut = self.throw(None, |dice, weather| {
            dice.chance(weather.cut)
                .then(|| (dice.next() as usize % (whole.len() + 1), dice.chance(500)))
        });
        let mut pieces = vec![Ok(whole.clone())];
        if let Some((at, is_told)) = cut.filter(|_| !options.head) {
            self.tell(format!("gets {at} bytes of {name}"));
            pieces[0] = Ok(whole.slice(..at));
            pieces.extend(is_told.then(|| Err(failed("connection reset"))));
        }
        let payload = GetResultPayload::Stream(stream::iter(pieces).boxed());
        let (attributes, extensions) = Default::default();
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }
}

/// A request that is on its way: it may go on when nobody waits for it any more.
struct Request(tokio::task::JoinHandle<bool>, bool);

impl std::future::Future for Request {
    type Output = bool;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<bool> {
        self.0.poll_unpin(cx).map(|landed| landed.unwrap_or(false))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.1 {
            self.0.abort();
        }
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "simulation", source: what.into() }
}

fn exists(name: &str) -> Error {
    Error::AlreadyExists { path: name.into(), source: "409".into() }
}

fn put_result() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: Default::default() }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let (name, create) = (location.to_string(), matches!(options.mode, PutMode::Create));
        let mut bytes = Bytes::from(payload);
        let fate = self.fate(&name, create);
        if fate == Fate::Torn {
            bytes.truncate(self.dice.with(|dice| dice.next() as usize % bytes.len().max(1)));
        }
        let (bucket, at) = (Arc::clone(&self.bucket), name.clone());
        self.write(&name, fate, move || bucket.put(&at, bytes, create)).await?;
        Ok(put_result())
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.read(location.as_ref()).await?;
        let client = Client {
            bucket: Arc::clone(&self.bucket),
            weather: Arc::clone(&self.weather),
            dice: Arc::clone(&self.dice),
            who: self.who.clone(),
            crash: Arc::clone(&self.crash),
            misled: Arc::clone(&self.misled),
            told: Arc::clone(&self.told),
        };
        let parts = Arc::default();
        Ok(Box::new(Parts {
            client: Arc::new(client),
            name: location.to_string(),
            parts,
            count: 0,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.get(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (bucket, fate) = (Arc::clone(&self.bucket), self.fate("", false));
        let delay = self.throw(Duration::from_millis(3), |dice, weather| dice.delay(weather.slow));
        let crash = Arc::clone(&self.crash);
        let delete = move |location: Result<Path>| {
            let (bucket, crash) = (Arc::clone(&bucket), Arc::clone(&crash));
            async move {
                let location = location?;
                sleep(delay).await;
                if !matches!(fate, Fate::Refused | Fate::Denied | Fate::DiesBefore) {
                    bucket.delete(location.as_ref());
                }
                match fate {
                    Fate::Well => Ok(location),
                    Fate::DiesBefore | Fate::DiesAfter | Fate::DiesLate => {
                        crash.notify_one();
                        std::future::pending().await
                    }
                    _ => Err(failed("503")),
                }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map_or(String::new(), |prefix| format!("{prefix}/"));
        let objects = self.bucket.objects.lock().unwrap();
        let named = objects.iter().filter(|(name, _)| name.starts_with(&prefix));
        let found: Vec<_> =
            named.map(|(name, object)| Ok(self.meta(&Path::from(name.as_str()), object))).collect();
        drop(objects);
        let cut = self.throw(None, |dice, weather| {
            dice.chance(weather.fail + weather.cut)
                .then(|| dice.next() as usize % (found.len() + 1))
        });
        match cut {
            None => stream::iter(found).boxed(),
            Some(cut) => {
                let listed = found.into_iter().take(cut);
                stream::iter(listed.chain([Err(failed("listing cut off"))])).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list".into(), implementer: self.who.clone() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: self.who.clone() })
    }
}

/// An object that is put in parts: it appears when it is complete.
#[derive(Debug)]
struct Parts {
    client: Arc<Client>,
    name: String,
    parts: Arc<Mutex<BTreeMap<usize, Bytes>>>,
    count: usize,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (client, parts, number) =
            (Arc::clone(&self.client), Arc::clone(&self.parts), self.count);
        self.count += 1;
        async move {
            client.read("a part").await?;
            parts.lock().unwrap().insert(number, payload.into());
            Ok(())
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let all: Vec<Bytes> = self.parts.lock().unwrap().values().cloned().collect();
        if all.len() < self.count {
            return Err(failed("400: parts are missing"));
        }
        let (bucket, name) = (Arc::clone(&self.client.bucket), self.name.clone());
        let bytes = Bytes::from(all.concat());
        // Of parts, none is torn.
        let fate = match self.client.fate("", false) {
            Fate::Torn => Fate::Well,
            fate => fate,
        };
        self.client.write(&self.name, fate, move || bucket.put(&name, bytes, false)).await?;
        Ok(put_result())
    }

    async fn abort(&mut self) -> Result<()> {
        self.client.read("an upload to abort").await
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}
