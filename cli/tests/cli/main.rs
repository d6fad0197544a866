//! The programs as users run them: real processes in a directory of their own.

mod chains;
mod commands;
mod compose;
mod damage;
mod failures;
mod feeds;
mod in_place;
mod inspect;
mod kill;
mod messages;
mod reports;
mod stat;
mod streams;
mod usage;
mod work;

use std::process::{Command, Output};

use serde_json::Value;
use testkit::files::{stepped, tensor, weights, Files, Place, Tensor};

/// What a process left behind.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn new(Output { status, stdout, stderr }: Output) -> Run {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Run { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// Done, with nothing to complain of; gives back what was printed.
    #[track_caller]
    fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.done()).expect("JSON")
    }

    /// It failed and printed nothing but one line that says why.
    #[track_caller]
    fn failed(self, needles: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{}", self.err);
        assert!(
            self.err.starts_with("error: ") && self.err.trim_end().lines().count() == 1,
            "{:?}",
            self.err
        );
        assert!(
            needles.iter().all(|needle| self.err.contains(needle)),
            "{:?} without one of {needles:?}",
            self.err
        );
    }

    /// It failed, or was called wrongly, and printed nothing but one JSON object that says why.
    #[track_caller]
    fn failure(self, code: i32) -> Value {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{}", self.err);
        assert_eq!(self.err.trim_end().lines().count(), 1, "{}", self.err);
        serde_json::from_str(&self.err).expect("JSON")
    }

    /// Something was printed, and the one JSON object that says why it failed all the same.
    #[track_caller]
    fn failure_beside(&self) -> Value {
        assert_eq!((self.code, self.err.trim_end().lines().count()), (Some(1), 1), "{}", self.err);
        serde_json::from_str(&self.err).expect("JSON")
    }

    /// It was called wrongly and says how.
    #[track_caller]
    fn misused(self, needles: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (Some(2), ""), "{}", self.err);
        assert!(
            needles.iter().all(|needle| self.err.contains(needle)),
            "{:?} without one of {needles:?}",
            self.err
        );
    }
}

fn command(place: &Place, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(place.root()).args(args);
    // What programs keep for this user is none of a test's business.
    command.env("XDG_STATE_HOME", place.path(".state"));
    command
}

/// Runs `pulse` with these arguments in the place.
fn pulse(place: &Place, args: &[&str]) -> Run {
    Run::new(command(place, env!("CARGO_BIN_EXE_pulse"), args).output().unwrap())
}

fn pulse_inspect(place: &Place, args: &[&str]) -> Run {
    Run::new(command(place, env!("CARGO_BIN_EXE_pulse-inspect"), args).output().unwrap())
}

fn model() -> Vec<Tensor> {
    vec![
        tensor("a", "BF16", &[20, 100], weights(1, 2000)),
        tensor("b", "BF16", &[500], weights(2, 500)),
    ]
}

/// 21 changes in "a", 5 in "b".
fn target() -> Vec<Tensor> {
    let mut tensors = model();
    tensors[0].bytes = stepped(&tensors[0].bytes, 2, 99);
    tensors[1].bytes = stepped(&tensors[1].bytes, 2, 100);
    tensors
}

/// A place with "base.safetensors", "target.safetensors" and the patch "41.pulse" between them.
fn scene() -> Place {
    let place = Place::new();
    place.put("base.safetensors", &Files::one(&model()));
    place.put("target.safetensors", &Files::one(&target()));
    pulse(&place, &["diff", "base.safetensors", "target.safetensors", "-o", "41.pulse"]).done();
    place
}

/// Whether the keys of an object are exactly these.
#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let mut found: Vec<_> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = keys.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
