//! Patterns for names: `*` matches any characters, `?` matches one.

use std::convert::Infallible;
use std::str::FromStr;

/// A pattern. One without `*` and `?` matches names that contain it.
#[derive(Debug, Clone)]
pub struct Glob {
    pub text: String,
    pattern: Vec<char>,
}

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Glob, Infallible> {
        let pattern =
            if text.contains(['*', '?']) { text.to_string() } else { format!("*{text}*") };
        Ok(Glob { text: text.into(), pattern: pattern.chars().collect() })
    }
}

impl Glob {
    /// A pattern that matches whole names, without `*` and `?` too.
    pub fn whole(text: &str) -> Result<Glob, Infallible> {
        Ok(Glob { text: text.into(), pattern: text.chars().collect() })
    }

    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut next) = (0, 0);
        // The last star: its place in the pattern, and how far into the name it reaches. No earlier
        // star ever needs to reach further, so the time is bounded by the product of the lengths.
        let mut star = None;
        while at < name.len() {
            match self.pattern.get(next) {
                Some('*') => {
                    star = Some((next, at));
                    next += 1;
                }
                Some(&c) if c == '?' || c == name[at] => {
                    at += 1;
                    next += 1;
                }
                _ => {
                    let Some((place, reach)) = star else { return false };
                    star = Some((place, reach + 1));
                    (next, at) = (place + 1, reach + 1);
                }
            }
        }
        self.pattern[next..].iter().all(|&c| c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Glob>().unwrap().matches(name);
        for (pattern, name) in [
            ("*", ""),
            ("*", "a"),
            ("", "anything"),
            ("proj", "model.q_proj.weight"),
            ("*.q_proj.*", "model.layers.1.q_proj.weight"),
            ("a?c", "abc"),
            ("?", "é"),
            ("*aab", "aaaab"),
            ("a*b*c", "a.b.b.c"),
            ("**a**", "a"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a?c", "ac"), ("*b", "abc"), ("b*", "abc"), ("?", ""), ("a*b*c", "a.c.b"), ("Q", "q")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // Not exponential.
        assert!(!matches(&"*a".repeat(200), &("a".repeat(2000) + "b")));
    }
}
