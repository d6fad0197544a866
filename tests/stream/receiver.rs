//! The receiver: nothing is handed over before everything is verified, whatever lies the patch tells.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::Made;
use pulse::hash::{leaf_digest, tensor_digest, Digest, LEAF_BYTES};
use pulse::stream::{EncoderOptions, InMemory, Received, Receiver, Store};
use pulse::wire::{FileContent, FileKind, FileRecord, FileState, Tag};
use pulse::{Encoder, Error, Limits, Result};
use testkit::checkpoint::{Checkpoint, Tensor};
use testkit::encode;
use testkit::vectors::raw::{fields, Raw};
use testkit::vectors::sample;

type Weights = BTreeMap<String, (TensorSpec, Vec<u8>)>;

fn weights(checkpoint: &Checkpoint) -> Weights {
    let tensors = checkpoint.tensors.iter();
    tensors
        .map(|(name, tensor)| (name.clone(), (tensor.spec.clone(), tensor.bytes.clone())))
        .collect()
}

fn checkpoint(weights: Weights) -> Checkpoint {
    Checkpoint {
        tensors: weights
            .into_iter()
            .map(|(name, (spec, bytes))| (name, Tensor { spec, bytes }))
            .collect(),
    }
}

/// What becomes of weights in memory. After an error they must be what they were.
fn receive(base: &Checkpoint, patch: &[u8]) -> Result<(Checkpoint, Received)> {
    let mut held = weights(base);
    let mut receiver = Receiver::in_memory(&mut held, Limits::default())?;
    let received = receiver.push(patch).and_then(|()| receiver.finish());
    match received {
        Ok(received) => Ok((checkpoint(held), received)),
        Err(error) => {
            assert!(held == weights(base), "the weights were touched, and then: {error}");
            Err(error)
        }
    }
}

#[track_caller]
fn refused(base: &Checkpoint, patch: Raw) -> Error {
    receive(base, &patch.write()).expect_err("a lie")
}

/// The patch between two checkpoints; a snapshot without a base.
fn patch(base: Option<&Checkpoint>, target: &Checkpoint) -> Vec<u8> {
    let (out, options) = (Vec::new(), EncoderOptions::default());
    let encoder =
        if base.is_some() { Encoder::new(out, options) } else { Encoder::snapshot(out, options) };
    let mut encoder = encoder.unwrap();
    let none = Checkpoint::default();
    let base = base.unwrap_or(&none);
    let gone = base.tensors.keys().filter(|name| !target.tensors.contains_key(*name));
    for name in target.tensors.keys().chain(gone) {
        let side = |side: &'_ Checkpoint| side.tensors.get(name).cloned();
        let (old, new) = (side(base), side(target));
        let [old, new] =
            [&old, &new].map(|side| side.as_ref().map(|tensor| (&tensor.spec, &*tensor.bytes)));
        encode::push(&mut encoder, name, old, new).unwrap();
    }
    encoder.finish().unwrap().0
}

/// Flips a bit of a tensor.
fn spoiled(base: &Checkpoint, tensor: &str) -> Checkpoint {
    let mut other = base.clone();
    other.tensors.get_mut(tensor).unwrap().bytes[0] ^= 1;
    other
}

fn bytes(length: usize) -> Tensor {
    Tensor::from_bytes(
        Dtype::U8,
        &[length as u64],
        (0..length).map(|i| (i * 7 + i / 999) as u8).collect(),
    )
}

/// Tensors that are patched, in one block and in some of many, unchanged, replaced, deleted and added.
fn model() -> (Checkpoint, Checkpoint) {
    let large = 70 * LEAF_BYTES + 5;
    let base = [
        ("changed", bytes(100)),
        ("gone", bytes(10)),
        ("large", bytes(large)),
        ("other shape", bytes(6)),
        ("same", bytes(3 * LEAF_BYTES + 1)),
        ("no bytes", bytes(0)),
    ];
    let mut target = Checkpoint::from(base.clone());
    target.tensors.get_mut("changed").unwrap().bytes[99] ^= 0x80;
    target.tensors.get_mut("large").unwrap().bytes[40 * LEAF_BYTES + 7] ^= 0x01;
    target.tensors.remove("gone");
    target.tensors.insert(
        "other shape".into(),
        Tensor { spec: TensorSpec::new(Dtype::U8, &[2, 3]).unwrap(), ..bytes(6) },
    );
    target.tensors.insert("new".into(), bytes(LEAF_BYTES + 3));
    (base.into(), target)
}

#[test]
fn every_action_is_followed() {
    let (base, target) = model();
    let (made, received) = receive(&base, &patch(Some(&base), &target)).unwrap();
    assert_eq!(made, target);
    assert_eq!(received.target(), target.digest());
    assert_eq!(received.footer.base, Some(base.digest()));
}

#[test]
fn a_snapshot_replaces_all_that_is_held() {
    let (base, target) = model();
    let snapshot = patch(None, &target);
    for held in [&base, &target, &Checkpoint::default()] {
        assert_eq!(receive(held, &snapshot).unwrap().0, target);
    }
    let empty = patch(None, &Checkpoint::default());
    assert_eq!(receive(&base, &empty).unwrap().0, Checkpoint::default());
}

/// R66: what was pushed in full is still not the target.
#[test]
fn r66_nothing_is_handed_over_before_finish() {
    let (base, target) = model();
    let patch = patch(Some(&base), &target);
    let mut held = weights(&base);
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    receiver.push(&patch).unwrap();
    assert!(receiver.is_done());
    drop(receiver);
    assert!(held == weights(&base));
}

/// R67: the patch to its end, and no other bytes after it.
#[test]
fn r67_a_patch_is_read_to_its_end() {
    let whole = sample::patch().write();
    for end in 0..whole.len() {
        assert_eq!(
            receive(&sample::base(), &whole[..end]).unwrap_err().kind(),
            "truncated",
            "cut at {end}"
        );
    }
    assert_eq!(refused(&sample::base(), sample::patch().tail(b"x")).kind(), "trailing");
    assert_eq!(
        refused(&sample::base(), sample::patch().footer(|footer| footer.sha256_flip = 1)).kind(),
        "file-digest"
    );

    // On a connection, what follows is left alone.
    let connection = [whole.as_slice(), b"next"].concat();
    let mut held = weights(&sample::base());
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    assert_eq!(receiver.feed(&connection).unwrap(), whole.len());
    receiver.finish().unwrap();
    assert!(held == weights(&sample::target()));

    let (mut held, mut reader) = (weights(&sample::base()), connection.as_slice());
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    receiver.read_from(&mut reader).unwrap();
    assert_eq!(reader, b"next");
    receiver.finish().unwrap();
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    let error = receiver.read_from(&mut &whole[..whole.len() - 1]).unwrap_err();
    assert_eq!(error.kind(), "truncated");
}

#[test]
fn r68_a_tensor_must_have_its_digest() {
    let trailer =
        fields().varint(2).digest(sample::digest_in(&sample::base(), "w")).digest(Digest([7; 32]));
    let error = refused(&sample::base(), sample::patch().replace(Tag::TENSOR_END, trailer));
    let Error::WrongResult { made, expected: Digest([7, ..]), .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*made, Made::Tensor("w".into()));
}

/// R69: whatever the tensors are, the checkpoint must be the one of the footer; a snapshot's too.
#[test]
fn r69_the_checkpoint_must_have_its_digest() {
    for (base, raw) in [
        (sample::base(), sample::patch()),
        (sample::base(), sample::addition()),
        (sample::base(), sample::deletion()),
        (sample::base(), sample::replacement()),
        (Checkpoint::default(), sample::snapshot()),
        (sample::base(), sample::snapshot()),
    ] {
        receive(&base, &raw.write()).expect("the truth");
        assert_eq!(
            refused(&base, raw.footer(|footer| footer.target = Digest([7; 32]))).kind(),
            "digest"
        );
    }
}

#[test]
fn r70_the_target_must_have_the_totals_of_the_footer() {
    for raw in [sample::patch(), sample::snapshot()] {
        for lie in [
            |footer: &mut testkit::vectors::raw::Footer| footer.target_tensors += 1,
            |footer: &mut testkit::vectors::raw::Footer| footer.target_elements += 1,
            |footer: &mut testkit::vectors::raw::Footer| footer.target_bytes += 1,
        ] {
            assert_eq!(refused(&sample::base(), raw.clone().footer(lie)).kind(), "count");
        }
    }
}

/// R44, R71: a carried file that does not have its SHA-256.
#[test]
fn r71_a_carried_file_must_have_its_sha256() {
    let record = fields().u8(3).string("notes.txt").varint(2).digest(Digest([7; 32]));
    let raw = sample::patch().add_before(Tag::TENSOR, Tag::FILE, record);
    let raw = raw.add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(b"no"));
    assert_eq!(refused(&sample::base(), raw).kind(), "digest");
}

/// R63: a wrong base is named, wherever it differs, and the tensor that differs if the patch knows it.
#[test]
fn r63_a_wrong_base_is_told_from_a_bad_patch() {
    let (base, target) = model();
    let whole = patch(Some(&base), &target);
    for (tensor, named) in [
        ("changed", Some("changed")),
        ("large", Some("large")),
        ("gone", Some("gone")),
        ("other shape", Some("other shape")),
        ("same", None),
    ] {
        let error = receive(&spoiled(&base, tensor), &whole).unwrap_err();
        let Error::BaseMismatch(mismatch) = &error else { panic!("{tensor}: {error}") };
        assert_eq!(mismatch.tensor.as_deref(), named, "{error}");
    }
    let mut without = base.clone();
    without.tensors.remove("large");
    let mut reshaped = base.clone();
    reshaped.tensors.insert("large".into(), bytes(7));
    let mut with = base.clone();
    with.tensors.insert("new".into(), bytes(1));
    for other in [without, reshaped, with, target.clone(), Checkpoint::default()] {
        assert_eq!(receive(&other, &whole).unwrap_err().kind(), "base");
    }
    // The right base, and a patch that does not fit it.
    let missing = |raw: Raw| {
        let raw = raw
            .replace(Tag::TENSOR, fields().name(0, "v").spec(sample::PATCHED, sample::BF16, &[4]));
        raw.index(|entries| testkit::vectors::raw::right_index(&[("v".into(), entries[0].1)]))
    };
    assert_eq!(refused(&sample::base(), missing(sample::patch())).kind(), "checkpoint");
    // Damage behind the place of the failure is what is reported: reading goes on to the footer.
    let damaged = missing(sample::patch()).spoil_crc(Tag::INDEX);
    assert_eq!(refused(&sample::base(), damaged).kind(), "crc");
}

/// R94: tensors that are replaced or deleted leave no trace in the target, and yet their base counts.
#[test]
fn r94_what_goes_must_have_been_there() {
    for raw in [sample::deletion(), sample::replacement()] {
        let error = receive(&spoiled(&sample::base(), "old"), &raw.write()).unwrap_err();
        assert!(
            matches!(&error, Error::BaseMismatch(mismatch) if mismatch.tensor.as_deref() == Some("old")),
            "{error}"
        );
    }
    // The base is right, and the trailer is not.
    let trailer = fields().varint(0).digest(Digest([7; 32]));
    let error = refused(&sample::base(), sample::deletion().replace(Tag::TENSOR_END, trailer));
    assert_eq!(error.kind(), "base");
}

#[test]
fn a_receiver_that_failed_commits_nothing_and_takes_nothing() {
    let raw = sample::patch().footer(|footer| footer.target = Digest([7; 32]));
    let mut held = weights(&sample::base());
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    assert_eq!(receiver.push(&raw.write()).unwrap_err().kind(), "digest");
    assert!(!receiver.is_done());
    for error in [
        receiver.push(b"").unwrap_err(),
        receiver.feed(b"").unwrap_err(),
        receiver.read_from(&b""[..]).unwrap_err(),
        receiver.finish().unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "this receiver has already failed; create a new one");
        assert_eq!(error.kind(), "misuse");
    }
    assert!(held == weights(&sample::base()));
}

#[test]
fn limits_hold() {
    let mut held = weights(&sample::base());
    let mut receiver =
        Receiver::in_memory(&mut held, Limits::default().with_target_bytes(9)).unwrap();
    assert_eq!(receiver.push(&sample::patch().write()).unwrap_err().kind(), "limit");
}

#[test]
fn weights_have_the_size_that_their_spec_says() {
    let mut held = weights(&sample::base());
    held.get_mut("w").unwrap().1.push(0);
    let error = Receiver::in_memory(&mut held, Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "9 bytes given for tensor 'w' BF16 [4], expected 8");
}

#[test]
fn the_header_can_be_read_before_the_end() {
    let options = EncoderOptions::default().with_steps(40, 41);
    let (patch, _) = Encoder::new(Vec::new(), options).unwrap().finish().unwrap();
    let mut held = Weights::new();
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    assert!(receiver.header().is_none());
    receiver.push(&patch[..patch.len() - 1]).unwrap();
    assert_eq!(receiver.header().unwrap().target_step, Some(41));
    receiver.push(&patch[patch.len() - 1..]).unwrap();
    assert_eq!(receiver.header().unwrap().target_step, Some(41));
    assert_eq!(receiver.finish().unwrap().header.base_step, Some(40));
}

/// A store that keeps account of what it is asked and told, and fails where it is to.
#[derive(Debug, Default)]
struct Recorder {
    held: Weights,
    known: BTreeMap<String, Digest>,
    /// Bytes read of each tensor.
    read: RefCell<BTreeMap<String, u64>>,
    told: Vec<String>,
    fails_at: Option<&'static str>,
}

impl Recorder {
    fn new(held: &Checkpoint) -> Self {
        Recorder { held: weights(held), ..Recorder::default() }
    }

    fn tell(&mut self, what: impl Into<String>) -> Result<()> {
        let what = what.into();
        if self.fails_at.is_some_and(|fails_at| what.starts_with(fails_at)) {
            return Err(Error::Unfit { file: None, what: "no room".into() });
        }
        self.told.push(what);
        Ok(())
    }
}

impl Store for Recorder {
    fn start(&mut self) -> Result<()> {
        self.told.clear();
        Ok(())
    }

    fn tensors(&self) -> Vec<(&str, &TensorSpec)> {
        self.held.iter().map(|(name, (spec, _))| (name.as_str(), spec)).collect()
    }

    fn read(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        if self.fails_at == Some("read") {
            return Err(Error::Unfit { file: None, what: "no room".into() });
        }
        *self.read.borrow_mut().entry(name.into()).or_default() += buffer.len() as u64;
        let start = usize::try_from(start).unwrap();
        buffer.copy_from_slice(&self.held[name].1[start..start + buffer.len()]);
        Ok(())
    }

    fn digest(&self, name: &str) -> Option<Digest> {
        self.known.get(name).copied()
    }

    fn file(&mut self, record: &FileRecord) -> Result<()> {
        self.tell(format!("file {} {:?}", record.name, record.state))
    }

    fn file_data(&mut self, bytes: &[u8]) -> Result<()> {
        self.tell(format!("data {}", String::from_utf8_lossy(bytes)))
    }

    fn begin(&mut self, name: &str, spec: &TensorSpec) -> Result<()> {
        self.tell(format!("begin {name} {spec}"))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.tell(format!("write {}", leaf_digest(bytes)))
    }

    fn end(&mut self) -> Result<()> {
        self.tell("end")
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        self.tell(format!("delete {name}"))
    }

    fn commit(&mut self) -> Result<()> {
        self.tell("commit")
    }
}

/// Pushes a patch; says how many bytes of each tensor of the base were read.
fn record(store: &mut Recorder, patch: &[u8]) -> Result<BTreeMap<String, u64>> {
    let mut receiver = Receiver::new(&mut *store, Limits::default());
    receiver.push(patch)?;
    receiver.finish()?;
    Ok(store.read.borrow().clone())
}

/// SPEC.md §8.4 allows to use digests that are known: then nothing is read.
#[test]
fn every_byte_of_the_base_is_read_once_or_known() {
    let (base, target) = model();
    let whole = patch(Some(&base), &target);
    let mut store = Recorder::new(&base);
    let read = record(&mut store, &whole).unwrap();
    let sizes = base.tensors.iter().filter(|(_, tensor)| !tensor.bytes.is_empty());
    assert_eq!(
        read,
        sizes.map(|(name, tensor)| (name.clone(), tensor.bytes.len() as u64)).collect()
    );

    let mut store = Recorder::new(&base);
    store.known.insert("same".into(), tensor_digest(&base.tensors["same"].bytes));
    assert!(!record(&mut store, &whole).unwrap().contains_key("same"));
    // A digest that is not that of the bytes makes no wrong target, nor a base that is called wrong.
    let mut store = Recorder::new(&base);
    store.known.insert("same".into(), Digest([7; 32]));
    assert_eq!(record(&mut store, &whole).unwrap_err().kind(), "digest");
    assert!(!store.told.contains(&"commit".to_string()));
}

#[test]
fn a_store_is_told_of_files_and_tensors_in_turn_and_at_last_to_commit() {
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    encoder.keep_file("kept", FileKind::Companion, b"as before").unwrap();
    encoder.carry_file("carried", FileKind::Companion, b"anew").unwrap();
    encoder.replace_file("replaced", b"old", b"other").unwrap();
    encoder.remove_file("removed", b"gone").unwrap();
    let four = TensorSpec::new(Dtype::U8, &[4]).unwrap();
    encode::push(&mut encoder, "changed", Some((&four, b"abcd")), Some((&four, b"abce"))).unwrap();
    encode::push(&mut encoder, "gone", Some((&four, b"gone")), None).unwrap();
    encode::push(&mut encoder, "same", Some((&four, b"same")), Some((&four, b"same"))).unwrap();
    let (patch, _) = encoder.finish().unwrap();
    let tensor = |bytes: &[u8; 4]| Tensor { spec: four.clone(), bytes: bytes.to_vec() };
    let base = Checkpoint::from([
        ("changed", tensor(b"abcd")),
        ("gone", tensor(b"gone")),
        ("same", tensor(b"same")),
    ]);
    let mut store = Recorder::new(&base);
    record(&mut store, &patch).unwrap();
    let write = format!("write {}", leaf_digest(b"abce"));
    let expected = [
        &format!("file kept {:?}", FileState::Kept),
        &format!("file carried {:?}", FileState::New),
        "data anew",
        &format!("file replaced {:?}", FileState::Replaced(FileContent::of(b"old"))),
        "data other",
        &format!("file removed {:?}", FileState::Removed),
        "begin changed U8 [4]",
        &write,
        "end",
        "delete gone",
        "commit",
    ];
    assert_eq!(store.told, expected);

    // An error of the store ends it, and is not taken for one of the base.
    for fails_at in ["read", "file", "data", "begin", "write", "end", "delete", "commit"] {
        let mut store = Recorder { fails_at: Some(fails_at), ..Recorder::new(&base) };
        let error = record(&mut store, &patch).unwrap_err();
        assert_eq!(error.to_string(), "no room", "{fails_at}");
        assert!(!store.told.contains(&"commit".to_string()));
    }
}

/// What a receiver that failed had staged is not part of what the next one makes.
#[test]
fn a_store_starts_afresh_with_each_patch() {
    let (base, target) = model();
    let good = patch(Some(&base), &target);
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let mut held = weights(&base);
    let mut store = InMemory::new(&mut held).unwrap();
    for refused in [&bad[..], &good[..middle]] {
        let mut receiver = Receiver::new(&mut store, Limits::default());
        assert!(receiver.push(refused).and_then(|()| receiver.finish().map(drop)).is_err());
    }
    let mut receiver = Receiver::new(&mut store, Limits::default());
    receiver.push(&good).unwrap();
    receiver.finish().unwrap();
    drop(store);
    assert!(held == weights(&target));
}
