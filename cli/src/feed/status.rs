//! `pulse feed status`: a feed at a glance.

use clap::Args;
use pulse_sync::Status as Found;
use serde_json::{json, Value};

use super::log::named;
use super::{block_on, or_stopped, signed, version, Trusting};
use crate::failure::Result;
use crate::{durations, text, Common, Outcome};

/// Show a feed at a glance: the newest version, how often there is one, how large they are, what joining costs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse feed status /srv/feeds/run-7
  pulse feed status s3://bucket/run-7 --json")]
pub struct Status {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    #[command(flatten)]
    trusting: Trusting,
}

impl Status {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let feed = super::open(&self.feed)?;
        let status = async { Ok(pulse_sync::status(&feed, self.trusting.trust).await?) };
        let found =
            block_on(or_stopped(status)).map_err(|failure| named(failure, feed.address()))?;
        Ok(Outcome::of(
            common,
            || self.text(feed.address(), &found),
            || json(feed.address(), &found),
        ))
    }

    fn text(&self, address: &str, found: &Found) -> String {
        let (head, recent) = (&found.head, &found.recent);
        let ago = |time: u64| match found.now.checked_sub(time) {
            Some(since) => format!("{} ago", durations::rough(since)),
            None => {
                format!("{} in the future: a clock is wrong", durations::rough(time - found.now))
            }
        };
        let ended = if head.ended { "; the run has ended" } else { "" };
        let mut facts = vec![
            ("feed", address.to_string()),
            ("run", head.run.to_string()),
            ("newest", format!("{}, {}{ended}", version(head), ago(head.time))),
            ("digest", head.target.to_string()),
            ("signed", signed(found.key, self.trusting.trust.is_some())),
        ];
        if recent.versions > 0 {
            let every = text::seconds(recent.milliseconds as f64 / 1000.0 / recent.versions as f64);
            let each = text::bytes(recent.bytes / recent.versions);
            facts.push((
                "recent",
                format!(
                    "{}: one every {every}, {each} each",
                    text::number(recent.versions, "version")
                ),
            ));
        }
        let anchor = &head.anchor;
        let joined = match found.join {
            Some((parts, bytes)) => {
                format!("{} in {}", text::bytes(bytes), text::number(parts, "part"))
            }
            None => {
                "not possible: nothing leads to the newest version; the next one must be an anchor"
                    .into()
            }
        };
        facts.extend([
            ("anchor", format!("version {}, {}", anchor.version, text::bytes(anchor.data.bytes))),
            (
                "made after",
                format!(
                    "{}, {}",
                    text::number(found.anchors, "anchor"),
                    text::number(found.skips, "skip")
                ),
            ),
            ("joining", joined),
            (
                "floor",
                found.floor.map_or("nothing was deleted".into(), |floor| {
                    format!("version {floor}: data before it was deleted")
                }),
            ),
        ]);
        facts.push((
            "publisher",
            match &found.latest {
                None => "its hint of the newest version is not there, or cannot be read".into(),
                Some(latest) if latest.expires < found.now => format!(
                    "last heard of {}, later than it promised: it is down, or this copy is stale",
                    ago(latest.time)
                ),
                Some(latest) => format!("last heard of {}", ago(latest.time)),
            },
        ));
        text::facts(&facts)
    }
}

/// The same for programs.
fn json(address: &str, found: &Found) -> Value {
    let (head, recent) = (&found.head, &found.recent);
    json!({
        "feed": address,
        "run": head.run.to_string(),
        "version": head.version,
        "step": head.step,
        "digest": head.target.to_string(),
        "time": head.time,
        "now": found.now,
        "ended": head.ended,
        "key": found.key.map(|key| key.to_string()),
        "anchor": {
            "version": head.anchor.version,
            "bytes": head.anchor.data.bytes,
        },
        "anchors_made": found.anchors,
        "skips_made": found.skips,
        "floor": found.floor,
        "latest": found.latest.map(|latest| json!({
            "version": latest.version, "time": latest.time, "expires": latest.expires,
        })),
        "recent": {
            "versions": recent.versions,
            "seconds": recent.milliseconds as f64 / 1000.0,
            "bytes": recent.bytes,
        },
        "join": found.join.map(|(parts, bytes)| json!({ "parts": parts, "bytes": bytes })),
    })
}
