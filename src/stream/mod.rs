//! Streaming: patches as they are written and read, in memory bounded by the block size.

mod encoder;
mod event;
mod max_size;
mod options;
mod pull;
mod push;
mod session;
mod writer;

pub use encoder::Encoder;
pub use event::{Block, Event, Section};
#[cfg(feature = "parallel")]
pub(crate) use event::{Extent, Place};
pub use max_size::MaxSize;
pub use options::{EncoderOptions, Lineage, TrustedBase};
pub use pull::Decoder;
pub use push::PushDecoder;
pub use session::Summary;
#[cfg(feature = "parallel")]
pub(crate) use {options::BaseSide, session::Session};
#[cfg(feature = "checkpoint")]
pub(crate) use {session::tensor_header, writer::Totals};
