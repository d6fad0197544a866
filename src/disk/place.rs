//! Where an output goes: what it may replace, and what it must not.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::staged::{failed, parent};
use crate::disk::stamp::Identity;
use crate::error::{Error, FileFault, Occupant, Result};

/// What may happen to a file that is at the place of the output already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// It stays, and the work is refused before it begins.
    #[default]
    Refuse,
    /// A regular file is replaced by the output, whole; mode and owner stay. Nothing else ever is.
    Replace,
}

/// A place for an output, and what is there.
#[derive(Debug)]
pub(crate) struct Place {
    /// The name that the output takes: the one given, or what it leads to if it is a link.
    pub path: PathBuf,
    existing: Existing,
    inputs: Vec<PathBuf>,
    taken: Option<Metadata>,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    File,
    Directory,
}

impl Shape {
    /// That of a checkpoint.
    pub fn of(is_directory: bool) -> Self {
        if is_directory {
            Shape::Directory
        } else {
            Shape::File
        }
    }
}

impl Place {
    /// Looks at a place, and refuses it if the output would destroy something there. `inputs` are
    /// files and directories that are read for the output.
    pub fn find(path: &Path, shape: Shape, existing: Existing, inputs: &[&Path]) -> Result<Self> {
        let refuse = |found| Err(Error::Exists { path: path.into(), found });
        let owned = || inputs.iter().map(|input| input.to_path_buf()).collect();
        let is_of_a_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if shape == Shape::File && is_of_a_directory && !path.is_dir() {
            let what = "a file is to be written, and this is the name of a directory".into();
            return Err(Error::bad_file(path, FileFault::Refused(what)));
        }
        let named = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Place { path: path.into(), existing, inputs: owned(), taken: None })
            }
            named => named.map_err(failed("looking at", path))?,
        };
        let found = match fs::metadata(path) {
            // A link whose target is gone: nobody can tell what would take its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return refuse(Occupant::Link),
            found => found.map_err(failed("looking at", path))?,
        };
        let is_in_the_way = match shape {
            Shape::File => !found.is_dir(),
            Shape::Directory => found.is_file(),
        };
        // First of all, so that nobody is told to remove it.
        if is_input(&found, path, inputs) || is_in_the_way && is_below_input(&found, path, inputs) {
            return refuse(Occupant::Input);
        }
        match shape {
            Shape::File if found.is_file() => {
                if existing == Existing::Refuse {
                    return refuse(Occupant::File);
                }
            }
            Shape::Directory if found.is_dir() => {
                let mut entries = fs::read_dir(path).map_err(failed("listing", path))?;
                if entries.next().is_some() {
                    return refuse(Occupant::Directory);
                }
            }
            _ if found.is_dir() => return refuse(Occupant::Directory),
            _ if found.is_file() => return refuse(Occupant::File),
            _ => return refuse(Occupant::Special),
        }
        // Of `.` nothing could be beside.
        let path = if named.is_symlink() || path.file_name().is_none() {
            fs::canonicalize(path).map_err(failed("following", path))?
        } else {
            path.into()
        };
        Ok(Place { path, existing, inputs: owned(), taken: Some(found) })
    }

    /// The directory in which the output is staged: the one of its place, so that it can be renamed.
    pub fn parent(&self) -> &Path {
        parent(&self.path)
    }

    /// Looks again, right before the output takes its name: what is there must be what was there.
    pub fn check(&self, shape: Shape) -> Result<()> {
        let inputs: Vec<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        let now = Self::find(&self.path, shape, self.existing, &inputs)?;
        let same = match (&self.taken, &now.taken) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(then), Some(now)) => cfg!(not(unix)) || Identity::of(then).is(&Identity::of(now)),
        };
        let found = if shape == Shape::File { Occupant::File } else { Occupant::Directory };
        if same {
            Ok(())
        } else {
            Err(Error::Exists { path: self.path.clone(), found })
        }
    }

    /// The mode to create with: what replaces something is private until it has the mode of that.
    pub fn new_mode(&self, ordinary: u32) -> u32 {
        match self.taken {
            Some(_) => ordinary & 0o700,
            None => ordinary,
        }
    }

    /// Gives what is staged the mode and the owner of what it replaces. `needs` are bits that the
    /// mode must have for now.
    pub fn keep_access(&self, staged: &File, needs: u32) -> Result<()> {
        match &self.taken {
            Some(taken) => keep_access(&self.path, taken, staged, needs)
                .map_err(failed("setting the mode of", &self.path)),
            None => Ok(()),
        }
    }
}

/// Opens a pipe or a character device, into which a file can be written as it is made.
pub(crate) fn stream(path: &Path) -> Result<Option<File>> {
    match fs::metadata(path) {
        Ok(found) if is_stream(&found) => {
            OpenOptions::new().write(true).open(path).map(Some).map_err(failed("opening", path))
        }
        _ => Ok(None),
    }
}

/// Whether what was found is one of the inputs.
fn is_input(found: &Metadata, path: &Path, inputs: &[&Path]) -> bool {
    let is_it = is_at(found, path);
    inputs.iter().any(|input| is_it(input))
}

/// Whether it is in a directory that is one, at whatever depth.
fn is_below_input(found: &Metadata, path: &Path, inputs: &[&Path]) -> bool {
    let is_it = is_at(found, path);
    let mut directories: Vec<PathBuf> = inputs.iter().map(|input| input.to_path_buf()).collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if is_it(&entry.path()) {
                return true;
            }
            // What a link in it leads to is a file at most.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
    }
    false
}

/// Whether another path leads to what was found at this one.
fn is_at(found: &Metadata, path: &Path) -> impl Fn(&Path) -> bool {
    let identity = Identity::of(found);
    let canonical = fs::canonicalize(path).ok();
    move |other| {
        let metadata = fs::metadata(other);
        metadata.is_ok_and(|metadata| Identity::of(&metadata).is(&identity))
            || canonical.is_some() && fs::canonicalize(other).ok() == canonical
    }
}

#[cfg(unix)]
fn is_stream(found: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.file_type().is_fifo() || found.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_stream(_: &Metadata) -> bool {
    false
}

/// Gives a new file the mode, the owner and the access list of another. By the open file, not by its name, which
/// may lead elsewhere by now.
#[cfg(unix)]
pub(crate) fn keep_access(
    path: &Path,
    taken: &Metadata,
    staged: &File,
    needs: u32,
) -> io::Result<()> {
    use std::os::unix::fs::{fchown, MetadataExt, PermissionsExt};
    // Bits that give rights to whoever runs a file are not for bytes that came from elsewhere.
    let mut mode = taken.mode() & if taken.is_dir() { 0o3777 } else { 0o777 };
    let owners = |metadata: Metadata| (metadata.uid(), metadata.gid());
    let mut now = owners(staged.metadata()?);
    if now != owners(taken.clone()) {
        // Not everyone may give files away. Some may at least give them to the group.
        let given = fchown(staged, Some(taken.uid()), Some(taken.gid()))
            .or_else(|_| fchown(staged, None, Some(taken.gid())));
        if given.is_ok() {
            now = owners(staged.metadata()?);
        }
    }
    if now.1 != taken.gid() {
        mode = for_another_group(mode);
    }
    let set = |mode: u32| staged.set_permissions(fs::Permissions::from_mode(mode | needs));
    let Some(list) = access_list(path) else { return set(mode) };
    set(without_list(mode))?;
    if now == owners(taken.clone()) && set_access_list(staged, &list) {
        set(mode)?;
    }
    Ok(())
}

/// The mode of a file whose group is another one, which may do no more than everyone.
#[cfg(unix)]
fn for_another_group(mode: u32) -> u32 {
    mode & (0o3707 | (mode & 0o7) << 3)
}

/// The mode of a file whose access list cannot be kept: beside it the group's bits say what the list allows at most, not
/// what the group may.
#[cfg(unix)]
fn without_list(mode: u32) -> u32 {
    mode & !0o070
}

/// The access list of a file, where it has one.
#[cfg(target_os = "linux")]
fn access_list(path: &Path) -> Option<Vec<u8>> {
    /// As large as the system allows for any attribute.
    const BYTES_MAX: usize = 1 << 16;
    let mut list = vec![0; BYTES_MAX];
    let bytes = rustix::fs::getxattr(path, ACCESS_LIST, &mut list).ok()?;
    list.truncate(bytes);
    Some(list)
}

#[cfg(target_os = "linux")]
const ACCESS_LIST: &str = "system.posix_acl_access";

/// Whether the list is the file's now.
#[cfg(target_os = "linux")]
fn set_access_list(file: &File, list: &[u8]) -> bool {
    rustix::fs::fsetxattr(file, ACCESS_LIST, list, rustix::fs::XattrFlags::empty()).is_ok()
}

#[cfg(all(unix, not(target_os = "linux")))]
fn access_list(_: &Path) -> Option<Vec<u8>> {
    None
}

#[cfg(all(unix, not(target_os = "linux")))]
fn set_access_list(_: &File, _: &[u8]) -> bool {
    false
}

#[cfg(not(unix))]
pub(crate) fn keep_access(_: &Path, taken: &Metadata, staged: &File, _: u32) -> io::Result<()> {
    if taken.is_dir() {
        return Ok(());
    }
    staged.set_permissions(taken.permissions())
}

/// Gives a new file the owner of another, and the rights that both `allowed` and the mode of that other
/// have; gives those back.
#[cfg(unix)]
pub(crate) fn lessen_access(
    path: &Path,
    taken: &Metadata,
    file: &File,
    allowed: u32,
) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    // Of two lists nobody can tell the lesser: then it is for the owner alone.
    let allowed = if access_list(path).is_some() { allowed & 0o600 } else { allowed };
    keep_access(path, taken, file, 0)?;
    let now = file.metadata()?.permissions().mode() & allowed;
    file.set_permissions(fs::Permissions::from_mode(now))?;
    Ok(now)
}

#[cfg(not(unix))]
pub(crate) fn lessen_access(_: &Path, _: &Metadata, _: &File, allowed: u32) -> io::Result<u32> {
    Ok(allowed)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::fs::{setxattr, XattrFlags};
    use std::os::unix::fs::PermissionsExt;

    /// Version 2; for each entry what it is, what it allows, whose it is.
    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, allows, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &allows.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [2u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    /// Beside an access list the bits of the group are its mask: alone they would give the group what the list
    /// does not.
    #[test]
    fn what_replaces_a_file_with_an_access_list_may_be_read_by_nobody_else() {
        const NOBODY: u32 = u32::MAX;
        // Owner rw, user 1234 r, group nothing, mask r, others nothing.
        let acl = list(&[
            (0x01, 6, NOBODY),
            (0x02, 4, 1234),
            (0x04, 0, NOBODY),
            (0x10, 4, NOBODY),
            (0x20, 0, NOBODY),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let has_lists = setxattr(&path, ACCESS_LIST, &acl, XattrFlags::empty()).is_ok();
        let before = access_list(&path);
        assert_eq!(before.is_some(), has_lists);
        crate::disk::staged::write_whole(&path, Existing::Replace, &[], |file| {
            file.write_all(b"new").map_err(|error| Error::io_at("writing", Path::new("out"), error))
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(access_list(&path), before);

        // A journal beside it is for the owner alone.
        let journal = dir.path().join("journal");
        let file = File::create(&journal).unwrap();
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o600)).unwrap();
        lessen_access(&path, &fs::metadata(&path).unwrap(), &file, 0o666).unwrap();
        let mode = fs::metadata(&journal).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if has_lists { 0o600 } else { 0o640 });
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_replaces_a_file_is_private_until_it_is_whole_and_then_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "old").unwrap();
        for kept in [0o640, 0o444, 0o600] {
            set_mode(&path, kept);
            crate::disk::staged::write_whole(&path, Existing::Replace, &[], |_| {
                let entries = fs::read_dir(dir.path()).unwrap();
                let mut modes: Vec<u32> =
                    entries.map(|entry| mode(&entry.unwrap().path())).collect();
                modes.sort_unstable();
                let mut expected = [kept, 0o600];
                expected.sort_unstable();
                assert_eq!(modes, expected);
                Ok(())
            })
            .unwrap();
            assert_eq!(mode(&path), kept);
        }
    }

    #[test]
    fn a_mode_that_is_needed_for_now_is_added_to_the_one_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (taken, made) = (dir.path().join("taken"), dir.path().join("made"));
        let file = File::create(&made).unwrap();
        fs::write(&taken, "").unwrap();
        for (kept, needs, expected) in
            [(0o640, 0, 0o640), (0o750, 0o700, 0o750), (0o050, 0o700, 0o750), (0o4755, 0, 0o755)]
        {
            set_mode(&taken, kept);
            keep_access(&taken, &fs::metadata(&taken).unwrap(), &file, needs).unwrap();
            assert_eq!(mode(&made), expected, "{kept:o} and {needs:o}");
        }
    }

    #[test]
    fn a_journal_may_be_read_by_those_who_may_read_what_it_is_of_and_by_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (path, journal) = (dir.path().join("model"), dir.path().join("journal"));
        fs::write(&path, "").unwrap();
        let file = File::create(&journal).unwrap();
        for (model, allowed, expected) in [
            (0o640, 0o666, 0o640),
            (0o755, 0o666, 0o644),
            (0o644, 0o640, 0o640),
            (0o644, 0o600, 0o600),
            (0o600, 0o644, 0o600),
        ] {
            set_mode(&path, model);
            set_mode(&journal, 0o600);
            let taken = fs::metadata(&path).unwrap();
            assert_eq!(lessen_access(&path, &taken, &file, allowed).unwrap(), expected);
            assert_eq!(mode(&journal), expected, "{model:o} of {allowed:o}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_looked_at_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let find = |path: &Path| Place::find(path, Shape::File, Existing::Replace, &[]);
        assert!(find(&directory.path().join("new")).is_ok());
        let below_a_file = find(&file.join("new")).map(|_| ()).unwrap_err();
        assert_eq!(below_a_file.kind(), "io");
        // A link to nowhere is told from one that leads around.
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_eq!(find(&link).map(|_| ()).unwrap_err().kind(), "exists");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("link", &link).unwrap();
        assert_eq!(find(&link).map(|_| ()).unwrap_err().kind(), "io");
    }

    #[test]
    #[cfg(unix)]
    fn another_group_may_do_no_more_than_everyone() {
        for (mode, expected) in
            [(0o640, 0o600), (0o664, 0o644), (0o755, 0o755), (0o770, 0o700), (0o3775, 0o3755)]
        {
            assert_eq!(for_another_group(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn without_its_list_the_group_may_do_nothing() {
        for (mode, expected) in [(0o640, 0o600), (0o664, 0o604), (0o1775, 0o1705)] {
            assert_eq!(without_list(mode), expected, "{mode:o}");
        }
    }
}
