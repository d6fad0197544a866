//! `pulse stat`: what changed between two checkpoints, without writing a patch.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use pulse::{Action, Checkpoint, Result, TensorStat};
use serde_json::json;

use super::progress::Progress;
use super::steps::{self, STEPS};
use super::{text, Common, Outcome};

/// Measure density and step sizes between two checkpoints.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse stat step_0040.safetensors step_0041.safetensors
  pulse stat run/step40/ run/step41/ --json")]
pub struct Stat {
    /// The earlier checkpoint.
    #[arg(value_name = "BASE")]
    base: PathBuf,
    /// The later checkpoint.
    #[arg(value_name = "TARGET")]
    target: PathBuf,
}

fn action_name(stat: &TensorStat) -> &'static str {
    stat.action.map_or("unchanged", Action::name)
}

impl Stat {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let (base, target) = (Checkpoint::open(&self.base)?, Checkpoint::open(&self.target)?);
        let progress = Progress::new(common, "stat", target.tensor_bytes());
        let stats = pulse::stat(&base, &target, progress.parallel())?;
        drop(progress);
        let mut steps = BTreeMap::<i64, u64>::new();
        for (step, number) in stats.iter().flat_map(|stat| &stat.steps) {
            *steps.entry(*step).or_default() += number;
        }
        let changes: u64 = stats.iter().map(|stat| stat.changes).sum();
        let elements: u64 =
            stats.iter().filter(|stat| stat.action != Some(Action::Deleted)).map(|stat| stat.spec.elements()).sum();
        let text = [
            tensor_table(&stats),
            text::facts(&[(
                "changes",
                format!(
                    "{} of {} elements ({})",
                    text::count(changes),
                    text::count(elements),
                    text::percent(changes, elements)
                ),
            )]),
            histogram(&steps),
        ];
        let json = json!({
            "changes": changes,
            "elements": elements,
            "density": text::ratio(changes, elements),
            "steps": steps.iter().map(|(step, number)| json!([step, number])).collect::<Vec<_>>(),
            "tensors": stats.iter().map(|stat| json!({
                "name": stat.name,
                "dtype": stat.spec.dtype().name(),
                "shape": stat.spec.shape(),
                "action": action_name(stat),
                "changes": stat.changes,
                "elements": stat.spec.elements(),
                "density": text::ratio(stat.changes, stat.spec.elements()),
            })).collect::<Vec<_>>(),
        });
        Ok(Outcome::new(text.join("\n"), json))
    }
}

fn tensor_table(stats: &[TensorStat]) -> String {
    let row = |stat: &TensorStat| {
        vec![
            stat.name.clone(),
            stat.spec.to_string(),
            action_name(stat).into(),
            text::count(stat.changes),
            text::percent(stat.changes, stat.spec.elements()),
        ]
    };
    text::table(&["tensor", "dtype, shape", "", "changes", "density"], &stats.iter().map(row).collect::<Vec<_>>())
}

/// Share of the steps by size, with a bar and the share of the negative ones.
fn histogram(steps: &BTreeMap<i64, u64>) -> String {
    let total: u64 = steps.values().sum();
    let rows: Vec<Vec<String>> = STEPS
        .iter()
        .map(|&(low, high, name)| {
            let (number, negative) = steps::count(steps, low, high);
            let bar = "#".repeat((40.0 * text::ratio(number, total)).round() as usize);
            vec![name.into(), text::count(number), text::percent(number, total), text::percent(negative, number), bar]
        })
        .collect();
    // The bars read better from the left.
    let width = rows.iter().map(|row| row[4].len()).max().unwrap_or(0);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|mut row| {
            row[4] = format!("{:<width$}", row[4]);
            row
        })
        .collect();
    text::table(&["step, ULPs", "changes", "share", "negative", ""], &rows)
}
