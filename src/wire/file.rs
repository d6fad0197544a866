//! File records and their data: what is needed to rebuild the target's files (SPEC.md §6.6).

use crate::digest::Digest;
use crate::error::{Error, Fault, Result};
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

/// Where the described bytes of a file come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSource {
    /// The file of the same name in the base.
    Base,
    /// The data sections that follow.
    Patch,
}

/// One file of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileRecord {
    /// Name in the directory; empty if the checkpoint is one file.
    pub name: String,
    /// What the file holds.
    pub kind: FileKind,
    /// Where its described bytes come from.
    pub source: FileSource,
    /// Number of described bytes.
    pub bytes: u64,
    /// SHA-256 of the described bytes.
    pub sha256: Digest,
}

/// Whether a file name can neither leave the directory it is put in nor name anything but a file there.
pub(crate) fn is_file_name(name: &str) -> bool {
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
    /// Refuses a name that readers would refuse.
    pub(crate) fn check(&self) -> Result<()> {
        if is_legal_name(&self.name, self.kind) {
            Ok(())
        } else {
            Err(Error::misuse(format!(
                "{:?} is not a legal file name; use a plain name without / \\ : and control characters (SPEC.md §6.6)",
                self.name
            )))
        }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let kind = match self.kind {
            FileKind::Tensors => 0,
            FileKind::Companion => 1,
        };
        let source = match self.source {
            FileSource::Base => 0,
            FileSource::Patch => 2,
        };
        let mut out = vec![kind | source];
        put_string(&mut out, &self.name);
        varint::put(&mut out, self.bytes);
        put_digest(&mut out, &self.sha256);
        out
    }

    pub(crate) fn parse<'a>(i: &'a [u8], limits: &Limits) -> Parse<'a, FileRecord> {
        let (name_at, flags) = parse::u8(i, "file flags")?;
        if flags & !3 != 0 {
            return parse::fail(i, Fault::Reserved { field: "file flags", found: flags });
        }
        let kind = if flags & 1 == 0 { FileKind::Tensors } else { FileKind::Companion };
        let source = if flags & 2 == 0 { FileSource::Base } else { FileSource::Patch };
        let (i, name) = parse_string(name_at, "file name", limits.name_bytes)?;
        if !is_legal_name(name, kind) {
            return parse::fail(name_at, Fault::Name { field: "file name", found: name.into() });
        }
        let (i, bytes) = parse::varint(i, "file bytes")?;
        let (i, sha256) = parse::digest(i, "file SHA-256")?;
        Ok((i, FileRecord { name: name.into(), kind, source, bytes, sha256 }))
    }
}

/// Reads a data section: one packed stream.
pub(crate) fn parse_file_data(i: &[u8]) -> Parse<'_, Packed<'_>> {
    packed::parse(i, "file data")
}

#[cfg(test)]
mod tests {
    use super::is_file_name;

    #[test]
    fn names_that_escape_are_not_file_names() {
        for bad in
            ["", ".", "..", "a/b", "../a", "/a", "a\\b", "C:a", "a\0", "a\n", &"x".repeat(256)]
        {
            assert!(!is_file_name(bad), "{bad:?}");
        }
        for good in ["a", "model-00001-of-00002.safetensors", ".gitattributes", "...", "é.json"] {
            assert!(is_file_name(good), "{good:?}");
        }
    }
}
