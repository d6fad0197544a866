//! What the measuring programs share.

pub mod adam;
pub mod events;
pub mod safetensors;
pub mod trained;
