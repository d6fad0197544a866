//! Sizes and speeds of patches in this format and in other published layouts, on the same pair.
//!
//! `cargo run --release -p pulse-tools --bin compare -- BASE TARGET`, or `-- --simulate MB` to make a pair.
//!
//! Everything runs on one thread, from memory to memory. Times are medians over a few rounds, and so
//! are their ratios to SHA-256 over the same bytes, measured next to them: ratios carry over to other
//! machines better than seconds do. Every decoding is compared with the target bit for bit.

mod bound;
mod elements;
mod gaps;
mod grail;
mod measure;
mod ours;
mod pair;
mod peers;

use std::path::Path;
use std::process::ExitCode;

use pulse::coding::{EncodedBlock, ValueForm};
use pulse::stream::EncoderOptions;

use ours::Rows;
use pair::Pair;
use pulse_cli::simulation::Simulation;
use pulse_cli::text;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Why a layout cannot hold a pair.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(String);

/// zstd level of all layouts: those that others have published use this one.
const LEVEL: i32 = 1;

/// What is sent. Pieces are counted without the framing that would hold them together.
#[derive(Default)]
struct Message {
    /// Frames, blobs or files.
    pieces: Vec<Vec<u8>>,
    /// Blocks of this crate; none where nothing changed.
    blocks: Vec<Option<EncodedBlock>>,
}

impl Message {
    fn bytes(&self) -> u64 {
        let blocks = self.blocks.iter().flatten().map(|block| block.payload.len());
        self.pieces.iter().map(Vec::len).chain(blocks).sum::<usize>() as u64
    }
}

/// A way to send changes.
struct Layout {
    name: &'static str,
    encode: fn(&Pair) -> Result<Message>,
    /// Makes target bytes of base bytes, in place.
    decode: fn(&Pair, &Message, &mut [u8]) -> Result<()>,
    /// What to know before comparing.
    note: &'static str,
}

const WHOLE_FILE: &str =
    "with files read from the page cache, framing, and digests of both checkpoints on either side; \
     the other rows have none of these";

const LAYOUTS: [Layout; 14] = [
    Layout {
        name: "contextual",
        encode: |pair| ours::encode_blocks(pair, &EncoderOptions::default(), Rows::Unknown),
        decode: decode_blocks,
        note: "",
    },
    Layout {
        name: "contextual, signs predicted",
        encode: |pair| ours::encode_blocks(pair, &EncoderOptions::default(), Rows::Known),
        decode: |pair, message, weights| ours::decode_blocks(pair, message, weights, Rows::Known),
        note: "",
    },
    Layout {
        name: "flat, step",
        encode: |pair| ours::encode_blocks(pair, &ours::flat(ValueForm::UlpStep), Rows::Unknown),
        decode: decode_blocks,
        note: "",
    },
    Layout {
        name: "flat, xor",
        encode: |pair| ours::encode_blocks(pair, &ours::flat(ValueForm::Xor), Rows::Unknown),
        decode: decode_blocks,
        note: "",
    },
    Layout {
        name: "flat, overwrite",
        encode: |pair| ours::encode_blocks(pair, &ours::flat(ValueForm::Overwrite), Rows::Unknown),
        decode: decode_blocks,
        note: "",
    },
    Layout {
        name: ".pulse file, contextual",
        encode: |pair| ours::encode_file(pair, EncoderOptions::default()),
        decode: ours::decode_file,
        note: WHOLE_FILE,
    },
    Layout {
        name: ".pulse file, flat",
        encode: |pair| ours::encode_file(pair, ours::flat(ValueForm::UlpStep)),
        decode: ours::decode_file,
        note: WHOLE_FILE,
    },
    Layout { name: "u16 gaps + XOR, zstd (NeMo RL)", encode: gaps::encode, decode: gaps::decode, note: "" },
    Layout {
        name: "dense XOR, zstd (slime, SkyRL)",
        encode: peers::encode_dense,
        decode: peers::decode_dense,
        note: "",
    },
    Layout {
        name: "grail v3.1",
        encode: grail::encode,
        decode: grail::decode,
        note: "lossy in principle: as published it compares floats as numbers and knows BF16, F16 and F32 only; \
               not so here",
    },
    Layout {
        name: "sparse safetensors (TRL)",
        encode: peers::encode_sparse,
        decode: peers::decode_sparse,
        note: "lossy in principle: as published it finds changes by the low byte of BF16 elements only; \
               not so here",
    },
    Layout {
        name: "anchor: whole blocks",
        encode: ours::encode_whole,
        decode: decode_blocks,
        note: "needs no base",
    },
    Layout {
        name: "anchor: byte planes, zstd (ZipNN)",
        encode: peers::encode_planes,
        decode: peers::decode_planes,
        note: "needs no base",
    },
    Layout { name: "zstd --patch-from", encode: peers::encode_delta, decode: peers::decode_delta, note: "" },
];

fn decode_blocks(pair: &Pair, message: &Message, weights: &mut [u8]) -> Result<()> {
    ours::decode_blocks(pair, message, weights, Rows::Unknown)
}

fn compare(pair: &Pair) -> Result<()> {
    let full = pair.target_files.file_bytes();
    let elements: u64 = pair.tensors.iter().map(|tensor| tensor.spec.elements()).sum();
    let [sha, speed] = measure::sha(pair);
    text::print(&text::facts(&[
        ("full", format!("{} bytes in {} tensors", text::count(full), pair.tensors.len())),
        (
            "changes",
            format!(
                "{} ({} of the elements)",
                text::count(pair.changes),
                text::percent(pair.changes, elements)
            ),
        ),
        ("SHA-256", format!("{sha}, {speed}/s")),
    ]))?;

    let row = |name: String, bytes: u64, times: [String; 4]| {
        let bits = 8.0 * text::ratio(bytes, pair.changes);
        let size = [
            name,
            text::count(bytes),
            format!("{bits:.2}"),
            format!("{:.1}x", text::ratio(full, bytes)),
        ];
        [size, times].concat()
    };
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for layout in &LAYOUTS {
        let measured = match measure::measure(pair, layout) {
            Err(error) if error.is::<Unfit>() => {
                text::note(&format!("{} is left out: {error}", layout.name));
                continue;
            }
            measured => measured?,
        };
        let mut name = layout.name.to_string();
        if !layout.note.is_empty() {
            if notes.last() != Some(&layout.note) {
                notes.push(layout.note);
            }
            name += &format!(" [{}]", notes.len());
        }
        rows.push(row(name, measured.bytes, measured.times));
    }
    let (places, steps) = bound::bits(pair);
    let bits = places + steps;
    rows.push(row(
        "entropy of the class model".into(),
        (bits / 8.0).ceil() as u64,
        Default::default(),
    ));

    let head =
        ["layout", "bytes", "bits/change", "smaller", "encode", "/ SHA-256", "decode", "/ SHA-256"];
    let notes: String =
        notes.iter().enumerate().map(|(i, note)| format!("[{}] {note}\n", i + 1)).collect();
    let share = |bits: f64| bits / pair.changes as f64;
    text::print(&format!(
        "\n{}\n{notes}The class model needs {:.2} bits for where and {:.2} for the step, given the exponents of the base, and takes each sign for a coin.\n{}",
        text::table(&head, &rows),
        share(places),
        share(steps),
        ours::spent(pair)?
    ))?;
    Ok(())
}

/// Compares a pair that is a step apart, made by the simulation of `pulse demo`.
fn simulate(megabytes: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [base, target] =
        ["base", "target"].map(|name| dir.path().join(name).with_extension("safetensors"));
    let mut simulation = Simulation::new(megabytes * 500_000, 1e-6, 1);
    simulation.save(&base)?;
    simulation.step();
    simulation.save(&target)?;
    drop(simulation);
    compare(&Pair::open(&base, &target)?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--simulate", megabytes] => megabytes.parse().map_err(Into::into).and_then(simulate),
        [base, target] => {
            Pair::open(Path::new(base), Path::new(target)).and_then(|pair| compare(&pair))
        }
        _ => {
            text::complain("usage: compare BASE TARGET, or compare --simulate MB");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            text::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
