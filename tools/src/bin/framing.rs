//! What three cuts of the framing would save, in bytes of real patches: `framing BASE TARGET …`, or
//! `framing --tensors COUNT` for so many tensors of 16 KiB under Adam.
//!
//! The format has none of them. A base digest for each tensor lets a wrong base be told at once, and
//! a patch be reverted without any checkpoint; names in the index let one tensor be found with two
//! reads; one kind of section for tensors with one block would be one more for every reader.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::wire::Action;
use pulse::{Checkpoint, Decoder, Event, Limits};
use pulse_cli::text;
use pulse_tools::{adam, safetensors};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tag and CRC of a section.
const SECTION_BYTES: u64 = 1 + 4;
const DIGEST_BYTES: u64 = 32;

/// Bytes that each cut would save.
#[derive(Default)]
struct Cuts {
    tensors: u64,
    base_digests: u64,
    index_names: u64,
    single_blocks: u64,
}

fn varint_bytes(value: u64) -> u64 {
    u64::from((64 - value.leading_zeros()).div_ceil(7).max(1))
}

fn shared(before: &str, name: &str) -> u64 {
    before.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count() as u64
}

/// Reads the patch, and counts what goes with each cut.
fn cuts(patch: &[u8]) -> Result<Cuts> {
    let mut decoder = Decoder::new(patch, Limits::default());
    let mut cuts = Cuts::default();
    let (mut name, mut blocks) = (String::new(), Vec::new());
    let mut action = Action::Patched;
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Tensor(header) => {
                let same = shared(&name, &header.name);
                let rest = header.name.len() as u64 - same;
                cuts.tensors += 1;
                cuts.index_names += varint_bytes(same) + varint_bytes(rest) + rest;
                name = header.name.to_string();
                action = header.action;
                blocks.clear();
            }
            Event::Block(block) => blocks.push((block.payload_bytes(), block.changes())),
            Event::TensorEnd(trailer) => {
                if action == Action::Patched {
                    cuts.base_digests += DIGEST_BYTES;
                }
                if let [(bytes, changes)] = blocks[..] {
                    // Two heads less, and the number of changes stands once.
                    let digests = [trailer.base, trailer.target];
                    let end = DIGEST_BYTES * digests.iter().flatten().count() as u64;
                    cuts.single_blocks += 2 * SECTION_BYTES
                        + varint_bytes(bytes)
                        + varint_bytes(end)
                        + varint_bytes(changes);
                }
            }
            _ => {}
        }
    }
    Ok(cuts)
}

fn row(name: String, base: &Path, target: &Path) -> Result<Vec<String>> {
    let (base, target) = (Checkpoint::open(base)?, Checkpoint::open(target)?);
    let mut patch = Vec::new();
    let options = EncoderOptions::default().into();
    pulse::checkpoint::diff(Some(&base), &target, &mut patch, options, Control::default())?;
    let (cuts, bytes) = (cuts(&patch)?, patch.len() as u64);
    let cut = |saved| format!("{} ({})", text::count(saved), text::percent(saved, bytes));
    Ok(vec![
        name,
        text::count(cuts.tensors),
        text::count(bytes),
        cut(cuts.base_digests),
        cut(cuts.index_names),
        cut(cuts.single_blocks),
    ])
}

/// Writes checkpoints of tensors of 16 KiB, before a step and after it.
fn save(paths: &[PathBuf; 2], tensors: usize) -> io::Result<()> {
    const ELEMENTS: usize = 8192;
    let mut files = Vec::new();
    for path in paths {
        let mut file = io::BufWriter::new(fs::File::create(path)?);
        file.write_all(&safetensors::header(tensors, 2 * ELEMENTS))?;
        files.push(file);
    }
    for i in 0..tensors {
        let weights = adam::weights(i as u64, ELEMENTS, [0, 1]);
        for (file, weights) in files.iter_mut().zip(weights) {
            file.write_all(&weights)?;
        }
    }
    files.iter_mut().try_for_each(Write::flush)
}

fn run(arguments: &[String]) -> Result<()> {
    let mut rows = Vec::new();
    if let [option, tensors] = arguments {
        if option == "--tensors" {
            let directory = tempfile::tempdir()?;
            let paths =
                [0, 1].map(|step| directory.path().join(format!("step-{step}.safetensors")));
            save(&paths, tensors.parse()?)?;
            rows.push(row(format!("{tensors} small tensors"), &paths[0], &paths[1])?);
        }
    }
    if rows.is_empty() {
        for pair in arguments.chunks(2) {
            let [base, target] = pair else { return Err("give bases and targets in pairs".into()) };
            let name = PathBuf::from(target).file_stem().unwrap_or_default().to_os_string();
            rows.push(row(name.to_string_lossy().into(), Path::new(base), Path::new(target))?);
        }
    }
    let head = [
        "pair",
        "tensors in patch",
        "bytes",
        "no base digests",
        "no names in the index",
        "one section for one block",
    ];
    text::print(&text::table(&head, &rows))?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            text::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
