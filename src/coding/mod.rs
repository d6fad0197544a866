//! Codings: how the changes of one block are written. Plain functions on slices.
//!
//! The registry of SPEC.md §7 is open: a new coding is a new code, a new file here, and a new
//! arm in [`encode`] and [`BlockDecoder::new`].

mod contextual;
mod flat;
mod packed;
mod whole;

pub(crate) use packed::{parse as parse_packed, put as put_packed, Packed};

use crate::dtype::Dtype;
use crate::element::{at_width, Changes, Order, ValueForm, Word};
use crate::error::{Error, Fault, Result};
use crate::parse::Bad;
use crate::stream::EncoderOptions;

/// The coding of a block, as its code byte on the wire says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Coding {
    /// Every byte of the target, in byte planes (SPEC.md §7.4).
    Whole,
    /// Gaps and values, readable without the base (SPEC.md §7.3).
    Flat,
    /// Gaps within exponent classes of the base, steps; about half of flat (SPEC.md §7.5).
    #[default]
    Contextual,
}

impl Coding {
    const ALL: [Coding; 3] = [Coding::Whole, Coding::Flat, Coding::Contextual];

    /// Code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Coding::Whole => 0,
            Coding::Flat => 1,
            Coding::Contextual => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Coding> {
        Self::ALL.into_iter().find(|coding| coding.code() == code)
    }

    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Coding::Whole => "whole",
            Coding::Flat => "flat",
            Coding::Contextual => "contextual",
        }
    }
}

/// What an encoder may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The richest coding allowed: with `Flat`, every block is flat.
    pub coding: Coding,
    pub values: ValueForm,
    pub level: i32,
}

/// The changes of one block in the smallest coding that was allowed, without any container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncodedBlock {
    /// How the changes are written.
    pub coding: Coding,
    /// Number of elements that change.
    pub changes: u64,
    /// The payload of the coding (SPEC.md §7).
    pub payload: Vec<u8>,
}

impl EncodedBlock {
    /// Makes the block, which has so many elements of this dtype, ready to be applied.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the payload breaks a rule of its coding; [`Error::Misuse`] for more
    /// elements than a block can have.
    pub fn decode(&self, dtype: &Dtype, elements: u64) -> Result<BlockDecoder> {
        if elements.saturating_mul(dtype.element_bytes() as u64) > BLOCK_BYTES_MAX as u64 {
            return Err(Error::misuse(format!(
                "{elements} elements of {dtype} are no block: at most 64 MiB; cut the tensor into blocks"
            )));
        }
        let len = self.payload.len();
        BlockDecoder::new(dtype, self.coding, elements, self.changes, &self.payload, len as u64)
            .map_err(|bad| bad.fault.at((len - bad.rest) as u64))
    }
}

/// Encodes single blocks without a container: for those who frame and verify them by other means.
///
/// ```
/// use pulse::{BlockEncoder, Dtype, EncoderOptions};
/// let mut encoder = BlockEncoder::new(&EncoderOptions::default());
/// let (base, target) = ([0x80, 0x3f, 0, 0], [0x81, 0x3f, 0, 0]);
/// let block = encoder.encode(&Dtype::Bf16, &base, &target)?.expect("something changed");
/// let mut weights = base;
/// block.decode(&Dtype::Bf16, 2)?.apply(&mut weights)?;
/// assert_eq!(weights, target);
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct BlockEncoder {
    choice: Choice,
    scratch: Scratch,
}

/// Largest block that the format knows.
const BLOCK_BYTES_MAX: usize = 1024 * crate::LEAF_BYTES;

impl BlockEncoder {
    /// An encoder with the coding, value form and zstd level of these options.
    #[must_use]
    pub fn new(options: &EncoderOptions) -> Self {
        BlockEncoder { choice: options.choice(), scratch: Scratch::default() }
    }

    /// Encodes the changes from `base` to `target`; `None` if there are none.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the slices differ in length, cut an element, or exceed 64 MiB.
    pub fn encode(&mut self, dtype: &Dtype, base: &[u8], target: &[u8]) -> Result<Option<EncodedBlock>> {
        let whole = target.len().is_multiple_of(dtype.element_bytes());
        if base.len() != target.len() || !whole || target.len() > BLOCK_BYTES_MAX {
            let (base, target) = (base.len(), target.len());
            return Err(Error::misuse(format!("{base} base and {target} target bytes of {dtype} are no block; give as many of each, whole elements, at most 64 MiB")));
        }
        Ok(encode(dtype, self.choice, base, target, &mut self.scratch))
    }
}

/// Space that an encoder keeps from block to block.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    changes: Changes,
    sorted: contextual::Sorted,
}

/// Blocks with at most so many changes are coded flat as well: a table may cost more than it saves.
const FEW_CHANGES: usize = 64;

/// Whether most gaps are as long as the gap before: zstd then finds what no Rice code can.
fn is_regular(changes: &Changes) -> bool {
    let repeats = changes.elements.windows(3).filter(|three| three[1] - three[0] == three[2] - three[1]);
    repeats.count() > changes.elements.len() / 2
}

/// Encodes the changes from `base` to `target`, which have the same length; `None` if there are none.
pub(crate) fn encode(
    dtype: &Dtype,
    choice: Choice,
    base: &[u8],
    target: &[u8],
    scratch: &mut Scratch,
) -> Option<EncodedBlock> {
    let (element_bytes, order) = (dtype.element_bytes(), dtype.order());
    let Scratch { changes, sorted } = scratch;
    let form = if choice.coding == Coding::Flat { choice.values } else { ValueForm::Step };
    changes.collect(element_bytes, order, form, base, target);
    let count = changes.elements.len();
    if count == 0 {
        return None;
    }
    let block = |coding, payload| EncodedBlock { coding, changes: count as u64, payload };
    if choice.coding == Coding::Flat {
        return Some(block(Coding::Flat, flat::encode(changes, form, choice.level)));
    }
    let contextual = at_width!(element_bytes, contextual_encode(order, base, changes, sorted));
    // The others are tried only where they can win. Flat: few changes, changes at regular places,
    // or hardly any gain so far.
    let try_flat = count <= FEW_CHANGES || contextual.len() > target.len() / 4 || is_regular(changes);
    let mut best = block(Coding::Contextual, contextual);
    if try_flat {
        changes.collect(element_bytes, order, choice.values, base, target);
        let payload = flat::encode(changes, choice.values, choice.level);
        if payload.len() < best.payload.len() {
            best = block(Coding::Flat, payload);
        }
    }
    if best.payload.len() > target.len() / 2 {
        let payload = whole::encode(target, element_bytes, choice.level);
        if payload.len() < best.payload.len() {
            best = block(Coding::Whole, payload);
        }
    }
    Some(best)
}

/// Encodes changes that are known already as a flat block; `None` if there are none.
#[cfg(feature = "checkpoint")]
pub(crate) fn encode_flat(changes: &Changes, form: ValueForm, level: i32) -> Option<EncodedBlock> {
    let count = changes.elements.len() as u64;
    let block = || EncodedBlock { coding: Coding::Flat, changes: count, payload: flat::encode(changes, form, level) };
    (count > 0).then(block)
}

// at_width! takes a plain name.
fn contextual_encode<W: Word>(
    order: Order,
    base: &[u8],
    changes: &Changes,
    sorted: &mut contextual::Sorted,
) -> Vec<u8> {
    contextual::encode::<W>(order, base, changes, sorted)
}

/// Encodes a block that has no base.
pub(crate) fn encode_whole(dtype: &Dtype, choice: Choice, target: &[u8]) -> EncodedBlock {
    let element_bytes = dtype.element_bytes();
    EncodedBlock {
        coding: Coding::Whole,
        changes: (target.len() / element_bytes) as u64,
        payload: whole::encode(target, element_bytes, choice.level),
    }
}

/// What a change does to its element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Signed distance in numeric order, modulo the width of the element.
    Step(i64),
    /// Bits to flip.
    Xor(u64),
    /// Bits to set.
    Overwrite(u64),
}

/// Where the bits of a payload go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Account {
    /// Which elements change: gaps.
    pub positions: u64,
    /// Signs of the steps, where they are apart.
    pub signs: u64,
    /// By how much: magnitudes, dense steps, flat values, whole bytes.
    pub values: u64,
    /// Parameters, and what fills the last byte.
    pub tables: u64,
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Account) {
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
    account: Account,
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
    Whole { target: Vec<u8> },
}

impl BlockDecoder {
    pub(crate) fn new(
        dtype: &Dtype,
        coding: Coding,
        elements: u64,
        changes: u64,
        payload: &[u8],
        at: u64,
    ) -> Result<Self, Bad> {
        let element_bytes = dtype.element_bytes();
        let bits = payload.len() as u64 * 8;
        let mut account = Account::default();
        let body = match coding {
            Coding::Whole => {
                account.values = bits;
                Body::Whole { target: whole::decode(payload, element_bytes, elements)? }
            }
            Coding::Flat => {
                let (form, changes, found) = flat::decode(payload, element_bytes, elements, changes)?;
                account = found;
                Body::Flat { form, changes, next: 0 }
            }
            Coding::Contextual => {
                let walk = contextual::Walk::new(payload, element_bytes, dtype.order(), elements, changes)?;
                account = walk.account();
                account.tables = bits - account.positions - account.signs - account.values;
                Body::Contextual(Box::new(walk))
            }
        };
        Ok(BlockDecoder { element_bytes, order: dtype.order(), elements, done: 0, account, body, cut: Vec::new(), at })
    }

    /// The changes as (element within the block, value); `None` for a contextual block, which says
    /// nothing without its base. A whole block overwrites every element.
    #[must_use]
    pub fn changes(&self) -> Option<impl Iterator<Item = (u64, Value)> + '_> {
        let (flat, whole) = match &self.body {
            Body::Flat { form, changes, .. } => (Some((form, changes)), None),
            Body::Whole { target } => (None, Some(target)),
            Body::Contextual(_) => return None,
        };
        let flat = flat.into_iter().flat_map(move |(form, changes)| {
            let pairs = changes.elements.iter().zip(&changes.values);
            pairs.map(move |(&element, &value)| {
                let value = match form {
                    ValueForm::Step => Value::Step(crate::element::unzigzag(value)),
                    ValueForm::Xor => Value::Xor(value),
                    ValueForm::Overwrite => Value::Overwrite(value),
                };
                (u64::from(element), value)
            })
        });
        let element_bytes = self.element_bytes;
        let whole = whole.into_iter().flat_map(move |target| {
            target.chunks_exact(element_bytes).enumerate().map(|(element, bytes)| {
                let mut wide = [0; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                (element as u64, Value::Overwrite(u64::from_le_bytes(wide)))
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

    /// The steps of all changes, in an order that says nothing; no base is needed for them. `None`
    /// if the block has no steps but whole bytes, or bits to flip or set.
    ///
    /// ```
    /// use pulse::{BlockEncoder, Dtype, EncoderOptions};
    /// let (base, target) = ([0x80, 0x3f, 0, 0], [0x81, 0x3f, 0, 0]);
    /// let block = BlockEncoder::new(&EncoderOptions::default()).encode(&Dtype::Bf16, &base, &target)?;
    /// let decoder = block.expect("something changed").decode(&Dtype::Bf16, 2)?;
    /// assert_eq!(decoder.steps().expect("steps").collect::<Vec<_>>(), [1]);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn steps(&self) -> Option<impl Iterator<Item = i64> + '_> {
        let (flat, walk) = match &self.body {
            Body::Flat { form: ValueForm::Step, changes, .. } => (changes.values.as_slice(), None),
            Body::Contextual(walk) => (&[][..], Some(walk)),
            Body::Flat { .. } | Body::Whole { .. } => return None,
        };
        let zigzag = flat.iter().copied().chain(walk.into_iter().flat_map(|walk| walk.steps()));
        Some(zigzag.map(crate::element::unzigzag))
    }

    /// Turns the next chunk of base bytes into target bytes, in place. A chunk is any number of
    /// whole elements.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the chunk cuts an element or goes past the end of the block;
    /// [`Error::Corrupt`] at the end of a contextual block that does not fit this base.
    pub fn apply(&mut self, chunk: &mut [u8]) -> Result<()> {
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
        at_width!(self.element_bytes, apply(self, chunk));
        self.done += elements;
        match &self.body {
            Body::Contextual(walk) if self.is_done() => walk.finish(self.elements).map_err(|fault| fault.at(self.at)),
            _ => Ok(()),
        }
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
    pub fn account(&self) -> Account {
        self.account
    }

    /// Whether every element of the block was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done == self.elements
    }
}

fn apply<W: Word>(decoder: &mut BlockDecoder, chunk: &mut [u8]) {
    let order = decoder.order;
    match &mut decoder.body {
        Body::Flat { form, changes, next } => {
            let end = decoder.done + (chunk.len() / W::BYTES) as u64;
            let ready = changes.elements[*next..].partition_point(|&element| u64::from(element) < end);
            for i in *next..*next + ready {
                let at = (u64::from(changes.elements[i]) - decoder.done) as usize * W::BYTES;
                let word = &mut chunk[at..at + W::BYTES];
                form.target(order, W::load(word), W::narrow(changes.values[i])).store(word);
            }
            *next += ready;
        }
        Body::Contextual(walk) => walk.apply::<W>(chunk),
        Body::Whole { target } => {
            let start = decoder.done as usize * W::BYTES;
            chunk.copy_from_slice(&target[start..start + chunk.len()]);
        }
    }
}

/// The fault of a coding whose code this reader does not know.
pub(crate) fn unknown(code: u8) -> Fault {
    Fault::Value { field: "coding", found: u64::from(code), expected: "a known coding; use a newer reader" }
}
