//! The value of a SHA-256.

use std::fmt;
use std::str::FromStr;

/// A SHA-256 value.
///
/// ```
/// let digest: pulse::hash::Digest = "00".repeat(32).parse().unwrap();
/// assert_eq!(digest, pulse::hash::Digest([0; 32]));
/// assert_eq!(digest.to_string().len(), 64);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(hex: &str) -> Result<Self, ParseDigestError> {
        let bad = || ParseDigestError { found: hex.into() };
        let mut bytes = [0; 32];
        // No signs, which numbers may have.
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(bad());
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Digest(bytes))
    }
}

/// The text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a digest of 64 hexadecimal digits")]
pub struct ParseDigestError {
    /// The text.
    pub found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits_and_nothing_else() {
        let digest = Digest([0xa5; 32]);
        let hex = "a5".repeat(32);
        assert_eq!(
            (digest.to_string(), format!("{digest:?}")),
            (hex.clone(), format!("Digest({hex})"))
        );
        assert_eq!(hex.parse(), Ok(digest));
        assert_eq!(hex.to_uppercase().parse(), Ok(digest));
        let signed = "+5".repeat(32);
        for wrong in ["", "a5", &hex[1..], &format!("{hex}a5"), &"é".repeat(32), &signed] {
            let error = wrong.parse::<Digest>().unwrap_err();
            assert_eq!(error, ParseDigestError { found: wrong.into() });
        }
    }
}
