//! Tensors of one name in two files: the index says which has the name (R99).

use pulse::checkpoint::{ApplyOptions, Deviation, FilePolicy};
use pulse::error::FileFault;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::{UpdateOptions, Way};
use pulse::{Checkpoint, Error, Limits, Patch};
use testkit::files::{noise, safetensors, tensor, Files, Place, Tensor};
use testkit::library::{diff_bytes, open};

use crate::rebuilds;

const INDEX: &str = "model.safetensors.index.json";

fn x(seed: u64) -> Tensor {
    tensor("x", "U8", &[100_000], noise(seed, 100_000))
}

fn index(map: &str) -> (String, Vec<u8>) {
    (INDEX.into(), format!(r#"{{"weight_map":{{{map}}}}}"#).into())
}

/// "x" is in both files, with these bytes; the index, if any, gives it to one of them.
fn twice(first: &Tensor, second: &Tensor, counted: Option<&str>) -> Files {
    let small = |name: &str, byte| tensor(name, "U8", &[2], [byte, first.bytes[0]]);
    let mut files = vec![
        ("1.safetensors".to_string(), safetensors(&[small("a", 1), first.clone()])),
        ("2.safetensors".to_string(), safetensors(&[second.clone(), small("b", 2)])),
    ];
    files.extend(counted.map(|counted| {
        index(&format!(r#""a":"1.safetensors","b":"2.safetensors","x":"{counted}.safetensors""#))
    }));
    Files::Many(files.into_iter().collect())
}

/// R99: bytes that are the same, that differ, of another shape; by an index that leads to either file,
/// and to another one in the target.
#[test]
fn r99_all_tensors_of_one_name_are_rebuilt() {
    let flat = |seed| Tensor { shape: vec![1000, 100], ..x(seed) };
    for (base, target) in [
        (twice(&x(1), &x(1), Some("1")), twice(&x(2), &x(2), Some("1"))),
        (twice(&x(1), &x(2), Some("2")), twice(&x(3), &x(4), Some("2"))),
        (twice(&x(1), &x(2), Some("1")), twice(&x(1), &x(2), Some("2"))),
        (twice(&x(1), &flat(2), Some("1")), twice(&x(3), &flat(4), Some("1"))),
        (twice(&x(1), &x(2), Some("1")), Files::many([("m.safetensors", safetensors(&[x(1)]))])),
    ] {
        rebuilds(&base, &target);
    }
}

/// R99: the one that the index names has the name, and the other that of its file before.
#[test]
fn r99_the_index_gives_the_name() {
    let place = Place::new();
    for (counted, names) in
        [("1", ["2.safetensors/x", "a", "b", "x"]), ("2", ["1.safetensors/x", "a", "b", "x"])]
    {
        let found = open(&place.put(counted, &twice(&x(1), &x(2), Some(counted))));
        assert_eq!(found.tensors().map(|(name, _)| name).collect::<Vec<_>>(), names);
        for (name, seed) in
            [("x", counted.parse().unwrap()), (names[0], if counted == "1" { 2 } else { 1 })]
        {
            let mut bytes = vec![0; 100_000];
            found.read_at(found.tensor(name).unwrap(), 0, &mut bytes).unwrap();
            assert!(bytes == x(seed).bytes, "{counted}: {name}");
        }
        assert_eq!(found.absent(), [""; 0]);
    }
}

/// R99: without an index that leads to one of them, nobody knows which is meant. What is advised keeps both.
#[test]
fn r99_two_tensors_of_one_name_are_refused() {
    let place = Place::new();
    let elsewhere = |map: &str| {
        Files::Many(
            [
                ("1.safetensors".into(), safetensors(&[x(1)])),
                ("2.safetensors".into(), safetensors(&[x(1)])),
                ("3.safetensors".into(), safetensors(&[])),
                index(map),
            ]
            .into(),
        )
    };
    let (rest, named) = (
        r#""a":"1.safetensors","b":"2.safetensors","c":"3.safetensors""#,
        tensor("2.safetensors/x", "U8", &[1], [7]),
    );
    let collision = Files::Many(
        [
            ("1.safetensors".into(), safetensors(&[x(1), named])),
            ("2.safetensors".into(), safetensors(&[x(1)])),
            index(r#""x":"1.safetensors","2.safetensors/x":"2.safetensors""#),
        ]
        .into(),
    );
    for (name, files) in [
        ("no index", twice(&x(1), &x(1), None)),
        ("not in it", elsewhere(rest)),
        ("in another", elsewhere(&format!(r#"{rest},"x":"3.safetensors""#))),
        ("collision", collision),
    ] {
        let error = Checkpoint::open(place.put(name, &files)).unwrap_err();
        let advice = error.advice().unwrap();
        assert_eq!(advice.name(), "choose-one", "{name}");
        assert!(!advice.to_string().contains("remove"), "{advice}");
        assert!(
            matches!(&error, Error::BadFile { fault: FileFault::DuplicateTensor { tensor, .. }, .. }
                if tensor.ends_with('x')),
            "{name}: {error}"
        );
    }
}

/// R99: an index that names are due to is not left out.
#[test]
fn r99_the_index_goes_with_the_names() {
    let place = Place::new();
    let mut target = open(&place.put("target", &twice(&x(1), &x(2), Some("1"))));
    target.select(|_, _| false);
    let refused = diff_bytes(None, &target, EncoderOptions::default(), Control::default());
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("what the name of tensor 'x' is due to"), "{text}");
}

fn patch(place: &Place, base: &Files, target: &Files) -> Patch {
    let (base, target) = (place.put("patch-base", base), place.put("patch-target", target));
    let (options, control) = (EncoderOptions::default(), Control::default());
    let bytes = diff_bytes(Some(&open(&base)), &open(&target), options, control).unwrap();
    Patch::from_bytes(bytes, Limits::default()).unwrap()
}

/// Where the checkpoint stands, by both ways, and where the name moves to the other file.
#[test]
fn tensors_of_one_name_are_updated_in_place() {
    let base = twice(&x(1), &x(2), Some("1"));
    for (target, way) in [
        (twice(&x(3), &x(4), Some("1")), Way::Redo),
        (twice(&x(3), &x(4), Some("1")), Way::Undo),
        (twice(&x(3), &x(4), Some("2")), Way::Redo),
    ] {
        let place = Place::new();
        let here = place.put("here", &base);
        let options = UpdateOptions::default().with_way(way);
        let patch = patch(&place, &base, &target);
        let report = patch.update(&here, options, Control::default()).unwrap();
        assert_eq!(report.way, Some(way));
        Files::read(&here).assert_same(&target);
        assert!(patch.update(&here, options, Control::default()).unwrap().already());
    }
}

/// A receiver with the same tensors in one file keeps that, and one with other names by its index is not
/// taken for the base.
#[test]
fn tensors_of_one_name_go_to_the_files_of_the_receiver() {
    let place = Place::new();
    let all = |seed: u64| {
        let small = |name: &str, byte| tensor(name, "U8", &[2], [byte, x(seed).bytes[0]]);
        let other = Tensor { name: "2.safetensors/x".into(), ..x(seed + 1) };
        Files::many([(
            "all.safetensors",
            safetensors(&[small("a", 1), small("b", 2), x(seed), other]),
        )])
    };
    let sharded = |seed| twice(&x(seed), &x(seed + 1), Some("1"));
    let patch = patch(&place, &sharded(1), &sharded(5));
    let control = Control::default();
    let receiver = open(&place.put("receiver", &all(1)));
    let report =
        patch.apply(Some(&receiver), place.path("kept"), ApplyOptions::default(), control).unwrap();
    let own = report.notes.iter().any(|note| note.deviation == Deviation::OwnTensors);
    assert!(own, "{:?}", report.notes);
    Files::read(&place.path("kept")).assert_same(&all(5));

    let swapped = open(&place.put("swapped", &twice(&x(1), &x(2), Some("2"))));
    let follow = ApplyOptions::default().with_files(FilePolicy::Follow);
    let error = patch.apply(Some(&swapped), place.path("out"), follow, control).unwrap_err();
    assert_eq!(error.kind(), "base", "{error}");
}
