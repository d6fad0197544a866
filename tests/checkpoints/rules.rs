//! Rules of SPEC.md §9 for rebuilding files, by their numbers.

use std::fs;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::stream::EncoderOptions;
use pulse::wire::FileKind;
use pulse::Encoder;

use testkit::files::{header, raw, safetensors, tensor, Files, Place, Tensor};
use testkit::forge;
use testkit::library::{apply, diff, verify};

fn w(bytes: &[u8; 4]) -> Tensor {
    tensor("w", "U8", &[4], *bytes)
}

/// A file that a patch carries.
type Carried<'a> = (&'a str, FileKind, &'a [u8]);

/// A snapshot of "w" that carries these files.
fn snapshot(files: &[Carried<'_>]) -> Vec<u8> {
    let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default()).unwrap();
    files.iter().for_each(|(name, kind, bytes)| encoder.carry_file(name, *kind, bytes).unwrap());
    let mut writer = encoder.added("w", &TensorSpec::new(Dtype::U8, &[4]).unwrap()).unwrap();
    writer.push(&[], b"abcd").unwrap();
    writer.end().unwrap();
    encoder.finish().unwrap().0
}

/// Kind and text of the error that apply and verify give; nothing may be written.
#[track_caller]
fn refusal(place: &Place, patch: &[u8]) -> (&'static str, String) {
    let patch = place.put_bytes("patch", patch);
    let verified = verify(&patch, None, None).unwrap_err();
    let applied = place.untouched(|| apply(None, &patch, &place.path("out")).unwrap_err());
    assert_eq!(applied.to_string(), verified.to_string());
    (applied.kind(), applied.to_string())
}

#[test]
fn r73_files_that_are_not_listed_are_not_in_the_output() {
    let place = Place::new();
    let base = place.put(
        "base",
        &Files::many([
            ("model.safetensors", safetensors(&[w(b"abcd")])),
            ("config.json", b"{}".to_vec()),
            ("notes.txt", b"of the base".to_vec()),
        ]),
    );
    let files = Files::many([
        ("model.safetensors", safetensors(&[w(b"abce")])),
        ("config.json", b"{}".to_vec()),
    ]);
    let target = place.put("target", &files);
    diff(Some(&base), &target, &place.path("patch"), EncoderOptions::default(), 1);
    apply(Some(&base), &place.path("patch"), &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&files);
}

#[test]
fn r75_a_file_without_a_name_is_the_only_one() {
    let place = Place::new();
    let json = raw(&header(&[w(b"abcd")], &[]), &[]);
    let empty = raw("{}", &[]);
    let (tensors, companion) = (FileKind::Tensors, FileKind::Companion);
    for other in [("b", tensors, empty.as_slice()), ("b", companion, b"")] {
        for files in
            [[("", tensors, json.as_slice()), other], [other, ("", tensors, json.as_slice())]]
        {
            let (kind, text) = refusal(&place, &snapshot(&files));
            assert_eq!(kind, "checkpoint");
            assert!(
                text.ends_with("one file has no name, but the checkpoint has several"),
                "{text}"
            );
        }
    }
    // Alone, it makes the output a file.
    let patch = place.put_bytes("patch", &snapshot(&[("", tensors, &json)]));
    apply(None, &patch, &place.path("out")).unwrap();
    Files::read(&place.path("out")).assert_same(&Files::one(&[w(b"abcd")]));
}

#[test]
fn r77_the_headers_list_each_tensor_once_as_it_is_and_no_other() {
    let place = Place::new();
    let file = |tensors: &[Tensor]| raw(&header(tensors, &[]), &[]);
    let good = file(&[w(b"abcd")]);
    let kind = FileKind::Tensors;
    let refused = |files: &[(&str, FileKind, &[u8])], why: &str| {
        let (kind, text) = refusal(&place, &snapshot(files));
        assert_eq!(kind, "checkpoint");
        assert!(text.ends_with(why), "{text}");
    };
    let (a, b) = ("a.safetensors", "b.safetensors");
    let why = "tensor 'w' is in two files, and no index tells them apart";
    refused(&[(a, kind, &good), (b, kind, &good)], why);
    refused(&[(a, kind, &file(&[]))], "tensor 'w' is in no file");
    let more = file(&[w(b"abcd"), tensor("v", "U8", &[0], [])]);
    refused(&[(a, kind, &more)], "tensor 'v' is in a file but not in the target");
    for (dtype, shape, said) in
        [("U8", vec![2, 2], "U8 [2, 2]"), ("I8", vec![4], "I8 [4]"), ("F4", vec![4], "F4 [4]")]
    {
        let other = file(&[tensor("w", dtype, &shape, *b"abcd")]);
        refused(&[(a, kind, &other)], &format!("tensor 'w' is U8 [4] but its file says {said}"));
    }
}

/// Without file sections the files of the base are kept, if no tensor comes or goes. Otherwise the
/// result is a file of this program's own making, with the right tensors.
#[test]
fn r78_a_patch_without_files_keeps_those_of_the_base() {
    let place = Place::new();
    let spec = TensorSpec::new(Dtype::U8, &[4]).unwrap();
    let odd =
        |bytes: &[u8; 4]| raw(&header(&[w(bytes)], &[r#""__metadata__":{"by":"hand"}"#]), bytes);
    let base = place.put(
        "base",
        &Files::many([("m.safetensors", odd(b"abcd")), ("config.json", b"{}".to_vec())]),
    );
    let patch = |more: bool| {
        let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
        let mut writer = encoder.patched("w", &spec).unwrap();
        writer.push(b"abcd", b"abce").unwrap();
        writer.end().unwrap();
        if more {
            let mut writer = encoder.added("x", &spec).unwrap();
            writer.push(&[], b"more").unwrap();
            writer.end().unwrap();
        }
        encoder.finish().unwrap().0
    };
    apply(Some(&base), &place.put_bytes("patch", &patch(false)), &place.path("kept")).unwrap();
    let kept = Files::many([("m.safetensors", odd(b"abce")), ("config.json", b"{}".to_vec())]);
    Files::read(&place.path("kept")).assert_same(&kept);

    apply(Some(&base), &place.put_bytes("patch", &patch(true)), &place.path("made")).unwrap();
    let Files::Many(made) = Files::read(&place.path("made")) else { panic!("not a directory") };
    assert_eq!(made.keys().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
    assert!(made["model.safetensors"].ends_with(b"abcemore"));
}

/// What readers of the made directory take for tensors are the tensors that were proved.
#[test]
fn r95_companions_are_no_tensors_and_tensors_are_no_companions() {
    const INDEX: &str = "model.safetensors.index.json";
    let (tensors, companion) = (FileKind::Tensors, FileKind::Companion);
    let place = Place::new();
    let right = raw(&header(&[w(b"abcd")], &[]), &[]);
    let evil = safetensors(&[w(b"EVIL")]);
    let cases: [(&[Carried<'_>], &str); 7] = [
        (&[("weights", tensors, &right), ("model.safetensors", companion, &evil)], "'model.saf"),
        (&[("a.safetensors", tensors, &right), ("b.safetensors", companion, &evil)], "'b.saf"),
        (&[("weights", tensors, &right)], "no .safetensors file"),
        (&[(".a.safetensors", tensors, &right)], "no .safetensors file"),
        (
            &[
                ("a.safetensors", tensors, &right),
                ("b", companion, &evil),
                (INDEX, companion, br#"{"weight_map":{"w":"b"}}"#),
            ],
            "companion 'b'",
        ),
        (
            &[
                ("a.safetensors", tensors, &right),
                ("b.safetensors", companion, &evil),
                (INDEX, companion, br#"{"weight_map":{"w":"a.safetensors"}}"#),
            ],
            "b.safetensors",
        ),
        (
            &[
                ("a.safetensors", tensors, &right),
                (INDEX, companion, br#"{"weight_map":{"w":"gone.safetensors"}}"#),
            ],
            "files that are not there",
        ),
    ];
    for (files, needle) in cases {
        let (kind, text) = refusal(&place, &snapshot(files));
        assert_eq!(kind, "checkpoint", "{text}");
        assert!(text.contains(needle), "{text:?} without {needle:?}");
    }
    // An index may lead to a file of any name.
    let files: &[Carried<'_>] = &[
        ("weights", tensors, &right),
        (INDEX, companion, br#"{"weight_map":{"w":"weights"}}"#),
        (".env", companion, b"a writer was told to include it"),
    ];
    let patch = place.put_bytes("patch", &snapshot(files));
    apply(None, &patch, &place.path("out")).unwrap();
    let found = testkit::library::open(&place.path("out"));
    let (patch, control) = (testkit::library::open_patch(&patch), Default::default());
    assert_eq!(found.digest(control).unwrap(), patch.footer().target);
}

/// A patch of tensors alone, on a base with tensors that its index leaves out: they do not get into
/// the files that are made.
#[test]
fn r78_what_the_index_leaves_out_does_not_come_back() {
    let place = Place::new();
    let spec = TensorSpec::new(Dtype::U8, &[4]).unwrap();
    let base = place.put(
        "base",
        &Files::many([
            ("model-1.safetensors", safetensors(&[w(b"abcd")])),
            ("consolidated.safetensors", safetensors(&[tensor("v", "U8", &[4], *b"EVIL")])),
            (
                "model.safetensors.index.json",
                br#"{"weight_map":{"w":"model-1.safetensors"}}"#.to_vec(),
            ),
        ]),
    );
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::default()).unwrap();
    let mut writer = encoder.patched("w", &spec).unwrap();
    writer.push(b"abcd", b"abcd").unwrap();
    writer.end().unwrap();
    let mut writer = encoder.added("x", &spec).unwrap();
    writer.push(&[], b"more").unwrap();
    writer.end().unwrap();
    let patch = place.put_bytes("patch", &encoder.finish().unwrap().0);
    apply(Some(&base), &patch, &place.path("out")).unwrap();
    let found = testkit::library::open(&place.path("out"));
    assert_eq!(found.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["w", "x"]);
    let patch = testkit::library::open_patch(&patch);
    assert_eq!(found.digest(Default::default()).unwrap(), patch.footer().target);
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1);
}

/// Output goes to a new place: neither a link nor a file that is there is written through.
#[cfg(unix)]
#[test]
fn r79_output_is_new_and_follows_no_link() {
    let place = Place::new();
    let json = raw(&header(&[w(b"abcd")], &[]), &[]);
    let patch = snapshot(&[("m.safetensors", FileKind::Tensors, &json)]);
    let patch = place.put_bytes("patch", &patch);
    fs::create_dir(place.path("elsewhere")).unwrap();
    place.put_bytes("elsewhere/mine", b"mine");
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("link")).unwrap();
    for out in ["link", "elsewhere"] {
        let error = place.untouched(|| apply(None, &patch, &place.path(out)).unwrap_err());
        assert_eq!(error.kind(), "exists", "{out}: {error}");
    }
    std::os::unix::fs::symlink(place.path("nowhere"), place.path("dangling")).unwrap();
    assert_eq!(apply(None, &patch, &place.path("dangling")).unwrap_err().kind(), "exists");
    assert!(!place.path("nowhere").exists());
    fs::remove_file(place.path("dangling")).unwrap();
    // Two names that are one are refused by the reader; two that a file system takes for one, when the second is made.
    let twice = snapshot(&[("m", FileKind::Tensors, &json), ("n", FileKind::Companion, b"")]);
    assert_eq!(refusal(&place, &forge::replaced(&twice, b'l', b"\x01n", b"\x01m")).0, "duplicate");
}

/// The headers that a patch carries have 100,000,008 bytes together and no more.
#[test]
fn r80_carried_headers_are_bounded_to_the_byte() {
    let place = Place::new();
    let json = |bytes: usize| {
        let mut json = header(&[w(b"abcd")], &[]);
        json.push_str(&" ".repeat(bytes - json.len()));
        raw(&json, &[])
    };
    let carried = |bytes: usize| snapshot(&[("", FileKind::Tensors, &json(bytes))]);
    let (kind, text) = refusal(&place, &carried(100_000_001));
    assert_eq!(kind, "checkpoint");
    assert!(
        text.ends_with("headers of 100000009 bytes; readers refuse more than 100000008"),
        "{text}"
    );
    let largest = place.put_bytes("patch", &carried(100_000_000));
    verify(&largest, None, None).unwrap();
}
