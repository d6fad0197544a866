//! Density by layer and module, from tensor names.

use std::collections::{BTreeMap, BTreeSet};

use pulse::measure::module_of;

use super::html::{self, Cell, Column, HeatMap, Html};
use super::text;

/// What can happen to a tensor, other than that some elements change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    Added,
    Replaced,
    Deleted,
    Broken,
}

impl Other {
    const ALL: [Other; 4] = [Other::Added, Other::Replaced, Other::Deleted, Other::Broken];

    fn mark(self) -> &'static str {
        match self {
            Other::Added => "+",
            Other::Replaced => "~",
            Other::Deleted => "−",
            Other::Broken => "!",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Other::Added => "added",
            Other::Replaced => "replaced",
            Other::Deleted => "deleted",
            Other::Broken => "broken",
        }
    }
}

/// The counts of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured<'a> {
    pub name: &'a str,
    pub changes: u64,
    pub elements: u64,
    /// What happened to it, if a density does not say it.
    pub other: Option<Other>,
}

/// Stack, layer and module of a tensor, from its name: "model.layers.12.mlp.experts.7.up.weight" is
/// in layer 12 of the stack "model.layers", and its module is "mlp.experts.*.up". These are the
/// parts of [`module_of`], with the number of the layer.
fn place(name: &str) -> Option<(String, u64, String)> {
    let module = module_of(name);
    let segments: Vec<&str> = module.split('.').collect();
    let at = segments.iter().position(|segment| *segment == "*")?;
    let layer = name.split('.').nth(at)?.parse().ok()?;
    let rest = segments[at + 1..].join(".");
    // A layer that is one module has no name beside its weight.
    let rest = if rest.is_empty() && name.ends_with(".weight") { "weight".into() } else { rest };
    (!rest.is_empty()).then(|| (segments[..at].join("."), layer, rest))
}

/// Tensors in the same layer and module; all experts of a layer are one group.
#[derive(Debug, Default)]
struct Group {
    tensors: u64,
    changes: u64,
    elements: u64,
    other: Option<Other>,
}

#[derive(Debug, Default)]
struct Stack {
    modules: BTreeSet<String>,
    layers: BTreeMap<u64, BTreeMap<String, Group>>,
}

/// Names are arbitrary. A stack with more cells than this is shown as a list.
const CELLS_MAX: usize = 1 << 14;
/// Stacks that are shown as maps, at most; a model has one or two.
const STACKS_MAX: usize = 64;

impl Stack {
    fn cell(&self, layer: u64, module: &str) -> Cell {
        let Some(group) = self.layers.get(&layer).and_then(|modules| modules.get(module)) else {
            return Cell::Empty;
        };
        let tensors = if group.tensors > 1 {
            format!(", {} tensors", text::count(group.tensors))
        } else {
            String::new()
        };
        let module = text::cell(module, text::CELL_CHARS);
        let title = |what: &str| format!("layer {layer}, {module}{tensors}: {what}");
        if let Some(other) = group.other {
            return Cell::Mark { mark: other.mark(), title: title(other.name()) };
        }
        if group.changes == 0 {
            return Cell::Empty;
        }
        let (changes, elements) = (text::count(group.changes), text::count(group.elements));
        let density = text::percent(group.changes, group.elements);
        let title = title(&format!("{density}, {changes} of {elements} elements"));
        Cell::Heat {
            share: text::ratio(group.changes, group.elements),
            elements: group.elements,
            title,
        }
    }
}

/// Heat maps of the stacks of layers, and a list of the tensors outside of any.
pub fn figure(tensors: &[Measured<'_>]) -> Html {
    let mut stacks = BTreeMap::<String, Stack>::new();
    for tensor in tensors {
        let Some((stack, layer, module)) = place(tensor.name) else { continue };
        let stack = stacks.entry(stack).or_default();
        stack.modules.insert(module.clone());
        let group = stack.layers.entry(layer).or_default().entry(module).or_default();
        group.tensors += 1;
        // Shapes are arbitrary as well.
        group.changes = group.changes.saturating_add(tensor.changes);
        group.elements = group.elements.saturating_add(tensor.elements);
        group.other = group.other.or(tensor.other);
    }
    stacks.retain(|_, stack| stack.modules.len().saturating_mul(stack.layers.len()) <= CELLS_MAX);
    // The largest of them, in case there are many.
    let mut sizes: Vec<(usize, String)> = stacks
        .iter()
        .map(|(name, stack)| (stack.layers.values().map(BTreeMap::len).sum(), name.clone()))
        .collect();
    sizes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    sizes.iter().skip(STACKS_MAX).for_each(|(_, name)| _ = stacks.remove(name));
    let in_stack = |tensor: &&Measured<'_>| {
        place(tensor.name).is_some_and(|(stack, ..)| stacks.contains_key(&stack))
    };
    let others: Vec<_> = tensors.iter().filter(|tensor| !in_stack(tensor)).collect();
    let mut parts = Vec::new();
    for (name, stack) in &stacks {
        let row = |&layer: &u64| {
            (
                layer.to_string(),
                stack.modules.iter().map(|module| stack.cell(layer, module)).collect::<Vec<_>>(),
            )
        };
        let groups = || stack.layers.values().flat_map(BTreeMap::values);
        let met = Other::ALL
            .into_iter()
            .filter(|other| groups().any(|group| group.other == Some(*other)));
        let marks: String =
            met.map(|other| format!("; {} {}", other.mark(), other.name())).collect();
        let map = HeatMap {
            label: &format!("density of {name}"),
            corner: "layer",
            columns: stack.modules.iter().cloned().collect(),
            rows: stack.layers.keys().map(row).collect(),
        };
        parts.push(html::paragraph(
            "note",
            &format!("{name}: percentage of elements changed; empty: no change{marks}"),
        ));
        parts.push(html::heat_map(&map));
    }
    if !others.is_empty() {
        if !parts.is_empty() {
            parts.push(html::paragraph("note", "Tensors outside layers"));
        }
        let row = |tensor: &&Measured<'_>| {
            let density = match tensor.other {
                Some(other) => other.name().into(),
                None => text::percent(tensor.changes, tensor.elements),
            };
            vec![
                tensor.name.into(),
                density,
                text::count(tensor.changes),
                text::count(tensor.elements),
            ]
        };
        let columns = [
            ("tensor", Column::Name),
            ("density", Column::Number),
            ("changes", Column::Number),
            ("elements", Column::Number),
        ];
        let rows: Vec<_> = others.iter().map(row).collect();
        parts.push(html::table("tensors outside layers", &columns, &rows, rows.len() > 1));
    }
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_layer_and_module() {
        let found = |name| {
            place(name).map(|(stack, layer, module)| format!("{stack} | {layer} | {module}"))
        };
        for (name, expected) in [
            ("model.layers.12.self_attn.q_proj.weight", "model.layers | 12 | self_attn.q_proj"),
            (
                "encoder.layer.3.attention.self.key.bias",
                "encoder.layer | 3 | attention.self.key.bias",
            ),
            ("transformer.h.0.ln_1.weight", "transformer.h | 0 | ln_1"),
            ("model.layers.3.mlp.experts.17.up.weight", "model.layers | 3 | mlp.experts.*.up"),
            ("0.weight", " | 0 | weight"),
        ] {
            assert_eq!(found(name).as_deref(), Some(expected));
        }
        for name in [
            "embeddings.word_embeddings.weight",
            "blocks.7",
            "",
            "...",
            "a.+1.b",
            "a.*.b",
            "a.99999999999999999999.b",
        ] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_cannot_ask_for_more_cells_than_there_are_tensors() {
        let names: Vec<String> = (0..1000).map(|i| format!("m.{i}.module{i}")).collect();
        let tensors: Vec<_> = names
            .iter()
            .map(|name| Measured { name, changes: 1, elements: u64::MAX, other: None })
            .collect();
        let figure = format!("{:?}", figure(&tensors));
        assert!(!figure.contains("heatmap") && figure.contains("m.999.module999"));
    }

    #[test]
    fn experts_of_a_layer_share_a_cell() {
        let expert = |name, changes| Measured { name, changes, elements: 100, other: None };
        let tensors = [
            expert("m.0.experts.0.up", 1),
            expert("m.0.experts.1.up", 3),
            expert("m.1.experts.0.up", 2),
        ];
        let figure = format!("{:?}", figure(&tensors));
        assert!(
            figure.contains("layer 0, experts.*.up, 2 tensors: 2.000%, 4 of 200 elements"),
            "{figure}"
        );
    }
}
