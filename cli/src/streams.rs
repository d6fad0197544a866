//! `-`: standard input and standard output, where a patch could be named.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pulse::checkpoint::{write_whole, Existing};
use pulse::error::Occupant;
use pulse::{Checkpoint, Error};

use crate::failure::{usage, Result};
use crate::outcome::Common;
use crate::signals;

/// Whether an argument stands for standard input or output.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses `-` for what cannot be a stream.
fn refuse(path: &Path, what: &str, why: &str) -> Result<()> {
    if is_stream(path) {
        return usage(format!("{what} cannot be `-`: {why}; a file of this name is ./-"));
    }
    Ok(())
}

/// Opens a checkpoint, which is read at many places at once.
pub(crate) fn checkpoint(path: &Path) -> Result<Checkpoint> {
    refuse_checkpoint(path)?;
    Ok(Checkpoint::open(path)?)
}

/// Refuses a checkpoint from a stream.
pub(crate) fn refuse_checkpoint(path: &Path) -> Result<()> {
    refuse(path, "a checkpoint", "it is not read from front to back")
}

/// Refuses a page to a stream, or in the place of what is read.
pub(crate) fn refuse_page(path: &Path) -> Result<()> {
    refuse(path, "the page", "the summary goes to standard output")?;
    keep_stdin(path)
}

/// Refuses to replace the file that is standard input.
#[cfg(unix)]
fn keep_stdin(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some((found.dev(), found.ino()))
    };
    let found = identity(path);
    if found.is_some() && found == identity(Path::new("/dev/stdin")) {
        return Err(Error::Exists { path: path.into(), found: Occupant::Input }.into());
    }
    Ok(())
}

#[cfg(not(unix))]
fn keep_stdin(_: &Path) -> Result<()> {
    Ok(())
}

/// Refuses a checkpoint as output to a stream.
pub(crate) fn refuse_output(path: &Path) -> Result<()> {
    refuse(path, "OUT", "a checkpoint appears when all of it is verified, and not before")?;
    keep_stdin(path)
}

/// Refuses what else would be written to standard output, where the patch is.
pub(crate) fn check_output(path: &Path, common: &Common) -> Result<()> {
    if !is_stream(path) {
        return keep_stdin(path);
    }
    if common.json {
        return usage("--json and the patch cannot both be written to standard output");
    }
    if io::stdout().is_terminal() {
        return usage("the patch would be written to a terminal: give -o a file, or send it on");
    }
    Ok(())
}

/// Writes a patch to a file that appears when it is complete, or to standard output.
pub(crate) fn write_patch<T>(
    path: &Path,
    existing: Existing,
    inputs: &[&Path],
    write: impl FnOnce(&mut dyn Write) -> pulse::Result<T>,
) -> Result<T> {
    if !is_stream(path) {
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            signals::end_at_once();
        }
        return Ok(write_whole(path, existing, inputs, write)?);
    }
    signals::end_at_once();
    let mut out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    let value = write(&mut out)?;
    out.flush().map_err(|source| failed("writing to standard output", source))?;
    Ok(value)
}

fn failed(doing: &str, source: io::Error) -> Error {
    Error::Io { doing: doing.into(), path: None, source }
}

/// What came through standard input, and the name by which it is opened again.
static SPOOLED: OnceLock<(File, PathBuf)> = OnceLock::new();

/// The patch that comes through standard input. It is kept in a file without a name, which goes with
/// the process: the patch is checked as a whole before any of it is used, so it is read twice.
pub(crate) fn spooled() -> Result<&'static Path> {
    if SPOOLED.get().is_some() {
        return usage("standard input is read once: only one patch can be `-`");
    }
    let spool = || {
        let mut file = tempfile::tempfile()?;
        io::copy(&mut io::stdin().lock(), &mut file)?;
        let path = opened_again(&file)?;
        Ok((file, path))
    };
    let spooled = spool().map_err(|source| failed("reading standard input", source))?;
    Ok(&SPOOLED.get_or_init(|| spooled).1)
}

#[cfg(unix)]
fn opened_again(file: &File) -> io::Result<PathBuf> {
    use std::io::Seek;
    use std::os::fd::AsRawFd;
    // Some systems give the same position with the same file.
    let mut file = file;
    file.rewind()?;
    Ok(format!("/dev/fd/{}", file.as_raw_fd()).into())
}

#[cfg(not(unix))]
fn opened_again(_: &File) -> io::Result<PathBuf> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "not on this system: give a file"))
}

/// A message, or a path, in which standard input is called so.
pub(crate) fn named(text: String) -> String {
    match SPOOLED.get() {
        Some((_, path)) => text.replace(&path.display().to_string(), "standard input"),
        None => text,
    }
}
