//! What an error answers without being matched: file, offset, tensor, expected, found, advice.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use pulse::error::{
    is_visible, Advice, BaseMismatch, Change, Content, Fault, FileFault, Made, Occupant,
};
use pulse::hash::Digest;
use pulse::wire::Tag;
use pulse::Error;

const ZERO: Digest = Digest([0; 32]);
const ONE: Digest = Digest([1; 32]);

/// File, offset, tensor, expected, found.
type Answers<'a> =
    (Option<&'a str>, Option<u64>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

#[track_caller]
fn answers(error: &Error, expected: Answers<'_>) {
    let (file, offset, tensor, wanted, found) = expected;
    assert_eq!(error.file(), file.map(Path::new), "{error}");
    assert_eq!((error.offset(), error.tensor()), (offset, tensor), "{error}");
    assert_eq!((error.expected().as_deref(), error.found().as_deref()), (wanted, found), "{error}");
}

/// Each rule of the format, what it expects and what was found, and what to do.
#[test]
fn every_fault_says_what_was_expected_and_found_where_both_are_known() {
    use Advice::{CreateAgain, TransferAgain, TransferAsBinary, UseNewerReader};
    let field = "field";
    let (zero, one) = (ZERO.to_string(), ONE.to_string());
    for (fault, compared, advice) in [
        (
            Fault::Signature { found: *b"{\"w\":{\"d" },
            Some(("ab504c530d0a1a0a", "7b2277223a7b2264")),
            TransferAsBinary,
        ),
        (Fault::Truncated { missing: 3 }, None, TransferAgain),
        (Fault::Trailing, None, TransferAgain),
        (
            Fault::Crc { expected: 1, found: 0xdead_beef },
            Some(("00000001", "deadbeef")),
            TransferAgain,
        ),
        (Fault::FileDigest { expected: ZERO, found: ONE }, Some((&*zero, &*one)), TransferAgain),
        (Fault::Order { expected: "a tensor" }, None, CreateAgain),
        (Fault::UnknownSection { tag: Tag(b'Z') }, None, UseNewerReader),
        (Fault::Varint { field }, None, CreateAgain),
        (
            Fault::Reserved { field, found: 0x2c },
            Some(("0 in undefined bits", "0x2c")),
            CreateAgain,
        ),
        (Fault::Value { field, found: 9, expected: "0 to 3" }, Some(("0 to 3", "9")), CreateAgain),
        (Fault::Length { field, expected: 5, found: 6 }, Some(("5", "6")), CreateAgain),
        (Fault::Name { field, found: "..".into() }, None, CreateAgain),
        (Fault::Duplicate { field, found: "w".into() }, None, CreateAgain),
        (Fault::Count { field, expected: 2, found: 3 }, Some(("2", "3")), CreateAgain),
        (Fault::Stream { field, found: "too long".into() }, None, CreateAgain),
        (Fault::Position { found: 10, elements: 4 }, Some(("less than 4", "10")), CreateAgain),
        (Fault::Digest { field, expected: ZERO, found: ONE }, Some((&*zero, &*one)), CreateAgain),
    ] {
        let error = fault.at(7);
        let compared = compared.unzip();
        answers(&error, (None, Some(7), None, compared.0, compared.1));
        assert_eq!(error.advice(), Some(advice), "{error}");
    }
}

#[test]
fn every_error_answers_for_what_it_holds() {
    let (zero, one) = (ZERO.to_string(), ONE.to_string());
    let digests = (Some(zero.as_str()), Some(one.as_str()));
    let file = || Some("x.pulse".into());
    let what = || "what".to_string();

    let Error::Corrupt(mut corrupt) =
        (Fault::Count { field: "changes", expected: 2, found: 3 }).at(40)
    else {
        panic!("a fault makes a corrupt file")
    };
    (corrupt.file, corrupt.tensor) = (file(), Some("w".into()));
    answers(&Error::Corrupt(corrupt), (Some("x.pulse"), Some(40), Some("w"), Some("2"), Some("3")));
    answers(
        &Error::Version { file: file(), major: 2, minor: 5, known: 1 },
        (Some("x.pulse"), None, None, Some("1"), Some("2")),
    );
    answers(
        &Error::Limit { file: file(), limit: "tensors", asked: 9, allowed: 8, offset: 12 },
        (Some("x.pulse"), Some(12), None, Some("at most 8"), Some("9")),
    );
    let mut mismatch = BaseMismatch::new(Some("w".into()), ZERO, ONE);
    mismatch.file = file();
    answers(
        &Error::BaseMismatch(Box::new(mismatch)),
        (Some("x.pulse"), None, Some("w"), digests.0, digests.1),
    );
    answers(
        &Error::TargetMismatch {
            file: file(),
            tensor: Some("w".into()),
            expected: ZERO,
            found: ONE,
        },
        (Some("x.pulse"), None, Some("w"), digests.0, digests.1),
    );
    let follows = |digests| Error::Chain {
        file: file(),
        before: "a".into(),
        patch: "b".into(),
        what: what(),
        digests,
    };
    answers(&follows(None), (Some("x.pulse"), None, None, None, None));
    let both = Some(Box::new((ZERO, ONE)));
    answers(&follows(both), (Some("x.pulse"), None, None, digests.0, digests.1));
    let (name, bytes) = ("config".to_string(), 2);
    let of_base = Error::BaseFile { path: file(), name, bytes, sha256: ZERO };
    let expected = format!("2 bytes with SHA-256 {zero}");
    answers(&of_base, (Some("x.pulse"), None, None, Some(&expected), None));
    for (made, tensor) in [
        (Made::Tensor("w".into()), Some("w")),
        (Made::Checkpoint, None),
        (Made::File("config".into()), None),
    ] {
        answers(
            &Error::WrongResult { file: file(), made, expected: ZERO, found: ONE },
            (Some("x.pulse"), None, tensor, digests.0, digests.1),
        );
    }
    for error in [
        Error::Part { file: file(), what: what() },
        Error::NeedsBase { file: file(), what: what() },
        Error::NotInvertible { file: file(), what: what() },
        Error::Unfit { file: file(), what: what() },
        Error::NotInPlace { path: file(), what: what() },
        Error::BadFile { path: file(), fault: FileFault::NoTensors },
        Error::Io { doing: what(), path: file(), source: ErrorKind::NotFound.into() },
        Error::Exists { path: "x.pulse".into(), found: Occupant::File },
        Error::Busy { path: "x.pulse".into() },
        Error::Interrupted { path: "x.pulse".into(), journal: "y".into(), is_there: true },
        Error::Unrecovered {
            path: "x.pulse".into(),
            source: Box::new(Error::Cancelled),
            update: None,
        },
    ] {
        answers(&error, (Some("x.pulse"), None, None, None, None));
    }
    // In memory or a stream, or about no file: none is made up.
    for error in [
        Error::Chain {
            file: None,
            before: "a".into(),
            patch: "b".into(),
            what: what(),
            digests: None,
        },
        Error::Cancelled,
        Error::Misuse(what()),
        Error::Internal(what()),
        Error::NeedsBase { file: None, what: what() },
        Error::Io { doing: what(), path: None, source: ErrorKind::NotFound.into() },
    ] {
        answers(&error, (None, None, None, None, None));
    }
}

#[test]
fn every_error_has_the_advice_that_fits_it() {
    use FileFault as F;
    let bad = |fault| Error::BadFile { path: None, fault };
    let io =
        |kind: ErrorKind| Error::Io { doing: "reading".into(), path: None, source: kind.into() };
    let stuck =
        |source| Error::Unrecovered { path: "x".into(), source: Box::new(source), update: None };
    let interrupted =
        |is_there| Error::Interrupted { path: "x".into(), journal: "y".into(), is_there };
    let base = |is_target| {
        let mut mismatch = BaseMismatch::new(None, ZERO, ONE);
        mismatch.is_target = is_target;
        Error::BaseMismatch(Box::new(mismatch))
    };
    let (text, what) = (|| "x".to_string(), || "what".to_string());
    for (error, advice) in [
        (Error::Version { file: None, major: 2, minor: 0, known: 1 }, Some("use-newer-reader")),
        (
            Error::Limit { file: None, limit: "rank", asked: 9, allowed: 8, offset: 0 },
            Some("raise-limit"),
        ),
        (base(false), Some("use-its-base")),
        (base(true), Some("nothing-to-do")),
        (
            Error::TargetMismatch { file: None, tensor: None, expected: ZERO, found: ONE },
            Some("use-its-target"),
        ),
        (
            Error::WrongResult { file: None, made: Made::Checkpoint, expected: ZERO, found: ONE },
            Some("create-again"),
        ),
        (
            Error::Chain { file: None, before: text(), patch: text(), what: what(), digests: None },
            Some("give-every-patch"),
        ),
        (Error::Part { file: None, what: what() }, Some("give-every-part")),
        (Error::NeedsBase { file: None, what: what() }, Some("give-its-base")),
        (Error::NotInvertible { file: None, what: what() }, Some("keep-base")),
        (Error::NotInPlace { path: None, what: what() }, Some("write-new-checkpoint")),
        (Error::Unfit { file: None, what: what() }, Some("create-again")),
        (
            Error::BaseFile { path: None, name: text(), bytes: 0, sha256: ZERO },
            Some("use-its-base-files"),
        ),
        (
            Error::Exists { path: "x".into(), found: Occupant::Directory },
            Some("choose-another-place"),
        ),
        (Error::Busy { path: "x".into() }, Some("wait")),
        (interrupted(true), Some("recover")),
        (interrupted(false), Some("copy-journal")),
        (stuck(Fault::Trailing.at(3)), Some("fetch-checkpoint-again")),
        (stuck(io(ErrorKind::TimedOut)), Some("check-disk")),
        (stuck(io(ErrorKind::PermissionDenied)), Some("allow-and-recover")),
        (Error::Cancelled, None),
        (Error::Misuse(what()), None),
        (Error::Internal(what()), Some("report")),
        (io(ErrorKind::NotFound), Some("check-path")),
        (io(ErrorKind::PermissionDenied), Some("check-permissions")),
        (io(ErrorKind::StorageFull), Some("make-room")),
        (io(ErrorKind::QuotaExceeded), Some("make-room")),
        (io(ErrorKind::ReadOnlyFilesystem), Some("choose-writable-place")),
        (io(ErrorKind::UnexpectedEof), Some("try-again")),
        (io(ErrorKind::TimedOut), None),
        (bad(F::TooShort { bytes: 1 }), Some("copy-again")),
        (bad(F::HeaderLength { found: 9, most: 8 }), Some("give-checkpoint")),
        (bad(F::NoCheckpoint(Content::Gguf)), Some("convert")),
        (bad(F::NoPatch(Content::Gguf)), Some("give-patch")),
        (bad(F::Size { expected: 9, found: 8 }), Some("copy-again")),
        (bad(F::Header(text())), Some("save-again")),
        (bad(F::Index(text())), Some("save-again")),
        (bad(F::MissingShard(text())), Some("copy-again")),
        (bad(F::DuplicateTensor { tensor: text(), other: text() }), Some("choose-one")),
        (bad(F::WantsDirectory), Some("use-its-base-files")),
        (bad(F::WantsFile), Some("use-its-base-files")),
        (bad(F::Name(text())), Some("rename")),
        (bad(F::SameName { name: text(), other: text() }), Some("rename")),
        (Error::Changed { path: "x".into(), how: Change::Written }, Some("leave-unchanged")),
        (bad(F::NoTensors), Some("give-checkpoint")),
        (bad(F::NotRegular), Some("give-regular-file")),
        (bad(F::Root), Some("give-checkpoint")),
        (bad(F::Refused(text())), None),
        (bad(F::HeadersTooLarge { bytes: 9, allowed: 8 }), None),
        (bad(F::Linked(text())), Some("copy-linked")),
        (bad(F::OtherFile), Some("copy-again")),
        (bad(F::OtherCompanion), Some("use-its-base-files")),
    ] {
        assert_eq!(error.advice().map(Advice::name), advice, "{error}");
        // What happened is one thing, what to do another.
        if let Some(advice) = error.advice() {
            assert!(!error.to_string().contains(&advice.to_string()), "{error}");
        }
    }
}

/// Names come from files and from strangers; whoever prints an error must be safe from them.
#[test]
fn no_text_of_an_error_acts_on_a_terminal() {
    use FileFault as F;
    let evil = || "\u{1b}[2J\n\u{9b}\u{202e}\u{200b}\u{2066}\u{feff}\u{2028}\u{e0041}".to_string();
    let path = || PathBuf::from(evil());
    let bad = |fault| Error::BadFile { path: Some(path()), fault };
    let io = || Error::Io { doing: evil(), path: Some(path()), source: io::Error::other(evil()) };
    let corrupt = |fault: Fault, content: Option<Content>| {
        let Error::Corrupt(mut corrupt) = fault.at(7) else {
            panic!("a fault makes a corrupt file")
        };
        (corrupt.file, corrupt.tensor, corrupt.content) = (Some(path()), Some(evil()), content);
        Error::Corrupt(corrupt)
    };
    let mut mismatch = BaseMismatch::new(Some(evil()), ZERO, ONE);
    mismatch.file = Some(path());
    (mismatch.missing, mismatch.extra) = (vec![evil()], vec![evil(); 9]);
    let (file, what, field) = (|| Some(path()), evil, "field");
    let page = Content::Html { title: Some(evil()) };
    let errors = [
        corrupt(Fault::Name { field, found: evil() }, None),
        corrupt(Fault::Duplicate { field, found: evil() }, None),
        corrupt(Fault::Stream { field, found: evil() }, None),
        corrupt(Fault::Trailing, Some(page.clone())),
        Error::Version { file: file(), major: 2, minor: 0, known: 1 },
        Error::Limit { file: file(), limit: "rank", asked: 9, allowed: 8, offset: 0 },
        Error::BaseMismatch(Box::new(mismatch)),
        Error::TargetMismatch { file: file(), tensor: Some(evil()), expected: ZERO, found: ONE },
        Error::WrongResult { file: file(), made: Made::Tensor(evil()), expected: ZERO, found: ONE },
        Error::WrongResult { file: file(), made: Made::File(evil()), expected: ZERO, found: ONE },
        Error::Chain { file: None, before: evil(), patch: evil(), what: what(), digests: None },
        Error::NeedsBase { file: file(), what: what() },
        Error::NotInvertible { file: file(), what: what() },
        Error::NotInPlace { path: file(), what: what() },
        Error::BaseFile { path: file(), name: evil(), bytes: 0, sha256: ZERO },
        Error::Unfit { file: file(), what: what() },
        Error::Exists { path: path(), found: Occupant::File },
        Error::Changed { path: path(), how: Change::Written },
        Error::Busy { path: path() },
        Error::Interrupted { path: path(), journal: path(), is_there: false },
        Error::Unrecovered { path: path(), source: Box::new(io()), update: Some(Box::new(io())) },
        Error::Misuse(evil()),
        Error::Internal(evil()),
        io(),
        bad(F::NoCheckpoint(page)),
        bad(F::NoPatch(Content::Checkpoints { newest: evil() })),
        bad(F::Header(evil())),
        bad(F::Index(evil())),
        bad(F::MissingShard(evil())),
        bad(F::DuplicateTensor { tensor: evil(), other: evil() }),
        bad(F::Name(evil())),
        bad(F::SameName { name: evil(), other: evil() }),
        bad(F::Refused(evil())),
        bad(F::Linked(evil())),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.chars().all(is_visible) && text.contains("\\u{1b}"), "{text:?}");
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The library speaks to programs in any language, of which few have a command line.
#[test]
fn neither_messages_nor_advice_name_options_of_the_program() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 50);
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let quoted: String = code.flat_map(|line| line.split('"').skip(1).step_by(2)).collect();
        for word in ["--", "-o ", "`pulse", "pulse recover", "pulse diff"] {
            assert!(!quoted.contains(word), "{}: {word}", file.display());
        }
    }
}

/// The cause of an I/O error and of a failed recovery can be asked for.
#[test]
fn causes_are_kept() {
    use std::error::Error as _;
    let io =
        || Error::Io { doing: "reading".into(), path: None, source: ErrorKind::TimedOut.into() };
    let error = io();
    let cause =
        error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).expect("the cause");
    assert_eq!(cause.kind(), ErrorKind::TimedOut);
    let stuck = Error::Unrecovered { path: "x".into(), source: Box::new(io()), update: None };
    assert_eq!(stuck.source().expect("the cause").to_string(), io().to_string());
}
