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
    /// had: it is in no output, and stays where a checkpoint is updated in place.
    Removed,
}

impl Deviation {
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
        }
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deviation::Missing => "missing here, and not in the patch",
            Deviation::Own => "differs from the publisher's; yours is kept",
            Deviation::OwnTensors => "of your own tensor files, which are kept",
            Deviation::Made => "made here: the tensors fit neither the publisher's files nor yours",
            Deviation::Removed => "removed by the publisher, but there is one here",
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
