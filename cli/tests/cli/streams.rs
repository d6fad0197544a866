//! Standard output and standard error: quiet, without colour in pipes, and gone.

use std::io::pipe;
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
    &["demo", "--megabytes", "1", "--steps", "1"],
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
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = command(&place, env!("CARGO_BIN_EXE_pulse"), args);
        let run = Run::new(command.stdout(full).stderr(Stdio::piped()).output().unwrap());
        assert_eq!(run.code, Some(1), "{args:?}");
        assert!(run.err.contains("standard output"), "{args:?}: {}", run.err);
    }
}
