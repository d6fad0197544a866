//! Names of objects in a feed (FEED.md §3).

use crate::json::INTEGER_MAX;

/// What the feed is.
pub(crate) const FEED: &str = "pulse.json";
/// Hint of the writer: the newest version.
pub(crate) const LATEST: &str = "latest.json";
/// Hint of compactors: which by-products there are.
pub(crate) const HINTS: &str = "hints.json";
/// Hint of the pruner: the oldest version whose data is kept.
pub(crate) const FLOOR: &str = "floor.json";

/// Folders of objects with a version in their names.
pub(crate) const DATA: &str = "data";
pub(crate) const SKIP: &str = "skip";
pub(crate) const ANCHOR: &str = "anchor";

pub(crate) fn record(version: u64) -> String {
    format!("log/{version:020}.json")
}

pub(crate) fn data(version: u64, nonce: u64) -> String {
    format!("{DATA}/{version:020}-{nonce:016x}")
}

pub(crate) fn skip(from: u64, to: u64, nonce: u64) -> String {
    format!("{SKIP}/{from:020}-{to:020}-{nonce:016x}.json")
}

pub(crate) fn anchor(version: u64, nonce: u64) -> String {
    format!("{ANCHOR}/{version:020}-{nonce:016x}.json")
}

/// The version that the object at this name leads to, if it is one of the names above with a nonce.
pub(crate) fn version_of(name: &str) -> Option<u64> {
    let (folder, file) = name.split_once('/')?;
    let parts: Vec<&str> = match folder {
        DATA => file.split('-').collect(),
        SKIP | ANCHOR => file.strip_suffix(".json")?.split('-').collect(),
        _ => return None,
    };
    let (nonce, versions) = parts.split_last()?;
    let is_lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let is_nonce = nonce.len() == 16 && nonce.bytes().all(is_lower_hex);
    let numbers: Option<Vec<u64>> = versions.iter().map(|digits| number(digits)).collect();
    match (folder, numbers?.as_slice()) {
        (SKIP, [from, to]) if is_nonce && from < to => Some(*to),
        (DATA | ANCHOR, [version]) if is_nonce => Some(*version),
        _ => None,
    }
}

/// The version that the skip at this name starts from.
pub(crate) fn start_of(name: &str) -> Option<u64> {
    number(name.strip_prefix("skip/")?.get(..20)?)
}

fn number(digits: &str) -> Option<u64> {
    let is_number = digits.len() == 20 && digits.bytes().all(|c| c.is_ascii_digit());
    let number: Option<u64> = is_number.then(|| digits.parse().ok()).flatten();
    number.filter(|number| *number <= INTEGER_MAX)
}

/// The version of the record at this name.
pub(crate) fn record_version(name: &str) -> Option<u64> {
    number(name.strip_prefix("log/")?.strip_suffix(".json")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_in_no_other_form() {
        let name = data(7, 0xabc);
        assert_eq!(name, "data/00000000000000000007-0000000000000abc");
        assert_eq!(version_of(&name), Some(7));
        assert_eq!(version_of(&skip(3, 8, 1)), Some(8));
        assert_eq!(version_of(&anchor(9, 1)), Some(9));
        assert_eq!(record_version(&record(41)), Some(41));
        let wrong = [
            "data/7-0000000000000abc",
            "data/00000000000000000007-0000000000000ABC",
            "data/00000000000000000007-abc",
            "data/00000000000000000007",
            "data/../00000000000000000007-0000000000000abc",
            "data/+0000000000000000007-0000000000000abc",
            "data/99999999999999999999-0000000000000abc",
            "data/00009007199254740993-0000000000000abc",
            "log/00000000000000000007.json",
            "skip/00000000000000000007-0000000000000abc.json",
            "skip/00000000000000000008-00000000000000000008-0000000000000abc.json",
            "anchor/00000000000000000007-0000000000000abc",
        ];
        for name in wrong {
            assert_eq!(version_of(name), None, "{name}");
        }
        assert_eq!(record_version("log/7.json"), None);
    }
}
