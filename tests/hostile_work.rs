//! Work grows with the bytes of a patch and no faster. It is counted in bytes allocated and events
//! given, never in seconds, so that the bounds hold on any machine.

use std::alloc::System;
use std::sync::{Mutex, MutexGuard};

use pulse::Limits;
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};
use testkit::hostile::{list, tiny_blocks, tiny_sections, tiny_tensors};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What the patch is full of, and how to make one.
type Case = (&'static str, fn(u64) -> Vec<u8>);

/// All bytes that `work` asks for, given back or not.
fn allocated<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let region = Region::new(HEAP);
    let result = work();
    (region.change().bytes_allocated, result)
}

/// What four times as many sections may cost: four times as much, and room for a vector that has just doubled.
fn assert_linear(what: &str, small: usize, large: usize) {
    println!("{what}: {small} bytes, then {large}");
    assert!(large <= 5 * small + (256 << 10), "{what}: {small} bytes, then {large}");
}

#[test]
fn reading_four_times_as_much_costs_four_times_as_much() {
    let _alone = alone();
    let cases: [Case; 4] = [
        ("blocks", tiny_blocks),
        ("tensors", |count| tiny_tensors(count, 0)),
        ("tensors with long names", |count| tiny_tensors(count, 4000)),
        ("unknown sections", tiny_sections),
    ];
    for (what, patch) in cases {
        let [(small, few), (large, many)] = [5000, 20_000].map(|count| {
            let patch = patch(count);
            let (bytes, (events, result)) = allocated(|| list(&patch, Limits::default()));
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
            (bytes, events)
        });
        assert_linear(what, small, large);
        assert!(many <= 4 * few, "{what}: {few} events, then {many}");
    }
}

#[cfg(feature = "checkpoint")]
#[test]
fn mapping_four_times_as_much_costs_four_times_as_much() {
    let _alone = alone();
    let cases: [Case; 2] = [("blocks", tiny_blocks), ("tensors", |count| tiny_tensors(count, 0))];
    for (what, patch) in cases {
        let [small, large] = [5000, 20_000].map(|count| {
            let patch = patch(count);
            let (bytes, result) = allocated(|| pulse::Patch::from_bytes(patch, Limits::default()));
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
            bytes
        });
        assert_linear(what, small, large);
    }
}

/// A block of an ever greater tensor with many dimensions asks for nothing but its place in a map.
#[test]
fn a_block_costs_nothing_for_the_shape_of_its_tensor() {
    let _alone = alone();
    let (bytes, (_, result)) = allocated(|| list(&tiny_blocks(100_000), Limits::default()));
    result.unwrap();
    // The patch itself is made within: sections of four bytes, a few vectors that double.
    let (made, _) = allocated(|| tiny_blocks(100_000));
    assert!(bytes - made < 128 << 10, "{} bytes", bytes - made);
}

#[cfg(feature = "checkpoint")]
#[test]
fn headers_four_times_as_large_cost_four_times_as_much() {
    let _alone = alone();
    let row = r#""w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let strings =
        |count: u32| (0..count).map(|i| format!(r#""{i:x}":"""#)).collect::<Vec<_>>().join(",");
    let empty = |i: u32| format!(r#""t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let cases: [(&str, &dyn Fn(u32) -> String); 3] = [
        ("strings", &|count| format!(r#"{{"__metadata__":{{{}}},{row}}}"#, strings(count))),
        ("tensors", &|count| {
            format!("{{{row},{}}}", (0..count).map(empty).collect::<Vec<_>>().join(","))
        }),
        ("brackets", &|count| format!(r#"{{"w":{}"#, "[".repeat(count as usize))),
    ];
    for (what, json) in cases {
        let [small, large] = [20_000, 80_000].map(|count| {
            let patch = testkit::hostile::with_header(&json(count));
            let patch = pulse::Patch::from_bytes(patch, Limits::default()).unwrap();
            allocated(|| patch.verify(pulse::tensors::Control::threads(1))).0
        });
        assert_linear(what, small, large);
    }
}
