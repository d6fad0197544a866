//! Those who follow: at once, late, slowly, and again from whatever they had on disk.

use std::sync::Arc;

use pulse::tensors::PrepareOptions;
use pulse_sync::{Error, Event, Follower, FollowerOptions, Mark, Update};
use tokio::time::{sleep, Duration};

use crate::dice::Dice;
use crate::model::{self, digest, muts, one, Tensors};
use crate::schedule::{Process, Sim};
use crate::store::{Bucket, Weather};

/// What it follows.
#[derive(Debug, Clone)]
pub struct Source {
    pub bucket: Arc<Bucket>,
    pub weather: Arc<Weather>,
    /// Whether it may show what is not of the feed.
    pub is_hostile: bool,
}

/// What a reader has after a restart.
#[derive(Debug, Default, Clone)]
struct Disk {
    mark: Option<Mark>,
    weights: Option<Tensors>,
}

pub struct Reader {
    sim: Arc<Sim>,
    who: String,
    dice: Dice,
    source: Source,
    disk: Disk,
    /// The longest pause after a version.
    pace: u64,
    /// The key that it was given; the first one of the feed.
    has_key: bool,
}

impl Reader {
    pub fn new(sim: &Arc<Sim>, who: &str, mut dice: Dice, source: Source) -> Self {
        let pace = *dice.pick(&[100, 3_000, 40_000]);
        // A key from nowhere is no protection from a store that is hostile.
        let has_key = source.is_hostile || dice.chance(500);
        let (sim, disk) = (Arc::clone(sim), Disk::default());
        Reader { sim, who: who.into(), dice, source, disk, pace, has_key }
    }

    fn tell(&self, what: impl AsRef<str>) {
        self.sim.truth.tell(&self.who, what);
    }

    pub async fn run(mut self) {
        sleep(self.dice.millis(0..=60_000)).await;
        loop {
            let process = self.sim.process_at(&self.source, &self.who, &mut self.dice);
            let crash = process.crash();
            let error = tokio::select! {
                biased;
                () = crash.notified() => None,
                error = self.live(process) => Some(error),
            };
            match error {
                Some(Error::Ended { .. }) => return self.tell("has the last version"),
                Some(error) => {
                    self.tell(format!("stops: {error}"));
                    if !self.source.is_hostile {
                        self.sim.check_honest(&self.who, &error);
                    }
                }
                None => {}
            }
            sleep(self.dice.millis(100..=20_000)).await;
            match self.dice.between(0..=11) {
                0 => self.disk.weights = None,
                1 => self.disk.weights = Some(model::random(&mut self.dice)),
                // Another machine.
                2 => {
                    self.disk = Disk::default();
                    self.sim.truth.forgets(&self.who);
                }
                _ => {}
            }
            self.tell(format!("starts again from {:?}", self.disk.mark.map(|mark| mark.version)));
        }
    }

    fn options(&self) -> FollowerOptions {
        let (truth, who) = (Arc::clone(&self.sim.truth), self.who.clone());
        let mut options = FollowerOptions::default().with_events(move |event| match event {
            Event::Refused { error, .. } => truth.tell(&who, format!("refuses: {error}")),
            Event::Planned { version, way } => {
                let parts = way.parts.iter().map(|part| (part.from, part.to, part.is_recorded));
                truth.tell(&who, format!("goes to {version} by {:?}", parts.collect::<Vec<_>>()));
            }
            Event::Expired { .. } => truth.tell(&who, "finds the hint expired"),
            _ => {}
        });
        options.trust = self.sim.trusted().filter(|_| self.has_key);
        options
    }

    async fn live(&mut self, process: Process) -> Error {
        let mut held = self.disk.weights.clone();
        let opened = Follower::open(&process.feed, self.disk.mark, self.options()).await;
        let mut follower = match opened {
            Ok(follower) => follower,
            Err(error) => return error,
        };
        loop {
            self.sim.holds(&self.who, held.as_ref());
            // Every other time it prepares while the data arrives.
            let next = match &mut held {
                Some(held) if self.dice.chance(500) => {
                    let known = digest(held);
                    let options = PrepareOptions::default();
                    follower.next_beside(&muts(held), known, options, one()).await
                }
                held => follower.next(held.as_ref().map(digest)).await,
            };
            let update = match next {
                Ok(update) => update,
                Err(error) => return error,
            };
            match self.apply(&mut follower, &update, &mut held).await {
                Ok(()) => {}
                Err(error) => {
                    self.tell(format!("could not apply: {error}"));
                    follower.failed(&update);
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            }
            let pace = if self.sim.is_finishing() { 100 } else { self.pace };
            sleep(self.dice.millis(0..=pace)).await;
        }
    }

    async fn apply(
        &mut self,
        follower: &mut Follower,
        update: &Update,
        held: &mut Option<Tensors>,
    ) -> pulse_sync::Result<()> {
        let made = match held {
            Some(held) if self.dice.chance(500) || !update.is_whole() => {
                let prepared = update.prepare(&muts(held), PrepareOptions::default(), one())?;
                // It serves on, and may be stopped.
                sleep(self.dice.millis(0..=500)).await;
                prepared.commit(&mut muts(held), one())?.target
            }
            _ => {
                let made = update.chain()?.to_memory(one())?;
                let target = digest(&made);
                *held = Some(made);
                target
            }
        };
        let served = follower.served(update, made);
        let weights = held.as_ref().expect("it has just been made");
        let Some(mark) = follower.mark().filter(|_| served.is_ok()).copied() else {
            // What it holds now is of no version: to be told of that after the fact is too late.
            self.sim.truth.accuse(&self.who, format!("serves what is no version: {served:?}"));
            return served;
        };
        self.tell(format!("serves {}", mark.version));
        if self.source.is_hostile {
            self.sim.serves_hostile(
                &self.who,
                &self.source.bucket,
                self.disk.mark,
                &mark,
                update,
                weights,
            );
        } else {
            self.sim.truth.serves(&self.who, &mark, made, weights);
        }
        self.disk.mark = Some(mark);
        if self.dice.chance(300) {
            self.disk.weights = held.clone();
        }
        Ok(())
    }
}
