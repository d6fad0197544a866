//! `pulse inspect`: what is in a patch, and where its bytes go.

mod bytes;
mod damage;
pub(crate) mod glob;
mod json;
mod page;
mod summary;
mod table;
mod tables;
mod tensor;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use pulse::checkpoint::write_whole;
use pulse::patch::Inventory;
use pulse::Error;

use super::failure::{unprinted, Result};
use super::opening::Reading;
use super::writing::existing;
use super::{signals, streams, text, Common, Outcome};
use bytes::Spent;
use damage::Damage;
use glob::Glob;
use tensor::{Sort, Tensor};

/// Show what is in a patch, and where its bytes go.
///
/// Prints a one-screen summary, or the tables requested. A damaged file is shown as far as it can be
/// read; the exit status is then 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse inspect 41.pulse
  pulse inspect 41.pulse --tensors --sort density
  pulse inspect 41.pulse --filter '*.mlp.*' --sort bytes
  pulse inspect 41.pulse --bytes --files
  pulse inspect 41.pulse --html 41.html
  pulse inspect 41.pulse --json
  pulse-inspect 41.pulse")]
pub struct Inspect {
    /// The patch; `-` is standard input.
    #[arg(value_name = "PATCH")]
    pub patch: PathBuf,
    /// Print a table of all tensors, and the full digests.
    #[arg(long)]
    tensors: bool,
    /// Sort the tensors [default: in file order].
    #[arg(long, value_enum, value_name = "BY")]
    sort: Option<Sort>,
    /// Show only tensors matching GLOB (`*`, `?`); without wildcards, names that contain it.
    #[arg(long, value_name = "GLOB")]
    filter: Option<Glob>,
    /// Print a table of where the bytes go.
    #[arg(long)]
    bytes: bool,
    /// Print a table of the target's files.
    #[arg(long)]
    files: bool,
    /// Also write an HTML page: one file, which loads nothing from the network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace FILE if it exists.
    #[arg(long, requires = "html")]
    force: bool,
    /// Limit tables to this width [default: the terminal's; no limit elsewhere].
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(40..))]
    width: Option<u16>,
    #[command(flatten)]
    reading: Reading,
}

/// A patch and everything shown about it.
struct Report<'a> {
    path: String,
    map: &'a Inventory,
    /// All tensors, in file order.
    all: &'a [Tensor<'a>],
    /// The tensors requested, in the order requested.
    shown: Vec<&'a Tensor<'a>>,
    filter: Option<&'a Glob>,
    spent: Spent,
    damage: Option<Damage>,
}

impl Report<'_> {
    /// Whether the patch is a snapshot: it has no base, so nothing in it is a change.
    fn is_snapshot(&self) -> bool {
        self.map.header.as_ref().is_some_and(|header| header.snapshot)
    }

    /// The tensors requested, in file order.
    fn in_file_order(&self) -> impl Iterator<Item = &Tensor<'_>> {
        matching(self.all, self.filter)
    }
}

fn matching<'a>(
    tensors: &'a [Tensor<'a>],
    filter: Option<&'a Glob>,
) -> impl Iterator<Item = &'a Tensor<'a>> {
    tensors.iter().filter(move |tensor| filter.is_none_or(|filter| filter.matches(tensor.name)))
}

/// Writes the object of `--json` for what a file holds, with all of its tensors.
pub(crate) fn write_object(out: &mut dyn Write, path: String, map: &Inventory) -> io::Result<()> {
    let all: Vec<Tensor<'_>> = map.tensors.iter().map(Tensor::new).collect();
    let spent = Spent::on_file(map, all.iter().map(|tensor| tensor.spent));
    let shown = all.iter().collect();
    let damage = Damage::of(map);
    json::write(out, &Report { path, map, all: &all, shown, filter: None, spent, damage })
}

impl Inspect {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        self.html.as_deref().map_or(Ok(()), streams::refuse_page)?;
        let map = self.reading.inspect(&self.patch)?;
        let all: Vec<Tensor<'_>> = map.tensors.iter().map(Tensor::new).collect();
        let mut report = Report {
            path: self.patch.display().to_string(),
            map: &map,
            all: &all,
            shown: Vec::new(),
            filter: self.filter.as_ref(),
            spent: Spent::on_file(&map, all.iter().map(|tensor| tensor.spent)),
            damage: Damage::of(&map),
        };
        report.shown = matching(&all, self.filter.as_ref()).collect();
        if let Some(by) = self.sort {
            tensor::sort(&mut report.shown, by);
        }
        if let Some(path) = &self.html {
            let _deferred = signals::defer();
            let page = page::page(&report);
            write_whole(path, existing(self.force), &[&self.patch], |file| {
                let at = |source| Error::Io {
                    doing: "writing".into(),
                    path: Some(path.clone()),
                    source,
                };
                file.write_all(page.as_bytes()).map_err(at)
            })?;
        }
        // As it is made: names that are written out can be many times as large as the patch.
        let printed = match (common.quiet, common.json) {
            (true, _) => Ok(()),
            (_, true) => text::print_with(|out| json::write(out, &report)),
            (_, false) => text::print_with(|out| self.write_text(out, &report)),
        };
        match (printed, &map.error) {
            (Err(source), None) => Err(unprinted(source)),
            _ => Ok(Outcome::printed(map.error.map(Into::into))),
        }
    }

    /// The tables requested, or the summary.
    fn write_text(&self, out: &mut dyn Write, report: &Report<'_>) -> io::Result<()> {
        let terminal =
            || io::stdout().is_terminal().then(|| console::Term::stdout().size_checked()).flatten();
        let width = self.width.or_else(|| terminal().map(|(_, columns)| columns)).map(usize::from);
        let tensors = self.tensors || self.sort.is_some() || self.filter.is_some();
        if tensors {
            tables::tensors(out, report, width)?;
        }
        if self.bytes {
            let space = if tensors { "\n" } else { "" };
            write!(out, "{space}{}", tables::bytes(report, width))?;
        }
        if self.files {
            let space = if tensors || self.bytes { "\n" } else { "" };
            write!(out, "{space}")?;
            tables::files(out, report, width)?;
        }
        if !(tensors || self.bytes || self.files) {
            out.write_all(summary::screen(report, width).as_bytes())?;
        }
        if let Some(path) = &self.html {
            writeln!(out, "\npage  {}", text::clean(&path.display().to_string()))?;
        }
        Ok(())
    }
}
