//! Records: what makes a version exist (FEED.md §4).

use pulse::hash::Digest;

use crate::document::{digest, seal, Document};
use crate::error::{DocumentFault, Error, Result};
use crate::id::{Run, Writer};
use crate::json::{self, Object};
use crate::key::{PublicKey, SecretKey};
use crate::name;

/// An object with a patch or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Data {
    /// Its name, relative to the feed.
    pub object: String,
    /// SHA-256 of all its bytes.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
}

/// The major version of SPEC.md of the patches in a feed.
const FORMAT: u64 = 1;

impl Data {
    /// Reads a field; the object must be named for this version.
    pub(crate) fn read(fields: &Object, version: u64) -> json::Result<Self> {
        let object = fields.text("object")?;
        if name::version_of(object) != Some(version) || !object.starts_with("data/") {
            return Err(format!("an object of version {version} cannot be named {object:?}"));
        }
        let format = fields.integer("format")?;
        if format != FORMAT {
            return Err(format!(
                "{object} is of patch format {format}, this program knows {FORMAT}"
            ));
        }
        let (sha256, bytes) = (digest(fields, "sha256")?, fields.integer("bytes")?);
        Ok(Data { object: object.into(), sha256, bytes })
    }

    pub(crate) fn write(&self) -> String {
        let fields = json::Writer::new().text("object", &self.object).hex("sha256", &self.sha256.0);
        fields.integer("bytes", self.bytes).integer("format", FORMAT).end()
    }
}

/// An anchor that a record names: a version out of nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The version.
    pub version: u64,
    /// Its checkpoint digest.
    pub target: Digest,
    /// The snapshot.
    pub data: Data,
}

impl Anchor {
    fn read(fields: &Object) -> json::Result<Self> {
        let version = fields.integer("version")?;
        let target = digest(fields, "target")?;
        Ok(Anchor { version, target, data: Data::read(fields.object("data")?, version)? })
    }

    fn write(&self) -> String {
        let fields = json::Writer::new().integer("version", self.version);
        fields.hex("target", &self.target.0).raw("data", &self.data.write()).end()
    }
}

/// What a record has of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    /// Digest of the record before.
    pub previous: Digest,
    /// Digest of the record whose number is this one with its lowest set bit cleared.
    pub back: Digest,
    /// Checkpoint digest of the version before.
    pub base: Digest,
}

/// A record of the log: a version of the weights, and how it follows the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The run.
    pub run: Run,
    /// Its number.
    pub version: u64,
    /// Epoch of the writer: one that starts takes a higher one.
    pub epoch: u64,
    /// Who wrote it.
    pub writer: Writer,
    /// What it follows; `None` in version 0.
    pub links: Option<Links>,
    /// Checkpoint digest of this version (SPEC.md §5).
    pub target: Digest,
    /// The optimizer step.
    pub step: Option<u64>,
    /// When it was written: milliseconds since 1970 by the writer's clock.
    pub time: u64,
    /// The patch that leads here from the version before.
    pub patch: Option<Data>,
    /// The newest anchor that is recorded.
    pub anchor: Anchor,
    /// The newest version whose record has a new key.
    pub rekeyed: Option<u64>,
    /// The key that signs from the next record on.
    pub new_key: Option<PublicKey>,
    /// Whether it is the last of its run.
    pub ended: bool,
}

/// The number with its lowest set bit cleared.
pub(crate) fn back(version: u64) -> u64 {
    version & version.saturating_sub(1)
}

/// The records that lead from `from` back to `to`, both included: by `back` where that does not lead too
/// far, by `previous` elsewhere.
pub(crate) fn path(from: u64, to: u64) -> Vec<u64> {
    let mut path = vec![from];
    let mut at = from;
    while at > to {
        at = if back(at) >= to { back(at) } else { at - 1 };
        path.push(at);
    }
    path
}

impl Record {
    /// Whether it changes the weights.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.links.is_none_or(|links| links.base != self.target)
    }

    /// The anchor of this very version, if it is recorded in it.
    #[must_use]
    pub fn own_anchor(&self) -> Option<&Anchor> {
        Some(&self.anchor).filter(|anchor| anchor.version == self.version)
    }

    pub(crate) fn payload(&self) -> String {
        let fields = json::Writer::new().text("type", "record").hex("run", &self.run.0);
        let fields = fields.integer("version", self.version).integer("epoch", self.epoch);
        let fields = fields.hex("writer", &self.writer.0).optional(self.links, |fields, links| {
            let fields = fields.hex("previous", &links.previous.0).hex("back", &links.back.0);
            fields.hex("base", &links.base.0)
        });
        let fields = fields.hex("target", &self.target.0);
        let fields = fields.optional(self.step, |fields, step| fields.integer("step", step));
        let fields = fields.integer("time", self.time);
        let patch = self.patch.as_ref();
        let fields = fields.optional(patch, |fields, patch| fields.raw("patch", &patch.write()));
        let fields = fields.raw("anchor", &self.anchor.write());
        let fields = fields.optional(self.rekeyed, |fields, at| fields.integer("rekeyed", at));
        let fields = fields.optional(self.new_key, |fields, key| fields.hex("new_key", &key.0));
        fields
            .optional(self.ended.then_some("true"), |fields, ended| fields.raw("ended", ended))
            .end()
    }

    pub(crate) fn seal(&self, keys: &[&SecretKey]) -> Vec<u8> {
        seal(&self.payload(), keys)
    }

    /// Reads what a record says, and checks what it says of itself.
    pub(crate) fn read(name: &str, document: &Document) -> Result<Self> {
        check_formats(name, &document.fields)?;
        let record = Self::fields(&document.fields).map_err(|what| Error::malformed(name, what))?;
        if name::record_version(name) != Some(record.version) {
            let what = format!("it is version {}, not that of its name", record.version);
            return Err(Error::malformed(name, what));
        }
        record.check().map_err(|what| Error::malformed(name, what))?;
        Ok(record)
    }

    fn fields(fields: &Object) -> json::Result<Self> {
        check_type(fields, "record")?;
        let version = fields.integer("version")?;
        let link = |name| Ok::<_, String>(fields.optional_hex(name)?.map(Digest));
        let links = match (link("previous")?, link("back")?, link("base")?) {
            (None, None, None) => None,
            (Some(previous), Some(back), Some(base)) => Some(Links { previous, back, base }),
            _ => return Err("of 'previous', 'back' and 'base' some are missing".into()),
        };
        let patch = fields.optional_object("patch")?;
        Ok(Record {
            run: Run(fields.hex("run")?),
            version,
            epoch: fields.integer("epoch")?,
            writer: Writer(fields.hex("writer")?),
            links,
            target: digest(fields, "target")?,
            step: fields.optional_integer("step")?,
            time: fields.integer("time")?,
            patch: patch.map(|patch| Data::read(patch, version)).transpose()?,
            anchor: Anchor::read(fields.object("anchor")?)?,
            rekeyed: fields.optional_integer("rekeyed")?,
            new_key: fields.optional_hex("new_key")?.map(PublicKey),
            ended: fields.optional_true("ended")?,
        })
    }

    /// F10, F11.
    fn check(&self) -> json::Result<()> {
        let Record { version, links, patch, anchor, rekeyed, new_key, .. } = self;
        let is_own = anchor.version == *version;
        let fault = if self.epoch == 0 {
            "epochs begin with 1"
        } else if (*version == 0) != links.is_none() {
            "version 0 follows nothing, every other one the one before"
        } else if *version % 2 == 1 && links.is_some_and(|links| links.back != links.previous) {
            "the record before it is the one that 'back' leads to, but has another digest there"
        } else if *version == 0 && (patch.is_some() || !is_own) {
            "version 0 has an anchor of itself, and no patch"
        } else if anchor.version > *version {
            "its anchor is of a later version"
        } else if is_own && anchor.target != self.target {
            "its own anchor has another target"
        } else if self.is_change() && patch.is_none() && !is_own {
            "nothing leads to it: it has neither a patch nor an anchor of its own"
        } else if !self.is_change() && patch.is_some() {
            "it changes nothing, but has a patch"
        } else if rekeyed.is_some_and(|at| at > *version)
            || (*rekeyed == Some(*version)) != new_key.is_some()
        {
            "'rekeyed' does not fit 'new_key'"
        } else {
            return Ok(());
        };
        Err(fault.into())
    }
}

/// A record that was read, with the digest that others name it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it says.
    pub record: Record,
    /// SHA-256 of its payload.
    pub digest: Digest,
    document: Document,
}

impl Sealed {
    /// Reads the bytes of the object `name`.
    pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let document = Document::parse(name, bytes)?;
        let record = Record::read(name, &document)?;
        Ok(Sealed { record, digest: document.digest, document: document.without_fields() })
    }

    /// Whether it is of this run, and signed by the key in force and the new one.
    pub(crate) fn check_origin(&self, run: Run, key: Option<&PublicKey>) -> Result<()> {
        let name = name::record(self.record.version);
        check_run(&name, run, self.record.run)?;
        let Some(key) = key else { return Ok(()) };
        self.document.check_signature(&name, key)?;
        let new_key = self.record.new_key.as_ref();
        new_key.map_or(Ok(()), |key| self.document.check_signature(&name, key))
    }

    /// Whether it follows the record before it (F12).
    pub(crate) fn check_follows(&self, before: &Sealed) -> Result<()> {
        let (this, old) = (&self.record, &before.record);
        let version = this.version;
        let broken = |what: String| Err(Error::Chain { version, what });
        let Some(links) = this.links.filter(|_| old.version.checked_add(1) == Some(version)) else {
            return broken(format!("it does not come after version {}", old.version));
        };
        self.check_order(before)?;
        if links.previous != before.digest {
            return broken(format!(
                "it follows a record of digest {}, but version {} has {}",
                links.previous, old.version, before.digest
            ));
        }
        if links.base != old.target {
            return broken(format!(
                "it starts from digest {}, but version {} has {}",
                links.base, old.version, old.target
            ));
        }
        let kept = if this.new_key.is_some() { Some(version) } else { old.rekeyed };
        if this.rekeyed != kept {
            return broken("it names another change of keys than the record before".into());
        }
        Ok(())
    }

    /// Whether nothing goes back that never does, from a record that it leads to (F12, F13).
    fn check_order(&self, earlier: &Sealed) -> Result<()> {
        let (this, old) = (&self.record, &earlier.record);
        let version = this.version;
        let what = if old.ended {
            return Err(Error::Ended { version: old.version });
        } else if this.epoch < old.epoch {
            return Err(Error::Epoch { version, epoch: this.epoch, before: old.epoch });
        } else if this.anchor != old.anchor && this.anchor.version <= old.anchor.version {
            format!("it names another anchor than version {}, but no newer one", old.version)
        } else if this.rekeyed < old.rekeyed {
            format!("it knows nothing of a change of keys that version {} names", old.version)
        } else {
            return Ok(());
        };
        Err(Error::Chain { version, what })
    }

    /// Whether it leads to the record, by `back` or as the next one (F12, F13).
    pub(crate) fn check_leads_to(&self, earlier: &Sealed) -> Result<()> {
        let version = self.record.version;
        let to = earlier.record.version;
        if to.checked_add(1) == Some(version) {
            return self.check_follows(earlier);
        }
        let expected = self.record.links.filter(|_| to == back(version)).map(|links| links.back);
        if expected != Some(earlier.digest) {
            let what = format!("it does not lead back to the record of version {to} that is there");
            return Err(Error::Chain { version, what });
        }
        self.check_order(earlier)
    }
}

/// Data of another format are not damaged, but for a newer program (F8).
fn check_formats(name: &str, fields: &Object) -> Result<()> {
    let patch = fields.optional_object("patch").ok().flatten();
    let anchor = fields.object("anchor").and_then(|anchor| anchor.object("data")).ok();
    for data in patch.into_iter().chain(anchor) {
        if let Some(format) = data.integer("format").ok().filter(|format| *format != FORMAT) {
            return Err(Error::document(name, DocumentFault::Version(format)));
        }
    }
    Ok(())
}

pub(crate) fn check_type(fields: &Object, expected: &str) -> json::Result<()> {
    match fields.text("type")? {
        found if found == expected => Ok(()),
        found => Err(format!("it is of type {found:?}, not \"{expected}\"")),
    }
}

pub(crate) fn check_run(name: &str, expected: Run, found: Run) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::document(name, DocumentFault::Run { expected, found }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f3_what_a_record_says_beyond_its_fields_is_not_held() {
        let data = Data { object: name::data(0, 1), sha256: Digest::default(), bytes: 1 };
        let anchor = Anchor { version: 0, target: Digest::default(), data };
        let record = Record {
            run: Run([0; 16]),
            version: 0,
            epoch: 1,
            writer: Writer([0; 16]),
            links: None,
            target: Digest::default(),
            step: None,
            time: 0,
            patch: None,
            anchor,
            rekeyed: None,
            new_key: None,
            ended: false,
        };
        let more = format!(r#"{{"more":[{}0],"#, r#"{"a":0},"#.repeat(7_000));
        let payload = record.payload().replacen('{', &more, 1);
        let sealed = Sealed::parse(&name::record(0), &seal(&payload, &[])).unwrap();
        assert_eq!(sealed.record, record);
        assert_eq!(sealed.document.fields, Object::default());
    }
}
