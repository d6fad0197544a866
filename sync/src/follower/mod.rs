//! The side of those who run the model.

mod follower;
mod options;
mod update;

pub use follower::Follower;
pub use options::{Event, FollowerOptions};
pub use update::Update;
