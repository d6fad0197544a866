//! Changes patches section by section: a fuzzer that only knows bytes seldom keeps the framing.

use testkit::forge::{self, Section};

/// Most bytes by which a payload grows at once.
const GROWTH: usize = 64;

/// Changes the patch in the first `size` bytes of `data`, and seals it. `mutate` is what libFuzzer does to any bytes:
/// it changes the first `size` bytes of a buffer and returns how many there are then.
pub fn patch(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    mut mutate: impl FnMut(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut sections = forge::sections(&data[..size]);
    // Different parts of the seed choose different things.
    let [what, first, second, plain] =
        seed.wrapping_mul(0x9e37_79b1).to_be_bytes().map(usize::from);
    if sections.is_empty() || plain % 16 == 0 {
        return mutate(data, size, max_size);
    }
    let (first, second) = (first % sections.len(), second % sections.len());
    let mut as_is = false;
    match what % 16 {
        0 => drop(sections.remove(first)),
        1 => sections.insert(second, sections[first].clone()),
        2 => sections.swap(first, second),
        3 => {
            sections[first].tag =
                [b'H', b'T', b'B', b'E', b'I', b'F', b'l', b'd', b'x', b'X'][second % 10]
        }
        _ => {
            let Section { tag, payload } = &mut sections[first];
            // What was changed on purpose is not put right.
            as_is = matches!(tag, b'I' | b'F');
            let size = payload.len();
            payload.resize(size + GROWTH, 0);
            let size = mutate(payload, size, size + GROWTH);
            payload.truncate(size);
        }
    }
    let join = if as_is { forge::join_as_is } else { forge::join };
    let patch = join(&data[..size], &sections);
    if patch.len() > max_size.min(data.len()) {
        return mutate(data, size, max_size);
    }
    data[..patch.len()].copy_from_slice(&patch);
    patch.len()
}
