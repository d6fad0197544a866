//! `pulse inspect`: what is in a patch, and where every byte of it went.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use pulse::{Account, Action, FileKind, FileSource, Limits, MappedTensor, PatchFile, PatchMap, Result};
use serde_json::{json, Value};

use super::{text, Common, Outcome};

/// Show what is in a patch, and where every byte of it went.
///
/// A damaged file is shown as far as it goes; the exit status is then 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pulse inspect 41.pulse
  pulse inspect 41.pulse --json
  pulse-inspect 41.pulse")]
pub struct Inspect {
    /// The patch.
    #[arg(value_name = "PATCH")]
    pub patch: PathBuf,
}

/// Bytes of signature and version, which belong to no section.
const PRELUDE_BYTES: u64 = 10;

impl Inspect {
    pub fn run(&self, _: &Common) -> Result<Outcome> {
        let mut map = PatchFile::inspect(&self.patch, &Limits::default())?;
        let error = map.error.take();
        let broken = error.as_ref().map(ToString::to_string);
        let mut parts = vec![summary(&self.patch.display().to_string(), &map, broken.as_deref())];
        if !map.tensors.is_empty() {
            parts.push(tensor_table(&map.tensors));
        }
        if !map.files.is_empty() {
            parts.push(file_table(&map));
        }
        parts.push(byte_table(&map));
        let json = describe(&map, broken.as_deref());
        Ok(Outcome { text: parts.join("\n"), json, error })
    }
}

/// What the header says of a step, or a dash.
fn step(step: Option<u64>) -> String {
    step.map_or("-".into(), |step| step.to_string())
}

fn summary(path: &str, map: &PatchMap, broken: Option<&str>) -> String {
    let mut facts = vec![("patch", format!("{path}, {} bytes", text::count(map.file_bytes)))];
    if let Some(header) = &map.header {
        let kind = if header.snapshot { "snapshot" } else { "patch" };
        facts.push(("kind", format!("{kind}, blocks of at most {} leaves", header.block_leaves)));
        facts.push(("steps", format!("{} to {}", step(header.base_step), step(header.target_step))));
        facts.push(("run", header.run.map_or("-".into(), |run| text::hex(&run))));
        facts.extend(header.metadata.iter().map(|(key, value)| ("metadata", format!("{key} = {value}"))));
    }
    if let Some(footer) = &map.footer {
        facts.push(("base", footer.base.map_or("-".into(), |digest| digest.to_string())));
        facts.push(("target", footer.target.to_string()));
        facts.push(("sha256", footer.sha256.to_string()));
        facts.push(("tensors", format!("{} of {}", text::count(footer.tensors), text::count(footer.target_tensors))));
        let density = text::percent(footer.changes, footer.target_elements);
        facts.push((
            "changes",
            format!("{} of {} elements ({density})", text::count(footer.changes), text::count(footer.target_elements)),
        ));
        let bits = 8.0 * text::ratio(map.file_bytes, footer.changes);
        facts.push(("per change", format!("{bits:.2} bits")));
        facts.push((
            "ratio",
            format!(
                "{} than {} of tensors",
                text::times_smaller(footer.target_bytes, map.file_bytes),
                text::bytes(footer.target_bytes)
            ),
        ));
    }
    facts.push((
        "integrity",
        match broken {
            None => "right to the last byte".into(),
            Some(error) => format!("BROKEN after {} good bytes: {error}", text::count(map.good_bytes)),
        },
    ));
    text::facts(&facts)
}

/// Codings of the blocks of a tensor and how many use each.
fn codings(tensor: &MappedTensor) -> BTreeMap<&'static str, u64> {
    let mut codings = BTreeMap::new();
    for block in &tensor.blocks {
        *codings.entry(block.coding().name()).or_default() += 1;
    }
    codings
}

/// Changes found in the blocks, which a broken file may have without a trailer.
fn changes(tensor: &MappedTensor) -> u64 {
    tensor.blocks.iter().map(|block| block.changes()).sum()
}

/// Bytes of a tensor by what they are for, so that they sum up to all of its bytes.
struct Bytes {
    positions: u64,
    signs: u64,
    values: u64,
    tables: u64,
    digests: u64,
    framing: u64,
}

impl Bytes {
    fn of(tensor: &MappedTensor) -> Bytes {
        let mut bits = Account::default();
        let accounts = tensor.blocks.iter().filter_map(|block| block.account());
        accounts.for_each(|account| bits += account);
        // Rounded down; the parts of bytes are counted with the tables.
        let [positions, signs, values] = [bits.positions, bits.signs, bits.values].map(|bits| bits / 8);
        let coded = (bits.positions + bits.signs + bits.values + bits.tables) / 8;
        let end = tensor.end.iter().flat_map(|end| [end.base, end.target]);
        let digests = 32 * end.flatten().count() as u64;
        Bytes {
            positions,
            signs,
            values,
            tables: coded - positions - signs - values,
            digests,
            framing: tensor.bytes - coded - digests,
        }
    }

    fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("positions", self.positions),
            ("signs", self.signs),
            ("values", self.values),
            ("tables", self.tables),
            ("digests", self.digests),
            ("framing", self.framing),
        ]
    }
}

fn elements(tensor: &MappedTensor) -> u64 {
    tensor.header.spec.as_ref().map_or(0, |spec| spec.elements())
}

fn tensor_table(tensors: &[MappedTensor]) -> String {
    let row = |tensor: &MappedTensor| {
        let codings: Vec<String> = codings(tensor).iter().map(|(name, number)| format!("{name} {number}")).collect();
        let (changes, elements) = (changes(tensor), elements(tensor));
        let action = if tensor.end.is_some() { tensor.header.action.name() } else { "broken" };
        let mut row = vec![
            tensor.header.name.clone(),
            tensor.header.spec.as_ref().map_or("-".into(), ToString::to_string),
            action.into(),
            text::count(changes),
            text::percent(changes, elements),
            text::count(tensor.bytes),
            format!("{:.2}", 8.0 * text::ratio(tensor.bytes, changes)),
            codings.join(", "),
        ];
        row.extend(Bytes::of(tensor).named().map(|(_, bytes)| text::count(bytes)));
        row
    };
    let mut head = vec!["tensor", "dtype, shape", "", "changes", "density", "bytes", "bits/change", "blocks"];
    head.extend(["positions", "signs", "values", "tables", "digests", "framing"]);
    text::table(&head, &tensors.iter().map(row).collect::<Vec<_>>())
}

fn file_table(map: &PatchMap) -> String {
    let rows: Vec<Vec<String>> = map
        .files
        .iter()
        .map(|file| {
            let name = if file.record.name.is_empty() { "(the checkpoint)" } else { &file.record.name };
            let kind = match file.record.kind {
                FileKind::Tensors => "tensors",
                FileKind::Companion => "companion",
            };
            let source = match file.record.source {
                FileSource::Base => "as in the base",
                FileSource::Patch => "carried",
            };
            vec![name.into(), kind.into(), source.into(), text::count(file.record.bytes)]
        })
        .collect();
    text::table(&["file", "holds", "", "bytes"], &rows)
}

/// Every byte of the file by the kind of section it belongs to.
fn byte_table(map: &PatchMap) -> String {
    let row = |name: String, count: u64, bytes: u64| {
        let count = if count == 0 { String::new() } else { text::count(count) };
        vec![name, count, text::count(bytes), text::percent(bytes, map.file_bytes)]
    };
    let prelude = map.good_bytes.min(PRELUDE_BYTES);
    let mut rows = vec![row("signature and version".into(), 0, prelude)];
    rows.extend(map.sections.iter().map(|(tag, total)| row(tag.to_string(), total.count, total.bytes)));
    let unread = map.file_bytes.saturating_sub(map.good_bytes);
    if unread > 0 {
        rows.push(row("not readable".into(), 0, unread));
    }
    let sections = map.sections.values().map(|total| total.count).sum();
    rows.push(row("file".into(), sections, map.file_bytes));
    text::table(&["section", "count", "bytes", "share"], &rows)
}

fn describe(map: &PatchMap, broken: Option<&str>) -> Value {
    let digest = |digest: Option<pulse::Digest>| digest.map(|digest| digest.to_string());
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
    let footer = map.footer.as_ref().map(|footer| {
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
    let tensor = |tensor: &MappedTensor| {
        json!({
            "name": tensor.header.name,
            "action": tensor.header.action.name(),
            "complete": tensor.end.is_some(),
            "dtype": tensor.header.spec.as_ref().map(|spec| spec.dtype().name()),
            "shape": tensor.header.spec.as_ref().map(|spec| spec.shape()),
            "changes": changes(tensor),
            "elements": elements(tensor),
            "bytes": tensor.bytes,
            "blocks": codings(tensor),
            "bytes_for": Bytes::of(tensor).named().into_iter().collect::<BTreeMap<_, _>>(),
            "base_digest": digest(tensor.end.and_then(|end| end.base)),
            "target_digest": digest(tensor.end.and_then(|end| end.target)),
        })
    };
    let count = |action: Action| map.tensors.iter().filter(|tensor| tensor.header.action == action).count();
    json!({
        "file_bytes": map.file_bytes,
        "good_bytes": map.good_bytes,
        "error": broken,
        "header": header,
        "footer": footer,
        "actions": {
            "patched": count(Action::Patched), "added": count(Action::Added),
            "replaced": count(Action::Replaced), "deleted": count(Action::Deleted),
        },
        "tensors": map.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "files": map.files.iter().map(|file| json!({
            "name": file.record.name,
            "companion": file.record.kind == FileKind::Companion,
            "carried": file.record.source == FileSource::Patch,
            "bytes": file.record.bytes,
            "sha256": file.record.sha256.to_string(),
        })).collect::<Vec<_>>(),
        "sections": map.sections.iter().map(|(tag, total)| json!({
            "tag": char::from(tag.0).to_string(),
            "name": tag.name(),
            "count": total.count,
            "bytes": total.bytes,
        })).collect::<Vec<_>>(),
    })
}
