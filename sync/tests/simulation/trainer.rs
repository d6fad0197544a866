//! Those who publish: they go on, start again with older weights, hang and come back, and run twice.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use pulse::hash::Digest;
use pulse::tensors::Shadow;
use pulse_sync::{Error, Follower, FollowerOptions, Publisher, PublisherOptions, Record};
use tokio::time::{sleep, timeout, Duration};

use crate::dice::Dice;
use crate::model::{one, refs, Tensors, Training};
use crate::schedule::{Process, Sim};

/// How a trainer ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// It published its last version.
    Done,
    Fenced,
    /// The run has ended.
    Ended,
    /// Another writer has handed the feed over to another key.
    Rekeyed,
}

pub struct Trainer {
    sim: Arc<Sim>,
    who: String,
    dice: Dice,
    training: Training,
    step: u64,
    /// Weights that it published last and has kept.
    kept: Option<Arc<Tensors>>,
}

impl Trainer {
    pub fn new(sim: &Arc<Sim>, who: &str, dice: Dice, training: &Training, step: u64) -> Self {
        let (sim, training) = (Arc::clone(sim), training.clone());
        Trainer { sim, who: who.into(), dice, training, step, kept: None }
    }

    fn tell(&self, what: impl AsRef<str>) {
        self.sim.truth.tell(&self.who, what);
    }

    /// Lives, dies and lives again.
    pub async fn run(mut self) -> End {
        loop {
            let process = self.sim.process(&self.who, &mut self.dice);
            let crash = process.crash();
            let end = tokio::select! {
                biased;
                () = crash.notified() => None,
                end = self.live(process) => Some(end),
            };
            if let Some(end) = end.filter(|end| *end != End::Rekeyed) {
                self.tell(format!("ends: {end:?}"));
                return end;
            }
            sleep(self.dice.millis(100..=30_000)).await;
            // It starts from any checkpoint that it has written, and may train on another way from there.
            if self.dice.chance(300) {
                let first = self.dice.between(self.step.saturating_sub(4)..=self.step + 2);
                let weights = self.training.at(first.max(self.training.first()));
                let first = first.max(self.training.first());
                self.training = Training::from(weights, first, self.dice.fork());
                self.step = first;
            }
            self.tell(format!("starts again at step {}", self.step));
        }
    }

    fn options(&mut self, key: usize) -> PublisherOptions {
        let sim = &self.sim;
        let mut options = PublisherOptions::default()
            .with_threads(1)
            .with_anchor_every(sim.anchor_every)
            .with_expires(Duration::from_secs(90))
            .with_patience(self.dice.millis(200..=60_000));
        options.key = sim.keys.lock().unwrap().get(key).cloned();
        options
    }

    async fn start(&mut self, process: &Process) -> Result<Publisher, End> {
        let mut key = self.sim.keys.lock().unwrap().len().saturating_sub(1);
        loop {
            let options = self.options(key);
            match Publisher::start(&process.feed, options).await {
                Ok(publisher) => return Ok(publisher),
                Err(Error::Ended { .. }) => return Err(End::Ended),
                Err(error) => {
                    self.tell(format!("does not start: {error}"));
                    // The newest key may not be in force yet, if it ever is.
                    if matches!(error.kind(), "signature" | "key") {
                        let count = self.sim.keys.lock().unwrap().len();
                        key = (key + count - 1) % count.max(1);
                    } else {
                        self.sim.check_honest(&self.who, &error);
                    }
                    sleep(self.dice.millis(500..=3_000)).await;
                }
            }
        }
    }

    /// What the next patch starts from: what is at hand.
    async fn base(&mut self, process: &Process, publisher: &Publisher) -> Shadow {
        let head = publisher.head().map(|head| head.target);
        let kept = match self.dice.between(0..=3) {
            0 => self.kept.clone(),
            1 => head.and_then(|head| self.sim.truth.weights(&head)),
            2 => {
                let key = self.sim.trusted();
                let mut options = FollowerOptions::default();
                options.trust = key;
                let fetch = async {
                    let mut follower = Follower::open(&process.feed, None, options).await?;
                    follower.to_memory(one()).await
                };
                let fetched = timeout(Duration::from_secs(20), fetch).await;
                fetched.ok().and_then(Result::ok).map(|(_, weights)| Arc::new(weights))
            }
            _ => None,
        };
        let weights = kept.unwrap_or_else(|| self.training.at(self.step));
        self.sim.truth.know(&weights);
        Shadow::new(&refs(&weights), one()).unwrap()
    }

    async fn live(&mut self, process: Process) -> End {
        let mut publisher = match self.start(&process).await {
            Ok(publisher) => publisher,
            Err(end) => return end,
        };
        let mut shadow = self.base(&process, &publisher).await;
        if self.dice.chance(400) {
            if let Err(error) = publisher.claim().await {
                if let Some(end) = self.failed(&mut publisher, &mut shadow, &error).await {
                    return end;
                }
            }
        }
        loop {
            let is_last = self.sim.is_finishing();
            self.step += u64::from(!self.dice.chance(100));
            let weights = self.training.at(self.step);
            let wanted = self.sim.truth.want(&self.training, &weights, self.step);
            if self.dice.chance(40) {
                self.hand_over(&mut publisher);
            }
            let misled = || process.misled.swap(false, Ordering::SeqCst);
            misled();
            let base = shadow.digests().checkpoint;
            let was_head = self.sim.truth.is_version(&base);
            let source = refs(&weights);
            let publish = publisher.publish(&mut shadow, &source, Some(self.step));
            let patience = self.dice.millis(300..=90_000);
            let result = timeout(patience, publish).await;
            let is_sound = !misled() && !self.sim.truth.has_lost();
            match result {
                Ok(Ok(published)) => {
                    let record = &published.record;
                    self.tell(format!("published {} at step {}", record.version, self.step));
                    self.sim.truth.published(&self.who, record, wanted);
                    // What another one has put, it had its reasons for.
                    let is_own = record.writer == publisher.writer();
                    if is_own && is_sound && published.report.is_none() {
                        self.check_anchor(record);
                    }
                    self.kept = Some(weights);
                    if is_last {
                        return End::Done;
                    }
                }
                Ok(Err(error)) => {
                    if let Some(end) = self.failed(&mut publisher, &mut shadow, &error).await {
                        return end;
                    }
                }
                Err(_) => self.tell(format!("gives up step {}", self.step)),
            }
            let now = shadow.digests().checkpoint;
            if is_sound
                && was_head
                && !self.sim.truth.is_version(&now)
                && self.was_possible(&publisher, base)
            {
                self.sim.truth.accuse(&self.who, "the base moved to what is no version");
            }
            sleep(self.dice.millis(50..=12_000)).await;
            if self.dice.chance(150) {
                // It hangs.
                sleep(self.dice.millis(5_000..=60_000)).await;
            }
            if self.dice.chance(200) {
                let _ = publisher.refresh().await;
            }
        }
    }

    /// Whether a patch could have started from the base when it was asked for.
    fn was_possible(&self, publisher: &Publisher, base: Digest) -> bool {
        publisher.head().is_some_and(|head| head.target == base)
    }

    /// A writer that follows its own version needs no anchor. One that finds its version put by another rank
    /// may be far behind, where data is pruned.
    fn check_anchor(&self, record: &Record) {
        let version = record.version;
        let before = version.checked_sub(1).and_then(|before| self.sim.truth.entry(before));
        let is_own = before
            .is_some_and(|before| before.writer == record.writer.to_string() && before.is_change());
        let is_anchor = record.patch.is_none() && record.own_anchor().is_some();
        if is_own && is_anchor {
            self.sim
                .truth
                .accuse(&self.who, format!("version {version} is an anchor without need"));
        }
    }

    fn hand_over(&mut self, publisher: &mut Publisher) {
        let mut keys = self.sim.keys.lock().unwrap();
        if !keys.is_empty() && keys.len() < 4 {
            let key = pulse_sync::SecretKey::generate(self.sim.world(&mut self.dice, 0).as_ref());
            if publisher.hand_over(key.clone()).is_ok() {
                self.tell(format!("hands over to {}", key.public()));
                keys.push(key);
            }
        }
    }

    /// Whether that was the end.
    async fn failed(
        &mut self,
        publisher: &mut Publisher,
        shadow: &mut Shadow,
        error: &Error,
    ) -> Option<End> {
        self.tell(format!("failed: {error}"));
        match error {
            Error::Fenced { writer, .. } => {
                self.sim.truth.fence(&writer.to_string());
                let weights = self.training.at(self.step);
                if publisher.publish(shadow, &refs(&weights), None).await.is_ok() {
                    self.sim.truth.accuse(&self.who, "published although it is fenced");
                }
                Some(End::Fenced)
            }
            Error::Ended { .. } => Some(End::Ended),
            error if error.kind() == "signature" => Some(End::Rekeyed),
            error => {
                self.sim.check_honest(&self.who, error);
                None
            }
        }
    }
}
