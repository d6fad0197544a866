//! The `pulse` program.

fn main() -> std::process::ExitCode {
    pulse_cli::main(std::env::args_os())
}
