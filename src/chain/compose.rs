//! Many patches to one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::chain::combine::{combine_tensors, Direction};
use crate::chain::files::{ChainFiles, CompanionEnd, CompanionHistory};
use crate::checkpoint::files::hash_file;
use crate::checkpoint::plan::check_carried;
use crate::checkpoint::safetensors::{CarriedHeaders, TensorFile};
use crate::checkpoint::Checkpoint;
use crate::coding::{BlockOptions, Coding};
use crate::error::{Error, Made, Result};
use crate::hash::Sha;
use crate::patch::{Chain, FileEntry, Patch};
use crate::stream::{BaseSide, EncoderOptions, Lineage, Session, Summary, Totals};
use crate::tensors::chain_end::ChainEnd;
use crate::tensors::diagnose::explain;
use crate::tensors::diff::encode_tensors;
use crate::tensors::{Control, TensorSource};
use crate::wire::{Action, FileContent, FileKind, FileRecord, FileState, FILE_DATA_BYTES};

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
    /// that the patches name, and are verified when the patch is applied.
    pub verified: bool,
}

/// How a composed patch is written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComposeOptions {
    /// How blocks are written. Without a base the result is flat and has the value form of the
    /// patches, and only the zstd level counts.
    pub block: BlockOptions,
    /// Leaves of 64 KiB in a block, 1 to 64.
    pub block_leaves: u64,
    /// Run and optimizer steps; what is absent is taken from the patches.
    pub lineage: Lineage,
    /// Free strings.
    pub metadata: BTreeMap<String, String>,
}

impl Default for ComposeOptions {
    fn default() -> Self {
        EncoderOptions::default().into()
    }
}

impl From<EncoderOptions> for ComposeOptions {
    /// A digest of the base is left behind: that of the first patch counts.
    fn from(options: EncoderOptions) -> Self {
        let EncoderOptions { block, block_leaves, lineage, metadata, .. } = options;
        ComposeOptions { block, block_leaves, lineage, metadata }
    }
}

impl ComposeOptions {
    /// Replaces [`block`](Self::block).
    #[must_use]
    pub fn with_block(mut self, block: BlockOptions) -> Self {
        self.block = block;
        self
    }

    /// Replaces [`block_leaves`](Self::block_leaves).
    #[must_use]
    pub fn with_block_leaves(mut self, leaves: u64) -> Self {
        self.block_leaves = leaves;
        self
    }

    /// Replaces [`lineage`](Self::lineage).
    #[must_use]
    pub fn with_lineage(mut self, lineage: Lineage) -> Self {
        self.lineage = lineage;
        self
    }

    /// Adds one string to [`metadata`](Self::metadata).
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

impl Patch {
    /// Composes patches, each of which starts where the one before it ends, into one that leads from
    /// the base of the first to the target of the last.
    ///
    /// With the base, and for patches of which the first is a snapshot, the result has the coding and
    /// value form of `options`. Without it, only flat patches of one value form, step or xor, can be
    /// composed, and the result is the same; tensors written whole on the way may be patched in any form.
    ///
    /// The result has the bytes that [`diff`](crate::checkpoint::diff()) with the same options gives of
    /// both ends, but for lineage: run and steps are those of the patches, unless `options` has its own,
    /// and the header names the digest of the base if that of the first patch does. Without the base
    /// there is one more exception: a header of safetensors that was changed or dropped on the way is
    /// carried even if it came back as the base has it.
    ///
    /// After an error, what was written is no patch.
    ///
    /// # Errors
    /// [`Error::Chain`] if the patches do not follow one another, [`Error::BaseMismatch`] if the base
    /// is the wrong one, [`Error::NeedsBase`] if they cannot be composed without it, [`Error::Corrupt`]
    /// if a patch does not lead to its target, [`Error::Cancelled`], [`Error::Io`].
    ///
    /// ```
    /// use pulse::chain::ComposeOptions;
    /// use pulse::coding::Coding;
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::stream::EncoderOptions;
    /// use pulse::tensors::{diff, Control, TensorRef, Weights};
    /// use pulse::{Limits, Patch};
    /// let step = |base: &[u8; 3], target: &[u8; 3]| -> pulse::Result<Vec<u8>> {
    ///     let spec = TensorSpec::new(Dtype::U8, &[3])?;
    ///     let base: Weights = [("w", TensorRef::new(spec.clone(), base)?)].into_iter().collect();
    ///     let target: Weights = [("w", TensorRef::new(spec, target)?)].into_iter().collect();
    ///     let (options, mut patch) = (EncoderOptions::default().with_coding(Coding::Flat), Vec::new());
    ///     diff(Some(&base), &target, &mut patch, options.into(), Control::default())?;
    ///     Ok(patch)
    /// };
    /// let steps = [step(b"abc", b"abd")?, step(b"abd", b"bbe")?, step(b"bbe", b"abe")?];
    /// let patches: Vec<Patch> =
    ///     steps.into_iter().map(|step| Patch::from_bytes(step, Limits::default())).collect::<pulse::Result<_>>()?;
    /// let mut composed = Vec::new();
    /// let report = Patch::compose(&patches, None, &mut composed, ComposeOptions::default(), Control::default())?;
    /// assert_eq!(report.summary.footer.changes, 1);
    /// assert_eq!(composed, step(b"abc", b"abe")?);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn compose(
        patches: &[Patch],
        base: Option<&Checkpoint>,
        out: impl Write,
        options: ComposeOptions,
        control: Control<'_>,
    ) -> Result<ComposeReport> {
        let chain = Chain::new(patches)?;
        let files = ChainFiles::new(patches)?;
        let snapshot = chain.first().header().snapshot;
        // As in apply, a base does no harm to a snapshot, and is not looked at.
        let base = base.filter(|_| !snapshot);
        let verified = snapshot || base.is_some();
        let mut options = encoder_options(options, &chain);
        if !verified {
            options.block.coding = Coding::Flat;
        }
        let side = if snapshot { BaseSide::Absent } else { BaseSide::Hashed };
        let session = Session::new(out, options, side)?;
        let (summary, actions) = if verified {
            build_and_diff(session, &chain, &files, base, control)?
        } else {
            combine(session, &chain, &files, control)?
        };
        let input_bytes = patches.iter().map(Patch::bytes).sum();
        Ok(ComposeReport { summary, actions, input_bytes, verified })
    }
}

/// The options of the encoder; run and steps of the patches where there are no others.
fn encoder_options(options: ComposeOptions, chain: &Chain<'_>) -> EncoderOptions {
    EncoderOptions {
        block: options.block,
        block_leaves: options.block_leaves,
        lineage: options.lineage.or(chain.lineage()),
        base_digest: chain.first().header().base_digest,
        metadata: options.metadata,
    }
}

type Written = (Summary, BTreeMap<Action, u64>);

/// Makes the target from base and patches, block by block, and diffs it with the base.
fn build_and_diff<W: Write>(
    mut session: Session<W>,
    chain: &Chain<'_>,
    files: &ChainFiles<'_>,
    base: Option<&Checkpoint>,
    control: Control<'_>,
) -> Result<Written> {
    let (first, last) = (chain.first(), chain.last());
    let source = base.map(|base| base as &dyn TensorSource);
    let made = || {
        let end = ChainEnd::new(chain, source)?;
        write_files(&mut session, chain, files, base)?;
        let outcomes = encode_tensors(&mut session, source, &end, false, control)?;
        let (_, summary) = session.finish()?;
        if let (Some(expected), Some(found)) = (first.footer().base, summary.footer.base) {
            if expected != found {
                return Err(Error::wrong_base(None, expected, found).in_file(first.path()));
            }
        }
        let (expected, found) = (last.footer().target, summary.footer.target);
        if expected != found {
            return Err(last.wrong_result(Made::Checkpoint, expected, found));
        }
        Ok((summary, outcomes.actions))
    };
    let made = made();
    // When something went wrong, the base may be the reason; if so, the tensor can be named.
    explain(source, chain, control, made).map_err(|error| match error {
        Error::BaseMismatch(mut mismatch) => {
            // That it is the target of some of the patches is no reason to leave the others out.
            (mismatch.is_target, mismatch.applied) = (false, 0);
            Error::BaseMismatch(mismatch)
        }
        other => other,
    })
}

/// Combines the changes of the patches without their base.
fn combine<W: Write>(
    mut session: Session<W>,
    chain: &Chain<'_>,
    files: &ChainFiles<'_>,
    control: Control<'_>,
) -> Result<Written> {
    Patch::check_expansion(chain.patches())?;
    write_files(&mut session, chain, files, None)?;
    let actions = combine_tensors(&mut session, chain, Direction::Forward, control)?;
    let (first, last) = (chain.first().footer(), chain.last().footer());
    let (_, summary) = session.finish_as(Totals {
        target_tensors: last.target_tensors,
        target_elements: last.target_elements,
        target_bytes: last.target_bytes,
        base: first.base,
        target: last.target,
    })?;
    Ok((summary, actions))
}

/// Writes a record for each file of the last target, and the bytes that the base does not have, and
/// one for each companion that only the base has.
fn write_files<W: Write>(
    session: &mut Session<W>,
    chain: &Chain<'_>,
    files: &ChainFiles<'_>,
    base: Option<&Checkpoint>,
) -> Result<()> {
    let mut headers = CarriedHeaders::default();
    let is_header = |file: &&FileEntry| file.record.kind == FileKind::Tensors;
    for FileEntry { record, .. } in chain.last().files().iter().filter(is_header) {
        let same = |file: &TensorFile| FileContent::of(&file.header.bytes) == record.content();
        let in_base = base.and_then(|base| base.file(&record.name)).is_some_and(same);
        let carried = if files.base_has(record) || in_base { None } else { files.carried(record) };
        let state = if carried.is_some() { FileState::New } else { FileState::Kept };
        session.file(&FileRecord { state, ..record.clone() })?;
        if let Some((patch, file)) = carried {
            headers.add(record.bytes).map_err(|fault| {
                let path = patch.path().map(Path::to_path_buf);
                Error::BadFile { path, fault }
            })?;
            carry(session, patch, file)?;
        }
    }
    for (&name, companion) in &files.companions {
        let Some(record) = companion_record(files, base, name, companion)? else { continue };
        session.file(&record)?;
        if record.state.is_carried() {
            let missing = || Error::Internal(format!("no patch carries the file '{name}'"));
            let (patch, file) = files.carried(&record).ok_or_else(missing)?;
            carry(session, patch, file)?;
        }
    }
    Ok(())
}

/// What a diff of both ends says of a companion.
fn companion_record(
    files: &ChainFiles<'_>,
    base: Option<&Checkpoint>,
    name: &str,
    companion: &CompanionHistory,
) -> Result<Option<FileRecord>> {
    let CompanionHistory { base: known, target } = companion;
    let record = |state, content| Some(FileRecord::new(name, FileKind::Companion, state, content));
    Ok(match (known, target) {
        (_, CompanionEnd::Has(content)) => {
            // The first patch that knows the companion speaks of another base, if files became a
            // directory on the way.
            let found = base.and_then(|base| base.companion(name));
            let base = match (known, found) {
                (None, Some(found)) => Some(hash_file(&found.path)?),
                _ => *known,
            };
            let state = match base {
                None => FileState::New,
                Some(base) if base == *content => FileState::Kept,
                Some(base) => FileState::Replaced(base),
            };
            record(state, *content)
        }
        (Some(base), CompanionEnd::Removed) if !files.hides(name) => {
            record(FileState::Removed, *base)
        }
        _ => None,
    })
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
    check_carried(patch, &file.record, sha.finish())
}
