//! `pulse-inspect PATCH` is `pulse inspect PATCH`.
#![forbid(unsafe_code)]

#[path = "pulse/app/mod.rs"]
mod app;

fn main() -> std::process::ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    args.insert(1.min(args.len()), "inspect".into());
    app::main(args)
}
