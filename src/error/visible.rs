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
/// assert!(is_visible('é') && is_visible(' ') && !is_visible('\n') && !is_visible('\u{feff}'));
/// ```
#[must_use]
pub fn is_visible(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'))
}

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
