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
    below: Below,
    name: Name,
    kind: Kind,
}

/// The directory of a file: mostly the root.
#[derive(Debug, Arbitrary)]
enum Below {
    Root,
    AlsoRoot,
    Directory(u8),
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
    /// A list of modules, which names these directories.
    Modules(Vec<u8>),
    Other(Vec<u8>),
    /// Any bytes, which may be an index or tensors: whatever they are, there is no panic.
    Any(Vec<u8>),
    Directory,
    /// A link that leads nowhere.
    Nowhere,
    /// A link to another name.
    Link(u8),
}

const DIRECTORIES: [&str; 12] = [
    "unet",
    "vae",
    "unet/deep",
    "1_Pooling",
    "UNET",
    "checkpoint-5",
    "checkpoint-best",
    "global_step12",
    ".cache",
    "vae/.git/x",
    "a/b/c/d/e/f/g",
    "con",
];
const USUAL: [&str; 14] = [
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
    PIPELINE,
    MODULES,
];
const PIPELINE: &str = "model_index.json";
const MODULES: &str = "modules.json";
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

fn directory(number: &u8) -> &'static str {
    DIRECTORIES[usize::from(*number) % DIRECTORIES.len()]
}

impl Entry {
    /// Its path in the root.
    fn path(&self) -> String {
        match &self.below {
            Below::Directory(number) => join(directory(number), &self.name.text()),
            Below::Root | Below::AlsoRoot => self.name.text(),
        }
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.into()
    } else {
        format!("{directory}/{name}")
    }
}

/// Directory and own name of a file.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// What a name of the directory is, for the model.
#[derive(Debug, Clone)]
enum Found {
    Directory,
    /// A list of modules: their directories.
    Modules(Vec<&'static str>),
    /// A file with tensors, which are right.
    Tensors(Vec<&'static str>),
    /// An index: the files of its tensors.
    Index(BTreeMap<String, String>),
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
    names: BTreeSet<String>,
}

/// Reasons why a file is no companion unless someone wants it.
const SPARE: [&str; 5] = ["hidden", "trainer-state", "key", "of-pulse", "not-portable"];

/// A name that a patch can carry (R42).
fn is_legal(path: &str) -> bool {
    let is_component = |name: &str| {
        !matches!(name, "" | "." | "..")
            && name.len() <= 255
            && !name.contains(|c: char| "\\:".contains(c) || c.is_control())
    };
    path.split('/').all(is_component) && path.split('/').count() <= 8 && path.len() <= 1024
}

/// A name that every system can hold, whatever else is there (§9).
fn is_portable(path: &str) -> bool {
    path.split('/').all(is_portable_component)
}

fn is_portable_component(name: &str) -> bool {
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

/// The directories that a path leads through, and itself.
fn ways(path: &str) -> impl Iterator<Item = (&str, bool)> {
    let directories = path.match_indices('/').map(|(end, _)| (&path[..end], true));
    directories.chain([(path, false)])
}

/// Whether a path can be beside others on a system where neither case nor accents count.
fn is_free(path: &str, others: &BTreeSet<String>) -> bool {
    ways(path).all(|(one, is_directory)| {
        others.iter().flat_map(|other| ways(other)).all(|(other, is_other_directory)| {
            folded(one) != folded(other) || is_directory && is_other_directory && one == other
        })
    })
}

fn why_not_a_companion(name: &str) -> Option<&'static str> {
    let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let states = [
        "optim",
        "scheduler",
        "scaler",
        "rng_state",
        "random_states",
        "training_args",
        "dataloader",
        "mp_rank_",
        "zero_pp_rank_",
        "bf16_zero_pp_rank_",
    ];
    if name.starts_with('.') {
        Some("hidden")
    } else if name.ends_with(".pulse") || name.starts_with("pulse-update-") {
        Some("of-pulse")
    } else if starts(&states) && ends(&[".pt", ".pth", ".bin", ".pkl", ".ckpt"])
        || name == "trainer_state.json"
        || starts(&["events.out.tfevents"])
        || ends(&[".distcp"])
    {
        Some("trainer-state")
    } else if ends(&[".pem", ".key", ".env"])
        || ["id_rsa", "id_ecdsa", "id_ed25519", "credentials.json"].contains(&name)
    {
        Some("key")
    } else {
        None
    }
}

/// Why nobody looks into a directory, by its own name.
fn why_not_looked_into(path: &str) -> Option<&'static str> {
    let own = split(path).1;
    let steps = ["checkpoint-", "global_step"].iter().filter_map(|start| own.strip_prefix(start));
    let is_step = |digits: &str| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    if own.starts_with('.') {
        Some("hidden")
    } else if steps.into_iter().any(is_step) {
        Some("trainer-state")
    } else {
        (!is_legal(&join(path, "x"))).then_some("name")
    }
}

fn ends_in_tensors(path: &str) -> bool {
    let own = split(path).1;
    own.ends_with(".safetensors") && !own.starts_with('.')
}

fn is_index(path: &str) -> bool {
    let own = split(path).1;
    own.ends_with(".safetensors.index.json") && !own.starts_with('.')
}

fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A directory of tensors that belong together: what its index leads to, and which index is left over.
struct Part {
    shards: BTreeSet<String>,
    index: Option<String>,
    stale: Option<String>,
}

/// One part of these files, or what is wrong with it.
fn part(home: &str, files: &BTreeMap<&String, &Found>) -> Option<Part> {
    let own = files.keys().filter(|path| split(path).0 == home);
    let plain: BTreeSet<String> =
        own.clone().filter(|path| ends_in_tensors(path)).map(|path| path.to_string()).collect();
    let indexes: Vec<&String> = own.copied().filter(|path| is_index(path)).collect();
    let usual = join(home, INDEX);
    let index = match indexes[..] {
        _ if indexes.iter().any(|path| **path == usual) => &usual,
        [only] => only,
        _ => return Some(Part { shards: plain, index: None, stale: None }),
    };
    let Found::Index(named) = files[index] else { return None };
    let named: BTreeSet<String> = named.values().map(|name| join(home, name)).collect();
    let there = named.iter().filter(|shard| files.contains_key(shard)).count();
    if there == named.len() && there > 0 {
        Some(Part { shards: named, index: Some(index.clone()), stale: None })
    } else if there == 0 && !plain.is_empty() {
        Some(Part { shards: plain, index: None, stale: Some(index.clone()) })
    } else {
        None
    }
}

/// §9 on subdirectories: the parts of the model by their directories, and the directories that are foreign.
fn parts<'a>(
    files: &BTreeMap<&'a String, &Found>,
) -> Option<(BTreeMap<&'a str, Part>, BTreeSet<&'a str>)> {
    let mut parts = BTreeMap::from([("", part("", files)?)]);
    let mut foreign: BTreeSet<&str> = BTreeSet::new();
    let modules = files.iter().find(|(path, _)| path.as_str() == MODULES).map(|(_, found)| *found);
    let is_pipeline = files.keys().any(|path| path.as_str() == PIPELINE);
    if let Some(Found::Odd("unreadable")) = modules {
        // It says which are, but not to us.
        return None;
    }
    let plain = files.keys().copied().filter(|path| ends_in_tensors(path) || is_index(path));
    for home in plain.clone().map(|path| split(path).0).collect::<BTreeSet<_>>() {
        let is_homed = |path: &String| parts.values().any(|part| part.shards.contains(path));
        let mut own = plain.clone().filter(|path| split(path).0 == home);
        if home.is_empty() || foreign.iter().any(|out| is_in(home, out)) || own.all(is_homed) {
            continue;
        }
        let is_module = match modules {
            Some(Found::Modules(list)) => list.contains(&home),
            _ => false,
        };
        if is_pipeline || is_module {
            parts.insert(home, part(home, files)?);
        } else {
            foreign.insert(home);
        }
    }
    Some((parts, foreign))
}

/// R99: the names of the tensors of these files, or `None` if two have one.
fn names(
    parts: &BTreeMap<&str, Part>,
    files: &BTreeMap<&String, &Found>,
) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (home, part) in parts {
        let map = part.index.as_ref().map(|index| match files[index] {
            Found::Index(map) => map.clone(),
            _ => BTreeMap::new(),
        });
        let mut holders: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
        // A file that two indexes lead to is of the first.
        for shard in part.shards.iter().filter(|shard| seen.insert(shard.to_string())) {
            let Found::Tensors(tensors) = files[shard] else { return None };
            for tensor in tensors {
                holders.entry(tensor).or_default().insert(shard);
            }
        }
        for (tensor, holders) in holders {
            let chosen = map.as_ref().and_then(|map| map.get(tensor)).map(|name| join(home, name));
            let is_chosen = |holder: &String| chosen.as_ref() == Some(holder);
            if holders.len() > 1 && !holders.iter().any(|holder| is_chosen(holder)) {
                return None;
            }
            for holder in &holders {
                let before =
                    if holders.len() == 1 || is_chosen(holder) { home } else { holder.as_str() };
                if !names.insert(join(before, tensor)) {
                    return None;
                }
            }
        }
    }
    Some(names)
}

/// The table of SPEC.md §9. `None`: there is no checkpoint.
fn model(files: &BTreeMap<String, Found>, links: &BTreeMap<String, &'static str>) -> Option<Model> {
    let mut made = Model::default();
    let (mut looked_at, mut unseen) = (BTreeMap::new(), BTreeSet::<&String>::new());
    for (path, found) in files {
        if unseen.iter().any(|out| is_in(path, out)) {
            continue;
        }
        if let Found::Directory = found {
            if let Some(reason) = why_not_looked_into(path) {
                unseen.insert(path);
                made.left_out.insert(path.clone(), reason);
            }
        } else if !is_legal(path) {
            if ends_in_tensors(path) && split(path).0.is_empty() {
                return None;
            }
            made.left_out.insert(path.clone(), "name");
        } else if let Found::Odd(reason @ ("not-a-file" | "directory")) = found {
            made.left_out.insert(path.clone(), "not-a-file");
            if *reason == "directory" {
                unseen.insert(path);
            }
        } else {
            looked_at.insert(path, found);
        }
    }
    let (parts, foreign) = parts(&looked_at)?;
    let tensors: BTreeSet<&String> = parts.values().flat_map(|part| &part.shards).collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for path in &tensors {
        if is_free(path, &taken) {
            taken.insert(path.to_string());
        }
    }
    for (path, found) in &looked_at {
        if tensors.contains(path) {
            made.tensors.insert(path.to_string());
            continue;
        }
        if let Some(out) = foreign.iter().find(|out| is_in(path, out)) {
            made.left_out.insert(out.to_string(), "below");
            continue;
        }
        let (home, own) = split(path);
        let lower = own.to_lowercase();
        let ends = [".safetensors", ".safetensors.index.json"];
        let disguised = ends.iter().any(|end| lower.ends_with(end) && !own.ends_with(end));
        let stale = parts.get(home).and_then(|part| part.stale.as_ref());
        let reason = if ends_in_tensors(path) {
            Some("not-in-index")
        } else if stale == Some(path) {
            Some("stale-index")
        } else if disguised {
            Some("name")
        } else {
            why_not_a_companion(own).or_else(|| {
                let portable = is_portable(path) && is_free(path, &taken);
                if portable {
                    taken.insert(path.to_string());
                }
                (!portable).then_some("not-portable").or_else(|| links.get(*path).copied())
            })
        };
        let may_be_chosen = reason.is_none_or(|reason| SPARE.contains(&reason));
        match (reason, found) {
            // What is left out for its own name is so, whether or not it can be read.
            (_, Found::Odd(_)) if may_be_chosen => {
                made.left_out.insert(path.to_string(), "unreadable")
            }
            (Some(reason), _) => made.left_out.insert(path.to_string(), reason),
            (None, _) => None,
        };
        if reason.is_none() && !matches!(found, Found::Odd(_)) {
            made.companions.insert(path.to_string());
        }
    }
    // What nobody looked into may be of a part of the model.
    let modules = match files.get(MODULES) {
        Some(Found::Modules(list)) => list.clone(),
        _ => Vec::new(),
    };
    let is_pipeline = looked_at.keys().any(|path| *path == PIPELINE);
    let is_near =
        |path: &str| modules.iter().any(|module| is_in(path, module) || is_in(module, path));
    let is_skipped =
        |path: &str| matches!(why_not_looked_into(path), Some("hidden" | "trainer-state"));
    let is_unseen = |(path, why): (&String, &&str)| match files.get(path) {
        _ if ends_in_tensors(path) => ["name", "not-a-file"].contains(why),
        Some(Found::Directory) => **why == *"name",
        Some(Found::Odd("directory")) => !is_skipped(path),
        _ => false,
    };
    let is_broken = |(path, found): (&String, &Found)| {
        let is_looked_at = looked_at.contains_key(path) || made.left_out.contains_key(path);
        matches!(found, Found::Odd("unreadable")) && is_looked_at && !is_skipped(path)
    };
    let unseen = made.left_out.iter().filter(|out| is_unseen(*out)).map(|(path, _)| path);
    let broken = files.iter().filter(|file| is_broken(*file)).map(|(path, _)| path);
    if unseen.chain(broken).any(|path| is_pipeline || is_near(path)) {
        return None;
    }
    made.names = names(&parts, &looked_at)?;
    (!made.tensors.is_empty()).then_some(made)
}

/// Makes a file or the like at `path` in `root`; gives back what it is, or `None` if it cannot be.
fn make(root: &Path, path: &str, kind: &Kind, paths: &[String]) -> Option<Found> {
    let home = split(path).0;
    let named = |number: &u8| paths[usize::from(*number) % paths.len()].clone();
    let in_home = |path: String| match path.strip_prefix(&join(home, "")) {
        Some(own) if !home.is_empty() => own.to_string(),
        _ => path,
    };
    let tensor = |number: &u8| TENSORS[usize::from(*number) % TENSORS.len()];
    let path = &root.join(path);
    let write_index = |places: Vec<(&'static str, String)>| {
        let places: BTreeMap<&str, String> = places.into_iter().collect();
        let pairs: Vec<(&str, &str)> =
            places.iter().map(|(tensor, file)| (*tensor, file.as_str())).collect();
        fs::write(path, index(&pairs)).ok()?;
        Some(Found::Index(places.into_iter().map(|(name, file)| (name.into(), file)).collect()))
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
            let places = places.iter();
            write_index(places.map(|(at, number)| (tensor(at), in_home(named(number)))).collect())
        }
        Kind::Modules(list) => {
            let list: Vec<&str> = list.iter().map(directory).collect();
            let modules: Vec<_> =
                list.iter().map(|path| format!(r#"{{"path":"{path}","idx":[0]}}"#)).collect();
            fs::write(path, format!("[{}]", modules.join(","))).ok()?;
            Some(Found::Modules(list))
        }
        Kind::Other(bytes) => {
            // Neither JSON nor the length of a header.
            let bytes = [&[0xff; 8][..], bytes].concat();
            fs::write(path, bytes).is_ok().then_some(Found::Other)
        }
        Kind::Any(bytes) => fs::write(path, bytes).is_ok().then_some(Found::Any),
        Kind::Directory => fs::create_dir(path).is_ok().then_some(Found::Directory),
        Kind::Nowhere => link("nowhere/at/all", path),
        // Resolved when all are made.
        Kind::Link(to) => link(root.join(named(to)), path),
    }
}

/// What the links among these files lead to; gives back those to what is left out for its own name.
fn resolve_links(
    root: &Path,
    files: &mut BTreeMap<String, Found>,
) -> BTreeMap<String, &'static str> {
    let mut left_out = BTreeMap::new();
    let root = fs::canonicalize(root).expect("a directory of ours");
    let links = files.iter().filter(|(_, found)| matches!(found, Found::Odd(_)));
    let links: Vec<String> = links.map(|(path, _)| path.clone()).collect();
    for link in links {
        let Ok(end) = fs::canonicalize(root.join(&link)) else { continue };
        let found = match end.strip_prefix(&root).ok().and_then(Path::to_str) {
            _ if end.is_dir() => Found::Odd("directory"),
            Some(end) => files[end].clone(),
            None => Found::Odd("not-a-file"),
        };
        // Lists of parts lead to tensors at the top alone, an index wherever it is.
        let leads = [MODULES, PIPELINE].contains(&link.as_str()) || link.ends_with(".index.json");
        let own = end.file_name().and_then(|name| name.to_str());
        if let Some(why) = own.and_then(why_not_a_companion).filter(|_| !leads) {
            left_out.insert(link.clone(), why);
        }
        files.insert(link, found);
    }
    left_out
}

#[cfg(unix)]
fn link(to: impl AsRef<Path>, path: &Path) -> Option<Found> {
    std::os::unix::fs::symlink(to, path).is_ok().then_some(Found::Odd("unreadable"))
}

#[cfg(not(unix))]
fn link(_: impl AsRef<Path>, _: &Path) -> Option<Found> {
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
    let paths: Vec<String> = entries.iter().map(Entry::path).collect();
    let mut files = BTreeMap::new();
    for (entry, path) in entries.iter().zip(&paths) {
        let (home, own) = split(path);
        if matches!(own, "" | "." | "..") || files.contains_key(path) {
            continue;
        }
        // The directories that it is in, none of which is something else.
        let ends = path.match_indices('/').map(|(end, _)| path[..end].to_string());
        let homes: Vec<String> = ends.collect();
        let is_free = |home: &String| matches!(files.get(home), None | Some(Found::Directory));
        if !homes.iter().all(is_free) || fs::create_dir_all(directory.join(home)).is_err() {
            continue;
        }
        files.extend(homes.into_iter().map(|home| (home, Found::Directory)));
        if let Some(found) = make(&directory, path, &entry.kind, &paths) {
            files.insert(path.clone(), found);
        }
    }
    let links = resolve_links(&directory, &mut files);

    let opened = Checkpoint::open(&directory);
    if files.values().any(|found| matches!(found, Found::Any)) {
        return;
    }
    let expected = model(&files, &links);
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
            let named = expected.names.iter().map(String::as_str).collect();
            assert_eq!(seen, named, "{files:?}");
            comes_back(&checkpoint, &files, &expected, &directory, "out");
            if !case.everything {
                return;
            }
            let mut expected = expected;
            let (spare, left_out) = expected.left_out.into_iter().partition(|(name, why)| {
                SPARE.contains(why) && !matches!(files[name], Found::Directory)
            });
            let spare: BTreeMap<_, _> = spare;
            expected.companions.extend(spare.into_keys());
            expected.left_out = left_out;
            (checkpoint, expected)
        }
    };
    checkpoint.0.select(|_, _| true);
    let (checkpoint, expected) = checkpoint;
    comes_back(&checkpoint, &files, &expected, &directory, "all");
}

/// Whether tensor files and the names of tensors are the same where nothing else is: an index may have been left out.
fn reads_the_same(files: &BTreeMap<String, Found>, expected: &Model) -> bool {
    let mut files = files.clone();
    files.retain(|path, _| expected.tensors.contains(path) || expected.companions.contains(path));
    model(&files, &BTreeMap::new()).is_some_and(|alone| {
        alone.tensors == expected.tensors
            && alone.names == expected.names
            && alone.left_out.values().all(|why| SPARE.contains(why))
    })
}

/// A snapshot of these files is these files again, and nothing else.
fn comes_back(
    checkpoint: &Checkpoint,
    files: &BTreeMap<String, Found>,
    expected: &Model,
    directory: &Path,
    out: &str,
) {
    let out = directory.with_file_name(out);
    let (mut patch, control) = (Vec::new(), Control::threads(1));
    let made = diff(None, checkpoint, &mut patch, DiffOptions::default(), control);
    let tensors = &expected.tensors;
    let is_alone = |path: &String| {
        let mut others = tensors.clone();
        others.remove(path);
        is_free(path, &others)
    };
    let is_portable = tensors.iter().all(|path| is_portable(path) && is_alone(path));
    if !is_portable || !reads_the_same(files, expected) {
        let error = made.expect_err("a patch that gives other tensors, or not everywhere");
        return assert_eq!(error.kind(), "checkpoint", "{error}");
    }
    made.expect("a checkpoint that was opened");
    let patch = Patch::from_bytes(patch, Limits::default()).expect("a patch of our own");
    patch.apply(None, &out, ApplyOptions::default(), control).expect("a snapshot of our own");
    let expected: Contents = tensors
        .iter()
        .chain(&expected.companions)
        .map(|path| (path.clone(), fs::read(directory.join(path)).expect("a file")))
        .collect();
    assert!(snapshot(&out) == expected, "other files than {:?}", expected.keys());
}
