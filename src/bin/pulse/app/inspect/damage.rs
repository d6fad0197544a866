//! Where a file is broken, why, and what to do.

use pulse::{Error, PatchMap};

pub struct Damage {
    /// The kind of error in one word, as SPEC.md §11 lists them.
    pub kind: &'static str,
    /// Byte of the file at which it was found.
    pub offset: u64,
    /// Name of the section in which it was found, once one has started.
    pub section: Option<&'static str>,
    /// Tensor that was being read, and number of the block in it.
    pub tensor: Option<String>,
    pub block: Option<u64>,
    /// What is wrong, without advice.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl Damage {
    pub fn of(map: &PatchMap) -> Option<Damage> {
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
                damage.section = corrupt.section.map(pulse::Tag::name);
                damage.tensor = corrupt.tensor.clone().or(damage.tensor);
                damage.block = corrupt.block;
                damage.message = without_advice(error.kind(), corrupt.fault.to_string());
            }
            Error::Limit { offset, .. } => damage.offset = *offset,
            _ => {}
        }
        Some(damage)
    }

    /// "block section, tensor 'a', block 3"; empty if no section has started.
    pub fn place(&self) -> String {
        let section = self.section.map(|section| format!("{section} section"));
        let tensor = self.tensor.as_ref().map(|tensor| format!("tensor '{tensor}'"));
        let block = self.block.map(|block| format!("block {block}"));
        [section, tensor, block].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The messages of these kinds end in advice of their own, after a semicolon. That of [`advice`] is
/// more precise, and enough.
fn without_advice(kind: &str, message: String) -> String {
    match (kind, message.split_once("; ")) {
        ("signature" | "truncated" | "crc" | "file-digest" | "unknown-section", Some((what, _))) => what.into(),
        _ => message,
    }
}

fn advice(error: &Error, map: &PatchMap) -> String {
    let (good, have) = (map.good_bytes, map.file_bytes);
    match error.kind() {
        "truncated" if good == 0 => "transfer it again".into(),
        "truncated" => format!("resume the transfer at byte {have}; the first {good} bytes are OK"),
        "crc" => format!("transfer it again from byte {good}; everything before is OK"),
        "file-digest" => "transfer it again: the CRC-32s match, but a byte has changed".into(),
        "trailing" => format!("keep the first {good} bytes, which are a complete patch: head -c {good}"),
        "signature" => "check that this is the patch, and that it was transferred as binary, not as text".into(),
        "version" | "unknown-section" => "read it with a newer version of pulse".into(),
        "limit" => "if you trust its source, read it through the library with a higher limit".into(),
        "io" => "check the disk or network".into(),
        // The CRC-32 matched: the bytes are as they were written.
        _ => "create the patch again: it was not damaged in transfer, it was written like this".into(),
    }
}
