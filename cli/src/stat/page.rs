//! What `pulse stat --html` writes: curves of density and patch size, kinds, ULP steps, tables.

use pulse::measure::{Density, Kind, PairStat, SeriesWindow};

use super::tables::{self, percent, rate};
use super::{Report, StepsFrom, LINKS};
use crate::html::{self, Bar, Column, Curve, Curves, Html, Place};
use crate::{steps, text};

const COLOURS: [&str; 7] = ["c1", "c3", "c4", "c5", "c8", "c6", "c7"];

pub fn page(report: &Report<'_>) -> String {
    let (series, total) = (report.series, report.typical.total());
    let ends =
        [report.labels.first(), report.labels.last()].map(|label| label.map_or("", String::as_str));
    let title = format!("From {} to {}", ends[0], ends[1]);
    let several = series.adjacent().len() > 1;
    let mut parts = vec![lead(report, &total), headline(report)];
    if several {
        parts.push(html::section("Density from each checkpoint to the next", density(report)));
        parts.push(html::section("Density over longer windows", windows(report)));
    }
    if several && series.adjacent().iter().any(|pair| pair.sizes.is_some()) {
        parts.push(html::section("Patch sizes", sizes(report)));
    }
    parts.push(html::section("Cost of a synchronisation", sync(report)));
    if !total.modules.is_empty() {
        parts.push(html::section("Parts of the model", kinds(report, &total)));
        parts.push(html::section("Step sizes in ULPs", ulp_steps(report, &total)));
    }
    parts.push(html::section("Checkpoints", pairs(report)));
    parts.push(html::section("Tensors", tensors(report)));
    html::page(&title, parts)
}

fn lead(report: &Report<'_>, total: &PairStat) -> Html {
    let mut text = format!("Changed: {}.", tables::changes(report, total));
    match tables::others(report.series.adjacent()) {
        none if none.is_empty() => {}
        others => text += &format!(" Tensors not compared: {others}."),
    }
    let count = text::count(report.labels.len() as u64);
    let mut note = format!("{count} checkpoints: {}.", tables::distances(report));
    if let Some(uneven) = tables::uneven(report) {
        note += &format!(" {uneven}.");
    }
    [html::paragraph("lead", &text), html::paragraph("note", &note)].into_iter().collect()
}

fn headline(report: &Report<'_>) -> Html {
    let mut numbers = Vec::new();
    let window = &report.typical;
    let over = format!("over {}", report.typical_distance());
    let name = |what: &str| match window.pairs.as_slice() {
        [_] => format!("{what} {over}"),
        _ => format!("mean {what} {over}"),
    };
    let range = match window.pairs.as_slice() {
        [_] => "of the elements".into(),
        _ => format!("{} to {}", percent(window.min()), percent(window.max())),
    };
    numbers.push((name("density"), percent(window.mean()), range));
    if let [patch, .., full] = report.syncs.as_slice() {
        let times = format!(
            "{:.0} times smaller than a full copy",
            full.mean_bytes / patch.mean_bytes.max(1.0)
        );
        numbers.push((name("patch"), text::bytes(patch.mean_bytes.round() as u64), times));
        let every = format!("for a patch {over} every {} s", report.interval);
        let megabits = tables::significant(patch.rate(report.interval) / 1e6);
        numbers.push(("bandwidth, Mbit/s".into(), megabits, every));
    }
    if let Some(full) = report.syncs.last() {
        let bandwidth = format!("{} every {} s", rate(full.rate(report.interval)), report.interval);
        numbers.push(("full copy".into(), text::bytes(full.mean_bytes.round() as u64), bandwidth));
    }
    html::headline(&numbers)
}

/// What to write at a checkpoint on an axis: "step 40", or its label.
fn tick(report: &Report<'_>, checkpoint: usize) -> String {
    match report.series.checkpoints[checkpoint].step {
        Some(step) => format!("step {step}"),
        None => report.labels[checkpoint].clone(),
    }
}

/// A chart of values from each checkpoint to the next. Where distances differ, each value is as wide
/// as the distance that it covers; else it is a point at the later checkpoint.
fn along(
    report: &Report<'_>,
    label: &'static str,
    curves: Vec<Curve>,
    format: fn(f64) -> String,
) -> Html {
    let uneven = report.uneven().is_some();
    let at = |checkpoint: usize| {
        report.series.checkpoints[checkpoint].step.unwrap_or(checkpoint as u64) as f64
    };
    let pairs = report.series.adjacent();
    let start = pairs.first().map_or(0.0, |pair| at(if uneven { pair.base } else { pair.target }));
    let end = pairs.last().map_or(0.0, |pair| at(pair.target));
    let share = |checkpoint: usize| {
        if end > start {
            (at(checkpoint) - start) / (end - start)
        } else {
            0.0
        }
    };
    let places = pairs.iter().map(|pair| Place {
        from: share(if uneven { pair.base } else { pair.target }),
        to: share(pair.target),
        label: format!("{} to {}", tick(report, pair.base), tick(report, pair.target)),
    });
    let first = pairs.first().filter(|_| uneven).map(|pair| pair.base);
    let ticks = first.into_iter().chain(pairs.iter().map(|pair| pair.target));
    let ticks = ticks.map(|checkpoint| (share(checkpoint), tick(report, checkpoint)));
    html::curves(&Curves {
        label,
        places: places.collect(),
        ticks: ticks.collect(),
        curves,
        format,
    })
}

/// How to read a chart whose values cover different distances.
fn width_note(report: &Report<'_>) -> Html {
    match report.uneven() {
        None => Html::default(),
        Some(_) => html::paragraph(
            "note",
            "Each value is drawn as wide as the distance that it covers; over more steps more elements change.",
        ),
    }
}

fn share(value: f64) -> String {
    let text = format!("{:.3}", 100.0 * value);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn density(report: &Report<'_>) -> Html {
    let pairs = report.series.adjacent();
    let of = |density: &dyn Fn(&PairStat) -> Option<Density>| -> Vec<Option<f64>> {
        pairs.iter().map(|pair| density(&pair.stat).and_then(Density::ratio)).collect()
    };
    let all = Curve {
        name: "all".into(),
        colour: "c1",
        values: of(&|stat| Some(stat.density)),
        band: Vec::new(),
    };
    let kind = |(&kind, colour): (&Kind, &'static str)| Curve {
        name: kind.name().into(),
        colour,
        values: of(&|stat| stat.kinds().get(&kind).copied()),
        band: Vec::new(),
    };
    let present = |curve: &Curve| curve.values.iter().any(Option::is_some);
    let kinds: Vec<Curve> = Kind::ALL.iter().zip(COLOURS).map(kind).filter(present).collect();
    let mut parts = vec![
        along(report, "density from each checkpoint to the next", vec![all], share),
        width_note(report),
    ];
    if kinds.len() > 1 {
        parts.push(html::paragraph("note", "By part of the model:"));
        parts.push(along(report, "density by part of the model", kinds, share));
    }
    parts.into_iter().collect()
}

fn windows(report: &Report<'_>) -> Html {
    let windows = &report.windows;
    let ends = [windows.first(), windows.last()]
        .map(|window| window.map_or(1.0, |window| window.length as f64));
    let span = (ends[1] / ends[0]).ln();
    let share = |length: u64| if span > 0.0 { (length as f64 / ends[0]).ln() / span } else { 0.0 };
    let place = |window: &SeriesWindow<'_>| {
        let at = share(window.length);
        Place { from: at, to: at, label: report.distance(window.length) }
    };
    let curve = Curve {
        name: "mean density".into(),
        colour: "c1",
        values: windows.iter().map(SeriesWindow::mean).collect(),
        band: windows
            .iter()
            .map(|window| (window.min().unwrap_or(0.0), window.max().unwrap_or(0.0)))
            .collect(),
    };
    let unit = match report.steps_from {
        StepsFrom::Nowhere => "checkpoints; the steps between them are unknown",
        _ => "optimizer steps",
    };
    let note = format!(
        "Line: mean of all pairs of a length. Band: from the smallest to the largest. Lengths are in {unit}. The scale \
         is logarithmic."
    );
    let row = |window: &SeriesWindow<'_>| {
        let length = tables::window_name(report, window);
        let numbers = [window.mean(), window.min(), window.max()].map(percent);
        [length, text::count(window.pairs.len() as u64)].into_iter().chain(numbers).collect()
    };
    let columns = [
        ("window", Column::Name),
        ("pairs", Column::Number),
        ("mean", Column::Number),
        ("min", Column::Number),
        ("max", Column::Number),
    ];
    let chart = Curves {
        label: "density by length of the window",
        places: windows.iter().map(place).collect(),
        ticks: windows
            .iter()
            .map(|window| (share(window.length), text::count(window.length)))
            .collect(),
        curves: vec![curve],
        format: self::share,
    };
    let table =
        html::table("windows", &columns, &windows.iter().map(row).collect::<Vec<_>>(), false);
    [html::curves(&chart), html::paragraph("note", &note), table].into_iter().collect()
}

fn sizes(report: &Report<'_>) -> Html {
    let pairs = report.series.adjacent();
    let curve = |name: &str, colour, bytes: fn(&pulse::measure::PatchSizes) -> u64| Curve {
        name: name.into(),
        colour,
        values: pairs
            .iter()
            .map(|pair| pair.sizes.as_ref().map(|sizes| bytes(sizes) as f64))
            .collect(),
        band: Vec::new(),
    };
    let curves = vec![
        curve("contextual", "c1", |sizes| sizes.contextual),
        curve("flat", "c4", |sizes| sizes.flat),
    ];
    let format = |bytes: f64| text::bytes(bytes.round() as u64);
    let chart =
        along(report, "bytes of the patch from each checkpoint to the next", curves, format);
    [chart, width_note(report)].into_iter().collect()
}

fn sync(report: &Report<'_>) -> Html {
    let every = format!("every {} s", report.interval);
    let over = format!("sync over {}", report.typical_distance());
    let names = [over.as_str(), "mean bytes", "largest", "smaller", every.as_str()]
        .into_iter()
        .chain(LINKS.map(|(link, _)| link));
    let columns: Vec<_> = names
        .enumerate()
        .map(|(at, name)| (name, if at == 0 { Column::Text } else { Column::Number }))
        .collect();
    html::table("synchronisation", &columns, &tables::sync_rows(report), false)
}

fn kinds(report: &Report<'_>, total: &PairStat) -> Html {
    let kinds = total.kinds();
    let ratio = |density: &Density| density.ratio().unwrap_or(0.0);
    let most = kinds.values().map(ratio).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |(kind, density): (&Kind, &Density)| Bar {
        label: kind.name().into(),
        length: ratio(density) / most,
        second: 0.0,
        values: vec![
            percent(density.ratio()),
            tables::share(density.changes, total.density.changes),
        ],
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
                text::count(report.per_pair(module.density.changes)),
                text::count(report.per_pair(module.density.elements)),
                tables::share(module.density.changes, total.density.changes),
                text::count(module.tensors),
            ]
        })
        .collect();
    let columns = [
        ("module", Column::Name),
        ("kind", Column::Text),
        ("density", Column::Number),
        (tables::changes_name(report), Column::Number),
        ("elements", Column::Number),
        ("of changes", Column::Number),
        ("tensors", Column::Number),
    ];
    let bars = html::bars(&["kind", "density", "of changes"], &bars);
    let note = format!("{} * stands for layer and expert numbers.", totals(report));
    [bars, html::paragraph("note", &note), html::table("modules", &columns, &rows, rows.len() > 1)]
        .into_iter()
        .collect()
}

/// What totals are about.
fn totals(report: &Report<'_>) -> String {
    let over = report.typical_distance();
    match report.typical.pairs.as_slice() {
        [only] => {
            format!("Over {over}: {} to {}.", report.labels[only.base], report.labels[only.target])
        }
        pairs => format!("Over {over}: all {} pairs together.", text::count(pairs.len() as u64)),
    }
}

fn ulp_steps(report: &Report<'_>, total: &PairStat) -> Html {
    let note = format!(
        "{} Distance in units in the last place (ULPs) between old and new value, in numeric order. The second colour \
         marks decreases.",
        totals(report)
    );
    [steps::figure(&total.ulp_steps), html::paragraph("note", &note)].into_iter().collect()
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
    let kinds = [Column::Name, Column::Text, Column::Text, Column::Number, Column::Number];
    let columns: Vec<_> = tables::tensor_columns(report).into_iter().zip(kinds).collect();
    let rows = tables::tensor_rows(report);
    let note =
        format!("{} Tensors that a patch carries whole count as fully changed.", totals(report));
    let table = html::table("tensors", &columns, &rows, rows.len() > 1);
    [html::paragraph("note", &note), table].into_iter().collect()
}
