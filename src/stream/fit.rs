//! Whether the tensors of a base are those that a patch expects.

use crate::dtype::TensorSpec;
use crate::error::{BaseMismatch, Reshaped};
use crate::wire::Action;

/// How a tensor of a patch does not fit the base, which holds `held` under its name.
pub(crate) fn misfit(
    name: &str,
    action: Action,
    spec: Option<&TensorSpec>,
    held: Option<&TensorSpec>,
) -> String {
    let in_base = held.map_or("is not there".to_string(), |held| format!("is {held}"));
    let in_patch = spec.map_or(String::new(), |spec| format!(" {spec}"));
    format!(
        "the patch does not fit its base: tensor '{name}' {in_base}, but in the patch it is {}{in_patch}",
        action.name()
    )
}

/// Notes how the tensors of the base differ from those that the patch expects, as far as it names
/// them: `named` are the tensors of the patch, with the specs that it gives them.
pub(crate) fn compare_tensors<'a>(
    mismatch: &mut BaseMismatch,
    target_tensors: u64,
    named: impl Iterator<Item = (&'a str, Action, Option<&'a TensorSpec>)>,
    base_tensors: u64,
    in_base: impl Fn(&str) -> Option<&'a TensorSpec>,
) {
    let mut expected_tensors = target_tensors;
    for (name, action, spec) in named {
        match (action, spec, in_base(name)) {
            (Action::Added, _, Some(_)) => mismatch.extra.push(name.into()),
            (Action::Patched, Some(expected), Some(found)) if expected != found => {
                let (expected, found) = (expected.to_string(), found.to_string());
                mismatch.reshaped.push(Reshaped { tensor: name.into(), expected, found });
            }
            (Action::Patched | Action::Replaced | Action::Deleted, _, None) => {
                mismatch.missing.push(name.into());
            }
            _ => {}
        }
        expected_tensors = match action {
            Action::Added => expected_tensors.saturating_sub(1),
            Action::Deleted => expected_tensors.saturating_add(1),
            Action::Patched | Action::Replaced => expected_tensors,
        };
    }
    mismatch.tensors = Some((expected_tensors, base_tensors));
}
