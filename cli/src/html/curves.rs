//! Line charts. As in the other figures, widths are percentages and text is not scaled; only the lines
//! are stretched.

use super::{element, line, Html};

/// A line of a chart.
pub struct Curve {
    pub name: String,
    /// Name of its colour: "c1" to "c9".
    pub colour: &'static str,
    /// A value for each place; `None` leaves a gap.
    pub values: Vec<Option<f64>>,
    /// Smallest and largest at each place, drawn as a band.
    pub band: Vec<(f64, f64)>,
}

/// Where a value is drawn, as shares of the width: a point, or a level line if it covers a range.
pub struct Place {
    pub from: f64,
    pub to: f64,
    /// What the value is of, in its tooltip.
    pub label: String,
}

/// Curves over common places.
pub struct Curves<'a> {
    pub label: &'a str,
    /// Where the values are, ascending from 0 to 1.
    pub places: Vec<Place>,
    /// What can be written below, and where; ascending.
    pub ticks: Vec<(f64, String)>,
    pub curves: Vec<Curve>,
    /// How a value is written.
    pub format: fn(f64) -> String,
}

/// Labels below the chart; more would overlap on a phone.
const LABELS: usize = 4;
/// Labels closer than this share of the width would overlap.
const APART: f64 = 0.2;
/// Characters of a label of which four fit side by side on a phone.
const LONG: usize = 9;
/// With more places the dots would hide the line.
const DOTS: usize = 64;

/// Distance between the lines of a scale up to `greatest`: 1, 2 or 5 times a power of ten.
fn scale_step(greatest: f64) -> f64 {
    let rough = greatest / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let nice = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    // Rounding must not add a line.
    nice.into_iter().find(|&step| step >= rough * (1.0 - 1e-9)).unwrap_or(power)
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

/// A share of the width, with room for dots at both ends.
fn across(place: f64) -> f64 {
    0.02 + 0.96 * place.clamp(0.0, 1.0)
}

/// The chart with its scale, its labels and, for more than one curve, a legend.
pub fn curves(chart: &Curves<'_>) -> Html {
    let values = chart.curves.iter().flat_map(|curve| curve.values.iter().flatten());
    let greatest =
        values.chain(chart.curves.iter().flat_map(|curve| curve.band.iter().map(|(_, high)| high)));
    let greatest = greatest.copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let step = if greatest > 0.0 { scale_step(greatest) } else { 1.0 };
    let lines = (greatest / step - 1e-9).ceil().max(1.0) as usize;
    let down = |value: f64| 1.0 - value / (step * lines as f64);

    let mut drawn = Vec::new();
    let mut scale = Vec::new();
    for number in 0..=lines {
        let value = step * number as f64;
        let y = percent(down(value));
        let class = if number == 0 { "axis" } else { "grid" };
        let attributes = [("class", class), ("x1", "0"), ("x2", "100%"), ("y1", &y), ("y2", &y)];
        drawn.push(element("line", &attributes, Html::default()));
        scale.push(element(
            "span",
            &[("style", &format!("top:{y}"))],
            Html::text(&(chart.format)(value)),
        ));
    }
    let stretched = chart.curves.iter().flat_map(|curve| strokes(chart, curve, &down)).collect();
    let box_of = [
        ("viewBox", "0 0 100 100"),
        ("preserveAspectRatio", "none"),
        ("width", "100%"),
        ("height", "100%"),
    ];
    drawn.push(element("svg", &box_of, stretched));
    drawn.extend(chart.curves.iter().map(|curve| dots(chart, curve, &down)));

    let plot = [("class", "plot"), ("role", "img"), ("aria-label", chart.label)];
    let parts = [
        element("div", &[("class", "up")], scale.into_iter().collect()),
        element("svg", &plot, drawn.into_iter().collect()),
        labels(&chart.ticks),
    ];
    let drawing = line(element("div", &[("class", "curves")], parts.into_iter().collect()));
    if chart.curves.len() < 2 {
        return drawing;
    }
    let name = |curve: &Curve| {
        let swatch =
            element("span", &[("class", &format!("swatch {}", curve.colour))], Html::default());
        element(
            "span",
            &[("class", "name")],
            [swatch, Html::text(&curve.name)].into_iter().collect(),
        )
    };
    let names = element("p", &[("class", "names")], chart.curves.iter().map(name).collect());
    [drawing, line(names)].into_iter().collect()
}

/// Band and line of a curve, in hundredths of the plot.
fn strokes(chart: &Curves<'_>, curve: &Curve, down: &dyn Fn(f64) -> f64) -> Vec<Html> {
    let point =
        |place: f64, value: f64| format!("{:.2},{:.2}", 100.0 * across(place), 100.0 * down(value));
    let mut found = Vec::new();
    if !curve.band.is_empty() {
        let places = || chart.places.iter().zip(&curve.band);
        let above = places().map(|(place, (_, high))| point(place.to, *high));
        let below = places()
            .map(|(place, (low, _))| point(place.to, *low))
            .collect::<Vec<_>>()
            .into_iter()
            .rev();
        let points = above.chain(below).collect::<Vec<_>>().join(" ");
        let class = format!("band {}", curve.colour);
        found.push(element("polygon", &[("class", &class), ("points", &points)], Html::default()));
    }
    let all: Vec<_> = chart.places.iter().zip(&curve.values).collect();
    for run in all.split(|(_, value)| value.is_none()) {
        let points = run.iter().flat_map(|(place, value)| {
            let ends = [place.from, place.to];
            let ends = if place.from < place.to { &ends[..] } else { &ends[1..] };
            ends.iter().filter_map(|at| value.map(|value| point(*at, value))).collect::<Vec<_>>()
        });
        let points: Vec<_> = points.collect();
        if points.len() > 1 {
            let style = format!("stroke:var(--{})", curve.colour);
            found.push(element(
                "polyline",
                &[("style", &style), ("points", &points.join(" "))],
                Html::default(),
            ));
        }
    }
    found
}

/// A dot at each value, with the value as its tooltip.
fn dots(chart: &Curves<'_>, curve: &Curve, down: &dyn Fn(f64) -> f64) -> Html {
    let radius = if chart.places.len() <= DOTS { "3.5" } else { "1.5" };
    let dot = |(place, value): (&Place, &Option<f64>)| {
        let value = (*value)?;
        let (x, y) = (percent(across(place.to)), percent(down(value)));
        let title = format!("{}, {}: {}", curve.name, place.label, (chart.format)(value));
        let attributes = [("class", curve.colour), ("cx", &x), ("cy", &y), ("r", radius)];
        Some(element("circle", &attributes, element("title", &[], Html::text(&title))))
    };
    chart.places.iter().zip(&curve.values).filter_map(dot).collect()
}

/// The ticks that are labelled: first, last, and those nearest to an even distance between them that
/// have room.
fn labelled(ticks: &[(f64, String)]) -> Vec<usize> {
    let last = ticks.len().saturating_sub(1);
    let mut at: Vec<usize> = Vec::new();
    for number in 0..LABELS {
        let share = number as f64 / (LABELS - 1) as f64;
        let off = |&tick: &usize| (ticks[tick].0 - share).abs();
        let Some(nearest) = (0..ticks.len()).min_by(|a, b| off(a).total_cmp(&off(b))) else {
            break;
        };
        let room = at.last().is_none_or(|&before| ticks[nearest].0 - ticks[before].0 >= APART)
            && ticks[last].0 - ticks[nearest].0 >= APART;
        if nearest == 0 || nearest == last || room {
            at.push(nearest);
        }
    }
    at.dedup();
    at
}

/// Labels of some of the ticks. Of long ones a phone has room for the first and the last only.
fn labels(ticks: &[(f64, String)]) -> Html {
    let last = ticks.len().saturating_sub(1);
    let at = labelled(ticks);
    let label = |at: usize| {
        let (place, label) = &ticks[at];
        let class = match at {
            _ if last == 0 => "middle",
            0 => "start",
            at if at == last => "end",
            _ => "middle",
        };
        let style = format!("left:{}", percent(across(*place)));
        element("span", &[("class", class), ("style", &style), ("title", label)], Html::text(label))
    };
    let long = at.iter().any(|&at| ticks[at].1.chars().count() > LONG);
    element(
        "div",
        &[("class", if long { "along long" } else { "along" })],
        at.into_iter().map(label).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[Option<f64>]) -> String {
        let last = values.len().saturating_sub(1).max(1) as f64;
        let ticks: Vec<_> =
            (0..values.len()).map(|at| (at as f64 / last, format!("<{at}>"))).collect();
        let places = ticks
            .iter()
            .map(|(at, label)| Place { from: *at, to: *at, label: label.clone() })
            .collect();
        let curve =
            Curve { name: "<b>".into(), colour: "c1", values: values.into(), band: Vec::new() };
        curves(&Curves {
            label: "density",
            places,
            ticks,
            curves: vec![curve],
            format: |value| format!("{value:.1}"),
        })
        .0
    }

    #[test]
    fn scales_have_round_steps_and_reach_the_greatest() {
        let expected = [
            (0.9, 0.5),
            (1.0, 0.5),
            (2.0, 0.5),
            (4.0, 1.0),
            (21.0, 10.0),
            (7.9e6, 2e6),
            (0.0003, 0.0001),
        ];
        for (greatest, step) in expected {
            assert!(
                (scale_step(greatest) / step - 1.0).abs() < 1e-9,
                "{greatest}: {}",
                scale_step(greatest)
            );
        }
    }

    #[test]
    fn a_value_stands_as_high_as_it_is() {
        let html = chart(&[Some(0.0), Some(4.0), Some(1.0)]);
        assert!(html.contains(r#"points="2.00,100.00 50.00,0.00 98.00,75.00""#), "{html}");
        assert!(
            html.contains(r#"cy="75.00%""#) && html.contains("&lt;b&gt;, &lt;2&gt;: 1.0"),
            "{html}"
        );
        assert!(!html.contains("<b>"));
    }

    #[test]
    fn gaps_single_values_and_nothing_are_drawn_without_a_division_by_zero() {
        assert_eq!(
            chart(&[Some(1.0), Some(2.0), None, Some(1.0), Some(1.0), Some(1.0)])
                .matches("<polyline")
                .count(),
            2
        );
        for values in
            [&[][..], &[None], &[Some(0.0)], &[Some(1.0)], &[None, Some(f64::MIN_POSITIVE)]]
        {
            let html = chart(values);
            assert!(
                !html.contains("NaN") && !html.contains("inf") && !html.contains("<polyline"),
                "{html}"
            );
        }
    }
    #[test]
    fn a_value_that_covers_a_range_is_level() {
        let place = |from: f64, to: f64| Place { from, to, label: String::new() };
        let curve = Curve {
            name: "all".into(),
            colour: "c1",
            values: vec![Some(1.0), Some(2.0)],
            band: Vec::new(),
        };
        let places = vec![place(0.0, 0.25), place(0.25, 1.0)];
        let html = curves(&Curves {
            label: "",
            places,
            ticks: Vec::new(),
            curves: vec![curve],
            format: |_| "".into(),
        })
        .0;
        assert!(
            html.contains(r#"points="2.00,50.00 26.00,50.00 26.00,0.00 98.00,0.00""#),
            "{html}"
        );
    }

    #[test]
    fn labels_keep_their_distance() {
        let of = |ticks: &[f64]| {
            labelled(&ticks.iter().map(|at| (*at, String::new())).collect::<Vec<_>>())
        };
        assert_eq!(of(&[0.0, 0.05, 0.4, 1.0]), [0, 2, 3]);
        assert_eq!(of(&[0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]), [0, 3, 5, 8]);
        assert_eq!(of(&[0.0, 0.9, 1.0]), [0, 2]);
        assert_eq!((of(&[]), of(&[0.0])), (vec![], vec![0]));
    }
}
