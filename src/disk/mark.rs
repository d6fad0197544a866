//! The mark of a tensor file that an update is changing.
//!
//! It stands in the first eight bytes, where a safetensors file has the length of its header: no
//! header is that long, so every reader refuses the file, by whatever name and wherever it is.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Bytes of a mark, and of the length field of which it takes the place.
pub(crate) const MARK_BYTES: usize = 8;
/// Bytes of a mark that are its own.
const ID_BYTES: usize = 5;
/// The last bytes of every mark.
const END: [u8; 3] = [b'u', b'p', 0xff];

/// What marks the files of one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark([u8; MARK_BYTES]);

impl Mark {
    /// A mark that no other update has.
    pub fn random() -> Self {
        // Seeded by the system, anew each time. It must be its own, not secret.
        let random = RandomState::new().build_hasher().finish().to_le_bytes();
        Self::with_id(std::array::from_fn(|at| random[at]))
    }

    fn with_id(mut id: [u8; ID_BYTES]) -> Self {
        // Nor do the low 32 bits alone make a length.
        id[3] |= 0x80;
        let mut bytes = [0; MARK_BYTES];
        bytes[..ID_BYTES].copy_from_slice(&id);
        bytes[ID_BYTES..].copy_from_slice(&END);
        Mark(bytes)
    }

    /// The mark that a file starts with, if it does.
    pub fn of(head: [u8; MARK_BYTES]) -> Option<Self> {
        (head[ID_BYTES..] == END && head[3] >= 0x80).then_some(Mark(head))
    }

    pub fn bytes(&self) -> [u8; MARK_BYTES] {
        self.0
    }

    /// The id of the update in hexadecimal digits, as in the names of its files.
    pub fn id(&self) -> String {
        self.0[..ID_BYTES].iter().fold(String::new(), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
    }

    /// The mark of an update with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        let number = u64::from_str_radix(id, 16).ok()?.to_be_bytes();
        let mark = Self::with_id(std::array::from_fn(|at| number[at + MARK_BYTES - ID_BYTES]));
        // Each has one id: not with a sign, with fewer digits or in capitals.
        (mark.id() == id).then_some(mark)
    }

    /// Name of the journal of the update.
    pub fn journal(&self) -> String {
        format!("{PREFIX}{}{JOURNAL}", self.id())
    }

    /// Name of another file of the update: what it is, and its number.
    pub fn file(&self, what: &str) -> String {
        format!("{PREFIX}{}.{what}", self.id())
    }

    /// The update that a file of this name belongs to, and what it is to it.
    pub fn of_name(name: &str) -> Option<(Self, &str)> {
        let (id, what) = name.strip_prefix(PREFIX)?.split_once('.')?;
        Some((Self::from_id(id)?, what))
    }
}

/// What the names of all files of an update start with.
pub(crate) const PREFIX: &str = "pulse-update-";
const JOURNAL: &str = ".undo";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reader_takes_a_mark_for_the_length_of_a_header() {
        for _ in 0..1000 {
            let mark = Mark::random();
            let bytes = mark.bytes();
            assert!(u64::from_le_bytes(bytes) > 1 << 62);
            assert!(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) < 0);
            assert_eq!(Mark::of(bytes), Some(mark));
        }
        assert_ne!(Mark::random(), Mark::random());
        for length in [0, 8, 100_000_000, u64::MAX] {
            assert_eq!(Mark::of(length.to_le_bytes()), None);
        }
    }

    #[test]
    fn names_tell_the_update_that_a_file_belongs_to() {
        let mark = Mark::random();
        assert_eq!(Mark::from_id(&mark.id()), Some(mark));
        assert_eq!(Mark::of_name(&mark.journal()), Some((mark, "undo")));
        assert_eq!(Mark::of_name(&mark.file("new-7")), Some((mark, "new-7")));
        for name in [
            "pulse-update-",
            "pulse-update-.undo",
            "pulse-update-12.undo",
            "pulse-update-0011223344.undo",
            "pulse-update-+011228344.undo",
            "pulse-update-00112283GG.undo",
            "pulse-update-AA112283AA.undo",
            "model.safetensors",
        ] {
            assert_eq!(Mark::of_name(name), None, "{name}");
        }
    }
}
