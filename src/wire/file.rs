//! File records and their data: what is needed to rebuild the target's files (SPEC.md §6.6).

use crate::digest::Digest;
use crate::error::{Error, Fault, Result};
use crate::hash::Sha;
use crate::limits::Limits;
use crate::packed;
use crate::packed::Packed;
use crate::parse::{self, Parse};
use crate::varint;
use crate::wire::{parse_string, put_digest, put_string};

/// Most bytes of a file in one data section, before compression.
pub(crate) const FILE_DATA_BYTES: usize = 1 << 20;

/// What a file of a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A safetensors file; the record describes its header (the length field and the JSON after it).
    Tensors,
    /// Any other file (config, tokenizer, index …); the record describes all of its bytes.
    Companion,
}

/// What becomes of a file from base to target. The header of a tensor file is kept or new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileState {
    /// The base has the same described bytes under this name; they are not carried.
    Kept,
    /// The data sections that follow carry it. If it is a companion, the base has none of this name.
    New,
    /// The data sections that follow carry a companion, which the base has with other bytes.
    Replaced(FileContent),
    /// A companion of the base that the target does not have; the record describes that of the base.
    Removed,
}

impl FileState {
    /// Whether the patch carries the described bytes.
    ///
    /// ```
    /// use pulse::wire::FileState;
    /// assert!(FileState::New.is_carried() && !FileState::Kept.is_carried());
    /// ```
    #[must_use]
    pub fn is_carried(self) -> bool {
        matches!(self, FileState::New | FileState::Replaced(_))
    }

    /// Whether the target has the file.
    ///
    /// ```
    /// use pulse::wire::FileState;
    /// assert!(FileState::New.is_in_target() && !FileState::Removed.is_in_target());
    /// ```
    #[must_use]
    pub fn is_in_target(self) -> bool {
        self != FileState::Removed
    }

    /// The state as a word: `kept`, `new`, `replaced` or `removed`.
    ///
    /// ```
    /// assert_eq!(pulse::wire::FileState::Removed.name(), "removed");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileState::Kept => "kept",
            FileState::New => "new",
            FileState::Replaced(_) => "replaced",
            FileState::Removed => "removed",
        }
    }
}

/// The bytes of a file, as far as they tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileContent {
    /// Number of bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes.
    pub sha256: Digest,
}

impl FileContent {
    /// The content that these bytes are.
    ///
    /// ```
    /// assert_eq!(pulse::wire::FileContent::of(b"{}").bytes, 2);
    /// ```
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        FileContent { bytes: bytes.len() as u64, sha256: Sha::of(&[bytes]) }
    }
}

/// One file of the target, or one that only the base has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileRecord {
    /// Path in the directory, with '/' between its components; empty if the checkpoint is one file.
    pub name: String,
    /// What the file holds.
    pub kind: FileKind,
    /// What becomes of it.
    pub state: FileState,
    /// Number of described bytes.
    pub bytes: u64,
    /// SHA-256 of the described bytes.
    pub sha256: Digest,
}

/// Most bytes of a file name, '/' included: less than what any system takes for a path.
const FILE_NAME_BYTES: usize = 1024;
/// Most components of a file name: how deep directories are made.
const FILE_NAME_COMPONENTS: usize = 8;

/// Whether a file name, a path of components with '/' between them, can neither leave the directory it
/// is put in nor name anything but a file there.
pub(crate) fn is_file_name(name: &str) -> bool {
    name.len() <= FILE_NAME_BYTES
        && name.split('/').count() <= FILE_NAME_COMPONENTS
        && name.split('/').all(is_component)
}

/// Whether this names a file, or a directory, right in the directory it is put in.
pub(crate) fn is_component(name: &str) -> bool {
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(forbidden)
}

fn is_legal_name(name: &str, kind: FileKind) -> bool {
    // The empty name stands for a checkpoint of a single file.
    is_file_name(name) || name.is_empty() && kind == FileKind::Tensors
}

impl FileRecord {
    /// The record of this file.
    pub(crate) fn new(
        name: impl Into<String>,
        kind: FileKind,
        state: FileState,
        content: FileContent,
    ) -> Self {
        let FileContent { bytes, sha256 } = content;
        FileRecord { name: name.into(), kind, state, bytes, sha256 }
    }

    /// The described bytes.
    ///
    /// ```
    /// # let (patch, _) = pulse::Encoder::new(Vec::new(), Default::default())?.finish()?;
    /// let patch = pulse::Patch::from_bytes(patch, pulse::Limits::default())?;
    /// let bytes: u64 = patch.files().iter().map(|file| file.record.content().bytes).sum();
    /// assert_eq!(bytes, 0);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    #[must_use]
    pub fn content(&self) -> FileContent {
        FileContent { bytes: self.bytes, sha256: self.sha256 }
    }

    /// The companion as the base has it, if it has one: what an update in place may replace or remove.
    ///
    /// ```
    /// # let (patch, _) = pulse::Encoder::new(Vec::new(), Default::default())?.finish()?;
    /// let patch = pulse::Patch::from_bytes(patch, pulse::Limits::default())?;
    /// assert!(patch.files().iter().all(|file| file.record.base().is_none()));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    #[must_use]
    pub fn base(&self) -> Option<FileContent> {
        match self.state {
            FileState::Kept | FileState::Removed => Some(self.content()),
            FileState::Replaced(base) => Some(base),
            FileState::New => None,
        }
    }

    /// Refuses what readers would refuse.
    pub(crate) fn check(&self) -> Result<()> {
        if !is_legal_name(&self.name, self.kind) {
            return Err(Error::misuse(format!(
                "{:?} is not a legal file name; use a plain name without / \\ : and control characters (SPEC.md §6.6)",
                self.name
            )));
        }
        if self.state == FileState::Replaced(self.content()) {
            return Err(Error::misuse(format!(
                "file '{}' is the same in the base; keep it instead",
                self.name
            )));
        }
        Ok(())
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let kind = match self.kind {
            FileKind::Tensors => 0,
            FileKind::Companion => 1,
        };
        let state = match self.state {
            FileState::Kept => 0,
            FileState::New => 1,
            FileState::Replaced(_) => 2,
            FileState::Removed => 3,
        };
        let mut out = vec![kind | state << 1];
        put_string(&mut out, &self.name);
        varint::put(&mut out, self.bytes);
        put_digest(&mut out, &self.sha256);
        if let FileState::Replaced(base) = &self.state {
            varint::put(&mut out, base.bytes);
            put_digest(&mut out, &base.sha256);
        }
        out
    }

    pub(crate) fn parse<'a>(i: &'a [u8], limits: &Limits) -> Parse<'a, FileRecord> {
        let (name_at, flags) = parse::u8(i, "file flags")?;
        // Only companions are replaced and removed.
        let (kind, defined) = match flags & 1 {
            0 => (FileKind::Tensors, 3),
            _ => (FileKind::Companion, 7),
        };
        if flags & !defined != 0 {
            return parse::fail(i, Fault::Reserved { field: "file flags", found: flags });
        }
        let (i, name) = parse_string(name_at, "file name", limits.name_bytes)?;
        if !is_legal_name(name, kind) {
            return parse::fail(name_at, Fault::Name { field: "file name", found: name.into() });
        }
        let (i, bytes) = parse::varint(i, "file bytes")?;
        let (mut i, sha256) = parse::digest(i, "file SHA-256")?;
        let content = FileContent { bytes, sha256 };
        let state = match flags >> 1 {
            0 => FileState::Kept,
            1 => FileState::New,
            2 => {
                let (rest, bytes) = parse::varint(i, "file base bytes")?;
                let (rest, sha256) = parse::digest(rest, "file base SHA-256")?;
                let base = FileContent { bytes, sha256 };
                if base == content {
                    let (field, expected) = ("file state", "kept: the base has the same bytes");
                    return parse::fail(i, Fault::Value { field, found: 2, expected });
                }
                i = rest;
                FileState::Replaced(base)
            }
            _ => FileState::Removed,
        };
        Ok((i, FileRecord::new(name, kind, state, content)))
    }
}

/// Reads a data section: one packed stream.
pub(crate) fn parse_file_data(i: &[u8]) -> Parse<'_, Packed<'_>> {
    packed::parse(i, "file data")
}

#[cfg(test)]
mod tests {
    use super::{is_component, is_file_name};

    #[test]
    fn names_that_escape_are_not_file_names() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a\\b", "C:a", "a\0", "a\n", &long] {
            assert!(!is_file_name(bad) && !is_component(bad), "{bad:?}");
            for path in [format!("{bad}/a"), format!("a/{bad}"), format!("a/{bad}/a")] {
                assert!(!is_file_name(&path), "{path:?}");
            }
        }
        let (deep, far) =
            (|depth| vec!["a"; depth].join("/"), |bytes| "x".repeat(200) + "/" + bytes);
        for bad in [deep(9), vec![far(""); 5].concat() + &"x".repeat(20)] {
            assert!(!is_file_name(&bad), "{bad:?}");
        }
        for good in ["a", "model-00001-of-00002.safetensors", ".gitattributes", "...", "é.json"] {
            assert!(is_file_name(good) && is_component(good), "{good:?}");
        }
        for good in ["a/b".to_string(), deep(8), vec![far(""); 5].concat() + &"x".repeat(19)] {
            assert!(is_file_name(&good) && !is_component(&good), "{good:?}");
        }
    }
}
