//! Twenty thousand damaged patches of every kind, with every CRC and the SHA-256 put right again: each is refused, or
//! makes exactly the target. Nothing else ever comes of a patch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pulse::checkpoint::{ApplyOptions, FilePolicy};
use pulse::dtype::TensorSpec;
use pulse::stream::EncoderOptions;
use pulse::tensors::{Control, PrepareOptions, TensorMut, WeightsMut};
use pulse::wire::{Action, FileKind};
use pulse::{Checkpoint, Error, Limits, Patch};
use testkit::files::{stepped, tensor, weights, Files, Place, Tensor};
use testkit::forge::{self, Section};
use testkit::library;

/// Mutants of each of the eight patches.
const MUTANTS: usize = 2_500;

/// Numbers without a pattern, the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn range(&mut self, end: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(end);
        start..(start + 1 + self.below(longest)).min(end)
    }
}

/// Tensors by name, in memory.
type Weights = BTreeMap<String, (TensorSpec, Vec<u8>)>;

fn read(checkpoint: &Checkpoint) -> Weights {
    let tensors = checkpoint.tensors().map(|(name, tensor)| {
        let mut bytes = vec![0; tensor.spec().bytes() as usize];
        checkpoint.read_at(tensor, 0, &mut bytes).unwrap();
        (name.to_string(), (tensor.spec().clone(), bytes))
    });
    tensors.collect()
}

/// Every tensor of an output. Files are found by what the patch calls them: a mutant may call them anything.
fn written(out: &Path, patch: &Patch) -> Weights {
    let records = patch.files().iter().map(|file| &file.record);
    let names: Vec<&str> = records
        .filter(|record| record.kind == FileKind::Tensors)
        .map(|record| &*record.name)
        .collect();
    match names[..] {
        [] | [""] => read(&library::open(out)),
        _ => names.iter().flat_map(|name| read(&library::open(&out.join(name)))).collect(),
    }
}

/// A patch and what it leads from and to.
struct Case {
    name: &'static str,
    base: Option<Checkpoint>,
    target: Weights,
    patch: Vec<u8>,
}

impl Case {
    fn new(
        place: &Place,
        name: &'static str,
        base: Option<&Files>,
        target: &Files,
        options: EncoderOptions,
    ) -> Case {
        let base = base.map(|base| place.put(&format!("{name}-base"), base));
        let target = place.put(&format!("{name}-target"), target);
        let patch = place.path(name);
        library::diff(base.as_deref(), &target, &patch, options, 1);
        let patch = std::fs::read(patch).unwrap();
        Case {
            name,
            base: base.map(|path| library::open(&path)),
            target: read(&library::open(&target)),
            patch,
        }
    }

    /// Applies a mutant to the base: to weights in memory if it only changes tensors, else to files.
    fn attempt(&self, mutant: &[u8], out: &Path) -> Result<(), Error> {
        let patch = Patch::from_bytes(mutant.to_vec(), Limits::default())?;
        let only_changes =
            patch.tensors().iter().all(|tensor| tensor.header.action == Action::Patched);
        if let (true, Some(base)) = (only_changes && patch.files().is_empty(), &self.base) {
            let before = read(base);
            let mut weights = before.clone();
            let mut held: WeightsMut<'_> = weights
                .iter_mut()
                .map(|(name, (spec, bytes))| {
                    (name.clone(), TensorMut::new(spec.clone(), bytes).unwrap())
                })
                .collect();
            // Every other one holds nothing decoded between its two phases.
            let max = if mutant.len().is_multiple_of(2) { u64::MAX } else { 0 };
            let options = PrepareOptions::default().with_changes_bytes_max(max);
            let applied = patch
                .prepare(&held, options, Control::threads(1))
                .and_then(|prepared| prepared.commit(&mut held, Control::threads(1)));
            let expected = if applied.is_ok() { &self.target } else { &before };
            assert!(
                weights == *expected,
                "{}: weights are neither base nor target: {applied:?}",
                self.name
            );
            return applied.map(|_| ());
        }
        let base = self.base.as_ref().filter(|_| !patch.header().snapshot);
        match base {
            Some(base) => {
                patch.verify_with_base(base, FilePolicy::Exact, Control::threads(1)).map(drop)?
            }
            None => patch.verify(Control::threads(1))?,
        }
        let applied = patch.apply(
            base,
            out,
            ApplyOptions::default().with_files(FilePolicy::Exact),
            Control::threads(1),
        );
        if applied.is_err() {
            assert!(!out.exists(), "{}: an output of a patch that was refused", self.name);
        } else {
            assert!(written(out, &patch) == self.target, "{}: another target", self.name);
            let remove =
                if out.is_dir() { std::fs::remove_dir_all(out) } else { std::fs::remove_file(out) };
            remove.unwrap();
        }
        applied.map(|_| ())
    }
}

/// Small patches of every kind.
fn cases(place: &Place) -> Vec<Case> {
    let bf16 = weights(1, 200);
    let f32s: Vec<u8> =
        weights(2, 40).chunks(2).flat_map(|high| [0, 1, high[0], high[1]]).collect();
    let base = [
        tensor("layers.0.gate", "BF16", &[10, 20], bf16.clone()),
        tensor("layers.0.up", "F32", &[40], f32s.clone()),
        tensor("steps", "I64", &[2], 7u64.to_le_bytes().repeat(2)),
        tensor("unchanged", "U8", &[3], *b"abc"),
    ];
    let changed = |tensors: &[Tensor], every| -> Vec<Tensor> {
        let width = |dtype: &str| {
            [("BF16", 2), ("F32", 4), ("I64", 8)].iter().find(|row| row.0 == dtype).map(|row| row.1)
        };
        let step = |tensor: &Tensor| match width(&tensor.dtype) {
            Some(width) => Tensor { bytes: stepped(&tensor.bytes, width, every), ..tensor.clone() },
            None => tensor.clone(),
        };
        tensors.iter().map(step).collect()
    };
    let target = changed(&base, 7);
    // Two tensors stay, one goes, one comes, one takes another shape.
    let mut other = changed(&base, 5);
    other[1] = tensor("layers.0.down", "F16", &[30], weights(3, 30));
    other[2] = tensor("steps", "I64", &[1, 2], 8u64.to_le_bytes().repeat(2));
    let directory = |tensors: &[Tensor], step: &[u8]| {
        let (first, rest) = (Files::one(&tensors[..2]), Files::one(&tensors[2..]));
        let bytes = |files: Files| match files {
            Files::One(bytes) => bytes,
            Files::Many(_) => unreachable!("one file"),
        };
        Files::many([
            ("config.json", b"{}".to_vec()),
            ("step.txt", step.to_vec()),
            ("model-1.safetensors", bytes(first)),
            ("model-2.safetensors", bytes(rest)),
        ])
    };
    let [contextual, step, xor, overwrite] = library::every_coding();
    let (one, two, three) = (Files::one(&base), Files::one(&target), Files::one(&other));
    let options = step.clone().with_run([7; 16]).with_steps(40, 41).with_metadata("by", "test");
    // Many changes without a pattern in one tensor: whole beats the rest.
    let noise = [tensor("noise", "U8", &[300], testkit::files::noise(9, 300))];
    let zeros = [tensor("noise", "U8", &[300], vec![0; 300])];
    vec![
        Case::new(place, "flat-step", Some(&one), &two, options),
        Case::new(place, "flat-xor", Some(&one), &two, xor),
        Case::new(place, "flat-overwrite", Some(&one), &two, overwrite),
        Case::new(
            place,
            "contextual",
            Some(&one),
            &Files::one(&changed(&base, 2)),
            contextual.clone(),
        ),
        Case::new(
            place,
            "whole",
            Some(&Files::one(&noise)),
            &Files::one(&zeros),
            contextual.clone(),
        ),
        Case::new(place, "actions", Some(&one), &three, contextual.clone()),
        Case::new(place, "snapshot", None, &three, contextual),
        Case::new(place, "files", Some(&directory(&base, b"40")), &directory(&other, b"41"), step),
    ]
}

/// Changes some bytes.
fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random, donor: &[u8]) {
    let end = bytes.len();
    let at = random.below(end);
    let what = random.below(8);
    if end == 0 && what != 4 {
        return;
    }
    match what {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)],
        3 => drop(bytes.drain(random.range(end, 9))),
        4 => {
            let new: Vec<u8> = (0..=random.below(9)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, new);
        }
        5 => {
            let taken = donor[random.range(donor.len(), 40)].to_vec();
            let end = (at + taken.len()).min(end);
            bytes.splice(at..end, taken);
        }
        // An integer field of one to eight bytes, or a varint, whichever stands there: one more or one less.
        _ => {
            let width = 1 << random.below(4);
            let up = random.below(2) == 0;
            for byte in bytes[at..].iter_mut().take(width) {
                *byte = if up { byte.wrapping_add(1) } else { byte.wrapping_sub(1) };
                // Carries go on to the next byte.
                if *byte != if up { 0 } else { 0xff } {
                    break;
                }
            }
        }
    }
}

/// Removes, repeats, swaps or takes over whole sections, or changes the payload of one.
fn change_sections(sections: &mut Vec<Section>, random: &mut Random, donor: &[u8]) {
    let (first, second) = (random.below(sections.len()), random.below(sections.len()));
    if sections.is_empty() {
        return;
    }
    match random.below(12) {
        0 => drop(sections.remove(first)),
        1 => sections.insert(second, sections[first].clone()),
        2 => sections.swap(first, second),
        3 => {
            let mut theirs = forge::sections(donor);
            sections[first] = theirs.swap_remove(random.below(theirs.len()));
        }
        4 => sections[first].tag = b"HTBEIFldxX"[random.below(10)],
        _ => change_bytes(&mut sections[first].payload, random, donor),
    }
}

/// A mutant of a patch, sealed.
fn mutant(patch: &[u8], random: &mut Random, donor: &[u8]) -> Vec<u8> {
    if random.below(4) == 0 {
        let mut bytes = patch.to_vec();
        (0..=random.below(2)).for_each(|_| change_bytes(&mut bytes, random, donor));
        return forge::sealed(&bytes);
    }
    let mut sections = forge::sections(patch);
    (0..=random.below(2)).for_each(|_| change_sections(&mut sections, random, donor));
    // Index and offset as they were are wrong more often than not, and then nothing else shows.
    match random.below(4) {
        0 => forge::join_as_is(patch, &sections),
        _ => forge::join(patch, &sections),
    }
}

#[test]
fn every_mutant_is_refused_or_makes_exactly_the_target() {
    let place = Place::new();
    let cases = cases(&place);
    // In memory where possible: outputs are synced, and there are hundreds of them.
    let memory = Path::new("/dev/shm");
    let scratch =
        tempfile::tempdir_in(if memory.is_dir() { memory } else { place.root() }).unwrap();
    let out = scratch.path().join("out");
    let (mut random, mut kinds) = (Random(20_000), BTreeSet::new());
    let (mut refused, mut made) = (0, 0);
    for case in &cases {
        case.attempt(&case.patch, &out).unwrap();
        let (mut refused_here, mut made_here) = (0, 0);
        for _ in 0..MUTANTS {
            let donor = &cases[random.below(cases.len())].patch;
            let mutant = mutant(&case.patch, &mut random, donor);
            match case.attempt(&mutant, &out) {
                Ok(()) => made_here += 1,
                Err(error) => {
                    assert!(
                        !matches!(error, Error::Io { .. } | Error::Misuse(_)),
                        "{}: {error}",
                        case.name
                    );
                    kinds.insert(error.kind());
                    refused_here += 1;
                }
            }
        }
        println!("{}: {refused_here} refused, {made_here} make the target", case.name);
        assert!(refused_here > 0 && made_here > 0, "{}", case.name);
        refused += refused_here;
        made += made_here;
    }
    println!("{refused} refused as {kinds:?}, {made} make the target");
    assert_eq!(refused + made, 20_000);
    assert!(refused > 10_000 && made > 200);
    // The damage reaches everything, from framing to digests.
    for kind in [
        "order",
        "count",
        "value",
        "length",
        "position",
        "stream",
        "digest",
        "duplicate",
        "name",
        "reserved",
    ] {
        assert!(kinds.contains(kind), "nothing was refused as {kind}");
    }
}

#[test]
fn sealing_repairs_sums_and_nothing_else() {
    let place = Place::new();
    for case in cases(&place) {
        assert!(forge::sealed(&case.patch) == case.patch, "{}", case.name);
        let sections = forge::sections(&case.patch);
        assert!(forge::join_as_is(&case.patch, &sections) == case.patch, "{}", case.name);
        assert!(forge::join(&case.patch, &sections) == case.patch, "{}", case.name);
    }
}
