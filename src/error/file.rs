//! What is wrong with a file of a checkpoint.

use crate::error::{Advice, Content, Visible, Wanted};

/// What is wrong with a file or directory of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// Too short to be a safetensors file.
    #[error("{bytes} bytes are too few for a safetensors file")]
    TooShort {
        /// Its size.
        bytes: u64,
    },
    /// The length field of the header is not possible.
    #[error("the header length field says {found} bytes, but at most {most} are possible: not a safetensors file?")]
    HeaderLength {
        /// As the file says.
        found: u64,
        /// What its size, or the limit of safetensors, allows.
        most: u64,
    },
    /// Something else than a checkpoint, or than a safetensors file of one.
    #[error("{}", _0.instead_of(Wanted::Checkpoint))]
    NoCheckpoint(Content),
    /// A directory where a patch was to be.
    #[error("{}", _0.instead_of(Wanted::Patch))]
    NoPatch(Content),
    /// The file has another size than its header says.
    #[error("the header describes a file of {expected} bytes, but it has {found}")]
    Size {
        /// As the header says.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The header breaks a rule of safetensors.
    #[error("bad safetensors header: {}", Visible(_0))]
    Header(String),
    /// The index file cannot be read.
    #[error("bad index file: {}", Visible(_0))]
    Index(String),
    /// The index file names a file that is not there.
    #[error("the index file names {}, which is not there", Visible(_0))]
    MissingShard(String),
    /// A tensor is in two files, and no index says which of them has the name.
    #[error(
        "tensor '{}' is also in {}, and no index tells the two apart",
        Visible(tensor),
        Visible(other)
    )]
    DuplicateTensor {
        /// Name of the tensor.
        tensor: String,
        /// The other file.
        other: String,
    },
    /// A tensor file has a name that a patch cannot carry, because no system or not every system
    /// could create it.
    #[error("the file name {0:?} cannot be carried to other systems")]
    Name(String),
    /// Two tensor files have names that are one where neither case nor the form of accents counts.
    #[error("the file names {name:?} and {other:?} are one on other systems")]
    SameName {
        /// The name of the file.
        name: String,
        /// That of another one.
        other: String,
    },
    /// The directory has no tensor file.
    #[error("the directory has no .safetensors file")]
    NoTensors,
    /// Neither a regular file nor, where that is possible, a directory.
    #[error("not a regular file")]
    NotRegular,
    /// The root of a file system.
    #[error("a file system root cannot be a checkpoint")]
    Root,
    /// Readers would refuse what the checkpoint would need in a patch, or a patch in a checkpoint.
    #[error("{}", Visible(_0))]
    Refused(String),
    /// The headers are too large to be carried.
    #[error("headers of {bytes} bytes; readers refuse more than {allowed}")]
    HeadersTooLarge {
        /// Together.
        bytes: u64,
        /// What a patch may carry.
        allowed: u64,
    },
    /// A single file was given for the base of a patch that was made from a directory.
    #[error("it is a single file, but the patch was made from a directory")]
    WantsDirectory,
    /// A directory was given for the base of a patch that was made from a single file.
    #[error("it is a directory, but the patch was made from a single file")]
    WantsFile,
    /// A link, or a file with several names: others would see an update.
    #[error("{}", Visible(_0))]
    Linked(String),
    /// The tensors of a checkpoint are those of the target, but this file of it is not.
    #[error("missing, or not the publisher's; the tensors are those of the target")]
    OtherFile,
    /// A companion is not the one that the patch was made with.
    #[error("not the file that the patch was made with")]
    OtherCompanion,
}

impl FileFault {
    pub(super) fn advice(&self) -> Option<Advice> {
        Some(match self {
            FileFault::NoCheckpoint(content) => content.advice(Wanted::Checkpoint),
            FileFault::NoPatch(content) => content.advice(Wanted::Patch),
            FileFault::TooShort { .. } | FileFault::Size { .. } => Advice::CopyAgain,
            FileFault::HeaderLength { .. } | FileFault::NoTensors | FileFault::Root => {
                Advice::GiveCheckpoint
            }
            FileFault::Header(_) | FileFault::Index(_) => Advice::SaveAgain,
            FileFault::MissingShard(_) | FileFault::OtherFile => Advice::CopyAgain,
            FileFault::DuplicateTensor { .. } => Advice::ChooseOne,
            FileFault::Name(_) | FileFault::SameName { .. } => Advice::Rename,
            FileFault::NotRegular => Advice::GiveRegularFile,
            FileFault::HeadersTooLarge { .. } | FileFault::Refused(_) => return None,
            FileFault::Linked(_) => Advice::CopyLinked,
            FileFault::OtherCompanion | FileFault::WantsDirectory | FileFault::WantsFile => {
                Advice::UseItsBaseFiles
            }
        })
    }
}
