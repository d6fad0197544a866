//! Checkpoints that cannot be used are refused when they are opened.

use std::fs::{self, OpenOptions};
use std::path::Path;

use pulse::checkpoint::Reason;
use pulse::stream::EncoderOptions;
use pulse::{Checkpoint, Error};

use testkit::files::{data, header, raw, safetensors, tensor, Files, Place};
use testkit::library::{apply, diff, open};

/// What opening says; it must be about `path`, or a file in it.
#[track_caller]
fn refused(path: &Path) -> String {
    let error = Checkpoint::open(path).unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }) && error.kind() == "checkpoint", "{error}");
    assert!(error.file().is_some_and(|file| file.starts_with(path)), "{error}");
    error.to_string()
}

#[track_caller]
fn assert_says(message: &str, needles: &[&str]) {
    assert!(
        needles.iter().all(|needle| message.contains(needle)),
        "{message:?} without one of {needles:?}"
    );
}

#[test]
fn headers_that_break_a_rule_are_refused_by_name() {
    let place = Place::new();
    let row = |name: &str, begin: u64, end: u64| {
        let size = end.saturating_sub(begin);
        format!(r#""{name}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{end}]}}"#)
    };
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let good = format!("{{{}}}", row("a", 0, 4));
    for (json, bytes, needle) in [
        (two(row("a", 0, 4), row("a", 4, 6)), 6, "\"a\" is duplicated"),
        (two(row("a", 0, 4), row("\\u0061", 4, 6)), 6, "\"a\" is duplicated"),
        (two(row("a", 0, 4), row("b", 3, 6)), 6, "'b' overlaps"),
        (two(row("a", 0, 4), row("b", 0, 4)), 4, "overlaps"),
        (two(row("a", 0, 4), row("b", 5, 6)), 6, "'b' leaves a gap"),
        (format!("{{{}}}", row("a", 1, 4)), 4, "'a' leaves a gap"),
        (format!("{{{}}}", row("a", 4, 0)), 4, "'a' ends before it starts"),
        (good.replace("[4]", "[5]"), 4, "'a'"),
        (good.replace("U8", "BF16"), 4, "'a'"),
        (good.replace("[4]", "[4294967296,4294967296]"), 4, "'a'"),
        (
            good.replace("[0,4]", "[18446744073709551612,18446744073709551615]")
                .replace("[4]", "[3]"),
            4,
            "'a'",
        ),
        (good.replace("[4]", "[-4]"), 4, "bad safetensors header"),
        (good.replace("[4]", "[4.0]"), 4, "bad safetensors header"),
        (good.replace("[0,4]", "[0]"), 4, "bad safetensors header"),
        (good.replace("\"dtype\":\"U8\",", ""), 4, "dtype"),
        (good.replace("\"U8\"", "8"), 4, "bad safetensors header"),
        (r#"{"__metadata__":{"step":40}}"#.into(), 0, "bad safetensors header"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "is duplicated"),
        ("[]".into(), 0, "bad safetensors header"),
        ("null".into(), 0, "bad safetensors header"),
        ("".into(), 0, "it is a file of zero bytes"),
        ("{\"a\":\"\u{e9}\"".into(), 0, "bad safetensors header"),
        (good.clone() + "}", 4, "bad safetensors header"),
        (good.clone(), 3, "a file of"),
        (good.clone(), 5, "a file of"),
        (good.clone(), 0, "a file of"),
    ] {
        let path = place.put_bytes("model.safetensors", &raw(&json, &vec![0; bytes]));
        assert_says(&refused(&path), &[needle, "model.safetensors"]);
    }
    let mut broken = raw(&good, &[0; 4]);
    broken[12] = 0xff;
    assert_says(
        &refused(&place.put_bytes("model.safetensors", &broken)),
        &["bad safetensors header"],
    );
    open(&place.put_bytes("model.safetensors", &raw(&good, &[0; 4])));
}

#[test]
fn every_truncation_of_a_checkpoint_is_refused() {
    let place = Place::new();
    let good = safetensors(&[tensor("a", "U8", &[4], *b"abcd"), tensor("b", "BF16", &[1], *b"ef")]);
    for length in 0..good.len() {
        refused(&place.put_bytes("cut", &good[..length]));
    }
    open(&place.put_bytes("cut", &good));
}

#[test]
fn a_header_that_says_it_is_huge_is_refused_without_reading_it() {
    let place = Place::new();
    for length in [100_000_001, 1 << 40, u64::MAX] {
        let path = place.put_bytes("model.safetensors", &length.to_le_bytes());
        // A file large enough for the first, which takes no room on disk.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
        assert_says(&refused(&path), &["header length", "model.safetensors"]);
    }
    let text = place.put_bytes("notes.txt", b"just some text, longer than eight bytes");
    assert_says(&refused(&text), &["notes.txt", "it is a text file, not a safetensors file"]);
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() {
    let place = Place::new();
    let error = Checkpoint::open(place.path("nowhere")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    assert_says(&error.to_string(), &["nowhere"]);
}

/// Name and content of a file; the content of a tensor file is the names of its tensors.
type Named<'a> = (&'a str, &'a str);

fn directory(files: &[Named<'_>]) -> (Place, std::path::PathBuf) {
    let place = Place::new();
    let path = place.path("model");
    fs::create_dir(&path).unwrap();
    for (name, content) in files {
        let bytes = if name.ends_with(".safetensors") {
            safetensors(
                &content
                    .split_terminator(' ')
                    .map(|t| tensor(t, "U8", &[1], *b"x"))
                    .collect::<Vec<_>>(),
            )
        } else {
            content.as_bytes().to_vec()
        };
        fs::write(path.join(name), bytes).unwrap();
    }
    (place, path)
}

const INDEX: &str = "model.safetensors.index.json";

fn index(rows: &[(&str, &str)]) -> String {
    let rows: Vec<_> =
        rows.iter().map(|(tensor, file)| format!("\"{tensor}\":\"{file}\"")).collect();
    format!("{{\"metadata\":{{}},\"weight_map\":{{{}}}}}", rows.join(","))
}

fn left_out(path: &Path) -> Vec<(String, Reason)> {
    open(path).left_out().iter().map(|out| (out.name.clone(), out.reason)).collect()
}

/// Every file of a directory that belongs to its checkpoint travels, byte for byte, and no other.
#[track_caller]
fn assert_travels(place: &Place, path: &Path, files: &[&str]) {
    let (patch, out) = (place.path("patch"), place.path("out"));
    diff(None, path, &patch, EncoderOptions::default(), 1);
    apply(None, &patch, &out).unwrap();
    let mut found: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, files);
    for name in files {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(path.join(name)).unwrap());
    }
}

/// Published checkpoints have indexes like these; every loader gets along with them.
#[test]
fn an_index_that_is_wrong_without_harm_is_reproduced() {
    let both = [("1.safetensors", "a"), ("2.safetensors", "b")];
    for (rows, absent) in [
        // Each tensor in the other file.
        ([("a", "2.safetensors"), ("b", "1.safetensors")], vec![]),
        // A tensor that no file has, and one that the index does not know.
        ([("a", "1.safetensors"), ("c", "2.safetensors")], vec!["c"]),
    ] {
        let index = index(&rows);
        let (place, path) = directory(&[both[0], both[1], (INDEX, &index)]);
        let checkpoint = open(&path);
        assert_eq!(checkpoint.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.absent(), absent);
        assert_travels(&place, &path, &["1.safetensors", "2.safetensors", INDEX]);
    }
}

#[test]
fn an_index_that_says_it_is_huge_is_refused_without_reading_it() {
    let (_place, path) = directory(&[("model.safetensors", "a"), (INDEX, "{}")]);
    let index = OpenOptions::new().write(true).open(path.join(INDEX)).unwrap();
    // It takes no room on disk.
    index.set_len(1 << 40).unwrap();
    assert_says(&refused(&path), &[INDEX, "at most 100000000"]);
}

#[test]
fn an_index_of_shards_that_are_gone_is_left_out() {
    for rows in [[("a", "model-1.safetensors")], [("a", "../model/model.safetensors")]] {
        let index = index(&rows);
        let (place, path) = directory(&[("model.safetensors", "a b"), (INDEX, &index)]);
        assert_eq!(open(&path).tensors().count(), 2);
        assert_eq!(left_out(&path), [(INDEX.to_string(), Reason::StaleIndex)]);
        assert_travels(&place, &path, &["model.safetensors"]);
    }
}

#[test]
fn model_files_travel_and_nothing_else() {
    let index = index(&[("a", "1.safetensors")]);
    let (place, path) = directory(&[
        ("1.safetensors", "a"),
        (INDEX, &index),
        ("config.json", "{}"),
        ("tokenizer.model", "t"),
        // Left out, for each reason that there is.
        ("._1.safetensors", ""),
        (".env", "KEY=secret"),
        ("41.pulse", ""),
        ("consolidated.safetensors", "a"),
        ("optimizer.pt", "o"),
        ("rng_state_0.pth", "r"),
        ("trainer_state.json", "{}"),
    ]);
    fs::create_dir(path.join("checkpoint-500")).unwrap();
    let mut expected: Vec<_> = [
        ("._1.safetensors", Reason::Hidden),
        (".env", Reason::Hidden),
        ("41.pulse", Reason::OfPulse),
        ("checkpoint-500", Reason::TrainerState),
        ("consolidated.safetensors", Reason::NotInIndex),
        ("optimizer.pt", Reason::TrainerState),
        ("rng_state_0.pth", Reason::TrainerState),
        ("trainer_state.json", Reason::TrainerState),
    ]
    .map(|(name, reason)| (name.to_string(), reason))
    .into();
    if cfg!(unix) {
        #[cfg(unix)]
        std::os::unix::fs::symlink("nowhere", path.join("dangling.txt")).unwrap();
        fs::write(path.join("a:b.json"), "{}").unwrap();
        expected.push(("a:b.json".into(), Reason::Name));
        expected.push(("dangling.txt".into(), Reason::Unreadable));
        expected.sort();
    }
    assert_eq!(left_out(&path), expected);
    assert_travels(&place, &path, &["1.safetensors", "config.json", INDEX, "tokenizer.model"]);
}

#[cfg(unix)]
#[test]
fn a_tensor_file_that_cannot_travel_is_refused() {
    let (_place, path) = directory(&[("model.safetensors", "a"), ("m:2.safetensors", "b")]);
    assert_says(&refused(&path), &["m:2.safetensors"]);
    let (_place, path) = directory(&[("model.safetensors", "a")]);
    std::os::unix::fs::symlink("nowhere", path.join("2.safetensors")).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_says(&error.to_string(), &["2.safetensors"]);
}

#[test]
fn directories_that_contradict_themselves_are_refused() {
    let both = [("1.safetensors", "a"), ("2.safetensors", "b")];
    let cases: [(&[Named<'_>], &str, &[&str]); 5] = [
        (&[], "", &["it is an empty directory, not a checkpoint"]),
        (
            &[("1.safetensors", "a b"), ("2.safetensors", "b c")],
            "",
            &["'b'", "1.safetensors", "2.safetensors"],
        ),
        (
            &both,
            &index(&[("a", "1.safetensors"), ("b", "3.safetensors")]),
            &["3.safetensors", "not there"],
        ),
        (&both, "{\"weight_map\":[]}", &[INDEX]),
        (&both, "{}", &[INDEX]),
    ];
    for (files, index, needles) in cases {
        let mut files = files.to_vec();
        if !index.is_empty() {
            files.push((INDEX, index));
        }
        let (_place, path) = directory(&files);
        assert_says(&refused(&path), needles);
    }
}

#[test]
fn a_directory_without_tensor_files_is_refused() {
    let (_place, path) = directory(&[("config.json", "{}"), ("model.bin", "")]);
    assert_says(
        &refused(&path),
        &["a directory with pickles of PyTorch, not a checkpoint", "model"],
    );
    let (_place, path) = directory(&[("empty.safetensors", "")]);
    assert_eq!(open(&path).tensors().count(), 0);
}

#[test]
fn directories_are_read_with_an_index_or_without() {
    let names =
        |path: &Path| open(path).tensors().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    let shards = [("x-1.safetensors", "c a"), ("x-2.safetensors", "b")];
    let (_place, path) = directory(&shards);
    assert_eq!(names(&path), ["a", "b", "c"]);
    let index = r#"{"weight_map":{"a":"x-1.safetensors","c":"x-1.safetensors"}}"#;
    for name in ["model.safetensors.index.json", "x.safetensors.index.json"] {
        // What the index does not name is no tensor file.
        fs::write(path.join(name), index).unwrap();
        assert_eq!(names(&path), ["a", "c"]);
        fs::remove_file(path.join(name)).unwrap();
    }
}

#[test]
fn subdirectories_are_left_out_and_reported() {
    let (place, path) = directory(&[("model.safetensors", "a"), ("config.json", "{}")]);
    fs::create_dir_all(path.join("logs/deep")).unwrap();
    fs::create_dir(path.join(".cache")).unwrap();
    fs::write(path.join("logs/x.safetensors"), "no tensors").unwrap();
    let reasons = [(".cache", Reason::Hidden), ("logs", Reason::Below)];
    assert_eq!(left_out(&path), reasons.map(|(name, reason)| (name.to_string(), reason)));
    // A patch is made of the rest.
    diff(Some(&path), &path, &place.path("patch"), EncoderOptions::default(), 1);
    apply(Some(&path), &place.path("patch"), &place.path("out")).unwrap();
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 2);
}

#[cfg(unix)]
#[test]
fn links_to_files_are_files() {
    use std::os::unix::fs::symlink;
    // As model caches are: a directory of links to blobs.
    let place = Place::new();
    let blob = place.put_bytes("blob", &safetensors(&[tensor("a", "U8", &[3], *b"abc")]));
    let config = place.put_bytes("blob2", b"{}");
    let base = place.path("base");
    fs::create_dir(&base).unwrap();
    symlink(&blob, base.join("model.safetensors")).unwrap();
    symlink(&config, base.join("config.json")).unwrap();
    let linked = place.path("linked");
    symlink(&base, &linked).unwrap();
    let target = Files::many([
        ("model.safetensors", safetensors(&[tensor("a", "U8", &[3], *b"abd")])),
        ("config.json", b"{}".to_vec()),
    ]);
    let target_path = place.put("target", &target);
    diff(Some(&linked), &target_path, &place.path("patch"), EncoderOptions::default(), 1);
    apply(Some(&linked), &place.path("patch"), &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&target);
    assert!(!place.path("out/model.safetensors").is_symlink());
    symlink(place.path("nowhere"), base.join("dangling.json")).unwrap();
    assert_eq!(left_out(&base), [("dangling.json".to_string(), Reason::Unreadable)]);
}

#[test]
fn tensors_are_found_and_read_by_name() {
    let place = Place::new();
    let tensors = [tensor("b", "U8", &[5], *b"abcde"), tensor("a", "BF16", &[2, 1], *b"wxyz")];
    let file = raw(&(header(&tensors, &[]) + "  "), &data(&tensors));
    let checkpoint = open(&place.put_bytes("model.safetensors", &file));
    assert_eq!(checkpoint.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((checkpoint.tensor_bytes(), checkpoint.file_bytes()), (9, file.len() as u64));
    let (a, b) = (checkpoint.tensor("a").unwrap(), checkpoint.tensor("b").unwrap());
    assert_eq!(
        (a.spec().to_string(), b.spec().to_string()),
        ("BF16 [2, 1]".into(), "U8 [5]".into())
    );
    let mut bytes = [0; 3];
    checkpoint.read_at(b, 2, &mut bytes).unwrap();
    assert_eq!(&bytes, b"cde");
    checkpoint.read_at(b, 5, &mut []).unwrap();
    for (tensor, offset) in [(b, 3), (b, u64::MAX), (a, 2)] {
        assert_eq!(checkpoint.read_at(tensor, offset, &mut bytes).unwrap_err().kind(), "misuse");
    }
    assert!(checkpoint.tensor("c").is_none());
}

#[test]
fn a_file_cut_short_after_it_was_opened_is_an_error() {
    let place = Place::new();
    let path = place.put("base", &Files::one(&[tensor("a", "U8", &[5000], vec![1; 5000])]));
    let checkpoint = open(&path);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
    assert_eq!(checkpoint.digest(Default::default()).unwrap_err().kind(), "io");
}
