//! One HTML page in one file: no network, no framework, light and dark, readable on a phone.
//!
//! Builders take text and return [`Html`]. Only [`Html::text`] turns text into markup, and it
//! escapes: nothing in a file can become a tag.

mod chart;
mod curves;

pub use chart::{bars, colours, heat_map, stacked, Bar, Cell, HeatMap, Part};
pub use curves::{curves, Curve, Curves, Place};

use super::text;

/// Well-formed markup: tags are closed, text is escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// Escaped text. Control characters are made visible.
    pub fn text(plain: &str) -> Html {
        Html(escape(plain))
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(parts: I) -> Html {
        let mut all = String::new();
        parts.into_iter().for_each(|part| all.push_str(&part.0));
        Html(all)
    }
}

/// Text between tags or within the quotes of an attribute.
fn escape(plain: &str) -> String {
    let mut out = String::with_capacity(plain.len());
    for c in text::clean(plain).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// As [`escape`], for text that there can be much of: no more of it than any name of a model has.
fn escape_short(plain: &str) -> String {
    escape(&text::cell(plain, text::NAME_CHARS))
}

/// An element with its attributes.
pub fn element(tag: &'static str, attributes: &[(&'static str, &str)], content: Html) -> Html {
    let mut out = format!("<{tag}");
    for (name, value) in attributes {
        out.push_str(&format!(" {name}=\"{}\"", escape(value)));
    }
    out.push_str(&format!(">{}</{tag}>", content.0));
    Html(out)
}

/// The whole page.
pub fn page(title: &str, parts: impl IntoIterator<Item = Html>) -> String {
    let Html(body) = parts.into_iter().collect();
    let title = escape(title);
    // The policy makes the browser enforce what the page promises: nothing is fetched.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n\
         <script>\n{}</script>\n</body>\n</html>\n",
        include_str!("page.css"),
        include_str!("sort.js"),
    )
}

/// A paragraph of this class: "lead", "note", "good" or "bad".
pub fn paragraph(class: &str, plain: &str) -> Html {
    line(element("p", &[("class", class)], Html(escape(&text::cell(plain, text::FACT_CHARS)))))
}

/// A part of the page under a heading.
pub fn section(heading: &str, content: Html) -> Html {
    let heading = line(element("h2", &[], Html::text(heading)));
    line(element("section", &[], [heading, content].into_iter().collect()))
}

/// Headline numbers: label, value, remark.
pub fn headline<L: AsRef<str>>(numbers: &[(L, String, String)]) -> Html {
    let number = |(label, value, remark): &(L, String, String)| {
        let parts = [("dt", label.as_ref()), ("dd", value.as_str()), ("dd", remark)]
            .map(|(tag, text)| element(tag, &[], Html::text(text)));
        line(element("div", &[], parts.into_iter().collect()))
    };
    line(element("dl", &[("class", "headline")], numbers.iter().map(number).collect()))
}

/// Labels and values.
pub fn facts(facts: &[(&str, String)]) -> Html {
    let fact = |(label, value): &(&str, String)| {
        let parts = [("dt", *label), ("dd", value.as_str())].map(|(tag, text)| {
            element(tag, &[], Html(escape(&text::cell(text, text::FACT_CHARS))))
        });
        line(parts.into_iter().collect())
    };
    line(element("dl", &[("class", "facts")], facts.iter().map(fact).collect()))
}

/// What a column holds. Numbers are aligned right and sort by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Name,
    Text,
    /// One word, which is also the class of its cell: "broken" stands out.
    State,
    Number,
}

impl Column {
    fn class(self) -> &'static str {
        match self {
            Column::Name => "name",
            Column::Text | Column::State => "text",
            Column::Number => "number",
        }
    }
}

/// A table that scrolls within its box if it is wider than the page. If `sortable`, a click on a
/// heading sorts it.
pub fn table(
    label: &str,
    columns: &[(&str, Column)],
    rows: &[Vec<String>],
    sortable: bool,
) -> Html {
    let head = |(name, column): &(&str, Column)| {
        element("th", &[("scope", "col"), ("class", column.class())], Html::text(name))
    };
    let cell = |(text, (_, column)): (&String, &(&str, Column))| {
        let class = if *column == Column::State { text } else { column.class() };
        element("td", &[("class", class)], Html(escape_short(text)))
    };
    let row =
        |row: &Vec<String>| line(element("tr", &[], row.iter().zip(columns).map(cell).collect()));
    let head = element("thead", &[], element("tr", &[], columns.iter().map(head).collect()));
    let body = element("tbody", &[], rows.iter().map(row).collect());
    let class = if sortable { "sortable" } else { "plain" };
    scroll(label, element("table", &[("class", class)], [head, body].into_iter().collect()))
}

/// A box that scrolls sideways, so that the page does not.
fn scroll(label: &str, content: Html) -> Html {
    let attributes =
        [("class", "scroll"), ("role", "region"), ("aria-label", label), ("tabindex", "0")];
    line(element("div", &attributes, content))
}

/// Ends a line of the file, to keep the source readable.
fn line(html: Html) -> Html {
    Html(html.0 + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let evil = "</title><script>alert('\u{1b}[1m\u{202e}')</script>&\"";
        let page = page(
            evil,
            [
                section(evil, paragraph("note", evil)),
                facts(&[(evil, evil.into())]),
                table(evil, &[(evil, Column::Name)], &[vec![evil.into()]], true),
                element("p", &[("title", evil)], Html::text(evil)),
            ],
        );
        assert!(
            !page.contains("<script>alert")
                && !page.contains('\u{1b}')
                && !page.contains('\u{202e}')
        );
        assert_eq!(page.matches("<script>").count(), 1);
        assert_eq!(page.matches("&lt;script&gt;").count(), 11);
    }
}
