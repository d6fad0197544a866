//! Any two checkpoints, through encoder and decoders.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Arbitrary, Unstructured};
use pulse::coding::{Coding, ValueForm};
use pulse::dtype::TensorSpec;
use pulse::hash::{tensor_digest, Digest, LEAF_BYTES};
use pulse::stream::{EncoderOptions, TrustedBase};
use pulse::tensors::{
    self, Control, DiffOptions, TensorMut, TensorRef, TensorSource, Weights, WeightsMut,
};
use pulse::wire::{FileKind, FileState};
use pulse::{Decoder, Encoder, Event, Limits, Patch, Result};

use testkit::encode::begin;

use super::blocks::dtype;
use super::receiver::{digest, receive, Received, Tensor, Tensors};

/// Two checkpoints and what the encoder is told, as the fuzzer sees them.
#[derive(Debug, Arbitrary)]
struct Case {
    coding: u8,
    block_leaves: u8,
    level: i8,
    snapshot: bool,
    /// The digest of the base is known before, or all of its digests are.
    known_base: Option<bool>,
    run: Option<[u8; 16]>,
    steps: (Option<u64>, Option<u64>),
    metadata: Vec<(String, String)>,
    chunk: u16,
    tensors: Vec<Draft>,
    files: Vec<FileDraft>,
}

#[derive(Debug, Arbitrary)]
struct Draft {
    name: String,
    dtype: u8,
    fate: Fate,
    pattern: Vec<u8>,
    /// Bytes, beyond a leaf if it is to be large.
    size: u16,
    large: bool,
    /// Positions, and bits that flip there.
    flips: Vec<(u32, u64)>,
    /// Distance of elements that change all alike; 0 for none.
    every: u16,
}

#[derive(Debug, Arbitrary)]
enum Fate {
    Patched,
    Added,
    Deleted,
    Replaced,
}

#[derive(Debug, Arbitrary)]
struct FileDraft {
    name: String,
    companion: bool,
    kept: bool,
    bytes: Vec<u8>,
}

/// Base and target of a tensor.
type Pair = (Option<Tensor>, Option<Tensor>);
type Pairs = BTreeMap<String, Pair>;

/// Most tensors: names before and after, and one that is gone.
const TENSORS_MAX: usize = 4;
/// Most bytes of a tensor, so that runs are short.
const SMALL: usize = 256;
/// Most bytes of one that ends a little before or after its first leaf: in one block or in two.
const LARGE: usize = LEAF_BYTES + 256;

impl Draft {
    fn sides(&self, large: bool) -> Pair {
        let dtype = dtype(self.dtype % 18);
        let width = dtype.element_bytes();
        let size = if large {
            LARGE - usize::from(self.size) % SMALL
        } else {
            usize::from(self.size) % SMALL
        };
        let pattern = if self.pattern.is_empty() { &[0][..] } else { &self.pattern };
        let base: Vec<u8> = pattern.iter().copied().cycle().take(size / width * width).collect();
        let elements = base.len() / width;
        let mut target = base.clone();
        let every =
            (0..elements).step_by(usize::from(self.every).max(1)).filter(|_| self.every > 0);
        let flips = self.flips.iter().map(|&(at, bits)| (at as usize % elements.max(1), bits));
        for (element, bits) in flips.chain(every.map(|element| (element, 1))) {
            let Some(bytes) = target.chunks_exact_mut(width).nth(element) else { continue };
            bytes.iter_mut().zip(bits.to_le_bytes()).for_each(|(byte, flip)| *byte ^= flip);
        }
        let spec = |shape: &[u64], bytes: &[u8]| {
            TensorSpec::with_bytes(dtype.clone(), shape, bytes.len() as u64)
                .expect("a shape that fits")
        };
        let flat = [elements as u64];
        let old = (spec(&flat, &base), base);
        match self.fate {
            Fate::Patched => (Some(old), Some((spec(&flat, &target), target))),
            Fate::Added => (None, Some((spec(&flat, &target), target))),
            Fate::Deleted => (Some(old), None),
            Fate::Replaced => (Some(old), Some((spec(&[1, elements as u64], &target), target))),
        }
    }
}

impl FileDraft {
    fn kind(&self) -> FileKind {
        if self.companion {
            FileKind::Companion
        } else {
            FileKind::Tensors
        }
    }

    /// SPEC.md §6.6, R42.
    fn has_legal_name(&self) -> bool {
        let bad = |c: char| "\\:".contains(c) || c.is_control();
        let is_legal = |component: &str| {
            !matches!(component, "" | "." | "..")
                && component.len() <= 255
                && !component.contains(bad)
        };
        match &*self.name {
            "" => !self.companion,
            path => {
                path.len() <= 1024 && path.split('/').count() <= 8 && path.split('/').all(is_legal)
            }
        }
    }
}

impl Case {
    fn pairs(&self, may_be_large: bool) -> Pairs {
        let large = self.tensors.iter().position(|draft| draft.large && may_be_large);
        let drafts = self
            .tensors
            .iter()
            .enumerate()
            .take(TENSORS_MAX)
            .filter(|(_, draft)| draft.name.len() <= 4096);
        let mut pairs: Pairs = drafts
            .map(|(number, draft)| (draft.name.clone(), draft.sides(Some(number) == large)))
            .collect();
        if self.snapshot {
            pairs.values_mut().for_each(|pair| pair.0 = None);
            pairs.retain(|_, pair| pair.1.is_some());
        }
        pairs
    }

    fn options(&self, base: &Tensors) -> DiffOptions {
        let flat = EncoderOptions::default().with_coding(Coding::Flat);
        let mut options = match self.coding % 4 {
            0 => EncoderOptions::default(),
            1 => flat.with_values(ValueForm::UlpStep),
            2 => flat.with_values(ValueForm::Xor),
            _ => flat.with_values(ValueForm::Overwrite),
        };
        options.lineage.run = self.run;
        options.lineage.base_step = self.steps.0.filter(|_| !self.snapshot);
        options.lineage.target_step = self.steps.1;
        let options = options.with_block_leaves(u64::from(self.block_leaves % 4) + 1);
        let options = options.with_level(i32::from(self.level).clamp(-7, 3));
        let options = self
            .metadata
            .iter()
            .fold(options, |options, (key, value)| options.with_metadata(key, value));
        let known = Digest(digest(base));
        match self.known_base.filter(|_| !self.snapshot) {
            None => options.into(),
            Some(false) => options.with_base_digest(known).into(),
            Some(true) => {
                let mut trusted = TrustedBase::new(known);
                // Every other digest is known.
                let tensors = base.iter().step_by(2);
                trusted.tensors = tensors
                    .map(|(name, (_, bytes))| (name.clone(), tensor_digest(bytes)))
                    .collect();
                DiffOptions::from(options).with_trusted_base(trusted)
            }
        }
    }

    /// The files that the encoder takes; the others it must refuse.
    fn files(&self) -> Vec<&FileDraft> {
        let mut names = BTreeSet::new();
        let legal = |file: &&FileDraft| file.has_legal_name() && !(self.snapshot && file.kept);
        self.files.iter().filter(legal).filter(|file| names.insert(&file.name)).collect()
    }

    fn encode(&self, pairs: &Pairs, options: DiffOptions) -> Result<Vec<u8>> {
        let DiffOptions { encoder: options, trusted_base, .. } = options;
        let mut encoder = match trusted_base {
            _ if self.snapshot => Encoder::snapshot(Vec::new(), options)?,
            Some(base) => Encoder::trusting(Vec::new(), options, base)?,
            None => Encoder::new(Vec::new(), options)?,
        };
        let files = self.files();
        for file in &self.files {
            let (name, kind) = (&file.name, file.kind());
            let given = if file.kept {
                encoder.keep_file(name, kind, &file.bytes)
            } else {
                encoder.carry_file(name, kind, &file.bytes)
            };
            let wanted = files.iter().any(|wanted| std::ptr::eq(*wanted, file));
            assert_eq!(given.is_ok(), wanted, "file {name:?}: {given:?}");
        }
        for (name, (base, target)) in pairs {
            let specs = [base, target].map(|side| side.as_ref().map(|side| &side.0));
            let mut writer = begin(&mut encoder, name, specs[0], specs[1])?;
            let [base, target] =
                [base, target].map(|side| side.as_ref().map_or(&[][..], |side| &side.1));
            let bytes = base.len().max(target.len());
            // Not so small that a large tensor takes long.
            let chunk = usize::from(self.chunk).max(bytes / 500) + 1;
            for start in (0..bytes).step_by(chunk) {
                let piece =
                    |bytes: &'_ [u8]| start.min(bytes.len())..(start + chunk).min(bytes.len());
                writer.push(&base[piece(base)], &target[piece(target)])?;
            }
            writer.end()?;
        }
        encoder.finish().map(|(patch, _)| patch)
    }
}

/// Any two checkpoints under any options: encoding, decoding and applying give the target, in every way.
/// A large tensor takes as long as hundreds of small ones: one is there in one run of 64. Of three ways to look at a patch
/// again, a run has one. Both follow from the bytes of the input.
pub fn roundtrip(data: &[u8]) {
    let choice = crc32fast::hash(data);
    comes_back(data, choice.is_multiple_of(64), |way| choice / 64 % 3 == way);
}

/// As `roundtrip`, without large tensors and with them, in all ways.
pub fn roundtrip_in_all_ways(data: &[u8]) {
    comes_back(data, false, |_| true);
    comes_back(data, true, |_| true);
}

fn comes_back(data: &[u8], may_be_large: bool, is_wanted: impl Fn(u32) -> bool) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let pairs = case.pairs(may_be_large);
    let side = |side: fn(&Pair) -> &Option<Tensor>| -> Tensors {
        pairs.iter().filter_map(|(name, pair)| Some((name.clone(), side(pair).clone()?))).collect()
    };
    let (base, target) = (side(|pair| &pair.0), side(|pair| &pair.1));
    let options = case.options(&base);
    let patch = case.encode(&pairs, options.clone()).expect("legal checkpoints");

    match receive(&base, &patch, Limits::default()) {
        Received::Target(made, footer) => {
            assert!(made == target, "another target");
            let expected = (!case.snapshot).then(|| Digest(digest(&base)));
            assert_eq!(footer.base, expected);
        }
        Received::Refused(why) => panic!("a patch of our own is refused: {why}"),
        Received::TooMuch => panic!("a few small tensors are too much"),
    }
    if is_wanted(0) {
        check_events(&case, &patch, &pairs).expect("a patch of our own");
    }
    if is_wanted(1)
        && !case.snapshot
        && base.keys().eq(target.keys())
        && base.iter().all(|(name, side)| side.0 == target[name].0)
    {
        let opened =
            Patch::from_bytes(patch.clone(), Limits::default()).expect("a patch of our own");
        let mut weights = base.clone();
        let mut held: WeightsMut<'_> = weights
            .iter_mut()
            .map(|(name, (spec, bytes))| {
                (name.clone(), TensorMut::new(spec.clone(), bytes).expect("its size"))
            })
            .collect();
        opened.apply_to(&mut held, Control::threads(1)).expect("a patch of our own");
        drop(held);
        assert!(weights == target, "other weights");
    }
    if is_wanted(2) && case.files.is_empty() {
        let (old, new) = (refs(&base), refs(&target));
        let old = (!case.snapshot).then_some(&old as &dyn TensorSource);
        let mut same = Vec::new();
        tensors::diff(old, &new, &mut same, options, Control::threads(1))
            .expect("legal checkpoints");
        assert!(same == patch, "diff writes another patch than the encoder");
    }
}

fn refs(tensors: &Tensors) -> Weights<'_> {
    let held = tensors.iter();
    held.map(|(name, (spec, bytes))| {
        (name.as_str(), TensorRef::new(spec.clone(), bytes).expect("its size"))
    })
    .collect()
}

/// Looks for what a receiver does not: that the patch says no more than it must, and what files it carries.
fn check_events(case: &Case, patch: &[u8], pairs: &Pairs) -> Result<()> {
    let mut changed: BTreeSet<&String> =
        pairs.iter().filter(|(_, (base, target))| base != target).map(|(name, _)| name).collect();
    let (mut files, mut carried) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::new(patch, Limits::default());
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Header(header) => {
                assert_eq!((header.run, header.target_step), (case.run, case.steps.1));
                assert!(header.metadata == case.metadata.iter().cloned().collect());
            }
            Event::File(record) => {
                files.push(record.clone());
                carried.push(Vec::new());
            }
            Event::FileData(bytes) => carried.last_mut().expect("a file").extend_from_slice(bytes),
            Event::Tensor(header) => {
                assert!(
                    changed.remove(&header.name),
                    "an unchanged tensor is in the patch, or one stands twice"
                );
            }
            _ => {}
        }
    }
    decoder.finish()?;
    assert!(changed.is_empty(), "changed tensors are missing");
    let expected = case.files();
    assert_eq!(files.len(), expected.len());
    for ((record, carried), draft) in files.iter().zip(&carried).zip(expected) {
        assert_eq!((&record.name, record.kind), (&draft.name, draft.kind()));
        assert_eq!(record.state == FileState::Kept, draft.kept);
        assert_eq!(record.bytes, draft.bytes.len() as u64);
        assert!(draft.kept || *carried == draft.bytes, "other bytes of a file");
    }
    Ok(())
}
