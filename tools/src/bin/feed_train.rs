//! A trainer that publishes its weights from memory, step by step: one line of JSON for each version. Started
//! again after a crash, it goes on from the newest version.
use std::time::Duration;

use clap::Parser;
use pulse::tensors::{Control, Shadow};
use pulse_sync::{Feed, Publisher, PublisherOptions, SecretKey};
use pulse_tools::events::{finish, say};
use pulse_tools::trained::Trained;

/// Publishes a model that is trained in memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// The feed; it is created if it is not there.
    feed: String,
    /// Size of the model in MiB.
    #[arg(long, default_value_t = 256)]
    mib: usize,
    /// The last step.
    #[arg(long, default_value_t = 200)]
    steps: u64,
    /// Share of elements that change in a step.
    #[arg(long, default_value_t = 0.01)]
    density: f64,
    /// Milliseconds between steps.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Versions from one anchor to the next.
    #[arg(long, default_value_t = 50)]
    anchor_every: u64,
    /// Signs what is published.
    #[arg(long)]
    key: Option<std::path::PathBuf>,
}

async fn run(arguments: &Arguments) -> pulse_sync::Result<()> {
    let control = Control::default();
    let mut options = PublisherOptions::default().with_anchor_every(arguments.anchor_every);
    if let Some(key) = &arguments.key {
        options = options.with_key(SecretKey::load(key)?);
    }
    let mut publisher = Publisher::start(&Feed::open(&arguments.feed)?, options).await?;
    publisher.claim().await?;
    let mut weights = Trained::new(arguments.mib);
    let published = publisher.head().and_then(|head| head.step);
    while published.is_some_and(|step| weights.step() < step) {
        weights.train(arguments.density);
    }
    let mut shadow = Shadow::new(&weights.refs()?, control)?;
    if published.is_none() {
        publish(&mut publisher, &mut shadow, &weights).await?;
    }
    while weights.step() < arguments.steps {
        tokio::time::sleep(Duration::from_millis(arguments.pause)).await;
        weights.train(arguments.density);
        publish(&mut publisher, &mut shadow, &weights).await?;
    }
    Ok(())
}

/// Publishes until it is there, or there is no sense in trying.
async fn publish(
    publisher: &mut Publisher,
    shadow: &mut Shadow,
    weights: &Trained,
) -> pulse_sync::Result<()> {
    loop {
        match publisher.publish(shadow, &weights.refs()?, Some(weights.step())).await {
            Ok(published) => {
                let record = &published.record;
                say(&serde_json::json!({
                    "version": record.version,
                    "step": record.step,
                    "digest": record.target.to_string(),
                    "bytes": published.bytes,
                    "seconds": published.seconds.0 + published.seconds.1,
                    "warnings": published.warnings,
                }));
                return Ok(());
            }
            Err(error) if error.is_passing() => {
                say(&serde_json::json!({"retry": error.to_string()}));
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    finish(run(&arguments))
}
