//! A table that fits a terminal: names are shortened in the middle, then columns are omitted from
//! the right.

use std::io::{self, Write};

use anstyle::Style;

use crate::text;

/// Names are not shortened below this while there are columns to omit.
const NAME_MIN: usize = 36;
/// These columns stay, however narrow the terminal.
const COLUMNS_MIN: usize = 3;
const HEAD: Style = Style::new().bold();

/// Columns from the most to the least important; the first has names. Rows are made when they are
/// printed, and once before to see how wide they are: a table of a million tensors takes no memory.
pub struct Table<'a> {
    head: Vec<String>,
    count: usize,
    row: Box<dyn Fn(usize) -> Vec<String> + 'a>,
}

/// A table as printed, and the columns that did not fit.
pub struct Fitted<'a> {
    table: Table<'a>,
    widths: Vec<usize>,
    pub omitted: Vec<String>,
}

impl<'a> Table<'a> {
    pub fn new(head: &[&str], rows: Vec<Vec<String>>) -> Table<'a> {
        let count = rows.len();
        Table::of(head, count, move |at| rows.get(at).cloned().unwrap_or_default())
    }

    /// A table of so many rows.
    pub fn of(head: &[&str], count: usize, row: impl Fn(usize) -> Vec<String> + 'a) -> Table<'a> {
        let head = head.iter().map(ToString::to_string).collect();
        Table { head, count, row: Box::new(row) }
    }

    /// Fits the table to a width in characters; `None` is no limit but that of a cell.
    pub fn fit(mut self, width: Option<usize>) -> Fitted<'a> {
        let mut widths = text::widths(&self.head, (0..self.count).map(|at| (self.row)(at)));
        let mut omitted = Vec::new();
        if let Some(width) = width {
            let name = widths.first().copied().unwrap_or(0);
            let others = |count: usize| {
                widths.iter().take(count).skip(1).map(|width| width + 2).sum::<usize>()
            };
            let fits = |count: &usize| others(*count) + name.min(NAME_MIN) <= width;
            let least = COLUMNS_MIN.min(widths.len());
            let count = (least..=widths.len()).rev().find(fits).unwrap_or(least);
            omitted = self.head.split_off(count);
            let room = width.saturating_sub(others(count)).max(1);
            widths.truncate(count);
            let head = self.head.first().map_or(0, |head| head.chars().count());
            widths.iter_mut().take(1).for_each(|name| *name = (*name).min(room).max(head));
            let row = self.row;
            self.row = Box::new(move |at| {
                let mut row = row(at);
                row.iter_mut().take(1).for_each(|name| *name = text::cell(name, room));
                row
            });
        }
        Fitted { table: self, widths, omitted }
    }
}

impl Fitted<'_> {
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let head = text::line(&self.table.head, &self.widths);
        writeln!(out, "{HEAD}{head}{HEAD:#}")?;
        for at in 0..self.table.count {
            writeln!(out, "{}", text::line(&(self.table.row)(at), &self.widths))?;
        }
        Ok(())
    }

    /// The table, followed by the names of the omitted columns.
    pub fn write_with_omitted(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write(out)?;
        if self.omitted.is_empty() {
            return Ok(());
        }
        writeln!(out, "columns omitted: {}; see --width", self.omitted.join(", "))
    }

    /// All of it, where it is known to be small.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Memory takes all that is written to it.
        let _ = self.write(&mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<'static> {
        let rows = vec![vec![
            "model.layers.12.self_attn.q_proj.weight".into(),
            "1,000".into(),
            "2%".into(),
            "xyz".into(),
        ]];
        Table::new(&["tensor", "bytes", "share", "more"], rows)
    }

    #[test]
    fn without_a_limit_nothing_is_lost() {
        let fitted = table().fit(None);
        assert!(
            fitted.text().contains("model.layers.12.self_attn.q_proj.weight")
                && fitted.omitted.is_empty()
        );
    }

    #[test]
    fn a_table_fits_its_width() {
        // A terminal may say anything.
        for width in [0, 1, 2, 3, usize::MAX] {
            let text = table().fit(Some(width)).text();
            assert_eq!(text.lines().count(), 2, "{text}");
        }
        for width in 20..80 {
            let fitted = table().fit(Some(width));
            let text = anstream::adapter::strip_str(&fitted.text()).to_string();
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert_eq!(
                fitted.omitted.is_empty(),
                width >= NAME_MIN + 2 + 5 + 2 + 5 + 2 + 4,
                "{width}"
            );
        }
        let mut text = Vec::new();
        table().fit(Some(50)).write_with_omitted(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("model.layers.12.se…ttn.q_proj.weight  1,000     2%"), "{text}");
        assert!(text.ends_with("columns omitted: more; see --width\n"), "{text}");
    }

    /// However long a name is, and whatever it is made of, its row is short; and so are all others,
    /// which are padded to the longest.
    #[test]
    fn no_cell_is_wider_than_a_screen_of_them() {
        for name in ["\u{1}".repeat(33_000), "é".repeat(4096), "n".repeat(4096)] {
            for width in [None, Some(80)] {
                let rows = vec![
                    vec![name.clone(), "1".into(), "2".into(), name.clone()],
                    vec!["short".into(), "1".into(), "2".into(), "x".into()],
                ];
                let table = Table::new(&["tensor", "a", "b", "dtype, shape"], rows);
                let text = table.fit(width).text();
                let most = text.lines().map(|line| line.chars().count()).max();
                assert!(most <= Some(text::NAME_CHARS + text::CELL_CHARS + 40), "{most:?}");
            }
        }
    }

    #[test]
    fn rows_are_made_one_at_a_time() {
        use std::cell::Cell;
        let made = Cell::new(0);
        let row = |at: usize| {
            made.set(made.get() + 1);
            vec![at.to_string()]
        };
        let fitted = Table::of(&["tensor"], 1000, row).fit(None);
        assert_eq!(made.get(), 1000, "to see how wide they are");
        // A reader that goes away after ten lines costs no more than ten rows.
        struct Ten(usize);
        impl Write for Ten {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.iter().filter(|byte| **byte == b'\n').count();
                if self.0 > 10 {
                    Err(io::ErrorKind::BrokenPipe.into())
                } else {
                    Ok(bytes.len())
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(fitted.write(&mut Ten(0)).is_err());
        assert!(made.get() <= 1011, "{}", made.get());
    }
}
