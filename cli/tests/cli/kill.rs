//! Processes killed at random moments of `apply`, on a checkpoint of some size: base or target, never anything else.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pulse::stream::EncoderOptions;
use testkit::files::{noise, stepped, tensor, weights, Files, Place};
use testkit::library::diff;

/// Times that a process is killed, for each way to apply.
const KILLS: u64 = 60;
/// Elements of each of the three tensors: 45 MB in all.
const ELEMENTS: usize = 7_500_000;

struct Scene {
    place: Place,
    base: Files,
    target: Files,
}

fn scene() -> Scene {
    let place = Place::new();
    let names = ["a", "b", "c"];
    let bytes: Vec<Vec<u8>> = (0..3).map(|seed| weights(seed, ELEMENTS)).collect();
    let file = |bytes: Vec<Vec<u8>>| {
        let tensors = names
            .iter()
            .zip(bytes)
            .map(|(name, bytes)| tensor(name, "BF16", &[ELEMENTS as u64], bytes));
        Files::one(&tensors.collect::<Vec<_>>())
    };
    let base = file(bytes.clone());
    let target = file(bytes.iter().map(|bytes| stepped(bytes, 2, 83)).collect());
    place.put("base", &base);
    place.put("target", &target);
    diff(
        Some(&place.path("base")),
        &place.path("target"),
        &place.path("patch"),
        EncoderOptions::default(),
        2,
    );
    Scene { place, base, target }
}

impl Scene {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pulse"));
        command
            .current_dir(self.place.root())
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Duration {
        let started = Instant::now();
        let output = self.command(args).stderr(Stdio::inherit()).status().unwrap();
        assert!(output.success(), "{args:?}");
        started.elapsed()
    }

    /// Starts a process and kills it after a part of the time that it needs; whether it was done before.
    fn kill(&self, args: &[&str], takes: Duration, number: u64) -> bool {
        let mut child = self.command(args).spawn().unwrap();
        // Spread evenly, a little beyond the end.
        let part = f64::from(u16::from_le_bytes(noise(number, 2).try_into().unwrap())) / 65_536.0;
        std::thread::sleep(takes.mul_f64(part * 1.1));
        // SIGKILL on Unix.
        let _ = child.kill();
        child.wait().unwrap().success()
    }

    fn holds(&self, path: &Path, files: &Files) -> bool {
        Files::read(path) == *files
    }
}

#[test]
fn a_process_killed_in_apply_leaves_no_output_or_the_target() {
    let scene = scene();
    let out = scene.place.path("out");
    let args = ["apply", "base", "patch", "-o", "out", "-q"];
    let takes = scene.run(&args);
    let mut targets = 0;
    for number in 0..KILLS {
        let _ = fs::remove_file(&out);
        let done = scene.kill(&args, takes, number);
        if out.exists() {
            assert!(scene.holds(&out, &scene.target), "kill {number}")
        } else {
            assert!(!done, "kill {number}")
        }
        targets += u64::from(out.exists());
        // What a killed process leaves beside it has a name of its own, and can be removed.
        for entry in fs::read_dir(scene.place.root()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_str().unwrap().starts_with(".pulse-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    assert!(scene.holds(&scene.place.path("base"), &scene.base));
    println!("{KILLS} kills of apply -o: {targets} targets, {} times no output", KILLS - targets);
    assert!(targets < KILLS, "no process was killed before it was done");
}

#[test]
fn a_process_killed_in_apply_in_place_leaves_the_base_or_the_target_after_recovery() {
    let scene = scene();
    let checkpoint = scene.place.path("checkpoint");
    scene.base.write(&checkpoint);
    let args = ["apply", "checkpoint", "patch", "--in-place", "-q"];
    let takes = scene.run(&args);
    let (mut bases, mut targets, mut torn) = (0, 0, 0);
    for number in 0..KILLS {
        scene.base.write(&checkpoint);
        let done = scene.kill(&args, takes, 1000 + number);
        torn += u64::from(scene.place.path(".checkpoint.pulse-undo").exists());
        // Every other time the same command recovers, and goes on.
        let again = number % 2 == 1;
        scene.run(if again { &args } else { &["recover", "checkpoint", "-q"] });
        let (is_base, is_target) =
            (scene.holds(&checkpoint, &scene.base), scene.holds(&checkpoint, &scene.target));
        assert!(is_base || is_target, "kill {number}");
        assert!(is_target || !(done || again), "kill {number}");
        bases += u64::from(is_base);
        targets += u64::from(is_target);
        let beside = fs::read_dir(scene.place.root()).unwrap().count();
        assert_eq!(beside, 4, "kill {number}: base, target, patch, checkpoint");
    }
    println!("{KILLS} kills of apply --in-place: {bases} bases, {targets} targets; {torn} with a journal");
    assert!(bases > 0 && torn > 0, "no process was killed while it changed the checkpoint");
}

/// Told to stop, a process removes what it has half written, and ends as shells expect it.
#[cfg(unix)]
#[test]
fn a_process_that_is_told_to_stop_leaves_nothing_half_written() {
    use std::os::unix::process::ExitStatusExt;
    let scene = scene();
    let (root, checkpoint) = (scene.place.root(), scene.place.path("checkpoint"));
    let to_new = ["apply", "base", "patch", "-o", "out", "-q", "--threads", "1"];
    let in_place = ["apply", "checkpoint", "patch", "--in-place", "-q", "--threads", "1"];
    scene.base.write(&checkpoint);
    let names = || {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1)] {
        for args in [&to_new[..], &in_place] {
            let stopped = (0..20).any(|_| {
                let mut child = scene.command(args).spawn().unwrap();
                // It works as soon as there is something beside the files.
                while names() == before && child.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let pid = child.id().to_string();
                Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
                let ended = child.wait().unwrap();
                let stopped = ended.signal() == Some(number);
                // A signal that comes after the last report is too late: all is done, and well.
                assert!(stopped || ended.success(), "{signal} {args:?}: {ended}");
                if !stopped {
                    let made =
                        if args == in_place { &checkpoint } else { &scene.place.path("out") };
                    assert!(scene.holds(made, &scene.target), "{signal} {args:?}");
                    let _ = fs::remove_file(scene.place.path("out"));
                    scene.base.write(&checkpoint);
                }
                assert_eq!(names(), before, "{signal} {args:?}");
                assert!(scene.holds(&checkpoint, &scene.base), "{signal} {args:?}");
                stopped
            });
            assert!(stopped, "{signal} {args:?} never came in time");
        }
    }
    // Who starts it may want it to go on, as nohup does.
    let mut child = Command::new("sh");
    let line = format!("trap '' HUP; exec {} {}", env!("CARGO_BIN_EXE_pulse"), to_new.join(" "));
    let mut child = child.current_dir(root).args(["-c", &line]).spawn().unwrap();
    while names() == before && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(scene.holds(&scene.place.path("out"), &scene.target));
}
