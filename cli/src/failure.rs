//! Why a command failed: a message for people, or one JSON object for programs, on standard error.

use std::path::{Path, PathBuf};

use pulse::error::{Advice, BaseMismatch, Content, Occupant};
use pulse::Error;
use serde_json::{json, Value};

use crate::{streams, text};

/// Result of a command, and of what it is made of.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments do not fit together.
    Usage(String),
    /// A patch whose digests were to be trusted did not produce the base.
    NotProduced { patch: PathBuf, tensor: String },
    /// The library says so; with words of our own on what to do, where it cannot know them.
    Library { error: Box<Error>, hint: Option<Hint> },
    /// The library says so of a feed, which has this address.
    Feed { feed: Option<String>, error: Box<pulse_sync::Error>, hint: Option<String> },
}

/// What to do, where the library cannot know it.
#[derive(Debug)]
pub(crate) struct Hint {
    /// For programs; without it, the advice of the library stays.
    pub advice: Option<Advice>,
    pub text: String,
}

/// Limits on what adds up as a patch is read: the end may ask for more than the place that failed.
const IS_SUM: [&str; 7] =
    ["tensors", "files", "blocks", "names_bytes", "name_expansion", "target_bytes", "expansion"];

/// What to do about a patch that has not produced the base.
pub(crate) const USE_ITS_PRODUCER: &str =
    "give the patch whose target is BASE, or leave out --base-patch";

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Library { error: Box::new(error), hint: None }
    }
}

impl From<pulse_sync::Error> for Failure {
    fn from(error: pulse_sync::Error) -> Self {
        match error {
            pulse_sync::Error::Pulse(error) => error.into(),
            error => Failure::Feed { feed: None, error: Box::new(error), hint: None },
        }
    }
}

impl Failure {
    /// An error of the feed at this address.
    pub(crate) fn of_feed(address: &str) -> impl Fn(pulse_sync::Error) -> Failure + '_ {
        move |error| match error.into() {
            Failure::Feed { error, hint, .. } => {
                Failure::Feed { feed: Some(address.into()), error, hint }
            }
            other => other,
        }
    }

    /// An error of a feed, with words of our own on what to do.
    pub(crate) fn advised(error: pulse_sync::Error, hint: impl Into<String>) -> Self {
        Failure::Feed { feed: None, error: Box::new(error), hint: Some(hint.into()) }
    }

    /// An error of the library, with words of our own on what to do.
    pub(crate) fn hinted(error: Error, hint: impl Into<String>) -> Self {
        let hint = Hint { advice: None, text: hint.into() };
        Failure::Library { error: Box::new(error), hint: Some(hint) }
    }

    /// An error of the library whose cause is the order of the arguments.
    pub(crate) fn swapped(error: Error, hint: impl Into<String>) -> Self {
        let hint = Hint { advice: Some(Advice::SwapArguments), text: hint.into() };
        Failure::Library { error: Box::new(error), hint: Some(hint) }
    }
}

/// What there was to say could not be said.
pub(crate) fn unprinted(source: std::io::Error) -> Failure {
    let error = Error::Io { doing: "writing to standard output".into(), path: None, source };
    Failure::hinted(error, "the work itself is done: only its report is lost")
}

/// Arguments that do not fit together.
pub(crate) fn usage<T>(what: impl Into<String>) -> Result<T> {
    Err(Failure::Usage(what.into()))
}

impl Failure {
    /// What to do, in the words of the command line.
    pub(crate) fn advice(&self) -> Option<String> {
        let (error, hint) = match self {
            Failure::Usage(_) => return None,
            Failure::NotProduced { .. } => return Some(USE_ITS_PRODUCER.into()),
            Failure::Feed { error, hint, .. } => return hint.clone().or_else(|| error.advice()),
            Failure::Library { error, hint } => (error, hint),
        };
        if let Some(hint) = hint {
            return Some(hint.text.clone());
        }
        Some(match (&**error, error.advice()?) {
            (Error::Limit { limit, asked, .. }, Advice::RaiseLimit) => {
                let at_least = if IS_SUM.contains(limit) { " or more" } else { "" };
                format!(
                    "if the source is trusted, raise the limit: --limit {limit}={asked}{at_least}"
                )
            }
            (Error::Exists { found: Occupant::File, .. }, _) => {
                "remove it, choose another name, or replace it: --force".into()
            }
            (Error::Exists { found: Occupant::Input, .. }, _) => "choose another name".into(),
            (_, Advice::ChooseCheckpoint) => match (error.file(), error.content()) {
                (Some(run), Some(Content::Checkpoints { newest })) => {
                    format!("give one of them: {}", run.join(newest).display())
                }
                _ => Advice::ChooseCheckpoint.to_string(),
            },
            (_, Advice::WriteNewCheckpoint) => "write the target to a new place: -o OUT".into(),
            (_, Advice::Recover) => "wait, or run `pulse recover` on it".into(),
            (Error::NotInvertible { .. }, _) => {
                "keep the base, or make a patch the other way: pulse diff TARGET BASE -o PATCH"
                    .into()
            }
            (_, advice) => advice.to_string(),
        })
    }

    /// What happened.
    pub(crate) fn message(&self) -> String {
        match self {
            Failure::Usage(what) => what.clone(),
            Failure::NotProduced { patch, tensor } => {
                format!(
                    "{}: BASE was not produced by this patch: tensor '{tensor}' differs",
                    patch.display()
                )
            }
            _ if self.is_stopped() => {
                "stopped by a signal; what was half written is removed".into()
            }
            Failure::Library { error, .. } => streams::named(error.to_string()),
            Failure::Feed { feed, error, .. } => {
                let what = error.to_string();
                match feed {
                    Some(feed) if !what.contains(feed.as_str()) => format!("{feed}: {what}"),
                    _ => what,
                }
            }
        }
    }

    /// Whether a signal stopped the work.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self, Failure::Library { error, .. } if matches!(**error, Error::Cancelled))
    }

    /// Prints the failure on standard error.
    pub(crate) fn report(&self, json: bool) {
        if json {
            text::complain_json(&self.json());
            return;
        }
        match self.advice() {
            Some(advice) => text::complain(&format!("{}; {advice}", self.message())),
            None => text::complain(&self.message()),
        }
    }

    /// 1 for what failed, 2 for wrong usage.
    pub(crate) fn status(&self) -> u8 {
        match self {
            // Values of options that only the library can judge.
            Failure::Usage(_) => 2,
            Failure::Library { error, .. } if matches!(**error, Error::Misuse(_)) => 2,
            Failure::Feed { error, .. } if matches!(**error, pulse_sync::Error::Misuse(_)) => 2,
            Failure::NotProduced { .. } | Failure::Library { .. } | Failure::Feed { .. } => 1,
        }
    }

    /// The fields of docs/failure-json.md, each of them always there.
    fn json(&self) -> Value {
        let mut object = json!({
            "kind": null,
            "message": self.message(),
            "file": null,
            "content": null,
            "offset": null,
            "section": null,
            "tensor": null,
            "block": null,
            "expected": null,
            "found": null,
            "limit": null,
            "base": null,
            "feed": null,
            "advice": null,
            "advice_text": self.advice(),
        });
        let error = match self {
            Failure::Usage(_) => {
                object["kind"] = json!("usage");
                return object;
            }
            Failure::NotProduced { patch, tensor } => {
                object["kind"] = json!("base");
                object["file"] = json!(patch.display().to_string());
                object["tensor"] = json!(tensor);
                return object;
            }
            Failure::Feed { feed, error, .. } => {
                object["kind"] = json!(error.kind());
                object["feed"] = json!(feed);
                if let pulse_sync::Error::Io { path, .. } = &**error {
                    object["file"] = json!(path.display().to_string());
                }
                return object;
            }
            Failure::Library { error, hint } => {
                let hinted = hint.as_ref().and_then(|hint| hint.advice);
                object["advice"] = json!(hinted.or(error.advice()).map(Advice::name));
                error
            }
        };
        object["kind"] = json!(error.kind());
        let named = |path: &Path| streams::named(path.display().to_string());
        object["file"] = json!(error.file().map(named));
        object["content"] = json!(error.content().map(Content::name));
        object["offset"] = json!(error.offset());
        object["tensor"] = json!(error.tensor());
        object["expected"] = json!(error.expected());
        object["found"] = json!(error.found());
        match &**error {
            Error::Corrupt(corrupt) => {
                object["section"] = json!(corrupt.section.map(pulse::wire::Tag::name));
                object["block"] = json!(corrupt.block);
            }
            Error::Limit { limit, .. } => object["limit"] = json!(limit),
            Error::BaseMismatch(mismatch) => object["base"] = base_json(mismatch),
            _ => {}
        }
        object
    }
}

/// How a base differs from the one that the patch was made from.
fn base_json(mismatch: &BaseMismatch) -> Value {
    let reshaped = mismatch
        .reshaped
        .iter()
        .map(|tensor| json!({ "tensor": tensor.tensor, "expected": tensor.expected, "found": tensor.found }));
    json!({
        "is_target": mismatch.is_target,
        "applied": mismatch.applied,
        "missing": mismatch.missing,
        "extra": mismatch.extra,
        "reshaped": reshaped.collect::<Vec<_>>(),
        "tensors_expected": mismatch.tensors.map(|tensors| tensors.0),
        "tensors_found": mismatch.tensors.map(|tensors| tensors.1),
    })
}
