//! Messages look before they speak: what was given instead of a patch or a checkpoint is named, and
//! nothing that a file says acts on the terminal.

use std::fs;
use std::path::Path;

use serde_json::{json, Value};

use crate::{command, model, pulse, scene, target, Run};
use testkit::files::{header, raw, safetensors, tensor, Files, Place, Tensor};

/// Files that are neither, as they come: name, first bytes, word, advice for a patch and for a checkpoint.
fn strangers() -> Vec<(&'static str, Vec<u8>, &'static str, [&'static str; 2])> {
    let padded = |start: &[u8]| [start, &[0x9b; 600]].concat();
    let mut tar = vec![0; 1024];
    tar[..5].copy_from_slice(b"model");
    tar[257..262].copy_from_slice(b"ustar");
    let pointer =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 988097824\n";
    let convert = ["give-patch", "convert"];
    let (unpack, download) = (["unpack"; 2], ["download-again"; 2]);
    vec![
        ("empty", vec![], "empty", ["transfer-again", "copy-again"]),
        ("zeros", vec![0; 4096], "zeros", ["transfer-again", "copy-again"]),
        ("pointer", pointer.into(), "lfs-pointer", ["fetch-lfs"; 2]),
        ("login", b"<!DOCTYPE html>\n<title>Sign in</title>".into(), "html", download),
        ("denied", b"<?xml version=\"1.0\"?><Error/>".into(), "xml", download),
        ("notes.txt", b"step 41 went well".into(), "text", ["give-patch", "give-checkpoint"]),
        ("w.gz", padded(&[0x1f, 0x8b]), "compressed", unpack),
        ("w.xz", padded(b"\xfd7zXZ\0"), "compressed", unpack),
        ("w.zst", padded(&[0x28, 0xb5, 0x2f, 0xfd]), "compressed", unpack),
        ("w.zip", padded(b"PK\x03\x04"), "zip", unpack),
        ("w.tar", tar, "tar", unpack),
        ("pytorch_model.bin", padded(b"PK\x03\x04\0\0archive/data.pkl"), "pickle", convert),
        ("old.pt", padded(b"\x80\x02\x8a\x0a"), "pickle", convert),
        ("w.gguf", padded(b"GGUF\x03\0\0\0"), "gguf", convert),
        ("w.h5", padded(b"\x89HDF\r\n\x1a\n"), "hdf5", convert),
        ("w.npy", padded(b"\x93NUMPY\x01\0"), "npy", convert),
        ("text.pulse", padded(b"\xef\xbf\xbdPLS\n"), "patch-as-text", ["transfer-as-binary"; 2]),
    ]
}

/// The commands that take a patch, with this one.
fn with_patch(patch: &str) -> Vec<Vec<&str>> {
    let (base, target) = ("base.safetensors", "target.safetensors");
    vec![
        vec!["apply", base, patch, "-o", "out"],
        vec!["apply", patch, "-o", "out"],
        vec!["apply", base, patch, "--in-place"],
        vec!["verify", patch],
        vec!["compose", patch, "41.pulse", "-o", "out"],
        vec!["revert", target, patch, "-o", "out"],
        vec!["diff", base, target, "--base-patch", patch, "-o", "out"],
    ]
}

/// The commands that take a checkpoint, with this one.
fn with_checkpoint(checkpoint: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["diff", checkpoint, "target.safetensors", "-o", "out"],
        vec!["diff", "base.safetensors", checkpoint, "-o", "out"],
        vec!["diff", "--snapshot", checkpoint, "-o", "out"],
        vec!["apply", checkpoint, "41.pulse", "-o", "out"],
        vec!["verify", "41.pulse", "--base", checkpoint],
        vec!["verify", "41.pulse", "--target", checkpoint],
        vec!["compose", "41.pulse", "--base", checkpoint, "-o", "out"],
        vec!["revert", checkpoint, "41.pulse", "-o", "out"],
        vec!["digest", checkpoint],
        vec!["stat", checkpoint, "target.safetensors"],
    ]
}

/// Each of these commands says what the file is and what to do, and leaves everything as it was.
#[track_caller]
fn recognised(place: &Place, commands: &[Vec<&str>], file: &str, word: &str, advice: &str) {
    place.untouched(|| {
        for args in commands {
            let failure = pulse(place, &[args, &["--json"][..]].concat()).failure(1);
            let about = failure["file"].as_str().unwrap_or_default();
            assert!(about.ends_with(file), "{args:?}: {failure}");
            assert_eq!(
                (&failure["content"], &failure["advice"]),
                (&json!(word), &json!(advice)),
                "{args:?}: {failure}"
            );
        }
    });
}

#[test]
fn a_file_that_is_no_patch_or_no_checkpoint_is_recognised() {
    let place = scene();
    for (name, bytes, word, [for_patch, for_checkpoint]) in strangers() {
        place.put_bytes(name, &bytes);
        recognised(&place, &with_patch(name), name, word, for_patch);
        recognised(&place, &with_checkpoint(name), name, word, for_checkpoint);
        // The inspection of damaged patches has nothing to show here.
        let inspected = pulse(&place, &["inspect", name, "--json"]).failure_beside();
        assert_eq!(
            (&inspected["content"], &inspected["advice"]),
            (&json!(word), &json!(for_patch))
        );
    }
    let says = |args: &[&str], needles: &[&str]| pulse(&place, args).failed(needles);
    says(
        &["verify", "login"],
        &["login: it is an HTML page with the title 'Sign in', not a .pulse file; download"],
    );
    says(
        &["digest", "pointer"],
        &["pointer: it is a Git LFS pointer, not a safetensors file; fetch", "git lfs pull"],
    );
}

/// Shards as a clone without Git LFS leaves them, beside files that are real.
#[test]
fn a_file_of_a_directory_that_is_no_tensor_file_is_recognised() {
    let place = scene();
    let shard = "model-00002-of-00002.safetensors";
    for (_, bytes, word, [_, advice]) in strangers() {
        let files = Files::many([
            ("config.json", b"{}".into()),
            ("model-00001-of-00002.safetensors", safetensors(&model()[..1])),
            (shard, bytes),
        ]);
        place.put("model", &files);
        recognised(&place, &with_checkpoint("model"), shard, word, advice);
        fs::remove_dir_all(place.path("model")).unwrap();
    }
}

#[test]
fn a_directory_without_tensor_files_says_what_it_has() {
    let place = scene();
    let put = |path: &str, bytes: &[u8]| {
        let path = place.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let weights = safetensors(&model());
    for path in ["run/step_9", "run/step_41", "run/logs", "trainer/checkpoint-500/unet"] {
        put(&format!("{path}/model.safetensors"), &weights);
    }
    put("run/args.json", b"{}");
    put("hub/refs/main", b"1a2b");
    put("hub/snapshots/1a2b/model.safetensors", &weights);
    put("pickled/config.json", b"{}");
    put("pickled/pytorch_model.bin", b"PK\x03\x04");
    put("llama/w.gguf", b"GGUF");
    put("patches/41.pulse", &fs::read(place.path("41.pulse")).unwrap());
    put("docs/README.md", b"# Model");
    fs::create_dir(place.path("nothing")).unwrap();
    for (name, word, advice) in [
        ("run", "checkpoints", "choose-checkpoint"),
        ("trainer", "checkpoints", "choose-checkpoint"),
        ("hub", "checkpoints", "choose-checkpoint"),
        ("pickled", "pickles", "convert"),
        ("llama", "ggufs", "convert"),
        ("patches", "patches", "give-checkpoint"),
        ("docs", "directory", "give-checkpoint"),
        ("nothing", "empty-directory", "give-checkpoint"),
    ] {
        recognised(&place, &with_checkpoint(name), name, word, advice);
        recognised(&place, &with_patch(name), name, word, "give-patch");
    }
    // The one to take is named.
    for (name, newest) in [
        ("run", "run/step_41"),
        ("trainer", "trainer/checkpoint-500/unet"),
        ("hub", "hub/snapshots/1a2b"),
    ] {
        pulse(&place, &["digest", name]).failed(&[&format!("; give one of them: {newest}\n")]);
    }
}

/// In every command that takes both, whether files or directories.
#[test]
fn a_checkpoint_and_a_patch_that_are_swapped_are_recognised() {
    let place = scene();
    place.put("model", &Files::many([("model.safetensors", safetensors(&model()))]));
    for (name, word) in [("base.safetensors", "safetensors"), ("model", "checkpoint")] {
        recognised(&place, &with_patch(name), name, word, "swap-arguments");
        pulse(&place, &["apply", "41.pulse", name, "-o", "out"])
            .failed(&[name, "not a .pulse file; are the checkpoint and the patch swapped?"]);
    }
    recognised(&place, &with_checkpoint("41.pulse"), "41.pulse", "patch", "swap-arguments");
    let verify =
        ["verify", "41.pulse", "--base", "target.safetensors", "--target", "base.safetensors"];
    pulse(&place, &verify).failed(&["are --base and --target swapped?"]);
    let failure = pulse(&place, &[&verify[..], &["--json"]].concat()).failure(1);
    assert_eq!(failure["advice"], "swap-arguments");
    pulse(&place, &verify[..4]).failed(&["give it as --target"]);
}

#[cfg(unix)]
#[test]
fn names_that_not_every_system_can_hold_are_noted() {
    let place = scene();
    let files = [("model.safetensors", safetensors(&model())), ("aux.json", b"{}".to_vec())];
    place.put("model", &Files::many(files));
    let run = pulse(&place, &["diff", "--snapshot", "model", "-o", "patch"]);
    assert_eq!(run.err, "note: left out: aux.json (a name that not every system can hold)\n");
    let include = ["diff", "--snapshot", "model", "-o", "patch", "--force", "--include", "aux.*"];
    let says = "note: included, and left out otherwise: aux.json\n";
    assert_eq!(pulse(&place, &include).err, says);
    let run = pulse(&place, &["apply", "patch", "-o", "out"]);
    assert_eq!(run.err, "note: names that not every system can hold: aux.json\n");
    assert!(run.code == Some(0) && place.path("out/aux.json").is_file());
    assert_eq!(pulse(&place, &["apply", "patch", "-o", "quiet", "-q"]).done(), "");
}

/// Numbers of threads that no machine has, and terminals of odd widths.
#[test]
fn odd_threads_and_widths_change_nothing() {
    let place = scene();
    let expected = pulse(&place, &["digest", "base.safetensors"]).done();
    for threads in ["0", "1", "3", "1000000000", "18446744073709551615"] {
        let digest = ["digest", "base.safetensors", "--threads", threads];
        assert_eq!(pulse(&place, &digest).done(), expected);
        let apply = ["apply", "base.safetensors", "41.pulse", "-o", threads, "--threads", threads];
        pulse(&place, &apply).done();
    }
    for threads in ["-1", "1.5", "many", "", "18446744073709551616", "0x10"] {
        let threads = format!("--threads={threads}");
        pulse(&place, &["digest", "base.safetensors", &threads]).misused(&["--threads"]);
    }
    let views: [&[&str]; 5] = [
        &["inspect", "41.pulse"],
        &["inspect", "41.pulse", "--tensors", "--bytes", "--files"],
        &["stat", "base.safetensors", "target.safetensors"],
        &["help", "diff"],
        &["frobnicate"],
    ];
    for view in views {
        let expected = pulse(&place, view);
        for columns in ["0", "1", "39", "1000000000", "-1", "wide", ""] {
            let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), view);
            let found = Run::new(command.env("COLUMNS", columns).output().unwrap());
            // Help may be wrapped, by a parser that was built to do so.
            let words = |run: &Run| -> Vec<String> {
                run.out
                    .split_whitespace()
                    .chain(run.err.split_whitespace())
                    .map(String::from)
                    .collect()
            };
            assert_eq!(found.code, expected.code, "{view:?} with COLUMNS={columns}");
            assert_eq!(words(&found), words(&expected), "{view:?} with COLUMNS={columns}");
        }
    }
    for width in ["0", "1", "39", "1000000000", "-1", "wide"] {
        let width = format!("--width={width}");
        pulse(&place, &["inspect", "41.pulse", &width]).misused(&["--width"]);
    }
}

/// Everything that acts instead of being seen, but for NUL, which no argument can have.
fn unseen() -> Vec<char> {
    ['\u{1}'..='\u{1f}', '\u{7f}'..='\u{9f}', '\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}']
        .into_iter()
        .chain(['\u{2060}'..='\u{2069}', '\u{e0000}'..='\u{e007f}'])
        .flatten()
        .chain(['\u{ad}', '\u{61c}', '\u{feff}'])
        .collect()
}

fn is_unseen(c: char) -> bool {
    c == '\0' || unseen().contains(&c)
}

#[track_caller]
fn all_is_visible(text: &str) {
    let found = text.chars().find(|&c| c != '\n' && is_unseen(c));
    assert_eq!(found, None, "{text:?}");
}

/// One evil line: an escape sequence, a turn of direction, a line of its own, and all the rest.
fn evil() -> String {
    format!("evil\u{1b}[31m\u{202e}\nerror: forged{}", unseen().iter().collect::<String>())
}

/// The same without what no file name of a patch can have.
fn evil_file() -> String {
    let name: String = unseen().into_iter().filter(|c| !c.is_control()).collect();
    // 255 bytes at most.
    name.chars().filter(|c| u32::from(*c) < 0xe0000).chain(['\u{e0041}']).collect()
}

fn evil_model(of: Vec<Tensor>) -> Vec<Tensor> {
    let rename = |tensor: Tensor| Tensor { name: format!("{}\0{}", tensor.name, evil()), ..tensor };
    of.into_iter().map(rename).collect()
}

/// Directories whose names, files, tensors and metadata are all evil.
fn evil_scene() -> (Place, [String; 4]) {
    let place = Place::new();
    let names = ["base", "target", "patch", "out"].map(|name| format!("{name}{}", &evil()[..20]));
    let (config, index) = (format!("config{}", evil_file()), "model.safetensors.index.json");
    for (name, tensors, seed) in [(&names[0], model(), b'0'), (&names[1], target(), b'1')] {
        let tensors = evil_model(tensors);
        let shard = format!("model{}.safetensors", evil_file());
        let absent = json!({ "weight_map": { evil(): shard } }).to_string();
        let files = [
            (shard.as_str(), safetensors(&tensors)),
            (index, absent.into_bytes()),
            (&config, vec![seed]),
            (&format!(".hidden{}", evil_file()), vec![]),
        ];
        place.put(name, &Files::many(files));
    }
    (place, names)
}

/// Runs a command both ways, and looks at all that it prints.
#[track_caller]
fn looks_clean(place: &Place, args: &[&str]) -> [Run; 2] {
    [args.to_vec(), [args, &["--json"]].concat()].map(|args| {
        let run = pulse(place, &args);
        assert!(run.code.is_some_and(|code| code < 3), "{args:?}: {run:?}");
        all_is_visible(&run.out);
        all_is_visible(&run.err);
        run
    })
}

#[cfg(unix)] // elsewhere no file can have such a name
#[test]
fn no_command_prints_what_acts_on_a_terminal() {
    let (place, [base, target, patch, out]) = evil_scene();
    let meta = format!("key{}={}", evil(), evil());
    let clean = |args: &[&str]| {
        let runs = looks_clean(&place, args);
        // Each command was about to do what it is asked for, so that it has something to say.
        for run in &runs {
            assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
        }
        runs
    };
    let remove = |path: &str| {
        let path = place.path(path);
        _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    };
    clean(&["diff", &base, &target, "-o", &patch, "--force", "--meta", &meta]);
    clean(&["diff", &base, &target, "-o", "flat", "--force", "--values", "xor"]);
    clean(&["diff", "--snapshot", &target, "-o", "snapshot", "--force"]);
    // JSON says the same as ever.
    let inspected: Value = pulse(&place, &["inspect", &patch, "--json"]).json();
    let names: Vec<String> = evil_model(model()).into_iter().map(|tensor| tensor.name).collect();
    let found = inspected["tensors"].as_array().unwrap().iter().map(|tensor| &tensor["name"]);
    assert!(found.eq(&names.iter().map(|name| json!(name)).collect::<Vec<_>>()), "{inspected}");
    assert_eq!(inspected["header"]["metadata"][format!("key{}", evil())], json!(evil()));

    for view in [
        &[][..],
        &["--tensors"],
        &["--files"],
        &["--bytes"],
        &["--filter", "evil"],
        &["--filter", &evil(), "--width", "60"],
        &["--html", "page.html", "--force"],
    ] {
        clean(&[&["inspect", &patch][..], view].concat());
    }
    all_is_visible(&fs::read_to_string(place.path("page.html")).unwrap());
    clean(&["verify", &patch, "--base", &base, "--target", &target]);
    clean(&["digest", &base, &target]);
    for html in [&[][..], &["--html", "page.html", "--force"]] {
        clean(&[&["stat", &base, &target][..], html].concat());
    }
    all_is_visible(&fs::read_to_string(place.path("page.html")).unwrap());
    clean(&["compose", "flat", "-o", "composed", "--force"]);
    clean(&["compose", &patch, "--base", &base, "-o", "composed", "--force"]);
    for args in
        [vec!["apply", &base, &patch, "-o", &out], vec!["revert", &target, "flat", "-o", &out]]
    {
        // A directory is not replaced.
        let [text, _] = looks_clean(&place, &args);
        assert!(text.code == Some(0) || args[0] == "revert", "{text:?}");
        remove(&out);
    }
    clean(&["recover", &base]);
}

#[cfg(unix)]
#[test]
fn no_failure_prints_what_acts_on_a_terminal() {
    let (place, [base, target, patch, out]) = evil_scene();
    pulse(&place, &["diff", &base, &target, "-o", &patch, "-q"]).done();
    let fails = |args: &[&str]| {
        for run in looks_clean(&place, args) {
            assert!(run.code == Some(1) || run.code == Some(2), "{args:?}: {run:?}");
        }
    };
    let nowhere = format!("nowhere{}", evil());
    let copy = |name: &str, edit: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = evil_model(model());
        edit(&mut tensors);
        place.put(name, &Files::one(&tensors));
    };
    copy("lacking", &|tensors| _ = tensors.pop());
    copy("transposed", &|tensors| tensors[0].shape = vec![100, 20]);
    copy("flipped", &|tensors| tensors[1].bytes[0] ^= 1);
    let evil = evil();
    for args in [
        vec!["digest", &nowhere],
        vec!["verify", &nowhere],
        vec![&nowhere],
        vec!["diff", &base, &target, "-o", &patch],
        vec!["apply", &base, &patch, "-o", &target],
        vec!["apply", &target, &patch, "-o", &out],
        vec!["apply", "lacking", &patch, "-o", &out],
        vec!["apply", "transposed", &patch, "-o", &out],
        vec!["verify", &patch, "--base", "flipped"],
        vec!["verify", &patch, "--target", "flipped"],
        vec!["compose", &patch, &patch, "-o", &out],
        vec!["verify", &patch, "--limit", &evil],
        vec!["inspect", &patch, "--width", &evil],
    ] {
        fails(&args);
    }
    // Each of these is in words of the file itself.
    let (one, two) = (tensor(&evil, "U8", &[1], *b"a"), tensor(&evil, "U8", &[1], *b"b"));
    let twice = raw(&header(&[one.clone(), two], &[]), b"ab");
    let page = format!("<html><title>{evil}</title>");
    let gap = raw(&header(std::slice::from_ref(&one), &[]).replace("[0,1]", "[1,2]"), b"ab");
    for (name, bytes) in [("twice", twice), ("page", page.into()), ("gap", gap)] {
        place.put_bytes(name, &bytes);
        fails(&["digest", name]);
        fails(&["verify", name]);
    }
    let shards = ["a.safetensors", "b.safetensors"]
        .map(|name| (name, safetensors(std::slice::from_ref(&one))));
    place.put("shards", &Files::many(shards));
    fails(&["digest", "shards"]);
    for (name, index) in [
        ("index", json!({ "weight_map": { "a": evil } })),
        ("no-index", json!({ "weight_map": { "a": { evil.clone(): 1 } } })),
    ] {
        let tensors = [("a.safetensors.index.json", index.to_string().into_bytes())];
        place.put(name, &Files::many(tensors));
        fails(&["digest", name]);
    }
    let damaged = |name: &str, at: usize| {
        let mut bytes = fs::read(place.path(&patch)).unwrap();
        let at = bytes.len() - at;
        bytes[at] ^= 1;
        fs::write(place.path(name), bytes).unwrap();
    };
    for at in [1, 200, 400, 700, 1000] {
        damaged("damaged", at);
        for args in [
            &["verify", "damaged"][..],
            &["inspect", "damaged"],
            &["inspect", "damaged", "--tensors"],
        ] {
            fails(args);
        }
    }
    assert!(!Path::new(&place.path(&out)).exists());
}
