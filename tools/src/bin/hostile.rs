//! What forged patches cost the program: for each command and each patch of `testkit::hostile`, time and
//! output for each byte of the patch, and peak memory. The patches are small and ask for much; a row
//! that stands out is a command that follows what a patch declares instead of its bytes.
//!
//! `cargo build --release && cargo run -p pulse-tools --bin hostile [-- PROGRAM [SECONDS]]`
//!
//! PROGRAM is another build of `pulse` to compare with; it is stopped after SECONDS of processor time, 30
//! unless given.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pulse_cli::text;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// What a command did.
struct Cost {
    /// `None` if it was stopped.
    status: Option<ExitStatus>,
    seconds: f64,
    /// Largest resident memory, where the system tells.
    peak: u64,
    /// Bytes that it printed or wrote.
    output: u64,
}

/// Peak resident bytes of a process so far, and the processor time that it took.
fn so_far(pid: u32) -> Option<(u64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let peak = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything, user and system time are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = |at| fields.split(' ').nth(at)?.parse::<f64>().ok();
    Some((peak, (ticks(11)? + ticks(12)?) / 100.0))
}

fn size(path: &Path) -> u64 {
    let Ok(metadata) = fs::metadata(path) else { return 0 };
    if metadata.is_file() {
        return metadata.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}

fn run(program: &Path, arguments: &[&str], dir: &Path, limit: Duration) -> Result<Cost> {
    let printed = dir.join("printed");
    let out = dir.join("out");
    let errors = dir.join("errors");
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(File::create(&printed)?)
        .stderr(File::create(&errors)?)
        .spawn()?;
    let (mut peak, mut seconds) = (0, 0.0);
    let status = loop {
        if let Some((memory, time)) = so_far(child.id()) {
            (peak, seconds) = (memory, time);
        }
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        // The processor may be busy with others.
        if seconds > limit.as_secs_f64() || started.elapsed() > 20 * limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let output = [&printed, &errors, &out].into_iter().map(|path| size(path)).sum();
    for path in [&printed, &errors, &out] {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    }
    // A command that is over at once leaves no time to look at it.
    let seconds = if seconds == 0.0 { started.elapsed().as_secs_f64().min(0.01) } else { seconds };
    Ok(Cost { status, seconds, peak, output })
}

/// The commands that read a patch; `target` is a checkpoint that no patch here is of.
const COMMANDS: [&[&str]; 10] = [
    &["inspect", "patch"],
    &["inspect", "patch", "--tensors"],
    &["inspect", "patch", "--files", "--bytes"],
    &["inspect", "patch", "--json"],
    &["inspect", "patch", "--quiet", "--html", "out"],
    &["verify", "patch"],
    &["verify", "patch", "--base", "target"],
    &["apply", "target", "patch", "-o", "out"],
    &["compose", "patch", "-o", "out"],
    &["revert", "target", "patch", "-o", "out"],
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let given = arguments.next().map(PathBuf::from);
    let limit = Duration::from_secs(arguments.next().map_or(Ok(30), |text| text.parse())?);
    let program = given.map_or_else(
        || -> Result<PathBuf> {
            let here = std::env::current_exe()?;
            let target = here.parent().and_then(Path::parent).ok_or("in no directory")?;
            Ok(target.join("release").join("pulse").with_extension(std::env::consts::EXE_EXTENSION))
        },
        |path| Ok(path.canonicalize()?),
    )?;
    let dir = tempfile::tempdir()?;
    let json = br#"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let checkpoint = [&(json.len() as u64).to_le_bytes()[..], json, b"abcd"].concat();
    fs::write(dir.path().join("target"), checkpoint)?;

    println!("| command | patch | bytes | exit | CPU s | ns/byte | peak MiB | output bytes | output/byte |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    let patches = testkit::hostile::gallery();
    for command in COMMANDS {
        for (name, patch) in &patches {
            fs::write(dir.path().join("patch"), patch)?;
            let Cost { status, seconds, peak, output } = run(&program, command, dir.path(), limit)?;
            let bytes = patch.len() as f64;
            let code =
                status.map(|status| status.code().map_or("signal".into(), |code| code.to_string()));
            println!(
                "| `{}` | {name} | {} | {} | {seconds:.2} | {:.0} | {:.0} | {} | {:.1} |",
                command.join(" "),
                text::count(patch.len() as u64),
                code.unwrap_or_else(|| "stopped".into()),
                1e9 * seconds / bytes,
                peak as f64 / f64::from(1 << 20),
                text::count(output),
                output as f64 / bytes,
            );
        }
    }
    Ok(())
}
