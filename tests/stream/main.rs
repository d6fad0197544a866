//! Streams: the encoder, the decoders and the receiver, whatever is in them and however it arrives.

mod encoder;
mod limits;
mod max_size;
mod mutations;
mod portability;
mod random_access;
mod receiver;
mod roundtrip;
mod sizes;
mod sweeps;
