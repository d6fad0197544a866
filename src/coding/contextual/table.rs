//! The table at the begin of a payload: the classes and their parameters.

use super::classes::CLASSES_MAX;
use crate::error::Fault;
use crate::parse::{self, Parse};
use crate::varint;

/// Bits of a gap that is written raw.
pub(crate) const RAW_GAP_BITS: u32 = 32;
/// Largest parameter of a gap, and of what has five bits in the table.
pub(crate) const K_MAX: u32 = 30;
/// In place of the parameter of the gaps: the class is dense.
const DENSE: u16 = 31;
/// Bit of the number of classes.
const PREDICTS_SIGNS: u8 = 0x80;

/// How the changes of a class are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coded {
    /// Gaps, signs, and the magnitudes that exceed 1.
    Sparse { gap_k: u32, exceptions: u64, exception_k: u32, magnitude_k: u32 },
    /// A zigzag step for each element.
    Dense { k: u32 },
}

/// One class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClassTable {
    /// Changes of a sparse class, elements of a dense one.
    pub count: u64,
    pub coded: Coded,
}

impl ClassTable {
    pub const EMPTY: ClassTable = ClassTable {
        count: 0,
        coded: Coded::Sparse { gap_k: 0, exceptions: 0, exception_k: 0, magnitude_k: 0 },
    };
}

/// The table: exponent of the lowest class, then the classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub lowest: u64,
    /// Signs are in a stream of their own.
    pub predicts_signs: bool,
    pub classes: Vec<ClassTable>,
}

impl Table {
    pub fn write(&self, out: &mut Vec<u8>) {
        varint::put(out, self.lowest);
        out.push(self.classes.len() as u8 | if self.predicts_signs { PREDICTS_SIGNS } else { 0 });
        for class in &self.classes {
            varint::put(out, class.count);
            if class.count == 0 {
                continue;
            }
            // 5 bits for gaps, 5 for exceptions, 6 for magnitudes.
            let (first, second, third, exceptions) = match class.coded {
                Coded::Sparse { gap_k, exceptions, exception_k, magnitude_k } => {
                    (gap_k as u16, exception_k as u16, magnitude_k as u16, Some(exceptions))
                }
                Coded::Dense { k } => (DENSE, 0, k as u16, None),
            };
            out.extend_from_slice(&(first | second << 5 | third << 10).to_le_bytes());
            if let Some(exceptions) = exceptions {
                varint::put(out, exceptions);
            }
        }
    }
}

/// What stands before the rows: exponent of the lowest class, number of classes, and whether signs
/// are in a stream of their own, which only blocks of a matrix have.
pub(crate) fn range(start: &[u8], is_matrix: bool) -> Parse<'_, (u64, usize, bool)> {
    let (i, lowest) = parse::varint(start, "lowest exponent")?;
    let (rest, byte) = parse::u8(i, "classes")?;
    let predicts_signs = byte & PREDICTS_SIGNS != 0;
    let count = usize::from(byte & !PREDICTS_SIGNS);
    let expected = if is_matrix {
        "1 to 32, and 128 more where signs are predicted"
    } else {
        "1 to 32: signs are predicted only in a matrix of at most 65,536 columns"
    };
    let legal = (1..=CLASSES_MAX).contains(&count) && (is_matrix || !predicts_signs);
    parse::check(i, legal, "classes", byte.into(), expected)?;
    Ok((rest, (lowest, count, predicts_signs)))
}

/// Reads the rows of the table.
pub(crate) fn classes(start: &[u8], count: usize, raw_bits: u32) -> Parse<'_, Vec<ClassTable>> {
    let (mut rest, mut classes) = (start, Vec::with_capacity(count));
    for _ in 0..count {
        let (i, class) = class(rest, raw_bits)?;
        classes.push(class);
        rest = i;
    }
    Ok((rest, classes))
}

fn class(start: &[u8], raw_bits: u32) -> Parse<'_, ClassTable> {
    let (at, count) = parse::varint(start, "class count")?;
    if count == 0 {
        return Ok((at, ClassTable::EMPTY));
    }
    let (i, low) = parse::u8(at, "class parameters")?;
    let (i, high) = parse::u8(i, "class parameters")?;
    let parameters = u16::from_le_bytes([low, high]);
    let (first, second, third) =
        (parameters & 31, u32::from(parameters >> 5 & 31), u32::from(parameters >> 10));
    parse::check(
        at,
        third < raw_bits,
        "magnitude parameter",
        third.into(),
        "less than the bits of an element",
    )?;
    if first == DENSE {
        parse::check(at, second == 0, "exception parameter", second.into(), "0 in a dense class")?;
        return Ok((i, ClassTable { count, coded: Coded::Dense { k: third } }));
    }
    parse::check(at, second <= K_MAX, "exception parameter", second.into(), "at most 30")?;
    let (rest, exceptions) = parse::varint(i, "exceptions")?;
    parse::check(
        i,
        exceptions <= count,
        "exceptions",
        exceptions,
        "at most the changes of the class",
    )?;
    if exceptions == 0 && second | third != 0 {
        let found = parameters.to_le_bytes()[1];
        return parse::fail(at, Fault::Reserved { field: "parameters of no exceptions", found });
    }
    let coded =
        Coded::Sparse { gap_k: first.into(), exceptions, exception_k: second, magnitude_k: third };
    Ok((rest, ClassTable { count, coded }))
}
