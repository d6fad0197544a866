//! Patches that are applied at once take the memory of one, however their blocks are cut.

use crate::{alone, HEAP};
use pulse::checkpoint::ApplyOptions;
use pulse::coding::Coding;
use pulse::patch::Chain;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::UpdateOptions;
use testkit::files::{stepped, tensor, weights, Files, Place};
use testkit::library::{diff, open, open_patch};

const MIB: usize = 1 << 20;
/// Of the one tensor: 48 MiB.
const ELEMENTS: usize = 24 * MIB;
const PATCHES: usize = 6;

/// Blocks of 4 MiB in every patch, and blocks that overlap like bricks: then all of the tensor hangs
/// together.
#[test]
fn a_chain_takes_a_block_for_each_thread() {
    let _alone = alone();
    for (sizes, coding) in
        [([64, 64], Coding::Contextual), ([64, 63], Coding::Contextual), ([64, 63], Coding::Flat)]
    {
        let place = Place::new();
        let mut bytes = weights(1, ELEMENTS);
        let file = |bytes: &[u8]| Files::one(&[tensor("w", "BF16", &[ELEMENTS as u64], bytes)]);
        let base = place.put("base", &file(&bytes));
        let (mut from, mut patches) = (base.clone(), Vec::new());
        for step in 0..PATCHES {
            bytes = stepped(&bytes, 2, 150 + step);
            let (to, patch) = (
                place.put(&format!("{step}"), &file(&bytes)),
                place.path(&format!("{step}.pulse")),
            );
            let options =
                EncoderOptions::default().with_coding(coding).with_block_leaves(sizes[step % 2]);
            diff(Some(&from), &to, &patch, options, 2);
            patches.push(open_patch(&patch));
            from = to;
        }
        drop(bytes);
        let chain = Chain::new(&patches).unwrap();
        let peak = |work: &mut dyn FnMut(Control<'_>), threads: usize| {
            let before = HEAP.current_usage();
            HEAP.reset_peak_usage();
            work(Control::threads(threads));
            HEAP.peak_usage().saturating_sub(before)
        };
        let held = open(&base);
        for threads in [1, 2] {
            let out = place.path(&format!("out{threads}"));
            let most = threads * 8 * MIB;
            let mut apply = |control: Control<'_>| {
                chain.apply(Some(&held), &out, ApplyOptions::default(), control).unwrap();
            };
            let applied = peak(&mut apply, threads);
            assert!(applied < most, "{coding:?} {sizes:?}: {applied} bytes on {threads} threads");
            Files::read(&out).assert_same(&Files::read(&from));
        }
        drop(held);
        let mut update = |control: Control<'_>| {
            chain.update(&base, UpdateOptions::default(), control).unwrap();
        };
        let updated = peak(&mut update, 2);
        assert!(updated < 16 * MIB, "{coding:?} {sizes:?}: {updated} bytes in place");
    }
}
