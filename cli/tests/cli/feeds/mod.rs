//! Feeds as users run them: publishers and followers in processes of their own, a directory as the store.

mod follow;
mod keeping;
mod publish;
mod reports;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::files::{stepped, Files, Place};

use crate::{command, model, pulse};

/// A version of the weights: each differs from the one before in a few elements.
fn weights_at(step: u64) -> Files {
    let mut tensors = model();
    for step in 0..step as usize {
        tensors[0].bytes = stepped(&tensors[0].bytes, 2, 90 + step);
        tensors[1].bytes = stepped(&tensors[1].bytes, 2, 80 + step);
    }
    Files::one(&tensors)
}

/// A place with the checkpoints step_0 … step_<count - 1>.
fn scene(count: u64) -> Place {
    let place = Place::new();
    for step in 0..count {
        place.put(&format!("step_{step}.safetensors"), &weights_at(step));
    }
    place
}

/// Publishes a step to the feed "feed"; gives back the report.
#[track_caller]
fn publish(place: &Place, step: u64, more: &[&str]) -> Value {
    let checkpoint = format!("step_{step}.safetensors");
    pulse(place, &[&["publish", &checkpoint, "feed", "--json"], more].concat()).json()
}

/// A process that goes on until it is stopped, and what it prints: a line of JSON for each event.
struct Live {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Live {
    fn start(place: &Place, args: &[&str]) -> Live {
        let mut command = command(place, env!("CARGO_BIN_EXE_pulse"), args);
        command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Live { child, lines }
    }

    /// The next line that it prints.
    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}, then the end"))
    }

    /// Waits for an event of this name.
    #[track_caller]
    fn event(&mut self, name: &str) -> Value {
        loop {
            let line = self.line();
            if line["event"] == name {
                return line;
            }
        }
    }

    /// Tells it to stop; it must end well, and soon.
    #[cfg(unix)]
    #[track_caller]
    fn stop(mut self) {
        let pid = self.child.id().to_string();
        std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
        let (code, error) = self.end();
        assert_eq!(code, Some(0), "{error}");
    }

    fn kill(mut self) {
        // SIGKILL on Unix.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself; exit code and standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        let error = std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
        (code, error)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Follows the feed "feed" once to "served"; gives back the last event.
#[track_caller]
fn follow_once(place: &Place, more: &[&str]) -> Value {
    let args = [&["follow", "feed", "served", "--once", "--json"], more].concat();
    let printed = pulse(place, &args).done();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

/// Whether a checkpoint is that of this step, byte for byte.
#[track_caller]
fn assert_step(place: &Place, name: &str, step: u64) {
    Files::read(&fs::canonicalize(place.path(name)).unwrap()).assert_same(&weights_at(step));
}

/// Runs `pulse keygen`; gives back the public key.
#[track_caller]
fn keygen(place: &Place, file: &str) -> String {
    let report = pulse(place, &["keygen", file, "--json"]).json();
    report["key"].as_str().unwrap().to_string()
}
