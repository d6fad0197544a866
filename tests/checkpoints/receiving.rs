//! What becomes of the files beside the tensors, at the publisher and at a receiver (SPEC.md §9).

use std::path::Path;

use pulse::checkpoint::{ApplyOptions, Deviation, FilePolicy};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::UpdateOptions;
use pulse::wire::{FileContent, FileKind, FileState};
use pulse::{Checkpoint, Error, Limits, Patch};
use testkit::files::{header, raw, safetensors, tensor, Files, Place, Tensor};
use testkit::library::{diff_bytes, open};

/// One tensor file, and companions.
fn model(weight: u8, companions: &[(&str, &str)]) -> Files {
    let file = safetensors(&[tensor("w", "U8", &[4], [weight, 2, 3, 4])]);
    let companions =
        companions.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
    Files::Many(companions.chain([("model.safetensors".to_string(), file)]).collect())
}

fn patch(base: &Checkpoint, target: &Checkpoint) -> Patch {
    let options = EncoderOptions::default();
    let patch = diff_bytes(Some(base), target, options, Control::default()).unwrap();
    Patch::from_bytes(patch, Limits::default()).unwrap()
}

/// What a patch says of its companions.
fn companions(patch: &Patch) -> Vec<(&str, FileState)> {
    let records = patch.files().iter().map(|file| &file.record);
    let companions = records.filter(|record| record.kind == FileKind::Companion);
    companions.map(|record| (record.name.as_str(), record.state)).collect()
}

/// R97: each state of a file, with the bytes of the base that an update in place may touch.
#[test]
fn r97_a_writer_says_what_it_replaces_and_removes() {
    let place = Place::new();
    let base = place
        .put("base", &model(1, &[("a", "same"), ("b", "old"), ("c", "gone"), ("z", "gone too")]));
    let target = place.put("target", &model(2, &[("a", "same"), ("b", "new"), ("d", "comes")]));
    let patch = patch(&open(&base), &open(&target));
    let expected = [
        ("a", FileState::Kept),
        ("b", FileState::Replaced(FileContent::of(b"old"))),
        ("c", FileState::Removed),
        ("d", FileState::New),
        ("z", FileState::Removed),
    ];
    assert_eq!(companions(&patch), expected);
    let base_of = |name: &str| {
        let file = patch.files().iter().find(|file| file.record.name == name).unwrap();
        file.record.base()
    };
    assert_eq!(base_of("a"), Some(FileContent::of(b"same")));
    assert_eq!(base_of("b"), Some(FileContent::of(b"old")));
    assert_eq!(base_of("c"), Some(FileContent::of(b"gone")));
    assert_eq!(base_of("d"), None);
}

/// What a writer leaves out says nothing of the files of its base, whichever way it is left out.
#[test]
fn r97_what_is_left_out_is_not_removed() {
    let place = Place::new();
    let base = place.put(
        "base",
        &model(1, &[("log", "1"), ("config", "1"), ("optimizer.pt", "1"), (".env", "1")]),
    );
    let target = place.put("target", &model(2, &[("log", "2"), ("config", "1")]));
    let (base, mut target) = (open(&base), open(&target));
    // Trainer state and hidden files are no companions of the base.
    assert_eq!(companions(&patch(&base, &target)).len(), 2);
    target.select(|name, _| name != "log");
    assert_eq!(companions(&patch(&base, &target)), [("config", FileState::Kept)]);
    target.select(|_, _| false);
    assert_eq!(companions(&patch(&base, &target)), []);
}

/// A base that left a file out has it all the same: it is replaced.
#[test]
fn r97_a_file_that_the_base_left_out_is_replaced() {
    let place = Place::new();
    let base = place.put("base", &model(1, &[("optimizer.pt", "1")]));
    let target = place.put("target", &model(2, &[("optimizer.pt", "2")]));
    let (base, mut target) = (open(&base), open(&target));
    target.select(|_, _| true);
    let expected = [("optimizer.pt", FileState::Replaced(FileContent::of(b"1")))];
    assert_eq!(companions(&patch(&base, &target)), expected);
}

/// Directories become files and files directories: then there is nothing to replace or remove.
#[test]
fn r97_a_single_file_has_no_companions() {
    let place = Place::new();
    let directory = place.put("directory", &model(1, &[("config", "1")]));
    let file = place.put("file", &Files::one(&[tensor("w", "U8", &[4], [2, 2, 3, 4])]));
    let (directory, file) = (open(&directory), open(&file));
    assert_eq!(companions(&patch(&directory, &file)), []);
    assert_eq!(companions(&patch(&file, &directory)), [("config", FileState::New)]);
}

/// What `apply` makes of a receiver's checkpoint: the files, and the notes in words. `verify` with
/// that base notes the same, and so does `verify` of what was made, where a note is about that.
#[track_caller]
fn receive(
    place: &Place,
    receiver: &Path,
    patch: &Patch,
    policy: FilePolicy,
) -> pulse::Result<(Files, Vec<(String, Deviation)>)> {
    let base = open(receiver);
    let out = place.path("out");
    let _ = std::fs::remove_dir_all(&out).or_else(|_| std::fs::remove_file(&out));
    let options = ApplyOptions::default().with_files(policy);
    let applied = patch.apply(Some(&base), &out, options, Control::threads(2));
    let verified = patch.verify_with_base(&base, policy, Control::threads(2));
    let notes = match applied {
        Err(error) => {
            assert!(!out.exists());
            assert_eq!(verified.unwrap_err().to_string(), error.to_string());
            return Err(error);
        }
        Ok(report) => report.notes,
    };
    assert_eq!(verified.unwrap(), notes);
    let made = open(&out);
    assert_eq!(made.digest(Control::default()).unwrap(), patch.footer().target);
    if policy != FilePolicy::Keep {
        let differ = patch.verify_target(&made, FilePolicy::Follow, Control::default()).unwrap();
        let of_target = notes
            .iter()
            .filter(|note| ![Deviation::Removed, Deviation::LeftBehind].contains(&note.deviation));
        let names = |note: &pulse::checkpoint::FileNote| note.name.clone();
        assert!(differ.iter().map(names).eq(of_target.map(names)), "{differ:?}, {notes:?}");
        let exact = patch.verify_target(&made, FilePolicy::Exact, Control::default());
        assert_eq!(exact.is_ok(), differ.is_empty());
    }
    let notes = notes.into_iter().map(|note| (note.name, note.deviation)).collect();
    Ok((Files::read(&out), notes))
}

fn notes<const N: usize>(notes: [(&str, Deviation); N]) -> Vec<(String, Deviation)> {
    notes.into_iter().map(|(name, deviation)| (name.to_string(), deviation)).collect()
}

/// R98: every state of a companion with every state in which a receiver can have it.
#[test]
fn r98_companions_follow_unless_the_receiver_has_its_own() {
    use Deviation::{LeftBehind, Missing, Own, Removed};
    const BASE: Option<&str> = Some("base");
    const TARGET: Option<&str> = Some("target");
    const OTHER: Option<&str> = Some("other");
    // In the base, in the target, at the receiver; then what the receiver gets, and the note.
    let rows = [
        (BASE, BASE, BASE, BASE, None),
        (BASE, BASE, None, None, Some(Missing)),
        (BASE, BASE, OTHER, OTHER, Some(Own)),
        (BASE, TARGET, BASE, TARGET, None),
        (BASE, TARGET, TARGET, TARGET, None),
        (BASE, TARGET, None, TARGET, None),
        (BASE, TARGET, OTHER, OTHER, Some(Own)),
        (None, TARGET, None, TARGET, None),
        (None, TARGET, TARGET, TARGET, None),
        (None, TARGET, OTHER, OTHER, Some(Own)),
        (BASE, None, BASE, None, None),
        (BASE, None, None, None, None),
        (BASE, None, OTHER, None, Some(Removed)),
        // What is not listed is not in the output.
        (None, None, OTHER, None, Some(LeftBehind)),
    ];
    for (base, target, here, out, note) in rows {
        let place = Place::new();
        let put = |name: &str, weight, file: Option<&str>| {
            let file = file.map(|text| ("file", text));
            place.put(name, &model(weight, &file.into_iter().collect::<Vec<_>>()))
        };
        let patch = patch(&open(&put("base", 1, base)), &open(&put("target", 2, target)));
        let receiver = put("receiver", 1, here);
        let (found, told) = receive(&place, &receiver, &patch, FilePolicy::Follow).unwrap();
        let row = format!("{base:?} to {target:?} with {here:?}");
        let expected = out.map(|text| ("file", text));
        assert!(found == model(2, &expected.into_iter().collect::<Vec<_>>()), "{row}: {found:?}");
        let note = note.map(|deviation| ("file".to_string(), deviation));
        assert_eq!(told, note.into_iter().collect::<Vec<_>>(), "{row}");

        // Exact: the publisher's files, byte for byte, or none; only what is kept is needed.
        let exact = receive(&place, &receiver, &patch, FilePolicy::Exact);
        match exact {
            Ok((found, _)) => found.assert_same(&Files::read(&place.path("target"))),
            Err(error) => {
                assert!(base == target && here != base, "{row}: {error}");
                assert_eq!(error.kind(), "checkpoint", "{row}");
            }
        }

        // Keep: the receiver's own, whatever the patch says.
        let (found, told) = receive(&place, &receiver, &patch, FilePolicy::Keep).unwrap();
        let own = here.map(|text| ("file", text));
        assert!(found == model(2, &own.into_iter().collect::<Vec<_>>()), "{row}: {found:?}");
        assert_eq!(told, [], "{row}");
    }
}

fn ab(a: u8) -> [Tensor; 2] {
    [tensor("a", "U8", &[4], [a, 2, 3, 4]), tensor("b", "U8", &[2], [5, a])]
}

const INDEX: &str = "model.safetensors.index.json";

/// Two shards with an index, and a configuration.
fn sharded(a: u8, config: &str) -> Files {
    let [first, second] = ab(a);
    let index = r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    Files::many([
        ("1.safetensors", safetensors(&[first])),
        ("2.safetensors", safetensors(&[second])),
        (INDEX, index.into()),
        ("config.json", config.into()),
    ])
}

/// The same tensors in one file of another order, with metadata.
fn merged(a: u8) -> Vec<u8> {
    let [first, second] = ab(a);
    let tensors = [second, first];
    let json = header(&tensors, &[r#""__metadata__":{"format":"pt"}"#]);
    raw(&json, &[tensors[0].bytes.clone(), tensors[1].bytes.clone()].concat())
}

fn with(files: Files, name: &str, bytes: Option<Vec<u8>>) -> Files {
    let Files::Many(mut files) = files else { panic!("a directory") };
    match bytes {
        Some(bytes) => files.insert(name.into(), bytes),
        None => files.remove(name),
    };
    Files::Many(files)
}

/// Equal digest means that the patch applies: to other headers, other sharding, another index, a
/// single file. Tensors that stay the same in name and spec go to the receiver's own files.
#[test]
fn r98_tensors_go_to_the_files_that_the_receiver_has() {
    use Deviation::{Missing, Own, OwnTensors};
    let one = |a, config: &str| {
        Files::many([("all.safetensors", merged(a)), ("config.json", config.into())])
    };
    let other_index = br#"{"metadata":{},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    let [first, _] = ab(1);
    let other_header = |a: u8| {
        let [first, _] = ab(a);
        raw(&header(std::slice::from_ref(&first), &[r#""__metadata__":{"k":"v"}"#]), &first.bytes)
    };
    assert!(other_header(1) != safetensors(&[first]));
    let place = Place::new();
    let base = place.put("base", &sharded(1, "{}"));
    let target = place.put("target", &sharded(9, "{1}"));
    let patch = patch(&open(&base), &open(&target));
    let rows = [
        // Another index: it is the receiver's that leads to its shards.
        (
            "index",
            with(sharded(1, "{}"), INDEX, Some(other_index.to_vec())),
            with(sharded(9, "{1}"), INDEX, Some(other_index.to_vec())),
            notes([(INDEX, Own)]),
        ),
        // No index: nor does the publisher's come.
        (
            "no index",
            with(sharded(1, "{}"), INDEX, None),
            with(sharded(9, "{1}"), INDEX, None),
            notes([(INDEX, Missing)]),
        ),
        (
            "header",
            with(sharded(1, "{}"), "1.safetensors", Some(other_header(1))),
            with(sharded(9, "{1}"), "1.safetensors", Some(other_header(9))),
            notes([("1.safetensors", Own)]),
        ),
        (
            "merged",
            one(1, "{}"),
            one(9, "{1}"),
            notes([
                ("1.safetensors", Missing),
                ("2.safetensors", Missing),
                ("all.safetensors", OwnTensors),
                (INDEX, Missing),
            ]),
        ),
        (
            "merged, with its own configuration",
            one(1, "{2}"),
            one(9, "{2}"),
            notes([
                ("1.safetensors", Missing),
                ("2.safetensors", Missing),
                ("all.safetensors", OwnTensors),
                ("config.json", Own),
                (INDEX, Missing),
            ]),
        ),
        // There is nothing beside a single file.
        (
            "single",
            Files::One(merged(1)),
            Files::One(merged(9)),
            notes([
                ("", OwnTensors),
                ("1.safetensors", Missing),
                ("2.safetensors", Missing),
                ("config.json", Missing),
                (INDEX, Missing),
            ]),
        ),
    ];
    for (name, receiver, expected, told) in rows {
        let receiver = place.put(name, &receiver);
        let (found, notes) = receive(&place, &receiver, &patch, FilePolicy::Follow).unwrap();
        assert!(found == expected, "{name}: {found:?}");
        assert_eq!(notes, told, "{name}");
        let refused = receive(&place, &receiver, &patch, FilePolicy::Exact).unwrap_err();
        assert_eq!(refused.kind(), "checkpoint", "{name}: {refused}");
    }
}

/// A patch to a single file knows of no companions: those of a directory stay beside its weights.
#[test]
fn r98_a_patch_to_a_single_file_says_nothing_of_companions() {
    let place = Place::new();
    let [base, target] = [1, 9].map(|a| place.put(&format!("{a}"), &Files::One(merged(a))));
    let patch = patch(&open(&base), &open(&target));
    let receiver = place.put("receiver", &sharded(1, "{}"));
    let (found, told) = receive(&place, &receiver, &patch, FilePolicy::Follow).unwrap();
    found.assert_same(&sharded(9, "{}"));
    let expected = notes([
        ("", Deviation::Missing),
        ("1.safetensors", Deviation::OwnTensors),
        ("2.safetensors", Deviation::OwnTensors),
        (INDEX, Deviation::OwnTensors),
    ]);
    assert_eq!(told, expected);
}

/// Who has the target already, in other files, is told of the index among them too.
#[test]
fn r98_an_update_of_what_is_the_target_already_names_the_index_of_other_shards() {
    let place = Place::new();
    let one = |a| Files::many([("all.safetensors", merged(a)), ("config.json", "{}".into())]);
    let patch = patch(&open(&place.put("base", &one(1))), &open(&place.put("target", &one(9))));
    let receiver = place.put("receiver", &sharded(9, "{}"));
    let report = patch.update(&receiver, UpdateOptions::default(), Control::threads(1)).unwrap();
    assert!(report.already());
    let expected = notes([
        ("1.safetensors", Deviation::OwnTensors),
        ("2.safetensors", Deviation::OwnTensors),
        ("all.safetensors", Deviation::Missing),
        (INDEX, Deviation::OwnTensors),
    ]);
    let told = report.target.notes.iter().map(|note| (note.name.clone(), note.deviation));
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

/// The publisher's index goes with the publisher's shards: where these are carried, the receiver's
/// own sharding and index are gone.
#[test]
fn r98_a_carried_index_goes_with_carried_headers() {
    let place = Place::new();
    let one = |a| Files::many([("all.safetensors", merged(a))]);
    let (base, target) = (place.put("base", &one(1)), place.put("target", &sharded(9, "{}")));
    let patch = patch(&open(&base), &open(&target));
    let other = br#"{"weight_map":{"a":"all.safetensors"}}"#;
    let receiver = place.put("receiver", &with(one(1), INDEX, Some(other.to_vec())));
    let (found, told) = receive(&place, &receiver, &patch, FilePolicy::Follow).unwrap();
    found.assert_same(&sharded(9, "{}"));
    assert_eq!(told, []);
}

/// Tensors come or go, and the receiver's sharding is another: one file is made of them, without an
/// index, and beside it what the patch and the receiver have.
#[test]
fn r98_tensors_that_fit_neither_sharding_go_to_a_file_that_is_made() {
    let place = Place::new();
    let added = |files: Files| {
        let more = tensor("more", "U8", &[1], [7]);
        with(files, "2.safetensors", Some(safetensors(&[ab(9)[1].clone(), more])))
    };
    let base = place.put("base", &sharded(1, "{}"));
    let target = place.put("target", &added(sharded(9, "{1}")));
    let patch = patch(&open(&base), &open(&target));
    let one = Files::many([("all.safetensors", merged(1)), ("config.json", b"{}".to_vec())]);
    let receiver = place.put("receiver", &one);
    let (found, told) = receive(&place, &receiver, &patch, FilePolicy::Follow).unwrap();
    let Files::Many(found) = found else { panic!("a directory") };
    assert_eq!(found.keys().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
    assert_eq!(found["config.json"], b"{1}");
    let expected = notes([
        ("1.safetensors", Deviation::Missing),
        ("2.safetensors", Deviation::Missing),
        ("model.safetensors", Deviation::Made),
        (INDEX, Deviation::Missing),
    ]);
    assert_eq!(told, expected);
}

/// Files are no reason to take another base for the right one, or the right one for another.
#[test]
fn r98_a_wrong_base_is_told_as_that() {
    let place = Place::new();
    let base = place.put("base", &sharded(1, "{}"));
    let target = place.put("target", &sharded(9, "{}"));
    let patch = patch(&open(&base), &open(&target));
    let wrong = Files::many([("all.safetensors", merged(2)), ("config.json", b"{2}".to_vec())]);
    let receiver = place.put("receiver", &wrong);
    for policy in [FilePolicy::Follow, FilePolicy::Exact, FilePolicy::Keep] {
        let error = receive(&place, &receiver, &patch, policy).unwrap_err();
        assert!(matches!(error, Error::BaseMismatch(_)), "{policy:?}: {error}");
    }
}

/// R95 holds for whatever is made: no file of the patch may pass for weights beside the receiver's.
#[test]
fn r95_files_of_the_patch_are_no_weights_beside_the_receiver_s() {
    let place = Place::new();
    let base = place.put("base", &sharded(1, "{}"));
    let [first, second] = ab(1);
    let mut encoder = pulse::Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    let json = |tensor: &Tensor| raw(&header(std::slice::from_ref(tensor), &[]), &[]);
    for (name, tensor) in [("x.safetensors", &first), ("y.safetensors", &second)] {
        encoder.keep_file(name, FileKind::Tensors, &json(tensor)).unwrap();
    }
    let shadow = safetensors(&[tensor("a", "U8", &[4], [6; 4])]);
    encoder.carry_file("model.safetensors", FileKind::Companion, &shadow).unwrap();
    for (tensor, to) in [(&first, [9, 2, 3, 4].as_slice()), (&second, &[5, 9])] {
        let spec = open(&base).tensor(&tensor.name).unwrap().spec().clone();
        let mut writer = encoder.patched(&tensor.name, &spec).unwrap();
        writer.push(&tensor.bytes, to).unwrap();
        writer.end().unwrap();
    }
    let patch = Patch::from_bytes(encoder.finish().unwrap().0, Limits::default()).unwrap();
    let receiver = place.put("receiver", &with(sharded(1, "{}"), INDEX, None));
    let error = receive(&place, &receiver, &patch, FilePolicy::Follow).unwrap_err().to_string();
    assert!(
        error.contains("readers take the companion 'model.safetensors' for tensors"),
        "{error}"
    );
}

/// Of two indexes neither counts. Where only one of them travels it would, and lead readers elsewhere: there is no
/// patch, rather than one that nobody can apply.
#[test]
fn r95_leaving_out_one_of_two_indexes_makes_no_patch() {
    let place = Place::new();
    let index = br#"{"weight_map":{"w":"gone.safetensors"}}"#.to_vec();
    let [one, two] = ["one.safetensors.index.json", "two.safetensors.index.json"];
    let files = with(with(model(1, &[]), one, Some(index.clone())), two, Some(index));
    let mut target = open(&place.put("target", &files));
    let travels = |target: &Checkpoint| {
        let patch = diff_bytes(None, target, EncoderOptions::default(), Control::default())?;
        let out = place.path("out");
        let _ = std::fs::remove_dir_all(&out);
        let patch = Patch::from_bytes(patch, Limits::default())?;
        patch.apply(None, &out, ApplyOptions::default(), Control::default())
    };
    travels(&target).unwrap();
    target.select(|_, _| false);
    travels(&target).unwrap();
    target.select(|name, _| name == one);
    let error = travels(&target).unwrap_err();
    assert_eq!(error.kind(), "checkpoint");
    assert!(error.to_string().contains("index"), "{error}");
}
