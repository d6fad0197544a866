//! `pulse publish --watch`: each checkpoint that appears in a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use pulse::Checkpoint;
use serde_json::Value;

use super::{step_of, Session};
use crate::failure::{usage, Failure, Result};
use crate::{signals, text, Outcome};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A checkpoint that has not changed for so long is not being written, if it opens.
const SETTLED: Duration = Duration::from_millis(1000);
/// Files of a checkpoint that are looked at, at most.
const FILES_MAX: usize = 100_000;

/// What shows that a checkpoint changes: its files with size and time.
type Stamp = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// A checkpoint that may be whole.
struct Seen {
    stamp: Stamp,
    since: Instant,
    /// It was said that it is left out.
    is_left_out: bool,
}

impl Seen {
    fn has_settled(&self) -> bool {
        self.since.elapsed() >= SETTLED
    }
}

/// Publishes what appears, until a signal comes or it fails for good.
pub(super) async fn watch(session: &mut Session<'_>, directory: &Path) -> Result<Outcome> {
    if !directory.is_dir() {
        return usage(format!("--watch {}: this is no directory", directory.display()));
    }
    let mut newest = session.publisher.head().and_then(|head| head.step);
    let mut seen = BTreeMap::new();
    let mut refreshed = Instant::now();
    let mut pause = LOOK_EVERY;
    if !session.common.json && !session.common.quiet {
        let after = newest.map_or(String::new(), |step| format!(" after step {step}"));
        text::note(&format!("waiting for checkpoints in {}{after}", text::path(directory)));
    }
    while !signals::came() {
        look(directory, newest, &mut seen)?;
        if let Some((step, checkpoint)) = next(session, &mut seen) {
            session.look_after_feed().await?;
            match session.publish(&checkpoint, Some(step)).await {
                Ok(version) => {
                    tell(session, &session.json(&version), &session.text(&version))?;
                    (newest, refreshed, pause) = (Some(step), Instant::now(), LOOK_EVERY);
                    continue;
                }
                Err(failure) if failure.is_stopped() => break,
                Err(failure) if passes(&failure) => {
                    let advice =
                        failure.advice().map_or(String::new(), |advice| format!("; {advice}"));
                    session.warn(&format!("{}{advice}; it is tried again", failure.message()));
                    pause = (pause * 2).min(Duration::from_secs(30));
                }
                Err(failure) => return Err(failure),
            }
        }
        if refreshed.elapsed() >= session.options.expires / 3 {
            // A hint is no version: it is put again the next time.
            if let Err(error) = session.publisher.refresh().await {
                session.warn(&format!("the hint of the newest version was not put: {error}"));
            }
            refreshed = Instant::now();
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = signals::stopped() => {}
        }
    }
    Ok(Outcome::printed(None))
}

/// Whether the same may succeed later.
fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::Feed { error, .. } => error.is_passing(),
        // The checkpoint went, or somebody writes to it after all.
        Failure::Library { error, .. } => !matches!(**error, pulse::Error::Misuse(_)),
        _ => false,
    }
}

fn tell(session: &Session<'_>, json: &Value, lines: &str) -> Result<()> {
    let printed = match (session.common.quiet, session.common.json) {
        (true, _) => Ok(()),
        (_, true) => text::print(&text::visible_json(&format!("{json}\n"))),
        (_, false) => text::print(&format!("{lines}\n")),
    };
    printed.map_err(crate::failure::unprinted)
}

/// Looks at the checkpoints with a number above that of the newest.
fn look(
    directory: &Path,
    newest: Option<u64>,
    seen: &mut BTreeMap<u64, (PathBuf, Seen)>,
) -> Result<()> {
    let failed = |source| {
        let doing = "looking into".into();
        pulse::Error::Io { doing, path: Some(directory.into()), source }
    };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_file = path.extension().is_some_and(|extension| extension == "safetensors");
        let step = step_of(&path).filter(|step| newest.is_none_or(|newest| newest < *step));
        if let (Some(step), false, true) = (step, is_hidden, is_file || path.is_dir()) {
            // Of two names with one number, the same one every time.
            found
                .entry(step)
                .and_modify(|known: &mut PathBuf| *known = path.clone().min(known.clone()))
                .or_insert(path);
        }
    }
    seen.retain(|step, (path, _)| found.get(step) == Some(path));
    for (step, path) in found {
        let stamp = stamp(&path);
        match seen.get_mut(&step) {
            Some((_, known)) if known.stamp == stamp => {}
            _ => {
                let now = Seen { stamp, since: Instant::now(), is_left_out: false };
                seen.insert(step, (path, now));
            }
        }
    }
    Ok(())
}

/// The checkpoint that comes next, if it is whole. One that was given up half written is passed over when a later one is
/// whole.
fn next(
    session: &Session<'_>,
    seen: &mut BTreeMap<u64, (PathBuf, Seen)>,
) -> Option<(u64, Checkpoint)> {
    let mut broken = Vec::new();
    let mut found = None;
    for (step, (path, known)) in seen.iter() {
        if !known.has_settled() {
            break;
        }
        match Checkpoint::open(path) {
            // What was looked at is what was opened.
            Ok(checkpoint) if stamp(path) == known.stamp => {
                found = Some((*step, checkpoint));
                break;
            }
            Ok(_) => break,
            Err(error) => broken.push((*step, error)),
        }
    }
    found.as_ref()?;
    for (step, error) in broken {
        if let Some((_, known)) = seen.get_mut(&step).filter(|(_, known)| !known.is_left_out) {
            known.is_left_out = true;
            session.warn(&format!("step {step} is left out, since a later one is whole: {error}"));
        }
    }
    found
}

/// The files of a checkpoint, with what shows that they change.
fn stamp(path: &Path) -> Stamp {
    let mut stamp = Stamp::new();
    let mut places = vec![path.to_path_buf()];
    while let Some(place) = places.pop() {
        // Links to directories do not belong to a checkpoint, and may lead in a circle.
        let is_link = place.is_symlink() && place != path;
        if place.is_dir() && !is_link {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            places.extend(entries.map(|entry| entry.path()).take(FILES_MAX));
        } else if let Ok(found) = fs::metadata(&place) {
            stamp.insert(place, (found.len(), found.modified().ok()));
        }
        if stamp.len() >= FILES_MAX {
            break;
        }
    }
    stamp
}
