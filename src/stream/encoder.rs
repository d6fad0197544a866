//! The encoder: base and target bytes in, a patch out.

use std::io::Write;

use crate::coding;
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::hash::{Sha, LEAF_BYTES};
use crate::stream::options::BaseSide;
use crate::stream::session::Session;
use crate::stream::{EncoderOptions, Summary, TrustedBase};
use crate::wire::{Action, FileKind, FileRecord, FileSource, FILE_DATA_BYTES};

/// One side of the open tensor.
#[derive(Debug, Default)]
struct Side {
    /// Bytes that the spec announces, and how many came.
    bytes: u64,
    seen: u64,
    /// The block being gathered.
    block: Vec<u8>,
}

impl Side {
    fn open(&mut self, spec: Option<&TensorSpec>) {
        self.bytes = spec.map_or(0, TensorSpec::bytes);
        self.seen = 0;
        self.block.clear();
    }

    /// Takes from the front of `chunk` what fits the block.
    fn take(&mut self, chunk: &mut &[u8], block_bytes: usize) {
        let (now, later) = chunk.split_at(chunk.len().min(block_bytes - self.block.len()));
        self.block.extend_from_slice(now);
        *chunk = later;
    }

    /// Checks that a chunk does not go past the end of the tensor.
    fn admit(&self, chunk: &[u8], name: &str, side: &str) -> Result<()> {
        let seen = self.seen + chunk.len() as u64;
        if seen > self.bytes {
            let bytes = self.bytes;
            return Err(Error::misuse(format!("tensor '{name}': {seen} {side} bytes pushed, expected {bytes}")));
        }
        Ok(())
    }
}

/// Writes a patch to any [`Write`], from base and target bytes pushed in chunks of any size.
///
/// Every tensor of both checkpoints is pushed once, in any order; unchanged ones leave no trace
/// but count for the digests. Memory is two blocks and a record for each tensor. An encoder
/// that is dropped before [`finish`](Self::finish) leaves a file without a footer, which every
/// reader refuses.
///
/// ```
/// use pulse::Encoder;
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::EncoderOptions;
/// let spec = TensorSpec::new(Dtype::Bf16, &[2])?;
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// encoder.begin("w", Some(&spec), Some(&spec))?;
/// encoder.push(&[0x80, 0x3f, 0, 0], &[0x81, 0x3f, 0, 0])?;
/// encoder.end()?;
/// let (patch, summary) = encoder.finish()?;
/// assert_eq!(summary.footer.changes, 1);
/// assert_eq!(patch.len() as u64, summary.patch_bytes);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a patch is complete only after finish()"]
pub struct Encoder<W: Write> {
    session: Session<W>,
    block_bytes: usize,
    base: Side,
    target: Side,
    scratch: coding::Scratch,
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
    /// tokenizer …). A patch without files is applied to the files that the base has. Files come
    /// before tensors.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a name that could leave its directory or after a tensor was begun,
    /// [`Error::Io`] from the writer.
    pub fn carry_file(&mut self, name: &str, kind: FileKind, bytes: &[u8]) -> Result<()> {
        self.file(name, kind, FileSource::Patch, bytes)?;
        bytes.chunks(FILE_DATA_BYTES).try_for_each(|chunk| self.session.file_data(chunk))
    }

    /// Names a file of the target that is the same in the base, so that it need not travel.
    ///
    /// # Errors
    /// As [`carry_file`](Self::carry_file).
    pub fn keep_file(&mut self, name: &str, kind: FileKind, bytes: &[u8]) -> Result<()> {
        self.file(name, kind, FileSource::Base, bytes)
    }

    fn file(&mut self, name: &str, kind: FileKind, source: FileSource, bytes: &[u8]) -> Result<()> {
        let (name, sha256) = (name.to_string(), Sha::of(&[bytes]));
        self.session.file(&FileRecord { name, kind, source, bytes: bytes.len() as u64, sha256 })
    }

    /// Begins a tensor: what it is in the base and in the target, `None` where it does not exist.
    /// Equal specs make a patch, different ones replace the tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a tensor is open, the name was used, or a snapshot gets a base.
    pub fn begin(&mut self, name: &str, base: Option<&TensorSpec>, target: Option<&TensorSpec>) -> Result<()> {
        self.session.begin(name, base, target)?;
        self.base.open(base);
        self.target.open(target);
        Ok(())
    }

    /// Takes the next bytes of both sides. They may differ in length, but for a tensor that is
    /// in both, no side may run past the end of the block that the other is in.
    ///
    /// # Errors
    /// [`Error::Misuse`] if more bytes come than the tensor has, [`Error::Io`] from the writer.
    pub fn push(&mut self, mut base: &[u8], mut target: &[u8]) -> Result<()> {
        let open = self.session.open()?;
        let action = open.header.action;
        self.base.admit(base, &open.header.name, "base")?;
        self.target.admit(target, &open.header.name, "target")?;
        if open.trusted.is_none() {
            open.base.update(base);
        }
        open.target.update(target);
        self.base.seen += base.len() as u64;
        self.target.seen += target.len() as u64;
        let full = self.block_bytes;
        loop {
            // Only a patched tensor needs the bytes of its base, and only a target has blocks.
            if action == Action::Patched {
                self.base.take(&mut base, full);
            }
            self.target.take(&mut target, full);
            let base_ready = action != Action::Patched || self.base.block.len() == full;
            if base_ready && self.target.block.len() == full {
                self.close_block()?;
            } else if target.is_empty() && (base.is_empty() || action != Action::Patched) {
                return Ok(());
            } else {
                self.session.set_broken();
                return Err(Error::misuse(
                    "base and target must advance together: one side runs past the end of the block that the other is in",
                ));
            }
        }
    }

    /// Encodes what the block buffers hold.
    fn close_block(&mut self) -> Result<()> {
        let options = self.session.options.block;
        let header = &self.session.open()?.header;
        let (base, target) = (&self.base.block, &self.target.block);
        let encoded = match &header.spec {
            Some(spec) if header.action.is_whole() => {
                Some(coding::encode_whole(spec.dtype(), options, target, &mut self.scratch))
            }
            Some(spec) => coding::encode(spec.dtype(), options, base, target, &mut self.scratch),
            None => None,
        };
        self.session.block(target.len().div_ceil(LEAF_BYTES) as u64, encoded.as_ref())?;
        self.base.block.clear();
        self.target.block.clear();
        Ok(())
    }

    /// Ends the tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`] if bytes are missing, [`Error::Io`] from the writer.
    pub fn end(&mut self) -> Result<()> {
        let name = &self.session.open()?.header.name;
        for (side, which) in [(&self.base, "base"), (&self.target, "target")] {
            let (seen, bytes) = (side.seen, side.bytes);
            if seen != bytes {
                return Err(Error::misuse(format!("tensor '{name}': {seen} {which} bytes pushed, expected {bytes}")));
            }
        }
        if !self.target.block.is_empty() {
            self.close_block()?;
        }
        self.session.end().map(|_| ())
    }

    /// Passes a flush through to the writer. It does not make the file readable; only
    /// [`finish`](Self::finish) does.
    ///
    /// # Errors
    /// [`Error::Io`] from the writer.
    pub fn flush(&mut self) -> Result<()> {
        self.session.flush()
    }

    /// Writes index and footer; gives back the writer and what was written.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a tensor is open, [`Error::BaseMismatch`] if the base is not the one
    /// announced in the options, [`Error::Io`] from the writer.
    pub fn finish(self) -> Result<(W, Summary)> {
        self.session.finish()
    }
}
