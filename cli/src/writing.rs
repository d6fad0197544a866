//! How patches and other outputs are written, and what is said of them: shared by several commands.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use pulse::checkpoint::Existing;
use pulse::coding::{Coding, ValueForm};
use pulse::stream::EncoderOptions;
use pulse::wire::{Action, Footer};
use serde_json::json;

use crate::failure::{usage, Result};
use crate::text;

/// How a patch is written, for every command that writes one.
#[derive(Debug, Args)]
pub(crate) struct Writing {
    /// How blocks are coded [default: contextual, or flat if --values is given].
    #[arg(long, value_enum)]
    coding: Option<CodingArg>,
    /// How values of flat blocks are expressed [default: step].
    #[arg(long, value_enum)]
    values: Option<ValuesArg>,
    /// A string to store in the header; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_meta)]
    meta: Vec<(String, String)>,
    /// Size of a block, in leaves of 64 KiB.
    #[arg(long, value_name = "LEAVES", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=64))]
    block: u64,
    /// Level of zstd.
    #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodingArg {
    /// Gaps within exponent classes of the base; smallest.
    Contextual,
    /// Readable without the base.
    Flat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ValuesArg {
    /// Signed distance in ULPs; smallest.
    Step,
    /// Bits that flip.
    Xor,
    /// Bits of the target; applying twice is harmless.
    Overwrite,
}

fn parse_meta(pair: &str) -> Result<(String, String), String> {
    let (key, value) = pair.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// What `--force` allows.
pub(crate) fn existing(force: bool) -> Existing {
    if force {
        Existing::Replace
    } else {
        Existing::Refuse
    }
}

impl Writing {
    /// Refuses a value form that would not be used.
    pub(crate) fn check(&self) -> Result<()> {
        match (self.coding, self.values) {
            (Some(CodingArg::Contextual), Some(_)) => {
                usage("--values applies to flat blocks only: contextual blocks always hold steps")
            }
            _ => Ok(()),
        }
    }

    /// Whether coding or value form was asked for.
    pub(crate) fn is_chosen(&self) -> bool {
        self.coding.is_some() || self.values.is_some()
    }

    pub(crate) fn options(&self) -> EncoderOptions {
        let values = match self.values {
            None | Some(ValuesArg::Step) => ValueForm::UlpStep,
            Some(ValuesArg::Xor) => ValueForm::Xor,
            Some(ValuesArg::Overwrite) => ValueForm::Overwrite,
        };
        let coding = match (self.coding, self.values) {
            (Some(CodingArg::Flat), _) | (None, Some(_)) => Coding::Flat,
            (Some(CodingArg::Contextual), _) | (None, None) => Coding::Contextual,
        };
        let options = EncoderOptions::default()
            .with_coding(coding)
            .with_values(values)
            .with_block_leaves(self.block)
            .with_level(self.level);
        self.meta.iter().fold(options, |options, (key, value)| options.with_metadata(key, value))
    }
}

/// Tensors of the target by what happened to them, for people and for programs.
pub(crate) fn tensor_counts(
    counts: &BTreeMap<Action, u64>,
    footer: &Footer,
) -> (String, serde_json::Value) {
    let actions = [Action::Patched, Action::Added, Action::Replaced, Action::Deleted];
    let number = |action| counts.get(&action).copied().unwrap_or(0);
    // The footer of a patch that was made without a base repeats what others said.
    let changed = actions[..3].iter().map(|&action| number(action)).sum();
    let unchanged = footer.target_tensors.saturating_sub(changed);
    let mut words: Vec<String> = Vec::new();
    for action in actions {
        if number(action) > 0 {
            words.push(format!("{} {}", text::count(number(action)), action.name()));
        }
    }
    words.push(format!("{} unchanged", text::count(unchanged)));
    let json = json!({
        "patched": number(Action::Patched), "added": number(Action::Added),
        "replaced": number(Action::Replaced), "deleted": number(Action::Deleted), "unchanged": unchanged,
    });
    (words.join(", "), json)
}

/// "1,212 of 65,536 elements (1.849%)".
pub(crate) fn changes(footer: &Footer) -> String {
    format!(
        "{} of {} elements ({})",
        text::count(footer.changes),
        text::count(footer.target_elements),
        text::percent(footer.changes, footer.target_elements)
    )
}
