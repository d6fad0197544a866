//! What the fuzz targets do with their bytes. `tests/fuzz_seeds.rs` runs the same over the seeds.
//!
//! `cargo +nightly fuzz run decode fuzz/corpus/decode fuzz/seeds/decode -- -max_len=8192`, and so for
//! `roundtrip` and `chunking`. What a fuzzer finds goes into the seeds, beside its fix.
//!
//! A fuzzer does not guess a CRC or a SHA-256. So that the code behind them is reached, targets that
//! read patches read their bytes twice: as they are, and sealed, with all sums put right. The
//! library itself checks them always.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read};

use arbitrary::{Arbitrary, Unstructured};
use pulse::{
    tensor_digest, CheckpointHasher, Coding, Decoder, Dtype, Encoder, EncoderOptions, Event, Limits, PushDecoder,
    Result, TensorSpec, ValueForm,
};
use sha2::{Digest as _, Sha256};

/// Limits that keep a run short.
fn limits() -> Limits {
    Limits::default()
        .with_section_bytes(1 << 20)
        .with_block_leaves(4)
        .with_name_bytes(512)
        .with_metadata_bytes(4096)
        .with_tensors(100)
        .with_files(20)
        .with_rank(8)
}

/// The same bytes with the CRC of every section and the SHA-256 of the file put right.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let mut start = 10;
    while start < out.len() {
        let (mut length, mut at) = (0usize, start + 1);
        for shift in (0..28).step_by(7) {
            let Some(&byte) = out.get(at) else { return out };
            length |= usize::from(byte & 0x7f) << shift;
            at += 1;
            if byte < 0x80 {
                break;
            }
        }
        let end = at + length;
        if out.len() < end + 4 {
            return out;
        }
        if out[start] == b'F' && length >= 32 {
            let sha256 = Sha256::digest(&out[..end - 32]);
            out[end - 32..end].copy_from_slice(&sha256);
        }
        let crc = crc32fast::hash(&out[start..end]);
        out[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        start = end + 4;
    }
    out
}

/// Any bytes, under small limits: an error or a patch of which every block can be applied.
pub fn decode(data: &[u8]) {
    for data in [data, &sealed(data)] {
        if let Err(error) = decode_all(data) {
            assert!(!error.kind().is_empty() && !error.to_string().is_empty());
        }
    }
}

fn decode_all(data: &[u8]) -> Result<()> {
    let mut decoder = Decoder::new(data, limits());
    while let Some(event) = decoder.next_event()? {
        let Event::Block(block) = event else { continue };
        let bytes = block.range().end - block.range().start;
        let mut target: Vec<u8> = (0..bytes).map(|i| ((i * i) >> 7) as u8).collect();
        let base = target.clone();
        let applied = block.apply(&mut target);
        match block.coding() {
            // These are known to be right before they see a base.
            Coding::Flat | Coding::Whole => assert_eq!(applied.is_ok(), block.decode().is_ok()),
            _ => {}
        }
        if applied.is_err() && block.decode().is_err() {
            assert!(target == base, "a corrupt block changed its base");
        }
        applied?;
        if let Some(changes) = block.decode()?.changes() {
            assert!(changes.map(|(element, _)| element).all(|element| element < block.elements()));
        }
    }
    decoder.finish().map(|_| ())
}

/// The ways in which an encoder can be asked to write changes; a new coding is a new row.
const CODINGS: [fn() -> EncoderOptions; 4] = [
    || EncoderOptions::default().with_coding(Coding::Contextual),
    || EncoderOptions::default().with_coding(Coding::Flat).with_values(ValueForm::Step),
    || EncoderOptions::default().with_coding(Coding::Flat).with_values(ValueForm::Xor),
    || EncoderOptions::default().with_coding(Coding::Flat).with_values(ValueForm::Overwrite),
];

/// Two checkpoints, as the fuzzer sees them.
#[derive(Debug, Arbitrary)]
struct Case {
    coding: u8,
    block_leaves: u8,
    chunk: u16,
    tensors: Vec<Draft>,
}

#[derive(Debug, Arbitrary)]
struct Draft {
    name: String,
    dtype: u8,
    fate: Fate,
    pattern: Vec<u8>,
    /// The pattern is repeated so often.
    repeat: u16,
    /// Positions, and bits that flip there.
    flips: Vec<(u32, u64)>,
    /// Distance of elements that change all alike; 0 for none.
    every: u16,
}

#[derive(Debug, Arbitrary)]
enum Fate {
    Patched,
    Added,
    Deleted,
    Replaced,
}

type Tensor = (TensorSpec, Vec<u8>);

/// Most bytes of a tensor: a few leaves.
const TENSOR_BYTES: usize = 300_000;

impl Draft {
    fn tensors(&self) -> (Option<Tensor>, Option<Tensor>) {
        let dtype = Dtype::known().nth(usize::from(self.dtype % 18)).unwrap_or(Dtype::Other("F4".into()));
        let width = dtype.element_bytes();
        let mut base: Vec<u8> = self
            .pattern
            .iter()
            .copied()
            .cycle()
            .take(self.pattern.len() * usize::from(self.repeat))
            .take(TENSOR_BYTES)
            .collect();
        base.truncate(base.len() / width * width);
        let elements = base.len() / width;
        let mut target = base.clone();
        if elements > 0 {
            let every = (0..elements).step_by(usize::from(self.every).max(1)).filter(|_| self.every > 0);
            let every = every.map(|element| (element, 1));
            for (element, bits) in self.flips.iter().map(|&(at, bits)| (at as usize % elements, bits)).chain(every) {
                let bytes = &mut target[element * width..(element + 1) * width];
                bytes.iter_mut().zip(bits.to_le_bytes()).for_each(|(byte, flip)| *byte ^= flip);
            }
        }
        let spec = |shape: &[u64], bytes: &[u8]| {
            TensorSpec::with_bytes(dtype.clone(), shape, bytes.len() as u64).expect("a shape that fits")
        };
        let flat = [elements as u64];
        let old = (spec(&flat, &base), base);
        match self.fate {
            Fate::Patched => (Some(old), Some((spec(&flat, &target), target))),
            Fate::Added => (None, Some((spec(&flat, &target), target))),
            Fate::Deleted => (Some(old), None),
            Fate::Replaced => (Some(old), Some((spec(&[1, elements as u64], &target), target))),
        }
    }
}

type Pair = (Option<Tensor>, Option<Tensor>);

fn encode(case: &Case, pairs: &BTreeMap<String, Pair>) -> Result<Vec<u8>> {
    let options = CODINGS[usize::from(case.coding) % CODINGS.len()]();
    let options = options.with_block_leaves(u64::from(case.block_leaves % 4) + 1);
    let mut encoder = Encoder::new(Vec::new(), options)?;
    let chunk = usize::from(case.chunk) + 1;
    for (name, (base, target)) in pairs {
        encoder.begin(name, base.as_ref().map(|side| &side.0), target.as_ref().map(|side| &side.0))?;
        let [base, target] = [base, target].map(|side| side.as_ref().map_or(&[][..], |side| &side.1));
        for start in (0..base.len().max(target.len())).step_by(chunk) {
            let piece = |bytes: &'_ [u8]| start.min(bytes.len())..(start + chunk).min(bytes.len());
            encoder.push(&base[piece(base)], &target[piece(target)])?;
        }
        encoder.end()?;
    }
    encoder.finish().map(|(patch, _)| patch)
}

/// Any two checkpoints: encoding, decoding and applying give the target.
pub fn roundtrip(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut pairs: BTreeMap<String, Pair> =
        case.tensors.iter().take(8).map(|draft| (draft.name.clone(), draft.tensors())).collect();
    pairs.retain(|name, _| name.len() <= 4096);
    let patch = encode(&case, &pairs).expect("legal checkpoints");
    check(&patch, &pairs).expect("a patch of our own");
}

/// Applies the patch to the bases and compares with the targets.
fn check(patch: &[u8], pairs: &BTreeMap<String, Pair>) -> Result<()> {
    let mut decoder = Decoder::new(patch, Limits::default());
    let mut hasher = CheckpointHasher::new();
    for (name, (_, target)) in pairs {
        if let Some((spec, bytes)) = target {
            hasher.add(name, spec, tensor_digest(bytes));
        }
    }
    let target_digest = hasher.finish()?;
    let mut changed: BTreeSet<&String> =
        pairs.iter().filter(|(_, (base, target))| base != target).map(|(name, _)| name).collect();
    let mut open: Option<(&Pair, Vec<u8>)> = None;
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Tensor(header) => {
                assert!(changed.remove(&header.name), "an unchanged tensor is in the patch, or one stands twice");
                let pair = &pairs[&header.name];
                let made = match (&pair.0, &header.spec) {
                    (Some((_, base)), _) if !header.action.is_put() => base.clone(),
                    (_, Some(spec)) => vec![0; spec.bytes() as usize],
                    _ => Vec::new(),
                };
                open = Some((pair, made));
            }
            Event::Block(block) => {
                let (_, made) = open.as_mut().expect("a tensor");
                let range = block.range();
                block.apply(&mut made[range.start as usize..range.end as usize])?;
            }
            Event::TensorEnd(end) => {
                let (pair, made) = open.take().expect("a tensor");
                assert_eq!(end.target, pair.1.as_ref().map(|(_, target)| tensor_digest(target)));
                if let (_, Some((_, target))) = pair {
                    assert!(made == *target, "another target");
                }
            }
            Event::End(footer) => assert_eq!(footer.target, target_digest),
            _ => {}
        }
    }
    assert!(changed.is_empty(), "changed tensors are missing");
    decoder.finish().map(|_| ())
}

/// Any bytes: events and errors are the same however the bytes arrive.
pub fn chunking(data: &[u8]) {
    for data in [data, &sealed(data)] {
        let whole = pull(data);
        assert_eq!(push(data, data.len().max(1)), push(data, 1));
        for chunk in [1, 3, 1000] {
            assert_eq!(pull(Interrupted { data, chunk, now: false }), whole);
        }
        // A push decoder leaves what follows the footer; to the pull decoder it is an error.
        let (events, error) = push(data, 7);
        assert_eq!(events, whole.0);
        match whole.1.as_deref() {
            Some(trailing) if trailing.contains("bytes follow the footer") => assert_eq!(error, None),
            other => assert_eq!(error.as_deref(), other),
        }
    }
}

/// Events in words, and the error that ended them.
type Story = (Vec<String>, Option<String>);

fn tell(event: &Event<'_>) -> String {
    match event {
        Event::Block(block) => format!("{:?} {:?} {}", block.range(), block.coding(), block.payload_bytes()),
        // A few bytes can stand for many: not in words.
        Event::FileData(bytes) => format!("{} bytes of a file, CRC-32 {:08x}", bytes.len(), crc32fast::hash(bytes)),
        other => format!("{other:?}"),
    }
}

fn pull(data: impl Read) -> Story {
    let mut decoder = Decoder::new(data, limits());
    let mut events = Vec::new();
    loop {
        match decoder.next_event() {
            Ok(Some(event)) => events.push(tell(&event)),
            Ok(None) => return (events, decoder.finish().err().map(|error| error.to_string())),
            Err(error) => return (events, Some(error.to_string())),
        }
    }
}

fn push(data: &[u8], chunk: usize) -> Story {
    let mut decoder = PushDecoder::new(limits());
    let mut events = Vec::new();
    for mut bytes in data.chunks(chunk) {
        while !bytes.is_empty() && !decoder.is_done() {
            match decoder.feed(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) => return (events, Some(error.to_string())),
            }
            events.extend(decoder.event().map(|event| tell(&event)));
        }
    }
    (events, decoder.finish().err().map(|error| error.to_string()))
}

/// A reader that gives a few bytes, and every other time none.
struct Interrupted<'a> {
    data: &'a [u8],
    chunk: usize,
    now: bool,
}

impl Read for Interrupted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.now = !self.now;
        if self.now {
            return Err(ErrorKind::Interrupted.into());
        }
        let most = out.len().min(self.chunk);
        self.data.read(&mut out[..most])
    }
}
