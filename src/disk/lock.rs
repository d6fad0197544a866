//! Who may change a checkpoint, and who may read it: locks on the tensor files themselves, whatever
//! their names, or, on a file system without locks, a file beside them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::mark::PREFIX;
use crate::disk::staged::failed;
use crate::disk::system::rename_new;
use crate::disk::{Call, Disk};
use crate::error::{Error, Result};

/// What a process does with a file that it has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Others may read it too.
    Read,
    /// Nobody else.
    Change,
}

/// Whether a file was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    Yes,
    /// Another process has it.
    Busy,
    /// The file system has no locks.
    Unsupported,
}

/// Locks an open file until it is closed; the system takes the lock from a process that dies.
pub(crate) fn try_lock(file: &File, access: Access) -> io::Result<Locked> {
    told(match access {
        Access::Read => file.try_lock_shared(),
        Access::Change => file.try_lock(),
    })
}

/// What the answer of the system means.
fn told(answer: Result<(), TryLockError>) -> io::Result<Locked> {
    match answer {
        Ok(()) => Ok(Locked::Yes),
        Err(TryLockError::WouldBlock) => Ok(Locked::Busy),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(Locked::Unsupported),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

const LOCK: &str = "pulse-update-lock";

/// Held in a directory whose file system has no locks, while a checkpoint there is changed.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
}

impl LockFile {
    /// Takes the place of a process of this machine that is gone; any other keeps it.
    pub fn take(directory: &Path, disk: &Disk) -> Result<Self> {
        let path = directory.join(LOCK);
        let holder = Holder::own();
        for _ in 0..2 {
            disk.before(Call::Create(&path)).map_err(failed("creating", &path))?;
            // It has its name when it says whose it is: of an empty one nobody could tell.
            let own = directory.join(format!("{PREFIX}lock-by-{}", holder.process));
            fs::write(&own, holder.to_text()).map_err(failed("writing", &own))?;
            let taken = rename_new(&own, &path);
            if taken.is_err() {
                let _ = fs::remove_file(&own);
            }
            match taken {
                Ok(()) => return Ok(LockFile { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("creating", &path)(error)),
            }
            let busy = || Err(Error::Busy { path: path.clone() });
            let Some(found) = Holder::read(&path) else { return busy() };
            if !found.is_gone(&holder) {
                return busy();
            }
            // Taken away by a name of its own, and looked at again: of two who find it, one wins.
            let away = directory.join(format!("{PREFIX}lock-of-{}", found.process));
            if fs::rename(&path, &away).is_ok() {
                let moved = Holder::read(&away);
                if moved.as_ref() != Some(&found) {
                    let _ = rename_new(&away, &path);
                    return busy();
                }
                let _ = fs::remove_file(&away);
            }
        }
        Err(Error::Busy { path })
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // If it stays, the next one finds that this process is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// A process, told from all others of the past too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    host: String,
    boot: String,
    process: u32,
    started: String,
}

impl Holder {
    fn own() -> Self {
        let process = std::process::id();
        Holder {
            host: first_line("/proc/sys/kernel/hostname"),
            boot: first_line("/proc/sys/kernel/random/boot_id"),
            process,
            started: started(process),
        }
    }

    fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n{}\n", self.host, self.boot, self.process, self.started)
    }

    fn read(path: &Path) -> Option<Self> {
        // Opening a pipe would wait for a writer.
        fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines().map(str::to_string);
        let mut next = || lines.next();
        let (host, boot, process) = (next()?, next()?, next()?.parse().ok()?);
        Some(Holder { host, boot, process, started: next()? })
    }

    /// Whether this process is known to be gone, as another one sees it.
    fn is_gone(&self, own: &Holder) -> bool {
        let known = !own.host.is_empty() && !own.boot.is_empty() && self.host == own.host;
        known && (self.boot != own.boot || started(self.process) != self.started)
    }
}

/// Empty where the system has no such file.
fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}

/// When a process started, in the words of the system; empty if there is none.
fn started(process: u32) -> String {
    // The name of the program, in parentheses, may hold anything.
    let stat = first_line(&format!("/proc/{process}/stat"));
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(19).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_by_many_or_changed_by_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let [one, two] = [(); 2].map(|()| File::open(file.path()).unwrap());
        assert_eq!(try_lock(&one, Access::Read).unwrap(), Locked::Yes);
        assert_eq!(try_lock(&two, Access::Read).unwrap(), Locked::Yes);
        drop(one);
        let one = File::open(file.path()).unwrap();
        assert_eq!(try_lock(&one, Access::Change).unwrap(), Locked::Busy);
        drop(two);
        assert_eq!(try_lock(&one, Access::Change).unwrap(), Locked::Yes);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_system_without_locks_is_told_from_one_that_fails() {
        let answer = |error: io::Error| told(Err(TryLockError::Error(error)));
        let no_locks = rustix::io::Errno::NOLCK.raw_os_error();
        assert_eq!(answer(io::Error::from_raw_os_error(no_locks)).unwrap(), Locked::Unsupported);
        assert_eq!(answer(io::ErrorKind::Unsupported.into()).unwrap(), Locked::Unsupported);
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::Other] {
            assert_eq!(answer(kind.into()).unwrap_err().kind(), kind);
        }
        assert_eq!(told(Err(TryLockError::WouldBlock)).unwrap(), Locked::Busy);
        assert_eq!(told(Ok(())).unwrap(), Locked::Yes);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_gone_only_for_those_who_can_tell() {
        let own = Holder::own();
        let gone = Holder { started: "1".into(), ..own.clone() };
        assert!(gone.is_gone(&own) && !own.is_gone(&own));
        // Without a name of the machine, or of its start, all machines look alike.
        for unknown in [
            Holder { host: String::new(), ..own.clone() },
            Holder { boot: String::new(), ..own.clone() },
        ] {
            let gone = Holder { started: "1".into(), ..unknown.clone() };
            assert!(!gone.is_gone(&unknown));
        }
        assert_eq!(started(u32::MAX), "");
        assert!(own.started.bytes().all(|digit| digit.is_ascii_digit()), "{own:?}");
    }

    #[test]
    fn a_lock_file_that_cannot_be_made_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("nowhere");
        assert_eq!(LockFile::take(&nowhere, &Disk::default()).unwrap_err().kind(), "io");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_lock_file_goes_to_the_next_only_when_its_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::default(), dir.path().join("pulse-update-lock"));
        let take = || LockFile::take(dir.path(), &disk);
        let held = take().unwrap();
        assert!(path.exists());
        assert_eq!(take().unwrap_err().kind(), "busy");
        drop(held);
        assert!(!path.exists());

        let own = Holder::own();
        assert!(!own.started.is_empty());
        let leave = |holder: &Holder| fs::write(&path, holder.to_text()).unwrap();
        // Another program has its number now, or the machine was started again.
        for gone in [
            Holder { started: "1".into(), ..own.clone() },
            Holder { boot: "before".into(), ..own.clone() },
        ] {
            leave(&gone);
            drop(take().unwrap());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        // Nobody can tell of another machine, nor what half a file means.
        leave(&Holder { host: "elsewhere".into(), started: "1".into(), ..own });
        assert_eq!(take().unwrap_err().kind(), "busy");
        fs::write(&path, "half").unwrap();
        assert_eq!(take().unwrap_err().kind(), "busy");
    }
}
