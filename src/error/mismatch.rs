//! How a checkpoint differs from the base that a patch was made from.

use std::fmt;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::Visible;

/// A base that is not the one that the patch was made from, and how it differs.
///
/// A patch names the tensors that it changes and the digest of all; of a tensor that it leaves
/// alone it knows no name. So `missing` and `extra` list what can be named, and the numbers of
/// tensors say the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseMismatch {
    /// The patch; `None` if it is in memory or in a stream.
    pub file: Option<PathBuf>,
    /// The first tensor whose bytes differ, where one is known; the digests are then its own,
    /// else those of the checkpoint.
    pub tensor: Option<String>,
    /// Digest that the patch names.
    pub expected: Digest,
    /// Digest of what was given.
    pub found: Digest,
    /// Tensors that the patch changes and the base lacks.
    pub missing: Vec<String>,
    /// Tensors that the patch adds and the base has already.
    pub extra: Vec<String>,
    /// Tensors of another dtype or shape.
    pub reshaped: Vec<Reshaped>,
    /// Number of tensors of the right base, and of this one.
    pub tensors: Option<(u64, u64)>,
    /// The checkpoint is the target of the patch, or of the last one of a chain: it was applied before.
    pub is_target: bool,
    /// So many patches of a chain, the first ones, were applied before: the checkpoint is the target of
    /// the last of these. Zero where it is the target of none, or of all.
    pub applied: usize,
}

/// A tensor that has another dtype or shape than the patch expects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reshaped {
    /// Name of the tensor.
    pub tensor: String,
    /// Dtype and shape that the patch expects, such as `BF16 [2, 3]`.
    pub expected: String,
    /// Dtype and shape of the tensor given.
    pub found: String,
}

/// More names than this are counted, not listed, in a message.
const LISTED: usize = 3;

/// "'a', 'b', 'c' and 7 more".
fn list(f: &mut fmt::Formatter<'_>, what: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> =
        names.iter().take(LISTED).map(|name| format!("'{}'", Visible(name))).collect();
    write!(f, "; {what} {}", shown.join(", "))?;
    match names.len() - shown.len() {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl BaseMismatch {
    /// A base with the wrong digest, of which no more is known.
    ///
    /// ```
    /// use pulse::error::BaseMismatch;
    /// use pulse::hash::Digest;
    /// let mismatch = BaseMismatch::new(Some("w".into()), Digest([0; 32]), Digest([1; 32]));
    /// assert!(mismatch.to_string().starts_with("wrong base: tensor 'w' differs: expected digest 00"));
    /// ```
    #[must_use]
    pub fn new(tensor: Option<String>, expected: Digest, found: Digest) -> Self {
        BaseMismatch {
            file: None,
            tensor,
            expected,
            found,
            missing: Vec::new(),
            extra: Vec::new(),
            reshaped: Vec::new(),
            tensors: None,
            is_target: false,
            applied: 0,
        }
    }
}

impl fmt::Display for BaseMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", Visible(file.display()))?;
        }
        if self.is_target {
            return write!(f, "the checkpoint is already the target of the patch");
        }
        if self.applied > 0 {
            let (patches, them) = match self.applied {
                1 => ("the first patch".into(), "it"),
                count => (format!("the first {count} patches"), "them"),
            };
            return write!(
                f,
                "the checkpoint is already the target of {patches}; leave {them} out"
            );
        }
        f.write_str("wrong base: ")?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor '{}' differs: ", Visible(tensor))?;
        }
        write!(f, "expected digest {}, found {}", self.expected, self.found)?;
        list(f, "missing:", &self.missing)?;
        list(f, "unexpected:", &self.extra)?;
        for Reshaped { tensor, expected, found } in self.reshaped.iter().take(LISTED) {
            let (found, expected) = (Visible(found), Visible(expected));
            write!(f, "; tensor '{}' is {found}, expected {expected}", Visible(tensor))?;
        }
        if self.reshaped.len() > LISTED {
            write!(f, "; and {} more of another dtype or shape", self.reshaped.len() - LISTED)?;
        }
        match self.tensors {
            Some((expected, found)) if expected != found => {
                write!(f, "; number of tensors: {found}, expected {expected}")
            }
            _ => Ok(()),
        }
    }
}
