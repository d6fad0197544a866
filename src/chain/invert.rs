//! A patch undone: inverted, and the base rebuilt from the target.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::chain::combine::{combine_tensors, Direction};
use crate::checkpoint::{ApplyOptions, Checkpoint, FilePolicy};
use crate::coding::Coding;
use crate::disk::place::{Place, Shape};
use crate::disk::staged::temporary_file;
use crate::disk::Disk;
use crate::dtype::TensorSpec;
use crate::error::{BaseMismatch, Error, Fault, Result};
use crate::limits::Limits;
use crate::patch::Patch;
use crate::stream::{BaseSide, EncoderOptions, Lineage, Session, Summary, Totals};
use crate::tensors::{ApplyReport, Control};
use crate::wire::{Action, TensorHeader};

/// How an inverted patch is written. It is flat and has the value form of the patch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvertOptions {
    /// zstd level of packed streams.
    pub level: i32,
    /// Leaves of 64 KiB in a block, 1 to 64.
    pub block_leaves: u64,
    /// Run and optimizer steps; what is absent is taken from the patch, with the steps swapped.
    pub lineage: Lineage,
    /// Free strings.
    pub metadata: BTreeMap<String, String>,
}

impl Default for InvertOptions {
    fn default() -> Self {
        EncoderOptions::default().into()
    }
}

impl From<EncoderOptions> for InvertOptions {
    /// Coding, value form and a digest of the base are left behind: those of the patch count.
    fn from(options: EncoderOptions) -> Self {
        let EncoderOptions { block, block_leaves, lineage, metadata, .. } = options;
        InvertOptions { level: block.level, block_leaves, lineage, metadata }
    }
}

impl InvertOptions {
    /// Replaces [`level`](Self::level).
    #[must_use]
    pub fn with_level(mut self, level: i32) -> Self {
        self.level = level;
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
    /// Inverts the patch: the result leads from its target to its base, and needs neither to be made.
    ///
    /// That is possible for flat blocks of steps and flipped bits, and for added tensors, which the
    /// inverse deletes. The result is flat, has the value form of the patch, and carries no
    /// files: the patch does not say what the base's files were. Run and steps are those of the
    /// patch, unless `options` has its own.
    ///
    /// # Errors
    /// [`Error::NotInvertible`] for a snapshot, and where the base cannot be known: contextual and whole
    /// blocks, the form overwrite, replaced and deleted tensors. [`Error::Corrupt`],
    /// [`Error::Cancelled`], [`Error::Io`].
    ///
    /// ```
    /// use pulse::chain::InvertOptions;
    /// use pulse::coding::Coding;
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::stream::EncoderOptions;
    /// use pulse::tensors::{diff, Control, TensorRef, Weights};
    /// use pulse::{Limits, Patch};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let base: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
    /// let target: Weights = [("w", TensorRef::new(spec, b"abd")?)].into_iter().collect();
    /// let flat_diff = |from: &Weights, to: &Weights| -> pulse::Result<Vec<u8>> {
    ///     let (options, mut patch) = (EncoderOptions::default().with_coding(Coding::Flat), Vec::new());
    ///     diff(Some(from), to, &mut patch, options.into(), Control::default())?;
    ///     Ok(patch)
    /// };
    ///
    /// let patch = Patch::from_bytes(flat_diff(&base, &target)?, Limits::default())?;
    /// let mut inverse = Vec::new();
    /// patch.invert(&mut inverse, InvertOptions::default(), Control::default())?;
    /// assert_eq!(inverse, flat_diff(&target, &base)?);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn invert(
        &self,
        out: impl Write,
        options: InvertOptions,
        control: Control<'_>,
    ) -> Result<Summary> {
        Patch::check_expansion(std::slice::from_ref(self))?;
        invert(self, out, options, control)
    }

    /// Makes the base of the patch at `out` from `target`, the checkpoint that the patch led to.
    ///
    /// The tensors are those of the base, bit for bit, verified by the digest that the patch names. The
    /// files are those of `target` with these tensors in them: where the headers or companions of the
    /// base were others, they are lost. If the patch added tensors, one file is made for the others.
    ///
    /// # Errors
    /// As [`invert`](Self::invert) and [`apply`](Self::apply); [`Error::TargetMismatch`] if `target` is
    /// not the target of the patch.
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
    /// use pulse::checkpoint::{diff, ApplyOptions};
    /// use pulse::coding::Coding;
    /// use pulse::stream::EncoderOptions;
    /// use pulse::tensors::Control;
    /// use pulse::{Checkpoint, Limits, Patch};
    /// let (base, target) = (Checkpoint::open(&base)?, Checkpoint::open(&target)?);
    /// let (options, mut patch) = (EncoderOptions::default().with_coding(Coding::Flat), Vec::new());
    /// diff(Some(&base), &target, &mut patch, options.into(), Control::default())?;
    ///
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// patch.revert(&target, &out, ApplyOptions::default(), Control::default())?;
    /// assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(base.path()).unwrap());
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn revert(
        &self,
        target: &Checkpoint,
        out: impl AsRef<Path>,
        options: ApplyOptions,
        control: Control<'_>,
    ) -> Result<ApplyReport> {
        let out = out.as_ref();
        // Before any work: a patch says what it is of, and anyone can say anything.
        self.check_fits_target(target, control)?;
        // On disk, for it may be large; beside the output, where there is room for a checkpoint.
        let shape = Shape::of(target.is_directory);
        let inputs: Vec<&Path> = [Some(target.path()), self.path()].into_iter().flatten().collect();
        let place = Place::find(out, shape, options.existing, &inputs)?;
        let file = temporary_file(&place, &Disk::default())?;
        let limits = Limits::default();
        let leaves = self.header().block_leaves.min(limits.block_leaves);
        let out_file = BufWriter::with_capacity(1 << 18, file.as_file());
        // Only the second part of the work is reported: both are over the same tensors.
        // Its changes are those of a checkpoint that is there.
        invert(
            self,
            out_file,
            InvertOptions::default().with_block_leaves(leaves),
            Control::threads(control.count()),
        )?;
        let inverse = Patch::open(file.path(), limits)?;
        inverse.apply(Some(target), out, options, control).map_err(|error| match error {
            // The base of the inverse, which is in a temporary file, is the target of the patch.
            Error::BaseMismatch(mismatch) => {
                let BaseMismatch { tensor, expected, found, .. } = *mismatch;
                Error::TargetMismatch {
                    file: self.path().map(Path::to_path_buf),
                    tensor,
                    expected,
                    found,
                }
            }
            other => other,
        })
    }
}

impl Patch {
    /// Checks that `target` has the tensors that the patch leads to, by name, dtype and shape.
    fn check_fits_target(&self, target: &Checkpoint, control: Control<'_>) -> Result<()> {
        let misfit = self.tensors().iter().map(|tensor| &tensor.header).find(|header| {
            target.tensor(&header.name).map(|found| found.spec()) != header.spec.as_ref()
        });
        let Some(TensorHeader { name, spec, .. }) = misfit else { return Ok(()) };
        // Another checkpoint, most likely: then its digest says so.
        self.verify_target(target, FilePolicy::Keep, control)?;
        let found = target.tensor(name).map(|found| found.spec());
        let said = |spec: Option<&TensorSpec>| spec.map_or("nothing".into(), TensorSpec::to_string);
        Err(self.unfit(format!(
            "tensor '{name}' is {} in the target, but the patch makes {} of it",
            said(found),
            said(spec.as_ref())
        )))
    }
}

fn invert(
    patch: &Patch,
    out: impl Write,
    options: InvertOptions,
    control: Control<'_>,
) -> Result<Summary> {
    let (header, footer) = (patch.header(), patch.footer());
    let Some(base) = footer.base else {
        let file = patch.path().map(Path::to_path_buf);
        return Err(Error::NotInvertible { file, what: "a snapshot has no base".into() });
    };
    let mut encoder = EncoderOptions::default()
        .with_coding(Coding::Flat)
        .with_level(options.level)
        .with_block_leaves(options.block_leaves)
        .with_lineage(options.lineage.or(Lineage::from(header).inverted()));
    encoder.metadata = options.metadata;
    let mut session = Session::new(out, encoder, BaseSide::Hashed)?;
    let chain = patch.as_chain()?;
    combine_tensors(&mut session, &chain, Direction::Back, control)?;

    // The base lacks what was added, and nothing was deleted: that would not have come this far.
    let added = || {
        let added = patch.tensors().iter().filter(|tensor| tensor.header.action == Action::Added);
        added.filter_map(|tensor| tensor.header.spec.as_ref())
    };
    let without = |field, total: u64, added: &mut dyn Iterator<Item = u64>| {
        let added = added.fold(0, u64::saturating_add);
        total
            .checked_sub(added)
            .ok_or_else(|| patch.wrong_total(Fault::Count { field, expected: added, found: total }))
    };
    let (_, summary) = session.finish_as(Totals {
        target_tensors: without("target tensors", footer.target_tensors, &mut added().map(|_| 1))?,
        target_elements: without(
            "target elements",
            footer.target_elements,
            &mut added().map(TensorSpec::elements),
        )?,
        target_bytes: without(
            "target bytes",
            footer.target_bytes,
            &mut added().map(TensorSpec::bytes),
        )?,
        base: Some(footer.target),
        target: base,
    })?;
    Ok(summary)
}
