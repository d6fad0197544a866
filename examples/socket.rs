//! A patch over TCP, from one process to another, applied and verified as it arrives.
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
use pulse::dtype::TensorSpec;
use pulse::stream::Receiver;
use pulse::stream::{Received, Store};
use pulse::tensors::Control;
use pulse::wire::{FileRecord, FileState};
use pulse::{Checkpoint, Limits};

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
    println!(
        "sent {} bytes for {} changes",
        report.summary.patch_bytes, report.summary.footer.changes
    );
    Ok(())
}

/// The base, and a file that becomes the target: safetensors both, with the same header.
///
/// To stay short, this store takes patches that change tensors and nothing else;
/// `pulse::Patch::apply` takes them all.
struct Files<'a> {
    base: &'a Checkpoint,
    /// A copy of the base. Nobody uses it before it is renamed.
    part: File,
    /// Where each tensor begins in it.
    places: HashMap<String, u64>,
}

impl<'a> Files<'a> {
    fn open(base: &'a Checkpoint, part: &Path) -> Result<Self> {
        let mut part = OpenOptions::new().read(true).write(true).open(part)?;
        let mut length = [0; 8];
        part.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        // `Checkpoint::open` has found the header right and within bounds before.
        let header: serde_json::Value = serde_json::from_reader((&part).take(length))?;
        let begin = |row: &serde_json::Value| Some(8 + length + row["data_offsets"][0].as_u64()?);
        let tensors = header.as_object().ok_or("the header is no object")?;
        let places =
            tensors.iter().filter_map(|(name, row)| Some((name.clone(), begin(row)?))).collect();
        Ok(Files { base, part, places })
    }
}

fn refused<T>(what: &str) -> pulse::Result<T> {
    Err(pulse::Error::Misuse(what.into()))
}

fn io(during: &str) -> impl FnOnce(std::io::Error) -> pulse::Error + '_ {
    move |source| pulse::Error::Io { doing: during.into(), path: None, source }
}

impl Store for Files<'_> {
    fn start(&mut self) -> pulse::Result<()> {
        // The copy is a new one for each patch.
        Ok(())
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        self.base.tensors().map(|(name, tensor)| (name, tensor.spec())).collect()
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> pulse::Result<()> {
        match self.base.tensor(name) {
            Some(tensor) => self.base.read_at(tensor, start, buffer),
            None => refused("there is no such tensor"),
        }
    }

    fn file(&mut self, record: &FileRecord) -> pulse::Result<()> {
        match record.state {
            // The header of the base, which the copy has. Were there others, they would be compared
            // with the record here.
            FileState::Kept => Ok(()),
            _ => refused("the headers of the two files differ"),
        }
    }

    fn begin(&mut self, name: &str, spec: &TensorSpec) -> pulse::Result<()> {
        match (self.base.tensor(name), self.places.get(name)) {
            (Some(held), Some(&place)) if held.spec() == spec => {
                self.part.seek(SeekFrom::Start(place)).map(drop).map_err(io("seeking in the copy"))
            }
            _ => refused("the patch adds or replaces a tensor"),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> pulse::Result<()> {
        self.part.write_all(bytes).map_err(io("writing the copy"))
    }

    fn end(&mut self) -> pulse::Result<()> {
        Ok(())
    }

    fn delete(&mut self, _: &str) -> pulse::Result<()> {
        refused("the patch deletes a tensor")
    }

    fn commit(&mut self) -> pulse::Result<()> {
        self.part.sync_all().map_err(io("syncing the copy"))
    }
}

fn apply(base: &Path, part: &Path, address: &str) -> Result<Received> {
    let base = Checkpoint::open(base)?;
    let mut receiver = Receiver::new(Files::open(&base, part)?, Limits::default());
    receiver.read_from(TcpStream::connect(address)?)?;
    Ok(receiver.finish()?)
}

fn receive(base: &Path, out: &Path, address: &str) -> Result<()> {
    // A copy, so that the base stays what it is and OUT appears only when it is verified.
    let part = out.with_extension("part");
    fs::copy(base, &part)?;
    let applied = apply(base, &part, address);
    if applied.is_err() {
        fs::remove_file(&part)?;
    }
    let received = applied?;
    fs::rename(&part, out)?;
    println!("received {}", received.target());
    match peak_kib() {
        Some(peak) => println!("peak memory {peak} KiB"),
        None => println!("peak memory is not known on this system"),
    }
    Ok(())
}

/// The most memory that this process ever held; Linux tells.
fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", base, target, address] => send(base.as_ref(), target.as_ref(), address),
        ["receive", base, out, address] => receive(base.as_ref(), out.as_ref(), address),
        _ => Err("usage: socket send BASE TARGET ADDRESS | socket receive BASE OUT ADDRESS".into()),
    }
}
