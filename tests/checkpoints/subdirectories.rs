//! Files in subdirectories: shards to which an index leads, parts of a model, and what is beside them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use pulse::checkpoint::{ApplyOptions, FilePolicy};
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::{recover, UpdateOptions};
use pulse::{Checkpoint, Error};
use testkit::files::{noise, safetensors, tensor, Files, Place};
use testkit::forge;
use testkit::library::{apply, diff, open, open_patch};

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
    assert!(error.to_string().contains("10001 files in model"), "{error}");
}

fn left_out(path: &Path) -> Vec<String> {
    open(path).left_out().iter().map(ToString::to_string).collect()
}

/// What somebody does in a directory.
type Act<'a> = &'a dyn Fn(&Path);

/// What may be of a part of a model, and cannot be read or named, is an error: a model without it would be
/// another one. Elsewhere it is nobody's.
#[cfg(unix)]
#[test]
fn a_part_that_nobody_can_look_into_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let not_utf8 = |path: &Path| path.join(OsStr::from_bytes(b"un\xff"));
    let acts: [(&str, Act); 7] = [
        ("broken link to tensors", &|path| {
            fs::create_dir(path.join("more")).unwrap();
            symlink("nowhere", path.join("more/model.safetensors")).unwrap();
        }),
        ("broken link", &|path| symlink("nowhere", path.join("more")).unwrap()),
        ("link to a directory", &|path| symlink("..", path.join("more")).unwrap()),
        ("tensors with a bad name", &|path| {
            fs::create_dir(path.join("more")).unwrap();
            fs::write(path.join("more/a:b.safetensors"), x("w", 1)).unwrap();
        }),
        ("directory with a bad name", &|path| fs::create_dir(path.join("mo:re")).unwrap()),
        ("directory with a name of other bytes", &|path| fs::create_dir(not_utf8(path)).unwrap()),
        ("a pipe for tensors", &|path| {
            fs::create_dir(path.join("more")).unwrap();
            let pipe = path.join("more/model.safetensors");
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }),
    ];
    for (what, act) in acts {
        for (name, files) in [("pipeline", pipeline(1)), ("sentences", sentences(1))] {
            let place = Place::new();
            let path = place.put(name, &files);
            act(&path);
            match Checkpoint::open(&path) {
                // The list of modules names others.
                Ok(_) => assert!(name == "sentences" && left_out(&path).len() == 1, "{what}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(name == "pipeline", "{what}: {text}");
                    let is_told = text.contains("a part of the model, by model_index.json")
                        || text.contains("opening");
                    assert!(is_told, "{what}: {text}");
                }
            }
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

/// A part whose index is there and whose shards are not is a part that is not whole.
#[test]
fn a_part_with_an_index_alone_is_not_whole() {
    for shards in [1, 2] {
        let place = Place::new();
        let path = place.put("pipeline", &pipeline(1));
        for shard in ["one", "two"].into_iter().take(shards) {
            fs::remove_file(path.join(format!("unet/{shard}.safetensors"))).unwrap();
        }
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(error.to_string().contains("names unet/one.safetensors"), "{error}");
        // Where nothing makes it a part, the directory is another model's.
        fs::rename(path.join("vae/model.safetensors"), path.join("model.safetensors")).unwrap();
        fs::remove_file(path.join("model_index.json")).unwrap();
        assert_eq!(left_out(&path), ["unet (a subdirectory with tensors of its own)"]);
    }
}

/// An update after which a directory that nobody looked into would be a part is refused, as no reader would
/// open the result.
#[cfg(unix)]
#[test]
fn no_update_makes_a_part_of_what_nobody_looked_into() {
    for list in ["model_index.json", "modules.json"] {
        let place = Place::new();
        let plain = |seed| [("model.safetensors", x("w", seed))];
        let base = place.put("base", &Files::many(plain(1)));
        let listed = br#"[{"path":"logs"}]"#.to_vec();
        let target = Files::many([plain(2)[0].clone(), (list, listed)]);
        let target = place.put("target", &target);
        diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
        fs::create_dir(place.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(place.path("elsewhere"), base.join("logs")).unwrap();
        let patch = open_patch(&place.path("patch"));
        let update = || patch.update(&base, UpdateOptions::default(), Control::default());
        let error = place.untouched(|| update().unwrap_err());
        assert_eq!(error.kind(), "not-in-place", "{error}");
        assert!(error.to_string().contains("logs (not a regular file)"), "{error}");
    }
}

/// An update looks for nothing behind a link, even what is as in the target already.
#[cfg(unix)]
#[test]
fn no_update_finds_a_companion_behind_a_link() {
    let place = Place::new();
    let plain = |seed| [("model.safetensors", x("w", seed))];
    let base = place.put("base", &Files::many(plain(1)));
    let more = [plain(2)[0].clone(), ("more/x.json", b"{}".to_vec())];
    let target = place.put("target", &Files::many(more));
    diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
    fs::create_dir(place.path("outside")).unwrap();
    place.put_bytes("outside/x.json", b"{}");
    let patch = open_patch(&place.path("patch"));
    for (what, link) in [("a link", true), ("a file", false)] {
        if link {
            std::os::unix::fs::symlink(place.path("outside"), base.join("more")).unwrap();
        } else {
            fs::remove_file(base.join("more")).unwrap();
            place.put_bytes("base/more", b"mine");
        }
        for files in [FilePolicy::Exact, FilePolicy::Follow] {
            let options = UpdateOptions::default().with_files(files);
            let update = || patch.update(&base, options, Control::default());
            let error = place.untouched(|| update().unwrap_err());
            assert_eq!(error.kind(), "not-in-place", "{what}: {error}");
        }
    }
}

/// R98: what lists the parts goes with the tensor files, as an index does.
#[test]
fn r98_lists_of_parts_go_with_the_tensor_files() {
    let Files::Many(mut other) = sentences(1) else { panic!("not a directory") };
    let spaced = br#"[ {"path":""}, {"path":"1_Pooling"}, {"path":"2_Dense"} ]"#.to_vec();
    other.insert("modules.json".into(), spaced);
    let Files::Many(mut third) = sentences(11) else { panic!("not a directory") };
    let listed = br#"[{"path":""},{"path":"2_Dense"},{"path":"3_Dense"}]"#.to_vec();
    third.insert("modules.json".into(), listed);
    third.insert("3_Dense/model.safetensors".into(), x("w", 14));
    let flat = |seed: u64| {
        let tensors = [("unet/a", 0), ("unet/b", 1), ("vae/a", 2)];
        let tensors = tensors.map(|(name, at)| tensor(name, "U8", &[1000], noise(seed + at, 1000)));
        Files::many([("model.safetensors", safetensors(&tensors))])
    };
    for (what, base, target, receiver) in [
        ("another list of the same", sentences(1), Files::Many(third), Files::Many(other)),
        ("parts of what is flat", flat(1), flat(11), pipeline(1)),
        ("flat of what has parts", pipeline(1), pipeline(11), flat(1)),
        ("parts that become flat", pipeline(1), flat(11), pipeline(1)),
        ("flat that gets parts", flat(1), pipeline(11), flat(1)),
    ] {
        let place = Place::new();
        let [base, target, receiver] = [("base", base), ("target", target), ("receiver", receiver)]
            .map(|(name, files)| place.put(name, &files));
        diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
        let (options, control) = (ApplyOptions::default(), Control::default());
        open_patch(&place.path("patch"))
            .apply(Some(&open(&receiver)), place.path("out"), options, control)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let digest = |path: &Path| open(path).digest(Control::default()).unwrap();
        assert_eq!(digest(&place.path("out")), digest(&target), "{what}");
    }
}

/// The weights of a model with parts are the tensor files, and what says that they are parts.
#[test]
fn the_weights_alone_open_as_the_same_tensors() {
    for (files, kept) in [
        (sentences(1), ["2_Dense/model.safetensors", "model.safetensors", "modules.json"].to_vec()),
        (tree(1), ["a.safetensors", INDEX, "shards/b", "shards/of/c"].to_vec()),
        (Files::many([("model.safetensors", x("w", 1)), ("config.json", b"{}".to_vec())]), {
            ["model.safetensors"].to_vec()
        }),
    ] {
        let place = Place::new();
        let mut target = open(&place.put("target", &files));
        target.select_weights();
        let options = EncoderOptions::default();
        let patch = testkit::library::diff_bytes(None, &target, options, Control::default());
        let path = place.put_bytes("patch", &patch.unwrap());
        apply(None, &path, &place.path("out")).unwrap();
        let Files::Many(made) = Files::read(&place.path("out")) else { panic!("not a directory") };
        assert_eq!(made.into_keys().collect::<Vec<_>>(), kept);
    }
}

/// An output inside of a model of several parts would be one more.
#[test]
fn no_output_becomes_a_part_of_its_base() {
    let place = Place::new();
    let (base, target) = (place.put("base", &pipeline(1)), place.put("target", &pipeline(11)));
    diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
    let error = place
        .untouched(|| apply(Some(&base), &place.path("patch"), &base.join("new")).unwrap_err());
    assert!(error.to_string().contains("a part of its own base"), "{error}");
}

/// Directories that are one elsewhere are no place for tensors; companions there are left out.
#[test]
fn directories_that_are_one_elsewhere_are_not_portable() {
    let place = Place::new();
    let more = [("Vae/x.json", b"{}".to_vec()), ("UNET", b"".to_vec())];
    let Files::Many(mut files) = pipeline(1) else { panic!("not a directory") };
    files.extend(more.map(|(name, bytes)| (name.to_string(), bytes)));
    let path = place.put("companions", &Files::Many(files.clone()));
    let not_portable = "a name that not every system can hold";
    let expected = ["UNET", "Vae/x.json"].map(|name| format!("{name} ({not_portable})"));
    assert_eq!(left_out(&path), expected);
    files.insert("Vae/model.safetensors".into(), x("a", 3));
    let target = open(&place.put("tensors", &Files::Many(files)));
    let options = EncoderOptions::default();
    let refused = testkit::library::diff_bytes(None, &target, options, Control::default());
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("are one on other systems"), "{error}");
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

/// A part that was updated by itself is recovered by itself, and nobody says that all is well before.
#[test]
fn a_recovery_of_the_whole_names_the_part_that_was_interrupted() {
    let place = Place::new();
    let path = place.put("pipeline", &pipeline(1));
    let shard = path.join("unet/two.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[..8].copy_from_slice(&[1, 2, 3, 0x84, 5, b'u', b'p', 0xff]);
    fs::write(&shard, bytes).unwrap();
    let error = place.untouched(|| recover(&path, Control::default()).unwrap_err());
    let Error::Interrupted { path: found, journal, is_there: false } = &error else {
        panic!("{error}")
    };
    assert!(found.ends_with("unet/two.safetensors"), "{error}");
    assert!(journal.ends_with("unet/pulse-update-0102038405.undo"), "{error}");
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
