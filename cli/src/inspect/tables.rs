//! The tables of --tensors, --bytes and --files.

use std::io::{self, Write};

use pulse::patch::FileEntry;
use pulse::wire::{FileKind, FileState};

use super::bytes::Use;
use super::table::Table;
use super::tensor::Tensor;
use super::Report;
use crate::text;

/// The columns of a table of tensors, from the most important.
pub fn tensor_columns(report: &Report<'_>) -> Vec<&'static str> {
    let mut columns = vec!["tensor", "bytes"];
    if report.is_snapshot() {
        columns.extend(["elements", "bits/element"]);
    } else {
        columns.extend(["changes", "density", "bits/change"]);
    }
    columns.extend(["state", "dtype, shape", "blocks"]);
    columns
}

/// The cells of a tensor in [`tensor_columns`].
pub fn tensor_row(report: &Report<'_>, tensor: &Tensor<'_>) -> Vec<String> {
    let mut cells = vec![tensor.name.into(), text::count(tensor.bytes)];
    let bits = |number| format!("{:.2}", 8.0 * text::ratio(tensor.bytes, number));
    let state = if report.is_snapshot() {
        cells.extend([text::count(tensor.elements), bits(tensor.elements)]);
        tensor.state_in_snapshot()
    } else {
        let density = text::percent(tensor.changes, tensor.elements);
        cells.extend([text::count(tensor.changes), density, bits(tensor.changes)]);
        tensor.state()
    };
    cells.extend([state.into(), tensor.shape(), tensor.codings()]);
    cells
}

/// The full digests, then all tensors and what their bytes are for.
pub fn tensors(out: &mut dyn Write, report: &Report<'_>, width: Option<usize>) -> io::Result<()> {
    let mut digests = Vec::new();
    if let Some(footer) = &report.map.footer {
        digests.extend(footer.base.map(|base| ("base", base.to_string())));
        digests.push(("target", footer.target.to_string()));
        digests.push(("sha256", footer.sha256.to_string()));
    }
    let digests = text::facts(&digests);
    let space = if digests.is_empty() { "" } else { "\n" };
    if report.shown.is_empty() {
        let all = text::count(report.all.len() as u64);
        let none = match report.filter.map(|filter| &filter.text) {
            Some(filter) if filter.contains(['*', '?']) => {
                format!(
                    "no tensor matches '{filter}' in full ({all} checked); try '*{}*'",
                    filter.trim_matches('*')
                )
            }
            Some(filter) => format!("no tensor name contains '{filter}' ({all} checked)"),
            None => "no tensors".into(),
        };
        return writeln!(out, "{digests}{space}{}", text::clean(&none));
    }
    let mut head = tensor_columns(report);
    head.extend(Use::OF_TENSORS.iter().map(|what| what.name()));
    let row = |at: usize| {
        let tensor: &Tensor<'_> = report.shown[at];
        let uses = Use::OF_TENSORS.iter().map(|what| text::count(tensor.spent.on(*what)));
        tensor_row(report, tensor).into_iter().chain(uses).collect()
    };
    write!(out, "{digests}{space}")?;
    Table::of(&head, report.shown.len(), row).fit(width).write_with_omitted(out)
}

/// Every byte of the file: by use, and by kind of section.
pub fn bytes(report: &Report<'_>, width: Option<usize>) -> String {
    let map = report.map;
    let share = |bytes| text::percent(bytes, map.file_bytes);
    let use_row = |(what, bytes): (Use, u64)| {
        vec![what.name().into(), text::count(bytes), share(bytes), what.meaning().to_string()]
    };
    let mut rows: Vec<Vec<String>> = report.spent.used().map(use_row).collect();
    rows.push(vec![
        "file".into(),
        text::count(report.spent.sum()),
        share(report.spent.sum()),
        String::new(),
    ]);
    // Text is easier to read when aligned left.
    let widest = rows.iter().map(|row| row[3].len()).max().unwrap_or(0);
    rows.iter_mut().for_each(|row| row[3] = format!("{:<widest$}", row[3]));
    let uses = Table::new(&["bytes for", "bytes", "share", ""], rows).fit(width).text();

    let row = |name: String, count: u64, bytes| {
        let count = if count == 0 { String::new() } else { text::count(count) };
        vec![name, text::count(bytes), share(bytes), count]
    };
    let mut rows = vec![row("signature and version".into(), 0, report.spent.on(Use::Signature))];
    rows.extend(
        map.sections.iter().map(|(tag, total)| row(tag.to_string(), total.count, total.bytes)),
    );
    if report.spent.on(Use::Unread) > 0 {
        rows.push(row("unreadable".into(), 0, report.spent.on(Use::Unread)));
    }
    rows.push(row(
        "file".into(),
        map.sections.values().map(|total| total.count).sum(),
        map.file_bytes,
    ));
    let sections = Table::new(&["section", "bytes", "share", "count"], rows).fit(width).text();
    format!("{uses}\n{sections}")
}

/// The columns of a table of files.
pub const FILE_COLUMNS: [&str; 4] = ["file", "bytes", "state", "holds"];

/// The cells of a file in [`FILE_COLUMNS`].
pub fn file_row(file: &FileEntry) -> Vec<String> {
    let record = &file.record;
    let name = if record.name.is_empty() { "(single file)" } else { &record.name };
    let holds = match record.kind {
        FileKind::Tensors => "safetensors header",
        _ => "other file",
    };
    let state = match record.state {
        FileState::Kept => "from the base",
        FileState::Replaced(_) => "carried, replaced",
        FileState::Removed => "removed",
        _ => "carried",
    };
    vec![name.into(), text::count(record.bytes), state.into(), holds.into()]
}

/// The files of the target.
pub fn files(out: &mut dyn Write, report: &Report<'_>, width: Option<usize>) -> io::Result<()> {
    if report.map.files.is_empty() {
        return writeln!(out, "no files: the patch was made from tensors, not from files");
    }
    let files = &report.map.files;
    Table::of(&FILE_COLUMNS, files.len(), |at| file_row(&files[at]))
        .fit(width)
        .write_with_omitted(out)
}
