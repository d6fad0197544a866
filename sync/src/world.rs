//! What a program gets from outside besides the store: the time of day and chance. Tests give their own.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::OsRng;
use rand::TryRngCore;

/// Clock and dice. Waiting is up to the timer of tokio, which tests can stop.
pub trait World: Debug + Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC.
    fn now(&self) -> u64;

    /// Fills the bytes with what nobody can guess.
    fn random(&self, bytes: &mut [u8]);
}

/// The clock and the dice of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl World for System {
    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self, bytes: &mut [u8]) {
        // Without chance there are no keys and no names; there is nothing to go on with.
        OsRng.try_fill_bytes(bytes).unwrap_or_else(|error| panic!("no random bytes: {error}"));
    }
}

/// A random number.
pub(crate) fn nonce(world: &dyn World) -> u64 {
    let mut bytes = [0; 8];
    world.random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Random bits for a name.
pub(crate) fn id(world: &dyn World) -> [u8; 16] {
    let mut bytes = [0; 16];
    world.random(&mut bytes);
    bytes
}
