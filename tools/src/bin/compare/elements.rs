//! Elements of 1, 2, 4 or 8 bytes: finding, packing and changing them, for the layouts of others.
//!
//! As fast as plain code gets: a layout is to be judged by its own cost.

/// Runs a function that is generic over the width of an element.
macro_rules! at_width {
    ($width:expr, $function:ident ( $($arg:expr),* )) => {
        match $width {
            1 => $function::<1>($($arg),*),
            2 => $function::<2>($($arg),*),
            4 => $function::<4>($($arg),*),
            _ => $function::<8>($($arg),*),
        }
    };
}

/// The changes of one tensor: element numbers in ascending order, and at the same places the bits
/// before and after.
#[derive(Default)]
pub struct Changes {
    pub places: Vec<u64>,
    pub base: Vec<u64>,
    pub target: Vec<u64>,
}

/// Bytes compared at once before elements are looked at: most of a checkpoint is equal.
const STRIDE: usize = 64;

impl Changes {
    /// Finds the changes between two slices of the same length, replacing what was held.
    pub fn find(&mut self, width: usize, base: &[u8], target: &[u8]) {
        self.places.clear();
        self.base.clear();
        self.target.clear();
        at_width!(width, find(self, base, target));
    }
}

fn find<const WIDTH: usize>(changes: &mut Changes, base: &[u8], target: &[u8]) {
    let (bases, base_rest) = base.as_chunks::<STRIDE>();
    let (targets, target_rest) = target.as_chunks::<STRIDE>();
    let mut elements = |first: usize, base: &[u8], target: &[u8]| {
        let pairs = base.chunks_exact(WIDTH).zip(target.chunks_exact(WIDTH));
        for (i, (base, target)) in pairs.enumerate() {
            if base != target {
                changes.places.push((first + i) as u64);
                changes.base.push(load::<WIDTH>(base));
                changes.target.push(load::<WIDTH>(target));
            }
        }
    };
    for (i, (base, target)) in bases.iter().zip(targets).enumerate() {
        // As one expression over all bytes, which compilers turn into a few wide instructions.
        if base.iter().zip(target).fold(0, |bits, (base, target)| bits | (base ^ target)) != 0 {
            elements(i * (STRIDE / WIDTH), base, target);
        }
    }
    elements(bases.len() * (STRIDE / WIDTH), base_rest, target_rest);
}

#[inline(always)]
fn load<const WIDTH: usize>(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..WIDTH].copy_from_slice(&bytes[..WIDTH]);
    u64::from_le_bytes(wide)
}

/// Appends numbers as little-endian integers of `width` bytes.
pub fn pack(out: &mut Vec<u8>, width: usize, numbers: impl IntoIterator<Item = u64>) {
    fn pack<const WIDTH: usize>(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes()[..WIDTH]);
        }
    }
    at_width!(width, pack(out, numbers.into_iter()));
}

/// The numbers that [`pack`] wrote.
pub fn unpack(bytes: &[u8], width: usize) -> Vec<u64> {
    fn unpack<const WIDTH: usize>(bytes: &[u8]) -> Vec<u64> {
        bytes.chunks_exact(WIDTH).map(load::<WIDTH>).collect()
    }
    at_width!(width, unpack(bytes))
}

/// Replaces the element at each place by what `new` makes of it and of the value that belongs there.
pub fn update(
    tensor: &mut [u8],
    width: usize,
    changes: impl Iterator<Item = (u64, u64)>,
    new: impl Fn(u64, u64) -> u64,
) {
    fn update<const WIDTH: usize>(
        tensor: &mut [u8],
        changes: impl Iterator<Item = (u64, u64)>,
        new: impl Fn(u64, u64) -> u64,
    ) {
        for (place, value) in changes {
            let element = &mut tensor[place as usize * WIDTH..][..WIDTH];
            element.copy_from_slice(&new(load::<WIDTH>(element), value).to_le_bytes()[..WIDTH]);
        }
    }
    at_width!(width, update(tensor, changes, new));
}
