//! A follower that holds its weights in memory: each update is prepared beside them and committed, and one line
//! of JSON tells what is served, with the digest of all weights computed anew.
use std::time::Instant;

use clap::Parser;
use pulse::tensors::{Control, PrepareOptions, Shadow};
use pulse_sync::{Event, Feed, Follower, FollowerOptions};
use pulse_tools::events::{finish, say};
use pulse_tools::trained::Trained;

/// Follows a feed in memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// The feed.
    feed: String,
    /// The key that signs it.
    #[arg(long)]
    trust: Option<String>,
    /// Ends when this step is served.
    #[arg(long)]
    until: Option<u64>,
}

async fn run(arguments: &Arguments) -> pulse_sync::Result<()> {
    let control = Control::default();
    let mut options = FollowerOptions::default().with_events(|event| {
        if let Event::Refused { error, .. } = event {
            say(&serde_json::json!({"refused": error.kind(), "message": error.to_string()}));
        }
    });
    if let Some(key) = &arguments.trust {
        options = options.with_trust(key.parse()?);
    }
    let mut follower = Follower::open(&Feed::open(&arguments.feed)?, None, options).await?;
    let (mut record, tensors) = follower.to_memory(control).await?;
    let mut held = Trained::of(tensors);
    let mut pause = 0.0;
    loop {
        // What is served is what it is said to be, by a digest of its own.
        let digest = Shadow::new(&held.refs()?, control)?.digests().checkpoint;
        say(&serde_json::json!({
            "version": record.version,
            "step": record.step,
            "digest": digest.to_string(),
            "pause": pause,
        }));
        if record.step >= arguments.until.or(Some(u64::MAX)) {
            return Ok(());
        }
        let (mut weights, options) = (held.muts()?, PrepareOptions::default());
        let update = follower.next_beside(&weights, digest, options, control).await?;
        let committed = tokio::task::block_in_place(|| {
            let prepared = update.prepare(&weights, options, control)?;
            let started = Instant::now();
            let report = prepared.commit(&mut weights, control)?;
            Ok::<_, pulse_sync::Error>((report.target, started.elapsed().as_secs_f64()))
        });
        match committed {
            Ok((made, seconds)) => {
                follower.served(&update, made)?;
                pause = seconds;
                record = update.record;
            }
            Err(error) => {
                say(&serde_json::json!({"failed": error.kind(), "message": error.to_string()}));
                follower.failed(&update);
            }
        }
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    finish(run(&arguments))
}
