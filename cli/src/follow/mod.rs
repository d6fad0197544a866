//! `pulse follow`: the newest version of a feed as a checkpoint, for ever.

mod metrics;
mod place;
mod teller;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use pulse::hash::Digest;
use pulse_sync::{records, Error, Feed, Follower, FollowerOptions, Record, Run, Update};

use self::metrics::Metrics;
use self::place::Place;
use self::teller::{Seconds, Teller};
use super::failure::{usage, Failure, Result};
use super::feed::{self, Trusting};
use super::following::Following;
use super::progress::control;
use super::{durations, signals, Common, Outcome};

/// Longest times between two looks after which it is looked whether the feed is still there.
const LOOK_AFTER_FEED: u32 = 3;
/// Before something is tried again that this machine is at fault for.
const RETRY: Duration = Duration::from_secs(5);
/// Tries with --once.
const TRIES: usize = 5;

/// Follow a feed: keep its newest version at DEST.
///
/// DEST becomes a link to DEST.versions/<version>, an ordinary checkpoint. A new version is made beside the one that is
/// served, proved by its digest, and switched to in one rename; whoever has the old one open keeps it. Versions are
/// fetched by the cheapest way in bytes: patches, skips over several versions, or an anchor.
///
/// It follows until a signal stops it, which is no failure; a switch that has begun is finished first. What passes, such
/// as a store that does not answer or a full disk, is reported and tried again. What does not pass ends it.
///
/// With --in-place DEST is an ordinary checkpoint, which is itself changed: for machines without room for two.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse follow s3://bucket/run-7 served
  pulse follow https://mirror.example/run-7 model.safetensors --once
  pulse follow /srv/feeds/run-7 served --trust 83be…c1 --exec ./reload-model
  pulse follow s3://bucket/run-7 served --metrics 127.0.0.1:9184 --json
  pulse follow s3://bucket/run-7 served --at step=1200")]
pub struct Follow {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    /// Where its newest version shall be.
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// Get the newest version and end.
    #[arg(long)]
    once: bool,
    /// Get this version, or that of an optimizer step, also an older one than is served, and end: 17, or step=1200. A
    /// number above the newest is waited for.
    #[arg(long, value_name = "VERSION|step=STEP", value_parser = parse_at)]
    at: Option<At>,
    /// Warn when DEST is more than N versions behind; with --once that is a failure.
    #[arg(long, value_name = "N")]
    max_lag: Option<u64>,
    #[command(flatten)]
    trusting: Trusting,
    /// Run a shell command after each switch, with PULSE_VERSION, PULSE_STEP, PULSE_DIGEST and PULSE_PATH in its environment.
    ///
    /// The next version waits until it ends. If it fails that is reported, and following goes on.
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Change the checkpoint DEST itself; `pulse recover` makes it whole after a crash, and so does this command.
    #[arg(long, conflicts_with = "keep")]
    in_place: bool,
    /// Old versions that stay in DEST.versions after a switch.
    #[arg(long, value_name = "N", default_value_t = 2)]
    keep: usize,
    /// Serve metrics for Prometheus at http://ADDR/metrics; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// The shortest time between two looks for a new version.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = durations::parse)]
    poll: Duration,
    /// The longest time between two looks; it grows with the time that versions take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = durations::parse)]
    poll_max: Duration,
    /// At the start, believe that DEST is what was served last if size and time of every file are the same, instead of
    /// reading all of it.
    #[arg(long)]
    trust_state: bool,
    #[command(flatten)]
    following: Following,
}

/// Which version is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Version(u64),
    Step(u64),
}

fn parse_at(text: &str) -> Result<At, String> {
    let number = |digits: &str| {
        digits.parse().map_err(|_| {
            format!("{text} is no version, such as 17, and no step, such as step=1200")
        })
    };
    match text.split_once('=') {
        Some(("step", step)) => number(step).map(At::Step),
        Some(("version", version)) => number(version).map(At::Version),
        _ => number(text).map(At::Version),
    }
}

impl Follow {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        if self.poll.is_zero() || self.poll_max < self.poll {
            return usage("--poll must be more than 0, and --poll-max no less than --poll");
        }
        let feed = feed::open(&self.feed)?;
        let place = Place::open(self)?;
        let _deferred = signals::defer();
        let metrics = Arc::<Metrics>::default();
        let address = self.metrics.map(|at| metrics::serve(at, &metrics)).transpose()?;
        let teller = Arc::new(Teller::new(common, self.max_lag, metrics));
        let following = Session { options: self, common, feed, place, teller };
        feed::block_on(following.follow(address))?;
        Ok(Outcome::printed(None))
    }
}

struct Session<'a> {
    options: &'a Follow,
    common: &'a Common,
    feed: Feed,
    place: Place,
    teller: Arc<Teller>,
}

/// What is held: its place and digest.
type Held = Option<(PathBuf, Digest)>;

impl Session<'_> {
    fn named(&self, error: Error) -> Failure {
        Failure::of_feed(self.feed.address())(error)
    }

    /// Follows until it is done or a signal comes.
    async fn follow(&self, metrics: Option<SocketAddr>) -> Result<()> {
        let done = tokio::select! {
            done = self.work(metrics) => done,
            () = signals::stopped() => Err(pulse::Error::Cancelled.into()),
        };
        self.teller.clear();
        match done {
            // Stopped before it has what it was started for, it has failed.
            Err(failure) if failure.is_stopped() && !self.ends() => {
                self.teller.stopped();
                Ok(())
            }
            other => other,
        }
    }

    /// Whether it ends by itself.
    fn ends(&self) -> bool {
        self.options.once || self.options.at.is_some()
    }

    async fn work(&self, metrics: Option<SocketAddr>) -> Result<()> {
        let mut held = self.held(self.options.trust_state)?;
        let mark = self.place.mark()?;
        let at = match self.options.at {
            Some(At::Version(version)) => Some(version),
            Some(At::Step(step)) => Some(self.version_of(step).await?),
            None => None,
        };
        let mut choices = FollowerOptions::default()
            .with_poll(self.options.poll, self.options.poll_max)
            .with_spool(self.place.directory())
            .with_events(self.teller.listener());
        (choices.trust, choices.at) = (self.options.trusting.trust, at);
        let open = || Follower::open(&self.feed, mark, choices.clone());
        let mut follower = self.patiently(open).await?;
        let run = self.patiently(|| self.feed.manifest()).await?.map(|manifest| manifest.run);
        // A key that was followed before is that of the mark.
        let trusted = choices.trust.or(mark.and_then(|mark| mark.key)).is_some();
        self.teller.following(self.feed.address(), run, (follower.key(), trusted), metrics);
        loop {
            let started = Instant::now();
            let digest = held.as_ref().map(|(_, digest)| *digest);
            let update = tokio::select! {
                update = self.next(&mut follower, digest, at) => update?,
                failure = self.look_after(run) => return Err(failure),
            };
            let Some(update) = update else {
                let head = follower.head().map(|head| head.version);
                if at.is_some_and(|at| head.is_none_or(|head| head < at)) {
                    return Err(self.nothing(at, follower.head()));
                }
                let (path, _) = held.ok_or_else(|| self.nothing(at, follower.head()))?;
                let version = at.or(follower.mark().map(|mark| mark.version));
                self.teller.already(version, &self.options.dest, &path);
                return self.check_lag(&follower);
            };
            let fetch = update.seconds;
            let wait = (started.elapsed().as_secs_f64() - fetch).max(0.0);
            match self.switch(
                &mut follower,
                &update,
                &held,
                Seconds { wait, fetch, ..Seconds::default() },
            ) {
                Ok(now) => held = Some(now),
                Err(error) => {
                    held = self.settle(&mut follower, &update, held, error).await?;
                    continue;
                }
            }
            if let Some((path, _)) = &held {
                self.execute(&update.record, path);
            }
            if self.ends() {
                return self.check_lag(&follower);
            }
        }
    }

    /// What DEST holds, by its bytes.
    fn held(&self, trust_state: bool) -> Result<Held> {
        let control = control(self.common.threads);
        Ok(tokio::task::block_in_place(|| self.place.held(trust_state, control))?)
    }

    /// The newest version of an optimizer step.
    async fn version_of(&self, step: u64) -> Result<u64> {
        let trust = self.options.trusting.trust;
        let all = self.patiently(|| records(&self.feed, trust, 0, None)).await?;
        let found = all.iter().rev().find(|record| record.step == Some(step));
        if let Some(found) = found {
            return Ok(found.version);
        }
        let newest = all.last().map_or("there is none yet".into(), |last| {
            format!("the newest is {}", feed::version(last))
        });
        let why = format!("no version has optimizer step {step}; {newest}");
        Err(Failure::advised(Error::Misuse(why), "pulse feed log shows the steps that there are"))
    }

    /// Why there is nothing although it was asked for.
    fn nothing(&self, at: Option<u64>, head: Option<&Record>) -> Failure {
        let wanted = at.unwrap_or(0);
        let why = head.map_or("the feed has no version yet".into(), |head| {
            format!("the newest is {}", feed::version(head))
        });
        let advice = "wait until it is published";
        let error = Error::Lost { wanted, why };
        Failure::Feed {
            feed: Some(self.feed.address().into()),
            error: Box::new(error),
            hint: Some(advice.into()),
        }
    }

    /// Tries until it works, as often as may be.
    async fn patiently<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = pulse_sync::Result<T>>,
    {
        let mut tries = 0;
        loop {
            match work().await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    tries += 1;
                    if !error.is_passing() || self.ends() && tries >= TRIES {
                        return Err(self.named(error));
                    }
                    let pause = RETRY.mul_f64(0.2 * tries.min(25) as f64);
                    self.teller.refused(&error, pause);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The next update; none if the newest version is held and it is not waited for another one.
    async fn next(
        &self,
        follower: &mut Follower,
        held: Option<Digest>,
        at: Option<u64>,
    ) -> Result<Option<Update>> {
        let (mut tries, mut is_said) = (0, false);
        loop {
            let next = match at {
                _ if self.options.once => follower.look(held).await,
                None => follower.next(held).await.map(Some),
                Some(at) => match follower.look(held).await {
                    Ok(None) if follower.head().is_none_or(|head| head.version < at) => {
                        if !std::mem::replace(&mut is_said, true) {
                            self.teller.awaiting(at, follower.head().map(|head| head.version));
                        }
                        tokio::time::sleep(self.options.poll_max.min(RETRY)).await;
                        continue;
                    }
                    other => other,
                },
            };
            let error = match next {
                Ok(update) => return Ok(update),
                // The last version is held.
                Err(Error::Ended { version }) => {
                    self.teller.ended(version);
                    return Ok(None);
                }
                Err(error) => error,
            };
            tries += 1;
            let passes = error.is_passing() || is_local(&error);
            if !passes || self.ends() && tries >= TRIES {
                return Err(self.named(error));
            }
            self.teller.refused(&error, RETRY);
            tokio::time::sleep(if self.ends() { RETRY / 10 } else { RETRY }).await;
        }
    }

    /// Looks whether the feed is still there, and still the same; ends when it is another one.
    async fn look_after(&self, run: Option<Run>) -> Failure {
        let pause = self.options.poll_max * LOOK_AFTER_FEED;
        loop {
            tokio::time::sleep(pause).await;
            match self.feed.manifest().await {
                Ok(None) => {
                    let error = Error::NoFeed { store: self.feed.address().into() };
                    self.teller.refused(&error, pause);
                }
                Ok(Some(found)) => {
                    if let Some(expected) = run.filter(|run| *run != found.run) {
                        let fault = pulse_sync::DocumentFault::Run { expected, found: found.run };
                        return self.named(Error::Document { object: "pulse.json".into(), fault });
                    }
                }
                // The store does not answer, which is said where it is read from.
                Err(_) => {}
            }
        }
    }

    /// Makes the version of an update, and switches to it.
    fn switch(
        &self,
        follower: &mut Follower,
        update: &Update,
        held: &Held,
        mut seconds: Seconds,
    ) -> Result<(PathBuf, Digest), Error> {
        let record = &update.record;
        let base = held.as_ref().map(|(path, _)| path.as_path());
        let started = Instant::now();
        let (staged, notes) = tokio::task::block_in_place(|| {
            self.teller.proving(update);
            let staged = self.place.stage(update, base, self.teller.control());
            self.teller.clear();
            staged
        })?;
        follower.served(update, record.target)?;
        seconds.verify = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mark = *follower.mark().ok_or_else(|| Error::Misuse("nothing is served".into()))?;
        let path =
            tokio::task::block_in_place(|| self.place.switch(&staged, &mark, record.target))?;
        seconds.switch = started.elapsed().as_secs_f64();
        let head = follower.head().map_or(record.version, |head| head.version);
        self.teller.switched(update, &path, &seconds, head);
        self.teller.notes(&notes);
        Ok((path, record.target))
    }

    /// What to do when an update could not be made: gives back what is held.
    async fn settle(
        &self,
        follower: &mut Follower,
        update: &Update,
        held: Held,
        error: Error,
    ) -> Result<Held> {
        use pulse::Error as E;
        if matches!(error, Error::Pulse(E::Cancelled)) {
            return Err(error.into());
        }
        let again = match &error {
            // This machine is at fault, or somebody reads what is to be changed.
            _ if is_local(&error) => false,
            Error::Pulse(E::Busy { .. }) => false,
            // What was held is so no more.
            Error::Pulse(
                E::BaseMismatch(_)
                | E::BadFile { .. }
                | E::BaseFile { .. }
                | E::Changed { .. }
                | E::Interrupted { .. },
            ) => true,
            Error::Misuse(_)
            | Error::Pulse(E::NotInPlace { .. } | E::Unrecovered { .. } | E::Exists { .. }) => {
                return Err(self.named(error));
            }
            _ => {
                follower.failed(update);
                false
            }
        };
        let pause = if self.ends() { RETRY / 10 } else { RETRY };
        self.teller.refused(&error, pause);
        if self.ends() && self.teller.refusals() >= TRIES as u64 {
            return Err(self.named(error));
        }
        tokio::time::sleep(pause).await;
        if again {
            return self.held(false);
        }
        Ok(held)
    }

    /// With --once: whether what was got is new enough.
    fn check_lag(&self, follower: &Follower) -> Result<()> {
        let head = follower.head().map_or(0, |head| head.version);
        let served = follower.mark().map_or(0, |mark| mark.version);
        match self.options.max_lag {
            Some(most) if self.options.at.is_none() && head.saturating_sub(served) > most => {
                let behind = head - served;
                let why =
                    format!("version {served} is what can be had, {behind} behind the newest");
                Err(self.named(Error::Lost { wanted: head, why }))
            }
            _ => Ok(()),
        }
    }

    /// Runs the command of --exec.
    fn execute(&self, record: &Record, path: &Path) {
        let Some(command) = &self.options.exec else { return };
        let started = Instant::now();
        // A signal waits until it has ended, as it waits for a switch.
        let ended = tokio::task::block_in_place(|| run_command(command, record, path));
        self.teller.executed(ended, started.elapsed().as_secs_f64());
    }
}

/// Whether this machine is at fault: its disk, its permissions.
fn is_local(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Pulse(pulse::Error::Io { .. }))
}

/// Runs a shell command.
fn run_command(command: &str, record: &Record, path: &Path) -> std::io::Result<ExitStatus> {
    #[cfg(unix)]
    let mut shell = Command::new("sh");
    #[cfg(unix)]
    shell.args(["-c", command]);
    #[cfg(not(unix))]
    let mut shell = Command::new("cmd");
    #[cfg(not(unix))]
    shell.args(["/C", command]);
    shell
        .env("PULSE_VERSION", record.version.to_string())
        .env("PULSE_STEP", record.step.map_or(String::new(), |step| step.to_string()))
        .env("PULSE_DIGEST", record.target.to_string())
        .env("PULSE_PATH", path)
        .stdin(Stdio::null())
        // Standard output is for what follow itself says.
        .stdout(std::io::stderr());
    shell.status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_and_a_step_says_so() {
        assert_eq!(parse_at("17"), Ok(At::Version(17)));
        assert_eq!(parse_at("step=1200"), Ok(At::Step(1200)));
        assert_eq!(parse_at("version=17"), Ok(At::Version(17)));
        for wrong in ["", "latest", "step", "step=", "steps=1", "-1"] {
            assert!(parse_at(wrong).is_err(), "{wrong}");
        }
    }
}
