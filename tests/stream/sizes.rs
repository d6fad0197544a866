//! Contextual blocks are smaller than flat ones and than XOR with zstd, at other dtypes and
//! densities than those it was made for.

use pulse::coding::{BlockEncoder, BlockOptions, Coding, ValueForm};
use pulse::dtype::Dtype;

/// Numbers from 0 to 1, the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal: variance 1, mean 0.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.roll()).sum::<f64>() - 6.0
    }
}

struct Sizes {
    contextual: usize,
    flat: usize,
    xor_zstd: usize,
    changes: u64,
}

fn sizes(dtype: &Dtype, base: &[u8], target: &[u8]) -> Sizes {
    let encode = |coding, values| {
        let options = BlockOptions::default().with_coding(coding).with_values(values);
        let block = BlockEncoder::new(options).encode(dtype, base, target).unwrap().unwrap();
        let mut found = base.to_vec();
        let elements = (base.len() / dtype.element_bytes()) as u64;
        block.decode(dtype, elements).unwrap().apply(&mut found).unwrap();
        assert!(found == target);
        block
    };
    let contextual = encode(Coding::Contextual, ValueForm::UlpStep);
    let flat = [ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite]
        .map(|form| encode(Coding::Flat, form).payload.len());
    let xor: Vec<u8> = base.iter().zip(target).map(|(base, target)| base ^ target).collect();
    Sizes {
        changes: contextual.changes,
        contextual: contextual.payload.len(),
        flat: flat.into_iter().min().unwrap(),
        xor_zstd: zstd::bulk::compress(&xor, 1).unwrap().len(),
    }
}

fn assert_contextual_wins(name: &str, sizes: &Sizes) {
    let Sizes { contextual, flat, xor_zstd, .. } = *sizes;
    assert!(
        contextual < flat && contextual < xor_zstd,
        "{name}: {contextual}, flat {flat}, XOR + zstd {xor_zstd}"
    );
}

#[test]
fn f32_masters_where_everything_changes() {
    for rate in [1e-6, 1e-4] {
        let mut dice = Dice(1);
        let (mut base, mut target) = (Vec::new(), Vec::new());
        for _ in 0..200_000 {
            let weight = (0.02 * dice.normal()) as f32;
            let stepped = (f64::from(weight) - rate * 0.23 * dice.normal()) as f32;
            base.extend_from_slice(&weight.to_le_bytes());
            target.extend_from_slice(&stepped.to_le_bytes());
        }
        let sizes = sizes(&Dtype::F32, &base, &target);
        assert!(sizes.changes > 190_000, "nearly everything changes");
        assert_contextual_wins("F32", &sizes);
    }
}

#[test]
fn f16_at_a_quarter_density() {
    let mut dice = Dice(2);
    let (mut base, mut target) = (Vec::new(), Vec::new());
    for _ in 0..200_000 {
        let weight = 0.02 * dice.normal();
        let stepped = weight - 1.7e-6 * dice.normal();
        base.extend_from_slice(&half::f16::from_f64(weight).to_le_bytes());
        target.extend_from_slice(&half::f16::from_f64(stepped).to_le_bytes());
    }
    let sizes = sizes(&Dtype::F16, &base, &target);
    let density = sizes.changes as f64 / 200_000.0;
    assert!((0.2..0.35).contains(&density), "density {density}");
    assert_contextual_wins("F16", &sizes);
}

#[test]
fn regular_patterns_are_left_to_flat() {
    let base = vec![0x3f; 400_000];
    let mut target = base.clone();
    target.iter_mut().step_by(6).for_each(|byte| *byte ^= 1);
    let encoder = |coding| BlockEncoder::new(BlockOptions::default().with_coding(coding));
    let block = encoder(Coding::Contextual).encode(&Dtype::Bf16, &base, &target).unwrap().unwrap();
    assert_eq!(block.coding, Coding::Flat);
    assert!(block.payload.len() < 500);
}

#[test]
fn a_block_beyond_64_mib_is_refused_before_it_is_decoded() {
    let mut encoder = BlockEncoder::new(BlockOptions::default().with_coding(Coding::Flat));
    let block = encoder.encode(&Dtype::U8, &[0], &[1]).unwrap().unwrap();
    assert!(block.decode(&Dtype::U8, 1 << 26).is_ok());
    assert_eq!(block.decode(&Dtype::U8, (1 << 26) + 1).unwrap_err().kind(), "misuse");
    assert_eq!(block.decode(&Dtype::F64, u64::MAX).unwrap_err().kind(), "misuse");
}
