//! `pulse follow`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use testkit::files::Files;

use super::{assert_step, follow_once, publish, scene, weights_at, Live};
use crate::pulse;

#[test]
fn what_is_served_is_an_ordinary_checkpoint_and_old_versions_go() {
    let place = scene(5);
    for step in 0..5 {
        publish(&place, step, &[]);
        let event = follow_once(&place, &["--keep", "1"]);
        assert_eq!((&event["event"], &event["version"]), (&json!("switched"), &json!(step)));
        assert_eq!(
            event["digest"],
            pulse(&place, &["digest", "served", "--json"]).json()[0]["digest"]
        );
        assert_step(&place, "served", step);
    }
    let mut versions: Vec<_> = fs::read_dir(place.path("served.versions"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.parse::<u64>().is_ok())
        .collect();
    versions.sort();
    assert_eq!(versions, ["3", "4"]);
    let already = follow_once(&place, &[]);
    assert_eq!((&already["event"], &already["version"]), (&json!("already"), &json!(4)));
    // An older one only on request, by number or by step; then the newest one again.
    assert_eq!(follow_once(&place, &["--at", "1"])["version"], 1);
    assert_step(&place, "served", 1);
    assert_eq!(follow_once(&place, &["--at", "step=2"])["version"], 2);
    assert_eq!(follow_once(&place, &["--trust-state"])["version"], 4);
    assert_step(&place, "served", 4);
    pulse(&place, &["follow", "feed", "served", "--at", "step=9"])
        .misused(&["no version has optimizer step 9"]);
    pulse(&place, &["follow", "feed", "served", "--once", "-q", "--at", "9"])
        .failed(&["version 9", "newest is version 4"]);
}

#[test]
fn what_is_served_is_read_again_unless_its_state_is_trusted() {
    let place = scene(3);
    publish(&place, 0, &[]);
    follow_once(&place, &[]);
    // Damaged behind its back, with the time of before.
    let path = fs::canonicalize(place.path("served")).unwrap();
    let (mut bytes, modified) =
        (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(follow_once(&place, &["--trust-state"])["event"], "already");
    // It is made again, beside the damaged one, which is served until then.
    assert_eq!(follow_once(&place, &[])["event"], "switched");
    assert_step(&place, "served", 0);
    publish(&place, 1, &[]);
    assert_eq!(follow_once(&place, &["--trust-state"])["parts"], 1);
    assert_step(&place, "served", 1);
}

#[cfg(unix)]
#[test]
fn a_follower_goes_on_after_it_was_stopped_or_killed() {
    let place = scene(4);
    publish(&place, 0, &[]);
    let args = ["follow", "feed", "served", "--poll", "10ms", "--poll-max", "50ms"];
    let mut live = Live::start(&place, &args);
    assert_eq!(live.event("switched")["version"], 0);
    publish(&place, 1, &[]);
    let event = live.event("switched");
    assert_eq!(
        (&event["version"], &event["lag_versions"], &event["parts"]),
        (&json!(1), &json!(0), &json!(1))
    );
    // Two of them would take each other's versions away.
    pulse(&place, &["follow", "feed", "served", "--once"]).misused(&["another process follows"]);
    live.kill();
    assert_step(&place, "served", 1);
    publish(&place, 2, &[]);
    let mut live = Live::start(&place, &args);
    assert_eq!(live.event("switched")["version"], 2);
    live.event("waiting");
    live.stop();
    publish(&place, 3, &["--end"]);
    // The end of the run is the end of the following.
    let mut live = Live::start(&place, &args);
    assert_eq!(live.event("switched")["version"], 4);
    assert_eq!(live.event("ended")["version"], 4);
    assert_eq!(live.end().0, Some(0));
    assert_step(&place, "served", 3);
}

#[cfg(unix)]
#[test]
fn a_command_is_told_of_each_switch_and_may_fail() {
    let place = scene(2);
    publish(&place, 0, &[]);
    let exec = "echo \"$PULSE_VERSION $PULSE_STEP $PULSE_DIGEST\" >> told; pulse=$PULSE_PATH; test -f \"$pulse\"";
    let event = follow_once(&place, &["--exec", exec]);
    assert_eq!((&event["event"], &event["code"]), (&json!("executed"), &json!(0)));
    let digest = pulse(&place, &["digest", "served", "--json"]).json()[0]["digest"].clone();
    let told = format!("0 0 {}\n", digest.as_str().unwrap());
    assert_eq!(fs::read_to_string(place.path("told")).unwrap(), told);
    publish(&place, 1, &[]);
    let event = follow_once(&place, &["--exec", "exit 3"]);
    assert_eq!((&event["event"], &event["code"]), (&json!("executed"), &json!(3)));
    assert_step(&place, "served", 1);
}

#[test]
fn a_checkpoint_is_followed_in_place() {
    let place = scene(4);
    publish(&place, 0, &[]);
    publish(&place, 1, &[]);
    place.put("served", &weights_at(0));
    // What is there is not to be taken away.
    place.untouched(|| {
        pulse(&place, &["follow", "feed", "served", "--once"]).misused(&["served", "--in-place"]);
    });
    let event = follow_once(&place, &["--in-place"]);
    assert_eq!((&event["version"], &event["parts"]), (&json!(1), &json!(1)));
    assert!(!place.path("served").is_symlink());
    assert_step(&place, "served", 1);
    // From nothing, and from weights that are those of no version.
    for before in [None, Some(weights_at(9))] {
        let _ = fs::remove_file(place.path("served"));
        before.into_iter().for_each(|files| _ = place.put("served", &files));
        assert_eq!(follow_once(&place, &["--in-place"])["version"], 1);
        assert_step(&place, "served", 1);
    }
    // A directory is one afterwards.
    let directory = |step| {
        let Files::One(bytes) = weights_at(step) else { unreachable!() };
        Files::many([("model.safetensors", bytes), ("config.json", b"{}".to_vec())])
    };
    (0..3).for_each(|step| _ = place.put(&format!("all_{step}"), &directory(step)));
    for step in ["0", "1", "2"] {
        pulse(&place, &["publish", &format!("all_{step}"), "feed2", "-q"]).done();
        pulse(&place, &["follow", "feed2", "all", "--once", "--in-place", "-q"]).done();
    }
    Files::read(&place.path("all")).assert_same(&directory(2));
    assert!(!place.path("all.versions").exists());
}

#[cfg(unix)]
#[test]
fn metrics_say_what_is_served() {
    let place = scene(1);
    publish(&place, 0, &[]);
    let args = ["follow", "feed", "served", "--metrics", "127.0.0.1:0", "--poll", "10ms"];
    let mut live = Live::start(&place, &args);
    let address = live.event("following")["metrics"].as_str().unwrap().to_string();
    live.event("waiting");
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let page = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    for line in [
        "pulse_version 0",
        "pulse_step 0",
        "pulse_lag_versions 0",
        "pulse_lag_seconds 0",
        "pulse_updates_total 1",
        "pulse_latest_expired 0",
        "# TYPE pulse_phase_seconds_total counter",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
    // The page for operators has them all.
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/operating.md");
    let document = fs::read_to_string(document).unwrap();
    let named = |line: &str| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_string());
    for name in page.lines().filter_map(named) {
        let row = document.lines().find(|line| line.starts_with(&format!("| `{name}")));
        assert!(row.is_some(), "{name} is not in docs/guide/operating.md");
    }
    let length = page.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    assert_eq!(length, body.len().to_string());
    assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(ask(&format!("GET /{}", "x".repeat(20_000))).starts_with("HTTP/1.1 400"));
    live.stop();
}

/// And one that is begun again at the same place is another one.
#[test]
fn a_feed_that_is_deleted_under_way_is_said_so() {
    let place = scene(3);
    publish(&place, 0, &[]);
    fs::create_dir(place.path("run")).unwrap();
    let mut trainer = Live::start(&place, &["publish", "--watch", "run", "feed"]);
    fs::copy(place.path("step_1.safetensors"), place.path("run/step_1.safetensors")).unwrap();
    assert_eq!(trainer.line()["version"], 1);
    let args = ["follow", "feed", "served", "--poll", "10ms", "--poll-max", "20ms"];
    let mut live = Live::start(&place, &args);
    assert_eq!(live.event("switched")["version"], 1);
    live.event("waiting");
    fs::rename(place.path("feed"), place.path("gone")).unwrap();
    let event = live.event("refused");
    assert_eq!(event["kind"], "no-feed");
    assert!(event["advice_text"].as_str().unwrap().contains("served further"), "{event}");
    fs::copy(place.path("step_2.safetensors"), place.path("run/step_2.safetensors")).unwrap();
    let (code, error) = trainer.end();
    assert!(code == Some(1) && error.contains("deleted under way"), "{error}");
    publish(&place, 0, &[]);
    let (code, error) = live.end();
    assert!(code == Some(1) && error.contains("another run"), "{error}");
    assert_step(&place, "served", 1);
}

#[test]
fn a_feed_that_is_not_there_is_said_so_and_not_made() {
    let place = scene(1);
    for args in [
        &["follow", "nowhere", "served"][..],
        &["feed", "status", "nowhere"],
        &["feed", "log", "nowhere"],
        &["feed", "mirror", "nowhere", "copy"],
    ] {
        pulse(&place, args).failed(&["there is no feed at nowhere", "pulse publish creates"]);
        assert!(!place.path("nowhere").exists());
    }
    let failure = pulse(&place, &["feed", "status", "nowhere", "--json"]).failure(1);
    assert_eq!((&failure["kind"], &failure["feed"]), (&json!("no-feed"), &json!("nowhere")));
    // Credentials are refused where everybody would see them, and not repeated.
    let run = pulse(&place, &["feed", "log", "https://me:secret@host/feed"]);
    assert!(!run.err.contains("secret") && run.err.contains("environment"), "{}", run.err);
}
