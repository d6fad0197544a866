//! The files of a checkpoint as records of a patch.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::checkpoint::safetensors::CarriedHeaders;
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::error::{Change, Error, Result};
use crate::hash::Sha;
use crate::stream::Session;
use crate::tensors::Carried;
use crate::wire::{FileKind, FileRecord, FileSource, FILE_DATA_BYTES};

/// Writes a record for each file of the target, and the bytes that the base does not have; gives
/// back the companions that are carried.
pub(crate) fn write_files<W: Write>(
    session: &mut Session<W>,
    base: Option<&Checkpoint>,
    target: &Checkpoint,
) -> Result<Vec<Carried>> {
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
    for companion in &target.companions {
        let (sha256, bytes) = hash_file(&companion.path)?;
        let same = match base.and_then(|base| base.companion(&companion.name)) {
            Some(base) => base.bytes == bytes && hash_file(&base.path)?.0 == sha256,
            None => false,
        };
        let source = if same { FileSource::Base } else { FileSource::Patch };
        let name = companion.name.clone();
        session.file(&FileRecord { name, kind: FileKind::Companion, source, bytes, sha256 })?;
        if !same {
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
    Ok(carried)
}

/// Writes the record of a tensor file, and its header unless the base has the same.
pub(crate) fn write_header<W: Write>(
    session: &mut Session<W>,
    name: &str,
    header: &[u8],
    same: bool,
) -> Result<()> {
    let source = if same { FileSource::Base } else { FileSource::Patch };
    let (name, bytes, sha256) = (name.into(), header.len() as u64, Sha::of(&[header]));
    session.file(&FileRecord { name, kind: FileKind::Tensors, source, bytes, sha256 })?;
    if same {
        Ok(())
    } else {
        header.chunks(FILE_DATA_BYTES).try_for_each(|chunk| session.file_data(chunk))
    }
}

/// SHA-256 and size of a file.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64)> {
    let mut sha = Sha::default();
    let bytes = for_each_chunk(path, |chunk| {
        sha.update(chunk);
        Ok(())
    })?;
    Ok((sha.finish(), bytes))
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
