//! Programs that tell what they do in lines of JSON.
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{json, Value};

/// Prints a line.
pub fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: go on all the same.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs a program to its end; what stops it is its last line.
pub fn finish(work: impl Future<Output = pulse_sync::Result<()>>) -> ExitCode {
    let done = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&json!({"error": error.kind(), "message": error.to_string()}));
            ExitCode::FAILURE
        }
    }
}
