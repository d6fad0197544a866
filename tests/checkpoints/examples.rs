//! The examples as their users run them: real processes, one beside the other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use testkit::files::{stepped, tensor, weights, Files, Place};

/// Builds an example if it is not up to date, in the profile of this test; gives back its path.
fn example(name: &str) -> PathBuf {
    // .../target/debug/deps/examples-0123 to .../target/debug/examples
    let profile = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "building the example {name}");
    profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// A process whose output is read line by line.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(place: &Place, name: &str, args: &[&str]) -> Running {
        let mut command = Command::new(example(name));
        command.current_dir(place.root()).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// What is left of the output of a process that ends well.
    fn done(mut self) -> Vec<String> {
        let lines = (&mut self.out).lines().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success(), "{lines:?}");
        lines
    }
}

fn run(place: &Place, name: &str, args: &[&str]) -> Vec<String> {
    Running::start(place, name, args).done()
}

/// The last word of a line.
fn last(line: &str) -> &str {
    line.rsplit(' ').next().unwrap()
}

#[test]
fn a_receiver_follows_a_trainer_patch_by_patch() {
    let place = Place::new();
    let published = run(&place, "trainer", &["run", "3"]);
    let received = run(&place, "receiver", &["run", "3"]);
    assert_eq!(received[0], "anchor of step 0: 3 tensors");
    assert_eq!(received.len(), 4);
    // Anchor and patches, each with the digest of its target as the last word.
    assert_eq!(published.len(), 4);
    for (published, received) in published.iter().zip(&received).skip(1) {
        assert_eq!(last(published), last(received));
    }
}

#[test]
fn a_trainer_that_is_started_again_keeps_what_it_published() {
    let place = Place::new();
    run(&place, "trainer", &["run", "2"]);
    let before = fs::read(place.path("run").join("2.pulse")).unwrap();
    let again = run(&place, "trainer", &["run", "3"]);
    assert!(again[..3].iter().all(|line| line.contains("published before")), "{again:?}");
    assert!(!again[3].contains("published before"), "{again:?}");
    assert!(fs::read(place.path("run").join("2.pulse")).unwrap() == before);
    let received = run(&place, "receiver", &["run", "3"]);
    assert_eq!(last(received.last().unwrap()), last(again.last().unwrap()));
}

#[test]
fn a_receiver_that_lost_a_patch_goes_on_from_an_anchor() {
    let place = Place::new();
    let published = run(&place, "trainer", &["published", "5"]);
    fs::create_dir(place.path("arrived")).unwrap();
    // Renamed into place, as the trainer does it: the receiver never sees half a file.
    let arrive = |name: &str| {
        let part = place.path("part");
        fs::copy(place.path("published").join(name), &part).unwrap();
        fs::rename(part, place.path("arrived").join(name)).unwrap();
    };
    arrive("0.anchor.pulse");
    arrive("1.pulse");
    arrive("2.pulse");
    let mut receiver = Running::start(&place, "receiver", &["arrived", "5"]);
    assert_eq!(receiver.line(), "anchor of step 0: 3 tensors");
    assert!(receiver.line().starts_with("step 1: "));
    assert!(receiver.line().starts_with("step 2: "));
    // Patch 3 is lost: patch 4 does not fit, and the receiver waits until a newer anchor comes.
    arrive("4.pulse");
    arrive("5.pulse");
    arrive("4.anchor.pulse");
    assert_eq!(receiver.line(), "anchor of step 4: 3 tensors");
    let rest = receiver.done();
    assert_eq!(rest.len(), 1);
    assert_eq!(last(&rest[0]), last(published.last().unwrap()));
}

/// Files may have any names: digests and steps say which patch comes next. A patch that comes late is
/// worth waiting for, an anchor that is not newer is of no use, and a longer patch is preferred.
#[test]
fn a_receiver_goes_by_digests_and_steps_and_waits() {
    let place = Place::new();
    let published = run(&place, "trainer", &["published", "5"]);
    fs::create_dir(place.path("arrived")).unwrap();
    let arrive = |from: &str, to: &str| {
        let part = place.path("part");
        fs::copy(place.path("published").join(from), &part).unwrap();
        fs::rename(part, place.path("arrived").join(to)).unwrap();
    };
    arrive("4.anchor.pulse", "a.pulse");
    arrive("0.anchor.pulse", "z.pulse");
    arrive("1.pulse", "9.pulse");
    let mut receiver = Running::start(&place, "receiver", &["arrived", "5"]);
    assert_eq!(receiver.line(), "anchor of step 4: 3 tensors");
    arrive("5.pulse", "0.pulse");
    let rest = receiver.done();
    assert_eq!(rest.len(), 1);
    assert_eq!(last(&rest[0]), last(published.last().unwrap()));
}

#[test]
fn a_source_of_ones_own_makes_a_patch() {
    let lines = run(&Place::new(), "custom_source", &[]);
    assert_eq!(lines.last().unwrap(), "applied: the same bits as the masters rounded");
}

/// Base and target of more than 64 MB in a place, and the address of a sender of the patch between them.
fn sender(place: &Place) -> (Running, String) {
    let model = |seed: u64| {
        let part =
            |name: &str, seed| tensor(name, "BF16", &[5_000, 4_000], weights(seed, 20_000_000));
        vec![part("a", seed), part("b", 2)]
    };
    let base = model(1);
    let mut target = base.clone();
    target[0].bytes = stepped(&target[0].bytes, 2, 150);
    target[1].bytes = stepped(&target[1].bytes, 2, 170);
    place.put("base.safetensors", &Files::one(&base));
    place.put("target.safetensors", &Files::one(&target));
    place.put("other.safetensors", &Files::one(&model(3)));
    start_sender(place)
}

fn start_sender(place: &Place) -> (Running, String) {
    let args = ["send", "base.safetensors", "target.safetensors", "127.0.0.1:0"];
    let mut sender = Running::start(place, "socket", &args);
    let address = last(&sender.line()).to_string();
    (sender, address)
}

#[test]
fn a_receiver_on_a_socket_holds_less_than_64_mb() {
    let place = Place::new();
    let (running, address) = sender(&place);
    let bytes = fs::metadata(place.path("target.safetensors")).unwrap().len();
    assert!(bytes > 64_000_000, "{bytes}");

    let received =
        run(&place, "socket", &["receive", "base.safetensors", "received.safetensors", &address]);
    assert!(running.done()[0].ends_with("changes"));
    assert!(
        fs::read(place.path("received.safetensors")).unwrap()
            == fs::read(place.path("target.safetensors")).unwrap()
    );
    let peak = &received[1];
    if cfg!(target_os = "linux") {
        let kib: u64 = peak
            .strip_prefix("peak memory ")
            .unwrap()
            .strip_suffix(" KiB")
            .unwrap()
            .parse()
            .unwrap();
        assert!(kib * 1024 < 64_000_000, "{peak}");
    }

    // With another base nothing is kept.
    let (running, address) = start_sender(&place);
    place.untouched(|| {
        let mut wrong = Command::new(example("socket"));
        wrong.current_dir(place.root()).args([
            "receive",
            "other.safetensors",
            "wrong.safetensors",
            &address,
        ]);
        let wrong = wrong.output().unwrap();
        assert!(!wrong.status.success() && wrong.stdout.is_empty());
    });
    // The sender may meet a closed socket; that the receiver refused is what counts.
    let _ = { running }.child.wait();
}
