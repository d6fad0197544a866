//! Standard output and standard error: quiet, without colour in pipes, and gone.

use std::fs;
use std::io::{pipe, Write};
use std::process::Stdio;

use crate::{command, pulse, scene, Run};
use testkit::files::{tensor, Files, Place};

/// Every command with arguments that work in the [`scene`].
const COMMANDS: [&[&str]; 7] = [
    &["diff", "base.safetensors", "target.safetensors", "--force", "-o", "new.pulse"],
    &["apply", "base.safetensors", "41.pulse", "--force", "-o", "out"],
    &["verify", "41.pulse", "--base", "base.safetensors"],
    &["inspect", "41.pulse"],
    &["digest", "base.safetensors"],
    &["stat", "base.safetensors", "target.safetensors"],
    &["demo", "--megabytes", "1", "--steps", "1", "--no-live"],
];

#[test]
fn quiet_commands_print_nothing_but_errors() {
    let place = scene();
    for args in COMMANDS {
        assert_eq!(pulse(&place, &[args, &["--quiet"]].concat()).done(), "", "{args:?}");
        assert_eq!(pulse(&place, &[&["-q"], args].concat()).done(), "", "{args:?}");
    }
    pulse(&place, &["verify", "base.safetensors", "--quiet"]).failed(&["not a .pulse file"]);
    pulse(&place, &["inspect", "base.safetensors", "--quiet"]).failed(&["not a .pulse file"]);
}

#[test]
fn nothing_in_a_pipe_is_made_for_a_terminal() {
    let place = scene();
    for args in COMMANDS {
        let run = pulse(&place, args);
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!run.out.contains(control) && !run.err.contains(control), "{args:?}: {run:?}");
        assert!(run.out.ends_with('\n') && !run.out.ends_with("\n\n"), "{args:?}: {:?}", run.out);
        assert!(run.out.lines().all(|line| line == line.trim_end()), "{args:?}: {}", run.out);
    }
}

/// Runs a command with these bytes as its standard input.
fn fed(place: &Place, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = command(place, env!("CARGO_BIN_EXE_pulse"), args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn patches_are_written_to_standard_output() {
    let place = scene();
    let diff = ["diff", "base.safetensors", "target.safetensors", "-o"];
    let compose = ["compose", "41.pulse", "--base", "base.safetensors", "-o"];
    for args in [&diff[..], &compose] {
        let told = pulse(&place, &[args, &["file", "--force"]].concat()).done();
        let expected = fs::read(place.path("file")).unwrap();
        let (code, out, err) = fed(&place, &[args, &["-"]].concat(), b"");
        assert_eq!((code, out == expected), (Some(0), true), "{err}");
        // People are told as ever, beside the patch.
        assert_eq!(err.lines().count(), told.lines().count(), "{err}");
        let (code, out, err) = fed(&place, &[args, &["-", "-q"]].concat(), b"");
        assert_eq!((code, out == expected, err.as_str()), (Some(0), true, ""));
        pulse(&place, &[args, &["-", "--json"]].concat()).failure(2);
    }
    assert!(!place.path("-").exists());
}

#[cfg(unix)]
#[test]
fn a_patch_is_read_from_standard_input() {
    let place = scene();
    let patch = fs::read(place.path("41.pulse")).unwrap();
    let flat = ["diff", "base.safetensors", "target.safetensors", "--values", "xor", "-o", "flat"];
    pulse(&place, &flat).done();
    let flat = fs::read(place.path("flat")).unwrap();
    let [base, target] = ["base.safetensors", "target.safetensors"];
    for (args, input, made) in [
        (&["apply", base, "-", "-o", "out"][..], &patch, Some(target)),
        (&["revert", target, "-", "-o", "out"], &flat, Some(base)),
        (&["compose", "-", "--base", base, "-o", "out"], &patch, Some("41.pulse")),
        (&["verify", "-", "--base", base, "--target", target], &patch, None),
        (&["inspect", "-"], &patch, None),
    ] {
        let (code, _, err) = fed(&place, args, input);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
        if let Some(made) = made {
            assert!(fs::read(place.path("out")).unwrap() == fs::read(place.path(made)).unwrap());
            fs::remove_file(place.path("out")).unwrap();
        }
        // What is damaged, cut or no patch at all is refused as it is in a file.
        for (input, says) in [
            (&input[..input.len() - 1], "standard input: at byte "),
            (&[][..], "standard input: it is an empty file, not a .pulse file"),
            (b"<html><title>Sign in</title>", "standard input: it is an HTML page"),
        ] {
            let (code, _, err) = place.untouched(|| fed(&place, args, input));
            assert!(code == Some(1) && err.starts_with("error: ") && err.contains(says), "{err}");
            assert!(!err.contains("/dev/fd"), "{err}");
            let (_, _, err) = fed(&place, &[args, &["--json"]].concat(), input);
            let failure: serde_json::Value = serde_json::from_str(&err).unwrap();
            assert_eq!(failure["file"], "standard input");
        }
    }
    // From a pipe into a pipe, and in place.
    let (code, out, _) = fed(&place, &["compose", "-", "-o", "-", "-q"], &flat);
    assert_eq!((code, out == flat), (Some(0), true));
    let (code, _, err) = fed(&place, &["apply", base, "-", "--in-place"], &patch);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(fs::read(place.path(base)).unwrap() == fs::read(place.path(target)).unwrap());
}

#[test]
fn what_cannot_be_a_stream_says_why() {
    let place = scene();
    for args in [
        &["apply", "base.safetensors", "41.pulse", "-o", "-"][..],
        &["apply", "-", "41.pulse", "-o", "out"],
        &["apply", "-", "41.pulse", "--in-place"],
        &["revert", "target.safetensors", "41.pulse", "-o", "-"],
        &["revert", "-", "41.pulse", "-o", "out"],
        &["diff", "-", "target.safetensors", "-o", "out"],
        &["diff", "base.safetensors", "-", "-o", "out"],
        &["verify", "41.pulse", "--base", "-"],
        &["digest", "-"],
        &["stat", "-", "target.safetensors"],
        &["inspect", "41.pulse", "--html", "-"],
        &["stat", "base.safetensors", "target.safetensors", "--html", "-"],
        &["recover", "-"],
    ] {
        place.untouched(|| pulse(&place, args).misused(&["cannot be `-`"]));
    }
    let patch = fs::read(place.path("41.pulse")).unwrap();
    let (code, _, err) = fed(&place, &["compose", "-", "-", "-o", "out"], &patch);
    assert_eq!(code, Some(2));
    // Elsewhere a file cannot be kept without a name.
    assert!(err.contains("standard input is read once") || cfg!(not(unix)), "{err}");
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    // A hostile name that clears the screen, or adds a line that looks like another's.
    let place = Place::new();
    let name = "\u{1b}[2Jw\nintegrity  right\r\u{9b}31m";
    place.put("model", &Files::one(&[tensor(name, "U8", &[1], *b"x")]));
    let meta = format!("{name}={name}");
    pulse(&place, &["diff", "--snapshot", "model", "--meta", &meta, "-o", "patch"]).done();
    for args in [&["inspect", "patch"][..], &["stat", "model", "model"]] {
        let run = pulse(&place, args);
        assert!(!run.out.contains(|c: char| c.is_control() && c != '\n'), "{:?}", run.out);
        assert!(
            run.out.lines().filter(|line| line.starts_with("integrity")).count() <= 1,
            "{}",
            run.out
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let place = scene();
    for args in COMMANDS.into_iter().chain([&["--help"][..], &["diff", "--help"]]) {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), args);
        let run = Run::new(command.stdout(writer).stderr(Stdio::piped()).output().unwrap());
        assert_eq!(run.code, Some(0), "{args:?}: {}", run.err);
        assert!(!run.err.contains("panicked"), "{args:?}: {}", run.err);
    }
}

#[test]
fn an_error_that_nobody_hears_still_ends_with_one() {
    let place = scene();
    for (args, code) in
        [(&["verify", "nowhere"][..], 1), (&["inspect", "base.safetensors"], 1), (&["verify"], 2)]
    {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), args);
        assert_eq!(
            command.stdout(Stdio::null()).stderr(writer).status().unwrap().code(),
            Some(code),
            "{args:?}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let place = scene();
    for args in COMMANDS {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), args);
        let run = Run::new(command.stdout(full).stderr(Stdio::piped()).output().unwrap());
        assert_eq!(run.code, Some(1), "{args:?}");
        assert!(run.err.contains("standard output"), "{args:?}: {}", run.err);
    }
}

/// A patch that comes through standard input is an input as well, under whatever name it has.
#[cfg(unix)]
#[test]
fn the_file_that_is_standard_input_is_not_replaced() {
    let place = scene();
    let before = fs::read(place.path("41.pulse")).unwrap();
    for args in [
        &["apply", "base.safetensors", "-", "-o", "41.pulse", "--force"][..],
        &["revert", "target.safetensors", "-", "-o", "41.pulse", "--force"],
        &["compose", "-", "-o", "41.pulse", "--force"],
        &["inspect", "-", "--html", "41.pulse", "--force"],
    ] {
        let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), args);
        let output =
            command.stdin(fs::File::open(place.path("41.pulse")).unwrap()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && said.contains("is an input"),
            "{args:?}: {said}"
        );
        assert!(fs::read(place.path("41.pulse")).unwrap() == before, "{args:?}");
    }
}

/// A pipe that nobody reads may hold a process for ever: one signal ends it.
#[cfg(unix)]
#[test]
fn one_signal_ends_a_command_that_waits_for_a_reader() {
    let place = scene();
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let args = ["diff", "base.safetensors", "target.safetensors", "-o", "pipe"];
    let mut child = command(&place, env!("CARGO_BIN_EXE_pulse"), &args).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let begin = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed().as_secs() > 20 {
            child.kill().unwrap();
            panic!("it goes on");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[cfg(unix)]
#[test]
fn an_empty_directory_is_a_place_from_within_too() {
    let place = scene();
    let tensors = [tensor("w", "U8", &[3], *b"abc")];
    let files = [("model.safetensors", testkit::files::safetensors(&tensors))];
    place.put("model", &Files::many(files.clone()));
    pulse(&place, &["diff", "--snapshot", "model", "-o", "snapshot"]).done();
    fs::create_dir(place.path("empty")).unwrap();
    let line =
        format!("cd empty && exec {} apply ../snapshot -o . -q", env!("CARGO_BIN_EXE_pulse"));
    let mut shell = std::process::Command::new("sh");
    let output = shell.current_dir(place.root()).args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Files::read(&place.path("empty")).assert_same(&Files::many(files));
}
