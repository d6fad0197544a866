//! Figures: bars, a stacked bar, a heat map. Widths are per cent and text is not scaled, so that
//! they can be read at any width.

use super::{element, line, scroll, Html};

/// A bar of a chart.
pub struct Bar {
    pub label: String,
    /// Length as a share of the width, 0 to 1, and the part of it that is drawn in a second colour.
    pub length: f64,
    pub second: f64,
    /// What stands behind the bar.
    pub values: Vec<String>,
}

fn percent(share: f64) -> String {
    format!("{:.3}%", 100.0 * share.clamp(0.0, 1.0))
}

fn rect(class: &str, start: f64, length: f64, title: &str) -> Html {
    let (x, width) = (percent(start), percent(length));
    let title = if title.is_empty() { Html::default() } else { element("title", &[], Html::text(title)) };
    element("rect", &[("class", class), ("x", &x), ("width", &width), ("height", "100%")], title)
}

fn drawing(class: &str, label: &str, content: Html) -> Html {
    element("svg", &[("class", class), ("role", "img"), ("aria-label", label)], content)
}

/// Horizontal bars in rows: label, bar, values. `head` names the label, then the values.
pub fn bars(head: &[&str], rows: &[Bar]) -> Html {
    let mut names = head.iter().map(|name| element("th", &[("scope", "col")], Html::text(name)));
    let label = names.next().unwrap_or_default();
    let head: Html = [label, element("td", &[], Html::default())].into_iter().chain(names).collect();
    let row = |bar: &Bar| {
        let second = bar.second.clamp(0.0, bar.length);
        let rects = [rect("first", 0.0, bar.length, ""), rect("second", bar.length - second, second, "")];
        let drawing = drawing("bar", &bar.label, rects.into_iter().collect());
        let mut cells = vec![
            element("th", &[("scope", "row")], Html::text(&bar.label)),
            element("td", &[("class", "drawn")], drawing),
        ];
        cells.extend(bar.values.iter().map(|value| element("td", &[("class", "number")], Html::text(value))));
        line(element("tr", &[], cells.into_iter().collect()))
    };
    let head = line(element("tr", &[], head));
    let rows: Html = [head].into_iter().chain(rows.iter().map(row)).collect();
    line(element("table", &[("class", "bars")], element("tbody", &[], rows)))
}

/// What the colours of a chart stand for: classes and names.
pub fn colours(names: &[(&str, &str)]) -> Html {
    let name = |(class, name): &(&str, &str)| {
        let swatch = element("span", &[("class", &format!("swatch {class}"))], Html::default());
        element("span", &[("class", "key")], [swatch, Html::text(name)].into_iter().collect())
    };
    line(element("p", &[("class", "note")], names.iter().map(name).collect()))
}

/// A part of a whole.
pub struct Part {
    pub name: &'static str,
    /// Class of its colour: "c1" to "c9", or "bad".
    pub colour: &'static str,
    pub amount: u64,
    /// What stands in the legend: numbers, then words.
    pub values: Vec<String>,
    pub words: &'static str,
}

/// A bar made of parts, with a legend that says how large each is. `head` names name and values.
pub fn stacked(label: &str, head: &[&str], parts: &[Part]) -> Html {
    let whole = parts.iter().map(|part| part.amount).sum::<u64>().max(1) as f64;
    let mut start = 0.0;
    let mut rects = Vec::new();
    for part in parts {
        let length = part.amount as f64 / whole;
        let title = format!("{}: {}", part.name, part.values.join(", "));
        rects.push(rect(part.colour, start, length, &title));
        start += length;
    }
    let row = |part: &Part| {
        let swatch = element("span", &[("class", &format!("swatch {}", part.colour))], Html::default());
        let name = [swatch, Html::text(part.name)].into_iter().collect();
        let values = part.values.iter().map(|value| element("td", &[("class", "number")], Html::text(value)));
        let words = element("td", &[], Html::text(part.words));
        let name = element("th", &[("scope", "row")], name);
        line(element("tr", &[], [name].into_iter().chain(values).chain([words]).collect()))
    };
    let head = head.iter().map(|name| element("th", &[("scope", "col")], Html::text(name))).collect();
    let head = line(element("tr", &[], head));
    let legend: Html = [head].into_iter().chain(parts.iter().map(row)).collect();
    let legend = element("table", &[("class", "legend")], element("tbody", &[], legend));
    [line(drawing("stacked", label, rects.into_iter().collect())), line(legend)].into_iter().collect()
}

/// What a cell of a heat map shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// There is nothing.
    Empty,
    /// A share above 0 and at most 1, and what to say of it.
    Heat { share: f64, title: String },
    /// Beyond the scale; the mark and what to say of it.
    Mark { mark: &'static str, title: String },
}

/// Shares by row and column.
pub struct HeatMap<'a> {
    pub label: &'a str,
    /// What rows are.
    pub corner: &'a str,
    pub columns: Vec<String>,
    pub rows: Vec<(String, Vec<Cell>)>,
}

/// Shares as colours on a logarithmic scale from the least to the greatest.
pub fn heat_map(map: &HeatMap<'_>) -> Html {
    let shares = || {
        let cells = map.rows.iter().flat_map(|(_, cells)| cells);
        cells.filter_map(|cell| if let Cell::Heat { share, .. } = cell { Some(*share) } else { None })
    };
    let (least, greatest) = (shares().fold(f64::INFINITY, f64::min), shares().fold(0.0, f64::max));
    let heat = |share: f64| match greatest > least {
        true => (share / least).ln() / (greatest / least).ln(),
        false => 1.0,
    };
    let cell = |cell: &Cell| match cell {
        Cell::Empty => element("td", &[], Html::default()),
        Cell::Heat { share, title } => {
            let (heat, text) = (heat(*share), short_percent(*share));
            let class = if heat > 0.65 { "hot" } else { "heat" };
            let style = format!("--heat:{:.2}", 0.08 + 0.92 * heat);
            let text = element("span", &[], Html::text(&text));
            element("td", &[("class", class), ("style", &style), ("title", title)], text)
        }
        Cell::Mark { mark, title } => element("td", &[("class", "mark"), ("title", title)], Html::text(mark)),
    };
    let column = |name: &String| element("th", &[("scope", "col")], element("span", &[], Html::text(name)));
    let corner = element("th", &[("class", "corner")], Html::text(map.corner));
    let head = line(element("tr", &[], [corner].into_iter().chain(map.columns.iter().map(column)).collect()));
    let row = |(name, cells): &(String, Vec<Cell>)| {
        let name = element("th", &[("scope", "row")], Html::text(name));
        line(element("tr", &[], [name].into_iter().chain(cells.iter().map(cell)).collect()))
    };
    let body = element("tbody", &[], map.rows.iter().map(row).collect());
    let table = [element("thead", &[], head), body].into_iter().collect();
    let table = scroll(map.label, element("table", &[("class", "heatmap")], table));
    if greatest == 0.0 {
        return table;
    }
    let middle = (least * greatest).sqrt();
    let ticks = [least, middle, greatest].map(|share| element("span", &[], Html::text(&(short_percent(share) + "%"))));
    let scale = element("div", &[("class", "gradient")], Html::default());
    let ticks = element("div", &[("class", "ticks")], ticks.into_iter().collect());
    let scale = line(element("div", &[("class", "scale")], [scale, ticks].into_iter().collect()));
    [table, scale].into_iter().collect()
}

/// A share in per cent, in about four characters and without the sign.
fn short_percent(share: f64) -> String {
    match 100.0 * share {
        percent if percent < 0.01 => format!("{percent:.0e}"),
        percent if percent < 9.995 => format!("{percent:.2}"),
        percent => format!("{percent:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heat_map_has_all_its_scale() {
        let heat = |share: f64| Cell::Heat { share, title: format!("{share}") };
        let map = HeatMap {
            label: "density",
            corner: "layer",
            columns: vec!["a".into(), "b".into()],
            rows: vec![("0".into(), vec![heat(0.001), heat(0.1)]), ("1".into(), vec![Cell::Empty, heat(0.01)])],
        };
        let Html(html) = heat_map(&map);
        for part in ["--heat:0.08", "--heat:0.54", "--heat:1.00", "0.10%", "1.00%", "10.0%"] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }

    #[test]
    fn a_map_of_one_share_and_of_none_divides_by_nothing() {
        for cells in [vec![], vec![Cell::Empty], vec![Cell::Heat { share: 0.5, title: String::new() }]] {
            let map = HeatMap { label: "", corner: "", columns: vec!["a".into()], rows: vec![("0".into(), cells)] };
            assert!(!heat_map(&map).0.contains("NaN"));
        }
        assert!(!stacked("", &[], &[]).0.contains("NaN"));
    }
}
