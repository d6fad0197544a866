//! What `pulse stat` prints in a terminal.

use std::collections::{BTreeMap, BTreeSet};

use pulse::measure::{Density, PairStat, SeriesPair, SeriesWindow, TensorTotal};
use pulse::wire::Action;

use super::{Report, StepsFrom, Sync, LINKS};
use crate::{steps, text};

pub fn text(report: &Report<'_>) -> String {
    let total = report.typical.total();
    let mut parts = vec![facts(report, &total)];
    match report.series.adjacent() {
        [_] => parts.push(tensor_table(report)),
        _ => parts.extend([pair_table(report), window_table(report)]),
    }
    if !total.modules.is_empty() {
        parts.push(kind_table(report, &total));
    }
    parts.extend([sync_table(report), histogram(&total.ulp_steps)]);
    parts.join("\n")
}

/// A density as a percentage; a dash if nothing was compared.
pub fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{:.3}%", 100.0 * ratio))
}

/// Three significant digits, or all digits before the decimal point if there are more.
pub fn significant(value: f64) -> String {
    let magnitude = if value > 0.0 { value.log10().floor() } else { 0.0 };
    let decimals = (2.0 - magnitude).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

/// Bits per second in decimal units.
pub fn rate(bits: f64) -> String {
    match bits {
        b if b < 999.5e6 => format!("{} Mbit/s", significant(b / 1e6)),
        b => format!("{} Gbit/s", significant(b / 1e9)),
    }
}

/// Columns of the table of tensors: name, dtype and shape, action, changes, density.
pub fn tensor_columns(report: &Report<'_>) -> [&'static str; 5] {
    ["tensor", "dtype, shape", "", changes_name(report), "density"]
}

/// Name of a column of changes: of one pair of checkpoints, or of the mean of several.
pub fn changes_name(report: &Report<'_>) -> &'static str {
    match report.typical.pairs.as_slice() {
        [_] => "changes",
        _ => "mean changes",
    }
}

/// Rows of the table of tensors.
pub fn tensor_rows(report: &Report<'_>) -> Vec<Vec<String>> {
    let row = |(name, tensor): (&String, &TensorTotal)| {
        vec![
            name.clone(),
            tensor.spec.to_string(),
            tensor.action.map_or("unchanged", Action::name).into(),
            text::count(text::ratio(tensor.changes, tensor.pairs).round() as u64),
            percent((tensor.pairs > 0).then(|| text::ratio(tensor.changes, tensor.elements))),
        ]
    };
    report.series.tensors.iter().map(row).collect()
}

fn tensor_table(report: &Report<'_>) -> String {
    text::table(&tensor_columns(report), &tensor_rows(report))
}

/// What happened to the tensors that are not compared: "1 added, 2 deleted". Each counts once.
pub fn others(pairs: &[SeriesPair]) -> String {
    let names = |list: fn(&PairStat) -> &Vec<String>| {
        pairs.iter().flat_map(|pair| list(&pair.stat)).collect::<BTreeSet<_>>().len() as u64
    };
    let counts = [
        ("added", names(|stat| &stat.added)),
        ("replaced", names(|stat| &stat.replaced)),
        ("deleted", names(|stat| &stat.deleted)),
    ];
    let some = counts.iter().filter(|(_, count)| *count > 0);
    some.map(|(what, count)| format!("{} {what}", text::count(*count)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Heads and rows of the table of pairs.
pub fn pair_rows(report: &Report<'_>) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let pairs = report.series.adjacent();
    let steps = report.steps_from != StepsFrom::Nowhere;
    let sizes = pairs.iter().any(|pair| pair.sizes.is_some());
    let differ = pairs.iter().any(|pair| !others(std::slice::from_ref(pair)).is_empty());
    let row = |pair: &SeriesPair| {
        let mut row = vec![report.labels[pair.base].clone(), report.labels[pair.target].clone()];
        if steps {
            row.push(text::count(pair.distance));
        }
        row.extend([text::count(pair.stat.density.changes), percent(pair.stat.density.ratio())]);
        if let Some(sizes) = pair.sizes {
            let times = text::ratio(sizes.full, sizes.contextual);
            row.extend([
                text::count(sizes.contextual),
                text::count(sizes.flat),
                format!("{times:.1}x"),
            ]);
        }
        if differ {
            row.push(others(std::slice::from_ref(pair)));
        }
        row
    };
    let mut head = vec!["from", "to"];
    if steps {
        head.push("steps");
    }
    head.extend(["changes", "density"]);
    if sizes {
        head.extend(["contextual, bytes", "flat, bytes", "smaller"]);
    }
    if differ {
        head.push("not compared");
    }
    (head, pairs.iter().map(row).collect())
}

fn pair_table(report: &Report<'_>) -> String {
    let (head, rows) = pair_rows(report);
    text::table(&head, &rows)
}

/// "2 steps"; if there is only one pair of that length, its ends as well.
pub fn window_name(report: &Report<'_>, window: &SeriesWindow<'_>) -> String {
    let length = report.distance(window.length);
    match window.pairs.as_slice() {
        [only] => {
            format!("{length}: {} to {}", report.labels[only.base], report.labels[only.target])
        }
        _ => length,
    }
}

fn window_table(report: &Report<'_>) -> String {
    let row = |window: &SeriesWindow<'_>| {
        let pairs = text::count(window.pairs.len() as u64);
        vec![
            window_name(report, window),
            pairs,
            percent(window.mean()),
            percent(window.min()),
            percent(window.max()),
        ]
    };
    let rows: Vec<_> = report.windows.iter().map(row).collect();
    text::table(&["window", "pairs", "mean density", "min", "max"], &rows)
}

fn kind_table(report: &Report<'_>, total: &PairStat) -> String {
    let row = |name: String, tensors: u64, density: Density| {
        vec![
            name,
            text::count(tensors),
            text::count(report.per_pair(density.elements)),
            text::count(report.per_pair(density.changes)),
            percent(density.ratio()),
            share(density.changes, total.density.changes),
        ]
    };
    let mut rows = Vec::new();
    for (kind, density) in total.kinds() {
        let modules: Vec<_> =
            total.modules.iter().filter(|(_, module)| module.kind == kind).collect();
        let tensors = modules.iter().map(|(_, module)| module.tensors).sum();
        rows.push(row(kind.name().into(), tensors, density));
        rows.extend(
            modules
                .iter()
                .map(|(name, module)| row(format!("  {name}"), module.tensors, module.density)),
        );
    }
    text::table(
        &["kind", "tensors", "elements", changes_name(report), "density", "of changes"],
        &rows,
    )
}

/// A share of the changes, to a tenth of a percent.
pub fn share(part: u64, whole: u64) -> String {
    format!("{:.1}%", 100.0 * text::ratio(part, whole))
}

/// Rows of the table of ways to synchronise: name, mean, largest, how much smaller than a full copy,
/// bandwidth, and transfer time on each of the [`LINKS`].
pub fn sync_rows(report: &Report<'_>) -> Vec<Vec<String>> {
    let full = report.syncs.last().map_or(0.0, |sync| sync.mean_bytes);
    let row = |sync: &Sync| {
        let times = if sync.mean_bytes > 0.0 { full / sync.mean_bytes } else { 0.0 };
        let mut row = vec![
            sync.name.into(),
            text::count(sync.mean_bytes.round() as u64),
            text::count(sync.max_bytes),
            format!("{times:.1}x"),
            rate(sync.rate(report.interval)),
        ];
        row.extend(LINKS.map(|(_, bits)| text::seconds(sync.seconds(bits))));
        row
    };
    report.syncs.iter().map(row).collect()
}

fn sync_table(report: &Report<'_>) -> String {
    let every = format!("every {} s", report.interval);
    let over = format!("sync over {}", report.typical_distance());
    let mut head = vec![over.as_str(), "mean bytes", "largest", "smaller", every.as_str()];
    head.extend(LINKS.map(|(name, _)| name));
    text::table(&head, &sync_rows(report))
}

/// "26 of 2,500 elements (1.040%) over 8 steps": the mean of the pairs at the typical distance.
pub fn changes(report: &Report<'_>, total: &PairStat) -> String {
    let Density { changes, elements, .. } = total.density;
    let mean = match report.typical.pairs.as_slice() {
        [_] => String::new(),
        pairs => format!(", mean of {} pairs", text::count(pairs.len() as u64)),
    };
    format!(
        "{} of {} elements ({}) over {}{mean}",
        text::count(report.per_pair(changes)),
        text::count(report.per_pair(elements)),
        percent(total.density.ratio()),
        report.typical_distance()
    )
}

/// What distances count, and where the numbers are from: "steps 40 to 60, from the names".
pub fn distances(report: &Report<'_>) -> String {
    let from = match report.steps_from {
        StepsFrom::Names => "from their names",
        StepsFrom::Option => "from --steps",
        StepsFrom::Nowhere => {
            return "distances count checkpoints: the steps are unknown, see --steps".into()
        }
    };
    let ends = [report.series.checkpoints.first(), report.series.checkpoints.last()];
    let [first, last] = ends.map(|end| end.and_then(|end| end.step).unwrap_or_default());
    format!("steps {first} to {last}, {from}")
}

/// What to know where distances differ: which of them the totals are about.
pub fn uneven(report: &Report<'_>) -> Option<String> {
    let (least, greatest) = report.uneven()?;
    let (pairs, all) = (report.typical.pairs.len(), report.series.pairs.len());
    Some(format!(
        "{} to {} between checkpoints; totals are for {} ({} of {} pairs)",
        text::count(least),
        report.distance(greatest),
        report.typical_distance(),
        text::count(pairs as u64),
        text::count(all as u64)
    ))
}

fn facts(report: &Report<'_>, total: &PairStat) -> String {
    let count = report.labels.len() as u64;
    let mut facts = vec![
        ("checkpoints", format!("{}: {}", text::count(count), distances(report))),
        ("changes", changes(report, total)),
    ];
    facts.extend(uneven(report).map(|uneven| ("distances", uneven)));
    match others(report.series.adjacent()) {
        none if none.is_empty() => {}
        others => facts.push(("not compared", others)),
    }
    text::facts(&facts)
}

/// Share of the ULP steps by size, with a bar and the share of the negative ones.
fn histogram(counts: &BTreeMap<i64, u64>) -> String {
    let total: u64 = counts.values().sum();
    let rows: Vec<Vec<String>> = steps::STEPS
        .iter()
        .map(|&(low, high, name)| {
            let (number, negative) = steps::count(counts, low, high);
            let bar = "#".repeat((40.0 * text::ratio(number, total)).round() as usize);
            vec![
                name.into(),
                text::count(number),
                text::percent(number, total),
                text::percent(negative, number),
                bar,
            ]
        })
        .collect();
    // Bars are easier to compare when aligned left.
    let width = rows.iter().map(|row| row[4].len()).max().unwrap_or(0);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|mut row| {
            row[4] = format!("{:<width$}", row[4]);
            row
        })
        .collect();
    text::table(&["ULP step", "changes", "share", "negative", ""], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits_whatever_their_size() {
        let expected = [
            (160.2, "0.000160 Mbit/s"),
            (13_127.0, "0.0131 Mbit/s"),
            (2_840_560.0, "2.84 Mbit/s"),
            (123_456_789.0, "123 Mbit/s"),
            (1_866_666_667.0, "1.87 Gbit/s"),
            (0.0, "0.00 Mbit/s"),
        ];
        expected.iter().for_each(|(bits, text)| assert_eq!(rate(*bits), *text));
    }
}
