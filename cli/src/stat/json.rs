//! What `pulse stat --json` prints; docs/stat-json.md says what each field means.

use pulse::measure::{Density, PairStat, SeriesPair, SeriesWindow};
use pulse::wire::Action;
use serde_json::{json, Value};

use super::{Report, StepsFrom, LINKS};
use crate::text;

/// The object; its density fields are null where nothing was compared.
pub fn object(report: &Report<'_>) -> Value {
    let series = report.series;
    let checkpoints = series.checkpoints.iter().zip(&report.labels).map(|(checkpoint, label)| {
        json!({
            "label": label,
            "path": checkpoint.path.display().to_string(),
            "step": checkpoint.step,
            "tensors": checkpoint.tensors,
            "elements": checkpoint.elements,
            "tensor_bytes": checkpoint.tensor_bytes,
            "file_bytes": checkpoint.file_bytes,
        })
    });
    let tensors = series.tensors.iter().map(|(name, tensor)| {
        json!({
            "name": name,
            "dtype": tensor.spec.dtype().name(),
            "shape": tensor.spec.shape(),
            "elements": tensor.spec.elements(),
            "action": tensor.action.map_or("unchanged", Action::name),
            "mean_changes": mean(tensor.changes, tensor.pairs),
            "density": text::ratio(tensor.changes, tensor.elements),
        })
    });
    let steps_from = match report.steps_from {
        StepsFrom::Names => Some("names"),
        StepsFrom::Option => Some("option"),
        StepsFrom::Nowhere => None,
    };
    json!({
        "unit": report.unit(),
        "steps_from": steps_from,
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "pairs": series.pairs.iter().map(pair).collect::<Vec<_>>(),
        "windows": report.windows.iter().map(window).collect::<Vec<_>>(),
        "typical": typical(report),
        "tensors": tensors.collect::<Vec<_>>(),
        "sync": sync(report),
    })
}

/// A sum over this many pairs, as the mean of one pair.
fn mean(sum: u64, pairs: u64) -> f64 {
    text::ratio(sum, pairs)
}

/// Adds the three fields of the density of one pair.
fn add(object: &mut Value, density: Density) {
    object["changes"] = density.changes.into();
    object["elements"] = density.elements.into();
    object["density"] = json!(density.ratio());
}

/// Adds the three fields of the density of several pairs together.
fn add_mean(object: &mut Value, density: Density, pairs: u64) {
    object["mean_changes"] = mean(density.changes, pairs).into();
    object["mean_elements"] = mean(density.elements, pairs).into();
    object["density"] = json!(density.ratio());
}

fn window(window: &SeriesWindow<'_>) -> Value {
    json!({
        "length": window.length,
        "pairs": window.pairs.len(),
        "mean": window.mean(),
        "min": window.min(),
        "max": window.max(),
    })
}

fn pair(pair: &SeriesPair) -> Value {
    let kinds = pair.stat.kinds().into_iter().map(|(kind, density)| {
        let mut object = json!({ "kind": kind.name() });
        add(&mut object, density);
        object
    });
    let mut object = json!({
        "base": pair.base,
        "target": pair.target,
        "distance": pair.distance,
        "added": pair.stat.added,
        "replaced": pair.stat.replaced,
        "deleted": pair.stat.deleted,
        "kinds": kinds.collect::<Vec<_>>(),
        "contextual_bytes": pair.sizes.map(|sizes| sizes.contextual),
        "flat_bytes": pair.sizes.map(|sizes| sizes.flat),
    });
    add(&mut object, pair.stat.density);
    object
}

fn typical(report: &Report<'_>) -> Value {
    let (total, pairs) = (report.typical.total(), report.typical.pairs.len() as u64);
    let mut object = json!({
        "distance": report.typical.length,
        "pairs": pairs,
        "ulp_steps": total.ulp_steps.iter().map(|(step, number)| json!([step, number])).collect::<Vec<_>>(),
        "kinds": kinds(&total, pairs),
    });
    add_mean(&mut object, total.density, pairs);
    object
}

fn kinds(total: &PairStat, pairs: u64) -> Vec<Value> {
    let kinds = total.kinds().into_iter().map(|(kind, density)| {
        let of_kind = total.modules.iter().filter(|(_, module)| module.kind == kind);
        let modules = of_kind.map(|(name, module)| {
            let mut object = json!({ "module": name, "tensors": module.tensors });
            add_mean(&mut object, module.density, pairs);
            object
        });
        let mut object = json!({ "kind": kind.name(), "modules": modules.collect::<Vec<_>>() });
        add_mean(&mut object, density, pairs);
        object
    });
    kinds.collect()
}

fn sync(report: &Report<'_>) -> Value {
    let ways = report.syncs.iter().map(|sync| {
        let links =
            LINKS.map(|(link, bits)| json!({ "link": link, "seconds": sync.seconds(bits) }));
        json!({
            "way": sync.name,
            "mean_bytes": sync.mean_bytes,
            "max_bytes": sync.max_bytes,
            "bits_per_second": sync.rate(report.interval),
            "links": links,
        })
    });
    json!({ "distance": report.typical.length, "interval_seconds": report.interval, "ways": ways.collect::<Vec<_>>() })
}
