//! Data on its way up: parts are sent while the rest is still being encoded.

use std::io;

use object_store::{MultipartUpload, WriteMultipart};
use pulse::hash::Digest;
use sha2::{Digest as _, Sha256};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::record::Data;
use crate::store::{longest, Store};
use crate::work::wait;

/// Smaller objects are sent in one request, larger ones in parts of at least this size.
const PART_BYTES: usize = 8 << 20;
/// Stores take ten thousand parts, all of one size but the last.
const PARTS_MAX: u64 = 5_000;
/// Parts that are on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// An object that is written to from front to back, and is there once it is finished.
///
/// Memory is a few parts, as long as the encoder may wait for the network, which it may in a runtime of
/// several threads.
pub(crate) struct Upload<'a> {
    store: &'a Store,
    name: String,
    part_bytes: usize,
    hasher: Sha256,
    bytes: u64,
    /// What is not sent.
    rest: Vec<u8>,
    sending: Option<WriteMultipart>,
    failed: Option<Error>,
}

impl<'a> Upload<'a> {
    /// `largest` is how large the object may become.
    pub fn new(store: &'a Store, name: String, largest: u64) -> Self {
        let part = usize::try_from(largest.div_ceil(PARTS_MAX)).unwrap_or(usize::MAX);
        Upload {
            store,
            name,
            part_bytes: part.max(PART_BYTES),
            hasher: Sha256::new(),
            bytes: 0,
            rest: Vec::new(),
            sending: None,
            failed: None,
        }
    }

    fn answered<T>(
        &self,
        doing: &'static str,
        answer: Result<Result<T, object_store::Error>, Elapsed>,
    ) -> Result<T> {
        let stuck = |_| object_store::Error::Generic {
            store: "store",
            source: "no part of it arrives any more".into(),
        };
        let answer = answer.map_err(stuck).and_then(|answer| answer);
        answer.map_err(|source| Error::Store { doing, object: self.name.clone(), source })
    }

    async fn begin(&mut self) -> Result<&mut WriteMultipart> {
        let parts: Box<dyn MultipartUpload> = self.store.multipart(&self.name).await?;
        Ok(self.sending.insert(WriteMultipart::new_with_chunk_size(parts, self.part_bytes)))
    }

    /// Sends the full parts that there are, and waits while too many are on their way.
    async fn send(&mut self) -> Result<()> {
        if self.sending.is_none() {
            self.begin().await?;
        }
        if let Some(sending) = &mut self.sending {
            let limit = longest((PARTS_AT_ONCE * self.part_bytes) as u64);
            let waited = timeout(limit, sending.wait_for_capacity(PARTS_AT_ONCE)).await;
            sending.put(std::mem::take(&mut self.rest).into());
            self.answered("writing a part of", waited)?;
        }
        Ok(())
    }

    /// Bytes that were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes from a task.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.take(bytes);
        if self.rest.len() > self.part_bytes {
            self.send().await?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
    }

    /// As [`finish`](Self::finish), if the bytes have this SHA-256; otherwise nothing appears.
    pub async fn finish_if(mut self, expected: Digest) -> Result<Option<Data>> {
        if Digest(self.hasher.clone().finalize().into()) != expected {
            self.abort().await;
            return Ok(None);
        }
        self.finish().await.map(Some)
    }

    /// Sends the rest and asks the store whether it has all of it (F18).
    pub async fn finish(mut self) -> Result<Data> {
        if let Some(error) = self.failed.take() {
            self.abort().await;
            return Err(error);
        }
        if self.sending.is_none() && self.rest.len() <= self.part_bytes {
            let bytes = std::mem::take(&mut self.rest);
            self.store.create_data(&self.name, bytes).await?;
        } else {
            self.send().await?;
            if let Some(sending) = self.sending.take() {
                let limit = longest((PARTS_AT_ONCE * self.part_bytes) as u64);
                let finished = timeout(limit, sending.finish()).await;
                self.answered("finishing", finished)?;
            }
        }
        let found = self.store.head(&self.name).await?.map(|head| head.bytes);
        if found != Some(self.bytes) {
            let found = found.map_or("nothing".into(), |found| format!("{found} bytes"));
            let what = format!("{} bytes were put, but {found} arrived", self.bytes);
            return Err(Error::data(&self.name, what));
        }
        let sha256 = Digest(self.hasher.finalize().into());
        Ok(Data { object: self.name, sha256, bytes: self.bytes })
    }

    /// What stopped whoever wrote: the store's failure, if there was one, rather than that writing failed.
    pub async fn cause(&mut self, error: Error) -> Error {
        self.abort().await;
        self.failed.take().unwrap_or(error)
    }

    /// Tells the store to forget what it has.
    pub async fn abort(&mut self) {
        if let Some(sending) = self.sending.take() {
            // What it keeps all the same, the bucket's rule for incomplete uploads removes.
            let _ = sending.abort().await;
        }
    }
}

impl io::Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        if self.rest.len() > self.part_bytes {
            if let Some(Err(error)) = wait(self.send()) {
                let message = error.to_string();
                self.failed = Some(error);
                return Err(io::Error::other(message));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
