//! Single blocks: the library's decoder and encoder against the reference.

use arbitrary::{Arbitrary, Unstructured};
use pulse::changes::count_changes;
use pulse::coding::{BlockEncoder, BlockOptions, Coding, EncodedBlock, ValueForm};
use pulse::dtype::Dtype;
use pulse::Result;

use super::reference::{self, Kind};

/// Enough for varints and gaps of two bytes, and few enough to keep a run short.
const ELEMENTS_MAX: u16 = 3000;

/// A block in the fuzzer's bytes: code of the coding, and three times the columns of the matrix if it is of one; code of
/// the dtype, elements and changes (u16 each), number of bytes of the
/// pattern that the base repeats, the pattern, and all the rest is the payload.
pub struct Draft {
    coding: u8,
    columns: Option<u64>,
    dtype: u8,
    elements: usize,
    changes: u64,
    pattern: Vec<u8>,
    payload: Vec<u8>,
}

impl Draft {
    fn parse(data: &[u8]) -> Option<Draft> {
        let (&[coding, dtype, e0, e1, c0, c1, pattern], rest) = data.split_first_chunk()?;
        let (pattern, payload) = rest.split_at_checked(pattern.into())?;
        let elements = u16::from_le_bytes([e0, e1]);
        // What a block says of itself was checked before its coding is asked (R34).
        let changes = u16::from_le_bytes([c0, c1]);
        let legal = elements <= ELEMENTS_MAX && (1..=elements).contains(&changes);
        legal.then(|| Draft {
            coding: coding % 3,
            columns: Some(u64::from(coding / 3)).filter(|&columns| columns > 0),
            dtype: dtype % 18,
            elements: elements.into(),
            changes: changes.into(),
            pattern: pattern.to_vec(),
            payload: payload.to_vec(),
        })
    }

    /// The bytes of which [`parse`](Self::parse) makes this block.
    pub fn write(&self) -> Vec<u8> {
        let columns = self.columns.unwrap_or(0) as u8;
        let mut data = vec![self.coding + 3 * columns, self.dtype];
        data.extend_from_slice(&(self.elements as u16).to_le_bytes());
        data.extend_from_slice(&(self.changes as u16).to_le_bytes());
        data.push(self.pattern.len() as u8);
        data.extend_from_slice(&self.pattern);
        data.extend_from_slice(&self.payload);
        data
    }

    fn base(&self) -> Vec<u8> {
        repeated(&self.pattern, self.elements * self.dtype().element_bytes())
    }

    fn dtype(&self) -> Dtype {
        dtype(self.dtype)
    }
}

/// The dtype of a code; any other dtype has code 0.
pub fn dtype(code: u8) -> Dtype {
    match code.checked_sub(1) {
        Some(number) => Dtype::known().nth(number.into()).expect("a known code"),
        None => Dtype::from_name("F4"),
    }
}

/// So many bytes that repeat a pattern; zeros if it is empty.
fn repeated(pattern: &[u8], bytes: usize) -> Vec<u8> {
    let pattern = if pattern.is_empty() { &[0] } else { pattern };
    pattern.iter().copied().cycle().take(bytes).collect()
}

/// Any block on any base: library and reference both refuse it, or both make the same bytes of it.
pub fn blocks(data: &[u8]) {
    let Some(draft) = Draft::parse(data) else { return };
    let base = draft.base();
    let found = decode(&draft, &base);
    let kind = Kind::of_code(draft.dtype);
    let expected = {
        let Draft { coding, dtype, columns, changes, .. } = draft;
        let columns = columns.filter(|_| dtype > 0);
        reference::decode(coding, kind, columns, &base, changes, &draft.payload)
    };
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            assert!(found == expected, "library and reference make other bytes")
        }
        (Err(error), Err(_)) => assert!(!error.kind().is_empty() && !error.to_string().is_empty()),
        (Ok(_), Err(refused)) => panic!("the library takes what the reference refuses: {refused}"),
        (Err(error), Ok(_)) => panic!("the reference takes what the library refuses: {error}"),
    }
}

fn block(draft: &Draft) -> EncodedBlock {
    let coding = [Coding::Whole, Coding::Flat, Coding::Contextual][usize::from(draft.coding)];
    EncodedBlock::new(coding, draft.changes, draft.columns, draft.payload.clone())
}

/// The library's result, at once and in chunks that cut elements, which must be the same.
fn decode(draft: &Draft, base: &[u8]) -> Result<Vec<u8>> {
    let block = block(draft);
    let decoder = || block.decode(&draft.dtype(), draft.elements as u64);
    let at_once = decoder().and_then(|mut decoder| {
        let mut bytes = base.to_vec();
        decoder.apply(&mut bytes)?;
        assert!(decoder.is_done());
        let account = decoder.account();
        let bits = account.positions + account.signs + account.values + account.tables;
        assert_eq!(bits, 8 * draft.payload.len() as u64, "bits of the payload are unaccounted for");
        Ok(bytes)
    });
    let in_chunks = decoder().and_then(|mut decoder| {
        let mut bytes = Vec::with_capacity(base.len());
        base.chunks(base.len() / 3 + 1)
            .try_for_each(|chunk| decoder.apply_to(chunk, &mut bytes))?;
        Ok(bytes)
    });
    match (&at_once, &in_chunks) {
        (Ok(at_once), Ok(in_chunks)) => assert!(at_once == in_chunks, "chunks make other bytes"),
        (Err(at_once), Err(in_chunks)) => assert_eq!(at_once.to_string(), in_chunks.to_string()),
        _ => panic!("at once: {:?}; in chunks: {:?}", at_once.err(), in_chunks.err()),
    }
    at_once
}

/// Two versions of a block, as the fuzzer sees them.
#[derive(Debug, Arbitrary)]
struct Pair {
    dtype: u8,
    form: u8,
    level: i8,
    elements: u16,
    /// Of the matrix; 0 if it is none.
    columns: u8,
    pattern: Vec<u8>,
    /// Distance of elements that change all alike, and what flips there; 0 for none.
    every: u8,
    flip: u64,
    /// Elements, and bits that flip there.
    flips: Vec<(u16, u64)>,
    /// Elements, and by how much they go up as integers.
    steps: Vec<(u16, i8)>,
}

impl Pair {
    fn elements(&self) -> u16 {
        self.elements % (ELEMENTS_MAX + 1)
    }

    fn sides(&self) -> (Vec<u8>, Vec<u8>) {
        let width = dtype(self.dtype % 18).element_bytes();
        let base = repeated(&self.pattern, usize::from(self.elements()) * width);
        let mut target = base.clone();
        let mut change = |element: usize, new: &dyn Fn(u64) -> u64| {
            let Some(bytes) = target.chunks_exact_mut(width).nth(element) else { return };
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(bytes);
            bytes.copy_from_slice(&new(u64::from_le_bytes(wide)).to_le_bytes()[..width]);
        };
        if self.every > 0 {
            (0..self.elements().into())
                .step_by(self.every.into())
                .for_each(|at| change(at, &|bits| bits ^ self.flip));
        }
        self.flips.iter().for_each(|&(at, flip)| change(at.into(), &|bits| bits ^ flip));
        self.steps.iter().for_each(|&(at, step)| {
            change(at.into(), &|bits| bits.wrapping_add_signed(step.into()))
        });
        (base, target)
    }

    fn options(&self) -> BlockOptions {
        let flat = BlockOptions::default().with_coding(Coding::Flat);
        let options = match self.form % 4 {
            0 => BlockOptions::default(),
            1 => flat.with_values(ValueForm::UlpStep),
            2 => flat.with_values(ValueForm::Xor),
            _ => flat.with_values(ValueForm::Overwrite),
        };
        options.with_level(i32::from(self.level).clamp(-7, 3))
    }

    /// The block that leads from one side to the other, if they differ.
    fn encode(&self) -> Option<EncodedBlock> {
        let (base, target) = self.sides();
        let dtype = dtype(self.dtype % 18);
        let mut encoder = BlockEncoder::new(self.options());
        if self.columns > 0 {
            encoder = encoder.with_columns(u64::from(self.columns % 86));
        }
        encoder.encode(&dtype, &base, &target).expect("two slices of one length")
    }
}

/// Any two versions of a block: what the library encodes, the reference decodes to the target, and so does the library.
pub fn encoder(data: &[u8]) {
    let Ok(pair) = Pair::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let (base, target) = pair.sides();
    let (code, dtype) = (pair.dtype % 18, dtype(pair.dtype % 18));
    let changes = count_changes(&dtype, &base, &target).unwrap();
    let Some(block) = pair.encode() else {
        assert!(base == target, "changes were overlooked");
        return;
    };
    if block.coding != Coding::Whole {
        assert_eq!(block.changes, changes);
    }
    let made = reference::decode(
        block.coding.code(),
        Kind::of_code(code),
        block.columns.filter(|_| code > 0),
        &base,
        block.changes,
        &block.payload,
    );
    assert!(made.expect("a block of our own") == target, "the reference makes other bytes");
    let elements = u64::from(pair.elements());
    let mut made = base;
    let mut decoder = block.decode(&dtype, elements).expect("a block of our own");
    decoder.apply(&mut made).expect("a block of our own on its base");
    assert!(made == target, "the library makes other bytes");
}

/// Blocks of every dtype and coding, as [`blocks`] reads them.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for dtype in 0..18 {
        for form in 0..4 {
            for (elements, every) in [(20, 3), (300, 1), (2000, 40)] {
                // Small exponents and large ones, both signs.
                let pattern = (0..120).map(|i: u8| i.wrapping_mul(73) ^ (i >> 3)).collect();
                let flips = (0..6).map(|i| (i * i * 7, 1 << (i * 3))).collect();
                let steps = (0..20).map(|i| (i * 11 + 5, (i % 5) as i8 - 2)).collect();
                let pair = Pair {
                    dtype,
                    form,
                    level: 1,
                    elements,
                    columns: if form == 0 { 50 } else { 0 },
                    pattern,
                    every,
                    flip: 1,
                    flips,
                    steps,
                };
                let block = pair.encode().expect("a change");
                let draft = Draft {
                    coding: block.coding.code(),
                    columns: block.columns,
                    dtype,
                    elements: elements.into(),
                    changes: block.changes,
                    pattern: pair.pattern,
                    payload: block.payload,
                };
                seeds.push(draft.write());
            }
        }
    }
    seeds
}
