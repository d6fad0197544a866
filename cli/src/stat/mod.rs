//! `pulse stat`: what changed along a series of checkpoints, without writing a patch.

mod json;
mod page;
mod tables;

use std::path::{Path, PathBuf};

use clap::Args;
use pulse::checkpoint::write_whole;
use pulse::measure::{PatchSizes, Series, SeriesStat};
use pulse::Error;

use super::failure::Result;
use super::progress::Progress;
use super::writing::existing;
use super::{Common, Outcome};

/// Measure density, step sizes and patch sizes along a series of checkpoints.
///
/// Each checkpoint is compared with the next one, and with those 2, 4, 8 … checkpoints later. A
/// checkpoint is a .safetensors file or a directory of them. Windows count checkpoints, whatever the
/// number of optimizer steps between them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse stat step_0040.safetensors step_0041.safetensors
  pulse stat run/step40/ run/step41/ run/step42/ --interval 30 --html run.html
  pulse stat run/step40/ run/step41/ --no-sizes --json")]
pub struct Stat {
    /// Two or more checkpoints, in the order in which they were made.
    #[arg(value_names = ["BASE", "TARGET"], num_args = 2.., required = true)]
    checkpoints: Vec<PathBuf>,
    /// Do not make patches to measure their sizes: one pass over each pair instead of three.
    #[arg(long)]
    no_sizes: bool,
    /// Seconds from one synchronisation to the next, for the bandwidth that it needs.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_interval)]
    interval: f64,
    /// Write a page with the curves here, one file that needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace FILE if it exists.
    #[arg(long, requires = "html")]
    force: bool,
}

fn parse_interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
    seconds.ok_or_else(|| "expected a number of seconds above 0".into())
}

/// What the output is made from.
struct Report<'a> {
    series: &'a SeriesStat,
    /// A short name for each checkpoint.
    labels: Vec<String>,
    syncs: Vec<Sync>,
    /// Seconds from one synchronisation to the next.
    interval: f64,
}

/// Links that a transfer is timed on: name and bits per second.
const LINKS: [(&str, f64); 3] = [("100 Mbit/s", 1e8), ("1 Gbit/s", 1e9), ("10 Gbit/s", 1e10)];

/// What goes over the wire from each checkpoint to the next, in one of the ways to send it.
struct Sync {
    name: &'static str,
    mean_bytes: f64,
    max_bytes: u64,
}

impl Sync {
    /// Bits per second that keep up with one synchronisation in each interval.
    fn rate(&self, interval: f64) -> f64 {
        8.0 * self.mean_bytes / interval
    }

    /// Seconds that the transfer takes at so many bits per second.
    fn seconds(&self, rate: f64) -> f64 {
        8.0 * self.mean_bytes / rate
    }
}

/// Without patch sizes, the full copy is what is known.
fn syncs(series: &SeriesStat) -> Vec<Sync> {
    let sync = |name, bytes: Vec<u64>| {
        let max_bytes = bytes.iter().copied().max()?;
        let mean_bytes = bytes.iter().map(|&bytes| bytes as f64).sum::<f64>() / bytes.len() as f64;
        Some(Sync { name, mean_bytes, max_bytes })
    };
    let patches =
        |size: fn(&PatchSizes) -> u64| series.pairs().iter().filter_map(|pair| pair.sizes.as_ref()).map(size).collect();
    let full = series.pairs().iter().map(|pair| series.checkpoints[pair.target].file_bytes).collect();
    let ways = [
        sync("contextual", patches(|sizes| sizes.contextual)),
        sync("flat", patches(|sizes| sizes.flat)),
        sync("full copy", full),
    ];
    ways.into_iter().flatten().collect()
}

/// The shortest ends of the paths that tell them apart, without the ending of the files.
fn labels(paths: &[&Path]) -> Vec<String> {
    let end = |path: &Path, parts: usize| {
        let all: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
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

impl Stat {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let (series, sizes) = (Series::open(&self.checkpoints)?, !self.no_sizes);
        let progress = Progress::new(common, "stat", series.work_bytes(sizes));
        let series = series.measure(sizes, progress.control())?;
        drop(progress);
        let paths: Vec<&Path> = series.checkpoints.iter().map(|checkpoint| checkpoint.path.as_path()).collect();
        let report = Report { labels: labels(&paths), syncs: syncs(&series), series: &series, interval: self.interval };
        if let Some(path) = &self.html {
            write_whole(path, existing(self.force), |out| {
                let page = page::page(&report);
                out.write_all(page.as_bytes()).map_err(|source| Error::Io {
                    doing: "writing".into(),
                    path: Some(path.clone()),
                    source,
                })
            })?;
        }
        Ok(Outcome::new(tables::text(&report), json::object(&report)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_as_long_as_it_takes_to_tell_paths_apart() {
        let of = |paths: [&str; 2]| labels(&paths.map(Path::new));
        assert_eq!(of(["/run/step_1.safetensors", "/run/step_2.safetensors"]), ["step_1", "step_2"]);
        assert_eq!(of(["1/model.safetensors", "run/2/model.safetensors"]), ["1/model", "2/model"]);
        assert_eq!(of(["run/step1/", "run/step2/"]), ["step1", "step2"]);
        assert_eq!(of(["a", "a"]), ["a", "a"]);
    }
}
