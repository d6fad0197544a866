//! What `pulse stat --html` writes: curves of density and patch size, kinds, steps, tables.

use pulse::measure::{Density, Kind, PairStat, SeriesPair, SeriesWindow};

use super::tables::{self, percent, rate};
use super::{Report, LINKS};
use crate::html::{self, Bar, Column, Curve, Curves, Html};
use crate::{steps, text};

const COLOURS: [&str; 7] = ["c1", "c3", "c4", "c5", "c8", "c6", "c7"];

pub fn page(report: &Report<'_>) -> String {
    let (series, total) = (report.series, report.series.total());
    let ends = [report.labels.first(), report.labels.last()].map(|label| label.map_or("", String::as_str));
    let title = format!("From {} to {}", ends[0], ends[1]);
    let several = series.pairs().len() > 1;
    let mut parts = vec![lead(report, &total), headline(report)];
    if several {
        parts.push(html::section("Density from each checkpoint to the next", density(report)));
        parts.push(html::section("Density over longer windows", windows(report)));
    }
    if several && series.pairs().iter().any(|pair| pair.sizes.is_some()) {
        parts.push(html::section("Patch sizes", sizes(report)));
    }
    parts.push(html::section("What a synchronisation costs", sync(report)));
    if !total.modules.is_empty() {
        parts.push(html::section("Parts of the model", kinds(&total)));
        parts.push(html::section("Step sizes", step_sizes(&total)));
    }
    parts.push(html::section("Checkpoints", pairs(report)));
    parts.push(html::section("Tensors", tensors(report)));
    html::page(&title, parts)
}

fn lead(report: &Report<'_>, total: &PairStat) -> Html {
    let from = match report.labels.len() as u64 {
        2 => String::new(),
        several => format!("{} checkpoints. From each to the next, ", text::count(several)),
    };
    let Density { changes, elements } = total.density;
    let mut text = format!(
        "{from}{} of {} elements changed their bits: {}.",
        text::count(changes),
        text::count(elements),
        percent(total.density.ratio())
    );
    match tables::others(total) {
        none if none.is_empty() => {}
        others => text += &format!(" Tensors that could not be compared: {others}."),
    }
    html::paragraph("lead", &text)
}

fn headline(report: &Report<'_>) -> Html {
    let mut numbers = Vec::new();
    let several = report.series.pairs().len() > 1;
    let name = |mean, only| if several { mean } else { only };
    if let Some(first) = report.series.windows.first() {
        let range = match first.pairs.len() {
            1 => "of the elements".into(),
            _ => format!("{} to {}", percent(first.min()), percent(first.max())),
        };
        numbers.push((name("mean density", "density"), percent(first.mean()), range));
    }
    if let [patch, .., full] = report.syncs.as_slice() {
        let times = format!("{:.0} times smaller than a full copy", full.mean_bytes / patch.mean_bytes.max(1.0));
        numbers.push((name("mean patch", "patch"), text::bytes(patch.mean_bytes.round() as u64), times));
        let every = format!("for a patch every {} s", report.interval);
        let megabits = tables::significant(patch.rate(report.interval) / 1e6);
        numbers.push(("bandwidth, Mbit/s", megabits, every));
    }
    if let Some(full) = report.syncs.last() {
        let bandwidth = format!("{} every {} s", rate(full.rate(report.interval)), report.interval);
        numbers.push(("full copy", text::bytes(full.mean_bytes.round() as u64), bandwidth));
    }
    html::headline(&numbers)
}

/// The places of the pairs from each checkpoint to the next, named after the later one.
fn places(report: &Report<'_>) -> Vec<(f64, String)> {
    let last = report.series.pairs().len().saturating_sub(1).max(1) as f64;
    let place = |(at, pair): (usize, &SeriesPair)| (at as f64 / last, report.labels[pair.target].clone());
    report.series.pairs().iter().enumerate().map(place).collect()
}

fn share(value: f64) -> String {
    let text = format!("{:.3}", 100.0 * value);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn density(report: &Report<'_>) -> Html {
    let pairs = report.series.pairs();
    let of = |density: &dyn Fn(&PairStat) -> Option<Density>| -> Vec<Option<f64>> {
        pairs.iter().map(|pair| density(&pair.stat).and_then(Density::ratio)).collect()
    };
    let all = Curve { name: "all".into(), colour: "c1", values: of(&|stat| Some(stat.density)), band: Vec::new() };
    let kind = |(&kind, colour): (&Kind, &'static str)| Curve {
        name: kind.name().into(),
        colour,
        values: of(&|stat| stat.kinds().get(&kind).copied()),
        band: Vec::new(),
    };
    let present = |curve: &Curve| curve.values.iter().any(Option::is_some);
    let kinds: Vec<Curve> = Kind::ALL.iter().zip(COLOURS).map(kind).filter(present).collect();
    let chart = |label, curves| html::curves(&Curves { label, places: places(report), curves, format: share });
    let mut parts = vec![chart("density from each checkpoint to the next", vec![all])];
    if kinds.len() > 1 {
        parts.push(html::paragraph("note", "The same by part of the model"));
        parts.push(chart("density by part of the model", kinds));
    }
    parts.into_iter().collect()
}

fn windows(report: &Report<'_>) -> Html {
    let windows = &report.series.windows;
    let longest = windows.last().map_or(1, |window| window.window.length).max(2) as f64;
    let place = |window: &SeriesWindow| {
        let length = window.window.length;
        ((length as f64).log2() / longest.log2(), length.to_string())
    };
    let curve = Curve {
        name: "mean density".into(),
        colour: "c1",
        values: windows.iter().map(SeriesWindow::mean).collect(),
        band: windows.iter().map(|window| (window.min().unwrap_or(0.0), window.max().unwrap_or(0.0))).collect(),
    };
    let note = "Line: mean over all windows of a length; band: from the least to the greatest. Lengths stand on a \
                logarithmic scale and count checkpoints, whatever the number of optimizer steps between them.";
    let row = |window: &SeriesWindow| {
        let length = tables::window_name(report, window);
        let numbers = [window.mean(), window.min(), window.max()].map(percent);
        [length, text::count(window.pairs.len() as u64)].into_iter().chain(numbers).collect()
    };
    let columns = [
        ("window", Column::Name),
        ("measured", Column::Number),
        ("mean", Column::Number),
        ("min", Column::Number),
        ("max", Column::Number),
    ];
    let chart = Curves {
        label: "density by length of the window",
        places: windows.iter().map(place).collect(),
        curves: vec![curve],
        format: share,
    };
    let table = html::table("windows", &columns, &windows.iter().map(row).collect::<Vec<_>>(), false);
    [html::curves(&chart), html::paragraph("note", note), table].into_iter().collect()
}

fn sizes(report: &Report<'_>) -> Html {
    let curve = |name: &str, colour, bytes: fn(&pulse::measure::PatchSizes) -> u64| Curve {
        name: name.into(),
        colour,
        values: report.series.pairs().iter().map(|pair| pair.sizes.as_ref().map(|sizes| bytes(sizes) as f64)).collect(),
        band: Vec::new(),
    };
    html::curves(&Curves {
        label: "bytes of the patch from each checkpoint to the next",
        places: places(report),
        curves: vec![curve("contextual", "c1", |sizes| sizes.contextual), curve("flat", "c4", |sizes| sizes.flat)],
        format: |bytes| text::bytes(bytes.round() as u64),
    })
}

fn sync(report: &Report<'_>) -> Html {
    let every = format!("every {} s", report.interval);
    let names =
        ["sync", "mean bytes", "largest", "smaller", every.as_str()].into_iter().chain(LINKS.map(|(link, _)| link));
    let columns: Vec<_> =
        names.enumerate().map(|(at, name)| (name, if at == 0 { Column::Text } else { Column::Number })).collect();
    html::table("synchronisation", &columns, &tables::sync_rows(report), false)
}

fn kinds(total: &PairStat) -> Html {
    let kinds = total.kinds();
    let ratio = |density: &Density| density.ratio().unwrap_or(0.0);
    let most = kinds.values().map(ratio).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |(kind, density): (&Kind, &Density)| Bar {
        label: kind.name().into(),
        length: ratio(density) / most,
        second: 0.0,
        values: vec![percent(density.ratio()), tables::share(density.changes, total.density.changes)],
    };
    let bars: Vec<Bar> = kinds.iter().map(bar).collect();
    let rows: Vec<Vec<String>> = total
        .modules
        .iter()
        .map(|(name, module)| {
            vec![
                name.clone(),
                module.kind.name().into(),
                percent(module.density.ratio()),
                text::count(module.density.changes),
                text::count(module.density.elements),
                tables::share(module.density.changes, total.density.changes),
                text::count(module.tensors),
            ]
        })
        .collect();
    let columns = [
        ("module", Column::Name),
        ("kind", Column::Text),
        ("density", Column::Number),
        ("changes", Column::Number),
        ("compared", Column::Number),
        ("of changes", Column::Number),
        ("tensors", Column::Number),
    ];
    let bars = html::bars(&["kind", "density", "of changes"], &bars);
    let note = "A star stands for the numbers of layers and experts. Elements count once for each pair of checkpoints.";
    [bars, html::paragraph("note", note), html::table("modules", &columns, &rows, rows.len() > 1)].into_iter().collect()
}

fn step_sizes(total: &PairStat) -> Html {
    let note = "Distance in units of the last place (ULPs) between old and new bits, in numeric order; the second \
                colour is the part that went down.";
    [steps::figure(&total.steps), html::paragraph("note", note)].into_iter().collect()
}

fn pairs(report: &Report<'_>) -> Html {
    let (head, rows) = tables::pair_rows(report);
    let column = |(at, name): (usize, &'static str)| match (at, name) {
        (0 | 1, name) | (_, name @ "not compared") => (name, Column::Text),
        (_, name) => (name, Column::Number),
    };
    let columns: Vec<_> = head.into_iter().enumerate().map(column).collect();
    let sortable = rows.len() > 1;
    html::table("from each checkpoint to the next", &columns, &rows, sortable)
}

fn tensors(report: &Report<'_>) -> Html {
    let columns = [
        ("tensor", Column::Name),
        ("dtype, shape", Column::Text),
        ("", Column::Text),
        ("changes", Column::Number),
        ("density", Column::Number),
    ];
    let rows = tables::tensor_rows(report);
    let note = "Elements count once for each pair of checkpoints. Tensors that a patch carries whole count as changed \
                throughout.";
    let table = html::table("tensors", &columns, &rows, rows.len() > 1);
    [html::paragraph("note", note), table].into_iter().collect()
}
