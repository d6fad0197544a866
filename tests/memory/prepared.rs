//! An update that is prepared costs a few bytes for each change, whatever the weights have.

use crate::{alone, HEAP};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::tensors::{
    diff, Control, DiffOptions, PrepareOptions, TensorMut, TensorRef, Weights, WeightsMut,
};
use pulse::{Limits, Patch};

const MIB: usize = 1 << 20;
/// 128 Mi elements of BF16.
const BYTES: usize = 256 * MIB;

/// 12 bytes for each change of BF16, and 64 MiB for the threads; of blocks that are decoded again, what
/// the patch says of them.
#[test]
fn a_prepared_update_holds_its_changes() {
    let _alone = alone();
    let spec = TensorSpec::new(Dtype::Bf16, &[BYTES as u64 / 2]).unwrap();
    let mut base: Vec<u8> = (0..BYTES as u32 / 2)
        .flat_map(|i| ((i.wrapping_mul(0x9e37_79b9) >> 16) as u16 & 0x83ff | 0x3c00).to_le_bytes())
        .collect();
    let mut patch = Vec::new();
    {
        let mut target = base.clone();
        // Here and there one up or down, as the lowest bit says: half a per cent.
        for (i, element) in target.chunks_exact_mut(2).enumerate() {
            element[0] ^= u8::from((i as u32).wrapping_mul(0x85eb_ca6b) >> 16 < 328);
        }
        let weights = |bytes| {
            let tensor = TensorRef::new(spec.clone(), bytes).unwrap();
            [("w", tensor)].into_iter().collect::<Weights<'_>>()
        };
        let control = Control::default();
        diff(Some(&weights(&base)), &weights(&target), &mut patch, DiffOptions::default(), control)
            .unwrap();
    }
    let patch = Patch::from_bytes(patch, Limits::default()).unwrap();
    let changes = patch.footer().changes as usize;
    assert!((600_000..750_000).contains(&changes), "{changes} changes");
    for (max, held_most) in [(1 << 30, 8 * changes), (0, 2 * patch.bytes() as usize)] {
        let options = PrepareOptions::default().with_changes_bytes_max(max);
        let tensor = TensorMut::new(spec.clone(), &mut base).unwrap();
        let mut weights: WeightsMut<'_> = [("w", tensor)].into_iter().collect();
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let prepared = patch.prepare(&weights, options, Control::default()).unwrap();
        let (held, peak) = (HEAP.current_usage() - before, HEAP.peak_usage() - before);
        println!("{changes} changes: {held} bytes held, {peak} at most");
        assert!(held <= held_most, "{held} bytes held for {changes} changes");
        assert!(peak <= 12 * changes + 64 * MIB, "{peak} bytes for {changes} changes");
        if max == 0 {
            HEAP.reset_peak_usage();
            prepared.commit(&mut weights, Control::default()).unwrap();
            let peak = HEAP.peak_usage() - before;
            println!("{peak} bytes to commit");
            assert!(peak <= held_most + 64 * MIB, "{peak} bytes to commit");
        }
    }
    let tensor = TensorRef::new(spec, &base).unwrap();
    let weights: Weights<'_> = [("w", tensor)].into_iter().collect();
    patch.verify_weights(&weights, Control::default()).unwrap();
}
