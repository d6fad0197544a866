//! Reading a contextual block: the classes first, then one walk over the base with a countdown
//! for each class.

use fearless_simd::Level;

use super::classes::{Classes, CLASSES_MAX};
use super::masks::{Ahead, Tile, NEVER};
use super::signs::Signs;
use super::table::{self, ClassTable, Coded, RAW_GAP_BITS};
use crate::bits::{BadBits, BitReader};
use crate::coding::{Matrix, PayloadBits};
use crate::error::Fault;
use crate::parse::{self, Bad};
use crate::places::List;
use crate::word::{at_width, Order, ValueForm, Word};

/// Where more than one of so many elements changes, each is looked at: most groups then have changes.
const SPARSE: u64 = 16;

/// A contextual block that is being applied.
#[derive(Debug)]
pub(crate) struct Walk {
    order: Order,
    classes: Classes,
    account: PayloadBits,
    /// Gap before each change, and its zigzag step, or where signs are predicted its magnitude;
    /// class after class.
    changes: Vec<(u32, u64)>,
    /// Signs that are predicted.
    signs: Option<Box<Signs>>,
    /// Elements that were passed.
    done: u64,
    ahead: Ahead,
    /// For each class, where in `changes` the next one to be applied is.
    next: [usize; CLASSES_MAX],
    is_sparse: bool,
}

impl Walk {
    /// Reads the payload of a block of `elements` elements of which `changes` change.
    pub fn new(
        payload: &[u8],
        element_bytes: usize,
        order: Order,
        matrix: Option<Matrix>,
        elements: u64,
        changes: u64,
    ) -> Result<Self, Bad> {
        let raw_bits = 8 * element_bytes as u32;
        let range = table::range(payload, matrix.is_some());
        let parsed = range.and_then(|(rest, (lowest, count, predicts_signs))| {
            let classes = at_width!(element_bytes, new_classes(order, lowest, count));
            let Some(classes) = classes else {
                let expected = "classes within the exponents of the dtype";
                return parse::fail(
                    payload,
                    Fault::Value { field: "lowest exponent", found: lowest, expected },
                );
            };
            let matrix = matrix.filter(|_| predicts_signs);
            let rows = table::classes(rest, count, raw_bits);
            rows.map(|(rest, table)| (rest, (classes, table, matrix)))
        });
        let (rest, (classes, table, matrix)) = parsed.map_err(parse::bad)?;
        let bad = |fault| Bad { rest: rest.len(), fault };
        // Every change takes a bit at least, so memory is bounded by the bytes that came.
        let declared = table.iter().try_fold(0u64, |sum, class| sum.checked_add(class.count));
        let most = elements.min(rest.len() as u64 * 8);
        let Some(declared) = declared.filter(|&declared| declared <= most) else {
            let found = table.iter().map(|class| class.count).max().unwrap_or(0);
            let expected = "no more than elements and bits of the block";
            return Err(bad(Fault::Value { field: "class count", found, expected }));
        };
        let mut walk = Walk {
            order,
            classes,
            account: PayloadBits::default(),
            // At most the bits of the payload, which is in memory already.
            changes: Vec::with_capacity(usize::try_from(declared).unwrap_or(0)),
            signs: None,
            done: 0,
            ahead: Ahead::new(classes.count()),
            next: [0; CLASSES_MAX],
            is_sparse: declared.saturating_mul(SPARSE) <= elements,
        };
        walk.read(rest, &table, raw_bits, matrix, changes).map_err(bad)?;
        Ok(walk)
    }

    /// Reads codes and signs.
    fn read(
        &mut self,
        bytes: &[u8],
        table: &[ClassTable],
        raw_bits: u32,
        matrix: Option<Matrix>,
        changes: u64,
    ) -> Result<(), Fault> {
        let mut bits = BitReader::new(bytes);
        let bad = |field, found: &str| Fault::Stream { field, found: found.into() };
        let short = || bad("codes", "fewer bits than the classes need");
        let mut changed = 0;
        for (class, described) in table.iter().enumerate() {
            self.next[class] = self.changes.len();
            let mut codes = Codes {
                bits: &mut bits,
                raw_bits,
                signs_apart: matrix.is_some(),
                account: &mut self.account,
            };
            let read = codes.read_class(described, &mut self.changes);
            // Past the end there are only zeros, and whatever is wrong with them is wrong because they are missing.
            if bits.position() > bytes.len() as u64 * 8 {
                return Err(short());
            }
            changed += read?;
            self.ahead.begin(class, self.next[class], &self.changes);
        }
        let padded = bytes.get((bits.position() / 8) as usize).copied().unwrap_or(0);
        let stream = bits.rest().map_err(|bad| match bad {
            BadBits::Padding => Fault::Reserved { field: "padding bits", found: padded },
            BadBits::Short => short(),
        })?;
        if let Some(matrix) = matrix {
            let signs = Signs::new(matrix, stream);
            let signs = signs.ok_or_else(|| bad("signs", "a stream that begins with 2^32 - 1"))?;
            self.account.signs = 8 * signs.bytes();
            self.signs = Some(Box::new(signs));
        } else if !stream.is_empty() {
            return Err(bad("codes", "bytes follow the last code"));
        }
        if changed != changes {
            let field = "changes of all classes";
            return Err(Fault::Count { field, expected: changes, found: changed });
        }
        Ok(())
    }

    /// Applies the changes to the next elements, in place, and tells which elements of the block change.
    #[inline(always)]
    pub fn apply<W: Word>(&mut self, chunk: &mut [u8], mut changed: impl FnMut(u32)) {
        let (classes, level) = (self.classes, Level::new());
        let (mut tile, mut list) = (Tile::new(), List::new());
        for chunk in chunk.chunks_mut(Tile::ELEMENTS * W::BYTES) {
            let elements = chunk.len() / W::BYTES;
            tile.fill(level, elements, |filled| classes.fill::<W>(chunk, filled));
            let due = if self.is_sparse {
                tile.due(level, &mut self.ahead, &self.changes)
            } else {
                self.ahead.due_one_by_one(&tile, elements, &self.changes)
            };
            for at in list.of(level, &due) {
                let place = self.done + at as u64;
                let step = self.step(tile.class(at), place);
                let word = &mut chunk[at * W::BYTES..(at + 1) * W::BYTES];
                ValueForm::UlpStep.target(self.order, W::load(word), W::narrow(step)).store(word);
                // A dense class has a step for each element, zero if it stays. A block has few enough.
                if step != 0 {
                    changed(place as u32);
                }
            }
            self.done += elements as u64;
        }
    }

    /// The zigzag steps of all changes, class after class; `None` where signs are predicted, which
    /// takes the places of the changes.
    pub fn steps(&self) -> Option<impl Iterator<Item = u64> + '_> {
        // A dense class has a step for each element, zero if it stays.
        let steps = self.changes.iter().map(|change| change.1).filter(|&step| step != 0);
        self.signs.is_none().then_some(steps)
    }

    /// Where the codes go; what is missing to the payload is its table.
    pub fn account(&self) -> PayloadBits {
        self.account
    }

    /// The step of the change that is due in a class at this element.
    #[inline]
    fn step(&mut self, class: usize, element: u64) -> u64 {
        let next = self.next[class];
        self.next[class] = next + 1;
        // It is due only where a change is left.
        let step = self.changes.get(next).map_or(0, |change| change.1);
        match self.signs.as_mut().filter(|_| step != 0) {
            // Less than half the range, so the zigzag fits.
            Some(signs) => 2 * step - u64::from(signs.next(element)),
            None => step,
        }
    }

    /// Checks, at the end of the block, that every class gave all of its changes.
    pub fn finish(&self, elements: u64) -> Result<(), Fault> {
        match self.ahead.unfinished() {
            None if self.signs.as_ref().is_none_or(|signs| signs.is_complete()) => Ok(()),
            None => Err(Fault::Stream {
                field: "signs",
                found: "a stream that does not end with the last change".into(),
            }),
            // Its gaps go past the last element of the class: a lie, or the wrong base.
            Some(class) => Err(Fault::Position {
                found: elements + u64::from(self.ahead.left(class)),
                elements,
            }),
        }
    }
}

fn new_classes<W: Word>(order: Order, lowest: u64, count: usize) -> Option<Classes> {
    Classes::new::<W>(order, lowest, count)
}

/// The codes, class after class.
struct Codes<'a, 'b> {
    bits: &'a mut BitReader<'b>,
    raw_bits: u32,
    /// Signs are not among them.
    signs_apart: bool,
    account: &'a mut PayloadBits,
}

impl Codes<'_, '_> {
    fn rice(&mut self, k: u32, raw_bits: u32, field: &'static str) -> Result<u64, Fault> {
        self.bits.rice(k, raw_bits).map_err(|found| Fault::Value {
            field,
            found,
            expected: "a value that needs the raw form, or fits",
        })
    }

    fn gap(&mut self, k: u32, field: &'static str) -> Result<u32, Fault> {
        let gap = self.rice(k, RAW_GAP_BITS, field)?;
        // The largest place stands for none; a block is far smaller.
        u32::try_from(gap)
            .ok()
            .filter(|&gap| gap < NEVER)
            .ok_or(Fault::Position { found: gap, elements: NEVER.into() })
    }

    /// Reads the codes of one class; gives back the number of changes.
    fn read_class(
        &mut self,
        class: &ClassTable,
        changes: &mut Vec<(u32, u64)>,
    ) -> Result<u64, Fault> {
        let start = self.bits.position();
        match class.coded {
            Coded::Dense { k } => {
                // Zigzag steps, or magnitudes below half the range.
                let largest = u64::MAX >> (64 - self.raw_bits + u32::from(self.signs_apart));
                let mut changed = 0;
                for _ in 0..class.count {
                    let step = self.rice(k, self.raw_bits, "dense step")?;
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
                self.account.values += self.bits.position() - start;
                Ok(changed)
            }
            Coded::Sparse { gap_k, exceptions, exception_k, magnitude_k } => {
                let first = changes.len();
                let mut left = class.count;
                while left > 0 {
                    let four = if left < 4 { None } else { self.bits.four_short(gap_k) };
                    if let Some(gaps) = four {
                        // Short codes are of small numbers.
                        changes.extend(gaps.map(|gap| (gap as u32, 1)));
                        left -= 4;
                    } else {
                        changes.push((self.gap(gap_k, "gap")?, 1));
                        left -= 1;
                    }
                }
                let after_gaps = self.bits.position();
                self.account.positions += after_gaps - start;
                if !self.signs_apart {
                    // A step of one: zigzag 2, or 1 if it is negative.
                    for changes in changes[first..].chunks_mut(32) {
                        let mut signs = self.bits.take(changes.len() as u32);
                        for change in changes {
                            change.1 = 2 - (signs & 1);
                            signs >>= 1;
                        }
                    }
                }
                let after_signs = self.bits.position();
                self.account.signs += after_signs - after_gaps;
                let mut at = first;
                let mut places = Vec::new();
                for _ in 0..exceptions {
                    let place = at.saturating_add(self.gap(exception_k, "exception gap")? as usize);
                    if place >= changes.len() {
                        let (found, elements) = ((place - first) as u64, class.count);
                        return Err(Fault::Position { found, elements });
                    }
                    places.push(place);
                    at = place + 1;
                }
                for place in places {
                    let more = self.rice(magnitude_k, self.raw_bits, "magnitude")?;
                    let step = self.exception(more, changes[place].1);
                    changes[place].1 = step.ok_or(Fault::Value {
                        field: "magnitude",
                        found: more,
                        expected: "a step that fits the dtype",
                    })?;
                }
                self.account.values += self.bits.position() - after_signs;
                Ok(class.count)
            }
        }
    }

    /// What stands for a change of magnitude `more` + 2 in place of what stood for one of 1, if it
    /// fits the dtype.
    fn exception(&self, more: u64, one: u64) -> Option<u64> {
        let magnitude = more.checked_add(2)?;
        if self.signs_apart {
            return (magnitude <= u64::MAX >> (65 - self.raw_bits)).then_some(magnitude);
        }
        // Zigzag of the magnitude; only a negative one reaches half the range.
        let negative = one & 1;
        let step = (magnitude - negative).checked_mul(2)? + negative;
        (step <= u64::MAX >> (64 - self.raw_bits)).then_some(step)
    }
}
