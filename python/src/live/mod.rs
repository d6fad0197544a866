//! Feeds: weights that are published, and followed.

mod event;
mod failure;
mod follower;
mod keeping;
mod publisher;
mod record;
mod tasks;
mod version;

use std::path::PathBuf;

use pulse_sync::{SecretKey, System};
use pyo3::prelude::*;

pub(crate) use follower::Follower;
pub(crate) use keeping::{
    feed_compact, feed_log, feed_mirror, feed_prune, feed_status, feed_verify,
};
pub(crate) use publisher::{Published, Publisher};
pub(crate) use record::Record;
pub(crate) use version::Version;

/// Makes a key that signs a feed, keeps it in a file that nobody else may read, and gives back its public half, which
/// followers trust. A file that exists is never replaced.
#[pyfunction]
pub(crate) fn keygen(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let key = SecretKey::generate(&System);
    key.save(path).map_err(|error| failure::raise(py, error))?;
    Ok(key.public().to_string())
}
