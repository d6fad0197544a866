//! The files of a checkpoint as records of a patch.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::checkpoint::checkpoint::Companion;
use crate::checkpoint::safetensors::CarriedHeaders;
use crate::checkpoint::Checkpoint;
use crate::error::{Change, Error, Result};
use crate::hash::Sha;
use crate::stream::Session;
use crate::tensors::Carried;
use crate::wire::{FileContent, FileKind, FileRecord, FileState, FILE_DATA_BYTES};

/// Writes a record for each file of the target, and the bytes that the base does not have, and one
/// for each companion that only the base has; gives back the companions that are carried.
pub(crate) fn write_files<W: Write>(
    session: &mut Session<W>,
    base: Option<&Checkpoint>,
    target: &Checkpoint,
) -> Result<(Vec<Carried>, Vec<String>)> {
    let mut headers = CarriedHeaders::default();
    for file in &target.files {
        let header = &file.header.bytes;
        let same = base
            .and_then(|base| base.file(&file.name))
            .is_some_and(|base| base.header.bytes == *header);
        if !same {
            headers
                .add(header.len() as u64)
                .map_err(|fault| Error::bad_file(target.path(), fault))?;
        }
        write_header(session, &file.name, header, same)?;
    }
    let mut carried = Vec::new();
    let removed: Vec<&Companion> = removed(base, target).collect();
    let names = removed.iter().map(|gone| gone.name.clone()).collect();
    let mut removed = removed.into_iter().peekable();
    for companion in &target.companions {
        while let Some(gone) = removed.next_if(|gone| gone.name < companion.name) {
            write_removed(session, gone)?;
        }
        let content = hash_file(&companion.path)?;
        let state = match base.and_then(|base| base.companion(&companion.name)) {
            None => FileState::New,
            Some(base) => match hash_file(&base.path)? {
                base if base == content => FileState::Kept,
                base => FileState::Replaced(base),
            },
        };
        let FileContent { bytes, sha256 } = content;
        session.file(&FileRecord::new(&companion.name, FileKind::Companion, state, content))?;
        if state.is_carried() {
            // Hashed again as it is written: it may change between the two.
            let mut sha = Sha::default();
            let read = for_each_chunk(&companion.path, |chunk| {
                sha.update(chunk);
                session.file_data(chunk)
            })?;
            let how = if read != bytes {
                Some(Change::Resized { expected: bytes, found: read })
            } else {
                (sha.finish() != sha256).then_some(Change::Written)
            };
            if let Some(how) = how {
                return Err(Error::Changed { path: companion.path.clone(), how });
            }
            carried.push(Carried { name: companion.name.clone(), bytes });
        }
    }
    removed.try_for_each(|gone| write_removed(session, gone))?;
    Ok((carried, names))
}

/// The companions of the base that a target does not have. One that is there and only left out says
/// nothing of the base's.
fn removed<'a>(
    base: Option<&'a Checkpoint>,
    target: &'a Checkpoint,
) -> impl Iterator<Item = &'a Companion> {
    let found = base.filter(|_| target.is_directory).into_iter().flat_map(|base| &base.companions);
    found.filter(|companion| !target.has_file(&companion.name))
}

fn write_removed<W: Write>(session: &mut Session<W>, companion: &Companion) -> Result<()> {
    let (kind, content) = (FileKind::Companion, hash_file(&companion.path)?);
    session.file(&FileRecord::new(&companion.name, kind, FileState::Removed, content))
}

/// Writes the record of a tensor file, and its header unless the base has the same.
pub(crate) fn write_header<W: Write>(
    session: &mut Session<W>,
    name: &str,
    header: &[u8],
    same: bool,
) -> Result<()> {
    let state = if same { FileState::Kept } else { FileState::New };
    session.file(&FileRecord::new(name, FileKind::Tensors, state, FileContent::of(header)))?;
    if same {
        Ok(())
    } else {
        header.chunks(FILE_DATA_BYTES).try_for_each(|chunk| session.file_data(chunk))
    }
}

/// Size and SHA-256 of a file.
pub(crate) fn hash_file(path: &Path) -> Result<FileContent> {
    let mut sha = Sha::default();
    let bytes = for_each_chunk(path, |chunk| {
        sha.update(chunk);
        Ok(())
    })?;
    Ok(FileContent { bytes, sha256: sha.finish() })
}

/// Reads a file in chunks that fit a data section; gives back its size.
pub(crate) fn for_each_chunk(
    path: &Path,
    mut found: impl FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let io = |error| Error::io_at("reading", path, error);
    let mut file = File::open(path).map_err(io)?;
    let mut chunk = Vec::with_capacity(FILE_DATA_BYTES);
    let mut bytes = 0;
    loop {
        chunk.clear();
        (&mut file).take(FILE_DATA_BYTES as u64).read_to_end(&mut chunk).map_err(io)?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        bytes += chunk.len() as u64;
        found(&chunk)?;
    }
}
