//! Patches read from their end, and tensors one at a time (SPEC.md §8.3).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pulse::dtype::{Dtype, TensorSpec};
use pulse::error::Made;
use pulse::patch::{FnSource, LocalFile, ReadAt, Tail};
use pulse::stream::EncoderOptions;
use pulse::wire::{Action, Footer, Header, TensorHeader, TensorTrailer};
use pulse::{Decoder, Encoder, Error, Event, Limits, Patch, Result};
use serde_json::Value;
use testkit::applier;
use testkit::checkpoint::Checkpoint;
use testkit::forge::{self, Section};
use testkit::vectors::tensors_of;

const FOOTER: u64 = 152;
/// Bytes that are read first, of the header, and of a tensor.
const WINDOW: u64 = 64 << 10;
const HEAD: u64 = 4 << 10;
const CHUNK: u64 = 4 << 20;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testvectors")
}

fn example() -> Vec<u8> {
    fs::read(directory().join("good/spec-example.pulse")).expect("the example")
}

/// A row of the manifest.
struct Vector {
    name: String,
    patch: Vec<u8>,
    base: Checkpoint,
    /// The kinds of error that a reader of the whole file may give, if it is malformed.
    errors: Vec<String>,
    /// Limits are lowered: what that does at random, tests of this file say one by one.
    is_limited: bool,
}

fn vectors(list: &str) -> Vec<Vector> {
    let manifest = fs::read(directory().join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("a JSON manifest");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_string();
    let rows = manifest[list].as_array().expect("a list of vectors").iter();
    rows.map(|row| Vector {
        name: text(row, "name"),
        patch: fs::read(directory().join(text(row, "file"))).expect("a vector"),
        base: row["base"].as_str().map(tensors_of).unwrap_or_default(),
        errors: row["errors"]
            .as_array()
            .map(|kinds| kinds.iter().map(|kind| kind.as_str().expect("a kind").into()).collect())
            .unwrap_or_default(),
        is_limited: !row["limits"].is_null(),
    })
    .collect()
}

/// What a patch says of a tensor: header, blocks in words, trailer.
type Said = (TensorHeader, Vec<String>, TensorTrailer);

fn words(block: &pulse::stream::Block<'_>) -> String {
    format!(
        "{:?} {:?} {} {}",
        block.range(),
        block.coding(),
        block.changes(),
        block.payload_bytes()
    )
}

/// A patch as it reads from first byte to last.
fn sequential(patch: &[u8]) -> Result<(Header, Vec<Said>, Footer)> {
    let (mut header, mut tensors, mut footer) = (None, Vec::new(), None);
    let mut open = None;
    let mut decoder = Decoder::new(patch, Limits::default());
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Header(found) => header = Some(found.clone()),
            Event::Tensor(found) => open = Some((found.clone(), Vec::new())),
            Event::Block(block) => open.as_mut().expect("a tensor").1.push(words(&block)),
            Event::TensorEnd(trailer) => {
                let (header, blocks) = open.take().expect("a tensor");
                tensors.push((header, blocks, *trailer));
            }
            Event::End(found) => footer = Some(*found),
            _ => {}
        }
    }
    decoder.finish()?;
    Ok((header.expect("a header"), tensors, footer.expect("a footer")))
}

/// The same, tensor by tensor, the last one first.
fn at_random(source: impl ReadAt) -> Result<(Header, Vec<Said>, Footer)> {
    let tail = Tail::new(source, Limits::default())?;
    let names: Vec<&str> = tail.names().collect();
    let mut tensors = Vec::new();
    for name in names.into_iter().rev() {
        let mut tensor = tail.tensor(name)?.expect("a name of the index");
        let mut blocks = Vec::new();
        while let Some(block) = tensor.next_block()? {
            blocks.push(words(&block));
        }
        tensors.push((
            tensor.header().clone(),
            blocks,
            *tensor.trailer().expect("the trailer came last"),
        ));
    }
    tensors.reverse();
    Ok((tail.header()?.clone(), tensors, *tail.footer()))
}

/// The tensors that each tensor of the patch becomes; `None` for one that is deleted.
fn applied(source: impl ReadAt, base: &Checkpoint) -> Result<BTreeMap<String, Option<Vec<u8>>>> {
    let tail = Tail::new(source, Limits::default())?;
    tail.header()?;
    let mut made = BTreeMap::new();
    for name in tail.names() {
        let mut tensor = tail.tensor(name)?.expect("a name of the index");
        let header = tensor.header().clone();
        let Some(spec) = header.spec else {
            assert!(tensor.next_block()?.is_none());
            made.insert(header.name, None);
            continue;
        };
        let held = base
            .tensors
            .get(name)
            .filter(|held| header.action == Action::Patched && held.spec == spec);
        // Whatever stood in the place of a tensor that is put whole does not matter.
        let mut bytes = held.map_or_else(
            || vec![0xaa; spec.bytes().min(1 << 20) as usize],
            |held| held.bytes.clone(),
        );
        tensor.apply(&mut bytes)?;
        made.insert(header.name, Some(bytes));
    }
    Ok(made)
}

/// A source that notes what is read of it.
struct Watched<'a> {
    bytes: &'a [u8],
    reads: RefCell<Vec<Range<u64>>>,
}

impl<'a> Watched<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Watched { bytes, reads: RefCell::default() }
    }

    fn taken(&self) -> Vec<Range<u64>> {
        self.reads.take()
    }
}

impl ReadAt for Watched<'_> {
    fn len(&self) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.reads.borrow_mut().push(offset..offset + buffer.len() as u64);
        self.bytes.read_exact_at(buffer, offset)
    }
}

/// A patch of tensors that each carry `bytes` bytes.
fn snapshot(names: impl Iterator<Item = String>, bytes: usize) -> Vec<u8> {
    let spec = TensorSpec::new(Dtype::U8, &[bytes as u64]).unwrap();
    let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap();
    let mut mixed = 1u32;
    for name in names {
        let content: Vec<u8> = std::iter::repeat_with(|| {
            mixed = mixed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (mixed >> 24) as u8
        })
        .take(bytes)
        .collect();
        let mut tensor = encoder.added(&name, &spec).unwrap();
        tensor.push(&[], &content).unwrap();
        tensor.end().unwrap();
    }
    encoder.finish().unwrap().0
}

/// R64: all rules hold at random, and so all that is good reads the same.
#[test]
fn every_good_vector_reads_the_same_at_random() {
    for Vector { name, patch, base, .. } in vectors("good") {
        assert_eq!(at_random(patch.as_slice()).unwrap(), sequential(&patch).unwrap(), "{name}");
        let target = applier::apply(&base, &*patch).unwrap().target;
        let mut expected = base.tensors.clone();
        for (tensor, bytes) in
            applied(&patch, &base).unwrap_or_else(|error| panic!("{name}: {error}"))
        {
            expected.remove(&tensor);
            if let Some(bytes) = bytes {
                assert!(bytes == target.tensors[&tensor].bytes, "{name}: {tensor}");
                expected.insert(tensor.clone(), target.tensors[&tensor].clone());
            }
        }
        assert_eq!(
            expected, target.tensors,
            "{name}: tensors that the patch does not have are unchanged"
        );
    }
}

/// What is not read at random, and so not found wrong: all that is about files, and sections between
/// the header and the tensors, between two tensors, or before the index.
const UNSEEN_PREFIXES: [&str; 6] =
    ["file-", "rebuild-", "order-files-", "order-after-file-", "order-in-file-", "order-tensors-"];
const UNSEEN: [&str; 27] = [
    // A tensor that is deleted makes no bytes.
    "trailer-base-digest-of-deleted",
    // Between the header and the tensors, or between two tensors.
    "crc-skippable",
    "unknown-critical",
    "unknown-not-a-letter",
    "order-second-header",
    "order-trailer-outside",
    "order-file-after-tensor",
    "order-data-without-file",
    "order-data-of-kept-file",
    "order-file-unfinished",
    "order-too-much-file-data",
    // Sums over the whole file, the whole target or the whole base.
    "file-digest",
    "footer-changes",
    "footer-target-tensors",
    "footer-target-elements",
    "footer-target-bytes",
    "target-digest",
    "snapshot-target-digest",
    "snapshot-target-bytes",
    "base-digest",
    // Tensors of the base of which the target has nothing.
    "base-tensor-added",
    "base-of-deleted",
    "base-of-replaced",
    "checkpoint-tensor-added",
    "checkpoint-tensor-deleted-missing",
    "checkpoint-tensor-replaced-missing",
    // The names are held against the whole file, which is there.
    "tensor-name-expansion-limit",
];

/// What shows at random by another sign.
const SEEN_OTHERWISE: [(&str, &str); 28] = [
    // There is no footer where the last one must be.
    ("trailing-byte", "truncated"),
    ("footer-long", "truncated"),
    ("footer-short", "truncated"),
    ("section-length-long-form", "truncated"),
    ("section-length-overflow", "truncated"),
    ("section-length-huge", "truncated"),
    // There is a footer, and no index that ends there, or one of other tensors.
    ("trailing-patch", "count"),
    ("order-no-header", "count"),
    ("order-no-index", "count"),
    ("order-second-index", "count"),
    ("order-skippable-after-index", "count"),
    ("order-after-index-header", "count"),
    ("order-after-index-tensor", "count"),
    ("order-after-index-block", "count"),
    ("order-after-index-trailer", "count"),
    ("order-after-index-index", "count"),
    ("order-after-index-file", "count"),
    ("order-after-index-data", "count"),
    ("footer-index-offset", "order"),
    ("order-block-outside", "count"),
    ("tensor-twice", "count"),
    // The tensor is not where the index says, or does not end where the next one starts.
    ("index-offset", "order"),
    ("order-no-trailer", "count"),
    // What the base is, the caller knows: here only its bytes are looked at.
    ("checkpoint-tensor-shape", "base"),
    ("checkpoint-tensor-dtype", "base"),
    ("checkpoint-tensor-missing", "base"),
    ("checkpoint-tensor-size", "base"),
    // A caller has to bring as much memory as the tensor says, and `applied` brings 1 MiB.
    ("block-expansion-limit", "misuse"),
];

/// R64: what breaks a rule of index, footer, header or of a tensor is refused at random too.
#[test]
fn malformed_vectors_are_refused_where_it_shows_at_random() {
    let mut wrong = Vec::new();
    let rows = vectors("malformed").into_iter().filter(|vector| !vector.is_limited);
    for Vector { name, patch, base, errors, .. } in rows {
        let unseen = UNSEEN.contains(&&*name)
            || UNSEEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let otherwise = SEEN_OTHERWISE.iter().find(|(seen, _)| *seen == name);
        let expected = match otherwise {
            Some((_, kind)) => vec![*kind],
            None if unseen => vec!["none"],
            None => errors.iter().map(String::as_str).collect(),
        };
        let applied = applied(&patch, &base);
        let found = applied.as_ref().map_or_else(|error| error.kind(), |_| "none");
        if !expected.contains(&found) {
            wrong
                .push(format!("{name}: expected {expected:?}, found {found}: {:?}", applied.err()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// R65: neither the SHA-256 of the file nor the digests of the checkpoints are checked, and nothing
/// says that they were. A patch where they are wrong is refused as a whole, and yet each of its
/// tensors is right.
#[test]
fn r65_digests_of_the_whole_are_not_looked_at() {
    let rows = vectors("malformed");
    for name in ["file-digest", "target-digest"] {
        let Vector { patch, base, errors, .. } =
            rows.iter().find(|vector| vector.name == name).expect("a vector");
        assert_eq!([applier::apply(base, &**patch).unwrap_err().kind()], **errors);
        let right = rows.iter().find(|vector| vector.name == "trailing-byte").expect("a vector");
        let right = right.patch.strip_suffix(&[*right.patch.last().unwrap()]).unwrap();
        assert_eq!(applied(patch, base).unwrap(), applied(right, base).unwrap(), "{name}");
        let (stated, computed) =
            (Tail::new(patch, Limits::default()).unwrap(), sequential(right).unwrap().2);
        let wrong =
            [stated.footer().sha256 != computed.sha256, stated.footer().target != computed.target];
        assert!(wrong.contains(&true), "{name}: the footer repeats what the patch states");
    }
}

/// One read of the end, one more if the index is long, one of the header, and one for each chunk of
/// a tensor.
#[test]
fn reads_are_few_and_small() {
    let names = |count: u32| {
        (0..count).map(|number| format!("{:08x}.weight", number.wrapping_mul(0x9e37_79b9)))
    };
    for (patch, index_is_long, tensor_chunks) in [
        (snapshot(names(2), 100), false, 1),
        (snapshot(names(1000), 100), false, 1),
        (snapshot(names(20_000), 1), true, 1),
        (snapshot(names(2), 6 << 20), false, 2),
    ] {
        let (end, source) = (patch.len() as u64, Watched::new(&patch));
        let tail = Tail::new(&source, Limits::default()).unwrap();
        let (footer_at, index_at) = (end - FOOTER, tail.footer().index_offset);
        let window = end.saturating_sub(WINDOW)..end;
        let mut expected = vec![window.clone()];
        if index_is_long {
            expected.push(index_at..window.start);
        }
        assert_eq!(source.taken(), expected, "footer, and index from {index_at} to {footer_at}");
        tail.header().unwrap();
        let head = 0..HEAD.min(index_at);
        assert_eq!(source.taken(), std::slice::from_ref(&head), "the header");
        let last = tail.names().last().unwrap().to_string();
        for name in [tail.names().next().unwrap(), &last] {
            let range = tail.range(name).unwrap();
            let mut tensor = tail.tensor(name).unwrap().unwrap();
            while tensor.next_block().unwrap().is_some() {}
            let mut starts: Vec<u64> = (range.start..range.end).step_by(CHUNK as usize).collect();
            assert_eq!(starts.len(), tensor_chunks);
            starts.push(range.end);
            let expected: Vec<Range<u64>> =
                starts.windows(2).map(|pair| pair[0]..pair[1]).collect();
            assert_eq!(source.taken(), expected, "{name}, without the header once more");
        }
    }
}

#[test]
fn metadata_longer_than_the_first_read_is_read_in_large_pieces() {
    let options = EncoderOptions::default().with_metadata("notes", "n".repeat(500_000));
    let (patch, _) = Encoder::new(Vec::new(), options).unwrap().finish().unwrap();
    let source = Watched::new(&patch);
    let tail = Tail::new(&source, Limits::default()).unwrap();
    source.taken();
    assert_eq!(tail.header().unwrap().metadata["notes"].len(), 500_000);
    assert!(source.taken().len() < 20);
}

/// R64: an error, or the same tensors.
#[test]
fn every_truncation_and_every_flipped_bit_of_the_example_is_refused_or_changes_nothing() {
    let (patch, base) = (example(), tensors_of("checkpoints/spec-base.safetensors"));
    let right = applied(&patch, &base).unwrap();
    for end in 0..patch.len() {
        let error = Tail::new(&patch[..end], Limits::default()).unwrap_err();
        assert_eq!(error.kind(), "truncated", "{end} bytes");
    }
    let mut same = Vec::new();
    for bit in 0..patch.len() * 8 {
        let mut damaged = patch.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(made) = applied(&damaged, &base) {
            assert_eq!(made, right, "bit {bit}");
            same.push(bit / 8);
        }
    }
    // Any minor version is read; only the SHA-256 covers it.
    assert_eq!(same, [9; 8]);
}

/// A patch of three tensors with another index, its offset and every sum put right.
fn with_index(index: impl FnOnce(&[u64]) -> Vec<u8>) -> Vec<u8> {
    let patch = snapshot(["a", "b", "c"].map(String::from).into_iter(), 10);
    let tail = Tail::new(&patch, Limits::default()).unwrap();
    let offsets: Vec<u64> = tail.names().map(|name| tail.range(name).unwrap().start).collect();
    let mut sections = forge::sections(&patch);
    let at = sections.len() - 2;
    assert_eq!(sections[at].tag, b'I');
    sections[at].payload = index(&offsets);
    forge::join_as_is(&patch, &sections)
}

fn index_of(entries: &[(&str, u64)]) -> Vec<u8> {
    let mut payload = testkit::hostile::varint(entries.len() as u64);
    for (name, delta) in entries {
        payload.extend(
            [&[0, name.len() as u8][..], name.as_bytes(), &testkit::hostile::varint(*delta)]
                .concat(),
        );
    }
    payload
}

/// The kind of the error that Tail::new gives, or else of the first tensor that cannot be read.
fn kind(patch: &[u8]) -> &'static str {
    at_random(patch).map_or_else(|error| error.kind(), |_| "none")
}

/// R64: names and offsets that no file can have, and those that this file does not have.
#[test]
fn an_index_that_lies_is_refused() {
    let deltas = |o: &[u64]| [o[0], o[1] - o[0], o[2] - o[1]];
    let forge = |change: fn(&mut [(&str, u64); 3])| {
        kind(&with_index(|offsets| {
            let [a, b, c] = deltas(offsets);
            let mut entries = [("a", a), ("b", b), ("c", c)];
            change(&mut entries);
            index_of(&entries)
        }))
    };
    assert_eq!(forge(|_| ()), "none");
    // Seen in the index.
    assert_eq!(forge(|entries| entries[1].0 = "a"), "duplicate");
    assert_eq!(forge(|entries| entries[0].1 = 0), "count", "in the signature");
    assert_eq!(forge(|entries| entries[1].1 = 0), "count", "two at one place");
    assert_eq!(forge(|entries| entries[2].1 += 1 << 20), "count", "after the index");
    assert_eq!(forge(|entries| entries[2].1 = u64::MAX), "count", "beyond 64 bits");
    let payload = |payload: Vec<u8>| kind(&with_index(|_| payload));
    assert_eq!(payload(testkit::hostile::varint(u64::MAX)), "count");
    assert_eq!(payload(vec![3]), "length");
    assert_eq!(payload(vec![3, 1, 0, 20]), "value", "shares bytes of no name");
    assert_eq!(payload(vec![3, 0, 1, 0xff, 20]), "name", "not UTF-8");
    assert_eq!(payload([index_of(&[("a", 20), ("b", 1), ("c", 1)]), vec![0]].concat()), "length");
    // Seen where the tensor should be.
    assert_eq!(forge(|entries| entries[1].0 = "x"), "name");
    assert_eq!(forge(|entries| entries[0].1 = 18), "count", "in the header");
    assert_ne!(forge(|entries| entries[0].1 += 1), "none", "within a section");
    // At a block, which is a whole section.
    let block = with_index(|offsets| {
        let [a, b, c] = deltas(offsets);
        let header = 2 + 6 + 4;
        index_of(&[("a", a + header), ("b", b - header), ("c", c)])
    });
    assert_eq!(kind(&block), "order");
    // The first tensor runs into what the index calls the second.
    let early = with_index(|offsets| {
        let [a, b, c] = deltas(offsets);
        index_of(&[("a", a), ("b", b - 1), ("c", c + 1)])
    });
    let tail = Tail::new(&early, Limits::default()).unwrap();
    let mut first = tail.tensor("a").unwrap().unwrap();
    let error = std::iter::repeat_with(|| first.next_block().map(|_| ())).find_map(Result::err);
    assert_eq!(error.unwrap().kind(), "count");
}

/// R64: an offset of the index anywhere but where the index is.
#[test]
fn every_other_place_of_the_index_is_refused() {
    let patch = example();
    let right = Tail::new(&patch, Limits::default()).unwrap().footer().index_offset;
    let field = patch.len() - FOOTER as usize + 3 + 41;
    for offset in
        (0..300).chain([1 << 32, u64::MAX - 6, u64::MAX]).filter(|offset| *offset != right)
    {
        let mut forged = patch.clone();
        forged[field..field + 8].copy_from_slice(&offset.to_le_bytes());
        let error = Tail::new(forge::sealed(&forged), Limits::default()).unwrap_err();
        assert!(["order", "count", "varint"].contains(&error.kind()), "{offset}: {error}");
    }
}

/// The sections of one tensor and of the end obey the limits of the reader.
#[test]
fn limits_hold_at_random() {
    let patch = snapshot(["a.long.name", "b"].map(String::from).into_iter(), 100_000);
    let limited = |limits: Limits| {
        let tail = Tail::new(&patch, limits)?;
        let mut tensor = tail.tensor("b")?.expect("a tensor");
        while tensor.next_block()?.is_some() {}
        Ok(())
    };
    limited(Limits::default()).unwrap();
    for (limit, limits) in [
        ("tensors", Limits::default().with_tensors(1)),
        ("names_bytes", Limits::default().with_names_bytes(11)),
        ("name_bytes", Limits::default().with_name_bytes(10)),
        ("target_bytes", Limits::default().with_target_bytes(150_000)),
        ("section_bytes", Limits::default().with_section_bytes(100)),
        ("section_bytes", Limits::default().with_section_bytes(50_000)),
        ("block_leaves", Limits::default().with_block_leaves(1)),
        ("rank", Limits::default().with_rank(0)),
        ("blocks", Limits::default().with_blocks(0)),
    ] {
        match limited(limits) {
            Err(Error::Limit { limit: found, .. }) => assert_eq!(found, limit),
            other => panic!("{limit}: {other:?}"),
        }
    }
}

#[test]
fn a_file_a_callback_and_memory_are_the_same_source() {
    let patch = fs::read(directory().join("good/actions.pulse")).unwrap();
    let expected = sequential(&patch).unwrap();
    let callback = FnSource::new(patch.len() as u64, |buffer, offset| {
        let start = offset as usize;
        buffer.copy_from_slice(&patch[start..start + buffer.len()]);
        Ok(())
    });
    assert_eq!(at_random(callback).unwrap(), expected);
    assert_eq!(at_random(&patch).unwrap(), expected);
    assert_eq!(
        at_random(LocalFile::open(directory().join("good/actions.pulse")).unwrap()).unwrap(),
        expected
    );
    let tail = Tail::open(directory().join("good/actions.pulse"), Limits::default()).unwrap();
    assert_eq!(*tail.footer(), expected.2);
    assert!(tail.tensor("no such tensor").unwrap().is_none());
    assert_eq!(tail.range("no such tensor"), None);
}

#[test]
fn no_source_gives_bytes_that_it_does_not_have() {
    let path = directory().join("good/spec-example.pulse");
    let file = LocalFile::open(&path).unwrap();
    let memory = example();
    let callback = FnSource::new(memory.len() as u64, |buffer, _| {
        buffer.fill(0);
        Ok(())
    });
    let sources: [&dyn ReadAt; 3] = [&file, &memory, &callback];
    for source in sources {
        let len = source.len().unwrap();
        assert_eq!(len, memory.len() as u64);
        source.read_exact_at(&mut [0; 6], len - 6).unwrap();
        for offset in [len - 5, len, len + 1, i64::MAX as u64 - 6, u64::MAX] {
            match source.read_exact_at(&mut [0; 6], offset) {
                Err(Error::Io { source, .. }) if offset <= i64::MAX as u64 => {
                    assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof)
                }
                // No file system knows such an offset.
                other => assert_eq!(other.unwrap_err().kind(), "io"),
            }
        }
    }
    assert!(LocalFile::open(directory()).is_err(), "a directory");
    let missing = LocalFile::open(directory().join("missing.pulse")).unwrap_err();
    assert!(missing.to_string().contains("missing.pulse"), "{missing}");
}

/// What the callback says reaches the caller, wherever it happens.
#[test]
fn a_source_that_fails_is_an_io_error() {
    let patch = snapshot(["a".to_string()].into_iter(), 200_000);
    for reads in 0..3 {
        let left = RefCell::new(reads);
        let source = FnSource::new(patch.len() as u64, |buffer, offset| {
            if left.replace_with(|left| *left - 1) == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
            }
            patch.as_slice().read_exact_at(buffer, offset).map_err(io::Error::from)
        });
        match at_random(source) {
            Err(Error::Io { doing, source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::TimedOut, "{doing}");
                assert!(source.to_string().contains("no answer"), "{source}");
            }
            other => panic!("{reads} reads: {other:?}"),
        }
    }
}

#[test]
fn misuse_leaves_the_bytes_as_they_were() {
    let patch = fs::read(directory().join("good/actions.pulse")).unwrap();
    let tail = Tail::new(&patch, Limits::default()).unwrap();
    let (_, tensors, _) = sequential(&patch).unwrap();
    let (deleted, ..) =
        tensors.iter().find(|(header, ..)| header.action == Action::Deleted).expect("a tensor");
    assert_eq!(
        tail.tensor(&deleted.name).unwrap().unwrap().apply(&mut []).unwrap_err().kind(),
        "misuse"
    );

    let tail = Tail::new(example(), Limits::default()).unwrap();
    let (name, before) = ("w", vec![7; 8]);
    let mut bytes = before.clone();
    let short = tail.tensor(name).unwrap().unwrap().apply(&mut bytes[1..]);
    let mut begun = tail.tensor(name).unwrap().unwrap();
    assert!(begun.next_block().unwrap().is_some());
    for result in [short, begun.apply(&mut bytes)] {
        assert_eq!(result.unwrap_err().kind(), "misuse");
        assert_eq!(bytes, before);
    }
}

/// R63: an error is blamed on the base if its tensor digest is another one, else on the patch.
#[test]
fn a_wrong_result_is_blamed_on_what_is_wrong() {
    let base = tensors_of("checkpoints/spec-base.safetensors");
    let patch = example();
    let tail = Tail::new(&patch, Limits::default()).unwrap();
    let mut other = base.tensors["w"].bytes.clone();
    other[7] ^= 1;
    match tail.tensor("w").unwrap().unwrap().apply(&mut other) {
        Err(Error::BaseMismatch(mismatch)) => assert_eq!(mismatch.tensor.as_deref(), Some("w")),
        result => panic!("{result:?}"),
    }
    // The target digest of the trailer, from the right base.
    let mut sections = forge::sections(&patch);
    let trailer = sections.iter_mut().find(|Section { tag, .. }| *tag == b'E').unwrap();
    *trailer.payload.last_mut().unwrap() ^= 1;
    match applied(forge::join(&patch, &sections), &base) {
        Err(Error::WrongResult { made, .. }) => assert_eq!(made, Made::Tensor("w".into())),
        result => panic!("{result:?}"),
    }
}

/// Many threads may read tensors of one patch.
#[test]
fn threads_share_a_tail() {
    let patch = snapshot((0..8).map(|number| format!("tensor.{number}")), 70_000);
    let tail = Tail::new(patch.as_slice(), Limits::default()).unwrap();
    let whole = Patch::from_bytes(patch.clone(), Limits::default()).unwrap();
    let names: BTreeSet<&str> = tail.names().collect();
    assert_eq!(names.len(), 8);
    std::thread::scope(|scope| {
        for name in names {
            let (tail, whole) = (&tail, &whole);
            scope.spawn(move || {
                let mut bytes = vec![0; 70_000];
                let trailer = tail.tensor(name).unwrap().unwrap().apply(&mut bytes).unwrap();
                assert_eq!(Some(trailer), whole.tensor(name).unwrap().end);
                assert_eq!(trailer.target, Some(pulse::hash::tensor_digest(&bytes)));
            });
        }
    });
}
