//! Work that is stopped through its progress callback: at any report, it leaves everything as it was.
#![cfg(feature = "checkpoint")]

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pulse::chain::{ComposeOptions, InvertOptions};
use pulse::checkpoint::{write_whole, ApplyOptions, DiffOptions, Existing, FilePolicy};
use pulse::coding::Coding;
use pulse::dtype::{Dtype, TensorSpec};
use pulse::stream::EncoderOptions;
use pulse::tensors::{Control, TensorMut, WeightsMut};
use pulse::update::{UpdateOptions, Way};
use pulse::{Error, Patch, Result};
use testkit::files::{noise, stepped, tensor, weights, Files, Place, Tensor};
use testkit::library::{diff, open, open_patch};

const ELEMENTS: usize = 1_300_000;

fn model() -> Vec<Tensor> {
    let large = tensor("large", "BF16", &[ELEMENTS as u64], weights(1, ELEMENTS));
    vec![
        large,
        tensor("small", "BF16", &[300], weights(2, 300)),
        tensor("stays", "U8", &[9], noise(3, 9)),
    ]
}

fn target() -> Vec<Tensor> {
    let mut tensors = model();
    tensors[..2].iter_mut().for_each(|tensor| tensor.bytes = stepped(&tensor.bytes, 2, 100));
    tensors
}

/// "base", "target", and between them "patch", which is flat so that it can be inverted.
fn scene() -> Place {
    let place = Place::new();
    place.put("base", &Files::one(&model()));
    place.put("target", &Files::one(&target()));
    let flat = EncoderOptions::default().with_coding(Coding::Flat).with_block_leaves(4);
    diff(Some(&place.path("base")), &place.path("target"), &place.path("patch"), flat, 2);
    place
}

/// Runs the work to its end and counts its reports; then as often again, stopped at each of them. A
/// run that is stopped reports no more and leaves the place as it was. `undo` takes back a whole run.
#[track_caller]
fn stops_anywhere<T>(place: &Place, work: impl Fn(Control<'_>) -> Result<T>, undo: impl Fn()) {
    for threads in [1, 3] {
        let reports = AtomicUsize::new(0);
        let count = |_: u64| {
            reports.fetch_add(1, Relaxed);
            ControlFlow::Continue(())
        };
        work(Control::threads(threads).with_progress(&count)).map(|_| ()).unwrap();
        undo();
        let reports = reports.into_inner();
        assert!(reports >= 3, "only {reports} reports");
        for last in 0..reports {
            let seen = AtomicUsize::new(0);
            let stop = |_: u64| {
                if seen.fetch_add(1, Relaxed) == last {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let control = Control::threads(threads).with_progress(&stop);
            let error = place.untouched(|| work(control).map(|_| ()).unwrap_err());
            assert!(matches!(error, Error::Cancelled), "{error}");
            assert_eq!((error.kind(), error.advice(), error.file()), ("cancelled", None, None));
            assert_eq!(seen.into_inner(), last + 1, "asked again after it was stopped");
        }
    }
}

#[test]
fn diff_leaves_no_patch() {
    let place = scene();
    let (base, target, out) =
        (open(&place.path("base")), open(&place.path("target")), place.path("out"));
    let work = |control: Control<'_>| {
        write_whole(&out, Existing::Refuse, &[], |file| {
            pulse::checkpoint::diff(Some(&base), &target, file, DiffOptions::default(), control)
        })
    };
    stops_anywhere(&place, work, || fs::remove_file(&out).unwrap());
}

#[test]
fn apply_and_revert_leave_no_checkpoint() {
    let place = scene();
    let (base, target, out) =
        (open(&place.path("base")), open(&place.path("target")), place.path("out"));
    let (patch, options) = (open_patch(&place.path("patch")), ApplyOptions::default());
    let undo = || fs::remove_file(&out).unwrap();
    stops_anywhere(&place, |control| patch.apply(Some(&base), &out, options, control), undo);
    stops_anywhere(&place, |control| patch.revert(&target, &out, options, control), undo);
    // A file that was to be replaced stays.
    place.put_bytes("mine", b"mine");
    let replace = options.with_existing(Existing::Replace);
    let undo = || fs::write(place.path("mine"), b"mine").unwrap();
    stops_anywhere(
        &place,
        |control| patch.apply(Some(&base), place.path("mine"), replace, control),
        undo,
    );
}

#[test]
fn checks_end_without_a_verdict() {
    let place = scene();
    let (base, target) = (open(&place.path("base")), open(&place.path("target")));
    let patch = open_patch(&place.path("patch"));
    diff(None, &place.path("target"), &place.path("snapshot"), EncoderOptions::default(), 2);
    let (snapshot, exact) = (open_patch(&place.path("snapshot")), FilePolicy::Exact);
    stops_anywhere(&place, |control| patch.verify(control), || ());
    stops_anywhere(&place, |control| snapshot.verify(control), || ());
    stops_anywhere(
        &place,
        |control| patch.verify_with_base(&base, exact, control).map(drop),
        || (),
    );
    stops_anywhere(&place, |control| patch.verify_target(&target, exact, control).map(drop), || ());
    stops_anywhere(&place, |control| base.digest(control), || ());
    // While it looks for the tensor to blame, it can be stopped as well.
    let wrong =
        |control: Control<'_>| match patch.verify_with_base(&target, exact, control).map(drop) {
            Err(Error::BaseMismatch(_)) => Ok(()),
            other => other,
        };
    stops_anywhere(&place, wrong, || ());
}

#[test]
fn compose_and_invert_end_early() {
    let place = scene();
    let flat = EncoderOptions::default().with_coding(Coding::Flat);
    let further: Vec<Tensor> = target()
        .into_iter()
        .map(|tensor| Tensor { bytes: stepped(&tensor.bytes, 2, 77), ..tensor })
        .collect();
    place.put("further", &Files::one(&further));
    diff(Some(&place.path("target")), &place.path("further"), &place.path("next"), flat, 2);
    let patches = [open_patch(&place.path("patch")), open_patch(&place.path("next"))];
    let base = open(&place.path("base"));
    for base in [None, Some(&base)] {
        let compose = |control: Control<'_>| {
            Patch::compose(&patches, base, io::sink(), ComposeOptions::default(), control)
        };
        stops_anywhere(&place, compose, || ());
    }
    let invert =
        |control: Control<'_>| patches[0].invert(io::sink(), InvertOptions::default(), control);
    stops_anywhere(&place, invert, || ());
}

/// Whichever phase it is in: the base is restored, and no journal stays.
#[test]
fn an_update_leaves_the_base() {
    let place = scene();
    let patch = open_patch(&place.path("patch"));
    let base = fs::read(place.path("base")).unwrap();
    let undo = || {
        assert!(fs::read(place.path("base")).unwrap() == fs::read(place.path("target")).unwrap());
        fs::write(place.path("base"), &base).unwrap();
    };
    for way in [Way::Redo, Way::Undo] {
        let options = UpdateOptions::default().with_way(way);
        stops_anywhere(&place, |control| patch.update(place.path("base"), options, control), undo);
    }
}

#[test]
fn weights_in_memory_stay_what_they_were() {
    let place = scene();
    let patch = open_patch(&place.path("patch"));
    let work = |control: Control<'_>| {
        let mut held = model();
        let result = {
            let tensors = held.iter_mut().map(|tensor| {
                let spec = TensorSpec::new(Dtype::from_name(&tensor.dtype), &tensor.shape).unwrap();
                (tensor.name.as_str(), TensorMut::new(spec, &mut tensor.bytes).unwrap())
            });
            patch.apply_to(&mut tensors.collect::<WeightsMut<'_>>(), control)
        };
        let expected = if result.is_ok() { target() } else { model() };
        assert!(held.iter().zip(&expected).all(|(held, expected)| held.bytes == expected.bytes));
        result
    };
    stops_anywhere(&place, work, || ());
}
