//! The encoder: base and target bytes in, a patch out.

use std::io::Write;

use crate::coding;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::stream::options::BaseSide;
use crate::stream::session::Session;
use crate::stream::tensor_writer::{Side, TensorWriter};
use crate::stream::{EncoderOptions, Summary, TrustedBase};
use crate::wire::{FileContent, FileKind, FileRecord, FileState, FILE_DATA_BYTES};

/// Writes a patch to any [`Write`], from base and target bytes pushed in chunks of any size.
///
/// Every tensor of both checkpoints is pushed once, in any order, through the [`TensorWriter`] that
/// [`patched`](Self::patched), [`added`](Self::added), [`replaced`](Self::replaced) or
/// [`deleted`](Self::deleted) gives. Memory is two blocks and a record for each tensor. An encoder
/// that is dropped before [`finish`](Self::finish) leaves a file without a footer, which every
/// reader refuses.
///
/// ```
/// use pulse::Encoder;
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::EncoderOptions;
/// let spec = TensorSpec::new(Dtype::Bf16, &[2])?;
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// let mut tensor = encoder.patched("w", &spec)?;
/// tensor.push(&[0x80, 0x3f, 0, 0], &[0x81, 0x3f, 0, 0])?;
/// tensor.end()?;
/// let (patch, summary) = encoder.finish()?;
/// assert_eq!(summary.footer.changes, 1);
/// assert_eq!(patch.len() as u64, summary.patch_bytes);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a patch is complete only after finish()"]
pub struct Encoder<W: Write> {
    /// Writes the sections and keeps the digests.
    pub(super) session: Session<W>,
    /// Bytes of a full block.
    pub(super) block_bytes: usize,
    /// The two sides of the open tensor.
    pub(super) base: Side,
    pub(super) target: Side,
    pub(super) scratch: coding::Scratch,
}

impl<W: Write> Encoder<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// [`Error::Misuse`] for options that readers would refuse, [`Error::Io`] from the writer.
    pub fn new(writer: W, options: EncoderOptions) -> Result<Self> {
        Self::with_base(writer, options, BaseSide::Hashed)
    }

    /// As [`new`](Self::new), for a snapshot: a patch without a base, in which every tensor
    /// travels whole.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// use pulse::stream::EncoderOptions;
    /// let (patch, summary) = pulse::Encoder::snapshot(Vec::new(), EncoderOptions::default())?.finish()?;
    /// assert_eq!(summary.footer.base, None);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn snapshot(writer: W, options: EncoderOptions) -> Result<Self> {
        Self::with_base(writer, options, BaseSide::Absent)
    }

    /// As [`new`](Self::new), with digests of the base that are known and need not be computed.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// use pulse::stream::{EncoderOptions, TrustedBase};
    /// let (_, first) = pulse::Encoder::new(Vec::new(), EncoderOptions::default())?.finish()?;
    /// let base = TrustedBase::new(first.footer.target);
    /// let (_, next) = pulse::Encoder::trusting(Vec::new(), EncoderOptions::default(), base)?.finish()?;
    /// assert_eq!(next.footer.base, Some(first.footer.target));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn trusting(writer: W, options: EncoderOptions, base: TrustedBase) -> Result<Self> {
        Self::with_base(writer, options, BaseSide::Trusted(base))
    }

    fn with_base(writer: W, options: EncoderOptions, base: BaseSide) -> Result<Self> {
        let session = Session::new(writer, options, base)?;
        let block_bytes = session.options.block_bytes();
        let (base, target) = (Side::default(), Side::default());
        Ok(Encoder { session, block_bytes, base, target, scratch: coding::Scratch::default() })
    }

    /// Carries a file of the target: the header of a safetensors file, or a companion (config,
    /// tokenizer …) of which the base has none of this name. A patch without files is applied to the
    /// files that the base has. Files come before tensors.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a name that could leave its directory or after the first tensor,
    /// [`Error::Io`] from the writer.
    pub fn carry_file(&mut self, name: &str, kind: FileKind, bytes: &[u8]) -> Result<()> {
        self.file(name, kind, FileState::New, bytes)
    }

    /// Carries a companion that the base has with other bytes; both are given.
    ///
    /// # Errors
    /// As [`carry_file`](Self::carry_file), and [`Error::Misuse`] if both are the same.
    ///
    /// ```
    /// use pulse::Encoder;
    /// use pulse::stream::EncoderOptions;
    /// use pulse::wire::FileState;
    /// use pulse::{Limits, Patch};
    /// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
    /// encoder.replace_file("config.json", b"{}", b"{\"a\":1}")?;
    /// encoder.remove_file("notes.txt", b"old")?;
    /// let patch = Patch::from_bytes(encoder.finish()?.0, Limits::default())?;
    /// let [config, notes] = patch.files() else { panic!("two files") };
    /// assert_eq!(config.record.base().unwrap().bytes, 2);
    /// assert_eq!(notes.record.state, FileState::Removed);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn replace_file(&mut self, name: &str, base: &[u8], target: &[u8]) -> Result<()> {
        let state = FileState::Replaced(FileContent::of(base));
        self.file(name, FileKind::Companion, state, target)
    }

    /// Names a companion of the base, with its bytes, that the target does not have.
    ///
    /// # Errors
    /// As [`carry_file`](Self::carry_file).
    ///
    /// See [`replace_file`](Self::replace_file) for an example.
    pub fn remove_file(&mut self, name: &str, base: &[u8]) -> Result<()> {
        self.file(name, FileKind::Companion, FileState::Removed, base)
    }

    /// Names a file of the target that is the same in the base, so that it need not travel.
    ///
    /// # Errors
    /// As [`carry_file`](Self::carry_file).
    pub fn keep_file(&mut self, name: &str, kind: FileKind, bytes: &[u8]) -> Result<()> {
        self.file(name, kind, FileState::Kept, bytes)
    }

    fn file(&mut self, name: &str, kind: FileKind, state: FileState, bytes: &[u8]) -> Result<()> {
        self.session.file(&FileRecord::new(name, kind, state, FileContent::of(bytes)))?;
        if !state.is_carried() {
            return Ok(());
        }
        bytes.chunks(FILE_DATA_BYTES).try_for_each(|chunk| self.session.file_data(chunk))
    }

    /// Begins a tensor that both checkpoints have, with the same dtype and shape. Push the bytes of
    /// both. If none differ, the tensor is not in the patch, but it counts for the digests.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the name was used before, the tensor before was not ended, readers with
    /// default [`Limits`](crate::Limits) would refuse the tensor, or the patch is a snapshot.
    pub fn patched(&mut self, name: &str, spec: &TensorSpec) -> Result<TensorWriter<'_, W>> {
        self.begin(name, Some(spec), Some(spec))
    }

    /// Begins a tensor that only the target has; so are all tensors of a snapshot. Push no base
    /// bytes.
    ///
    /// ```
    /// use pulse::Encoder;
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::stream::EncoderOptions;
    /// let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default())?;
    /// let mut tensor = encoder.added("w", &TensorSpec::new(Dtype::U8, &[3])?)?;
    /// tensor.push(&[], b"abc")?;
    /// tensor.end()?;
    /// assert_eq!(encoder.finish()?.1.footer.target_tensors, 1);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`patched`](Self::patched), but for the snapshot.
    pub fn added(&mut self, name: &str, spec: &TensorSpec) -> Result<TensorWriter<'_, W>> {
        self.begin(name, None, Some(spec))
    }

    /// Begins a tensor that both checkpoints have, with another dtype or shape in each. Push the
    /// bytes of both.
    ///
    /// # Errors
    /// As [`patched`](Self::patched), and [`Error::Misuse`] if the specs are the same.
    pub fn replaced(
        &mut self,
        name: &str,
        base: &TensorSpec,
        target: &TensorSpec,
    ) -> Result<TensorWriter<'_, W>> {
        if base == target {
            return Err(Error::misuse(format!(
                "tensor '{name}' is {base} in base and target; call patched() instead of replaced()"
            )));
        }
        self.begin(name, Some(base), Some(target))
    }

    /// Begins a tensor that only the base has. Push no target bytes: those of the base are needed
    /// for its digest.
    ///
    /// # Errors
    /// As [`patched`](Self::patched).
    pub fn deleted(&mut self, name: &str, spec: &TensorSpec) -> Result<TensorWriter<'_, W>> {
        self.begin(name, Some(spec), None)
    }

    fn begin(
        &mut self,
        name: &str,
        base: Option<&TensorSpec>,
        target: Option<&TensorSpec>,
    ) -> Result<TensorWriter<'_, W>> {
        self.session.begin(name, base, target)?;
        self.base.open(base);
        self.target.open(target);
        Ok(TensorWriter::new(self))
    }

    /// Passes a flush through to the writer. It does not make the file readable; only
    /// [`finish`](Self::finish) does.
    ///
    /// # Errors
    /// [`Error::Io`] from the writer.
    pub fn flush(&mut self) -> Result<()> {
        self.session.flush()
    }

    /// The writer.
    #[must_use]
    pub fn get_ref(&self) -> &W {
        self.session.get_ref()
    }

    /// The writer. What is written to it directly becomes part of the file, and so ruins it.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut W {
        self.session.get_mut()
    }

    /// Writes index and footer; gives back the writer and what was written. To keep the writer
    /// after an error, lend it: `Encoder::new(&mut writer, …)`.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a tensor was not ended, [`Error::BaseMismatch`] if the base is not the
    /// one announced in the options, [`Error::Io`] from the writer.
    pub fn finish(self) -> Result<(W, Summary)> {
        self.session.finish()
    }
}
