//! The objects of one feed in a store: small ones whole and bounded, data in ranges, and what answers mean.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as Answer, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions,
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
    pub e_tag: Option<String>,
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
        let got = match self.inner.get(&self.path(name)).await {
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
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(failed)?);
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
        let mut put = self.inner.put_opts(&path, bytes.clone().into(), options.clone()).await;
        if let Err(Answer::NotImplemented { .. }) = put {
            // A directory has no attributes to keep.
            let plain = PutOptions { attributes: Attributes::default(), ..options };
            put = self.inner.put_opts(&path, bytes.into(), plain).await;
        }
        put.map(|_| ()).map_err(|source| Error::Store {
            doing: "writing",
            object: name.into(),
            source,
        })
    }

    /// Begins an object that is sent in parts.
    pub async fn multipart(&self, name: &str) -> Result<Box<dyn object_store::MultipartUpload>> {
        self.inner.put_multipart(&self.path(name)).await.map_err(|source| Error::Store {
            doing: "beginning to write",
            object: name.into(),
            source,
        })
    }

    /// The size of an object; `None` if there is none.
    pub async fn head(&self, name: &str) -> Result<Option<Head>> {
        match self.inner.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(Head { bytes: meta.size })),
            Err(Answer::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { doing: "asking for", object: name.into(), source }),
        }
    }

    /// A range of an object, of the one with this tag if it is given; `None` if there is no such object.
    pub async fn range(
        &self,
        name: &str,
        range: Range<u64>,
        e_tag: Option<String>,
    ) -> Result<Option<Piece>> {
        let failed = |source| Error::Store { doing: "reading", object: name.into(), source };
        // An empty range cannot be asked for.
        let part = (!range.is_empty()).then(|| range.clone().into());
        let options = GetOptions { range: part, if_match: e_tag, ..GetOptions::default() };
        let got = match self.inner.get_opts(&self.path(name), options).await {
            Ok(got) => got,
            Err(Answer::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let (object_bytes, e_tag) = (got.meta.size, got.meta.e_tag.clone());
        let bytes = got.bytes().await.map_err(failed)?;
        Ok(Some(Piece { bytes, object_bytes, e_tag }))
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
