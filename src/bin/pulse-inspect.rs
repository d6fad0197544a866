//! `pulse-inspect PATCH` is `pulse inspect PATCH`.
#![forbid(unsafe_code)]

#[path = "pulse/app/mod.rs"]
mod app;

fn main() -> std::process::ExitCode {
    app::main(["pulse".into(), "inspect".into()].into_iter().chain(std::env::args_os().skip(1)))
}
