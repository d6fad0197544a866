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
            let limits = Limits::default().with_name_expansion(100);
            let (bytes, (events, result)) = allocated(|| list(&patch, limits));
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

#[cfg(feature = "checkpoint")]
mod patches {
    //! What commands do with a patch that was opened.

    use std::ops::ControlFlow;
    use std::sync::atomic::{AtomicU64, Ordering};

    use pulse::chain::{ComposeOptions, InvertOptions};
    use pulse::checkpoint::ApplyOptions;
    use pulse::patch::Inventory;
    use pulse::tensors::Control;
    use pulse::{Checkpoint, Limits, Patch, Result};
    use testkit::hostile::{
        all_steps, all_zeros, far_apart, huge_tensor, steps_in_a_row, zero_file,
    };

    use super::{allocated, alone, assert_linear};

    const MIB: usize = 1 << 20;

    fn open(patch: Vec<u8>) -> Patch {
        Patch::from_bytes(patch, Limits::default()).unwrap()
    }

    fn kind<T>(result: Result<T>) -> Option<&'static str> {
        result.err().map(|error| error.kind())
    }

    type Work = fn(&Patch, Control<'_>) -> Result<()>;

    /// What is done with a patch alone.
    const WORK: [(&str, Work); 3] = [
        ("verify", |patch, control| patch.verify(control)),
        ("invert", |patch, control| {
            patch.invert(std::io::sink(), InvertOptions::default(), control).map(|_| ())
        }),
        ("compose", |patch, control| {
            let patches = std::slice::from_ref(patch);
            let options = ComposeOptions::default();
            Patch::compose(patches, None, std::io::sink(), options, control).map(|_| ())
        }),
    ];

    /// Bytes of tensors that the work says it has done, and bytes that it asked for.
    fn counted(work: Work, patch: &Patch) -> (u64, usize) {
        let done = AtomicU64::new(0);
        let progress = |bytes| {
            done.fetch_add(bytes, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let control = Control::threads(1).with_progress(&progress);
        let (bytes, result) = allocated(|| work(patch, control));
        result.unwrap();
        (done.into_inner(), bytes)
    }

    /// One change costs the same in a tensor of a gigabyte and in one of 2^43 bytes.
    #[test]
    fn unchanged_bytes_cost_nothing_however_many_are_declared() {
        let _alone = alone();
        for (what, work) in WORK {
            let [small, large] = [30, 43].map(|bits| counted(work, &open(huge_tensor(1 << bits))));
            assert_eq!(small.0, large.0, "{what}: bytes of tensors");
            assert!(large.0 <= 8 << 20, "{what}: {} bytes of tensors for one change", large.0);
            assert!(large.1 < small.1 + 1000, "{what}: {} bytes, then {}", small.1, large.1);
        }
    }

    #[test]
    fn four_times_as_many_changes_cost_four_times_as_much_wherever_they_are() {
        let _alone = alone();
        for (what, work) in WORK {
            let [small, large] = [100, 400].map(|count| counted(work, &open(far_apart(count))));
            assert_linear(what, small.1, large.1);
            assert!(
                large.0 <= 4 * small.0,
                "{what}: {} bytes of tensors, then {}",
                small.0,
                large.0
            );
        }
    }

    /// Without a base at hand nothing unpacks far more changes than a patch of its size could hold.
    #[test]
    fn changes_that_unpack_without_end_are_refused_before_the_first() {
        let _alone = alone();
        let patch = open(all_steps(100));
        for (what, work) in WORK {
            let (bytes, result) = allocated(|| work(&patch, Control::threads(1)));
            assert_eq!(kind(result), Some("limit"), "{what}");
            assert!(bytes < MIB, "{what}: {bytes} bytes");
        }
        // Who trusts it raises the limit; and one full block needs no trust.
        let limits = Limits::default().with_expansion(u64::MAX);
        Patch::from_bytes(all_steps(2), limits).unwrap().verify(Control::threads(1)).unwrap();
        open(all_steps(1)).verify(Control::threads(1)).unwrap();
    }

    /// What unpacks for nothing does so once, however many patches are given.
    #[test]
    fn patches_that_are_composed_unpack_no_more_together_than_one() {
        let _alone = alone();
        let patches: Vec<Patch> = steps_in_a_row(40).into_iter().map(open).collect();
        let (bytes, result) = allocated(|| {
            let (options, control) = (ComposeOptions::default(), Control::threads(1));
            Patch::compose(&patches, None, std::io::sink(), options, control).map(|_| ())
        });
        assert_eq!(kind(result), Some("limit"));
        assert!(bytes < 2 * MIB, "{bytes} bytes");
    }

    #[test]
    fn an_inspection_leaves_packed_what_is_too_much_and_says_so() {
        let _alone = alone();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("p");
        let [one, all] = [1, 100].map(|blocks| {
            std::fs::write(&path, all_steps(blocks)).unwrap();
            let (bytes, map) = allocated(|| Inventory::inspect(&path, Limits::default()));
            let map = map.unwrap();
            assert!(map.error.is_none(), "{:?}", map.error);
            (bytes, map)
        });
        assert_eq!((one.1.left_packed, all.1.left_packed), (0, 99));
        assert_eq!(one.1.ulp_steps, all.1.ulp_steps);
        assert!(all.0 < one.0 + MIB, "{} bytes, then {}", one.0, all.0);
    }

    /// What a patch carries whole is bounded where it is read, whoever reads it.
    #[test]
    fn what_unpacks_to_hundreds_of_times_its_size_is_refused_as_it_is_read() {
        let _alone = alone();
        for (what, few, many) in
            [("blocks", all_zeros(64), all_zeros(100)), ("file", zero_file(256), zero_file(600))]
        {
            open(few);
            let error = Patch::from_bytes(many.clone(), Limits::default()).unwrap_err();
            assert_eq!(error.kind(), "limit", "{what}");
            Patch::from_bytes(many, Limits::default().with_expansion(1 << 20)).unwrap();
        }
    }

    /// A target of other tensors is found out before the patch is turned round.
    #[test]
    fn a_revert_looks_at_the_target_first() {
        let _alone = alone();
        let place = tempfile::tempdir().unwrap();
        let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
        let file = [&(json.len() as u64).to_le_bytes()[..], json, b"abc"].concat();
        let path = place.path().join("target");
        std::fs::write(&path, file).unwrap();
        let target = Checkpoint::open(&path).unwrap();
        for patch in [huge_tensor(1 << 43), all_steps(100), far_apart(1000)] {
            let patch = open(patch);
            let out = place.path().join("out");
            let (bytes, result) = allocated(|| {
                patch.revert(&target, &out, ApplyOptions::default(), Control::threads(1))
            });
            assert_eq!(kind(result), Some("target"));
            assert!(bytes < MIB, "{bytes} bytes");
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is written");
        }
    }
}
