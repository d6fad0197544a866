//! Verified lossless patches between model checkpoints: the `.pulse` wire format.
//!
//! Between two steps of reinforcement learning about 99% of a model's BF16 weights keep their
//! exact bits. This crate writes what changed as a *patch*, about a byte for each changed
//! element, and turns a base checkpoint and a patch into the target, bit for bit, verified by
//! SHA-256 before anybody can use it. The format is specified in `SPEC.md`; the method is that
//! of PULSE, arXiv 2602.03839.
//!
//! # The layers
//!
//! Each layer uses only those below it, and you may enter at any:
//!
//! ```text
//!  chain, update, measure   Patch::{compose, invert, revert, update}, recover, stat
//!  checkpoint               Checkpoint, diff, Patch::{apply, verify}: safetensors files
//! ─────────────────────────── feature `checkpoint` ───────────────────────────────────────
//!  tensors                  TensorSource, diff, Patch::{prepare, apply_to}, Part, join, Shadow: weights
//!                           wherever they are
//!  patch                    Patch: checked in full · Tail: one tensor without the rest
//! ─────────────────────────── feature `parallel` ─────────────────────────────────────────
//!  stream                   Encoder ── a patch, any Write/Read ─▶ Receiver: a verified target
//!                                                                Decoder, PushDecoder ─▶ Event
//!  wire                     Header, FileRecord, TensorHeader, Footer: sections and their fields
//!  coding                   BlockEncoder ──── EncodedBlock ─────▶ BlockDecoder
//!  dtype, hash, changes     Dtype, TensorSpec, TensorHasher, CheckpointHasher, for_each_ulp_step
//! ```
//!
//! # Where to start
//!
//! **Checkpoints on disk**: [`Checkpoint::open`], then [`checkpoint::diff()`] to make a patch;
//! [`Patch::open`], then [`Patch::apply`] to use one, on all cores and in bounded memory. Outputs
//! appear whole or not at all. See [`checkpoint::diff()`] for both in ten lines.
//! [`Patch::verify`] checks a patch and writes nothing, [`Patch::update`] changes a checkpoint where
//! it is, and [`Patch::compose`] makes one patch of many. A [`Chain`](patch::Chain) of patches is
//! applied in one pass.
//!
//! **Weights in memory**: [`tensors::diff()`] makes a patch of two [`Weights`], or of whatever is a
//! [`TensorSource`]; [`Patch::apply_to`] changes [`WeightsMut`] once it has verified the result.
//! [`Patch::prepare`] does all but the writing beside weights that are in use, and lists what changes for
//! weights on a device. A [`Shadow`](tensors::Shadow) keeps what was published last, and
//! [`join`](tensors::join) makes one patch of the parts of many ranks.
//!
//! **A stream of your own**: an [`Encoder`] gives a writer for each tensor, takes its bytes, and writes
//! to any `Write`. A [`Receiver`](stream::Receiver) is pushed bytes as they arrive and applies them to weights in a map,
//! or wherever a [`Store`](stream::Store) has them; these take over the target only after all of it
//! is verified. The example below is this layer.
//!
//! **Events**: to look into a patch, feed a [`PushDecoder`] or let a [`Decoder`] pull from any `Read`;
//! both give [`Event`]s. They check the file, not what it makes of a base.
//!
//! **Digests**: a [`TensorHasher`](hash::TensorHasher) takes the bytes of a tensor, a
//! [`CheckpointHasher`](hash::CheckpointHasher) the digests of all tensors.
//!
//! What takes long also takes a [`Control`]: the number of threads, and a closure that is told of the
//! progress and may stop the work.
//!
//! Every call returns an [`Error`] that says who has to act: [`Error::Corrupt`] the patch,
//! [`Error::BaseMismatch`] the base given, [`Error::Limit`] this reader's [`Limits`],
//! [`Error::Misuse`] the caller. The guide in `docs/guide` of the repository goes through trainer
//! and receiver, chains and anchors; `examples` has programs to start from.
//!
//! [`Control`]: tensors::Control
//! [`TensorSource`]: tensors::TensorSource
//! [`Weights`]: tensors::Weights
//! [`WeightsMut`]: tensors::WeightsMut
//!
//! # Example
//!
//! A trainer sends one tensor to a receiver that holds the base:
//!
//! ```
//! use std::collections::BTreeMap;
//! use pulse::{Encoder, Limits};
//! use pulse::stream::Receiver;
//! use pulse::dtype::{Dtype, TensorSpec};
//! use pulse::stream::EncoderOptions;
//!
//! let base: Vec<u8> = (0..1000u16).flat_map(|i| (0x3c00 + i).to_le_bytes()).collect();
//! let mut target = base.clone();
//! target[20] ^= 1;
//!
//! // The trainer.
//! let spec = TensorSpec::new(Dtype::Bf16, &[10, 100])?;
//! let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
//! let mut tensor = encoder.patched("layer.weight", &spec)?;
//! tensor.push(&base, &target)?;
//! tensor.end()?;
//! let (patch, summary) = encoder.finish()?;
//! assert_eq!(summary.footer.changes, 1);
//!
//! // The receiver.
//! let mut weights = BTreeMap::from([("layer.weight".to_string(), (spec, base))]);
//! let mut receiver = Receiver::in_memory(&mut weights, Limits::default())?;
//! for arrived in patch.chunks(100) {
//!     receiver.push(arrived)?;
//! }
//! let received = receiver.finish()?; // the weights change here, if all of it is verified
//! assert_eq!(received.target(), summary.footer.target);
//! assert_eq!(weights["layer.weight"].1, target);
//! # Ok::<(), pulse::Error>(())
//! ```
//!
//! # Features
//!
//! `checkpoint` (default) adds files and directories, and implies `parallel`, which adds weights in
//! memory and patches read at random; without both, the streaming library is left, and few
//! dependencies.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

// Ground: values and errors.
mod digest;
pub mod error;
mod limits;
mod tag;
// Bytes.
mod bits;
mod packed;
mod parse;
mod varint;
// Elements.
pub mod changes;
pub mod dtype;
pub mod hash;
mod places;
mod word;
// Blocks, sections, streams.
pub mod coding;
pub mod stream;
pub mod wire;
// Patches and tensors, in parallel.
#[cfg(feature = "parallel")]
#[cfg_attr(not(feature = "checkpoint"), allow(dead_code))] // patches are only read
mod disk;
#[cfg(feature = "parallel")]
#[cfg_attr(not(feature = "checkpoint"), allow(dead_code))] // files are for checkpoints
pub mod patch;
#[cfg(feature = "parallel")]
pub mod tensors;
// Checkpoints in files.
#[cfg(feature = "checkpoint")]
pub mod chain;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
#[cfg(feature = "checkpoint")]
pub mod measure;
#[cfg(feature = "checkpoint")]
pub mod update;

#[cfg(feature = "checkpoint")]
pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use limits::Limits;
#[cfg(feature = "parallel")]
pub use patch::Patch;
pub use stream::{Decoder, Encoder, Event, PushDecoder};

// The examples of README.md compile and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// And so do those of the guide.
#[cfg(all(doctest, feature = "checkpoint"))]
mod guide {
    #[doc = include_str!("../docs/guide/trainer.md")]
    struct Trainer;
    #[doc = include_str!("../docs/guide/receiver.md")]
    struct Receiver;
    #[doc = include_str!("../docs/guide/codings.md")]
    struct Codings;
}
