//! What programs ask of an error without matching its variants.

use std::path::Path;

use crate::error::{Content, Error, Fault, FileFault, Made};

impl Error {
    /// The file or directory that the error is about; `None` for what is in memory or in a stream.
    ///
    /// ```
    /// let error = pulse::Checkpoint::open("/no/such/file").unwrap_err();
    /// assert_eq!(error.file(), Some(std::path::Path::new("/no/such/file")));
    /// ```
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Error::Corrupt(corrupt) => corrupt.file.as_deref(),
            Error::BaseMismatch(mismatch) => mismatch.file.as_deref(),
            Error::Version { file, .. }
            | Error::Limit { file, .. }
            | Error::TargetMismatch { file, .. }
            | Error::WrongResult { file, .. }
            | Error::NeedsBase { file, .. }
            | Error::NotInvertible { file, .. }
            | Error::Chain { file, .. }
            | Error::Part { file, .. }
            | Error::Unfit { file, .. } => file.as_deref(),
            Error::NotInPlace { path, .. }
            | Error::BadFile { path, .. }
            | Error::BaseFile { path, .. }
            | Error::Io { path, .. } => path.as_deref(),
            Error::Exists { path, .. }
            | Error::Changed { path, .. }
            | Error::Busy { path }
            | Error::Interrupted { path, .. }
            | Error::Unrecovered { path, .. } => Some(path),
            Error::Cancelled | Error::Misuse(_) | Error::Internal(_) => None,
        }
    }

    /// The byte of the patch at which it shows, for errors that have a place in the patch.
    ///
    /// ```
    /// let mut decoder = pulse::PushDecoder::new(pulse::Limits::default());
    /// assert_eq!(decoder.feed(b"not a patch file").unwrap_err().offset(), Some(0));
    /// ```
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Error::Corrupt(corrupt) => Some(corrupt.offset),
            Error::Limit { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    /// The tensor that the error is about.
    #[must_use]
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Error::Corrupt(corrupt) => corrupt.tensor.as_deref(),
            Error::BaseMismatch(mismatch) => mismatch.tensor.as_deref(),
            Error::TargetMismatch { tensor, .. } => tensor.as_deref(),
            Error::WrongResult { made: Made::Tensor(name), .. } => Some(name),
            _ => None,
        }
    }

    /// What the file or directory is, if it was given for a patch or a checkpoint and is neither.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// let error = pulse::Checkpoint::open(dir.path()).unwrap_err();
    /// assert_eq!(error.content(), Some(&pulse::error::Content::EmptyDirectory));
    /// ```
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match self {
            Error::Corrupt(corrupt) => corrupt.content.as_ref(),
            Error::BadFile {
                fault: FileFault::NoCheckpoint(content) | FileFault::NoPatch(content),
                ..
            } => Some(content),
            _ => None,
        }
    }

    /// What was expected, as text.
    ///
    /// ```
    /// let mut decoder = pulse::PushDecoder::new(pulse::Limits::default());
    /// let error = decoder.feed(b"not a patch file").unwrap_err();
    /// assert_eq!(error.expected().as_deref(), Some("ab504c530d0a1a0a"));
    /// assert_eq!(error.found().as_deref(), Some("6e6f742061207061"));
    /// ```
    #[must_use]
    pub fn expected(&self) -> Option<String> {
        match self {
            Error::BaseFile { bytes, sha256, .. } => {
                Some(format!("{bytes} bytes with SHA-256 {sha256}"))
            }
            _ => self.compared().map(|(expected, _)| expected),
        }
    }

    /// What was found instead, as text.
    #[must_use]
    pub fn found(&self) -> Option<String> {
        self.compared().map(|(_, found)| found)
    }

    fn compared(&self) -> Option<(String, String)> {
        let both = |expected: &dyn ToString, found: &dyn ToString| {
            Some((expected.to_string(), found.to_string()))
        };
        match self {
            Error::Corrupt(corrupt) => corrupt.fault.compared(),
            Error::Version { major, known, .. } => both(known, major),
            Error::Limit { asked, allowed, .. } => {
                Some((format!("at most {allowed}"), asked.to_string()))
            }
            Error::Chain { digests, .. } => {
                digests.as_ref().and_then(|digests| both(&digests.0, &digests.1))
            }
            Error::BaseMismatch(mismatch) => both(&mismatch.expected, &mismatch.found),
            Error::TargetMismatch { expected, found, .. }
            | Error::WrongResult { expected, found, .. } => both(expected, found),
            _ => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Fault {
    /// Expected and found, where both are known.
    fn compared(&self) -> Option<(String, String)> {
        let both = |expected: &dyn ToString, found: &dyn ToString| {
            Some((expected.to_string(), found.to_string()))
        };
        match self {
            Fault::Signature { found } => Some((hex(&crate::tag::SIGNATURE), hex(found))),
            Fault::Crc { expected, found } => {
                Some((format!("{expected:08x}"), format!("{found:08x}")))
            }
            Fault::FileDigest { expected, found } | Fault::Digest { expected, found, .. } => {
                both(expected, found)
            }
            Fault::Value { expected, found, .. } => both(expected, found),
            Fault::Length { expected, found, .. } | Fault::Count { expected, found, .. } => {
                both(expected, found)
            }
            Fault::Reserved { found, .. } => {
                Some(("0 in undefined bits".into(), format!("{found:#04x}")))
            }
            Fault::Position { found, elements } => {
                Some((format!("less than {elements}"), found.to_string()))
            }
            Fault::Limit { asked, allowed, .. } => {
                Some((format!("at most {allowed}"), asked.to_string()))
            }
            Fault::Truncated { .. }
            | Fault::Trailing
            | Fault::Order { .. }
            | Fault::UnknownSection { .. }
            | Fault::Varint { .. }
            | Fault::Name { .. }
            | Fault::Duplicate { .. }
            | Fault::Stream { .. } => None,
        }
    }
}
