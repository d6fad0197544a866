//! The code of the library under thousands of schedules: only store, clock and dice are replaced.
//!
//! `cargo test --test simulation` runs as many as fit in twenty seconds, ten at least; `PULSE_SCHEDULES=20000` as many, from `PULSE_FIRST` on;
//! `PULSE_SEED=7` that one, and prints what happened.

mod dice;
mod entry;
mod hostile;
mod keeper;
mod model;
mod reader;
mod schedule;
mod store;
mod trainer;
mod truth;

use std::time::Instant;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// How long schedules are run where nobody says how many.
const TIME: std::time::Duration = std::time::Duration::from_secs(20);

/// Runs a schedule again with its history, and fails with it.
fn fail(seed: u64, rule: &str) -> ! {
    let (again, history) = schedule::run(seed, true);
    assert_eq!(again.err().as_deref(), Some(rule), "seed {seed} does not do the same twice");
    panic!("{history}\nPULSE_SEED={seed}: {rule}");
}

#[test]
fn no_schedule_breaks_a_rule() {
    if let Some(seed) = number("PULSE_SEED") {
        let (seen, history) = schedule::run(seed, true);
        println!("{history}");
        assert!(seen.is_ok(), "PULSE_SEED={seed}: {}", seen.unwrap_err());
        return;
    }
    let first = number("PULSE_FIRST").unwrap_or(0);
    // Unless somebody says how many, as many as a test may take.
    let wanted = number("PULSE_SCHEDULES");
    let mut count = 0;
    // How many may fail before it stops.
    let mut most = number("PULSE_FAULTS").unwrap_or(0);
    let begin = Instant::now();
    let (mut versions, mut seconds) = (0, 0.0);
    for seed in first.. {
        let is_enough = match wanted {
            Some(wanted) => count == wanted,
            None => count >= 10 && begin.elapsed() > TIME,
        };
        if is_enough {
            break;
        }
        count += 1;
        match schedule::run(seed, false).0 {
            Ok(seen) => {
                versions += seen.versions;
                seconds += seen.seconds;
            }
            Err(rule) if most == 0 => fail(seed, &rule),
            Err(rule) => {
                println!("PULSE_SEED={seed}: {rule}");
                most -= 1;
            }
        }
    }
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{count} schedules, {versions} versions, {:.0} hours in {took:.1} s",
        seconds / 3600.0
    );
    assert!(versions > 4 * count, "there is something to follow");
}
