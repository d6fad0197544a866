//! Figures: bars, a stacked bar, a heat map. Widths are percentages and text is not scaled, so that
//! they are legible at any width.

use super::{element, line, paragraph, scroll, Html};

/// A bar of a chart.
pub struct Bar {
    pub label: String,
    /// Length as a share of the width, 0 to 1, and the part of it that is drawn in a second colour.
    pub length: f64,
    pub second: f64,
    /// Text after the bar.
    pub values: Vec<String>,
}

fn percent(share: f64) -> String {
    format!("{:.3}%", 100.0 * share.clamp(0.0, 1.0))
}

fn rect(class: &str, start: f64, length: f64, title: &str) -> Html {
    let (x, width) = (percent(start), percent(length));
    let title =
        if title.is_empty() { Html::default() } else { element("title", &[], Html::text(title)) };
    element("rect", &[("class", class), ("x", &x), ("width", &width), ("height", "100%")], title)
}

fn drawing(class: &str, label: &str, content: Html) -> Html {
    element("svg", &[("class", class), ("role", "img"), ("aria-label", label)], content)
}

/// Horizontal bars in rows: label, bar, values. `head` names the label, then the values.
pub fn bars(head: &[&str], rows: &[Bar]) -> Html {
    let mut names = head.iter().map(|name| element("th", &[("scope", "col")], Html::text(name)));
    let label = names.next().unwrap_or_default();
    let head: Html =
        [label, element("td", &[], Html::default())].into_iter().chain(names).collect();
    let row = |bar: &Bar| {
        let second = bar.second.clamp(0.0, bar.length);
        let rects =
            [rect("first", 0.0, bar.length, ""), rect("second", bar.length - second, second, "")];
        let drawing = drawing("bar", &bar.label, rects.into_iter().collect());
        let mut cells = vec![
            element("th", &[("scope", "row")], Html::text(&bar.label)),
            element("td", &[("class", "drawn")], drawing),
        ];
        cells.extend(
            bar.values.iter().map(|value| element("td", &[("class", "number")], Html::text(value))),
        );
        line(element("tr", &[], cells.into_iter().collect()))
    };
    let head = line(element("tr", &[], head));
    let rows: Html = [head].into_iter().chain(rows.iter().map(row)).collect();
    line(element("table", &[("class", "bars")], element("tbody", &[], rows)))
}

/// Legend of a chart: colour classes and their names.
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
    /// Legend: numbers, then text.
    pub values: Vec<String>,
    pub words: &'static str,
}

/// A bar made of parts, with a legend of their sizes. `head` names the name and the values.
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
        let swatch =
            element("span", &[("class", &format!("swatch {}", part.colour))], Html::default());
        let name = [swatch, Html::text(part.name)].into_iter().collect();
        let values = part
            .values
            .iter()
            .map(|value| element("td", &[("class", "number")], Html::text(value)));
        let words = element("td", &[], Html::text(part.words));
        let name = element("th", &[("scope", "row")], name);
        line(element("tr", &[], [name].into_iter().chain(values).chain([words]).collect()))
    };
    let head =
        head.iter().map(|name| element("th", &[("scope", "col")], Html::text(name))).collect();
    let head = line(element("tr", &[], head));
    let legend: Html = [head].into_iter().chain(parts.iter().map(row)).collect();
    let legend = element("table", &[("class", "legend")], element("tbody", &[], legend));
    [line(drawing("stacked", label, rects.into_iter().collect())), line(legend)]
        .into_iter()
        .collect()
}

/// What a cell of a heat map shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Empty,
    /// A share above 0 and at most 1, the number of elements that it is of, and its tooltip.
    Heat {
        share: f64,
        elements: u64,
        title: String,
    },
    /// Not a share; the mark and its tooltip.
    Mark {
        mark: &'static str,
        title: String,
    },
}

/// Shares by row and column.
pub struct HeatMap<'a> {
    pub label: &'a str,
    /// What rows are.
    pub corner: &'a str,
    pub columns: Vec<String>,
    pub rows: Vec<(String, Vec<Cell>)>,
}

/// Share of the elements outside the scale at each end of it.
const OFF_SCALE: f64 = 0.01;

/// Ends of a scale that fits the elements rather than the cells: a bias of a few hundred elements
/// is far more often extreme than a matrix of a million, and must not set the scale.
fn scale_of(map: &HeatMap<'_>) -> Option<(f64, f64)> {
    let cells = map.rows.iter().flat_map(|(_, cells)| cells);
    let heat = |cell: &Cell| match cell {
        Cell::Heat { share, elements, .. } => Some((*share, *elements as f64)),
        _ => None,
    };
    let mut shares: Vec<(f64, f64)> = cells.filter_map(heat).collect();
    shares.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let all: f64 = shares.iter().map(|(_, elements)| elements).sum();
    let mut before = 0.0;
    let mut inside = shares.iter().filter(|(_, elements)| {
        let from = before;
        before += elements;
        before > OFF_SCALE * all && from < (1.0 - OFF_SCALE) * all
    });
    let (least, _) = inside.next()?;
    Some((*least, inside.last().map_or(*least, |(greatest, _)| *greatest)))
}

/// Shares as colours on a logarithmic scale. Cells off the scale have the colour of its end and an
/// outline.
pub fn heat_map(map: &HeatMap<'_>) -> Html {
    let scale = scale_of(map);
    let (least, greatest) = scale.unwrap_or((1.0, 1.0));
    let heat = |share: f64| match () {
        _ if share < least => 0.0,
        _ if share >= greatest => 1.0,
        _ => (share / least).ln() / (greatest / least).ln(),
    };
    let mut off = [false, false];
    let mut cell = |cell: &Cell| match cell {
        Cell::Empty => element("td", &[], Html::default()),
        Cell::Heat { share, title, .. } => {
            let (heat, text) = (heat(*share), short_percent(*share));
            off = [off[0] || *share < least, off[1] || *share > greatest];
            let mut class = String::from(if heat > 0.65 { "hot" } else { "heat" });
            if *share < least || *share > greatest {
                class += " off";
            }
            let style = format!("--heat:{:.2}", 0.08 + 0.92 * heat);
            let text = element("span", &[], Html::text(&text));
            element("td", &[("class", &class), ("style", &style), ("title", title)], text)
        }
        Cell::Mark { mark, title } => {
            element("td", &[("class", "mark"), ("title", title)], Html::text(mark))
        }
    };
    let column =
        |name: &String| element("th", &[("scope", "col")], element("span", &[], Html::text(name)));
    let corner = element("th", &[("class", "corner")], Html::text(map.corner));
    let head = line(element(
        "tr",
        &[],
        [corner].into_iter().chain(map.columns.iter().map(column)).collect(),
    ));
    let row = |(name, cells): &(String, Vec<Cell>)| {
        let name = element("th", &[("scope", "row")], Html::text(name));
        line(element("tr", &[], [name].into_iter().chain(cells.iter().map(&mut cell)).collect()))
    };
    let body = element("tbody", &[], map.rows.iter().map(row).collect());
    let table = [element("thead", &[], head), body].into_iter().collect();
    let table = scroll(map.label, element("table", &[("class", "heatmap")], table));
    if scale.is_none() {
        return table;
    }
    let middle = (least * greatest).sqrt();
    let [below, above] =
        [("≤ ", off[0]), ("≥ ", off[1])].map(|(sign, off)| if off { sign } else { "" });
    let ticks = [(below, least), ("", middle), (above, greatest)];
    let ticks = ticks.map(|(sign, share)| {
        element("span", &[], Html::text(&format!("{sign}{}%", short_percent(share))))
    });
    let scale = element("div", &[("class", "gradient")], Html::default());
    let ticks = element("div", &[("class", "ticks")], ticks.into_iter().collect());
    let scale = line(element("div", &[("class", "scale")], [scale, ticks].into_iter().collect()));
    let note =
        "The scale fits the largest tensors, 98% of the elements. Cells with an outline, small tensors, are off it.";
    let note = if off == [false; 2] { Html::default() } else { paragraph("note", note) };
    [table, scale, note].into_iter().collect()
}

/// A share as a percentage, in about four characters and without the sign.
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
        let heat = |share: f64| Cell::Heat { share, elements: 1000, title: format!("{share}") };
        let map = HeatMap {
            label: "density",
            corner: "layer",
            columns: vec!["a".into(), "b".into()],
            rows: vec![
                ("0".into(), vec![heat(0.001), heat(0.1)]),
                ("1".into(), vec![Cell::Empty, heat(0.01)]),
            ],
        };
        let Html(html) = heat_map(&map);
        for part in ["--heat:0.08", "--heat:0.54", "--heat:1.00", "0.10%", "1.00%", "10.0%"] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }

    #[test]
    fn small_tensors_do_not_set_the_scale() {
        let heat = |share: f64, elements| Cell::Heat { share, elements, title: String::new() };
        let cells =
            [(0.5, 384), (0.02, 500_000), (0.01, 500_000), (0.0001, 384)].map(|(a, b)| heat(a, b));
        let columns = vec!["a".into(); 4];
        let map =
            HeatMap { label: "", corner: "", columns, rows: vec![("0".into(), cells.into())] };
        assert_eq!(scale_of(&map), Some((0.01, 0.02)));
        let Html(html) = heat_map(&map);
        assert_eq!(
            (html.matches("hot off").count(), html.matches("heat off").count()),
            (1, 1),
            "{html}"
        );
        assert!(
            html.contains("≤ 1.00%") && html.contains("≥ 2.00%") && html.contains("off it"),
            "{html}"
        );
    }

    #[test]
    fn a_map_of_one_share_and_of_none_divides_by_nothing() {
        for cells in [
            vec![],
            vec![Cell::Empty],
            vec![Cell::Heat { share: 0.5, elements: 0, title: String::new() }],
        ] {
            let map = HeatMap {
                label: "",
                corner: "",
                columns: vec!["a".into()],
                rows: vec![("0".into(), cells)],
            };
            assert!(!heat_map(&map).0.contains("NaN"));
        }
        assert!(!stacked("", &[], &[]).0.contains("NaN"));
    }
}
