//! One error type: who is to blame, where, what was expected and what was found.

use std::fmt;
use std::io;

use crate::digest::Digest;
use crate::tag::Tag;

/// Result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, sorted by who has to act.
///
/// * [`Corrupt`](Error::Corrupt), [`Version`](Error::Version): the bytes of the patch.
/// * [`Limit`](Error::Limit): the bytes may be fine, this reader was told not to go that far.
/// * [`BaseMismatch`](Error::BaseMismatch), [`Checkpoint`](Error::Checkpoint): the checkpoint at hand.
/// * [`Chain`](Error::Chain): the patches do not follow one another.
/// * [`Misuse`](Error::Misuse): the caller of this library.
/// * [`Io`](Error::Io): the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The patch breaks a rule of SPEC.md.
    #[error("{0}")]
    Corrupt(Box<Corrupt>),
    /// The patch is of a major version that this reader does not know.
    #[error("format version {major}.{minor}: this reader knows major version {known} only; use a newer reader")]
    Version {
        /// Major version of the file.
        major: u8,
        /// Minor version of the file.
        minor: u8,
        /// The major version that this reader knows.
        known: u8,
    },
    /// A declared size exceeds a limit of this reader. See [`Limits`](crate::Limits).
    #[error("limit `{limit}` exceeded at byte {offset}: asked for {asked}, allowed {allowed}; raise the limit if the source is trusted")]
    Limit {
        /// Name of the field of [`Limits`](crate::Limits).
        limit: &'static str,
        /// What the file asks for.
        asked: u64,
        /// What the limit allows.
        allowed: u64,
        /// Offset of the section in the file.
        offset: u64,
    },
    /// The base at hand is not the one that the patch was made from.
    #[error(
        "wrong base: {}expected digest {expected}, found {found}; use the checkpoint that the patch was made from",
        tensor_prefix(tensor)
    )]
    BaseMismatch {
        /// The first tensor that differs, where one is known.
        tensor: Option<String>,
        /// Digest that the patch names (of the tensor, or else of the checkpoint).
        expected: Digest,
        /// Digest of what is there.
        found: Digest,
    },
    /// The checkpoint at hand is not the target of the patch.
    #[error(
        "not the target of the patch: {}expected digest {expected}, found {found}; compare with the checkpoint that the patch was made to, or make it with apply",
        tensor_prefix(tensor)
    )]
    TargetMismatch {
        /// The first tensor that differs, where one is known.
        tensor: Option<String>,
        /// Digest of the target checkpoint that the patch names.
        expected: Digest,
        /// Digest of the checkpoint at hand.
        found: Digest,
    },
    /// Patches that are to be composed do not follow one another: the base of one is not the
    /// target of the other.
    #[error("{patch} does not follow {before}: {what}; give every patch of the way, in the order of their steps")]
    Chain {
        /// The patch that should come before.
        before: String,
        /// The patch that does not follow it.
        patch: String,
        /// What does not fit, expected and found.
        what: String,
    },
    /// A checkpoint (not the patch) cannot be used.
    #[error("{path}: {what}")]
    Checkpoint {
        /// File or directory.
        path: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// The library was called in a way that its documentation forbids.
    #[error("{0}")]
    Misuse(String),
    /// Reading or writing failed.
    #[error("{context}: {source}{}", io_advice(source))]
    Io {
        /// What was being done to which file.
        context: String,
        /// The cause.
        source: io::Error,
    },
}

/// What to do about an error of the system, where that is known.
fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check who may read or write there",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room and try again",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written to",
        io::ErrorKind::UnexpectedEof => "; it was cut short while it was read: try again when nothing writes to it",
        _ => "",
    }
}

fn tensor_prefix(tensor: &Option<String>) -> String {
    tensor.as_ref().map(|name| format!("tensor '{name}' differs: ")).unwrap_or_default()
}

/// Makes `kind` and the list of its words from one table. The match has no wildcard: a new variant
/// needs a row here, and tests/errors.rs an error of that kind.
macro_rules! kinds {
    ($($variant:pat => $kind:literal,)* $(; $inner:pat => $its_kind:expr)?) => {
        /// The kind of error in one word, as SPEC.md §11 lists them and
        /// `testvectors/manifest.json` expects them.
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

        /// The kinds of this type, each once.
        pub const KINDS: &[&str] = &[$($kind),*];
    };
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        Error::Io { context: context.into(), source }
    }

    /// A checkpoint file or directory that cannot be used.
    #[cfg(feature = "parallel")]
    pub(crate) fn checkpoint(path: &std::path::Path, what: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.display().to_string(), what: what.into() }
    }

    pub(crate) fn misuse(what: impl Into<String>) -> Self {
        Error::Misuse(what.into())
    }

    kinds! {
        Error::Version { .. } => "version",
        Error::Limit { .. } => "limit",
        Error::BaseMismatch { .. } | Error::Chain { .. } => "base",
        Error::TargetMismatch { .. } => "target",
        Error::Checkpoint { .. } => "checkpoint",
        Error::Misuse(_) => "misuse",
        Error::Io { .. } => "io",
        ; Error::Corrupt(corrupt) => corrupt.fault.kind()
    }
}

impl From<Error> for io::Error {
    /// Keeps the typed error inside, so that `get_ref` and `downcast` find it.
    fn from(error: Error) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// A broken rule of SPEC.md, and where in the file it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// Byte of the file at which the fault shows.
    pub offset: u64,
    /// Tag of the section, once its head was read.
    pub section: Option<Tag>,
    /// Tensor that was being read.
    pub tensor: Option<String>,
    /// Number of the block in that tensor, from 0.
    pub block: Option<u64>,
    /// The broken rule.
    pub fault: Fault,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}", self.offset)?;
        if let Some(section) = self.section {
            write!(f, ", {section} section")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, ", tensor '{tensor}'")?;
        }
        if let Some(block) = self.block {
            write!(f, ", block {block}")?;
        }
        write!(f, ": {}{}", self.fault, self.fault.advice())
    }
}

/// The rule that the bytes break. One variant for each error kind of SPEC.md §11.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file does not start with the signature.
    #[error("not a .pulse file: the first 8 bytes are {found:02x?}; was it transferred as text? Transfer it again as binary")]
    Signature {
        /// What stands there.
        found: [u8; 8],
    },
    /// The input ends before the footer does.
    #[error("the file is cut short: at least {missing} more bytes expected; transfer it again")]
    Truncated {
        /// Bytes that were needed to go on.
        missing: u64,
    },
    /// Bytes follow the footer.
    #[error("bytes follow the footer, which must end the file")]
    Trailing,
    /// The CRC-32 of a section is wrong.
    #[error("CRC-32 is {found:08x}, expected {expected:08x}: the file is damaged; transfer it again")]
    Crc {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The SHA-256 over the file is wrong.
    #[error("SHA-256 of the file is {found}, expected {expected}: the file is damaged; transfer it again")]
    FileDigest {
        /// As stored in the footer.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
    /// A section stands where the grammar of SPEC.md §4 does not allow it.
    #[error("unexpected section; expected {expected}")]
    Order {
        /// What may stand here.
        expected: &'static str,
    },
    /// A critical section that this reader does not know, or a tag that is no letter.
    #[error("critical section {tag} is not known to this reader; use a newer one")]
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
    #[error("{field} {found:?} stands twice or out of order")]
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
    #[error("{field}: {found}")]
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
    /// A digest of the result, or of a file that the patch carries, is wrong.
    #[error("{field} is {found}, expected {expected}: the result is wrong and was not kept")]
    Digest {
        /// What was digested.
        field: &'static str,
        /// As the patch names it.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
}

impl Fault {
    /// What to do, where the message does not say so already.
    fn advice(&self) -> &'static str {
        match self {
            Fault::Signature { .. }
            | Fault::Truncated { .. }
            | Fault::Crc { .. }
            | Fault::FileDigest { .. }
            | Fault::UnknownSection { .. } => "",
            Fault::Trailing => "; transfer it again",
            Fault::Limit { .. } => "; raise the limit if the source is trusted",
            Fault::Digest { .. } => "; have the patch made again",
            // The CRC was right, so this is no accident of the transfer; but a CRC can be right by chance.
            _ => "; its writer is at fault: have the patch made again",
        }
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

    /// Places the fault in a result rather than in the file.
    pub(crate) fn in_tensor(self, name: &str) -> Error {
        let place = Corrupt { offset: 0, section: None, tensor: Some(name.into()), block: None, fault: self };
        Error::Corrupt(Box::new(place))
    }

    /// Places the fault at a byte of the file.
    pub(crate) fn at(self, offset: u64) -> Error {
        Error::Corrupt(Box::new(Corrupt { offset, section: None, tensor: None, block: None, fault: self }))
    }
}
