//! Timing: medians over rounds, and each time beside SHA-256 over the same bytes.

use std::hint::black_box;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::pair::Pair;
use crate::{text, Layout, Result};

/// Odd, so that there is a median.
const ROUNDS: usize = 11;

/// Seconds in each round.
type Times = [f64; ROUNDS];

fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let done = work();
    (started.elapsed().as_secs_f64(), done)
}

fn median(mut times: Times) -> f64 {
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// Seconds of SHA-256 over the tensor bytes of the target.
fn sha_seconds(pair: &Pair) -> f64 {
    seconds(|| black_box(Sha256::digest(&pair.target))).0
}

/// Median time of SHA-256 and bytes per second, as text.
pub fn sha(pair: &Pair) -> [String; 2] {
    let sha = median([(); ROUNDS].map(|()| sha_seconds(pair)));
    [text::seconds(sha), text::bytes((pair.target.len() as f64 / sha) as u64)]
}

/// Size of what a layout sends, and cells for both of its times and their ratios to SHA-256.
pub struct Measured {
    pub bytes: u64,
    pub times: [String; 4],
}

/// Runs a layout and checks every decoding.
pub fn measure(pair: &Pair, layout: &Layout) -> Result<Measured> {
    let (mut sha, mut encode, mut decode): (Times, Times, Times) = Default::default();
    let (mut bytes, mut weights) = (0, pair.base.clone());
    for round in 0..ROUNDS {
        sha[round] = sha_seconds(pair);
        let (time, message) = seconds(|| (layout.encode)(pair));
        let message = message?;
        (encode[round], bytes) = (time, message.bytes());
        weights.copy_from_slice(&pair.base);
        let (time, done) = seconds(|| (layout.decode)(pair, &message, &mut weights));
        done?;
        decode[round] = time;
        if weights != pair.target {
            return Err(format!("{}: the decoding is not the target", layout.name).into());
        }
    }
    // Ratios are taken within a round, where the machine was about as busy for both.
    let ratio = |times: Times| {
        format!("{:.2}", median(std::array::from_fn(|round| times[round] / sha[round])))
    };
    let times = [
        text::seconds(median(encode)),
        ratio(encode),
        text::seconds(median(decode)),
        ratio(decode),
    ];
    Ok(Measured { bytes, times })
}
