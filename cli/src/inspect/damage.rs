//! Where a file is broken, why, and what to do.

use pulse::error::Fault;
use pulse::patch::Inventory;
use pulse::Error;

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
                if corrupt.content.is_none() {
                    damage.message = corrupt.fault.to_string();
                }
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

/// What to do, in view of how far the file is intact: more precise than what the error itself knows.
fn advice(error: &Error, map: &Inventory) -> String {
    if let (Some(_), Some(advice)) = (error.content(), error.advice()) {
        return advice.to_string();
    }
    let (good, have) = (map.good_bytes, map.file_bytes);
    let fault = match error {
        Error::Corrupt(corrupt) => &corrupt.fault,
        Error::Limit { limit, asked, .. } => {
            return format!("if you trust its source, raise the limit: --limit {limit}={asked}");
        }
        Error::Version { .. } => return "read it with a newer version of pulse".into(),
        Error::Io { .. } => return "check the disk or network".into(),
        other => return other.advice().map(|advice| advice.to_string()).unwrap_or_default(),
    };
    match fault {
        Fault::Truncated { .. } if good == 0 => "transfer it again".into(),
        Fault::Truncated { .. } => {
            format!("resume the transfer at byte {have}; the first {good} bytes are OK")
        }
        Fault::Crc { .. } => format!("transfer it again from byte {good}; everything before is OK"),
        Fault::FileDigest { .. } => {
            "transfer it again: the CRC-32s match, but a byte has changed".into()
        }
        Fault::Trailing => {
            format!("keep the first {good} bytes, which are a complete patch: head -c {good}")
        }
        Fault::Signature { .. } => {
            "check that this is the patch, and that it was transferred as binary, not as text"
                .into()
        }
        Fault::UnknownSection { .. } => "read it with a newer version of pulse".into(),
        // The CRC-32 matched: the bytes are as they were written.
        _ => "create the patch again: it was not damaged in transfer, it was written like this"
            .into(),
    }
}
