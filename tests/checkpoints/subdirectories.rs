//! Files in subdirectories, to which the index leads.

use std::fs;

use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::UpdateOptions;
use pulse::Checkpoint;
use testkit::files::{noise, safetensors, tensor, Files, Place};
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
    fs::create_dir(path.join("logs")).unwrap();
    let found = open(&path);
    assert_eq!(found.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c"]);
    let left_out: Vec<_> =
        found.left_out().iter().map(|out| (out.name.as_str(), out.reason.name())).collect();
    assert_eq!(
        left_out,
        [
            ("logs", "not-a-file"),
            ("shards/.hidden", "below"),
            ("shards/d.safetensors", "below"),
            ("shards/empty", "not-a-file"),
            ("shards/note.txt", "below"),
        ]
    );
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
    assert!(error.to_string().contains("below 'shards', a link"), "{error}");
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
