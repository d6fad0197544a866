//! What each command prints and does when all is well.

use std::fs;

use serde_json::{json, Value};

use crate::{assert_keys, model, pulse, scene, target};
use testkit::files::{noise, safetensors, tensor, Files, Place};

/// The value of a "label   value" line.
#[track_caller]
pub fn fact<'a>(out: &'a str, label: &str) -> &'a str {
    let line = out.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix("  "));
    line.unwrap_or_else(|| panic!("no '{label}' in:\n{out}")).trim()
}

fn digest_of(place: &Place, name: &str) -> String {
    pulse(place, &["digest", name]).done()[..64].to_string()
}

#[test]
fn diff_says_what_changed_and_what_it_costs() {
    let place = scene();
    let args = ["diff", "base.safetensors", "target.safetensors", "-o", "new.pulse"];
    let out = pulse(&place, &args).done();
    assert_eq!(fact(&out, "patch"), "new.pulse");
    assert_eq!(fact(&out, "tensors"), "2 patched, 0 unchanged");
    assert_eq!(fact(&out, "changes"), "26 of 2,500 elements (1.040%)");
    assert_eq!(fact(&out, "target"), digest_of(&place, "target.safetensors"));
    let bytes = fs::metadata(place.path("new.pulse")).unwrap().len();
    assert!(fact(&out, "size").starts_with(&format!("{bytes} bytes, ")), "{out}");
    assert!(
        fs::read(place.path("new.pulse")).unwrap() == fs::read(place.path("41.pulse")).unwrap()
    );

    let json = pulse(&place, &[&args[..4], &["json.pulse", "--json"]].concat()).json();
    assert_keys(
        &json,
        &[
            "patch",
            "patch_bytes",
            "target_file_bytes",
            "changes",
            "target_elements",
            "target_bytes",
            "density",
            "bits_per_change",
            "tensors",
            "base_digest",
            "target_digest",
            "seconds_100_mbit",
            "seconds_1_gbit",
            "seconds",
            "left_out",
            "included",
            "removed",
            "absent",
            "carried",
            "nothing_in_common",
        ],
    );
    assert_eq!((&json["left_out"], &json["nothing_in_common"]), (&json!([]), &json!(false)));
    assert_eq!(
        (&json["patch"], &json["changes"], &json["density"]),
        (&json!("json.pulse"), &json!(26), &json!(0.0104))
    );
    assert_eq!(
        json["tensors"],
        json!({"patched": 2, "added": 0, "replaced": 0, "deleted": 0, "unchanged": 0})
    );
    assert_eq!(json["base_digest"], digest_of(&place, "base.safetensors"));
    assert_eq!(json["patch_bytes"], bytes);
    assert_eq!(json["seconds_100_mbit"]["patch"], 8e-8 * bytes as f64);
}

#[test]
fn diff_says_what_to_do_next_in_words_that_a_shell_takes() {
    let place = scene();
    for name in ["new.pulse", "two words.pulse", "-dash.pulse", "it's.pulse"] {
        let output = format!("--output={name}");
        let out =
            pulse(&place, &["diff", "base.safetensors", "target.safetensors", &output]).done();
        let next = fact(&out, "to apply");
        let words =
            next.strip_prefix("pulse ").expect("a command").replace("OUT", "'next.safetensors'");
        let script = format!("'{}' {words} --force", env!("CARGO_BIN_EXE_pulse"));
        if cfg!(unix) {
            let mut shell = std::process::Command::new("sh");
            let done = shell.current_dir(place.root()).args(["-c", &script]).output().unwrap();
            assert!(done.status.success(), "{script}: {done:?}");
        }
    }
    let out = pulse(&place, &["diff", "--snapshot", "target.safetensors", "-o", "s.pulse"]).done();
    assert_eq!(fact(&out, "to apply"), "pulse apply s.pulse -o OUT");
}

#[test]
fn apply_rebuilds_the_target_byte_for_byte() {
    let place = scene();
    let out =
        pulse(&place, &["apply", "base.safetensors", "41.pulse", "-o", "out.safetensors"]).done();
    Files::read(&place.path("out.safetensors")).assert_same(&Files::one(&target()));
    assert_eq!(fact(&out, "output"), "out.safetensors");
    assert_eq!(fact(&out, "changes"), "26");
    assert_eq!(fact(&out, "digest"), digest_of(&place, "target.safetensors"));
    assert!(fact(&out, "verified").starts_with("5.00 kB in 1 file"), "{out}");

    let json = pulse(
        &place,
        &["apply", "base.safetensors", "41.pulse", "-o", "json.safetensors", "--json"],
    )
    .json();
    assert_keys(
        &json,
        &["output", "changes", "target_bytes", "files", "target_digest", "notes", "seconds"],
    );
    assert_eq!((&json["target_bytes"], &json["files"]), (&json!(5000), &json!(1)));
}

#[test]
fn every_coding_and_value_form_rebuilds() {
    let place = scene();
    let mut patches = Vec::new();
    for options in [
        &["--coding", "contextual"][..],
        &["--coding", "flat"],
        &["--coding", "flat", "--values", "step"],
        &["--coding", "flat", "--values", "xor"],
        &[
            "--coding",
            "flat",
            "--values",
            "overwrite",
            "--block",
            "1",
            "--level",
            "19",
            "--threads",
            "3",
        ],
    ] {
        let diff = ["diff", "base.safetensors", "target.safetensors", "--force", "-o", "new.pulse"];
        pulse(&place, &[&diff, options].concat()).done();
        pulse(&place, &["apply", "base.safetensors", "new.pulse", "--force", "-o", "out"]).done();
        Files::read(&place.path("out")).assert_same(&Files::one(&target()));
        patches.push(fs::read(place.path("new.pulse")).unwrap());
    }
    assert!(patches[1] == patches[2], "flat is not step");
    assert!(patches[0] != patches[1] && patches[2] != patches[3] && patches[3] != patches[4]);
    assert!(
        patches[0] == fs::read(place.path("41.pulse")).unwrap(),
        "contextual is not the default"
    );
}

#[test]
fn directories_and_snapshots_go_the_same_way() {
    let place = Place::new();
    let directory = |seed| {
        let shards = [
            tensor("a", "U8", &[100], noise(seed, 100)),
            tensor("b", "F32", &[5], noise(seed, 20)),
        ];
        Files::many([
            ("model-1.safetensors", safetensors(&shards[..1])),
            ("model-2.safetensors", safetensors(&shards[1..])),
            ("config.json", format!("{{\"seed\":{seed}}}").into()),
        ])
    };
    place.put("base", &directory(1));
    place.put("target", &directory(2));
    pulse(&place, &["diff", "base/", "target", "-o", "41.pulse"]).done();
    let out = pulse(&place, &["apply", "base", "41.pulse", "-o", "out/"]).done();
    assert!(fact(&out, "verified").ends_with("in 3 files"), "{out}");
    Files::read(&place.path("out")).assert_same(&directory(2));

    pulse(&place, &["diff", "--snapshot", "target", "-o", "snapshot.pulse"]).done();
    pulse(&place, &["apply", "snapshot.pulse", "-o", "anew"]).done();
    Files::read(&place.path("anew")).assert_same(&directory(2));
    // A base does no harm, and is not looked at.
    pulse(&place, &["apply", "base", "snapshot.pulse", "-o", "beside"]).done();
    Files::read(&place.path("beside")).assert_same(&directory(2));
}

#[test]
fn what_is_left_out_of_a_directory_is_noted() {
    let place = scene();
    place.put("model", &Files::many([("model.safetensors", safetensors(&model()))]));
    place.put("model/best", &Files::many([("model.safetensors", safetensors(&model()))]));
    let run = pulse(&place, &["diff", "--snapshot", "model", "-o", "snapshot.pulse"]);
    assert_eq!(run.code, Some(0));
    assert!(run.err.starts_with("note: ") && run.err.contains("best"), "{}", run.err);
    let quiet = pulse(&place, &["diff", "--snapshot", "model", "-o", "quiet.pulse", "--quiet"]);
    assert_eq!(quiet.done(), "");
    // With --json, standard error is for a failure alone.
    let json = pulse(&place, &["diff", "--snapshot", "model", "-o", "json.pulse", "--json"]).json();
    assert_eq!(json["left_out"], json!([{ "name": "best", "reason": "below" }]));
}

#[test]
fn two_models_with_no_tensor_in_common_are_noted() {
    let place = scene();
    place.put("other.safetensors", &Files::one(&[tensor("v", "U8", &[3], *b"abc")]));
    place.put("none.safetensors", &Files::one(&[]));
    let diff = ["diff", "base.safetensors", "other.safetensors", "--force", "-o", "new.pulse"];
    let run = pulse(&place, &diff);
    assert_eq!(
        (run.code, run.err.as_str()),
        (
            Some(0),
            "note: BASE and TARGET have no tensor in common: the patch carries all of TARGET\n"
        )
    );
    assert_eq!(pulse(&place, &[&diff[..], &["--json"]].concat()).json()["nothing_in_common"], true);
    assert_eq!(pulse(&place, &[&diff[..], &["--quiet"]].concat()).done(), "");
    // A checkpoint without any tensor has none in common with any, which surprises nobody.
    for (base, target) in [("none", "base"), ("base", "none"), ("base", "target")] {
        let [base, target] = [base, target].map(|name| format!("{name}.safetensors"));
        let json =
            pulse(&place, &["diff", &base, &target, "--force", "-o", "new.pulse", "--json"]).json();
        assert_eq!(json["nothing_in_common"], false, "{base} {target}");
    }
}

#[test]
fn verify_says_what_it_checked() {
    let place = scene();
    for (options, checked) in [
        (&[][..], &["structure", "crc", "sha256"][..]),
        (&["--base", "base.safetensors"], &["structure", "crc", "sha256", "result", "base"]),
        (&["--target", "target.safetensors"], &["structure", "crc", "sha256", "target"]),
        (
            &["--base", "base.safetensors", "--target", "target.safetensors"],
            &["structure", "crc", "sha256", "result", "base", "target"],
        ),
    ] {
        let args = [&["verify", "41.pulse"], options].concat();
        assert_eq!(pulse(&place, &args).done(), format!("41.pulse: OK ({})\n", checked.join(", ")));
        let json = pulse(&place, &[&args[..], &["--json"]].concat()).json();
        assert_keys(
            &json,
            &["patch", "checked", "sha256", "base_digest", "target_digest", "notes"],
        );
        assert_eq!((&json["patch"], &json["checked"]), (&json!("41.pulse"), &json!(checked)));
        assert_eq!(json["target_digest"], digest_of(&place, "target.safetensors"));
    }
    pulse(&place, &["verify", "41.pulse", "--base", "target.safetensors"])
        .failed(&["already the target of the patch"]);
    place.put("other", &Files::one(&model()[..1]));
    pulse(&place, &["verify", "41.pulse", "--base", "other"])
        .failed(&["wrong base", "missing: 'b'"]);
    pulse(&place, &["verify", "41.pulse", "--target", "base.safetensors"])
        .failed(&["not the target", "'a'"]);
}

#[test]
fn digest_prints_as_sha256sum_prints() {
    let place = scene();
    place.put("directory", &Files::many([("any.safetensors", safetensors(&target()))]));
    let out =
        pulse(&place, &["digest", "base.safetensors", "target.safetensors", "directory"]).done();
    let lines: Vec<_> = out.lines().map(|line| line.split_once("  ").unwrap()).collect();
    let names: Vec<_> = lines.iter().map(|line| line.1).collect();
    assert_eq!(names, ["base.safetensors", "target.safetensors", "directory"]);
    assert!(lines
        .iter()
        .all(|line| line.0.len() == 64 && line.0.bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert_eq!(lines[1].0, lines[2].0);
    assert_ne!(lines[0].0, lines[1].0);
    let json = pulse(&place, &["digest", "base.safetensors", "--json"]).json();
    assert_eq!(json, json!([{ "digest": lines[0].0, "checkpoint": "base.safetensors" }]));
}

#[test]
fn stat_counts_every_change_once() {
    let place = scene();
    let mut other = target();
    other.push(tensor("new", "U8", &[10], [0; 10]));
    place.put("other.safetensors", &Files::one(&other));
    let sum = |steps: &Value| {
        steps.as_array().unwrap().iter().map(|step| step[1].as_u64().unwrap()).sum::<u64>()
    };
    // A new tensor of 10 elements is carried whole: there is nothing to compare it with.
    for (name, changes, whole) in [("target", 26, 0), ("other", 26, 10), ("base", 0, 0)] {
        let name = format!("{name}.safetensors");
        let json = pulse(&place, &["stat", "base.safetensors", &name, "--json"]).json();
        let typical = &json["typical"];
        assert_eq!(
            (typical["mean_changes"].as_f64(), sum(&typical["ulp_steps"])),
            (Some(changes as f64), changes)
        );
        let tensors = json["tensors"].as_array().unwrap();
        let of =
            |key: &str| tensors.iter().map(|tensor| tensor[key].as_f64().unwrap()).sum::<f64>();
        let elements = of("elements") - whole as f64;
        assert_eq!(
            (of("mean_changes"), typical["mean_elements"].as_f64()),
            ((changes + whole) as f64, Some(elements))
        );
        assert_keys(
            &tensors[0],
            &["name", "dtype", "shape", "action", "mean_changes", "elements", "density"],
        );

        // The rows of the histogram are the same changes again.
        let out = pulse(&place, &["stat", "base.safetensors", &name]).done();
        let histogram = out.lines().skip_while(|line| !line.starts_with("ULP step")).skip(1);
        let number = |line: &str| {
            line.split("  ").filter(|cell| !cell.is_empty()).nth(1).unwrap().trim().parse::<u64>()
        };
        assert_eq!(histogram.map(|line| number(line).unwrap()).sum::<u64>(), changes);
        assert!(fact(&out, "changes").starts_with(&format!("{changes} of ")));
    }
}

#[test]
fn what_diff_was_told_stands_in_the_header() {
    let place = scene();
    let run = "00112233445566778899aabbccddeeff";
    let told = [
        "--run",
        run,
        "--base-step",
        "40",
        "--step",
        "41",
        "--meta",
        "a=1",
        "--meta",
        "b=x=y",
        "--block",
        "2",
    ];
    let diff = ["diff", "base.safetensors", "target.safetensors", "-o", "told.pulse"];
    pulse(&place, &[&diff[..], &told].concat()).done();
    let header = &pulse(&place, &["inspect", "told.pulse", "--json"]).json()["header"];
    assert_eq!(
        (&header["run"], &header["base_step"], &header["target_step"]),
        (&json!(run), &json!(40), &json!(41))
    );
    assert_eq!(
        (&header["metadata"], &header["block_leaves"]),
        (&json!({"a": "1", "b": "x=y"}), &json!(2))
    );
}

#[test]
fn demo_synchronises_a_model_and_says_so() {
    let place = Place::new();
    let demo = ["demo", "--megabytes", "1", "--no-live"];
    let run = place.untouched(|| pulse(&place, &[&demo[..], &["--steps", "1"]].concat()));
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.contains("0 to 1") && run.out.contains("verified bit for bit"), "{}", run.out);
    let json = pulse(&place, &[&demo[..], &["--steps", "2", "--json"]].concat()).json();
    assert_eq!(json["live"], json!(null));
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    for (number, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], number as u64 + 1);
        assert!(step["patch_bytes"].as_u64() < step["full_bytes"].as_u64(), "{step}");
        assert!(step["changes"].as_u64().unwrap() > 0);
    }
}

/// One process publishes, three follow: one is killed and comes back, one joins late.
#[test]
fn demo_ends_with_a_feed_that_three_processes_follow() {
    let place = Place::new();
    let demo = ["demo", "--megabytes", "1", "--steps", "1", "--json"];
    let json = place.untouched(|| pulse(&place, &demo)).json();
    let live = &json["live"];
    assert_eq!(live["versions"], 9);
    let followers = live["followers"].as_array().unwrap();
    let of = |field: &str| followers.iter().map(|it| it[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("follower"), ["first", "killed", "late"]);
    assert_eq!(of("starts"), [1, 2, 1]);
    let digests = of("digest");
    assert!(digests.iter().all(|digest| digest == &digests[0]) && digests[0].is_string());
    for follower in followers {
        assert!(follower["bytes"].as_u64() < follower["full_copies_bytes"].as_u64(), "{follower}");
    }
}

#[test]
fn demo_keeps_its_checkpoints_and_patches_if_asked() {
    let place = Place::new();
    let demo = ["demo", "--megabytes", "1", "--steps", "2", "--keep", "run"];
    pulse(&place, &[&demo[..], &["--json"]].concat()).json();
    let kept: Vec<_> =
        place.contents().into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(
        kept,
        [
            "run",
            "1.pulse",
            "2.pulse",
            "step_0.safetensors",
            "step_1.safetensors",
            "step_2.safetensors"
        ]
    );
    pulse(&place, &["verify", "run/2.pulse", "--base", "run/step_1.safetensors"]).done();
    // The simulation is the same every time, and nothing is overwritten by a second.
    place.untouched(|| {
        pulse(&place, &demo).failed(&[
            "run: this directory already exists; give --keep the name of a new directory",
        ]);
        assert_eq!(pulse(&place, &[&demo[..], &["--json"]].concat()).failure(1)["kind"], "exists");
    });
}

#[test]
fn completions_and_man_pages_name_every_command_and_option() {
    let place = Place::new();
    let written = pulse(&place, &["generate", "completions", "made/completions"]).done();
    let scripts: Vec<_> = written.lines().collect();
    assert_eq!(scripts.len(), 10);
    for script in scripts {
        let text = fs::read_to_string(place.path(script)).unwrap();
        assert!(text.contains("--threads") || text.contains("threads"), "{script}");
        if !script.contains("inspect") {
            for word in ["diff", "apply", "base-patch", "snapshot"] {
                assert!(text.contains(word), "{script} without {word}");
            }
        }
    }

    let pages = pulse(&place, &["generate", "man", "made/man", "--json"]).json();
    let pages: Vec<_> =
        pages.as_array().unwrap().iter().map(|page| page.as_str().unwrap()).collect();
    let page = |name: &str| {
        assert!(pages.contains(&name), "{name} not in {pages:?}");
        fs::read_to_string(place.path(name)).unwrap()
    };
    assert!(page("made/man/pulse.1").contains("pulse\\-diff(1)"));
    assert!(page("made/man/pulse-diff.1").contains(".SH EXAMPLES"));
    assert!(page("made/man/pulse-inspect.1").contains("\\-\\-json"));
    // Both are for packagers: the help of others does not speak of them.
    assert!(!pulse(&place, &["--help"]).done().contains("generate"));
    assert!(!pages.contains(&"made/man/pulse-generate.1"));
    // Generated again, they are replaced by the same.
    place.untouched(|| pulse(&place, &["generate", "man", "made/man"]).done());
}

#[test]
fn diff_takes_the_digests_of_a_base_from_the_patch_that_produced_it() {
    let place = scene();
    pulse(&place, &["diff", "target.safetensors", "base.safetensors", "-o", "prev.pulse"]).done();
    let diff = ["diff", "base.safetensors", "target.safetensors"];
    pulse(&place, &[&diff[..], &["-o", "new.pulse", "--base-patch", "prev.pulse"]].concat()).done();
    let verify =
        ["verify", "new.pulse", "--base", "base.safetensors", "--target", "target.safetensors"];
    pulse(&place, &verify).done();
    let header = &pulse(&place, &["inspect", "new.pulse", "--json"]).json()["header"];
    assert_eq!(header["base_digest"], digest_of(&place, "base.safetensors"));
    let checked = ["-o", "checked.pulse", "--base-patch", "prev.pulse", "--check"];
    pulse(&place, &[&diff[..], &checked].concat()).done();
    assert!(
        fs::read(place.path("checked.pulse")).unwrap()
            == fs::read(place.path("new.pulse")).unwrap()
    );
}

/// One tensor is hashed in any case; with --check, all are. Whichever tensor is chosen, nothing is written.
#[test]
fn a_patch_that_has_not_produced_the_base_is_noticed() {
    let place = scene();
    let diff =
        ["diff", "base.safetensors", "target.safetensors", "-o", "new.pulse", "--base-patch"];
    let hint = "give the patch whose target is BASE, or leave out --base-patch";
    for check in [&[][..], &["--check"]] {
        place.untouched(|| {
            pulse(&place, &[&diff[..], &["41.pulse"], check].concat()).failed(&[
                "wrong base",
                "tensor '",
                hint,
            ])
        });
    }
    let json = pulse(&place, &[&diff[..], &["41.pulse", "--check", "--json"]].concat()).failure(1);
    assert_eq!(
        (&json["kind"], &json["tensor"], &json["advice_text"]),
        (&json!("base"), &json!("a"), &json!(hint))
    );

    // Right in the only tensor that the patch has, wrong in another: digests on trust and those of tensors
    // that are hashed do not make up that of the checkpoint.
    let mut tensors = model();
    tensors[0].bytes[0] ^= 1;
    place.put("before.safetensors", &Files::one(&tensors));
    pulse(&place, &["diff", "before.safetensors", "base.safetensors", "-o", "prev.pulse"]).done();
    tensors[0].bytes[0] ^= 1;
    tensors[1].bytes[0] ^= 1;
    place.put("wrong.safetensors", &Files::one(&tensors));
    let diff = [
        "diff",
        "wrong.safetensors",
        "target.safetensors",
        "--base-patch",
        "prev.pulse",
        "-o",
        "bad.pulse",
    ];
    for check in [&[][..], &["--check"]] {
        place.untouched(|| {
            pulse(&place, &[&diff[..], check].concat()).failed(&[
                "wrong base",
                "expected digest",
                hint,
            ])
        });
    }

    // Tensors of another shape are noticed before any is hashed.
    let odd =
        Files::one(&[tensor("a", "BF16", &[2000], model()[0].bytes.clone()), model()[1].clone()]);
    place.put("odd.safetensors", &odd);
    let odd = [
        "diff",
        "odd.safetensors",
        "target.safetensors",
        "--base-patch",
        "prev.pulse",
        "-o",
        "odd.pulse",
    ];
    place.untouched(|| {
        pulse(&place, &odd).failed(&[
            "prev.pulse: BASE was not produced by this patch",
            "'a'",
            hint,
        ])
    });
    let json = pulse(&place, &[&odd[..], &["--json"]].concat()).failure(1);
    assert_eq!(
        (&json["kind"], &json["file"], &json["tensor"]),
        (&json!("base"), &json!("prev.pulse"), &json!("a"))
    );
    pulse(&place, &["diff", "base.safetensors", "target.safetensors", "-o", "x", "--check"])
        .misused(&["--base-patch"]);
}

/// Files beside the tensors travel as the table of SPEC.md §9 has it, or as the options say.
#[test]
fn files_beside_the_tensors_travel_as_asked() {
    let place = scene();
    let files = |tensors: &[_]| {
        Files::many([
            ("model.safetensors", safetensors(tensors)),
            ("config.json", b"{}".to_vec()),
            ("README.md", b"text".to_vec()),
            (".env", b"KEY=secret".to_vec()),
            ("optimizer.pt", vec![7; 1000]),
        ])
    };
    place.put("from", &files(&model()));
    place.put("to", &files(&target()));
    let travels = |options: &[&str]| {
        let json = [&["diff", "from", "to", "-o", "p", "--force", "--json"], options].concat();
        let json = pulse(&place, &json).json();
        assert_eq!(pulse(&place, &["apply", "from", "p", "-o", "out"]).code, Some(0));
        let Files::Many(found) = Files::read(&place.path("out")) else { panic!("a directory") };
        fs::remove_dir_all(place.path("out")).unwrap();
        (found.into_keys().collect::<Vec<_>>().join(" "), json)
    };
    let (usual, json) = travels(&[]);
    assert_eq!(usual, "README.md config.json model.safetensors");
    assert_eq!(
        json["left_out"],
        json!([{ "name": ".env", "reason": "hidden" }, { "name": "optimizer.pt", "reason": "trainer-state" }])
    );
    // Nothing of them changed, so none is carried.
    assert_eq!(json["carried"], json!([]));
    assert_eq!(travels(&["--weights-only"]).0, "model.safetensors");
    // What does not travel is not removed at the other end either.
    let listed =
        pulse(&place, &["inspect", "p", "--json"]).json()["files"].as_array().unwrap().len();
    assert_eq!(listed, 1);
    assert_eq!(travels(&["--include", ".env"]).0, ".env README.md config.json model.safetensors");
    assert_eq!(
        travels(&["--include", "*", "--exclude", "opt*"]).0,
        ".env README.md config.json model.safetensors"
    );
    let (fewer, json) = travels(&["--exclude", "README.md", "--exclude", "*.json"]);
    assert_eq!(fewer, "model.safetensors");
    // Patterns are of whole names: no secret travels that was not meant.
    for (pattern, included) in [("env", json!([])), (".e", json!([])), (".*", json!([".env"]))] {
        let args = ["diff", "from", "to", "-o", "p", "--force", "--include", pattern, "--json"];
        assert_eq!(pulse(&place, &args).json()["included"], included, "{pattern}");
    }
    // Tensors travel all the same, and that is said.
    let all = ["diff", "from", "to", "-o", "p", "--force", "--exclude", "*"];
    let says = "note: --exclude leaves out no files with tensors: model.safetensors\n";
    assert!(pulse(&place, &all).err.contains(says));
    // What a new output is without is named; in place it stays.
    let apply = pulse(&place, &["apply", "from", "p", "-o", "out"]);
    let says = "note: README.md, config.json: each not in the patch, and so not in the output\n";
    assert!(apply.err.starts_with(says), "{}", apply.err);
    let apply = pulse(&place, &["apply", "from", "p", "--in-place"]);
    let says = "note: README.md, config.json: each not in the patch; it stays as it is\n";
    assert!(apply.err.starts_with(says), "{}", apply.err);
    for changed in ["from", "out"] {
        fs::remove_dir_all(place.path(changed)).unwrap();
    }
    place.put("from", &files(&model()));
    assert_eq!(json["left_out"][1], json!({ "name": "README.md", "reason": "excluded" }));
    pulse(&place, &["diff", "from", "to", "-o", "p", "--weights-only", "--include", "x"])
        .misused(&["--weights-only"]);
    // What is carried whole is said, the largest first.
    let text =
        pulse(&place, &["diff", "--snapshot", "to", "-o", "p", "--force", "--include", "opt*"]);
    assert!(text.out.contains("optimizer.pt 1.00 kB, README.md 4 bytes, config"), "{}", text.out);
}
