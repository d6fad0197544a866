//! The worst-case size of a patch holds for the worst cases, and is not much larger than they are.

use proptest::prelude::*;
use pulse::coding::{Coding, ValueForm};
use pulse::dtype::{Dtype, TensorSpec};
use pulse::stream::{EncoderOptions, MaxSize};
use pulse::wire::FileKind;
use pulse::Encoder;
use testkit::files::noise;

const DTYPES: [Dtype; 6] = [Dtype::U8, Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::I64, Dtype::C64];

fn every_option() -> Vec<EncoderOptions> {
    let flat = |values| EncoderOptions::default().with_coding(Coding::Flat).with_values(values);
    let all = [
        EncoderOptions::default(),
        flat(ValueForm::UlpStep),
        flat(ValueForm::Xor),
        flat(ValueForm::Overwrite),
    ];
    all.into_iter().flat_map(|options| [options.clone().with_block_leaves(1), options]).collect()
}

/// Base and target in which a share of the elements differs, in whatever way.
fn pair(seed: u64, bytes: usize, width: usize, every: usize) -> [Vec<u8>; 2] {
    let (base, other) = (noise(seed, bytes), noise(!seed / 3, bytes));
    let mut target = base.clone();
    for start in (0..bytes).step_by(width * every) {
        target[start..start + width].copy_from_slice(&other[start..start + width]);
    }
    [base, target]
}

/// Bytes of the patch of one tensor, and the bound.
fn sizes(options: &EncoderOptions, spec: &TensorSpec, [base, target]: &[Vec<u8>; 2]) -> (u64, u64) {
    let mut encoder = Encoder::new(Vec::new(), options.clone()).unwrap();
    let mut tensor = encoder.patched("model.layers.0.weight", spec).unwrap();
    tensor.push(base, target).unwrap();
    tensor.end().unwrap();
    let most = MaxSize::new(options).tensor("model.layers.0.weight", Some(spec)).bytes();
    (encoder.finish().unwrap().1.patch_bytes, most)
}

#[test]
fn no_patch_of_noise_is_larger() {
    for dtype in DTYPES {
        let width = dtype.element_bytes();
        for (elements, every) in
            [(1, 1), (100, 1), (70_000, 1), (300_000, 1), (300_000, 2), (300_000, 129)]
        {
            let spec = TensorSpec::new(dtype.clone(), &[elements as u64]).unwrap();
            let pair = pair(7, elements * width, width, every);
            for options in every_option() {
                let (found, most) = sizes(&options, &spec, &pair);
                assert!(
                    found <= most,
                    "{dtype}, {elements} elements, every {every}: {found} > {most}"
                );
                if every == 1 && elements > 1000 {
                    // Flat blocks may have a byte of gap for each element beside it.
                    let slack = if options.block.coding == Coding::Flat { 2.2 } else { 1.1 };
                    assert!(
                        (most as f64) < found as f64 * slack + 1000.0,
                        "{dtype}: {most} is far above {found}"
                    );
                }
            }
        }
    }
}

#[test]
fn tensors_that_come_and_go_and_files_count() {
    let spec = TensorSpec::new(Dtype::F32, &[3, 5000]).unwrap();
    let (bytes, file) = (noise(3, 60_000), noise(4, 700_000));
    let options = EncoderOptions::default()
        .with_steps(1, u64::MAX)
        .with_run([0xff; 16])
        .with_metadata("key", "value");
    let mut encoder = Encoder::new(Vec::new(), options.clone()).unwrap();
    encoder.carry_file("tokenizer.json", FileKind::Companion, &file).unwrap();
    let mut added = encoder.added("added", &spec).unwrap();
    added.push(&[], &bytes).unwrap();
    added.end().unwrap();
    let mut deleted = encoder.deleted("deleted", &spec).unwrap();
    deleted.push(&bytes, &[]).unwrap();
    deleted.end().unwrap();
    let found = encoder.finish().unwrap().1.patch_bytes;
    let sized = MaxSize::new(&options).file("tokenizer.json", file.len() as u64);
    let most = sized.tensor("added", Some(&spec)).tensor("deleted", None).bytes();
    assert!(found <= most && most < found + 2000, "{found} and {most}");
    // What cannot be is bounded as well, and does not wrap.
    let huge = TensorSpec::new(Dtype::U8, &[u64::MAX]).unwrap();
    assert_eq!(
        MaxSize::new(&options).tensor("huge", Some(&huge)).tensor("too", Some(&huge)).bytes(),
        u64::MAX
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_patch_of_anything_is_larger(
        seed in any::<u64>(),
        elements in 1usize..20_000,
        every in 1usize..300,
        dtype in 0..DTYPES.len(),
        option in 0usize..8,
    ) {
        let dtype = &DTYPES[dtype];
        let spec = TensorSpec::new(dtype.clone(), &[elements as u64]).unwrap();
        let width = dtype.element_bytes();
        let (found, most) = sizes(&every_option()[option], &spec, &pair(seed, elements * width, width, every));
        prop_assert!(found <= most, "{} > {}", found, most);
    }
}
