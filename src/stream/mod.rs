//! Streaming: patches as they are written and read, in memory bounded by the block size.

mod encoder;
mod options;
mod pull;
mod push;
mod session;
mod writer;

pub use encoder::Encoder;
pub use options::{EncoderOptions, TrustedBase};
pub use pull::Decoder;
pub use push::{Block, Event, PushDecoder, Section};
pub use session::Summary;
#[cfg(feature = "checkpoint")]
pub(crate) use {
    push::{Extent, Place},
    session::{tensor_header, Session},
};
