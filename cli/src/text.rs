//! Numbers and tables for output.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use anstyle::AnsiColor;
use pulse::error::{is_visible, Visible};

/// Prints to standard output, in colour if it is a terminal that supports it and `NO_COLOR` or
/// `CLICOLOR` do not forbid it. A reader that closes the pipe early is not an error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints what is too much for a string, as it is made; otherwise as [`print()`].
pub fn print_with(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 16, anstream::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints to standard error what is no error.
pub fn print_aside(text: &str) -> io::Result<()> {
    anstream::stderr().lock().write_all(text.as_bytes())
}

/// Prints an error message.
pub fn complain(message: &str) {
    let style = AnsiColor::Red.on_default().bold();
    // If this fails there is nowhere left to report it.
    let _ = writeln!(anstream::stderr(), "{style}error{style:#}: {}", clean(message));
}

/// Prints an error as one JSON object.
pub fn complain_json(error: &serde_json::Value) {
    let _ = writeln!(io::stderr(), "{}", visible_json(&error.to_string()));
}

/// JSON whose characters are all visible, or the line feeds between its fields. JSON itself escapes
/// some only; the others are in strings, where an escape means the same.
pub fn visible_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || is_visible(c) {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Makes all characters visible of JSON that is written through it, string by string.
pub(crate) struct VisibleJson<'a>(pub &'a mut dyn Write);

impl Write for VisibleJson<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.0.write_all(visible_json(text).as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A note that is not the result of the command.
pub fn note(message: &str) {
    let _ = writeln!(io::stderr(), "note: {}", clean(message));
}

/// 1234567 → "1,234,567".
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in decimal units: "21.3 MB".
pub fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["bytes", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return match unit {
                "bytes" => self::number(number, "byte"),
                _ if value < 9.995 => format!("{value:.2} {unit}"),
                _ if value < 99.95 => format!("{value:.1} {unit}"),
                _ => format!("{value:.0} {unit}"),
            };
        }
        value /= 1000.0;
    }
    String::new()
}

/// A share as a percentage.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{:.3}%", 100.0 * ratio(part, whole))
}

/// A quotient; 0 if the divisor is 0.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Seconds with a sensible number of digits.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.000_95 => format!("{:.0} µs", s * 1e6),
        s if s < 0.0995 => format!("{:.1} ms", s * 1000.0),
        s if s < 9.95 => format!("{s:.2} s"),
        s => format!("{s:.0} s"),
    }
}

/// Seconds that a transfer takes on a link of this many megabits per second.
pub fn transfer(bytes: u64, megabits: f64) -> f64 {
    bytes as f64 * 8.0 / (megabits * 1e6)
}

/// Transfer times of a full copy and of a patch, as JSON.
pub fn transfers(full: u64, patch: u64, megabits: f64) -> serde_json::Value {
    serde_json::json!({ "full": transfer(full, megabits), "patch": transfer(patch, megabits) })
}

/// A path quoted for a shell.
pub fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | '=' | '@' | ':')
    };
    match text.starts_with('-') {
        _ if text.is_empty() || !text.chars().all(plain) => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        true => format!("./{text}"),
        false => text,
    }
}

/// Text from a file, made safe for a terminal.
pub fn clean(text: &str) -> String {
    Visible(text).to_string()
}

/// Lines that repeat arguments, made safe for a terminal; `None` if they are so already.
pub fn visible_in(lines: &str, args: &[OsString]) -> Option<String> {
    let args = args.iter().map(|arg| arg.to_string_lossy());
    let mut odd = args.filter(|arg| !arg.chars().all(is_visible)).peekable();
    odd.peek()?;
    // An argument may have line feeds of its own, or be repeated in part.
    let lines = odd.fold(lines.to_string(), |lines, arg| lines.replace(&*arg, &clean(&arg)));
    Some(
        lines
            .split_inclusive('\n')
            .map(|line| match line.strip_suffix('\n') {
                Some(line) => clean(line) + "\n",
                None => clean(line),
            })
            .collect(),
    )
}

/// A path, made safe for a terminal.
pub fn path(path: &Path) -> String {
    Visible(path.display()).to_string()
}

/// "1 file", "2 files".
pub fn number(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", self::count(count), if count == 1 { "" } else { "s" })
}

/// How a patch compares with a full copy.
pub fn times_smaller(full: u64, patch: u64) -> String {
    match ratio(full, patch) {
        times if times >= 1.0 => format!("{times:.1} times smaller"),
        _ => "not smaller".into(),
    }
}

/// A size, and how it compares with another one.
pub fn size(bytes: u64, other: u64, described: &str) -> String {
    format!("{}, {} than the {described}", number(bytes, "byte"), times_smaller(other, bytes))
}

/// Characters of the value of a fact, at most: metadata and lists of names are as long as a file likes.
pub const FACT_CHARS: usize = 1000;

/// "label     value" lines.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(label, value)| format!("{label:width$}  {}\n", cell(value, FACT_CHARS)))
        .collect()
}

/// "a, b, c and 12 more": names for a line of text.
pub fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| cell(name, NAME_CHARS)).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Characters of a name in a table, at most: more than those of any model. Names are as long as a file
/// likes, and all rows are padded to the longest.
pub const NAME_CHARS: usize = 240;
/// Characters of any other cell.
pub const CELL_CHARS: usize = 80;

/// Text of at most `chars` characters, made safe for a terminal. Both ends stay: of a name, they say
/// layer and module.
pub fn cell(text: &str, chars: usize) -> String {
    // Before as well: escapes are longer than what they stand for, and all would be cut again.
    shorten(&clean(&shorten(text, chars)), chars)
}

fn shorten(text: &str, chars: usize) -> String {
    // No character has less than a byte.
    let count = if text.len() <= chars { text.len() } else { text.chars().count() };
    if count <= chars {
        return text.into();
    }
    let start = chars / 2;
    let end = chars.saturating_sub(1 + start);
    text.chars().take(start).chain(['…']).chain(text.chars().skip(count - end)).collect()
}

fn cells(row: &[String]) -> impl Iterator<Item = String> + '_ {
    let most = |column| if column == 0 { NAME_CHARS } else { CELL_CHARS };
    row.iter().enumerate().map(move |(column, text)| cell(text, most(column)))
}

/// How wide the columns of a table are, in characters.
pub fn widths(head: &[String], rows: impl Iterator<Item = Vec<String>>) -> Vec<usize> {
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(&row)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// A row of a table, without its end of line; cells beyond the widths are left out.
pub fn line(row: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (column, (cell, &width)) in cells(row).zip(widths).enumerate() {
        if column == 0 {
            out.push_str(&format!("{cell:<width$}"));
        } else {
            out.push_str(&format!("  {cell:>width$}"));
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// A table with aligned columns; the first is aligned left, the others right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let widths = widths(&head, rows.iter().cloned());
    let lines = std::iter::once(&head).chain(rows).map(|row| line(row, &widths) + "\n");
    lines.collect()
}

/// A run id as 32 hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_has_an_end() {
        let names = |count| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(list(&names(2)), "0, 1");
        assert_eq!(list(&names(8)), "0, 1, 2, 3, 4, 5, 6, 7");
        assert_eq!(list(&names(10)), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
