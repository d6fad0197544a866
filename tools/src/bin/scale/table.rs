//! What was measured, for people.

use serde_json::Value;

use crate::measure::{median, Run};
use crate::FLOORS;
use pulse_cli::text;

/// Rows and what is to be said under them.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Label, command and threads of each row, and its median.
    medians: Vec<([String; 3], f64)>,
    pub notes: Vec<String>,
}

const HEAD: [&str; 10] = [
    "checkpoint, command",
    "threads",
    "cold",
    "median",
    "GB/s",
    "/ sha2",
    "/ copy",
    "/ hashlib",
    "peak MiB",
    "range",
];

impl Table {
    /// The rounds of one command, the first of them apart, beside those of SHA-256 and a copy.
    pub fn add(
        &mut self,
        label: &str,
        name: &str,
        threads: &str,
        bytes: u64,
        runs: &[Run],
        beside: [&[Run]; 3],
    ) {
        let warm = runs.get(1..).filter(|warm| !warm.is_empty()).unwrap_or(runs);
        let skip = runs.len() - warm.len();
        let seconds = median(warm.iter().map(|run| run.seconds));
        // Ratios are taken within a round, where the machine was about as busy for both.
        let ratio = |other: &[Run]| {
            format!(
                "{:.2}",
                median(
                    warm.iter().zip(&other[skip..]).map(|(run, other)| run.seconds / other.seconds)
                )
            )
        };
        self.medians.push(([label, name, threads].map(String::from), seconds));
        let peak = runs.iter().filter_map(|run| run.peak).max();
        let best = |runs: &[Run]| runs.iter().map(|run| run.seconds).fold(f64::INFINITY, f64::min);
        let (least, most) = (best(warm), warm.iter().map(|run| run.seconds).fold(0.0, f64::max));
        self.rows.push(vec![
            format!("{label}, {name}"),
            threads.into(),
            text::seconds(runs[0].seconds),
            text::seconds(seconds),
            format!("{:.2}", bytes as f64 / seconds / 1e9),
            ratio(beside[0]),
            ratio(beside[1]),
            // The best of both: what else the machine did meanwhile is in neither.
            format!("{:.2}", least / best(beside[2])),
            peak.map_or("-".into(), |peak| format!("{:.0}", peak as f64 / f64::from(1 << 20))),
            format!("{} to {}", text::seconds(least), text::seconds(most)),
        ]);
    }

    /// Times of one case as multiples of those of another, as a note.
    pub fn compare(&mut self, label: &str, other: &str) {
        let of = |label| self.medians.iter().filter(move |([case, ..], _)| case == label);
        let times = of(label)
            .zip(of(other))
            .filter(|(([_, name, _], _), _)| !FLOORS.iter().any(|(floor, _)| floor == name));
        let times: Vec<String> = times
            .map(|(([_, name, threads], a), (_, b))| format!("{name} {:.2} on {threads}", a / b))
            .collect();
        if !times.is_empty() {
            self.notes.push(format!(
                "{label} against {other}, times as long, by threads: {}\n",
                times.join(", ")
            ));
        }
    }

    /// Times of a receiver that is behind, as multiples of those of the last row, as a note.
    pub fn chain(&mut self, rows: &[(String, Vec<Run>)]) {
        let best = |runs: &[Run]| runs.iter().map(|run| run.seconds).fold(f64::INFINITY, f64::min);
        let Some((name, one)) = rows.last() else { return };
        let times = rows.iter().map(|(name, runs)| {
            let (best, one) = (best(runs), best(one));
            format!("{name} {} ({:.2})", text::seconds(best), best / one)
        });
        let times: Vec<String> = times.collect();
        self.notes.push(format!(
            "apply to 0.25 GiB on 2 threads, the best run, and as multiples of {name}: {}\n",
            times.join(", ")
        ));
    }

    pub fn text(&self) -> String {
        format!(
            "{}\n\
             cold: the first round, which no other column has. In a memory-backed directory nothing comes from\n\
             a disk: cold is then the first touch of the files. GB/s: bytes of the target over the median.\n\
             / sha2: SHA-256 of the target on one thread. / copy: of the target, into a new file. Medians.\n\
             / hashlib: SHA-256 by Python, reading included; the best run of each.\n\
             copy in pieces: two threads read and write a new file, as apply does, and do nothing else. Floors:\n\
             they read what the command reads, make the digests that it must make, and write what it writes.\n\
             hash: the digests of the target alone, from memory.\n\
             verify checks the patch, its base and its target.\n\n{}",
            text::table(&HEAD, &self.rows),
            self.notes.concat()
        )
    }
}

/// A line on a patch, from the JSON of `pulse inspect`.
pub fn describe(label: &str, map: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (footer, file) = (&map["footer"], number(&map["file_bytes"]));
    let (changes, elements) = (number(&footer["changes"]), number(&footer["target_elements"]));
    let tensors = map["tensors"].as_array().map_or(&[][..], Vec::as_slice);
    let of_tensors =
        |what: &str| tensors.iter().map(|tensor| number(&tensor["bytes_for"][what])).sum::<u64>();
    let sections = map["sections"].as_array().map_or(&[][..], Vec::as_slice);
    let index: u64 = sections
        .iter()
        .filter(|section| section["name"] == "index")
        .map(|section| number(&section["bytes"]))
        .sum();
    let each = |bytes: u64| format!("{:.1}", text::ratio(bytes, tensors.len() as u64));
    format!(
        "{label}: {} changed, patch of {} bytes ({:.2} bits per change, {}); \
         bytes per tensor: {} framing, {} digests, {} index\n",
        text::percent(changes, elements),
        text::count(file),
        8.0 * text::ratio(file, changes),
        text::times_smaller(number(&footer["target_bytes"]), file),
        each(of_tensors("framing")),
        each(of_tensors("digests")),
        each(index),
    )
}
