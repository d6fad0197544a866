//! A patch made of patches alone: flat changes combined or turned round, without any checkpoint.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::chain::changes::Sum;
use crate::changes::Changes;
use crate::coding::{self, EncodedBlock};
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Made, Result};
use crate::hash::{TensorHasher, LEAF_BYTES};
use crate::patch::chain::{Effect, Link, TensorHistory, Version};
use crate::patch::{BlockEntry, Chain};
use crate::stream::{EncoderOptions, Session};
use crate::tensors::chain_end::ChainEnd;
use crate::tensors::pieces::{for_each_of, leaves_of_all, Pair, Piece};
use crate::tensors::{Control, TensorSource};
use crate::wire::{Action, TensorHeader};
use crate::word::ValueForm;

/// Which direction the changes of a chain are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the base of the first patch to the target of the last.
    Forward,
    /// The other direction.
    Back,
}

impl Direction {
    /// The tensor cannot be combined in this direction without a checkpoint.
    fn refuse(self, link: Link<'_>, why: &str) -> Error {
        let (file, name) = (link.patch.path().map(Path::to_path_buf), &link.tensor.header.name);
        let what = format!("tensor '{name}' {why}");
        match self {
            Direction::Forward => {
                let rest = "without the base, only flat changes of one value form, step or xor, can be composed";
                Error::NeedsBase { file, what: format!("{what}; {rest}") }
            }
            Direction::Back => Error::NotInvertible { file, what },
        }
    }
}

/// A tensor of the new patch.
struct Combined<'a> {
    header: TensorHeader,
    base: Option<Digest>,
    target: Option<Digest>,
    /// Both sides for changes, the target alone for a tensor that is written whole, none for one deleted.
    pair: Pair<'a>,
}

impl<'a> Combined<'a> {
    /// `None` if the tensor is not in the new patch.
    fn new(
        name: &'a str,
        history: &TensorHistory<'a>,
        direction: Direction,
    ) -> Result<Option<Self>> {
        let last = || {
            history.links.last().copied().ok_or_else(|| {
                Error::Internal(format!("tensor '{name}' is in no patch of its chain"))
            })
        };
        let outcome = match history.effect() {
            Ok(outcome) => outcome,
            Err(why) => return Err(direction.refuse(last()?, why)),
        };
        let (action, base_spec, spec) = match (outcome, direction) {
            (Effect::Unchanged, _) => return Ok(None),
            (Effect::Patched(spec), _) => (Action::Patched, Some(spec), Some(spec)),
            (Effect::Put(action, spec), Direction::Forward) => (action, None, Some(spec)),
            (Effect::Put(Action::Added, _), Direction::Back)
            | (Effect::Deleted, Direction::Forward) => (Action::Deleted, None, None),
            (Effect::Put(..), Direction::Back) => {
                return Err(direction.refuse(last()?, "is replaced"))
            }
            (Effect::Deleted, Direction::Back) => {
                return Err(direction.refuse(last()?, "is deleted"))
            }
        };
        let digest = |side: Option<Version<'_>>| side.map(|side| side.digest);
        let (base, target) = match direction {
            Direction::Forward => (digest(history.base), digest(history.target)),
            Direction::Back => (digest(history.target), digest(history.base)),
        };
        let header = TensorHeader { name: name.into(), action, spec: spec.cloned() };
        Ok(Some(Combined {
            header,
            base,
            target,
            pair: Pair { name, base: base_spec, target: spec, from: 0 },
        }))
    }
}

/// Writes the tensors of a chain without a base, each with the digests that the patches name.
pub(crate) fn combine_tensors<W: Write>(
    session: &mut Session<W>,
    chain: &Chain<'_>,
    direction: Direction,
    control: Control<'_>,
) -> Result<BTreeMap<Action, u64>> {
    let combined =
        chain.histories.iter().map(|(name, history)| Combined::new(name, history, direction));
    let combined: Vec<Combined<'_>> =
        combined.filter_map(Result::transpose).collect::<Result<_>>()?;
    let pairs: Vec<Pair<'_>> = combined.iter().map(|combined| combined.pair).collect();
    let combining = Combining {
        chain,
        direction,
        form: form_of(chain, &pairs, direction)?,
        options: session.options.clone(),
    };

    let mut actions = BTreeMap::new();
    let mut tensors = combined.iter();
    let mut open = None;
    let mut hasher = TensorHasher::new();
    // Where the piece before ended: what lies between has no changes.
    let mut end = 0;
    let work = |own: &mut Own, group: &[Piece<'_>]| {
        group.iter().map(|piece| combining.piece(piece, own)).collect::<Result<Vec<_>>>()
    };
    let full = combining.piece_bytes();
    let pieces = pairs.iter().flat_map(|pair| combining.pieces(*pair));
    for_each_of(pieces, full, control, Own::default, work, |piece, done| {
        if piece.first {
            open = tensors.next();
            end = 0;
        }
        let Some(Combined { header, base, target, pair }) = open else { return Ok(()) };
        if piece.first {
            session.begin_as(header.clone(), None)?;
        }
        // Pieces are whole leaves, but for the last of a tensor.
        session.block((piece.start - end) / LEAF_BYTES as u64, None)?;
        end = piece.start + piece.target_bytes as u64;
        done.leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
        done.blocks
            .iter()
            .try_for_each(|(leaves, block)| session.block(*leaves, block.as_ref()))?;
        if piece.last {
            let outcome = session.end_as(*base, *target)?;
            // A tensor that is written whole was made, and can be compared; of changes it is known only
            // that they cannot be none.
            let found = match pair.base {
                None => header.spec.as_ref().map(|_| std::mem::take(&mut hasher).finish()),
                Some(_) if outcome.written => *target,
                Some(_) => *base,
            };
            if let (Some(expected), Some(found)) = (*target, found) {
                if expected != found {
                    let made = Made::Tensor(header.name.clone());
                    return Err(chain.last().wrong_result(made, expected, found));
                }
            }
            if outcome.written {
                *actions.entry(outcome.action).or_default() += 1;
            }
        }
        Ok(())
    })?;
    Ok(actions)
}

/// The form of the first flat block: all others must have the same.
fn form_of(chain: &Chain<'_>, pairs: &[Pair<'_>], direction: Direction) -> Result<ValueForm> {
    let patched = pairs.iter().filter(|pair| pair.base.is_some());
    let mut links = patched
        .filter_map(|pair| chain.histories.get(pair.name))
        .flat_map(|history| &history.links);
    match links.find(|link| !link.tensor.blocks.is_empty()) {
        None => Ok(ValueForm::default()),
        Some(&link) => Ok(flat_block(link, 0, direction, &mut Vec::new())?.0),
    }
}

/// The changes of a block, and the form of their values.
fn flat_block(
    link: Link<'_>,
    number: usize,
    direction: Direction,
    payload: &mut Vec<u8>,
) -> Result<(ValueForm, Changes)> {
    let Link { patch, tensor } = link;
    match patch.decode_block(tensor, number, payload)?.into_flat() {
        Some((ValueForm::Overwrite, _)) => {
            Err(direction.refuse(link, "is overwritten, whatever its old values"))
        }
        Some(flat) => Ok(flat),
        None => Err(direction
            .refuse(link, &format!("has {} blocks", tensor.blocks[number].coding().name()))),
    }
}

/// What became of a piece.
struct Done {
    /// Leaves of each block, and its changes if there are any.
    blocks: Vec<(u64, Option<EncodedBlock>)>,
    /// Digests of the bytes of a tensor that is written whole.
    leaves: Vec<Digest>,
}

/// What a thread keeps while it combines pieces.
#[derive(Debug, Default)]
struct Own {
    payload: Vec<u8>,
    scratch: coding::Scratch,
}

struct Combining<'a> {
    chain: &'a Chain<'a>,
    direction: Direction,
    form: ValueForm,
    options: EncoderOptions,
}

impl Combining<'_> {
    /// Whole blocks of the new patch, about as large as the largest of the old ones: so none of
    /// those is decoded more than a few times.
    fn piece_bytes(&self) -> usize {
        let largest =
            self.chain.patches().iter().map(|patch| patch.header().block_leaves).max().unwrap_or(1);
        let largest = usize::try_from(largest).unwrap_or(1) * LEAF_BYTES;
        largest.next_multiple_of(self.options.block_bytes())
    }

    /// All of a tensor that is written whole; of changes only where there are any, so that work
    /// follows the blocks of the patches and not the sizes that they name.
    fn pieces<'p>(&self, pair: Pair<'p>) -> Box<dyn Iterator<Item = Piece<'p>> + Send + 'p> {
        if pair.base.is_none() {
            return Box::new(pair.pieces(self.piece_bytes()));
        }
        let history = self.chain.histories.get(pair.name);
        let links = history.into_iter().flat_map(|history| &history.links);
        let blocks = links.flat_map(|link| &link.tensor.blocks).map(BlockEntry::range).collect();
        Box::new(pair.pieces_of(blocks, self.piece_bytes()))
    }

    fn piece(&self, piece: &Piece<'_>, own: &mut Own) -> Result<Done> {
        let Pair { name, base, target, .. } = piece.pair;
        let Some(spec) = target else { return Ok(Done { blocks: Vec::new(), leaves: Vec::new() }) };
        let block_bytes = self.options.block_bytes();
        let leaves = |bytes: usize| bytes.div_ceil(LEAF_BYTES) as u64;
        if base.is_none() {
            let mut bytes = vec![0; piece.target_bytes];
            if !bytes.is_empty() {
                ChainEnd::new(self.chain, None)?.read(name, piece.start, &mut bytes)?;
            }
            let whole = |block: &[u8]| {
                let encoded =
                    coding::encode_whole(spec.dtype(), self.options.block, block, &mut own.scratch);
                (leaves(block.len()), Some(encoded))
            };
            let blocks = bytes.chunks(block_bytes).map(whole).collect();
            return Ok(Done { blocks, leaves: leaves_of_all(&[&bytes]).concat() });
        }
        let changes = self.changes(piece, spec, &mut own.payload)?;
        let mut blocks = Vec::new();
        let mut at = 0;
        for start in (0..piece.target_bytes).step_by(block_bytes) {
            let end = piece.target_bytes.min(start + block_bytes);
            let (first, limit) =
                (start / spec.dtype().element_bytes(), end / spec.dtype().element_bytes());
            let count =
                changes.elements[at..].partition_point(|&element| (element as usize) < limit);
            let here = at..at + count;
            let block = Changes {
                // A piece has fewer than 2^32 elements.
                elements: changes.elements[here.clone()]
                    .iter()
                    .map(|element| element - first as u32)
                    .collect(),
                values: changes.values[here].to_vec(),
            };
            let encoded =
                coding::encode_flat(&block, self.form, self.options.block.level, &mut own.scratch);
            blocks.push((leaves(end - start), encoded));
            at += count;
        }
        Ok(Done { blocks, leaves: Vec::new() })
    }

    /// The changes of all patches within a piece, combined, and inverted if the direction is back.
    fn changes(
        &self,
        piece: &Piece<'_>,
        spec: &TensorSpec,
        payload: &mut Vec<u8>,
    ) -> Result<Changes> {
        let width = spec.dtype().element_bytes();
        let range = piece.start..piece.start + piece.target_bytes as u64;
        let elements = range.start / width as u64..range.end / width as u64;
        let mut sum = Sum::new(width, self.form);
        for &link in
            self.chain.histories.get(piece.pair.name).iter().flat_map(|history| &history.links)
        {
            let mut found = Changes::default();
            for number in link.tensor.overlapping(&range) {
                let (form, changes) = flat_block(link, number, self.direction, payload)?;
                if form != self.form {
                    return Err(self
                        .direction
                        .refuse(link, "has values of another form than other tensors"));
                }
                let first = link.tensor.blocks[number].range().start / width as u64;
                for (element, value) in changes.elements.iter().zip(changes.values) {
                    let element = first + u64::from(*element);
                    if elements.contains(&element) {
                        found.elements.push((element - elements.start) as u32);
                        found.values.push(value);
                    }
                }
            }
            sum.add(found);
        }
        let mut combined = sum.finish();
        if self.direction == Direction::Back {
            combined.invert(width, self.form);
        }
        Ok(combined)
    }
}
