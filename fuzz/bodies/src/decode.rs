//! Any bytes through the decoders.

use std::io::{self, ErrorKind, Read};

use pulse::coding::Coding;
use pulse::tensors::Control;
use pulse::{Decoder, Event, Patch, PushDecoder, Result};

use super::{limits, random};
use testkit::forge;

/// Blocks beyond this size are not applied: time is better spent on others.
const APPLIED_MAX: u64 = 1 << 18;

/// The bytes as they are and sealed, or only once if they are.
fn variants(data: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let sealed = forge::sealed(data);
    let plain = (sealed != data).then(|| data.to_vec());
    plain.into_iter().chain([sealed])
}

/// Any bytes, under small limits: an error or a patch of which every block can be applied, by the streaming decoder
/// as a file in memory, and at random.
pub fn decode(data: &[u8]) {
    for data in variants(data) {
        let read = read(&data);
        if let Err(error) = &read {
            assert!(!error.kind().is_empty() && !error.to_string().is_empty());
        }
        let whole = Patch::from_bytes(data.clone(), limits());
        random::agrees(&data, whole.as_ref().ok());
        match (whole, read) {
            (Ok(patch), Ok(blocks)) => {
                if !patch.header().snapshot {
                    // Looks at the blocks that need no base.
                    let verified = patch.verify(Control::threads(1));
                    assert!(verified.is_ok() == blocks.is_ok(), "{verified:?}, but {blocks:?}");
                }
            }
            (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
            (one, other) => {
                panic!("in memory: {:?}; streaming: {other:?}", one.map(|patch| patch.bytes()))
            }
        }
    }
}

/// Reads a patch to its end; gives back the first error of a block, which does not end the reading.
fn read(data: &[u8]) -> Result<Result<()>> {
    let mut decoder = Decoder::new(data, limits());
    let mut blocks = Ok(());
    while let Some(event) = decoder.next_event()? {
        if let Event::Block(block) = event {
            blocks = blocks.and(check(&block));
        }
    }
    decoder.finish()?;
    Ok(blocks)
}

fn check(block: &pulse::stream::Block<'_>) -> Result<()> {
    let decoded = block.decode();
    let bytes = block.range().end - block.range().start;
    if bytes <= APPLIED_MAX {
        let base: Vec<u8> = (0..bytes as u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let mut target = base.clone();
        let applied = block.apply(&mut target);
        match block.coding() {
            // These are known to be right before they see a base.
            Coding::Flat | Coding::Whole => assert_eq!(applied.is_ok(), decoded.is_ok()),
            _ => assert!(applied.is_err() || decoded.is_ok()),
        }
        assert!(decoded.is_ok() || target == base, "a corrupt block changed its base");
    }
    if let Some(changes) = decoded?.changes() {
        let mut count = 0;
        for (element, _) in changes {
            assert!(element < block.elements());
            count += 1;
        }
        assert!(count == block.changes() || block.coding() == Coding::Whole);
    }
    Ok(())
}

/// Patches that unpack to more than this are not read in several ways: time is better spent on others.
const UNPACKED_MAX: usize = 1 << 16;
/// Bytes that arrive at once.
const CHUNKS: [usize; 4] = [1, 3, 7, 1000];

/// Any bytes: events and errors are the same however the bytes arrive. Each input is read in one way of each kind,
/// which follows from its bytes. Gives back whether it was, and was worth it.
pub fn chunking(data: &[u8]) -> bool {
    let choice = crc32fast::hash(data) as usize;
    variants(data).all(|data| {
        let Some(whole) = pull_at_most(&data[..], UNPACKED_MAX) else { return false };
        arrives(&data, &whole, CHUNKS[choice % 4], CHUNKS[choice / 4 % 4]);
        true
    })
}

/// As `chunking`, in all ways.
pub fn chunking_in_all_ways(data: &[u8]) {
    for data in variants(data) {
        let whole = pull(&data[..]);
        for chunk in CHUNKS.into_iter().chain([data.len().max(1)]) {
            arrives(&data, &whole, chunk, chunk);
        }
    }
}

/// The same comes of bytes that are pushed and pulled in such chunks.
fn arrives(data: &[u8], whole: &Story, pushed: usize, pulled: usize) {
    assert_eq!(pull(Interrupted { data, chunk: pulled, now: false }), *whole);
    // A push decoder leaves what follows the footer; to the pull decoder it is an error.
    let (events, error) = push(data, pushed);
    assert_eq!(events, whole.0);
    match whole.1.as_deref() {
        Some(trailing) if trailing.contains("bytes follow the footer") => assert_eq!(error, None),
        other => assert_eq!(error.as_deref(), other),
    }
}

/// Events in words, and the error that ended them.
type Story = (Vec<String>, Option<String>);

fn tell(event: &Event<'_>) -> String {
    match event {
        Event::Block(block) => {
            format!("{:?} {:?} {}", block.range(), block.coding(), block.payload_bytes())
        }
        Event::FileData(bytes) => format!("{} {:08x}", bytes.len(), crc32fast::hash(bytes)),
        other => format!("{other:?}"),
    }
}

fn pull(data: impl Read) -> Story {
    pull_at_most(data, usize::MAX).expect("no more than can be")
}

/// As `pull`; `None` if more bytes of files come out of it.
fn pull_at_most(data: impl Read, mut most: usize) -> Option<Story> {
    let mut decoder = Decoder::new(data, limits());
    let mut events = Vec::new();
    loop {
        match decoder.next_event() {
            Ok(Some(event)) => {
                if let Event::FileData(bytes) = event {
                    most = most.checked_sub(bytes.len())?;
                }
                events.push(tell(&event));
            }
            Ok(None) => {
                return Some((events, decoder.finish().err().map(|error| error.to_string())))
            }
            Err(error) => return Some((events, Some(error.to_string()))),
        }
    }
}

fn push(data: &[u8], chunk: usize) -> Story {
    let mut decoder = PushDecoder::new(limits());
    let mut events = Vec::new();
    for mut bytes in data.chunks(chunk) {
        while !bytes.is_empty() && !decoder.is_done() {
            match decoder.feed(bytes) {
                Ok((taken, event)) => {
                    bytes = &bytes[taken..];
                    events.extend(event.as_ref().map(tell));
                }
                Err(error) => return (events, Some(error.to_string())),
            }
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
