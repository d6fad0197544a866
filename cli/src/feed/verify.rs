//! `pulse feed verify`: every byte of a feed.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::log::named;
use super::{block_on, or_stopped, Trusting};
use crate::failure::{Failure, Result};
use crate::{text, Common, Outcome};

/// Read a whole feed and compare every byte with what its records say.
///
/// Checks the chain of records, signatures, size and SHA-256 of all data, and that each patch is whole and turns the
/// version that it should into the one that it should. Weights are not made: `pulse follow --once` does that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse feed verify /srv/feeds/run-7
  pulse feed verify s3://bucket/run-7 --work /scratch --json")]
pub struct Verify {
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    feed: String,
    /// A directory for data that is too large for memory.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    trusting: Trusting,
}

impl Verify {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let feed = super::open(&self.feed)?;
        let work = self.work.clone().unwrap_or_else(std::env::temp_dir);
        let audit = async {
            Ok(pulse_sync::verify(&feed, self.trusting.trust, Some(work), |_, _| {}).await?)
        };
        let audit =
            block_on(or_stopped(audit)).map_err(|failure| named(failure, feed.address()))?;
        let verdict = match audit.problems.len() as u64 {
            0 => "OK".to_string(),
            problems => text::number(problems, "problem"),
        };
        let mut lines = text::facts(&[
            ("feed", feed.address().to_string()),
            ("records", text::count(audit.records)),
            (
                "data",
                format!("{}, {}", text::number(audit.objects, "object"), text::bytes(audit.bytes)),
            ),
            ("deleted", format!("{} below the floor", text::number(audit.pruned, "object"))),
            ("result", verdict),
        ]);
        for problem in &audit.problems {
            lines += &format!("  {}: {}\n", problem.kind(), text::clean(&problem.to_string()));
        }
        let problem = |error: &pulse_sync::Error| json!({ "kind": error.kind(), "message": error.to_string() });
        let report = json!({
            "feed": feed.address(),
            "records": audit.records,
            "objects": audit.objects,
            "bytes": audit.bytes,
            "pruned": audit.pruned,
            "problems": audit.problems.iter().map(problem).collect::<Vec<_>>(),
        });
        let mut outcome = Outcome::of(common, || lines, || report);
        let advice = "copy it from a mirror that verifies, or let the publisher put an anchor";
        let first = audit.problems.into_iter().next();
        outcome.error = first.map(|error| named(Failure::advised(error, advice), feed.address()));
        Ok(outcome)
    }
}
