//! `pulse stat`: what changed along a series of checkpoints, without writing a patch.

mod json;
mod page;
mod tables;

use std::path::{Path, PathBuf};

use clap::Args;
use pulse::checkpoint::write_whole;
use pulse::measure::{PatchSizes, Series, SeriesPair, SeriesStat, SeriesWindow, Sizes};
use pulse::tensors::Control;
use pulse::Error;

use super::failure::{usage, Result};
use super::progress::Progress;
use super::writing::existing;
use super::{signals, streams, text, Common, Outcome};

/// Measure density, step sizes and patch sizes along a series of checkpoints.
///
/// Each checkpoint is compared with the next one, and with those 2, 4, 8 … later. A checkpoint is a
/// .safetensors file or a directory of them. Names that end in a number (step_40, checkpoint-48)
/// give the optimizer steps, or use --steps; without either, distances count checkpoints.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse stat step_0040.safetensors step_0041.safetensors
  pulse stat run/step40/ run/step41/ run/step42/ --interval 30 --html run.html
  pulse stat first/ second/ third/ --steps 100,200,400
  pulse stat run/step40/ run/step41/ --no-sizes --json")]
pub struct Stat {
    /// Two or more checkpoints of one run, oldest first.
    #[arg(value_names = ["BASE", "TARGET"], num_args = 2.., required = true)]
    checkpoints: Vec<PathBuf>,
    /// Optimizer step of each checkpoint, ascending [default: from the names].
    #[arg(long, value_name = "STEP,STEP,…", value_delimiter = ',')]
    steps: Option<Vec<u64>>,
    /// Skip the exact patch sizes: one pass over each pair instead of three.
    #[arg(long)]
    no_sizes: bool,
    /// Seconds between synchronisations, to compute the bandwidth needed.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_interval)]
    interval: f64,
    /// Write an HTML page with the curves: one file, which loads nothing from the network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace FILE if it exists.
    #[arg(long, requires = "html")]
    force: bool,
}

fn parse_interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
    seconds.ok_or_else(|| "expected a number of seconds greater than 0".into())
}

/// Where the optimizer steps of the checkpoints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepsFrom {
    Names,
    Option,
    Nowhere,
}

/// What the output is made from.
struct Report<'a> {
    series: &'a SeriesStat,
    steps_from: StepsFrom,
    /// A short name for each checkpoint.
    labels: Vec<String>,
    windows: Vec<SeriesWindow<'a>>,
    /// The pairs at the typical distance, which totals are about.
    typical: SeriesWindow<'a>,
    syncs: Vec<Sync>,
    /// Seconds from one synchronisation to the next.
    interval: f64,
}

impl<'a> Report<'a> {
    fn of(series: &'a SeriesStat, paths: &[&Path], steps_from: StepsFrom, interval: f64) -> Self {
        let typical = series.typical();
        let (labels, windows) = (labels(paths), series.windows());
        let syncs = syncs(series, &typical.pairs);
        Report { series, steps_from, labels, windows, typical, syncs, interval }
    }

    /// What distances count.
    fn unit(&self) -> &'static str {
        if self.steps_from == StepsFrom::Nowhere {
            "checkpoint"
        } else {
            "step"
        }
    }

    /// "12 steps"
    fn distance(&self, length: u64) -> String {
        text::number(length, self.unit())
    }

    /// The typical distance: "1 step".
    fn typical_distance(&self) -> String {
        self.distance(self.typical.length)
    }

    /// Shortest and longest distance from one checkpoint to the next, if there are several.
    fn uneven(&self) -> Option<(u64, u64)> {
        let distances = || self.series.adjacent().iter().map(|pair| pair.distance);
        let (least, greatest) = (distances().min()?, distances().max()?);
        (least < greatest).then_some((least, greatest))
    }

    /// A sum over the pairs at the typical distance, as the mean of one pair.
    fn per_pair(&self, sum: u64) -> u64 {
        (sum as f64 / self.typical.pairs.len().max(1) as f64).round() as u64
    }
}

/// Links for transfer times: name and bits per second.
const LINKS: [(&str, f64); 3] = [("100 Mbit/s", 1e8), ("1 Gbit/s", 1e9), ("10 Gbit/s", 1e10)];

/// What a synchronisation over the typical distance sends, in one of the ways to send it.
struct Sync {
    name: &'static str,
    mean_bytes: f64,
    max_bytes: u64,
}

impl Sync {
    /// Bits per second for one synchronisation in each interval.
    fn rate(&self, interval: f64) -> f64 {
        8.0 * self.mean_bytes / interval
    }

    /// Seconds of transfer at this many bits per second.
    fn seconds(&self, rate: f64) -> f64 {
        8.0 * self.mean_bytes / rate
    }
}

/// Without patch sizes, only the full copy is known.
fn syncs(series: &SeriesStat, pairs: &[&SeriesPair]) -> Vec<Sync> {
    let sync = |name, bytes: Vec<u64>| {
        let max_bytes = bytes.iter().copied().max()?;
        let mean_bytes = bytes.iter().map(|&bytes| bytes as f64).sum::<f64>() / bytes.len() as f64;
        Some(Sync { name, mean_bytes, max_bytes })
    };
    let patches = |size: fn(&PatchSizes) -> u64| {
        pairs.iter().filter_map(|pair| pair.sizes.as_ref()).map(size).collect()
    };
    let full = pairs.iter().map(|pair| series.checkpoints[pair.target].file_bytes).collect();
    let ways = [
        sync("contextual", patches(|sizes| sizes.contextual)),
        sync("flat", patches(|sizes| sizes.flat)),
        sync("full copy", full),
    ];
    ways.into_iter().flatten().collect()
}

/// The part of the path of a checkpoint, counted from its end, without the extension of its files.
fn name(path: &Path, from_end: usize) -> Option<String> {
    let name = path.components().rev().nth(from_end)?.as_os_str().to_string_lossy().into_owned();
    Some(name.strip_suffix(".safetensors").map(ToString::to_string).unwrap_or(name))
}

/// Optimizer steps from the last part of the paths in which they differ, if that always ends in a
/// number: run/step_40/model.safetensors is step 40.
fn steps_of(paths: &[&Path]) -> Result<Option<Vec<u64>>> {
    let names = (0..)
        .map(|from_end| paths.iter().map(|path| name(path, from_end)).collect::<Option<Vec<_>>>());
    let different = |names: &Vec<String>| names.iter().any(|name| *name != names[0]);
    let Some(names) = names.map_while(|names| names).find(different) else { return Ok(None) };
    let split = |name: &String| {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        Some((prefix.to_string(), name[prefix.len()..].parse::<u64>().ok()?))
    };
    let Some(split) = names.iter().map(split).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let steps: Vec<u64> = split.iter().map(|(_, step)| *step).collect();
    if steps.is_sorted_by(|a, b| a < b) {
        return Ok(Some(steps));
    }
    // Numbers after different words need not count the same thing.
    if split.iter().any(|(prefix, _)| *prefix != split[0].0) {
        return Ok(None);
    }
    usage(out_of_order(paths, &names, &steps))
}

/// What is wrong with the order of these steps, and what to do.
fn out_of_order(paths: &[&Path], names: &[String], steps: &[u64]) -> String {
    let mut sorted: Vec<usize> = (0..steps.len()).collect();
    sorted.sort_by_key(|&at| steps[at]);
    if let Some(same) = sorted.windows(2).find(|pair| steps[pair[0]] == steps[pair[1]]) {
        let (step, [first, second]) = (steps[same[0]], [same[0], same[1]].map(|at| &names[at]));
        return format!(
            "by their names '{first}' and '{second}' are both step {step}; leave one out, or give the steps with --steps"
        );
    }
    let order: Vec<String> = sorted.iter().map(|&at| text::shell(paths[at])).collect();
    let found: Vec<String> = steps.iter().map(ToString::to_string).collect();
    format!(
        "the checkpoints are not in order: by their names they are steps {}; expected ascending steps; give them as {}; \
         or, if these numbers are not steps, give the steps with --steps",
        found.join(", "),
        order.join(" ")
    )
}

/// The shortest ends of the paths that tell them apart, without the extension of the files.
fn labels(paths: &[&Path]) -> Vec<String> {
    let end = |path: &Path, parts: usize| {
        let all: Vec<_> =
            path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        let end = all[all.len().saturating_sub(parts)..].join("/");
        end.strip_suffix(".safetensors").map(ToString::to_string).unwrap_or(end)
    };
    let longest = paths.iter().map(|path| path.components().count()).max().unwrap_or(0);
    let mut found = Vec::new();
    for parts in 1..=longest {
        found = paths.iter().map(|path| end(path, parts)).collect();
        let mut different: Vec<&String> = found.iter().collect();
        different.sort_unstable();
        different.dedup();
        if different.len() == found.len() {
            break;
        }
    }
    found
}

/// The checkpoints at these paths with their steps, as given or from their names.
fn open(paths: &[&Path], steps: Option<&[u64]>) -> Result<(Series, StepsFrom)> {
    let (steps, steps_from) = match steps {
        Some(steps) => (Some(steps.to_vec()), StepsFrom::Option),
        None => match steps_of(paths)? {
            Some(steps) => (Some(steps), StepsFrom::Names),
            None => (None, StepsFrom::Nowhere),
        },
    };
    let series = Series::open(paths)?;
    let series = match steps {
        Some(steps) => series.with_steps(&steps)?,
        None => series,
    };
    Ok((series, steps_from))
}

/// The object of `--json`.
pub(crate) fn object(
    paths: &[&Path],
    steps: Option<&[u64]>,
    sizes: Sizes,
    interval: f64,
    control: Control<'_>,
) -> Result<serde_json::Value> {
    let (series, steps_from) = open(paths, steps)?;
    let series = series.measure(sizes, control)?;
    Ok(json::object(&Report::of(&series, paths, steps_from, interval)))
}

impl Stat {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let paths: Vec<&Path> = self.checkpoints.iter().map(PathBuf::as_path).collect();
        paths.iter().try_for_each(|path| streams::refuse_checkpoint(path))?;
        self.html.as_deref().map_or(Ok(()), streams::refuse_page)?;
        let sizes = if self.no_sizes { Sizes::Skip } else { Sizes::Exact };
        let (series, steps_from) = open(&paths, self.steps.as_deref())?;
        let progress = Progress::new(common, "stat", series.work_bytes(sizes));
        let series = series.measure(sizes, progress.control())?;
        drop(progress);
        let report = Report::of(&series, &paths, steps_from, self.interval);
        if let Some(path) = &self.html {
            let _deferred = signals::defer();
            write_whole(path, existing(self.force), &paths, |out| {
                let page = page::page(&report);
                out.write_all(page.as_bytes()).map_err(|source| Error::Io {
                    doing: "writing".into(),
                    path: Some(path.clone()),
                    source,
                })
            })?;
        }
        Ok(Outcome::of(common, || tables::text(&report), || json::object(&report)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_as_long_as_it_takes_to_tell_paths_apart() {
        let of = |paths: [&str; 2]| labels(&paths.map(Path::new));
        assert_eq!(
            of(["/run/step_1.safetensors", "/run/step_2.safetensors"]),
            ["step_1", "step_2"]
        );
        assert_eq!(of(["1/model.safetensors", "run/2/model.safetensors"]), ["1/model", "2/model"]);
        assert_eq!(of(["run/step1/", "run/step2/"]), ["step1", "step2"]);
        assert_eq!(of(["a", "a"]), ["a", "a"]);
    }
    #[test]
    fn steps_are_the_numbers_at_the_ends_of_names_that_differ() {
        let of =
            |paths: &[&str]| steps_of(&paths.iter().map(Path::new).collect::<Vec<_>>()).unwrap();
        assert_eq!(of(&["r/step_40.safetensors", "r/step_0041.safetensors"]), Some(vec![40, 41]));
        assert_eq!(of(&["step_40", "checkpoint-48/", "global_step60"]), Some(vec![40, 48, 60]));
        assert_eq!(
            of(&["r/step40/model.safetensors", "r/step48/model.safetensors"]),
            Some(vec![40, 48])
        );
        assert_eq!(of(&["run7/first", "run7/last"]), None);
        assert_eq!(of(&["step_40", "final"]), None);
        assert_eq!(of(&["a2", "b1"]), None, "not the same thing");
        assert_eq!(of(&["a/step_1", "b/step_1"]), None);
        assert_eq!(of(&["1", "1"]), None, "no name tells them apart");
        assert_eq!(of(&["s99999999999999999999", "s999999999999999999999"]), None);
        assert_eq!(of(&["/", "/step_1"]), None);
    }

    #[test]
    fn names_out_of_order_are_refused_with_the_order() {
        let of = |paths: &[&str]| {
            steps_of(&paths.iter().map(Path::new).collect::<Vec<_>>()).unwrap_err().message()
        };
        let error = of(&["r/step_1", "r/step_10", "r/step_2"]);
        assert!(
            error.contains("steps 1, 10, 2;") && error.contains("as r/step_1 r/step_2 r/step_10;"),
            "{error}"
        );
        let error = of(&["step_2", "step_02"]);
        assert!(error.contains("'step_2' and 'step_02' are both step 2"), "{error}");
    }
}
