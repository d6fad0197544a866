//! What every command is told, and what it has to say when it is done.

use clap::Args;

use crate::failure::Failure;

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Threads to use; 0 means one for each core. Results do not depend on it.
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but errors.
    #[arg(long, short, global = true, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// What a command has to say when it is done.
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
    /// Both were printed already: they were too much to be held.
    pub(crate) printed: bool,
    /// Why it failed although there is something to print.
    pub(crate) error: Option<Failure>,
    /// Standard output has the patch: the text is for standard error.
    pub(crate) is_aside: bool,
}

impl Outcome {
    pub(crate) fn new(text: String, json: serde_json::Value) -> Self {
        Outcome { text, json, printed: false, error: None, is_aside: false }
    }

    /// Makes the one of the two that will be printed.
    pub(crate) fn of(
        common: &Common,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> Self {
        match (common.quiet, common.json) {
            (true, _) => Outcome::new(String::new(), serde_json::Value::Null),
            (_, true) => Outcome::new(String::new(), json()),
            (_, false) => Outcome::new(text(), serde_json::Value::Null),
        }
    }

    /// Of a command that has printed what it has to say.
    pub(crate) fn printed(error: Option<Failure>) -> Self {
        let (text, json) = (String::new(), serde_json::Value::Null);
        Outcome { text, json, printed: true, error, is_aside: false }
    }
}
