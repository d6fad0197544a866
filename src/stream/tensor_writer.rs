//! One tensor being encoded: bytes of both sides in, blocks out.

use std::io::Write;

use crate::coding::{self, Matrix};
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::hash::LEAF_BYTES;
use crate::stream::Encoder;
use crate::wire::Action;

/// One side of the open tensor.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Bytes that the spec announces.
    bytes: u64,
    /// Bytes that came.
    seen: u64,
    /// Where the block being gathered starts, and its bytes.
    block_start: u64,
    block: Vec<u8>,
}

impl Side {
    pub fn open(&mut self, spec: Option<&TensorSpec>) {
        self.bytes = spec.map_or(0, TensorSpec::bytes);
        self.seen = 0;
        self.block_start = 0;
        self.block.clear();
    }

    fn next_block(&mut self) {
        self.block_start += self.block.len() as u64;
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
        let seen = self.seen.saturating_add(chunk.len() as u64);
        if seen > self.bytes {
            let bytes = self.bytes;
            return Err(Error::misuse(format!(
                "tensor '{name}': {seen} {side} bytes pushed, expected {bytes}"
            )));
        }
        Ok(())
    }
}

/// Takes the bytes of one tensor for an [`Encoder`], whose `patched`, `added`, `replaced` and
/// `deleted` give it.
///
/// Call [`end`](Self::end) after the last byte. After a writer that was dropped before that, the
/// encoder refuses to go on.
///
/// ```
/// use pulse::Encoder;
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::EncoderOptions;
/// let (base, target) = (vec![0; 1000], vec![1; 1000]);
/// let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
/// let mut tensor = encoder.patched("w", &TensorSpec::new(Dtype::U8, &[1000])?)?;
/// for (base, target) in base.chunks(300).zip(target.chunks(300)) {
///     tensor.push(base, target)?;
/// }
/// tensor.end()?;
/// assert_eq!(encoder.finish()?.1.footer.changes, 1000);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a tensor is complete only after end()"]
pub struct TensorWriter<'a, W: Write> {
    encoder: &'a mut Encoder<W>,
}

impl<'a, W: Write> TensorWriter<'a, W> {
    pub(super) fn new(encoder: &'a mut Encoder<W>) -> Self {
        TensorWriter { encoder }
    }

    /// Takes the next bytes of both sides. They may differ in length, but for a tensor that is
    /// in both, no side may run past the end of the block that the other is in.
    ///
    /// # Errors
    /// [`Error::Misuse`] if more bytes come than the tensor has, [`Error::Io`] from the writer.
    pub fn push(&mut self, mut base: &[u8], mut target: &[u8]) -> Result<()> {
        let Encoder { session, base: base_side, target: target_side, block_bytes, .. } =
            &mut *self.encoder;
        let open = session.open()?;
        let action = open.header.action;
        base_side.admit(base, &open.header.name, "base")?;
        target_side.admit(target, &open.header.name, "target")?;
        if open.trusted.is_none() {
            open.base.update(base);
        }
        open.target.update(target);
        base_side.seen += base.len() as u64;
        target_side.seen += target.len() as u64;
        let full = *block_bytes;
        loop {
            let Encoder { session, base: base_side, target: target_side, .. } = &mut *self.encoder;
            // Only a patched tensor needs the bytes of its base, and only a target has blocks.
            if action == Action::Patched {
                base_side.take(&mut base, full);
            }
            target_side.take(&mut target, full);
            let base_ready = action != Action::Patched || base_side.block.len() == full;
            if base_ready && target_side.block.len() == full {
                self.close_block()?;
            } else if target.is_empty() && (base.is_empty() || action != Action::Patched) {
                return Ok(());
            } else {
                session.set_broken();
                return Err(Error::misuse(
                    "base and target must advance together: one side runs past the end of the block that the other is in",
                ));
            }
        }
    }

    /// Encodes what the block buffers hold.
    fn close_block(&mut self) -> Result<()> {
        let Encoder { session, base, target, scratch, .. } = &mut *self.encoder;
        let options = session.options.block;
        let header = &session.open()?.header;
        let encoded = match &header.spec {
            Some(spec) if header.action.is_whole() => {
                Some(coding::encode_whole(spec.dtype(), options, &target.block, scratch))
            }
            Some(spec) => {
                let matrix = Matrix::of(spec, target.block_start);
                coding::encode(spec.dtype(), matrix, options, &base.block, &target.block, scratch)
            }
            None => None,
        };
        session.block(target.block.len().div_ceil(LEAF_BYTES) as u64, encoded.as_ref())?;
        base.next_block();
        target.next_block();
        Ok(())
    }

    /// Ends the tensor.
    ///
    /// # Errors
    /// [`Error::Misuse`] if bytes are missing, [`Error::Io`] from the writer.
    pub fn end(mut self) -> Result<()> {
        let Encoder { session, base, target, .. } = &mut *self.encoder;
        let name = &session.open()?.header.name;
        for (side, which) in [(&*base, "base"), (&*target, "target")] {
            let (seen, bytes) = (side.seen, side.bytes);
            if seen != bytes {
                return Err(Error::misuse(format!(
                    "tensor '{name}': {seen} {which} bytes pushed, expected {bytes}"
                )));
            }
        }
        if !target.block.is_empty() {
            self.close_block()?;
        }
        self.encoder.session.end().map(|_| ())
    }
}
