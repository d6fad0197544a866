//! What becomes of the files beside the tensors, wherever a patch meets them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use pulse::checkpoint::{diff, ApplyOptions, DiffOptions, FilePolicy};
use pulse::tensors::Control;
use pulse::update::{UpdateOptions, Way};
use pulse::{Checkpoint, Limits, Patch};

use super::apply::scratch;
use super::files::{index, small, snapshot, tensor_file, write, Contents};

#[derive(Debug, Arbitrary)]
struct Case {
    base: Layout,
    target: Layout,
    receiver: Layout,
    changes: bool,
    /// What the receiver has of the tensors.
    tensors: Tensors,
    /// Of each companion: its contents in base, target and receiver.
    companions: [[u8; 3]; COMPANIONS.len()],
    policy: Policy,
    in_place: Option<bool>,
}

#[derive(Debug, Arbitrary, Clone, Copy, PartialEq)]
enum Tensors {
    Base,
    Target,
    Others,
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Policy {
    Follow,
    Exact,
    Keep,
}

/// How tensors are saved.
#[derive(Debug, Arbitrary, Clone, Copy, PartialEq)]
struct Layout {
    shards: Shards,
    /// A note in the headers.
    note: bool,
}

#[derive(Debug, Arbitrary, Clone, Copy, PartialEq)]
enum Shards {
    One,
    Two,
    TwoWithIndex,
    /// The same tensors in each other's files.
    Swapped,
}

/// Companions by default, and two that are not.
const COMPANIONS: [&str; 6] =
    [".env", "a.json", "b.txt", "model.py", "optimizer.pt", "tokenizer.model"];
const USUAL: [&str; 4] = ["a.json", "b.txt", "model.py", "tokenizer.model"];
const INDEX: &str = "model.safetensors.index.json";

/// Contents of a companion: none, or one of three.
fn content(name: &str, number: u8) -> Option<Vec<u8>> {
    let repeat = usize::from(number % 4);
    // Of one size, and of others.
    (repeat > 0).then(|| format!("{name}{}", "xyzz".split_at(repeat).0).into_bytes())
}

impl Layout {
    /// Tensor files, and the index if there is one.
    fn files(self, version: u8) -> Contents {
        let tensors = [small("a", 40, version), small("b", 7, 0)];
        let [a, b] = [&tensors[..1], &tensors[1..]];
        let [one, two] = ["model-1.safetensors", "model-2.safetensors"];
        let file = |tensors: &[_]| tensor_file(tensors, u8::from(self.note));
        let named = |name: &str, bytes| (name.to_string(), bytes);
        match self.shards {
            Shards::One => [named("model.safetensors", file(&tensors))].into(),
            Shards::Two => [named(one, file(a)), named(two, file(b))].into(),
            Shards::Swapped => [named(one, file(b)), named(two, file(a))].into(),
            Shards::TwoWithIndex => {
                let index = index(&[("a", one), ("b", two)]);
                [named(one, file(a)), named(two, file(b)), named(INDEX, index)].into()
            }
        }
    }
}

fn is_tensors(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// Header of a tensor file.
fn header(file: &[u8]) -> &[u8] {
    &file[..8 + u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize]
}

/// What SPEC.md says of a file beside the tensors, by what base, target and receiver have.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The bytes in the output.
    Is(Option<Vec<u8>>, Told),
    Refused,
}

/// Whether the report names the file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Nothing,
    Differs,
}

impl Policy {
    fn of_library(self) -> FilePolicy {
        match self {
            Policy::Follow => FilePolicy::Follow,
            Policy::Exact => FilePolicy::Exact,
            Policy::Keep => FilePolicy::Keep,
        }
    }
}

type Bytes<'a> = Option<&'a Vec<u8>>;

/// R73, R74 and R98: a companion in the output, in a new place or in the place of the receiver's.
fn outcome(
    policy: Policy,
    in_place: bool,
    base: Bytes<'_>,
    target: Bytes<'_>,
    own: Bytes<'_>,
) -> Outcome {
    use Outcome::{Is, Refused};
    use Told::{Differs, Nothing};
    let mine = || own.cloned();
    match (policy, base, target) {
        (Policy::Keep, ..) => Is(mine(), Nothing),
        // Not listed: R73.
        (_, None, None) => Is(own.filter(|_| in_place).cloned(), Nothing),
        // Removed.
        (_, Some(base), None) => match own {
            None => Is(None, Nothing),
            Some(own) if own == base => Is(None, Nothing),
            Some(_) => Is(own.filter(|_| in_place).cloned(), Differs),
        },
        // Kept.
        (Policy::Exact, Some(base), Some(target)) if base == target => {
            if own == Some(base) {
                Is(mine(), Nothing)
            } else {
                Refused
            }
        }
        (_, Some(base), Some(target)) if base == target => {
            Is(mine(), if own == Some(base) { Nothing } else { Differs })
        }
        // New or replaced.
        (_, base, Some(target)) => {
            let is_ours = own.is_none() || own == Some(target) || own == base;
            match policy {
                _ if is_ours => Is(Some(target.clone()), Nothing),
                Policy::Exact if in_place => Refused,
                Policy::Exact => Is(Some(target.clone()), Nothing),
                _ => Is(mine(), Differs),
            }
        }
    }
}

/// What is known of a run.
struct Model {
    case: Case,
    base: Contents,
    target: Contents,
    receiver: Contents,
}

impl Model {
    /// Whether the receiver has all headers and indexes that the patch does not carry.
    fn has_files_of_patch(&self) -> bool {
        self.target.iter().filter(|(name, _)| is_tensors(name) || *name == INDEX).all(
            |(name, bytes)| {
                let part = |file: &'_ Vec<u8>| {
                    if is_tensors(name) {
                        header(file).to_vec()
                    } else {
                        file.clone()
                    }
                };
                let wanted = Some(part(bytes));
                let is_kept = self.base.get(name).map(part) == wanted;
                !is_kept || self.receiver.get(name).map(part) == wanted
            },
        )
    }

    /// Tensor files and index of the output.
    fn tensor_files(&self, followed: bool) -> Contents {
        let layout = if followed { self.case.target } else { self.case.receiver };
        layout.files(u8::from(self.case.changes))
    }

    /// The files of the output, and those that the report names. `None`: it is refused.
    fn output(&self) -> Option<(Contents, BTreeSet<String>)> {
        let (policy, in_place) = (self.case.policy, self.case.in_place.is_some());
        let has_files = self.has_files_of_patch();
        let followed = match policy {
            Policy::Keep => false,
            Policy::Exact if !has_files => return None,
            _ => has_files,
        };
        let mut files = self.tensor_files(followed);
        let mut told = BTreeSet::new();
        if !followed && !matches!(policy, Policy::Keep) {
            // Each tensor file and each index that is not as the patch says.
            let part = |file: Option<&Vec<u8>>, name: &str| {
                file.map(|file| if is_tensors(name) { header(file).to_vec() } else { file.clone() })
            };
            let names = self.target.keys().chain(self.base.keys()).chain(files.keys());
            for name in names.filter(|name| is_tensors(name) || *name == INDEX) {
                let listed = self.target.contains_key(name)
                    || *name == INDEX && self.base.contains_key(name);
                let same = part(files.get(name), name) == part(self.target.get(name), name);
                if !same || !listed {
                    told.insert(name.clone());
                }
            }
        }
        // The receiver's own of which the patch says nothing: not in a new output, or it stays.
        let is_listed =
            |name: &str| [&self.base, &self.target].iter().any(|it| it.contains_key(name));
        let is_kept = matches!(policy, Policy::Keep);
        let unlisted = |name: &str| self.receiver.contains_key(name) && !is_listed(name);
        if unlisted(INDEX) && !(is_kept && files.contains_key(INDEX)) {
            told.insert(INDEX.into());
        }
        told.extend(USUAL.into_iter().filter(|name| unlisted(name) && !is_kept).map(String::from));
        for name in COMPANIONS {
            let is_usual = USUAL.contains(&name);
            let of = |files: &'_ Contents| files.get(name).filter(|_| is_usual).cloned();
            let [base, target] = [of(&self.base), of(&self.target)];
            let own = self.receiver.get(name).filter(|_| is_usual || in_place);
            let outcome = match (policy, is_usual) {
                (Policy::Keep, false) => Outcome::Is(own.cloned(), Told::Nothing),
                _ => outcome(policy, in_place, base.as_ref(), target.as_ref(), own),
            };
            match outcome {
                Outcome::Refused => return None,
                Outcome::Is(bytes, is_told) => {
                    if let Some(bytes) = bytes {
                        files.insert(name.into(), bytes);
                    }
                    if is_told == Told::Differs {
                        told.insert(name.into());
                    }
                }
            }
        }
        Some((files, told))
    }
}

/// Base, target and receiver with any files beside the tensors: what `apply` and `update` make of the receiver's is
/// what the tables of SPEC.md §9 say, and what differs from the patch is named.
pub fn companions(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let scratch = scratch();
    let place = |name: &str| scratch.path().join(name);
    let version = |tensors: Tensors| match tensors {
        Tensors::Base => 0,
        Tensors::Target => u8::from(case.changes),
        Tensors::Others => 2,
    };
    let files = |layout: Layout, tensors: Tensors, side: usize| {
        let mut files = layout.files(version(tensors));
        for (name, contents) in COMPANIONS.into_iter().zip(&case.companions) {
            if let Some(bytes) = content(name, contents[side]) {
                files.insert(name.into(), bytes);
            }
        }
        files
    };
    let base = files(case.base, Tensors::Base, 0);
    let target = files(case.target, Tensors::Target, 1);
    let receiver = files(case.receiver, case.tensors, 2);
    for (name, files) in [("base", &base), ("target", &target), ("receiver", &receiver)] {
        write(&place(name), files);
    }
    let open = |name: &str| Checkpoint::open(place(name)).expect("a checkpoint");
    let (mut patch, control) = (Vec::new(), Control::threads(1));
    diff(Some(&open("base")), &open("target"), &mut patch, DiffOptions::default(), control)
        .expect("two checkpoints");
    let patch = Patch::from_bytes(patch, Limits::default()).expect("a patch of our own");
    let model = Model { case, base, target, receiver };
    if model.case.in_place.is_some() {
        updated(&model, &patch, &place("receiver"));
    } else {
        applied(&model, &patch, &open("receiver"), &place("out"));
        assert!(snapshot(&place("receiver")) == model.receiver, "the receiver's own files changed");
    }
}

/// Whether the receiver's tensors are those of the base.
fn has_base(case: &Case) -> bool {
    case.tensors == Tensors::Base || case.tensors == Tensors::Target && !case.changes
}

fn notes(notes: &[pulse::checkpoint::FileNote]) -> BTreeSet<String> {
    notes.iter().map(|note| note.name.clone()).collect()
}

fn applied(model: &Model, patch: &Patch, receiver: &Checkpoint, out: &Path) {
    let options = ApplyOptions::default().with_files(model.case.policy.of_library());
    let done = patch.apply(Some(receiver), out, options, Control::threads(1));
    let expected = model.output().filter(|_| has_base(&model.case));
    match (expected, done) {
        (None, Err(_)) => assert!(!out.exists(), "an output of a refusal"),
        (None, Ok(report)) => panic!("it is not refused: {report:?}"),
        (Some(_), Err(error)) => panic!("it is refused: {error}"),
        (Some((files, told)), Ok(report)) => {
            compare(&snapshot(out), &files);
            assert_eq!(notes(&report.notes), told, "{:?}", report.notes);
        }
    }
}

fn updated(model: &Model, patch: &Patch, path: &Path) {
    let case = &model.case;
    let way = if case.in_place == Some(true) { Way::Undo } else { Way::Redo };
    let options = UpdateOptions::default().with_files(case.policy.of_library()).with_way(way);
    let done = patch.update(path, options, Control::threads(1));
    let found = snapshot(path);
    // Nothing is left over, whatever came of it.
    match (model.output(), done) {
        (_, Err(error)) if !has_base(case) => {
            compare(&found, &model.receiver);
            assert!(!error.to_string().is_empty());
        }
        (_, Ok(report)) if !has_base(case) => {
            // It has the target already.
            assert!(report.already() && case.tensors == Tensors::Target, "{report:?}");
            compare(&found, &model.receiver);
        }
        (None, Err(_)) => compare(&found, &model.receiver),
        (None, Ok(report)) => panic!("it is not refused: {report:?}"),
        (Some((files, told)), Err(error)) => {
            compare(&found, &model.receiver);
            // Overwriting cannot move a tensor; and files in new places may be refused.
            let moves = case.base != case.target || case.receiver != case.target;
            // Where there is nothing to do, a file that is only to be named is refused.
            let exact = matches!(case.policy, Policy::Exact) && !told.is_empty();
            assert!(moves || exact, "{error}, where the update gives {:?}", files.keys());
        }
        (Some((mut files, told)), Ok(report)) => {
            // What is not listed stays; an index that leads to the same files is no other (R73).
            let listed = model.base.contains_key(INDEX) || model.target.contains_key(INDEX);
            if let Some(own) = model.receiver.get(INDEX).filter(|_| !listed) {
                files.insert(INDEX.into(), own.clone());
            }
            compare(&found, &files);
            assert_eq!(notes(&report.target.notes), told, "{:?}", report.target.notes);
        }
    }
}

fn compare(found: &Contents, expected: &Contents) {
    let differ = |name: &&String| found.get(*name) != expected.get(*name);
    let names: BTreeMap<&String, _> =
        found.keys().chain(expected.keys()).filter(differ).map(|name| (name, ())).collect();
    assert!(names.is_empty(), "other files than expected: {:?}", names.keys());
}
