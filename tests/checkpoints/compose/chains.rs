//! What composes, what must not, and what vanishes on the way.

use std::slice::from_ref;

use pulse::coding::ValueForm;
use pulse::error::Advice;
use pulse::hash::tensor_digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::wire::Action;
use pulse::{Error, Limits, Patch};

use super::{drifted, eventful, every_dtype, flat, Run};
use testkit::files::{noise, stepped, tensor, weights, Files};
use testkit::forge;
use testkit::library::{every_coding, open, open_patch};

const NO_BASE: [ValueForm; 2] = [ValueForm::UlpStep, ValueForm::Xor];

#[test]
fn flat_patches_compose_without_the_base() {
    let run = eventful();
    for form in NO_BASE {
        run.composes(&run.patches(&[flat(form)]), None, &flat(form));
    }
}

#[test]
fn any_patches_compose_on_their_base_to_any_coding() {
    let run = eventful();
    let patches = run.patches(&every_coding());
    for options in every_coding() {
        run.composes(&patches, Some(run.ends().0), &options);
    }
}

#[test]
fn every_dtype_adds_up_however_far_its_elements_go() {
    // Random bits: steps of any length, beyond half of the range too, and elements that go twice.
    let mut steps = vec![every_dtype()];
    for step in 0..3 {
        steps.push(
            steps[step]
                .iter()
                .cloned()
                .map(|tensor| drifted(tensor, 20 + step as u64, 3))
                .collect(),
        );
    }
    let run = Run::new(&steps.iter().map(|tensors| Files::one(tensors)).collect::<Vec<_>>());
    for form in NO_BASE {
        run.composes(&run.patches(&[flat(form)]), None, &flat(form));
    }
    run.composes(&run.patches(&every_coding()), Some(run.ends().0), &EncoderOptions::default());
}

#[test]
fn blocks_of_different_sizes_compose_to_any_size() {
    let run = eventful();
    let sizes = |sizes: &[u64]| {
        sizes
            .iter()
            .map(|&size| flat(ValueForm::UlpStep).with_block_leaves(size))
            .collect::<Vec<_>>()
    };
    for (from, to) in
        [([1, 1, 1], 1), ([1, 2, 3], 2), ([3, 2, 5], 4), ([64, 1, 3], 1), ([2, 7, 1], 64)]
    {
        let (patches, options) =
            (run.patches(&sizes(&from)), flat(ValueForm::UlpStep).with_block_leaves(to));
        run.composes(&patches, None, &options);
        run.composes(&patches, Some(run.ends().0), &options);
    }
}

#[test]
fn what_is_undone_vanishes() {
    let there = |name: &str, seed| tensor(name, "BF16", &[100_000], weights(seed, 100_000));
    let back = |mut tensor: super::Tensor, from: usize| {
        // From this byte on as before, so that whole blocks come back.
        let before = weights(2, 100_000);
        tensor.bytes[from..].copy_from_slice(&before[from..]);
        tensor
    };
    let changed = |name: &str, seed| super::Tensor {
        bytes: stepped(&weights(seed, 100_000), 2, 77),
        ..there(name, seed)
    };
    let run = Run::new(&[
        Files::one(&[there("comes back", 1), there("in part", 2), there("stays", 3)]),
        Files::one(&[changed("comes back", 1), changed("in part", 2), there("stays", 3)]),
        Files::one(&[
            there("comes back", 1),
            back(changed("in part", 2), 70_000),
            there("stays", 3),
        ]),
    ]);
    for form in NO_BASE {
        let options = flat(form).with_block_leaves(1);
        let patches = run.patches(from_ref(&options));
        run.composes(&patches, None, &options);
        let (patch, report) = run.compose(&patches, None, &options).unwrap();
        assert_eq!(report.actions, [(Action::Patched, 1)].into());
        let patch = Patch::from_bytes(patch, Limits::default()).unwrap();
        assert_eq!(patch.tensors()[0].header.name, "in part");
        assert_eq!(patch.tensors()[0].blocks.len(), 2, "the last two of four blocks are back");
    }
    // There and back again: nothing is left, and an empty patch composes as well.
    let (there, back) = (
        run.patch(Some(0), 1, &flat(ValueForm::UlpStep)),
        run.patch(Some(1), 0, &flat(ValueForm::UlpStep)),
    );
    let nothing = run.patch(Some(0), 0, &flat(ValueForm::UlpStep));
    for patches in [vec![there, back], vec![nothing]] {
        let (_, report) = run.compose(&patches, None, &flat(ValueForm::UlpStep)).unwrap();
        assert_eq!((report.summary.footer.tensors, report.summary.footer.changes), (0, 0));
        assert_eq!(report.summary.footer.base, Some(report.summary.footer.target));
    }
}

#[test]
fn a_snapshot_and_what_follows_it_is_a_snapshot() {
    let run = eventful();
    let mut patches = vec![run.patch(None, 0, &EncoderOptions::default())];
    patches.extend(run.patches(&every_coding()));
    let options = EncoderOptions::default().with_block_leaves(2);
    let direct = run.direct(None, 3, &options);
    // A base does no harm, and is not looked at.
    for base in [None, Some(run.checkpoints[2].as_path())] {
        let (patch, report) = run.compose(&patches, base, &options).unwrap();
        assert!(patch == direct && report.verified);
    }
}

#[test]
fn the_header_says_the_whole_way() {
    let run = eventful();
    let ids = |ids: [u8; 3]| ids.map(|id| flat(ValueForm::UlpStep).with_run([id; 16]));
    let header = |patches: &[Patch], options: EncoderOptions| {
        let (patch, _) = run.compose(patches, None, &options).unwrap();
        Patch::from_bytes(patch, Limits::default()).unwrap().header().clone()
    };
    let patches = run.patches(&ids([5, 5, 5]));
    let found = header(&patches, flat(ValueForm::UlpStep).with_metadata("composed", "yes"));
    assert_eq!((found.run, found.base_step, found.target_step), (Some([5; 16]), Some(0), Some(3)));
    assert_eq!((found.base_digest, found.metadata["composed"].as_str()), (None, "yes"));
    let told = header(&patches, flat(ValueForm::UlpStep).with_run([6; 16]).with_steps(40, 43));
    assert_eq!((told.run, told.base_step, told.target_step), (Some([6; 16]), Some(40), Some(43)));
    assert_eq!(
        header(&run.patches(&ids([5, 5, 6])), flat(ValueForm::UlpStep)).run,
        None,
        "two runs are none"
    );
    // A first patch that names its base at once is followed.
    let named = flat(ValueForm::UlpStep).with_base_digest(patches[0].footer().base.unwrap());
    let named = [run.patch(Some(0), 1, &named), run.patch(Some(1), 2, &flat(ValueForm::UlpStep))];
    assert_eq!(header(&named, flat(ValueForm::UlpStep)).base_digest, patches[0].footer().base);
}

/// Patches that do not follow one another, on a base or not; the message has these words.
#[track_caller]
fn breaks(run: &Run, patches: &[Patch], needles: &[&str]) {
    for base in [None, Some(run.ends().0)] {
        let error = run.compose(patches, base, &flat(ValueForm::UlpStep)).unwrap_err();
        assert!(matches!(error, Error::Chain { .. }) && error.kind() == "base", "{error}");
        assert_eq!(error.advice(), Some(Advice::GiveEveryPatch));
        assert!(patches.iter().any(|patch| error.file() == patch.path()), "{error}");
        let text = error.to_string();
        assert!(
            needles.iter().all(|needle| text.contains(needle)),
            "{text:?} without one of {needles:?}"
        );
    }
}

#[test]
fn a_broken_chain_is_refused_where_it_breaks() {
    let run = eventful();
    let patch = |from, to| run.patch(Some(from), to, &flat(ValueForm::UlpStep));
    let digest =
        |step: usize| open(&run.checkpoints[step]).digest(Control::default()).unwrap().to_string();
    let gap = [&*digest(1), &digest(2), "2to3.pulse does not follow", "0to1.pulse"];
    breaks(&run, &[patch(0, 1), patch(2, 3)], &gap);
    breaks(
        &run,
        &[patch(0, 1), patch(1, 2), patch(0, 1)],
        &["0to1.pulse does not follow", "1to2.pulse"],
    );
    breaks(&run, &[patch(1, 2), patch(0, 1)], &["0to1.pulse does not follow", "1to2.pulse"]);
    breaks(&run, &[patch(0, 1), patch(0, 1)], &["0to1.pulse does not follow"]);
    let snapshot = run.patch(None, 1, &EncoderOptions::default());
    breaks(&run, &[patch(0, 1), snapshot], &["to1.pulse does not follow", "snapshot"]);
    let nothing = run.compose(&[], None, &flat(ValueForm::UlpStep)).unwrap_err();
    assert_eq!(nothing.to_string(), "no patch given; give one at least");
}

/// A patch whose base digest is a lie: nobody could apply it, but its digests fit a chain.
fn lying(run: &Run, from: usize, to: usize, base_of: usize) -> Patch {
    let digest = |step: usize| open(&run.checkpoints[step]).digest(Control::default()).unwrap();
    let patch = run.direct(Some(from), to, &flat(ValueForm::UlpStep));
    let lie = forge::replaced(&patch, b'F', &digest(from).0, &digest(base_of).0);
    open_patch(&run.place.put_bytes("lie.pulse", &lie))
}

#[test]
fn tensors_that_do_not_chain_are_refused_though_the_checkpoints_do() {
    let run = eventful();
    let step = |to: usize| run.patch(Some(to - 1), to, &flat(ValueForm::UlpStep));
    // From step 2 to 3, but it says that it starts from step 1.
    breaks(
        &run,
        &[step(1), lying(&run, 2, 3, 1)],
        &["lie.pulse does not follow", "0to1.pulse", "digest"],
    );
    let guest =
        ["lie.pulse does not follow", "to1.pulse", "tensor 'guest' is deleted, but does not exist"];
    breaks(&run, &[run.patch(None, 1, &EncoderOptions::default()), lying(&run, 2, 3, 1)], &guest);
    breaks(
        &run,
        &[step(1), lying(&run, 0, 1, 1)],
        &["tensor 'empty' is added, but already exists"],
    );
    breaks(
        &run,
        &[step(1), step(2), lying(&run, 1, 2, 2)],
        &["tensor 'early' is deleted, but does not exist"],
    );

    let one =
        |name: &str, dtype: &str, seed| Files::one(&[tensor(name, dtype, &[4], noise(seed, 8))]);
    let run = Run::new(&[
        one("w", "BF16", 1),
        one("w", "BF16", 2),
        one("w", "BF16", 3),
        one("w", "F16", 2),
        one("w", "F16", 3),
    ]);
    let step = |from, to| run.patch(Some(from), to, &flat(ValueForm::UlpStep));
    breaks(
        &run,
        &[step(0, 2), lying(&run, 1, 0, 2)],
        &["tensor 'w' is expected with digest", "found"],
    );
    breaks(
        &run,
        &[step(0, 1), lying(&run, 3, 4, 1)],
        &["tensor 'w' is expected as F16 [4], found BF16 [4]"],
    );
}

#[test]
fn what_cannot_be_told_without_the_base_asks_for_it() {
    let run = eventful();
    let [contextual, step, xor, overwrite] = every_coding();
    for (options, needle) in [
        (vec![contextual], "has contextual blocks"),
        (vec![overwrite.clone()], "is overwritten"),
        (vec![step.clone(), overwrite], "is overwritten"),
        (vec![step, xor], "values of another form"),
    ] {
        let patches = run.patches(&options);
        let error = run.compose(&patches, None, &flat(ValueForm::UlpStep)).unwrap_err();
        assert!(
            error.to_string().contains(needle) && error.to_string().contains("'weights'"),
            "{error}"
        );
        assert_eq!((error.kind(), error.advice()), ("needs-base", Some(Advice::GiveItsBase)));
        run.composes(&patches, Some(run.ends().0), &flat(ValueForm::Xor));
    }
}

#[test]
fn a_tensor_that_comes_back_in_its_old_shape_asks_for_the_base() {
    let old = |seed| tensor("w", "BF16", &[1000], weights(seed, 1000));
    let other = tensor("w", "F32", &[500], noise(9, 2000));
    let gone = tensor("v", "U8", &[1], [1]);
    for (middle, back) in
        [(Some(other.clone()), old(2)), (None, old(2)), (Some(other), old(1)), (None, old(1))]
    {
        for changed_first in [false, true] {
            let middle: Vec<_> = middle.iter().chain([&gone]).cloned().collect();
            let mut steps = vec![vec![old(1)], middle, vec![back.clone()]];
            if changed_first {
                steps.insert(1, vec![old(3)]);
            }
            let run =
                Run::new(&steps.iter().map(|tensors| Files::one(tensors)).collect::<Vec<_>>());
            let patches = run.patches(&[flat(ValueForm::UlpStep)]);
            run.composes(&patches, Some(run.ends().0), &flat(ValueForm::UlpStep));
            match run.compose(&patches, None, &flat(ValueForm::UlpStep)) {
                // The digests say that all is as it was, and the first patch in which shape.
                Ok((_, report)) => assert!(changed_first && report.summary.footer.tensors == 0),
                Err(error) => {
                    assert!(
                        error.to_string().contains("old dtype and shape; without the base"),
                        "{error}"
                    );
                    assert!(back.bytes != old(1).bytes || !changed_first);
                }
            }
        }
    }
}

#[test]
fn a_wrong_base_is_named_with_its_tensor() {
    let run = eventful();
    let mut wrong = vec![run.checkpoints[1].clone(), run.checkpoints[3].clone()];
    // One bit of a tensor that no patch touches; nothing of the result would show it.
    let mut files = Files::read(&run.checkpoints[0]);
    let Files::Many(all) = &mut files else { panic!("a directory") };
    let shard = all.get_mut("model-1.safetensors").unwrap();
    *shard.last_mut().unwrap() ^= 1;
    wrong.push(run.place.put("wrong", &files));
    for options in every_coding() {
        let patches = run.patches(from_ref(&options));
        for base in &wrong {
            let error = run.compose(&patches, Some(base), &options).unwrap_err();
            assert!(matches!(error, Error::BaseMismatch { .. }), "{error}");
        }
        let error = run.compose(&patches, Some(&wrong[0]), &options).unwrap_err();
        assert!(error.to_string().contains("tensor 'kind' differs"), "{error}");
    }
}

#[test]
fn a_patch_that_lies_about_its_target_makes_nothing() {
    let run = Run::new(
        &[1, 2, 3].map(|seed| Files::one(&[tensor("w", "BF16", &[50], weights(seed, 50))])),
    );
    let [base, middle, target] =
        [0, 1, 2].map(|step| open(&run.checkpoints[step]).digest(Control::default()).unwrap());
    let lie = |patch: Vec<u8>, from: pulse::hash::Digest, to: pulse::hash::Digest| {
        let lie = forge::replaced(&patch, b'F', &from.0, &to.0);
        open_patch(&run.place.put_bytes("lie.pulse", &lie))
    };
    // It leads elsewhere than it says: the digest of the checkpoint shows it.
    let options = flat(ValueForm::UlpStep);
    let patches =
        [run.patch(Some(0), 1, &options), lie(run.direct(Some(1), 2, &options), target, base)];
    let error = run.compose(&patches, Some(run.ends().0), &options).unwrap_err();
    assert_eq!(error.kind(), "digest");
    let snapshot = lie(run.direct(None, 2, &options), target, middle);
    assert_eq!(run.compose(&[snapshot], None, &options).unwrap_err().kind(), "digest");

    // Changes that undo each other, between tensors that are said to differ.
    let (held, another) = (tensor_digest(&weights(1, 50)), tensor_digest(b"another"));
    let lie = forge::replaced(&run.direct(Some(0), 1, &options), b'E', &held.0, &another.0);
    let lie = open_patch(&run.place.put_bytes("lie.pulse", &lie));
    let patches = [lie, run.patch(Some(1), 0, &options)];
    assert_eq!(run.compose(&patches, None, &options).unwrap_err().kind(), "digest");

    // A tensor that was put, and has not the digest that it is said to have.
    let added = |step: usize| {
        let mut tensors = vec![tensor("w", "BF16", &[50], weights(1, 50))];
        tensors.extend((0..step).map(|_| tensor("x", "BF16", &[50], weights(4, 50))).take(1));
        Files::one(&tensors)
    };
    let run = Run::new(&[added(0), added(1)]);
    let digest = tensor_digest(&weights(4, 50));
    let lie = forge::replaced(&run.direct(Some(0), 1, &options), b'E', &digest.0, &[7; 32]);
    let lie = open_patch(&run.place.put_bytes("lie.pulse", &lie));
    assert_eq!(run.compose(&[lie], None, &options).unwrap_err().kind(), "digest");
}
