//! A disk where one operation goes wrong.
//!
//! What a process wrote is seen by all that come after it until the power goes; then each write that was not
//! synced is lost, torn or kept, in any combination, and so is each name. A rename is atomic, but may leave
//! the old name too. A sync that fails leaves its pages clean: the next one has nothing to write, and says
//! that all is well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::{Call, Disk, Watch};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It fails, and nothing of it is done; those after it work.
    Error(io::ErrorKind),
    /// A write gets half of its bytes down; other operations fail.
    ShortWrite,
    /// It, and every later write, finds no room; all else works.
    Full,
    /// A sync fails, and what it should have written is not known as unwritten any more. Other operations
    /// work.
    Sync,
    /// The process dies before it. What it did stays, as long as the power does.
    Kill,
}

/// What a loss of power does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Loss {
    /// None of it was on disk.
    Everything,
    /// Some of it was: writes are lost, torn or kept at random, and names are lost or kept.
    Some(u64),
}

/// How to take back an operation that was not synced.
#[derive(Debug, Clone)]
enum Unsynced {
    /// Bytes that were overwritten in a file, and how long it was. It may be known as written.
    Write { path: PathBuf, offset: u64, before: Vec<u8>, bytes: u64, clean: bool },
    /// The file at a name, `None` if there was none.
    Name { path: PathBuf, before: Option<Vec<u8>> },
    /// A new name for the file at an old one, and what was there before.
    Rename { from: PathBuf, to: PathBuf, moved: Option<Vec<u8>>, before: Option<Vec<u8>> },
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    syncs: u64,
    full: bool,
    crashed: bool,
    unsynced: Vec<Unsynced>,
}

/// A disk where one operation goes wrong.
#[derive(Debug)]
pub(super) struct Faulty {
    at: u64,
    fault: Fault,
    /// The number of a sync that does nothing: a mutant of the protocol.
    left_out: Option<u64>,
    state: Mutex<State>,
}

impl Faulty {
    pub fn new(at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Faulty { at, fault, left_out: None, state: Mutex::default() })
    }

    /// The same disk for another process: what the one before did not sync is still not synced.
    pub fn next(&self, at: u64, fault: Fault) -> Arc<Self> {
        let unsynced = self.state.lock().unwrap().unsynced.clone();
        let state = State { unsynced, ..State::default() };
        Arc::new(Faulty { at, fault, left_out: None, state: Mutex::new(state) })
    }

    pub fn without_sync(at: u64, fault: Fault, left_out: u64) -> Arc<Self> {
        let left_out = Some(left_out);
        Arc::new(Faulty { at, fault, left_out, state: Mutex::default() })
    }

    pub fn disk(self: &Arc<Self>) -> Disk {
        Disk::watched(self.clone())
    }

    /// How often something was synced.
    pub fn syncs(&self) -> u64 {
        self.state.lock().unwrap().syncs
    }

    /// Whether the chosen operation came.
    pub fn fired(&self) -> bool {
        self.state.lock().unwrap().calls > self.at
    }

    /// The power goes: takes back what was not synced, the latest first.
    pub fn lose(&self, loss: Loss) {
        let mut state = self.state.lock().unwrap();
        let mut random = match loss {
            Loss::Everything => 0,
            Loss::Some(seed) => seed * 2 + 1,
        };
        for unsynced in std::mem::take(&mut state.unsynced).into_iter().rev() {
            random = random
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(u64::from(random != 0) * 0x1405_7b7e_f767_814f);
            let keep = match loss {
                Loss::Everything => 2,
                Loss::Some(_) => random >> 62,
            };
            unsynced.lose(keep);
        }
    }
}

impl Unsynced {
    /// Of four: 0 keeps it, 1 keeps a part, the others nothing.
    fn lose(self, keep: u64) {
        let put = |path: &Path, before: Option<Vec<u8>>| match before {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None if path.is_dir() => fs::remove_dir_all(path).unwrap(),
            None => drop(fs::remove_file(path)),
        };
        match self {
            // What was known as written, and is not, never comes.
            Unsynced::Write { clean: false, .. } if keep == 0 => {}
            Unsynced::Name { .. } | Unsynced::Rename { .. } if keep == 0 => {}
            Unsynced::Write { path, offset, before, bytes, .. } => {
                let Ok(mut file) = fs::read(&path) else { return };
                // A torn write: its begin was on disk, its end was not.
                let torn = if keep == 1 { half(offset, before.len()) } else { 0 };
                let at = usize::try_from(offset).unwrap() + torn;
                let end = (at + before.len() - torn).min(file.len());
                if at < end {
                    file[at..end].copy_from_slice(&before[torn..torn + end - at]);
                }
                if torn == 0 {
                    file.resize(usize::try_from(bytes).unwrap(), 0);
                }
                fs::write(&path, file).unwrap();
            }
            Unsynced::Name { path, before } => put(&path, before),
            // Both names, or the old one alone.
            Unsynced::Rename { from, to, moved, before } => {
                if moved.is_some() {
                    put(&from, moved);
                }
                if keep != 1 {
                    put(&to, before);
                }
            }
        }
    }
}

/// About half of so many bytes at an offset, to the end of a sector: those are written whole or not.
fn half(offset: u64, bytes: usize) -> usize {
    let offset = usize::try_from(offset).unwrap();
    ((offset + bytes / 2) / 512 * 512).saturating_sub(offset)
}

impl State {
    /// Notes what an operation changes, before it does.
    fn note(&mut self, call: Call<'_>, left_out: Option<u64>) {
        match call {
            Call::Write { path, offset, bytes } => {
                let file = fs::read(path).unwrap();
                let start = usize::try_from(offset).unwrap().min(file.len());
                let end = (start + bytes.len()).min(file.len());
                let before = file[start..end].to_vec();
                let (path, bytes) = (path.into(), file.len() as u64);
                self.unsynced.push(Unsynced::Write { path, offset, before, bytes, clean: false });
            }
            Call::Create(path) | Call::Remove(path) => {
                let before = fs::read(path).ok();
                self.unsynced.push(Unsynced::Name { path: path.into(), before });
            }
            Call::Rename { from, to } => {
                // What was written to it, and not synced, moves along.
                for unsynced in &mut self.unsynced {
                    if let Unsynced::Write { path, .. } = unsynced {
                        if let Ok(below) = path.strip_prefix(from) {
                            *path = if below.as_os_str().is_empty() {
                                to.into()
                            } else {
                                to.join(below)
                            };
                        }
                    }
                }
                let (moved, before) = (fs::read(from).ok(), fs::read(to).ok());
                let (from, to) = (from.into(), to.into());
                self.unsynced.push(Unsynced::Rename { from, to, moved, before });
            }
            Call::Sync(_) | Call::SyncDirectory(_) => {
                self.syncs += 1;
                if left_out != Some(self.syncs - 1) {
                    self.synced(call);
                }
            }
            // The disk has what was never written to it.
            Call::Reload(path) => {
                let is_lost = |one: &Unsynced| matches!(one, Unsynced::Write { path: own, clean: true, .. } if own == path);
                for unsynced in self.unsynced.iter().rev().filter(|one| is_lost(one)) {
                    unsynced.clone().lose(2);
                }
                self.unsynced.retain(|one| !is_lost(one));
            }
            Call::Resize | Call::Open | Call::Read | Call::CreateDirectory => {}
        }
    }

    fn synced(&mut self, call: Call<'_>) {
        let parent_is = |path: &Path, directory: &Path| path.parent() == Some(directory);
        self.unsynced.retain(|one| match (call, one) {
            (Call::Sync(path), Unsynced::Write { path: own, clean, .. }) => *clean || own != path,
            (Call::SyncDirectory(path), Unsynced::Name { path: own, .. }) => !parent_is(own, path),
            (Call::SyncDirectory(path), Unsynced::Rename { to, .. }) => !parent_is(to, path),
            _ => true,
        });
    }
}

impl Watch for Faulty {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let number = state.calls;
        state.calls += 1;
        let died = || Err(io::Error::other("the process was killed"));
        if state.crashed {
            return died();
        }
        let writes = matches!(call, Call::Write { .. } | Call::Create(_) | Call::Resize);
        if state.full && writes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if number != self.at {
            state.note(call, self.left_out);
            return Ok(());
        }
        match (self.fault, call) {
            (Fault::Error(kind), _) => Err(kind.into()),
            (Fault::ShortWrite, Call::Write { path, offset, bytes }) => {
                state.note(call, None);
                let mut file = fs::read(path)?;
                let (start, half) = (usize::try_from(offset).unwrap(), half(offset, bytes.len()));
                file.resize(file.len().max(start + half), 0);
                file[start..start + half].copy_from_slice(&bytes[..half]);
                fs::write(path, file)?;
                Err(io::ErrorKind::StorageFull.into())
            }
            (Fault::ShortWrite, _) => Err(io::ErrorKind::PermissionDenied.into()),
            (Fault::Full, _) => {
                state.full = true;
                if writes {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.note(call, None);
                Ok(())
            }
            (Fault::Sync, Call::Sync(path)) => {
                for unsynced in &mut state.unsynced {
                    if let Unsynced::Write { path: own, clean, .. } = unsynced {
                        *clean |= own == path;
                    }
                }
                Err(io::Error::other("the disk is broken"))
            }
            (Fault::Sync | Fault::None, _) => {
                state.note(call, self.left_out);
                Ok(())
            }
            (Fault::Kill, _) => {
                state.crashed = true;
                died()
            }
        }
    }
}
