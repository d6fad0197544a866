//! Applies a patch: the command that conformance/README.md asks of a reader, with this library.
//!
//! `cargo run -p pulse-tools --bin conformance -- PATCH [--base BASE] [--limit NAME=VALUE]... --out OUT`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pulse::checkpoint::{ApplyOptions, FilePolicy};
use pulse::tensors::Control;
use pulse::{Checkpoint, Decoder, Error, Event, Limits, Patch, Result};

const USAGE: &str = "usage: conformance PATCH [--base BASE] [--limit NAME=VALUE]... --out OUT";

struct Arguments {
    patch: PathBuf,
    base: Option<PathBuf>,
    out: PathBuf,
    limits: Limits,
}

fn arguments() -> Option<Arguments> {
    let (mut patch, mut base, mut out, mut limits) = (None, None, None, Limits::default());
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        let place = match word.to_str() {
            Some("--base") => &mut base,
            Some("--out") => &mut out,
            Some("--limit") => {
                let word = words.next()?.into_string().ok()?;
                let (name, value) = word.split_once('=')?;
                limits = limits.with(name, value.parse().ok()?)?;
                continue;
            }
            _ => {
                patch = Some(word.into());
                continue;
            }
        };
        *place = Some(words.next()?.into());
    }
    Some(Arguments { patch: patch?, base, out: out?, limits })
}

/// Unpacks every block where it stands, so that the first rule that the file breaks is the one to be named.
/// `Patch` leaves blocks for later.
fn check_from_first_byte_to_last(patch: &[u8], limits: &Limits) -> Result<()> {
    let mut decoder = Decoder::new(patch, limits.clone());
    while let Some(event) = decoder.next_event()? {
        if let Event::Block(block) = event {
            block.decode()?;
        }
    }
    decoder.finish().map(|_| ())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io {
        doing: "reading".into(),
        path: Some(path.into()),
        source,
    })
}

fn apply(arguments: &Arguments) -> Result<()> {
    let patch = read(&arguments.patch)?;
    check_from_first_byte_to_last(&patch, &arguments.limits)?;
    let patch = Patch::from_bytes(patch, arguments.limits.clone())?;
    let base = arguments.base.as_deref().map(Checkpoint::open).transpose()?;
    patch
        .apply(
            base.as_ref(),
            &arguments.out,
            ApplyOptions::default().with_files(FilePolicy::Exact),
            Control::threads(1),
        )
        .map(|_| ())
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match apply(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {}", error.kind(), error.to_string().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
