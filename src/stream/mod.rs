//! Streaming: patches as they are written and read, in memory bounded by the block size.

mod encoder;
mod event;
mod framing;
mod grammar;
mod in_memory;
mod options;
mod pull;
mod push;
mod receiver;
mod session;
mod store;
mod target;
mod tensor_writer;
mod writer;

pub use encoder::Encoder;
pub use event::{Block, Event, Section};
#[cfg(feature = "parallel")]
pub(crate) use event::{Extent, Place};
pub use in_memory::InMemory;
pub use options::{EncoderOptions, TrustedBase};
pub use pull::Decoder;
pub use push::PushDecoder;
pub use receiver::{Received, Receiver};
#[cfg(feature = "parallel")]
pub(crate) use session::Session;
pub use session::Summary;
pub use store::Store;
pub use tensor_writer::TensorWriter;
#[cfg(feature = "checkpoint")]
pub(crate) use {session::tensor_header, writer::Totals};
