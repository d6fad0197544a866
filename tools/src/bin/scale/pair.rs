//! Checkpoints on disk, three of them some optimizer steps apart.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use pulse_tools::{adam, safetensors};

/// Elements made at a time by one thread.
const CHUNK: usize = 1 << 20;

/// The tensors of a checkpoint, all of one size.
#[derive(Clone, Copy)]
pub struct Layout {
    pub tensors: usize,
    pub tensor_bytes: usize,
    /// Optimizer steps from each checkpoint to the next: one changes about 0.5% of the elements,
    /// eight 3%.
    pub steps: u32,
}

impl Layout {
    pub fn bytes(&self) -> u64 {
        self.tensors as u64 * self.tensor_bytes as u64
    }
}

/// Versions of a checkpoint, in the files of a directory, which takes them along when it goes.
pub struct Versions<const N: usize> {
    pub dir: tempfile::TempDir,
}

impl<const N: usize> Versions<N> {
    pub fn create(dir: &Path, layout: Layout) -> io::Result<Self> {
        let versions = Versions { dir: tempfile::tempdir_in(dir)? };
        let mut files = Vec::new();
        for number in 0..N {
            files.push(File::create(versions.path(number))?);
        }
        let header = safetensors::header(layout.tensors, layout.tensor_bytes);
        files.iter_mut().try_for_each(|file| file.write_all(&header))?;

        let elements = layout.bytes() / 2;
        let chunks: Vec<u64> = (0..elements.div_ceil(CHUNK as u64)).collect();
        let make = |chunk: u64| {
            let size = (elements - chunk * CHUNK as u64).min(CHUNK as u64);
            adam::weights(chunk, size as usize, std::array::from_fn(|at| at as u32 * layout.steps))
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for chunks in chunks.chunks(cores) {
            let made: Vec<[Vec<u8>; N]> = thread::scope(|scope| {
                let workers: Vec<_> =
                    chunks.iter().map(|&chunk| scope.spawn(move || make(chunk))).collect();
                workers
                    .into_iter()
                    .map(|worker| worker.join().expect("making weights cannot fail"))
                    .collect()
            });
            for weights in made {
                files
                    .iter_mut()
                    .zip(weights)
                    .try_for_each(|(file, bytes)| file.write_all(&bytes))?;
            }
        }
        Ok(versions)
    }

    pub fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{number}.safetensors"))
    }
}

/// Three of them: `before`, `base` and `target`.
pub struct Pair {
    versions: Versions<3>,
    pub layout: Layout,
}

impl Pair {
    pub fn create(dir: &Path, layout: Layout) -> io::Result<Pair> {
        let pair = Pair { versions: Versions::create(dir, layout)?, layout };
        for (number, name) in ["before", "base", "target"].into_iter().enumerate() {
            fs::rename(pair.versions.path(number), pair.path(name))?;
        }
        Ok(pair)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.versions.dir.path().join(name).with_extension("safetensors")
    }

    /// A patch of this name.
    pub fn patch(&self, name: &str) -> PathBuf {
        self.versions.dir.path().join(name).with_extension("pulse")
    }
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
