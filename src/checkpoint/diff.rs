//! Two checkpoints to a patch.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::checkpoint::pieces::{for_each_piece, pairs, Buffers, Pair, Piece};
use crate::checkpoint::pipeline::Parallel;
use crate::checkpoint::safetensors::CARRIED_HEADERS_MAX;
use crate::checkpoint::source::Checkpoint;
use crate::checkpoint::tensors::TensorSource;
use crate::coding::{self, EncodedBlock};
use crate::digest::{digest_leaves, Digest, Sha, LEAF_BYTES};
use crate::error::{Error, Result};
use crate::stream::{EncoderOptions, Session, Summary};
use crate::wire::{Action, FileKind, FileRecord, FileSource, FILE_DATA_BYTES};

/// What a diff found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiffReport {
    /// Size, totals and digests of the patch.
    pub summary: Summary,
    /// Tensors by what happens to them; those that are not counted here did not change.
    pub actions: BTreeMap<Action, u64>,
    /// Size of the target's files: what a full copy would transfer.
    pub target_file_bytes: u64,
}

/// Writes the patch that leads from `base` to `target`; without a base, a snapshot.
///
/// The bytes depend on the checkpoints and the options only, not on the number of threads.
///
/// # Errors
/// [`Error::Misuse`] for options that readers would refuse, [`Error::Io`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let write = |name: &str, data: &[u8; 3]| {
/// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// #     let path = dir.path().join(name);
/// #     std::fs::write(&path, [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
/// #     path
/// # };
/// # let (base, target, out) = (write("base", b"abc"), write("target", b"abd"), dir.path().join("out"));
/// use pulse::{apply, diff, Checkpoint, EncoderOptions, Limits, Parallel, PatchFile};
/// let (base, target) = (Checkpoint::open(&base)?, Checkpoint::open(&target)?);
/// let patch_path = dir.path().join("step.pulse");
/// let file = std::fs::File::create(&patch_path).unwrap();
/// let (_, report) = diff(Some(&base), &target, file, EncoderOptions::default(), Parallel::default())?;
/// assert_eq!(report.summary.footer.changes, 1);
///
/// let patch = PatchFile::open(&patch_path, &Limits::default())?;
/// apply(Some(&base), &patch, &out, Default::default(), Parallel::default())?;
/// assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(target.path()).unwrap());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn diff<W: Write>(
    base: Option<&Checkpoint>,
    target: &Checkpoint,
    out: W,
    options: EncoderOptions,
    parallel: Parallel<'_>,
) -> Result<(W, DiffReport)> {
    let options = EncoderOptions { snapshot: base.is_none(), ..options };
    let mut session = Session::new(out, options)?;
    // What a reader would refuse in a name is not the caller's fault here.
    let refuse = |error| match error {
        Error::Misuse(what) => Error::checkpoint(target.path(), what),
        other => other,
    };
    write_files(&mut session, base, target).map_err(refuse)?;

    let base = base.map(|base| base as &dyn TensorSource);
    let actions = encode_tensors(&mut session, base, target, parallel).map_err(refuse)?;
    let (out, summary) = session.finish()?;
    Ok((out, DiffReport { summary, actions, target_file_bytes: target.file_bytes() }))
}

/// Writes the patch that leads from `base` to `target`, which may be anywhere: in memory, or where
/// a [`TensorSource`] of the caller has them. It carries tensors only, no files.
///
/// # Errors
/// As [`diff`].
///
/// ```
/// use std::collections::BTreeMap;
/// use pulse::{diff_tensors, Dtype, EncoderOptions, Parallel, TensorRef, TensorSpec};
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let base = BTreeMap::from([("w".to_string(), TensorRef::new(spec.clone(), b"abc")?)]);
/// let target = BTreeMap::from([("w".to_string(), TensorRef::new(spec, b"abd")?)]);
/// let options = EncoderOptions::default();
/// let (patch, report) = diff_tensors(Some(&base), &target, Vec::new(), options, Parallel::default())?;
/// assert_eq!(report.summary.footer.changes, 1);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn diff_tensors<W: Write>(
    base: Option<&dyn TensorSource>,
    target: &dyn TensorSource,
    out: W,
    options: EncoderOptions,
    parallel: Parallel<'_>,
) -> Result<(W, DiffReport)> {
    let options = EncoderOptions { snapshot: base.is_none(), ..options };
    let mut session = Session::new(out, options)?;
    let actions = encode_tensors(&mut session, base, target, parallel)?;
    let (out, summary) = session.finish()?;
    Ok((out, DiffReport { summary, actions, target_file_bytes: summary.footer.target_bytes }))
}

/// Encodes all tensors in parallel and tells the session of them in the order of their names.
pub(crate) fn encode_tensors<W: Write>(
    session: &mut Session<W>,
    base: Option<&dyn TensorSource>,
    target: &dyn TensorSource,
    parallel: Parallel<'_>,
) -> Result<BTreeMap<Action, u64>> {
    let options = session.options.clone();
    let pairs = pairs(base, Some(target));
    let mut actions = BTreeMap::new();
    let work = |own: &mut Encoding, group: &[Piece<'_>]| own.encode(group, base, target, &options);
    for_each_piece(&pairs, options.block_bytes(), parallel, Encoding::default, work, |piece, done: Encoded| {
        if piece.first {
            session.begin(piece.pair.name, piece.pair.base, piece.pair.target)?;
        }
        let open = session.open()?;
        done.base_leaves.iter().for_each(|leaf| open.base.push_leaf(leaf));
        done.target_leaves.iter().for_each(|leaf| open.target.push_leaf(leaf));
        if !done.target_leaves.is_empty() {
            session.block(done.target_leaves.len() as u64, done.block.as_ref())?;
        }
        if piece.last {
            let outcome = session.end()?;
            if outcome.written {
                *actions.entry(outcome.action).or_default() += 1;
            }
        }
        Ok(())
    })?;
    Ok(actions)
}

/// What a thread keeps while it encodes pieces.
#[derive(Debug, Default)]
struct Encoding {
    buffers: Buffers,
    scratch: coding::Scratch,
}

/// What became of a piece.
#[derive(Debug)]
struct Encoded {
    /// Empty if the digest of the base tensor is taken on trust.
    base_leaves: Vec<Digest>,
    target_leaves: Vec<Digest>,
    /// Absent if nothing changed, or if there is no target.
    block: Option<EncodedBlock>,
}

impl Encoding {
    fn encode(
        &mut self,
        group: &[Piece<'_>],
        base: Option<&dyn TensorSource>,
        target: &dyn TensorSource,
        options: &EncoderOptions,
    ) -> Result<Vec<Encoded>> {
        let (bases, targets) = self.buffers.read(group, base, Some(target))?;
        // All leaves of the group are hashed in one batch.
        let mut batch = Batch::default();
        let mut encoded = Vec::with_capacity(group.len());
        for ((piece, base), target) in group.iter().zip(bases).zip(targets) {
            let Pair { name, base: base_spec, target: target_spec } = piece.pair;
            let block = match (base_spec, target_spec) {
                (_, None) => None,
                (Some(base_spec), Some(spec)) if base_spec == spec => {
                    coding::encode(spec.dtype(), options.choice(), base, target, &mut self.scratch)
                }
                (_, Some(_)) if target.is_empty() => None,
                (_, Some(spec)) => Some(coding::encode_whole(spec.dtype(), options.choice(), target)),
            };
            let trusted = options.trusted_digest(name).is_some();
            encoded.push((batch.add(base, target, trusted), block));
        }
        let digests = digest_leaves(&batch.leaves);
        let at = |places: Vec<usize>| places.into_iter().map(|place| digests[place]).collect();
        let finish = |((base, target), block): ((Vec<usize>, Vec<usize>), _)| Encoded {
            base_leaves: at(base),
            target_leaves: at(target),
            block,
        };
        Ok(encoded.into_iter().map(finish).collect())
    }
}

/// Leaves to hash at once.
#[derive(Debug, Default)]
struct Batch<'a> {
    leaves: Vec<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Adds the leaves of both sides; gives back where in the batch those of each are. A target
    /// leaf that equals its base leaf has the same digest and is not hashed again.
    fn add(&mut self, base: &'a [u8], target: &'a [u8], base_trusted: bool) -> (Vec<usize>, Vec<usize>) {
        let first = self.leaves.len();
        if !base_trusted {
            self.leaves.extend(base.chunks(LEAF_BYTES));
        }
        let end = self.leaves.len();
        let mut places = Vec::with_capacity(target.len().div_ceil(LEAF_BYTES));
        for (number, leaf) in target.chunks(LEAF_BYTES).enumerate() {
            let same = self.leaves[first..end].get(number) == Some(&leaf);
            places.push(if same { first + number } else { self.leaves.len() });
            if !same {
                self.leaves.push(leaf);
            }
        }
        ((first..end).collect(), places)
    }
}

/// Writes a record for each file of the target, and the bytes that the base does not have.
fn write_files<W: Write>(session: &mut Session<W>, base: Option<&Checkpoint>, target: &Checkpoint) -> Result<()> {
    let mut carried = 0;
    for file in &target.files {
        let header = &file.header.bytes;
        let same = base.and_then(|base| base.file(&file.name)).is_some_and(|base| base.header.bytes == *header);
        if !same {
            carried += header.len() as u64;
            if carried > CARRIED_HEADERS_MAX {
                let what = format!("headers of {carried} bytes; readers refuse more than {CARRIED_HEADERS_MAX}; shorten the metadata of the safetensors files");
                return Err(Error::checkpoint(target.path(), what));
            }
        }
        write_header(session, &file.name, header, same)?;
    }
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
            let read = for_each_chunk(&companion.path, |chunk| session.file_data(chunk))?;
            if read != bytes {
                let what =
                    format!("{read} bytes, but there were {bytes} a moment ago; do not change it while diff runs");
                return Err(Error::checkpoint(&companion.path, what));
            }
        }
    }
    Ok(())
}

/// Writes the record of a tensor file, and its header unless the base has the same.
pub(crate) fn write_header<W: Write>(session: &mut Session<W>, name: &str, header: &[u8], same: bool) -> Result<()> {
    let source = if same { FileSource::Base } else { FileSource::Patch };
    let (name, bytes, sha256) = (name.into(), header.len() as u64, Sha::of(&[header]));
    session.file(&FileRecord { name, kind: FileKind::Tensors, source, bytes, sha256 })?;
    match same {
        true => Ok(()),
        false => header.chunks(FILE_DATA_BYTES).try_for_each(|chunk| session.file_data(chunk)),
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
pub(crate) fn for_each_chunk(path: &Path, mut found: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let io = |error| Error::io(format!("reading {}", path.display()), error);
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
