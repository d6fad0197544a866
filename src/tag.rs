//! Tags of sections.

use std::fmt;

/// Tag of a section: an ASCII letter, upper case if the section is critical, lower case if a
/// reader that does not know it may skip it (SPEC.md §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u8);

impl Tag {
    /// Header of the file.
    pub const HEADER: Tag = Tag(b'H');
    /// A file of the checkpoint.
    pub const FILE: Tag = Tag(b'l');
    /// Bytes of the file record before.
    pub const FILE_DATA: Tag = Tag(b'd');
    /// Begin of a tensor.
    pub const TENSOR: Tag = Tag(b'T');
    /// Changes of a block.
    pub const BLOCK: Tag = Tag(b'B');
    /// End of a tensor.
    pub const TENSOR_END: Tag = Tag(b'E');
    /// Names and offsets of all tensors.
    pub const INDEX: Tag = Tag(b'I');
    /// End of the file.
    pub const FOOTER: Tag = Tag(b'F');

    /// Whether this version of the format defines the section.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.known_name().is_some()
    }

    /// Whether a reader that does not know the section may skip it.
    #[must_use]
    pub fn is_skippable(self) -> bool {
        self.0.is_ascii_lowercase()
    }

    /// What the section is, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.known_name().unwrap_or("unknown")
    }

    fn known_name(self) -> Option<&'static str> {
        Some(match self {
            Tag::HEADER => "header",
            Tag::FILE => "file",
            Tag::FILE_DATA => "file data",
            Tag::TENSOR => "tensor header",
            Tag::BLOCK => "block",
            Tag::TENSOR_END => "tensor trailer",
            Tag::INDEX => "index",
            Tag::FOOTER => "footer",
            _ => return None,
        })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ('{}')", self.name(), self.0.escape_ascii())
    }
}
