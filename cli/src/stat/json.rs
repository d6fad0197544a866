//! What `pulse stat --json` prints; docs/stat-json.md says what each field means.

use pulse::measure::{Density, PairStat, SeriesPair, SeriesWindow};
use pulse::wire::Action;
use serde_json::{json, Value};

use super::{Report, LINKS};
use crate::text;

/// The object; its density fields are null where nothing was compared.
pub fn object(report: &Report<'_>) -> Value {
    let (series, total) = (report.series, report.series.total());
    let checkpoints = series.checkpoints.iter().zip(&report.labels).map(|(checkpoint, label)| {
        json!({
            "label": label,
            "path": checkpoint.path.display().to_string(),
            "tensors": checkpoint.tensors,
            "tensor_bytes": checkpoint.tensor_bytes,
            "file_bytes": checkpoint.file_bytes,
        })
    });
    let tensors = series.tensors.iter().map(|(name, tensor)| {
        json!({
            "name": name,
            "dtype": tensor.spec.dtype().name(),
            "shape": tensor.spec.shape(),
            "action": tensor.action.map_or("unchanged", Action::name),
            "changes": tensor.changes,
            "elements": tensor.elements,
            "density": text::ratio(tensor.changes, tensor.elements),
        })
    });
    let mut object = json!({
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "steps": total.steps.iter().map(|(step, number)| json!([step, number])).collect::<Vec<_>>(),
        "windows": series.windows.iter().map(window).collect::<Vec<_>>(),
        "kinds": kinds(&total),
        "tensors": tensors.collect::<Vec<_>>(),
        "sync": sync(report),
    });
    add(&mut object, total.density);
    object
}

/// Adds the three fields of a density.
fn add(object: &mut Value, density: Density) {
    object["changes"] = density.changes.into();
    object["elements"] = density.elements.into();
    object["density"] = json!(density.ratio());
}

fn window(window: &SeriesWindow) -> Value {
    json!({
        "length": window.window.length,
        "stride": window.window.stride,
        "mean": window.mean(),
        "min": window.min(),
        "max": window.max(),
        "pairs": window.pairs.iter().map(pair).collect::<Vec<_>>(),
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

fn kinds(total: &PairStat) -> Vec<Value> {
    let kinds = total.kinds().into_iter().map(|(kind, density)| {
        let of_kind = total.modules.iter().filter(|(_, module)| module.kind == kind);
        let modules = of_kind.map(|(name, module)| {
            let mut object = json!({ "module": name, "tensors": module.tensors });
            add(&mut object, module.density);
            object
        });
        let mut object = json!({ "kind": kind.name(), "modules": modules.collect::<Vec<_>>() });
        add(&mut object, density);
        object
    });
    kinds.collect()
}

fn sync(report: &Report<'_>) -> Value {
    let ways = report.syncs.iter().map(|sync| {
        let links = LINKS.map(|(link, bits)| json!({ "link": link, "seconds": sync.seconds(bits) }));
        json!({
            "way": sync.name,
            "mean_bytes": sync.mean_bytes,
            "max_bytes": sync.max_bytes,
            "bits_per_second": sync.rate(report.interval),
            "links": links,
        })
    });
    json!({ "interval_seconds": report.interval, "ways": ways.collect::<Vec<_>>() })
}
