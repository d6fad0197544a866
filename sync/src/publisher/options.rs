//! Choices of a publisher.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use pulse::stream::EncoderOptions;

use crate::key::SecretKey;

/// Is told how far it is, and may stop it.
type Progress = dyn Fn(u64) -> ControlFlow<()> + Send + Sync;

/// Choices of a [`Publisher`](crate::Publisher).
#[derive(Clone)]
#[non_exhaustive]
pub struct PublisherOptions {
    /// Signs what is published; a new feed is then signed.
    pub key: Option<SecretKey>,
    /// An anchor is made when so many versions have gone by since the last one; never, if it is 0.
    pub anchor_every: u64,
    /// How long the hint of the newest version counts as fresh.
    pub expires: Duration,
    /// How long a record without a clear answer is tried before the call gives up. The next call
    /// goes on with it.
    pub patience: Duration,
    /// Threads that encode.
    pub threads: usize,
    /// How patches are written.
    pub encoder: EncoderOptions,
    pub(super) progress: Arc<Progress>,
}

impl fmt::Debug for PublisherOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PublisherOptions");
        shown.field("key", &self.key).field("anchor_every", &self.anchor_every);
        shown.field("expires", &self.expires).field("patience", &self.patience);
        shown.field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Default for PublisherOptions {
    fn default() -> Self {
        PublisherOptions {
            key: None,
            anchor_every: 50,
            expires: Duration::from_secs(24 * 3600),
            patience: Duration::from_secs(300),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            encoder: EncoderOptions::default(),
            progress: Arc::new(|_| ControlFlow::Continue(())),
        }
    }
}

impl PublisherOptions {
    /// Replaces [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: SecretKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Replaces [`anchor_every`](Self::anchor_every).
    #[must_use]
    pub fn with_anchor_every(mut self, versions: u64) -> Self {
        self.anchor_every = versions;
        self
    }

    /// Replaces [`expires`](Self::expires).
    #[must_use]
    pub fn with_expires(mut self, expires: Duration) -> Self {
        self.expires = expires;
        self
    }

    /// Replaces [`patience`](Self::patience).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Replaces [`threads`](Self::threads).
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Replaces [`encoder`](Self::encoder).
    #[must_use]
    pub fn with_encoder(mut self, encoder: EncoderOptions) -> Self {
        self.encoder = encoder;
        self
    }

    /// Calls this with the tensor bytes that were encoded since the last call, as
    /// [`Control::with_progress`](pulse::tensors::Control::with_progress) does; a break ends the call with [`pulse::Error::Cancelled`], and nothing is
    /// published by it.
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(u64) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Arc::new(progress);
        self
    }
}
