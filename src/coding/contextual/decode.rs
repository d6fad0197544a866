//! Reading a contextual block: the classes first, then one walk over the base with a countdown
//! for each class.

use super::classes::{Classes, CLASSES_MAX};
use super::signs::Signs;
use super::table::{self, ClassTable, Coded, RAW_GAP_BITS};
use super::TILE;
use crate::bits::{BadBits, BitReader};
use crate::coding::{Matrix, PayloadBits};
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
    /// Gap before each change, and its zigzag step, or where signs are predicted its magnitude;
    /// class after class.
    changes: Vec<(u32, u64)>,
    /// Signs that are predicted.
    signs: Option<Box<Signs>>,
    /// Elements that were passed.
    done: u64,
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
            countdown: [NEVER; CLASSES_MAX],
            next: [0; CLASSES_MAX],
            end: [0; CLASSES_MAX],
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
            self.end[class] = self.changes.len();
            self.countdown[class] = self.gap(class);
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
        let (classes, order) = (self.classes, self.order);
        // Copied so that the loop need not assume that anything else changes them.
        let mut countdown = self.countdown;
        let mut done = self.done;
        let mut tile = [0u8; TILE];
        for chunk in chunk.chunks_mut(TILE * W::BYTES) {
            let tile = &mut tile[..chunk.len() / W::BYTES];
            classes.fill::<W>(chunk, tile);
            for (element, &class) in tile.iter().enumerate() {
                let class = usize::from(class) % CLASSES_MAX;
                let left = countdown[class];
                countdown[class] = left.wrapping_sub(1);
                if left == 0 {
                    let (step, gap) = self.advance(class, done + element as u64);
                    countdown[class] = gap;
                    let word = &mut chunk[element * W::BYTES..(element + 1) * W::BYTES];
                    ValueForm::UlpStep.target(order, W::load(word), W::narrow(step)).store(word);
                    // A dense class has a step for each element, zero if it stays.
                    if step != 0 {
                        changed((done + element as u64) as u32);
                    }
                }
            }
            done += tile.len() as u64;
        }
        (self.countdown, self.done) = (countdown, done);
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

    /// The step of the change that is due in a class at this element, and the gap to the next one.
    #[inline]
    fn advance(&mut self, class: usize, element: u64) -> (u64, u32) {
        let next = self.next[class];
        self.next[class] = next + 1;
        // A countdown runs out only where a change is left.
        let mut step = self.changes.get(next).map_or(0, |change| change.1);
        if let Some(signs) = self.signs.as_mut().filter(|_| step != 0) {
            // Less than half the range, so the zigzag fits.
            step = 2 * step - u64::from(signs.next(element));
        }
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
            None if self.signs.as_ref().is_none_or(|signs| signs.is_complete()) => Ok(()),
            None => Err(Fault::Stream {
                field: "signs",
                found: "a stream that does not end with the last change".into(),
            }),
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
                for _ in 0..class.count {
                    changes.push((self.gap(gap_k, "gap")?, 1));
                }
                let after_gaps = self.bits.position();
                self.account.positions += after_gaps - start;
                if !self.signs_apart {
                    // A step of one: zigzag 2, or 1 if it is negative.
                    for change in &mut changes[first..] {
                        change.1 = 2 - self.bits.take(1);
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
