//! The page of `--html`.

use pulse::wire::Action;

use super::bytes::Use;
use super::summary::{self, LINES};
use super::tables::{file_row, tensor_columns, tensor_row, FILE_COLUMNS};
use super::Report;
use crate::html::{self, Column, Html, Part};
use crate::{layers, steps, text};

/// Colour class of a use in the chart.
fn colour(what: Use) -> &'static str {
    match what {
        Use::Positions => "c1",
        Use::Signs => "c2",
        Use::Values => "c3",
        Use::Whole => "c4",
        Use::Tables => "c5",
        Use::Digests => "c6",
        Use::Framing => "c7",
        Use::Files => "c8",
        Use::Index | Use::Header | Use::Footer | Use::Signature | Use::Skipped => "c9",
        Use::Undecoded | Use::Unread => "bad",
    }
}

pub fn page(report: &Report<'_>) -> String {
    let mut parts = vec![lead(report), verdict(report), headline(report), about(report)];
    parts.push(html::section("Where the bytes go", bytes(report)));
    if report.map.footer.is_some() {
        parts.push(html::section("Transfer time", time(report)));
    }
    if report.shown.iter().any(|tensor| tensor.action == Action::Patched) {
        parts.push(html::section("Density by layer and module", density(report)));
    }
    if !report.map.ulp_steps.is_empty() {
        parts.push(html::section("Step sizes in ULPs", moved(report)));
    }
    if !report.shown.is_empty() {
        parts.push(html::section("Tensors", tensors(report)));
    }
    if !report.map.files.is_empty() {
        let columns = [Column::Name, Column::Number, Column::Text, Column::Text];
        let columns: Vec<_> = FILE_COLUMNS.into_iter().zip(columns).collect();
        let rows: Vec<_> = report.map.files.iter().map(file_row).collect();
        parts.push(html::section("Files", html::table("files", &columns, &rows, rows.len() > 1)));
    }
    // The name of the file, without its directory.
    let name = report.path.rsplit(['/', '\\']).next().unwrap_or(&report.path);
    html::page(name, parts)
}

fn lead(report: &Report<'_>) -> Html {
    let a = if report.map.header.is_some() { "A " } else { "" };
    let size = text::number(report.map.file_bytes, "byte");
    let kind = html::paragraph("lead", &format!("{a}{}, {size}.", summary::kind(report.map)));
    let why = || html::paragraph("lead", &format!("Largest part: {}.", summary::why(report)));
    [Some(kind), (report.map.good_bytes > 0).then(why)].into_iter().flatten().collect()
}

fn verdict(report: &Report<'_>) -> Html {
    let Some(damage) = &report.damage else {
        return html::paragraph("good", &format!("Integrity: {}.", summary::integrity(report.map)));
    };
    let (offset, of) = (text::count(damage.offset), text::count(report.map.file_bytes));
    let place = damage.place();
    let place = if place.is_empty() { place } else { format!(", {place}") };
    let said = format!(
        "Broken at byte {offset} of {of}{place}: {}. What to do: {}.",
        damage.message, damage.advice
    );
    html::paragraph("bad", &said)
}

fn headline(report: &Report<'_>) -> Html {
    let map = report.map;
    let mut numbers = Vec::new();
    let mut number = |label: &str, value, remark| numbers.push((label.to_string(), value, remark));
    let Some((footer, full)) = map.footer.as_ref().zip(summary::full_copy(map)) else {
        number("size", text::bytes(map.file_bytes), text::number(map.file_bytes, "byte"));
        let good = text::number(map.good_bytes, "byte");
        number("readable", text::percent(map.good_bytes, map.file_bytes), good);
        return html::headline(&numbers);
    };
    number("size", text::bytes(map.file_bytes), format!("full copy: {}", text::bytes(full)));
    let parts = match summary::full_copy_parts(map) {
        only if only == "tensors" => "than a full copy".into(),
        parts => format!("than a full copy: {parts}"),
    };
    if full >= map.file_bytes {
        number("smaller", format!("{:.1}×", text::ratio(full, map.file_bytes)), parts);
    } else {
        let percent = 100.0 * (text::ratio(map.file_bytes, full) - 1.0);
        number("larger", format!("{percent:.1}%"), parts);
    }
    if !report.is_snapshot() {
        let density = text::percent(footer.changes, footer.target_elements);
        number("density", density, format!("{} changes", text::count(footer.changes)));
    }
    if let Some((bits, what)) = summary::bits(report) {
        let remark = match (report.is_snapshot(), summary::carried_bytes(map)) {
            (true, 0) => "snapshot: all elements",
            (true, _) => "snapshot, without other files",
            (false, 0) => "all overhead included",
            (false, _) => "without carried files",
        };
        number(&format!("per {what}"), format!("{bits:.2} bits"), remark.into());
    }
    let [patch, full] =
        [map.file_bytes, full].map(|bytes| text::seconds(text::transfer(bytes, LINES[0].0)));
    number(&format!("at {}", LINES[0].1), patch, format!("full copy: {full}"));
    html::headline(&numbers)
}

fn about(report: &Report<'_>) -> Html {
    let map = report.map;
    let mut facts: Vec<(&str, String)> = Vec::new();
    let digest = |digest: Option<pulse::hash::Digest>| digest.map(|digest| digest.to_string());
    if let Some(header) = &map.header {
        let step = |step: Option<u64>| step.map(|step| step.to_string());
        facts.extend(step(header.base_step).map(|step| ("from step", step)));
        facts.extend(step(header.target_step).map(|step| ("to step", step)));
        facts.extend(header.run.map(|run| ("run", text::hex(&run))));
        let base = map.footer.and_then(|footer| footer.base).or(header.base_digest);
        facts.extend(digest(base).map(|base| ("base", base)));
    }
    if let Some(footer) = &map.footer {
        facts.push(("target", footer.target.to_string()));
        facts.push(("file SHA-256", footer.sha256.to_string()));
    }
    if !report.all.is_empty() {
        facts.extend(summary::contents(report));
        facts.push(("coding", summary::codings(report.all)));
    }
    facts.extend(summary::files(map).map(|files| ("files", files)));
    let metadata = map.header.iter().flat_map(|header| &header.metadata);
    facts.extend(metadata.map(|(key, value)| (key.as_str(), value.clone())));
    if facts.is_empty() {
        Html::default()
    } else {
        html::section("Details", html::facts(&facts))
    }
}

fn bytes(report: &Report<'_>) -> Html {
    let part = |(what, bytes): (Use, u64)| Part {
        name: what.name(),
        colour: colour(what),
        amount: bytes,
        values: vec![text::count(bytes), text::percent(bytes, report.map.file_bytes)],
        words: what.meaning(),
    };
    let parts: Vec<_> = report.spent.used().map(part).collect();
    html::stacked("bytes by use", &["", "bytes", "share"], &parts)
}

fn time(report: &Report<'_>) -> Html {
    let columns =
        [("", Column::Text)].into_iter().chain(LINES.map(|(_, name)| (name, Column::Number)));
    html::table(
        "transfer time",
        &columns.collect::<Vec<_>>(),
        &summary::transfer(report.map),
        false,
    )
}

/// Which tensors the page shows, if not all.
fn filtered(report: &Report<'_>) -> Html {
    match &report.filter {
        Some(filter) => {
            html::paragraph("note", &format!("Only tensors matching '{}'", filter.text))
        }
        None => Html::default(),
    }
}

fn density(report: &Report<'_>) -> Html {
    let measured: Vec<_> = report.in_file_order().map(|tensor| tensor.measured()).collect();
    [filtered(report), layers::figure(&measured)].into_iter().collect()
}

fn moved(report: &Report<'_>) -> Html {
    let counted: u64 = report.map.ulp_steps.values().sum();
    let changes: u64 = report.all.iter().map(|tensor| tensor.changes).sum();
    let others = match changes.saturating_sub(counted) {
        0 => String::new(),
        others => format!(
            " {} not counted here: not stored as steps, or with signs that only the base tells.",
            text::number(others, "change")
        ),
    };
    let note = format!("Changes by step size in units in the last place (ULPs).{others}");
    [html::paragraph("note", &note), steps::figure(&report.map.ulp_steps)].into_iter().collect()
}

fn tensors(report: &Report<'_>) -> Html {
    let kind = |name: &'static str| match name {
        "tensor" => (name, Column::Name),
        "state" => (name, Column::State),
        "dtype, shape" | "blocks" => (name, Column::Text),
        _ => (name, Column::Number),
    };
    let rows: Vec<_> = report.shown.iter().map(|tensor| tensor_row(report, tensor)).collect();
    let columns: Vec<_> = tensor_columns(report).into_iter().map(kind).collect();
    let deleted =
        report.shown.iter().filter(|tensor| tensor.action == Action::Deleted).count() as u64;
    let note = format!(
        "{}{}. Click a heading to sort.",
        text::number(rows.len() as u64, "tensor"),
        match deleted {
            0 => String::new(),
            n => format!(", {n} of them deleted"),
        }
    );
    let table = html::table("tensors", &columns, &rows, true);
    [filtered(report), html::paragraph("note", &note), table].into_iter().collect()
}
