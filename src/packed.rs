//! Packed streams: bytes as one zstd frame, or stored if that is smaller (SPEC.md §7.2).

use std::fmt;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, CParameter, ParamSwitch, Strategy};

use crate::error::Fault;
use crate::parse::{self, Parse};
use crate::varint;

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Most bytes that a block of a frame unpacks to (RFC 8878, 3.1.1.2.4).
const BLOCK_MAX: u64 = 128 * 1024;

/// What a stream is expected to hold, which decides how zstd goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Numbers, which may repeat.
    Numbers,
    /// A byte plane of weights, of which it is known whether they [`repeats`]. If not it is skewed at
    /// best: what zstd then takes for repetitions is chance, and costs more than it saves.
    Plane { repeats: bool },
}

/// Bytes from one look for a repetition to the next where none is sought.
const STEP: u32 = 4096;
/// Pieces of a plane that are compressed in two ways to choose one, and bytes of each.
const PIECES: usize = 16;
const PIECE: usize = 512;

/// Whether pieces of weights occur again in them, as where rows are equal or zero: by one piece in
/// 16, picked by its bits, so that the same pieces are picked wherever they are.
pub(crate) fn repeats(weights: &[u8]) -> bool {
    const SLOTS: usize = 1 << 12;
    let mut slots = [0; SLOTS];
    let (mut picked, mut again) = (0, 0);
    // Of so many bytes no two are equal by chance, even if half of them are zeros.
    for piece in weights.as_chunks::<32>().0 {
        let hash = piece.as_chunks().0.iter().fold(0u64, |hash, &word| {
            (hash ^ u64::from_le_bytes(word)).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29)
        });
        // The hash of zeros is zero: they are picked.
        if hash >> 60 == 0 {
            let slot = &mut slots[(hash >> 40) as usize % SLOTS];
            picked += 1;
            again += u32::from(*slot == hash);
            *slot = hash;
        }
    }
    again * 16 > picked
}

/// What to do with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Store,
    /// By how often bytes occur.
    Code,
    /// With a search for repetitions.
    Search,
}

/// Writes packed streams, and keeps the large allocation that zstd needs from one to the next.
#[derive(Default)]
pub(crate) struct Packer {
    /// With a search for repetitions, and with next to none.
    searcher: Option<Compressor<'static>>,
    coder: Option<Compressor<'static>>,
    /// The frame that was made last.
    frame: Vec<u8>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// Appends `bytes` as a packed stream.
    pub fn put(&mut self, out: &mut Vec<u8>, bytes: &[u8], content: Content, level: i32) {
        let way = match content {
            Content::Plane { repeats: false } => self.look(bytes, level),
            Content::Plane { repeats: true } | Content::Numbers => Way::Search,
        };
        let size = match way {
            Way::Store => None,
            Way::Code => self.code(bytes),
            Way::Search => self.search(bytes, level),
        };
        let is_smaller = size.is_some_and(|size| size < bytes.len());
        let stream = if is_smaller { &self.frame } else { bytes };
        varint::put(out, (stream.len() as u64) << 1 | u64::from(is_smaller));
        out.extend_from_slice(stream);
    }

    /// What pays in a plane where no rows repeat: by a sample of pieces from all over it.
    fn look(&mut self, plane: &[u8], level: i32) -> Way {
        let apart = (plane.len() / PIECES).max(PIECE);
        let pieces = plane.chunks(apart).map(|part| &part[..part.len().min(PIECE)]);
        let sample = pieces.collect::<Vec<_>>().concat();
        let found = self.search(&sample, level).unwrap_or(usize::MAX);
        let coded = self.code(&sample).unwrap_or(usize::MAX);
        match found.min(coded) {
            least if least >= sample.len() => Way::Store,
            least if least == coded => Way::Code,
            _ => Way::Search,
        }
    }

    /// Makes a zstd frame of `bytes` and gives its size; `None` where zstd refuses (the stream is
    /// then stored).
    fn search(&mut self, bytes: &[u8], level: i32) -> Option<usize> {
        let compressor = get_or_try_new(&mut self.searcher, || Compressor::new(level).ok())?;
        compressor.set_compression_level(level).ok()?;
        compress(compressor, bytes, &mut self.frame)
    }

    /// The same without a search for repetitions worth the name: bytes are coded by how often they
    /// occur.
    fn code(&mut self, bytes: &[u8]) -> Option<usize> {
        compress(get_or_try_new(&mut self.coder, coder)?, bytes, &mut self.frame)
    }
}

fn get_or_try_new<T>(slot: &mut Option<T>, new: impl FnOnce() -> Option<T>) -> Option<&mut T> {
    if slot.is_none() {
        *slot = new();
    }
    slot.as_mut()
}

fn coder() -> Option<Compressor<'static>> {
    let mut compressor = Compressor::new(1).ok()?;
    for parameter in [
        CParameter::Strategy(Strategy::ZSTD_fast),
        CParameter::MinMatch(7),
        CParameter::HashLog(6),
        // In this strategy, how far to go on after a place where nothing repeats.
        CParameter::TargetLength(STEP),
        CParameter::LiteralCompressionMode(ParamSwitch::Enable),
    ] {
        compressor.set_parameter(parameter).ok()?;
    }
    Some(compressor)
}

/// A window for all makes the frame a single segment, which says its size (SPEC.md §7.2).
fn compress(compressor: &mut Compressor<'_>, bytes: &[u8], frame: &mut Vec<u8>) -> Option<usize> {
    compressor.set_parameter(CParameter::WindowLog(window_log(bytes.len()))).ok()?;
    frame.clear();
    frame.reserve(zstd_safe::compress_bound(bytes.len()));
    compressor.compress_to_buffer(bytes, frame).ok()
}

/// The smallest window of zstd that covers `len` bytes.
fn window_log(len: usize) -> u32 {
    len.next_power_of_two().trailing_zeros().max(10)
}

/// What a frame says that it holds. Checks its head, and that its blocks end where it does; so any
/// decoder that takes the frame in one call may have it (SPEC.md §7.2, R50 to R52).
fn content_size(frame: &[u8]) -> Result<u64, String> {
    const SHORT: &str = "the zstd frame is cut short";
    let frame = frame.strip_prefix(&MAGIC).ok_or("not a zstd frame")?;
    let (&descriptor, frame) = frame.split_first().ok_or(SHORT)?;
    if descriptor & 0x3f != 0x20 {
        return Err(format!(
            "a zstd frame with the descriptor {descriptor:#04x}: only single segments, without dictionary and checksum"
        ));
    }
    let size_bytes = 1 << (descriptor >> 6);
    let (size, mut blocks) = frame.split_at_checked(size_bytes).ok_or(SHORT)?;
    let mut wide = [0; 8];
    wide[..size_bytes].copy_from_slice(size);
    let size = u64::from_le_bytes(wide) + if size_bytes == 2 { 256 } else { 0 };
    let mut room = 0u64;
    loop {
        let (&[a, b, c], rest) = blocks.split_first_chunk().ok_or(SHORT)?;
        let head = u32::from_le_bytes([a, b, c, 0]);
        let len = match head >> 1 & 3 {
            0 | 2 => head >> 3,
            1 => 1,
            _ => return Err("a zstd block of the reserved type".into()),
        };
        let most = size.min(BLOCK_MAX);
        if u64::from(head >> 3) > most {
            return Err(format!("a zstd block of {} bytes, more than {most}", head >> 3));
        }
        blocks = rest.get(len as usize..).ok_or(SHORT)?;
        room = room.saturating_add(BLOCK_MAX);
        if head & 1 == 1 {
            break;
        }
    }
    if !blocks.is_empty() {
        return Err(format!("{} bytes follow the zstd frame", blocks.len()));
    }
    // So no more memory is asked for than bytes that are there may fill.
    if size > room {
        return Err(format!("a zstd frame that says to hold {size} bytes has room for {room}"));
    }
    Ok(size)
}

/// A packed stream as it stands in a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub field: &'static str,
    pub compressed: bool,
    pub bytes: &'a [u8],
}

/// Reads the head of a packed stream and takes its bytes.
pub(crate) fn parse<'a>(i: &'a [u8], field: &'static str) -> Parse<'a, Packed<'a>> {
    let (i, head) = parse::varint(i, field)?;
    let (i, bytes) = parse::take(i, head >> 1, field)?;
    Ok((i, Packed { field, compressed: head & 1 == 1, bytes }))
}

impl Packed<'_> {
    /// The bytes of the stream, at most `max`.
    pub fn unpack(&self, max: u64) -> Result<Vec<u8>, Fault> {
        self.unpack_within(0, max)
    }

    /// The bytes of the stream, which must be exactly `len`.
    pub fn unpack_exact(&self, len: u64) -> Result<Vec<u8>, Fault> {
        self.unpack_within(len, len)
    }

    fn unpack_within(&self, least: u64, most: u64) -> Result<Vec<u8>, Fault> {
        let stream = |found: String| Fault::Stream { field: self.field, found };
        let size = if self.compressed {
            content_size(self.bytes).map_err(stream)?
        } else {
            self.bytes.len() as u64
        };
        if size < least {
            return Err(stream(format!("{size} bytes, expected {least}")));
        }
        if size > most {
            return Err(stream(format!(
                "{size} bytes, more than the {most} that its block allows"
            )));
        }
        if !self.compressed {
            return Ok(self.bytes.to_vec());
        }
        let damaged = || stream("a damaged zstd frame".into());
        let mut out = Vec::with_capacity(usize::try_from(size).map_err(|_| damaged())?);
        zstd_safe::decompress(&mut out, self.bytes).map_err(|_| damaged())?;
        if out.len() as u64 == size {
            Ok(out)
        } else {
            Err(damaged())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(bytes: &[u8]) -> Vec<u8> {
        let mut packer = Packer::default();
        packer.search(bytes, 1).expect("room");
        packer.frame
    }

    fn unpack(stream: &[u8], max: u64) -> Result<Vec<u8>, Fault> {
        parse::all(stream, "test", |i| parse(i, "test")).unwrap().unpack(max)
    }

    #[test]
    fn streams_round_trip_and_choose_the_smaller_form() {
        for (bytes, compressed) in [
            (vec![], false),
            (vec![1, 2, 3], false),
            (vec![7; 10_000], true),
            ((0..200_000u32).map(|i| (i / 1000) as u8).collect(), true),
            (
                (0..2000u32).flat_map(|i| crate::hash::leaf_digest(&i.to_le_bytes()).0).collect(),
                false,
            ),
        ] {
            let mut stream = Vec::new();
            Packer::default().put(&mut stream, &bytes, Content::Numbers, 1);
            assert_eq!(stream[0] & 1 == 1, compressed, "{} bytes", bytes.len());
            assert_eq!(unpack(&stream, bytes.len() as u64).unwrap(), bytes);
            if !bytes.is_empty() {
                assert!(unpack(&stream, bytes.len() as u64 - 1).is_err());
            }
        }
    }

    #[test]
    fn a_frame_must_be_alone_and_whole() {
        let frame = frame_of(&[5; 1000]);
        let packed = |bytes: &[u8]| Packed { field: "test", compressed: true, bytes }.unpack(1000);
        assert_eq!(packed(&frame).unwrap(), [5; 1000]);
        assert!(packed(&frame[..frame.len() - 1]).is_err());
        assert!(packed(&[&frame[..], &[0]].concat()).is_err());
        assert!(packed(&[&frame[..], &frame[..]].concat()).is_err());
        assert!(packed(b"").is_err());
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert!(packed(&skippable).is_err());
    }

    #[test]
    fn a_frame_is_one_segment_that_says_its_size() {
        let packed =
            |frame: &[u8]| Packed { field: "test", compressed: true, bytes: frame }.unpack(1000);
        let frame = |head: &[u8], blocks: &[u8]| packed(&[&MAGIC[..], head, blocks].concat());
        let raw = [0x09, 0x00, 0x00, 7];
        assert_eq!(frame(&[0x20, 1], &raw).unwrap(), [7]);
        assert_eq!(frame(&[0xa0, 1, 0, 0, 0], &raw).unwrap(), [7]);
        assert_eq!(frame(&[0xe0, 1, 0, 0, 0, 0, 0, 0, 0], &raw).unwrap(), [7]);
        for (head, what) in [
            (&[0x00, 0x00][..], "a window instead of a size"),
            (&[0x24, 1], "a checksum"),
            (&[0x21, 0, 1], "a dictionary"),
            (&[0x28, 1], "a reserved bit"),
            (&[0x30, 1], "an unused bit"),
            (&[0x20, 2], "more than it holds"),
            (&[0x20, 0], "less than it holds"),
            (&[0xe0, 1, 0, 0, 0, 0, 0, 0, 0x80], "a size that nothing justifies"),
        ] {
            assert!(frame(head, &raw).is_err(), "{what}");
        }
        assert!(frame(&[0x20, 1], &[0x0f, 0x00, 0x00, 7]).is_err(), "a block of type 3");
    }

    #[test]
    fn frames_of_every_size_are_single_segments() {
        for len in [40, 255, 256, 257, 65_791, 65_792, 1 << 20, 9 << 20] {
            let bytes = vec![5; len];
            for make in [|packer: &mut Packer, bytes: &[u8]| packer.search(bytes, 1), Packer::code]
            {
                let mut packer = Packer::default();
                assert_eq!(make(&mut packer, &bytes), Some(packer.frame.len()));
                assert_eq!(content_size(&packer.frame), Ok(len as u64));
            }
        }
    }

    /// Rows that repeat at any distance, zeros and tails are found; chance is not searched.
    #[test]
    fn repetitions_in_a_plane_are_found_and_chance_is_not_searched() {
        let random = |bytes: usize, seed: u32| -> Vec<u8> {
            let leaf = |i: u32| crate::hash::leaf_digest(&(seed + i).to_le_bytes()).0;
            (0..).flat_map(leaf).take(bytes).collect()
        };
        let size = |plane: &[u8]| {
            let mut out = Vec::new();
            let content = Content::Plane { repeats: repeats(plane) };
            Packer::default().put(&mut out, plane, content, 1);
            assert_eq!(unpack(&out, plane.len() as u64).unwrap(), plane);
            out.len()
        };
        const PLANE: usize = 1 << 20;
        for columns in [32, 4096, 8192, 16_384] {
            let rows = random(columns, 1).repeat(PLANE / columns);
            assert!(size(&rows) < PLANE / 8, "equal rows of {columns}: {}", size(&rows));
        }
        let random_in_zeros = [vec![0; PLANE / 2], random(32_768, 2), vec![0; PLANE / 2]].concat();
        assert!(size(&random_in_zeros) < 40_000);
        let row = random(4096, 3);
        for tail in [row.repeat(115), vec![0; 115 * 4096]] {
            let plane = [random(PLANE - tail.len(), 4), tail].concat();
            assert!(size(&plane) < PLANE * 6 / 10, "{}", size(&plane));
        }
        let even = random(PLANE, 5);
        assert!(!repeats(&even));
        assert_eq!(size(&even), PLANE + 4);
        let skewed: Vec<u8> = even.iter().map(|byte| byte.leading_zeros() as u8).collect();
        let mut packer = Packer::default();
        assert_eq!(packer.look(&skewed, 1), Way::Code);
        for plane in [&even[..], &[], &[1]] {
            assert_eq!(packer.look(plane, 1), Way::Store);
        }
    }

    #[test]
    fn a_bomb_costs_no_more_than_its_block_allows() {
        let frame = frame_of(&vec![0; 50 << 20]);
        assert!(frame.len() < 10_000);
        let bomb = Packed { field: "test", compressed: true, bytes: &frame };
        assert!(matches!(bomb.unpack(1000), Err(Fault::Stream { .. })));
    }
}
