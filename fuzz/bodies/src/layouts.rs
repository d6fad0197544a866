//! Directories of any files, and what of them is a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use pulse::checkpoint::{diff, ApplyOptions, DiffOptions};
use pulse::tensors::Control;
use pulse::{Checkpoint, Limits, Patch};

use super::apply::scratch;
use super::files::{index, small, snapshot, tensor_file, Contents};

#[derive(Debug, Arbitrary)]
struct Case {
    entries: Vec<Entry>,
    /// All that could be a companion is one.
    everything: bool,
}

#[derive(Debug, Arbitrary)]
struct Entry {
    name: Name,
    kind: Kind,
}

/// A name made of words, or one of the usual.
#[derive(Debug, Arbitrary)]
enum Name {
    Usual(u8),
    Words(u8, u8, Option<u8>, Option<u8>),
}

#[derive(Debug, Arbitrary)]
enum Kind {
    /// A file of these tensors.
    Tensors(Vec<u8>),
    /// An index: tensors, and the names of files.
    Index(Vec<(u8, Name)>),
    /// An index to files that are there, by their number.
    IndexOf(Vec<(u8, u8)>),
    Other(Vec<u8>),
    /// Any bytes, which may be an index or tensors: whatever they are, there is no panic.
    Any(Vec<u8>),
    Directory,
    /// A link that leads nowhere.
    Nowhere,
    /// A link to another name.
    Link(u8),
}

const USUAL: [&str; 12] = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    INDEX,
    "other.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "optimizer.pt",
    "trainer_state.json",
    "step.pulse",
    "weights.bin",
    ".hidden.safetensors",
];
const INDEX: &str = "model.safetensors.index.json";
const WORDS: [&str; 56] = [
    "",
    ".",
    "..",
    "a",
    "A",
    "model",
    "MODEL",
    "config",
    ".safetensors",
    ".SafeTensors",
    ".safetensors.index.json",
    ".SAFETENSORS.INDEX.JSON",
    ".json",
    ".JSON",
    ".pulse",
    ".PULSE",
    "pulse-update-",
    "Pulse-update-",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "events.out.tfevents",
    ".pt",
    ".pth",
    ".bin",
    ".pkl",
    ".ckpt",
    "_0",
    " ",
    "con",
    "CON",
    "Aux",
    "nul",
    "prn",
    "conin$",
    "CONOUT$",
    "com1",
    "LPT9",
    "com0",
    "lpt",
    "²",
    "<",
    "|",
    "?",
    "*",
    "\"",
    "\\",
    ":",
    "\u{1}",
    "é",
    "e\u{301}",
    "É",
];
const TENSORS: [&str; 5] = ["a", "b", "c", "d", "lm_head.weight"];

impl Name {
    fn text(&self) -> String {
        let word = |word: &u8| WORDS[usize::from(*word) % WORDS.len()];
        match self {
            Name::Usual(name) => USUAL[usize::from(*name) % USUAL.len()].into(),
            Name::Words(one, two, three, four) => {
                let more = [three, four].map(|more| more.as_ref().map_or("", word));
                [word(one), word(two), more[0], more[1]].concat()
            }
        }
    }
}

/// What a name of the directory is, for the model.
#[derive(Debug, Clone)]
enum Found {
    /// A file with tensors, which are right.
    Tensors(Vec<&'static str>),
    /// An index: the files of its tensors.
    Index(Vec<String>),
    Other,
    /// Nobody knows.
    Any,
    Odd(&'static str),
}

/// What the model makes of a directory.
#[derive(Debug, Default, PartialEq)]
struct Model {
    tensors: BTreeSet<String>,
    companions: BTreeSet<String>,
    left_out: BTreeMap<String, &'static str>,
}

/// A name that a patch can carry (R42).
fn is_legal(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.contains(|c: char| "/\\:".contains(c) || c.is_control())
}

/// A name that every system can hold, whatever else is there (§9).
fn is_portable(name: &str) -> bool {
    let stem = name.split('.').next().expect("a first part").trim_end_matches(' ').to_uppercase();
    let devices = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
    let is_port = ["COM", "LPT"]
        .iter()
        .any(|port| "123456789¹²³".chars().any(|number| stem == format!("{port}{number}")));
    !name.contains(|c| "<>\"|?*".contains(c))
        && !name.ends_with('.')
        && !name.ends_with(' ')
        && !devices.contains(&&*stem)
        && !is_port
}

/// One text for the names that are one where case and accents do not count; enough for the words above.
fn folded(name: &str) -> String {
    name.replace(['é', 'É'], "e\u{301}").to_lowercase()
}

fn why_not_a_companion(name: &str) -> Option<&'static str> {
    let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let states =
        ["optimizer", "scheduler", "scaler", "rng_state", "random_states", "training_args"];
    if name.starts_with('.') {
        Some("hidden")
    } else if name.ends_with(".pulse") || name.starts_with("pulse-update-") {
        Some("of-pulse")
    } else if starts(&states) && ends(&[".pt", ".pth", ".bin", ".pkl", ".ckpt"])
        || name == "trainer_state.json"
        || starts(&["events.out.tfevents"])
    {
        Some("trainer-state")
    } else {
        None
    }
}

/// The table of SPEC.md §9. `None`: there is no checkpoint.
fn model(files: &BTreeMap<String, Found>) -> Option<Model> {
    let is_regular = |name: &String| !matches!(files.get(name), None | Some(Found::Odd(_)));
    let ends_in_tensors = |name: &str| name.ends_with(".safetensors") && !name.starts_with('.');
    // What cannot be used under a name that stands for tensors stops everything.
    let is_broken = |(name, found): (&String, &Found)| {
        ends_in_tensors(name) && (!is_legal(name) || matches!(found, Found::Odd("unreadable")))
    };
    if files.iter().any(is_broken) {
        return None;
    }
    let legal: Vec<&String> =
        files.keys().filter(|name| is_legal(name) && is_regular(name)).collect();
    let is_index = |name: &str| name.ends_with(".safetensors.index.json") && !name.starts_with('.');
    let indexes: Vec<&String> = legal.iter().copied().filter(|name| is_index(name)).collect();
    let index = match indexes[..] {
        _ if indexes.iter().any(|name| *name == INDEX) => Some(INDEX),
        [only] => Some(only.as_str()),
        _ => None,
    };
    let mut shards: Option<BTreeSet<&String>> = None;
    let mut stale = None;
    if let Some(index) = index {
        let Found::Index(named) = &files[index] else { return None };
        let named: BTreeSet<&String> = named.iter().collect();
        let there = named.iter().filter(|shard| legal.contains(shard)).count();
        if there == named.len() && there > 0 {
            shards = Some(named);
        } else if there == 0 && legal.iter().any(|name| ends_in_tensors(name)) {
            stale = Some(index);
        } else {
            return None;
        }
    }
    let is_tensors = |name: &String| match &shards {
        Some(shards) => shards.contains(name),
        None => ends_in_tensors(name),
    };
    let mut made = Model::default();
    let mut taken: BTreeSet<String> =
        legal.iter().filter(|name| is_tensors(name)).map(|name| folded(name)).collect();
    for (name, found) in files {
        let lower = name.to_lowercase();
        let ends = [".safetensors", ".safetensors.index.json"];
        let disguised = ends.iter().any(|end| lower.ends_with(end) && !name.ends_with(end));
        let reason = match found {
            _ if !is_legal(name) => Some("name"),
            Found::Odd(reason) => Some(*reason),
            _ if is_tensors(name) => None,
            _ if ends_in_tensors(name) => Some("not-in-index"),
            _ if stale == Some(name) => Some("stale-index"),
            _ if disguised => Some("name"),
            _ => why_not_a_companion(name).or_else(|| {
                let portable = is_portable(name) && taken.insert(folded(name));
                (!portable).then_some("not-portable")
            }),
        };
        if let Some(reason) = reason {
            made.left_out.insert(name.clone(), reason);
        } else if is_tensors(name) {
            made.tensors.insert(name.clone());
        } else {
            made.companions.insert(name.clone());
        }
    }
    // Tensor files must be such, and have no tensor twice.
    let mut seen = BTreeSet::new();
    for name in &made.tensors {
        let Found::Tensors(tensors) = &files[name] else { return None };
        if !tensors.iter().all(|tensor| seen.insert(*tensor)) {
            return None;
        }
    }
    (!made.tensors.is_empty()).then_some(made)
}

/// Makes a file or the like of a name; gives back what it is, or `None` if it cannot be.
fn make(path: &Path, kind: &Kind, names: &[String]) -> Option<Found> {
    let names = |number: &u8| names[usize::from(*number) % names.len()].clone();
    let tensor = |number: &u8| TENSORS[usize::from(*number) % TENSORS.len()];
    let write_index = |places: Vec<(&'static str, String)>| {
        let places: BTreeMap<&str, String> = places.into_iter().collect();
        let pairs: Vec<(&str, &str)> =
            places.iter().map(|(tensor, file)| (*tensor, file.as_str())).collect();
        fs::write(path, index(&pairs)).ok()?;
        Some(Found::Index(places.into_values().collect()))
    };
    match kind {
        Kind::Tensors(tensors) => {
            let tensors: BTreeSet<&str> = tensors.iter().map(tensor).collect();
            let bytes: Vec<_> = tensors.iter().map(|name| small(name, 3, 1)).collect();
            fs::write(path, tensor_file(&bytes, 0)).ok()?;
            Some(Found::Tensors(tensors.into_iter().collect()))
        }
        Kind::Index(places) => {
            write_index(places.iter().map(|(at, name)| (tensor(at), name.text())).collect())
        }
        Kind::IndexOf(places) => {
            write_index(places.iter().map(|(at, name)| (tensor(at), names(name))).collect())
        }
        Kind::Other(bytes) => {
            // Neither JSON nor the length of a header.
            let bytes = [&[0xff; 8][..], bytes].concat();
            fs::write(path, bytes).is_ok().then_some(Found::Other)
        }
        Kind::Any(bytes) => fs::write(path, bytes).is_ok().then_some(Found::Any),
        Kind::Directory => fs::create_dir(path).is_ok().then_some(Found::Odd("not-a-file")),
        Kind::Nowhere => link("nowhere/at/all", path),
        // Resolved when all are made.
        Kind::Link(to) => link(&names(to), path),
    }
}

#[cfg(unix)]
fn link(to: &str, path: &Path) -> Option<Found> {
    std::os::unix::fs::symlink(to, path).is_ok().then_some(Found::Odd("unreadable"))
}

#[cfg(not(unix))]
fn link(_: &str, _: &Path) -> Option<Found> {
    None
}

/// Files of any names: what opens, and as what, is what the table of SPEC.md §9 says; and a snapshot gives back the
/// same files.
pub fn layouts(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let scratch = scratch();
    let directory = scratch.path().join("in");
    fs::create_dir(&directory).expect("a directory");
    let entries = &case.entries[..case.entries.len().min(16)];
    let names: Vec<String> = entries.iter().map(|entry| entry.name.text()).collect();
    let mut files = BTreeMap::new();
    for (entry, name) in entries.iter().zip(&names) {
        if matches!(name.as_str(), "" | "." | "..") || files.contains_key(name) {
            continue;
        }
        if let Some(found) = make(&directory.join(name), &entry.kind, &names) {
            files.insert(name.clone(), found);
        }
    }
    // What a link leads to, if it does.
    for (name, entry) in names.iter().zip(entries) {
        let path = directory.join(name);
        let Some(Found::Odd("unreadable")) = files.get(name) else { continue };
        if let (Kind::Link(_), Ok(end)) = (&entry.kind, fs::canonicalize(path)) {
            let end = end.file_name().and_then(|end| end.to_str()).map(|end| files.get(end));
            let found = end.flatten().cloned().unwrap_or(Found::Odd("not-a-file"));
            files.insert(name.clone(), found);
        }
    }

    let opened = Checkpoint::open(&directory);
    if files.values().any(|found| matches!(found, Found::Any)) {
        return;
    }
    let expected = model(&files);
    let mut checkpoint = match (expected, opened) {
        (None, Err(error)) => return assert!(!error.to_string().is_empty()),
        (None, Ok(found)) => panic!("{found:?}, where there is no checkpoint: {files:?}"),
        // Bytes that are an index all the same, or tensors.
        (Some(_), Err(error)) => panic!("{error}, where there is a checkpoint: {files:?}"),
        (Some(expected), Ok(checkpoint)) => {
            let left_out = checkpoint.left_out().iter();
            let left_out = left_out
                .map(|out| (out.name.clone(), out.reason.name()))
                .collect::<BTreeMap<_, _>>();
            assert_eq!(left_out, expected.left_out, "{files:?}");
            let seen: BTreeSet<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
            let tensors = expected.tensors.iter().flat_map(|name| match &files[name] {
                Found::Tensors(tensors) => tensors.clone(),
                _ => Vec::new(),
            });
            assert_eq!(seen, tensors.collect(), "{files:?}");
            comes_back(
                &checkpoint,
                &files,
                &expected.tensors,
                &expected.companions,
                &directory,
                "out",
            );
            if !case.everything {
                return;
            }
            let mut companions = expected.companions;
            let spare = ["hidden", "trainer-state", "of-pulse", "not-portable"];
            let left_out = expected.left_out.into_iter();
            companions
                .extend(left_out.filter(|(_, why)| spare.contains(why)).map(|(name, _)| name));
            (checkpoint, expected.tensors, companions)
        }
    };
    checkpoint.0.select(|_, _| true);
    let (checkpoint, tensors, companions) = checkpoint;
    comes_back(&checkpoint, &files, &tensors, &companions, &directory, "all");
}

/// Whether tensor files and companions are the same where nothing else is: of two indexes, one may have been left out.
fn reads_the_same(
    files: &BTreeMap<String, Found>,
    tensors: &BTreeSet<String>,
    companions: &BTreeSet<String>,
) -> bool {
    let mut files = files.clone();
    files.retain(|name, _| tensors.contains(name) || companions.contains(name));
    let choice = ["hidden", "trainer-state", "of-pulse", "not-portable"];
    model(&files).is_some_and(|alone| {
        alone.tensors == *tensors && alone.left_out.values().all(|why| choice.contains(why))
    })
}

/// A snapshot of these files is these files again, and nothing else.
fn comes_back(
    checkpoint: &Checkpoint,
    files: &BTreeMap<String, Found>,
    tensors: &BTreeSet<String>,
    companions: &BTreeSet<String>,
    directory: &Path,
    out: &str,
) {
    let out = directory.with_file_name(out);
    let (mut patch, control) = (Vec::new(), Control::threads(1));
    let made = diff(None, checkpoint, &mut patch, DiffOptions::default(), control);
    let one = tensors.iter().map(|name| folded(name)).collect::<BTreeSet<_>>();
    if one.len() < tensors.len() || !tensors.iter().all(|name| is_portable(name)) {
        let error = made.expect_err("a tensor file that not every system can hold");
        return assert_eq!(error.kind(), "checkpoint", "{error}");
    }
    if !reads_the_same(files, tensors, companions) {
        let error = made.expect_err("a patch that gives other tensors");
        return assert_eq!(error.kind(), "checkpoint", "{error}");
    }
    made.expect("a checkpoint that was opened");
    let patch = Patch::from_bytes(patch, Limits::default()).expect("a patch of our own");
    patch.apply(None, &out, ApplyOptions::default(), control).expect("a snapshot of our own");
    let expected: Contents = tensors
        .iter()
        .chain(companions)
        .map(|name| (name.clone(), fs::read(directory.join(name)).expect("a file")))
        .collect();
    assert!(snapshot(&out) == expected, "other files than {:?}", expected.keys());
}
