//! The end of a patch, footer and index, and from there any tensor without the rest (SPEC.md §8.3).

use std::collections::HashMap;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::error::{Corrupt, Error, Fault, Result};
use crate::limits::{self, Limits};
use crate::parse::{self, Parse};
use crate::patch::read_at::RangeReader;
use crate::patch::{LocalFile, ReadAt, TensorReader};
use crate::stream::{Decoder, Event, PushDecoder};
use crate::tag::Tag;
use crate::varint;
use crate::wire::{self, index, Footer, Header, IndexEntry, FOOTER_BYTES};

/// Bytes that are read first. The footer is in them, and the index of most models as well.
const WINDOW_BYTES: u64 = 64 * 1024;
/// Most bytes that are read at once of the header, which is longer only if it has much metadata.
const HEAD_BYTES: u64 = 4096;
/// No section but the header starts before this.
const FIRST_PLACE: u64 = (wire::PRELUDE_BYTES + wire::SECTION_BYTES_MIN) as u64;
/// Most bytes of a section beside its payload: tag, length, CRC.
const FRAMING_BYTES_MAX: u64 = (1 + varint::MAX_BYTES + wire::CRC_BYTES) as u64;

/// The footer and the index of a patch, read from its end; from there, any tensor without the rest.
///
/// [`new`](Self::new) reads the last 64 KiB, and once more if the index starts before them. The
/// header takes one read when it is first needed, and a tensor one read for each 4 MiB of its part
/// of the patch: over HTTP three or four range requests for a tensor of up to 4 MiB, of a patch of any size.
///
/// **What is checked, and what is not.** Every section that is read is checked: framing, CRC-32,
/// fields, limits, and that index, headers and footer agree. A tensor that
/// [`TensorReader::apply`] has made has the digest that the patch names. The SHA-256 of the file,
/// the checkpoint digests and the totals of the footer are only known once every byte was read:
/// here nothing has checked them (SPEC.md §8.3, R65). For the whole checkpoint, open a
/// [`Patch`](crate::Patch).
///
/// ```
/// use pulse::{Encoder, Limits};
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::patch::Tail;
/// use pulse::stream::EncoderOptions;
/// let spec = TensorSpec::new(Dtype::U8, &[4])?;
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// for name in ["v", "w"] {
///     let mut tensor = encoder.patched(name, &spec)?;
///     tensor.push(b"abcd", b"abXd")?;
///     tensor.end()?;
/// }
/// let (patch, _) = encoder.finish()?;
///
/// let tail = Tail::new(patch, Limits::default())?;
/// assert_eq!(tail.names().collect::<Vec<_>>(), ["v", "w"]);
/// let mut weights = *b"abcd";
/// if let Some(tensor) = tail.tensor("w")? {
///     tensor.apply(&mut weights)?;
/// }
/// assert_eq!(&weights, b"abXd");
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Tail<S> {
    source: S,
    limits: Limits,
    end: End,
    /// Read when it is first needed.
    header: OnceLock<Header>,
}

impl Tail<LocalFile> {
    /// As [`new`](Self::new), for a file.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`LocalFile::open`].
    ///
    /// ```no_run
    /// use pulse::{Limits, patch::Tail};
    /// let tail = Tail::open("41.pulse", Limits::default())?;
    /// println!("{} tensors change", tail.footer().tensors);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn open(path: impl AsRef<Path>, limits: Limits) -> Result<Self> {
        Tail::new(LocalFile::open(path)?, limits)
    }
}

impl<S: ReadAt> Tail<S> {
    /// Reads footer and index, in one read or two.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Limit`] and [`Error::Io`]. If the end is wrong and the first
    /// bytes of the file explain it, [`Fault::Signature`] or [`Error::Version`]. If there is no
    /// footer, [`Fault::Truncated`], although bytes after the footer look the same.
    pub fn new(source: S, limits: Limits) -> Result<Self> {
        match End::read(&source, &limits) {
            Ok(end) => Ok(Tail { source, limits, end, header: OnceLock::new() }),
            Err(error @ Error::Corrupt(_)) => {
                Err(check_prelude(&source, limits).err().unwrap_or(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The footer: totals and digests as the patch states them. The digests tell whether the patch
    /// is the one that is wanted, not that it keeps what it promises.
    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.end.footer
    }

    /// The header, which has the steps of base and target. Reads it when it is first asked for, and
    /// checks signature and version, and that footer and index agree with it.
    ///
    /// ```
    /// use pulse::{Encoder, Limits};
    /// use pulse::patch::Tail;
    /// use pulse::stream::EncoderOptions;
    /// let options = EncoderOptions::default().with_steps(40, 41);
    /// let (patch, _) = Encoder::new(Vec::new(), options)?.finish()?;
    /// let tail = Tail::new(patch, Limits::default())?;
    /// assert_eq!(tail.header()?.target_step, Some(41));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Version`], [`Error::Limit`], [`Error::Io`].
    pub fn header(&self) -> Result<&Header> {
        if let Some(header) = self.header.get() {
            return Ok(header);
        }
        let reader = self.reader(0..self.end.footer.index_offset, HEAD_BYTES);
        let mut decoder = Decoder::new(reader, self.limits.clone());
        let header = match decoder
            .next_event()
            .map_err(|error| within(self.end.footer.index_offset, error))?
        {
            Some(Event::Header(header)) => header.clone(),
            // The first event is the header, or there is an error.
            _ => return Err(Fault::Order { expected: "the header" }.at(0)),
        };
        let header_end = decoder.push_decoder().offset();
        self.end
            .footer
            .check(&header)
            .map_err(|fault| place(Tag::FOOTER, self.end.footer_at, 0, fault))?;
        if let Some(first) = self.end.entries.first().filter(|first| first.offset < header_end) {
            let fault =
                Fault::Count { field: "index offset", expected: header_end, found: first.offset };
            return Err(place(Tag::INDEX, self.end.footer.index_offset, 0, fault));
        }
        // Another thread may have been faster; it read the same bytes.
        Ok(self.header.get_or_init(|| header))
    }

    /// Names of the tensors in the patch, in the order of the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.end.entries.iter().map(|entry| &*entry.name)
    }

    /// The bytes of the patch that hold the tensor of this name: from its header to the next
    /// tensor, or to the index. `None` if the patch does not have the tensor.
    ///
    /// ```
    /// use pulse::{Encoder, Limits};
    /// use pulse::patch::Tail;
    /// use pulse::stream::EncoderOptions;
    /// let (patch, _) = Encoder::new(Vec::new(), EncoderOptions::default())?.finish()?;
    /// let tail = Tail::new(patch, Limits::default())?;
    /// assert_eq!(tail.range("w"), None); // nothing changed
    /// # Ok::<(), pulse::Error>(())
    /// ```
    #[must_use]
    pub fn range(&self, name: &str) -> Option<Range<u64>> {
        self.end.by_name.get(name).map(|&number| self.end.range(number))
    }

    /// Starts to read the tensor of this name. `None` if the patch does not have it: the base's
    /// tensor of this name, if there is one, is unchanged; or it is gone, if the patch is a snapshot.
    ///
    /// # Errors
    /// As [`header`](Self::header). [`Fault::Order`] or [`Fault::Name`] if the tensor is not where
    /// the index says (SPEC.md R64).
    pub fn tensor(&self, name: &str) -> Result<Option<TensorReader<'_, S>>> {
        let Some(&number) = self.end.by_name.get(name) else { return Ok(None) };
        let header = self.header()?;
        let previous = number
            .checked_sub(1)
            .map_or("".into(), |previous| self.end.entries[previous].name.clone());
        let range = self.end.range(number);
        let push = PushDecoder::at_tensor(self.limits.clone(), header, previous, range.start);
        let reader = self.reader(range.clone(), TensorReader::<S>::CHUNK_BYTES);
        TensorReader::new(Decoder::resume(reader, push), name, range).map(Some)
    }

    fn reader(&self, range: Range<u64>, chunk_bytes: u64) -> BufReader<RangeReader<&S>> {
        let capacity = (range.end - range.start).min(chunk_bytes) as usize;
        BufReader::with_capacity(capacity, RangeReader { source: &self.source, range })
    }
}

/// The sections at the end of a patch.
#[derive(Debug)]
struct End {
    footer_at: u64,
    footer: Footer,
    /// In the order of the file, and so of their offsets.
    entries: Vec<IndexEntry>,
    by_name: HashMap<Arc<str>, usize>,
}

impl End {
    fn read(source: &impl ReadAt, limits: &Limits) -> Result<Self> {
        let end = source.len()?;
        let window_at = end.saturating_sub(WINDOW_BYTES);
        let mut window = vec![0; WINDOW_BYTES.min(end) as usize];
        source.read_exact_at(&mut window, window_at)?;
        let Some((before, section)) = window.split_last_chunk::<FOOTER_BYTES>() else {
            return Err(Fault::Truncated { missing: FOOTER_BYTES as u64 - end }.at(end));
        };
        let footer_at = end - FOOTER_BYTES as u64;
        let framed = match Framed::open(Tag::FOOTER, footer_at, section, limits) {
            // Neither damaged nor beyond a limit, but something else.
            Err(Error::Corrupt(corrupt)) if !matches!(corrupt.fault, Fault::Crc { .. }) => {
                return Err(Fault::Truncated { missing: 1 }.at(end));
            }
            opened => opened?,
        };
        let footer = framed.parse("footer", Footer::parse)?;
        for (limit, asked, allowed) in [
            ("target_bytes", footer.target_bytes, limits.target_bytes),
            ("tensors", footer.tensors, limits.tensors),
        ] {
            limits::check(limit, asked, allowed).map_err(|fault| framed.fault(0, fault))?;
        }
        let places = FIRST_PLACE..footer.index_offset;
        let section = read_index(source, footer.index_offset..footer_at, before, limits)?;
        let framed = Framed::open(Tag::INDEX, footer.index_offset, &section, limits)?;
        let entries = framed.parse("index", |i| index::read(i, footer.tensors, places, limits))?;
        let mut by_name = HashMap::new();
        for (number, entry) in entries.iter().enumerate() {
            if by_name.insert(entry.name.clone(), number).is_some() {
                let found = entry.name.to_string();
                return Err(framed.fault(0, Fault::Duplicate { field: "index name", found }));
            }
        }
        Ok(End { footer_at, footer, entries, by_name })
    }

    /// Where the sections of a tensor are, and those that follow it.
    fn range(&self, number: usize) -> Range<u64> {
        let next =
            self.entries.get(number + 1).map_or(self.footer.index_offset, |next| next.offset);
        self.entries[number].offset..next
    }
}

/// Checks signature and version.
fn check_prelude(source: &impl ReadAt, limits: Limits) -> Result<()> {
    let mut prelude = vec![0; source.len()?.min(wire::PRELUDE_BYTES as u64) as usize];
    source.read_exact_at(&mut prelude, 0)?;
    PushDecoder::new(limits).feed(&prelude).map(|_| ())
}

/// The bytes from the offset that the footer gives to the footer itself. The last of them, or all,
/// have been read as `before`.
fn read_index(
    source: &impl ReadAt,
    place: Range<u64>,
    before: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>> {
    let bytes = place.end.saturating_sub(place.start);
    if bytes < wire::SECTION_BYTES_MIN as u64 || place.start < FIRST_PLACE {
        let expected = place.end.saturating_sub(wire::SECTION_BYTES_MIN as u64);
        let fault = Fault::Count { field: "index offset", expected, found: place.start };
        return Err(self::place(Tag::FOOTER, place.end, 0, fault));
    }
    // All but the framing is payload.
    let (asked, allowed) = (
        bytes.saturating_sub(FRAMING_BYTES_MAX),
        limits.section_bytes.min(wire::SECTION_BYTES_MAX),
    );
    let bytes = match usize::try_from(bytes) {
        Ok(bytes) if asked <= allowed => bytes,
        _ => {
            return Err(Error::Limit {
                file: None,
                limit: "section_bytes",
                asked,
                allowed,
                offset: place.start,
            })
        }
    };
    if let Some(read) = before.len().checked_sub(bytes) {
        return Ok(before[read..].to_vec());
    }
    let mut section = vec![0; bytes];
    let (missing, last) = section.split_at_mut(bytes - before.len());
    source.read_exact_at(missing, place.start)?;
    last.copy_from_slice(before);
    Ok(section)
}

/// A section that must have this tag and be exactly these bytes. Its CRC was right.
struct Framed<'a> {
    tag: Tag,
    offset: u64,
    bytes: &'a [u8],
    payload: Range<usize>,
}

impl<'a> Framed<'a> {
    fn open(tag: Tag, offset: u64, bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        let fault = |at, fault| Err(place(tag, offset, at, fault));
        let Some((_, rest)) = bytes.split_first().filter(|(found, _)| **found == tag.0) else {
            return fault(0, Fault::Order { expected: "the index, and then the footer" });
        };
        let varint::Parsed::Value(len, width) = varint::parse(rest) else {
            return fault(1, Fault::Varint { field: "section length" });
        };
        if let Err(limit) = limits::check("section_bytes", len, limits.section_bytes) {
            return fault(0, limit);
        }
        let end = (bytes.len() as u64).saturating_sub(wire::CRC_BYTES as u64);
        let payload = 1 + width..end as usize;
        let expected = end.saturating_sub(payload.start as u64);
        if len != expected {
            return fault(1, Fault::Count { field: "section length", expected, found: len });
        }
        let (body, crc) = bytes.split_at(payload.end);
        let (expected, found) = (
            crc.iter().rev().fold(0, |crc, &byte| crc << 8 | u32::from(byte)),
            crc32fast::hash(body),
        );
        if expected != found {
            return fault(payload.end, Fault::Crc { expected, found });
        }
        Ok(Framed { tag, offset, bytes, payload })
    }

    fn parse<T>(
        &self,
        field: &'static str,
        parser: impl FnOnce(&'a [u8]) -> Parse<'a, T>,
    ) -> Result<T> {
        let payload = &self.bytes[self.payload.clone()];
        parse::all(payload, field, parser)
            .map_err(|bad| self.fault(payload.len() - bad.rest, bad.fault))
    }

    /// A fault at a byte of the payload.
    fn fault(&self, at: usize, fault: Fault) -> Error {
        place(self.tag, self.offset, self.payload.start + at, fault)
    }
}

/// A fault at a byte of the section that starts at `offset`.
fn place(tag: Tag, offset: u64, at: usize, fault: Fault) -> Error {
    if let Fault::Limit { limit, asked, allowed } = fault {
        return Error::Limit { file: None, limit, asked, allowed, offset };
    }
    let offset = offset + at as u64;
    Error::Corrupt(Box::new(Corrupt {
        file: None,
        offset,
        section: Some(tag),
        tensor: None,
        block: None,
        content: None,
        fault,
    }))
}

/// Of a range that was read to its end, which is not that of the file.
pub(super) fn within(end: u64, error: Error) -> Error {
    match error {
        Error::Corrupt(mut corrupt) => {
            if let Fault::Truncated { missing } = corrupt.fault {
                let found = corrupt.offset.saturating_add(missing);
                corrupt.fault = Fault::Count { field: "end of the section", expected: end, found };
            }
            Error::Corrupt(corrupt)
        }
        other => other,
    }
}
