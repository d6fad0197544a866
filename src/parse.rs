//! The primitive fields of the wire format as `nom` parsers that say what they expected.

use nom::error::{ErrorKind, ParseError};
use nom::Err::Failure;

use crate::digest::Digest;
use crate::error::Fault;
use crate::limits;
use crate::varint;

/// A fault, placed by the bytes that were left when it showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    pub rest: usize,
    pub fault: Fault,
}

impl ParseError<&[u8]> for Bad {
    fn from_error_kind(input: &[u8], _: ErrorKind) -> Self {
        let found = input.len() as u64;
        Bad {
            rest: input.len(),
            fault: Fault::Length { field: "field", expected: found + 1, found },
        }
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

pub(crate) type Parse<'a, T> = nom::IResult<&'a [u8], T, Bad>;

/// The fault inside an error of a parser.
pub(crate) fn bad(error: nom::Err<Bad>) -> Bad {
    match error {
        nom::Err::Error(bad) | Failure(bad) => bad,
        // Only streaming parsers give this; all of ours are complete.
        nom::Err::Incomplete(_) => Bad::from_error_kind(&[], ErrorKind::Eof),
    }
}

/// Fails at this place.
pub(crate) fn fail<T>(at: &[u8], fault: Fault) -> Parse<'_, T> {
    Err(Failure(Bad { rest: at.len(), fault }))
}

/// Fails unless the value is legal.
pub(crate) fn check(
    at: &[u8],
    legal: bool,
    field: &'static str,
    found: u64,
    expected: &'static str,
) -> Result<(), nom::Err<Bad>> {
    if legal {
        return Ok(());
    }
    Err(Failure(Bad { rest: at.len(), fault: Fault::Value { field, found, expected } }))
}

/// Fails if the file asks for more than a limit allows; the decoder turns it into
/// [`Error::Limit`](crate::Error::Limit).
pub(crate) fn limit(
    at: &[u8],
    limit: &'static str,
    asked: u64,
    allowed: u64,
) -> Result<(), nom::Err<Bad>> {
    limits::check(limit, asked, allowed).map_err(|fault| Failure(Bad { rest: at.len(), fault }))
}

/// Runs a parser that must consume all of `bytes`.
pub(crate) fn all<'a, T>(
    bytes: &'a [u8],
    field: &'static str,
    parser: impl FnOnce(&'a [u8]) -> Parse<'a, T>,
) -> Result<T, Bad> {
    match parser(bytes) {
        Ok(([], value)) => Ok(value),
        Ok((rest, _)) => {
            let found = bytes.len() as u64;
            let expected = found - rest.len() as u64;
            Err(Bad { rest: rest.len(), fault: Fault::Length { field, expected, found } })
        }
        Err(error) => Err(bad(error)),
    }
}

pub(crate) fn take<'a>(i: &'a [u8], len: u64, field: &'static str) -> Parse<'a, &'a [u8]> {
    let short = Fault::Length { field, expected: len, found: i.len() as u64 };
    match usize::try_from(len) {
        Ok(len) => nom::bytes::complete::take::<_, _, Bad>(len)(i)
            .map_err(|_| Failure(Bad { rest: i.len(), fault: short })),
        Err(_) => fail(i, short),
    }
}

fn array<'a, const N: usize>(i: &'a [u8], field: &'static str) -> Parse<'a, [u8; N]> {
    let (i, bytes) = take(i, N as u64, field)?;
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    Ok((i, array))
}

pub(crate) fn u8<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, u8> {
    array::<1>(i, field).map(|(i, [byte])| (i, byte))
}

pub(crate) fn u64<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, u64> {
    array(i, field).map(|(i, bytes)| (i, u64::from_le_bytes(bytes)))
}

pub(crate) fn run<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, [u8; 16]> {
    array(i, field)
}

pub(crate) fn digest<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, Digest> {
    array(i, field).map(|(i, bytes)| (i, Digest(bytes)))
}

pub(crate) fn varint<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, u64> {
    match varint::parse(i) {
        varint::Parsed::Value(value, len) => Ok((&i[len..], value)),
        varint::Parsed::Invalid => fail(i, Fault::Varint { field }),
        varint::Parsed::Incomplete => {
            let found = i.len() as u64;
            fail(i, Fault::Length { field, expected: found + 1, found })
        }
    }
}

/// A varint length and that many bytes of UTF-8.
pub(crate) fn string<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, &'a str> {
    let (rest, len) = varint(i, field)?;
    let (rest, bytes) = take(rest, len, field)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok((rest, text)),
        Err(_) => {
            fail(i, Fault::Name { field, found: String::from_utf8_lossy(bytes).into_owned() })
        }
    }
}
