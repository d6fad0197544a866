//! Arbitrary checkpoints through the encoder and back, however the bytes are cut into chunks.

use std::collections::BTreeSet;

use proptest::prelude::*;
use pulse::changes::{count_changes, for_each_ulp_step};
use pulse::coding::{Coding, Value};
use pulse::dtype::{Dtype, Order};
use pulse::hash::LEAF_BYTES;
use pulse::stream::{EncoderOptions, TensorWriter};
use pulse::{Decoder, Encoder, Event, Limits};
use testkit::applier::{apply, apply_pushed, Trickle, CODINGS};
use testkit::checkpoint::{Checkpoint, Tensor};
use testkit::encode::begin;

/// A small generator (splitmix64), so that large tensors cost a test case only a seed.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// What happens to the elements of a patched tensor.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// One or two up or down, as integers.
    Near,
    /// One bit flips.
    Bit,
    /// Any bits.
    Any,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Unchanged,
    Patched { change: Change, per_mille: u64 },
    Added,
    Deleted,
    Reshaped,
    Retyped,
}

/// A tensor of both checkpoints, before it has bytes.
#[derive(Debug, Clone)]
struct Plan {
    dtype: usize,
    elements: usize,
    fate: Fate,
    seed: u64,
}

fn dtype(number: usize) -> Dtype {
    Dtype::known().nth(number).unwrap_or(Dtype::Other("F4".into()))
}

fn plan() -> impl Strategy<Value = Plan> {
    let per_mille = prop_oneof![Just(0), Just(1), Just(10), Just(300), Just(1000)];
    let change = prop_oneof![Just(Change::Near), Just(Change::Bit), Just(Change::Any)];
    let fate = prop_oneof![
        1 => Just(Fate::Unchanged),
        8 => (change, per_mille).prop_map(|(change, per_mille)| Fate::Patched { change, per_mille }),
        1 => Just(Fate::Added),
        1 => Just(Fate::Deleted),
        1 => Just(Fate::Reshaped),
        1 => Just(Fate::Retyped),
    ];
    // The largest have a few leaves at any width.
    let elements =
        prop_oneof![1 => Just(0), 4 => 1..100usize, 4 => 100..5000usize, 1 => 30_000..150_000usize];
    (0..18usize, elements, fate, any::<u64>()).prop_map(|(dtype, elements, fate, seed)| {
        let most = 400_000 / self::dtype(dtype).element_bytes();
        Plan { dtype, elements: elements.min(most), fate, seed }
    })
}

impl Plan {
    fn changed(
        &self,
        base: &Tensor,
        random: &mut Random,
        change: Change,
        per_mille: u64,
    ) -> Tensor {
        let width = base.spec.dtype().element_bytes();
        let mut target = base.clone();
        for element in target.bytes.chunks_exact_mut(width) {
            if random.next() % 1000 < per_mille {
                let mut wide = [0; 8];
                wide[..width].copy_from_slice(element);
                let bits = u64::from_le_bytes(wide);
                let bits = match change {
                    Change::Near => bits.wrapping_add(random.next() % 4).wrapping_sub(2),
                    Change::Bit => bits ^ 1 << random.below(8 * width),
                    Change::Any => random.next(),
                };
                element.copy_from_slice(&bits.to_le_bytes()[..width]);
            }
        }
        target
    }

    /// The tensor in base and target.
    fn tensors(&self) -> (Option<Tensor>, Option<Tensor>) {
        let mut random = Random(self.seed);
        let dtype = dtype(self.dtype);
        let bytes = random.bytes(self.elements * dtype.element_bytes());
        let base = Tensor::from_bytes(dtype, &[self.elements as u64, 1], bytes);
        match self.fate {
            Fate::Unchanged => (Some(base.clone()), Some(base)),
            Fate::Added => (None, Some(base)),
            Fate::Deleted => (Some(base), None),
            Fate::Patched { change, per_mille } => {
                let target = self.changed(&base, &mut random, change, per_mille);
                (Some(base), Some(target))
            }
            Fate::Reshaped => {
                let shape = [1, self.elements as u64];
                let target =
                    Tensor::from_bytes(base.spec.dtype().clone(), &shape, base.bytes.clone());
                (Some(base), Some(target))
            }
            Fate::Retyped => {
                let bytes = random.bytes(self.elements / 2);
                let target = Tensor::from_bytes(Dtype::Other("I3".into()), &[7], bytes);
                (Some(base), Some(target))
            }
        }
    }
}

fn checkpoints(plans: &[Plan]) -> (Checkpoint, Checkpoint) {
    let (mut base, mut target) = (Checkpoint::default(), Checkpoint::default());
    for (number, plan) in plans.iter().enumerate() {
        let (old, new) = plan.tensors();
        let name = format!("layer.{number}");
        base.tensors.extend(old.map(|tensor| (name.clone(), tensor)));
        target.tensors.extend(new.map(|tensor| (name, tensor)));
    }
    (base, target)
}

/// Pushes bytes in random pieces. Within a block, the sides may come one after the other.
fn push_in_pieces(
    writer: &mut TensorWriter<'_, Vec<u8>>,
    base: &[u8],
    target: &[u8],
    block: usize,
    random: &mut Random,
) {
    let (mut base, mut target, mut at) = (base, target, 0);
    while !base.is_empty() || !target.is_empty() {
        let longest = [1, 100, LEAF_BYTES, 3 * LEAF_BYTES][random.below(4)];
        let piece = 1 + random.below(longest);
        let (old, older) = base.split_at(base.len().min(piece));
        let (new, newer) = target.split_at(target.len().min(piece));
        let one_block = at / block == (at + piece) / block;
        match random.below(3) {
            1 if one_block => {
                writer.push(old, &[]).unwrap();
                writer.push(&[], new).unwrap();
            }
            2 if one_block => {
                writer.push(&[], new).unwrap();
                writer.push(old, &[]).unwrap();
            }
            _ => writer.push(old, new).unwrap(),
        }
        (base, target, at) = (older, newer, at + piece);
    }
}

/// Encodes two checkpoints, in pieces if there is a random generator, else tensor by tensor.
fn encode(
    options: EncoderOptions,
    base: &Checkpoint,
    target: &Checkpoint,
    pieces: Option<Random>,
) -> Vec<u8> {
    let block = options.block_leaves as usize * LEAF_BYTES;
    push_all(Encoder::new(Vec::new(), options).unwrap(), block, base, target, pieces)
}

fn push_all(
    mut encoder: Encoder<Vec<u8>>,
    block: usize,
    base: &Checkpoint,
    target: &Checkpoint,
    mut random: Option<Random>,
) -> Vec<u8> {
    let names: BTreeSet<&String> = base.tensors.keys().chain(target.tensors.keys()).collect();
    for name in names {
        let (old, new) = (base.tensors.get(name), target.tensors.get(name));
        let specs = [old, new].map(|side| side.map(|tensor| &tensor.spec));
        let mut writer = begin(&mut encoder, name, specs[0], specs[1]).unwrap();
        let [old, new] = [old, new].map(|side| side.map_or(&[][..], |tensor| &tensor.bytes));
        match &mut random {
            None => writer.push(old, new).unwrap(),
            Some(random) => push_in_pieces(&mut writer, old, new, block, random),
        }
        writer.end().unwrap();
    }
    let (patch, summary) = encoder.finish().unwrap();
    assert_eq!(summary.patch_bytes, patch.len() as u64);
    assert_eq!(summary.footer.target, target.digest());
    patch
}

/// Numeric order as SPEC.md §7.1 defines it, written once more.
fn rank(order: Order, bits: u64, width: usize) -> u64 {
    let (sign, mask) = (1 << (8 * width - 1), u64::MAX >> (64 - 8 * width));
    match order {
        Order::Unsigned => bits,
        Order::Signed => bits ^ sign,
        Order::Float { .. } if bits & sign != 0 => !bits & mask,
        Order::Float { .. } => bits ^ sign,
    }
}

fn elements(dtype: &Dtype, bytes: &[u8]) -> Vec<u64> {
    let widen =
        |element: &[u8]| element.iter().rev().fold(0, |wide, &byte| wide << 8 | u64::from(byte));
    bytes.chunks_exact(dtype.element_bytes()).map(widen).collect()
}

/// The step between two elements, read as a signed number of their width.
fn step(dtype: &Dtype, base: u64, target: u64) -> i64 {
    let (order, width) = (dtype.order(), dtype.element_bytes());
    let unused = 64 - 8 * width;
    let difference = rank(order, target, width).wrapping_sub(rank(order, base, width));
    (difference << unused) as i64 >> unused
}

/// Holds the list of changes of a flat block, which needs no base, against the real ones.
fn check_changes(dtype: &Dtype, listed: Vec<(u64, Value)>, base: &[u8], target: &[u8]) {
    let (base, target) = (elements(dtype, base), elements(dtype, target));
    let pairs = base.iter().zip(&target).enumerate().filter(|(_, (base, target))| base != target);
    let expected: Vec<_> = pairs
        .zip(&listed)
        .map(|((element, (&base, &target)), (_, listed))| {
            let value = match listed {
                Value::UlpStep(_) => Value::UlpStep(step(dtype, base, target)),
                Value::Xor(_) => Value::Xor(base ^ target),
                _ => Value::Overwrite(target),
            };
            (element as u64, value)
        })
        .collect();
    assert_eq!(listed, expected);
}

/// Decodes every block in every way and compares with the target.
fn check_blocks(patch: &[u8], base: &Checkpoint, target: &Checkpoint, mut random: Random) {
    let mut decoder = Decoder::new(patch, Limits::default());
    let mut open = None;
    while let Some(event) = decoder.next_event().unwrap() {
        match event {
            Event::Tensor(header) if header.action.has_target() => {
                let zeros = Tensor {
                    bytes: vec![0; header.spec.as_ref().unwrap().bytes() as usize],
                    ..target.tensors[&header.name].clone()
                };
                let base = if header.action.is_whole() {
                    zeros
                } else {
                    base.tensors[&header.name].clone()
                };
                open = Some((base.bytes, &target.tensors[&header.name].bytes));
            }
            Event::Block(block) => {
                let (base, target) = open.as_ref().unwrap();
                let range = block.range().start as usize..block.range().end as usize;
                let (base, target) = (&base[range.clone()], &target[range]);
                let width = block.dtype().element_bytes();

                let mut in_place = base.to_vec();
                block.apply(&mut in_place).unwrap();
                assert!(in_place == target, "in place");

                let mut decoder = block.decode().unwrap();
                let mut in_chunks = base.to_vec();
                let mut rest = in_chunks.as_mut_slice();
                while !rest.is_empty() {
                    let chunk = (width * (1 + random.below(5000))).min(rest.len());
                    let (now, later) = rest.split_at_mut(chunk);
                    decoder.apply(now).unwrap();
                    rest = later;
                }
                assert!(decoder.is_done() && in_chunks == target, "in chunks");

                let mut decoder = block.decode().unwrap();
                let (mut copied, mut rest) = (Vec::new(), base);
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(1 + random.below(5000)));
                    decoder.apply_to(now, &mut copied).unwrap();
                    rest = later;
                }
                assert!(decoder.is_done() && copied == target, "into another buffer");

                let decoder = block.decode().unwrap();
                assert!(decoder.ulp_steps().is_some() || block.coding() != Coding::Contextual);
                if let Some(steps) = decoder.ulp_steps() {
                    let (mut steps, mut expected) = (steps.collect::<Vec<_>>(), Vec::new());
                    for_each_ulp_step(block.dtype(), base, target, |step| expected.push(step))
                        .unwrap();
                    steps.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(steps, expected);
                }
                if block.coding() == Coding::Flat {
                    let listed: Vec<_> = decoder.changes().expect("flat needs no base").collect();
                    assert_eq!(
                        block.changes(),
                        count_changes(block.dtype(), base, target).unwrap()
                    );
                    assert_eq!(block.changes(), listed.len() as u64);
                    check_changes(block.dtype(), listed, base, target);
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// R4: the decoder refuses whatever version 1.0 does not define, so the encoder writes nothing of the kind.
    #[test]
    fn every_coding_makes_the_target_of_the_base(
        plans in prop::collection::vec(plan(), 0..5),
        block_leaves in 1..=3u64,
        seed in any::<u64>(),
    ) {
        let (base, target) = checkpoints(&plans);
        for (coding, options) in CODINGS {
            let options = options().with_block_leaves(block_leaves);
            let patch = encode(options, &base, &target, None);
            let applied = apply(&base, &*patch).unwrap();
            prop_assert_eq!(applied.base_digest, Some(base.digest()));
            prop_assert!(applied.target == target, "{}", coding);
            check_blocks(&patch, &base, &target, Random(seed));
        }
    }

    #[test]
    fn a_snapshot_makes_the_target_of_nothing(plans in prop::collection::vec(plan(), 0..5), block_leaves in 1..=3u64) {
        let (_, target) = checkpoints(&plans);
        let (none, options) = (Checkpoint::default(), EncoderOptions::default().with_block_leaves(block_leaves));
        let encoder = Encoder::snapshot(Vec::new(), options).unwrap();
        let patch = push_all(encoder, block_leaves as usize * LEAF_BYTES, &none, &target, None);
        prop_assert!(apply(&none, &*patch).unwrap().target == target);
    }

    #[test]
    fn output_does_not_depend_on_how_bytes_are_pushed(
        plans in prop::collection::vec(plan(), 1..4),
        block_leaves in 1..=3u64,
        seed in any::<u64>(),
    ) {
        let (base, target) = checkpoints(&plans);
        for (coding, options) in CODINGS {
            let options = || options().with_block_leaves(block_leaves);
            let whole = encode(options(), &base, &target, None);
            let pieces = encode(options(), &base, &target, Some(Random(seed)));
            prop_assert!(whole == pieces, "{}", coding);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_how_bytes_are_fed(
        plans in prop::collection::vec(plan(), 1..4),
        chunk in 1..5000usize,
    ) {
        let (base, target) = checkpoints(&plans);
        for (_, options) in CODINGS {
            let patch = encode(options(), &base, &target, None);
            let whole = apply(&base, &*patch).unwrap();
            prop_assert!(apply(&base, Trickle::new(&patch, chunk)).unwrap() == whole);
            prop_assert!(apply_pushed(&base, &patch, chunk).unwrap() == whole);
        }
    }

    #[test]
    fn steps_are_those_of_the_spec(plan in plan()) {
        let (Some(base), Some(target)) = plan.tensors() else { return Ok(()) };
        prop_assume!(base.spec == target.spec);
        let dtype = base.spec.dtype();
        let mut found = Vec::new();
        for_each_ulp_step(dtype, &base.bytes, &target.bytes, |step| found.push(step)).unwrap();
        let pairs = elements(dtype, &base.bytes).into_iter().zip(elements(dtype, &target.bytes));
        let expected: Vec<i64> =
            pairs.filter(|(base, target)| base != target).map(|(base, target)| step(dtype, base, target)).collect();
        prop_assert_eq!(found, expected);
    }
}
