//! Time and memory of programs, and of the two things that they are held against.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pulse::hash::tensor_digest;
use sha2::{Digest, Sha256};

use crate::Result;

/// What one round of one command took.
#[derive(Clone, Copy, Default)]
pub struct Run {
    pub seconds: f64,
    /// Largest resident memory, where the system tells.
    pub peak: Option<u64>,
}

/// Peak resident bytes of a process so far.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Runs the program to its end.
pub fn program(program: &Path, arguments: &[OsString]) -> Result<Run> {
    let started = Instant::now();
    let mut child = Command::new(program).args(arguments).stdout(Stdio::null()).spawn()?;
    let (pid, done) = (child.id(), AtomicBool::new(false));
    let (status, run) = thread::scope(|scope| {
        // The system keeps the peak, so that looking now and then misses only the last moment.
        let watch = scope.spawn(|| {
            let mut last = None;
            while !done.load(Ordering::Relaxed) {
                last = peak(pid).or(last);
                thread::sleep(Duration::from_millis(2));
            }
            last
        });
        let status = child.wait();
        let seconds = started.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        (status, Run { seconds, peak: watch.join().expect("watching cannot fail") })
    });
    match status? {
        status if status.success() => Ok(run),
        status => Err(format!("{} {arguments:?}: {status}", program.display()).into()),
    }
}

/// Runs the program and parses the JSON that it prints.
pub fn json(program: &Path, arguments: &[OsString]) -> Result<serde_json::Value> {
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// SHA-256 of a file on one thread, without the time to read it.
pub fn sha(path: &Path) -> Result<Run> {
    let (mut file, mut buffer, mut hasher) = (File::open(path)?, vec![0; 1 << 20], Sha256::new());
    let mut time = Duration::ZERO;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            black_box(hasher.finalize());
            return Ok(Run { seconds: time.as_secs_f64(), peak: None });
        }
        let started = Instant::now();
        hasher.update(&buffer[..read]);
        time += started.elapsed();
    }
}

/// SHA-256 of a file by Python's hashlib on one thread, reading included: what a receiver without
/// this library does to check a file that it was sent whole.
pub fn hashlib(path: &Path) -> Result<Run> {
    const PROGRAM: &str = "import hashlib, sys, time
begin = time.perf_counter()
digest = hashlib.sha256()
with open(sys.argv[1], 'rb', buffering=0) as file:
    while piece := file.read(1 << 20):
        digest.update(piece)
print(time.perf_counter() - begin)";
    let output = Command::new("python3").args(["-c", PROGRAM]).arg(path).output()?;
    let seconds = String::from_utf8(output.stdout)?.trim().parse()?;
    Ok(Run { seconds, peak: None })
}

/// A copy of a file, into a new one.
pub fn copy(from: &Path, to: &Path) -> Result<Run> {
    let started = Instant::now();
    fs::copy(from, to)?;
    Ok(Run { seconds: started.elapsed().as_secs_f64(), peak: None })
}

/// Bytes that a thread takes at a time: a block.
const PIECE: u64 = 2 << 20;

/// What no command can do without: files of one length that are read, some of them hashed, and the last
/// one written.
#[derive(Clone, Copy)]
pub struct Floor<'a> {
    /// Each file, and whether its digests are made.
    pub read: &'a [(&'a Path, bool)],
    pub write: Option<&'a Path>,
}

impl Floor<'_> {
    /// Does that and nothing else, by two threads that take pieces in turn.
    pub fn run(self) -> Result<Run> {
        let started = Instant::now();
        let lengths = self.read.iter().map(|(file, _)| Ok(fs::metadata(file)?.len()));
        let bytes = lengths.collect::<io::Result<Vec<_>>>()?.into_iter().min().unwrap_or(0);
        if let Some(file) = self.write {
            File::create(file)?.set_len(bytes)?;
        }
        let next = AtomicU64::new(0);
        thread::scope(|scope| {
            let workers = [0, 1].map(|_| scope.spawn(|| self.take(bytes, &next)));
            workers.into_iter().try_for_each(|worker| worker.join().expect("reading cannot panic"))
        })?;
        Ok(Run { seconds: started.elapsed().as_secs_f64(), peak: None })
    }

    /// Takes pieces until none is left.
    fn take(self, bytes: u64, next: &AtomicU64) -> io::Result<()> {
        let open = |(file, _): &(&Path, bool)| File::open(file);
        let mut files = self.read.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let mut out =
            self.write.map(|file| OpenOptions::new().write(true).open(file)).transpose()?;
        let mut buffers = vec![vec![0; PIECE as usize]; files.len()];
        loop {
            let at = next.fetch_add(PIECE, Ordering::Relaxed);
            let Some(left) = bytes.checked_sub(at).filter(|&left| left > 0) else { return Ok(()) };
            let piece = left.min(PIECE) as usize;
            for (file, buffer) in files.iter_mut().zip(&mut buffers) {
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut buffer[..piece])?;
            }
            for (buffer, _) in buffers.iter().zip(self.read).filter(|(_, (_, hashed))| *hashed) {
                black_box(tensor_digest(&buffer[..piece]));
            }
            if let (Some(out), Some(buffer)) = (&mut out, buffers.last()) {
                out.seek(SeekFrom::Start(at))?;
                out.write_all(&buffer[..piece])?;
            }
        }
    }
}

/// Median of some numbers; 0 of none.
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
