//! The JSON object of `--json`; docs/inspect-json.md says what its fields mean.

use std::collections::BTreeMap;
use std::io::{self, Write};

use pulse::hash::Digest;
use pulse::patch::FileEntry;
use pulse::wire::{Action, FileKind, FileState};
use serde::ser::{Serialize, SerializeMap, Serializer};
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

/// Writes the object. What there can be many of, one after the other: tensors, steps and files.
pub fn write(out: &mut dyn Write, report: &Report<'_>) -> io::Result<()> {
    serde_json::to_writer_pretty(text::VisibleJson(out), &Object { few: few(report), report })?;
    out.write_all(b"\n")
}

/// All fields, in the order of their names.
struct Object<'a> {
    few: BTreeMap<String, Value>,
    report: &'a Report<'a>,
}

/// A field of which there can be many.
enum Many<'a> {
    Steps(&'a Report<'a>),
    Tensors(&'a Report<'a>),
    Files(&'a Report<'a>),
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let report = self.report;
        let mut many = BTreeMap::from([
            ("files", Many::Files(report)),
            ("steps", Many::Steps(report)),
            ("tensors", Many::Tensors(report)),
        ]);
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.few {
            while let Some(entry) = many.first_entry().filter(|entry| *entry.key() < name.as_str())
            {
                let (name, values) = entry.remove_entry();
                map.serialize_entry(name, &values)?;
            }
            map.serialize_entry(name, value)?;
        }
        for (name, values) in many {
            map.serialize_entry(name, &values)?;
        }
        map.end()
    }
}

impl Serialize for Many<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Many::Steps(report) => serializer.collect_seq(report.map.ulp_steps.iter().map(step)),
            Many::Tensors(report) => {
                serializer.collect_seq(report.shown.iter().map(|shown| tensor(shown)))
            }
            Many::Files(report) => serializer.collect_seq(report.map.files.iter().map(file)),
        }
    }
}

fn step((step, changes): (&i64, &u64)) -> Value {
    json!({ "step": step, "changes": changes })
}

fn file(file: &FileEntry) -> Value {
    json!({
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
    })
}

fn few(report: &Report<'_>) -> BTreeMap<String, Value> {
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
    let object = json!({
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
        "left_packed": map.left_packed,
        "sections": map.sections.iter().map(|(tag, total)| json!({
            "tag": char::from(tag.0).to_string(),
            "name": tag.name(),
            "count": total.count,
            "bytes": total.bytes,
        })).collect::<Vec<_>>(),
    });
    match object {
        Value::Object(fields) => fields.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}
