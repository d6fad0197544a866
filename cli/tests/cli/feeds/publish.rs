//! `pulse publish`, `pulse keygen`.

use std::fs;

use serde_json::json;
use testkit::files::Files;

use super::{assert_step, follow_once, keygen, publish, scene, weights_at, Live};
use crate::{pulse, target};

#[test]
fn the_first_version_is_whole_and_the_next_ones_are_patches_from_what_was_kept() {
    let place = scene(3);
    let first = publish(&place, 0, &[]);
    assert_eq!(
        (&first["version"], &first["step"], &first["kind"]),
        (&json!(0), &json!(0), &json!("anchor"))
    );
    assert!(first["base"].is_null());
    for step in 1..3 {
        let next = publish(&place, step, &[]);
        assert_eq!((&next["version"], &next["kind"]), (&json!(step), &json!("patch")));
        assert_eq!(next["base"], "kept");
        assert!(next["changes"].as_u64().is_some_and(|changes| (20..40).contains(&changes)));
        assert!(next["bytes"].as_u64() < first["bytes"].as_u64());
        assert_eq!(next["run"], first["run"]);
    }
    // What is given as the base is used, and must be the version before.
    let wrong = ["publish", "step_2.safetensors", "feed", "--base", "step_0.safetensors"];
    pulse(&place, &wrong).failed(&["version 2 has digest", "--base"]);
    let again = publish(&place, 2, &["--base", "step_2.safetensors", "--step", "3"]);
    assert_eq!(
        (&again["kind"], &again["base"], &again["step"]),
        (&json!("nothing"), &json!("given"), &json!(3))
    );
    assert_eq!(follow_once(&place, &[])["version"], 3);
    assert_step(&place, "served", 2);
}

#[test]
fn a_publisher_without_its_state_fetches_what_it_published() {
    let place = scene(3);
    publish(&place, 0, &[]);
    publish(&place, 1, &[]);
    fs::remove_dir_all(place.path(".state")).unwrap();
    let next = publish(&place, 2, &[]);
    assert_eq!((&next["kind"], &next["base"]), (&json!("patch"), &json!("feed")));
    follow_once(&place, &[]);
    assert_step(&place, "served", 2);
}

/// Many trainers write every step to the same file, which is then the base that was linked.
#[test]
fn a_checkpoint_that_is_overwritten_is_noticed_and_copied_from_then_on() {
    let place = scene(0);
    let put = |step| {
        let Files::One(bytes) = weights_at(step) else { unreachable!() };
        fs::write(place.path("model.safetensors"), bytes).unwrap();
        let args = ["publish", "model.safetensors", "feed", "--step", "7", "--json"];
        pulse(&place, &args).json()
    };
    assert_eq!(put(0)["kind"], "anchor");
    let bases: Vec<_> = (1..4).map(|step| put(step)["base"].clone()).collect();
    assert_eq!(bases, [json!("feed"), json!("kept"), json!("kept")]);
    assert_eq!(follow_once(&place, &[])["parts"], 4);
    assert_step(&place, "served", 3);
}

#[test]
fn a_directory_travels_with_its_files() {
    let place = scene(0);
    let files = |config: &str, tensors: &[_]| {
        Files::many([
            ("model.safetensors", testkit::files::safetensors(tensors)),
            ("config.json", config.into()),
        ])
    };
    place.put("step_1", &files("{}", &crate::model()));
    place.put("step_2", &files("{\"a\":1}", &target()));
    let run = |args: &[&str]| pulse(&place, &[args, &["--json"]].concat()).json();
    assert_eq!(run(&["publish", "step_1", "feed"])["step"], 1);
    let next = run(&["publish", "step_2", "feed", "--end"]);
    assert_eq!(
        (&next["step"], &next["base"], &next["ended"]),
        (&json!(2), &json!("kept"), &json!(true))
    );
    pulse(&place, &["follow", "feed", "served", "--once", "-q"]).done();
    let served = fs::canonicalize(place.path("served")).unwrap();
    Files::read(&served).assert_same(&files("{\"a\":1}", &target()));
    pulse(&place, &["publish", "step_1", "feed"])
        .failed(&["the run ended with version 2", "at another address"]);
}

#[test]
fn a_signed_feed_is_for_its_key_alone() {
    let place = scene(3);
    let key = keygen(&place, "trainer.key");
    assert_eq!(key.len(), 64);
    pulse(&place, &["keygen", "trainer.key"]).failed(&["trainer.key", "never replaced"]);
    let other = keygen(&place, "other.key");
    let begin = ["publish", "step_0.safetensors", "feed", "--key", "trainer.key"];
    pulse(&place, &[&begin[..], &["--new-key", "other.key"]].concat()).misused(&["--new-key"]);
    assert_eq!(publish(&place, 0, &["--key", "trainer.key"])["key"], json!(key));
    for (more, needles) in [
        (&[][..], &["signed by key", &key, "publish with that key"][..]),
        (&["--key", "other.key"], &["signed by key", &key, &other]),
    ] {
        let args = [&["publish", "step_1.safetensors", "feed"], more].concat();
        pulse(&place, &args).failed(needles);
    }
    publish(&place, 1, &["--key", "trainer.key"]);
    let follow = ["follow", "feed", "served", "--once", "--trust"];
    pulse(&place, &[&follow[..], &[&other]].concat()).failed(&[
        "signed by key",
        &other,
        "compare the key",
    ]);
    let failure = pulse(&place, &[&follow[..], &[&other, "--json"]].concat()).failure(1);
    assert_eq!((&failure["kind"], &failure["feed"]), (&json!("signature"), &json!("feed")));
    assert!(!place.path("served").exists());
    assert_eq!(follow_once(&place, &["--trust", &key])["version"], 1);
    // It can be handed over, to those who trust the old one as well.
    let next = keygen(&place, "next.key");
    publish(&place, 2, &["--key", "trainer.key", "--new-key", "next.key"]);
    let old = ["publish", "step_0.safetensors", "feed", "--key", "trainer.key"];
    pulse(&place, &old).failed(&["has handed over to", &next]);
    publish(&place, 0, &["--key", "next.key"]);
    for key in [&key, &next] {
        pulse(&place, &["follow", "feed", key, "--once", "-q", "--trust", key]).done();
    }
    assert_eq!(follow_once(&place, &[])["version"], 3);
    // From now on the key belongs to what was served: somebody who could write to the store cannot replace the feed.
    fs::rename(place.path("feed"), place.path("old")).unwrap();
    publish(&place, 2, &[]);
    pulse(&place, &["follow", "feed", "served", "--once"]).failed(&["another run"]);
    // A key that others may read is no key.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = place.path("trainer.key");
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        pulse(&place, &["publish", "step_2.safetensors", "old", "--key", "trainer.key"])
            .failed(&["others may read the key", "chmod 600"]);
    }
}

#[cfg(unix)]
#[test]
fn checkpoints_that_appear_are_published_in_order() {
    let place = scene(0);
    fs::create_dir(place.path("run")).unwrap();
    place.put("run/step_1.safetensors", &weights_at(1));
    let mut live = Live::start(&place, &["publish", "--watch", "run", "feed"]);
    assert_eq!(live.line()["step"], 1);
    // A later one that is whole waits for an earlier one that is being written, and others have no number.
    let Files::One(bytes) = weights_at(2) else { unreachable!() };
    fs::write(place.path("run/step_2.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    place.put("run/step_10.safetensors", &weights_at(3));
    place.put("run/last.safetensors", &weights_at(4));
    std::thread::sleep(std::time::Duration::from_millis(300));
    fs::write(place.path("run/step_2.safetensors"), &bytes).unwrap();
    let found = [live.line(), live.line()].map(|line| (line["step"].clone(), line["kind"].clone()));
    assert_eq!(found, [(json!(2), json!("patch")), (json!(10), json!("patch"))]);
    live.stop();
    // After a restart it goes on.
    place.put("run/step_11.safetensors", &weights_at(4));
    let mut live = Live::start(&place, &["publish", "--watch", "run", "feed"]);
    let next = live.line();
    assert_eq!(
        (&next["step"], &next["version"], &next["base"]),
        (&json!(11), &json!(3), &json!("kept"))
    );
    live.stop();
}

#[test]
fn a_publisher_is_fenced_by_a_later_one() {
    let place = scene(3);
    fs::create_dir(place.path("run")).unwrap();
    fs::copy(place.path("step_0.safetensors"), place.path("run/step_0.safetensors")).unwrap();
    let mut live = Live::start(&place, &["publish", "--watch", "run", "feed"]);
    assert_eq!(live.line()["version"], 0);
    let other = publish(&place, 1, &[]);
    assert_eq!((&other["version"], &other["epoch"]), (&json!(1), &json!(2)));
    // What the first one keeps is in use.
    assert_eq!((&other["kind"], &other["base"]), (&json!("patch"), &json!("feed")));
    fs::copy(place.path("step_2.safetensors"), place.path("run/step_2.safetensors")).unwrap();
    let (code, error) = live.end();
    let failure: serde_json::Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert_eq!((code, &failure["kind"]), (Some(1), &json!("fenced")), "{error}");
    assert!(failure["advice_text"].as_str().unwrap().contains("stop this publisher"), "{error}");
}
