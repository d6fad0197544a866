//! Counting the elements of a class: neighbours compared at once and counted together, in the widest
//! registers that the machine has.

use fearless_simd::prelude::*;
use fearless_simd::{dispatch, i8x32, u32x16, u8x32, u8x64, Level};

use super::classes::CLASSES_MAX;
use crate::places::Places;

/// Elements of a group, which has a bit for each of them in a mask.
const GROUP: usize = Places::GROUP;
/// Groups of a tile, whose classes stay in the fastest cache.
const GROUPS: usize = Places::GROUPS;
/// Groups of a step: so far apart is what is kept of the counters.
const STEP_GROUPS: usize = 4;
const STEP: usize = STEP_GROUPS * GROUP;
const STEPS: usize = Tile::ELEMENTS / STEP;
/// Counters of a class, which neighbours use in turn. Each counts down from zero, by one at most for
/// each vector of a tile.
const LANES: usize = 32;
const _: () = assert!(Tile::ELEMENTS / LANES <= i8::MAX as usize);
const STEP_VECTORS: usize = STEP / LANES;
const _: () = assert!(STEP <= 1 << 8, "numbers of a step are bytes");
/// Numbers of the elements of a step, less 128: bytes with a sign are compared by one instruction.
const NUMBERS: [[i8; LANES]; STEP_VECTORS] = {
    let mut numbers = [[0; LANES]; STEP_VECTORS];
    let mut number = 0;
    while number < STEP {
        numbers[number / LANES][number % LANES] = signed(number);
        number += 1;
    }
    numbers
};
/// What stands for the class of no element, after the last one.
const NONE: u8 = u8::MAX;

/// The classes of consecutive elements, and how many there are of each.
#[derive(Debug)]
#[repr(align(64))] // No vector lies across lines of the cache.
pub(crate) struct Tile {
    groups: [[u8; GROUP]; GROUPS],
    /// For each class, the counters before each step: their sums are seldom asked for.
    before: [[[i8; LANES]; STEPS]; CLASSES_MAX],
    /// Elements of each class.
    counts: [u32; CLASSES_MAX],
}

impl Tile {
    /// Elements of a tile.
    pub const ELEMENTS: usize = Places::ELEMENTS;

    pub fn new() -> Self {
        Tile {
            groups: [[NONE; GROUP]; GROUPS],
            before: [[[0; LANES]; STEPS]; CLASSES_MAX],
            counts: [0; CLASSES_MAX],
        }
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
        &mut self,
        level: Level,
        seen: &mut [u32],
        elements: impl Iterator<Item = usize>,
        found: impl FnMut(usize, u32),
    ) {
        dispatch!(level, simd => rank(simd, self, seen, elements, found));
    }

    /// Elements that change: those before which `ahead` has counted down to zero.
    pub fn due(&mut self, level: Level, ahead: &mut Ahead, changes: &[(u32, u64)]) -> Places {
        dispatch!(level, simd => find_due(simd, self, ahead, changes))
    }

    /// Counts the elements of the first classes, and keeps the counters at each step.
    #[inline(always)]
    fn count<S: Simd>(&mut self, simd: S, classes: usize) {
        let steps = steps(&self.groups);
        let kept = self.before.iter_mut().zip(&mut self.counts).take(classes);
        for (class, (before, count)) in kept.enumerate() {
            let class = u8x32::splat(simd, class as u8);
            let mut counters = i8x32::splat(simd, 0);
            for (step, before) in steps.iter().zip(before) {
                counters.store_slice(before);
                for neighbours in step {
                    // What is true is -1.
                    let is_class = u8x32::from_slice(simd, neighbours).simd_eq(class);
                    counters += is_class.to_vector();
                }
            }
            // As `sum`, but compilers turn this into the instruction that adds up the bytes of a register:
            // faster once for each class, slower for many steps of one.
            let mut lanes = [0; LANES];
            (-counters).bitcast::<u8x32<S>>().store_slice(&mut lanes);
            *count = lanes.into_iter().map(u32::from).sum();
        }
    }

    /// Elements of a class before a step, once they were counted.
    #[inline(always)]
    fn before_step<S: Simd>(&self, simd: S, class: usize, step: usize) -> u32 {
        sum(i8x32::from_slice(simd, &self.before[class][step]))
    }

    /// Elements of a class before an element, once they were counted.
    #[inline(always)]
    fn before<S: Simd>(&self, simd: S, class: usize, element: usize) -> u32 {
        let step = element / STEP % STEPS;
        let mut counters = i8x32::from_slice(simd, &self.before[class][step]);
        let (class, end) = (u8x32::splat(simd, class as u8), i8x32::splat(simd, signed(element)));
        for (neighbours, numbers) in steps(&self.groups)[step].iter().zip(&NUMBERS) {
            let is_class = u8x32::from_slice(simd, neighbours).simd_eq(class);
            let is_before = i8x32::from_slice(simd, numbers).simd_lt(end);
            counters += (is_class & is_before).to_vector();
        }
        sum(counters)
    }

    /// Which elements of a group are of a class.
    #[inline(always)]
    fn mask<S: Simd>(&self, simd: S, class: usize, group: usize) -> u64 {
        u8x64::from_slice(simd, &self.groups[group])
            .simd_eq(u8x64::splat(simd, class as u8))
            .to_bitmask()
    }
}

/// The vectors of each step.
#[inline(always)]
fn steps(groups: &[[u8; GROUP]; GROUPS]) -> &[[[u8; LANES]; STEP_VECTORS]] {
    groups.as_flattened().as_chunks().0.as_chunks().0
}

/// The number of an element in its step, as [`NUMBERS`] has it.
const fn signed(element: usize) -> i8 {
    (element % STEP) as i8 ^ i8::MIN
}

/// What counters have counted.
#[inline(always)]
fn sum<S: Simd>(counters: i8x32<S>) -> u32 {
    let counted: u8x32<S> = (-counters).bitcast();
    u32::from(counted.pairwise_widening_add().reduce_sum())
}

#[inline(always)]
fn rank<S: Simd>(
    simd: S,
    tile: &mut Tile,
    seen: &mut [u32],
    elements: impl Iterator<Item = usize>,
    mut found: impl FnMut(usize, u32),
) {
    tile.count(simd, seen.len());
    for element in elements {
        let class = tile.class(element);
        let before = tile.before(simd, class, element);
        found(class, seen.get(class).map_or(0, |seen| seen + before));
    }
    for (seen, count) in seen.iter_mut().zip(tile.counts) {
        *seen += count;
    }
}

/// The place of a class that has no more changes: further than any block reaches.
pub(crate) const NEVER: u32 = u32::MAX;

/// Looks ahead to the next change of each class.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Classes of the block.
    classes: usize,
    /// Elements of the class before its next change.
    left: [u32; CLASSES_MAX],
    /// Where in the list of changes that one is, and where those of the class end.
    next: [usize; CLASSES_MAX],
    end: [usize; CLASSES_MAX],
}

impl Ahead {
    pub fn new(classes: usize) -> Self {
        let none = [0; CLASSES_MAX];
        Ahead {
            classes: classes.min(CLASSES_MAX),
            left: [NEVER; CLASSES_MAX],
            next: none,
            end: none,
        }
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
    ) -> Places {
        let mut due = Places::new();
        // Copied so that the loop need not assume that anything else changes them.
        let mut left = self.left;
        for (number, group) in tile.groups.as_flattened()[..elements].chunks(GROUP).enumerate() {
            let mut changed = 0;
            for (at, &class) in group.iter().enumerate() {
                let class = usize::from(class) % CLASSES_MAX;
                let now = left[class];
                left[class] = now.wrapping_sub(1);
                if now == 0 {
                    changed |= 1 << at;
                    self.turn(class, changes);
                    left[class] = self.left[class];
                }
            }
            due.add(number, changed);
        }
        self.left = left;
        due
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

/// In which of consecutive parts something lies, found without a branch, and where that one starts.
#[inline(always)]
fn part_of<const PARTS: usize>(at: u32, starts: &[u32; PARTS]) -> (usize, u32) {
    let part = starts[1..].iter().map(|&start| usize::from(start <= at)).sum::<usize>() % PARTS;
    (part, starts[part])
}

/// The bit of those set that has so many below it.
#[inline(always)]
fn nth(mut bits: u64, below: u32) -> u64 {
    // In most groups a class has few elements.
    for passed in 0..4 {
        let others = bits & bits.wrapping_sub(1);
        bits = if passed < below { others } else { bits };
    }
    for _ in 4..below {
        bits &= bits.wrapping_sub(1);
    }
    bits & bits.wrapping_neg()
}

#[inline(always)]
fn find_due<S: Simd>(
    simd: S,
    tile: &mut Tile,
    ahead: &mut Ahead,
    changes: &[(u32, u64)],
) -> Places {
    let mut due = Places::new();
    tile.count(simd, ahead.classes);
    // Which classes have changes here cannot be guessed: told without a branch.
    let mut classes = 0;
    const { assert!(CLASSES_MAX.is_multiple_of(16)) };
    let counts = tile.counts.as_chunks::<16>().0;
    let left = ahead.left.as_chunks_mut::<16>().0;
    for (part, (left, counts)) in left.iter_mut().zip(counts).enumerate() {
        let counts = u32x16::from_slice(simd, counts);
        let now = u32x16::from_slice(simd, left);
        classes |= now.simd_lt(counts).to_bitmask() << (left.len() * part);
        (now - counts).store_slice(left);
    }
    while classes != 0 {
        let class = classes.trailing_zeros() as usize % CLASSES_MAX;
        classes &= classes - 1;
        let count = tile.counts[class];
        let mut at = ahead.left[class].wrapping_add(count);
        // Loops, not `map`: closures are not inlined into the code for wide registers.
        let mut steps = [0; STEPS];
        for (number, start) in steps.iter_mut().enumerate().skip(1) {
            *start = tile.before_step(simd, class, number);
        }
        loop {
            let (step, before) = part_of(at, &steps);
            let first = step * STEP_GROUPS;
            let (mut masks, mut groups) = ([0; STEP_GROUPS], [before; STEP_GROUPS]);
            for (number, mask) in masks.iter_mut().enumerate() {
                *mask = tile.mask(simd, class, first + number);
            }
            for number in 1..STEP_GROUPS {
                groups[number] = groups[number - 1] + masks[number - 1].count_ones();
            }
            let (group, before) = part_of(at, &groups);
            due.add_one(first + group, nth(masks[group], at - before));
            ahead.turn(class, changes);
            let (gap, rest) = (ahead.left[class], count - (at + 1));
            if gap >= rest {
                ahead.left[class] = gap - rest;
                break;
            }
            at += 1 + gap;
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::List;

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
        for elements in [0, 1, 63, 64, 65, 255, 256, 257, 1000, Tile::ELEMENTS] {
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
                let (mut found, mut list) = (Vec::new(), List::new());
                let mut ahead = begun();
                for (number, part) in classes.chunks(Tile::ELEMENTS).enumerate() {
                    let mut tile = tile_of(part);
                    let due = if is_sparse {
                        tile.due(level, &mut ahead, &changes)
                    } else {
                        ahead.due_one_by_one(&tile, part.len(), &changes)
                    };
                    found.extend(
                        list.of(level, &due).map(|at| (at + number * Tile::ELEMENTS) as u32),
                    );
                }
                assert_eq!(found, expected, "{level:?}");
            }
        }
    }

    #[test]
    fn what_follows_the_last_element_is_of_no_class() {
        // The highest class that there can be, in a tile that is not full.
        let highest = CLASSES_MAX as u8 - 1;
        for level in [Level::new(), Level::baseline()] {
            let mut ahead = Ahead::new(CLASSES_MAX);
            ahead.begin(CLASSES_MAX - 1, 0, &[(700, 1)]);
            let mut tile = tile_of(&[highest; 70]);
            let due = tile.due(level, &mut ahead, &[(700, 1)]);
            assert_eq!(
                (List::new().of(level, &due).count(), ahead.left(CLASSES_MAX - 1)),
                (0, 630)
            );
            let mut seen = [0; CLASSES_MAX];
            tile.rank(level, &mut seen, std::iter::empty(), |_, _| {});
            assert_eq!(seen[CLASSES_MAX - 1], 70);
        }
    }

    #[test]
    fn changes_are_found_at_the_edges_of_groups_and_steps() {
        let places =
            [0, 1, 63, 64, 127, 128, 255, 256, 257, 511, 512, 1023, 1024, 1792, 2046, 2047];
        let mut changes = Vec::new();
        let mut after = 0;
        for place in places {
            changes.push((place - after, 1));
            after = place + 1;
        }
        // And one that no block reaches, of which an error tells.
        changes.push((NEVER - 1, 1));
        for level in [Level::new(), Level::baseline()] {
            let mut ahead = Ahead::new(1);
            ahead.begin(0, 0, &changes);
            let mut tile = tile_of(&[0; Tile::ELEMENTS]);
            let due = tile.due(level, &mut ahead, &changes);
            assert!(List::new().of(level, &due).eq(places.map(|place| place as usize)));
            assert_eq!((ahead.unfinished(), ahead.left(0)), (Some(0), NEVER - 1));
        }
    }
}
