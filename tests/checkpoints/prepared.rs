//! Updates in two phases, what they change as indices and values, and snapshots to memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use pulse::coding::Coding;
use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::Advice;
use pulse::hash::tensor_digest;
use pulse::patch::Chain;
use pulse::stream::EncoderOptions;
use pulse::tensors::{Changed, Control, PrepareOptions, Prepared, TensorSource, WeightsMut};
use pulse::{Error, Limits, Patch};
use testkit::files::noise;
use testkit::held::{muts, refs, Tensors};
use testkit::library::{self, every_coding};

/// Base and target: a tensor of which few elements change, in several blocks, one that changes all
/// over, one that stays, a scalar, and an empty one.
fn pair(dtype: &Dtype) -> (Tensors, Tensors) {
    let width = dtype.element_bytes();
    let tensor = |name: &str, shape: &[u64], seed: u64| {
        let spec = TensorSpec::new(dtype.clone(), shape).unwrap();
        let bytes = noise(seed, spec.bytes() as usize);
        (name.to_string(), (spec, bytes))
    };
    let base = BTreeMap::from([
        tensor("all", &[300, 200], 1),
        tensor("empty", &[0, 3], 2),
        tensor("few", &[500, 700], 3),
        tensor("one", &[], 4),
        tensor("same", &[40_000], 5),
    ]);
    let mut target = base.clone();
    target.get_mut("all").unwrap().1 = noise(6, 60_000 * width);
    for name in ["few", "one"] {
        let elements = target.get_mut(name).unwrap().1.chunks_mut(width);
        // At no regular places, as training has it: about one in a hundred.
        let changed = elements.zip(noise(7, 350_000)).filter(|(_, at)| name == "one" || *at < 3);
        changed.for_each(|(element, _)| element[0] ^= 1);
    }
    (base, target)
}

/// A tensor of small and large elements, in turn, of which only small ones change.
fn two_sizes() -> (Tensors, Tensors) {
    let spec = TensorSpec::new(Dtype::Bf16, &[100_000]).unwrap();
    let small = |i: usize| i.is_multiple_of(2);
    let element = |(i, low)| [low, if small(i) { 0x3c } else { 0x40 }];
    let base: Vec<u8> = noise(8, 100_000).into_iter().enumerate().flat_map(element).collect();
    let mut target = base.clone();
    let elements = target.chunks_mut(2).zip(noise(9, 100_000)).enumerate();
    elements.filter(|(i, (_, at))| small(*i) && *at < 12).for_each(|(_, (e, _))| e[0] ^= 1);
    let tensors = |bytes| Tensors::from([("few".to_string(), (spec.clone(), bytes))]);
    (tensors(base), tensors(target))
}

fn bf16() -> (Tensors, Tensors) {
    pair(&Dtype::Bf16)
}

/// Blocks of one leaf, so that tensors have several.
fn patch_with(base: Option<&Tensors>, target: &Tensors, options: EncoderOptions) -> Patch {
    let base = base.map(refs);
    let base = base.as_ref().map(|base| base as &dyn TensorSource);
    let options = options.with_block_leaves(1);
    let bytes = library::diff_tensors(base, &refs(target), options, Control::threads(2)).unwrap();
    Patch::from_bytes(bytes, Limits::default()).unwrap()
}

fn patch(base: &Tensors, target: &Tensors) -> Patch {
    patch_with(Some(base), target, EncoderOptions::default())
}

fn holding(bytes: u64) -> PrepareOptions {
    PrepareOptions::default().with_changes_bytes_max(bytes)
}

fn prepare(patch: &Patch, base: &Tensors) -> Prepared {
    patch.prepare(&refs(base), PrepareOptions::default(), Control::threads(2)).unwrap()
}

/// What a device makes of the changes: scatters and copies, block by block.
fn scattered(prepared: &Prepared, base: &Tensors) -> Tensors {
    let mut device = base.clone();
    for tensor in prepared.tensors() {
        let (spec, bytes) = device.get_mut(tensor.name()).unwrap();
        assert_eq!(tensor.spec(), spec);
        let width = spec.dtype().element_bytes();
        let put = |block: pulse::tensors::ChangedBlock<'_>| {
            let start = block.first_element() as usize * width;
            let covered = &mut bytes[start..start + block.elements() as usize * width];
            match block.changed() {
                Changed::Sparse { offsets, values } => {
                    assert!(offsets.is_sorted_by(|a, b| a < b));
                    for (&offset, value) in offsets.iter().zip(values.chunks_exact(width)) {
                        let element = &mut covered[offset as usize * width..][..width];
                        assert_ne!(element, value, "an element that stays is listed");
                        element.copy_from_slice(value);
                    }
                }
                Changed::Dense(values) => covered.copy_from_slice(values),
            }
            Ok(())
        };
        tensor.for_each_block(&refs(base), put).unwrap();
    }
    device
}

/// The same with the flat indices of whole tensors.
fn scattered_whole(prepared: &Prepared, base: &Tensors) -> Tensors {
    let mut device = base.clone();
    for tensor in prepared.tensors() {
        let (spec, bytes) = device.get_mut(tensor.name()).unwrap();
        let width = spec.dtype().element_bytes();
        let (mut narrow, mut wide, mut values) = (Vec::new(), Vec::new(), Vec::new());
        tensor.append_u32(&refs(base), &mut narrow, &mut values).unwrap();
        let mut again = Vec::new();
        tensor.append_u64(&refs(base), &mut wide, &mut again).unwrap();
        assert!(narrow.iter().map(|&index| u64::from(index)).eq(wide.iter().copied()));
        assert_eq!((narrow.len() * width, &values), (values.len(), &again));
        for (&index, value) in narrow.iter().zip(values.chunks_exact(width)) {
            bytes[index as usize * width..][..width].copy_from_slice(value);
        }
    }
    device
}

/// Whatever the coding, the dtype, the number of threads, and how much is held.
#[test]
fn prepared_updates_lead_to_the_target() {
    for dtype in [Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::F64] {
        let (base, target) = pair(&dtype);
        for options in every_coding() {
            let patch = patch_with(Some(&base), &target, options);
            for (threads, max) in [(1, u64::MAX), (2, 40_000), (7, 0)] {
                let control = Control::threads(threads);
                let prepared = patch.prepare(&refs(&base), holding(max), control).unwrap();
                assert_eq!(prepared.coded_bytes() == 0, max == u64::MAX);
                assert_eq!(prepared.report().target, patch.footer().target);
                let names: Vec<&str> = prepared.tensors().map(|tensor| tensor.name()).collect();
                assert_eq!(names, ["all", "few", "one"]);
                let changes: u64 = prepared.tensors().map(|tensor| tensor.changes()).sum();
                assert_eq!(changes, patch.footer().changes);
                assert!(scattered(&prepared, &base) == target);
                assert!(scattered_whole(&prepared, &base) == target);
                let mut held = base.clone();
                let expected = prepared.report().clone();
                let report = prepared.commit(&mut muts(&mut held), control).unwrap();
                assert!(held == target && report == expected);
                patch.verify_weights(&refs(&held), control).unwrap();
            }
        }
    }
}

/// What changes all over is copied, the rest is scattered: whichever is shorter.
#[test]
fn blocks_that_change_whole_are_dense() {
    let (base, target) = bf16();
    let patch = patch(&base, &target);
    let blocks = &patch.tensor("all").unwrap().blocks;
    assert!(blocks.iter().all(|block| block.coding() == Coding::Whole));
    let blocks = &patch.tensor("few").unwrap().blocks;
    assert!(blocks.iter().all(|block| block.coding() == Coding::Contextual));
    for max in [u64::MAX, 0] {
        let prepared = patch.prepare(&refs(&base), holding(max), Control::threads(2)).unwrap();
        for tensor in prepared.tensors() {
            let is_dense = tensor.name() == "all";
            let mut elements = 0;
            let look = |block: pulse::tensors::ChangedBlock<'_>| {
                // The scalar is its own shortest list.
                let expected = is_dense || tensor.name() == "one";
                assert_eq!(matches!(block.changed(), Changed::Dense(_)), expected);
                elements += block.indices().count() as u64;
                assert_eq!(block.values().len() as u64, 2 * block.indices().count() as u64);
                Ok(())
            };
            tensor.for_each_block(&refs(&base), look).unwrap();
            let all = tensor.spec().elements();
            assert_eq!(elements, if is_dense { all } else { tensor.changes() });
        }
    }
}

/// An element may be overwritten with the bits that it has: it is not among those that change.
#[test]
fn only_what_changes_is_listed() {
    let (mut base, target) = bf16();
    let patch = {
        let other = every_coding().into_iter().next_back().unwrap();
        patch_with(Some(&base), &target, other)
    };
    // A base that has some of the new bits already has another digest, but the same patch leads on.
    let few = base.get_mut("few").unwrap();
    few.1[..1000].copy_from_slice(&target["few"].1[..1000]);
    let prepared = patch.prepare(&refs(&base), holding(u64::MAX), Control::threads(2)).unwrap();
    // It asserts that each listed element has other bits in the base.
    assert!(scattered(&prepared, &base) == target);
}

#[test]
fn a_wrong_base_is_refused_before_anything_is_held() {
    let (base, target) = bf16();
    let patch = patch(&base, &target);
    for name in ["few", "same"] {
        let mut wrong = base.clone();
        wrong.get_mut(name).unwrap().1[11] ^= 1;
        let prepared = patch.prepare(&refs(&wrong), holding(u64::MAX), Control::threads(2));
        assert_eq!(prepared.unwrap_err().kind(), "base", "{name}");
    }
    let prepared = patch.prepare(&refs(&target), holding(0), Control::threads(2));
    assert_eq!(prepared.unwrap_err().advice(), Some(Advice::NothingToDo));
}

/// Before any work: the weights are another's, and not read.
#[test]
fn tensors_that_come_or_go_are_refused() {
    let (base, mut target) = bf16();
    target.remove("same");
    let error = patch(&base, &target)
        .prepare(&refs(&Tensors::new()), holding(0), Control::threads(1))
        .unwrap_err();
    assert_eq!(error.to_string(), "tensor 'same' is deleted, which cannot be done in place");
}

/// Names, dtypes and shapes are compared before the first byte is written.
#[test]
fn commit_takes_the_tensors_that_it_was_prepared_for() {
    let (base, target) = bf16();
    let patch = patch(&base, &target);
    type Change = fn(&mut Tensors);
    let changes: [(Change, &str); 4] = [
        (|held| drop(held.remove("same")), "tensor 'same' is not there, expected BF16 [40000]"),
        (
            |held| {
                held.get_mut("same").unwrap().0 = TensorSpec::new(Dtype::F16, &[40_000]).unwrap();
            },
            "tensor 'same' is F16 [40000], expected BF16 [40000]",
        ),
        (
            |held| {
                held.get_mut("few").unwrap().0 = TensorSpec::new(Dtype::Bf16, &[700, 500]).unwrap();
            },
            "tensor 'few' is BF16 [700, 500], expected BF16 [500, 700]",
        ),
        (
            |held| {
                let spec = TensorSpec::new(Dtype::U8, &[1]).unwrap();
                held.insert("zero".into(), (spec, vec![0]));
            },
            "tensor 'zero' is one too many",
        ),
    ];
    for (change, expected) in changes {
        let prepared = prepare(&patch, &base);
        let mut held = base.clone();
        change(&mut held);
        let before = held.clone();
        assert!(prepared.check(&refs(&held)).is_err());
        let error = prepared.commit(&mut muts(&mut held), Control::threads(2)).unwrap_err();
        assert_eq!(error.kind(), "misuse");
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(held == before, "the weights were touched");
    }
}

/// Others read the weights until the commit, and find the base; so they do if there is none.
#[test]
fn weights_are_served_until_the_commit() {
    let (base, target) = bf16();
    let patch = patch(&base, &target);
    let mut held = base.clone();
    let digest = tensor_digest(&base["few"].1);
    let prepared = {
        let served = &held;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    assert_eq!(tensor_digest(&served["few"].1), digest);
                }
            });
            let options = PrepareOptions::default();
            let dropped = patch.prepare(&refs(served), options, Control::threads(2)).unwrap();
            drop(dropped);
            let prepared = patch.prepare(&refs(served), options, Control::threads(2));
            stop.store(true, SeqCst);
            prepared.unwrap()
        })
    };
    assert!(held == base);
    // The patch is not needed any more, and any thread may finish.
    drop(patch);
    thread::scope(|scope| {
        let commit = || prepared.commit(&mut muts(&mut held), Control::threads(2));
        scope.spawn(commit).join().unwrap().unwrap();
    });
    assert!(held == target);
}

#[test]
fn a_preparation_that_is_stopped_holds_nothing() {
    let (base, target) = bf16();
    let patch = patch(&base, &target);
    let stop = |_| ControlFlow::Break(());
    let control = Control::threads(2).with_progress(&stop);
    let stopped = patch.prepare(&refs(&base), PrepareOptions::default(), control);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    // Once all is prepared, it is finished.
    let mut held = base.clone();
    prepare(&patch, &base).commit(&mut muts(&mut held), control).unwrap();
    assert!(held == target);
}

/// Nobody may write to weights before the commit. Who does can find out.
#[test]
fn weights_that_were_written_to_meanwhile_are_found_out() {
    let (base, target) = bf16();
    let patch = patch(&base, &target);
    let control = Control::threads(2);
    let mut held = base.clone();
    let prepared = prepare(&patch, &held);
    held.get_mut("same").unwrap().1[7] ^= 1;
    prepared.commit(&mut muts(&mut held), control).unwrap();
    let error = patch.verify_weights(&refs(&held), control).unwrap_err();
    assert!(matches!(&error, Error::TargetMismatch { tensor: None, .. }), "{error}");
    held.get_mut("few").unwrap().1[7] ^= 1;
    let error = patch.verify_weights(&refs(&held), control).unwrap_err();
    assert!(
        matches!(&error, Error::TargetMismatch { tensor: Some(name), .. } if name == "few"),
        "{error}"
    );

    // Blocks that are decoded again may not fit what they find: that is no fault of the patch.
    let (base, target) = two_sizes();
    let patch = self::patch(&base, &target);
    let mut held = base.clone();
    let prepared = patch.prepare(&refs(&held), holding(0), control).unwrap();
    held.get_mut("few").unwrap().1.fill(0x40);
    let tensor = prepared.tensors().find(|tensor| tensor.name() == "few").unwrap();
    let error = tensor.for_each_block(&refs(&held), |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), "misuse");
    let error = prepared.commit(&mut muts(&mut held), control).unwrap_err();
    assert_eq!(error.kind(), "misuse");
    assert!(error.to_string().starts_with("tensor 'few' was written to since"), "{error}");
}

/// A snapshot says nothing of what was there, only which tensors there are.
#[test]
fn a_snapshot_fills_buffers_that_are_there() {
    let (_, target) = bf16();
    let snapshot = patch_with(None, &target, EncoderOptions::default());
    let mut buffers = target.clone();
    buffers.values_mut().for_each(|(_, bytes)| bytes.fill(0xee));
    let empty = buffers.clone();
    for max in [u64::MAX, 100_000, 0] {
        let mut held = empty.clone();
        let prepared = snapshot.prepare(&refs(&held), holding(max), Control::threads(3)).unwrap();
        assert!(prepared.tensors().all(|tensor| tensor.spec().bytes() > 0));
        assert!(scattered(&prepared, &held) == target);
        prepared.commit(&mut muts(&mut held), Control::threads(3)).unwrap();
        assert!(held == target);
    }
    snapshot.apply_to(&mut muts(&mut buffers), Control::threads(2)).unwrap();
    assert!(buffers == target);

    type Change = fn(&mut Tensors);
    let changes: [(Change, &str); 3] = [
        (|held| drop(held.remove("one")), "tensor 'one' is added"),
        (
            |held| held.get_mut("one").unwrap().0 = TensorSpec::new(Dtype::F16, &[]).unwrap(),
            "tensor 'one' is replaced",
        ),
        (
            |held| {
                let spec = TensorSpec::new(Dtype::U8, &[1]).unwrap();
                held.insert("zero".into(), (spec, vec![0]));
            },
            "tensor 'zero' is deleted",
        ),
    ];
    for (change, expected) in changes {
        let mut held = empty.clone();
        change(&mut held);
        let before = held.clone();
        let error = snapshot.apply_to(&mut muts(&mut held), Control::threads(2)).unwrap_err();
        assert_eq!(error.to_string(), format!("{expected}, which cannot be done in place"));
        assert!(held == before);
    }
}

#[test]
fn a_snapshot_comes_to_memory() {
    for dtype in [Dtype::U8, Dtype::Bf16, Dtype::F64] {
        let (base, target) = pair(&dtype);
        let snapshot = patch_with(None, &target, EncoderOptions::default());
        for threads in [1, 2, 7] {
            assert!(snapshot.to_memory(Control::threads(threads)).unwrap() == target);
        }
        let error = patch(&base, &target).to_memory(Control::threads(1)).unwrap_err();
        assert_eq!((error.kind(), error.advice()), ("needs-base", Some(Advice::GiveItsBase)));
    }
}

/// A snapshot with another digest than its tensors have: neither new buffers nor those that are there.
#[test]
fn a_snapshot_that_lies_is_refused() {
    let (base, target) = bf16();
    let forged = {
        let options = EncoderOptions::default().with_block_leaves(1);
        let bytes = library::diff_tensors(None, &refs(&target), options, Control::threads(1));
        let named = tensor_digest(&target["few"].1);
        testkit::forge::replaced(&bytes.unwrap(), b'E', &named.0, &[7; 32])
    };
    let snapshot = Patch::from_bytes(forged, Limits::default()).unwrap();
    assert_eq!(snapshot.to_memory(Control::threads(2)).unwrap_err().kind(), "digest");
    let mut held = base.clone();
    let error = snapshot.apply_to(&mut muts(&mut held), Control::threads(2)).unwrap_err();
    assert_eq!(error.kind(), "digest");
    assert!(held == base, "the weights were touched");
}

/// Four versions: elements change once, in each step, or back again.
fn versions() -> Vec<Tensors> {
    let spec = TensorSpec::new(Dtype::Bf16, &[1200, 1500]).unwrap();
    let same = TensorSpec::new(Dtype::U8, &[70_000]).unwrap();
    let tensors = |bytes: &[u8]| {
        Tensors::from([
            ("few".to_string(), (spec.clone(), bytes.to_vec())),
            ("same".to_string(), (same.clone(), noise(12, 70_000))),
        ])
    };
    let mut bytes = noise(10, 3_600_000);
    let first = bytes.clone();
    let mut versions = vec![tensors(&bytes)];
    for step in 0..3 {
        let elements = bytes.chunks_mut(2).zip(noise(11, 1_800_000)).enumerate();
        elements.filter(|(_, (_, at))| *at == step || *at == 7).for_each(|(_, (e, _))| e[0] ^= 1);
        if step == 1 {
            bytes[..1_000_000].copy_from_slice(&first[..1_000_000]);
        }
        versions.push(tensors(&bytes));
    }
    versions
}

/// Patches from version to version, with blocks of so many leaves each.
fn steps(versions: &[Tensors], leaves: [u64; 3], options: &EncoderOptions) -> Vec<Patch> {
    let pairs = versions.windows(2).zip(leaves);
    let patch = |(pair, leaves): (&[Tensors], u64)| {
        let options = options.clone().with_block_leaves(leaves);
        let (base, target) = (refs(&pair[0]), refs(&pair[1]));
        let bytes = library::diff_tensors(Some(&base), &target, options, Control::threads(2));
        Patch::from_bytes(bytes.unwrap(), Limits::default()).unwrap()
    };
    pairs.map(patch).collect()
}

/// Whether blocks are cut alike, hold one another, or overlap so that a piece is larger than what is made at once.
#[test]
fn several_patches_are_prepared_in_one_pass() {
    let versions = versions();
    let (base, target) = (&versions[0], &versions[3]);
    for options in every_coding() {
        for leaves in [[1, 1, 1], [1, 2, 32], [3, 2, 5]] {
            let patches = steps(&versions, leaves, &options);
            let chain = Chain::new(&patches).unwrap();
            for (threads, max) in [(1, u64::MAX), (2, 40_000), (3, 0)] {
                let control = Control::threads(threads);
                let prepared = chain.prepare(&refs(base), holding(max), control).unwrap();
                assert!(scattered(&prepared, base) == *target, "{leaves:?}, {max}");
                assert!(scattered_whole(&prepared, base) == *target, "{leaves:?}, {max}");
                let mut held = base.clone();
                prepared.commit(&mut muts(&mut held), control).unwrap();
                assert!(held == *target, "{leaves:?}, {max}");
            }
        }
    }
}

#[test]
fn a_snapshot_and_what_follows_it_goes_to_memory_in_one_pass() {
    let versions = versions();
    for leaves in [[1, 1, 1], [3, 2, 5]] {
        let mut patches = steps(&versions, leaves, &EncoderOptions::default());
        assert_eq!(
            Chain::new(&patches).unwrap().to_memory(Control::threads(2)).unwrap_err().kind(),
            "needs-base"
        );
        patches.insert(0, patch_with(None, &versions[0], EncoderOptions::default()));
        let chain = Chain::new(&patches).unwrap();
        for threads in [1, 3] {
            let control = Control::threads(threads);
            assert!(chain.to_memory(control).unwrap() == versions[3]);
            // Whatever the weights were.
            for max in [u64::MAX, 0] {
                let mut held = versions[2].clone();
                let prepared = chain.prepare(&refs(&held), holding(max), control).unwrap();
                prepared.commit(&mut muts(&mut held), control).unwrap();
                assert!(held == versions[3], "{leaves:?}, {max}");
            }
        }
    }
}

#[test]
fn patches_that_change_which_tensors_there_are_are_not_prepared() {
    let versions = versions();
    let mut more = versions[1].clone();
    more.insert("new".into(), more["same"].clone());
    let last = [more.clone(), versions[2].clone()];
    let patches =
        [patch(&versions[0], &versions[1]), patch(&versions[1], &more), patch(&last[0], &last[1])];
    let chain = Chain::new(&patches).unwrap();
    let refused = chain.prepare(&refs(&versions[0]), holding(0), Control::threads(1)).unwrap_err();
    assert!(matches!(refused, Error::NotInPlace { .. }), "{refused}");
    assert!(refused.to_string().contains("'new' is added"), "{refused}");
}

/// Weights of which 'head' has the memory of 'few': the one is given, the other declared.
fn tied(tensors: &mut Tensors) -> WeightsMut<'_> {
    let spec = tensors["few"].0.clone();
    muts(tensors).with_tied("head", spec, "few").unwrap()
}

#[test]
fn tensors_of_one_memory_are_written_once() {
    let (base, target) = bf16();
    let with_head = |tensors: &Tensors, head: &str| {
        let mut tensors = tensors.clone();
        tensors.insert("head".into(), tensors[head].clone());
        tensors
    };
    let (whole, changed) = (with_head(&base, "few"), with_head(&target, "few"));
    let snapshot = patch_with(None, &changed, EncoderOptions::default());
    for patch in [patch(&whole, &changed), snapshot] {
        let mut held = base.clone();
        let mut weights = tied(&mut held);
        let prepared = patch.prepare(&weights, PrepareOptions::default(), Control::threads(2));
        prepared.unwrap().commit(&mut weights, Control::threads(2)).unwrap();
        patch.verify_weights(&weights, Control::threads(2)).unwrap();
        assert_eq!(held, target);
    }

    // What makes the two different is refused, by prepare and by a commit to weights that are not tied alike.
    let mut apart = changed.clone();
    apart.get_mut("head").unwrap().1[7] ^= 1;
    let mut only_one = changed.clone();
    only_one.insert("head".into(), whole["head"].clone());
    for target in [apart, only_one] {
        let patch = patch(&whole, &target);
        let mut held = base.clone();
        let mut weights = tied(&mut held);
        let error = patch.apply_to(&mut weights, Control::threads(2)).unwrap_err();
        assert!(matches!(&error, Error::NotInPlace { .. }), "{error}");
        assert!(error.to_string().contains("'head' and 'few' have one memory"), "{error}");
        let error = prepare(&patch, &whole).commit(&mut weights, Control::threads(2)).unwrap_err();
        assert!(matches!(error, Error::NotInPlace { .. }), "{error}");
        assert_eq!(held, base);
    }

    // Declarations that make no sense.
    let spec = whole["few"].0.clone();
    let mut held = base.clone();
    for (name, spec, to) in [
        ("head", spec.clone(), "gone"),
        ("all", spec, "few"),
        ("head", TensorSpec::new(Dtype::U8, &[3]).unwrap(), "few"),
    ] {
        let error = muts(&mut held).with_tied(name, spec, to).unwrap_err();
        assert!(matches!(error, Error::Misuse(_)), "{error}");
    }
}
