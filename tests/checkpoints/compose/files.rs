//! Headers and companions: the latest wins, and what the base has is not carried.

use std::slice::from_ref;

use pulse::coding::ValueForm;
use pulse::stream::{EncoderOptions, Lineage};
use pulse::tensors::Control;
use pulse::wire::{FileKind, FileSource};
use pulse::{Encoder, Limits, Patch};

use super::{flat, Run};
use testkit::files::{header, raw, tensor, Files};
use testkit::library::{diff_tensors, open};

/// A checkpoint with this metadata in its header and these companions.
fn model(weight: u8, metadata: &str, companions: &[(&str, &str)]) -> Files {
    let tensors = [tensor("w", "U8", &[4], [weight, 2, 3, 4])];
    let json = header(&tensors, &[&format!(r#""__metadata__":{{"note":"{metadata}"}}"#)]);
    let file = ("model.safetensors".to_string(), raw(&json, &tensors[0].bytes));
    let companions =
        companions.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
    Files::Many(companions.chain([file]).collect())
}

fn sources(patch: Vec<u8>) -> Vec<(String, FileSource)> {
    let patch = Patch::from_bytes(patch, Limits::default()).unwrap();
    patch.files().iter().map(|file| (file.record.name.clone(), file.record.source)).collect()
}

#[test]
fn the_latest_header_and_companions_win() {
    let long = "x".repeat(5_000_000);
    let run = Run::new(&[
        model(1, "a", &[("same", "s"), ("changes", "1"), ("goes", "g"), ("late", "1")]),
        model(2, "b", &[("same", "s"), ("changes", "2"), ("comes", &long), ("late", "1")]),
        model(3, "c", &[("same", "s"), ("changes", "3"), ("comes", &long), ("late", "1")]),
        model(4, "c", &[("same", "s"), ("changes", "3"), ("comes", &long), ("late", "2")]),
    ]);
    let options = flat(ValueForm::UlpStep);
    let patches = run.patches(from_ref(&options));
    for base in [None, Some(run.ends().0)] {
        run.composes(&patches, base, &options);
    }
    let found = sources(run.compose(&patches, None, &options).unwrap().0);
    let found: Vec<_> = found.iter().map(|(name, source)| (name.as_str(), *source)).collect();
    use FileSource::{Base, Patch};
    let expected = [
        ("model.safetensors", Patch),
        ("changes", Patch),
        ("comes", Patch),
        ("late", Patch),
        ("same", Base),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_file_that_comes_back_is_carried_unless_the_base_is_at_hand() {
    let run = Run::new(&[
        model(1, "a", &[("config", "1")]),
        model(2, "b", &[("config", "2")]),
        model(3, "a", &[("config", "1")]),
    ]);
    let options = flat(ValueForm::UlpStep);
    let patches = run.patches(from_ref(&options));
    run.composes(&patches, Some(run.ends().0), &options);
    let carried = sources(run.compose(&patches, None, &options).unwrap().0);
    assert!(carried.iter().all(|(_, source)| *source == FileSource::Patch), "{carried:?}");
    let (patch, _) = run.compose(&patches, None, &options).unwrap();
    let (patch, out) = (run.place.put_bytes("back.pulse", &patch), run.place.path("out"));
    super::apply(Some(run.ends().0), &patch, &out).unwrap();
    Files::read(&out).assert_same(&Files::read(run.ends().1));
}

#[test]
fn a_header_that_stays_is_the_base_s_whatever_else_happens() {
    let run = Run::new(&[model(1, "a", &[]), model(2, "a", &[]), model(3, "a", &[])]);
    let options = flat(ValueForm::Xor);
    run.composes(&run.patches(from_ref(&options)), None, &options);
}

#[test]
fn a_file_that_the_target_before_does_not_have_breaks_the_chain() {
    // The same tensors saved anew: the digests chain, the files do not.
    let run =
        Run::new(&[model(1, "a", &[]), model(2, "a", &[]), model(2, "b", &[]), model(3, "b", &[])]);
    let options = flat(ValueForm::UlpStep);
    let patches = [run.patch(Some(0), 1, &options), run.patch(Some(2), 3, &options)];
    let error = run.compose(&patches, Some(run.ends().0), &options).unwrap_err().to_string();
    assert!(
        error.contains("2to3.pulse does not follow") && error.contains("'model.safetensors'"),
        "{error}"
    );
}

#[test]
fn patches_with_files_and_without_do_not_mix() {
    let run = Run::new(&[model(1, "a", &[]), model(2, "a", &[]), model(3, "a", &[])]);
    let options = flat(ValueForm::UlpStep);
    let (middle, target) = (open(&run.checkpoints[1]), open(&run.checkpoints[2]));
    let bare = diff_tensors(Some(&middle), &target, options.clone(), Control::default()).unwrap();
    let patches =
        [run.patch(Some(0), 1, &options), Patch::from_bytes(bare, Limits::default()).unwrap()];
    let error = run.compose(&patches, None, &options).unwrap_err().to_string();
    assert!(error.contains("describes no files, but the other describes files"), "{error}");
}

#[test]
fn carried_bytes_are_cut_as_diff_cuts_them() {
    // Another writer may cut a file into sections of any size.
    let text = "some configuration ".repeat(100_000);
    let run = Run::new(&[model(1, "a", &[]), model(1, "a", &[("config", &text)])]);
    let spec = open(run.ends().0).tensor("w").unwrap().spec().clone();
    let Files::Many(files) = Files::read(run.ends().1) else { panic!("a directory") };
    let file = &files["model.safetensors"];
    let options = EncoderOptions::default().with_lineage(Lineage::default().with_target_step(1));
    let mut encoder = Encoder::snapshot(Vec::new(), options).unwrap();
    encoder.carry_file("model.safetensors", FileKind::Tensors, &file[..file.len() - 4]).unwrap();
    encoder.carry_file("config", FileKind::Companion, text.as_bytes()).unwrap();
    let mut writer = encoder.added("w", &spec).unwrap();
    writer.push(&[], &file[file.len() - 4..]).unwrap();
    writer.end().unwrap();
    let whole = encoder.finish().unwrap().0;
    let mut sections = testkit::forge::sections(&whole);
    let last = sections.iter().rposition(|section| section.tag == b'd').unwrap();
    let rest = sections.remove(last);
    // The last section was the rest of the text: as two stored ones.
    let rest = PatchData::unpack(&rest.payload, text.len() - (1 << 20));
    for part in rest.chunks(rest.len() / 2 + 1).rev() {
        sections.insert(last, PatchData::stored(part));
    }
    let recut = testkit::forge::join(&whole, &sections);
    assert!(recut != whole);
    let recut = Patch::from_bytes(recut, Limits::default()).unwrap();
    let (patch, _) = run.compose(&[recut], None, &EncoderOptions::default()).unwrap();
    assert!(patch == run.direct(None, 1, &EncoderOptions::default()));
}

/// The packed stream of a file data section.
struct PatchData;

impl PatchData {
    fn unpack(payload: &[u8], bytes: usize) -> Vec<u8> {
        let at = payload.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        assert_eq!(payload[0] & 1, 1, "compressed");
        let text = zstd::bulk::decompress(&payload[at..], bytes).unwrap();
        assert_eq!(text.len(), bytes);
        text
    }

    fn stored(bytes: &[u8]) -> testkit::forge::Section {
        let mut payload = Vec::new();
        let mut head = bytes.len() << 1;
        while head >= 0x80 {
            payload.push(head as u8 | 0x80);
            head >>= 7;
        }
        payload.push(head as u8);
        payload.extend_from_slice(bytes);
        testkit::forge::Section { tag: b'd', payload }
    }
}
