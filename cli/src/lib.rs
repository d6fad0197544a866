//! The command line: arguments, dispatch, exit status. One file for each command.
//!
//! A library so that both programs, and the tools that measure them, share one build of it.
#![forbid(unsafe_code)]

mod apply;
mod compose;
mod demo;
mod diff;
mod digest;
mod durations;
mod failure;
mod feed;
mod follow;
mod following;
mod generate;
mod html;
mod inspect;
mod keygen;
mod layers;
pub mod objects;
mod opening;
mod outcome;
mod progress;
mod publish;
mod recover;
mod revert;
mod signals;
pub mod simulation;
mod stat;
mod steps;
mod streams;
pub mod text;
mod verify;
mod writing;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;
use outcome::{Common, Outcome};

/// Ship model weights as verified lossless patches.
#[derive(Debug, Parser)]
#[command(name = "pulse", version, about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  pulse demo
  pulse diff step_40.safetensors step_41.safetensors -o 41.pulse
  pulse apply step_40.safetensors 41.pulse -o received.safetensors
  pulse verify 41.pulse --base step_40.safetensors --target received.safetensors

`pulse help COMMAND` has examples of each command.
Exit status: 0 done, 1 it failed, 2 wrong usage. With --json, a failure is one JSON object on standard error.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
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
    Publish(publish::Publish),
    Follow(follow::Follow),
    #[command(subcommand)]
    Feed(feed::Feed),
    Keygen(keygen::Keygen),
    Demo(demo::Demo),
    Generate(generate::Generate),
}

/// Says what is wrong with the arguments. Help and version are printed to standard output, and are
/// no failure.
fn misused(error: &clap::Error, args: &[OsString]) -> u8 {
    let text = error.render().to_string();
    if error.use_stderr() && args.iter().any(|arg| arg == "--json") {
        let failure = Failure::Usage(text.trim_start_matches("error: ").trim_end().into());
        failure.report(true);
        return failure.status();
    }
    match text::visible_in(&text, args) {
        Some(visible) => eprint!("{visible}"),
        None => _ = error.print(),
    }
    error.exit_code() as u8
}

/// Runs the program with these arguments, the first of which is its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(run(args, Vec::new()))
}

/// Runs the program with these arguments, the first of which is its name, and gives back its exit status.
/// `program` are the words that start it again; without any, it is the file of this process.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>, program: Vec<String>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, &args),
    };
    // A checkpoint may have more shards than the few files that some systems let a process open at
    // first. Where the limit stays, opening them says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
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
        Command::Publish(command) => command.run(common),
        Command::Follow(command) => command.run(common),
        Command::Feed(command) => command.run(common),
        Command::Keygen(command) => command.run(common),
        Command::Demo(command) => command.run(common, program),
        Command::Generate(command) => command.run(common),
    };
    let failure = match outcome {
        Ok(outcome) => {
            let printed = match (common.quiet, common.json) {
                _ if outcome.printed => Ok(()),
                (true, _) => Ok(()),
                (_, true) => text::print(&text::visible_json(&format!("{:#}\n", outcome.json))),
                (_, false) if outcome.is_aside => text::print_aside(&outcome.text),
                (_, false) => text::print(&outcome.text),
            };
            match (outcome.error, printed) {
                (None, Ok(())) => return 0,
                (Some(failure), _) => failure,
                (None, Err(source)) => failure::unprinted(source),
            }
        }
        Err(failure) => failure,
    };
    failure.report(common.json);
    if failure.is_stopped() {
        signals::end();
    }
    failure.status()
}
