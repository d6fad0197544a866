//! The golden files of `testvectors/`: what every reader of the format must accept and refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pulse::stream::Receiver;
use pulse::wire::{FileKind, FileState, Tag};
use pulse::{Limits, Result};
use serde_json::Value;
use testkit::applier::{apply, apply_pushed_within, apply_within, Applied, Trickle};
use testkit::checkpoint::{header_of, Checkpoint, Tensor};
use testkit::vectors::{self, tensors_of};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors")
}

/// The safetensors file of a checkpoint: its only one, if it is a directory.
fn read_checkpoint(path: &str) -> Vec<u8> {
    if directory().join(path).is_dir() {
        read(&format!("{path}/model.safetensors"))
    } else {
        read(path)
    }
}

fn read(path: &str) -> Vec<u8> {
    fs::read(directory().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One row of the manifest.
struct Vector(Value);

impl Vector {
    fn text(&self, key: &str) -> Option<&str> {
        self.0[key].as_str()
    }

    fn name(&self) -> &str {
        self.text("name").expect("a name")
    }

    /// The kinds of error that a reader may give.
    fn errors(&self) -> Vec<&str> {
        let errors = self.0["errors"].as_array().into_iter().flatten();
        errors.map(|kind| kind.as_str().expect("a kind")).collect()
    }

    fn patch(&self) -> Vec<u8> {
        read(self.text("file").expect("a file"))
    }

    /// The base; empty for a snapshot, which has none.
    fn base(&self) -> Checkpoint {
        self.text("base").map(tensors_of).unwrap_or_default()
    }

    /// The defaults, and those that the row lowers.
    fn limits(&self) -> Limits {
        let rows = self.0["limits"].as_object().into_iter().flatten();
        rows.fold(Limits::default(), |limits, (name, value)| {
            limits.with(name, value.as_u64().expect("a number")).expect("a limit")
        })
    }

    fn target(&self) -> Checkpoint {
        tensors_of(self.text("target").expect("a target"))
    }

    fn target_file(&self) -> Vec<u8> {
        read_checkpoint(self.text("target").expect("a target"))
    }
}

fn vectors(list: &str) -> Vec<Vector> {
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("a JSON manifest");
    manifest[list].as_array().expect("a list of vectors").iter().cloned().map(Vector).collect()
}

/// Applies a patch in every way of feeding it, which must all come to the same.
fn apply_in_every_way(vector: &Vector) -> Result<Applied> {
    let (base, patch) = (&vector.base(), &*vector.patch());
    let pulled = |patch: Trickle<'_>| apply_within(vector.limits(), base, patch);
    let pushed = |bytes| apply_pushed_within(vector.limits(), base, patch, bytes);
    let first = apply_within(vector.limits(), base, patch);
    let mut others = vec![pushed(usize::MAX)];
    others.extend([1, 7].map(|bytes| pulled(Trickle::new(patch, bytes))));
    others.extend([1, 7].map(pushed));
    for other in others {
        match (&first, &other) {
            (Ok(first), Ok(other)) => assert_eq!(first, other),
            (Err(first), Err(other)) => assert_eq!(first.to_string(), other.to_string()),
            _ => panic!("fed in one way: {first:?}; in another: {other:?}"),
        }
    }
    first
}

#[test]
fn every_good_vector_makes_its_target_of_its_base() {
    for vector in vectors("good") {
        let name = vector.name();
        let applied = apply_in_every_way(&vector).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(applied.target, vector.target(), "{name}");
        assert_eq!(
            applied.base_digest.map(|digest| digest.to_string()).as_deref(),
            vector.text("base_digest"),
            "{name}"
        );
        assert_eq!(
            Some(&*applied.target.digest().to_string()),
            vector.text("target_digest"),
            "{name}"
        );
    }
}

/// A single safetensors file is its header, from patch or base, and the tensors where that puts them.
#[test]
fn files_are_rebuilt_byte_for_byte() {
    let mut rebuilt = 0;
    for vector in vectors("good") {
        let applied = apply(&vector.base(), &*vector.patch()).expect("a good vector");
        let target = vector.target_file();
        for (record, carried) in &applied.files {
            assert_eq!(
                carried.len() as u64,
                if record.state.is_carried() { record.bytes } else { 0 }
            );
            if record.kind == FileKind::Tensors && record.name.is_empty() {
                let base = vector.text("base").map(read_checkpoint);
                let header = match record.state {
                    FileState::New => carried.as_slice(),
                    _ => header_of(base.as_deref().expect("a base")),
                };
                assert_eq!(header, header_of(&target), "{}", vector.name());
                assert_eq!(vectors::raw::sha256(header), record.sha256, "{}", vector.name());
                rebuilt += 1;
            }
        }
    }
    assert_eq!(rebuilt, 5, "four headers carried, one kept");
}

/// What a receiver makes of weights in memory, fed in chunks of this size.
fn received(vector: &Vector, chunk_bytes: usize) -> Result<Checkpoint> {
    let base = vector.base();
    let held = base
        .tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), (tensor.spec.clone(), tensor.bytes.clone())));
    let held: BTreeMap<_, _> = held.collect();
    let mut weights = held.clone();
    let mut receiver = Receiver::in_memory(&mut weights, vector.limits())?;
    let pushed = vector.patch().chunks(chunk_bytes).try_for_each(|chunk| receiver.push(chunk));
    let result = pushed.and_then(|()| receiver.finish());
    if result.is_err() {
        assert!(weights == held, "{}: the weights were touched", vector.name());
    }
    let tensor = |(name, (spec, bytes))| (name, Tensor { spec, bytes });
    let target = Checkpoint { tensors: weights.into_iter().map(tensor).collect() };
    result.map(|received| {
        assert_eq!(received.target(), target.digest(), "{}", vector.name());
        target
    })
}

const CHUNKS: [usize; 4] = [1, 7, 4096, usize::MAX];

#[test]
fn a_receiver_makes_every_good_target() {
    for (vector, chunk) in
        vectors("good").iter().flat_map(|vector| CHUNKS.map(|chunk| (vector, chunk)))
    {
        let name = vector.name();
        let target = received(vector, chunk)
            .unwrap_or_else(|error| panic!("{name}, chunks of {chunk}: {error}"));
        assert_eq!(target, vector.target(), "{name}, chunks of {chunk}");
    }
}

/// Whatever a patch breaks, and however it arrives: the kind of the manifest, and weights as they were.
#[test]
fn a_receiver_refuses_every_malformed_vector() {
    let mut wrong = Vec::new();
    let vectors = vectors("malformed");
    for (vector, chunk) in vectors.iter().flat_map(|vector| CHUNKS.map(|chunk| (vector, chunk))) {
        let result = received(vector, chunk);
        let found = result.as_ref().map_or_else(|error| error.kind(), |_| "none");
        let rebuilt_only = vector.text("needs") == Some("rebuild");
        let expected = if rebuilt_only { vec!["none"] } else { vector.errors() };
        if !expected.contains(&found) {
            let name = vector.name();
            wrong.push(format!(
                "{name}, chunks of {chunk}: expected {expected:?}, found {found}: {:?}",
                result.err()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_malformed_vector_gives_the_kind_of_error_that_the_manifest_names() {
    let mut wrong = Vec::new();
    for vector in vectors("malformed") {
        let result = apply_in_every_way(&vector);
        let found = result.as_ref().map_or_else(|error| error.kind(), |_| "none");
        // What is wrong with the files shows only to a reader that rebuilds them.
        let rebuilt_only = vector.text("needs") == Some("rebuild");
        let expected = if rebuilt_only { vec!["none"] } else { vector.errors() };
        if !expected.contains(&found) {
            wrong.push(format!(
                "{}: expected {expected:?}, found {found}: {:?}",
                vector.name(),
                result.err()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// SPEC.md §8.1: each field is checked before the next is read, and all fields before what depends on other sections.
#[test]
fn of_several_broken_rules_the_first_in_the_order_of_reading_is_named() {
    use testkit::vectors::raw::fields;
    use testkit::vectors::sample::{block_of, patch};
    let base = Checkpoint::from_file(&read("checkpoints/sample-base.safetensors"));
    let with = |tag, payload| patch().replace(tag, payload).write();
    let keys = fields().u8(0).varint(1).varint(2).string("b").string("").string("a");
    let block = fields().block(2, 0, 1, 2);
    for (what, expected, patch) in [
        ("a key out of order, and no value", "duplicate", with(Tag::HEADER, keys)),
        (
            "a name that shares bytes with none, and no suffix",
            "value",
            with(Tag::TENSOR, fields().varint(1)),
        ),
        (
            "a name that is too long, and not there",
            "limit",
            with(Tag::TENSOR, fields().varint(0).varint(5000)),
        ),
        (
            "a trailer without changes, and without digests",
            "value",
            with(Tag::TENSOR_END, fields().varint(0)),
        ),
        (
            "an exponent that BF16 does not have, and no table",
            "value",
            with(Tag::BLOCK, block.varint(256).u8(1)),
        ),
        ("two values that are not there, and a gap too great", "stream", {
            with(Tag::BLOCK, block_of(2, fields().u8(0x21).stored(&[9, 9]).stored(&[])))
        }),
        ("a file name that leads elsewhere, and nothing after it", "name", {
            patch().add_before(Tag::TENSOR, Tag::FILE, fields().u8(1).string("..")).write()
        }),
    ] {
        let error = apply(&base, &*patch).expect_err(what);
        assert_eq!(error.kind(), expected, "{what}: {error}");
    }
}

/// The bytes of the hex dump of SPEC.md §12: offset, bytes, then what they mean.
#[test]
fn the_example_of_the_spec_is_a_vector() {
    let spec =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).expect("SPEC.md");
    let (_, example) = spec.split_once("\n## 12 Example").expect("an example");
    let mut bytes = Vec::new();
    for line in example.lines() {
        let Some((offset, dump)) = line.trim_start().split_once("  ") else { continue };
        if offset.parse() == Ok(bytes.len()) {
            let (dump, _) = dump.split_once("  ").unwrap_or((dump, ""));
            bytes.extend(dump.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
        }
    }
    assert_eq!(bytes, read("good/spec-example.pulse"));
}

#[test]
fn every_kind_that_a_reader_can_give_has_a_vector() {
    let rows = vectors("malformed");
    let found: BTreeSet<&str> = rows.iter().flat_map(Vector::errors).collect();
    let expected = [
        "base",
        "checkpoint",
        "count",
        "crc",
        "digest",
        "duplicate",
        "file-digest",
        "length",
        "limit",
        "name",
        "order",
        "position",
        "reserved",
        "signature",
        "stream",
        "trailing",
        "truncated",
        "unknown-section",
        "value",
        "varint",
        "version",
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn rules_are_requirements_of_the_spec() {
    let spec =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).expect("SPEC.md");
    for vector in vectors("good").iter().chain(&vectors("malformed")) {
        for rule in vector.0["rules"].as_array().expect("a list of rules") {
            let rule = format!("[{}]", rule.as_str().expect("a number"));
            assert!(spec.contains(&rule), "{}: {rule} is not in SPEC.md", vector.name());
        }
    }
}

#[test]
fn names_are_unique_and_hashes_are_those_of_the_files() {
    let mut names = BTreeSet::new();
    for vector in vectors("good").iter().chain(&vectors("malformed")) {
        assert!(names.insert(vector.name().to_string()), "{} stands twice", vector.name());
        assert_eq!(
            Some(&*vectors::raw::sha256(&vector.patch()).to_string()),
            vector.text("sha256"),
            "{}",
            vector.name()
        );
        assert!(
            vector.text("shows").is_some_and(|shows| shows.ends_with('.')),
            "{}",
            vector.name()
        );
    }
}

/// Compressed bytes depend on the version of zstd: where Cargo.lock moves on, the generator is run again.
#[test]
fn the_generator_writes_what_is_committed() {
    let generated = vectors::files(read);
    let mut committed = BTreeMap::new();
    let mut folders: Vec<String> = ["good", "malformed", "checkpoints"].map(String::from).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(directory().join(&folder)).expect("a folder") {
            let path = format!("{folder}/{}", entry.expect("a file").file_name().to_string_lossy());
            if directory().join(&path).is_dir() {
                folders.push(path)
            } else {
                drop(committed.insert(path.clone(), read(&path)))
            }
        }
    }
    committed.insert("manifest.json".into(), read("manifest.json"));
    assert!(committed.keys().eq(generated.keys()), "files come or go: run the generator again");
    for (path, bytes) in generated {
        assert!(bytes == committed[&path], "{path} differs: run the generator again");
    }
}

/// The functions for files on disk come to the same as reading in memory.
#[cfg(feature = "checkpoint")]
mod on_disk {
    use super::*;
    use pulse::checkpoint::{ApplyOptions, FilePolicy};
    use pulse::tensors::Control;
    use pulse::Patch;

    fn open(vector: &Vector, key: &str) -> Option<pulse::Checkpoint> {
        vector
            .text(key)
            .map(|path| pulse::Checkpoint::open(directory().join(path)).expect("a checkpoint"))
    }

    fn patch(vector: &Vector) -> Result<Patch> {
        Patch::open(directory().join(vector.text("file").expect("a file")), vector.limits())
    }

    /// Checks a patch, on its base if it has one.
    fn verify(patch: &Patch, base: Option<&pulse::Checkpoint>) -> Result<()> {
        match base {
            Some(base) => {
                patch.verify_with_base(base, FilePolicy::Exact, Control::default()).map(drop)
            }
            None => patch.verify(Control::default()),
        }
    }

    #[test]
    fn good_vectors_are_verified() {
        for vector in vectors("good") {
            let (base, target) = (open(&vector, "base"), open(&vector, "target"));
            let patch = patch(&vector).unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            let verified = verify(&patch, base.as_ref()).and_then(|()| match &target {
                Some(target) => {
                    patch.verify_target(target, FilePolicy::Exact, Control::default()).map(drop)
                }
                None => Ok(()),
            });
            verified.unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
        }
    }

    /// The names of a checkpoint's files and their bytes; no name for a single file.
    fn files_of(path: &Path) -> BTreeMap<String, Vec<u8>> {
        if path.is_file() {
            return BTreeMap::from([(String::new(), fs::read(path).expect("a file"))]);
        }
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(path).expect("a directory") {
            let entry = entry.expect("a file");
            let own = entry.file_name().to_string_lossy().to_string();
            for (name, bytes) in files_of(&entry.path()) {
                let name = if name.is_empty() { own.clone() } else { format!("{own}/{name}") };
                files.insert(name, bytes);
            }
        }
        files
    }

    /// R72 to R75, R77, R78: the files of the target, and no others.
    #[test]
    fn good_vectors_that_say_which_files_the_target_has_are_rebuilt() {
        let temporary = tempfile::tempdir().expect("a directory");
        for vector in vectors("good").into_iter().filter(|vector| vector.0["exact"] == true) {
            let out = temporary.path().join(vector.name());
            let patch = patch(&vector).unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            patch
                .apply(
                    open(&vector, "base").as_ref(),
                    &out,
                    ApplyOptions::default().with_files(FilePolicy::Exact),
                    Control::default(),
                )
                .unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            let target = directory().join(vector.text("target").expect("a target"));
            assert!(files_of(&out) == files_of(&target), "{}", vector.name());
        }
    }

    #[test]
    fn malformed_vectors_give_the_same_kinds() {
        let mut wrong = Vec::new();
        for vector in vectors("malformed") {
            let base = open(&vector, "base");
            let verified = patch(&vector).and_then(|patch| verify(&patch, base.as_ref()));
            let found = verified.as_ref().map_or_else(|error| error.kind(), |()| "none");
            if !vector.errors().contains(&found) {
                wrong.push(format!("{}: found {found}: {:?}", vector.name(), verified.err()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// R66: output appears whole or not at all.
    #[test]
    fn malformed_vectors_leave_no_output() {
        let directory = tempfile::tempdir().expect("a directory");
        for vector in vectors("malformed") {
            let base = open(&vector, "base");
            let out = directory.path().join(vector.name());
            let applied = patch(&vector).and_then(|patch| {
                patch.apply(
                    base.as_ref(),
                    &out,
                    ApplyOptions::default().with_files(FilePolicy::Exact),
                    Control::default(),
                )
            });
            assert!(applied.is_err(), "{}", vector.name());
        }
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }
}
