//! Digests of leaves, tensors and checkpoints (SPEC.md §5). They identify content: bytes,
//! names, dtypes and shapes, whatever the file format, the sharding, the order or the metadata.

use sha2::{Digest as _, Sha256};

pub use crate::digest::{Digest, ParseDigestError};
use crate::dtype::TensorSpec;
use crate::error::{Error, Result};

/// Bytes of a leaf, the unit of hashing. The last leaf of a tensor may be shorter.
pub const LEAF_BYTES: usize = 64 * 1024;

/// SHA-256 in steps; the one place where the crate touches `sha2`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sha(Sha256);

impl Sha {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// SHA-256 of a few slices joined.
    pub fn of(parts: &[&[u8]]) -> Digest {
        let mut sha = Sha::default();
        parts.iter().for_each(|part| sha.update(part));
        sha.finish()
    }
}

/// Digest of one leaf: SHA-256(0x00 ‖ leaf).
#[must_use]
pub fn leaf_digest(leaf: &[u8]) -> Digest {
    Sha::of(&[&[0], leaf])
}

/// Fewer leaves than this are hashed one by one: a batch fills its lanes only with more.
const BATCH_MIN: usize = 4;

/// Digests of several leaves at once. One SHA-256 is a chain of dependent steps that leaves most
/// of a core idle; independent leaves fill it.
pub(crate) fn digest_leaves(leaves: &[&[u8]]) -> Vec<Digest> {
    if leaves.len() < BATCH_MIN {
        return leaves.iter().map(|leaf| leaf_digest(leaf)).collect();
    }
    let mut digests = vec![[0; 32]; leaves.len()];
    tape_sha256::hash_many_prefixed(&[0], leaves, &mut digests);
    digests.into_iter().map(Digest).collect()
}

/// Digests of the leaves of `bytes`, which starts on a leaf boundary of its tensor.
pub(crate) fn leaf_digests(bytes: &[u8]) -> Vec<Digest> {
    digest_leaves(&bytes.chunks(LEAF_BYTES).collect::<Vec<_>>())
}

/// Digest of a tensor from chunks of any size, or from the digests of its leaves.
///
/// ```
/// use pulse::hash::{TensorHasher, tensor_digest};
/// let bytes = vec![1u8; 100_000];
/// let mut hasher = TensorHasher::new();
/// for chunk in bytes.chunks(777) {
///     hasher.update(chunk);
/// }
/// assert_eq!(hasher.finish(), tensor_digest(&bytes));
/// ```
#[derive(Debug, Clone)]
pub struct TensorHasher {
    leaves: Sha,
    leaf: Sha,
    filled: usize,
}

impl Default for TensorHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl TensorHasher {
    /// Starts the digest of a tensor.
    #[must_use]
    pub fn new() -> Self {
        let mut leaves = Sha::default();
        leaves.update(&[1]);
        TensorHasher { leaves, leaf: Sha::default(), filled: 0 }
    }

    /// Takes the next bytes of the tensor.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == 0 && bytes.len() >= LEAF_BYTES {
                let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % LEAF_BYTES);
                // A bounded batch: the list of leaves must not grow with the chunk.
                for batch in whole.chunks(64 * LEAF_BYTES) {
                    leaf_digests(batch).iter().for_each(|leaf| self.push_leaf(leaf));
                }
                bytes = rest;
                continue;
            }
            if self.filled == 0 {
                self.leaf.update(&[0]);
            }
            let (now, later) = bytes.split_at(bytes.len().min(LEAF_BYTES - self.filled));
            self.leaf.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == LEAF_BYTES {
                self.close_leaf();
            }
        }
    }

    fn close_leaf(&mut self) {
        let leaf = std::mem::take(&mut self.leaf).finish();
        self.leaves.update(&leaf.0);
        self.filled = 0;
    }

    /// Takes the digest of the next leaf, hashed elsewhere. Only on a leaf boundary.
    pub fn push_leaf(&mut self, leaf: &Digest) {
        debug_assert_eq!(self.filled, 0, "a leaf is open");
        self.leaves.update(&leaf.0);
    }

    /// The digest of all that was taken.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        if self.filled > 0 {
            self.close_leaf();
        }
        self.leaves.finish()
    }
}

/// Digest of a tensor's bytes: SHA-256(0x01 ‖ leaf digests in order).
#[must_use]
pub fn tensor_digest(bytes: &[u8]) -> Digest {
    let mut hasher = TensorHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// Digest of a checkpoint from its tensors, which may be added in any order.
///
/// ```
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::hash::{CheckpointHasher, tensor_digest};
/// let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// let (mut ab, mut ba) = (CheckpointHasher::new(), CheckpointHasher::new());
/// ab.add("a", &spec, tensor_digest(b"xyz"));
/// ab.add("b", &spec, tensor_digest(b"zyx"));
/// ba.add("b", &spec, tensor_digest(b"zyx"));
/// ba.add("a", &spec, tensor_digest(b"xyz"));
/// assert_eq!(ab.finish()?, ba.finish()?);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CheckpointHasher {
    tensors: Vec<(Box<str>, TensorSpec, Digest)>,
}

impl CheckpointHasher {
    /// A checkpoint without tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor.
    pub fn add(&mut self, name: &str, spec: &TensorSpec, digest: Digest) {
        self.tensors.push((name.into(), spec.clone(), digest));
    }

    /// The digest of all tensors added.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a name was added twice, or a name, rank or dtype name does not fit the
    /// fields that SPEC.md §5 gives them.
    pub fn finish(mut self) -> Result<Digest> {
        self.tensors.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        if let Some(twice) = self.tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::misuse(format!(
                "tensor '{}' was added twice; add each tensor once",
                twice[0].0
            )));
        }
        let mut sha = Sha::default();
        sha.update(&[2]);
        for (name, spec, digest) in &self.tensors {
            let unfit = |_| {
                Error::misuse(format!(
                    "tensor '{name}': name, dtype name or rank is too long to be digested; shorten it"
                ))
            };
            let dtype = spec.dtype().name();
            sha.update(&u32::try_from(name.len()).map_err(unfit)?.to_le_bytes());
            sha.update(name.as_bytes());
            sha.update(&[u8::try_from(dtype.len()).map_err(unfit)?]);
            sha.update(dtype.as_bytes());
            sha.update(&[u8::try_from(spec.shape().len()).map_err(unfit)?]);
            for dim in spec.shape() {
                sha.update(&dim.to_le_bytes());
            }
            sha.update(&digest.0);
        }
        Ok(sha.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_digest_is_the_tree_of_the_spec() {
        let bytes: Vec<u8> = (0..LEAF_BYTES + 5).map(|i| (i * 7) as u8).collect();
        let first = Sha::of(&[&[0], &bytes[..LEAF_BYTES]]);
        let last = Sha::of(&[&[0], &bytes[LEAF_BYTES..]]);
        assert_eq!(tensor_digest(&bytes), Sha::of(&[&[1], &first.0, &last.0]));
        assert_eq!(tensor_digest(b""), Sha::of(&[&[1]]), "an empty tensor has no leaf");
    }

    #[test]
    fn leaves_hashed_elsewhere_give_the_same_digest() {
        let bytes = vec![3u8; 3 * LEAF_BYTES + 1];
        let mut hasher = TensorHasher::new();
        leaf_digests(&bytes).iter().for_each(|leaf| hasher.push_leaf(leaf));
        assert_eq!(hasher.finish(), tensor_digest(&bytes));
    }

    #[test]
    fn pieces_of_any_size_give_the_same_digest() {
        let bytes: Vec<u8> = (0..4 * LEAF_BYTES + 9).map(|i| (i * 31 / 7) as u8).collect();
        let leaves = bytes.chunks(LEAF_BYTES).flat_map(|leaf| Sha::of(&[&[0], leaf]).0);
        let expected = Sha::of(&[&[1], &leaves.collect::<Vec<_>>()]);
        for size in [777, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 2 * LEAF_BYTES + 5] {
            let mut hasher = TensorHasher::new();
            // With a leaf open, and without.
            let (first, rest) = bytes.split_at(size / 2);
            [first].into_iter().chain(rest.chunks(size)).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), expected, "{size}");
        }
    }

    #[test]
    fn leaves_hashed_at_once_are_those_of_the_reference() {
        // Every padding of the last SHA-256 block, full leaves, and more leaves than any lanes.
        let bytes: Vec<u8> = (0..2 * LEAF_BYTES).map(|i| (i * 31 / 7) as u8).collect();
        let lengths = (0..200).chain([LEAF_BYTES - 1, LEAF_BYTES]);
        let leaves: Vec<&[u8]> = lengths.map(|len| &bytes[len % 77..][..len]).collect();
        for count in [1, 3, 4, 5, 15, 16, 17, 33, leaves.len()] {
            let some = &leaves[leaves.len() - count..];
            let expected: Vec<Digest> = some.iter().map(|leaf| Sha::of(&[&[0], leaf])).collect();
            assert_eq!(digest_leaves(some), expected, "{count} leaves");
        }
    }

    #[test]
    fn checkpoint_digest_depends_on_name_dtype_and_shape() {
        let digest = |name: &str, dtype, shape: &[u64]| {
            let mut hasher = CheckpointHasher::new();
            hasher.add(name, &TensorSpec::new(dtype, shape).unwrap(), tensor_digest(&[0; 8]));
            hasher.finish().unwrap()
        };
        use crate::dtype::Dtype::{Bf16, F16};
        let all = [
            digest("a", Bf16, &[4]),
            digest("b", Bf16, &[4]),
            digest("a", F16, &[4]),
            digest("a", Bf16, &[2, 2]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
    }
}
