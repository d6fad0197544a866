//! Sections: the framing unit of the file, and one type for each kind with its read and write.

mod block;
mod file;
mod footer;
mod header;
pub(crate) mod index;
mod tensor;

pub use crate::tag::{Tag, SIGNATURE};
pub(crate) use block::BlockHeader;
#[cfg(feature = "checkpoint")]
#[cfg(feature = "checkpoint")]
pub(crate) use file::{is_component, is_file_name};
pub(crate) use file::{parse_file_data, FILE_DATA_BYTES};
pub use file::{FileContent, FileKind, FileRecord, FileState};
pub use footer::Footer;
#[cfg(feature = "parallel")]
pub(crate) use footer::FOOTER_BYTES;
pub(crate) use footer::FOOTER_DIGEST_BYTES;
pub use header::Header;
pub(crate) use index::IndexEntry;
#[cfg(feature = "parallel")]
pub(crate) use tensor::{parse_spec, put_spec};
pub use tensor::{Action, TensorHeader, TensorTrailer};

use byteorder::{WriteBytesExt, LE};

use crate::digest::Digest;
use crate::error::Fault;
use crate::limits::Limits;
use crate::parse::{self, Parse};
use crate::varint;

/// Major version: a reader refuses any other.
pub const MAJOR: u8 = 1;
/// Minor version that this crate writes; readers accept greater ones.
pub const MINOR: u8 = 0;
/// Signature and version.
pub(crate) const PRELUDE_BYTES: usize = SIGNATURE.len() + 2;
/// Tag, shortest length and CRC-32: no section is smaller.
pub(crate) const SECTION_BYTES_MIN: usize = 6;
/// No payload is larger, whatever the limit: with its framing it must be one allocation, which on a
/// machine of 32 bits ends at 2 GiB.
pub(crate) const SECTION_BYTES_MAX: u64 = isize::MAX as u64 - 64;
/// Bytes of the CRC-32 that closes a section.
pub(crate) const CRC_BYTES: usize = 4;

/// Writes a section, CRC included, at the end of `out`.
pub(crate) fn put_section(out: &mut Vec<u8>, tag: Tag, payload: &[u8]) {
    let start = out.len();
    out.push(tag.0);
    varint::put(out, payload.len() as u64);
    out.extend_from_slice(payload);
    let crc = crc32fast::hash(&out[start..]);
    put_u32(out, crc);
}

// Writing to a Vec cannot fail, so there is no error to pass on.
fn put_u32(out: &mut Vec<u8>, value: u32) {
    let _ = out.write_u32::<LE>(value);
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    let _ = out.write_u64::<LE>(value);
}

fn put_digest(out: &mut Vec<u8>, digest: &Digest) {
    out.extend_from_slice(&digest.0);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes a tensor name as the bytes it shares with the name before and the rest (SPEC.md §2.3).
fn put_name(out: &mut Vec<u8>, previous: &str, name: &str) {
    let shared = previous.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    varint::put(out, shared as u64);
    varint::put(out, (name.len() - shared) as u64);
    out.extend_from_slice(&name.as_bytes()[shared..]);
}

/// Reads the two parts of a tensor name written by [`put_name`]: shared bytes, then the rest.
fn parse_name_parts<'a, 'p>(
    i: &'a [u8],
    previous: &'p str,
    limits: &Limits,
) -> Parse<'a, (&'p [u8], &'a [u8])> {
    let (rest, shared) = parse::varint(i, TENSOR_NAME)?;
    let Some(prefix) =
        usize::try_from(shared).ok().and_then(|shared| previous.as_bytes().get(..shared))
    else {
        let expected = "at most the length of the preceding name";
        return parse::fail(
            i,
            Fault::Value { field: "shared name bytes", found: shared, expected },
        );
    };
    let (rest, len) = parse::varint(rest, TENSOR_NAME)?;
    parse::limit(i, "name_bytes", shared.saturating_add(len), limits.name_bytes)?;
    let (rest, suffix) = parse::take(rest, len, TENSOR_NAME)?;
    Ok((rest, (prefix, suffix)))
}

const TENSOR_NAME: &str = "tensor name";

/// Reads a tensor name written by [`put_name`].
fn parse_name<'a>(i: &'a [u8], previous: &str, limits: &Limits) -> Parse<'a, String> {
    let (rest, (prefix, suffix)) = parse_name_parts(i, previous, limits)?;
    match String::from_utf8([prefix, suffix].concat()) {
        Ok(name) => Ok((rest, name)),
        Err(bad) => {
            let found = String::from_utf8_lossy(bad.as_bytes()).into_owned();
            parse::fail(i, Fault::Name { field: TENSOR_NAME, found })
        }
    }
}

/// A bounded string.
fn parse_string<'a>(i: &'a [u8], field: &'static str, max: u64) -> Parse<'a, &'a str> {
    let (_, len) = parse::varint(i, field)?;
    parse::limit(i, "name_bytes", len, max)?;
    parse::string(i, field)
}
