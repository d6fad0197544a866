//! One patch from the parts of many producers.

use std::fs;
use std::ops::Range;

use pulse::coding::Coding;
use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{tensor_digest, Digest};
use pulse::stream::{EncoderOptions, Receiver, TrustedBase};
use pulse::tensors::{join, Control, DiffOptions, DiffReport, Part, Slices, TensorSource, Weights};
use pulse::{Error, Limits, Patch, Result};
use sha2::Digest as _;
use testkit::files::{noise, stepped, weights, Place};
use testkit::held::{refs, Tensors};
use testkit::library::{diff_tensors, every_coding};

const LEAF: u64 = 65536;

/// What one rank gives.
#[derive(Clone, Default)]
struct Rank {
    base: Tensors,
    target: Tensors,
    slices: Slices,
}

impl Rank {
    fn part(&self, has_base: bool, options: impl Into<DiffOptions>, threads: usize) -> Vec<u8> {
        self.try_part(has_base, options, threads).unwrap()
    }

    fn try_part(
        &self,
        has_base: bool,
        options: impl Into<DiffOptions>,
        threads: usize,
    ) -> Result<Vec<u8>> {
        let (base, target) = (refs(&self.base), refs(&self.target));
        let base = has_base.then_some(&base as &dyn TensorSource);
        let (options, mut part) = (options.into(), Vec::new());
        let control = Control::threads(threads);
        let bytes = Part::diff(base, &target, &self.slices, &mut part, options, control)?;
        assert_eq!(bytes, part.len() as u64);
        Ok(part)
    }

    /// A whole tensor.
    fn whole(mut self, model: &Model, name: &str) -> Self {
        for (from, to) in [(&model.base, &mut self.base), (&model.target, &mut self.target)] {
            if let Some(tensor) = from.get(name) {
                to.insert(name.into(), tensor.clone());
            }
        }
        self
    }

    /// A slice, as a flat tensor of its own.
    fn slice(mut self, model: &Model, name: &str, elements: Range<u64>) -> Self {
        for (from, to) in [(&model.base, &mut self.base), (&model.target, &mut self.target)] {
            let Some((spec, bytes)) = from.get(name) else { continue };
            let width = spec.dtype().element_bytes() as u64;
            let range = (elements.start * width) as usize..(elements.end * width) as usize;
            let own = [elements.end - elements.start];
            let own = TensorSpec::with_bytes(spec.dtype().clone(), &own, range.len() as u64);
            to.insert(name.into(), (own.unwrap(), bytes[range].to_vec()));
        }
        let full = model.target.get(name).or(model.base.get(name)).unwrap().0.clone();
        self.slices = self.slices.with(name, full, elements).unwrap();
        self
    }
}

/// The whole of it, as a single producer has it.
struct Model {
    base: Tensors,
    target: Tensors,
}

impl Model {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.base.keys().chain(self.target.keys()).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    fn elements(&self, name: &str) -> u64 {
        self.target.get(name).or(self.base.get(name)).unwrap().0.elements()
    }

    fn side(&self, has_base: bool) -> Option<Weights<'_>> {
        has_base.then(|| refs(&self.base))
    }

    fn single(&self, has_base: bool, options: &EncoderOptions) -> Vec<u8> {
        let base = self.side(has_base);
        let base = base.as_ref().map(|base| base as &dyn TensorSource);
        diff_tensors(base, &refs(&self.target), options.clone(), Control::threads(2)).unwrap()
    }

    /// The patch leads to the target, and has the digests of a single producer.
    #[track_caller]
    fn check(&self, patch: &[u8], report: &DiffReport, options: &EncoderOptions, has_base: bool) {
        let single = Patch::from_bytes(self.single(has_base, options), Limits::default()).unwrap();
        let joined = Patch::from_bytes(patch.to_vec(), Limits::default()).unwrap();
        let (expected, found) = (single.footer(), joined.footer());
        assert_eq!((found.base, found.target), (expected.base, expected.target));
        assert_eq!(found.changes, expected.changes);
        assert_eq!(report.digests.checkpoint, expected.target);
        for ((name, (_, bytes)), (named, digest)) in self.target.iter().zip(&report.digests.tensors)
        {
            assert_eq!((named, *digest), (name, tensor_digest(bytes)));
        }
        for (expected, found) in single.tensors().iter().zip(joined.tensors()) {
            assert_eq!((&found.header, found.end), (&expected.header, expected.end));
        }
        assert_eq!(joined.tensors().len(), single.tensors().len());
        let mut held = if has_base { self.base.clone() } else { Tensors::new() };
        let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
        receiver.push(patch).unwrap();
        receiver.finish().unwrap();
        assert!(held == self.target, "another target");
    }
}

fn known(dtype: Dtype, shape: &[u64]) -> TensorSpec {
    TensorSpec::new(dtype, shape).unwrap()
}

/// A tensor for every width and order, of several leaves each; and odd ones. For a snapshot, without
/// a base.
fn model(has_base: bool) -> Model {
    let mut base = Tensors::new();
    let dtypes = [Dtype::Bf16, Dtype::F32, Dtype::F64, Dtype::U8, Dtype::F8E4M3, Dtype::I32];
    for (seed, dtype) in dtypes.into_iter().enumerate() {
        let spec = known(dtype, &[211, 333 * 3]);
        let bytes = match spec.dtype() {
            Dtype::Bf16 => weights(seed as u64, spec.elements() as usize),
            _ => noise(seed as u64, spec.bytes() as usize),
        };
        base.insert(format!("w.{}", spec.dtype()), (spec, bytes));
    }
    let other = TensorSpec::with_bytes(Dtype::from_name("F4"), &[300_001], 150_001).unwrap();
    base.insert("w.other".into(), (other, noise(50, 150_001)));
    let mut target = base.clone();
    for (spec, bytes) in target.values_mut() {
        *bytes = stepped(bytes, spec.dtype().element_bytes(), 97);
    }
    let unchanged = [
        ("same", known(Dtype::Bf16, &[100_003])),
        ("scalar", known(Dtype::F32, &[])),
        ("empty", known(Dtype::F32, &[0, 7])),
        ("retyped", known(Dtype::F16, &[50_000])),
        ("ends", known(Dtype::Bf16, &[400_000])),
    ];
    for (seed, (name, spec)) in unchanged.into_iter().enumerate() {
        let bytes = noise(60 + seed as u64, spec.bytes() as usize);
        base.insert(name.into(), (spec.clone(), bytes.clone()));
        target.insert(name.into(), (spec, bytes));
    }
    target.get_mut("retyped").unwrap().0 = known(Dtype::Bf16, &[50_000]);
    // Few changes, in the first leaf and in the last.
    let ends = &mut target.get_mut("ends").unwrap().1;
    (ends[0], ends[799_999]) = (ends[0] ^ 1, ends[799_999] ^ 1);
    let lone = |seed| (known(Dtype::Bf16, &[250, 400]), noise(seed, 200_000));
    base.insert("deleted".into(), lone(70));
    target.insert("added".into(), lone(71));
    Model { base: if has_base { base } else { Tensors::new() }, target }
}

/// Every tensor cut at these elements between ranks, one more than there are cuts; what cannot be cut
/// goes round.
fn ranks(model: &Model, count: usize, cuts: impl Fn(&str, u64) -> Vec<u64>) -> Vec<Rank> {
    let mut ranks = vec![Rank::default(); count];
    for (number, name) in model.names().iter().enumerate() {
        let elements = model.elements(name);
        if name == "retyped" || name == "scalar" {
            let rank = &mut ranks[number % count];
            *rank = std::mem::take(rank).whole(model, name);
            continue;
        }
        let cuts = cuts(name, elements);
        let ends = cuts.iter().copied().chain([elements]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        for (rank, (start, end)) in ranks.iter_mut().zip(starts.zip(ends)) {
            *rank = std::mem::take(rank).slice(model, name, start..end);
        }
    }
    ranks
}

fn joined(parts: &[Vec<u8>], options: &EncoderOptions) -> Result<(Vec<u8>, DiffReport)> {
    let parts: Vec<Part> =
        parts.iter().map(|part| Part::from_bytes(part.clone()).unwrap()).collect();
    let mut patch = Vec::new();
    let report = join(parts, &mut patch, options.clone(), Control::threads(2))?;
    assert_eq!(report.summary.patch_bytes, patch.len() as u64);
    Ok((patch, report))
}

#[test]
fn ranks_that_hold_whole_tensors_make_the_patch_of_a_single_producer() {
    for options in every_coding() {
        let options = options.with_block_leaves(3).with_metadata("by", "ranks");
        for has_base in [true, false] {
            let model = model(has_base);
            let mut ranks = vec![Rank::default(); 4];
            for (number, name) in model.names().iter().enumerate() {
                let rank = &mut ranks[number % 4];
                *rank = std::mem::take(rank).whole(&model, name);
            }
            let parts: Vec<_> =
                ranks.iter().map(|rank| rank.part(has_base, options.clone(), 2)).collect();
            let (patch, report) = joined(&parts, &options).unwrap();
            assert!(patch == model.single(has_base, &options));
            model.check(&patch, &report, &options, has_base);
        }
    }
}

#[test]
fn ranks_that_hold_slices_make_a_patch_with_the_digests_of_a_single_producer() {
    // Within leaves; near their ends; many in one leaf, and empty ones; one has all but an element.
    type Cuts = fn(&str, u64) -> Vec<u64>;
    let cuts: [(usize, Cuts); 5] = [
        (4, |_, n| vec![n / 4, n / 2, n / 4 * 3]),
        (4, |_, n| vec![n.min(32_767), n.min(32_769), n.min(65_536)]),
        (7, |_, n| [1, 1, 5, 900, 1000, 40_000].map(|cut: u64| cut.min(n)).to_vec()),
        (3, |_, n| vec![0, n.saturating_sub(1)]),
        (2, |name, n| vec![if name.len() % 2 == 0 { n } else { 0 }]),
    ];
    for (number, (count, cuts)) in cuts.into_iter().enumerate() {
        for (coding, options) in every_coding().into_iter().enumerate() {
            // Every coding with one of the cuts, the others with one coding.
            if number > 0 && coding != number % 4 {
                continue;
            }
            let options = options.with_block_leaves([1, 3, 32][number % 3]);
            for has_base in [true, false] {
                let model = model(has_base);
                let ranks = ranks(&model, count, cuts);
                let parts: Vec<_> =
                    ranks.iter().map(|rank| rank.part(has_base, options.clone(), 2)).collect();
                let (patch, report) = joined(&parts, &options).unwrap();
                model.check(&patch, &report, &options, has_base);
            }
        }
    }
}

#[test]
fn random_slices_of_a_tensor_make_its_patch() {
    let full = known(Dtype::Bf16, &[600, 500]);
    let base: Tensors =
        [("w".to_string(), (full.clone(), weights(1, 300_000)))].into_iter().collect();
    let target = [("w".to_string(), (full, stepped(&base["w"].1, 2, 50)))].into_iter().collect();
    let model = Model { base, target };
    for seed in 0..12 {
        let random = noise(seed, 8 * 9);
        let mut cuts: Vec<u64> = random
            .chunks(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()) % 300_001)
            // Some close to one another.
            .map(|cut| if cut % 3 == 0 { cut % 40_000 } else { cut })
            .collect();
        cuts.sort_unstable();
        let options = EncoderOptions::default().with_block_leaves(1 + seed % 4);
        let parts: Vec<_> = ranks(&model, 10, |_, _| cuts.clone())
            .iter()
            .map(|rank| rank.part(true, options.clone(), 1))
            .collect();
        let (patch, report) = joined(&parts, &options).unwrap();
        model.check(&patch, &report, &options, true);
    }
}

/// Four ranks with a quarter of the rows each, which end within leaves, after one step: what is said in
/// docs/guide/trainer.md.
#[test]
fn slices_cost_few_bytes_where_they_meet() {
    const COLUMNS: u64 = 2000;
    let full = known(Dtype::Bf16, &[4096, COLUMNS]);
    let elements = full.elements() as usize;
    let before = weights(3, elements);
    let mut after = before.clone();
    let changed = after.chunks_mut(2).zip(noise(4, elements)).filter(|(_, at)| *at == 0);
    changed.for_each(|(element, _)| element[0] ^= 1);
    let tensors = |bytes| Tensors::from([("w".to_string(), (full.clone(), bytes))]);
    let model = Model { base: tensors(before), target: tensors(after) };
    let options = EncoderOptions::default();
    for has_base in [true, false] {
        let ranks = ranks(&model, 4, |_, n| vec![n / 4, n / 2, n / 4 * 3]);
        let parts: Vec<_> =
            ranks.iter().map(|rank| rank.part(has_base, options.clone(), 2)).collect();
        let joined = joined(&parts, &options).unwrap().0.len();
        let single = model.single(has_base, &options).len();
        println!("with a base: {has_base}; single {single}, joined {joined}");
        assert!(joined * 1000 <= single * 1005, "{joined} of {single}");
    }
}

#[test]
fn neither_threads_nor_the_order_of_parts_matter() {
    let model = model(true);
    let options = EncoderOptions::default().with_block_leaves(2);
    let ranks = ranks(&model, 4, |_, n| vec![n / 5, n / 3, n / 2]);
    let parts =
        |threads| ranks.iter().map(|rank| rank.part(true, options.clone(), threads)).collect();
    let mut one: Vec<Vec<u8>> = parts(1);
    assert!(one == parts(5) as Vec<Vec<u8>>);
    let (patch, _) = joined(&one, &options).unwrap();
    one.reverse();
    assert!(joined(&one, &options).unwrap().0 == patch);
    let parts: Vec<Part> = one.into_iter().map(|part| Part::from_bytes(part).unwrap()).collect();
    let mut on_one = Vec::new();
    join(parts, &mut on_one, options, Control::threads(1)).unwrap();
    assert!(on_one == patch);
}

#[test]
fn parts_in_files_are_read_when_they_are_joined() {
    let model = model(false);
    let (place, options) = (Place::new(), EncoderOptions::default());
    let ranks = ranks(&model, 3, |_, n| vec![n / 3, n / 2]);
    let open = |number: usize, rank: &Rank| {
        let path = place.put_bytes(&number.to_string(), &rank.part(false, options.clone(), 2));
        Part::open(&path).unwrap()
    };
    let parts: Vec<Part> = ranks.iter().enumerate().map(|(i, rank)| open(i, rank)).collect();
    let mut patch = Vec::new();
    let report = join(parts, &mut patch, options.clone(), Control::threads(2)).unwrap();
    model.check(&patch, &report, &options, false);

    // What changes after it was checked is noticed.
    let parts: Vec<Part> = ranks.iter().enumerate().map(|(i, rank)| open(i, rank)).collect();
    let mut bytes = fs::read(place.path("1")).unwrap();
    bytes[1000] ^= 1;
    fs::write(place.path("1"), bytes).unwrap();
    let error = join(parts, &mut Vec::new(), options, Control::threads(2)).unwrap_err();
    assert_eq!((error.kind(), error.file()), ("part", Some(&*place.path("1"))));
}

/// Two ranks with half a tensor each.
fn halves() -> (Model, Vec<Rank>) {
    let full = known(Dtype::Bf16, &[100, 500]);
    let base: Tensors =
        [("w".to_string(), (full.clone(), weights(1, 50_000)))].into_iter().collect();
    let target = [("w".to_string(), (full, stepped(&base["w"].1, 2, 50)))].into_iter().collect();
    let model = Model { base, target };
    let ranks = ranks(&model, 2, |_, _| vec![20_000]);
    (model, ranks)
}

#[test]
fn parts_that_do_not_fit_together_are_refused_by_name() {
    let (model, ranks) = halves();
    let options = EncoderOptions::default();
    let part = |rank: &Rank| rank.part(true, options.clone(), 1);
    let (first, second) = (part(&ranks[0]), part(&ranks[1]));
    let slice = |elements| part(&Rank::default().slice(&model, "w", elements));
    let whole = part(&Rank::default().whole(&model, "w"));
    let mut reshaped = Model { base: model.base.clone(), target: model.target.clone() };
    for side in [&mut reshaped.base, &mut reshaped.target] {
        side.get_mut("w").unwrap().0 = known(Dtype::Bf16, &[500, 100]);
    }
    let mut gone = Model { base: model.base.clone(), target: Tensors::new() };
    let deleted = part(&Rank::default().slice(&gone, "w", 20_000..50_000));
    std::mem::swap(&mut gone.base, &mut gone.target);
    let added = part(&Rank::default().slice(&gone, "w", 20_000..50_000));
    let mut trusted = TrustedBase::default();
    trusted.tensors.insert("w".into(), tensor_digest(&model.base["w"].1));
    let trusting = |trusted: &TrustedBase| {
        let options = DiffOptions::default().with_trusted_base(trusted.clone());
        ranks[1].part(true, options, 1)
    };
    let trusts = trusting(&trusted);
    let of = |parts: &[&Vec<u8>], options: &EncoderOptions| {
        let parts: Vec<Vec<u8>> = parts.iter().copied().cloned().collect();
        let error = joined(&parts, options).unwrap_err();
        assert_eq!(error.kind(), "part", "{error}");
        error.to_string()
    };
    for (parts, expected) in [
        (vec![&first], "tensor 'w': elements 20000 to 50000 are in no part"),
        (vec![&second], "tensor 'w': elements 0 to 20000 are in no part"),
        (
            vec![&slice(0..0), &slice(30_000..50_000), &first],
            "tensor 'w': elements 20000 to 30000 are in no part",
        ),
        (vec![&slice(0..0)], "tensor 'w': elements 0 to 50000 are in no part"),
        (
            vec![&slice(19_990..50_000), &first],
            "tensor 'w': elements 19990 to 20000 are in part 1 and in part 0",
        ),
        (
            vec![&first, &second, &slice(5..6)],
            "tensor 'w': elements 5 to 6 are in part 0 and in part 2",
        ),
        (
            vec![&whole, &whole],
            "tensor 'w': all of it is in part 0 and in part 1; give a tensor that several ranks hold from one of them",
        ),
        (
            vec![&first, &part(&Rank::default().slice(&reshaped, "w", 20_000..50_000))],
            "tensor 'w': in the base it is BF16 [100, 500] in part 0, and BF16 [500, 100] in part 1",
        ),
        (
            vec![&first, &deleted],
            "tensor 'w': in the target it is BF16 [100, 500] in part 0, and absent in part 1",
        ),
        (
            vec![&first, &added],
            "tensor 'w': in the base it is BF16 [100, 500] in part 0, and absent in part 1",
        ),
        (
            vec![&first, &trusts],
            "tensor 'w': part 0 and part 1 were made with different digests of the base on trust",
        ),
        (
            vec![&first, &ranks[1].part(false, options.clone(), 1)],
            "part 1 was made with other options, or another kind of patch: contextual, UlpStep, level 1, 32 leaves, without a base; expected contextual, UlpStep, level 1, 32 leaves, with a base",
        ),
        (
            vec![&first, &ranks[1].part(true, options.clone().with_coding(Coding::Flat), 1)],
            "part 1 was made with other options, or another kind of patch: flat, UlpStep, level 1, 32 leaves, with a base; expected contextual, UlpStep, level 1, 32 leaves, with a base",
        ),
    ] {
        assert_eq!(of(&parts, &options), expected);
    }
    assert!(of(&[&first, &second], &options.clone().with_block_leaves(7)).contains("7 leaves"));
    // Both trust the same: that is fine, whatever it is.
    let options_trusting = DiffOptions::default().with_trusted_base(trusted);
    let parts = [ranks[0].part(true, options_trusting, 1), trusts];
    let (patch, report) = joined(&parts, &options).unwrap();
    model.check(&patch, &report, &options, true);

    let error = joined(&[], &options).unwrap_err();
    assert_eq!(error.kind(), "misuse");
    // A rank with another base is noticed by the digest that is announced.
    let announced = options.clone().with_base_digest(Digest([7; 32]));
    assert_eq!(joined(&[first, second], &announced).unwrap_err().kind(), "base");
}

#[test]
fn slices_that_do_not_fit_their_tensors_are_refused() {
    let (model, _) = halves();
    let options = EncoderOptions::default;
    let refused = |rank: &Rank| {
        let error = rank.try_part(true, options(), 1).unwrap_err();
        assert_eq!(error.kind(), "misuse");
        error.to_string()
    };
    let mut short = Rank::default().slice(&model, "w", 0..100);
    short.base.get_mut("w").unwrap().0 = known(Dtype::Bf16, &[99]);
    short.base.get_mut("w").unwrap().1.truncate(198);
    assert_eq!(
        refused(&short),
        "tensor 'w' is BF16 [99] in the base, but was declared as 200 bytes of BF16 [100, 500]; a tensor whose dtype or shape changes is given whole"
    );
    let mut nowhere = Rank::default().slice(&model, "w", 0..100);
    (nowhere.base, nowhere.target) = Default::default();
    assert!(refused(&nowhere).contains("in neither base nor target"));
    nowhere.slices = Slices::default().with("w", model.base["w"].0.clone(), 5..5).unwrap();
    nowhere.part(true, options(), 1);
    let whole = Rank::default().whole(&model, "w");
    assert!(whole.try_part(true, options().with_block_leaves(65), 1).is_err());
}

#[test]
fn digests_on_trust_need_not_be_computed_but_are_sampled() {
    let (mut model, _) = halves();
    for side in [&mut model.base, &mut model.target] {
        side.insert("v".into(), (known(Dtype::Bf16, &[3 * LEAF]), weights(9, 3 * LEAF as usize)));
    }
    let options = EncoderOptions::default();
    let mut trusted = TrustedBase::default();
    let digests = model.base.iter().map(|(name, (_, bytes))| (name.clone(), tensor_digest(bytes)));
    trusted.tensors = digests.collect();
    let ranks = [
        Rank::default().slice(&model, "w", 0..20_001).whole(&model, "v"),
        Rank::default().slice(&model, "w", 20_001..50_000),
    ];
    let trusting = DiffOptions::from(options.clone()).with_trusted_base(trusted.clone());
    let parts: Vec<_> = ranks.iter().map(|rank| rank.part(true, trusting.clone(), 2)).collect();
    let (patch, report) = joined(&parts, &options).unwrap();
    model.check(&patch, &report, &options, true);

    // The tensor that a rank has whole is compared.
    trusted.tensors.insert("v".into(), Digest([1; 32]));
    let wrong = DiffOptions::from(options).with_trusted_base(trusted);
    let error = ranks[0].try_part(true, wrong.clone(), 2).unwrap_err();
    let Error::BaseMismatch(mismatch) = &error else { panic!("{error}") };
    assert_eq!(mismatch.tensor.as_deref(), Some("v"));
    ranks[0].part(true, wrong.clone().with_sample(false), 2);
    ranks[1].part(true, wrong, 2);
}

/// The SHA-256 at the end made right again.
fn sealed(mut part: Vec<u8>) -> Vec<u8> {
    let end = part.len() - 32;
    let digest = sha2::Sha256::digest(&part[..end]);
    part[end..].copy_from_slice(&digest);
    part
}

#[test]
fn a_damaged_part_is_refused() {
    let (_, ranks) = halves();
    let part = ranks[0].part(true, EncoderOptions::default(), 1);
    for end in 0..part.len() {
        let error = Part::from_bytes(part[..end].to_vec()).unwrap_err();
        assert_eq!(error.kind(), "part", "{end} bytes: {error}");
    }
    // Every byte is under the digest; every bit of some is enough.
    for at in (0..part.len()).step_by(97).chain(part.len() - 60..part.len()) {
        for bit in 0..8 {
            let mut flipped = part.clone();
            flipped[at] ^= 1 << bit;
            let error = Part::from_bytes(flipped).unwrap_err();
            assert_eq!(error.kind(), "part", "bit {bit} of byte {at}: {error}");
        }
    }
    let error = Part::from_bytes(b"PULSE".to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "it is no part of a patch");
    let mut later = part.clone();
    later[11] = b'9';
    let error = Part::from_bytes(later).unwrap_err().to_string();
    assert!(error.starts_with("it was made by version 9."), "{error}");
}

/// Whoever sends a part can give it a right digest: what it then says may be wrong, but nothing else
/// happens than an error, or a patch that its readers judge.
#[test]
fn a_part_made_up_does_no_harm() {
    let (model, ranks) = halves();
    let options = EncoderOptions::default();
    let part = ranks[0].part(true, options.clone(), 1);
    let other = ranks[1].part(true, options.clone(), 1);
    let end = part.len() - 40;
    let index = u64::from_le_bytes(part[end..end + 8].try_into().unwrap()) as usize;
    let (mut refused, mut judged) = (0, 0);
    for at in end - index..end + 8 {
        for value in [0, 1, 0x7f, 0x80, 0xff, part[at] ^ 1, part[at].wrapping_add(1)] {
            let mut forged = part.clone();
            forged[at] = value;
            let Ok(forged) = Part::from_bytes(sealed(forged)) else {
                refused += 1;
                continue;
            };
            let other = Part::from_bytes(other.clone()).unwrap();
            let mut patch = Vec::new();
            if join([forged, other], &mut patch, options.clone(), Control::threads(1)).is_err() {
                refused += 1;
                continue;
            }
            judged += 1;
            let mut held = model.base.clone();
            let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
            if receiver.push(&patch).and_then(|()| receiver.finish().map(drop)).is_ok() {
                assert!(held == model.target, "byte {at} as {value}");
            }
        }
    }
    assert!(refused > 200 && judged > 10, "{refused} refused, {judged} judged");
}
