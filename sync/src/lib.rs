//! wip
#![forbid(unsafe_code)]
mod document;
mod error;
mod hint;
mod id;
mod json;
mod key;
mod manifest;
mod name;
mod record;
mod store;
mod world;
pub use error::{DocumentFault, Error, Result};
pub use id::{ParseIdError, Run, Writer};
pub use key::{PublicKey, SecretKey};
pub use manifest::Manifest;
pub use record::{Anchor, Data, Links, Record, Sealed};
pub use world::{System, World};
