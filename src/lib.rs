//! Verified lossless patches between model checkpoints: the `.pulse` wire format.
//!
//! Between two steps of reinforcement learning about 99% of a model's BF16 weights keep their
//! exact bits. This crate writes what changed as a *patch*, about half a byte for each changed
//! element, and turns a base checkpoint and a patch into the target, bit for bit, proved by
//! SHA-256 before anybody can use it. The format is specified in `SPEC.md`; the method is that
//! of PULSE, arXiv 2602.03839.
//!
//! # Where to start
//!
//! * [`Encoder`] writes a patch to any `Write` from base and target bytes pushed in chunks.
//! * [`PushDecoder`] is fed bytes as they arrive and gives [`Event`]s; [`Decoder`] does the same
//!   from any `Read`. A [`Block`] of changes is applied to the weights in place.
//! * [`Checkpoint`], [`diff()`] and [`apply()`] work on safetensors files and directories, in
//!   parallel and in bounded memory (feature `checkpoint`, on by default through `cli`).
//! * [`TensorHasher`] and [`CheckpointHasher`] compute the digests that say that all is right.
//!
//! # Example
//!
//! A trainer sends one tensor to a receiver that holds the base:
//!
//! ```
//! use pulse::{tensor_digest, Decoder, Dtype, Encoder, EncoderOptions, Event, Limits, TensorSpec};
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

mod bits;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod coding;
mod digest;
mod dtype;
mod element;
mod error;
mod limits;
mod parse;
mod stream;
mod varint;
mod wire;

#[cfg(feature = "checkpoint")]
pub use checkpoint::{
    apply, apply_in_place, compose, diff, diff_tensors, invert, recover, revert, stat, update, verify, write_whole,
    ApplyOptions, ApplyReport, Checkpoint, CheckpointTensor, ComposeReport, DiffReport, MappedBlock, MappedFile,
    MappedTensor, Parallel, PatchFile, PatchMap, Recovery, SectionTotal, TensorMut, TensorRef, TensorSource,
    TensorStat, UpdateReport,
};
#[cfg(feature = "checkpoint")]
pub use checkpoint::{
    module_of, patch_sizes, Density, Kind, ModuleStat, PairStat, PatchSizes, Series, SeriesCheckpoint, SeriesPair,
    SeriesStat, SeriesWindow, TensorTotal, Window,
};
pub use coding::{Account, BlockDecoder, BlockEncoder, Coding, EncodedBlock, Value};
pub use digest::{leaf_digest, tensor_digest, CheckpointHasher, Digest, TensorHasher, LEAF_BYTES};
pub use dtype::{Dtype, TensorSpec};
pub use element::{count_changes, for_each_step, Order, ValueForm};
pub use error::{Corrupt, Error, Fault, Result};
pub use limits::Limits;
pub use stream::{Block, Decoder, Encoder, EncoderOptions, Event, PushDecoder, Section, Summary, TrustedBase};
pub use wire::{Action, FileKind, FileRecord, FileSource, Footer, Header, Tag, TensorEnd, TensorHeader};
pub use wire::{MAJOR, MINOR, SIGNATURE};

// The examples of README.md compile and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
