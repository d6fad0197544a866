//! Help, wrong usage, and failures: what is said where, and the exit status.

use std::fs;

use crate::{pulse, pulse_inspect, scene, target};
use testkit::files::{tensor, Files, Place};

const COMMANDS: [&str; 9] =
    ["diff", "apply", "compose", "revert", "verify", "inspect", "digest", "stat", "demo"];

#[test]
fn help_shows_examples_that_are_right_usage() {
    let place = Place::new();
    for command in COMMANDS {
        let help = pulse(&place, &[command, "--help"]).done();
        assert_eq!(pulse(&place, &["help", command]).done(), help);
        let (_, examples) =
            help.split_once("Examples:\n").unwrap_or_else(|| panic!("no examples for {command}"));
        let examples: Vec<_> =
            examples.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert!(!examples.is_empty());
        for example in examples {
            let words: Vec<_> = example.split_whitespace().collect();
            assert!(
                matches!(words[..], ["pulse", found, ..] if found == command)
                    || words[0] == "pulse-inspect"
            );
            // Without the files of the example all that can be wrong is that they are not there.
            let run = match (words[0], command) {
                (_, "demo") => continue,
                ("pulse-inspect", _) => pulse_inspect(&place, &words[1..]),
                _ => pulse(&place, &words[1..]),
            };
            if words.contains(&"--json") {
                let failure = run.failure(1);
                assert!(failure["message"].as_str().unwrap().contains("No such file"), "{failure}");
            } else {
                run.failed(&["No such file"]);
            }
        }
    }
}

#[test]
fn help_names_every_command() {
    let place = Place::new();
    let help = pulse(&place, &["--help"]).done();
    assert!(COMMANDS.iter().all(|command| help.contains(command)), "{help}");
    assert!(help.contains("Exit status"), "{help}");
    assert_eq!(
        pulse(&place, &["--version"]).done(),
        format!("pulse {}\n", env!("CARGO_PKG_VERSION"))
    );
    pulse(&place, &[]).misused(&["Usage:"]);
}

/// Commands of feeds, whose examples name stores of others.
const LIVE: [&str; 9] = [
    "publish",
    "follow",
    "keygen",
    "feed log",
    "feed status",
    "feed verify",
    "feed prune",
    "feed compact",
    "feed mirror",
];

#[test]
fn examples_of_feeds_are_right_usage() {
    let place = Place::new();
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    for command in LIVE {
        let help =
            pulse(&place, &[&command.split(' ').collect::<Vec<_>>()[..], &["--help"]].concat());
        let help = help.done();
        let (_, examples) = help.split_once("Examples:\n").expect(command);
        let examples = examples.lines().map(str::trim).filter(|line| !line.is_empty());
        for example in examples {
            assert!(example.starts_with(&format!("pulse {command} ")), "{example}");
            // Nothing of it is there: that must be all that is wrong.
            let mut example = example.replace("83be…c1", key);
            for address in ["s3://bucket/", "https://mirror.example/", "gs://other/", "/srv/feeds/"]
            {
                example = example.replace(address, "nowhere/");
            }
            let script =
                format!("exec '{}' {}", env!("CARGO_BIN_EXE_pulse"), &example["pulse ".len()..]);
            let mut shell = std::process::Command::new("sh");
            let output = shell.current_dir(place.root()).args(["-c", &script]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{example}: {output:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                said.contains("No such file") || said.contains("there is no feed"),
                "{example}: {said}"
            );
        }
    }
}

#[test]
fn wrong_usage_ends_with_two_and_writes_nothing() {
    let place = scene();
    let diff = |more: &[&'static str]| {
        [&["diff", "base.safetensors", "target.safetensors", "-o", "out"], more].concat()
    };
    for (args, needle) in [
        (vec!["frobnicate"], "frobnicate"),
        (diff(&["--frobnicate"]), "--frobnicate"),
        (diff(&["third.safetensors"]), "third.safetensors"),
        (diff(&["--run", "0011"]), "32 hexadecimal digits"),
        (diff(&["--run", "zz112233445566778899aabbccddeeff"]), "32 hexadecimal digits"),
        (diff(&["--run", "+0112233445566778899aabbccddeef\u{e9}"]), "32 hexadecimal digits"),
        (diff(&["--meta", "key"]), "KEY=VALUE"),
        (diff(&["--step", "-1"]), "-1"),
        (diff(&["--block", "0"]), "1..=64"),
        (diff(&["--block", "65"]), "1..=64"),
        (diff(&["--level", "20"]), "1..=19"),
        (diff(&["--coding", "best"]), "flat"),
        (diff(&["--values", "best"]), "overwrite"),
        (diff(&["--quiet", "--json"]), "--json"),
        (diff(&["--snapshot"]), "--snapshot"),
        (diff(&["--check"]), "--base-patch"),
        (diff(&["--limit", "tensors"]), "NAME=VALUE"),
        (diff(&["--limit", "tensor=1"]), "the limits are section_bytes, block_leaves"),
        (diff(&["--limit", "tensors=1XB"]), "unknown unit XB"),
        (vec!["diff", "base.safetensors", "target.safetensors"], "--output"),
        (vec!["diff", "base.safetensors", "-o", "out"], "--snapshot"),
        (
            vec!["diff", "--snapshot", "base.safetensors", "--base-step", "1", "-o", "out"],
            "base step",
        ),
        (vec!["apply", "base.safetensors", "41.pulse"], "--output"),
        (vec!["compose", "-o", "out"], "PATCH"),
        (vec!["compose", "41.pulse"], "--output"),
        (vec!["compose", "41.pulse", "-o", "out", "--values", "xor"], "--base"),
        (vec!["revert", "target.safetensors", "-o", "out"], "PATCH"),
        (vec!["revert", "target.safetensors", "41.pulse"], "--output"),
        (vec!["verify"], "PATCH"),
        (vec!["inspect"], "PATCH"),
        (vec!["digest"], "CHECKPOINT"),
        (vec!["stat", "base.safetensors"], "TARGET"),
        (vec!["publish", "base.safetensors"], "FEED"),
        (vec!["publish", "--watch", ".", "a", "b"], "--watch"),
        (vec!["publish", "--watch", ".", "a", "--step", "1"], "--step"),
        (vec!["publish", "base.safetensors", "a", "--keep", "0"], "--keep"),
        (
            vec!["publish", "base.safetensors", "a", "--expires", "soon"],
            "500ms, 90s, 15m, 24h or 7d",
        ),
        (vec!["publish", "base.safetensors", ""], "address of a feed"),
        (vec!["follow", "a"], "DEST"),
        (vec!["follow", "a", "b", "--at", "latest"], "step=1200"),
        (vec!["follow", "a", "b", "--trust", "me"], "64 hexadecimal digits"),
        (vec!["follow", "a", "b", "--poll", "0s"], "--poll"),
        (vec!["follow", "a", "b", "--in-place", "--keep", "3"], "--keep"),
        (vec!["follow", "a", "b", "--metrics", "here"], "--metrics"),
        (vec!["feed", "prune", "a", "--keep", "0"], "--keep"),
        (vec!["feed", "compact", "a", "--spans", "1"], "--spans"),
        (vec!["feed", "mirror", "a"], "TO"),
        (vec!["demo", "--megabytes", "0"], "--megabytes"),
        (vec!["demo", "--steps", "0"], "--steps"),
    ] {
        place.untouched(|| pulse(&place, &args).misused(&[needle]));
        // For programs, the same as one JSON object.
        let json = [&args[..], &["--json"]].concat();
        let failure = place.untouched(|| pulse(&place, &json).failure(2));
        let kind = failure["kind"].as_str().unwrap();
        assert!(["usage", "misuse"].contains(&kind), "{failure}");
        // Said of --quiet, --json is itself the mistake.
        assert!(failure["message"].as_str().unwrap().contains(needle), "{failure}");
    }
}

#[test]
fn failures_end_with_one_and_name_the_file() {
    let place = scene();
    place.put_bytes("notes.txt", b"no checkpoint, no patch");
    for (args, needles) in [
        (
            &["diff", "nowhere", "target.safetensors", "-o", "out"][..],
            &["nowhere", "No such file"][..],
        ),
        (&["diff", "base.safetensors", "notes.txt", "-o", "out"], &["notes.txt"]),
        (
            &["diff", "base.safetensors", "target.safetensors", "-o", "no/such/out"],
            &["no/such/out"],
        ),
        (&["apply", "base.safetensors", "nowhere", "-o", "out"], &["nowhere", "No such file"]),
        (&["apply", "nowhere", "41.pulse", "-o", "out"], &["nowhere", "No such file"]),
        (&["apply", "base.safetensors", "notes.txt", "-o", "out"], &["not a .pulse file"]),
        (
            &["apply", "41.pulse", "base.safetensors", "-o", "out"],
            &["base.safetensors", "not a .pulse file", "swapped"],
        ),
        (
            &["apply", "41.pulse", "-o", "out"],
            &["41.pulse: not a snapshot", "pulse apply BASE PATCH"],
        ),
        (&["compose", "41.pulse", "-o", "out"], &["41.pulse", "contextual", "--base BASE"]),
        (
            &["revert", "target.safetensors", "41.pulse", "-o", "out"],
            &["contextual", "pulse diff TARGET BASE"],
        ),
        (&["apply", "base.safetensors", "41.pulse", "-o", "no/such/out"], &["no/such/out"]),
        (&["compose", "41.pulse", "nowhere", "-o", "out"], &["nowhere", "No such file"]),
        (&["compose", "41.pulse", "notes.txt", "-o", "out"], &["notes.txt", "not a .pulse file"]),
        (
            &["compose", "41.pulse", "41.pulse", "-o", "out"],
            &["41.pulse does not follow 41.pulse", "digest"],
        ),
        (&["compose", "41.pulse", "--base", "notes.txt", "-o", "out"], &["notes.txt"]),
        (
            &["revert", "target.safetensors", "notes.txt", "-o", "out"],
            &["notes.txt", "not a .pulse file"],
        ),
        (&["revert", "nowhere", "41.pulse", "-o", "out"], &["nowhere", "No such file"]),
        (&["verify", "notes.txt"], &["not a .pulse file"]),
        (&["verify", "41.pulse", "--base", "notes.txt"], &["notes.txt"]),
        (&["digest", "base.safetensors", "nowhere"], &["nowhere"]),
        (&["stat", "base.safetensors", "notes.txt"], &["notes.txt"]),
        (&["inspect", "nowhere"], &["nowhere"]),
    ] {
        place.untouched(|| pulse(&place, args).failed(needles));
        // Asked for JSON, a failure is one object, which says the same in its parts.
        let failure = place.untouched(|| pulse(&place, &[args, &["--json"]].concat()).failure(1));
        let text = format!("{} {}", failure["message"].as_str().unwrap(), failure["advice_text"]);
        assert!(
            needles.iter().all(|needle| text.contains(needle)),
            "{failure} without one of {needles:?}"
        );
    }
}

#[test]
fn a_damaged_patch_is_named_with_the_place_of_the_damage() {
    let place = scene();
    let good = fs::read(place.path("41.pulse")).unwrap();
    place.put_bytes("bad.pulse", &good[..good.len() - 7]);
    for args in [
        &["apply", "base.safetensors", "bad.pulse", "-o", "out"][..],
        &["verify", "bad.pulse", "--base", "base.safetensors"],
    ] {
        pulse(&place, args).failed(&["bad.pulse", "at byte", "truncated", "transfer it again"]);
    }
}

#[test]
fn an_output_that_exists_is_refused_without_force() {
    let place = scene();
    place.put_bytes("out", b"mine");
    let diff = ["diff", "base.safetensors", "target.safetensors", "-o", "out"];
    let apply = ["apply", "base.safetensors", "41.pulse", "-o", "out"];
    for args in [diff, apply] {
        place.untouched(|| pulse(&place, &args).failed(&["out", "--force"]));
    }
    pulse(&place, &[&diff[..], &["--force"]].concat()).done();
    assert!(fs::read(place.path("out")).unwrap() == fs::read(place.path("41.pulse")).unwrap());
    pulse(&place, &[&apply[..], &["--force"]].concat()).done();
    Files::read(&place.path("out")).assert_same(&Files::one(&target()));
    fs::create_dir(place.path("directory")).unwrap();
    place.untouched(|| {
        pulse(&place, &["apply", "base.safetensors", "41.pulse", "--force", "-o", "directory"])
            .failed(&["directory"]);
        pulse(
            &place,
            &["diff", "base.safetensors", "target.safetensors", "--force", "-o", "directory"],
        )
        .failed(&["directory"]);
    });
}

#[test]
fn a_wrong_base_is_refused_and_the_tensor_named() {
    let place = scene();
    let mut wrong = crate::model();
    wrong[1].bytes[7] ^= 1;
    place.put("wrong.safetensors", &Files::one(&wrong));
    place.put("other.safetensors", &Files::one(&[tensor("w", "U8", &[1], *b"x")]));
    for (base, needle) in
        [("wrong.safetensors", "tensor 'b' differs"), ("other.safetensors", "missing: 'a', 'b'")]
    {
        let args = ["apply", base, "41.pulse", "-o", "out"];
        place.untouched(|| {
            pulse(&place, &args).failed(&["41.pulse: wrong base", needle, "expected", "found"])
        });
    }
    // Applied before: nothing is wrong, and nothing to do.
    let args = ["apply", "target.safetensors", "41.pulse", "-o", "out"];
    place.untouched(|| {
        pulse(&place, &args)
            .failed(&["is already the target of the patch", "there is nothing left to apply"])
    });
}

/// A path need not be UTF-8; JSON has to be.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_not_utf8_is_shown_as_far_as_it_can_be() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = scene();
    let odd = OsStr::from_bytes(b"\xff.pulse");
    let run = |args: &[&OsStr]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pulse"));
        let output = command.current_dir(place.root()).args(args).arg("--json").output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .unwrap_or_else(|_| panic!("{output:?}"))
    };
    let [diff, apply, verify, digest, to, base, target] =
        ["diff", "apply", "verify", "digest", "-o", "base.safetensors", "target.safetensors"]
            .map(OsStr::new);
    let patch = run(&[diff, base, target, to, odd]);
    assert_eq!(patch["patch"], "\u{fffd}.pulse");
    assert_eq!(run(&[verify, odd])["patch"], "\u{fffd}.pulse");
    let out = OsStr::from_bytes(b"out\xff");
    assert_eq!(run(&[apply, base, odd, to, out])["output"], "out\u{fffd}");
    run(&[digest, out]);
}

/// Some systems let a process open 256 files at first, and more if it asks; others no more than that.
#[cfg(unix)]
#[test]
fn more_shards_than_open_files_are_no_obstacle() {
    let place = Place::new();
    let shards = |byte: u8| {
        let shard = |number: u16| {
            let tensors = [tensor(&format!("t{number}"), "U8", &[2], [byte, number as u8])];
            (format!("{number}.safetensors"), testkit::files::safetensors(&tensors))
        };
        Files::Many((0..500).map(shard).collect())
    };
    place.put("base", &shards(1));
    place.put("target", &shards(2));
    let run = |limit: &str, args: &str| {
        let line = format!("ulimit {limit}; exec {} {args} -q", env!("CARGO_BIN_EXE_pulse"));
        let mut shell = std::process::Command::new("sh");
        let output = shell.current_dir(place.root()).args(["-c", &line]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The soft limit can be raised; the hard one cannot, and files are opened for each operation.
    for limit in ["-Sn 64", "-n 64"] {
        let _ = fs::remove_file(place.path("patch"));
        let _ = fs::remove_dir_all(place.path("out"));
        let all = [
            "diff base target -o patch",
            "apply base patch -o out",
            "verify patch --base base --target target",
            "digest base target",
        ];
        for args in all {
            let (done, said) = run(limit, args);
            assert!(done, "{limit}: {args}: {said}");
        }
        Files::read(&place.path("out")).assert_same(&shards(2));
    }
    // In place each file is locked, and so stays open: what cannot be done is not begun.
    let (done, said) = place.untouched(|| run("-n 64", "apply base patch --in-place"));
    assert!(!done && said.contains("raise the limit of open files"), "{said}");
    assert!(run("-Sn 64", "apply base patch --in-place").0);
    Files::read(&place.path("base")).assert_same(&shards(2));
}
