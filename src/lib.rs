//! Verified lossless patches between model checkpoints: the `.pulse` wire format.
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
    apply, diff, stat, verify, write_whole, ApplyOptions, ApplyReport, Checkpoint, CheckpointTensor, DiffReport,
    MappedBlock, MappedFile, MappedTensor, Parallel, PatchFile, PatchMap, SectionTotal, TensorStat,
};
pub use coding::{BlockDecoder, BlockEncoder, Coding, EncodedBlock, Value};
pub use digest::{leaf_digest, tensor_digest, CheckpointHasher, Digest, TensorHasher, LEAF_BYTES};
pub use dtype::{Dtype, TensorSpec};
pub use element::{count_changes, for_each_step, Order, ValueForm};
pub use error::{Corrupt, Error, Fault, Result};
pub use limits::Limits;
pub use stream::{Block, Decoder, Encoder, EncoderOptions, Event, PushDecoder, Section, Summary};
pub use wire::{Action, FileKind, FileRecord, FileSource, Footer, Header, Tag, TensorEnd, TensorHeader};
pub use wire::{MAJOR, MINOR, SIGNATURE};
