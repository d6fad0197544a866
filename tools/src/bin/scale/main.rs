//! The program on checkpoints of some size: time, memory, and how both grow.
//!
//! `cargo run --release -p pulse-tools --bin scale [-- --gib 0.25,1,4 --dir DIR]`
//!
//! Every command runs as a process of its own, as users run it, several times. Beside it, in each
//! round, run what nothing could beat: hashing the target with one-thread SHA-256, by this library's
//! crate and by Python's hashlib, and copying it. Ratios are medians over rounds; they carry over to other machines, seconds do not.

mod chain;
mod in_memory;
mod measure;
mod pair;
mod table;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use clap::Parser;
use pulse_cli::text;

use measure::Floor;
use pair::{Layout, Pair};
use table::Table;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measure `pulse` on checkpoints of some size.
#[derive(Parser)]
struct Options {
    /// Sizes of one checkpoint.
    #[arg(long, value_name = "GIB", value_delimiter = ',', default_value = "0.25,1")]
    gib: Vec<f64>,
    /// Where the checkpoints go, three at a time [default: /dev/shm, or a temporary directory if there is none]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Optimizer steps from each checkpoint to the next: 1 changes about 0.5% of the elements, 8 change 3%.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8")]
    steps: Vec<u32>,
    /// Rounds after the first, which counts apart.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Leave out the receiver that is behind by several versions.
    #[arg(long)]
    no_chain: bool,
    /// Leave out the case of many small tensors.
    #[arg(long)]
    no_many: bool,
}

/// Bytes of a tensor where size is the question, and where the number of tensors is.
const LARGE: usize = 8 << 20;
const SMALL: Layout = Layout { tensors: 40_000, tensor_bytes: 16 << 10, steps: 8 };

/// What every command is held against, and the threads that it takes.
const FLOORS: [(&str, &str); 7] = [
    ("sha2", "1"),
    ("copy", "1"),
    ("hashlib", "1"),
    ("copy in pieces", "2"),
    ("floor of diff", "2"),
    ("floor of diff --base-patch", "2"),
    ("floor of apply", "2"),
];

/// A checkpoint pair, the program, and what it may be asked to do.
struct Case<'a> {
    pair: Pair,
    program: &'a Path,
    label: String,
    rounds: usize,
    /// `pulse diff` can be told what made the base.
    base_patch: bool,
}

/// What the program is asked to do.
struct Command {
    name: &'static str,
    arguments: Vec<OsString>,
    /// The file that it leaves, which must not be there before.
    leaves: Option<PathBuf>,
    /// That file is a copy of the base at first.
    in_place: bool,
}

impl Case<'_> {
    fn commands(&self) -> Vec<Command> {
        let [base, target, out] = ["base", "target", "out"].map(|name| self.pair.path(name));
        let [patch, again, before] = ["step", "again", "before"].map(|name| self.pair.patch(name));
        let command = |name, leaves: Option<&Path>, arguments: &[&dyn AsRef<OsStr>]| Command {
            name,
            arguments: arguments.iter().map(|argument| argument.as_ref().into()).collect(),
            leaves: leaves.map(PathBuf::from),
            in_place: false,
        };
        let mut commands =
            vec![command("diff", Some(&patch), &[&"diff", &base, &target, &"-o", &patch])];
        if self.base_patch {
            let arguments: [&dyn AsRef<OsStr>; 7] =
                [&"diff", &base, &target, &"-o", &again, &"--base-patch", &before];
            commands.push(command("diff --base-patch", Some(&again), &arguments));
        }
        commands.push(command("apply", Some(&out), &[&"apply", &base, &patch, &"-o", &out]));
        let in_place =
            command("apply --in-place", Some(&out), &[&"apply", &out, &patch, &"--in-place"]);
        commands.push(Command { in_place: true, ..in_place });
        let verify: [&dyn AsRef<OsStr>; 6] =
            [&"verify", &patch, &"--base", &base, &"--target", &target];
        commands.push(command("verify", None, &verify));
        commands
    }

    /// The patch that made the base. What it was made of is needed no more.
    fn prepare(&self) -> Result<()> {
        let before = self.pair.path("before");
        if self.base_patch {
            let files = [before.clone(), self.pair.path("base")].map(PathBuf::into_os_string);
            let patch = self.pair.patch("before").into_os_string();
            let arguments = [vec!["diff".into()], files.into(), vec!["-o".into(), patch]].concat();
            measure::program(self.program, &arguments)?;
        }
        Ok(pair::remove(&before)?)
    }

    fn run(&self, table: &mut Table) -> Result<()> {
        self.prepare()?;
        let [base, target, copied] = ["base", "target", "out"].map(|name| self.pair.path(name));
        let commands = self.commands();
        let mut runs = vec![Vec::new(); FLOORS.len() + 2 * commands.len()];
        for _ in 0..=self.rounds {
            runs[0].push(measure::sha(&target)?);
            // Whoever writes a file pays for its memory, so that it must be new each time.
            runs[1].push(measure::copy(&target, &copied)?);
            pair::remove(&copied)?;
            runs[2].push(measure::hashlib(&target)?);
            runs[3].push(Floor { read: &[(&target, false)], write: Some(&copied) }.run()?);
            pair::remove(&copied)?;
            runs[4].push(Floor { read: &[(&base, true), (&target, true)], write: None }.run()?);
            runs[5].push(Floor { read: &[(&base, false), (&target, true)], write: None }.run()?);
            runs[6].push(Floor { read: &[(&target, true)], write: Some(&copied) }.run()?);
            pair::remove(&copied)?;
            let mut next = FLOORS.len();
            for command in &commands {
                for threads in ["1", "2"] {
                    command.leaves.iter().try_for_each(|file| pair::remove(file))?;
                    if let Some(file) = command.leaves.as_ref().filter(|_| command.in_place) {
                        measure::copy(&self.pair.path("base"), file)?;
                    }
                    let threads = ["--quiet", "--threads", threads].map(OsString::from);
                    let arguments = [&command.arguments[..], &threads].concat();
                    runs[next].push(measure::program(self.program, &arguments)?);
                    next += 1;
                }
            }
            // The copy of the next round needs the room.
            pair::remove(&copied)?;
        }
        let names = commands.iter().flat_map(|command| [(command.name, "1"), (command.name, "2")]);
        for ((name, threads), these) in FLOORS.into_iter().chain(names).zip(&runs) {
            table.add(
                &self.label,
                name,
                threads,
                self.pair.layout.bytes(),
                these,
                [&runs[0], &runs[1], &runs[2]],
            );
        }
        Ok(())
    }

    /// The same in memory, beside what the field does.
    fn run_in_memory(&self, table: &mut Table) -> Result<()> {
        let target = self.pair.path("target");
        let mut beside = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..=self.rounds {
            beside[0].push(measure::sha(&target)?);
            beside[1].push(measure::copy(&target, &self.pair.path("out"))?);
            beside[2].push(measure::hashlib(&target)?);
        }
        let (rows, note) = in_memory::run(&self.pair, self.rounds)?;
        let label = format!("{}, in memory", self.label);
        for (name, runs) in &rows {
            let beside = beside.each_ref().map(Vec::as_slice);
            table.add(&label, name, "2", self.pair.layout.bytes(), runs, beside);
        }
        table.notes.push(note);
        Ok(())
    }

    /// What the patch is, from `pulse inspect`.
    fn describe(&self) -> Result<String> {
        let patch = self.pair.patch("step").into_os_string();
        let map = measure::json(self.program, &["inspect".into(), patch, "--json".into()])?;
        Ok(table::describe(&self.label, &map))
    }
}

/// Bytes that are free for files in a directory.
fn free(dir: &Path) -> Option<u64> {
    let output = process::Command::new("df").arg("-Pk").arg(dir).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kib = text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()?;
    // What a memory-backed directory promises may be more than there is.
    let memory =
        std::fs::read_to_string("/proc/meminfo").ok().filter(|_| dir.starts_with("/dev/shm"));
    let available = memory.and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?
            .trim()
            .strip_suffix(" kB")?;
        line.parse::<u64>().ok()
    });
    Some(1024 * available.map_or(kib, |available| available.min(kib)))
}

/// Measures a layout if there is room for it.
fn case(
    options: &Options,
    program: &Path,
    dir: &Path,
    label: String,
    layout: Layout,
    in_memory: bool,
    table: &mut Table,
) -> Result<()> {
    // Three checkpoints at a time, in memory as well, patches, and the memory of the program.
    let copies = if in_memory { 6 } else { 3 };
    let needed = copies * layout.bytes() + layout.bytes() / 4 + (512 << 20);
    if let Some(free) = free(dir).filter(|&free| free < needed) {
        let [needed, free] = [needed, free].map(text::bytes);
        text::note(&format!(
            "{label} is left out: it needs {needed}, and {} has {free}",
            dir.display()
        ));
        return Ok(());
    }
    text::note(&format!(
        "{label}: making checkpoints {} optimizer steps apart in {}",
        layout.steps,
        dir.display()
    ));
    let help = process::Command::new(program).args(["diff", "--help"]).output()?;
    let base_patch = String::from_utf8_lossy(&help.stdout).contains("--base-patch");
    let pair = Pair::create(dir, layout)?;
    let case = Case { pair, program, label, rounds: options.rounds, base_patch };
    case.run(table)?;
    table.notes.push(case.describe()?);
    if in_memory {
        case.run_in_memory(table)?;
    }
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let beside = std::env::current_exe()?;
    let beside = beside.parent().ok_or("this program is in no directory")?;
    let program = beside.join("pulse").with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        return Err(
            format!("{} is missing: run `cargo build --release` first", program.display()).into()
        );
    }
    let shm = PathBuf::from("/dev/shm");
    let dir = options.dir.clone().unwrap_or(if shm.is_dir() { shm } else { std::env::temp_dir() });
    let mut table = Table::default();
    for gib in &options.gib {
        for &steps in &options.steps {
            let tensors = (gib * 128.0).ceil() as usize;
            let layout = Layout { tensors, tensor_bytes: LARGE, steps };
            let plural = if steps == 1 { "" } else { "s" };
            let label = format!("{gib} GiB, {steps} step{plural}");
            case(options, &program, &dir, label, layout, true, &mut table)?;
        }
    }
    if !options.no_chain {
        let layout = Layout { tensors: 32, tensor_bytes: LARGE, steps: 1 };
        text::note(
            "a chain: making checkpoints of 0.25 GiB, each one optimizer step after the other",
        );
        let rows = chain::run(&program, &dir, layout, options.rounds)?;
        table.chain(&rows);
    }
    if !options.no_many {
        let one = Layout { tensors: 1, tensor_bytes: SMALL.bytes() as usize, ..SMALL };
        let labels =
            ["1 tensor".to_string(), format!("{} tensors", text::count(SMALL.tensors as u64))];
        for (label, layout) in labels.iter().zip([one, SMALL]) {
            case(options, &program, &dir, label.clone(), layout, false, &mut table)?;
        }
        table.compare(&labels[1], &labels[0]);
    }
    text::print(&table.text())?;
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            text::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
