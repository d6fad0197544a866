//! Looks at what was given for a patch or a checkpoint and is neither.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::error::Content;
use crate::tag::SIGNATURE;

/// Bytes that are looked at: a tar archive shows within them.
const LOOKED_AT: u64 = 1024;
/// Most names of directories that are looked at.
const NAMES_MAX: usize = 10_000;
/// Most characters of a title that are kept.
const TITLE_CHARS: usize = 60;
/// How deep checkpoints are looked for: the cache of a hub has them in snapshots/<commit>.
const DEPTH: usize = 2;

/// How files start that are neither patches nor checkpoints.
static STARTS: [(&[u8], Content); 15] = [
    (b"version https://git-lfs", Content::LfsPointer),
    (&[0x1f, 0x8b], Content::Compressed("gzip")),
    (b"\xfd7zXZ\0", Content::Compressed("xz")),
    (&[0x28, 0xb5, 0x2f, 0xfd], Content::Compressed("zstd")),
    (b"BZh", Content::Compressed("bzip2")),
    (b"PK\x03\x04", Content::Zip),
    (b"PK\x05\x06", Content::Zip),
    (b"GGUF", Content::Gguf),
    (b"\x89HDF\r\n\x1a\n", Content::Hdf5),
    (b"\x93NUMPY", Content::Npy),
    (&SIGNATURE, Content::Patch),
    // The first byte as UTF-8, replaced, without its highest bit; line ends of other systems.
    (b"\xc2\xabPLS", Content::PatchAsText),
    (b"\xef\xbf\xbdPLS", Content::PatchAsText),
    (b"+PLS", Content::PatchAsText),
    (b"\xabPLS", Content::PatchAsText),
];

/// What is at a path, if that can be told; never waits for a pipe.
pub(crate) fn look(path: &Path) -> Option<Content> {
    let metadata = fs::metadata(path).ok()?;
    if metadata.is_dir() {
        return Some(of_directory(path));
    }
    if !metadata.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(path).ok()?.take(LOOKED_AT).read_to_end(&mut start).ok()?;
    of_start(&start)
}

/// What a file is that starts with these bytes.
fn of_start(start: &[u8]) -> Option<Content> {
    if start.is_empty() {
        return Some(Content::Empty);
    }
    if start.iter().all(|&byte| byte == 0) {
        return Some(Content::Zeros);
    }
    if let Some((_, content)) = STARTS.iter().find(|(bytes, _)| start.starts_with(bytes)) {
        // PyTorch zips its pickles; the first name of the archive shows it.
        let is_pickle = *content == Content::Zip && has(start, b"/data.pkl");
        return Some(if is_pickle { Content::Pickle } else { content.clone() });
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(Content::Tar);
    }
    if matches!(start, [0x80, 2..=5, ..]) {
        return Some(Content::Pickle);
    }
    // The length of a JSON object, and how it starts.
    if start.get(4..9) == Some(b"\0\0\0\0{") {
        return Some(Content::Safetensors);
    }
    of_text(start)
}

fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn of_text(start: &[u8]) -> Option<Content> {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    // Bytes stay where they are, whatever the letters.
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("<!doctype html") || lower.starts_with('<') && lower.contains("<html") {
        return Some(Content::Html { title: title(text, &lower) });
    }
    Some(if lower.starts_with("<?xml") { Content::Xml } else { Content::Text })
}

/// What stands between the tags of the title.
fn title(text: &str, lower: &str) -> Option<String> {
    let after = lower.find("<title")?;
    let begin = after + lower[after..].find('>')? + 1;
    let end = lower[begin..].find("</title").map_or(lower.len(), |length| begin + length);
    let words: Vec<&str> = text[begin..end].split_whitespace().collect();
    let title: String = words.join(" ").chars().take(TITLE_CHARS).collect();
    (!title.is_empty()).then_some(title)
}

/// What lies in a directory, or what that is missing.
fn of_directory(path: &Path) -> Content {
    let mut left = NAMES_MAX;
    let names = names(path, &mut left);
    let any = |ends: &[&str]| names.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
    if names.is_empty() {
        return Content::EmptyDirectory;
    }
    if names.iter().any(|name| is_tensors(name)) {
        return Content::Checkpoint;
    }
    if let Some(newest) = checkpoint_in(path, &names, DEPTH, &mut left) {
        return Content::Checkpoints { newest };
    }
    match () {
        () if any(&[".gguf"]) => Content::Ggufs,
        () if any(&[".bin", ".pt", ".pth", ".ckpt"]) => Content::Pickles,
        () if any(&[".pulse"]) => Content::Patches,
        () => Content::Directory,
    }
}

fn is_tensors(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with('.')
}

/// The names in a directory, as many as are left to look at.
fn names(path: &Path, left: &mut usize) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().take(*left);
    let names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    *left -= names.len();
    names
}

/// The directory with tensor files whose name has the greatest number, below one that has none.
fn checkpoint_in(path: &Path, names: &[String], depth: usize, left: &mut usize) -> Option<String> {
    let mut names: Vec<&String> = names.iter().filter(|name| !name.starts_with('.')).collect();
    names.sort_by_key(|name| (number(name), *name));
    names.into_iter().rev().find_map(|name| {
        let inner = path.join(name);
        if !inner.is_dir() {
            return None;
        }
        let below = self::names(&inner, left);
        if below.iter().any(|name| is_tensors(name)) {
            return Some(name.clone());
        }
        let deeper = depth.checked_sub(1).filter(|depth| *depth > 0)?;
        Some(format!("{name}/{}", checkpoint_in(&inner, &below, deeper, left)?))
    })
}

/// The last number in a name, such as that of a step.
fn number(name: &str) -> Option<u64> {
    let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
    let begin = name[..end].rfind(|c: char| !c.is_ascii_digit());
    let begin = begin.map_or(0, |at| at + name[at..].chars().next().map_or(1, char::len_utf8));
    name[begin..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_a_file_is() {
        let padded = |start: &[u8]| [start, &[0x9b; 600]].concat();
        let mut tar = vec![0; 1024];
        tar[..9].copy_from_slice(b"model.bin");
        tar[257..262].copy_from_slice(b"ustar");
        let page = |title: &str| Content::Html { title: Some(title.into()) };
        for (start, content) in [
            (vec![], Some(Content::Empty)),
            (vec![0; 700], Some(Content::Zeros)),
            (b"version https://git-lfs.github.com/spec/v1\noid".into(), Some(Content::LfsPointer)),
            (padded(&[0x1f, 0x8b, 8]), Some(Content::Compressed("gzip"))),
            (padded(b"\xfd7zXZ\0"), Some(Content::Compressed("xz"))),
            (padded(&[0x28, 0xb5, 0x2f, 0xfd]), Some(Content::Compressed("zstd"))),
            (padded(b"BZh9"), Some(Content::Compressed("bzip2"))),
            (padded(b"PK\x03\x04...model.safetensors"), Some(Content::Zip)),
            (padded(b"PK\x05\x06"), Some(Content::Zip)),
            (padded(b"PK\x03\x04...pytorch_model/data.pkl"), Some(Content::Pickle)),
            (padded(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P"), Some(Content::Pickle)),
            (tar, Some(Content::Tar)),
            (padded(b"GGUF\x03\0\0\0"), Some(Content::Gguf)),
            (padded(b"\x89HDF\r\n\x1a\n"), Some(Content::Hdf5)),
            (padded(b"\x93NUMPY\x01\0"), Some(Content::Npy)),
            (padded(&SIGNATURE), Some(Content::Patch)),
            (padded(b"\xabPLS\n\x1a\n"), Some(Content::PatchAsText)),
            (padded(b"\xef\xbf\xbdPLS\r\n"), Some(Content::PatchAsText)),
            (padded(b"\xc2\xabPLS\r\n"), Some(Content::PatchAsText)),
            (padded(b"+PLS\r\n"), Some(Content::PatchAsText)),
            (padded(b"\x10\0\0\0\0\0\0\0{\"w\""), Some(Content::Safetensors)),
            (b"<!DOCTYPE HTML><TITLE lang='en'>\n Sign  in </TITLE>".into(), Some(page("Sign in"))),
            (b"\xef\xbb\xbf\r\n<html><body>".into(), Some(Content::Html { title: None })),
            (format!("<html><title>{}", "é".repeat(600)).into(), Some(page(&"é".repeat(60)))),
            (b"<?xml version=\"1.0\"?>\n<Error>".into(), Some(Content::Xml)),
            (b"notes\tof a run\r\n".into(), Some(Content::Text)),
            // Cut within a character, and not text at all.
            ([b"x".repeat(1023), vec![0xc3]].concat(), Some(Content::Text)),
            (padded(b"text, and then"), None),
            (b"\x1b[1mbold".into(), None),
        ] {
            assert_eq!(of_start(&start), content, "{:?}", String::from_utf8_lossy(&start));
        }
    }

    #[test]
    fn what_lies_in_a_directory_is_told_by_names() {
        let newest = |name: &str| Content::Checkpoints { newest: name.into() };
        for (files, content) in [
            (&[][..], Content::EmptyDirectory),
            (&["model.safetensors", "a.bin"], Content::Checkpoint),
            (&["a.gguf", "a.bin"], Content::Ggufs),
            (&["a.bin", "a.pulse"], Content::Pickles),
            (&["a.ckpt"], Content::Pickles),
            (&["a.pulse", "notes"], Content::Patches),
            (&["notes", ".hidden.safetensors"], Content::Directory),
            // The greatest number, whatever else is there, and not the name of a file.
            (&["step_9/a.safetensors", "step_10/a.safetensors", "step_11"], newest("step_10")),
            (&["step_1/a.safetensors", "step_2/notes", "a.gguf"], newest("step_1")),
            (&["run/step_3/a.safetensors", "run/step_12/a.safetensors"], newest("run/step_12")),
            (&["run/step_3/deep/a.safetensors"], Content::Directory),
            (&[".cache/a.safetensors"], Content::Directory),
            (&["step_1/.a.safetensors"], Content::Directory),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                let path = dir.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            assert_eq!(of_directory(dir.path()), content, "{files:?}");
        }
    }

    #[test]
    fn no_more_names_are_looked_at_than_are_left() {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b", "c"].iter().for_each(|name| fs::write(dir.path().join(name), "").unwrap());
        let mut left = 5;
        assert_eq!(names(dir.path(), &mut left).len(), 3);
        assert_eq!(left, 2);
        assert_eq!(names(dir.path(), &mut left).len(), 2);
        assert_eq!(left, 0);
        assert!(names(dir.path(), &mut left).is_empty());
    }

    #[test]
    fn the_greatest_number_is_the_newest() {
        for (name, found) in [
            ("step_41", Some(41)),
            ("checkpoint-500", Some(500)),
            ("global_step9é", Some(9)),
            ("é7", Some(7)),
            ("12", Some(12)),
            ("last", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(name), found, "{name}");
        }
    }
}
