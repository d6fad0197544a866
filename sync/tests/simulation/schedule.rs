//! One run: who is there, what goes wrong, and what holds when it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pulse_sync::{
    Error, Feed, Mark, PublicKey, Publisher, PublisherOptions, SecretKey, Update, World,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, Duration, Instant};

use crate::dice::{Dice, Place};
use crate::entry::{record, Entry};
use crate::hostile;
use crate::keeper::{self, Duty};
use crate::model::{self, digest, Tensors, Training};
use crate::reader::{Reader, Source};
use crate::store::{Bucket, Client, Weather};
use crate::trainer::{End, Trainer};
use crate::truth::Truth;

/// What all actors of a schedule share.
pub struct Sim {
    pub truth: Arc<Truth>,
    pub main: Arc<Bucket>,
    weather: Arc<Weather>,
    pub keys: Mutex<Vec<SecretKey>>,
    first_key: Option<PublicKey>,
    pub anchor_every: u64,
    start: Instant,
    finishing: AtomicBool,
    /// What each reader holds.
    held: Mutex<std::collections::BTreeMap<String, Option<pulse::hash::Digest>>>,
    /// Readers that a fork has led away from the feed, as an unsigned one may be.
    astray: Mutex<std::collections::BTreeSet<String>>,
}

/// One life of a process.
pub struct Process {
    pub feed: Feed,
    /// Whether it was told that something is absent that is not.
    pub misled: Arc<AtomicBool>,
    crash: Arc<Notify>,
}

impl Process {
    pub fn crash(&self) -> Arc<Notify> {
        Arc::clone(&self.crash)
    }
}

impl Sim {
    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::SeqCst)
    }

    pub fn trusted(&self) -> Option<PublicKey> {
        self.first_key
    }

    pub fn source(&self) -> Source {
        let (bucket, weather) = (Arc::clone(&self.main), Arc::clone(&self.weather));
        Source { bucket, weather, is_hostile: false }
    }

    pub fn world(&self, dice: &mut Dice, skew: i64) -> Arc<dyn World> {
        Arc::new(Place::new(dice.fork(), self.start, skew))
    }

    pub fn process(&self, who: &str, dice: &mut Dice) -> Process {
        self.process_at(&self.source(), who, dice)
    }

    pub fn process_at(&self, source: &Source, who: &str, dice: &mut Dice) -> Process {
        // Clocks are right, or a few minutes wrong, or a day.
        let skew = match dice.between(0..=9) {
            0..=6 => 0,
            7 | 8 => dice.between(0..=600_000) as i64 - 300_000,
            _ => dice.between(0..=172_800_000) as i64 - 86_400_000,
        };
        let truth = Arc::clone(&self.truth);
        let told = Arc::new(move |who: &str, what: String| truth.tell(who, what));
        let client = Client::new(&source.bucket, &source.weather, dice.fork(), who, told);
        let (crash, misled) = (client.crash(), Arc::clone(&client.misled));
        let feed = Feed::new(Arc::new(client), "", "sim").with_world(self.world(dice, skew));
        Process { feed, misled, crash }
    }

    /// The run, as soon as there is a feed.
    pub fn run(&self) -> Option<String> {
        let bytes = self.main.get("pulse.json")?;
        let payload = crate::entry::payload(&bytes)?;
        let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
        value["run"].as_str().map(Into::into)
    }

    /// A store that only fails never looks like one that lies.
    pub fn check_honest(&self, who: &str, error: &Error) {
        let is_expected = error.is_passing() || matches!(error.kind(), "no-feed" | "store");
        if !is_expected {
            self.truth.accuse(who, format!("calls an honest feed {}: {error}", error.kind()));
        }
    }

    pub fn holds(&self, who: &str, weights: Option<&Tensors>) {
        self.held.lock().unwrap().insert(who.into(), weights.map(digest));
    }

    /// What a reader of a hostile mirror serves: a version of the feed, or of a fork that cannot be told
    /// from it, above what it served before.
    pub fn serves_hostile(
        &self,
        who: &str,
        shown: &Arc<Bucket>,
        before: Option<Mark>,
        mark: &Mark,
        update: &Update,
        weights: &Tensors,
    ) {
        let truth = &self.truth;
        let target = update.record.target;
        let is_true = |mark: &Mark| {
            truth.entry(mark.version).is_some_and(|entry| entry.digest == mark.record)
        };
        if is_true(mark) && before.is_none_or(|before| is_true(&before)) {
            return truth.serves(who, mark, target, weights);
        }
        let keys = self.keys.lock().unwrap().len();
        if keys == 1 || mark.key != before.map_or(mark.key, |before| before.key) {
            return truth.accuse(who, format!("serves a fork of a signed feed: {mark:?}"));
        }
        self.astray.lock().unwrap().insert(who.into());
        // It may be another lie by now than the one that the reader saw.
        let shown = |version| shown.get(&record(version)).and_then(|bytes| Entry::parse(&bytes));
        let Some(mut at) = shown(mark.version).filter(|entry| entry.digest == mark.record) else {
            return truth.serves_any(who, mark, target, weights);
        };
        let down_to = before.map_or(mark.version.saturating_sub(1), |before| before.version);
        while at.version > down_to {
            let Some(earlier) = shown(at.version - 1) else { break };
            let is_seen = update.way.parts.iter().any(|part| part.from == Some(earlier.version));
            match at.fault_after(&earlier) {
                Some(what) if is_seen => return truth.accuse(who, format!("serves {what}")),
                _ => at = earlier,
            }
        }
        if let Some(before) = before.filter(|before| before.version == at.version) {
            if at.digest != before.record {
                truth.accuse(
                    who,
                    format!("serves {mark:?}, which does not lead back to {before:?}"),
                );
            }
        }
        truth.serves_any(who, mark, target, weights);
    }
}

/// What a schedule was like.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub versions: u64,
    pub seconds: f64,
}

/// Runs the schedule of a seed: the rule that was broken, if one was, and its history, if that is kept.
pub fn run(seed: u64, is_kept: bool) -> (Result<Seen, String>, String) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let truth = Truth::new(is_kept);
        let seen = schedule(seed, &truth).await;
        (truth.fault().map_or(Ok(seen), Err), truth.history())
    })
}

async fn schedule(seed: u64, truth: &Arc<Truth>) -> Seen {
    let mut dice = Dice::new(seed);
    let (start, weather) = (Instant::now(), Arc::new(Weather::new(&mut dice)));
    let watch = Arc::clone(truth);
    let main = Bucket::new(move |objects, name, change| watch.watch(objects, name, change));
    let is_signed = dice.chance(400);
    let key = is_signed.then(|| SecretKey::generate(&Place::new(dice.fork(), start, 0)));
    let sim = Arc::new(Sim {
        truth: Arc::clone(truth),
        main,
        weather: Arc::clone(&weather),
        first_key: key.as_ref().map(SecretKey::public),
        keys: Mutex::new(key.into_iter().collect()),
        anchor_every: dice.between(2..=8),
        start,
        finishing: AtomicBool::new(false),
        held: Mutex::default(),
        astray: Mutex::default(),
    });
    truth.tell("schedule", format!("seed {seed}, {weather:?}, signed: {is_signed}"));
    let (mut trainers, mut others) = (JoinSet::new(), JoinSet::new());
    begin(&sim, &mut dice, &mut trainers, &mut others);
    let readers = follow(&sim, &mut dice, &mut others);

    let storm = dice.millis(20_000..=150_000);
    let broken = truth.broken.notified();
    tokio::pin!(broken);
    let all = async {
        sleep(storm).await;
        weather.calm();
        sim.finishing.store(true, Ordering::SeqCst);
        truth.tell("schedule", "calms down");
        finish(&sim, &mut dice, &mut trainers, &readers).await;
    };
    tokio::select! {
        biased;
        () = &mut broken => {}
        () = all => {}
        what = panicked(&mut others) => truth.accuse("task", what),
    }
    let versions = truth.head().map_or(0, |head| head.version);
    Seen { versions, seconds: start.elapsed().as_secs_f64() }
}

/// Waits for a task to panic.
async fn panicked(tasks: &mut JoinSet<()>) -> String {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return error.to_string(),
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }
}

/// Those who write.
fn begin(sim: &Arc<Sim>, dice: &mut Dice, trainers: &mut JoinSet<End>, others: &mut JoinSet<()>) {
    let mut forked = dice.fork();
    let first = Arc::new(model::random(dice));
    let training = Training::from(first, 0, dice.fork());
    let mut add = |name: &str, training: &Training, dice: &mut Dice, after: Duration| {
        let trainer = Trainer::new(sim, name, dice.fork(), training, training.first());
        trainers.spawn(async move {
            sleep(after).await;
            trainer.run().await
        });
    };
    add("trainer", &training, dice, Duration::ZERO);
    if dice.chance(400) {
        // Another rank that has the same weights and publishes the same versions.
        add("rank", &training, dice, dice.clone().millis(0..=2_000));
    }
    for number in 0..dice.between(0..=2) {
        // Somebody starts it once more, with weights of before or of nowhere.
        let twin = if dice.chance(500) {
            training.clone()
        } else {
            Training::from(Arc::new(model::random(dice)), 0, dice.fork())
        };
        let after = dice.millis(1_000..=90_000);
        add(&format!("twin{number}"), &twin, dice, after);
    }
    if dice.chance(600) {
        others.spawn(keeper::run(Arc::clone(sim), Duty::Prune, dice.fork()));
    }
    if dice.chance(250) {
        others.spawn(keeper::run(Arc::clone(sim), Duty::Compact, dice.fork()));
    }
    if forked.chance(250) {
        others.spawn(keeper::lose(Arc::clone(sim), dice.fork()));
    }
}

/// Those who read, and their mirrors. Names of the readers.
fn follow(sim: &Arc<Sim>, dice: &mut Dice, others: &mut JoinSet<()>) -> Vec<String> {
    let mut sources = vec![("reader", sim.source()); 3];
    if dice.chance(300) {
        let watch = Arc::clone(&sim.truth);
        let bucket =
            Bucket::new(move |objects, name, change| watch.watch_copy(objects, name, change));
        let mut weather = Weather::new(dice);
        weather.lie = 0;
        let copy = Source { bucket, weather: Arc::new(weather), is_hostile: false };
        let duty = Duty::Mirror(copy.clone());
        others.spawn(keeper::run(Arc::clone(sim), duty, dice.fork()));
        let (calm, sim) = (Arc::clone(&copy.weather), Arc::clone(sim));
        others.spawn(async move {
            while !sim.is_finishing() {
                sleep(Duration::from_secs(1)).await;
            }
            calm.calm();
        });
        sources.push(("mirrored", copy));
    }
    if dice.chance(350) {
        let bucket = Bucket::new(|_, _, _| {});
        let shown = Source { bucket, is_hostile: true, ..sim.source() };
        others.spawn(hostile::run(Arc::clone(sim), shown.clone(), dice.fork()));
        sources.push(("victim", shown));
    }
    let mut names = Vec::new();
    for (number, (kind, source)) in sources.into_iter().enumerate() {
        let name = format!("{kind}{number}");
        others.spawn(Reader::new(sim, &name, dice.fork(), source).run());
        names.push(name);
    }
    names
}

/// What must happen when nothing goes wrong any more.
async fn finish(sim: &Arc<Sim>, dice: &mut Dice, trainers: &mut JoinSet<End>, readers: &[String]) {
    let truth = &sim.truth;
    let ending = async {
        while let Some(ended) = trainers.join_next().await {
            if let Err(error) = ended {
                truth.accuse("trainer", error.to_string());
            }
        }
    };
    if timeout(Duration::from_secs(900), ending).await.is_err() {
        return truth.accuse("trainer", "does not come to its end");
    }
    // Requests that were on their way have arrived.
    sleep(Duration::from_secs(60)).await;
    // Where data was lost, an anchor ends that.
    let more = if truth.has_lost() { sim.anchor_every + 1 } else { 0 };
    let start = truth.head().map(|head| (truth.weights(&head.target), head.step.unwrap_or(0)));
    let (weights, step) = start.unwrap_or((None, 0));
    let weights = weights.unwrap_or_else(|| Arc::new(model::random(dice)));
    let training = Training::from(weights, step, dice.fork());
    for number in 0..=more {
        let last = Trainer::new(sim, "last", dice.fork(), &training, step + number);
        match timeout(Duration::from_secs(300), last.run()).await {
            Ok(End::Done) => {}
            other => return truth.accuse("last", format!("could not publish in peace: {other:?}")),
        }
    }
    let is_ended = dice.chance(100);
    if is_ended {
        end(sim, dice).await;
    }
    let Some(head) = truth.head() else { return truth.accuse("last", "published nothing") };
    let deadline = Instant::now() + Duration::from_secs(600);
    for who in readers {
        let is_there = || {
            let held = sim.held.lock().unwrap().get(who).copied().flatten();
            held == Some(head.target) || sim.astray.lock().unwrap().contains(who)
        };
        while !is_there() {
            if Instant::now() > deadline {
                let what = format!("does not reach version {} ({})", head.version, head.target);
                return truth.accuse(who, what);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn end(sim: &Arc<Sim>, dice: &mut Dice) {
    let process = sim.process("last", dice);
    let mut options = PublisherOptions::default().with_threads(1);
    let keys = sim.keys.lock().unwrap().clone();
    for key in keys.into_iter().map(Some).chain([None]) {
        options.key = key;
        let Ok(mut publisher) = Publisher::start(&process.feed, options.clone()).await else {
            continue;
        };
        if let Err(error) = publisher.end().await {
            sim.truth.accuse("last", format!("could not end: {error}"));
        }
        return;
    }
    sim.truth.accuse("last", "could not start, to end");
}
