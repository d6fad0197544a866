//! `pulse feed prune`, `compact` and `mirror`: what is deleted, made and copied off the trainer's path.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pulse_sync::{CompactOptions, Made, PruneOptions};
use serde_json::json;

use super::log::named;
use super::{block_on, or_stopped, threads, Trusting};
use crate::failure::Result;
use crate::{durations, text, Common, Outcome};

/// Delete data that nobody needs who starts from one of the newest anchors.
///
/// The oldest anchor that stays is read whole before. Records stay for ever. `pulse publish` does the same after each
/// anchor, unless it was told to --keep all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse feed prune /srv/feeds/run-7
  pulse feed prune s3://bucket/run-7 --keep 4 --grace 6h")]
pub struct Prune {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    /// Anchors that stay, of those that records name, and all that comes after the oldest of them.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_count)]
    keep: usize,
    /// Objects that are younger stay, for those who are fetching them.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = durations::parse)]
    grace: Duration,
    #[command(flatten)]
    trusting: Trusting,
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or(format!("{text} is no number of at least 1"))
}

impl Prune {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let feed = super::open(&self.feed)?;
        let mut options = PruneOptions::default()
            .with_anchors(self.keep)
            .with_grace(self.grace)
            .with_spool(std::env::temp_dir());
        options.trust = self.trusting.trust;
        let prune = async { Ok(pulse_sync::prune(&feed, &options).await?) };
        let pruned =
            block_on(or_stopped(prune)).map_err(|failure| named(failure, feed.address()))?;
        let floor = pruned.floor.map_or("none: there are not enough anchors".into(), |floor| {
            format!("version {floor}")
        });
        let lines = || {
            text::facts(&[
                ("feed", feed.address().to_string()),
                (
                    "deleted",
                    format!(
                        "{}, {}",
                        text::number(pruned.objects, "object"),
                        text::bytes(pruned.bytes)
                    ),
                ),
                ("floor", floor),
            ])
        };
        let report = || {
            json!({
                "feed": feed.address(),
                "floor": pruned.floor,
                "objects": pruned.objects,
                "bytes": pruned.bytes,
            })
        };
        Ok(Outcome::of(common, lines, report))
    }
}

/// Make what those who are late or join need: skips over several versions, and anchors.
///
/// Anybody who may write to the feed can run it, at any time: what it makes is no version, and followers prove it as they
/// prove everything.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse feed compact /srv/feeds/run-7
  pulse feed compact s3://bucket/run-7 --spans 8,64,512 --anchor-every 200 --work /scratch")]
pub struct Compact {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    /// How many versions skips lead over; the newest of each is made that ends at a multiple of it.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [8, 64],
        value_parser = clap::value_parser!(u64).range(2..))]
    spans: Vec<u64>,
    /// Make an anchor if the newest one is so many versions old; 0 makes none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    anchor_every: u64,
    /// A directory with room for two checkpoints [default: that of temporary files].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    trusting: Trusting,
}

impl Compact {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let feed = super::open(&self.feed)?;
        let mut options = CompactOptions::default()
            .with_spans(self.spans.clone())
            .with_anchor_every(self.anchor_every)
            .with_threads(threads(common));
        (options.trust, options.work) = (self.trusting.trust, self.work.clone());
        let compact = async { Ok(pulse_sync::compact(&feed, &options).await?) };
        let made =
            block_on(or_stopped(compact)).map_err(|failure| named(failure, feed.address()))?;
        let line = |made: &Made| match (made.from, made.instead_of) {
            (Some(from), Some(patches)) => format!(
                "skip from version {from} to {}: {}, {} than the patches that it stands for\n",
                made.to,
                text::bytes(made.bytes),
                text::times_smaller(patches, made.bytes)
            ),
            _ => format!("anchor of version {}: {}\n", made.to, text::bytes(made.bytes)),
        };
        let lines = || {
            if made.is_empty() {
                return "nothing is due\n".into();
            }
            made.iter().map(line).collect()
        };
        let entry = |made: &Made| {
            json!({
                "from": made.from,
                "to": made.to,
                "bytes": made.bytes,
                "instead_of_bytes": made.instead_of,
            })
        };
        let report = || json!({ "feed": feed.address(), "made": made.iter().map(entry).collect::<Vec<_>>() });
        Ok(Outcome::of(common, lines, report))
    }
}

/// Copy a feed to another place, which followers can follow as well.
///
/// Everything is verified on the way, and copied in an order in which the copy is whole at every moment; other copying
/// tools do not know it. Run it again to copy what is new.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse feed mirror s3://bucket/run-7 gs://other/run-7
  pulse feed mirror https://mirror.example/run-7 /srv/feeds/run-7 --json")]
pub struct Mirror {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    /// Where the copy shall be, or is already.
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    trusting: Trusting,
}

impl Mirror {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let (from, to) = (super::open(&self.feed)?, super::open(&self.to)?);
        let mirror = async { Ok(pulse_sync::mirror(&from, &to, self.trusting.trust).await?) };
        let done =
            block_on(or_stopped(mirror)).map_err(|failure| named(failure, from.address()))?;
        let lines = || {
            let mut facts = vec![
                ("copy", to.address().to_string()),
                (
                    "new",
                    format!(
                        "{}, {} with {}",
                        text::number(done.records, "version"),
                        text::number(done.objects, "object"),
                        text::bytes(done.bytes)
                    ),
                ),
            ];
            if done.missing > 0 {
                let missing = text::number(done.missing, "object");
                facts.push(("missing", format!("{missing} that the feed has no more")));
            }
            text::facts(&facts)
        };
        let report = || {
            json!({
                "feed": from.address(),
                "to": to.address(),
                "records": done.records,
                "objects": done.objects,
                "bytes": done.bytes,
                "missing": done.missing,
            })
        };
        Ok(Outcome::of(common, lines, report))
    }
}
