//! The target of a patch as a source of tensors: made from the base when it is read.

use crate::checkpoint::patch::PatchFile;
use crate::checkpoint::tensors::TensorSource;
use crate::dtype::TensorSpec;
use crate::error::Result;

/// What a base becomes by a patch that only changes tensors; it has none of its bytes in memory.
#[derive(Clone, Copy)]
pub(crate) struct Patched<'a> {
    pub base: &'a dyn TensorSource,
    pub patch: &'a PatchFile,
}

impl TensorSource for Patched<'_> {
    fn describe(&self) -> String {
        format!("{} after {}", self.base.describe(), self.patch.path().display())
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        self.base.tensors()
    }

    fn spec(&self, name: &str) -> Option<&TensorSpec> {
        self.base.spec(name)
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        self.base.read(name, start, buffer)?;
        let Some(tensor) = self.patch.tensor(name) else { return Ok(()) };
        let end = start + buffer.len() as u64;
        let (mut payload, mut whole) = (Vec::new(), Vec::new());
        let first = tensor.blocks.partition_point(|block| block.range().end <= start);
        for (number, block) in tensor.blocks.iter().enumerate().skip(first) {
            let range = block.range();
            if range.start >= end {
                break;
            }
            // Within the buffer, hence within memory.
            let (from, to) = (range.start.max(start), range.end.min(end));
            let part = &mut buffer[(from - start) as usize..(to - start) as usize];
            if (from, to) == (range.start, range.end) {
                self.patch.apply_block(tensor, number, &mut payload, part)?;
                continue;
            }
            // A block is applied whole, even if only a part of it is asked for.
            whole.resize((range.end - range.start) as usize, 0);
            self.base.read(name, range.start, &mut whole)?;
            self.patch.apply_block(tensor, number, &mut payload, &mut whole)?;
            part.copy_from_slice(&whole[(from - range.start) as usize..(to - range.start) as usize]);
        }
        Ok(())
    }
}
