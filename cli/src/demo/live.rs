//! The end of `pulse demo`: the real thing on this machine. One process publishes while the model trains, three
//! follow; one of them joins late, one is killed and comes back.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use pulse::{Checkpoint, Error};
use serde_json::{json, Value};

use crate::failure::{Failure, Result};
use crate::progress::control;
use crate::signals;
use crate::simulation::Simulation;
use crate::text;

/// Megabytes of the model that is published: small enough that nobody has to wait.
const MEGABYTES: usize = 16;
/// Versions after the first.
const STEPS: u64 = 8;
/// From one version to the next.
const PAUSE: Duration = Duration::from_millis(400);
/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a follower has told of itself.
struct Follower {
    name: &'static str,
    what: &'static str,
    destination: PathBuf,
    child: Option<Child>,
    starts: u64,
    /// Versions that it has switched to.
    switches: Vec<Value>,
    /// The version that was newest when it began.
    joined: u64,
}

/// Processes that end when this does, whatever happens.
struct Stage<'a> {
    program: Vec<String>,
    feed: String,
    place: &'a Path,
    publisher: Option<Child>,
    followers: Vec<Follower>,
    heard: Receiver<(usize, Value)>,
    told: Sender<(usize, Value)>,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let followers = self.followers.iter_mut().filter_map(|follower| follower.child.take());
        for mut child in followers.chain(self.publisher.take()) {
            // They may have ended by themselves.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn failed(doing: &str, path: Option<&Path>) -> impl FnOnce(std::io::Error) -> Failure {
    let (doing, path) = (doing.to_string(), path.map(Into::into));
    move |source| Error::Io { doing, path, source }.into()
}

impl Stage<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).args(arguments);
        // What it keeps between two runs goes with the demo.
        command.env("XDG_STATE_HOME", self.place.join("state"));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(&mut self, at: usize) -> Result<()> {
        let destination = self.followers[at].destination.to_string_lossy().into_owned();
        let mut command = self.command(&["follow", &self.feed, &destination, "--json"]);
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(failed("starting a follower", None))?;
        if let Some(out) = child.stdout.take() {
            let told = self.told.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(|line| line.ok()) {
                    let event = serde_json::from_str(&line).unwrap_or(Value::Null);
                    if told.send((at, event)).is_err() {
                        return;
                    }
                }
            });
        }
        let follower = &mut self.followers[at];
        follower.starts += 1;
        follower.child = Some(child);
        Ok(())
    }

    fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.followers[at].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Listens for so long, or until all that run serve a version of this digest.
    fn listen(&mut self, time: Duration, until: Option<&str>) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if signals::poll(0) == ControlFlow::Break(()) {
                return Err(Error::Cancelled.into());
            }
            let is_there = |follower: &Follower| {
                follower.switches.last().map(|event| &event["digest"])
                    == until.map(Value::from).as_ref()
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || until.is_some() && self.followers.iter().all(is_there) {
                return Ok(());
            }
            if let Ok((at, event)) = self.heard.recv_timeout(left.min(Duration::from_millis(100))) {
                if event["event"] == "switched" {
                    self.followers[at].switches.push(event);
                }
            }
        }
    }
}

/// Runs it, in this directory or on the store at this address; `program` are the words that start this program.
pub(super) fn run(
    place: &Path,
    store: Option<&str>,
    program: Vec<String>,
    say: impl Fn(&str),
) -> Result<(String, Value)> {
    let _deferred = signals::defer();
    let place = &place.join("live");
    let run = place.join("run");
    std::fs::create_dir_all(&run).map_err(failed("creating", Some(&run)))?;
    let feed = match store {
        // One that nobody else has.
        Some(store) => format!("{}/demo-{}", store.trim_end_matches('/'), unique(place)),
        None => place.join("feed").to_string_lossy().into_owned(),
    };
    let (told, heard) = mpsc::channel();
    let follower = |name: &'static str, what: &'static str| Follower {
        name,
        what,
        destination: place.join(name).join("model.safetensors"),
        child: None,
        starts: 0,
        switches: Vec::new(),
        joined: 0,
    };
    let followers = vec![
        follower("first", "from the beginning"),
        follower("killed", "killed, and came back"),
        follower("late", "joined late"),
    ];
    let mut stage = Stage { program, feed, place, publisher: None, followers, heard, told };
    for follower in &stage.followers {
        let path = place.join(follower.name);
        std::fs::create_dir_all(&path).map_err(failed("creating", Some(&path)))?;
    }
    say(&format!(
        "live: one process publishes a model of {MEGABYTES} MB to {}, three follow",
        if store.is_some() { stage.feed.as_str() } else { "a directory" }
    ));
    let mut simulation = Simulation::new(MEGABYTES * 500_000, 1e-6, 2);
    let save = |simulation: &Simulation, step: u64| -> Result<PathBuf> {
        let (path, part) = (run.join(format!("step_{step}.safetensors")), place.join("part"));
        simulation.save(&part).map_err(failed("writing", Some(&part)))?;
        // It appears whole.
        std::fs::rename(&part, &path).map_err(failed("writing", Some(&path)))?;
        Ok(path)
    };
    let mut newest = save(&simulation, 0)?;
    let watched = run.to_string_lossy().into_owned();
    let mut command = stage.command(&["publish", "--watch", &watched, &stage.feed, "--json"]);
    let mut publisher = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("starting a publisher", None))?;
    let published = publisher.stdout.take();
    let mut complaints = publisher.stderr.take();
    stage.publisher = Some(publisher);
    let mut published = published.map(|out| BufReader::new(out).lines());
    let mut next_version = || -> Option<Value> {
        let lines = published.as_mut()?;
        loop {
            let event: Value = serde_json::from_str(&lines.next()?.ok()?).unwrap_or(Value::Null);
            if event["digest"].is_string() {
                return Some(event);
            }
        }
    };
    let mut versions = Vec::new();
    for step in 0..=STEPS {
        if step > 0 {
            stage.listen(PAUSE, None)?;
            simulation.step();
            newest = save(&simulation, step)?;
        }
        let Some(version) = next_version() else {
            let mut said = String::new();
            if let Some(complaints) = &mut complaints {
                let _ = std::io::Read::read_to_string(complaints, &mut said);
            }
            return Err(Failure::from(Error::Internal(format!(
                "the publisher ended before version {step}: {}",
                said.trim()
            ))));
        };
        say(&format!("version {step} is published"));
        versions.push(version);
        match step {
            0 => {
                stage.start(0)?;
                stage.start(1)?;
            }
            3 => stage.kill(1),
            5 => stage.start(1)?,
            6 => {
                stage.followers[2].joined = 6;
                stage.start(2)?;
            }
            _ => {}
        }
    }
    let control = control(0);
    let digest = Checkpoint::open(&newest)?.digest(control)?.to_string();
    stage.listen(PATIENCE, Some(&digest))?;
    let full = std::fs::metadata(&newest).map_err(failed("reading", Some(&newest)))?.len();
    let mut rows = Vec::new();
    let mut reports = Vec::new();
    for follower in &stage.followers {
        let served = Checkpoint::open(&follower.destination)?.digest(control)?.to_string();
        if served != digest {
            return Err(Failure::from(Error::Internal(format!(
                "the follower '{}' serves {served}, but {digest} was published",
                follower.name
            ))));
        }
        let fetched = follower.switches.iter().filter_map(|event| event["bytes"].as_u64()).sum();
        let mut behind: Vec<f64> =
            follower.switches.iter().filter_map(|event| event["delay_seconds"].as_f64()).collect();
        behind.sort_by(f64::total_cmp);
        let behind = behind.get(behind.len() / 2).copied().unwrap_or(0.0);
        let copies = full * (STEPS + 1 - follower.joined);
        rows.push(vec![
            follower.what.to_string(),
            format!("{}", follower.joined),
            format!("{}", follower.switches.len()),
            text::bytes(fetched),
            format!("{:.1}x", text::ratio(copies, fetched)),
            text::seconds(behind),
            "equal".to_string(),
        ]);
        reports.push(json!({
            "follower": follower.name,
            "joined": follower.joined,
            "starts": follower.starts,
            "switches": follower.switches.len(),
            "bytes": fetched,
            "full_copies_bytes": copies,
            "median_delay_seconds": behind,
            "digest": served,
        }));
    }
    let head =
        ["follower", "joined at", "switches", "fetched", "of full copies", "behind", "digest"];
    let sent = versions.iter().filter_map(|event| event["bytes"].as_u64()).sum();
    let text = format!(
        "{}\n{} versions were published in {}; all followers hold {}.\n",
        text::table(&head, &rows),
        STEPS + 1,
        text::bytes(sent),
        &digest[..16]
    );
    Ok((text, json!({"versions": STEPS + 1, "published_bytes": sent, "followers": reports})))
}

/// A name that no other run has.
fn unique(place: &Path) -> String {
    let time = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let name = place.parent().and_then(Path::file_name).unwrap_or_default();
    let name: String = name.to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{time:x}{name}")
}
