//! Which file names every system can hold, and which two are one (SPEC.md §9).

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

use crate::patch::Patch;

/// Names that are devices on Windows, whatever follows the first dot.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Whether every system can hold a file of this name, which is one that a patch can carry.
pub(crate) fn is_portable(name: &str) -> bool {
    name.split('/').all(is_portable_component)
}

fn is_portable_component(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ').to_uppercase();
    let is_port = |stem: &str| {
        let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
        let mut number = number.unwrap_or_default().chars();
        matches!((number.next(), number.next()), (Some('1'..='9' | '¹' | '²' | '³'), None))
    };
    !name.contains(['<', '>', '"', '|', '?', '*'])
        && !name.ends_with(['.', ' '])
        && !DEVICES.contains(&stem.as_str())
        && !is_port(&stem)
}

/// The same text for all names that are one where neither case nor the form of accents counts.
pub(crate) fn folded(name: &str) -> String {
    // By capitals first: some letters have two small ones.
    name.nfd().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfd().collect()
}

/// Names that are taken, on a system where neither case nor the form of accents counts.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Of files and directories, as they are written, and whether it is a directory.
    names: HashMap<String, (String, bool)>,
}

impl Taken {
    /// Takes a name, or tells with which other it is one: of the file, or of a directory on the way.
    pub fn take(&mut self, name: &str) -> Result<(), String> {
        let directories = || name.match_indices('/').map(|(end, _)| &name[..end]);
        for directory in directories() {
            match self.names.get(&folded(directory)) {
                Some((found, is_directory)) if !is_directory || found != directory => {
                    return Err(found.clone());
                }
                _ => {}
            }
        }
        if let Some((found, _)) = self.names.get(&folded(name)) {
            return Err(found.clone());
        }
        for directory in directories() {
            self.names.insert(folded(directory), (directory.into(), true));
        }
        self.names.insert(folded(name), (name.into(), false));
        Ok(())
    }
}

impl Patch {
    /// Files of the target that not every system can hold: their names are reserved somewhere, or those
    /// of two files, or of their directories, are one where neither case nor the form of accents
    /// counts. In the order of the patch. Applying it works where the system holds them all.
    ///
    /// ```
    /// # use pulse::stream::EncoderOptions;
    /// # use pulse::wire::FileKind;
    /// # use pulse::{Encoder, Limits, Patch};
    /// let mut encoder = Encoder::snapshot(Vec::new(), EncoderOptions::default())?;
    /// encoder.carry_file("aux.txt", FileKind::Companion, b"")?;
    /// let (patch, _) = encoder.finish()?;
    /// let patch = Patch::from_bytes(patch, Limits::default())?;
    /// assert_eq!(patch.unportable_files(), ["aux.txt"]);
    /// # Ok::<(), pulse::Error>(())
    /// ```
    #[must_use]
    pub fn unportable_files(&self) -> Vec<&str> {
        let mut taken = Taken::default();
        let names = self.files().iter().map(|file| file.record.name.as_str());
        // No short circuit: the name is taken, portable or not.
        names.filter(|name| taken.take(name).is_err() | !is_portable(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_system_cannot_hold_are_known() {
        for name in [
            "con",
            "CON.json",
            "aux.tar.gz",
            "nul",
            "Prn.txt",
            "COM1",
            "com9.txt",
            "lpt1.log",
            "LPT².x",
            "CONIN$",
            "con .txt",
            "a.",
            "a ",
            "..a.",
            "<b>",
            "say \"x\"",
            "a|b",
            "what?",
            "*.json",
        ] {
            assert!(!is_portable(name), "{name}");
        }
        for name in [
            "config.json",
            "console.log",
            "com10",
            "com",
            "COM0",
            "lpt.txt",
            "auxiliary",
            ".con",
            "a b",
            " a",
            "é.json",
            "a;b&c=d'(e)[f]{g}~#%!$@^+,.txt",
            "",
        ] {
            assert!(is_portable(name), "{name}");
        }
    }

    #[test]
    fn a_directory_is_written_in_one_way_and_is_no_file() {
        for (names, last_is_free) in [
            (["unet/a", "unet/b"], true),
            (["unet/a", "Unet/b"], false),
            (["a", "A/x"], false),
            (["A/x", "a"], false),
            (["a/b/c", "a/B"], false),
            (["a/b/c", "a/b"], false),
            (["a/b/c", "b/a"], true),
        ] {
            let mut taken = Taken::default();
            taken.take(names[0]).unwrap();
            assert_eq!(taken.take(names[1]).is_ok(), last_is_free, "{names:?}");
        }
    }

    #[test]
    fn names_that_differ_by_case_or_form_are_one() {
        for (a, b) in [
            ("README.md", "readme.MD"),
            ("caf\u{e9}.txt", "cafe\u{301}.txt"),
            ("CAF\u{c9}.txt", "cafe\u{301}.txt"),
            ("\u{3c2}", "\u{3c3}"),
            ("\u{df}", "SS"),
            ("\u{212a}", "k"),
        ] {
            assert_eq!(folded(a), folded(b), "{a} {b}");
        }
        for (a, b) in [("a.json", "b.json"), ("e", "\u{e9}"), ("a", "a ")] {
            assert_ne!(folded(a), folded(b), "{a} {b}");
        }
    }
}
