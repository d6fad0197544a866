//! `pulse generate`: completions and man pages, for packagers.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use pulse::checkpoint::{write_whole, Existing};
use pulse::Error;
use serde_json::json;

use super::failure::Result;
use super::{inspect, text, Cli, Common, Outcome};

/// Write shell completions or man pages into a directory.
#[derive(Debug, Args)]
#[command(hide = true)]
#[command(after_help = "Examples:
  pulse generate completions target/completions
  pulse generate man target/man")]
pub struct Generate {
    /// What to write.
    #[arg(value_enum)]
    what: What,
    /// The directory; it is made if it is not there, and files of the same names are replaced.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// For bash, elvish, fish, PowerShell and zsh.
    Completions,
    /// A page for each program and each command.
    Man,
}

/// The definitions of both programs. `pulse-inspect` has the arguments of `pulse inspect`.
fn programs() -> [clap::Command; 2] {
    let inspect = inspect::Inspect::augment_args(clap::Command::new("pulse-inspect"));
    [Cli::command(), Common::augment_args(inspect).version(env!("CARGO_PKG_VERSION"))]
}

/// File name and content of each completion script.
fn completions() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for mut program in programs() {
        let name = program.get_name().to_string();
        for &shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program, &name, &mut script);
            files.push((clap_complete::Generator::file_name(&shell, &name), script));
        }
    }
    files
}

/// File name and content of each man page: of `pulse`, and of its commands that are not hidden. The
/// page `pulse-inspect` is that of the program of this name as well.
fn man_pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
    let page = |command: &clap::Command| {
        let page = Man::new(command.clone());
        let mut text = Vec::new();
        page.render(&mut text)?;
        // What follows our help are examples; the crate has a vaguer heading for it.
        let text = String::from_utf8_lossy(&text).replace(".SH EXTRA", ".SH EXAMPLES");
        Ok((page.get_filename(), text.into_bytes()))
    };
    std::iter::once(&program).chain(commands).map(page).collect()
}

impl Generate {
    pub fn run(&self, _: &Common) -> Result<Outcome> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            |source| Error::Io { doing: "writing".into(), path: Some(path), source }
        };
        let files = match self.what {
            What::Completions => completions(),
            What::Man => man_pages().map_err(io(&self.dir))?,
        };
        std::fs::create_dir_all(&self.dir).map_err(io(&self.dir))?;
        let mut written = Vec::new();
        for (name, content) in files {
            let path = self.dir.join(name);
            write_whole(&path, Existing::Replace, &[], |file| {
                file.write_all(&content).map_err(io(&path))
            })?;
            written.push(path);
        }
        let text = written.iter().map(|path| format!("{}\n", text::path(path))).collect();
        Ok(Outcome::new(text, json!(written)))
    }
}
