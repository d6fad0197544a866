//! Live weights: one trainer publishes after each step, the world follows.
//!
//! A *feed* is a prefix of an object store, S3 and what speaks it, Google Cloud Storage, Azure, a directory,
//! with the versions of one model while it is trained. A [`Publisher`] appends, a [`Follower`] reads; nothing
//! else runs anywhere. `FEED.md` specifies the objects and the rules, the numbers [Fn] in this code are its.
//!
//! # The layers
//!
//! ```text
//!  status, verify, compact, prune, mirror    keeping a feed
//!  Publisher ─ publish_checkpoint            Follower ─ Versions
//!  upload                                    way, fetch
//!  Log: records, each proved to lead to those that are trusted
//!  Feed: store, address, clock
//!  Record, Manifest, hints: documents, sealed and signed
//! ```
//!
//! # Weights in memory and checkpoints on disk
//!
//! [`Publisher::publish`] takes weights wherever they are and a [`Shadow`](pulse::tensors::Shadow) of those
//! that were published last; [`Publisher::publish_checkpoint`] takes files. A [`Follower`] hands an
//! [`Update`] to whoever holds the weights: to be prepared beside those in use and committed in an instant,
//! or staged as a checkpoint by [`Versions`]. What happens at a switch is the caller's.
//!
//! # Tasks and work
//!
//! Calls are asynchronous, for the runtime of tokio. What takes a processor for long is done in place: in a
//! runtime of several threads the other tasks go on meanwhile, and data is sent while the rest is still
//! being encoded. In a runtime of one thread all waits, and data is held in memory before it is sent.
//!
//! # Features
//!
//! `aws`, `azure`, `gcp`, `http`: the stores of these providers, all by default. Directories and stores that
//! are given as objects need none of them.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

// Values: what documents say.
mod document;
mod error;
mod hint;
mod id;
mod json;
mod key;
mod manifest;
mod name;
mod record;
mod world;
// Where they are.
mod address;
mod feed;
#[cfg(feature = "net")]
mod remote;
mod retry;
mod store;
mod work;
// What they mean.
mod log;
mod way;
// Data on its way.
mod fetch;
mod upload;
// The two sides, and what is between them.
mod compact;
mod files;
mod follower;
mod keep;
mod mirror;
mod prune;
mod publisher;
mod status;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(feature = "fuzzing"), allow(dead_code))]
#[doc(hidden)]
pub mod fuzzing;

pub use compact::{compact, CompactOptions, Made};
pub use error::{DocumentFault, Error, Result};
pub use feed::Feed;
pub use files::Versions;
pub use follower::{Event, Follower, FollowerOptions, Update};
pub use hint::Latest;
pub use id::{ParseIdError, Run, Writer};
pub use key::{PublicKey, SecretKey};
pub use log::Mark;
pub use manifest::Manifest;
pub use mirror::{mirror, Mirrored};
pub use prune::{prune, PruneOptions, Pruned};
pub use publisher::{Published, Publisher, PublisherOptions};
pub use record::{Anchor, Data, Links, Record, Sealed};
pub use status::{records, status, verify, Audit, Recent, Status};
pub use way::{Part, Way};
pub use world::{System, World};

/// The chapter of the guide: its Rust blocks are tests.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../docs/guide/live.md")]
    struct Live;
}
