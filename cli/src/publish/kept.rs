//! A copy of what was published last, for the next patch to start from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pulse::tensors::Control;
use pulse::Checkpoint;
use pulse_sync::{Error, Feed, Follower, FollowerOptions, Mark, PublicKey, Run, Versions};
use tempfile::TempDir;

/// The copy of one run, in the user's state directory. It is proved before it is used, as every base is: so files with
/// tensors may be linked instead of copied, although whoever wrote them may write to them again.
pub(super) struct Kept {
    versions: Versions,
    directory: PathBuf,
    _temporary: Option<TempDir>,
}

/// Tries to bring the copy up to date.
const TRIES: usize = 4;

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { doing, path: path.into(), source }
}

/// Where programs keep their state: `$XDG_STATE_HOME`, or the place that it has by default.
fn state_directory() -> Option<PathBuf> {
    let from = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    from("XDG_STATE_HOME").or_else(|| Some(from("HOME")?.join(".local/state")))
}

impl Kept {
    /// The copy of a run; there may be nothing in it yet.
    pub(super) fn open(run: Run) -> Result<Self, Error> {
        let state = state_directory()
            .ok_or_else(|| Error::Misuse("neither XDG_STATE_HOME nor HOME is set".into()))?;
        let directory = state.join("pulse").join(run.to_string());
        fs::create_dir_all(&directory).map_err(io_error("making", &directory))?;
        let versions = Versions::open(directory.join("base"), 0)?;
        Ok(Kept { versions, directory, _temporary: None })
    }

    /// A copy that goes with the process: it can be fetched, and serves the next version.
    pub(super) fn temporary() -> Result<Self, Error> {
        let place = tempfile::Builder::new().prefix("pulse-publish-").tempdir();
        let place = place.map_err(io_error("making a directory in", &std::env::temp_dir()))?;
        let directory = place.path().to_path_buf();
        let versions = Versions::open(directory.join("base"), 0)?;
        Ok(Kept { versions, directory, _temporary: Some(place) })
    }

    /// The copy, if it was made of this version.
    pub(super) fn of(&self, mark: &Mark) -> Option<PathBuf> {
        let is_it = self.versions.mark().ok()?.as_ref() == Some(mark);
        fs::canonicalize(self.versions.link()).ok().filter(|_| is_it)
    }

    /// Makes the copy of the newest version from the feed, with what there is of an older one.
    pub(super) async fn follow(
        &self,
        feed: &Feed,
        mark: &Mark,
        trust: Option<PublicKey>,
        control: Control<'_>,
    ) -> Result<PathBuf, Error> {
        let mut options = FollowerOptions::default().with_at(mark.version);
        options = options.with_spool(self.versions.directory());
        options.trust = trust;
        let mut follower = Follower::open(feed, None, options).await?;
        let held = tokio::task::block_in_place(|| self.versions.held(control))?;
        let (base, held) = held.map_or((None, None), |(path, held)| (Some(path), Some(held)));
        let mut tries = 0;
        loop {
            let update = match follower.look(held).await {
                Ok(Some(update)) => update,
                // It is the newest version.
                Ok(None) | Err(Error::Ended { .. }) => {
                    self.versions.keep_mark(mark)?;
                    return base.ok_or_else(|| Error::Misuse("nothing is held".into()));
                }
                Err(error) => {
                    tries += 1;
                    if tries == TRIES || !error.is_passing() {
                        return Err(error);
                    }
                    continue;
                }
            };
            let stage = || self.versions.stage(&update, base.as_deref(), control);
            match tokio::task::block_in_place(stage) {
                Ok((path, report)) => {
                    follower.served(&update, report.target)?;
                    self.versions.switch(&path, mark)?;
                    return Ok(path);
                }
                Err(error) => {
                    tries += 1;
                    if tries == TRIES || matches!(error, Error::Pulse(pulse::Error::Cancelled)) {
                        return Err(error);
                    }
                    follower.failed(&update);
                }
            }
        }
    }

    /// From now on tensors are copied: somebody wrote to a file that was linked.
    pub(super) fn was_changed(&self) -> Result<(), Error> {
        let path = self.directory.join("copies");
        fs::write(&path, "").map_err(io_error("writing", &path))
    }

    /// Keeps a checkpoint as the copy of the newest version.
    pub(super) fn replace(&self, checkpoint: &Checkpoint, mark: &Mark) -> Result<(), Error> {
        let links = !self.directory.join("copies").exists();
        let (from, to) = (checkpoint.path(), self.versions.place(mark.version)?);
        if from.is_dir() {
            copy_directory(checkpoint, &to, links)?;
        } else {
            copy_file(from, &to, links)?;
        }
        self.versions.switch(&to, mark)
    }
}

/// Links a file, or copies it; a file system that can share the bytes of two files does.
fn copy_file(from: &Path, to: &Path, links: bool) -> Result<(), Error> {
    let real = fs::canonicalize(from).map_err(io_error("reading", from))?;
    if links && fs::hard_link(&real, to).is_ok() {
        return Ok(());
    }
    fs::copy(&real, to).map(|_| ()).map_err(io_error("copying to", to))
}

/// Copies what belongs to the checkpoint. Files without tensors are small, and nothing proves them: they are never linked.
fn copy_directory(checkpoint: &Checkpoint, to: &Path, links: bool) -> Result<(), Error> {
    let is_out = |name: &str| checkpoint.left_out().iter().any(|out| out.name == name);
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let (source, target) = (checkpoint.path().join(&folder), to.join(&folder));
        fs::create_dir_all(&target).map_err(io_error("making", &target))?;
        for entry in fs::read_dir(&source).map_err(io_error("reading", &source))? {
            let entry = entry.map_err(io_error("reading", &source))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if is_out(&name) {
                continue;
            }
            let path = entry.path();
            if entry.file_type().is_ok_and(|found| found.is_dir()) {
                folders.push(name);
            } else if path.is_file() {
                let has_tensors = checkpoint.tensor_files().any(|file| file == name);
                copy_file(&path, &to.join(&name), links && has_tensors)?;
            }
        }
    }
    Ok(())
}
