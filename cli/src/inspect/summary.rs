//! The one-screen summary: what a patch is, how large, and why.

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};
use pulse::hash::Digest;
use pulse::patch::Inventory;
use pulse::wire::{FileKind, FileState};

use super::bytes::Use;
use super::table::Table;
use super::tables::{tensor_columns, tensor_row};
use super::tensor::Tensor;
use super::Report;
use crate::text;

/// Lines of a screen, less one for the prompt.
const SCREEN: usize = 23;
/// Tensors listed if there is room.
const TENSORS: usize = 5;
/// Links for transfer times: megabits per second and name.
pub const LINES: [(f64, &str); 3] =
    [(100.0, "100 Mbit/s"), (1_000.0, "1 Gbit/s"), (10_000.0, "10 Gbit/s")];

const LABEL: Style = Style::new().dimmed();

/// The first digits of a digest: enough to tell checkpoints apart.
pub fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(16).collect::<String>() + "…"
}

/// "step 40, digest 0123…"
pub fn checkpoint(step: Option<u64>, digest: Option<&Digest>) -> String {
    let step = step.map(|step| format!("step {step}"));
    let digest = digest.map(|digest| format!("digest {}", short(digest)));
    let known: Vec<_> = [step, digest].into_iter().flatten().collect();
    if known.is_empty() {
        "unknown".into()
    } else {
        known.join(", ")
    }
}

/// "patch, format 1.0", as far as it is known.
pub fn kind(map: &Inventory) -> String {
    let kind = match &map.header {
        Some(header) if header.snapshot => "snapshot",
        Some(_) => "patch",
        None => "no readable header",
    };
    let version = map.version.map(|(major, minor)| format!(", format {major}.{minor}"));
    format!("{kind}{}", version.unwrap_or_default())
}

/// "4 patched, 1 added"
pub fn actions(tensors: &[Tensor<'_>]) -> String {
    let mut counts = BTreeMap::new();
    for tensor in tensors {
        // At most one is broken, and it comes last.
        *counts.entry((!tensor.complete, tensor.action, tensor.state())).or_insert(0) += 1;
    }
    let counts =
        counts.iter().map(|((.., state), count)| format!("{} {state}", text::count(*count)));
    counts.collect::<Vec<_>>().join(", ")
}

/// "101 contextual blocks, 3 flat blocks"
pub fn codings(tensors: &[Tensor<'_>]) -> String {
    let mut counts = BTreeMap::new();
    for (name, number) in tensors.iter().flat_map(|tensor| &tensor.blocks) {
        *counts.entry(*name).or_insert(0) += number;
    }
    let all: Vec<_> = counts
        .iter()
        .map(|(name, number)| text::number(*number, &format!("{name} block")))
        .collect();
    if all.is_empty() {
        "no blocks".into()
    } else {
        all.join(", ")
    }
}

/// Blocks that were not looked into, if there are any.
pub fn left_packed(map: &Inventory) -> Option<String> {
    let blocks = text::number(map.left_packed, "block");
    (map.left_packed > 0).then(|| {
        format!("{blocks}, more changes than a file of this size holds; see --limit expansion=N")
    })
}

/// The files of the target, if there are any.
pub fn files(map: &Inventory) -> Option<String> {
    let in_state = |is: fn(FileState) -> bool| {
        map.files.iter().map(|file| &file.record).filter(move |record| is(record.state))
    };
    let number = |is: fn(FileState) -> bool, what: &str| {
        let files = in_state(is).count() as u64;
        (files > 0).then(|| format!("{} {what}", text::number(files, "file")))
    };
    let bytes = in_state(FileState::is_carried).map(|record| record.bytes);
    let bytes = bytes.fold(0, u64::saturating_add);
    let kept = number(|state| state == FileState::Kept, "from the base");
    let sent = number(FileState::is_carried, "carried")
        .map(|sent| format!("{sent}, {}", text::bytes(bytes)));
    let gone = number(|state| state == FileState::Removed, "removed");
    let known: Vec<_> = [kept, sent, gone].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join("; "))
}

/// The largest part of the file, and why: the answer to "why is this so large".
pub fn why(report: &Report<'_>) -> String {
    let (map, spent) = (report.map, &report.spent);
    let sum = |uses: &[Use]| uses.iter().map(|&what| spent.on(what)).sum::<u64>();
    let changes = sum(&[Use::Positions, Use::Signs, Use::Values, Use::Tables]);
    let fixed = [Use::Digests, Use::Framing, Use::Index, Use::Header, Use::Footer, Use::Signature];
    let candidates = [
        ("changes", changes),
        ("whole tensors", spent.on(Use::Whole)),
        ("files", spent.on(Use::Files)),
        ("digests, names and framing", sum(&fixed)),
        ("unreadable bytes", sum(&[Use::Unread, Use::Undecoded, Use::Skipped])),
    ];
    // The first of equal ones.
    let (what, bytes) =
        candidates.into_iter().rev().max_by_key(|(_, bytes)| *bytes).unwrap_or(("nothing", 0));
    let reason = match what {
        "changes" => because_of_changes(report, changes),
        "whole tensors" if report.is_snapshot() => ": a snapshot contains all of its target".into(),
        "whole tensors" => {
            let whole: Vec<_> =
                report.all.iter().filter(|tensor| tensor.spent.on(Use::Whole) > 0).collect();
            let most = whole
                .iter()
                .max_by_key(|tensor| tensor.spent.on(Use::Whole))
                .map_or("", |tensor| tensor.name);
            let most = text::cell(most, text::NAME_CHARS);
            match whole.len() {
                0 | 1 => format!(": {most}"),
                n => format!(": {n}, the largest is {most}"),
            }
        }
        "files" => {
            let carried = map.files.iter().filter(|file| file.record.state.is_carried());
            let most =
                carried.max_by_key(|file| file.record.bytes).map_or("", |file| &file.record.name);
            format!(", the largest is {most}")
        }
        "digests, names and framing" => ": there are few changes".into(),
        _ => String::new(),
    };
    format!("{what} ({:.0}%){reason}", 100.0 * text::ratio(bytes, map.file_bytes))
}

fn because_of_changes(report: &Report<'_>, bytes: u64) -> String {
    let patched = report.all.iter().filter(|tensor| tensor.spent.on(Use::Whole) == 0);
    let changes = patched.map(|tensor| tensor.changes).sum();
    let header = report.map.header.as_ref();
    let steps = header
        .and_then(|header| header.target_step?.checked_sub(header.base_step?))
        .filter(|&steps| steps > 1);
    let over = steps.map(|steps| format!(" over {} steps", text::count(steps))).unwrap_or_default();
    let density = match &report.map.footer {
        Some(footer) => {
            format!("{} of the elements", text::percent(changes, footer.target_elements))
        }
        None => text::number(changes, "element"),
    };
    format!(": {density}{over}, {:.2} bits each", 8.0 * text::ratio(bytes, changes))
}

/// Bytes of a full copy of the target: its tensors and all of its files. Known once the footer is.
pub fn full_copy(map: &Inventory) -> Option<u64> {
    let files = map.files.iter().map(|file| &file.record);
    let files = files.filter(|record| record.state.is_in_target()).map(|record| record.bytes);
    Some(files.fold(map.footer?.target_bytes, u64::saturating_add))
}

/// What a full copy consists of: "tensor files and 2 other files".
pub fn full_copy_parts(map: &Inventory) -> String {
    let companions = map
        .files
        .iter()
        .map(|file| &file.record)
        .filter(|record| record.kind == FileKind::Companion && record.state.is_in_target());
    let companions = companions.count() as u64;
    if map.files.is_empty() {
        return "tensors".into();
    }
    if companions == 0 {
        return "tensor files".into();
    }
    format!("tensor files and {}", text::number(companions, "other file"))
}

/// Contents of carried companions. They say nothing about the cost of a change.
pub fn carried_bytes(map: &Inventory) -> u64 {
    let carried = map.files.iter().filter(|file| file.record.state.is_carried());
    let companions = carried.filter(|file| file.record.kind == FileKind::Companion);
    companions.map(|file| file.record.bytes).fold(0, u64::saturating_add)
}

/// Bits for each change, or for each element of a snapshot, without carried companions.
pub fn bits(report: &Report<'_>) -> Option<(f64, &'static str)> {
    let (map, footer) = (report.map, report.map.footer?);
    let (number, what) = if report.is_snapshot() {
        (footer.target_elements, "element")
    } else {
        (footer.changes, "change")
    };
    let bytes = map.file_bytes.saturating_sub(carried_bytes(map));
    (number > 0).then(|| (8.0 * text::ratio(bytes, number), what))
}

/// How a patch compares with a full copy, once its footer says how large that is.
fn size(report: &Report<'_>) -> Option<String> {
    let map = report.map;
    let full = full_copy(map)?;
    let times = text::times_smaller(full, map.file_bytes);
    let carried = if carried_bytes(map) > 0 { " without carried files" } else { "" };
    let bits = bits(report)
        .map(|(bits, what)| format!(", {bits:.2} bits per {what}{carried}"))
        .unwrap_or_default();
    Some(format!("{times} than {} of {}{bits}", text::bytes(full), full_copy_parts(map)))
}

/// Tensors and elements, and in a patch how many change.
pub fn contents(report: &Report<'_>) -> Vec<(&'static str, String)> {
    let footer = report.map.footer.as_ref();
    if report.is_snapshot() {
        let elements = report.all.iter().map(|tensor| tensor.elements).fold(0, u64::saturating_add);
        let broken = report.all.iter().filter(|tensor| !tensor.complete).count();
        let broken = if broken > 0 { format!(", {broken} broken") } else { String::new() };
        return vec![
            ("tensors", text::count(report.all.len() as u64) + &broken),
            ("elements", text::count(footer.map_or(elements, |footer| footer.target_elements))),
        ];
    }
    let of =
        footer.map(|footer| format!(" ({} in the target)", text::count(footer.target_tensors)));
    vec![("tensors", actions(report.all) + &of.unwrap_or_default()), ("changes", changes(report))]
}

/// "26 of 2,500 elements (1.040%)"
pub fn changes(report: &Report<'_>) -> String {
    let changes = report.all.iter().map(|tensor| tensor.changes).sum();
    match &report.map.footer {
        Some(footer) => {
            let elements = footer.target_elements;
            format!(
                "{} of {} elements ({})",
                text::count(changes),
                text::count(elements),
                text::percent(changes, elements)
            )
        }
        None => format!("{} in the readable part", text::count(changes)),
    }
}

/// What was checked.
pub fn integrity(map: &Inventory) -> String {
    let sections = map.sections.values().map(|total| total.count).sum();
    format!("OK: CRC-32 of {}, SHA-256 of the file", text::number(sections, "section"))
}

/// Transfer times of patch and full copy on each of [`LINES`].
pub fn transfer(map: &Inventory) -> Vec<Vec<String>> {
    let row = |name: &str, bytes| {
        let times =
            LINES.iter().map(|(megabits, _)| text::seconds(text::transfer(bytes, *megabits)));
        [name.to_string()].into_iter().chain(times).collect()
    };
    let full = full_copy(map).map(|bytes| row("full copy", bytes));
    let is_snapshot = map.header.as_ref().is_some_and(|header| header.snapshot);
    let name = if is_snapshot { "snapshot" } else { "patch" };
    [Some(row(name, map.file_bytes)), full].into_iter().flatten().collect()
}

/// The screen.
pub fn screen(report: &Report<'_>, width: Option<usize>) -> String {
    let Report { map, spent, .. } = report;
    let mut facts: Vec<(&str, String)> = Vec::new();
    if let Some(header) = &map.header {
        let base = map.footer.and_then(|footer| footer.base).or(header.base_digest);
        if !header.snapshot {
            facts.push(("from", checkpoint(header.base_step, base.as_ref())));
        }
        facts.push((
            "to",
            checkpoint(header.target_step, map.footer.map(|footer| footer.target).as_ref()),
        ));
        if let Some(run) = header.run {
            facts.push(("run", text::hex(&run)));
        }
        if !header.metadata.is_empty() {
            let pairs: Vec<_> =
                header.metadata.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            facts.push(("metadata", pairs.join(", ")));
        }
    }
    if !report.all.is_empty() {
        facts.extend(contents(report));
    }
    facts.extend(size(report).map(|size| ("size", size)));
    if map.good_bytes > 0 {
        facts.push(("largest part", why(report)));
        facts.push(("bytes", spent.largest(5)));
        facts.push(("coding", codings(report.all)));
        facts.extend(left_packed(map).map(|said| ("not unpacked", said)));
    }
    facts.extend(files(map).map(|files| ("files", files)));
    let mut lines =
        vec![format!("{}: {}, {}", report.path, kind(map), text::number(map.file_bytes, "byte"))];
    lines[0] = clip(&lines[0], width);
    let label_width =
        facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0).max("what to do".len());
    let mut fact = |label: &str, style: Style, value: &str| {
        let value = clip(value, width.map(|width| width.saturating_sub(label_width + 2)));
        lines.push(format!("{LABEL}{label:label_width$}{LABEL:#}  {style}{value}{style:#}"));
    };
    for (label, value) in &facts {
        fact(label, Style::new(), value);
    }
    let good = AnsiColor::Green.on_default();
    let bad = AnsiColor::Red.on_default().bold();
    match &report.damage {
        None => fact("integrity", good, &integrity(map)),
        Some(damage) => {
            let place = damage.place();
            let place = if place.is_empty() { place } else { format!(", {place}") };
            let of = format!("{} of {}", text::count(damage.offset), text::count(map.file_bytes));
            let room = width.map(|width| width.saturating_sub(label_width + 2));
            let said = [
                ("BROKEN", bad, format!("at byte {of}{place}")),
                ("", Style::new(), damage.message.clone()),
                ("what to do", Style::new(), damage.advice.clone()),
            ];
            for (label, style, what) in said {
                for (number, line) in wrap(&what, room).iter().enumerate() {
                    fact(if number == 0 { label } else { "" }, style, line);
                }
            }
        }
    }
    let mut head = vec!["transfer time"];
    head.extend(LINES.iter().map(|(_, name)| *name));
    let time = Table::new(&head, transfer(map)).fit(width).text();
    let mut out = lines.join("\n") + "\n\n" + &time;
    let used = out.lines().count();
    out.push_str(&largest(report, width, SCREEN.saturating_sub(used + 3)));
    out
}

/// The largest tensors, as many as fit the given lines, and how to see more.
fn largest(report: &Report<'_>, width: Option<usize>, room: usize) -> String {
    let mut tensors: Vec<&Tensor<'_>> = report.all.iter().collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes));
    let shown = room.min(TENSORS).min(tensors.len());
    let row = |tensor: &&Tensor<'_>| {
        let share = text::percent(tensor.bytes, report.map.file_bytes);
        [tensor.name.into(), text::count(tensor.bytes), share]
            .into_iter()
            .chain(tensor_row(report, tensor).into_iter().skip(2).take(2))
            .collect()
    };
    let columns = tensor_columns(report);
    let head = ["largest tensors", "bytes", "share", columns[2], columns[3]];
    let rows = tensors.iter().take(shown).map(row).collect();
    let table = match shown {
        0 => String::new(),
        _ => "\n".to_string() + &Table::new(&head, rows).fit(width).text(),
    };
    let more = match tensors.len() - shown {
        0 => String::new(),
        more => format!("--tensors ({} more), ", text::count(more as u64)),
    };
    format!("{table}{LABEL}see also {more}--bytes and --html FILE{LABEL:#}\n")
}

/// One line, cut with an ellipsis if it does not fit.
fn clip(value: &str, width: Option<usize>) -> String {
    let width = width.or(Some(text::FACT_CHARS));
    let value: String = value.chars().take(text::FACT_CHARS + 1).collect();
    let value = &value;
    let value = text::clean(value);
    match width {
        Some(width) if value.chars().count() > width => {
            value.chars().take(width.saturating_sub(1)).collect::<String>() + "…"
        }
        _ => value,
    }
}

/// Wraps text at spaces.
fn wrap(value: &str, width: Option<usize>) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in value.split(' ') {
        let line = lines.last_mut().filter(|line| {
            line.is_empty()
                || width
                    .is_none_or(|width| line.chars().count() + 1 + word.chars().count() <= width)
        });
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.into()),
        }
    }
    lines
}
