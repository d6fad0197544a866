//! The JSON object of `--json`; docs/inspect-json.md says what its fields mean.

use std::collections::BTreeMap;

use pulse::hash::Digest;
use pulse::wire::{Action, FileKind, FileState};
use serde_json::{json, Value};

use super::bytes::{Spent, Use};
use super::summary::{self, LINES};
use super::tensor::Tensor;
use super::Report;
use crate::text;

/// Incremented when a field is removed or changes its meaning, not when one is added.
const SCHEMA: u64 = 1;

fn digest(digest: Option<Digest>) -> Option<String> {
    digest.map(|digest| digest.to_string())
}

fn by_use(spent: &Spent, uses: &[Use]) -> BTreeMap<&'static str, u64> {
    uses.iter().map(|&what| (what.name(), spent.on(what))).collect()
}

fn tensor(tensor: &Tensor<'_>) -> Value {
    json!({
        "name": tensor.name,
        "action": tensor.action.name(),
        "complete": tensor.complete,
        "dtype": tensor.spec.map(|spec| spec.dtype().name()),
        "shape": tensor.spec.map(|spec| spec.shape()),
        "changes": tensor.changes,
        "elements": tensor.elements,
        "density": tensor.density(),
        "bytes": tensor.bytes,
        "blocks": tensor.blocks,
        "bytes_for": by_use(&tensor.spent, Use::OF_TENSORS),
        "base_digest": digest(tensor.base),
        "target_digest": digest(tensor.target),
    })
}

pub fn object(report: &Report<'_>) -> Value {
    let map = report.map;
    let header = map.header.as_ref().map(|header| {
        json!({
            "snapshot": header.snapshot,
            "block_leaves": header.block_leaves,
            "run": header.run.map(|run| text::hex(&run)),
            "base_step": header.base_step,
            "target_step": header.target_step,
            "base_digest": digest(header.base_digest),
            "metadata": header.metadata,
        })
    });
    let footer = map.footer.map(|footer| {
        json!({
            "tensors": footer.tensors,
            "changes": footer.changes,
            "target_tensors": footer.target_tensors,
            "target_elements": footer.target_elements,
            "target_bytes": footer.target_bytes,
            "base_digest": digest(footer.base),
            "target_digest": footer.target.to_string(),
            "sha256": footer.sha256.to_string(),
        })
    });
    let damage = report.damage.as_ref().map(|damage| {
        json!({
            "kind": damage.kind,
            "offset": damage.offset,
            "section": damage.section,
            "tensor": damage.tensor,
            "block": damage.block,
            "message": damage.message,
            "advice": damage.advice,
        })
    });
    let transfer = LINES.map(|(megabits, _)| {
        json!({
            "megabits_per_second": megabits,
            "patch_seconds": text::transfer(map.file_bytes, megabits),
            "full_seconds": summary::full_copy(map).map(|bytes| text::transfer(bytes, megabits)),
        })
    });
    let count = |action: Action| report.all.iter().filter(|tensor| tensor.action == action).count();
    json!({
        "schema": SCHEMA,
        "format": map.version.map(|(major, minor)| json!({ "major": major, "minor": minor })),
        "file_bytes": map.file_bytes,
        "good_bytes": map.good_bytes,
        "full_copy_bytes": summary::full_copy(map),
        "error": map.error.as_ref().map(ToString::to_string),
        "damage": damage,
        "header": header,
        "footer": footer,
        "actions": {
            "patched": count(Action::Patched), "added": count(Action::Added),
            "replaced": count(Action::Replaced), "deleted": count(Action::Deleted),
        },
        "bytes_for": by_use(&report.spent, &Use::ALL),
        "transfer": transfer,
        "steps": map.ulp_steps.iter().map(|(step, changes)| json!({ "step": step, "changes": changes })).collect::<Vec<_>>(),
        "tensors": report.shown.iter().map(|shown| tensor(shown)).collect::<Vec<_>>(),
        "files": map.files.iter().map(|file| json!({
            "name": file.record.name,
            "companion": file.record.kind == FileKind::Companion,
            "state": file.record.state.name(),
            "carried": file.record.state.is_carried(),
            "bytes": file.record.bytes,
            "sha256": file.record.sha256.to_string(),
            "base": match file.record.state {
                FileState::Replaced(base) => json!({
                    "bytes": base.bytes,
                    "sha256": base.sha256.to_string(),
                }),
                _ => json!(null),
            },
        })).collect::<Vec<_>>(),
        "sections": map.sections.iter().map(|(tag, total)| json!({
            "tag": char::from(tag.0).to_string(),
            "name": tag.name(),
            "count": total.count,
            "bytes": total.bytes,
        })).collect::<Vec<_>>(),
    })
}
