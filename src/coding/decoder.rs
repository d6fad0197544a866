//! The payload of one block applied to the bytes of its base.

use crate::changes::Changes;
use crate::coding::{contextual, flat, whole, Coding, Matrix};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::parse::Bad;
use crate::word::{at_width, unzigzag, Order, ValueForm, Word};

/// What a change does to its element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Signed distance in numeric order, modulo the width of the element.
    UlpStep(i64),
    /// Bits to flip.
    Xor(u64),
    /// Bits to set.
    Overwrite(u64),
}

/// Where the bits of a payload go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PayloadBits {
    /// Which elements change: gaps.
    pub positions: u64,
    /// Signs of the steps, where they are apart.
    pub signs: u64,
    /// By how much: magnitudes, dense steps, flat values, whole bytes.
    pub values: u64,
    /// Parameters, and what fills the last byte.
    pub tables: u64,
}

impl std::ops::AddAssign for PayloadBits {
    fn add_assign(&mut self, other: PayloadBits) {
        self.positions += other.positions;
        self.signs += other.signs;
        self.values += other.values;
        self.tables += other.tables;
    }
}

/// Turns the base bytes of one block into target bytes, in chunks.
///
/// A flat or whole block is checked in full when this is made, before the first element changes.
/// Whether a contextual one fits its base shows only at its end: the bytes of a block that then
/// fails are spoiled.
#[derive(Debug)]
pub struct BlockDecoder {
    element_bytes: usize,
    order: Order,
    /// Elements of the block, and how many of them were done.
    elements: u64,
    done: u64,
    account: PayloadBits,
    body: Body,
    /// Bytes of an element that a chunk cut in two, for `apply_to`.
    cut: Vec<u8>,
    /// Offset of the end of the block in the file, for errors.
    at: u64,
}

#[derive(Debug)]
enum Body {
    Flat { form: ValueForm, changes: Changes, next: usize },
    Contextual(Box<contextual::Walk>),
    Whole(whole::Planes),
}

impl BlockDecoder {
    pub(crate) fn new(
        dtype: &Dtype,
        matrix: Option<Matrix>,
        coding: Coding,
        elements: u64,
        changes: u64,
        payload: &[u8],
        at: u64,
    ) -> Result<Self, Bad> {
        let element_bytes = dtype.element_bytes();
        let bits = payload.len() as u64 * 8;
        let mut account = PayloadBits::default();
        let body = match coding {
            Coding::Whole => {
                account.values = bits;
                Body::Whole(whole::Planes::read(payload, element_bytes, elements)?)
            }
            Coding::Flat => {
                let (form, changes, found) =
                    flat::decode(payload, element_bytes, elements, changes)?;
                account = found;
                Body::Flat { form, changes, next: 0 }
            }
            Coding::Contextual => {
                let walk = contextual::Walk::new(
                    payload,
                    element_bytes,
                    dtype.order(),
                    matrix,
                    elements,
                    changes,
                )?;
                account = walk.account();
                account.tables = bits - account.positions - account.signs - account.values;
                Body::Contextual(Box::new(walk))
            }
        };
        Ok(BlockDecoder {
            element_bytes,
            order: dtype.order(),
            elements,
            done: 0,
            account,
            body,
            cut: Vec::new(),
            at,
        })
    }

    /// The changes as (element within the block, value); `None` for a contextual block, which says
    /// nothing without its base. A whole block overwrites every element.
    #[must_use]
    pub fn changes(&self) -> Option<impl Iterator<Item = (u64, Value)> + '_> {
        let (flat, whole) = match &self.body {
            Body::Flat { form, changes, .. } => (Some((form, changes)), None),
            Body::Whole(planes) => (None, Some(planes)),
            Body::Contextual(_) => return None,
        };
        let flat = flat.into_iter().flat_map(move |(form, changes)| {
            let pairs = changes.elements.iter().zip(&changes.values);
            pairs.map(move |(&element, &value)| {
                let value = match form {
                    ValueForm::UlpStep => Value::UlpStep(unzigzag(value)),
                    ValueForm::Xor => Value::Xor(value),
                    ValueForm::Overwrite => Value::Overwrite(value),
                };
                (u64::from(element), value)
            })
        });
        let element_bytes = self.element_bytes;
        let elements = self.elements;
        let whole = whole.into_iter().flat_map(move |planes| {
            (0..elements).map(move |element| {
                let mut wide = [0; 8];
                let bytes = &mut wide[..element_bytes];
                at_width!(element_bytes, copy(planes, element as usize, bytes));
                (element, Value::Overwrite(u64::from_le_bytes(wide)))
            })
        });
        Some(flat.chain(whole))
    }

    /// The changes of a flat block and the form of their values.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn into_flat(self) -> Option<(ValueForm, Changes)> {
        match self.body {
            Body::Flat { form, changes, .. } => Some((form, changes)),
            _ => None,
        }
    }

    /// The steps of all changes, in an order that says nothing, if they can be told without the
    /// base. `None` if the block has no steps but whole bytes, or bits to flip or set, and if the
    /// signs of the steps are predicted from their places (SPEC.md §7.6).
    ///
    /// ```
    /// use pulse::coding::BlockEncoder;
    /// use pulse::dtype::Dtype;
    /// use pulse::coding::BlockOptions;
    /// let (base, target) = ([0x80, 0x3f, 0, 0], [0x81, 0x3f, 0, 0]);
    /// let block = BlockEncoder::new(BlockOptions::default()).encode(&Dtype::Bf16, &base, &target)?;
    /// let decoder = block.expect("something changed").decode(&Dtype::Bf16, 2)?;
    /// assert_eq!(decoder.ulp_steps().expect("steps").collect::<Vec<_>>(), [1]);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn ulp_steps(&self) -> Option<impl Iterator<Item = i64> + '_> {
        let (flat, walk) = match &self.body {
            Body::Flat { form: ValueForm::UlpStep, changes, .. } => {
                (changes.values.as_slice(), None)
            }
            Body::Contextual(walk) => (&[][..], Some(walk.steps()?)),
            Body::Flat { .. } | Body::Whole(_) => return None,
        };
        let zigzag = flat.iter().copied().chain(walk.into_iter().flatten());
        Some(zigzag.map(unzigzag))
    }

    /// Turns the next chunk of base bytes into target bytes, in place. A chunk is any number of
    /// whole elements.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the chunk cuts an element or goes past the end of the block;
    /// [`Error::Corrupt`] at the end of a contextual block that does not fit this base.
    pub fn apply(&mut self, chunk: &mut [u8]) -> Result<()> {
        self.apply_with(chunk, |_| {})
    }

    /// As [`apply`](Self::apply), and adds to `changed` the elements of the block whose bits change,
    /// in ascending order. A whole block, which overwrites all of them, adds none.
    #[cfg(feature = "parallel")]
    pub(crate) fn apply_noting(&mut self, chunk: &mut [u8], changed: &mut Vec<u32>) -> Result<()> {
        self.apply_with(chunk, |element| changed.push(element))
    }

    fn apply_with(&mut self, chunk: &mut [u8], changed: impl FnMut(u32)) -> Result<()> {
        if !chunk.len().is_multiple_of(self.element_bytes) || !self.cut.is_empty() {
            return Err(Error::misuse(format!(
                "a chunk of {} bytes cuts an element of {} bytes; give whole elements",
                chunk.len(),
                self.element_bytes
            )));
        }
        let elements = (chunk.len() / self.element_bytes) as u64;
        if elements > self.elements - self.done {
            return Err(Error::misuse(format!(
                "chunk of {elements} elements, but the block has only {} left; give no more",
                self.elements - self.done
            )));
        }
        at_width!(self.element_bytes, apply(self, chunk, changed));
        self.done += elements;
        match &self.body {
            Body::Contextual(walk) if self.is_done() => {
                walk.finish(self.elements).map_err(|fault| fault.at(self.at))
            }
            _ => Ok(()),
        }
    }

    /// Leaves out bytes, whole elements, of which neither base nor target is of interest; of a contextual
    /// block none can be left out.
    #[cfg(feature = "parallel")]
    pub(crate) fn skip(&mut self, bytes: u64) -> Result<()> {
        let end = self.done + bytes / self.element_bytes as u64;
        match &mut self.body {
            Body::Flat { changes, next, .. } => {
                *next +=
                    changes.elements[*next..].partition_point(|&element| u64::from(element) < end);
            }
            Body::Whole(_) => {}
            Body::Contextual(_) if bytes == 0 => {}
            Body::Contextual(_) => {
                return Err(Error::misuse("a contextual block is applied from its start"))
            }
        }
        self.done = end;
        Ok(())
    }

    /// Turns the next chunk of base bytes, of any length, into target bytes at the end of `out`.
    /// Bytes of an element that the chunk cuts in two come with the next chunk.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the chunk goes past the end of the block.
    pub fn apply_to(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !self.cut.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(self.element_bytes - self.cut.len()));
            self.cut.extend_from_slice(now);
            if self.cut.len() < self.element_bytes {
                return Ok(());
            }
            let mut element = std::mem::take(&mut self.cut);
            self.apply(&mut element)?;
            out.extend_from_slice(&element);
            chunk = later;
        }
        let (now, cut) = chunk.split_at(chunk.len() - chunk.len() % self.element_bytes);
        let start = out.len();
        out.extend_from_slice(now);
        if let Err(error) = self.apply(&mut out[start..]) {
            out.truncate(start);
            return Err(error);
        }
        if !cut.is_empty() && self.done == self.elements {
            return Err(Error::misuse("the chunk goes past the end of the block"));
        }
        self.cut.extend_from_slice(cut);
        Ok(())
    }

    /// Where the bits of the payload go; they sum up to its size.
    #[must_use]
    pub fn account(&self) -> PayloadBits {
        self.account
    }

    /// Whether every element of the block was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done == self.elements
    }
}

fn apply<W: Word>(decoder: &mut BlockDecoder, chunk: &mut [u8], mut changed: impl FnMut(u32)) {
    let order = decoder.order;
    match &mut decoder.body {
        Body::Flat { form, changes, next } => {
            let end = decoder.done + (chunk.len() / W::BYTES) as u64;
            let ready =
                changes.elements[*next..].partition_point(|&element| u64::from(element) < end);
            for i in *next..*next + ready {
                let at = (u64::from(changes.elements[i]) - decoder.done) as usize * W::BYTES;
                let word = &mut chunk[at..at + W::BYTES];
                let base = W::load(word);
                let target = form.target(order, base, W::narrow(changes.values[i]));
                target.store(word);
                // An element may be overwritten with the bits that it has.
                if target != base {
                    changed(changes.elements[i]);
                }
            }
            *next += ready;
        }
        Body::Contextual(walk) => walk.apply::<W>(chunk, changed),
        Body::Whole(planes) => copy::<W>(planes, decoder.done as usize, chunk),
    }
}

fn copy<W: Word>(planes: &whole::Planes, first: usize, target: &mut [u8]) {
    planes.copy::<W>(first, target);
}
