//! `pulse-inspect PATCH` is `pulse inspect PATCH`.

fn main() -> std::process::ExitCode {
    let inspect = ["pulse".into(), "inspect".into()];
    pulse_cli::main(inspect.into_iter().chain(std::env::args_os().skip(1)))
}
