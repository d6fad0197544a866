//! Packed streams: bytes as one zstd frame, or stored if that is smaller (SPEC.md §7.2).

use std::fmt;

use zstd::bulk::Compressor;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::{CParameter, DParameter};

use crate::error::Fault;
use crate::parse::{self, Parse};
use crate::varint;

/// Largest window that a frame may ask for, as a power of two: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Output grows in steps of this size, as decompressed bytes arrive.
const GROWTH: usize = 64 * 1024;

/// Writes packed streams, and keeps the large allocation that zstd needs from one to the next.
#[derive(Default)]
pub(crate) struct Packer {
    compressor: Option<Compressor<'static>>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// Appends `bytes` as a packed stream.
    pub fn put(&mut self, out: &mut Vec<u8>, bytes: &[u8], level: i32) {
        let frame = self.compress(bytes, level).filter(|frame| frame.len() < bytes.len());
        let stream = frame.as_deref().unwrap_or(bytes);
        varint::put(out, (stream.len() as u64) << 1 | u64::from(frame.is_some()));
        out.extend_from_slice(stream);
    }

    /// A zstd frame of `bytes`; `None` where zstd refuses (the stream is then stored).
    fn compress(&mut self, bytes: &[u8], level: i32) -> Option<Vec<u8>> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            slot => slot.insert(Compressor::new(level).ok()?),
        };
        compressor.set_compression_level(level).ok()?;
        // The reader knows the size from the block; the frame need not say it again.
        compressor.set_parameter(CParameter::ContentSizeFlag(false)).ok()?;
        compressor.set_parameter(CParameter::WindowLog(window_log(bytes.len()))).ok()?;
        compressor.compress(bytes).ok()
    }
}

/// The smallest legal window that covers `len` bytes, at most the largest that a reader must accept.
fn window_log(len: usize) -> u32 {
    len.next_power_of_two().trailing_zeros().clamp(10, WINDOW_LOG_MAX)
}

/// Window that a frame asks for; `None` if it has but one segment, whose size the block bounds.
/// libzstd looks at the window only where it decodes in several steps, so this looks first.
fn window_bytes(frame: &[u8]) -> Option<u64> {
    let (&descriptor, &window) = (frame.get(4)?, frame.get(5)?);
    if descriptor & 0x20 != 0 {
        return None;
    }
    let base = 1u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
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
    /// The bytes of the stream, at most `max`. Memory grows as bytes are decompressed.
    pub fn unpack(&self, max: u64) -> Result<Vec<u8>, Fault> {
        let field = self.field;
        let stream = |found: String| Fault::Stream { field, found };
        let too_long = || stream(format!("more than the {max} bytes that its block allows"));
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        if !self.compressed {
            return if self.bytes.len() <= max { Ok(self.bytes.to_vec()) } else { Err(too_long()) };
        }
        if !self.bytes.starts_with(&MAGIC) {
            return Err(stream("not a zstd frame".into()));
        }
        if window_bytes(self.bytes).is_some_and(|window| window > 1 << WINDOW_LOG_MAX) {
            return Err(stream("the zstd frame asks for a window of more than 8 MiB".into()));
        }
        // libzstd's own words depend on the buffers that frames before have left behind.
        let zstd = |_| {
            stream(
                "a zstd frame that is damaged, or that asks for a dictionary or too large a window"
                    .into(),
            )
        };
        // A context of its own: nothing that an earlier frame left behind can play a part.
        let mut decoder = Decoder::new().map_err(zstd)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd)?;
        let mut input = InBuffer::around(self.bytes);
        let mut out = Vec::new();
        // No room at first: with room for all that a frame says to hold, libzstd would decode it at
        // once, and not compare its blocks with its window.
        let mut room = false;
        loop {
            // One byte of room beyond the limit tells a frame that goes on from one that ends.
            if room && out.len() == out.capacity() {
                let most = max.saturating_add(1) - out.len();
                out.reserve_exact(most.min(GROWTH.max(out.len())));
            }
            room = true;
            let (consumed, produced) = (input.pos(), out.len());
            let mut output = OutBuffer::around_pos(&mut out, produced);
            let left = decoder.run(&mut input, &mut output).map_err(zstd)?;
            let progress = output.pos() > produced || input.pos() > consumed;
            if out.len() > max {
                return Err(too_long());
            }
            if left == 0 {
                break;
            }
            if !progress {
                return Err(stream("the zstd frame is truncated".into()));
            }
        }
        match self.bytes.len() - input.pos() {
            0 => Ok(out),
            extra => Err(stream(format!("{extra} bytes follow the zstd frame"))),
        }
    }

    /// The bytes of the stream, which must be exactly `len`.
    pub fn unpack_exact(&self, len: u64) -> Result<Vec<u8>, Fault> {
        let bytes = self.unpack(len)?;
        if bytes.len() as u64 != len {
            let found = format!("{} bytes, expected {len}", bytes.len());
            return Err(Fault::Stream { field: self.field, found });
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            Packer::default().put(&mut stream, &bytes, 1);
            assert_eq!(stream[0] & 1 == 1, compressed, "{} bytes", bytes.len());
            assert_eq!(unpack(&stream, bytes.len() as u64).unwrap(), bytes);
            if !bytes.is_empty() {
                assert!(unpack(&stream, bytes.len() as u64 - 1).is_err());
            }
        }
    }

    #[test]
    fn a_frame_must_be_alone_and_whole() {
        let frame = Packer::default().compress(&[5; 1000], 1).unwrap();
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
    fn a_window_beyond_8_mib_is_refused_even_if_little_would_fill_it() {
        // Magic, descriptor (no single segment, no content size), window 2^27, one raw last block.
        let frame = [&MAGIC[..], &[0x00, 17 << 3, 0x09, 0x00, 0x00, 7]].concat();
        let packed = |bytes: &[u8]| Packed { field: "test", compressed: true, bytes }.unpack(1000);
        assert!(packed(&frame).unwrap_err().to_string().contains("window"));
        let mut small = frame;
        small[5] = 13 << 3;
        assert_eq!(packed(&small).unwrap(), [7]);
    }

    #[test]
    fn a_bomb_costs_no_more_than_its_block_allows() {
        let frame = Packer::default().compress(&vec![0; 50 << 20], 1).unwrap();
        assert!(frame.len() < 10_000);
        let bomb = Packed { field: "test", compressed: true, bytes: &frame };
        assert!(matches!(bomb.unpack(1000), Err(Fault::Stream { .. })));
    }
}
