//! A broken rule of the format, and where in the file it was broken.

use std::fmt;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{kinds, Advice, Content, Error, Visible, Wanted};
use crate::tag::Tag;

/// A broken rule of SPEC.md, and where in the file it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corrupt {
    /// The patch; `None` if it is in memory or in a stream.
    pub file: Option<PathBuf>,
    /// Byte of the file at which the fault shows.
    pub offset: u64,
    /// Tag of the section, once its head was read.
    pub section: Option<Tag>,
    /// Tensor that was being read.
    pub tensor: Option<String>,
    /// Number of the block in that tensor, from 0.
    pub block: Option<u64>,
    /// What the file is instead of a patch, if that is known.
    pub content: Option<Content>,
    /// The broken rule.
    pub fault: Fault,
}

impl Corrupt {
    pub(super) fn advice(&self) -> Option<Advice> {
        match &self.content {
            Some(content) => Some(content.advice(Wanted::Patch)),
            None => self.fault.advice(),
        }
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", Visible(file.display()))?;
        }
        if let Some(content) = &self.content {
            return f.write_str(&content.instead_of(Wanted::Patch));
        }
        write!(f, "at byte {}", self.offset)?;
        if let Some(section) = self.section {
            write!(f, ", {section} section")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, ", tensor '{}'", Visible(tensor))?;
        }
        if let Some(block) = self.block {
            write!(f, ", block {block}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

/// The rule that the bytes break. One variant for each error kind of SPEC.md §11.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file does not start with the signature.
    #[error("not a .pulse file: the first 8 bytes are {found:02x?}")]
    Signature {
        /// The bytes there.
        found: [u8; 8],
    },
    /// The input ends before the footer does.
    #[error("the file is truncated: at least {missing} more bytes expected")]
    Truncated {
        /// Bytes that were needed to go on.
        missing: u64,
    },
    /// Bytes follow the footer.
    #[error("bytes follow the footer, which must end the file")]
    Trailing,
    /// The CRC-32 of a section is wrong.
    #[error("CRC-32 is {found:08x}, expected {expected:08x}: the file is damaged")]
    Crc {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The SHA-256 over the file is wrong.
    #[error("SHA-256 of the file is {found}, expected {expected}: the file is damaged")]
    FileDigest {
        /// As stored in the footer.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
    /// A section is where the grammar of SPEC.md §4 does not allow it.
    #[error("unexpected section; expected {expected}")]
    Order {
        /// What may come here.
        expected: &'static str,
    },
    /// A critical section that this reader does not know, or a tag that is no letter.
    #[error("critical section {tag} is not known to this reader")]
    UnknownSection {
        /// Its tag.
        tag: Tag,
    },
    /// A varint is not in shortest form, or exceeds 64 bits.
    #[error("{field}: not a canonical varint of at most 64 bits")]
    Varint {
        /// Name of the field.
        field: &'static str,
    },
    /// Bits that must be zero are not.
    #[error("{field}: undefined bits must be zero, found {found:#04x}")]
    Reserved {
        /// Name of the field.
        field: &'static str,
        /// The whole field.
        found: u8,
    },
    /// A field holds a value outside its legal range.
    #[error("{field} is {found}; expected {expected}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// As found.
        found: u64,
        /// Legal range in words.
        expected: &'static str,
    },
    /// A section is shorter or longer than its fields.
    #[error("{field}: {found} bytes, expected {expected}")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// Expected bytes (at least these many, for a field that is cut off).
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A name is not UTF-8, would escape the output directory, or is not the expected one.
    #[error("{field} {found:?} is not a legal name")]
    Name {
        /// Name of the field.
        field: &'static str,
        /// As found, invalid UTF-8 replaced.
        found: String,
    },
    /// Something that must be unique or ascending is not.
    #[error("{field} {found:?} is duplicated or out of order")]
    Duplicate {
        /// Name of the field.
        field: &'static str,
        /// As found.
        found: String,
    },
    /// Two places of the file that must agree do not.
    #[error("{field} is {found}, expected {expected}")]
    Count {
        /// Name of the field.
        field: &'static str,
        /// Expected from what was read before.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// A compressed stream is damaged or does not have the expected size.
    #[error("{field}: {}", Visible(found))]
    Stream {
        /// Name of the stream.
        field: &'static str,
        /// What is wrong with it.
        found: String,
    },
    /// A change lies outside its block.
    #[error("change at element {found} lies past the end of its block of {elements} elements")]
    Position {
        /// Element in the block.
        found: u64,
        /// Elements of the block.
        elements: u64,
    },
    /// A size exceeds a limit of the reader; reaches callers as [`Error::Limit`].
    #[error("limit `{limit}` exceeded: asked for {asked}, allowed {allowed}")]
    Limit {
        /// Name of the field of [`Limits`](crate::Limits).
        limit: &'static str,
        /// What the file asks for.
        asked: u64,
        /// What the limit allows.
        allowed: u64,
    },
    /// A digest in the file does not agree with what it covers or repeats.
    #[error("{field} is {found}, expected {expected}")]
    Digest {
        /// What was digested.
        field: &'static str,
        /// As the patch names it.
        expected: Digest,
        /// As found.
        found: Digest,
    },
}

impl Fault {
    /// What to do about it.
    pub(super) fn advice(&self) -> Option<Advice> {
        Some(match self {
            Fault::Signature { .. } => Advice::TransferAsBinary,
            Fault::Truncated { .. }
            | Fault::Trailing
            | Fault::Crc { .. }
            | Fault::FileDigest { .. } => Advice::TransferAgain,
            Fault::UnknownSection { .. } => Advice::UseNewerReader,
            Fault::Limit { .. } => Advice::RaiseLimit,
            // The CRC was right, so this is no accident of the transfer; but a CRC can be right by chance.
            _ => Advice::CreateAgain,
        })
    }

    kinds! {
        Fault::Signature { .. } => "signature",
        Fault::Truncated { .. } => "truncated",
        Fault::Trailing => "trailing",
        Fault::Crc { .. } => "crc",
        Fault::FileDigest { .. } => "file-digest",
        Fault::Order { .. } => "order",
        Fault::UnknownSection { .. } => "unknown-section",
        Fault::Varint { .. } => "varint",
        Fault::Reserved { .. } => "reserved",
        Fault::Value { .. } => "value",
        Fault::Length { .. } => "length",
        Fault::Name { .. } => "name",
        Fault::Duplicate { .. } => "duplicate",
        Fault::Count { .. } => "count",
        Fault::Stream { .. } => "stream",
        Fault::Position { .. } => "position",
        Fault::Limit { .. } => "limit",
        Fault::Digest { .. } => "digest",
    }

    /// The error of this fault at a byte of the file: for readers that check more than a decoder does.
    ///
    /// ```
    /// use pulse::error::Fault;
    /// let error = Fault::Count { field: "target tensors", expected: 2, found: 3 }.at(100);
    /// assert_eq!(error.to_string(), "at byte 100: target tensors is 3, expected 2");
    /// ```
    #[must_use]
    pub fn at(self, offset: u64) -> Error {
        Error::Corrupt(Box::new(Corrupt {
            file: None,
            offset,
            section: None,
            tensor: None,
            block: None,
            content: None,
            fault: self,
        }))
    }
}
