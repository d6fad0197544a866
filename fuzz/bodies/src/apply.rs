//! Patches applied to the checkpoints of `testvectors/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pulse::checkpoint::{ApplyOptions, FilePolicy};
use pulse::patch::FileEntry;
use pulse::tensors::{Control, PrepareOptions, TensorMut, WeightsMut};
use pulse::wire::{Action, FileKind, Footer, SIGNATURE};
use pulse::{Checkpoint, Error, Patch, Result};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::forge;

use super::limits;
use super::receiver::{digest, receive, Received, Tensors};

/// The checkpoints that patches of `testvectors/` start from.
const BASES: [&str; 16] = [
    "sample-base",
    "actions-base",
    "blocks-base",
    "classes-base",
    "dtypes-base",
    "empty",
    "far-base",
    "flat-base",
    "form-base",
    "names-base",
    "real-base",
    "shapes-base",
    "spec-base",
    "wide-base",
    "zeros-base",
    "carried-target",
];

/// The file of one of them.
fn base_file(name: &str) -> PathBuf {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testvectors/checkpoints");
    vectors.join(format!("{name}.safetensors"))
}

/// A place for files, in memory where there is one.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::tempdir_in(directory).expect("a temporary directory")
}

/// Every tensor of a checkpoint on disk.
pub fn read(checkpoint: &Checkpoint) -> Tensors {
    let tensors = checkpoint.tensors().map(|(name, tensor)| {
        let mut bytes = vec![0; tensor.spec().bytes() as usize];
        checkpoint.read_at(tensor, 0, &mut bytes).expect("a tensor of its size");
        (name.to_string(), (tensor.spec().clone(), bytes))
    });
    tensors.collect()
}

/// A base as a file and in memory.
struct Base {
    checkpoint: Checkpoint,
    tensors: Tensors,
    digest: [u8; 32],
}

impl Base {
    fn new(file: &Path) -> Base {
        let checkpoint = Checkpoint::open(file).expect("a checkpoint of the test vectors");
        let tensors = read(&checkpoint);
        Base { digest: digest(&tensors), checkpoint, tensors }
    }

    /// The base that a patch names; one with the same tensor if the digest is damaged; else any.
    fn of(patch: &[u8]) -> &'static Base {
        static BASES_READ: OnceLock<Vec<Base>> = OnceLock::new();
        let bases = BASES_READ
            .get_or_init(|| BASES.iter().map(|name| Base::new(&base_file(name))).collect());
        let sections = forge::sections(patch);
        let payload = |tag| {
            sections.iter().find(|section| section.tag == tag).map(|section| &section.payload[..])
        };
        let named = payload(b'F').and_then(|footer| footer.get(49..81));
        let first =
            payload(b'T').and_then(|tensor| tensor.get(2..2 + usize::from(*tensor.get(1)?)));
        let has = |base: &&Base| {
            first
                .and_then(|name| std::str::from_utf8(name).ok())
                .is_some_and(|name| base.tensors.contains_key(name))
        };
        bases
            .iter()
            .find(|base| Some(&base.digest[..]) == named)
            .or(bases.iter().find(has))
            .unwrap_or(&bases[0])
    }
}

/// Any patch, sealed, on the base that it names: refused, or exactly the target that it names, in every way of
/// applying it. Weights in memory are what they were after an error.
pub fn apply(data: &[u8]) {
    // Most bytes of a fuzzer are of no interest here: `decode` has them.
    if !data.starts_with(&SIGNATURE) {
        return;
    }
    let patch = forge::sealed(data);
    let base = Base::of(&patch);
    let received = match receive(&base.tensors, &patch, limits()) {
        Received::TooMuch => return,
        Received::Refused(why) => Err(why),
        Received::Target(target, footer) => Ok((target, footer)),
    };
    let opened = match Patch::from_bytes(patch, limits()) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(received.is_err(), "a patch that cannot be opened was applied: {error}");
            return;
        }
    };
    let target = received.as_ref().ok().map(|(target, _)| target);
    let case = Case { base, patch: &opened, target, footer: opened.footer() };
    case.prove(received.as_ref().err());
    case.to_memory();
    case.in_place();
    if !opened.files().is_empty() || opened.bytes() % 16 == 0 {
        case.to_disk();
    }
}

/// A patch, its base, and the target if there is one.
struct Case<'a> {
    base: &'a Base,
    patch: &'a Patch,
    target: Option<&'a Tensors>,
    footer: &'a Footer,
}

impl Case<'_> {
    fn is_snapshot(&self) -> bool {
        self.patch.header().snapshot
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        (!self.is_snapshot()).then_some(&self.base.checkpoint)
    }

    /// Whether the base is the one that the patch names.
    fn is_right_base(&self) -> bool {
        self.is_snapshot() || self.footer.base.map(|digest| digest.0) == Some(self.base.digest)
    }

    /// `verify` wants the base that is named, and looks at files too; apart from that it agrees with the receiver.
    fn prove(&self, refused: Option<&String>) {
        let verified = match self.checkpoint() {
            Some(base) => {
                self.patch.verify_with_base(base, FilePolicy::Exact, Control::threads(1)).map(drop)
            }
            None => self.patch.verify(Control::threads(1)),
        };
        match verified {
            Ok(()) => assert!(
                refused.is_none(),
                "verify takes what a receiver refuses: {}",
                refused.unwrap()
            ),
            Err(error) => {
                sound(&error);
                let expected = self.target.is_none()
                    || !self.is_right_base()
                    || !self.patch.files().is_empty();
                assert!(expected, "verify refuses a right target: {error}");
            }
        }
    }

    /// Makes new weights of a snapshot.
    fn to_memory(&self) {
        if !self.is_snapshot() {
            return;
        }
        match (self.patch.to_memory(Control::threads(1)), self.target) {
            (Ok(found), Some(target)) => assert!(found == *target, "other weights in memory"),
            (Err(error), None) => sound(&error),
            (Ok(_), None) => panic!("made in memory what a receiver refuses"),
            (Err(error), Some(_)) => panic!("refused in memory what a receiver takes: {error}"),
        }
    }

    /// Applies the patch to weights in memory, if nothing but changes is in it.
    fn in_place(&self) {
        if self.is_snapshot()
            || self.patch.tensors().iter().any(|tensor| tensor.header.action != Action::Patched)
        {
            return;
        }
        for way in [in_place, decoded_again] {
            let mut weights = self.base.tensors.clone();
            match (way(&mut weights, self.patch), self.target) {
                (Ok(()), Some(target)) => assert!(weights == *target, "other weights"),
                (Err(error), None) => {
                    sound(&error);
                    assert!(weights == self.base.tensors, "weights changed, and then: {error}");
                }
                (Ok(()), None) => panic!("applied in place what a receiver refuses"),
                (Err(error), Some(_)) => panic!("refused in place what a receiver takes: {error}"),
            }
        }
        // The same on a base that is another one.
        let changed = self.patch.tensors().iter().find(|tensor| !tensor.blocks.is_empty());
        let (Some(_), Some(changed)) = (self.target, changed) else { return };
        let mut other = self.base.tensors.clone();
        let at = changed.blocks[0].range().start as usize;
        other.get_mut(&changed.header.name).expect("a patched tensor").1[at] ^= 0x10;
        let mut weights = other.clone();
        match in_place(&mut weights, self.patch) {
            Ok(()) => {
                assert!(digest(&weights) == self.footer.target.0, "another target of a wrong base")
            }
            Err(error) => {
                assert!(weights == other, "weights of a wrong base changed, and then: {error}");
                assert!(
                    !self.is_right_base() || error.kind() == "base",
                    "a wrong base is called {error}"
                );
            }
        }
    }

    /// Writes files: all of them right, or none.
    fn to_disk(&self) {
        let scratch = scratch();
        let out = scratch.path().join("out");
        let applied = self.patch.apply(
            self.checkpoint(),
            &out,
            ApplyOptions::default().with_files(FilePolicy::Exact),
            Control::threads(1),
        );
        if let Err(error) = applied {
            sound(&error);
            let left = fs::read_dir(scratch.path()).expect("the scratch").count();
            assert!(left == 0, "{left} files are left after: {error}");
            return;
        }
        let target = self.target.expect("files were written of a patch that a receiver refuses");
        assert!(written(&out, self.patch) == *target, "other tensors in the files");
        let files = self.patch.files().iter().filter(|file| file.record.state.is_in_target());
        files.clone().for_each(|file| check_file(&out, file));
        if out.is_dir() && !self.patch.files().is_empty() {
            assert_eq!(fs::read_dir(&out).expect("the files").count(), files.count());
        }
    }
}

/// Every tensor of an output. Files are found by what the patch calls them, which may be anything.
fn written(out: &Path, patch: &Patch) -> Tensors {
    let open = |path: &Path| read(&Checkpoint::open(path).expect("a checkpoint that was written"));
    let records = patch.files().iter().map(|file| &file.record);
    let names: Vec<&str> = records
        .filter(|record| record.kind == FileKind::Tensors)
        .map(|record| &*record.name)
        .collect();
    match names[..] {
        [] | [""] => open(out),
        _ => names.iter().flat_map(|name| open(&out.join(name))).collect(),
    }
}

/// Compares a file with what the patch says of it.
fn check_file(out: &Path, file: &FileEntry) {
    let record = &file.record;
    let path = if record.name.is_empty() { PathBuf::from(out) } else { out.join(&record.name) };
    let bytes = fs::read(path).expect("a file that the patch describes");
    let described = match record.kind {
        FileKind::Tensors => &bytes[..record.bytes as usize],
        _ => &bytes[..],
    };
    assert!(
        Sha256::digest(described).as_slice() == record.sha256.0,
        "another file '{}'",
        record.name
    );
}

fn muts(weights: &mut Tensors) -> Result<WeightsMut<'_>> {
    let held = weights.iter_mut();
    held.map(|(name, (spec, bytes))| Ok((name.as_str(), TensorMut::new(spec.clone(), bytes)?)))
        .collect()
}

fn in_place(weights: &mut Tensors, patch: &Patch) -> Result<()> {
    patch.apply_to(&mut muts(weights)?, Control::threads(1)).map(|_| ())
}

/// In two phases, with nothing held decoded in between.
fn decoded_again(weights: &mut Tensors, patch: &Patch) -> Result<()> {
    let mut held = muts(weights)?;
    let options = PrepareOptions::default().with_changes_bytes_max(0);
    let prepared = patch.prepare(&held, options, Control::threads(1))?;
    prepared.commit(&mut held, Control::threads(1)).map(|_| ())
}

/// An error must be one that a patch or a base can cause, and say what is wrong.
fn sound(error: &Error) {
    assert!(!matches!(error, Error::Misuse(_) | Error::Io { .. }), "{error}");
    assert!(!error.kind().is_empty() && !error.to_string().is_empty());
}
