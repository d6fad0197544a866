//! Several patches applied in one pass: the same files as one by one, byte for byte, and the same refusals.

use std::path::{Path, PathBuf};

use pulse::checkpoint::{ApplyOptions, FilePolicy};
use pulse::coding::{Coding, ValueForm};
use pulse::patch::Chain;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::{UpdateOptions, Way};
use pulse::{Checkpoint, Error, Patch};
use testkit::files::{tensor, weights, Files, Tensor};
use testkit::forge;
use testkit::library::{every_coding, open, open_patch};

use crate::compose::{directory, drifted, eventful, flat, Run};

const POLICIES: [FilePolicy; 3] = [FilePolicy::Follow, FilePolicy::Exact, FilePolicy::Keep];

fn remove(path: &Path) {
    let _ = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
}

fn applied(
    base: Option<&Path>,
    patches: &[Patch],
    out: &Path,
    files: FilePolicy,
    threads: usize,
) -> pulse::Result<()> {
    let base = base.map(Checkpoint::open).transpose()?;
    let options = ApplyOptions::default().with_files(files);
    let chain = Chain::new(patches)?;
    chain.apply(base.as_ref(), out, options, Control::threads(threads)).map(drop)
}

/// One after the other, each to a place of its own.
fn one_by_one(run: &Run, base: Option<&Path>, patches: &[Patch], files: FilePolicy) -> PathBuf {
    let mut held = base.map(Path::to_path_buf);
    for (number, patch) in patches.iter().enumerate() {
        let out = run.place.path(&format!("one-by-one-{number}"));
        remove(&out);
        applied(held.as_deref(), std::slice::from_ref(patch), &out, files, 2).unwrap();
        held = Some(out);
    }
    held.unwrap()
}

/// The same files as one by one, whatever the policy and the number of threads, in a new place and in place.
#[track_caller]
fn same_as_one_by_one(run: &Run, base: Option<&Path>, patches: &[Patch]) {
    for (number, files) in POLICIES.into_iter().enumerate() {
        let expected = Files::read(&one_by_one(run, base, patches, files));
        for threads in [1, 2, 3, 7] {
            let out = tempfile::tempdir().unwrap();
            let out = out.path().join("out");
            applied(base, patches, &out, files, threads).unwrap();
            Files::read(&out).assert_same(&expected);
        }
        let Some(base) = base else { continue };
        for way in [None, Some(Way::Undo)] {
            let (one, all) = (format!("one{number}{way:?}"), format!("all{number}{way:?}"));
            let (one, all) = (run.place.path(&one), run.place.path(&all));
            [&one, &all].into_iter().for_each(|path| remove(path));
            Files::read(base).write(&one);
            Files::read(base).write(&all);
            let options = UpdateOptions::default().with_way(way).with_files(files);
            let update =
                |chain: Chain<'_>, path: &Path| chain.update(path, options, Control::threads(2));
            let steps = patches.chunks(1).map(|patch| update(Chain::new(patch).unwrap(), &one));
            let one_by_one = steps.collect::<pulse::Result<Vec<_>>>();
            let at_once = update(Chain::new(patches).unwrap(), &all);
            // What cannot be overwritten cannot be in either way.
            assert_eq!(one_by_one.is_ok(), at_once.is_ok(), "{way:?}: {one_by_one:?}, {at_once:?}");
            if one_by_one.is_ok() {
                Files::read(&all).assert_same(&Files::read(&one));
                let again = update(Chain::new(patches).unwrap(), &all).unwrap();
                // Where the end is the base, only the files tell.
                let end = patches.last().unwrap().footer().target;
                assert!(again.already() || patches[0].footer().base == Some(end));
                Files::read(&all).assert_same(&Files::read(&one));
            }
        }
    }
}

#[test]
fn whatever_happens_to_tensors_headers_and_companions() {
    let run = eventful();
    let patches = run.patches(&every_coding());
    same_as_one_by_one(&run, Some(run.ends().0), &patches);
    let mut anchored = vec![run.patch(None, 0, &EncoderOptions::default())];
    anchored.extend(patches);
    same_as_one_by_one(&run, None, &anchored);
}

#[test]
fn tensors_that_come_back_as_they_were() {
    let w = |seed| tensor("w", "BF16", &[90_000], weights(seed, 90_000));
    let other = tensor("other", "BF16", &[40_000], weights(5, 40_000));
    let shape = tensor("w", "BF16", &[300, 300], weights(7, 90_000));
    let steps: [&[Tensor]; 6] = [
        &[w(1), other.clone()],
        std::slice::from_ref(&other),
        &[w(1), other.clone()],
        &[shape.clone(), other.clone()],
        &[drifted(shape, 3, 50), other.clone()],
        &[w(1), other.clone()],
    ];
    let run = Run::new(&steps.map(Files::one));
    for options in every_coding() {
        let patches = run.patches(&[options]);
        for end in 2..=patches.len() {
            same_as_one_by_one(&run, Some(run.ends().0), &patches[..end]);
        }
    }
}

/// Blocks that are cut alike, that hold one another, and that overlap like the bricks of a wall.
#[test]
fn blocks_of_any_sizes() {
    let first = tensor("w", "BF16", &[3_000_001], weights(1, 3_000_001));
    let mut steps = vec![first];
    for step in 0..4 {
        steps.push(drifted(steps[step].clone(), 60 + step as u64, 90));
    }
    let steps: Vec<_> = steps.into_iter().map(|tensor| Files::one(&[tensor])).collect();
    let run = Run::new(&steps);
    for sizes in [[1, 1, 1, 1], [64, 1, 7, 2], [3, 2, 5, 64], [63, 64, 62, 61]] {
        for coding in [Coding::Contextual, Coding::Flat] {
            let sized =
                |size| EncoderOptions::default().with_coding(coding).with_block_leaves(size);
            let patches = run.patches(&sizes.map(sized));
            same_as_one_by_one(&run, Some(run.ends().0), &patches);
        }
    }
}

fn with_config(step: u64, config: Option<&str>) -> Files {
    let w = tensor("w", "BF16", &[9_000], weights(1, 9_000));
    let w = (0..step).fold(w, |w, step| drifted(w, step, 40));
    let mut files = directory(&[w], &[], "");
    let Files::Many(all) = &mut files else { unreachable!("a directory") };
    all.remove("config.json");
    all.extend(config.map(|text| ("config.json".to_string(), text.as_bytes().to_vec())));
    files
}

/// Every way of a companion through three steps, at a receiver who has every one of the versions, another
/// one, or none.
#[test]
fn companions_of_the_publisher_and_of_the_receiver() {
    let texts = [None, Some("1"), Some("2")];
    for first in texts {
        for (second, third) in texts.into_iter().flat_map(|text| texts.map(|next| (text, next))) {
            let steps = [first, second, third].into_iter().zip(0..);
            let steps: Vec<_> = steps.map(|(text, step)| with_config(step, text)).collect();
            let run = Run::new(&steps);
            let patches = run.patches(&[EncoderOptions::default()]);
            for own in [None, Some("1"), Some("2"), Some("own")] {
                let base = run.place.put("receiver", &with_config(0, own));
                for files in [FilePolicy::Follow, FilePolicy::Keep] {
                    let about = format!("{first:?} {second:?} {third:?}, {own:?}, {files:?}");
                    let expected = Files::read(&one_by_one(&run, Some(&base), &patches, files));
                    let out = run.place.path("out");
                    remove(&out);
                    applied(Some(&base), &patches, &out, files, 1).expect(&about);
                    assert!(Files::read(&out) == expected, "{about}");
                    let in_place = |name: &str, chunks: usize| {
                        remove(&run.place.path(name));
                        let path = run.place.put(name, &with_config(0, own));
                        for patches in patches.chunks(chunks) {
                            let options = UpdateOptions::default().with_files(files);
                            let chain = Chain::new(patches).unwrap();
                            chain.update(&path, options, Control::threads(1)).expect(&about);
                        }
                        Files::read(&path)
                    };
                    assert!(in_place("all", 2) == in_place("one", 1), "in place: {about}");
                }
                remove(&base);
            }
        }
    }
}

fn refused(base: &Path, patches: &[Patch], needles: &[&str]) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let error = applied(Some(base), patches, &dir.path().join("out"), FilePolicy::Follow, 2);
    let error = error.unwrap_err();
    let text = error.to_string();
    assert!(needles.iter().all(|needle| text.contains(needle)), "{text}, without {needles:?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{text}");
    error
}

#[test]
fn a_broken_link_is_refused_with_both_digests() {
    let run = eventful();
    let patch = |from, to| run.patch(Some(from), to, &EncoderOptions::default());
    let digest =
        |step: usize| open(&run.checkpoints[step]).digest(Control::default()).unwrap().to_string();
    let patches = [patch(0, 1), patch(2, 3)];
    let needles = ["2to3.pulse does not follow", "0to1.pulse", &digest(1), &digest(2)];
    let error = refused(run.ends().0, &patches, &needles);
    assert!(matches!(error, Error::Chain { .. }), "{error}");
    assert!(matches!(Chain::new(&[]), Err(Error::Misuse(_))));
}

#[test]
fn a_wrong_base_is_that_of_the_first_patch_and_says_what_was_applied_before() {
    let run = eventful();
    let patches = run.patches(&every_coding());
    let error = refused(&run.checkpoints[2], &patches[..1], &["0to1.pulse: wrong base"]);
    assert!(matches!(error, Error::BaseMismatch(_)), "{error}");
    let applied = refused(
        &run.checkpoints[2],
        &patches,
        &["0to1.pulse", "already the target of the first 2 patches; leave them out"],
    );
    let Error::BaseMismatch(mismatch) = applied else { panic!("{applied}") };
    assert_eq!((mismatch.applied, mismatch.is_target), (2, false));
    refused(&run.checkpoints[1], &patches, &["the first patch; leave it out"]);
    refused(&run.checkpoints[3], &patches, &["already the target of the patch"]);
}

/// A run of five steps whose third patch is replaced by one that has all of its digests but makes something
/// else of its base.
fn with_a_liar(coding: &EncoderOptions) -> (Run, Vec<Patch>) {
    let w = tensor("w", "BF16", &[200_000], weights(1, 200_000));
    let mut steps = vec![w];
    for step in 0..6 {
        steps.push(drifted(steps[step].clone(), 60 + step as u64, 90));
    }
    let liar = Files::one(&[drifted(steps[2].clone(), 99, 90)]);
    let mut steps: Vec<_> = steps.into_iter().map(|tensor| Files::one(&[tensor])).collect();
    steps.push(liar);
    let run = Run::new(&steps);
    let mut patches: Vec<Patch> = (0..5).map(|at| run.patch(Some(at), at + 1, coding)).collect();
    let lie = run.direct(Some(2), 7, coding);
    let other = open_patch(&run.place.put_bytes("other.pulse", &lie));
    let ends = |patch: &Patch| {
        let tensor = patch.tensors()[0].end.unwrap().target.unwrap();
        (tensor.0, patch.footer().target.0)
    };
    let ((from, all), (to, of_all)) = (ends(&other), ends(&patches[2]));
    let lie = forge::replaced(&lie, b'E', &from, &to);
    let lie = forge::replaced(&lie, b'F', &all, &of_all);
    patches[2] = open_patch(&run.place.put_bytes("liar.pulse", &lie));
    (run, patches)
}

#[test]
fn a_patch_in_the_middle_that_does_not_lead_to_its_target_is_named() {
    for coding in every_coding().into_iter().take(3) {
        let (run, patches) = with_a_liar(&coding);
        let base = run.ends().0;
        for end in 3..=patches.len() {
            let error = refused(base, &patches[..end], &["liar.pulse"]);
            assert!(matches!(error, Error::WrongResult { .. } | Error::Corrupt(_)), "{error}");
            let place = run.place.put("updated", &Files::read(base));
            let update = Chain::new(&patches[..end]).unwrap();
            let update = update.update(&place, UpdateOptions::default(), Control::threads(2));
            assert!(update.unwrap_err().to_string().contains("liar.pulse"));
            Files::read(&place).assert_same(&Files::read(base));
        }
        refused(base, &patches[3..], &["3to4.pulse: wrong base"]);
    }
}

/// One byte of a payload in the middle is another one, and the file is sealed again.
#[test]
fn mutations_of_the_patch_in_the_middle_never_give_another_result() {
    let w = tensor("w", "BF16", &[4_000], weights(1, 4_000));
    let mut steps = vec![w];
    for step in 0..3 {
        steps.push(drifted(steps[step].clone(), 60 + step as u64, 40));
    }
    let steps: Vec<_> = steps.into_iter().map(|tensor| Files::one(&[tensor])).collect();
    let run = Run::new(&steps);
    for coding in [EncoderOptions::default(), flat(ValueForm::UlpStep), flat(ValueForm::Xor)] {
        let mut patches = run.patches(std::slice::from_ref(&coding));
        let middle = run.direct(Some(1), 2, &coding);
        let (mut refused, mut opened) = (0, 0);
        for at in (10..middle.len()).step_by(3) {
            let mut mutated = middle.clone();
            mutated[at] ^= 1 << (at % 8);
            let sealed = std::panic::catch_unwind(|| forge::sealed(&mutated)).unwrap_or(mutated);
            let Ok(patch) = Patch::from_bytes(sealed, pulse::Limits::default()) else { continue };
            opened += 1;
            patches[1] = patch;
            let out = tempfile::tempdir().unwrap();
            let out = out.path().join("out");
            match applied(Some(run.ends().0), &patches, &out, FilePolicy::Follow, 1) {
                Ok(_) => Files::read(&out).assert_same(&Files::read(run.ends().1)),
                Err(_) => refused += 1,
            }
        }
        assert!(opened > 20 && refused > 10, "{opened} opened, {refused} refused");
    }
}
