//! Verified lossless patches between model checkpoints: the `.pulse` wire format.
//!
//! Between two steps of reinforcement learning about 99% of a model's BF16 weights keep their
//! exact bits. This crate writes what changed as a *patch*, about half a byte for each changed
//! element, and turns a base checkpoint and a patch into the target, bit for bit, proved by
//! SHA-256 before anybody can use it. The format is specified in `SPEC.md`; the method is that
//! of PULSE, arXiv 2602.03839.
//!
//! # The layers
//!
//! Each layer uses only those below it, and you may enter at any:
//!
//! ```text
//!  files        Checkpoint, diff, apply, verify, stat       safetensors files and directories
//!  memory       TensorSource, diff_tensors, apply_in_place  weights wherever they are
//! ─────────────────────────── feature `checkpoint`: parallel ──────────────────────────────
//!  stream       Encoder ───── a patch, any Write/Read ────▶ Receiver: a verified target
//!                                                           Decoder, PushDecoder ──▶ Event
//!  block        BlockEncoder ─────── EncodedBlock ────────▶ Block, BlockDecoder
//!  bytes        Dtype, TensorSpec, TensorHasher, CheckpointHasher, for_each_step
//! ```
//!
//! # Where to start
//!
//! **Checkpoints on disk**: [`Checkpoint::open`], then [`diff()`] to make a patch and [`apply()`]
//! to use one, on all cores and in bounded memory. Outputs appear whole or not at all. See
//! [`diff()`] for both in ten lines.
//!
//! **Weights in memory**: [`diff_tensors`] makes a patch of maps of [`TensorRef`]s, or of whatever
//! is a [`TensorSource`]; [`apply_in_place`] changes [`TensorMut`]s after it has proved the result.
//!
//! **A stream of your own**: an [`Encoder`] gives a writer for each tensor, takes its bytes, and writes
//! to any `Write`. A [`Receiver`] is pushed bytes as they arrive and applies them to weights in a map,
//! or wherever a [`Store`](stream::Store) has them; these take over the target only after all of it
//! is verified. The example below is this layer.
//!
//! **Events**: to look into a patch, feed a [`PushDecoder`] or let a [`Decoder`] pull from any `Read`;
//! both give [`Event`]s. They check the file, not what it makes of a base.
//!
//! **Digests**: a [`TensorHasher`](hash::TensorHasher) takes the bytes of a tensor, a
//! [`CheckpointHasher`](hash::CheckpointHasher) the digests of all tensors.
//!
//! Every call returns an [`Error`] that says who has to act: [`Error::Corrupt`] the patch,
//! [`Error::BaseMismatch`] the base at hand, [`Error::Limit`] this reader's [`Limits`],
//! [`Error::Misuse`] the caller. The guide in `docs/guide` of the repository goes through trainer
//! and receiver, chains and anchors; `examples` has programs to start from.
//!
//! # Example
//!
//! A trainer sends one tensor to a receiver that holds the base:
//!
//! ```
//! use std::collections::BTreeMap;
//! use pulse::{Encoder, Limits, Receiver};
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
//! `cli` (default) builds the programs `pulse` and `pulse-inspect`; `checkpoint` adds files and
//! directories; without both, the streaming library is left, and few dependencies.
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
mod word;
// Blocks, sections, streams.
pub mod coding;
pub mod stream;
pub mod wire;
// Patches and tensors, in parallel.
#[cfg(feature = "parallel")]
#[cfg_attr(not(feature = "checkpoint"), allow(dead_code))] // patches are read, and nothing is written
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
pub use stream::{Decoder, Encoder, Event, PushDecoder, Receiver};

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
