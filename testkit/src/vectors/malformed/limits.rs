//! Limits that are lowered until a small file is beyond them: it is good at a limit, and malformed one below.

use pulse::dtype::Dtype;
use pulse::wire::Tag;

use super::rebuild::{with_files, CARRIED, CARRIED_COMPANION};
use super::{row, Malformed};
use crate::checkpoint::{header_of, Checkpoint, Tensor};
use crate::vectors::good::{File, Good};
use crate::vectors::raw::{fields, Footer, Raw};
use crate::vectors::sample::{
    addition, base, block, digest_in, footer, header, new, patch, target, tensor, trailer,
    with_new, ADDED, DELETED, PLAIN, WHOLE,
};
use crate::vectors::Limits;

pub struct Pair {
    name: &'static str,
    limit: &'static str,
    /// What the file needs.
    value: u64,
    shows: &'static str,
    needs: &'static str,
    target: File,
    patch: Vec<u8>,
}

impl Pair {
    /// What a reader may do without that would read the file.
    fn needs(self, needs: &'static str) -> Pair {
        Pair { needs, ..self }
    }

    /// The file at its limit.
    pub fn good(self) -> (Good, Limits) {
        let good = Good {
            name: self.name.into(),
            rules: "R81",
            shows: self.shows,
            base: Some(File::new("sample-base", &base())),
            target: self.target,
            patch: self.patch,
        };
        (good, vec![(self.limit, self.value)])
    }

    /// The file one below.
    fn malformed(self) -> Malformed {
        Malformed {
            limits: vec![(self.limit, self.value - 1)],
            needs: Some(self.needs),
            ..row(
                format!("{}-exceeded", self.name),
                "limit",
                "R81",
                format!("{} The limit is one less.", self.shows),
                self.patch,
            )
        }
    }
}

fn pair(
    (name, limit, value): (&'static str, &'static str, u64),
    shows: &'static str,
    target: File,
    patch: Raw,
) -> Pair {
    Pair { name, limit, value, shows, needs: "limits", target, patch: patch.write() }
}

pub fn limits() -> Vec<Malformed> {
    pairs().into_iter().map(Pair::malformed).collect()
}

pub fn pairs() -> Vec<Pair> {
    let two = |footer: Footer| Raw::new(header(), Footer { tensors: 2, ..footer });
    let first = |raw: Raw| {
        raw.add_tensor("w", tensor()).add(Tag::BLOCK, block()).add(Tag::TENSOR_END, trailer())
    };
    let (mut alone, mut more, mut added, mut odd) = (target(), target(), base(), base());
    alone.tensors.remove("old");
    more.tensors.insert("new".into(), new());
    added.tensors.insert("new".into(), new());
    odd.tensors.insert("x".into(), Tensor::from_bytes(Dtype::Other("X4".into()), &[4], vec![1, 2]));
    // `w` is patched, and `old` deleted.
    let two_names = first(two(footer(2, Some(&base()), &alone)))
        .add_tensor("old", fields().name(0, "old").u8(DELETED))
        .add(Tag::TENSOR_END, fields().varint(0).digest(digest_in(&base(), "old")));
    let two_blocks = with_new(first(two(footer(4, Some(&base()), &more))));
    let of_odd = Raw::new(header(), footer(2, Some(&base()), &odd))
        .add_tensor(
            "x",
            fields().name(0, "x").u8(ADDED).u8(0).string("X4").varint(2).varint(1).varint(4),
        )
        .add(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2]))
        .add(Tag::TENSOR_END, fields().varint(2).digest(digest_in(&odd, "x")));
    let whole = target().to_file();
    let model = header_of(&whole);
    let files = with_files(&[
        (CARRIED, "model.safetensors", model),
        (CARRIED_COMPANION, "a.txt", b""),
        (CARRIED_COMPANION, "b.txt", b""),
    ]);
    let directory = || File {
        companions: vec![("a.txt", Vec::new()), ("b.txt", Vec::new())],
        ..File::new("two-companions", &target())
    };
    let plain = || File::new("sample-target", &target());
    let of = |name, checkpoint: &Checkpoint| File::new(name, checkpoint);
    vec![
        pair(
            ("limit-section-bytes", "section_bytes", 145),
            "The footer, of 145 bytes, is the largest section.",
            plain(),
            patch(),
        ),
        pair(
            ("limit-block-leaves", "block_leaves", 2),
            "The block size is 2.",
            plain(),
            patch().replace(Tag::HEADER, fields().u8(0).varint(2).varint(0)),
        ),
        pair(
            ("limit-name-bytes", "name_bytes", 3),
            "The name of a tensor has three bytes.",
            of("new-target", &added),
            addition(),
        ),
        pair(
            ("limit-name-bytes-of-dtype", "name_bytes", 2),
            "The name of a dtype has two bytes.",
            of("odd-dtype-target", &odd),
            of_odd,
        ),
        pair(
            ("limit-name-bytes-of-file", "name_bytes", 17),
            "The name of a file has 17 bytes.",
            directory(),
            files.clone(),
        )
        .needs("files"),
        pair(
            ("limit-names-bytes", "names_bytes", 4),
            "The names of two tensors have four bytes.",
            of("w-target", &alone),
            two_names.clone(),
        ),
        pair(
            ("limit-metadata-bytes", "metadata_bytes", 8),
            "The metadata have eight bytes, with their count.",
            plain(),
            patch().replace(
                Tag::HEADER,
                fields().u8(0).varint(1).varint(1).string("a").string("1234"),
            ),
        ),
        pair(
            ("limit-tensors", "tensors", 2),
            "Two tensors, one of them deleted.",
            of("w-target", &alone),
            two_names,
        ),
        pair(("limit-files", "files", 3), "Three files.", directory(), files).needs("files"),
        pair(("limit-rank", "rank", 1), "A tensor of one dimension.", plain(), patch()),
        pair(
            ("limit-blocks", "blocks", 2),
            "Two blocks, each of its own tensor.",
            of("w-and-new-target", &more),
            two_blocks,
        ),
        pair(
            ("limit-target-bytes", "target_bytes", 10),
            "The target has ten bytes, as the footer says; the tensor in the patch has eight.",
            plain(),
            patch(),
        ),
        pair(
            ("limit-target-bytes-of-files", "target_bytes", 8 + model.len() as u64),
            "A tensor of eight bytes, and a file that is carried.",
            plain(),
            with_files(&[(CARRIED, "", model)]),
        )
        .needs("files"),
    ]
}
