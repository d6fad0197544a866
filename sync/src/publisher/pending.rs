//! A record on its way: put until the answer is clear (FEED.md §6.1), and what is there instead of it (§6.2).

use std::time::Duration;

use pulse::tensors::Unpublished;

use super::Publisher;
use crate::error::{is_refusal, Error, Result};
use crate::log::{self, Log};
use crate::name;
use crate::record::{Record, Sealed};
use crate::retry::Backoff;
use crate::store::Put;

/// A record whose put has no clear answer yet (F19).
#[derive(Debug)]
pub(super) struct Pending {
    record: Record,
    bytes: Vec<u8>,
    /// What the weights become when it is there.
    unpublished: Option<Unpublished>,
    /// Whether a request of it may have reached the store.
    is_tried: bool,
}

pub(super) enum Settled {
    /// It is the next version, whoever put it.
    Done(Sealed),
    /// A version of a writer that is fenced now came before.
    Overtaken(Sealed),
}

impl Publisher {
    /// Takes a record to be put, if readers will take it: what is put is there for ever.
    pub(super) fn begin(&mut self, record: Record, unpublished: Option<Unpublished>) -> Result<()> {
        let mut keys = Vec::from_iter(&self.options.key);
        keys.extend(self.new_key.as_ref().filter(|_| record.new_key.is_some()));
        let bytes = record.seal(&keys);
        let sealed = Sealed::parse(&name::record(record.version), &bytes);
        let sealed = sealed.map_err(|error| Error::Misuse(format!("it cannot be put: {error}")))?;
        match &self.log {
            Some(log) => log.check_next(&sealed)?,
            None => drop(Log::begin(&self.feed.store, self.manifest, sealed)?),
        }
        self.pending = Some(Pending { record, bytes, unpublished, is_tried: false });
        Ok(())
    }

    /// Puts the pending record until there is a clear answer. It stays pending if there is none, or if the
    /// caller gives up waiting (F19).
    pub(super) async fn settle(&mut self) -> Result<Option<(Settled, Option<Unpublished>)>> {
        if self.fenced {
            return Err(Error::Misuse(
                "this publisher is fenced: another one has taken over".into(),
            ));
        }
        let deadline = tokio::time::Instant::now() + self.options.patience;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let Some(pending) = &mut self.pending else { return Ok(None) };
            let was_tried = std::mem::replace(&mut pending.is_tried, true);
            let name = name::record(pending.record.version);
            let mut failure = match self.feed.store.create(&name, pending.bytes.clone()).await {
                Put::Created => {
                    let sealed = Sealed::parse(&name, &pending.bytes)?;
                    let unpublished = pending.unpublished.take();
                    self.pending = None;
                    return Ok(Some((Settled::Done(sealed), unpublished)));
                }
                Put::Exists => None,
                Put::Unclear(error) => Some(error),
            };
            if let Some(Error::Store { source, .. }) = &failure {
                if is_refusal(source) && !was_tried {
                    // This is clear: it was understood and refused, and nothing was put before.
                    self.pending = None;
                    return failure.map_or(Ok(None), Err);
                }
            }
            match log::read(&self.feed.store, pending.record.version).await {
                Ok(Some(found)) => {
                    if let Some(log) = &self.log {
                        // What is forged fences nobody: the record is put once it is taken away.
                        log.check_origin(&found)?;
                    }
                    return self.decide(found).map(Some);
                }
                // No answer: what is being written, what is not to be read yet, or nothing.
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
            let pause = backoff.pause(self.feed.world.as_ref());
            if tokio::time::Instant::now() + pause > deadline {
                let why = "the store says that its record exists, but not what it is".into();
                let wanted = self.next_version();
                return Err(failure.unwrap_or(Error::Lost { wanted, why }));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// What a record means that is there where the pending one should be (F20, F25).
    fn decide(&mut self, found: Sealed) -> Result<(Settled, Option<Unpublished>)> {
        let Some(pending) = self.pending.take() else {
            return Err(Error::Misuse("nothing is pending".into()));
        };
        let (own, other) = (&pending.record, &found.record);
        let is_same = other == own
            || own.is_change()
                && other.links.map(|links| links.previous) == own.links.map(|links| links.previous)
                && (other.target, other.step) == (own.target, own.step);
        if is_same {
            return Ok((Settled::Done(found), pending.unpublished));
        }
        if other.epoch < self.epoch || (other.epoch, other.writer) == (self.epoch, self.writer) {
            return Ok((Settled::Overtaken(found), pending.unpublished));
        }
        self.fenced = true;
        Err(Error::Fenced {
            version: other.version,
            writer: self.writer,
            epoch: self.epoch,
            other: other.writer,
            other_epoch: other.epoch,
        })
    }
}
