//! What changed between checkpoints and along a series of them, without a patch.

use std::fs;
use std::path::PathBuf;

use pulse::coding::Coding;
use pulse::measure::{
    patch_sizes, stat, Density, Kind, PairStat, Series, SeriesStat, Sizes, Window,
};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::wire::Action;
use pulse::Error;
use testkit::files::{safetensors, stepped, tensor, weights, Files, Place, Tensor};
use testkit::library::{diff, open};

/// A checkpoint of one tensor of 100 elements of one byte each, some of which are 1.
fn ones(place: &Place, name: &str, is_one: impl Fn(usize) -> bool) -> PathBuf {
    let bytes: Vec<u8> = (0..100).map(|element| u8::from(is_one(element))).collect();
    place.put(name, &Files::one(&[tensor("w", "U8", &[10, 10], bytes)]))
}

fn measure(paths: &[PathBuf], sizes: Sizes) -> SeriesStat {
    let series = Series::open(paths).unwrap();
    let done = std::sync::atomic::AtomicU64::new(0);
    let progress = |bytes| {
        done.fetch_add(bytes, std::sync::atomic::Ordering::SeqCst);
        std::ops::ControlFlow::Continue(())
    };
    let stat = series.measure(sizes, Control::threads(2).with_progress(&progress)).unwrap();
    assert_eq!(done.into_inner(), series.work_bytes(sizes), "the progress announced");
    stat
}

/// Length, number of windows, and densities in per cent: mean, least, greatest.
fn rows(stat: &SeriesStat) -> Vec<(u64, usize, [f64; 3])> {
    let percent = |ratio: Option<f64>| (100.0 * ratio.unwrap() * 1e6).round() / 1e6;
    let row = |window: &pulse::measure::SeriesWindow<'_>| {
        (
            window.length,
            window.pairs.len(),
            [window.mean(), window.min(), window.max()].map(percent),
        )
    };
    stat.windows().iter().map(row).collect()
}

#[test]
fn each_step_that_changes_another_element_makes_windows_as_dense_as_they_are_long() {
    let place = Place::new();
    let paths: Vec<_> =
        (0..10).map(|step| ones(&place, &format!("{step}"), |element| element < step)).collect();
    let found = rows(&measure(&paths, Sizes::Skip));
    let exactly = |percent: f64| [percent; 3];
    assert_eq!(
        found,
        [
            (1, 9, exactly(1.0)),
            (2, 8, exactly(2.0)),
            (4, 3, exactly(4.0)),
            (8, 1, exactly(8.0)),
            (9, 1, exactly(9.0))
        ]
    );
}

#[test]
fn a_change_that_is_taken_back_is_no_change_in_the_longer_window() {
    let place = Place::new();
    // Elements 0 to 3 are 1 in every other checkpoint; element 50 becomes 1 in the last.
    let one = |step: usize| {
        move |element: usize| (element < 4 && step % 2 == 1) || (element == 50 && step == 4)
    };
    let paths: Vec<_> = (0..5).map(|step| ones(&place, &format!("{step}"), one(step))).collect();
    let found = rows(&measure(&paths, Sizes::Skip));
    let third = 0.333333;
    assert_eq!(
        found,
        [(1, 4, [4.25, 4.0, 5.0]), (2, 3, [third, 0.0, 1.0]), (4, 1, [1.0, 1.0, 1.0])]
    );
}

/// What is measured along checkpoints at these steps, in which each step makes another element 1.
fn along(steps: &[u64]) -> SeriesStat {
    let place = Place::new();
    let paths: Vec<_> = steps
        .iter()
        .map(|&step| ones(&place, &format!("{step}"), |element| (element as u64) < step))
        .collect();
    let series = Series::open(&paths).unwrap().with_steps(steps).unwrap();
    series.measure(Sizes::Skip, Control::threads(2)).unwrap()
}

#[test]
fn pairs_of_different_distances_in_steps_are_never_averaged() {
    let exactly = |percent: f64| [percent; 3];
    let found = along(&[40, 41, 48, 60]);
    // Of checkpoints one apart, of those two apart, and of all three: 20 steps.
    let windows = [1, 7, 8, 12, 19, 20].map(|length| (length, 1, exactly(length as f64)));
    assert_eq!(rows(&found), windows);
    assert_eq!((found.typical_distance, found.typical().mean()), (1, Some(0.01)));
    assert_eq!(found.tensors["w"].changes, 1);
    assert_eq!(
        found.pairs.iter().map(|pair| pair.distance).collect::<Vec<_>>(),
        [1, 7, 12, 8, 19, 20]
    );
    assert_eq!(
        found.checkpoints.iter().map(|one| one.step.unwrap()).collect::<Vec<_>>(),
        [40, 41, 48, 60]
    );
}

#[test]
fn the_typical_distance_is_the_commonest() {
    let found = along(&[1, 10, 20, 30]);
    assert_eq!((found.typical_distance, found.typical().pairs.len()), (10, 2));
    assert_eq!((found.tensors["w"].changes, found.tensors["w"].pairs), (20, 2));
    // Evenly ten steps apart: as without steps, but the lengths are in steps.
    let found = along(&[10, 20, 30, 40, 50]);
    assert_eq!(rows(&found), [(10, 4, [10.0; 3]), (20, 3, [20.0; 3]), (40, 1, [40.0; 3])]);
    assert_eq!(found.typical().total().density, Density { changes: 40, elements: 400 });
}

#[test]
fn steps_are_one_for_each_checkpoint_and_ascend() {
    let place = Place::new();
    let paths = ["a", "b", "c"].map(|name| ones(&place, name, |_| false));
    for (steps, told) in [
        (&[1, 2][..], "2 steps for 3 checkpoints"),
        (&[1, 2, 3, 4], "4 steps for 3 checkpoints"),
        (&[1, 3, 2], "step 2 follows step 3"),
        (&[1, 1, 2], "step 1 follows step 1"),
    ] {
        let error = Series::open(&paths).unwrap().with_steps(steps).unwrap_err();
        assert!(matches!(&error, Error::Misuse(what) if what.contains(told)), "{error}");
    }
    let found = Series::open(&paths).unwrap().with_steps(&[0, 1, u64::MAX]).unwrap();
    assert_eq!(
        found.measure(Sizes::Skip, Control::default()).unwrap().pairs[1].distance,
        u64::MAX - 1
    );
}

#[test]
fn windows_reach_from_the_first_checkpoint_and_never_past_the_last() {
    for checkpoints in 2..100 {
        let windows = Window::all(checkpoints);
        let pairs: Vec<Vec<_>> = windows.iter().map(|window| window.pairs().collect()).collect();
        assert!(pairs[0].iter().copied().eq((1..checkpoints).map(|target| (target - 1, target))));
        assert_eq!(pairs.last().unwrap(), &[(0, checkpoints - 1)], "all of it");
        for (window, pairs) in windows.iter().zip(&pairs) {
            assert_eq!(pairs[0].0, 0);
            assert!(pairs
                .iter()
                .all(|(base, target)| target - base == window.length && *target < checkpoints));
            // Nothing between two windows is left out, and little at the end.
            assert!(window.stride <= window.length);
            assert!(checkpoints - 1 - pairs.last().unwrap().1 < window.stride);
        }
        let work: usize = pairs.iter().map(Vec::len).sum();
        assert!(work <= 3 * checkpoints + 8, "{work} pairs of {checkpoints} checkpoints");
    }
    assert!(Window::all(0).is_empty() && Window::all(1).is_empty());
}

fn model() -> Vec<Tensor> {
    let bf16 = |name: &str, seed, elements: usize| {
        tensor(name, "BF16", &[elements as u64], weights(seed, elements))
    };
    vec![
        bf16("model.embed_tokens.weight", 1, 1000),
        bf16("model.layers.0.self_attn.q_proj.weight", 2, 400),
        bf16("model.layers.1.self_attn.q_proj.weight", 3, 400),
        bf16("model.layers.0.mlp.up_proj.weight", 4, 800),
        bf16("model.norm.weight", 5, 20),
    ]
}

/// Every 10th element of the attention projections steps by one ULP, every 100th of the embedding.
fn trained() -> Vec<Tensor> {
    let mut tensors = model();
    for (at, every) in [(0, 100), (1, 10), (2, 10)] {
        tensors[at].bytes = stepped(&tensors[at].bytes, 2, every);
    }
    tensors
}

fn pair(place: &Place, base: &[Tensor], target: &[Tensor]) -> PairStat {
    let (base, target) =
        (place.put("base", &Files::one(base)), place.put("target", &Files::one(target)));
    PairStat::of(&stat(&open(&base), &open(&target), Control::threads(2)).unwrap())
}

#[test]
fn kinds_and_modules_gather_the_tensors_of_all_layers() {
    let found = pair(&Place::new(), &model(), &trained());
    let density = |changes, elements| Density { changes, elements };
    let kinds: Vec<_> = found.kinds().into_iter().collect();
    let expected = [
        (Kind::Embedding, density(10, 1000)),
        (Kind::Attention, density(80, 800)),
        (Kind::Mlp, density(0, 800)),
        (Kind::Norm, density(0, 20)),
    ];
    assert_eq!(kinds, expected);
    let attention = &found.modules["model.layers.*.self_attn.q_proj"];
    assert_eq!(
        (attention.kind, attention.tensors, attention.density),
        (Kind::Attention, 2, density(80, 800))
    );
    assert_eq!(found.density, density(90, 2620));
    assert_eq!(found.ulp_steps.values().sum::<u64>(), 90);
    assert!(found.ulp_steps.keys().all(|step| step.abs() == 1));
}

#[test]
fn what_is_not_in_both_is_listed_and_not_counted() {
    let mut target = trained();
    target.remove(3);
    target[4 - 1] = tensor("model.norm.weight", "BF16", &[4, 5], target[3].bytes.clone());
    target.push(tensor("lm_head.weight", "U8", &[1 << 12], vec![0; 1 << 12]));
    let found = pair(&Place::new(), &model(), &target);
    assert_eq!(found.density, Density { changes: 90, elements: 1800 });
    assert_eq!(found.added, ["lm_head.weight"]);
    assert_eq!(found.replaced, ["model.norm.weight"]);
    assert_eq!(found.deleted, ["model.layers.0.mlp.up_proj.weight"]);
    let nothing = pair(&Place::new(), &model(), &[tensor("other", "U8", &[1], *b"x")]);
    assert_eq!((nothing.density.ratio(), nothing.deleted.len()), (None, 5));
}

#[test]
fn a_series_sums_its_pairs() {
    let place = Place::new();
    let with_head = |mut tensors: Vec<Tensor>| {
        tensors.push(tensor("lm_head.weight", "U8", &[7], *b"weights"));
        tensors
    };
    let paths = [model(), trained(), with_head(trained())].map(|tensors| safetensors(&tensors));
    let paths: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(at, bytes)| place.put_bytes(&format!("{at}"), bytes))
        .collect();
    let found = measure(&paths, Sizes::Exact);
    let total = found.typical().total();
    assert_eq!(total.density, Density { changes: 90, elements: 2 * 2620 });
    assert_eq!(
        (total.added, total.modules["model.layers.*.self_attn.q_proj"].tensors),
        (vec!["lm_head.weight".into()], 2)
    );
    let head = &found.tensors["lm_head.weight"];
    assert_eq!((head.action, head.changes, head.elements), (Some(Action::Added), 7, 7));
    let norm = &found.tensors["model.norm.weight"];
    assert_eq!((norm.action, norm.changes, norm.elements), (None, 0, 40));
    // Patches are measured from each checkpoint to the next only.
    let sizes = found.pairs.iter().map(|pair| pair.sizes.is_some());
    assert_eq!(sizes.collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(found.adjacent().len(), 2);
    assert_eq!(found.checkpoints[2].elements, 2627);
}

#[test]
fn sizes_are_those_of_the_patches_that_diff_writes() {
    let place = Place::new();
    let with_config = |tensors: &[Tensor], config: &[u8]| {
        Files::many([("model.safetensors", safetensors(tensors)), ("config.json", config.into())])
    };
    let base = place.put("base", &with_config(&model(), b"{}"));
    for (name, files) in [
        ("same", with_config(&model(), b"{}")),
        ("trained", with_config(&trained(), b"{}")),
        ("other config", with_config(&trained(), b"{\"layers\": 2}")),
        ("other tensors", with_config(&trained()[1..], b"{}")),
    ] {
        let target = place.put(name, &files);
        let sizes = patch_sizes(&open(&base), &open(&target), Control::threads(2)).unwrap();
        for (coding, found) in [(Coding::Contextual, sizes.contextual), (Coding::Flat, sizes.flat)]
        {
            let patch = place.path("patch");
            diff(Some(&base), &target, &patch, EncoderOptions::default().with_coding(coding), 1);
            assert_eq!(found, fs::metadata(&patch).unwrap().len(), "{name}, {coding:?}");
        }
        let full: u64 = fs::read_dir(&target)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(sizes.full, full);
    }
}

#[test]
fn long_ulp_steps_are_counted_in_few_entries() {
    // Every element of an F32 tensor moves by a different amount.
    let floats = |offset: u32| {
        (0..50_000u32).flat_map(|i| (offset + i * i).to_le_bytes()).collect::<Vec<u8>>()
    };
    let of = |bytes| [tensor("w", "F32", &[50_000], bytes)];
    let zeros = vec![0; 200_000];
    let found = pair(&Place::new(), &of(zeros), &of(floats(1)));
    assert_eq!(found.density, Density { changes: 50_000, elements: 50_000 });
    assert_eq!(found.ulp_steps.values().sum::<u64>(), 50_000);
    assert!(found.ulp_steps.len() < 256 + 64, "{} entries", found.ulp_steps.len());
    assert_eq!((found.ulp_steps[&1], found.ulp_steps[&512]), (1, 7));
}

#[test]
fn a_series_is_two_checkpoints_or_more_and_all_of_them_are_there() {
    let place = Place::new();
    let first = ones(&place, "first", |_| false);
    for few in [&[][..], std::slice::from_ref(&first)] {
        assert!(
            matches!(Series::open(few), Err(Error::Misuse(what)) if what.contains("two or more"))
        );
    }
    let error =
        Series::open(&[first.clone(), first, place.path("missing")]).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}
