//! Headers, shards and companions: the files around the tensors.

use pulse::stream::EncoderOptions;
use serde_json::json;

use crate::rebuilds;
use testkit::files::{
    data, header, noise, raw, safetensors, stepped, tensor, weights, Files, Place, Tensor,
};
use testkit::library::{apply, diff, open_patch};

fn model() -> Vec<Tensor> {
    (0..6).map(|i| tensor(&format!("layer.{i}"), "BF16", &[10, 100], weights(i, 1000))).collect()
}

fn stepped_model() -> Vec<Tensor> {
    model()
        .into_iter()
        .map(|tensor| Tensor { bytes: stepped(&tensor.bytes, 2, 50), ..tensor })
        .collect()
}

/// A directory with the tensors spread over so many shards, and the index that says where they are.
fn sharded(tensors: &[Tensor], shards: usize) -> Files {
    let mut files = Files::many([]);
    let mut weight_map = serde_json::Map::new();
    for (number, tensors) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", number + 1);
        tensors.iter().for_each(|tensor| _ = weight_map.insert(tensor.name.clone(), json!(name)));
        files = with(files, &name, safetensors(tensors));
    }
    let index =
        json!({ "metadata": { "total_size": data(tensors).len() }, "weight_map": weight_map });
    with(files, "model.safetensors.index.json", index.to_string().into())
}

fn with(files: Files, name: &str, bytes: Vec<u8>) -> Files {
    let Files::Many(mut files) = files else { panic!("not a directory") };
    files.insert(name.into(), bytes);
    Files::Many(files)
}

#[test]
fn headers_that_differ_in_form_only_rebuild() {
    let tensors = model();
    let (json, bytes) = (header(&tensors, &[]), data(&tensors));
    let plain = Files::One(raw(&json, &bytes));
    let swapped = {
        // Entries in another order than their bytes, fields in another order, spaces between.
        let mut entries: Vec<String> = (0..6usize)
            .map(|i| {
                let offsets = [2000 * i, 2000 * (i + 1)];
                format!(r#" "layer.{i}" : {{ "data_offsets":{offsets:?}, "shape":[10,100] ,"dtype":"BF16" }}"#)
            })
            .collect();
        entries.reverse();
        format!("{{{}}}", entries.join(",\n"))
    };
    for other in [
        raw(&swapped, &bytes),
        raw(&format!("{json}     \n"), &bytes),
        raw(&header(&tensors, &[r#""__metadata__":{"format":"pt","note":"caf\u00e9"}"#]), &bytes),
        raw(&json.replace("layer.0", "l\\u0061yer.0"), &bytes),
        raw(
            &header(
                &tensors,
                &[&format!(r#""__metadata__":{{"long":"{}"}}"#, "long ".repeat(500_000))],
            ),
            &bytes,
        ),
    ] {
        let report = rebuilds(&plain, &Files::One(other));
        assert_eq!((report.summary.footer.tensors, report.summary.footer.changes), (0, 0));
    }
    let reversed: Vec<_> = tensors.iter().rev().cloned().collect();
    assert_eq!(rebuilds(&plain, &Files::one(&reversed)).summary.footer.changes, 0);
}

#[test]
fn metadata_may_change_together_with_weights() {
    let file = |step: u64, tensors: &[Tensor]| {
        let metadata = format!(r#""__metadata__":{{"step":"{step}"}}"#);
        Files::One(raw(&header(tensors, &[&metadata]), &data(tensors)))
    };
    let report = rebuilds(&file(40, &model()), &file(41, &stepped_model()));
    assert_eq!(report.summary.footer.changes, 6 * 20);
}

#[test]
fn a_header_that_did_not_change_does_not_travel() {
    let metadata = format!(r#""__metadata__":{{"noise":"{:?}"}}"#, noise(1, 4000));
    let file = |tensors: &[Tensor]| Files::One(raw(&header(tensors, &[&metadata]), &data(tensors)));
    let report = rebuilds(&file(&model()), &file(&stepped_model()));
    assert!(report.summary.patch_bytes < 2000, "{} bytes", report.summary.patch_bytes);
}

#[test]
fn checkpoints_may_be_sharded_anew() {
    let single = Files::one(&model());
    let directory = |tensors: &[Tensor]| Files::many([("model.safetensors", safetensors(tensors))]);
    let (old, new) = (model(), stepped_model());
    for (base, target) in [
        (directory(&old), sharded(&new, 3)),
        (sharded(&old, 3), sharded(&new, 2)),
        (sharded(&old, 3), sharded(&new, 3)),
        (single, directory(&new)),
        (Files::one(&old), sharded(&new, 2)),
    ] {
        assert_eq!(rebuilds(&base, &target).summary.footer.changes, 6 * 20);
    }
}

#[test]
fn a_tensor_may_move_to_another_shard() {
    let tensors = model();
    let two = |cut: usize| {
        let (a, b) = tensors.split_at(cut);
        Files::many([("a.safetensors", safetensors(a)), ("b.safetensors", safetensors(b))])
    };
    assert_eq!(rebuilds(&two(2), &two(5)).summary.footer.changes, 0);
    rebuilds(&two(0), &two(6));
}

#[test]
fn companions_that_change_come_and_go_rebuild() {
    let directory = |tensors: &[Tensor], seed: u64, own: &str| {
        let files = with(sharded(tensors, 2), "config.json", format!("{{\"step\":{seed}}}").into());
        let files = with(files, "tokenizer.json", noise(2, 30_000));
        let files = with(files, "large.bin", noise(seed, 3_000_000));
        let files = with(files, "empty-or-not", vec![0; seed as usize % 2]);
        let files = with(files, "caf\u{e9} 1.txt", vec![]);
        with(files, own, noise(4, 100))
    };
    let (base, target) =
        (directory(&model(), 40, "in-base.txt"), directory(&stepped_model(), 41, "in-target.txt"));
    rebuilds(&base, &target);
}

#[test]
fn companions_that_did_not_change_do_not_travel() {
    let directory = |tensors: &[Tensor]| {
        let files = Files::many([("model.safetensors", safetensors(tensors))]);
        with(with(files, "tokenizer.json", noise(5, 2_000_000)), "empty", vec![])
    };
    let report = rebuilds(&directory(&model()), &directory(&stepped_model()));
    assert!(report.summary.patch_bytes < 3000, "{} bytes", report.summary.patch_bytes);
    assert!(report.target_file_bytes > 2_000_000);
}

#[test]
fn a_tensor_file_that_the_index_does_not_name_stays_behind() {
    let files = |tensors: &[Tensor], seed| {
        with(
            sharded(tensors, 2),
            "consolidated.safetensors",
            safetensors(&[tensor("x", "U8", &[9], noise(seed, 9))]),
        )
    };
    let place = Place::new();
    let (base, target) = (files(&model(), 6), files(&stepped_model(), 7));
    let (base, target) = (place.put("base", &base), place.put("target", &target));
    let patch = place.path("patch");
    let report = diff(Some(&base), &target, &patch, EncoderOptions::default(), 1);
    assert_eq!(report.summary.footer.target_tensors, 6);
    apply(Some(&base), &patch, &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&sharded(&stepped_model(), 2));
}

#[test]
fn a_patch_says_how_much_was_saved() {
    let place = Place::new();
    let (base, target) =
        (place.put("a", &sharded(&model(), 2)), place.put("b", &sharded(&stepped_model(), 2)));
    let report = diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
    let patch = open_patch(&place.path("patch"));
    let Files::Many(files) = Files::read(&target) else { panic!("not a directory") };
    assert_eq!(
        report.target_file_bytes,
        files.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    );
    assert_eq!(report.summary.patch_bytes, patch.bytes());
    assert_eq!(report.summary.footer, *patch.footer());
    assert_eq!(patch.files().len(), 3);
    let names: Vec<_> = patch.tensors().iter().map(|tensor| tensor.header.name.as_str()).collect();
    assert_eq!(names, ["layer.0", "layer.1", "layer.2", "layer.3", "layer.4", "layer.5"]);
}

/// A secret does not travel under another name; what a link leads to in a cache of downloads does.
#[cfg(unix)]
#[test]
fn a_link_carries_nothing_that_would_be_left_out() {
    use pulse::checkpoint::Reason;
    use std::os::unix::fs::symlink;
    let place = Place::new();
    let blob = place.put_bytes("blobs-0a1b", b"{}");
    let model = place.put("model", &with(sharded(&model(), 2), ".env", b"KEY=1".to_vec()));
    std::fs::write(model.join("optimizer.pt"), "state").unwrap();
    for (target, link) in
        [(".env", "environment"), ("optimizer.pt", "o"), (blob.to_str().unwrap(), "config.json")]
    {
        symlink(target, model.join(link)).unwrap();
    }
    let mut checkpoint = pulse::Checkpoint::open(&model).unwrap();
    let left_out = |checkpoint: &pulse::Checkpoint| -> Vec<(String, Reason)> {
        checkpoint.left_out().iter().map(|out| (out.name.clone(), out.reason)).collect()
    };
    let expected = [
        (".env", Reason::Hidden),
        ("environment", Reason::Hidden),
        ("o", Reason::TrainerState),
        ("optimizer.pt", Reason::TrainerState),
    ];
    assert_eq!(left_out(&checkpoint), expected.map(|(name, reason)| (name.to_string(), reason)));
    checkpoint.select(|name, reason| reason.is_none() || name == "environment");
    assert_eq!(left_out(&checkpoint).len(), 3);
}
