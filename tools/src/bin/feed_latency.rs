//! How long a version takes from the trainer's call to the follower's commit, and where the time goes; and
//! what a machine that comes late fetches. Started on a feed behind a slow line:
//!
//! `scripts/servers.py run s3 -- scripts/shaped.py AWS_ENDPOINT -- target/release/feed_latency s3://pulse/latency`
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use pulse::hash::Digest;
use pulse::tensors::{Control, PrepareOptions, Shadow};
use pulse_sync::{
    compact, CompactOptions, Feed, Follower, FollowerOptions, Publisher, PublisherOptions, Versions,
};
use pulse_tools::trained::Trained;

/// Times versions from the trainer to a follower.
#[derive(Debug, Parser)]
struct Arguments {
    /// A new feed.
    feed: String,
    /// Size of the model in MiB: BF16 in tensors of 16 MiB.
    #[arg(long, default_value_t = 1024)]
    mib: usize,
    /// Share of elements that change from one version to the next.
    #[arg(long, default_value_t = 0.01)]
    density: f64,
    /// Versions that are timed.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Seconds between two versions.
    #[arg(long, default_value_t = 12)]
    pause: u64,
    /// The line's bytes per second in each direction.
    #[arg(long, default_value_t = 12_500_000.0)]
    line: f64,
    /// Also times a follower that serves files below this directory.
    #[arg(long)]
    files: Option<std::path::PathBuf>,
    /// Then lets this many more versions go by, and a machine join late.
    #[arg(long, default_value_t = 0)]
    late: u64,
}

/// What a follower tells of a version.
struct Seen {
    version: u64,
    bytes: u64,
    fetched: f64,
    made: f64,
    committed: f64,
    at: Instant,
}

/// Follows in memory until a version.
async fn follow(feed: Feed, until: u64, seen: mpsc::Sender<Seen>) -> pulse_sync::Result<()> {
    let control = Control::default();
    let mut follower = Follower::open(&feed, None, FollowerOptions::default()).await?;
    let (record, tensors) = follower.to_memory(control).await?;
    let mut held = Trained::of(tensors);
    let mut digest = record.target;
    let first = (record.version, 0, 0.0, 0.0, 0.0);
    let tell = |(version, bytes, fetched, made, committed)| {
        let at = Instant::now();
        let _ = seen.send(Seen { version, bytes, fetched, made, committed, at });
    };
    tell(first);
    loop {
        let (mut weights, options) = (held.muts()?, PrepareOptions::default());
        let update = follower.next_beside(&weights, digest, options, control).await?;
        let (made, committed) = tokio::task::block_in_place(|| {
            let started = Instant::now();
            let prepared = update.prepare(&weights, options, control)?;
            let made = started.elapsed().as_secs_f64();
            digest = prepared.commit(&mut weights, control)?.target;
            Ok::<_, pulse_sync::Error>((made, started.elapsed().as_secs_f64() - made))
        })?;
        follower.served(&update, digest)?;
        let version = update.record.version;
        tell((version, update.way.bytes(), update.seconds, made, committed));
        if version >= until {
            return Ok(());
        }
    }
}

/// Follows with files until a version.
async fn follow_files(
    feed: Feed,
    destination: std::path::PathBuf,
    until: u64,
    seen: mpsc::Sender<Seen>,
) -> pulse_sync::Result<()> {
    let control = Control::default();
    let versions = Versions::open(destination.join("model"), 1)?;
    let options = FollowerOptions::default().with_spool(versions.directory());
    let mut follower = Follower::open(&feed, None, options).await?;
    let mut held: Option<(std::path::PathBuf, Digest)> = None;
    loop {
        let update = follower.next(held.as_ref().map(|(_, digest)| *digest)).await?;
        let started = Instant::now();
        let base = held.as_ref().map(|(path, _)| path.as_path());
        let (path, report) =
            tokio::task::block_in_place(|| versions.stage(&update, base, control))?;
        let made = started.elapsed().as_secs_f64();
        follower.served(&update, report.target)?;
        if let Some(mark) = follower.mark() {
            versions.switch(&path, mark)?;
        }
        let committed = started.elapsed().as_secs_f64() - made;
        held = Some((path, report.target));
        let (version, bytes, fetched) = (update.record.version, update.way.bytes(), update.seconds);
        let at = Instant::now();
        let _ = seen.send(Seen { version, bytes, fetched, made, committed, at });
        if version >= until {
            return Ok(());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let feed = {
        let _entered = runtime.enter();
        Feed::open(&arguments.feed)?
    };
    let mut weights = Trained::new(arguments.mib);
    let control = Control::default();
    let mut shadow = Shadow::new(&weights.refs()?, control)?;
    let options = PublisherOptions::default().with_anchor_every(0);
    let mut publisher = runtime.block_on(Publisher::start(&feed, options))?;
    let anchor = runtime.block_on(publisher.publish(&mut shadow, &weights.refs()?, Some(0)))?;
    println!(
        "{} MiB, {} of its elements change; line: {:.0} Mbit/s each way. Anchor: {} bytes in {:.1} s.\n",
        arguments.mib,
        arguments.density,
        arguments.line * 8.0 / 1e6,
        anchor.bytes,
        anchor.seconds.0
    );
    let kinds: &[bool] = if arguments.files.is_some() { &[false, true] } else { &[false] };
    println!(
        "| follower | bytes | wire, s | publish: make and send | record | wait | fetch | make | switch | in all, s | \
         over wire |\n|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut step = 0;
    for &is_files in kinds {
        let (sender, seen) = mpsc::channel();
        let last = step + arguments.rounds;
        let (own, files) = (feed.clone(), arguments.files.clone().unwrap_or_default());
        let following = runtime.spawn(async move {
            if is_files {
                follow_files(own, files, last, sender).await
            } else {
                follow(own, last, sender).await
            }
        });
        seen.recv_timeout(Duration::from_secs(900))?;
        let mut over = Vec::new();
        for _ in 0..arguments.rounds {
            std::thread::sleep(Duration::from_secs(arguments.pause));
            step += 1;
            weights.train(arguments.density);
            let started = Instant::now();
            let published =
                runtime.block_on(publisher.publish(&mut shadow, &weights.refs()?, Some(step)))?;
            let seen = seen.recv_timeout(Duration::from_secs(900))?;
            if seen.version != published.record.version {
                return Err(format!("version {} came instead of {step}", seen.version).into());
            }
            let all = seen.at.duration_since(started).as_secs_f64();
            let wire = (published.bytes + seen.bytes) as f64 / arguments.line;
            let (sent, put) = published.seconds;
            let wait = all - sent - put - seen.fetched - seen.made - seen.committed;
            println!(
                "| {} | {} | {wire:.2} | {sent:.2} | {put:.2} | {wait:.2} | {:.2} | {:.2} | {:.3} | {all:.2} | \
                 {:.2} |",
                if is_files { "files" } else { "memory" },
                published.bytes,
                seen.fetched,
                seen.made,
                seen.committed,
                all - wire
            );
            over.push(all - wire);
        }
        over.sort_by(f64::total_cmp);
        println!("| median | | | | | | | | | | {:.2} |", over[over.len() / 2]);
        runtime.block_on(following)??;
    }
    if arguments.late > 0 {
        late(&arguments, &runtime, &feed, &mut publisher, &mut shadow, &mut weights, step)?;
    }
    Ok(())
}

/// A machine that was away, and one that is new: by skips and anchors, and by every version.
fn late(
    arguments: &Arguments,
    runtime: &tokio::runtime::Runtime,
    feed: &Feed,
    publisher: &mut Publisher,
    shadow: &mut Shadow,
    weights: &mut Trained,
    mut step: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let (away, away_digest) = (weights.clone(), shadow.digests().checkpoint);
    for _ in 0..arguments.late {
        step += 1;
        weights.train(arguments.density);
        runtime.block_on(publisher.publish(shadow, &weights.refs()?, Some(step)))?;
    }
    println!("\n| who | objects | bytes | fetch, s | make, s |\n|---|---|---|---|---|");
    let measure = |who: &str,
                   held: Option<(&Trained, Digest)>|
     -> Result<(), Box<dyn std::error::Error>> {
        let update = runtime.block_on(async {
            let mut follower = Follower::open(feed, None, FollowerOptions::default()).await?;
            follower.next(held.map(|(_, digest)| digest)).await
        })?;
        let started = Instant::now();
        let control = Control::default();
        match held {
            Some((held, _)) => {
                let mut held = held.clone();
                let mut all = held.muts()?;
                let prepared = update.chain()?.prepare(&all, PrepareOptions::default(), control)?;
                prepared.commit(&mut all, control)?;
            }
            None => drop(update.chain()?.to_memory(control)?),
        }
        println!(
            "| {who} | {} | {} | {:.1} | {:.1} |",
            update.way.parts.len(),
            update.way.bytes(),
            update.seconds,
            started.elapsed().as_secs_f64()
        );
        Ok(())
    };
    let since = arguments.late;
    measure(&format!("{since} versions late, every patch"), Some((&away, away_digest)))?;
    measure("new, the first anchor and every patch", None)?;
    let options = CompactOptions::default().with_spans([8, 64]).with_anchor_every(8);
    runtime.block_on(compact(feed, &options))?;
    measure(&format!("{since} versions late, with skips"), Some((&away, away_digest)))?;
    measure("new, newest anchor and what follows", None)?;
    Ok(())
}
