//! One error type: who has to act, on which file, what was expected and what was found.
//!
//! | kind | what happened | who acts |
//! |---|---|---|
//! | those of SPEC.md §11 at fault *patch* | [`Error::Corrupt`], [`Error::Version`], [`Error::WrongResult`] | the sender or maker of the patch |
//! | `limit` | [`Error::Limit`] | this reader, if the source is trusted |
//! | `base`, `target` | [`Error::BaseMismatch`], [`Error::TargetMismatch`], [`Error::Chain`] | who chose the checkpoint, or the patches |
//! | `checkpoint` | [`Error::BadFile`], [`Error::BaseFile`], [`Error::Unfit`] | who keeps the files |
//! | `part` | [`Error::Part`] | who sent the part, or whose ranks gave what does not fit together |
//! | `needs-base` | [`Error::NeedsBase`] | the caller: the patch says nothing without its base |
//! | `not-invertible` | [`Error::NotInvertible`] | the caller: the base is needed, or a patch the other way |
//! | `not-in-place` | [`Error::NotInPlace`] | the caller: write a new checkpoint |
//! | `exists` | [`Error::Exists`] | the caller: another place, or permission to replace |
//! | `changed` | [`Error::Changed`] | who writes to the input |
//! | `busy` | [`Error::Busy`] | nobody: wait |
//! | `interrupted`, `unrecovered` | [`Error::Interrupted`], [`Error::Unrecovered`] | the keeper of the checkpoint |
//! | `cancelled` | [`Error::Cancelled`] | nobody: the caller wanted it |
//! | `misuse` | [`Error::Misuse`] | the author of the calling code |
//! | `internal` | [`Error::Internal`] | the authors of this library |
//! | `io` | [`Error::Io`] | the operator of the machine |

mod advice;
mod change;
mod content;
mod fault;
mod fields;
mod file;
mod mismatch;
mod occupant;
mod visible;

pub use advice::Advice;
pub use change::Change;
pub use content::{Content, Wanted};
pub use fault::{Corrupt, Fault};
pub use file::FileFault;
pub use mismatch::{BaseMismatch, Reshaped};
pub use occupant::Occupant;
pub use visible::{is_visible, Visible};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Its text says what happened; [`advice`](Self::advice) says what to do, and
/// [`kind`](Self::kind) is a word for programs. The [module](self) lists who has to act.
///
/// Where a variant has a field `file` it is the patch, `None` if that is in memory or in a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The patch breaks a rule of SPEC.md.
    #[error("{0}")]
    Corrupt(Box<Corrupt>),
    /// The patch is of a major version that this reader does not know.
    #[error(
        "{}format version {major}.{minor}: this reader knows major version {known} only",
        in_file(file)
    )]
    Version {
        /// The patch.
        file: Option<PathBuf>,
        /// Major version of the file.
        major: u8,
        /// Minor version of the file.
        minor: u8,
        /// The major version that this reader knows.
        known: u8,
    },
    /// A declared size exceeds a limit of this reader. See [`Limits`](crate::Limits).
    #[error(
        "{}limit `{limit}` exceeded at byte {offset}: asked for {asked}, allowed {allowed}",
        in_file(file)
    )]
    Limit {
        /// The patch.
        file: Option<PathBuf>,
        /// Name of the field of [`Limits`](crate::Limits).
        limit: &'static str,
        /// What the file asks for.
        asked: u64,
        /// What the limit allows.
        allowed: u64,
        /// Offset of the section in the file.
        offset: u64,
    },
    /// The base given is not the one that the patch was made from.
    #[error("{0}")]
    BaseMismatch(Box<BaseMismatch>),
    /// The checkpoint given is not the target of the patch.
    #[error(
        "{}not the target of the patch: {}expected digest {expected}, found {found}",
        in_file(file),
        differs(tensor)
    )]
    TargetMismatch {
        /// The patch.
        file: Option<PathBuf>,
        /// The first tensor that differs, where one is known.
        tensor: Option<String>,
        /// Digest of the target checkpoint that the patch names.
        expected: Digest,
        /// Digest of the checkpoint given.
        found: Digest,
    },
    /// What was made has another digest than the patch names for it, although the base is the right
    /// one. Nothing of it was kept.
    #[error("{}{made} has digest {found}, expected {expected}", in_file(file))]
    WrongResult {
        /// The patch.
        file: Option<PathBuf>,
        /// What was made.
        made: Made,
        /// As the patch names it.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
    /// Patches that are to be composed do not follow one another: the base of one is not the
    /// target of the other.
    #[error("{}", Visible(format_args!("{patch} does not follow {before}: {what}")))]
    Chain {
        /// The file of the patch that does not follow; `None` in memory.
        file: Option<PathBuf>,
        /// The patch that should come before.
        before: String,
        /// The patch that does not follow it.
        patch: String,
        /// What does not fit, expected and found.
        what: String,
        /// If it is their digests: that of the base of the patch, and that of the target of the one before.
        digests: Option<Box<(Digest, Digest)>>,
    },
    /// A part of a patch is damaged, or parts do not make one patch together.
    #[error("{}{}", in_file(file), Visible(what))]
    Part {
        /// The part; `None` if it is in memory, or if it is about several.
        file: Option<PathBuf>,
        /// What is wrong, with the tensor and the numbers of the parts that it is about: they count
        /// from 0, in the order in which they were given.
        what: String,
    },
    /// The patch says too little without the checkpoint that it was made from.
    #[error("{}{}", in_file(file), Visible(what))]
    NeedsBase {
        /// The patch.
        file: Option<PathBuf>,
        /// What cannot be known without the base.
        what: String,
    },
    /// The patch does not say enough to be inverted.
    #[error("{}{}: it cannot be inverted", in_file(file), Visible(what))]
    NotInvertible {
        /// The patch.
        file: Option<PathBuf>,
        /// What cannot be undone.
        what: String,
    },
    /// The patch cannot be applied where the checkpoint or the weights are.
    #[error("{}{}, which cannot be done in place", at_path(path), Visible(what))]
    NotInPlace {
        /// The checkpoint, or a file of it; `None` for weights in memory.
        path: Option<PathBuf>,
        /// What would have to change.
        what: String,
    },
    /// A file of a checkpoint cannot be used.
    #[error("{}{fault}", at_path(path))]
    BadFile {
        /// The file or directory; `None` for one that is still to be written.
        path: Option<PathBuf>,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// A file of the base is not the one that the patch was made with.
    #[error(
        "{}missing, or not the file that the patch was made with, of {bytes} bytes with SHA-256 {sha256}",
        at_path(&Some(path.clone().unwrap_or_else(|| name.into())))
    )]
    BaseFile {
        /// The file; `None` if there is no base.
        path: Option<PathBuf>,
        /// Name of the file in the checkpoint.
        name: String,
        /// Its size when the patch was made.
        bytes: u64,
        /// Its SHA-256 when the patch was made.
        sha256: Digest,
    },
    /// The patch does not fit its own base, or the files that it describes do not fit its tensors.
    #[error("{}{}", in_file(file), Visible(what))]
    Unfit {
        /// The patch.
        file: Option<PathBuf>,
        /// What does not fit.
        what: String,
    },
    /// Something is at the place of the output already.
    #[error("{}: {found}", Visible(path.display()))]
    Exists {
        /// The place.
        path: PathBuf,
        /// What is there.
        found: Occupant,
    },
    /// An input changed while it was read: what was to be made of it would be of two states.
    #[error("{}: {how} while it was read", Visible(path.display()))]
    Changed {
        /// The file or directory.
        path: PathBuf,
        /// How.
        how: Change,
    },
    /// Another process is changing the checkpoint, or has locked what is to be changed, as every open
    /// [`Checkpoint`](crate::Checkpoint) does. Who reads or maps a file without a lock is not noticed.
    #[error("{}: another process is updating it, or has locked it to read it", Visible(path.display()))]
    Busy {
        /// The file; a lock file where the file system has no locks.
        path: PathBuf,
    },
    /// An update in place of this file was interrupted: what is in it may be neither base nor target.
    #[error("{}: an update in place was interrupted; {}", Visible(path.display()), where_is(journal, *is_there))]
    Interrupted {
        /// The file of tensors that is marked, or the checkpoint.
        path: PathBuf,
        /// The journal of the update.
        journal: PathBuf,
        /// Whether it is where it should be.
        is_there: bool,
    },
    /// Neither base nor target could be made of a checkpoint whose update failed or was interrupted.
    /// Nothing was changed by the attempt that could not be proved right.
    #[error("{}: neither base nor target can be made with this journal: {source}{}", Visible(path.display()), after(update))]
    Unrecovered {
        /// The journal.
        path: PathBuf,
        /// Why the base could not be restored.
        source: Box<Error>,
        /// Why the update had failed, if it was this call that made it.
        update: Option<Box<Error>>,
    },
    /// The caller stopped the work through its progress callback. Files and checkpoints are as they
    /// were; a writer that was given has received part of a patch.
    #[error("cancelled")]
    Cancelled,
    /// The library was called in a way that its documentation forbids.
    #[error("{}", Visible(_0))]
    Misuse(String),
    /// A rule of this library's own code was broken. Nothing was kept.
    #[error("internal error: {}", Visible(_0))]
    Internal(String),
    /// Reading or writing failed.
    #[error("{}{}: {}", Visible(doing), path.as_ref().map(|path| format!(" {}", Visible(path.display()))).unwrap_or_default(), Visible(source))]
    Io {
        /// What was being done.
        doing: String,
        /// The file or directory, where there is one.
        path: Option<PathBuf>,
        /// The cause.
        source: io::Error,
    },
}

/// What has the wrong digest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Made {
    /// A tensor of the result.
    Tensor(String),
    /// The result as a whole.
    Checkpoint,
    /// A file that the patch carries.
    File(String),
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Made::Tensor(name) => write!(f, "the result is wrong: tensor '{}'", Visible(name)),
            Made::Checkpoint => f.write_str("the result is wrong: the checkpoint"),
            Made::File(name) => write!(f, "the file {name:?} that the patch carries is wrong: it"),
        }
    }
}

fn in_file(file: &Option<PathBuf>) -> String {
    at_path(file)
}

fn at_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!("{}: ", Visible(path.display()))).unwrap_or_default()
}

fn differs(tensor: &Option<String>) -> String {
    tensor.as_ref().map(|name| format!("tensor '{}' differs: ", Visible(name))).unwrap_or_default()
}

/// Makes `kind` and the list of its words from one table. The match has no wildcard: a new variant
/// needs a row here, and tests/spec/errors an error of that kind.
macro_rules! kinds {
    ($($variant:pat => $kind:literal,)* $(; $inner:pat => $its_kind:expr)?) => {
        /// The kind of error in one word, as SPEC.md §11, [`Error`]'s module page and
        /// `testvectors/manifest.json` list them.
        ///
        /// ```
        /// let mut decoder = pulse::PushDecoder::new(pulse::Limits::default());
        /// let error = decoder.feed(b"not a patch file").unwrap_err();
        /// assert_eq!(error.kind(), "signature");
        /// ```
        #[must_use]
        pub fn kind(&self) -> &'static str {
            match self {
                $($inner => $its_kind,)?
                $($variant => $kind,)*
            }
        }

        /// The kinds of this type, each once: for the tests that hold them against SPEC.md.
        #[doc(hidden)]
        pub const KINDS: &[&str] = &[$($kind),*];
    };
}
pub(crate) use kinds;

/// Where the journal of an update should be.
fn where_is(journal: &Path, is_there: bool) -> String {
    let journal = Visible(journal.display());
    if is_there {
        format!("its journal is {journal}")
    } else {
        format!("its journal {journal} is not there")
    }
}

/// What an update that could not be undone had failed of.
fn after(update: &Option<Box<Error>>) -> String {
    update.as_ref().map(|error| format!("; the update had failed: {error}")).unwrap_or_default()
}

impl Error {
    /// Wraps an I/O error with what was being done to no particular file.
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Error::Io { doing: doing.into(), path: None, source }
    }

    /// Wraps an I/O error with what was being done to which file.
    #[cfg(feature = "parallel")]
    pub(crate) fn io_at(doing: impl Into<String>, path: &Path, source: io::Error) -> Self {
        Error::Io { doing: doing.into(), path: Some(path.into()), source }
    }

    /// A file of a checkpoint that cannot be used.
    #[cfg(feature = "parallel")]
    pub(crate) fn bad_file(path: &Path, fault: FileFault) -> Self {
        Error::BadFile { path: Some(path.into()), fault }
    }

    /// A base with the wrong digest.
    pub(crate) fn wrong_base(tensor: Option<String>, expected: Digest, found: Digest) -> Self {
        Error::BaseMismatch(Box::new(BaseMismatch::new(tensor, expected, found)))
    }

    pub(crate) fn misuse(what: impl Into<String>) -> Self {
        Error::Misuse(what.into())
    }

    /// Says that the patch of which the error speaks is this file.
    #[cfg(feature = "parallel")]
    pub(crate) fn in_file(mut self, path: Option<&Path>) -> Self {
        let place = match &mut self {
            Error::Corrupt(corrupt) => Some(&mut corrupt.file),
            Error::BaseMismatch(mismatch) => Some(&mut mismatch.file),
            Error::Version { file, .. }
            | Error::Limit { file, .. }
            | Error::TargetMismatch { file, .. }
            | Error::WrongResult { file, .. }
            | Error::NeedsBase { file, .. }
            | Error::NotInvertible { file, .. }
            | Error::Unfit { file, .. } => Some(file),
            _ => None,
        };
        if let Some(file @ None) = place {
            *file = path.map(Path::to_path_buf);
        }
        self
    }

    kinds! {
        Error::Version { .. } => "version",
        Error::Limit { .. } => "limit",
        Error::BaseMismatch(_) | Error::Chain { .. } => "base",
        Error::TargetMismatch { .. } => "target",
        Error::WrongResult { .. } => "digest",
        Error::Part { .. } => "part",
        Error::NeedsBase { .. } => "needs-base",
        Error::NotInvertible { .. } => "not-invertible",
        Error::NotInPlace { .. } => "not-in-place",
        Error::BadFile { .. } | Error::BaseFile { .. } | Error::Unfit { .. } => "checkpoint",
        Error::Exists { .. } => "exists",
        Error::Changed { .. } => "changed",
        Error::Busy { .. } => "busy",
        Error::Interrupted { .. } => "interrupted",
        Error::Unrecovered { .. } => "unrecovered",
        Error::Cancelled => "cancelled",
        Error::Misuse(_) => "misuse",
        Error::Internal(_) => "internal",
        Error::Io { .. } => "io",
        ; Error::Corrupt(corrupt) => corrupt.fault.kind()
    }

    /// What to do about it, where that is known.
    ///
    /// ```
    /// use pulse::error::Advice;
    /// let mut decoder = pulse::PushDecoder::new(pulse::Limits::default());
    /// let error = decoder.feed(b"not a patch file").unwrap_err();
    /// assert_eq!(error.advice(), Some(Advice::TransferAsBinary));
    /// ```
    #[must_use]
    pub fn advice(&self) -> Option<Advice> {
        Some(match self {
            Error::Corrupt(corrupt) => return corrupt.advice(),
            Error::Version { .. } => Advice::UseNewerReader,
            Error::Limit { .. } => Advice::RaiseLimit,
            Error::BaseMismatch(mismatch) if mismatch.is_target => Advice::NothingToDo,
            // What to do is in the message.
            Error::BaseMismatch(mismatch) if mismatch.applied > 0 => return None,
            Error::BaseMismatch(_) => Advice::UseItsBase,
            Error::TargetMismatch { .. } => Advice::UseItsTarget,
            Error::WrongResult { .. } | Error::Unfit { .. } => Advice::CreateAgain,
            Error::Chain { .. } => Advice::GiveEveryPatch,
            Error::Part { .. } => Advice::GiveEveryPart,
            Error::NeedsBase { .. } => Advice::GiveItsBase,
            Error::NotInvertible { .. } => Advice::KeepBase,
            Error::NotInPlace { .. } => Advice::WriteNewCheckpoint,
            Error::BadFile { fault, .. } => return fault.advice(),
            Error::BaseFile { .. } => Advice::UseItsBaseFiles,
            Error::Exists { .. } => Advice::ChooseAnotherPlace,
            Error::Changed { .. } => Advice::LeaveUnchanged,
            Error::Busy { .. } => Advice::Wait,
            Error::Interrupted { is_there: true, .. } => Advice::Recover,
            Error::Interrupted { is_there: false, .. } => Advice::CopyJournal,
            Error::Unrecovered { source, .. } => match **source {
                Error::Io { ref source, .. }
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Advice::AllowAndRecover
                }
                Error::Io { .. } => Advice::CheckDisk,
                _ => Advice::FetchCheckpointAgain,
            },
            Error::Internal(_) => Advice::Report,
            Error::Cancelled | Error::Misuse(_) => return None,
            Error::Io { source, .. } => return Advice::on_io(source),
        })
    }
}

impl From<Error> for io::Error {
    /// Keeps the typed error inside, so that `get_ref` and `downcast` find it.
    fn from(error: Error) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
