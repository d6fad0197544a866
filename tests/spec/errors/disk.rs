//! The errors that need checkpoints on disk, each with what it must be.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use pulse::chain::{ComposeOptions, InvertOptions};
use pulse::checkpoint::{write_whole, ApplyOptions, DiffOptions, Existing, FilePolicy};
use pulse::error::{BaseMismatch, Change, Content, Fault, FileFault, Made, Occupant};
use pulse::hash::{tensor_digest, Digest};
use pulse::stream::EncoderOptions;
use pulse::tensors::{Control, Part, TensorMut, WeightsMut};
use pulse::update::{recover, UpdateOptions};
use pulse::wire::Tag;
use pulse::{Checkpoint, Error, Limits, Patch};

use super::{digest_of, four};
use testkit::files::{safetensors, tensor, Files, Place};
use testkit::forge;
use testkit::library::{diff, open, open_patch};

/// "base", "target" and "other", each a file of "w", U8 [4], and "patch" from base to target.
pub fn scene() -> Place {
    let place = Place::new();
    for (name, bytes) in [("base", b"abcd"), ("target", b"abce"), ("other", b"abcf")] {
        place.put(name, &Files::one(&[tensor("w", "U8", &[4], *bytes)]));
    }
    diff(
        Some(&place.path("base")),
        &place.path("target"),
        &place.path("patch"),
        EncoderOptions::default(),
        1,
    );
    place
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(<sha2::Sha256 as sha2::Digest>::digest(bytes).into())
}

/// The place, as errors about an update name it.
fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap()
}

/// As `real`, for what is not there.
fn real_parent(path: PathBuf) -> PathBuf {
    real(path.parent().unwrap().into()).join(path.file_name().unwrap())
}

pub fn on_disk() -> Vec<(Error, Error)> {
    [of_the_caller(), of_patches(), of_updates()].into_iter().flatten().collect()
}

/// What applying to "abcf" in memory says.
fn applied_to_weights(patch: &Patch) -> Error {
    let mut bytes = *b"abcf";
    let mut held: WeightsMut<'_> =
        [("w", TensorMut::new(four(), &mut bytes).unwrap())].into_iter().collect();
    patch.apply_to(&mut held, Control::threads(1)).unwrap_err()
}

/// The checkpoint, the output or the patches that were chosen are others than they should be.
fn of_the_caller() -> Vec<(Error, Error)> {
    let place = scene();
    let control = Control::threads(1);
    let patch = open_patch(&place.path("patch"));
    let (base, other) = (open(&place.path("base")), open(&place.path("other")));
    let in_memory =
        || Patch::from_bytes(fs::read(place.path("patch")).unwrap(), Limits::default()).unwrap();
    let junk = place.put_bytes("junk", b"\xffunt\x02");
    let growing = place.put("growing", &Files::one(&[tensor("w", "U8", &[4], *b"abcd")]));
    // A companion that the base has, and "bare" lacks.
    let directory = |name: &str, bytes: &[u8], config: Option<&[u8]>| {
        let mut files = vec![("model.safetensors", safetensors(&[tensor("w", "U8", &[4], bytes)]))];
        files.extend(config.map(|config| ("config", config.to_vec())));
        place.put(
            name,
            &Files::Many(files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect()),
        )
    };
    let with = [
        directory("base-dir", b"abcd", Some(b"{}")),
        directory("target-dir", b"abce", Some(b"{}")),
    ];
    let bare = directory("bare-dir", b"abcd", None);
    diff(Some(&with[0]), &with[1], &place.path("dir-patch"), EncoderOptions::default(), 1);
    let dir_patch = open_patch(&place.path("dir-patch"));

    let mismatch = |file: Option<PathBuf>| {
        let mut mismatch =
            BaseMismatch::new(Some("w".into()), tensor_digest(b"abcd"), tensor_digest(b"abcf"));
        (mismatch.file, mismatch.tensors) = (file, Some((1, 1)));
        Error::BaseMismatch(Box::new(mismatch))
    };
    let exact = FilePolicy::Exact;
    let (apply, out) = (ApplyOptions::default().with_files(exact), place.path("out"));
    vec![
        (
            patch.verify_target(&other, exact, control).unwrap_err(),
            Error::TargetMismatch {
                file: Some(place.path("patch")),
                tensor: Some("w".into()),
                expected: tensor_digest(b"abce"),
                found: tensor_digest(b"abcf"),
            },
        ),
        (
            patch.verify_with_base(&other, exact, control).unwrap_err(),
            mismatch(Some(place.path("patch"))),
        ),
        (in_memory().verify_with_base(&other, exact, control).unwrap_err(), mismatch(None)),
        (applied_to_weights(&patch), mismatch(Some(place.path("patch")))),
        (applied_to_weights(&in_memory()), mismatch(None)),
        (
            Checkpoint::open(&junk).unwrap_err(),
            Error::BadFile { path: Some(junk.clone()), fault: FileFault::TooShort { bytes: 5 } },
        ),
        (
            dir_patch.apply(Some(&open(&bare)), &out, apply, control).unwrap_err(),
            Error::BaseFile {
                path: Some(bare.join("config")),
                name: "config".into(),
                bytes: 2,
                sha256: sha256(b"{}"),
            },
        ),
        (
            Patch::compose(
                &[open_patch(&place.path("patch")), in_memory()],
                None,
                io::sink(),
                ComposeOptions::default(),
                control,
            )
            .unwrap_err(),
            Error::Chain {
                file: None,
                before: place.path("patch").display().to_string(),
                patch: "the patch in memory".into(),
                what: format!(
                    "its base has digest {}, but the target of the other is {}",
                    digest_of(b"abcd"),
                    digest_of(b"abce")
                ),
                digests: Some(Box::new((digest_of(b"abcd"), digest_of(b"abce")))),
            },
        ),
        (
            Part::from_bytes(b"junk".to_vec()).unwrap_err(),
            Error::Part { file: None, what: "it is no part of a patch".into() },
        ),
        (
            patch.apply(None, &out, apply, control).unwrap_err(),
            Error::NeedsBase {
                file: Some(place.path("patch")),
                what: "not a snapshot: it needs the base that it was made from".into(),
            },
        ),
        (
            write_whole(&junk, Existing::Refuse, &[], |_| Ok(())).unwrap_err(),
            Error::Exists { path: junk, found: Occupant::File },
        ),
        (
            dir_patch.apply(Some(&open(&with[0])), place.root(), apply, control).unwrap_err(),
            Error::Exists { path: place.root().into(), found: Occupant::Directory },
        ),
        (
            {
                let (grown, place) = (open(&growing), &growing);
                fs::write(place, safetensors(&[tensor("w", "U8", &[5], *b"abcde")])).unwrap();
                grown.digest(control).unwrap_err()
            },
            Error::Changed {
                how: Change::Resized {
                    expected: fs::metadata(place.path("base")).unwrap().len(),
                    found: fs::metadata(place.path("base")).unwrap().len() + 1,
                },
                path: growing.clone(),
            },
        ),
        (
            pulse::checkpoint::diff(
                None,
                &base,
                io::sink(),
                DiffOptions::default(),
                control.with_progress(&|_| ControlFlow::Break(())),
            )
            .unwrap_err(),
            Error::Cancelled,
        ),
        (
            Checkpoint::open(place.path("nowhere")).unwrap_err(),
            Error::Io {
                doing: "opening".into(),
                path: Some(place.path("nowhere")),
                source: io::Error::from_raw_os_error(2),
            },
        ),
    ]
}

/// The patch is at fault, or cannot do what is asked.
fn of_patches() -> Vec<(Error, Error)> {
    let place = scene();
    let control = Control::threads(1);
    let page = place.put_bytes("page", b"<html>");
    let patch = fs::read(place.path("patch")).unwrap();
    // It says that its target has another digest, or more bytes.
    let lie =
        place.put_bytes("lie", &forge::replaced(&patch, b'F', &digest_of(b"abce").0, &[7; 32]));
    let totals = |bytes: u64| [1u64, 4, bytes].map(u64::to_le_bytes).concat();
    let more = place.put_bytes("more", &forge::replaced(&patch, b'F', &totals(4), &totals(5)));
    let cut = place.put_bytes("cut", &patch[..20]);
    let snapshot = place.path("snapshot");
    diff(None, &place.path("target"), &snapshot, EncoderOptions::default(), 1);
    let base = open(&place.path("base"));
    // As "lie", of a patch that changes nothing.
    let still = place.path("still");
    diff(Some(&place.path("base")), &place.path("base"), &still, EncoderOptions::default(), 1);
    let bytes = fs::read(&still).unwrap();
    let digests = [digest_of(b"abcd").0; 2].concat();
    let lied = [digest_of(b"abcd").0, [7; 32]].concat();
    let still = place.put_bytes("still", &forge::replaced(&bytes, b'F', &digests, &lied));
    let alone = place.put("alone", &Files::one(&[tensor("w", "U8", &[4], *b"abcd")]));
    let total = {
        let Error::Corrupt(mut corrupt) =
            (Fault::Count { field: "target bytes", expected: 4, found: 5 })
                .at(fs::metadata(&more).unwrap().len())
        else {
            panic!("a fault makes a corrupt file")
        };
        (corrupt.file, corrupt.section) = (Some(more.clone()), Some(Tag::FOOTER));
        Error::Corrupt(corrupt)
    };
    let truncated = {
        // The file is named where a stream has none.
        let Error::Corrupt(mut corrupt) = super::error_of(&patch[..20]) else {
            panic!("it is cut short")
        };
        assert_eq!((corrupt.offset, &corrupt.file), (20, &None));
        corrupt.file = Some(cut.clone());
        Error::Corrupt(corrupt)
    };
    vec![
        (
            open_patch(&lie).verify_with_base(&base, FilePolicy::Exact, control).unwrap_err(),
            Error::WrongResult {
                file: Some(lie),
                made: Made::Checkpoint,
                expected: Digest([7; 32]),
                found: digest_of(b"abce"),
            },
        ),
        (
            open_patch(&still).update(alone, UpdateOptions::default(), control).unwrap_err(),
            Error::Unfit {
                file: Some(still),
                what:
                    "the patch is inconsistent: applied to its own base it does not give its target"
                        .into(),
            },
        ),
        (open_patch(&more).verify_with_base(&base, FilePolicy::Exact, control).unwrap_err(), total),
        (Patch::open(&cut, Limits::default()).unwrap_err(), truncated),
        (
            Checkpoint::open(&page).unwrap_err(),
            Error::BadFile {
                path: Some(page),
                fault: FileFault::NoCheckpoint(Content::Html { title: None }),
            },
        ),
        (
            Patch::open(place.root(), Limits::default()).unwrap_err(),
            Error::BadFile {
                path: Some(place.root().into()),
                fault: FileFault::NoPatch(Content::Directory),
            },
        ),
        (
            open_patch(&snapshot)
                .invert(io::sink(), InvertOptions::default(), control)
                .unwrap_err(),
            Error::NotInvertible {
                file: Some(snapshot.clone()),
                what: "a snapshot has no base".into(),
            },
        ),
        (
            open_patch(&snapshot)
                .update(place.path("base"), UpdateOptions::default(), control)
                .unwrap_err(),
            Error::NotInPlace {
                path: Some(place.path("base")),
                what: "a snapshot replaces every tensor".into(),
            },
        ),
        (
            Patch::open(&snapshot, Limits::default().with_tensors(0)).unwrap_err(),
            Error::Limit {
                file: Some(snapshot.clone()),
                limit: "tensors",
                asked: 1,
                allowed: 0,
                offset: tensor_offset(&fs::read(&snapshot).unwrap()),
            },
        ),
    ]
}

/// Where the section of the first tensor header starts.
fn tensor_offset(patch: &[u8]) -> u64 {
    let before = forge::sections(patch).into_iter().take_while(|section| section.tag != b'T');
    // Tag, length of one byte, payload, CRC.
    let sizes = before.map(|section| {
        assert!(section.payload.len() < 128);
        section.payload.len() as u64 + 6
    });
    10 + sizes.sum::<u64>()
}

/// An update in place that was interrupted, or runs.
fn of_updates() -> Vec<(Error, Error)> {
    let control = Control::threads(1);
    let place = scene();
    let base = place.path("base");
    let file = File::open(&base).unwrap();
    file.lock().unwrap();
    let update =
        || open_patch(&place.path("patch")).update(&base, UpdateOptions::default(), control);
    let busy = update().unwrap_err();
    drop(file);
    // Five bytes of its own, and three that all marks have.
    let whole = fs::read(&base).unwrap();
    fs::write(&base, [b"\x01\x02\x03\x84\x05up\xff", &whole[8..]].concat()).unwrap();
    let journal = place.path("pulse-update-0102038405.undo");
    let marked = [Checkpoint::open(&base).unwrap_err(), recover(&base, control).unwrap_err()];
    fs::write(&base, whole).unwrap();
    let undo = place.put_bytes(".base.pulse-undo", b"not a journal");
    let [first, second] = marked;
    let signature = {
        let Error::Corrupt(mut corrupt) = (Fault::Signature { found: *b"not a jo" }).at(0) else {
            panic!("a fault makes a corrupt file")
        };
        (corrupt.file, corrupt.content) = (Some(real(undo.clone())), Some(Content::Text));
        Box::new(Error::Corrupt(corrupt))
    };
    vec![
        (busy, Error::Busy { path: real(base.clone()) }),
        (
            first,
            Error::Interrupted { path: base.clone(), journal: journal.clone(), is_there: false },
        ),
        (
            second,
            Error::Interrupted {
                path: real(base.clone()),
                journal: real_parent(journal),
                is_there: false,
            },
        ),
        (
            Checkpoint::open(&base).unwrap_err(),
            Error::Interrupted { path: base.clone(), journal: real(undo.clone()), is_there: true },
        ),
        (
            recover(&base, control).unwrap_err(),
            Error::Unrecovered { path: real(undo), source: signature, update: None },
        ),
    ]
}
