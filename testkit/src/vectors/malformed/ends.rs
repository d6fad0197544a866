//! Index, footer and digests; and bases that are not the right one.

use pulse::dtype::Dtype;
use pulse::hash::{tensor_digest, Digest};
use pulse::wire::Tag;

use super::{row, Malformed};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::vectors::good::File;
use crate::vectors::raw::{fields, right_index, Footer, Raw};
use crate::vectors::sample::{
    self, addition, base, deletion, digest_in, header, new, patch, patch_of, replacement, snapshot,
    target, ADDED, BF16, DELETED, FLAT, PATCHED, PLAIN, REPLACED, U8, WHOLE,
};

/// Wire code of a dtype of two bytes that the sample does not have.
const F16: u8 = 9;

/// Index, footer, and digests.
pub fn ends() -> Vec<Malformed> {
    let wrong_target = fields().varint(2).digest(digest_in(&base(), "w")).digest(Digest([7; 32]));
    vec![
        row(
            "index-count",
            "count",
            "R40",
            "The index lists no tensor.",
            patch().index(|_| fields().varint(0)),
        ),
        row(
            "index-name",
            "name",
            "R40",
            "The index names another tensor.",
            patch().index(|entries| right_index(&[("v".into(), entries[0].1)])),
        ),
        row(
            "index-offset",
            "count",
            "R40",
            "The index gives a wrong offset.",
            patch().index(|entries| right_index(&[("w".into(), entries[0].1 + 1)])),
        ),
        row(
            "index-short",
            "length",
            "R6",
            "The index ends within an entry.",
            patch().index(|_| fields().varint(1).name(0, "w")),
        ),
        row(
            "index-long",
            "length",
            "R6",
            "A byte follows the last entry of the index.",
            patch().index(|entries| right_index(entries).u8(0)),
        ),
        row(
            "footer-reserved-flag",
            "reserved",
            "R45",
            "Bit 1 of the footer flags is set.",
            patch().footer(|footer| footer.flags |= 2),
        ),
        row(
            "footer-absent-base",
            "reserved",
            "R45",
            "The base digest of a snapshot is not zero.",
            snapshot().footer(|footer| footer.base = Digest([7; 32])),
        ),
        row(
            "footer-tensors",
            "count",
            "R46",
            "The footer counts two tensors.",
            patch().footer(|footer| footer.tensors += 1),
        ),
        row(
            "footer-changes",
            "count",
            "R46",
            "The footer counts three changes.",
            patch().footer(|footer| footer.changes += 1),
        ),
        row(
            "footer-index-offset",
            "count",
            "R46",
            "The footer gives a wrong offset of the index.",
            patch().footer(|footer| footer.index_offset += 1),
        ),
        row(
            "footer-target-tensors",
            "count",
            "R70",
            "The target has fewer tensors than the footer says.",
            patch().footer(|footer| footer.target_tensors += 1),
        ),
        row(
            "footer-target-elements",
            "count",
            "R70",
            "The target has fewer elements than the footer says.",
            patch().footer(|footer| footer.target_elements += 1),
        ),
        row(
            "footer-target-bytes",
            "count",
            "R70",
            "The target has fewer bytes than the footer says.",
            patch().footer(|footer| footer.target_bytes += 1),
        ),
        row(
            "footer-target-bytes-limit",
            "limit",
            "R81",
            "The footer speaks of a target of 32 TiB; the default limit is 16 TiB.",
            patch().footer(|footer| footer.target_bytes = 1 << 45),
        ),
        row(
            "footer-no-base",
            "count",
            "R25",
            "A patch that is no snapshot has no base digest.",
            patch().footer(|footer| (footer.flags, footer.base) = (0, Digest([0; 32]))),
        ),
        row(
            "footer-snapshot-base",
            "count",
            "R25",
            "A snapshot has a base digest.",
            snapshot().footer(|footer| footer.flags = 1),
        ),
        row(
            "footer-long",
            "length",
            "R6",
            "The footer has a field too many.",
            patch().footer(|footer| footer.excess = vec![0; 8]),
        ),
        row(
            "footer-short",
            "length",
            "R6",
            "The footer is 32 bytes long.",
            patch().replace(Tag::FOOTER, fields().bytes(&[0; 32])),
        ),
        row(
            "base-digest-differs",
            "digest",
            "R29",
            "Header and footer name different base digests.",
            patch()
                .replace(Tag::HEADER, fields().u8(16).varint(1).digest(base().digest()).varint(0))
                .footer(|footer| footer.base = Digest([7; 32])),
        ),
        row(
            "target-tensor-digest",
            "digest",
            "R68",
            "The patched tensor does not have the digest of its trailer.",
            patch().replace(Tag::TENSOR_END, wrong_target),
        ),
        row(
            "target-digest",
            "digest",
            "R69",
            "The target does not have the digest of the footer.",
            patch().footer(|footer| footer.target = Digest([7; 32])),
        ),
        row(
            "snapshot-target-digest",
            "digest",
            "R69",
            "The target of a snapshot does not have the digest of the footer.",
            snapshot().footer(|footer| footer.target = Digest([7; 32])),
        )
        .without_base(),
        row(
            "snapshot-target-tensors",
            "count",
            "R70",
            "The target of a snapshot has fewer tensors than the footer says.",
            snapshot().footer(|footer| footer.target_tensors += 1),
        )
        .without_base(),
        row(
            "snapshot-target-elements",
            "count",
            "R70",
            "The target of a snapshot has fewer elements than the footer says.",
            snapshot().footer(|footer| footer.target_elements += 1),
        )
        .without_base(),
        row(
            "snapshot-target-bytes",
            "count",
            "R70",
            "The target of a snapshot has fewer bytes than the footer says.",
            snapshot().footer(|footer| footer.target_bytes += 1),
        )
        .without_base(),
    ]
}

/// Patches of another base, and patches that contradict the base that they name.
pub fn bases() -> Vec<Malformed> {
    let other_base: fn(&mut Footer) = |footer| footer.base = Digest([7; 32]);
    let missing = patch()
        .replace(Tag::TENSOR, fields().name(0, "v").spec(PATCHED, BF16, &[4]))
        .index(|entries| right_index(&[("v".into(), entries[0].1)]));
    let reshaped = patch().replace(Tag::TENSOR, fields().name(0, "w").spec(PATCHED, BF16, &[2, 2]));
    let added = addition()
        .replace(Tag::TENSOR, fields().name(0, "old").spec(ADDED, U8, &[2]))
        .index(|entries| right_index(&[("old".into(), entries[0].1)]));
    let other = |tensor: &str| {
        let mut other = base();
        other.tensors.get_mut(tensor).expect("a tensor").bytes[0] ^= 1;
        other
    };
    vec![
        row(
            "trailer-base-digest-of-deleted",
            "base",
            "R94",
            "The right base, and another base digest of the tensor that is deleted.",
            deletion().replace(Tag::TENSOR_END, fields().varint(0).digest(Digest([7; 32]))),
        )
        .or("digest"),
        row(
            "trailer-target-digest-of-added",
            "digest",
            "R68",
            "A wrong target digest of a tensor that is added; that of the checkpoint is right.",
            addition().replace(Tag::TENSOR_END, fields().varint(2).digest(Digest([7; 32]))),
        ),
        row(
            "base-tensor-missing",
            "base",
            "R63",
            "Another base, which has the tensor that is patched.",
            missing.footer(other_base),
        )
        .or("checkpoint"),
        row(
            "base-tensor-shape",
            "base",
            "R63",
            "Another base, whose tensor has another shape.",
            reshaped.clone().footer(other_base),
        )
        .or("checkpoint"),
        row(
            "base-tensor-added",
            "base",
            "R63",
            "Another base, which does not have the tensor that is added.",
            added.clone().footer(other_base),
        )
        .or("checkpoint"),
        Malformed {
            base: Some(File::new("other-base-w", &other("w"))),
            ..row(
                "base-tensor",
                "base",
                "R63",
                "Another base, which differs in an element that is not changed.",
                patch(),
            )
            .or("digest")
        },
        Malformed {
            base: Some(File::new("other-base-old", &other("old"))),
            ..row(
                "base-digest",
                "base",
                "R63",
                "Another base, which differs in a tensor that is not in the patch.",
                patch(),
            )
            .or("digest")
        },
        Malformed {
            base: Some(File::new("other-base-old", &other("old"))),
            ..row(
                "base-of-deleted",
                "base",
                "R94",
                "Another base, which differs in the tensor that is deleted.",
                deletion(),
            )
        },
        Malformed {
            base: Some(File::new("other-base-old", &other("old"))),
            ..row(
                "base-of-replaced",
                "base",
                "R94",
                "Another base, which differs in the tensor that is replaced.",
                replacement(),
            )
        },
        Malformed {
            base: Some(File::new("sample-target", &target())),
            ..row(
                "base-applied-twice",
                "base",
                "R63",
                "The target as base: the patch was applied before.",
                patch(),
            )
            .or("digest")
        },
        row(
            "checkpoint-tensor-shape",
            "checkpoint",
            "R63",
            "The right base, whose tensor has another shape.",
            reshaped,
        ),
        row(
            "checkpoint-tensor-added",
            "checkpoint",
            "R63",
            "The right base, which has the tensor that is added.",
            added,
        ),
        row(
            "checkpoint-tensor-dtype",
            "checkpoint",
            "R63",
            "The right base, whose tensor has another dtype of the same size.",
            patch().replace(Tag::TENSOR, fields().name(0, "w").spec(PATCHED, F16, &[4])),
        ),
        row(
            "checkpoint-tensor-missing",
            "checkpoint",
            "R63",
            "The right base, which does not have the tensor that is patched.",
            patch_of("v", fields().name(0, "v").spec(PATCHED, BF16, &[4])),
        ),
        row(
            "checkpoint-tensor-deleted-missing",
            "checkpoint",
            "R63",
            "The right base, which does not have the tensor that is deleted.",
            Raw::new(header(), sample::footer(0, Some(&base()), &base()))
                .add_tensor("gone", fields().name(0, "gone").u8(DELETED))
                .add(Tag::TENSOR_END, fields().varint(0).digest(tensor_digest(&new().bytes))),
        ),
        row(
            "checkpoint-tensor-replaced-missing",
            "checkpoint",
            "R63",
            "The right base, which does not have the tensor that is replaced.",
            replaced_missing(),
        ),
        other_size(),
    ]
}

/// A patch that replaces a tensor which the base does not have, and is right for who adds it.
fn replaced_missing() -> Raw {
    let mut target = base();
    target.tensors.insert("gone".into(), new());
    let digest = tensor_digest(&new().bytes);
    Raw::new(header(), sample::footer(2, Some(&base()), &target))
        .add_tensor("gone", fields().name(0, "gone").spec(REPLACED, U8, &[2]))
        .add(Tag::BLOCK, fields().block(WHOLE, 0, 1, 2).u8(PLAIN).stored(&[1, 2]))
        .add(Tag::TENSOR_END, fields().varint(2).digest(digest).digest(digest))
}

/// A tensor of a dtype without a code, of which only its size is wrong.
fn other_size() -> Malformed {
    let tensor = |first| {
        let bytes = vec![first, 0, 0, 0, 0, 0, 0, 0];
        [("x", Tensor::from_bytes(Dtype::Other("X4".into()), &[4], bytes))].into()
    };
    let (base, target): (Checkpoint, Checkpoint) = (tensor(0), tensor(1));
    let header_of_9 =
        fields().name(0, "x").u8(PATCHED).u8(0).string("X4").varint(9).varint(1).varint(4);
    let raw = Raw::new(header(), sample::footer(1, Some(&base), &target))
        .add_tensor("x", header_of_9)
        .add(Tag::BLOCK, fields().block(FLAT, 0, 1, 1).u8(0x31).stored(&[0]).stored(&[1]))
        .add(
            Tag::TENSOR_END,
            fields().varint(1).digest(digest_in(&base, "x")).digest(digest_in(&target, "x")),
        );
    Malformed {
        base: Some(File::new("other-dtype-base", &base)),
        ..row(
            "checkpoint-tensor-size",
            "checkpoint",
            "R63",
            "The right base, whose tensor has eight bytes and not nine.",
            raw,
        )
    }
}
