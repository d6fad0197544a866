//! What the standard library has no word for: room on a file system, renames that replace nothing,
//! pages that were read before.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Bytes that may still be written to the file system of a directory, where the system says so.
#[cfg(unix)]
pub(crate) fn free_bytes(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    // Some file systems do not count, and say zero blocks of zero.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Whether this process may remove a file, or rename another over it, as far as modes tell: in a sticky directory
/// that is for the owners alone.
#[cfg(unix)]
pub(crate) fn may_replace(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let home = fs::metadata(crate::disk::staged::parent(path));
    let (Ok(file), Ok(home)) = (fs::symlink_metadata(path), home) else { return true };
    may(rustix::process::geteuid().as_raw(), file.uid(), home.mode(), home.uid())
}

/// Whether whoever made a file could replace those of this process in the same directory. Where they could not, a
/// journal of theirs would have this process do it for them.
#[cfg(unix)]
pub(crate) fn is_of_an_equal(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let home = fs::metadata(crate::disk::staged::parent(path));
    let (Ok(file), Ok(home)) = (fs::symlink_metadata(path), home) else { return false };
    may(file.uid(), rustix::process::geteuid().as_raw(), home.mode(), home.uid())
}

/// Whether `who` may replace a file of `owner`, in a directory of this mode and owner.
#[cfg(unix)]
fn may(who: u32, owner: u32, mode: u32, home: u32) -> bool {
    const STICKY: u32 = 0o1000;
    mode & STICKY == 0 || [0, home, owner].contains(&who)
}

#[cfg(not(unix))]
pub(crate) fn may_replace(_: &Path) -> bool {
    true
}

#[cfg(not(unix))]
pub(crate) fn is_of_an_equal(_: &Path) -> bool {
    true
}

/// Whether so many files of a checkpoint are too many to be kept open: those of base, target and output
/// together would need more than the process may have.
pub(crate) fn is_crowded(files: usize) -> bool {
    open_files_max().is_some_and(|max| exceeds(files, max))
}

fn exceeds(files: usize, max: u64) -> bool {
    /// The patch, standard streams, what the caller has open.
    const OTHERS: usize = 32;
    files.saturating_mul(3).saturating_add(OTHERS) as u64 > max
}

#[cfg(unix)]
fn open_files_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn open_files_max() -> Option<u64> {
    None
}

/// Renames to a name that nothing has.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_new_by(from, to, rename_no_replace, |from, to| fs::hard_link(from, to))
}

/// The same, by what the file system can do.
fn rename_new_by(
    from: &Path,
    to: &Path,
    no_replace: fn(&Path, &Path) -> io::Result<()>,
    link: fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    match no_replace(from, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
        done => return done,
    }
    // exFAT, FUSE and others cannot. A second name cannot replace anything either.
    match link(from, to) {
        Ok(()) => return fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    // What is left is to look first.
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{renameat_with, RenameFlags, CWD};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_no_replace(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets go of what is cached of a file and was written back, so that the next read comes from the
/// disk: after a write that failed, the cache may hold what the disk does not.
pub(crate) fn drop_clean_pages(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    // Advice: where it is not taken, nothing else can be done.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let _ = file;
}

#[cfg(test)]
mod tests {
    use super::*;

    type Step = fn(&Path, &Path) -> io::Result<()>;

    /// Whatever the file system can do: the file gets the new name, or what has it stays.
    #[test]
    fn a_rename_replaces_nothing_on_any_file_system() {
        let cannot: Step = |_, _| Err(io::ErrorKind::Unsupported.into());
        let may_not: Step = |_, _| Err(io::ErrorKind::PermissionDenied.into());
        let link: Step = |from, to| fs::hard_link(from, to);
        for (no_replace, link) in [
            (rename_no_replace as Step, link),
            (cannot, link),
            (cannot, cannot),
            (cannot, may_not),
            (may_not, may_not),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
            fs::write(&from, "new").unwrap();
            fs::write(&to, "old").unwrap();
            let refused = rename_new_by(&from, &to, no_replace, link).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&to).unwrap(), b"old");
            assert_eq!(fs::read(&from).unwrap(), b"new");
            fs::remove_file(&to).unwrap();
            rename_new_by(&from, &to, no_replace, link).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"new");
            assert!(!from.exists());
        }
    }

    #[test]
    fn a_name_that_is_said_to_be_taken_is_taken() {
        let taken: Step = |_, _| Err(io::ErrorKind::AlreadyExists.into());
        let cannot: Step = |_, _| Err(io::ErrorKind::Unsupported.into());
        let rename: Step = |from, to| fs::rename(from, to);
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
        fs::write(&from, "new").unwrap();
        for (no_replace, link) in [(taken, rename), (cannot, taken)] {
            let refused = rename_new_by(&from, &to, no_replace, link).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert!(from.exists() && !to.exists());
        }
    }

    #[test]
    fn files_are_too_many_where_three_of_each_exceed_the_limit() {
        assert!(
            !exceeds(0, 32) && exceeds(1, 34) && !exceeds(1, 35) && exceeds(usize::MAX, 1 << 20)
        );
        #[cfg(target_os = "linux")]
        {
            let max = open_files_max().expect("a limit");
            assert_eq!((is_crowded(1), is_crowded(max as usize)), (max < 35, true));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn room_is_known_where_the_file_system_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).is_some_and(|bytes| bytes > 0));
        assert_eq!(free_bytes(Path::new("/proc")), None);
        assert_eq!(free_bytes(&dir.path().join("nowhere")), None);
    }

    /// In /tmp everyone may leave a journal, and only the owner of a file may replace it.
    #[test]
    #[cfg(unix)]
    fn in_a_sticky_directory_owners_alone_may_replace() {
        let (root, me, other) = (0, 1000, 1001);
        for (who, owner, mode, home, is_allowed) in [
            (me, me, 0o41777, root, true),
            (me, other, 0o41777, root, false),
            (other, root, 0o41777, root, false),
            (root, other, 0o41777, other, true),
            (me, other, 0o41777, me, true),
            (me, other, 0o40777, root, true),
        ] {
            assert_eq!(may(who, owner, mode, home), is_allowed, "{who} {owner} {mode:o} {home}");
        }
    }

    #[test]
    fn a_new_name_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let error = rename_new(&a, &b).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"a".into(), b"b".into()));
        rename_new(&a, &c).unwrap();
        assert!(!a.exists());
        assert_eq!(fs::read(&c).unwrap(), b"a");
    }
}
