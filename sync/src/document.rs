//! Documents: a payload that is digested and signed, and the seal beside it (FEED.md §2).

use pulse::hash::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{DocumentFault, Error, Result};
use crate::json::{from_hex, Object, Value, Writer};
use crate::key::{PublicKey, SecretKey};

/// The most bytes of a document, but for the hints.
pub(crate) const DOCUMENT_BYTES: u64 = 1 << 16;
/// The most bytes of `hints.json`.
pub(crate) const HINTS_BYTES: u64 = 1 << 20;

/// A key and what it signed with.
type Signed = (PublicKey, [u8; 64]);

/// A document that was read: its payload, and who signed it. Signatures are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    payload: Vec<u8>,
    pub digest: Digest,
    pub fields: Object,
    signatures: Vec<Signed>,
}

/// SHA-256 of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

impl Document {
    /// Reads the bytes of the object `name`.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let malformed = |what: &str| Error::malformed(name, what);
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let (Some(payload), Some(seal), Some(b""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed(
                "it is not two lines, each with its end: cut off, or no document",
            ));
        };
        let wrong = |line: &str, what: String| Error::malformed(name, format!("{line}: {what}"));
        let seal = Object::parse(seal).map_err(|what| wrong("its seal", what))?;
        let (expected, signatures) = read_seal(&seal).map_err(|what| wrong("its seal", what))?;
        let found = sha256(payload);
        if expected != found {
            return Err(Error::document(name, DocumentFault::Seal { expected, found }));
        }
        let fields = Object::parse(payload).map_err(|what| wrong("its payload", what))?;
        Ok(Document { payload: payload.into(), digest: found, fields, signatures })
    }

    /// As it is kept once its fields are read: many are held at once, and what they say beyond their fields
    /// takes a hundred times its bytes.
    pub fn without_fields(self) -> Self {
        Document { fields: Object::default(), ..self }
    }

    /// Whether a key signed it (F14).
    pub fn check_signature(&self, name: &str, key: &PublicKey) -> Result<()> {
        let mut own = self.signatures.iter().filter(|(signer, _)| signer == key);
        let fault = if self.signatures.is_empty() {
            DocumentFault::Unsigned(*key)
        } else if own.any(|(_, signature)| key.verifies(&self.payload, signature)) {
            return Ok(());
        } else {
            DocumentFault::Signature(*key)
        };
        Err(Error::document(name, fault))
    }
}

fn read_seal(seal: &Object) -> Result<(Digest, Vec<Signed>), String> {
    let digest = Digest(seal.hex("sha256")?);
    let signature = |value: &Value| match value {
        Value::Object(entry) => Ok((PublicKey(entry.hex("key")?), entry.hex("signature")?)),
        _ => Err("a signature is not an object".to_string()),
    };
    Ok((digest, seal.list("signatures")?.iter().map(signature).collect::<Result<_, _>>()?))
}

/// The bytes of a document with this payload, signed by these keys.
pub(crate) fn seal(payload: &str, keys: &[&SecretKey]) -> Vec<u8> {
    let signature = |key: &&SecretKey| {
        let entry = Writer::new().hex("key", &key.public().0);
        entry.hex("signature", &key.sign(payload.as_bytes())).end()
    };
    let signatures: Vec<String> = keys.iter().map(signature).collect();
    let seal = Writer::new().hex("sha256", &sha256(payload.as_bytes()).0);
    let seal = seal.raw("signatures", &format!("[{}]", signatures.join(","))).end();
    format!("{payload}\n{seal}\n").into_bytes()
}

/// A digest among fields.
pub(crate) fn digest(fields: &Object, name: &str) -> Result<Digest, String> {
    fields.hex(name).map(Digest)
}

/// Digest of text, as it is written in documents.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    from_hex(text).map(Digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::System;

    fn kind(bytes: &[u8]) -> &'static str {
        Document::parse("x.json", bytes).map_or_else(|error| error.kind(), |_| "ok")
    }

    #[test]
    fn f1_every_truncation_of_a_document_and_whatever_follows_it_is_refused() {
        let bytes = seal(r#"{"type":"floor"}"#, &[&SecretKey::generate(&System)]);
        assert_eq!(kind(&bytes), "ok");
        for cut in 0..bytes.len() {
            assert_eq!(kind(&bytes[..cut]), "malformed", "cut at {cut}");
        }
        for more in ["\n", " ", "{}\n", "\0"] {
            assert_eq!(kind(&[&bytes, more.as_bytes()].concat()), "malformed");
        }
    }

    #[test]
    fn every_bit_of_a_payload_is_sealed() {
        let bytes = seal(r#"{"type":"floor","version":7}"#, &[]);
        let payload = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        for bit in 0..8 * payload {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(kind(&bytes), "ok", "bit {bit}");
        }
    }

    #[test]
    fn f14_a_signature_counts_only_of_the_key_that_is_asked_for() {
        let (key, other) = (SecretKey::generate(&System), SecretKey::generate(&System));
        let (mine, theirs) = (seal("{}", &[&key]), seal(r#"{"a":1}"#, &[&other]));
        let document = Document::parse("x", &mine).unwrap();
        assert!(document.check_signature("x", &key.public()).is_ok());
        assert_eq!(document.check_signature("x", &other.public()).unwrap_err().kind(), "signature");
        let unsigned = Document::parse("x", &seal("{}", &[])).unwrap();
        assert_eq!(unsigned.check_signature("x", &key.public()).unwrap_err().kind(), "unsigned");
        // A payload with the seal of another signature.
        let text = String::from_utf8(theirs).unwrap();
        let moved = text.replace(&hex::encode(other.public().0), &hex::encode(key.public().0));
        let document = Document::parse("x", moved.as_bytes()).unwrap();
        assert_eq!(document.check_signature("x", &key.public()).unwrap_err().kind(), "signature");
    }
}
