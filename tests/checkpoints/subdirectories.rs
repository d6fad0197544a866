//! Files in subdirectories: shards to which an index leads, parts of a model, and what is beside them.

use std::fs;

use pulse::checkpoint::ApplyOptions;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::UpdateOptions;
use pulse::Checkpoint;
use testkit::files::{noise, safetensors, tensor, Files, Place};
use testkit::forge;
use testkit::library::{diff, open, open_patch};

use crate::rebuilds;

const INDEX: &str = "model.safetensors.index.json";

fn x(name: &str, seed: u64) -> Vec<u8> {
    safetensors(&[tensor(name, "U8", &[1000], noise(seed, 1000))])
}

/// Tensor "a" in the directory itself, "b" and "c" below it.
fn tree(seed: u64) -> Files {
    let map = r#""a":"a.safetensors","b":"shards/b","c":"shards/of/c""#;
    Files::many([
        ("a.safetensors", x("a", seed)),
        ("shards/b", x("b", seed + 1)),
        ("shards/of/c", x("c", seed + 2)),
        (INDEX, format!(r#"{{"weight_map":{{{map}}}}}"#).into()),
        ("config.json", b"{}".to_vec()),
    ])
}

#[test]
fn shards_in_subdirectories_rebuild() {
    rebuilds(&tree(1), &tree(11));
    let flat = Files::many([("model.safetensors", x("a", 1))]);
    rebuilds(&flat, &tree(11));
}

/// What is beside them there is no part of the checkpoint, and is named.
#[test]
fn only_the_files_of_the_index_belong() {
    let place = Place::new();
    let path = place.put("tree", &tree(1));
    for other in ["shards/note.txt", "shards/d.safetensors", "shards/.hidden"] {
        place.put_bytes(&format!("tree/{other}"), &x("d", 9));
    }
    fs::create_dir(path.join("shards/empty")).unwrap();
    fs::create_dir(path.join("checkpoint-500")).unwrap();
    let found = open(&path);
    assert_eq!(found.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c"]);
    let left_out: Vec<_> =
        found.left_out().iter().map(|out| (out.name.as_str(), out.reason.name())).collect();
    assert_eq!(left_out, [("checkpoint-500", "trainer-state"), ("shards", "below"),]);
}

/// A model of sentences: a directory of settings, and a module with tensors, which modules.json names.
fn sentences(seed: u64) -> Files {
    Files::many([
        ("model.safetensors", x("w", seed)),
        ("modules.json", br#"[{"path":""},{"path":"1_Pooling"},{"path":"2_Dense"}]"#.to_vec()),
        ("1_Pooling/config.json", format!("{{\"step\":{seed}}}").into()),
        ("2_Dense/model.safetensors", x("w", seed + 1)),
        ("2_Dense/config.json", b"{}".to_vec()),
    ])
}

/// A pipeline: nothing but settings at the top, and a part with an index.
fn pipeline(seed: u64) -> Files {
    let index = r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    Files::many([
        ("model_index.json", b"{}".to_vec()),
        ("unet/one.safetensors", x("a", seed)),
        ("unet/two.safetensors", x("b", seed + 1)),
        ("unet/model.safetensors.index.json", index.into()),
        ("vae/model.safetensors", x("a", seed + 2)),
        ("tokenizer/vocab.json", b"[]".to_vec()),
    ])
}

/// R99: all of it arrives, and each tensor is named with the part that it is of.
#[test]
fn r99_models_of_several_parts_rebuild() {
    rebuilds(&sentences(1), &sentences(11));
    rebuilds(&pipeline(1), &pipeline(11));
    rebuilds(&sentences(1), &pipeline(11));
    let place = Place::new();
    let names = |files: &Files, name: &str| {
        let found = open(&place.put(name, files));
        assert!(found.left_out().is_empty());
        found.tensors().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&sentences(1), "sentences"), ["2_Dense/w", "w"]);
    assert_eq!(names(&pipeline(1), "pipeline"), ["unet/a", "unet/b", "vae/a"]);
}

/// R99: two tensors that come to one name are refused, and a patch has what the names are due to.
#[test]
fn r99_names_of_parts_are_sound() {
    let place = Place::new();
    let Files::Many(mut files) = pipeline(1) else { panic!("not a directory") };
    files.insert("model.safetensors".into(), x("vae/a", 9));
    let path = place.put("collision", &Files::Many(files));
    let error = Checkpoint::open(path).unwrap_err();
    assert_eq!(error.advice().unwrap().name(), "choose-one", "{error}");
    assert!(error.to_string().contains("tensor 'vae/a'"), "{error}");
    let mut target = open(&place.put("target", &pipeline(1)));
    target.select(|_, _| false);
    let options = EncoderOptions::default();
    let refused = testkit::library::diff_bytes(None, &target, options, Control::default());
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("without what is left out it is no checkpoint"), "{text}");
}

/// The rest of a directory with tensors that nothing speaks of, of a trainer's, and of a hidden one stays.
#[test]
fn what_is_no_part_of_the_model_is_left_out() {
    let place = Place::new();
    let Files::Many(mut files) = sentences(1) else { panic!("not a directory") };
    for other in [
        "backup/model.safetensors",
        "backup/config.json",
        "backup/deep/config.json",
        "checkpoint-500/config.json",
        "global_step7/config.json",
        ".cache/config.json",
        "1_Pooling/.cache/config.json",
        "a/b/c/d/e/f/g/h/too-deep.json",
    ] {
        files.insert(other.into(), x("w", 9));
    }
    let found = open(&place.put("model", &Files::Many(files)));
    assert_eq!(found.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["2_Dense/w", "w"]);
    let left_out: Vec<_> =
        found.left_out().iter().map(|out| (out.name.as_str(), out.reason.name())).collect();
    assert_eq!(
        left_out,
        [
            (".cache", "hidden"),
            ("1_Pooling/.cache", "hidden"),
            ("a/b/c/d/e/f/g/h", "name"),
            ("backup", "below"),
            ("checkpoint-500", "trainer-state"),
            ("global_step7", "trainer-state"),
        ]
    );
}

/// A data set that lies beside a model is not walked through to its end; where it may be a part of the
/// model, that is an error.
#[test]
fn a_subdirectory_of_too_many_files_is_left_out() {
    let place = Place::new();
    let path = place.put("model", &Files::many([("model.safetensors", x("w", 1))]));
    fs::create_dir(path.join("data")).unwrap();
    for number in 0..10_001 {
        fs::File::create(path.join(format!("data/{number}"))).unwrap();
    }
    let found = open(&path);
    let left_out: Vec<_> =
        found.left_out().iter().map(|out| (out.name.as_str(), out.reason.name())).collect();
    assert_eq!(left_out, [("data", "too-many")]);
    place.put_bytes("model/model_index.json", b"{}");
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("data (a subdirectory of too many files)"), "{error}");
}

/// A patch whose output no reader would look at whole is refused before anything is made.
#[test]
fn a_patch_of_too_many_files_in_subdirectories_is_refused() {
    let place = Place::new();
    let small = (0..10_001).map(|number| (format!("model-{number}.json"), Vec::new()));
    let target = Files::Many(small.chain([("a.safetensors".into(), x("w", 1))]).collect());
    let target = open(&place.put("target", &target));
    let options = EncoderOptions::default();
    let patch = testkit::library::diff_bytes(None, &target, options, Control::default()).unwrap();
    let path = place.put_bytes("patch", &forge::replaced(&patch, b'l', b"model-", b"model/"));
    let out = place.path("out");
    let error = place.untouched(|| {
        open_patch(&path).apply(None, &out, ApplyOptions::default(), Control::default())
    });
    let error = error.unwrap_err();
    assert!(error.to_string().contains("10001 files in subdirectories"), "{error}");
}

/// A part of a model that cannot be read is missing, whatever the reason; elsewhere it is nobody's.
#[cfg(unix)]
#[test]
fn a_part_that_cannot_be_read_is_an_error() {
    use std::os::unix::fs::symlink;
    for (name, files, is_error) in [
        ("pipeline", pipeline(1), true),
        ("sentences", sentences(1), false),
        ("plain", Files::many([("model.safetensors", x("w", 1))]), false),
    ] {
        let place = Place::new();
        let path = place.put(name, &files);
        fs::create_dir(path.join("more")).unwrap();
        symlink("nowhere", path.join("more/model.safetensors")).unwrap();
        let opened = Checkpoint::open(&path);
        assert_eq!(opened.is_err(), is_error, "{name}: {opened:?}");
        if let Ok(opened) = opened {
            assert_eq!(
                opened.left_out()[0].to_string(),
                "more (a subdirectory with tensors of its own)"
            );
        }
    }
    for (files, part) in [(sentences(1), "2_Dense"), (pipeline(1), "unet")] {
        let place = Place::new();
        let path = place.put(part, &files);
        fs::rename(path.join(part), place.path("elsewhere")).unwrap();
        symlink(place.path("elsewhere"), path.join(part)).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("{part} (not a regular file)")), "{error}");
    }
}

/// In place, small files of subdirectories stay as they are, and those that change are refused.
#[test]
fn small_files_of_subdirectories_stay_in_place() {
    let place = Place::new();
    let files = |seed, note: &str| {
        Files::many([("model.safetensors", x("w", seed)), ("1_Pooling/config.json", note.into())])
    };
    let base = place.put("base", &files(1, "{}"));
    for (name, note, ok) in [("same", "{}", true), ("other", "[]", false)] {
        let target = place.put(name, &files(2, note));
        let patch = place.path("patch");
        diff(Some(&base), &target, &patch, EncoderOptions::default(), 1);
        let patch = open_patch(&patch);
        let here = place.put(&format!("{name}-here"), &files(1, "{}"));
        let updated = patch.update(&here, UpdateOptions::default(), Control::default());
        if ok {
            updated.unwrap();
            Files::read(&here).assert_same(&Files::read(&target));
        } else {
            let error = updated.unwrap_err();
            assert_eq!(error.kind(), "not-in-place", "{error}");
            Files::read(&here).assert_same(&files(1, "{}"));
        }
    }
}

/// An index leads nowhere but into its directory, and what it names is there.
#[test]
fn an_index_leads_out_of_no_directory() {
    let place = Place::new();
    fs::create_dir(place.path("base")).unwrap();
    place.put_bytes("outside", &x("b", 2));
    for leads in ["../outside", "shards/../../outside", "/outside", "a//b", "shards/gone"] {
        let name = leads.replace('/', "_");
        let index = format!(r#"{{"weight_map":{{"a":"a.safetensors","b":"{leads}"}}}}"#);
        let path =
            place.put(&name, &Files::many([("a.safetensors", x("a", 1)), (INDEX, index.into())]));
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("names {leads}, which is not there")), "{error}");
    }
}

/// R79: what is below a link belongs to whatever the link leads to.
#[cfg(unix)]
#[test]
fn r79_no_link_is_followed_into_a_subdirectory() {
    let place = Place::new();
    let path = place.put("tree", &tree(1));
    fs::rename(path.join("shards"), place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), path.join("shards")).unwrap();
    let error = place.untouched(|| Checkpoint::open(&path).unwrap_err());
    assert!(
        error.to_string().contains("leads to 'shards/b', below shards (not a regular file)"),
        "{error}"
    );
    // Where no index leads there, a link to a directory is left out as any directory is.
    fs::remove_file(path.join(INDEX)).unwrap();
    let found = open(&path);
    assert_eq!(found.left_out().iter().map(|out| &*out.name).collect::<Vec<_>>(), ["shards"]);
}

/// An update in place has its journal in one directory, and changes files there only.
#[test]
fn a_checkpoint_with_subdirectories_is_not_updated_in_place() {
    let place = Place::new();
    let flat = |seed| Files::many([("a.safetensors", x("a", seed))]);
    for (name, base, target) in
        [("tree", tree(1), tree(11)), ("to", flat(1), tree(11)), ("from", tree(1), flat(11))]
    {
        let (base, target) =
            (place.put(name, &base), place.put(&format!("{name}-target"), &target));
        let patch = place.path("patch");
        diff(Some(&base), &target, &patch, EncoderOptions::default(), 1);
        let patch = open_patch(&patch);
        let update = || patch.update(&base, UpdateOptions::default(), Control::default());
        let error = place.untouched(|| update().unwrap_err());
        assert_eq!(error.kind(), "not-in-place", "{error}");
        assert!(error.to_string().contains("lies in a subdirectory"), "{error}");
    }
}
