//! Keys that sign a feed: Ed25519 (FEED.md §5).

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::error::{Error, Result};
use crate::json::from_hex;
use crate::world::World;

/// What is signed begins with this, so that a signature is worth nothing elsewhere.
const CONTEXT: &[u8] = b"pulse-feed-1\n";

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [CONTEXT, payload].concat()
}

/// The public half of a key: what readers are given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether the signature is one of this key, of the payload. Points of small order and scalars in
    /// other than their one form are refused.
    pub(crate) fn verifies(&self, payload: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(&signed_bytes(payload), &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = from_hex(text).ok_or_else(|| {
            Error::Key(format!("{text:?} is not 64 hexadecimal digits in lower case"))
        })?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(PublicKey(bytes)),
            _ => Err(Error::Key(format!("{text} is no Ed25519 key that can be trusted"))),
        }
    }
}

/// A key that signs, kept in a file that its owner alone can read.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let key = pulse_sync::SecretKey::generate(&pulse_sync::System);
/// key.save(dir.path().join("trainer.key"))?;
/// let again = pulse_sync::SecretKey::load(dir.path().join("trainer.key"))?;
/// assert_eq!(again.public(), key.public());
/// # Ok::<(), pulse_sync::Error>(())
/// ```
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl SecretKey {
    /// A new key.
    pub fn generate(world: &dyn World) -> Self {
        let mut seed = [0; 32];
        world.random(&mut seed);
        SecretKey(SigningKey::from_bytes(&seed))
    }

    /// The half that readers are given.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, payload: &[u8]) -> [u8; 64] {
        self.0.sign(&signed_bytes(payload)).to_bytes()
    }

    /// Writes the key to a new file that nobody else may read.
    ///
    /// # Errors
    /// [`Error::Io`], also if the file exists: a key is never replaced.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |error| Error::io("writing the key to", path, error);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        let text = format!("pulse-ed25519-secret {}\n", hex::encode(self.0.to_bytes()));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Reads a key that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Key`] if others may read the file or it is no key, [`Error::Io`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |error| Error::io("reading the key in", path, error);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(Error::Key(format!(
                    "others may read the key in {} (mode {mode:03o}); chmod 600 it, and make another \
                     one if somebody may have done so",
                    path.display()
                )));
            }
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let digits = text.strip_prefix("pulse-ed25519-secret ").map(str::trim_end);
        let seed = digits.and_then(from_hex).ok_or_else(|| {
            Error::Key(format!("{} holds no key; pulse keygen makes one", path.display()))
        })?;
        Ok(SecretKey(SigningKey::from_bytes(&seed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::System;

    #[test]
    fn a_signature_is_of_one_payload_and_one_key() {
        let (key, other) = (SecretKey::generate(&System), SecretKey::generate(&System));
        let signature = key.sign(b"payload");
        assert!(key.public().verifies(b"payload", &signature));
        assert!(!key.public().verifies(b"payloae", &signature));
        assert!(!other.public().verifies(b"payload", &signature));
        // Not of the payload without what it is for.
        assert!(!key.public().verifies(b"payload", &key.0.sign(b"payload").to_bytes()));
    }

    #[test]
    fn a_key_of_small_order_is_nobodys() {
        let identity = format!("01{}", "00".repeat(31));
        assert!(identity.parse::<PublicKey>().is_err());
        assert!("xy".parse::<PublicKey>().is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        SecretKey::generate(&System).save(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(SecretKey::generate(&System).save(&path).is_err(), "a key is never replaced");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SecretKey::load(&path), Err(Error::Key(_))));
    }
}
