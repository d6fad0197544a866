//! Headers and companions: the latest wins, and what the base has is not carried.

use std::slice::from_ref;

use pulse::coding::ValueForm;
use pulse::patch::FileEntry;
use pulse::stream::{EncoderOptions, Lineage};
use pulse::tensors::Control;
use pulse::wire::FileKind;
use pulse::{Encoder, Limits, Patch};

use super::{flat, Run};
use testkit::files::{header, raw, tensor, Files};
use testkit::library::{diff_bytes, diff_tensors, open};

/// A checkpoint with this metadata in its header and these companions.
fn model(weight: u8, metadata: &str, companions: &[(&str, &str)]) -> Files {
    let tensors = [tensor("w", "U8", &[4], [weight, 2, 3, 4])];
    let json = header(&tensors, &[&format!(r#""__metadata__":{{"note":"{metadata}"}}"#)]);
    let file = ("model.safetensors".to_string(), raw(&json, &tensors[0].bytes));
    let companions =
        companions.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
    Files::Many(companions.chain([file]).collect())
}

/// Each file of a patch, and its state in a word.
fn states(patch: Vec<u8>) -> Vec<(String, &'static str)> {
    let patch = Patch::from_bytes(patch, Limits::default()).unwrap();
    let state = |file: &FileEntry| (file.record.name.clone(), file.record.state.name());
    patch.files().iter().map(state).collect()
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
    let found = states(run.compose(&patches, None, &options).unwrap().0);
    let found: Vec<_> = found.iter().map(|(name, state)| (name.as_str(), *state)).collect();
    let expected = [
        ("model.safetensors", "new"),
        ("changes", "replaced"),
        ("comes", "new"),
        ("goes", "removed"),
        ("late", "replaced"),
        ("same", "kept"),
    ];
    assert_eq!(found, expected);
}

/// Every way of a companion through three checkpoints: the composition says what a diff of the ends
/// says, with the base's bytes of what it replaces and removes, without looking at the base.
#[test]
fn r97_what_becomes_of_a_companion_is_that_of_the_ends() {
    let texts = [None, Some("1"), Some("2"), Some("3")];
    let mut ways = Vec::new();
    for first in texts {
        for second in texts {
            ways.extend(texts.map(|third| [first, second, third]));
        }
    }
    let names: Vec<String> = (0..ways.len()).map(|way| format!("file-{way:02}.txt")).collect();
    let step = |step: usize| {
        let files = names.iter().zip(&ways);
        let there = files.filter_map(|(name, way)| Some((name.as_str(), way[step]?)));
        model(1 + step as u8, "a", &there.collect::<Vec<_>>())
    };
    let run = Run::new(&[step(0), step(1), step(2)]);
    let options = flat(ValueForm::UlpStep);
    let patches = run.patches(from_ref(&options));
    for base in [None, Some(run.ends().0)] {
        run.composes(&patches, base, &options);
    }
    let found = states(run.compose(&patches, None, &options).unwrap().0);
    let says = |state: &str| found.iter().filter(|(_, found)| *found == state).count();
    // The header counts as kept. Of 64 companions, 4 are in neither end.
    assert_eq!(["kept", "new", "replaced", "removed"].map(says), [1 + 3 * 4, 3 * 4, 6 * 4, 3 * 4]);
}

#[test]
fn a_header_that_comes_back_is_carried_unless_the_base_is_at_hand() {
    let run = Run::new(&[
        model(1, "a", &[("config", "1")]),
        model(2, "b", &[("config", "2")]),
        model(3, "a", &[("config", "1")]),
    ]);
    let options = flat(ValueForm::UlpStep);
    let patches = run.patches(from_ref(&options));
    run.composes(&patches, Some(run.ends().0), &options);
    let found = states(run.compose(&patches, None, &options).unwrap().0);
    // The patches say of the companion what it is in the base, of the header they do not.
    let expected = [("model.safetensors", "new"), ("config", "kept")]
        .map(|(name, state)| (name.into(), state));
    assert_eq!(found, expected);
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
fn a_companion_of_another_base_breaks_the_chain() {
    let one = |weight, config| model(weight, "a", config);
    for (base, target, says) in [
        (one(2, &[("c", "2")]), one(3, &[("c", "3")]), "replaces the file 'c' (1 bytes"),
        (one(2, &[("c", "2")]), one(3, &[]), "removes the file 'c' (1 bytes"),
        (one(2, &[("c", "2")]), one(3, &[("c", "2")]), "takes the file 'c' (1 bytes"),
        (one(2, &[("d", "2")]), one(3, &[]), "the target of the other does not have it"),
        (one(2, &[]), one(3, &[("c", "3")]), "adds the file 'c', but the target of the other has"),
    ] {
        // The same tensors in the middle; the companions are others.
        let run = Run::new(&[one(1, &[]), one(2, &[("c", "1")]), base, target]);
        let options = flat(ValueForm::UlpStep);
        let patches = [run.patch(Some(0), 1, &options), run.patch(Some(2), 3, &options)];
        let error = run.compose(&patches, None, &options).unwrap_err().to_string();
        assert!(error.contains("2to3.pulse does not follow") && error.contains(says), "{error}");
    }
}

/// A companion that a writer leaves out is not removed.
#[test]
fn r97_what_is_left_out_on_the_way_is_not_removed() {
    let run = Run::new(&[1, 2, 3].map(|weight| model(weight, "a", &[("config", "1")])));
    let options = flat(ValueForm::UlpStep);
    let (middle, mut target) = (open(&run.checkpoints[1]), open(&run.checkpoints[2]));
    target.select(|_, _| false);
    let bare = diff_bytes(Some(&middle), &target, options.clone(), Control::default()).unwrap();
    let bare = Patch::from_bytes(bare, Limits::default()).unwrap();
    let weights_only =
        |patch: &Patch| patch.files().iter().all(|file| file.record.kind == FileKind::Tensors);
    assert!(weights_only(&bare));
    let patches = [run.patch(Some(0), 1, &options), bare];
    let (composed, _) = run.compose(&patches, None, &options).unwrap();
    assert!(weights_only(&Patch::from_bytes(composed, Limits::default()).unwrap()));
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
