//! A vector: a feed with something changed, what the reader has, and what must come of it.

use std::collections::BTreeMap;

use serde_json::{json, Value};

use crate::documents::{digest, payload, record_name, text};
use crate::feeds::{weights, Key, Objects, BEGUN};

/// What a reader served before.
#[derive(Debug, Clone)]
pub struct MarkOf {
    pub run: String,
    pub version: u64,
    pub record: String,
    pub key: Option<String>,
}

/// What must come of a vector.
#[derive(Debug, Clone)]
pub enum Expected {
    Version {
        version: u64,
        digest: String,
    },
    /// One of these kinds.
    Refusal(Vec<&'static str>),
}

#[derive(Debug, Clone)]
pub struct Vector {
    pub name: &'static str,
    pub rules: &'static str,
    pub shows: &'static str,
    pub feed: &'static str,
    objects: Objects,
    pub changes: Objects,
    pub without: Vec<String>,
    pub stretch: BTreeMap<String, usize>,
    pub key: Option<String>,
    pub mark: Option<MarkOf>,
    /// The number of the weights that are held.
    pub held: Option<u64>,
    pub at: Option<u64>,
    pub now: u64,
    pub says: Vec<&'static str>,
    /// The data that is fetched, where the cheapest way is certain.
    pub way: Option<Vec<String>>,
    pub expected: Expected,
}

/// The path of a checkpoint that readers hold.
pub fn held_path(number: u64) -> String {
    format!("held/{number}.safetensors")
}

impl Vector {
    fn new(
        (name, rules): (&'static str, &'static str),
        shows: &'static str,
        (feed, objects): (&'static str, &Objects),
        expected: Expected,
    ) -> Vector {
        Vector {
            name,
            rules,
            shows,
            feed,
            objects: objects.clone(),
            changes: Objects::new(),
            without: Vec::new(),
            stretch: BTreeMap::new(),
            key: None,
            mark: None,
            held: None,
            at: None,
            now: BEGUN + 3_600_000,
            says: Vec::new(),
            way: None,
            expected,
        }
    }

    /// The reader makes this version, as the records of the feed have it.
    pub fn good(
        id: (&'static str, &'static str),
        shows: &'static str,
        feed: (&'static str, &Objects),
        version: u64,
    ) -> Vector {
        let digest = text(&payload(feed.1, &record_name(version)), "target");
        Vector::new(id, shows, feed, Expected::Version { version, digest })
    }

    /// The reader says one of these kinds, which spaces divide.
    pub fn refused(
        id: (&'static str, &'static str),
        shows: &'static str,
        feed: (&'static str, &Objects),
        kinds: &'static str,
    ) -> Vector {
        Vector::new(id, shows, feed, Expected::Refusal(kinds.split(' ').collect()))
    }

    pub fn change(mut self, name: &str, bytes: Vec<u8>) -> Vector {
        assert_ne!(self.objects.get(name), Some(&bytes), "{}: {name} is as it was", self.name);
        self.changes.insert(name.into(), bytes);
        self
    }

    pub fn change_all(self, changes: Objects) -> Vector {
        changes.into_iter().fold(self, |vector, (name, bytes)| vector.change(&name, bytes))
    }

    pub fn without(mut self, name: &str) -> Vector {
        assert!(self.objects.contains_key(name), "{}: there is no {name}", self.name);
        self.without.push(name.into());
        self
    }

    /// An object becomes this long by spaces before its last line feed.
    pub fn stretch(mut self, name: &str, bytes: usize) -> Vector {
        self.stretch.insert(name.into(), bytes);
        self
    }

    pub fn key(mut self, key: Key) -> Vector {
        self.key = Some(key.public());
        self
    }

    /// What was served before is a version of the feed as it was.
    pub fn mark(mut self, version: u64, key: Option<Key>) -> Vector {
        self.mark = Some(MarkOf {
            run: text(&payload(&self.objects, "pulse.json"), "run"),
            version,
            record: digest(&self.objects, version),
            key: key.map(Key::public),
        });
        self
    }

    pub fn held(mut self, number: u64) -> Vector {
        self.held = Some(number);
        self
    }

    pub fn at(mut self, version: u64) -> Vector {
        self.at = Some(version);
        self
    }

    pub fn now(mut self, now: u64) -> Vector {
        self.now = now;
        self
    }

    pub fn says(mut self, what: &'static str) -> Vector {
        self.says.push(what);
        self
    }

    pub fn way(mut self, objects: &[String]) -> Vector {
        self.way = Some(objects.to_vec());
        self
    }

    /// The objects that the reader finds.
    pub fn found(&self) -> Objects {
        let mut found = self.objects.clone();
        found.extend(self.changes.clone());
        found.retain(|name, _| !self.without.contains(name));
        for (name, bytes) in &self.stretch {
            let object = found.get_mut(name).unwrap();
            assert_eq!(object.pop(), Some(b'\n'));
            object.resize(bytes - 1, b' ');
            object.push(b'\n');
        }
        found
    }

    /// Its row of the manifest.
    pub fn row(&self) -> String {
        let mark = self.mark.as_ref().map(|mark| {
            let MarkOf { run, version, record, key } = mark;
            match key {
                Some(key) => json!({"run": run, "version": version, "record": record, "key": key}),
                None => json!({"run": run, "version": version, "record": record}),
            }
        });
        let (version, digest, errors) = match &self.expected {
            Expected::Version { version, digest } => (Some(version), Some(digest), None),
            Expected::Refusal(errors) => (None, None, Some(errors)),
        };
        let fields: [(&str, Value); 17] = [
            ("name", json!(self.name)),
            ("rules", json!(self.rules.split(' ').collect::<Vec<_>>())),
            ("shows", json!(self.shows)),
            ("feed", json!(self.feed)),
            ("changes", json!(self.changes.keys().collect::<Vec<_>>())),
            ("without", json!(self.without)),
            ("stretch", json!(self.stretch)),
            ("key", json!(self.key)),
            ("mark", json!(mark)),
            ("held", json!(self.held.map(held_path))),
            ("at", json!(self.at)),
            ("now", json!(self.now)),
            ("version", json!(version)),
            ("digest", json!(digest)),
            ("says", json!(self.says)),
            ("way", json!(self.way)),
            ("errors", json!(errors)),
        ];
        let is_plain = |value: &Value| match value {
            Value::Null => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            _ => false,
        };
        let fields = fields.into_iter().filter(|(_, value)| !is_plain(value));
        let lines: Vec<String> =
            fields.map(|(name, value)| format!("    \"{name}\": {value}")).collect();
        format!("  {{\n{}\n  }}", lines.join(",\n"))
    }

    /// The checkpoint that the reader holds.
    pub fn held_file(&self) -> Option<(String, Vec<u8>)> {
        self.held.map(|number| (held_path(number), weights(number).to_file()))
    }
}
