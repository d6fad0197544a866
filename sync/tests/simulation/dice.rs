//! Chance by a seed: the same numbers on every machine and in every version of what it is built with.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use pulse_sync::World;
use tokio::time::{Duration, Instant};

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Dice of their own, so that what one actor throws changes nothing for the others.
    pub fn fork(&mut self) -> Dice {
        Dice(self.next())
    }

    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.between(0..=999) < per_mille
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.between(0..=of.len() as u64 - 1) as usize]
    }

    pub fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.between(range))
    }

    /// Short mostly, long now and then, as waits on the internet are.
    pub fn delay(&mut self, slow: u64) -> Duration {
        let range = if self.chance(slow) { 1_000..=20_000 } else { 1..=120 };
        self.millis(range)
    }
}

/// Dice that several tasks throw.
#[derive(Debug)]
pub struct Shared(Mutex<Dice>);

impl Shared {
    pub fn new(dice: Dice) -> Self {
        Shared(Mutex::new(dice))
    }

    pub fn with<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.0.lock().unwrap())
    }
}

/// Milliseconds since 1970 when a schedule starts.
pub const EPOCH: u64 = 1_800_000_000_000;

/// The clock and the dice of one process: its clock may be wrong.
pub struct Place {
    dice: Shared,
    start: Instant,
    skew: i64,
}

impl Place {
    pub fn new(dice: Dice, start: Instant, skew: i64) -> Self {
        Place { dice: Shared::new(dice), start, skew }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.skew)
    }
}

impl World for Place {
    fn now(&self) -> u64 {
        (EPOCH + self.start.elapsed().as_millis() as u64).saturating_add_signed(self.skew)
    }

    fn random(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.dice.with(Dice::next).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}
