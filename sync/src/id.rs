//! Names of runs and writers: 128 random bits each.

use std::fmt;
use std::str::FromStr;

use crate::json::from_hex;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                from_hex(text).map($name).ok_or_else(|| ParseIdError { found: text.into() })
            }
        }
    };
}

id! {
    /// A training run, that of one feed.
    ///
    /// ```
    /// let run: pulse_sync::Run = "00112233445566778899aabbccddeeff".parse().unwrap();
    /// assert_eq!(run.0[1], 0x11);
    /// ```
    Run
}
id! {
    /// A process that writes to a feed.
    Writer
}

/// The text is not 32 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not 32 hexadecimal digits in lower case")]
pub struct ParseIdError {
    /// The text.
    pub found: String,
}
