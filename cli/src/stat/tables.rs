//! What `pulse stat` says in a terminal.

use std::collections::BTreeMap;

use pulse::measure::{Density, PairStat, SeriesPair, SeriesWindow, TensorTotal};
use pulse::wire::Action;

use super::{Report, Sync, LINKS};
use crate::{steps, text};

pub fn text(report: &Report<'_>) -> String {
    let total = report.series.total();
    let mut parts = match report.series.pairs() {
        [_] => vec![tensor_table(report)],
        _ => vec![pair_table(report), window_table(report)],
    };
    if !total.modules.is_empty() {
        parts.push(kind_table(&total));
    }
    parts.extend([sync_table(report), facts(report, &total), histogram(&total.steps)]);
    parts.join("\n")
}

/// A density in per cent; a dash if nothing was compared.
pub fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{:.3}%", 100.0 * ratio))
}

/// Three significant digits, but no fewer than all before the point.
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

/// Rows of the table of tensors: name, dtype and shape, action, changes, density.
pub fn tensor_rows(report: &Report<'_>) -> Vec<Vec<String>> {
    let row = |(name, tensor): (&String, &TensorTotal)| {
        vec![
            name.clone(),
            tensor.spec.to_string(),
            tensor.action.map_or("unchanged", Action::name).into(),
            text::count(tensor.changes),
            text::percent(tensor.changes, tensor.elements),
        ]
    };
    report.series.tensors.iter().map(row).collect()
}

fn tensor_table(report: &Report<'_>) -> String {
    text::table(&["tensor", "dtype, shape", "", "changes", "density"], &tensor_rows(report))
}

/// What the tensors that are not compared do: "1 added, 2 deleted".
pub fn others(stat: &PairStat) -> String {
    let lists = [("added", &stat.added), ("replaced", &stat.replaced), ("deleted", &stat.deleted)];
    let some = lists.iter().filter(|(_, names)| !names.is_empty());
    some.map(|(what, names)| format!("{} {what}", text::count(names.len() as u64))).collect::<Vec<_>>().join(", ")
}

/// Heads and rows of the table of pairs.
pub fn pair_rows(report: &Report<'_>) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let pairs = report.series.pairs();
    let sizes = pairs.iter().any(|pair| pair.sizes.is_some());
    let differ = pairs.iter().any(|pair| !others(&pair.stat).is_empty());
    let row = |pair: &SeriesPair| {
        let mut row = vec![
            report.labels[pair.base].clone(),
            report.labels[pair.target].clone(),
            text::count(pair.stat.density.changes),
            percent(pair.stat.density.ratio()),
        ];
        if let Some(sizes) = pair.sizes {
            let times = text::ratio(sizes.full, sizes.contextual);
            row.extend([text::count(sizes.contextual), text::count(sizes.flat), format!("{times:.1}x")]);
        }
        if differ {
            row.push(others(&pair.stat));
        }
        row
    };
    let mut head = vec!["from", "to", "changes", "density"];
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

/// "2 checkpoints"; if there is but one window of that length, from where to where as well.
pub fn window_name(report: &Report<'_>, window: &SeriesWindow) -> String {
    let length = text::number(window.window.length as u64, "checkpoint");
    match window.pairs.as_slice() {
        [only] => format!("{length}: {} to {}", report.labels[only.base], report.labels[only.target]),
        _ => length,
    }
}

fn window_table(report: &Report<'_>) -> String {
    let row = |window: &SeriesWindow| {
        let pairs = text::count(window.pairs.len() as u64);
        vec![window_name(report, window), pairs, percent(window.mean()), percent(window.min()), percent(window.max())]
    };
    let rows: Vec<_> = report.series.windows.iter().map(row).collect();
    text::table(&["window", "measured", "mean density", "min", "max"], &rows)
}

fn kind_table(total: &PairStat) -> String {
    let row = |name: String, tensors: u64, density: Density| {
        vec![
            name,
            text::count(tensors),
            text::count(density.elements),
            text::count(density.changes),
            percent(density.ratio()),
            share(density.changes, total.density.changes),
        ]
    };
    let mut rows = Vec::new();
    for (kind, density) in total.kinds() {
        let modules: Vec<_> = total.modules.iter().filter(|(_, module)| module.kind == kind).collect();
        let tensors = modules.iter().map(|(_, module)| module.tensors).sum();
        rows.push(row(kind.name().into(), tensors, density));
        rows.extend(modules.iter().map(|(name, module)| row(format!("  {name}"), module.tensors, module.density)));
    }
    text::table(&["kind", "tensors", "compared", "changes", "density", "of changes"], &rows)
}

/// A share of the changes, to a tenth of a per cent.
pub fn share(part: u64, whole: u64) -> String {
    format!("{:.1}%", 100.0 * text::ratio(part, whole))
}

/// Rows of the table of ways to synchronise: name, mean, largest, how much smaller than a full copy,
/// bandwidth, and the time that a transfer takes on each of the [`LINKS`].
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
    let mut head = vec!["sync", "mean bytes", "largest", "smaller", every.as_str()];
    head.extend(LINKS.map(|(name, _)| name));
    text::table(&head, &sync_rows(report))
}

fn facts(report: &Report<'_>, total: &PairStat) -> String {
    let Density { changes, elements } = total.density;
    let together = match report.series.pairs() {
        [_] => String::new(),
        pairs => format!(", {} pairs together", text::count(pairs.len() as u64)),
    };
    let changes = format!(
        "{} of {} elements ({}){together}",
        text::count(changes),
        text::count(elements),
        percent(total.density.ratio())
    );
    match others(total) {
        none if none.is_empty() => text::facts(&[("changes", changes)]),
        others => text::facts(&[("changes", changes), ("not compared", others)]),
    }
}

/// Share of the steps by size, with a bar and the share of the negative ones.
fn histogram(counts: &BTreeMap<i64, u64>) -> String {
    let total: u64 = counts.values().sum();
    let rows: Vec<Vec<String>> = steps::STEPS
        .iter()
        .map(|&(low, high, name)| {
            let (number, negative) = steps::count(counts, low, high);
            let bar = "#".repeat((40.0 * text::ratio(number, total)).round() as usize);
            vec![name.into(), text::count(number), text::percent(number, total), text::percent(negative, number), bar]
        })
        .collect();
    // The bars read better from the left.
    let width = rows.iter().map(|row| row[4].len()).max().unwrap_or(0);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|mut row| {
            row[4] = format!("{:<width$}", row[4]);
            row
        })
        .collect();
    text::table(&["step, ULPs", "changes", "share", "negative", ""], &rows)
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
