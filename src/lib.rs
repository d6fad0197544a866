//! Verified lossless patches between model checkpoints: the `.pulse` wire format.
//!
//! Between two steps of reinforcement learning about 99% of a model's BF16 weights keep their
//! exact bits. This crate writes what changed as a *patch*, about half a byte for each changed
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
//!  tensors                  TensorSource, diff, Patch::apply_to: weights wherever they are
//!  patch                    Patch, Inventory: a whole patch, checked and read at random
//! ─────────────────────────── feature `parallel` ─────────────────────────────────────────
//!  stream                   Encoder ── a patch, any Write/Read ─▶ Decoder, PushDecoder ─▶ Event
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
//! it is, and [`Patch::compose`] makes one patch of many.
//!
//! **Weights in memory**: [`tensors::diff()`] makes a patch of two [`Weights`], or of whatever is a
//! [`TensorSource`]; [`Patch::apply_to`] changes [`WeightsMut`] once it has verified the result.
//!
//! **A stream of your own**: an [`Encoder`] is told `begin`, `push`, `end` for each tensor, then
//! `finish`, and writes to any `Write`. A [`PushDecoder`] is fed bytes as they arrive and gives
//! [`Event`]s, a [`Decoder`] pulls them from any `Read`; a [`Block`] of changes is applied to the
//! bytes that it covers, in place. The example below is this layer.
//!
//! **Digests**: a [`TensorHasher`] takes the bytes of a tensor, a [`CheckpointHasher`] the digests of
//! all tensors. If you use the streaming layer, you compare them; the layers above do it by themselves.
//!
//! What takes long also takes a [`Control`]: the number of threads, and a closure that is told of the
//! progress and may stop the work.
//!
//! Every call returns an [`Error`] that says who has to act: [`Error::Corrupt`] the patch,
//! [`Error::BaseMismatch`] the base at hand, [`Error::Limit`] this reader's [`Limits`],
//! [`Error::Misuse`] the caller. The guide in `docs/guide` of the repository goes through trainer
//! and receiver, chains and anchors; `examples` has programs to start from.
//!
//! [`Block`]: stream::Block
//! [`CheckpointHasher`]: hash::CheckpointHasher
//! [`Control`]: tensors::Control
//! [`TensorHasher`]: hash::TensorHasher
//! [`TensorSource`]: tensors::TensorSource
//! [`Weights`]: tensors::Weights
//! [`WeightsMut`]: tensors::WeightsMut
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
