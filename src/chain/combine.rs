//! A patch made of patches alone: flat changes joined or turned round, without any checkpoint.

use std::collections::BTreeMap;
use std::io::Write;

use crate::chain::chain::{overlapping, Chain, Link, Outcome, Story, Version};
use crate::changes::Changes;
use crate::coding::{self, EncodedBlock};
use crate::digest::Digest;
use crate::dtype::TensorSpec;
use crate::error::{Error, Fault, Result};
use crate::hash::{TensorHasher, LEAF_BYTES};
use crate::stream::{EncoderOptions, Session};
use crate::tensors::pieces::{for_each_piece, leaves_of_all, Pair, Piece};
use crate::tensors::{Parallel, TensorSource};
use crate::wire::{Action, TensorHeader};
use crate::word::ValueForm;

/// Which way the changes of a chain are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the base of the first patch to the target of the last.
    Forward,
    /// The other way.
    Back,
}

impl Way {
    /// The tensor does not go this way without a checkpoint.
    fn refuse(self, link: Link<'_>, why: &str) -> Error {
        let (patch, name) = (link.patch.path().display(), &link.tensor.header.name);
        let what = match self {
            Way::Forward => {
                "without the base, only flat changes of one value form, step or xor, can be composed: \
                 give the base of the first patch (--base)"
            }
            Way::Back => {
                "only flat changes, as steps or xor, and added tensors lead back: keep the base, or make \
                 a patch for the way back (pulse diff TARGET BASE)"
            }
        };
        Error::misuse(format!("{patch}: tensor '{name}' {why}; {what}"))
    }
}

/// A tensor of the new patch.
struct Joined<'a> {
    header: TensorHeader,
    base: Option<Digest>,
    target: Option<Digest>,
    /// Both sides for changes, the target alone for a tensor that is put, none for one deleted.
    pair: Pair<'a>,
}

impl<'a> Joined<'a> {
    /// `None` if the tensor is not in the new patch.
    fn new(name: &'a str, story: &Story<'a>, way: Way) -> Result<Option<Self>> {
        let last = || story.links.last().copied().ok_or_else(|| Error::misuse("a tensor without a patch"));
        let outcome = match story.outcome() {
            Ok(outcome) => outcome,
            Err(why) => return Err(way.refuse(last()?, why)),
        };
        let (action, base_spec, spec) = match (outcome, way) {
            (Outcome::Unchanged, _) => return Ok(None),
            (Outcome::Patched(spec), _) => (Action::Patched, Some(spec), Some(spec)),
            (Outcome::Put(action, spec), Way::Forward) => (action, None, Some(spec)),
            (Outcome::Put(Action::Added, _), Way::Back) | (Outcome::Deleted, Way::Forward) => {
                (Action::Deleted, None, None)
            }
            (Outcome::Put(..), Way::Back) => return Err(way.refuse(last()?, "is replaced")),
            (Outcome::Deleted, Way::Back) => return Err(way.refuse(last()?, "is deleted")),
        };
        let digest = |side: Option<Version<'_>>| side.map(|side| side.digest);
        let (base, target) = match way {
            Way::Forward => (digest(story.base), digest(story.target)),
            Way::Back => (digest(story.target), digest(story.base)),
        };
        let header = TensorHeader { name: name.into(), action, spec: spec.cloned() };
        Ok(Some(Joined { header, base, target, pair: Pair { name, base: base_spec, target: spec } }))
    }
}

/// Writes the tensors of a chain without a base, each with the digests that the patches name.
pub(crate) fn join_tensors<W: Write>(
    session: &mut Session<W>,
    chain: &Chain<'_>,
    way: Way,
    parallel: Parallel<'_>,
) -> Result<BTreeMap<Action, u64>> {
    let joined = chain.stories.iter().map(|(name, story)| Joined::new(name, story, way));
    let joined: Vec<Joined<'_>> = joined.filter_map(Result::transpose).collect::<Result<_>>()?;
    let pairs: Vec<Pair<'_>> = joined.iter().map(|joined| joined.pair).collect();
    let joining = Joining { chain, way, form: form_of(chain, &pairs, way)?, options: session.options.clone() };

    let mut actions = BTreeMap::new();
    let mut tensors = joined.iter();
    let mut open = None;
    let mut hasher = TensorHasher::new();
    let work = |payload: &mut Vec<u8>, group: &[Piece<'_>]| {
        group.iter().map(|piece| joining.piece(piece, payload)).collect::<Result<Vec<_>>>()
    };
    for_each_piece(&pairs, joining.piece_bytes(), parallel, Vec::new, work, |piece, done| {
        if piece.first {
            open = tensors.next();
        }
        let Some(Joined { header, base, target, pair }) = open else { return Ok(()) };
        if piece.first {
            session.begin_as(header.clone(), None)?;
        }
        done.leaves.iter().for_each(|leaf| hasher.push_leaf(leaf));
        done.blocks.iter().try_for_each(|(leaves, block)| session.block(*leaves, block.as_ref()))?;
        if piece.last {
            let outcome = session.end_as(*base, *target)?;
            // A tensor that is put was made, and can be compared; of changes it is known only
            // that they cannot be none.
            let found = match pair.base {
                None => header.spec.as_ref().map(|_| std::mem::take(&mut hasher).finish()),
                Some(_) if outcome.written => *target,
                Some(_) => *base,
            };
            if let (Some(expected), Some(found)) = (*target, found) {
                if expected != found {
                    return Err(
                        Fault::Digest { field: "digest of the result", expected, found }.in_tensor(&header.name)
                    );
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
fn form_of(chain: &Chain<'_>, pairs: &[Pair<'_>], way: Way) -> Result<ValueForm> {
    let patched = pairs.iter().filter(|pair| pair.base.is_some());
    let mut links = patched.filter_map(|pair| chain.stories.get(pair.name)).flat_map(|story| &story.links);
    match links.find(|link| !link.tensor.blocks.is_empty()) {
        None => Ok(ValueForm::default()),
        Some(&link) => Ok(flat_block(link, 0, way, &mut Vec::new())?.0),
    }
}

/// The changes of a block, and the form of their values.
fn flat_block(link: Link<'_>, number: usize, way: Way, payload: &mut Vec<u8>) -> Result<(ValueForm, Changes)> {
    let Link { patch, tensor } = link;
    match patch.decode_block(tensor, number, payload)?.into_flat() {
        Some((ValueForm::Overwrite, _)) => Err(way.refuse(link, "is overwritten, whatever it was before")),
        Some(flat) => Ok(flat),
        None => Err(way.refuse(link, &format!("has {} blocks", tensor.blocks[number].coding().name()))),
    }
}

/// What became of a piece.
struct Done {
    /// Leaves of each block, and its changes if there are any.
    blocks: Vec<(u64, Option<EncodedBlock>)>,
    /// Digests of the bytes of a tensor that is put.
    leaves: Vec<Digest>,
}

struct Joining<'a> {
    chain: &'a Chain<'a>,
    way: Way,
    form: ValueForm,
    options: EncoderOptions,
}

impl Joining<'_> {
    /// Whole blocks of the new patch, about as large as the largest of the old ones: so none of
    /// those is decoded more than a few times.
    fn piece_bytes(&self) -> usize {
        let largest = self.chain.patches().iter().map(|patch| patch.header().block_leaves).max().unwrap_or(1);
        let largest = usize::try_from(largest).unwrap_or(1) * LEAF_BYTES;
        largest.next_multiple_of(self.options.block_bytes())
    }

    fn piece(&self, piece: &Piece<'_>, payload: &mut Vec<u8>) -> Result<Done> {
        let Pair { name, base, target } = piece.pair;
        let Some(spec) = target else { return Ok(Done { blocks: Vec::new(), leaves: Vec::new() }) };
        let block_bytes = self.options.block_bytes();
        let leaves = |bytes: usize| bytes.div_ceil(LEAF_BYTES) as u64;
        if base.is_none() {
            let mut bytes = vec![0; piece.target_bytes];
            if !bytes.is_empty() {
                self.chain.read(name, piece.start, &mut bytes)?;
            }
            let whole = |block: &[u8]| {
                (leaves(block.len()), Some(coding::encode_whole(spec.dtype(), self.options.choice(), block)))
            };
            let blocks = bytes.chunks(block_bytes).map(whole).collect();
            return Ok(Done { blocks, leaves: leaves_of_all(&[&bytes]).concat() });
        }
        let changes = self.changes(piece, spec, payload)?;
        let mut blocks = Vec::new();
        let mut at = 0;
        for start in (0..piece.target_bytes).step_by(block_bytes) {
            let end = piece.target_bytes.min(start + block_bytes);
            let (first, limit) = (start / spec.dtype().element_bytes(), end / spec.dtype().element_bytes());
            let count = changes.elements[at..].partition_point(|&element| (element as usize) < limit);
            let here = at..at + count;
            let block = Changes {
                // A piece has fewer than 2^32 elements.
                elements: changes.elements[here.clone()].iter().map(|element| element - first as u32).collect(),
                values: changes.values[here].to_vec(),
            };
            blocks.push((leaves(end - start), coding::encode_flat(&block, self.form, self.options.level)));
            at += count;
        }
        Ok(Done { blocks, leaves: Vec::new() })
    }

    /// The changes of all patches within a piece, joined and turned the right way.
    fn changes(&self, piece: &Piece<'_>, spec: &TensorSpec, payload: &mut Vec<u8>) -> Result<Changes> {
        let width = spec.dtype().element_bytes();
        let range = piece.start..piece.start + piece.target_bytes as u64;
        let elements = range.start / width as u64..range.end / width as u64;
        let mut joined = Changes::default();
        for &link in self.chain.stories.get(piece.pair.name).iter().flat_map(|story| &story.links) {
            let mut found = Changes::default();
            for number in overlapping(&link.tensor.blocks, &range) {
                let (form, changes) = flat_block(link, number, self.way, payload)?;
                if form != self.form {
                    return Err(self.way.refuse(link, "has values of another form than the tensors before it"));
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
            joined = joined.join(&found, width, self.form);
        }
        if self.way == Way::Back {
            joined.invert(width, self.form);
        }
        Ok(joined)
    }
}
