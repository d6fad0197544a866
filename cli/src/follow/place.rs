//! Where versions are served: by a link to one of several, or in one checkpoint that is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use pulse::checkpoint::{ApplyOptions, Existing, FileNote, FilePolicy};
use pulse::hash::Digest;
use pulse::tensors::Control;
use pulse::update::UpdateOptions;
use pulse::Checkpoint;
use pulse_sync::{Error, Mark, Update, Versions};
use serde_json::{json, Value};

use super::{Follow, Held};
use crate::failure::{Failure, Result};
use crate::streams;

/// A place that holds a version.
#[derive(Debug)]
pub(super) struct Place {
    kind: Kind,
    /// DEST.
    path: PathBuf,
    /// What is remembered of it, and where.
    mark: PathBuf,
    state: PathBuf,
    files: FilePolicy,
}

#[derive(Debug)]
enum Kind {
    Linked(Versions),
    InPlace {
        /// Where a checkpoint is made that cannot be made in place.
        beside: PathBuf,
    },
}

/// What is known of files: size, and nanoseconds since 1970 when they were changed.
type Stamps = BTreeMap<String, (u64, u64)>;

impl Place {
    pub(super) fn open(options: &Follow) -> Result<Self> {
        streams::refuse_output(&options.dest)?;
        // What is told of it holds wherever it is heard.
        let path = std::path::absolute(&options.dest).unwrap_or_else(|_| options.dest.clone());
        let Some(name) = path.file_name() else {
            return crate::failure::usage(format!("{} is no name for DEST", path.display()));
        };
        let beside = |what: &str| {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(what);
            path.with_file_name(hidden)
        };
        let files = options.following.policy();
        if options.in_place {
            let place = Place {
                kind: Kind::InPlace { beside: beside(".pulse-next") },
                mark: beside(".pulse-mark"),
                state: beside(".pulse-state"),
                files,
                path,
            };
            return Ok(place);
        }
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_symlink()) {
            let what = format!("{} is there and is no link to a version", options.dest.display());
            let advice = "choose another DEST, or change the checkpoint that is there: --in-place";
            return Err(Failure::advised(Error::Misuse(what), advice));
        }
        let versions = Versions::open(&path, options.keep)?;
        let directory = versions.directory();
        let (mark, state) = (directory.join("mark.json"), directory.join("state.json"));
        Ok(Place { kind: Kind::Linked(versions), path, mark, state, files })
    }

    /// A directory for what is fetched.
    pub(super) fn directory(&self) -> PathBuf {
        match &self.kind {
            Kind::Linked(versions) => versions.directory().into(),
            Kind::InPlace { .. } => match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
                _ => PathBuf::from("."),
            },
        }
    }

    /// What was served last.
    pub(super) fn mark(&self) -> Result<Option<Mark>> {
        Ok(Mark::load(&self.mark)?)
    }

    /// What is there and its digest, recomputed, or as it was remembered if no file has changed since.
    pub(super) fn held(&self, trust_state: bool, control: Control<'_>) -> Result<Held, Error> {
        if let Kind::InPlace { beside } = &self.kind {
            if !self.path.exists() && beside.exists() {
                // It was stopped between two renames.
                rename(beside, &self.path)?;
            }
            if self.path.exists() {
                pulse::update::recover(&self.path, control)?;
            }
        }
        let path = match &self.kind {
            Kind::Linked(_) => fs::canonicalize(&self.path).ok(),
            Kind::InPlace { .. } => Some(self.path.clone()).filter(|path| path.exists()),
        };
        let Some(path) = path else { return Ok(None) };
        if let Some(digest) = self.remembered(&path).filter(|_| trust_state) {
            return Ok(Some((path, digest)));
        }
        match Checkpoint::open(&path).and_then(|checkpoint| checkpoint.digest(control)) {
            Ok(digest) => Ok(Some((path, digest))),
            Err(error @ pulse::Error::Cancelled) => Err(error.into()),
            // Of nothing that can be read a version is made, but only where it takes nobody's place.
            Err(_) if matches!(self.kind, Kind::Linked(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes and proves the version of an update; in place that is all of it.
    pub(super) fn stage(
        &self,
        update: &Update,
        base: Option<&Path>,
        control: Control<'_>,
    ) -> Result<(PathBuf, Vec<FileNote>), Error> {
        // In the middle of it nothing is what is remembered.
        let _ = fs::remove_file(&self.state);
        let (chain, base) = (update.chain()?, base.filter(|_| !update.is_whole()));
        match &self.kind {
            Kind::Linked(versions) => {
                let out = versions.place(update.record.version)?;
                let base = base.map(Checkpoint::open).transpose()?;
                let options = ApplyOptions::default().with_files(self.files);
                let report = chain.apply(base.as_ref(), &out, options, control)?;
                Ok((out, report.notes))
            }
            Kind::InPlace { .. } if base.is_some() => {
                let options = UpdateOptions::default().with_files(self.files);
                let report = chain.update(&self.path, options, control)?;
                Ok((self.path.clone(), report.target.notes))
            }
            Kind::InPlace { beside } => {
                // A version out of nothing takes the place of the other one as a whole.
                remove(beside)?;
                let options = ApplyOptions::default().with_existing(Existing::Refuse);
                let report = chain.apply(None, beside, options, control)?;
                Ok((beside.clone(), report.notes))
            }
        }
    }

    /// Serves what was staged, and remembers it.
    pub(super) fn switch(
        &self,
        staged: &Path,
        mark: &Mark,
        digest: Digest,
    ) -> Result<PathBuf, Error> {
        let path = match &self.kind {
            Kind::Linked(versions) => {
                versions.switch(staged, mark)?;
                staged.to_path_buf()
            }
            Kind::InPlace { .. } => {
                mark.save(&self.mark)?;
                if staged != self.path {
                    // A file takes the place of another one at once, a directory that of none.
                    if self.path.is_dir() {
                        remove(&self.path)?;
                    }
                    rename(staged, &self.path)?;
                }
                self.path.clone()
            }
        };
        self.remember(&path, digest);
        Ok(path)
    }

    /// Remembers what the files are like that have this digest. Without it, they are read.
    fn remember(&self, path: &Path, digest: Digest) {
        let files: serde_json::Map<String, Value> = stamps(path)
            .into_iter()
            .map(|(name, stamp)| (name, json!([stamp.0, stamp.1])))
            .collect();
        let state = json!({ "digest": digest.to_string(), "files": files });
        let _ = fs::write(&self.state, state.to_string());
    }

    /// The digest of what is there, if all files are as they were when it was proved.
    fn remembered(&self, path: &Path) -> Option<Digest> {
        let state: Value = serde_json::from_slice(&fs::read(&self.state).ok()?).ok()?;
        let files: Stamps = serde_json::from_value(state["files"].clone()).ok()?;
        let digest = state["digest"].as_str()?;
        (files == stamps(path)).then(|| parse(digest)).flatten()
    }
}

fn parse(digits: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Digest(digest))
}

fn stamps(path: &Path) -> Stamps {
    let mut stamps = Stamps::new();
    let mut places = vec![path.to_path_buf()];
    while let Some(place) = places.pop() {
        let Ok(found) = fs::symlink_metadata(&place) else { continue };
        if found.is_dir() {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            places.extend(entries.map(|entry| entry.path()));
        } else {
            let name = place.strip_prefix(path).unwrap_or(&place).display().to_string();
            let since = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let nanoseconds = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
            stamps.insert(name, (found.len(), nanoseconds.unwrap_or(0)));
        }
    }
    stamps
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::Io {
        doing: "renaming",
        path: from.into(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "removing", path: path.into(), source })
        }
        _ => Ok(()),
    }
}
