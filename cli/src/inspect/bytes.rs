//! What the bytes of a patch are used for.

use pulse::coding::{Coding, PayloadBits};
use pulse::patch::{Inventory, TensorEntry};
use pulse::wire::Tag;

use crate::text;

/// Bytes of signature and version, which belong to no section.
const SIGNATURE_BYTES: u64 = 10;

/// A use of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    Positions,
    Signs,
    Values,
    Whole,
    Tables,
    Undecoded,
    Digests,
    Framing,
    Files,
    Index,
    Header,
    Footer,
    Signature,
    Skipped,
    Unread,
}

impl Use {
    pub const ALL: [Use; 15] = [
        Use::Positions,
        Use::Signs,
        Use::Values,
        Use::Whole,
        Use::Tables,
        Use::Undecoded,
        Use::Digests,
        Use::Framing,
        Use::Files,
        Use::Index,
        Use::Header,
        Use::Footer,
        Use::Signature,
        Use::Skipped,
        Use::Unread,
    ];
    /// Uses within the sections of a tensor.
    pub const OF_TENSORS: &'static [Use] = Use::ALL.split_at(8).0;

    pub fn name(self) -> &'static str {
        match self {
            Use::Positions => "positions",
            Use::Signs => "signs",
            Use::Values => "values",
            Use::Whole => "whole",
            Use::Tables => "tables",
            Use::Undecoded => "undecoded",
            Use::Digests => "digests",
            Use::Framing => "framing",
            Use::Files => "files",
            Use::Index => "index",
            Use::Header => "header",
            Use::Footer => "footer",
            Use::Signature => "signature",
            Use::Skipped => "skipped",
            Use::Unread => "unread",
        }
    }

    pub fn meaning(self) -> &'static str {
        match self {
            Use::Positions => "which elements change",
            Use::Signs => "up or down, where coded separately",
            Use::Values => "by how much",
            Use::Whole => "blocks stored whole: new, replaced, or changed nearly everywhere",
            Use::Tables => "parameters of the codings, padding",
            Use::Undecoded => "blocks with invalid coding, or not unpacked",
            Use::Digests => "of each tensor, before and after",
            Use::Framing => "names, shapes, block headers, lengths, CRC-32",
            Use::Files => "file records, and the contents of carried files",
            Use::Index => "names and offsets of all tensors",
            Use::Header => "steps, run, metadata",
            Use::Footer => "totals, digests of both checkpoints, SHA-256",
            Use::Signature => "signature and version",
            Use::Skipped => "sections unknown to this reader",
            Use::Unread => "unreadable, from the damage on",
        }
    }
}

/// Bytes by use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent([u64; Use::ALL.len()]);

impl Spent {
    /// The bytes of a tensor, in full.
    pub fn on_tensor(tensor: &TensorEntry) -> Spent {
        let mut spent = Spent::default();
        let (mut bits, mut decoded) = (PayloadBits::default(), 0);
        for block in &tensor.blocks {
            match block.account() {
                None => spent.add(Use::Undecoded, block.payload_bytes()),
                Some(_) if block.coding() == Coding::Whole => {
                    spent.add(Use::Whole, block.payload_bytes())
                }
                Some(account) => {
                    bits += account;
                    decoded += block.payload_bytes();
                }
            }
        }
        // Rounded down; the remainders are counted with the tables.
        let [positions, signs, values] =
            [bits.positions, bits.signs, bits.values].map(|bits| bits / 8);
        spent.add(Use::Positions, positions);
        spent.add(Use::Signs, signs);
        spent.add(Use::Values, values);
        spent.add(Use::Tables, decoded - positions - signs - values);
        let digests = tensor.end.iter().flat_map(|end| [end.base, end.target]).flatten().count();
        spent.add(Use::Digests, 32 * digests as u64);
        spent.add(Use::Framing, tensor.bytes - spent.sum());
        spent
    }

    /// The bytes of a file, in full, given those of its tensors.
    pub fn on_file(map: &Inventory, tensors: impl Iterator<Item = Spent>) -> Spent {
        let mut spent = Spent::default();
        tensors.for_each(|tensor| {
            Use::ALL.into_iter().for_each(|what| spent.add(what, tensor.on(what)))
        });
        for (tag, total) in &map.sections {
            let what = match *tag {
                Tag::TENSOR | Tag::BLOCK | Tag::TENSOR_END => continue,
                Tag::HEADER => Use::Header,
                Tag::FILE | Tag::FILE_DATA => Use::Files,
                Tag::INDEX => Use::Index,
                Tag::FOOTER => Use::Footer,
                _ => Use::Skipped,
            };
            spent.add(what, total.bytes);
        }
        spent.add(Use::Unread, map.file_bytes.saturating_sub(map.good_bytes));
        spent.add(Use::Signature, map.good_bytes.min(SIGNATURE_BYTES));
        spent
    }

    fn add(&mut self, what: Use, bytes: u64) {
        self.0[what as usize] += bytes;
    }

    pub fn on(&self, what: Use) -> u64 {
        self.0[what as usize]
    }

    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Uses with any bytes, in order.
    pub fn used(&self) -> impl Iterator<Item = (Use, u64)> + '_ {
        Use::ALL.into_iter().map(|what| (what, self.on(what))).filter(|(_, bytes)| *bytes > 0)
    }

    /// The largest uses and their shares, without those below 0.5%: "positions 52%, signs 18%".
    pub fn largest(&self, number: usize) -> String {
        let share = |bytes| 100.0 * text::ratio(bytes, self.sum());
        let mut used: Vec<(Use, u64)> =
            self.used().filter(|(_, bytes)| share(*bytes) >= 0.5).collect();
        used.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let named = used
            .iter()
            .take(number)
            .map(|(what, bytes)| format!("{} {:.0}%", what.name(), share(*bytes)));
        named.collect::<Vec<_>>().join(", ")
    }
}
