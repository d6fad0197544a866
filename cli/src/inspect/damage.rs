//! Where a file breaks, why, and what to do.

use pulse::patch::Inventory;
use pulse::Error;

pub struct Damage {
    /// The kind of error in one word, as SPEC.md §11 lists them.
    pub kind: &'static str,
    /// Byte of the file at which it shows.
    pub offset: u64,
    /// Name of the section in which it shows, where one was begun.
    pub section: Option<&'static str>,
    /// Tensor that was being read, and number of the block in it.
    pub tensor: Option<String>,
    pub block: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl Damage {
    pub fn of(map: &Inventory) -> Option<Damage> {
        let error = map.error.as_ref()?;
        let open = map.tensors.last().filter(|tensor| tensor.end.is_none());
        let mut damage = Damage {
            kind: error.kind(),
            offset: map.good_bytes,
            section: None,
            tensor: open.map(|tensor| tensor.header.name.clone()),
            block: None,
            message: error.to_string(),
            advice: advice(error, map),
        };
        match error {
            Error::Corrupt(corrupt) => {
                damage.offset = corrupt.offset;
                damage.section = corrupt.section.map(pulse::wire::Tag::name);
                damage.tensor = corrupt.tensor.clone().or(damage.tensor);
                damage.block = corrupt.block;
                damage.message = corrupt.fault.to_string();
            }
            Error::Limit { offset, .. } => damage.offset = *offset,
            _ => {}
        }
        Some(damage)
    }

    /// "block section, tensor 'a', block 3"; empty if no section was begun.
    pub fn place(&self) -> String {
        let section = self.section.map(|section| format!("{section} section"));
        let tensor = self.tensor.as_ref().map(|tensor| format!("tensor '{tensor}'"));
        let block = self.block.map(|block| format!("block {block}"));
        [section, tensor, block].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn advice(error: &Error, map: &Inventory) -> String {
    let (good, have) = (map.good_bytes, map.file_bytes);
    match error.kind() {
        "truncated" => format!("resume the transfer at byte {have}; the first {good} bytes are right"),
        "crc" => format!("transfer it again from byte {good} on; all bytes before are right"),
        "file-digest" => {
            "transfer it again: a byte that no CRC-32 covers is wrong, or one was changed with care".into()
        }
        "trailing" => format!("keep the first {good} bytes, which are a right patch: head -c {good}"),
        "signature" => "see that this is the patch, and that nothing treats it as text on its way".into(),
        "version" | "unknown-section" => "read it with a newer pulse".into(),
        "limit" => "if its source can be trusted, read it through the library with this limit raised".into(),
        "io" => "see what ails the disk or the network it is on".into(),
        // The CRC-32 was right: the bytes are as they were written.
        _ => "make the patch again: the transfer is not at fault, its bytes are as they were written".into(),
    }
}
