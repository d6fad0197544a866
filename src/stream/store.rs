//! Where a receiver reads the base and puts the target.

use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::Result;
use crate::wire::FileRecord;

/// Weights that a [`Receiver`](crate::stream::Receiver) turns from the base of a patch into its
/// target: it lends the tensors it holds, and stages those that change until they are verified.
///
/// What is staged must not show in [`tensors`](Self::tensors) and [`read`](Self::read), nor be used
/// in any other way, before [`commit`](Self::commit). If that is not called, the
/// store is to drop it, at [`start`](Self::start) at the latest.
/// An error from a method ends the receiving, and reaches the caller of the receiver as it is.
/// [`InMemory`](crate::stream::InMemory) is a store to start from; the example `socket` has one that
/// writes a file.
///
/// A store that keeps nothing verifies a snapshot:
///
/// ```
/// use pulse::stream::Receiver;
/// use pulse::{Encoder, Limits, Result};
/// use pulse::dtype::{Dtype, TensorSpec};
/// use pulse::stream::{EncoderOptions, Store};
///
/// struct Nothing;
///
/// impl Store for Nothing {
///     fn start(&mut self) -> Result<()> {
///         Ok(())
///     }
///     fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
///         Vec::new()
///     }
///     fn read(&self, name: &str, _: u64, _: &mut [u8]) -> Result<()> {
///         Err(pulse::Error::Misuse(format!("there is no tensor '{name}'")))
///     }
///     fn begin(&mut self, _: &str, _: &TensorSpec) -> Result<()> {
///         Ok(())
///     }
///     fn write(&mut self, _: &[u8]) -> Result<()> {
///         Ok(())
///     }
///     fn end(&mut self) -> Result<()> {
///         Ok(())
///     }
///     fn delete(&mut self, _: &str) -> Result<()> {
///         Ok(())
///     }
///     fn commit(&mut self) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default())?;
/// let mut tensor = encoder.added("w", &TensorSpec::new(Dtype::U8, &[3])?)?;
/// tensor.push(&[], b"abc")?;
/// tensor.end()?;
/// let (snapshot, summary) = encoder.finish()?;
///
/// let mut receiver = Receiver::new(Nothing, Limits::default());
/// receiver.push(&snapshot)?;
/// assert_eq!(receiver.finish()?.target(), summary.footer.target);
/// # Ok::<(), pulse::Error>(())
/// ```
pub trait Store {
    /// A patch begins: whatever was staged before, by a receiver that failed or was dropped, goes.
    /// Called once, before anything else.
    ///
    /// # Errors
    /// Whatever keeps the store from doing that.
    fn start(&mut self) -> Result<()>;

    /// Name and spec of every tensor that is held, in any order.
    fn tensors(&self) -> Vec<(&str, &TensorSpec)>;

    /// Fills `buffer` with the bytes of a tensor that is held, from byte `start` of it.
    ///
    /// # Errors
    /// Whatever keeps the store from reading.
    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()>;

    /// Tensor digest of a tensor that is held, if it was computed earlier from bytes that have not
    /// changed since (SPEC.md §8.4). A tensor that is not in the patch is then not read at all.
    fn digest(&self, name: &str) -> Option<Digest> {
        let _ = name;
        None
    }

    /// A file of the target, or one of the base that goes: see [`FileState`](crate::wire::FileState).
    /// If the patch carries it, its bytes follow in [`file_data`](Self::file_data). Otherwise, and
    /// before a store replaces or removes a file of its own, it is to compare that with the length
    /// and SHA-256 that the [record names for the base](FileRecord::base). Ignored unless the store
    /// says otherwise: the digests of a target are those of its tensors.
    ///
    /// # Errors
    /// Whatever keeps the store from going on.
    fn file(&mut self, record: &FileRecord) -> Result<()> {
        let _ = record;
        Ok(())
    }

    /// The next bytes of the file of the last [`file`](Self::file). Verified when all have come.
    ///
    /// # Errors
    /// Whatever keeps the store from going on.
    fn file_data(&mut self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Begins to stage a tensor of the target, which replaces the one of this name if one is held.
    /// Only tensors in the patch are staged: the others stay as they are. A patch may claim any
    /// size, so allocate for bytes that have come.
    ///
    /// # Errors
    /// Whatever keeps the store from going on.
    fn begin(&mut self, name: &str, spec: &TensorSpec) -> Result<()>;

    /// The next bytes of the tensor, unchanged ones included.
    ///
    /// # Errors
    /// Whatever keeps the store from writing.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// The tensor is complete and has its target digest. It still may not be used.
    ///
    /// # Errors
    /// Whatever keeps the store from writing.
    fn end(&mut self) -> Result<()>;

    /// Stages that this tensor, which is held, is not in the target.
    ///
    /// # Errors
    /// Whatever keeps the store from going on.
    fn delete(&mut self, name: &str) -> Result<()>;

    /// Everything is verified: what was staged is now held.
    ///
    /// # Errors
    /// Whatever keeps the store from writing.
    fn commit(&mut self) -> Result<()>;
}

impl<S: Store + ?Sized> Store for &mut S {
    fn start(&mut self) -> Result<()> {
        (**self).start()
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        (**self).tensors()
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        (**self).read(name, start, buffer)
    }

    fn digest(&self, name: &str) -> Option<Digest> {
        (**self).digest(name)
    }

    fn file(&mut self, record: &FileRecord) -> Result<()> {
        (**self).file(record)
    }

    fn file_data(&mut self, bytes: &[u8]) -> Result<()> {
        (**self).file_data(bytes)
    }

    fn begin(&mut self, name: &str, spec: &TensorSpec) -> Result<()> {
        (**self).begin(name, spec)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (**self).write(bytes)
    }

    fn end(&mut self) -> Result<()> {
        (**self).end()
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        (**self).delete(name)
    }

    fn commit(&mut self) -> Result<()> {
        (**self).commit()
    }
}
