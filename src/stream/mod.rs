//! Streaming: patches as they are written and read, in memory bounded by the block size.

mod encoder;
mod event;
pub(crate) mod fit;
mod framing;
mod grammar;
mod in_memory;
mod max_size;
mod options;
mod pull;
mod push;
mod receiver;
mod session;
mod store;
pub(crate) mod tally;
mod target;
mod tensor_writer;
mod writer;

pub use encoder::Encoder;
pub use event::{Block, Event, Section};
#[cfg(feature = "parallel")]
pub(crate) use event::{Extent, Place};
pub use in_memory::InMemory;
pub use max_size::MaxSize;
pub use options::{EncoderOptions, Lineage, TrustedBase};
pub use pull::Decoder;
pub use push::PushDecoder;
pub use receiver::{Received, Receiver};
pub use session::Summary;
pub use store::Store;
pub use tensor_writer::TensorWriter;
#[cfg(feature = "checkpoint")]
pub(crate) use writer::Totals;
#[cfg(feature = "parallel")]
pub(crate) use {
    options::BaseSide,
    session::{tensor_header, Session, TensorOutcome},
};
