//! `pulse feed log`: the versions of a feed.

use clap::Args;
use pulse_sync::Record;
use serde_json::{json, Value};

use super::{block_on, data_bytes, kind, or_stopped, time, Trusting};
use crate::failure::{Failure, Result};
use crate::{text, Common, Outcome};

/// Show the versions of a feed, the newest last.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse feed log /srv/feeds/run-7
  pulse feed log s3://bucket/run-7 --from 0 --json")]
pub struct Log {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    /// The first version to show [default: the newest 20].
    #[arg(long, value_name = "VERSION")]
    from: Option<u64>,
    /// The last version to show.
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
    #[command(flatten)]
    trusting: Trusting,
}

/// Versions that are shown where none are asked for.
const SHOWN: u64 = 20;

impl Log {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let feed = super::open(&self.feed)?;
        let trust = self.trusting.trust;
        let found = block_on(or_stopped(async {
            let from = match self.from {
                Some(from) => from,
                None => {
                    let head = pulse_sync::status(&feed, trust).await?.head.version;
                    self.to.map_or(head, |to| to.min(head)).saturating_sub(SHOWN - 1)
                }
            };
            Ok(pulse_sync::records(&feed, trust, from, self.to).await?)
        }));
        let records = found.map_err(|failure| named(failure, feed.address()))?;
        Ok(Outcome::of(common, || table(&records), || records.iter().map(entry).collect()))
    }
}

/// A failure that says which feed it is about.
pub(super) fn named(failure: Failure, address: &str) -> Failure {
    match failure {
        Failure::Feed { error, hint, .. } => {
            Failure::Feed { feed: Some(address.into()), error, hint }
        }
        other => other,
    }
}

fn table(records: &[Record]) -> String {
    let row = |record: &Record| {
        let what = if record.ended { "end" } else { kind(record) };
        vec![
            record.version.to_string(),
            record.step.map_or("-".into(), |step| step.to_string()),
            time(record.time),
            what.into(),
            text::bytes(data_bytes(record)),
            record.anchor.version.to_string(),
            record.epoch.to_string(),
            record.target.to_string()[..16].into(),
        ]
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    text::table(
        &["version", "step", "time (UTC)", "what", "size", "anchor", "epoch", "digest"],
        &rows,
    )
}

/// A version for programs.
fn entry(record: &Record) -> Value {
    json!({
        "version": record.version,
        "step": record.step,
        "time": record.time,
        "kind": kind(record),
        "bytes": data_bytes(record),
        "anchor": record.anchor.version,
        "epoch": record.epoch,
        "writer": record.writer.to_string(),
        "digest": record.target.to_string(),
        "new_key": record.new_key.map(|key| key.to_string()),
        "ended": record.ended,
    })
}
