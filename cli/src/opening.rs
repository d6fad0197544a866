//! Opening patches with the limits that were asked for.

use std::path::Path;

use clap::Args;
use pulse::patch::Inventory;
use pulse::{Limits, Patch};

use crate::failure::Result;
use crate::streams;

/// Limits of the reader, for every command that reads patches.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    /// Change a limit of the reader, such as target_bytes=20GiB; may be given several times.
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = parse_limit, help_heading = "Reading patches")]
    limits: Vec<(&'static str, u64)>,
}

/// "target_bytes=20GiB" to name and value.
fn parse_limit(text: &str) -> Result<(&'static str, u64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let names = || Limits::NAMES.join(", ");
    let name = Limits::NAMES
        .iter()
        .find(|known| **known == name)
        .ok_or_else(|| format!("no limit is named {name}; the limits are {}", names()))?;
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &value[digits.len()..] {
        "" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => {
            return Err(format!("unknown unit {other}; use kB, MB, GB, TB, KiB, MiB, GiB or TiB"))
        }
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{value} is not a whole number below 2^64"))?;
    let value = number.checked_mul(unit).ok_or_else(|| format!("{value} exceeds 64 bits"))?;
    Ok((name, value))
}

impl Reading {
    fn limits(&self) -> Limits {
        self.limits.iter().fold(Limits::default(), |limits, (name, value)| {
            // The name was checked when it was read.
            limits.clone().with(name, *value).unwrap_or(limits)
        })
    }

    /// Opens a patch; `-` is standard input.
    pub(crate) fn patch(&self, path: &Path) -> Result<Patch> {
        Ok(Patch::open(input(path)?, self.limits())?)
    }

    /// Reads all that a patch holds, as far as it goes.
    pub(crate) fn inspect(&self, path: &Path) -> Result<Inventory> {
        Ok(Inventory::inspect(input(path)?, self.limits())?)
    }
}

/// The file to read for a patch.
fn input(path: &Path) -> Result<&Path> {
    if streams::is_stream(path) {
        streams::spooled()
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names_and_units() {
        assert_eq!(parse_limit("tensors=7"), Ok(("tensors", 7)));
        assert_eq!(parse_limit("target_bytes=20GiB"), Ok(("target_bytes", 20 << 30)));
        assert_eq!(parse_limit("section_bytes=3MB"), Ok(("section_bytes", 3_000_000)));
        for wrong in [
            "tensors",
            "tensor=7",
            "tensors=",
            "tensors=x",
            "tensors=7XB",
            "tensors=99999999999TiB",
        ] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
    }
}
