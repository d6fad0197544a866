//! Whole checkpoints: files and directories to a patch, and back byte for byte.

mod cancel;
mod chains;
mod compose;
mod examples;
mod hostile;
mod in_place;
mod layouts;
mod misuse;
mod moving;
mod names;
mod opening;
mod outputs;
mod parts;
mod prepared;
mod receiving;
mod rules;
mod same_names;
mod shadow;
mod stat;
mod streams;
mod subdirectories;
mod tensors;
mod updates;
mod wrong_base;

use pulse::tensors::DiffReport;
use testkit::files::{Files, Place};
use testkit::library::{apply, diff, every_coding, open_patch, verify};

/// Both ways, and as snapshots: the target comes back byte for byte, and every check passes.
/// Reports the way from `base` to `target`.
#[track_caller]
fn rebuilds(base: &Files, target: &Files) -> DiffReport {
    rebuilds_one_way(Some(target), base);
    rebuilds_one_way(None, target);
    rebuilds_one_way(Some(base), target)
}

#[track_caller]
fn rebuilds_one_way(base: Option<&Files>, target: &Files) -> DiffReport {
    let place = Place::new();
    let base = base.map(|base| place.put("base", base));
    let (base, target_path) = (base.as_deref(), place.put("target", target));
    let mut report = None;
    for (number, options) in every_coding().into_iter().enumerate() {
        let (patch, out) =
            (place.path(&format!("{number}.pulse")), place.path(&format!("{number}.out")));
        report = Some(diff(base, &target_path, &patch, options, 1 + number));
        apply(base, &patch, &out).unwrap();
        Files::read(&out).assert_same(target);
        verify(&patch, None, None).unwrap();
        verify(&patch, base, None).unwrap();
        verify(&patch, None, Some(&out)).unwrap();
        verify(&patch, base, Some(&target_path)).unwrap();
        assert_eq!(open_patch(&patch).header().snapshot, base.is_none());
    }
    report.unwrap()
}
