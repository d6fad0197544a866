//! Vectors that every reader must decode, and apply bit for bit.

use pulse::coding::{Coding, ValueForm};
use pulse::dtype::Dtype;
use pulse::hash::Digest;
use pulse::stream::EncoderOptions;
use pulse::wire::{FileKind, Tag};
use pulse::Encoder;

use super::contextual;
use super::flat;
use super::raw::{fields, sha256, Fields, Raw};
use super::sample::{self, digest_in, FLAT, PLAIN, ROTATED, WHOLE};
use super::signs;
use crate::checkpoint::{header_of, Checkpoint, Tensor};
use crate::encode;

/// A checkpoint of the directory `checkpoints`: a safetensors file, alone or in a directory.
#[derive(Clone)]
pub struct File {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// The files beside it, if the checkpoint is a directory.
    pub companions: Vec<(&'static str, Vec<u8>)>,
    /// The tensors that are in those files, by their names in the checkpoint.
    pub others: Checkpoint,
}

impl File {
    pub fn new(name: &'static str, checkpoint: &Checkpoint) -> File {
        File::of_bytes(name, checkpoint.to_file())
    }

    pub fn of_bytes(name: &'static str, bytes: Vec<u8>) -> File {
        File { name, bytes, companions: Vec::new(), others: Checkpoint::default() }
    }

    /// Where the checkpoint is, and its files.
    pub fn files(&self) -> (String, Vec<(String, &[u8])>) {
        let path = format!("checkpoints/{}", self.name);
        if self.companions.is_empty() {
            let path = format!("{path}.safetensors");
            return (path.clone(), vec![(path, &self.bytes)]);
        }
        let companions = self.companions.iter().map(|(name, bytes)| (*name, bytes));
        let all = companions.chain([("model.safetensors", &self.bytes)]);
        let files = all.map(|(name, bytes)| (format!("{path}/{name}"), bytes.as_slice())).collect();
        (path, files)
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let mut all = Checkpoint::from_file(&self.bytes);
        all.tensors.extend(self.others.tensors.clone());
        all
    }
}

pub struct Good {
    pub name: String,
    /// Numbers of the requirements of SPEC.md that it is about.
    pub rules: &'static str,
    pub shows: &'static str,
    pub base: Option<File>,
    pub target: File,
    pub patch: Vec<u8>,
}

type Options = fn() -> EncoderOptions;

/// The generic codings; vectors that depend on the coding are made once for each row.
const CODINGS: [(&str, Options); 2] = [("flat", flat_options), ("contextual", contextual_options)];

/// What the vectors that do not depend on the coding are made with.
fn flat_options() -> EncoderOptions {
    EncoderOptions::default().with_coding(Coding::Flat)
}

fn contextual_options() -> EncoderOptions {
    EncoderOptions::default().with_coding(Coding::Contextual)
}

pub fn vectors(real: [File; 2]) -> Vec<Good> {
    let mut all = vec![
        spec_example(),
        empty(),
        unchanged(),
        smallest(),
        zeros_and_nans(),
        actions(),
        shapes(),
        snapshot(),
        names(),
    ];
    all.extend([ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite].map(encoded_form));
    all.extend([ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite].map(flat::every_width));
    all.extend([whole_in_patched(), base_digest_of_patched(), whole_rotated(), full_header()]);
    all.extend([skippable(), minor_version()]);
    all.extend(flat::frames());
    all.extend(contextual::vectors());
    all.extend(signs::vectors());
    all.extend([dtype_named_other(), raw_of_64_bits()]);
    all.extend([files_carried(), files_odd_json(), files_kept(), files_of_a_directory()]);
    all.extend([tensor_in_two_files(), files_in_subdirectories(), pipeline(), modules()]);
    for (coding, options) in CODINGS {
        all.extend([dtypes(coding, options()), real_slice(coding, options(), &real)]);
        all.extend([1, 2].map(|leaves| blocks(coding, options().with_block_leaves(leaves))));
    }
    all
}

/// Pushes one tensor, whole.
fn push(
    encoder: &mut Encoder<Vec<u8>>,
    name: &str,
    base: Option<&Tensor>,
    target: Option<&Tensor>,
) {
    let [base, target] =
        [base, target].map(|side| side.map(|tensor| (&tensor.spec, tensor.bytes.as_slice())));
    encode::push(encoder, name, base, target).expect("a legal tensor");
}

/// Encodes two checkpoints; `files` says what comes before the tensors.
fn encode_with(
    options: EncoderOptions,
    base: Option<&Checkpoint>,
    target: &Checkpoint,
    files: impl FnOnce(&mut Encoder<Vec<u8>>) -> pulse::Result<()>,
) -> Vec<u8> {
    let encoder = if base.is_some() {
        Encoder::new(Vec::new(), options)
    } else {
        Encoder::snapshot(Vec::new(), options)
    };
    let mut encoder = encoder.expect("legal options");
    files(&mut encoder).expect("legal files");
    let empty = Checkpoint::default();
    let base = base.unwrap_or(&empty);
    let only_base = base.tensors.keys().filter(|name| !target.tensors.contains_key(*name));
    for name in target.tensors.keys().chain(only_base) {
        push(&mut encoder, name, base.tensors.get(name), target.tensors.get(name));
    }
    encoder.finish().expect("a finished patch").0
}

fn encode(options: EncoderOptions, base: &Checkpoint, target: &Checkpoint) -> Vec<u8> {
    encode_with(options, Some(base), target, |_| Ok(()))
}

/// A vector made by the encoder from two checkpoints.
fn encoded(
    name: impl Into<String>,
    rules: &'static str,
    shows: &'static str,
    options: EncoderOptions,
    [base, target]: [(&'static str, &Checkpoint); 2],
) -> Good {
    let patch = encode(options, base.1, target.1);
    let [base, target] = [base, target].map(|(name, checkpoint)| File::new(name, checkpoint));
    Good { name: name.into(), rules, shows, base: Some(base), target, patch }
}

fn empty() -> Good {
    let none = ("empty", &Checkpoint::default());
    encoded(
        "empty",
        "R19",
        "Two checkpoints without tensors: header, empty index, footer.",
        flat_options(),
        [none; 2],
    )
}

fn unchanged() -> Good {
    let shows = "Equal checkpoints: unchanged tensors leave no trace, but count in the footer.";
    encoded("unchanged", "R38 R70", shows, flat_options(), [("sample-base", &sample::base()); 2])
}

fn smallest() -> Good {
    let (base, target) =
        (File::new("sample-base", &sample::base()), File::new("sample-target", &sample::target()));
    let shows =
        "One BF16 tensor with the steps +1 and -2; the malformed vectors are made from this patch.";
    Good {
        name: "smallest".into(),
        rules: "R26 R68 R69 R78",
        shows,
        base: Some(base),
        target,
        patch: sample::patch().write(),
    }
}

fn spec_example() -> Good {
    let tensor = |elements: &[u64; 4]| [("w", Tensor::new(Dtype::Bf16, &[2, 2], elements))].into();
    let (base, target) =
        (tensor(&[0x3f80, 0xc000, 0x0000, 0x4049]), tensor(&[0x3f81, 0xc000, 0x8000, 0x4049]));
    let files = [("spec-base", &base), ("spec-target", &target)];
    let options = flat_options().with_block_leaves(1).with_steps(40, 41);
    encoded("spec-example", "R26", "The example of SPEC.md §12.", options, files)
}

/// The bits of two elements change in a tensor of every dtype.
fn dtypes(coding: &str, options: EncoderOptions) -> Good {
    let (mut base, mut target) = (Checkpoint::default(), Checkpoint::default());
    for (seed, dtype) in Dtype::known().enumerate() {
        let mut elements: Vec<u64> =
            (1..7).map(|i| (i * 37 + seed as u64).wrapping_mul(0x0123_4567_89ab_cdef)).collect();
        let name = format!("tensor of {dtype}");
        base.tensors.insert(name.clone(), Tensor::new(dtype.clone(), &[2, 3], &elements));
        elements[1] = elements[1].wrapping_add(1);
        elements[4] ^= 1 << (8 * dtype.element_bytes() - 1);
        target.tensors.insert(name, Tensor::new(dtype, &[2, 3], &elements));
    }
    let packed = |bytes| Tensor::from_bytes(Dtype::Other("F4".into()), &[2, 4], bytes);
    base.tensors.insert("two elements in a byte".into(), packed(vec![0x12, 0x34, 0x56, 0x78]));
    target.tensors.insert("two elements in a byte".into(), packed(vec![0x12, 0x34, 0x57, 0x78]));
    let shows = "One step up and one flip of the sign bit in every dtype; F4, which has no code, travels as bytes.";
    encoded(
        format!("dtypes-{coding}"),
        "R30 R31",
        shows,
        options,
        [("dtypes-base", &base), ("dtypes-target", &target)],
    )
}

fn dtype_named_other() -> Good {
    let tensor = |first| {
        let bytes = vec![first, 2, 3, 4];
        [("x", Tensor::from_bytes(Dtype::Other("other".into()), &[2], bytes))].into()
    };
    let (base, target): (Checkpoint, Checkpoint) = (tensor(1), tensor(9));
    let raw = Raw::new(sample::header(), sample::footer(1, Some(&base), &target))
        .add_tensor(
            "x",
            fields()
                .name(0, "x")
                .u8(sample::PATCHED)
                .u8(0)
                .string("other")
                .varint(4)
                .varint(1)
                .varint(2),
        )
        .add(Tag::BLOCK, fields().block(FLAT, 0, 1, 1).u8(0x31).stored(&[0]).stored(&[9]))
        .add(
            Tag::TENSOR_END,
            fields().varint(1).digest(digest_in(&base, "x")).digest(digest_in(&target, "x")),
        );
    Good {
        name: "dtype-named-other".into(),
        rules: "R31",
        shows: "A dtype whose name is the word that SPEC.md has for all dtypes without a code.",
        base: Some(File::new("dtype-other-base", &base)),
        target: File::new("dtype-other-target", &target),
        patch: raw.write(),
    }
}

fn raw_of_64_bits() -> Good {
    let tensor = |element| [("w", Tensor::new(Dtype::U64, &[1], &[element]))].into();
    let (base, target): (Checkpoint, Checkpoint) = (tensor(5), tensor(5 + (12 << 59)));
    let payload = fields()
        .varint(0)
        .u8(1)
        .varint(1)
        .bytes(&contextual::parameters(31, 0, 59).0)
        .bits(&contextual::rice(24 << 59, 59, 64));
    Good {
        name: "contextual-raw-of-64-bits".into(),
        rules: "R89",
        shows: "The smallest step of 64 bits that is written raw where magnitude k is 59.",
        patch: contextual::patch(&base, &target, 1, payload).write(),
        base: Some(File::new("raw-base", &base)),
        target: File::new("raw-target", &target),
    }
}

fn zeros_and_nans() -> Good {
    let six = |dtype, elements: [u64; 6]| Tensor::new(dtype, &[6], &elements);
    // Both zeros, NaN payload, NaN sign, infinity to NaN, smallest denormal to its negative.
    let base = [
        ("bf16", six(Dtype::Bf16, [0x0000, 0x8000, 0x7fc0, 0xffc0, 0x7f80, 0x0001])),
        ("f32", six(Dtype::F32, [0, 0x8000_0000, 0x7fc0_0000, 0xffc0_0000, 0x7f80_0000, 1])),
        ("f8", six(Dtype::F8E4M3, [0x00, 0x80, 0x7f, 0xff, 0x7e, 0x01])),
    ];
    let target = [
        ("bf16", six(Dtype::Bf16, [0x8000, 0x0000, 0x7fc1, 0x7fc0, 0x7f81, 0x8001])),
        (
            "f32",
            six(Dtype::F32, [0x8000_0000, 0, 0x7fc0_0001, 0x7fc0_0000, 0x7f80_0001, 0x8000_0001]),
        ),
        ("f8", six(Dtype::F8E4M3, [0x80, 0x00, 0xff, 0x7f, 0x7f, 0x81])),
    ];
    let files = [("zeros-base", &base.into()), ("zeros-target", &target.into())];
    let shows = "Zeros change sign, NaNs change payload and sign, infinity becomes NaN: bits are all that counts.";
    encoded("zeros-and-nans", "R36", shows, flat_options(), files)
}

/// The same changes as step, xor and overwrite.
fn encoded_form(form: ValueForm) -> Good {
    let (name, shows) = match form {
        ValueForm::UlpStep => ("form-step", "Values as steps, in widths that the encoder chose."),
        ValueForm::Xor => ("form-xor", "The changes of form-step as exclusive or."),
        ValueForm::Overwrite => ("form-overwrite", "The changes of form-step as new bits."),
        _ => unreachable!("the vectors know every form"),
    };
    let tensor =
        |of: fn(u64) -> u64| Tensor::new(Dtype::F32, &[600], &(0..600).map(of).collect::<Vec<_>>());
    let base = [("w", tensor(|i| 0x3f80_0000 + i * 0x101))].into();
    let target =
        [("w", tensor(|i| 0x3f80_0000 + i * 0x101 - u64::from(i % 7 == 3) * (1 + i % 5)))].into();
    encoded(
        name,
        "R54",
        shows,
        flat_options().with_values(form),
        [("form-base", &base), ("form-target", &target)],
    )
}

fn actions() -> Good {
    let row = |shape: &[u64], dtype| Tensor::new(dtype, shape, &[1, 2, 3, 4, 5, 6]);
    let base = [
        ("deleted", row(&[6], Dtype::I16)),
        ("reshaped", row(&[2, 3], Dtype::I32)),
        ("retyped", row(&[6], Dtype::I64)),
        ("same", row(&[6], Dtype::U8)),
        ("shrunk to nothing", row(&[6], Dtype::U16)),
    ];
    let target = [
        ("added", row(&[6], Dtype::F32)),
        ("reshaped", row(&[3, 2], Dtype::I32)),
        ("retyped", row(&[6], Dtype::U64)),
        ("same", row(&[6], Dtype::U8)),
        ("shrunk to nothing", Tensor::new(Dtype::U16, &[0], &[])),
    ];
    let files = [("actions-base", &base.into()), ("actions-target", &target.into())];
    let shows =
        "Tensors are added, deleted, reshaped and retyped; a replaced one may have no blocks.";
    encoded("actions", "R35 R39", shows, flat_options(), files)
}

fn shapes() -> Good {
    let base = [
        ("scalar", Tensor::new(Dtype::F32, &[], &[0x3f80_0000])),
        ("rank 6", Tensor::new(Dtype::U8, &[1, 2, 1, 2, 1, 1], &[1, 2, 3, 4])),
        ("no elements", Tensor::new(Dtype::F64, &[3, 0, 1 << 40], &[])),
    ];
    let target = [
        ("scalar", Tensor::new(Dtype::F32, &[], &[0x3f80_0001])),
        ("rank 6", Tensor::new(Dtype::U8, &[1, 2, 1, 2, 1, 1], &[1, 2, 3, 5])),
        ("no elements", Tensor::new(Dtype::F64, &[3, 0, 1 << 40], &[])),
        ("new and empty", Tensor::new(Dtype::Bf16, &[1 << 40, 1 << 40, 0], &[])),
        ("new scalar", Tensor::new(Dtype::I64, &[], &[u64::MAX])),
    ];
    let files = [("shapes-base", &base.into()), ("shapes-target", &target.into())];
    encoded("shapes", "R32", "Rank 0, rank 6, and tensors without elements.", flat_options(), files)
}

fn snapshot() -> Good {
    let target = dtypes("", flat_options()).target;
    let patch = encode_with(EncoderOptions::default(), None, &target.checkpoint(), |_| Ok(()));
    let shows = "A patch without base: a tensor of every dtype, put whole in byte planes.";
    Good { name: "snapshot".into(), rules: "R24 R25 R59", shows, base: None, target, patch }
}

fn names() -> Good {
    let tensor = |bits| Tensor::new(Dtype::U8, &[1], &[bits]);
    let long = "n".repeat(300);
    let names = [
        "model.layers.9.mlp.up_proj.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.layers.10.mlp.up_proj.weight.scale",
        "model.layers.10.mlp",
        "",
        // The first of the two bytes is the same: names share bytes, not characters.
        "é",
        "è",
        &long,
    ];
    let (mut base, mut target) = (Checkpoint::default(), Checkpoint::default());
    let mut encoder = Encoder::new(Vec::new(), flat_options()).expect("legal options");
    for name in names {
        base.tensors.insert(name.into(), tensor(1));
        target.tensors.insert(name.into(), tensor(2));
        push(&mut encoder, name, Some(&tensor(1)), Some(&tensor(2)));
    }
    let patch = encoder.finish().expect("a finished patch").0;
    let shows = "Tensors in no particular order, whose names share bytes with the name before; one is empty.";
    let (base, target) = (File::new("names-base", &base), File::new("names-target", &target));
    Good { name: "names".into(), rules: "R10", shows, base: Some(base), target, patch }
}

fn whole_in_patched() -> Good {
    let good = smallest();
    let planes = fields()
        .block(WHOLE, 0, 1, 2)
        .u8(PLAIN)
        .stored(&[0x80, 0x81, 0x80, 0x01])
        .stored(&[0x3f, 0x3f, 0xbf, 0x80]);
    let patch = sample::patch().replace(Tag::BLOCK, planes).write();
    let shows = "The patch of smallest with its block in the whole coding, which a patched tensor may have too; plain, as a float may be.";
    Good { name: "whole-in-patched".into(), rules: "R5 R59", shows, patch, ..good }
}

fn base_digest_of_patched() -> Good {
    let good = smallest();
    let right = digest_in(&sample::target(), "w");
    let trailer = fields().varint(2).digest(Digest([0; 32])).digest(right);
    let patch = sample::patch().replace(Tag::TENSOR_END, trailer).write();
    let shows = "The patch of smallest with a wrong base digest of its patched tensor, on which nothing depends.";
    Good { name: "base-digest-of-patched".into(), rules: "R102", shows, patch, ..good }
}

/// The encoder rotates floats of several bytes, and nothing else.
fn whole_rotated() -> Good {
    let base = Checkpoint::default();
    let bytes = Tensor::new(Dtype::U8, &[3], &[0x01, 0x80, 0xff]);
    let longs = Tensor::new(Dtype::I64, &[1], &[0x8001_0203_0405_0607]);
    let target: Checkpoint = [("bytes", bytes), ("longs", longs)].into();
    let mut footer = sample::footer(4, Some(&base), &target);
    footer.tensors = 2;
    let trailer = |changes, name| fields().varint(changes).digest(digest_in(&target, name));
    let longs = [0x0f, 0x0c, 0x0a, 0x08, 0x06, 0x04, 0x02, 0x00];
    let raw = Raw::new(sample::header(), footer)
        .add_tensor("bytes", fields().name(0, "bytes").spec(sample::ADDED, sample::U8, &[3]))
        .add(Tag::BLOCK, fields().block(WHOLE, 0, 1, 3).u8(ROTATED).stored(&[0x02, 0x01, 0xff]))
        .add(Tag::TENSOR_END, trailer(3, "bytes"))
        .add_tensor("longs", fields().name(0, "longs").spec(sample::ADDED, 16, &[1]))
        .add(
            Tag::BLOCK,
            longs.iter().fold(fields().block(WHOLE, 0, 1, 1).u8(ROTATED), |fields, &byte| {
                fields.stored(&[byte])
            }),
        )
        .add(Tag::TENSOR_END, trailer(1, "longs"));
    Good {
        name: "whole-rotated-integers".into(),
        rules: "R5 R59",
        shows: "Blocks of integers in the whole coding, rotated, which any dtype may be.",
        base: Some(File::new("empty", &base)),
        target: File::new("whole-rotated-target", &target),
        patch: raw.write(),
    }
}

fn full_header() -> Good {
    let options = flat_options()
        .with_run(*b"0123456789abcdef")
        .with_steps(40, 300)
        .with_base_digest(sample::base().digest())
        .with_metadata("", "an empty key")
        .with_metadata("trainer", "écrit")
        .with_metadata("value", "");
    let files = [("sample-base", &sample::base()), ("sample-target", &sample::target())];
    encoded(
        "full-header",
        "R27 R28 R29",
        "Every field of the header: run, steps, base digest, metadata.",
        options,
        files,
    )
}

/// Sections that a reader does not know, wherever they may stand.
fn with_unknown_sections(raw: Raw) -> Raw {
    let unknown = |bytes: &[u8]| fields().bytes(bytes);
    raw.add_before(Tag::TENSOR, Tag(b'x'), unknown(b""))
        .add_before(Tag::BLOCK, Tag(b'q'), unknown(b"between tensor header and block"))
        .add_before(Tag::TENSOR_END, Tag(b'z'), unknown(&[0; 300]))
        .add(Tag(b'x'), unknown(b"after the last tensor"))
        .add(Tag(b'x'), unknown(b"twice"))
}

fn skippable() -> Good {
    let good = smallest();
    let header = header_of(&good.target.bytes);
    let (first, rest) = header.split_at(20);
    let record = fields().u8(2).string("").varint(header.len() as u64).digest(sha256(header));
    let raw = sample::patch()
        .add_before(Tag::TENSOR, Tag::FILE, record)
        .add_before(Tag::TENSOR, Tag(b'y'), fields().bytes(b"between a file and its data"))
        .add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(first))
        .add_before(Tag::TENSOR, Tag(b'y'), Fields::default())
        .add_before(Tag::TENSOR, Tag::FILE_DATA, fields().stored(rest));
    let shows = "Unknown sections with lower-case tags in every place between header and index.";
    let patch = with_unknown_sections(raw).write();
    Good { name: "skippable".into(), rules: "R3 R20", shows, patch, ..good }
}

fn minor_version() -> Good {
    let mut raw = with_unknown_sections(sample::patch());
    raw.prelude[9] = 7;
    let shows = "Format version 1.7: a reader of 1.0 takes it, as it knows every critical section.";
    Good { name: "minor-version".into(), rules: "R2", shows, patch: raw.write(), ..smallest() }
}

fn files_carried() -> Good {
    let (base, target) = (sample::base(), sample::target());
    // Tensors in another order than in the base, metadata, spaces for alignment.
    let json = r#"{"__metadata__":{"step":"41"}, "w":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}, "old":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}}   "#;
    let header = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let file = [&header[..], &target.tensors["w"].bytes, &target.tensors["old"].bytes].concat();
    let patch = encode_with(flat_options(), Some(&base), &target, |encoder| {
        encoder.carry_file("", FileKind::Tensors, &header)
    });
    let shows = "The header of the target's safetensors file travels, so that the file can be rebuilt byte for byte.";
    let target = File::of_bytes("carried-target", file);
    Good {
        name: "files-carried".into(),
        rules: "R71 R72 R75 R76 R77",
        shows,
        base: Some(File::new("sample-base", &base)),
        target,
        patch,
    }
}

/// A header with all that a strict reader of JSON still has to ignore.
fn files_odd_json() -> Good {
    let (base, target) = (sample::base(), sample::target());
    let deep = format!("{}{}", "[".repeat(62), "]".repeat(62));
    let odd = r#"[-0,1e3,2.5,1e-999,18446744073709551616,null,true,"\ud83d\ude00\u0000",{"a":{"a":1},"b":{"a":1}}]"#;
    let json = format!(
        "{{\"w\":{{\"shape\":[4],\"odd\":{odd},\"dtype\":\"BF16\",\"data_offsets\":[0,8]}},\t\r\n\
         \"\\u006fld\":{{\"deep\":{deep},\"data_offsets\":[8,10],\"dtype\":\"U8\",\"shape\":[2]}}}}"
    );
    let header = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let file = [&header[..], &target.tensors["w"].bytes, &target.tensors["old"].bytes].concat();
    let patch = encode_with(flat_options(), Some(&base), &target, |encoder| {
        encoder.carry_file("", FileKind::Tensors, &header)
    });
    let shows = "A header with ignored values of every sort, nested as deep as is allowed, and an escape in a name.";
    Good {
        name: "files-odd-json".into(),
        rules: "R76 R77",
        shows,
        base: Some(File::new("sample-base", &base)),
        target: File::of_bytes("odd-json-target", file),
        patch,
    }
}

fn files_kept() -> Good {
    let good = smallest();
    let patch = encode_with(flat_options(), Some(&sample::base()), &sample::target(), |encoder| {
        encoder.keep_file("", FileKind::Tensors, header_of(&good.target.bytes))
    });
    let shows =
        "The header of the target's safetensors file is the one of the base, and is only named.";
    Good { name: "files-kept".into(), rules: "R74 R75", shows, patch, ..good }
}

fn files_of_a_directory() -> Good {
    let good = smallest();
    // One byte more than a data section holds.
    let large = vec![b'a'; (1 << 20) + 1];
    let tokenizer = || ("tokenizer.json", b"{}".to_vec());
    let (old, new) = (br#"{"epoch":1}"#, br#"{"epoch":2}"#);
    let base = File {
        companions: vec![
            tokenizer(),
            ("config.json", old.to_vec()),
            ("gone.txt", b"removed".to_vec()),
            ("notes.txt", b"not in the target".to_vec()),
        ],
        ..File::new("directory-base", &sample::base())
    };
    let target = File {
        companions: vec![
            tokenizer(),
            ("config.json", new.to_vec()),
            ("empty.txt", Vec::new()),
            ("large.txt", large.clone()),
        ],
        ..File::new("directory-target", &sample::target())
    };
    let patch = encode_with(flat_options(), Some(&sample::base()), &sample::target(), |encoder| {
        encoder.keep_file("model.safetensors", FileKind::Tensors, header_of(&good.target.bytes))?;
        encoder.keep_file("tokenizer.json", FileKind::Companion, b"{}")?;
        encoder.replace_file("config.json", old, new)?;
        encoder.remove_file("gone.txt", b"removed")?;
        encoder.carry_file("empty.txt", FileKind::Companion, b"")?;
        encoder.carry_file("large.txt", FileKind::Companion, &large)
    });
    let shows =
        "A directory: files kept, replaced, removed, empty, in two data sections; one is not listed and so goes.";
    Good {
        name: "files-of-a-directory".into(),
        rules: "R41 R42 R43 R44 R71 R72 R73 R77 R97",
        shows,
        base: Some(base),
        target,
        patch,
    }
}

fn tensor_in_two_files() -> Good {
    // "old" is in a second file as well, with other bytes, and counts in the one that the index has.
    let (model, copy) = ("model.safetensors", "copy.safetensors");
    let index = || {
        let map = format!(r#"{{"old":"{model}","w":"{model}","gone":"{copy}"}}"#);
        let name = "model.safetensors.index.json";
        (name, format!(r#"{{"weight_map":{map}}}"#).into_bytes())
    };
    let other = |value| Tensor::new(Dtype::U8, &[2], &[value, 9]);
    let in_copy = |value| Checkpoint::from([("old", other(value))]).to_file();
    let file = |name: &'static str, plain: Checkpoint, value| {
        let companions = vec![(copy, in_copy(value)), index()];
        let others = Checkpoint::from([("copy.safetensors/old", other(value))]);
        File { companions, others, ..File::new(name, &plain) }
    };
    let base = file("copied-base", sample::base(), 1);
    let target = file("copied-target", sample::target(), 2);
    let (before, after) = (base.checkpoint(), target.checkpoint());
    let patch = encode_with(flat_options(), Some(&before), &after, |encoder| {
        encoder.keep_file(copy, FileKind::Tensors, header_of(&in_copy(2)))?;
        encoder.keep_file(model, FileKind::Tensors, header_of(&target.bytes))?;
        encoder.keep_file(index().0, FileKind::Companion, &index().1)
    });
    Good {
        name: "tensor-in-two-files".into(),
        rules: "R77 R99",
        shows: "A name stands in two files: the index gives it to one, and the other's is named with its file.",
        base: Some(base),
        target,
        patch,
    }
}

fn files_in_subdirectories() -> Good {
    let (shard, deep) = ("shards/one", "shards/d/e/e/p/e/r/deep");
    let tensor = |value| Tensor::new(Dtype::U8, &[2], &[value, 9]);
    let file_of = |name, value| Checkpoint::from([(name, tensor(value))]).to_file();
    let index = {
        let map = format!(
            r#"{{"w":"model.safetensors","old":"model.safetensors","x":"{shard}","y":"{deep}"}}"#
        );
        format!(r#"{{"weight_map":{map}}}"#).into_bytes()
    };
    let name = "model.safetensors.index.json";
    let file = |own: &'static str, plain: Checkpoint, value| {
        let others = Checkpoint::from([("x", tensor(value)), ("y", tensor(value + 1))]);
        let companions = vec![
            (shard, file_of("x", value)),
            (deep, file_of("y", value + 1)),
            (name, index.clone()),
        ];
        File { companions, others, ..File::new(own, &plain) }
    };
    let base = file("tree-base", sample::base(), 1);
    let target = file("tree-target", sample::target(), 5);
    let (before, after) = (base.checkpoint(), target.checkpoint());
    let patch = encode_with(flat_options(), Some(&before), &after, |encoder| {
        encoder.keep_file("model.safetensors", FileKind::Tensors, header_of(&target.bytes))?;
        encoder.keep_file(name, FileKind::Companion, &index)?;
        encoder.keep_file(deep, FileKind::Tensors, header_of(&file_of("y", 6)))?;
        encoder.carry_file(shard, FileKind::Tensors, header_of(&file_of("x", 5)))
    });
    Good {
        name: "files-in-subdirectories".into(),
        rules: "R42 R72 R95",
        shows:
            "The index leads to files in subdirectories; one has as many components as are allowed.",
        base: Some(base),
        target,
        patch,
    }
}

fn pipeline() -> Good {
    let (one, two, in_two) =
        ("unet/one.safetensors", "unet/two.safetensors", "vae/deep/x.safetensors");
    let tensor = |value| Tensor::new(Dtype::U8, &[2], &[value, 9]);
    let file_of = |value| Checkpoint::from([("w", tensor(value))]).to_file();
    let index = br#"{"weight_map":{"w":"two.safetensors","v":"one.safetensors"}}"#;
    let index = ("unet/diffusion.safetensors.index.json", index.to_vec());
    let (parts, config) =
        (("model_index.json", b"{}".to_vec()), ("vae/config.json", b"{}".to_vec()));
    let file = |own: &'static str, plain: Checkpoint, value| {
        let (own_name, counted, deep) = ("unet/one.safetensors/w", "unet/w", "vae/deep/w");
        let others =
            [(own_name, tensor(value)), (counted, tensor(value + 1)), (deep, tensor(value + 2))];
        let others = Checkpoint::from(others);
        let tensors = [(one, value), (two, value + 1), (in_two, value + 2)];
        let tensors = tensors.map(|(name, value)| (name, file_of(value)));
        let plain_files = [index.clone(), parts.clone(), config.clone()];
        let companions = tensors.into_iter().chain(plain_files).collect();
        File { companions, others, ..File::new(own, &plain) }
    };
    let base = file("pipeline-base", sample::base(), 1);
    let target = file("pipeline-target", sample::target(), 5);
    let (before, after) = (base.checkpoint(), target.checkpoint());
    let patch = encode_with(flat_options(), Some(&before), &after, |encoder| {
        encoder.keep_file("model.safetensors", FileKind::Tensors, header_of(&target.bytes))?;
        for name in [one, two, in_two] {
            encoder.keep_file(name, FileKind::Tensors, header_of(&file_of(0)))?;
        }
        for (name, bytes) in [&index, &parts, &config] {
            encoder.keep_file(name, FileKind::Companion, bytes)?;
        }
        Ok(())
    });
    Good {
        name: "files-of-a-pipeline".into(),
        rules: "R95 R99",
        shows: "Tensors of subdirectories are named with them; one directory has an index, and a tensor in two files.",
        base: Some(base),
        target,
        patch,
    }
}

fn modules() -> Good {
    let (part, deep) = ("2_Dense/model.safetensors", "a/b/model.safetensors");
    let tensor = |value| Tensor::new(Dtype::U8, &[2], &[value, 9]);
    let file_of = |value| Checkpoint::from([("w", tensor(value))]).to_file();
    let list = br#"[{"path":""},{"path":"./2_Dense/"},{"path":"a//./b"}]"#.to_vec();
    let file = |own: &'static str, plain: Checkpoint, value| {
        let others = [("2_Dense/w", tensor(value)), ("a/b/w", tensor(value + 1))];
        let others = Checkpoint::from(others);
        let companions = vec![
            (part, file_of(value)),
            (deep, file_of(value + 1)),
            ("modules.json", list.clone()),
        ];
        File { companions, others, ..File::new(own, &plain) }
    };
    let base = file("modules-base", sample::base(), 1);
    let target = file("modules-target", sample::target(), 5);
    let (before, after) = (base.checkpoint(), target.checkpoint());
    let patch = encode_with(flat_options(), Some(&before), &after, |encoder| {
        encoder.keep_file("model.safetensors", FileKind::Tensors, header_of(&target.bytes))?;
        for name in [part, deep] {
            encoder.keep_file(name, FileKind::Tensors, header_of(&file_of(0)))?;
        }
        encoder.keep_file("modules.json", FileKind::Companion, &list)
    });
    Good {
        name: "files-of-modules".into(),
        rules: "R95 R99",
        shows: "A list of modules names their directories in other words for the same.",
        base: Some(base),
        target,
        patch,
    }
}

/// Three leaves and a few elements: a lone change far out, an unchanged leaf, many changes, a short leaf.
fn blocks(coding: &str, options: EncoderOptions) -> Good {
    const LEAF: u64 = 32 * 1024;
    let elements = 3 * LEAF + 7;
    let changed = |i: u64| {
        i == 20_000 || (2 * LEAF..3 * LEAF).contains(&i) && i.is_multiple_of(3) || i == elements - 1
    };
    let tensor = |step: u64| {
        let bits: Vec<u64> = (0..elements).map(|i| 0x3f80 + u64::from(changed(i)) * step).collect();
        [("w", Tensor::new(Dtype::Bf16, &[elements], &bits))].into()
    };
    let shows = match options.block_leaves {
        1 => "Blocks of one leaf, with an unchanged leaf skipped and a short last block.",
        _ => "The changes of the vector with blocks of one leaf, in blocks of two.",
    };
    let name = format!("blocks-of-{}-{coding}", options.block_leaves);
    encoded(
        name,
        "R5 R33",
        shows,
        options,
        [("blocks-base", &tensor(0)), ("blocks-target", &tensor(1))],
    )
}

fn real_slice(coding: &str, options: EncoderOptions, [base, target]: &[File; 2]) -> Good {
    let patch = encode(options, &base.checkpoint(), &target.checkpoint());
    let shows = "64 Ki elements of a matrix of an encoder model, eight optimizer steps apart.";
    Good {
        name: format!("real-{coding}"),
        rules: "R68",
        shows,
        base: Some(base.clone()),
        target: target.clone(),
        patch,
    }
}
