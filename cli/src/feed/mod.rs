//! `pulse feed`: looks at a feed, keeps it small, copies it; and what all commands of feeds share.

mod copies;
mod log;
mod status;
mod verify;

use std::future::Future;

use clap::{Args, Subcommand};
use pulse_sync::{Error, PublicKey, Record};

use super::failure::{Failure, Result};
use super::{signals, text, Common, Outcome};

/// Look at a feed, verify it, keep it small, copy it.
///
/// FEED is s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, https://host/prefix (to read), file:///path or
/// a path. Credentials and endpoints come from the environment, by the names that the providers' own tools use.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub enum Feed {
    Log(log::Log),
    Status(status::Status),
    Verify(verify::Verify),
    Prune(copies::Prune),
    Compact(copies::Compact),
    Mirror(copies::Mirror),
}

impl Feed {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        match self {
            Feed::Log(command) => command.run(common),
            Feed::Status(command) => command.run(common),
            Feed::Verify(command) => command.run(common),
            Feed::Prune(command) => command.run(common),
            Feed::Compact(command) => command.run(common),
            Feed::Mirror(command) => command.run(common),
        }
    }
}

/// The key that is trusted, for every command that reads a feed.
#[derive(Debug, Args)]
pub(crate) struct Trusting {
    /// The key that signs the feed: the line that `pulse keygen` printed. Without it the store is trusted for the key.
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub(crate) trust: Option<PublicKey>,
}

fn parse_key(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

/// Opens the feed at an address.
pub(crate) fn open(address: &str) -> Result<pulse_sync::Feed> {
    if address.is_empty() {
        return super::failure::usage("the address of a feed cannot be empty");
    }
    pulse_sync::Feed::open(address).map_err(|error| {
        // The address as the library shows it, which is without credentials.
        let feed = match &error {
            Error::Address { address, .. } => Some(address.clone()),
            Error::Store { object, .. } => Some(object.clone()),
            _ => None,
        };
        match Failure::from(error) {
            Failure::Feed { error, hint, .. } => Failure::Feed { feed, error, hint },
            other => other,
        }
    })
}

/// Runs a task to its end.
pub(crate) fn block_on<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| {
        let doing = "starting threads".into();
        Failure::from(pulse::Error::Io { doing, path: None, source })
    })?;
    let done = runtime.block_on(task);
    // What still waits for a store is not waited for.
    runtime.shutdown_background();
    done
}

/// Runs a task until it ends or a signal comes, which ends it as it ends every command.
pub(crate) async fn or_stopped<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = task => done,
        () = signals::stopped() => Err(pulse::Error::Cancelled.into()),
    }
}

/// Threads for work: as many as were asked for.
pub(crate) fn threads(common: &Common) -> usize {
    match common.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// "unsigned", or by which key.
pub(crate) fn signed(key: Option<PublicKey>, is_trusted: bool) -> String {
    match key {
        Some(key) if is_trusted => format!("by key {key}"),
        Some(key) => format!(
            "by key {key}, for which the store is trusted: compare it, and give it with --trust"
        ),
        None => "no: the feed is as trustworthy as its store".into(),
    }
}

/// What a version is made of, in one word.
pub(crate) fn kind(record: &Record) -> &'static str {
    match (&record.patch, record.anchor.version == record.version) {
        (Some(_), _) => "patch",
        (None, true) => "anchor",
        (None, false) => "nothing",
    }
}

/// Bytes of the data of a version: what leads to it.
pub(crate) fn data_bytes(record: &Record) -> u64 {
    match (&record.patch, record.anchor.version == record.version) {
        (Some(patch), _) => patch.bytes,
        (None, true) => record.anchor.data.bytes,
        (None, false) => 0,
    }
}

/// "version 17 (step 41)".
pub(crate) fn version(record: &Record) -> String {
    match record.step {
        Some(step) => format!("version {} (step {})", record.version, text::count(step)),
        None => format!("version {}", record.version),
    }
}

/// A time for people, in UTC: "2026-11-26 21:03:07".
pub(crate) fn time(milliseconds: u64) -> String {
    let (days, seconds) = (milliseconds / 86_400_000, milliseconds / 1000 % 86_400);
    // Civil from days, with years that begin in March, so that leap days come last.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (milliseconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399_000, "2000-02-28 23:59:59"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_795_726_987_000, "2026-11-26 21:03:07"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(time(milliseconds), expected);
        }
    }
}
