//! Memory depends on the block size, never on the size of tensors, files or claims.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, sync_channel, SyncSender};
use std::thread;

use crate::{alone, HEAP};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::Digest;
use pulse::stream::Receiver;
use pulse::stream::{EncoderOptions, Store};
use pulse::{Decoder, Encoder, Event, Limits, Result};

const TENSOR_BYTES: u64 = 1 << 30;
const CHUNK_BYTES: usize = 1 << 20;

/// The base of a tensor far larger than memory should be: a pattern that is stamped with the number
/// of its chunk.
struct Base {
    pattern: Vec<u8>,
}

impl Base {
    fn new() -> Base {
        // BF16 values of a plausible matrix: both signs, a few exponents, all mantissas.
        let bits = (0..CHUNK_BYTES as u32 / 2)
            .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 16) as u16 & 0x83ff | 0x3c00);
        Base { pattern: bits.flat_map(u16::to_le_bytes).collect() }
    }

    fn chunk(&mut self, number: u64) -> &[u8] {
        self.pattern[..8].copy_from_slice(&number.to_le_bytes());
        &self.pattern
    }

    /// Bytes from `start`, which is not within a stamp.
    fn read(&self, mut start: u64, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let (number, at) = (start / CHUNK_BYTES as u64, start as usize % CHUNK_BYTES);
            let (now, later) = buffer.split_at_mut(buffer.len().min(CHUNK_BYTES - at));
            now.copy_from_slice(&self.pattern[at..at + now.len()]);
            if at == 0 {
                now[..8].copy_from_slice(&number.to_le_bytes());
            }
            start += now.len() as u64;
            buffer = later;
        }
    }
}

/// Moves every hundredth element, more or less, by one step.
fn change(chunk: &mut [u8], number: u64) {
    let first = 2 * (number as usize % 89) + 8;
    for (i, at) in (first..chunk.len() - 1).step_by(2 * (80 + number as usize % 41)).enumerate() {
        let bits = u16::from_le_bytes([chunk[at], chunk[at + 1]]);
        let step = if i % 3 == 0 { 1 } else { u16::MAX };
        chunk[at..at + 2].copy_from_slice(&bits.wrapping_add(step).to_le_bytes());
    }
}

/// The pipe between encoder and decoder; it holds a few sections.
struct Pipe(SyncSender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode(pipe: Pipe, spec: &TensorSpec) -> Digest {
    let mut encoder = Encoder::new(pipe, EncoderOptions::default()).unwrap();
    let mut writer = encoder.patched("w", spec).unwrap();
    let (mut base, mut target) = (Base::new(), vec![0; CHUNK_BYTES]);
    for number in 0..TENSOR_BYTES / CHUNK_BYTES as u64 {
        let base = base.chunk(number);
        target.copy_from_slice(base);
        change(&mut target, number);
        writer.push(base, &target).unwrap();
    }
    writer.end().unwrap();
    let (_, summary) = encoder.finish().unwrap();
    let density = summary.footer.changes as f64 / summary.footer.target_elements as f64;
    assert!((0.005..0.02).contains(&density), "density {density}");
    summary.footer.target
}

/// A store that holds the base and keeps nothing of the target.
struct Weights<'a> {
    spec: &'a TensorSpec,
    base: Base,
    written: u64,
}

impl Store for Weights<'_> {
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        vec![("w", self.spec)]
    }

    fn read(&self, _: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        self.base.read(start, buffer);
        Ok(())
    }

    fn begin(&mut self, _: &str, _: &TensorSpec) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn delete(&mut self, _: &str) -> Result<()> {
        unreachable!("nothing is deleted")
    }

    fn commit(&mut self) -> Result<()> {
        assert_eq!(self.written, self.spec.bytes());
        Ok(())
    }
}

fn receive(pipe: mpsc::Receiver<Vec<u8>>, spec: &TensorSpec) -> Digest {
    let mut receiver =
        Receiver::new(Weights { spec, base: Base::new(), written: 0 }, Limits::default());
    pipe.iter().for_each(|arrived| receiver.push(&arrived).unwrap());
    receiver.finish().unwrap().target()
}

/// R83: 1 GiB of weights are encoded, sent, decoded and applied at once, in less than 64 MB.
#[test]
fn a_tensor_far_larger_than_memory_streams_through() {
    let _alone = alone();
    HEAP.reset_peak_usage();
    let spec = &TensorSpec::new(Dtype::Bf16, &[TENSOR_BYTES / 2]).unwrap();
    let (sender, receiver) = sync_channel(4);
    let (sent, made) = thread::scope(|scope| {
        let encoder = scope.spawn(|| encode(Pipe(sender), spec));
        let receiver = scope.spawn(|| receive(receiver, spec));
        (encoder.join().unwrap(), receiver.join().unwrap())
    });
    assert_eq!(made, sent, "digest of the target");
    let peak = HEAP.peak_usage_as_mb();
    println!("peak {peak:.1} MB");
    assert!(peak < 64.0, "peak {peak:.1} MB");
}

/// R15: what a file claims costs nothing; what it holds costs little more than its own size.
#[test]
fn claims_cost_no_memory() {
    let _alone = alone();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors/malformed");
    let mut files: Vec<Vec<u8>> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    // A section that claims as much as the default limit allows, and breaks off.
    let (mut claim, _) =
        Encoder::new(Vec::new(), EncoderOptions::default()).unwrap().finish().unwrap();
    claim.truncate(19);
    claim.extend([b'x', 0x80, 0x80, 0x80, 0x20, 1, 2, 3]);
    files.push(claim);
    for file in files {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage_as_mb();
        let mut decoder = Decoder::new(file.as_slice(), Limits::default());
        while let Ok(Some(event)) = decoder.next_event() {
            if let Event::Block(block) = event {
                let _ = block.decode();
            }
        }
        let cost = HEAP.peak_usage_as_mb() - before;
        assert!(cost < 4.0, "{cost:.1} MB for a file of {} bytes", file.len());
    }
}
