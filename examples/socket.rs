//! A patch over TCP, from one process to another, through the push decoder.
//!
//! ```text
//! socket send BASE TARGET ADDRESS      # waits for one receiver and diffs straight into the socket
//! socket receive BASE OUT ADDRESS      # applies what arrives, block by block, to a copy of BASE
//! ```
//! Neither side ever holds the checkpoint or the patch: the receiver needs a block, a chunk of the
//! socket and a record for each tensor, and prints its peak memory. The files are safetensors.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use pulse::checkpoint::{diff, DiffOptions};
use pulse::stream::Block;
use pulse::tensors::Control;
use pulse::wire::{Action, FileSource, Footer};
use pulse::{Checkpoint, Event, Limits, PushDecoder};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn send(base: &Path, target: &Path, address: &str) -> Result<()> {
    let (base, target) = (Checkpoint::open(base)?, Checkpoint::open(target)?);
    let listener = TcpListener::bind(address)?;
    // With port 0 the system has chosen one; say which.
    println!("listening on {}", listener.local_addr()?);
    let mut out = BufWriter::new(listener.accept()?.0);
    // Anything that is `Write` will do: nothing is written twice, and the encoder never seeks.
    let report = diff(Some(&base), &target, &mut out, DiffOptions::default(), Control::default())?;
    out.flush()?;
    println!("sent {} bytes for {} changes", report.summary.patch_bytes, report.summary.footer.changes);
    Ok(())
}

/// A safetensors file that is being changed in place.
struct Weights {
    file: File,
    /// Where each tensor begins in the file.
    places: HashMap<String, u64>,
    /// Where the open tensor begins.
    place: u64,
    buffer: Vec<u8>,
}

impl Weights {
    fn open(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        // `Checkpoint::open` has found the header right and within bounds before.
        let header: serde_json::Value = serde_json::from_reader((&file).take(length))?;
        let begin = |row: &serde_json::Value| Some(8 + length + row["data_offsets"][0].as_u64()?);
        let tensors = header.as_object().ok_or("the header is no object")?;
        let places = tensors.iter().filter_map(|(name, row)| Some((name.clone(), begin(row)?))).collect();
        Ok(Weights { file, places, place: 0, buffer: Vec::new() })
    }

    fn apply(&mut self, block: Block<'_>) -> Result<()> {
        let range = block.range();
        self.buffer.resize(usize::try_from(range.end - range.start)?, 0);
        self.file.seek(SeekFrom::Start(self.place + range.start))?;
        self.file.read_exact(&mut self.buffer)?;
        block.apply(&mut self.buffer)?;
        self.file.seek(SeekFrom::Start(self.place + range.start))?;
        Ok(self.file.write_all(&self.buffer)?)
    }

    /// One event; gives back the footer, which is the last.
    fn take(&mut self, event: Event<'_>) -> Result<Option<Footer>> {
        match event {
            Event::Tensor(header) if header.action == Action::Patched => {
                self.place = *self.places.get(&header.name).ok_or("wrong base: it lacks a tensor of the patch")?;
            }
            Event::Block(block) => self.apply(block)?,
            Event::End(footer) => return Ok(Some(*footer)),
            // To stay short, this example changes tensors and nothing else; `Patch::apply` does it all.
            Event::Tensor(_) => return Err("the patch adds, replaces or deletes a tensor".into()),
            Event::File(record) if record.source == FileSource::Patch => {
                return Err("the headers of the two files differ".into());
            }
            _ => {}
        }
        Ok(None)
    }
}

/// Applies a patch from the socket to the file at `part`, and proves the result.
fn apply(part: &Path, mut stream: TcpStream) -> Result<()> {
    Checkpoint::open(part)?;
    let mut weights = Weights::open(part)?;
    let mut decoder = PushDecoder::new(Limits::default());
    let (mut chunk, mut footer) = (vec![0; 64 * 1024], None);
    while footer.is_none() {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            // The footer has not come: this says how much is missing at least.
            decoder.finish()?;
        }
        let mut arrived = &chunk[..read];
        while !arrived.is_empty() && footer.is_none() {
            let taken = decoder.feed(arrived)?;
            arrived = &arrived[taken..];
            if let Some(event) = decoder.event() {
                footer = weights.take(event)?;
            }
        }
    }
    // Nothing is right until its digest says so.
    let found = Checkpoint::open(part)?.digest(Control::threads(1))?;
    if footer.is_none_or(|footer| footer.target != found) {
        return Err("the result is not the target: was BASE the base of the sender?".into());
    }
    println!("received {found}");
    Ok(())
}

fn receive(base: &Path, out: &Path, address: &str) -> Result<()> {
    // A copy, so that the base stays what it is and OUT appears only when it is right.
    let part = out.with_extension("part");
    fs::copy(base, &part)?;
    let applied = TcpStream::connect(address).map_err(Into::into).and_then(|stream| apply(&part, stream));
    if applied.is_err() {
        fs::remove_file(&part)?;
    }
    applied?;
    fs::rename(&part, out)?;
    match peak_kib() {
        Some(peak) => println!("peak memory {peak} KiB"),
        None => println!("peak memory is not known on this system"),
    }
    Ok(())
}

/// The most memory that this process ever held; Linux tells.
fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", base, target, address] => send(base.as_ref(), target.as_ref(), address),
        ["receive", base, out, address] => receive(base.as_ref(), out.as_ref(), address),
        _ => Err("usage: socket send BASE TARGET ADDRESS | socket receive BASE OUT ADDRESS".into()),
    }
}
