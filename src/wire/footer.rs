//! The footer: totals, digests of both checkpoints, SHA-256 of the file (SPEC.md §6.7).

use crate::digest::Digest;
use crate::error::Fault;
use crate::parse::{self, Parse};
use crate::wire::{put_digest, put_u64, Header, CRC_BYTES};

/// Bytes of the SHA-256 that closes the payload.
pub(crate) const FOOTER_DIGEST_BYTES: usize = 32;
const PAYLOAD_BYTES: usize = 1 + 6 * 8 + 2 * 32 + FOOTER_DIGEST_BYTES;
/// Bytes of the section, the last of every file: tag, a length of two bytes, payload, CRC.
#[cfg_attr(not(feature = "parallel"), allow(dead_code))] // for those who start at the end
pub(crate) const FOOTER_BYTES: usize = 1 + 2 + PAYLOAD_BYTES + CRC_BYTES;

/// End of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footer {
    /// Tensors in this file.
    pub tensors: u64,
    /// Changes in this file.
    pub changes: u64,
    /// Tensors of the target checkpoint, the unchanged included.
    pub target_tensors: u64,
    /// Elements of the target checkpoint.
    pub target_elements: u64,
    /// Tensor bytes of the target checkpoint.
    pub target_bytes: u64,
    /// Offset of the index section.
    pub index_offset: u64,
    /// Digest of the base checkpoint; absent in a snapshot.
    pub base: Option<Digest>,
    /// Digest of the target checkpoint.
    pub target: Digest,
    /// SHA-256 of every byte of the file before this field.
    pub sha256: Digest,
}

impl Footer {
    /// The payload up to the SHA-256, which only the writer of the file can know.
    pub(crate) fn write_open(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAYLOAD_BYTES);
        out.push(u8::from(self.base.is_some()));
        let numbers = [
            self.tensors,
            self.changes,
            self.target_tensors,
            self.target_elements,
            self.target_bytes,
            self.index_offset,
        ];
        numbers.iter().for_each(|&number| put_u64(&mut out, number));
        put_digest(&mut out, &self.base.unwrap_or(Digest([0; 32])));
        put_digest(&mut out, &self.target);
        out
    }

    pub(crate) fn parse(start: &[u8]) -> Parse<'_, Footer> {
        let (i, flags) = parse::u8(start, "footer flags")?;
        if flags & !1 != 0 {
            return parse::fail(start, Fault::Reserved { field: "footer flags", found: flags });
        }
        let (i, tensors) = parse::u64(i, "footer tensors")?;
        let (i, changes) = parse::u64(i, "footer changes")?;
        let (i, target_tensors) = parse::u64(i, "target tensors")?;
        let (i, target_elements) = parse::u64(i, "target elements")?;
        let (i, target_bytes) = parse::u64(i, "target bytes")?;
        let (base_at, index_offset) = parse::u64(i, "index offset")?;
        let (i, base) = parse::digest(base_at, "base digest")?;
        let base = (flags & 1 == 1).then_some(base);
        if base.is_none() && base_at[..32].iter().any(|&byte| byte != 0) {
            return parse::fail(
                base_at,
                Fault::Reserved { field: "absent base digest", found: base_at[0] },
            );
        }
        let (i, target) = parse::digest(i, "target digest")?;
        let (i, sha256) = parse::digest(i, "file SHA-256")?;
        let footer = Footer {
            tensors,
            changes,
            target_tensors,
            target_elements,
            target_bytes,
            index_offset,
            base,
            target,
            sha256,
        };
        Ok((i, footer))
    }

    /// Checks the footer against the header of the same file.
    pub(crate) fn check(&self, header: &Header) -> Result<(), Fault> {
        let snapshot = header.snapshot;
        for (field, expected, found) in [
            ("snapshot without base digest", snapshot.into(), self.base.is_none().into()),
            // A snapshot holds all of its target.
            (
                "target tensors",
                if snapshot { self.tensors } else { self.target_tensors },
                self.target_tensors,
            ),
            (
                "target elements",
                if snapshot { self.changes } else { self.target_elements },
                self.target_elements,
            ),
        ] {
            if expected != found {
                return Err(Fault::Count { field, expected, found });
            }
        }
        match (header.base_digest, self.base) {
            (Some(expected), Some(found)) if expected != found => {
                Err(Fault::Digest { field: "base digest of the footer", expected, found })
            }
            _ => Ok(()),
        }
    }
}
