//! Counting the elements of a class: a bit for each of 64 neighbours, found at once and counted
//! together, in the widest registers that the machine has.

use fearless_simd::prelude::*;
use fearless_simd::{dispatch, u8x64, Level};

use super::classes::CLASSES_MAX;

/// Elements of a group, which has a bit for each of them in a mask.
const GROUP: usize = 64;
/// Groups of a tile, whose classes stay in the fastest cache.
const GROUPS: usize = 16;
/// What stands for the class of no element, after the last one.
const NONE: u8 = u8::MAX;

/// The classes of consecutive elements.
#[derive(Debug)]
pub(crate) struct Tile {
    groups: [[u8; GROUP]; GROUPS],
}

impl Tile {
    /// Elements of a tile.
    pub const ELEMENTS: usize = GROUPS * GROUP;

    pub fn new() -> Self {
        Tile { groups: [[NONE; GROUP]; GROUPS] }
    }

    /// Lets `fill` say the classes of the next elements, at most [`Tile::ELEMENTS`].
    #[inline(always)]
    pub fn fill(&mut self, level: Level, elements: usize, fill: impl FnOnce(&mut [u8])) {
        let (filled, rest) = self.groups.as_flattened_mut().split_at_mut(elements);
        rest.fill(NONE);
        dispatch!(level, _simd => fill(filled));
    }

    /// The class of an element.
    #[inline(always)]
    pub fn class(&self, element: usize) -> usize {
        usize::from(self.groups[element / GROUP % GROUPS][element % GROUP]) % CLASSES_MAX
    }

    /// For elements in ascending order, how many of their class came before, and then how many came in
    /// all: `seen` of each class, which the tile is added to.
    pub fn rank(
        &self,
        level: Level,
        seen: &mut [u32],
        elements: impl Iterator<Item = usize>,
        found: impl FnMut(usize, u32),
    ) {
        dispatch!(level, simd => rank(simd, &self.groups, seen, elements, found));
    }

    /// Elements that change: those before which `ahead` has counted down to zero.
    pub fn due(&self, level: Level, ahead: &mut Ahead, changes: &[(u32, u64)], due: &mut Vec<u32>) {
        dispatch!(level, simd => find_due(simd, &self.groups, ahead, changes, due));
    }
}

/// Which elements of a group are of a class.
#[inline(always)]
fn mask<S: Simd>(simd: S, group: &[u8; GROUP], class: usize) -> u64 {
    u8x64::from_slice(simd, group).simd_eq(u8x64::splat(simd, class as u8)).to_bitmask()
}

/// Which elements of a group are of a class below this one.
#[inline(always)]
fn mask_below<S: Simd>(simd: S, group: &[u8; GROUP], class: usize) -> u64 {
    u8x64::from_slice(simd, group).simd_lt(u8x64::splat(simd, class as u8)).to_bitmask()
}

#[inline(always)]
fn rank<S: Simd>(
    simd: S,
    groups: &[[u8; GROUP]],
    seen: &mut [u32],
    elements: impl Iterator<Item = usize>,
    mut found: impl FnMut(usize, u32),
) {
    let mut elements = elements.peekable();
    for (number, group) in groups.iter().enumerate() {
        while let Some(element) = elements.next_if(|element| element / GROUP == number) {
            let class = usize::from(group[element % GROUP]) % CLASSES_MAX;
            let before = mask(simd, group, class) & ((1 << (element % GROUP)) - 1);
            found(class, seen.get(class).map_or(0, |seen| seen + before.count_ones()));
        }
        for (class, seen) in seen.iter_mut().enumerate() {
            *seen += mask(simd, group, class).count_ones();
        }
    }
}

/// The place of a class that has no more changes: further than any block reaches.
pub(crate) const NEVER: u32 = u32::MAX;

/// So many elements of a tile may be of classes that are not common. Where there are less than a quarter,
/// another class joins those.
const RARE_MAX: u32 = 32;

/// Looks ahead to the next change of each class.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Classes of the block.
    classes: usize,
    /// Those below this one have so few elements that it is faster to count them one by one: most weights
    /// have a few of the highest exponents. It follows what the tiles have.
    common: usize,
    /// Elements of the class before its next change.
    left: [u32; CLASSES_MAX],
    /// Where in the list of changes that one is, and where those of the class end.
    next: [usize; CLASSES_MAX],
    end: [usize; CLASSES_MAX],
}

impl Ahead {
    pub fn new(classes: usize) -> Self {
        let none = [0; CLASSES_MAX];
        Ahead { classes, common: 0, left: [NEVER; CLASSES_MAX], next: none, end: none }
    }

    /// Says where in the list of changes those of a class are.
    pub fn begin(&mut self, class: usize, next: usize, changes: &[(u32, u64)]) {
        (self.next[class], self.end[class]) = (next, changes.len());
        self.left[class] = self.gap(class, changes);
    }

    /// Elements of the class before its next change.
    pub fn left(&self, class: usize) -> u32 {
        self.left[class]
    }

    /// The class that has changes left, if there is one.
    pub fn unfinished(&self) -> Option<usize> {
        (0..CLASSES_MAX).find(|&class| self.next[class] != self.end[class])
    }

    /// As [`Tile::due`], element by element: faster where many change.
    pub fn due_one_by_one(
        &mut self,
        tile: &Tile,
        elements: usize,
        changes: &[(u32, u64)],
        due: &mut Vec<u32>,
    ) {
        // Copied so that the loop need not assume that anything else changes them.
        let mut left = self.left;
        for (element, &class) in (0..).zip(&tile.groups.as_flattened()[..elements]) {
            let class = usize::from(class) % CLASSES_MAX;
            let now = left[class];
            left[class] = now.wrapping_sub(1);
            if now == 0 {
                due.push(element);
                self.turn(class, changes);
                left[class] = self.left[class];
            }
        }
        self.left = left;
    }

    /// Turns to the change after the one that is due.
    #[inline]
    fn turn(&mut self, class: usize, changes: &[(u32, u64)]) {
        self.next[class] += 1;
        self.left[class] = self.gap(class, changes);
    }

    fn gap(&self, class: usize, changes: &[(u32, u64)]) -> u32 {
        let next = self.next[class];
        if next < self.end[class] {
            changes.get(next).map_or(NEVER, |change| change.0)
        } else {
            NEVER
        }
    }
}

#[inline(always)]
fn find_due<S: Simd>(
    simd: S,
    groups: &[[u8; GROUP]],
    ahead: &mut Ahead,
    changes: &[(u32, u64)],
    due: &mut Vec<u32>,
) {
    let classes = ahead.classes.min(CLASSES_MAX);
    let common = ahead.common;
    let mut rare = 0;
    for (number, group) in groups.iter().enumerate() {
        let mut changed = 0;
        for class in common..classes {
            let mut of_class = mask(simd, group, class);
            let mut count = of_class.count_ones();
            while ahead.left[class] < count {
                let skipped = ahead.left[class];
                for _ in 0..skipped {
                    of_class &= of_class - 1;
                }
                changed |= of_class & of_class.wrapping_neg();
                of_class &= of_class - 1;
                count -= skipped + 1;
                ahead.turn(class, changes);
            }
            ahead.left[class] -= count;
        }
        let mut few = mask_below(simd, group, common);
        rare += few.count_ones();
        while few != 0 {
            let at = few.trailing_zeros() as usize % GROUP;
            let class = usize::from(group[at]) % CLASSES_MAX;
            if ahead.left[class] == 0 {
                changed |= 1 << at;
                ahead.turn(class, changes);
            } else {
                ahead.left[class] -= 1;
            }
            few &= few - 1;
        }
        while changed != 0 {
            due.push((number * GROUP) as u32 + changed.trailing_zeros());
            changed &= changed - 1;
        }
    }
    if rare > RARE_MAX {
        ahead.common -= 1;
    } else if rare <= RARE_MAX / 4 && common < classes {
        ahead.common += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classes of 0 to 6, some of them rare.
    fn classes(elements: usize) -> Vec<u8> {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16).trailing_zeros().min(6) as u8
        };
        (0..elements).map(|_| next()).collect()
    }

    fn tile_of(classes: &[u8]) -> Tile {
        let mut tile = Tile::new();
        tile.fill(Level::new(), classes.len(), |filled| filled.copy_from_slice(classes));
        tile
    }

    #[test]
    fn ranks_are_those_of_a_plain_count_in_registers_of_every_width() {
        for elements in [0, 1, 63, 64, 65, 1000, 1024] {
            let classes = classes(elements);
            let mut plain = vec![5u32; 7];
            let mut expected = Vec::new();
            for (element, &class) in classes.iter().enumerate() {
                if element % 5 == 0 {
                    expected.push((usize::from(class), plain[usize::from(class)]));
                }
                plain[usize::from(class)] += 1;
            }
            for level in [Level::new(), Level::baseline()] {
                let (mut seen, mut found) = (vec![5u32; 7], Vec::new());
                let chosen = (0..elements).step_by(5);
                tile_of(&classes)
                    .rank(level, &mut seen, chosen, |class, rank| found.push((class, rank)));
                assert_eq!((&found, &seen), (&expected, &plain), "{elements} at {level:?}");
            }
        }
    }

    #[test]
    fn what_is_due_is_what_a_countdown_of_each_element_finds() {
        let rare_last = classes(9000);
        let rare_first: Vec<u8> = rare_last.iter().map(|class| 6 - class).collect();
        // What was rare becomes common, and the other way round.
        let turning = [&rare_first[..], &rare_last].concat();
        for classes in [rare_last, rare_first, turning] {
            check_due(&classes);
        }
    }

    fn check_due(classes: &[u8]) {
        // For each class gaps of 0, 1, 2 ..., and of those after them.
        let (mut changes, mut begins) = (Vec::new(), Vec::new());
        for class in 0..7u32 {
            begins.push(changes.len());
            (0..4 + class).for_each(|gap| changes.push((gap * gap * (8 - class), 1)));
        }
        let begun = || {
            let mut ahead = Ahead::new(7);
            let ends = begins.iter().skip(1).copied().chain([changes.len()]);
            for (class, (&begin, end)) in begins.iter().zip(ends).enumerate() {
                ahead.begin(class, begin, &changes[..end]);
            }
            ahead
        };
        let mut expected = Vec::new();
        let mut seen = [0u32; 7];
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); 7];
        for class in 0..7 {
            let end = begins.get(class + 1).copied().unwrap_or(changes.len());
            let mut place = 0;
            for &(gap, _) in &changes[begins[class]..end] {
                places[class].push(place + gap);
                place += gap + 1;
            }
        }
        for (element, &class) in classes.iter().enumerate() {
            let seen = &mut seen[usize::from(class)];
            if places[usize::from(class)].contains(seen) {
                expected.push(element as u32);
            }
            *seen += 1;
        }
        assert!(expected.len() > 30);
        for level in [Level::new(), Level::baseline()] {
            for is_sparse in [true, false] {
                let (mut found, mut due) = (Vec::new(), Vec::new());
                let mut ahead = begun();
                for (number, part) in classes.chunks(Tile::ELEMENTS).enumerate() {
                    let tile = tile_of(part);
                    due.clear();
                    if is_sparse {
                        tile.due(level, &mut ahead, &changes, &mut due);
                    } else {
                        ahead.due_one_by_one(&tile, part.len(), &changes, &mut due);
                    }
                    found.extend(due.iter().map(|at| at + (number * Tile::ELEMENTS) as u32));
                }
                assert_eq!(found, expected, "{level:?}");
            }
        }
    }
}
