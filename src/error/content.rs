//! What was given for a patch or a checkpoint, where it is neither.

use std::fmt;

use crate::error::{Advice, Visible};

/// What a file or directory is that was given for a patch or a checkpoint: told by its first bytes,
/// or by what lies in it.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:…\n").unwrap();
/// let error = pulse::Checkpoint::open(&path).unwrap_err();
/// assert_eq!(error.content().unwrap().name(), "lfs-pointer");
/// assert_eq!(error.advice(), Some(pulse::error::Advice::FetchLfs));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// A file without a byte.
    Empty,
    /// A file that starts with zero bytes: room was made for it, and nothing written.
    Zeros,
    /// Text that stands for a file in a Git repository.
    LfsPointer,
    /// A page of a web site: of a login, of an error.
    Html {
        /// Its title.
        title: Option<String>,
    },
    /// XML: the error of an object store, for instance.
    Xml,
    /// Any other text.
    Text,
    /// Compressed by gzip, xz, zstd or bzip2.
    Compressed(&'static str),
    /// A zip archive.
    Zip,
    /// A tar archive.
    Tar,
    /// Weights as PyTorch pickles them: `.bin`, `.pt`, `.pth`.
    Pickle,
    /// Weights of llama.cpp.
    Gguf,
    /// HDF5, as Keras writes it.
    Hdf5,
    /// An array of NumPy.
    Npy,
    /// A patch.
    Patch,
    /// What is left of a patch that was transferred as text.
    PatchAsText,
    /// A safetensors file.
    Safetensors,
    /// A directory with safetensors files.
    Checkpoint,
    /// A directory that has checkpoints in directories of its own, as a run of training leaves them.
    Checkpoints {
        /// The one with the greatest number, as a path from there.
        newest: String,
    },
    /// A directory with weights as PyTorch pickles them, and no others.
    Pickles,
    /// A directory with weights of llama.cpp, and no others.
    Ggufs,
    /// A directory of patches.
    Patches,
    /// A directory with nothing in it.
    EmptyDirectory,
    /// Any other directory.
    Directory,
}

/// What a file or directory was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wanted {
    /// A patch.
    Patch,
    /// A checkpoint, or a file of one.
    Checkpoint,
}

impl Content {
    /// What it is as a word, for programs.
    ///
    /// ```
    /// assert_eq!(pulse::error::Content::Gguf.name(), "gguf");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Content::Empty => "empty",
            Content::Zeros => "zeros",
            Content::LfsPointer => "lfs-pointer",
            Content::Html { .. } => "html",
            Content::Xml => "xml",
            Content::Text => "text",
            Content::Compressed(_) => "compressed",
            Content::Zip => "zip",
            Content::Tar => "tar",
            Content::Pickle => "pickle",
            Content::Gguf => "gguf",
            Content::Hdf5 => "hdf5",
            Content::Npy => "npy",
            Content::Patch => "patch",
            Content::PatchAsText => "patch-as-text",
            Content::Safetensors => "safetensors",
            Content::Checkpoint => "checkpoint",
            Content::Checkpoints { .. } => "checkpoints",
            Content::Pickles => "pickles",
            Content::Ggufs => "ggufs",
            Content::Patches => "patches",
            Content::EmptyDirectory => "empty-directory",
            Content::Directory => "directory",
        }
    }

    /// What to do if something else was wanted.
    ///
    /// ```
    /// use pulse::error::{Advice, Content, Wanted};
    /// assert_eq!(Content::Patch.advice(Wanted::Checkpoint), Advice::SwapArguments);
    /// ```
    #[must_use]
    pub fn advice(&self, wanted: Wanted) -> Advice {
        match (self, wanted) {
            (Content::Empty | Content::Zeros, Wanted::Patch) => Advice::TransferAgain,
            (Content::Empty | Content::Zeros, Wanted::Checkpoint) => Advice::CopyAgain,
            (Content::LfsPointer, _) => Advice::FetchLfs,
            (Content::Html { .. } | Content::Xml, _) => Advice::DownloadAgain,
            (Content::Compressed(_) | Content::Zip | Content::Tar, _) => Advice::Unpack,
            (Content::Patch, Wanted::Checkpoint)
            | (Content::Safetensors | Content::Checkpoint, Wanted::Patch) => Advice::SwapArguments,
            (Content::PatchAsText, _) => Advice::TransferAsBinary,
            (
                Content::Pickle
                | Content::Gguf
                | Content::Hdf5
                | Content::Npy
                | Content::Pickles
                | Content::Ggufs,
                Wanted::Checkpoint,
            ) => Advice::Convert,
            (Content::Checkpoints { .. }, Wanted::Checkpoint) => Advice::ChooseCheckpoint,
            (_, Wanted::Patch) => Advice::GivePatch,
            (_, Wanted::Checkpoint) => Advice::GiveCheckpoint,
        }
    }

    /// Whether it is a directory.
    fn is_directory(&self) -> bool {
        matches!(
            self,
            Content::Checkpoint
                | Content::Checkpoints { .. }
                | Content::Pickles
                | Content::Ggufs
                | Content::Patches
                | Content::EmptyDirectory
                | Content::Directory
        )
    }

    /// "it is a Git LFS pointer, not a .pulse file".
    pub(super) fn instead_of(&self, wanted: Wanted) -> String {
        let wanted = match wanted {
            Wanted::Patch => "a .pulse file",
            Wanted::Checkpoint if self.is_directory() => "a checkpoint",
            Wanted::Checkpoint => "a safetensors file",
        };
        format!("it is {self}, not {wanted}")
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Empty => f.write_str("an empty file"),
            Content::Zeros => f.write_str("a file of zero bytes, which was never written in full"),
            Content::LfsPointer => f.write_str("a Git LFS pointer"),
            Content::Html { title: None } => f.write_str("an HTML page"),
            Content::Html { title: Some(title) } => {
                write!(f, "an HTML page with the title '{}'", Visible(title))
            }
            Content::Xml => f.write_str("an XML document"),
            Content::Text => f.write_str("a text file"),
            Content::Compressed(by) => write!(f, "compressed by {by}"),
            Content::Zip => f.write_str("a zip archive"),
            Content::Tar => f.write_str("a tar archive"),
            Content::Pickle => f.write_str("a pickle of PyTorch"),
            Content::Gguf => f.write_str("a GGUF file"),
            Content::Hdf5 => f.write_str("an HDF5 file"),
            Content::Npy => f.write_str("a NumPy array"),
            Content::Patch => f.write_str("a patch"),
            Content::PatchAsText => f.write_str("a patch that was transferred as text"),
            Content::Safetensors => f.write_str("a checkpoint"),
            Content::Checkpoint => f.write_str("a directory with a checkpoint"),
            Content::Checkpoints { newest } => {
                write!(f, "a directory of checkpoints such as '{}'", Visible(newest))
            }
            Content::Pickles => f.write_str("a directory with pickles of PyTorch"),
            Content::Ggufs => f.write_str("a directory with GGUF files"),
            Content::Patches => f.write_str("a directory with patches"),
            Content::EmptyDirectory => f.write_str("an empty directory"),
            Content::Directory => f.write_str("a directory without tensor files"),
        }
    }
}
