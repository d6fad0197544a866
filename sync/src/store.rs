//! The objects of one feed in a store: small ones whole and bounded, data in ranges, and what answers mean.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as Answer, GetOptions, GetResultPayload, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions,
};

use crate::error::{DocumentFault, Error, Result};

/// What a store said to a request to create an object.
#[derive(Debug)]
pub(crate) enum Put {
    Created,
    /// Something is said to be there: perhaps what this request put.
    Exists,
    /// It may have been created or not.
    Unclear(Error),
}

/// What is known of an object without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub bytes: u64,
}

/// A part of an object, and what else came with it.
#[derive(Debug)]
pub(crate) struct Piece {
    pub bytes: Bytes,
    /// Size of the whole object.
    pub object_bytes: u64,
}

/// The bytes of an object as they arrive.
pub(crate) struct Stream {
    name: String,
    body: Body,
}

type Body = BoxStream<'static, Result<Bytes, Answer>>;

impl Stream {
    /// The next of them; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        next(&mut self.body).await.map_err(|source| Error::Store {
            doing: "reading",
            object: self.name.clone(),
            source,
        })
    }
}

/// The next piece of a body, which must not stall.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Answer> {
    within(SMALL, async { body.next().await.transpose() }).await
}

/// The bytes of a body, at most so many and a piece: a server may send more than it was asked for.
async fn some(mut body: Body, most: u64) -> Result<Bytes, Answer> {
    let mut bytes = Vec::new();
    while let Some(piece) = next(&mut body).await? {
        if bytes.is_empty() && piece.len() as u64 >= most {
            return Ok(piece);
        }
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > most {
            break;
        }
    }
    Ok(bytes.into())
}

/// An object among others.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Relative to the feed.
    pub name: String,
    pub bytes: u64,
    /// Milliseconds since 1970, by the clock of the store.
    pub modified: u64,
}

/// A small request that takes longer is stuck.
const SMALL: Duration = Duration::from_secs(60);
/// Bytes that the slowest line still carries in a second.
const SLOWEST: u64 = 64 << 10;

/// The longest time that a request with so many bytes may take.
pub(crate) fn longest(bytes: u64) -> Duration {
    SMALL + Duration::from_secs(bytes / SLOWEST)
}

/// Waits for a request no longer than it may take.
async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, Answer>>,
) -> Result<T, Answer> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer,
        Err(_) => {
            let source = format!("no answer within {} seconds", limit.as_secs()).into();
            Err(Answer::Generic { store: "store", source })
        }
    }
}

/// A prefix of a store.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    address: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.address).finish()
    }
}

impl Store {
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: Path, address: String) -> Self {
        Store { inner, prefix, address }
    }

    /// The address in messages, without anything secret.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn path(&self, name: &str) -> Path {
        let parts = self.prefix.parts().collect::<Vec<_>>().into_iter();
        parts.chain(name.split('/').map(Into::into)).collect()
    }

    /// The bytes of a document, of at most so many bytes; `None` if there is none.
    pub async fn document(&self, name: &str, max: u64) -> Result<Option<Bytes>> {
        let failed = |source| Error::Store { doing: "reading", object: name.into(), source };
        let got = match within(SMALL, self.inner.get(&self.path(name))).await {
            Ok(got) => got,
            Err(Answer::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let too_large = |bytes| Error::document(name, DocumentFault::Limit { bytes, allowed: max });
        if got.meta.size > max {
            return Err(too_large(got.meta.size));
        }
        // What a store says of the size is not what it has to send.
        let mut body = got.into_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = next(&mut body).await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > max {
                return Err(too_large(bytes.len() as u64));
            }
        }
        Ok(Some(bytes.into()))
    }

    /// Creates a document, which is never written again.
    pub async fn create(&self, name: &str, bytes: Vec<u8>) -> Put {
        let attributes = Attributes::from_iter([
            (Attribute::ContentType, "application/json"),
            (Attribute::CacheControl, "public, max-age=31536000, immutable"),
        ]);
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match self.put(name, bytes, options).await {
            Ok(()) => Put::Created,
            Err(Error::Store { source: Answer::AlreadyExists { .. }, .. }) => Put::Exists,
            Err(error) => Put::Unclear(error),
        }
    }

    /// Creates an object with data in one request.
    pub async fn create_data(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.put(name, bytes, options).await {
            // Of this name there is no other: it is what a request before this one put.
            Err(Error::Store { source: Answer::AlreadyExists { .. }, .. }) => Ok(()),
            other => other,
        }
    }

    /// Writes a hint, which may be there already. Caches may keep it for a moment only.
    pub async fn overwrite(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let attributes = Attributes::from_iter([
            (Attribute::ContentType, "application/json"),
            (Attribute::CacheControl, "no-cache, max-age=0"),
        ]);
        self.put(name, bytes, PutOptions { attributes, ..PutOptions::default() }).await
    }

    async fn put(&self, name: &str, bytes: Vec<u8>, options: PutOptions) -> Result<()> {
        let (path, bytes) = (self.path(name), Bytes::from(bytes));
        let limit = longest(bytes.len() as u64);
        let put = self.inner.put_opts(&path, bytes.clone().into(), options.clone());
        let mut put = within(limit, put).await;
        if let Err(Answer::NotImplemented { .. }) = put {
            // A directory has no attributes to keep.
            let plain = PutOptions { attributes: Attributes::default(), ..options };
            put = within(limit, self.inner.put_opts(&path, bytes.into(), plain)).await;
        }
        put.map(|_| ()).map_err(|source| Error::Store {
            doing: "writing",
            object: name.into(),
            source,
        })
    }

    /// Begins an object that is sent in parts.
    pub async fn multipart(&self, name: &str) -> Result<Box<dyn object_store::MultipartUpload>> {
        let begun = within(SMALL, self.inner.put_multipart(&self.path(name))).await;
        begun.map_err(|source| Error::Store {
            doing: "beginning to write",
            object: name.into(),
            source,
        })
    }

    /// The size of an object; `None` if there is none.
    pub async fn head(&self, name: &str) -> Result<Option<Head>> {
        match within(SMALL, self.inner.head(&self.path(name))).await {
            Ok(meta) => Ok(Some(Head { bytes: meta.size })),
            Err(Answer::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { doing: "asking for", object: name.into(), source }),
        }
    }

    /// A range of an object; `None` if there is no such object.
    pub async fn range(&self, name: &str, range: Range<u64>) -> Result<Option<Piece>> {
        let failed = |source| Error::Store { doing: "reading", object: name.into(), source };
        // An empty range cannot be asked for.
        let part = (!range.is_empty()).then(|| range.clone().into());
        let options = GetOptions { range: part, ..GetOptions::default() };
        let limit = longest(range.end - range.start);
        let got = match within(limit, self.inner.get_opts(&self.path(name), options)).await {
            Ok(got) => got,
            Err(Answer::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let object_bytes = got.meta.size;
        if matches!(got.payload, GetResultPayload::File(..)) {
            let bytes = within(limit, got.bytes()).await.map_err(failed)?;
            return Ok(Some(Piece { bytes, object_bytes }));
        }
        let bytes = within(limit, some(got.into_stream(), range.end - range.start)).await;
        Ok(Some(Piece { bytes: bytes.map_err(failed)?, object_bytes }))
    }

    /// The bytes of an object one after the other, from a store that has no ranges; `None` if there is no
    /// such object.
    pub async fn stream(&self, name: &str) -> Result<Option<Stream>> {
        let failed = |source| Error::Store { doing: "reading", object: name.into(), source };
        match within(SMALL, self.inner.get(&self.path(name))).await {
            Ok(got) => Ok(Some(Stream { name: name.into(), body: got.into_stream() })),
            Err(Answer::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// The objects of a folder of the feed.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let failed =
            |source| Error::Store { doing: "listing", object: format!("{folder}/"), source };
        let path = self.path(folder);
        let found: Vec<_> = self.inner.list(Some(&path)).try_collect().await.map_err(failed)?;
        let name = |location: &Path| {
            let rest = location.prefix_match(&path)?.map(|part| part.as_ref().to_string());
            Some(format!("{folder}/{}", rest.collect::<Vec<_>>().join("/")))
        };
        let listed = found.into_iter().filter_map(|meta| {
            let modified = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
            Some(Listed { name: name(&meta.location)?, bytes: meta.size, modified })
        });
        Ok(listed.collect())
    }

    /// Deletes an object, if there is one.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.inner.delete(&self.path(name)).await {
            Ok(()) | Err(Answer::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Store { doing: "deleting", object: name.into(), source }),
        }
    }
}
