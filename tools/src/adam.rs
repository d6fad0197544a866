//! BF16 weights under Adam, any number of them, a chunk at a time.
//!
//! What `pulse demo` simulates, but each chunk depends on its number alone: no state of the whole
//! model is ever in memory.

use pulse_cli::simulation::Noise;

/// Adam's first moment decays by this per step.
const BETA1: f32 = 0.9;
const LEARNING_RATE: f32 = 1e-6;
/// The spread of weights with 576 inputs, of which one step changes as many as in real training.
const SCALE: f32 = 1.0 / 24.0;

/// Bytes of a chunk of so many elements after each of these numbers of steps, which ascend.
pub fn weights<const N: usize>(chunk: u64, elements: usize, steps: [u32; N]) -> [Vec<u8>; N] {
    let mut noise = Noise(chunk.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut saved = [(); N].map(|()| Vec::with_capacity(2 * elements));
    for _ in 0..elements {
        let mut master = SCALE * noise.normal();
        // The spread that the moment of pure noise settles at.
        let mut moment = ((1.0 - BETA1) / (1.0 + BETA1)).sqrt() * noise.normal();
        let mut done = 0;
        for (saved, step) in saved.iter_mut().zip(steps) {
            for _ in done..step {
                moment = BETA1 * moment + (1.0 - BETA1) * noise.normal();
                master -= LEARNING_RATE * moment;
            }
            done = step;
            saved.extend_from_slice(&half::bf16::from_f32(master).to_le_bytes());
        }
    }
    saved
}

/// Turns the steps of a matrix around, so that each goes up or down as its row and its column say.
pub fn align_signs(columns: usize, base: &[u8], target: &mut [u8]) {
    for (i, (base, target)) in base.chunks_exact(2).zip(target.chunks_exact_mut(2)).enumerate() {
        let [old, new] = [[base[0], base[1]], [target[0], target[1]]].map(u16::from_le_bytes);
        let up = ((i / columns).count_ones() + (i % columns).count_ones()).is_multiple_of(2);
        let is_negative = old >> 15 == 1;
        let distance = new.abs_diff(old);
        // In bits, a negative number goes up when it goes down.
        let turned =
            if up == is_negative { old.wrapping_sub(distance) } else { old.wrapping_add(distance) };
        target.copy_from_slice(&turned.to_le_bytes());
    }
}
