//! The command line: arguments, dispatch, exit status. One file for each command.
//!
//! A library so that both programs, and the tools that measure them, share one build of it.
#![forbid(unsafe_code)]

mod apply;
mod compose;
mod demo;
mod diff;
mod digest;
mod generate;
mod html;
mod inspect;
mod layers;
mod progress;
mod recover;
mod revert;
pub mod simulation;
mod stat;
mod steps;
pub mod text;
mod verify;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pulse::checkpoint::Existing;
use pulse::Error;

/// Ship model weights as verified lossless patches.
#[derive(Debug, Parser)]
#[command(name = "pulse", version, about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  pulse demo
  pulse diff step_40.safetensors step_41.safetensors -o 41.pulse
  pulse apply step_40.safetensors 41.pulse -o received.safetensors
  pulse verify 41.pulse --base step_40.safetensors --target received.safetensors

`pulse help COMMAND` has examples of each command.
Exit status: 0 done, 1 it failed, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Options of every command.
#[derive(Debug, Args)]
struct Common {
    /// Threads to use; 0 means one for each core. Results do not depend on it.
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but errors.
    #[arg(long, short, global = true, conflicts_with = "json")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Diff(diff::Diff),
    Apply(apply::Apply),
    Recover(recover::Recover),
    Compose(compose::Compose),
    Revert(revert::Revert),
    Verify(verify::Verify),
    Inspect(inspect::Inspect),
    Digest(digest::Digest),
    Stat(stat::Stat),
    Demo(demo::Demo),
    Generate(generate::Generate),
}

/// What `--force` allows.
fn existing(force: bool) -> Existing {
    if force {
        Existing::Replace
    } else {
        Existing::Refuse
    }
}

/// What a command has to say when it is done.
struct Outcome {
    text: String,
    json: serde_json::Value,
    /// Why it failed although there is something to print.
    error: Option<Error>,
}

impl Outcome {
    fn new(text: String, json: serde_json::Value) -> Self {
        Outcome { text, json, error: None }
    }
}

impl Command {
    /// The patch that the command reads; errors in its bytes name it.
    fn patch(&self) -> Option<&Path> {
        match self {
            Command::Apply(command) => Some(command.patch()),
            Command::Revert(command) => Some(&command.patch),
            Command::Verify(command) => Some(&command.patch),
            Command::Inspect(command) => Some(&command.patch),
            _ => None,
        }
    }

    /// The message of an error, with the file that it is about.
    fn explain(&self, error: &Error) -> String {
        match (error, self.patch()) {
            (
                Error::Corrupt(_)
                | Error::Limit { .. }
                | Error::Version { .. }
                | Error::BaseMismatch { .. }
                | Error::TargetMismatch { .. },
                Some(patch),
            ) => format!("{}: {error}", patch.display()),
            _ => error.to_string(),
        }
    }
}

/// Runs the program with these arguments, the first of which is its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is printed to standard output and is no failure; usage errors are, with 2.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let common = &cli.common;
    let outcome = match &cli.command {
        Command::Diff(command) => command.run(common),
        Command::Apply(command) => command.run(common),
        Command::Recover(command) => command.run(common),
        Command::Compose(command) => command.run(common),
        Command::Revert(command) => command.run(common),
        Command::Verify(command) => command.run(common),
        Command::Inspect(command) => command.run(common),
        Command::Digest(command) => command.run(common),
        Command::Stat(command) => command.run(common),
        Command::Demo(command) => command.run(common),
        Command::Generate(command) => command.run(common),
    };
    let error = match outcome {
        Ok(outcome) => {
            let printed = match (common.quiet, common.json) {
                (true, _) => Ok(()),
                (_, true) => text::print(&format!("{:#}\n", outcome.json)),
                (_, false) => text::print(&outcome.text),
            };
            match (outcome.error, printed) {
                (None, Ok(())) => return ExitCode::SUCCESS,
                (Some(error), _) => cli.command.explain(&error),
                (None, Err(error)) => format!("writing to standard output: {error}"),
            }
        }
        Err(error) => {
            text::complain(&cli.command.explain(&error));
            // What the library calls misuse is, from here, wrong usage.
            let usage = matches!(error, Error::Misuse(_));
            return if usage { ExitCode::from(2) } else { ExitCode::FAILURE };
        }
    };
    text::complain(&error);
    ExitCode::FAILURE
}
