//! Two checkpoints in memory.

use std::ops::Range;
use std::path::Path;

use pulse::changes::count_changes;
use pulse::dtype::TensorSpec;
use pulse::Checkpoint;

use crate::Result;

/// A tensor that both checkpoints have, with the same dtype and shape.
pub struct Tensor {
    pub name: String,
    pub spec: TensorSpec,
    /// Where its bytes are in those of the checkpoint.
    pub range: Range<usize>,
}

impl Tensor {
    /// Bytes of an element.
    pub fn width(&self) -> usize {
        self.spec.dtype().element_bytes()
    }
}

/// Base and target: the files, and the bytes of all tensors in the order of their names.
pub struct Pair {
    pub base_files: Checkpoint,
    pub target_files: Checkpoint,
    pub tensors: Vec<Tensor>,
    pub base: Vec<u8>,
    pub target: Vec<u8>,
    pub changes: u64,
}

impl Pair {
    pub fn open(base: &Path, target: &Path) -> Result<Pair> {
        let (base_files, target_files) = (Checkpoint::open(base)?, Checkpoint::open(target)?);
        let specs = |files: &Checkpoint| -> Vec<(String, TensorSpec)> {
            files
                .tensors()
                .map(|(name, tensor)| (name.to_string(), tensor.spec().clone()))
                .collect()
        };
        let shared = specs(&base_files);
        if shared != specs(&target_files) {
            // The layouts of others have no words for this.
            return Err("the tensors of the two checkpoints differ in name, dtype or shape".into());
        }
        let (mut tensors, mut end) = (Vec::new(), 0);
        for (name, spec) in shared {
            let start = end;
            end += usize::try_from(spec.bytes())?;
            tensors.push(Tensor { name, spec, range: start..end });
        }
        let read = |files: &Checkpoint| -> Result<Vec<u8>> {
            let mut bytes = vec![0; end];
            for ((_, found), tensor) in files.tensors().zip(&tensors) {
                files.read_at(found, 0, &mut bytes[tensor.range.clone()])?;
            }
            Ok(bytes)
        };
        let (base, target) = (read(&base_files)?, read(&target_files)?);
        let changed = |tensor: &Tensor| {
            let range = tensor.range.clone();
            count_changes(tensor.spec.dtype(), &base[range.clone()], &target[range])
        };
        let changes = tensors.iter().map(changed).sum::<pulse::Result<u64>>()?;
        if changes == 0 {
            return Err("nothing changed between the two checkpoints".into());
        }
        Ok(Pair { base_files, target_files, tensors, base, target, changes })
    }

    /// The bytes of a tensor in base and target.
    pub fn bytes_of(&self, tensor: &Tensor) -> (&[u8], &[u8]) {
        (&self.base[tensor.range.clone()], &self.target[tensor.range.clone()])
    }
}
