//! Versions as checkpoints on disk: made beside what is served, and switched to by one link (FEED.md §7.3).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pulse::checkpoint::{write_whole, ApplyOptions, Existing};
use pulse::hash::Digest;
use pulse::tensors::{ApplyReport, Control};
use pulse::Checkpoint;

use crate::document::{parse_digest, seal, Document};
use crate::error::{Error, Result};
use crate::follower::Update;
use crate::id::Run;
use crate::json;
use crate::key::PublicKey;
use crate::log::Mark;
use crate::record::check_type;

/// Makes the checkpoint that an update leads to.
pub(crate) fn make(
    update: &Update,
    base: Option<&Path>,
    out: &Path,
    control: Control<'_>,
) -> Result<ApplyReport> {
    let base = base.map(Checkpoint::open).transpose()?;
    let options = ApplyOptions::default().with_existing(Existing::Replace);
    Ok(update.chain()?.apply(base.as_ref(), out, options, control)?)
}

/// Where versions are served from: `DEST` is a link to `DEST.versions/<version>`, an ordinary checkpoint.
///
/// A new version is made beside the old one and proved; then one rename turns the link, and nobody ever
/// finds anything half made under it. Older versions stay for those who have them open.
#[derive(Debug)]
pub struct Versions {
    link: PathBuf,
    directory: PathBuf,
    keep: usize,
    /// Held while this lives: of two that follow into one place, each would take the other's versions away.
    _lock: fs::File,
}

/// Name of the file with the mark, in the directory of versions.
const MARK: &str = "mark.json";
/// Name of the file that is locked.
const LOCK: &str = ".lock";
/// How names of data begin that is being fetched.
pub(crate) const FETCH: &str = ".fetch-";

impl Versions {
    /// Versions below `destination`, which may not exist, or be a link that this made. Besides the
    /// newest one, `keep` older ones stay.
    ///
    /// # Errors
    /// [`Error::Misuse`] if an ordinary file or directory is there, or another process follows into the same
    /// place; [`Error::Io`].
    pub fn open(destination: impl AsRef<Path>, keep: usize) -> Result<Self> {
        let link = destination.as_ref().to_path_buf();
        let Some(name) = link.file_name() else {
            return Err(Error::Misuse(format!("{} is no name for a link", link.display())));
        };
        let mut beside = name.to_os_string();
        beside.push(".versions");
        let directory = link.with_file_name(&beside);
        let is_ours = |link: &Path| {
            // Links of others lead elsewhere.
            fs::read_link(link).is_ok_and(|target| {
                target.parent().and_then(Path::file_name) == Some(beside.as_os_str())
            })
        };
        if fs::symlink_metadata(&link).is_ok() && !is_ours(&link) {
            return Err(Error::Misuse(format!(
                "{} is there and is no link to a version: choose another place, or change it in place",
                link.display()
            )));
        }
        let failed = |error| Error::io("making", &directory, error);
        fs::create_dir_all(&directory).map_err(failed)?;
        let lock = directory.join(LOCK);
        let mut options = fs::OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).open(lock).map_err(failed)?;
        // Where there are no locks, nobody is kept out.
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            let what = format!("another process follows into {}", link.display());
            return Err(Error::Misuse(what));
        }
        let versions = Versions { link, directory, keep, _lock: lock };
        versions.remove_fetched();
        Ok(versions)
    }

    /// Removes what a process that was killed had fetched.
    fn remove_fetched(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(FETCH.as_bytes()) {
                // It takes room, and is in nobody's way.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The link that is served.
    #[must_use]
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// The directory of the versions; a good place for data that is fetched, since it is on the same disk.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What was served last, as far as it is known; what cannot be read counts as unknown.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Document`] if the file is damaged: remove it only if you know that no
    /// version will be served again that is older than one before.
    pub fn mark(&self) -> Result<Option<Mark>> {
        Mark::load(self.directory.join(MARK))
    }

    /// The path of the version that the link leads to, and its digest, recomputed from its bytes; `None`
    /// if there is none or it is damaged.
    ///
    /// # Errors
    /// [`Error::Pulse`] if the work was cancelled.
    pub fn held(&self, control: Control<'_>) -> Result<Option<(PathBuf, Digest)>> {
        let Ok(path) = fs::canonicalize(&self.link) else { return Ok(None) };
        match Checkpoint::open(&path).and_then(|checkpoint| checkpoint.digest(control)) {
            Ok(digest) => Ok(Some((path, digest))),
            Err(error @ pulse::Error::Cancelled) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Makes the version that the update leads to, beside what is served, and proves it. `base` is the
    /// path of the weights that it starts from.
    ///
    /// # Errors
    /// Those of [`Chain::apply`](pulse::patch::Chain::apply); what is served stays.
    pub fn stage(
        &self,
        update: &Update,
        base: Option<&Path>,
        control: Control<'_>,
    ) -> Result<(PathBuf, ApplyReport)> {
        let out = self.place(update.record.version)?;
        let base = base.filter(|_| !update.is_whole());
        let report = make(update, base, &out, control)?;
        Ok((out, report))
    }

    /// A free place for the checkpoint of a version, to be [switched to](Self::switch). What somebody had
    /// begun there is removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn place(&self, version: u64) -> Result<PathBuf> {
        let served = fs::canonicalize(&self.link).ok();
        let paths = names_of(version).map(|name| self.directory.join(name));
        let is_served = |path: &PathBuf| served.is_some() && fs::canonicalize(path).ok() == served;
        let place = paths.into_iter().find(|path| !is_served(path));
        let place = place.ok_or_else(|| Error::Misuse("two versions are served at once".into()))?;
        remove(&place)?;
        Ok(place)
    }

    /// Turns the link to a version that was staged, in one rename, and remembers the mark before it. Then
    /// removes older versions, but for those that are kept.
    ///
    /// # Errors
    /// [`Error::Io`]; the link then leads where it did.
    pub fn switch(&self, staged: &Path, mark: &Mark) -> Result<()> {
        // In this order: a mark that is too new is asked for again, one that is too old forgets.
        self.keep_mark(mark)?;
        let failed = |error| Error::io("turning", &self.link, error);
        let (Some(beside), Some(version)) = (self.directory.file_name(), staged.file_name()) else {
            return Err(Error::Misuse(format!("{} is no version", staged.display())));
        };
        let target = Path::new(beside).join(version);
        let turned = self.directory.join(".link");
        let _ = fs::remove_file(&turned);
        symlink(&target, &turned).map_err(failed)?;
        fs::rename(&turned, &self.link).map_err(failed)?;
        if let Some(parent) = self.link.parent() {
            // The rename lasts, where directories can be synced.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let _ = fs::File::open(parent).and_then(|directory| directory.sync_all());
        }
        self.remove_old(staged)
    }

    /// Remembers what is served.
    ///
    /// # Errors
    /// [`Error::Pulse`] if it cannot be written.
    pub fn keep_mark(&self, mark: &Mark) -> Result<()> {
        mark.save(self.directory.join(MARK))
    }

    fn remove_old(&self, served: &Path) -> Result<()> {
        let failed = |error| Error::io("looking into", &self.directory, error);
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let version = name.to_str().and_then(version_of);
            let path = self.directory.join(&name);
            let is_served = Some(&*name) == served.file_name();
            versions.extend(version.filter(|_| !is_served).map(|version| (version, path)));
        }
        versions.sort_unstable();
        versions.truncate(versions.len().saturating_sub(self.keep));
        versions.iter().try_for_each(|(_, path)| remove(path))
    }
}

/// What a version may be called here: what is served, damaged perhaps, stays until it is replaced.
fn names_of(version: u64) -> [String; 2] {
    [version.to_string(), format!("{version}.again")]
}

/// The version that is called so; `None` of what nobody here has made.
fn version_of(name: &str) -> Option<u64> {
    let version = name.split('.').next()?.parse().ok()?;
    names_of(version).iter().any(|own| own == name).then_some(version)
}

/// Removes a file or a directory, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("removing", path, error))
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_dir(target, link)
}

impl Mark {
    /// Reads a mark that [`save`](Self::save) wrote; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Document`] if the file is damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        match fs::read(path) {
            Ok(bytes) => read_mark(&path.display().to_string(), &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("reading", path, error)),
        }
    }

    /// Writes the mark to a file, in the place of the one before.
    ///
    /// # Errors
    /// [`Error::Pulse`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = write_mark(self);
        Ok(write_whole(path, Existing::Replace, &[], |file| {
            let written = io::Write::write_all(file, &text);
            written.map_err(|source| {
                let (doing, path) = ("writing the mark to".into(), Some(path.into()));
                pulse::Error::Io { doing, path, source }
            })
        })?)
    }
}

/// The bytes of a mark, sealed as documents are, so that damage shows.
fn write_mark(mark: &Mark) -> Vec<u8> {
    let fields = json::Writer::new().text("type", "mark").hex("run", &mark.run.0);
    let fields = fields.integer("version", mark.version).hex("record", &mark.record.0);
    seal(&fields.optional(mark.key, |fields, key| fields.hex("key", &key.0)).end(), &[])
}

fn read_mark(name: &str, bytes: &[u8]) -> Result<Mark> {
    let document = Document::parse(name, bytes)?;
    let read = |fields: &json::Object| -> json::Result<Mark> {
        check_type(fields, "mark")?;
        let record = fields.text("record")?;
        let record = parse_digest(record).ok_or_else(|| format!("{record:?} is no digest"))?;
        Ok(Mark {
            run: Run(fields.hex("run")?),
            version: fields.integer("version")?,
            record,
            key: fields.optional_hex("key")?.map(PublicKey),
        })
    };
    read(&document.fields).map_err(|what| Error::malformed(name, what))
}
