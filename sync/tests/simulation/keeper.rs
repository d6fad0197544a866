//! Those who keep a feed: they delete, shorten and copy; and the store, which loses things.

use std::sync::Arc;

use pulse_sync::{compact, mirror, prune, CompactOptions, PruneOptions, Result};
use tokio::time::{sleep, timeout, Duration};

use crate::dice::Dice;
use crate::reader::Source;
use crate::schedule::{Process, Sim};

/// What a keeper does, again and again.
#[derive(Debug, Clone)]
pub enum Duty {
    Prune,
    Compact,
    /// Into this copy.
    Mirror(Source),
}

/// Does its duty until the end; it dies, and begins anew.
pub async fn run(sim: Arc<Sim>, duty: Duty, mut dice: Dice) {
    let who = match duty {
        Duty::Prune => "pruner",
        Duty::Compact => "compactor",
        Duty::Mirror(_) => "mirror",
    };
    loop {
        sleep(dice.millis(1_000..=20_000)).await;
        let process = sim.process(who, &mut dice);
        let crash = process.crash();
        let patience = dice.millis(5_000..=120_000);
        let done = tokio::select! {
            biased;
            () = crash.notified() => None,
            done = timeout(patience, once(&sim, &duty, &process, who, &mut dice)) => done.ok(),
        };
        match done {
            Some(Ok(what)) => sim.truth.tell(who, what),
            Some(Err(error)) => {
                sim.truth.tell(who, format!("failed: {error}"));
                sim.check_honest(who, &error);
            }
            None => {}
        }
    }
}

async fn once(
    sim: &Arc<Sim>,
    duty: &Duty,
    process: &Process,
    who: &str,
    dice: &mut Dice,
) -> Result<String> {
    match duty {
        Duty::Prune => {
            let grace = if sim.is_finishing() { Duration::ZERO } else { dice.millis(0..=30_000) };
            let mut options = PruneOptions::default().with_grace(grace);
            options.trust = sim.trusted();
            options.anchors = dice.between(1..=2) as usize;
            Ok(format!("{:?}", prune(&process.feed, &options).await?))
        }
        Duty::Compact => {
            let mut options = CompactOptions::default().with_spans([2, 4, 8]).with_threads(1);
            options.trust = sim.trusted();
            options.anchor_every = dice.between(0..=6);
            Ok(format!("{:?}", compact(&process.feed, &options).await?))
        }
        Duty::Mirror(copy) => {
            let to = sim.process_at(copy, who, dice);
            let crash = to.crash();
            let copied = tokio::select! {
                biased;
                () = crash.notified() => return Ok("dies".into()),
                copied = mirror(&process.feed, &to.feed, sim.trusted()) => copied?,
            };
            Ok(format!("{copied:?}"))
        }
    }
}

/// Loses and damages data, seldom.
pub async fn lose(sim: Arc<Sim>, mut dice: Dice) {
    loop {
        sleep(dice.millis(10_000..=60_000)).await;
        sim.main.tamper(|objects| {
            // Not what a publisher tries a store with.
            let data = objects
                .iter()
                .filter(|(name, object)| name.starts_with("data/") && object.bytes.len() > 16);
            let data: Vec<String> = data.map(|(name, _)| name.clone()).collect();
            if data.is_empty() || sim.is_finishing() {
                return;
            }
            let name = dice.pick(&data);
            sim.truth.lose(name);
            if dice.chance(500) {
                objects.remove(name);
            } else if let Some(object) = objects.get_mut(name) {
                let mut bytes = object.bytes.to_vec();
                if let Some(at) = (dice.next() as usize).checked_rem(bytes.len()) {
                    bytes[at] ^= 1 << dice.between(0..=7);
                }
                object.bytes = bytes.into();
            }
        });
    }
}
