//! What the tests, the fuzz bodies and the tools share.
//!
//! | module | holds |
//! |---|---|
//! | `checkpoint` | checkpoints in memory, and the simplest safetensors file of one |
//! | `files` | safetensors files and directories made by hand, right or wrong, and a place on disk |
//! | `applier` | the plainest way to apply a patch, event by event |
//! | `encode` | tensors for an encoder, whatever happens to them |
//! | `held` | weights in memory, as a caller keeps them |
//! | `library` | the library on paths, as a caller would use it |
//! | `forge` | patches that no encoder writes, with every sum right |
//! | `hostile` | small patches that ask for much |
//! | `vectors` | the generator of `testvectors/` |
#![forbid(unsafe_code)]

pub mod applier;
pub mod checkpoint;
pub mod encode;
pub mod files;
pub mod forge;
pub mod held;
pub mod hostile;
pub mod library;
pub mod vectors;
