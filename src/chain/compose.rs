//! Many patches to one.

use std::collections::BTreeMap;
use std::io::Write;

use crate::chain::chain::Chain;
use crate::chain::combine::{combine_tensors, Direction};
use crate::checkpoint::files::hash_file;
use crate::checkpoint::plan::check_carried;
use crate::checkpoint::safetensors::CARRIED_HEADERS_MAX;
use crate::checkpoint::Checkpoint;
use crate::coding::Coding;
use crate::error::{Error, Fault, Result};
use crate::hash::Sha;
use crate::patch::{FileEntry, Patch};
use crate::stream::{EncoderOptions, Session, Summary, Totals};
use crate::tensors::diff::encode_tensors;
use crate::tensors::target::check_base;
use crate::tensors::{Parallel, TensorSource};
use crate::wire::{Action, FileKind, FileRecord, FileSource, FILE_DATA_BYTES};

/// What a composition gave.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ComposeReport {
    /// Size, totals and digests of the patch.
    pub summary: Summary,
    /// Tensors by what happens to them; those that are not counted here did not change.
    pub actions: BTreeMap<Action, u64>,
    /// Size of the patches that were composed.
    pub input_bytes: u64,
    /// The target was made and compared with its digest. Without a base, the digests are those
    /// that the patches name, and whoever applies the patch proves them.
    pub proved: bool,
}

/// Composes patches, each of which starts where the one before it ends, into one that leads from
/// the base of the first to the target of the last.
///
/// With the base, and for patches of which the first is a snapshot, the result has the coding and
/// value form of `options`. Without it, only flat patches of one value form, step or xor, can be
/// composed, and the result is the same; tensors put whole on the way may be patched in any form.
///
/// The result has the bytes that [`diff`](crate::diff()) with the same options gives of both ends,
/// but for lineage: run and steps are those of the patches, unless `options` has its own, and the
/// header names the digest of the base if that of the first patch does. Without the base there is
/// one more exception: a file (a header of safetensors, a companion) that was changed or dropped on
/// the way is carried even if it came back as the base has it.
///
/// After an error, what was written is no patch.
///
/// # Errors
/// [`Error::Chain`] if the patches do not follow one another, [`Error::BaseMismatch`] if the base
/// is the wrong one, [`Error::Misuse`] if they cannot be composed without it, [`Error::Corrupt`]
/// if a patch does not lead to its target, [`Error::Io`].
///
/// ```
/// use std::collections::BTreeMap;
/// use pulse::{Limits, Patch};
/// use pulse::chain::compose;
/// use pulse::coding::Coding;
/// use pulse::dtype::Dtype;
/// use pulse::stream::EncoderOptions;
/// use pulse::tensors::{Parallel, diff_tensors};
/// use pulse::dtype::TensorSpec;
/// use pulse::tensors::TensorRef;
/// let options = EncoderOptions::default().with_coding(Coding::Flat);
/// let diff = |base: &[u8; 3], target: &[u8; 3]| {
///     let weights = |bytes| -> pulse::Result<_> {
///         Ok(BTreeMap::from([("w".to_string(), TensorRef::new(TensorSpec::new(Dtype::U8, &[3])?, bytes)?)]))
///     };
///     let (base, target) = (weights(base)?, weights(target)?);
///     diff_tensors(Some(&base), &target, Vec::new(), options.clone(), Parallel::default())
/// };
/// let steps = [diff(b"abc", b"abd")?.0, diff(b"abd", b"bbe")?.0, diff(b"bbe", b"abe")?.0];
/// let patches: Vec<Patch> =
///     steps.into_iter().map(|step| Patch::from_bytes(step, &Limits::default())).collect::<pulse::Result<_>>()?;
/// let (patch, report) = compose(&patches, None, Vec::new(), options.clone(), Parallel::default())?;
/// assert_eq!(report.summary.footer.changes, 1);
/// assert_eq!(patch, diff(b"abc", b"abe")?.0);
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn compose<W: Write>(
    patches: &[Patch],
    base: Option<&Checkpoint>,
    out: W,
    options: EncoderOptions,
    parallel: Parallel<'_>,
) -> Result<(W, ComposeReport)> {
    let chain = Chain::new(patches)?;
    let snapshot = chain.first().header().snapshot;
    // As in apply, a base does no harm to a snapshot, and is not looked at.
    let base = base.filter(|_| !snapshot);
    let proved = snapshot || base.is_some();
    let mut options = with_lineage(options, &chain);
    if !proved {
        options.coding = Coding::Flat;
    }
    let session = Session::new(out, EncoderOptions { snapshot, ..options })?;
    let (out, summary, actions) = match proved {
        true => make(session, chain, base, parallel)?,
        false => join(session, &chain, parallel)?,
    };
    let input_bytes = patches.iter().map(Patch::bytes).sum();
    Ok((out, ComposeReport { summary, actions, input_bytes, proved }))
}

/// Run and steps of the patches, where the options have none.
fn with_lineage(options: EncoderOptions, chain: &Chain<'_>) -> EncoderOptions {
    let (first, last) = (chain.first().header(), chain.last().header());
    let same = chain.patches().iter().all(|patch| patch.header().run == first.run);
    EncoderOptions {
        run: options.run.or(first.run.filter(|_| same)),
        base_step: options.base_step.or(first.base_step),
        target_step: options.target_step.or(last.target_step),
        base_digest: first.base_digest,
        trusted_base: None,
        ..options
    }
}

type Written<W> = (W, Summary, BTreeMap<Action, u64>);

/// Makes the target from base and patches, block by block, and diffs it with the base.
fn make<W: Write>(
    mut session: Session<W>,
    chain: Chain<'_>,
    base: Option<&Checkpoint>,
    parallel: Parallel<'_>,
) -> Result<Written<W>> {
    let (first, last) = (chain.first(), chain.last());
    let source = base.map(|base| base as &dyn TensorSource);
    let made = || {
        let chain = match source {
            Some(source) => chain.on(source)?,
            None => chain,
        };
        write_files(&mut session, &chain, base)?;
        let actions = encode_tensors(&mut session, source, &chain, parallel)?;
        let (out, summary) = session.finish()?;
        if let (Some(expected), Some(found)) = (first.footer().base, summary.footer.base) {
            if expected != found {
                return Err(Error::BaseMismatch { tensor: None, expected, found });
            }
        }
        let (expected, found) = (last.footer().target, summary.footer.target);
        match expected == found {
            true => Ok((out, summary, actions)),
            false => Err(Fault::Digest { field: "digest of the result", expected, found }.at(last.bytes())),
        }
    };
    let made = made();
    // When something went wrong, the base may be the reason; if so, the tensor can be named.
    if let (Err(Error::Corrupt(_) | Error::Checkpoint { .. } | Error::BaseMismatch { .. }), Some(source)) =
        (&made, source)
    {
        check_base(source, first, parallel)?;
    }
    made
}

/// Joins the changes of the patches, of which no base is at hand.
fn join<W: Write>(mut session: Session<W>, chain: &Chain<'_>, parallel: Parallel<'_>) -> Result<Written<W>> {
    write_files(&mut session, chain, None)?;
    let actions = combine_tensors(&mut session, chain, Direction::Forward, parallel)?;
    let (first, last) = (chain.first().footer(), chain.last().footer());
    let (out, summary) = session.finish_as(Totals {
        target_tensors: last.target_tensors,
        target_elements: last.target_elements,
        target_bytes: last.target_bytes,
        base: first.base,
        target: last.target,
    })?;
    Ok((out, summary, actions))
}

/// Writes a record for each file of the last target, and the bytes that the base does not have.
fn write_files<W: Write>(session: &mut Session<W>, chain: &Chain<'_>, base: Option<&Checkpoint>) -> Result<()> {
    let mut headers = 0u64;
    for FileEntry { record, .. } in chain.last().files() {
        let carried = match chain.base_has(record) || in_base(base, record)? {
            true => None,
            false => chain.carried(record),
        };
        let source = if carried.is_some() { FileSource::Patch } else { FileSource::Base };
        session.file(&FileRecord { source, ..record.clone() })?;
        if let Some((patch, file)) = carried {
            if record.kind == FileKind::Tensors {
                headers = headers.saturating_add(record.bytes);
                if headers > CARRIED_HEADERS_MAX {
                    let what = format!("headers of {headers} bytes; readers refuse more than {CARRIED_HEADERS_MAX}");
                    return Err(Error::checkpoint(patch.path(), what));
                }
            }
            carry(session, patch, file)?;
        }
    }
    Ok(())
}

/// Whether the base has this file, byte for byte.
fn in_base(base: Option<&Checkpoint>, record: &FileRecord) -> Result<bool> {
    let Some(base) = base else { return Ok(false) };
    match record.kind {
        FileKind::Tensors => {
            Ok(base.file(&record.name).is_some_and(|file| Sha::of(&[&file.header.bytes]) == record.sha256))
        }
        FileKind::Companion => match base.companion(&record.name) {
            Some(found) if found.bytes == record.bytes => Ok(hash_file(&found.path)?.0 == record.sha256),
            _ => Ok(false),
        },
    }
}

/// Copies the data of a file, in sections as large as `diff` makes them.
fn carry<W: Write>(session: &mut Session<W>, patch: &Patch, file: &FileEntry) -> Result<()> {
    let (mut sha, mut section) = (Sha::default(), Vec::new());
    patch.for_each_data(file, |mut data| {
        sha.update(data);
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(FILE_DATA_BYTES - section.len()));
            section.extend_from_slice(now);
            data = later;
            if section.len() == FILE_DATA_BYTES {
                session.file_data(&section)?;
                section.clear();
            }
        }
        Ok(())
    })?;
    if !section.is_empty() {
        session.file_data(&section)?;
    }
    check_carried(&file.record, sha.finish())
}
