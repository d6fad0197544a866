//! A store that misbehaves on cue.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// It is done as it should be.
    Well,
    /// It is not done, and fails.
    Fails,
    /// It is done, and fails.
    DoneButFails,
    /// It is not done, and is told that the object exists.
    NotDoneButExists,
    /// It is done, and is told that the object exists.
    DoneButExists,
    /// It is refused for want of permission.
    Denied,
    /// An object is replaced although it was only to be created.
    Replaces,
    /// What is read has no end soon.
    SendsMore,
}

/// Requests to objects whose names contain a text take the next of these cues.
#[derive(Debug)]
struct Script {
    verb: &'static str,
    name: String,
    cues: VecDeque<Cue>,
}

/// A store in memory that misbehaves on cue, and keeps account of what it was asked.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    pub inner: Arc<InMemory>,
    scripts: Arc<Mutex<Vec<Script>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

fn failure() -> Error {
    Error::Generic { store: "scripted", source: "503 slow down".into() }
}

impl Scripted {
    /// From now on, requests of this verb (`put`, `get`, `list`, `delete`) for names with this text take
    /// these cues, one each.
    pub fn cue(&self, verb: &'static str, name: &str, cues: &[Cue]) {
        let cues = cues.iter().copied().collect();
        self.scripts.lock().unwrap().push(Script { verb, name: name.into(), cues });
    }

    /// What was asked so far, as `verb name`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn next(&self, verb: &'static str, location: &str) -> Cue {
        self.log.lock().unwrap().push(format!("{verb} {location}"));
        let mut scripts = self.scripts.lock().unwrap();
        let mut fitting = scripts
            .iter_mut()
            .filter(|script| script.verb == verb && location.contains(&script.name));
        fitting.find_map(|script| script.cues.pop_front()).unwrap_or(Cue::Well)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Scripted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let exists = || Error::AlreadyExists { path: location.to_string(), source: "409".into() };
        match self.next("put", location.as_ref()) {
            Cue::Well => self.inner.put_opts(location, payload, options).await,
            Cue::Fails => Err(failure()),
            Cue::DoneButFails => {
                self.inner.put_opts(location, payload, options).await?;
                Err(failure())
            }
            Cue::NotDoneButExists => Err(exists()),
            Cue::DoneButExists => {
                self.inner.put_opts(location, payload, options).await?;
                Err(exists())
            }
            Cue::Denied => {
                Err(Error::PermissionDenied { path: location.to_string(), source: "403".into() })
            }
            Cue::SendsMore => Err(failure()),
            Cue::Replaces => {
                options.mode = PutMode::Overwrite;
                self.inner.put_opts(location, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.next(if options.head { "head" } else { "get" }, location.as_ref()) {
            Cue::Well => self.inner.get_opts(location, options).await,
            Cue::SendsMore => {
                let mut got = self.inner.get_opts(location, options).await?;
                let (log, line) = (Arc::clone(&self.log), format!("piece {location}"));
                let pieces = futures::stream::iter(0..64).map(move |_| {
                    log.lock().unwrap().push(line.clone());
                    Ok(vec![0; 1 << 20].into())
                });
                got.payload = GetResultPayload::Stream(pieces.boxed());
                Ok(got)
            }
            _ => Err(failure()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next("list", prefix.map_or("", |prefix| prefix.as_ref())) {
            Cue::Well => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(failure()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
