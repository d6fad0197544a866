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
//!  stream       Encoder ───── a patch, any Write/Read ────▶ Decoder, PushDecoder ──▶ Event
//!  block        BlockEncoder ─────── EncodedBlock ────────▶ Block, BlockDecoder
//!  bytes        Dtype, TensorSpec, TensorHasher, CheckpointHasher, for_each_ulp_step
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
//! **A stream of your own**: an [`Encoder`] is told `begin`, `push`, `end` for each tensor, then
//! `finish`, and writes to any `Write`. A [`PushDecoder`] is fed bytes as they arrive and gives
//! [`Event`]s, a [`Decoder`] pulls them from any `Read`; a [`Block`] of changes is applied to the
//! bytes that it covers, in place. The example below is this layer.
//!
//! **Digests**: a [`TensorHasher`] takes the bytes of a tensor, a [`CheckpointHasher`] the digests of
//! all tensors. Who uses the streaming layer compares them; the layers above do it by themselves.
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
//! use pulse::{Decoder, Encoder, Event, Limits};
//! use pulse::dtype::{Dtype, TensorSpec};
//! use pulse::hash::tensor_digest;
//! use pulse::stream::EncoderOptions;
//!
//! let base: Vec<u8> = (0..1000u16).flat_map(|i| (0x3c00 + i).to_le_bytes()).collect();
//! let mut target = base.clone();
//! target[20] ^= 1;
//!
//! // The trainer.
//! let spec = TensorSpec::new(Dtype::Bf16, &[10, 100])?;
//! let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default())?;
//! encoder.begin("layer.weight", Some(&spec), Some(&spec))?;
//! encoder.push(&base, &target)?;
//! encoder.end()?;
//! let (patch, summary) = encoder.finish()?;
//! assert_eq!(summary.footer.changes, 1);
//!
//! // The receiver.
//! let mut weights = base;
//! let mut decoder = Decoder::new(patch.as_slice(), Limits::default());
//! while let Some(event) = decoder.next_event()? {
//!     match event {
//!         Event::Block(block) => {
//!             let range = block.range();
//!             block.apply(&mut weights[range.start as usize..range.end as usize])?;
//!         }
//!         // Nothing is right until its digest says so.
//!         Event::TensorEnd(end) => assert_eq!(end.target, Some(tensor_digest(&weights))),
//!         _ => {}
//!     }
//! }
//! decoder.finish()?;
//! assert_eq!(weights, target);
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
// Patches and tensors, in control.
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
