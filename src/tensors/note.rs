//! What a file of a target is, where it is not what the patch says.

use std::fmt;

/// A file beside the tensors, or a header of a tensor file, that is not as the patch says: the
/// receiver had others than the publisher. The tensors are those of the target all the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct FileNote {
    /// Its name; empty if the checkpoint is one file.
    pub name: String,
    /// How it differs.
    pub deviation: Deviation,
}

/// How a file differs from what the patch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Deviation {
    /// The target of the patch has it, but it neither is here nor travels with the patch.
    Missing,
    /// The receiver has another file of this name, and it stays.
    Own,
    /// The patch does not list it: it belongs to the tensor files that the receiver has.
    OwnTensors,
    /// The patch does not list it: the tensors did not fit the files of publisher or receiver.
    Made,
    /// The target of the patch does not have it, and the receiver's is not the one that the base
    /// had: a new output is without it.
    Removed,
    /// As [`Removed`](Self::Removed), of a checkpoint that is updated in place or was looked at: it stays.
    Stays,
    /// The receiver has it, and the patch says nothing of it: a new output is without it.
    LeftBehind,
    /// As [`LeftBehind`](Self::LeftBehind), of a checkpoint that is updated in place or was looked at: it stays.
    Extra,
}

impl Deviation {
    /// What becomes of it where files stay unless they are changed.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn in_place(self) -> Self {
        match self {
            Deviation::Removed => Deviation::Stays,
            Deviation::LeftBehind => Deviation::Extra,
            other => other,
        }
    }

    /// Whether the output is without the file.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn is_absence(self) -> bool {
        matches!(self, Deviation::Missing | Deviation::Removed | Deviation::LeftBehind)
    }

    /// The deviation as a word, for programs.
    ///
    /// ```
    /// use pulse::checkpoint::Deviation;
    /// assert_eq!(Deviation::OwnTensors.name(), "own-tensors");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Deviation::Missing => "missing",
            Deviation::Own => "own",
            Deviation::OwnTensors => "own-tensors",
            Deviation::Made => "made",
            Deviation::Removed => "removed",
            Deviation::Stays => "stays",
            Deviation::LeftBehind => "left-behind",
            Deviation::Extra => "extra",
        }
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deviation::Missing => "missing here, and not carried by the patch",
            Deviation::Own => "differs from the publisher's; yours is kept",
            Deviation::OwnTensors => {
                "part of your own tensor files, which stay as they are laid out"
            }
            Deviation::Made => "made here: the tensors fit neither the publisher's files nor yours",
            Deviation::Removed => {
                "removed by the publisher; yours is another one, and not in the output"
            }
            Deviation::Stays => "removed by the publisher; yours is another one, and stays",
            Deviation::LeftBehind => "not in the patch, and so not in the output",
            Deviation::Extra => "not in the patch; it stays as it is",
        })
    }
}

impl fmt::Display for FileNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "the header" } else { &self.name };
        write!(f, "{name}: {}", self.deviation)
    }
}

impl FileNote {
    #[cfg(feature = "checkpoint")]
    pub(crate) fn new(name: impl Into<String>, deviation: Deviation) -> Self {
        FileNote { name: name.into(), deviation }
    }
}
