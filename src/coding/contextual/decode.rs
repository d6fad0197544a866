//! Reading a contextual block: the classes first, then one walk over the base with a countdown
//! for each class.

use super::classes::{Classes, CLASSES_MAX};
use super::table::{self, ClassTable, Coded, RAW_GAP_BITS};
use super::TILE;
use crate::bits::{BadBits, BitReader};
use crate::coding::PayloadBits;
use crate::error::Fault;
use crate::parse::{self, Bad};
use crate::word::{at_width, Order, ValueForm, Word};

/// The place of a class that has no more changes: further than any block reaches.
const NEVER: u32 = u32::MAX;

/// A contextual block that is being applied.
#[derive(Debug)]
pub(crate) struct Walk {
    order: Order,
    classes: Classes,
    account: PayloadBits,
    /// Gap before each change, and its zigzag step; class after class.
    changes: Vec<(u32, u64)>,
    /// For each class: elements until its next change, where in `changes` that is, and where the
    /// changes of the class end.
    countdown: [u32; CLASSES_MAX],
    next: [usize; CLASSES_MAX],
    end: [usize; CLASSES_MAX],
}

impl Walk {
    /// Reads the payload of a block of `elements` elements of which `changes` change.
    pub fn new(
        payload: &[u8],
        element_bytes: usize,
        order: Order,
        elements: u64,
        changes: u64,
    ) -> Result<Self, Bad> {
        let raw_bits = 8 * element_bytes as u32;
        let parsed = table::range(payload).and_then(|(rest, (lowest, count))| {
            let classes = at_width!(element_bytes, new_classes(order, lowest, count));
            let Some(classes) = classes else {
                let expected = "classes within the exponents of the dtype";
                return parse::fail(
                    payload,
                    Fault::Value { field: "lowest exponent", found: lowest, expected },
                );
            };
            table::classes(rest, count, raw_bits).map(|(rest, table)| (rest, (classes, table)))
        });
        let (rest, (classes, table)) = parsed.map_err(parse::bad)?;
        let bad = |fault| Bad { rest: rest.len(), fault };
        read(rest, &table, raw_bits, elements, changes, order, classes).map_err(bad)
    }

    /// Applies the changes to the next elements, in place.
    #[inline(always)]
    pub fn apply<W: Word>(&mut self, chunk: &mut [u8]) {
        let (classes, order) = (self.classes, self.order);
        // Copied so that the loop need not assume that anything else changes them.
        let mut countdown = self.countdown;
        let mut tile = [0u8; TILE];
        for chunk in chunk.chunks_mut(TILE * W::BYTES) {
            let tile = &mut tile[..chunk.len() / W::BYTES];
            classes.fill::<W>(chunk, tile);
            for (element, &class) in tile.iter().enumerate() {
                let class = usize::from(class) % CLASSES_MAX;
                let left = countdown[class];
                countdown[class] = left.wrapping_sub(1);
                if left == 0 {
                    let (step, gap) = self.advance(class);
                    countdown[class] = gap;
                    let word = &mut chunk[element * W::BYTES..(element + 1) * W::BYTES];
                    ValueForm::UlpStep.target(order, W::load(word), W::narrow(step)).store(word);
                }
            }
        }
        self.countdown = countdown;
    }

    /// The zigzag steps of all changes, class after class.
    pub fn steps(&self) -> impl Iterator<Item = u64> + '_ {
        // A dense class has a step for each element, zero if it stays.
        self.changes.iter().map(|change| change.1).filter(|&step| step != 0)
    }

    /// Where the codes go; what is missing to the payload is its table.
    pub fn account(&self) -> PayloadBits {
        self.account
    }

    /// The step of the change that is due in a class, and the gap to the next one.
    #[inline]
    fn advance(&mut self, class: usize) -> (u64, u32) {
        let next = self.next[class];
        self.next[class] = next + 1;
        // A countdown runs out only where a change is left.
        let step = self.changes.get(next).map_or(0, |change| change.1);
        (step, self.gap(class))
    }

    fn gap(&self, class: usize) -> u32 {
        let next = self.next[class];
        if next < self.end[class] {
            self.changes[next].0
        } else {
            NEVER
        }
    }

    /// Checks, at the end of the block, that every class gave all of its changes.
    pub fn finish(&self, elements: u64) -> Result<(), Fault> {
        match (0..CLASSES_MAX).find(|&class| self.next[class] != self.end[class]) {
            None => Ok(()),
            // Its gaps go past the last element of the class: a lie, or the wrong base.
            Some(class) => Err(Fault::Position {
                found: elements + u64::from(self.countdown[class]),
                elements,
            }),
        }
    }
}

fn new_classes<W: Word>(order: Order, lowest: u64, count: usize) -> Option<Classes> {
    Classes::new::<W>(order, lowest, count)
}

fn read(
    bytes: &[u8],
    table: &[ClassTable],
    raw_bits: u32,
    elements: u64,
    changes: u64,
    order: Order,
    classes: Classes,
) -> Result<Walk, Fault> {
    // Every change takes a bit at least, so memory is bounded by the bytes that came.
    let declared = table.iter().try_fold(0u64, |sum, class| sum.checked_add(class.count));
    let most = elements.min(bytes.len() as u64 * 8);
    let Some(declared) = declared.filter(|&declared| declared <= most) else {
        let found = table.iter().map(|class| class.count).max().unwrap_or(0);
        return Err(Fault::Value {
            field: "class count",
            found,
            expected: "no more than elements and bits of the block",
        });
    };
    let mut walk = Walk {
        order,
        classes,
        account: PayloadBits::default(),
        // At most the bits of the payload, which is in memory already.
        changes: Vec::with_capacity(usize::try_from(declared).unwrap_or(0)),
        countdown: [NEVER; CLASSES_MAX],
        next: [0; CLASSES_MAX],
        end: [0; CLASSES_MAX],
    };
    let mut bits = BitReader::new(bytes);
    let short =
        || Fault::Stream { field: "codes", found: "fewer bits than the classes need".into() };
    let mut changed = 0;
    for (class, described) in table.iter().enumerate() {
        walk.next[class] = walk.changes.len();
        let read = read_class(&mut bits, described, raw_bits, &mut walk.changes, &mut walk.account);
        // Past the end there are only zeros, and whatever is wrong with them is wrong because they are missing.
        if bits.position() > bytes.len() as u64 * 8 {
            return Err(short());
        }
        changed += read?;
        walk.end[class] = walk.changes.len();
        walk.countdown[class] = walk.gap(class);
    }
    if let Err(bad) = bits.finish() {
        return Err(match bad {
            BadBits::Short => short(),
            BadBits::Long => {
                Fault::Stream { field: "codes", found: "bytes follow the last code".into() }
            }
            BadBits::Padding => {
                Fault::Reserved { field: "padding bits", found: bytes.last().copied().unwrap_or(0) }
            }
        });
    }
    if changed == changes {
        Ok(walk)
    } else {
        Err(Fault::Count { field: "changes of all classes", expected: changes, found: changed })
    }
}

/// Reads the codes of one class; gives back the number of changes.
fn read_class(
    bits: &mut BitReader<'_>,
    class: &ClassTable,
    raw_bits: u32,
    changes: &mut Vec<(u32, u64)>,
    account: &mut PayloadBits,
) -> Result<u64, Fault> {
    let largest = u64::MAX >> (64 - raw_bits);
    let escape = |field| {
        move |found| Fault::Value {
            field,
            found,
            expected: "a value that needs the raw form, or fits",
        }
    };
    let gap_at = |bits: &mut BitReader<'_>, k, field| {
        let gap = bits.rice(k, RAW_GAP_BITS).map_err(escape(field))?;
        // The largest place stands for none; a block is far smaller.
        u32::try_from(gap)
            .ok()
            .filter(|&gap| gap < NEVER)
            .ok_or(Fault::Position { found: gap, elements: NEVER.into() })
    };
    let first = changes.len();
    let mut from = bits.position();
    let mut spent = |bits: &BitReader<'_>, on: &mut u64| {
        *on += bits.position() - from;
        from = bits.position();
    };
    match class.coded {
        Coded::Dense { k } => {
            let mut changed = 0;
            for _ in 0..class.count {
                let step = bits.rice(k, raw_bits).map_err(escape("dense step"))?;
                if step > largest {
                    return Err(Fault::Value {
                        field: "dense step",
                        found: step,
                        expected: "a value that fits the dtype",
                    });
                }
                changed += u64::from(step != 0);
                changes.push((0, step));
            }
            spent(bits, &mut account.values);
            Ok(changed)
        }
        Coded::Sparse { gap_k, exceptions, exception_k, magnitude_k } => {
            for _ in 0..class.count {
                changes.push((gap_at(bits, gap_k, "gap")?, 0));
            }
            spent(bits, &mut account.positions);
            // A step of one: zigzag 2, or 1 if it is negative.
            for change in &mut changes[first..] {
                change.1 = 2 - bits.take(1);
            }
            spent(bits, &mut account.signs);
            let mut at = first;
            let mut places = Vec::new();
            for _ in 0..exceptions {
                let place = at.saturating_add(gap_at(bits, exception_k, "exception gap")? as usize);
                if place >= changes.len() {
                    let (found, elements) = ((place - first) as u64, class.count);
                    return Err(Fault::Position { found, elements });
                }
                places.push(place);
                at = place + 1;
            }
            for place in places {
                let more = bits.rice(magnitude_k, raw_bits).map_err(escape("magnitude"))?;
                let negative = changes[place].1 & 1;
                // Zigzag of the magnitude, which is more + 2; only a negative one reaches half the range.
                let step = more
                    .checked_add(2)
                    .and_then(|magnitude| (magnitude - negative).checked_mul(2))
                    .map(|even| even + negative);
                let step = step.filter(|&step| step <= largest);
                changes[place].1 = step.ok_or(Fault::Value {
                    field: "magnitude",
                    found: more,
                    expected: "a step that fits the dtype",
                })?;
            }
            spent(bits, &mut account.values);
            Ok(class.count)
        }
    }
}
