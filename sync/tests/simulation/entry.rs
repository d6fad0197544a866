//! Records as FEED.md says that they are, read without the library that is tested.

use pulse::hash::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// An object that a record names.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub object: String,
    pub sha256: Digest,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub version: u64,
    /// SHA-256 of the payload.
    pub digest: Digest,
    pub previous: Option<Digest>,
    pub base: Option<Digest>,
    pub target: Digest,
    pub epoch: u64,
    pub writer: String,
    pub step: Option<u64>,
    pub patch: Option<Named>,
    pub anchor: (u64, Digest, Named),
    pub has_new_key: bool,
    pub ended: bool,
}

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn digest(value: &Value) -> Option<Digest> {
    value.as_str()?.parse().ok()
}

fn named(value: &Value) -> Option<Named> {
    let object = value["object"].as_str()?.to_string();
    Some(Named { object, sha256: digest(&value["sha256"])?, bytes: value["bytes"].as_u64()? })
}

/// Payload of a document whose seal is right.
pub fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (payload, seal) = (lines.next()?, lines.next()?);
    let seal: Value = serde_json::from_slice(seal).ok()?;
    (digest(&seal["sha256"])? == sha256(payload)).then_some(payload)
}

/// A document without signatures.
pub fn seal(payload: &str) -> Vec<u8> {
    let sha256 = sha256(payload.as_bytes());
    format!("{payload}\n{{\"sha256\":\"{sha256}\",\"signatures\":[]}}\n").into_bytes()
}

impl Entry {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let payload = payload(bytes)?;
        let value: Value = serde_json::from_slice(payload).ok()?;
        let anchor = &value["anchor"];
        Some(Entry {
            version: value["version"].as_u64()?,
            digest: sha256(payload),
            previous: digest(&value["previous"]),
            base: digest(&value["base"]),
            target: digest(&value["target"])?,
            epoch: value["epoch"].as_u64()?,
            writer: value["writer"].as_str()?.to_string(),
            step: value["step"].as_u64(),
            patch: named(&value["patch"]),
            anchor: (
                anchor["version"].as_u64()?,
                digest(&anchor["target"])?,
                named(&anchor["data"])?,
            ),
            has_new_key: !value["new_key"].is_null(),
            ended: value["ended"].as_bool().unwrap_or(false),
        })
    }

    pub fn is_change(&self) -> bool {
        self.base != Some(self.target)
    }

    pub fn own_anchor(&self) -> Option<&Named> {
        (self.anchor.0 == self.version).then_some(&self.anchor.2)
    }

    /// Why it cannot follow this one (FEED.md F12).
    pub fn fault_after(&self, before: &Entry) -> Option<String> {
        let what = if self.previous != Some(before.digest) {
            "it does not follow what is there"
        } else if self.base != Some(before.target) {
            "it starts from other weights"
        } else if self.epoch < before.epoch {
            "its writer had been fenced"
        } else if before.ended {
            "the run had ended"
        } else if self.anchor != before.anchor && self.anchor.0 <= before.anchor.0 {
            "its anchor is older"
        } else {
            return None;
        };
        Some(format!("version {}: {what}", self.version))
    }
}

/// The version that the object of this name leads to, and the number of a record.
pub fn version_of(name: &str) -> Option<u64> {
    let (folder, file) = name.split_once('/')?;
    let at = if folder == "skip" { 21 } else { 0 };
    file.get(at..at + 20)?.parse().ok()
}

pub fn record(version: u64) -> String {
    format!("log/{version:020}.json")
}
