//! Steps by size: the histogram of text and pages.

use std::collections::BTreeMap;

use super::html::{self, Bar, Html};
use super::text;

/// Step sizes in the histogram that have a row of their own.
pub const STEPS: [(u64, u64, &str); 8] = [
    (1, 1, "1"),
    (2, 2, "2"),
    (3, 3, "3"),
    (4, 4, "4"),
    (5, 8, "5 to 8"),
    (9, 16, "9 to 16"),
    (17, 255, "17 to 255"),
    (256, u64::MAX, "more"),
];

/// Steps of one size: how many, and how many of them are negative.
pub fn count(steps: &BTreeMap<i64, u64>, low: u64, high: u64) -> (u64, u64) {
    let within = steps.iter().filter(|(step, _)| (low..=high).contains(&step.unsigned_abs()));
    within.fold((0, 0), |(all, negative), (&step, &count)| {
        (all + count, negative + if step < 0 { count } else { 0 })
    })
}

/// The histogram as a figure of a page.
pub fn figure(steps: &BTreeMap<i64, u64>) -> Html {
    let total: u64 = steps.values().sum();
    let counts = STEPS.map(|(low, high, name)| (name, count(steps, low, high)));
    let most = counts.iter().map(|(_, (all, _))| *all).max().unwrap_or(0);
    let bars = counts.map(|(name, (all, negative))| Bar {
        label: name.into(),
        length: text::ratio(all, most),
        second: text::ratio(negative, most),
        values: vec![text::count(all), text::percent(all, total)],
    });
    let colours = html::colours(&[("first", "up"), ("second", "down")]);
    [html::bars(&["ULPs", "changes", "share"], &bars), colours].into_iter().collect()
}
