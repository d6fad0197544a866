//! A tensor of a patch and its counts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use clap::ValueEnum;
use pulse::dtype::TensorSpec;
use pulse::hash::Digest;
use pulse::patch::TensorEntry;
use pulse::wire::Action;

use super::bytes::Spent;
use crate::layers::{Measured, Other};
use crate::text;

pub struct Tensor<'a> {
    pub name: &'a str,
    pub spec: Option<&'a TensorSpec>,
    pub action: Action,
    /// Whether the file holds all of it.
    pub complete: bool,
    /// Changes found in the blocks: a broken file may lack the trailer.
    pub changes: u64,
    pub elements: u64,
    pub bytes: u64,
    /// Codings of the blocks and how many use each.
    pub blocks: BTreeMap<&'static str, u64>,
    pub spent: Spent,
    pub base: Option<Digest>,
    pub target: Option<Digest>,
}

/// Order of the tensors; numbers descend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    Name,
    Bytes,
    Changes,
    Density,
}

impl<'a> Tensor<'a> {
    pub fn new(mapped: &'a TensorEntry) -> Self {
        let mut blocks = BTreeMap::new();
        for block in &mapped.blocks {
            *blocks.entry(block.coding().name()).or_default() += 1;
        }
        let spec = mapped.header.spec.as_ref();
        Tensor {
            name: &mapped.header.name,
            spec,
            action: mapped.header.action,
            complete: mapped.end.is_some(),
            changes: mapped.blocks.iter().map(|block| block.changes()).sum(),
            elements: spec.map_or(0, TensorSpec::elements),
            bytes: mapped.bytes,
            blocks,
            spent: Spent::on_tensor(mapped),
            base: mapped.end.and_then(|end| end.base),
            target: mapped.end.and_then(|end| end.target),
        }
    }

    pub fn density(&self) -> f64 {
        text::ratio(self.changes, self.elements)
    }

    /// What happens to it, or that the file is broken within it.
    pub fn state(&self) -> &'static str {
        if self.complete {
            self.action.name()
        } else {
            "broken"
        }
    }

    /// In a snapshot nothing happens to a tensor; it is there.
    pub fn state_in_snapshot(&self) -> &'static str {
        if self.complete {
            "whole"
        } else {
            "broken"
        }
    }

    /// "contextual 3, flat 1"
    pub fn codings(&self) -> String {
        self.blocks
            .iter()
            .map(|(name, number)| format!("{name} {number}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub fn shape(&self) -> String {
        self.spec.map_or("-".into(), ToString::to_string)
    }

    pub fn measured(&self) -> Measured<'a> {
        let other = match self.action {
            _ if !self.complete => Some(Other::Broken),
            Action::Added => Some(Other::Added),
            Action::Replaced => Some(Other::Replaced),
            Action::Deleted => Some(Other::Deleted),
            _ => None,
        };
        Measured { name: self.name, changes: self.changes, elements: self.elements, other }
    }
}

/// Sorts tensors; equal ones keep their order in the file.
pub fn sort(tensors: &mut [&Tensor<'_>], by: Sort) {
    match by {
        Sort::Name => tensors.sort_by_key(|tensor| tensor.name),
        Sort::Bytes => tensors.sort_by_key(|tensor| Reverse(tensor.bytes)),
        Sort::Changes => tensors.sort_by_key(|tensor| Reverse(tensor.changes)),
        Sort::Density => tensors.sort_by(|a, b| b.density().total_cmp(&a.density())),
    }
}
