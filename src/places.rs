//! Places of set bits, listed with hardly a branch: where a change comes cannot be guessed, and a
//! wrong guess costs more than the work that it saves.

use fearless_simd::{dispatch, Level};

/// Which of some consecutive elements were found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    groups: [u64; Places::GROUPS],
    /// A bit for each group that has some.
    filled: u64,
}

impl Places {
    /// Most elements that places can be of.
    pub const ELEMENTS: usize = 2048;
    /// Elements of a group, which has a bit for each of them.
    pub const GROUP: usize = 64;
    pub const GROUPS: usize = Places::ELEMENTS / Places::GROUP;

    #[inline(always)]
    pub fn new() -> Self {
        Places { groups: [0; Places::GROUPS], filled: 0 }
    }

    /// Adds those of a group.
    #[inline(always)]
    pub fn add(&mut self, group: usize, bits: u64) {
        self.groups[group] |= bits;
        self.filled |= u64::from(bits != 0) << group;
    }

    /// Adds one of a group.
    #[inline(always)]
    pub fn add_one(&mut self, group: usize, bit: u64) {
        self.groups[group] |= bit;
        self.filled |= 1 << group;
    }
}

/// So many bits of a group are listed without a branch.
const FEW: usize = 2;

/// Room for the list of places.
#[derive(Debug)]
pub(crate) struct List([u16; Places::ELEMENTS + FEW]);

impl List {
    pub fn new() -> Self {
        List([0; Places::ELEMENTS + FEW])
    }

    /// Lists places in ascending order.
    #[inline(always)]
    pub fn of(&mut self, level: Level, places: &Places) -> impl Iterator<Item = usize> + '_ {
        // No vectors, but the instructions that count and find bits.
        let count = dispatch!(level, _simd => fill(&mut self.0, places));
        self.0[..count].iter().map(|&place| usize::from(place))
    }
}

#[inline(always)]
fn fill(list: &mut [u16; Places::ELEMENTS + FEW], places: &Places) -> usize {
    let (mut filled, mut count) = (places.filled, 0);
    while filled != 0 {
        let group = filled.trailing_zeros() as usize % Places::GROUPS;
        filled &= filled - 1;
        let (first, mut bits) = (group * Places::GROUP, places.groups[group]);
        let end = count + bits.count_ones() as usize;
        let mut room = list[count..].iter_mut();
        // If there is only one, the next group overwrites the other.
        for place in room.by_ref().take(FEW) {
            *place = (first + bits.trailing_zeros() as usize) as u16;
            bits &= bits.wrapping_sub(1);
        }
        for place in room {
            if bits == 0 {
                break;
            }
            *place = (first + bits.trailing_zeros() as usize) as u16;
            bits &= bits.wrapping_sub(1);
        }
        count = end;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_bits_however_many_there_are() {
        let (mut list, mut places, mut expected) = (List::new(), Places::new(), Vec::new());
        for (group, bits) in [0, 1, 1 << 63, 3, 7, 0, u64::MAX, 0x8421, 0].into_iter().enumerate() {
            let first = group * Places::GROUP;
            places.add(group, bits);
            expected.extend((0..64).filter(|at| bits >> at & 1 == 1).map(|at| first + at));
        }
        for _ in 0..2 {
            assert_eq!(list.of(Level::new(), &places).collect::<Vec<_>>(), expected);
        }
        assert_eq!(list.of(Level::new(), &Places::new()).count(), 0);
        (0..Places::GROUPS).rev().for_each(|group| places.add(group, u64::MAX));
        assert!(list.of(Level::new(), &places).eq(0..Places::ELEMENTS), "all of them");
    }
}
