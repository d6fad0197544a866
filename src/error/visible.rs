//! Text from files as it may be shown: no character of it acts on a terminal.

use std::fmt;

/// Shows a value as text in which every character is visible: one that would act on a terminal, turn
/// the writing direction or show as nothing is escaped, as in `\u{202e}`. So a name in a file can
/// neither forge lines or colours nor pass for another name.
///
/// The texts of [`Error`](crate::Error) and its parts are made so already.
///
/// ```
/// use pulse::error::Visible;
/// let name = "lm\u{200b}_head\u{202e}\u{1b}[1m";
/// assert_eq!(Visible(name).to_string(), r"lm\u{200b}_head\u{202e}\u{1b}[1m");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Visible<T>(pub T);

/// Whether a character is shown as itself. Not so controls, line and paragraph separators, marks of
/// writing direction, what has no width, and tags.
///
/// ```
/// use pulse::error::is_visible;
/// assert!(is_visible('é') && is_visible(' ') && is_visible('字') && is_visible('\u{301}'));
/// // A line, no width, a variant that looks the same, a filler, another space.
/// for c in ['\n', '\u{feff}', '\u{fe0f}', '\u{e0100}', '\u{3164}', '\u{2800}', '\u{a0}'] {
///     assert!(!is_visible(c));
/// }
/// ```
#[must_use]
pub fn is_visible(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    !(c.is_control()
        || c.is_whitespace()
        || SHOWN_AS_NOTHING.iter().any(|range| range.contains(&c)))
}

/// What Unicode calls default ignorable, and its other format characters and fillers.
const SHOWN_AS_NOTHING: [std::ops::RangeInclusive<char>; 32] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
    // Not characters, or nobody's.
    '\u{fdd0}'..='\u{fdef}',
    '\u{fffe}'..='\u{ffff}',
    '\u{e000}'..='\u{f8ff}',
    '\u{f0000}'..='\u{ffffd}',
    '\u{100000}'..='\u{10fffd}',
    '\u{10fffe}'..='\u{10ffff}',
];

impl<T: fmt::Display> fmt::Display for Visible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Escaping(f), format_args!("{}", self.0))
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some((at, c)) = text.char_indices().find(|(_, c)| !is_visible(*c)) {
            let (before, after) = text.split_at(at);
            write!(self.0, "{before}{}", c.escape_default())?;
            text = &after[c.len_utf8()..];
        }
        self.0.write_str(text)
    }
}
