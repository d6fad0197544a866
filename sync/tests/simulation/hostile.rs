//! A mirror that lies: it replays, swaps, forges what no record names, forges records, and forks the log.

use std::sync::Arc;

use pulse::hash::Digest;
use pulse::tensors::Shadow;
use pulse_sync::{Publisher, PublisherOptions};
use tokio::time::{sleep, timeout, Duration};

use crate::dice::Dice;
use crate::entry::{payload, record, seal, sha256, Entry};
use crate::model::{one, random, refs};
use crate::reader::Source;
use crate::schedule::Sim;
use crate::store::{Bucket, Objects};

/// Shows readers what it likes until things calm down, and then the feed.
pub async fn run(sim: Arc<Sim>, shown: Source, mut dice: Dice) {
    let mut seen: Vec<Objects> = Vec::new();
    while !sim.is_finishing() {
        let feed = sim.main.tamper(|objects| objects.clone());
        seen.push(feed.clone());
        // Half of the time it shows the truth, so that there is something to lie about.
        let lie = dice.between(0..=11);
        let mut objects = if lie == 0 { dice.pick(&seen).clone() } else { feed };
        match lie {
            0 => sim.truth.tell("hostile", "shows what was"),
            1 | 2 => swap(&mut objects, &mut dice),
            3 | 4 => by_products(&sim, &mut objects, &mut dice),
            5 | 7 => forge(&sim, &mut objects, &mut dice),
            6 => {
                if dice.chance(500) {
                    objects = dice.pick(&seen).clone();
                }
                objects = fork(&sim, objects, &mut dice).await;
            }
            _ => {}
        }
        shown.bucket.tamper(|now| *now = objects);
        sleep(dice.millis(500..=20_000)).await;
    }
    // In the end it shows every version, but what no record names may be anything still.
    let lies = dice.chance(500);
    let (mut head, mut forged) = (None, Objects::new());
    loop {
        let mut feed = sim.main.tamper(|objects| objects.clone());
        let newest = sim.truth.head().map(|head| head.version);
        if lies && newest != head {
            head = newest;
            let mut objects = feed.clone();
            by_products(&sim, &mut objects, &mut dice);
            objects.retain(|name, _| !feed.contains_key(name) || name == "hints.json");
            forged = objects;
        }
        feed.extend(forged.clone());
        shown.bucket.tamper(|now| *now = feed);
        sleep(Duration::from_secs(1)).await;
    }
}

fn names(objects: &Objects, folder: &str) -> Vec<String> {
    objects.keys().filter(|name| name.starts_with(folder)).cloned().collect()
}

fn swap(objects: &mut Objects, dice: &mut Dice) {
    for _ in 0..dice.between(1..=4) {
        let data = names(objects, "data/");
        if data.is_empty() {
            return;
        }
        let (one, other) = (dice.pick(&data).clone(), dice.pick(&data).clone());
        let bytes = objects[&other].bytes.clone();
        Bucket::set(objects, &one, bytes);
    }
}

fn entries(objects: &Objects) -> Vec<Entry> {
    objects
        .iter()
        .filter(|(name, _)| name.starts_with("log/"))
        .filter_map(|(_, object)| Entry::parse(&object.bytes))
        .collect()
}

/// Data of one version that says to be that of others; a patch between other weights; the same with the
/// digests of the right ones.
fn by_products(sim: &Sim, objects: &mut Objects, dice: &mut Dice) {
    let log = entries(objects);
    let Some(run) = sim.run() else { return };
    if log.len() < 4 {
        return;
    }
    let (mut anchors, mut skips) = (Vec::new(), Vec::new());
    for _ in 0..dice.between(1..=5) {
        let to = dice.between(2..=log.len() as u64 - 1) as usize;
        let from = dice.between(0..=to as u64 - 2) as usize;
        let (base, target) = (log[from].target, log[to].target);
        let nonce = dice.next();
        let is_skip = dice.chance(500);
        let object = format!("data/{to:020}-{nonce:016x}");
        let Some(bytes) = forged(sim, objects, is_skip.then_some(base), target, dice) else {
            continue;
        };
        let (digest, size) = (sha256(&bytes), bytes.len());
        Bucket::set(objects, &object, bytes);
        let data =
            format!(r#"{{"object":"{object}","sha256":"{digest}","bytes":{size},"format":1}}"#);
        let (name, text) = if is_skip {
            let name = format!("skip/{from:020}-{to:020}-{nonce:016x}.json");
            let ends = format!(r#""from":{from},"to":{to},"base":"{base}","target":"{target}""#);
            skips.push(format!("{name:?}"));
            (name, format!(r#"{{"type":"skip","run":"{run}",{ends},"data":{data}}}"#))
        } else {
            let name = format!("anchor/{to:020}-{nonce:016x}.json");
            anchors.push(format!("{name:?}"));
            let ends = format!(r#""version":{to},"target":"{target}""#);
            (name, format!(r#"{{"type":"anchor","run":"{run}",{ends},"data":{data}}}"#))
        };
        Bucket::set(objects, &name, seal(&text));
    }
    let (anchors, skips) = (anchors.join(","), skips.join(","));
    let hints =
        format!(r#"{{"type":"hints","run":"{run}","anchors":[{anchors}],"skips":[{skips}]}}"#);
    Bucket::set(objects, "hints.json", seal(&hints));
    sim.truth.tell("hostile", format!("forges {anchors} {skips}"));
}

/// A patch, or a snapshot, of which nothing is right but its sums, and perhaps its digests.
fn forged(
    sim: &Sim,
    objects: &Objects,
    base: Option<Digest>,
    target: Digest,
    dice: &mut Dice,
) -> Option<Vec<u8>> {
    let other = random(dice);
    let mut bytes = Vec::new();
    let from = base.and_then(|base| sim.truth.weights(&base));
    let from = from.as_ref().map(|weights| refs(weights));
    let source = from.as_ref().map(|weights| weights as &dyn pulse::tensors::TensorSource);
    let options = pulse::tensors::DiffOptions::default();
    let made = pulse::tensors::diff(source, &refs(&other), &mut bytes, options, one()).ok()?;
    match dice.between(0..=2) {
        // It leads elsewhere, and says so.
        0 => Some(bytes),
        // It says that it leads to the version.
        1 => {
            let (wrong, right) = (made.summary.footer.target.0, target.0);
            Some(testkit::forge::replaced(&bytes, b'F', &wrong, &right))
        }
        // It is data of something else.
        _ => {
            let data = names(objects, "data/");
            (!data.is_empty()).then(|| objects[dice.pick(&data)].bytes.to_vec())
        }
    }
}

/// A record after the newest one, or instead of it, that is not lawful.
fn forge(sim: &Sim, objects: &mut Objects, dice: &mut Dice) {
    let log = entries(objects);
    let Some(head) = log.last().filter(|head| head.version > 0) else { return };
    let Some(sealed) = payload(&objects[&record(head.version)].bytes).map(<[u8]>::to_vec) else {
        return;
    };
    let Ok(text) = String::from_utf8(sealed) else { return };
    let next = head.version + 1;
    let (before, digest) = (&log[head.version as usize - 1], head.digest);
    let number = |text: &str, field: &str, from: u64, to: u64| {
        text.replacen(&format!(r#""{field}":{from},"#), &format!(r#""{field}":{to},"#), 1)
    };
    // One that changes nothing, as claims do.
    let claim = |previous: &str, target: &str| {
        let back = next & (next - 1);
        let back = if back == head.version {
            previous.into()
        } else {
            log[back as usize].digest.to_string()
        };
        let start = text.find(r#""target""#).unwrap_or(0);
        let rest = &text[start..];
        let rest = match rest.find(r#""patch":"#) {
            Some(at) => {
                let end = rest.find(r#""anchor":"#).unwrap_or(at);
                format!("{}{}", &rest[..at], &rest[end..])
            }
            None => rest.to_string(),
        };
        let start = text.find(r#""previous""#).map_or("", |at| &text[..at]);
        let start = number(start, "version", head.version, next);
        let rest = rest.replacen(&head.target.to_string(), target, 1);
        format!(r#"{start}"previous":"{previous}","back":"{back}","base":"{target}",{rest}"#)
    };
    let head_target = head.target.to_string();
    let (at, text) = match dice.between(0..=3) {
        // A writer that had been fenced: it changes nothing, or what the newest version does.
        0 if head.epoch > 1 => {
            let claimed = claim(&digest.to_string(), &head_target);
            (next, number(&claimed, "epoch", head.epoch, head.epoch - 1))
        }
        1 if head.epoch > 1 && before.epoch == head.epoch => {
            (head.version, number(&text, "epoch", head.epoch, head.epoch - 1))
        }
        // It follows another past.
        2 => (next, claim(&before.digest.to_string(), &head_target)),
        // It changes what is there.
        _ => (head.version, number(&text, "epoch", head.epoch, head.epoch + 1)),
    };
    sim.truth.tell("hostile", format!("forges record {at}: {text}"));
    Bucket::set(objects, &record(at), seal(&text));
}

/// Publishes other weights after what there is, as somebody can who holds the store; in a signed feed, with
/// another key.
async fn fork(sim: &Arc<Sim>, objects: Objects, dice: &mut Dice) -> Objects {
    let bucket = Bucket::new(|_, _, _| {});
    bucket.tamper(|now| *now = objects);
    let source = Source { bucket, ..sim.source() };
    let process = sim.process_at(&source, "forger", dice);
    let crash = process.crash();
    let mut options = PublisherOptions::default().with_threads(1).with_anchor_every(2);
    // Keys that were handed over from are what is stolen first.
    let keys = sim.keys.lock().unwrap().clone();
    let old = keys.len().checked_sub(2).and_then(|last| keys.get(last).cloned());
    options.key = old.or_else(|| {
        let world = sim.world(dice, 0);
        (!keys.is_empty()).then(|| pulse_sync::SecretKey::generate(world.as_ref()))
    });
    let publish = async {
        let mut publisher = Publisher::start(&process.feed, options).await?;
        let head = publisher.head().and_then(|head| sim.truth.weights(&head.target));
        let weights = head.unwrap_or_else(|| Arc::new(random(dice)));
        let mut shadow = Shadow::new(&refs(&weights), one())?;
        for _ in 0..dice.between(1..=3) {
            let weights = Arc::new(random(dice));
            sim.truth.know(&weights);
            let record = publisher.publish(&mut shadow, &refs(&weights), None).await?.record;
            sim.truth
                .tell("hostile", format!("forks: version {} is {}", record.version, record.target));
        }
        Ok::<(), pulse_sync::Error>(())
    };
    tokio::select! {
        biased;
        () = crash.notified() => {}
        made = timeout(Duration::from_secs(60), publish) => {
            if let Ok(Err(error)) = made {
                sim.truth.tell("hostile", format!("cannot fork: {error}"));
            }
        }
    }
    source.bucket.tamper(|now| now.clone())
}
