//! Places of set bits, listed with hardly a branch: where a change comes cannot be guessed, and a
//! wrong guess costs more than the work that it saves.

/// So many bits of a group are listed without a branch.
const FEW: usize = 2;

/// Which of some consecutive elements were found, in ascending order.
#[derive(Debug)]
pub(crate) struct Places {
    list: [u16; Places::ELEMENTS + FEW],
    count: usize,
}

impl Places {
    /// Most elements that places can be of.
    pub const ELEMENTS: usize = 1024;
    /// Elements of a group, which has a bit for each of them.
    pub const GROUP: usize = 64;

    pub fn new() -> Self {
        Places { list: [0; Places::ELEMENTS + FEW], count: 0 }
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds those of the group whose first element is number `first`.
    #[inline(always)]
    pub fn add(&mut self, first: usize, mut bits: u64) {
        let end = self.count + bits.count_ones() as usize;
        let mut list = self.list[self.count..].iter_mut();
        // Of an empty group there are places too, which the next one overwrites.
        for place in list.by_ref().take(FEW) {
            *place = (first + bits.trailing_zeros() as usize) as u16;
            bits &= bits.wrapping_sub(1);
        }
        for place in list {
            if bits == 0 {
                break;
            }
            *place = (first + bits.trailing_zeros() as usize) as u16;
            bits &= bits.wrapping_sub(1);
        }
        self.count = end;
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.list[..self.count].iter().map(|&place| usize::from(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_bits_however_many_there_are() {
        let (mut places, mut expected) = (Places::new(), Vec::new());
        for _ in 0..2 {
            places.clear();
            expected.clear();
            for (group, bits) in
                [0, 1, 1 << 63, 3, 7, 0, u64::MAX, 0x8421, 0].into_iter().enumerate()
            {
                let first = group * Places::GROUP;
                places.add(first, bits);
                expected.extend((0..64).filter(|at| bits >> at & 1 == 1).map(|at| first + at));
            }
            assert_eq!(places.iter().collect::<Vec<_>>(), expected);
        }
        places.clear();
        (0..16).for_each(|group| places.add(group * Places::GROUP, u64::MAX));
        assert!(places.iter().eq(0..Places::ELEMENTS), "all of them");
    }
}
