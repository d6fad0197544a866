//! The `pulse` program.
#![forbid(unsafe_code)]

mod app;

fn main() -> std::process::ExitCode {
    app::main(std::env::args_os())
}
