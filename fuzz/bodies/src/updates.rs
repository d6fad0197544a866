//! A checkpoint that is updated in place, while processes are killed and people move files about.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use arbitrary::{Arbitrary, Unstructured};
use pulse::checkpoint::{diff, DiffOptions, FilePolicy};
use pulse::coding::Coding;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::update::{recover, Fault, Recovered, UpdateOptions, Way};
use pulse::{Checkpoint, Limits, Patch};

use super::apply::scratch;
use super::files::{index, small, snapshot, tensor_file, write, Contents};

/// Most steps of a run.
const STEPS_MAX: usize = 12;
/// Beyond these no update has an operation.
const OPERATIONS_MAX: u8 = 160;

#[derive(Debug, Arbitrary)]
struct Case {
    pair: u16,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// An update, in which something may go wrong.
    Update { undo: Option<bool>, follows: bool, goes_wrong: Option<(u8, bool)> },
    /// A recovery, in which something may go wrong.
    Recover { goes_wrong: Option<(u8, bool)> },
    /// The directory is copied with all that is in it, and the copy is used from now on.
    CopyAll,
    /// What a person does to one file.
    Act { file: u8, act: Act },
}

#[derive(Debug, Arbitrary)]
enum Act {
    /// Fetches the file of the base, of the target, or another of this name.
    Fetch(Source),
    /// Writes the same into the file that is there.
    Overwrite(Source),
    Remove,
    Truncate(u16),
    Flip(u16),
    /// Puts a copy aside, for `PutBack`.
    Keep,
    PutBack,
    MoveTo(u8),
    CopyTo(u8),
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Source {
    Base,
    Target,
    Other,
}

/// Base, target, and the patch between them.
struct Pair {
    base: Contents,
    target: Contents,
    /// The checkpoint is one file of its directory.
    is_file: bool,
    patch: Patch,
}

const FILE: &str = "model";
const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 3] = ["one.safetensors", "three.safetensors", "two.safetensors"];
const COMPANIONS: [&str; 3] = ["config.json", "state.json", "tokenizer.model"];

/// Takes a digit off a number.
fn digit(number: &mut u16, base: u16) -> u8 {
    let digit = *number % base;
    *number /= base;
    digit as u8
}

impl Pair {
    /// The pair of this number; made once.
    fn of(number: u16) -> Rc<Pair> {
        thread_local!(static MADE: RefCell<HashMap<u16, Rc<Pair>>> = RefCell::default());
        MADE.with_borrow_mut(|made| {
            made.entry(number).or_insert_with(|| Rc::new(Pair::new(number))).clone()
        })
    }

    fn new(mut number: u16) -> Pair {
        let is_file = digit(&mut number, 8) == 7;
        let has_index = digit(&mut number, 2) == 1;
        let flat = digit(&mut number, 2) == 1;
        let (mut base, mut target) = (Contents::new(), Contents::new());
        let mut places = [Vec::new(), Vec::new()];
        for (at, shard) in SHARDS.into_iter().enumerate().take(if is_file { 1 } else { 3 }) {
            // Unchanged, data, header, both; the third may also be on one side alone, or on none.
            let change = digit(&mut number, if at == 2 { 7 } else { 4 });
            let name = if is_file { FILE } else { shard };
            let names = [format!("{at}a"), format!("{at}b")];
            let [version, note] = [u8::from(change & 1 == 1), u8::from(change & 2 == 2)];
            let file = |version, note| {
                let tensors = [small(&names[0], 40, version), small(&names[1], 5, 0)];
                tensor_file(&tensors, note)
            };
            if change <= 4 {
                base.insert(name.into(), file(0, 0));
                places[0].extend(names.iter().map(|tensor| (tensor.clone(), name)));
            }
            if change < 4 || change == 5 {
                target.insert(name.into(), file(version, note));
                places[1].extend(names.iter().map(|tensor| (tensor.clone(), name)));
            }
        }
        if !is_file {
            for name in COMPANIONS {
                let fate = digit(&mut number, 4);
                if fate != 2 {
                    base.insert(name.into(), format!("{name} of the base").into_bytes());
                }
                if fate != 3 {
                    let version = if fate == 0 { "base" } else { "target" };
                    target.insert(name.into(), format!("{name} of the {version}").into_bytes());
                }
            }
            if has_index {
                for (files, places) in [&mut base, &mut target].into_iter().zip(&places) {
                    let places: Vec<(&str, &str)> =
                        places.iter().map(|(tensor, file)| (tensor.as_str(), *file)).collect();
                    files.insert(INDEX.into(), index(&places));
                }
            }
        }
        let scratch = scratch();
        let open = |side: &str, files: &Contents| {
            let path = scratch.path().join(side);
            write(&path, files);
            Checkpoint::open(if is_file { path.join(FILE) } else { path }).expect("a checkpoint")
        };
        let (from, to) = (open("base", &base), open("target", &target));
        let coding = if flat { Coding::Flat } else { Coding::Contextual };
        let options: DiffOptions = EncoderOptions::default().with_coding(coding).into();
        let mut patch = Vec::new();
        diff(Some(&from), &to, &mut patch, options, Control::threads(1)).expect("a patch");
        let patch = Patch::from_bytes(patch, Limits::default()).expect("a patch of our own");
        Pair { base, target, is_file, patch }
    }

    /// Names of the tensor files of base and target.
    fn tensor_files(&self) -> BTreeSet<&String> {
        let all = self.base.keys().chain(self.target.keys());
        all.filter(|name| is_tensors(name)).collect()
    }

    /// Whether the tensor files are those of a side, whatever the metadata of their headers.
    fn is_whole(&self, files: &Contents, side: &Contents) -> bool {
        self.tensor_files().into_iter().all(|name| match (files.get(name), side.get(name)) {
            (Some(file), Some(side)) => file == side || has_same_tensors(file, side),
            (file, side) => file == side,
        })
    }

    fn is_exactly(&self, files: &Contents, side: &Contents) -> bool {
        self.tensor_files().into_iter().all(|name| files.get(name) == side.get(name))
    }
}

fn is_tensors(name: &str) -> bool {
    name == FILE || name.ends_with(".safetensors")
}

fn is_of_pulse(name: &str) -> bool {
    name.starts_with("pulse-update-")
}

/// Whether no reader takes the file for tensors, because an update is not at its end.
fn is_marked(bytes: &[u8]) -> bool {
    bytes.len() >= 8 && bytes[5..8] == [b'u', b'p', 0xff] && bytes[3] >= 0x80
}

/// Whether two tensor files differ in no more than the metadata of their headers, which no digest is of.
fn has_same_tensors(file: &[u8], other: &[u8]) -> bool {
    let parts = |file: &[u8]| {
        let (length, rest) = file.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (header, data) = rest.split_at_checked(length)?;
        let mut header: serde_json::Map<_, _> = serde_json::from_slice(header).ok()?;
        header.remove("__metadata__");
        Some((header, data.to_vec()))
    };
    parts(file).is_some_and(|file| Some(file) == parts(other))
}

fn without_pulse(mut files: Contents) -> Contents {
    files.retain(|name, _| !is_of_pulse(name));
    files
}

struct Room {
    pair: Rc<Pair>,
    scratch: PathBuf,
    directory: PathBuf,
    copies: u8,
    /// A file that a person put aside.
    kept: Option<Vec<u8>>,
    /// Nobody but updates and recoveries changed anything.
    untouched: bool,
}

impl Room {
    fn checkpoint(&self) -> PathBuf {
        if self.pair.is_file {
            self.directory.join(FILE)
        } else {
            self.directory.clone()
        }
    }

    /// A file that is there, or one of the pair.
    fn name(&self, number: u8) -> String {
        let there = snapshot(&self.directory).into_keys();
        let pair = self.pair.base.keys().chain(self.pair.target.keys()).cloned();
        let names: BTreeSet<String> = there.chain(pair).collect();
        names.iter().nth(usize::from(number) % names.len()).expect("a name").clone()
    }

    fn bytes(&self, name: &str, source: Source) -> Option<Vec<u8>> {
        match source {
            Source::Base => self.pair.base.get(name).cloned(),
            Source::Target => self.pair.target.get(name).cloned(),
            Source::Other if is_tensors(name) => {
                let mut bytes = self.pair.base.get(name).or(self.pair.target.get(name))?.clone();
                *bytes.last_mut()? ^= 0x55;
                Some(bytes)
            }
            Source::Other => Some(b"mine".to_vec()),
        }
    }

    fn act(&mut self, number: u8, act: &Act) {
        let name = self.name(number);
        let path = self.directory.join(&name);
        self.untouched = false;
        // By its name, as a download does: not into the file that is there.
        let put = |path: &Path, bytes: Vec<u8>| {
            let _ = fs::remove_file(path);
            fs::write(path, bytes).expect("a file");
        };
        let there = fs::read(&path).ok();
        match (act, there) {
            (Act::Fetch(source), _) => match self.bytes(&name, *source) {
                Some(bytes) => put(&path, bytes),
                None => drop(fs::remove_file(&path)),
            },
            (Act::Overwrite(source), _) => {
                if let Some(bytes) = self.bytes(&name, *source) {
                    fs::write(&path, bytes).expect("a file");
                }
            }
            (Act::PutBack, _) => {
                if let Some(bytes) = self.kept.clone() {
                    put(&path, bytes);
                }
            }
            (_, None) => {}
            (Act::Remove, _) => fs::remove_file(&path).expect("a file that is there"),
            (Act::Truncate(length), Some(mut bytes)) => {
                bytes.truncate(usize::from(*length) % (bytes.len() + 1));
                fs::write(&path, bytes).expect("a file");
            }
            (Act::Flip(at), Some(mut bytes)) => {
                let length = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(usize::from(*at) % length) {
                    *byte ^= 1 << (at % 8);
                }
                fs::write(&path, bytes).expect("a file");
            }
            (Act::Keep, bytes) => self.kept = bytes,
            (Act::MoveTo(to), _) => {
                fs::rename(&path, self.directory.join(self.name(*to))).expect("a rename");
            }
            (Act::CopyTo(to), Some(bytes)) => put(&self.directory.join(self.name(*to)), bytes),
        }
    }

    fn copy_all(&mut self) {
        self.copies += 1;
        let copy = self.scratch.join(format!("copy-{}", self.copies));
        write(&copy, &snapshot(&self.directory));
        self.directory = copy;
    }

    fn step(&mut self, step: &Step) {
        let fault = |wrong: &Option<(u8, bool)>| {
            wrong.map(|(at, kills)| Fault { at: u64::from(at % OPERATIONS_MAX), kills })
        };
        let (path, control) = (self.checkpoint(), Control::threads(1));
        let before = snapshot(&self.directory);
        match step {
            Step::CopyAll => self.copy_all(),
            Step::Act { file, act } => self.act(*file, act),
            Step::Recover { goes_wrong } => {
                let fault = fault(goes_wrong);
                let done = match fault {
                    Some(fault) => fault.recover(&path, control),
                    None => recover(&path, control),
                };
                let done = done.map(|recovery| recovery.outcome);
                self.check(&before, &format!("{done:?}"));
                match done {
                    Ok(outcome) => self.check_recovered(&before, outcome),
                    Err(error) => {
                        let expected = fault.is_some() || !self.untouched;
                        assert!(expected, "a recovery that nothing stands against fails: {error}")
                    }
                }
            }
            Step::Update { undo, follows, goes_wrong } => {
                let way = undo.map(|undo| if undo { Way::Undo } else { Way::Redo });
                // Who has other tensor files gets those of nobody.
                let pair = &self.pair;
                let own = |name: &String| is_tensors(name) || name == INDEX;
                let is = |side: &Contents| {
                    let is_side = |name: &String| {
                        let found = before.get(name);
                        found == side.get(name) || found.is_some_and(|bytes| is_marked(bytes))
                    };
                    before.keys().chain(side.keys()).filter(|name| own(name)).all(is_side)
                };
                let follows = *follows && (is(&pair.base) || is(&pair.target));
                let files = if follows { FilePolicy::Follow } else { FilePolicy::Exact };
                let options = UpdateOptions::default().with_way(way).with_files(files);
                let done = match fault(goes_wrong) {
                    Some(fault) => fault.update(&pair.patch, &path, options, control),
                    None => pair.patch.update(&path, options, control),
                };
                let told = done.as_ref().map(|report| report.way).map_err(ToString::to_string);
                self.check(&before, &format!("{told:?}"));
                if done.is_ok() {
                    let mut after = snapshot(&self.directory);
                    if pair.target.contains_key(INDEX) {
                        // A file to which the index does not lead is nobody's.
                        after.retain(|name, bytes| {
                            let is_extra = is_tensors(name) && !pair.target.contains_key(name);
                            !(is_extra && before.get(name) == Some(bytes))
                        });
                    }
                    let is_target = pair.is_exactly(&after, &pair.target);
                    assert!(is_target, "updated, but not the target");
                }
            }
        }
        self.check_seen();
    }

    /// After an update or a recovery, however it went.
    fn check(&self, before: &Contents, what: &str) {
        let after = snapshot(&self.directory);
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let has_mark = |name: &str, bytes: Option<&Vec<u8>>| {
            is_tensors(name) && bytes.is_some_and(|bytes| is_marked(bytes))
        };
        let mut tensors_changed = false;
        for name in names.into_iter().filter(|name| !is_of_pulse(name)) {
            let (was, is) = (before.get(name), after.get(name));
            if was == is {
                continue;
            }
            let ends = [self.pair.base.get(name), self.pair.target.get(name)];
            // What is missing may come (R98). Tensors are the base's under whatever name the receiver keeps them.
            let is_of_base = |file: Option<&Vec<u8>>| {
                let mut base = self.pair.base.iter().filter(|(name, _)| is_tensors(name));
                let is_one = |file: &Vec<u8>| base.any(|(_, base)| has_same_tensors(file, base));
                is_tensors(name) && file.is_some_and(is_one)
            };
            let was_ours = was.is_none() || ends.contains(&was) || has_mark(name, was);
            assert!(
                was_ours || is_of_base(was),
                "'{name}' is someone's own, and was changed: {what}"
            );
            let is_right = ends.contains(&is) || has_mark(name, is) || is_of_base(is);
            assert!(is_right, "'{name}' is neither the base's nor the target's: {what}");
            tensors_changed |= is_tensors(name);
        }
        let Pair { base, target, .. } = &*self.pair;
        let marked = after.iter().any(|(name, bytes)| has_mark(name, Some(bytes)));
        let is_whole = self.pair.is_whole(&after, base) || self.pair.is_whole(&after, target);
        assert!(!tensors_changed || is_whole || marked, "a mixture was made: {what}");
    }

    /// After a recovery that says that all is well.
    fn check_recovered(&self, before: &Contents, outcome: Recovered) {
        let after = snapshot(&self.directory);
        let Pair { base, target, .. } = &*self.pair;
        let side = match outcome {
            Recovered::RolledBack { .. } => base,
            Recovered::Completed { .. } => target,
            _ => {
                let same = without_pulse(before.clone()) == without_pulse(after.clone());
                assert!(same || self.pair.is_whole(&after, base), "{outcome:?}, but it is not");
                if self.untouched {
                    assert!(after == *base || after == *target, "{outcome:?} of a mixture");
                }
                return;
            }
        };
        assert!(self.pair.is_whole(&after, side), "{outcome:?}, but the tensors are others");
        assert!(!self.untouched || after == *side, "{outcome:?}, but files are others");
    }

    /// What readers find: a marked file to nobody.
    fn check_seen(&self) {
        let files = snapshot(&self.directory);
        let opened = Checkpoint::open(self.checkpoint());
        let of_it = |name: &str| if self.pair.is_file { name == FILE } else { is_tensors(name) };
        let led_to = |name: &str| {
            !files.contains_key(INDEX) || self.pair.tensor_files().contains(&name.to_string())
        };
        let marked =
            files.iter().any(|(name, bytes)| of_it(name) && led_to(name) && is_marked(bytes));
        if marked && !files.contains_key(INDEX) {
            assert!(opened.is_err(), "a marked file opens");
        }
        if self.untouched && !marked {
            let files = without_pulse(files);
            let whole = files == self.pair.base || files == self.pair.target;
            assert!(whole, "a mixture that nobody but updates made");
            assert!(opened.is_ok(), "base or target does not open: {:?}", opened.err());
        }
    }
}

/// Updates and recoveries that are killed or fail at any operation, between acts of people: nothing ever opens as a
/// mixture that an update made, what is someone's own stays, and a recovery that says so made all base or all target.
pub fn updates(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let scratch = scratch();
    let pair = Pair::of(case.pair);
    let directory = scratch.path().join("room");
    write(&directory, &pair.base);
    let mut room = Room {
        pair,
        scratch: scratch.path().into(),
        directory,
        copies: 0,
        kept: None,
        untouched: true,
    };
    case.steps.iter().take(STEPS_MAX).for_each(|step| room.step(step));
    room.step(&Step::Recover { goes_wrong: None });
}
