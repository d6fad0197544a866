//! What helps to find things and is never trusted: hints and by-products (FEED.md §3).

use pulse::hash::Digest;

use crate::document::{digest, seal, Document};
use crate::error::{Error, Result};
use crate::id::Run;
use crate::json::{self, Object, Value};
use crate::key::{PublicKey, SecretKey};
use crate::name;
use crate::record::{check_run, check_type, Data};

/// The most names of each kind in `hints.json`.
const ANCHORS_MAX: usize = 1_000;
const SKIPS_MAX: usize = 4_000;

/// A document that is no record, of this type and run.
fn open(name: &str, bytes: &[u8], kind: &str, run: Run) -> Result<Document> {
    let document = Document::parse(name, bytes)?;
    let found = check_type(&document.fields, kind).and_then(|()| document.fields.hex("run"));
    check_run(name, run, Run(found.map_err(|what| Error::malformed(name, what))?))?;
    Ok(document)
}

fn begin(kind: &str, run: Run) -> json::Writer {
    json::Writer::new().text("type", kind).hex("run", &run.0)
}

/// `latest.json`: the newest version, and until when a newer hint is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latest {
    /// The version.
    pub version: u64,
    /// Digest of its record.
    pub record: Digest,
    /// When the hint was written.
    pub time: u64,
    /// Until when another one is promised.
    pub expires: u64,
}

impl Latest {
    pub(crate) fn seal(&self, run: Run, key: Option<&SecretKey>) -> Vec<u8> {
        let fields = begin("latest", run).integer("version", self.version);
        let fields = fields.hex("record", &self.record.0).integer("time", self.time);
        seal(&fields.integer("expires", self.expires).end(), key.as_slice())
    }

    /// Reads it. `key` gives the key that is in force at a version, in a signed feed: what signs this is the
    /// key of the next record (F14).
    pub(crate) fn parse(
        bytes: &[u8],
        run: Run,
        key: impl FnOnce(u64) -> Option<PublicKey>,
    ) -> Result<Self> {
        let document = open(name::LATEST, bytes, "latest", run)?;
        let read = |fields: &Object| {
            Ok(Latest {
                version: fields.integer("version")?,
                record: digest(fields, "record")?,
                time: fields.integer("time")?,
                expires: fields.integer("expires")?,
            })
        };
        let latest =
            read(&document.fields).map_err(|what: String| Error::malformed(name::LATEST, what))?;
        if let Some(key) = key(latest.version.saturating_add(1)) {
            document.check_signature(name::LATEST, &key)?;
        }
        Ok(latest)
    }
}

/// `floor.json`: the oldest version whose data is kept.
pub(crate) fn seal_floor(run: Run, version: u64, time: u64) -> Vec<u8> {
    seal(&begin("floor", run).integer("version", version).integer("time", time).end(), &[])
}

pub(crate) fn parse_floor(bytes: &[u8], run: Run) -> Result<u64> {
    let document = open(name::FLOOR, bytes, "floor", run)?;
    let version = document.fields.integer("time").and_then(|_| document.fields.integer("version"));
    version.map_err(|what| Error::malformed(name::FLOOR, what))
}

/// `hints.json`: names of the by-products that exist, the newest last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Hints {
    pub anchors: Vec<String>,
    pub skips: Vec<String>,
}

impl Hints {
    /// The newest of them, as many as there is room for.
    pub fn seal(&self, run: Run) -> Vec<u8> {
        let newest = |names: &[String], max| names[names.len().saturating_sub(max)..].to_vec();
        let (anchors, skips) = (newest(&self.anchors, ANCHORS_MAX), newest(&self.skips, SKIPS_MAX));
        let fields = begin("hints", run).texts("anchors", anchors.iter());
        seal(&fields.texts("skips", skips.iter()).end(), &[])
    }

    pub fn parse(bytes: &[u8], run: Run) -> Result<Self> {
        let document = open(name::HINTS, bytes, "hints", run)?;
        let names = |field: &str, folder: &str, max: usize| {
            let list = document.fields.list(field)?;
            if list.len() > max {
                return Err(format!("field '{field}' has more than {max} names"));
            }
            let name = |value: &Value| match value {
                Value::Text(name) if is_by_product(name, folder) => Ok(name.clone()),
                _ => Err(format!("field '{field}' has what is no name of an object in {folder}/")),
            };
            list.iter().map(name).collect::<json::Result<Vec<String>>>()
        };
        let anchors = names("anchors", name::ANCHOR, ANCHORS_MAX);
        let both = anchors.and_then(|anchors| {
            Ok(Hints { anchors, skips: names("skips", name::SKIP, SKIPS_MAX)? })
        });
        both.map_err(|what| Error::malformed(name::HINTS, what))
    }
}

fn is_by_product(name: &str, folder: &str) -> bool {
    name.split_once('/').is_some_and(|(found, _)| found == folder)
        && name::version_of(name).is_some()
}

/// A skip or an anchor that no record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ByProduct {
    /// Where it starts: version and digest; `None` of an anchor.
    pub from: Option<(u64, Digest)>,
    pub to: u64,
    pub target: Digest,
    pub data: Data,
}

impl ByProduct {
    pub fn name(&self, nonce: u64) -> String {
        match self.from {
            Some((from, _)) => name::skip(from, self.to, nonce),
            None => name::anchor(self.to, nonce),
        }
    }

    pub fn seal(&self, run: Run) -> Vec<u8> {
        let fields = match self.from {
            Some((from, base)) => {
                let fields = begin("skip", run).integer("from", from).integer("to", self.to);
                fields.hex("base", &base.0)
            }
            None => begin("anchor", run).integer("version", self.to),
        };
        let fields = fields.hex("target", &self.target.0).raw("data", &self.data.write());
        seal(&fields.end(), &[])
    }

    /// Reads the object `name`, whose versions are those in its name.
    pub fn parse(name: &str, bytes: &[u8], run: Run) -> Result<Self> {
        let is_skip = is_by_product(name, name::SKIP);
        let document = open(name, bytes, if is_skip { "skip" } else { "anchor" }, run)?;
        let read = |fields: &Object| {
            let to = fields.integer(if is_skip { "to" } else { "version" })?;
            let from = if is_skip {
                Some((fields.integer("from")?, digest(fields, "base")?))
            } else {
                None
            };
            let data = Data::read(fields.object("data")?, to)?;
            let found = ByProduct { from, to, target: digest(fields, "target")?, data };
            // The same but for the nonce.
            let expected = found.name(0);
            let stem = expected.len().saturating_sub("0000000000000000.json".len());
            if name.len() != expected.len() || name.get(..stem) != expected.get(..stem) {
                return Err("its versions are not those of its name".to_string());
            }
            Ok(found)
        };
        read(&document.fields).map_err(|what| Error::malformed(name, what))
    }
}
