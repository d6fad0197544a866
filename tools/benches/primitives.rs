//! The inner loops, each alone, on one block of BF16 weights under Adam.
//!
//! `cargo bench -p pulse-tools`, or `… -- contextual` for some of them. Codes and varints are private:
//! they show in the codings that they are made of.

use divan::counter::BytesCount;
use divan::{black_box, Bencher};
use pulse::changes::count_changes;
use pulse::coding::{BlockEncoder, Coding, EncodedBlock};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{tensor_digest, CheckpointHasher, LEAF_BYTES};
use pulse::stream::EncoderOptions;
use pulse_tools::adam;
use sha2::{Digest, Sha256};

/// A block of the default size.
const ELEMENTS: usize = 16 * LEAF_BYTES;
const BYTES: usize = 2 * ELEMENTS;
/// Of the block as a matrix.
const COLUMNS: u64 = 4096;

/// About how many elements change. The least is what one step of training leaves behind.
const DENSITIES: [&str; 2] = ["0.5%", "3%"];

fn main() {
    divan::main();
}

/// Base and target, after so many optimizer steps as make this density.
fn pair(density: &str) -> [Vec<u8>; 2] {
    let steps = match density {
        "0%" => 0,
        "0.5%" => 1,
        _ => 8,
    };
    adam::weights(1, ELEMENTS, [0, steps])
}

fn flat() -> EncoderOptions {
    EncoderOptions::default().with_coding(Coding::Flat)
}

fn encoded(options: &EncoderOptions, base: &[u8], target: &[u8]) -> EncodedBlock {
    let block = BlockEncoder::new(options.block).encode(&Dtype::Bf16, base, target);
    block.expect("both are whole elements").expect("something changed")
}

#[divan::bench(args = ["0%", "0.5%", "3%"])]
fn compare(bencher: Bencher, density: &str) {
    let [base, target] = pair(density);
    bencher
        .counter(BytesCount::new(BYTES))
        .bench(|| count_changes(&Dtype::Bf16, black_box(&base), black_box(&target)));
}

fn encode(bencher: Bencher, density: &str, options: &EncoderOptions) {
    let [base, target] = pair(density);
    let mut encoder = BlockEncoder::new(options.block);
    bencher
        .counter(BytesCount::new(BYTES))
        .bench_local(|| encoder.encode(&Dtype::Bf16, &base, &target));
}

/// The same block as rows of a matrix, with signs that are predicted if that makes it smaller.
#[divan::bench(args = DENSITIES)]
fn contextual_encode_matrix(bencher: Bencher, density: &str) {
    let [base, target] = pair(density);
    let mut encoder = BlockEncoder::new(EncoderOptions::default().block).with_columns(COLUMNS);
    bencher
        .counter(BytesCount::new(BYTES))
        .bench_local(|| encoder.encode(&Dtype::Bf16, &base, &target));
}

/// Signs that are predicted: those of a product of rows and columns.
#[divan::bench(args = DENSITIES)]
fn contextual_decode_matrix(bencher: Bencher, density: &str) {
    let [base, mut target] = pair(density);
    adam::align_signs(COLUMNS as usize, &base, &mut target);
    let mut encoder = BlockEncoder::new(EncoderOptions::default().block).with_columns(COLUMNS);
    let block = encoder.encode(&Dtype::Bf16, &base, &target).expect("whole elements");
    decode(bencher, &base, &block.expect("something changed"), Coding::Contextual);
}

/// Parsing counts: a receiver does both once for each block.
fn decode(bencher: Bencher, base: &[u8], block: &EncodedBlock, coding: Coding) {
    assert_eq!(block.coding, coding);
    // Applying is in place, so every round needs bytes of its own.
    bencher.counter(BytesCount::new(BYTES)).with_inputs(|| base.to_vec()).bench_local_refs(
        |weights| {
            block
                .decode(&Dtype::Bf16, ELEMENTS as u64)
                .and_then(|mut decoder| decoder.apply(weights))
        },
    );
}

#[divan::bench(args = DENSITIES)]
fn contextual_encode(bencher: Bencher, density: &str) {
    encode(bencher, density, &EncoderOptions::default());
}

#[divan::bench(args = DENSITIES)]
fn contextual_decode(bencher: Bencher, density: &str) {
    let [base, target] = pair(density);
    decode(
        bencher,
        &base,
        &encoded(&EncoderOptions::default(), &base, &target),
        Coding::Contextual,
    );
}

#[divan::bench(args = DENSITIES)]
fn flat_encode(bencher: Bencher, density: &str) {
    encode(bencher, density, &flat());
}

#[divan::bench(args = DENSITIES)]
fn flat_decode(bencher: Bencher, density: &str) {
    let [base, target] = pair(density);
    decode(bencher, &base, &encoded(&flat(), &base, &target), Coding::Flat);
}

/// A block of a tensor without a base: byte planes and zstd frames, and the digests of its leaves.
/// What an encoder adds is SHA-256 of the file, which has two thirds of the bytes: `one_message`.
#[divan::bench]
fn whole_encode(bencher: Bencher) {
    let [weights, _] = pair("0%");
    let mut encoder = BlockEncoder::new(EncoderOptions::default().block);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        let block = encoder.encode_whole(&Dtype::Bf16, black_box(&weights));
        (block.expect("whole elements"), tensor_digest(&weights))
    });
}

#[divan::bench]
fn whole_decode(bencher: Bencher) {
    let [weights, _] = pair("0%");
    let mut encoder = BlockEncoder::new(EncoderOptions::default().block);
    let block = encoder.encode_whole(&Dtype::Bf16, &weights).expect("whole elements");
    bencher.counter(BytesCount::new(BYTES)).with_inputs(|| vec![0; BYTES]).bench_local_refs(
        |weights| {
            let decoder = block.decode(&Dtype::Bf16, ELEMENTS as u64);
            decoder.and_then(|mut decoder| decoder.apply(weights)).expect("what was encoded");
            tensor_digest(weights)
        },
    );
}

/// Many leaves at a time …
#[divan::bench]
fn leaves(bencher: Bencher) {
    let [weights, _] = pair("0%");
    bencher.counter(BytesCount::new(BYTES)).bench(|| tensor_digest(black_box(&weights)));
}

/// … against one message, a single chain of dependent rounds.
#[divan::bench]
fn one_message(bencher: Bencher) {
    let [weights, _] = pair("0%");
    bencher.counter(BytesCount::new(BYTES)).bench(|| Sha256::digest(black_box(&weights)));
}

/// The same bytes in tensors of a block, a leaf, and a quarter of one, where lanes stay empty.
#[divan::bench(args = [BYTES, LEAF_BYTES, LEAF_BYTES / 4])]
fn checkpoint(bencher: Bencher, tensor_bytes: usize) {
    let [weights, _] = pair("0%");
    let spec = TensorSpec::new(Dtype::Bf16, &[tensor_bytes as u64 / 2]).expect("a small tensor");
    let weights = weights.repeat(8);
    let names: Vec<String> =
        (0..weights.len() / tensor_bytes).map(|i| format!("model.layers.{i:05}.weight")).collect();
    bencher.counter(BytesCount::new(weights.len())).bench(|| {
        let mut hasher = CheckpointHasher::new();
        for (name, bytes) in names.iter().zip(weights.chunks_exact(tensor_bytes)) {
            hasher.add(name, &spec, tensor_digest(black_box(bytes)));
        }
        hasher.finish()
    });
}
