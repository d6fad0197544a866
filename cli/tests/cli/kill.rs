//! Processes killed at random moments of `apply`, on a checkpoint of some size: base or target, never anything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::Checkpoint;
use testkit::files::{noise, stepped, tensor, weights, Files, Place};
use testkit::library::diff;

/// Times that a process is killed, for each way to apply. `PULSE_KILLS` says otherwise.
fn kills() -> u64 {
    std::env::var("PULSE_KILLS").map_or(30, |kills| kills.parse().unwrap())
}

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

    /// As `kill`; a reader may have been at the file in the moment when it was to be locked.
    fn kill_or_retry(&self, args: &[&str], takes: Duration, number: u64) -> bool {
        let done = self.kill(args, takes, number);
        done || (self.holds(&self.place.path("checkpoint"), &self.base)
            && self.kill(args, takes, number))
    }

    fn digests(&self) -> [Digest; 2] {
        ["base", "target"].map(|name| {
            Checkpoint::open(self.place.path(name)).unwrap().digest(Control::threads(2)).unwrap()
        })
    }

    fn holds(&self, path: &Path, files: &Files) -> bool {
        Files::read(path) == *files
    }
}

/// Reads a checkpoint again and again while it is changed, until it is told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Reader {
    /// Digests the checkpoint as any program that uses the library; gives back how often there was one.
    fn of_digests(path: PathBuf, allowed: [Digest; 2]) -> Self {
        Self::start(move || {
            let opened = Checkpoint::open(&path);
            match opened.and_then(|found| found.digest(Control::threads(1))) {
                Ok(digest) => {
                    assert!(allowed.contains(&digest), "read {digest}");
                    true
                }
                Err(error) => {
                    let kinds = ["busy", "interrupted", "changed", "io"];
                    assert!(kinds.contains(&error.kind()), "{error}");
                    false
                }
            }
        })
    }

    /// Reads the bytes of the file as programs do that know nothing of pulse.
    fn of_bytes(path: PathBuf, allowed: [Files; 2]) -> Self {
        Self::start(move || {
            let Ok(bytes) = fs::read(&path) else { return false };
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let accepted = length < 100_000_000;
            assert!(!accepted || allowed.contains(&Files::One(bytes)), "a torn file is accepted");
            accepted
        })
    }

    fn start(mut read: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while !told.load(Relaxed) {
                seen += u64::from(read());
                // The other one must come to its turn.
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Reader { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_process_killed_in_apply_leaves_no_output_or_the_target() {
    let scene = scene();
    let (out, kills) = (scene.place.path("out"), kills());
    let args = ["apply", "base", "patch", "-o", "out", "-q"];
    let takes = scene.run(&args);
    let mut targets = 0;
    let reader = Reader::of_digests(out.clone(), scene.digests());
    for number in 0..kills {
        let _ = fs::remove_file(&out);
        let done = scene.kill(&args, takes, number);
        if out.exists() {
            assert!(scene.holds(&out, &scene.target), "kill {number}")
        } else {
            assert!(!done, "kill {number}")
        }
        targets += u64::from(out.exists());
    }
    let seen = reader.stop();
    assert!(scene.holds(&scene.place.path("base"), &scene.base));
    // What killed processes left beside it, the next one removes.
    let _ = fs::remove_file(&out);
    scene.run(&args);
    assert_eq!(fs::read_dir(scene.place.root()).unwrap().count(), 4, "base, target, patch, out");
    println!(
        "{kills} kills of apply -o: {targets} targets, {} times no output; read {seen} times",
        kills - targets
    );
    assert!(targets < kills, "no process was killed before it was done");
}

#[test]
fn a_process_killed_in_apply_in_place_leaves_the_base_or_the_target_after_recovery() {
    let scene = scene();
    let (checkpoint, kills) = (scene.place.path("checkpoint"), kills());
    for way in ["--in-place=redo", "--in-place=undo"] {
        scene.base.write(&checkpoint);
        let args = ["apply", "checkpoint", "patch", way, "-q"];
        let takes = scene.run(&args);
        let (mut bases, mut targets, mut marked, mut seen) = (0, 0, 0, [0; 2]);
        for number in 0..kills {
            let _ = fs::remove_file(&checkpoint);
            scene.base.write(&checkpoint);
            let digests = Reader::of_digests(checkpoint.clone(), scene.digests());
            let both = [scene.base.clone(), scene.target.clone()];
            // Who reads the head and then the rest of a file that is overwritten may see a mixture.
            let bytes =
                (way == "--in-place=redo").then(|| Reader::of_bytes(checkpoint.clone(), both));
            let done = scene.kill_or_retry(&args, takes, 1000 + number);
            seen[0] += digests.stop();
            seen[1] += bytes.map_or(0, Reader::stop);
            let head = u64::from_le_bytes(fs::read(&checkpoint).unwrap()[..8].try_into().unwrap());
            marked += u64::from(head > 100_000_000);
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
        println!(
            "{kills} kills of apply {way}: {bases} bases, {targets} targets; {marked} marked; read {seen:?} times"
        );
        assert!(bases > 0 && targets > 0, "no process was killed while it changed the checkpoint");
    }
}

/// Whether this process ignores a signal, and so the programs that it starts.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
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
        // Started in the background, a shell script and all that it starts ignore INT.
        if number != 15 && is_ignored(number) {
            continue;
        }
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
