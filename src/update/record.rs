//! The journal of an update in place: what each file was and will be, and how to tell.
//!
//! It is written once, before the first byte of the checkpoint changes, and never changed. No state is
//! in it: what is true of a file, its bytes say. Its names are relative to its directory, so that a
//! copy of the directory recovers by itself.
//!
//! One line, `pulse-update 1 LENGTH SHA256`, then as many bytes of JSON with that SHA-256, and nothing
//! more.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk::mark::{Mark, MARK_BYTES};
use crate::hash::Sha;
use crate::wire::FileContent;

const MAGIC: &str = "pulse-update";
const VERSION: &str = "1";
/// Larger than any that this program writes: names, digests and offsets of a million files.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 30;

/// How an update changes the tensor files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Way {
    /// Each file that changes is made whole beside it and takes its name.
    Redo,
    /// The bytes that change are overwritten, with a journal of those of before.
    Undo,
}

impl Way {
    /// The way as a word, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Way::Redo => "redo",
            Way::Undo => "undo",
        }
    }
}

/// What an update does, as its journal says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub id: String,
    pub way: Way,
    /// The checkpoint is the directory of the journal, or one file in it.
    pub directory: bool,
    pub base: State,
    pub target: State,
    /// Every tensor file of base and target, in the order of names.
    pub tensors: Vec<Tensors>,
    /// The companions that change.
    pub companions: Vec<Beside>,
}

/// The base or the target as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    #[serde(with = "hex")]
    pub digest: Digest,
    pub step: Option<u64>,
}

/// A file of tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tensors {
    pub name: String,
    /// None if the update creates it.
    pub base: Option<Head>,
    /// None if the update removes it.
    pub target: Option<Head>,
    /// It bears the mark while the update runs.
    pub marked: bool,
    /// Number of the file that takes its name.
    pub staged: Option<u32>,
}

/// What is known of a tensor file but for its tensors, which the digest of the checkpoint is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// Size of the file.
    pub bytes: u64,
    /// The first eight bytes, in whose place the mark stands.
    pub length: u64,
    /// SHA-256 of the header, its length field included.
    #[serde(with = "hex")]
    pub header: Digest,
    /// The tensors that are named with their file, which an index decides that may change on the way.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub qualified: BTreeSet<String>,
}

impl Head {
    pub fn first(&self) -> [u8; MARK_BYTES] {
        self.length.to_le_bytes()
    }
}

/// A companion that is created, replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Beside {
    pub name: String,
    pub base: Option<Content>,
    pub target: Option<Content>,
    /// Number of the file that takes its name, if one does.
    pub number: u32,
}

/// All bytes of a companion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub bytes: u64,
    #[serde(with = "hex")]
    pub sha256: Digest,
}

impl From<FileContent> for Content {
    fn from(FileContent { bytes, sha256 }: FileContent) -> Self {
        Content { bytes, sha256 }
    }
}

impl Record {
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers and strings have a JSON text.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let line = format!("{MAGIC} {VERSION} {} {}\n", json.len(), Sha::of(&[&json]));
        [line.as_bytes(), &json].concat()
    }

    /// What a journal says, if it is whole.
    pub fn read(bytes: &[u8], mark: Mark) -> Result<Self, String> {
        let end = bytes.iter().take(200).position(|byte| *byte == b'\n');
        let (line, json) = bytes.split_at(end.ok_or("it does not start as a journal does")?);
        let json = &json[1..];
        let mut words = line.split(|byte| *byte == b' ').map(String::from_utf8_lossy);
        let mut next = || words.next().unwrap_or_default();
        if next() != MAGIC {
            return Err("it does not start as a journal does".into());
        }
        let version = next();
        if version != VERSION {
            return Err(format!("it is of version {version}, and this program knows {VERSION}"));
        }
        if next() != json.len().to_string() || next() != Sha::of(&[json]).to_string() {
            return Err("it is cut short or damaged".into());
        }
        let record: Record = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        record.check(mark).map(|()| record)
    }

    /// Whoever wrote it: its names stay in its directory, and its numbers are those of files.
    fn check(&self, mark: Mark) -> Result<(), String> {
        let something = |base: bool, target: bool| base || target;
        let tensors = self.tensors.iter();
        let tensors =
            tensors.map(|file| (&file.name, something(file.base.is_some(), file.target.is_some())));
        let companions = self.companions.iter();
        let companions = companions
            .map(|file| (&file.name, something(file.base.is_some(), file.target.is_some())));
        let mut names = BTreeSet::new();
        for (name, is_something) in tensors.chain(companions) {
            if !is_one_component(name) || Mark::of_name(name).is_some() || !is_something {
                return Err(format!("it lists {name:?}"));
            }
            if !names.insert(name) {
                return Err(format!("it lists {name:?} twice"));
            }
        }
        if !self.directory && (self.tensors.len() != 1 || !self.companions.is_empty()) {
            return Err("it is of one file, and lists others".into());
        }
        if self.id != mark.id() {
            return Err(format!("it is that of update {}", self.id));
        }
        Ok(())
    }
}

/// Whether a name leads to nowhere but into the directory that it is taken in.
fn is_one_component(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!(components.next(), Some(Component::Normal(found)) if found == name);
    one && components.next().is_none() && !name.contains('\0')
}

/// Digests in hexadecimal digits.
mod hex {
    use super::Digest;
    use serde::{de::Error, Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(mark: Mark) -> Record {
        let qualified = BTreeSet::from(["a.safetensors/x".to_string()]);
        let head = Head { bytes: 12, length: 4, header: Digest([7; 32]), qualified };
        let content = Content { bytes: 2, sha256: Digest([8; 32]) };
        let state = |byte, step| State { digest: Digest([byte; 32]), step };
        Record {
            id: mark.id(),
            way: Way::Redo,
            directory: true,
            base: state(1, Some(40)),
            target: state(2, None),
            tensors: vec![Tensors {
                name: "a.safetensors".into(),
                base: Some(head.clone()),
                target: Some(head),
                marked: true,
                staged: Some(0),
            }],
            companions: vec![Beside {
                name: "config.json".into(),
                base: Some(content),
                target: None,
                number: 1,
            }],
        }
    }

    #[test]
    fn a_journal_reads_back_whole_or_not_at_all() {
        let mark = Mark::random();
        let (record, bytes) = (record(mark), record(mark).to_bytes());
        assert_eq!(Record::read(&bytes, mark), Ok(record));
        for cut in 0..bytes.len() {
            assert!(Record::read(&bytes[..cut], mark).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 4;
            assert!(Record::read(&wrong, mark).is_err(), "{at}");
        }
        assert!(Record::read(&[&bytes[..], b" "].concat(), mark).is_err());
        assert!(Record::read(&bytes, Mark::random()).unwrap_err().contains("of update"));
    }

    /// A journal of one file says nothing of its neighbours.
    #[test]
    fn a_journal_of_one_file_lists_no_other() {
        let mark = Mark::random();
        let mut one = record(mark);
        one.directory = false;
        let refused = |record: &Record| Record::read(&record.to_bytes(), mark).unwrap_err();
        assert!(refused(&one).contains("lists others"));
        let beside = one.companions.remove(0);
        Record::read(&one.to_bytes(), mark).unwrap();
        one.tensors.push(Tensors { name: "b".into(), ..one.tensors[0].clone() });
        assert!(refused(&one).contains("lists others"));
        one.tensors.pop();
        one.companions.push(beside);
        assert!(refused(&one).contains("lists others"));
    }

    #[test]
    fn the_names_of_a_journal_stay_in_its_directory() {
        let mark = Mark::random();
        for name in ["", "..", "../a", "/a", "a/b", &mark.journal()] {
            let mut wrong = record(mark);
            wrong.companions[0].name = name.into();
            let error = Record::read(&wrong.to_bytes(), mark).unwrap_err();
            assert!(error.contains("it lists"), "{error}");
        }
        let mut twice = record(mark);
        twice.companions[0].name = "a.safetensors".into();
        assert!(Record::read(&twice.to_bytes(), mark).unwrap_err().contains("twice"));
    }
}
