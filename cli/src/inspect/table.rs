//! A table that fits a terminal: names are shortened in the middle, then columns are omitted from
//! the right.

use anstyle::Style;

use crate::text;

/// Names are not shortened below this while there are columns to omit.
const NAME_MIN: usize = 36;
/// These columns stay, however narrow the terminal.
const COLUMNS_MIN: usize = 3;
const HEAD: Style = Style::new().bold();

/// Columns from the most to the least important; the first has names.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A table as printed, and the columns that did not fit.
pub struct Fitted {
    pub text: String,
    pub omitted: Vec<String>,
}

impl Table {
    pub fn new(head: &[&str], rows: Vec<Vec<String>>) -> Table {
        let clean = |row: Vec<String>| row.iter().map(|cell| text::clean(cell)).collect();
        Table {
            head: head.iter().map(ToString::to_string).collect(),
            rows: rows.into_iter().map(clean).collect(),
        }
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(self.head.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    /// Fits the table to a width in characters; `None` is no limit.
    pub fn fit(mut self, width: Option<usize>) -> Fitted {
        let mut omitted = Vec::new();
        if let Some(width) = width {
            let widths: Vec<usize> =
                (0..self.head.len()).map(|column| self.width(column)).collect();
            let name = widths.first().copied().unwrap_or(0);
            let others = |count: usize| {
                widths.iter().take(count).skip(1).map(|width| width + 2).sum::<usize>()
            };
            let fits = |count: &usize| others(*count) + name.min(NAME_MIN) <= width;
            let least = COLUMNS_MIN.min(widths.len());
            let count = (least..=widths.len()).rev().find(fits).unwrap_or(least);
            omitted = self.head.split_off(count);
            let room = width.saturating_sub(others(count)).max(1);
            for row in &mut self.rows {
                row.truncate(count);
                row.iter_mut().take(1).for_each(|name| *name = shorten(name, room));
            }
        }
        let head: Vec<&str> = self.head.iter().map(String::as_str).collect();
        let text = text::table(&head, &self.rows);
        let (head, rows) = text.split_once('\n').unwrap_or((&text, ""));
        Fitted { text: format!("{HEAD}{head}{HEAD:#}\n{rows}"), omitted }
    }
}

impl Fitted {
    /// The table, followed by the names of the omitted columns.
    pub fn with_omitted(self) -> String {
        if self.omitted.is_empty() {
            self.text
        } else {
            format!("{}columns omitted: {}; see --width\n", self.text, self.omitted.join(", "))
        }
    }
}

/// A name of at most `width` characters. Both ends stay: they say layer and module.
fn shorten(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        return name.into();
    }
    let start = width / 2;
    let end = width - 1 - start;
    name.chars().take(start).chain(['…']).chain(name.chars().skip(count - end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
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
            fitted.text.contains("model.layers.12.self_attn.q_proj.weight")
                && fitted.omitted.is_empty()
        );
    }

    #[test]
    fn a_table_fits_its_width() {
        // A terminal may say anything.
        for width in [0, 1, 2, 3, usize::MAX] {
            let text = table().fit(Some(width)).text;
            assert_eq!(text.lines().count(), 2, "{text}");
        }
        for width in 20..80 {
            let fitted = table().fit(Some(width));
            let text = anstream::adapter::strip_str(&fitted.text).to_string();
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert_eq!(
                fitted.omitted.is_empty(),
                width >= NAME_MIN + 2 + 5 + 2 + 5 + 2 + 4,
                "{width}"
            );
        }
        let text = table().fit(Some(50)).with_omitted();
        assert!(text.contains("model.layers.12.se…ttn.q_proj.weight  1,000     2%"), "{text}");
        assert!(text.ends_with("columns omitted: more; see --width\n"), "{text}");
    }
}
